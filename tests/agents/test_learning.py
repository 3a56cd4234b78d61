"""Do the agents learn what can be known, and nothing where there is nothing? Markets whose best policy is known."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import pytest
from benchmarks.learning import build_ours, build_theirs, compare_means, follow, list_seeds
from benchmarks.peers.work import Task

from tradesweep.agents import build_algorithm, plain_layers
from tradesweep.env import compile_env
from tradesweep.market import oracle_targets
from tradesweep.policy import Evaluation, PlainPolicy, build_policy_spec, evaluate, evaluate_targets

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("cluster")]
Make = Callable[..., Any]

COSTS = ("env.fee_bps=3", "env.slippage_bps=2", "env.borrow_bps_per_year=0", "env.episode_bars=252")
NO_COSTS = ("env.fee_bps=0", "env.slippage_bps=0", "env.borrow_bps_per_year=0", "env.episode_bars=252")
NOISE = "[signal, noise_1, noise_2, noise_3, noise_4, noise_5]"

PPO: dict[str, Any] = {
    "lr": 5e-4,
    "gamma": 0.9,
    "lambda_": 0.9,
    "train_batch_size_per_learner": 2048,
    "minibatch_size": 256,
    "num_epochs": 7,
    "entropy_coeff": 0.01,
    "grad_clip": 0.5,
}
DQN: dict[str, Any] = {
    "lr": 1e-3,
    "gamma": 0.9,
    "updates_per_env_step": 0.25,
    "train_batch_size_per_learner": 64,
    "num_steps_sampled_before_learning_starts": 500,
    "epsilon": [[0, 1.0], [6000, 0.05]],
    "target_network_update_freq": 500,
    "grad_clip": 10.0,
}
PARAMS = {"ppo": PPO, "dqn": DQN}
LANES = {"ppo": 16, "dqn": 8}


def splits(train: int, validation: int, test: int) -> tuple[str, ...]:
    return (f"splits.train={train}", f"splits.validation={validation}", f"splits.test={test}")


def planted(rho: float, *, seed: int = 7) -> tuple[str, ...]:
    market = f"market.params={{bars: 11000, rho: {rho}, q: 0.2, seed: {seed}}}"
    return (market, f"features=[{{csv_columns: {{names: {NOISE}}}}}]", *splits(5000, 3000, 3000), *COSTS)


def train(make_setting: Make, algorithm: str, env_steps: int, *, seed: int, overrides: tuple[str, ...]) -> Any:
    """Train and return what the final policy does on validation, its market and its environment."""
    setting = make_setting(algorithm, lanes=LANES[algorithm], seed=seed, overrides=overrides, **PARAMS[algorithm])
    built = build_algorithm(setting.agent, setting.context(), setting.market)
    while built.env_steps_sampled < env_steps:
        built.train()
    layers, weights = plain_layers(algorithm, built.get_module())
    built.cleanup()
    env = compile_env(setting.spec, setting.market)
    policy = PlainPolicy.from_arrays(build_policy_spec(setting.spec, setting.market, env, layers=layers), weights)
    return evaluate(policy, setting.market, env, split="validation"), setting.market, env


def share_of_oracle(found: tuple[Evaluation, Any, Any], name: str) -> float:
    """The policy's Sharpe in units of the reference policy's, through the same kernel on the same bars."""
    evaluation, market, env = found
    oracle = evaluate_targets(oracle_targets(market.bars, name), market, env, "validation")
    assert oracle.sharpe is not None
    assert oracle.sharpe > 1
    return (evaluation.sharpe or 0.0) / oracle.sharpe


@pytest.mark.parametrize(("algorithm", "env_steps"), [("ppo", 20_000), ("dqn", 8_000)])
def test_a_strong_planted_signal_is_found_soon(make_setting: Make, algorithm: str, env_steps: int) -> None:
    found = train(make_setting, algorithm, env_steps, seed=1, overrides=planted(0.5))
    assert share_of_oracle(found, "planted") >= 0.6


@pytest.mark.slow
@pytest.mark.parametrize(("algorithm", "rho", "env_steps"), [("ppo", 0.25, 50_000), ("dqn", 0.5, 20_000)])
def test_the_planted_signal_is_found_by_every_seed(
    make_setting: Make, algorithm: str, rho: float, env_steps: int
) -> None:
    shares = [
        share_of_oracle(train(make_setting, algorithm, env_steps, seed=seed, overrides=planted(rho)), "planted")
        for seed in (1_000, 2_000, 3_000)  # lanes draw from the seeds behind it: neighbours would share episodes
    ]
    assert statistics.median(shares) >= 0.8, shares
    assert min(shares) >= 0.6, shares


@pytest.mark.slow
@pytest.mark.parametrize(("experiment", "env_steps"), [("planted_ppo", 4_096), ("planted_dqn", 1_000)])
def test_an_env_step_teaches_as_much_as_in_stock_rllib(experiment: str, env_steps: int) -> None:
    """Looked at early, where a seed is worth 0.9 of the best policy, give or take 0.07."""
    task = Task(experiment)
    ours = [follow(build_ours(task, seed), task, [env_steps])[0] for seed in list_seeds(4)]
    theirs = [follow(build_theirs(task, seed), task, [env_steps])[0] for seed in list_seeds(4)]
    assert abs(compare_means(ours, theirs).difference) <= 0.2, (ours, theirs)


@pytest.mark.slow
def test_nothing_is_found_where_there_is_nothing(make_setting: Make) -> None:
    """Final policies over eight price paths: their mean Sharpe is zero within two standard errors."""
    sharpes = []
    for path in range(8):
        overrides = (
            "market.name=brownian",
            f"market.params={{bars: 11000, seed: {path}}}",
            "features=[{log_returns: {lags: [1, 2, 3, 5, 10]}}]",
            *splits(5000, 3000, 3000),
            *NO_COSTS,
        )
        evaluation, _, _ = train(make_setting, "ppo", 50_000, seed=path, overrides=overrides)
        sharpes.append(evaluation.sharpe or 0.0)
    assert abs(statistics.mean(sharpes)) <= 2 * statistics.stdev(sharpes) / len(sharpes) ** 0.5, sharpes


@pytest.mark.slow
def test_a_gap_that_is_gone_at_the_open_earns_nothing(make_setting: Make) -> None:
    """Following x earns a Sharpe near 16 in a kernel that fills at the close it decided on."""
    overrides = (
        "market.name=gap_trap",
        "market.params={bars: 10600, seed: 5}",
        "features=[{csv_columns: {names: [signal]}}]",
        *splits(300, 10000, 300),
        *NO_COSTS,
    )
    setting = make_setting("ppo", overrides=overrides)
    env = compile_env(setting.spec, setting.market)
    following = evaluate_targets(setting.market.bars.extra["signal"], setting.market, env, "validation")
    assert following.bars == 9_999
    assert following.sharpe is not None
    assert abs(following.sharpe) < 0.5


@pytest.mark.slow
def test_the_hidden_regime_is_found(make_setting: Make) -> None:
    overrides = (
        "market.name=regime",
        "market.params={bars: 21000, seed: 7}",
        "features=[{log_returns: {lags: [1]}}]",
        "env.window_bars=40",
        *splits(15000, 3000, 3000),
        *COSTS,
    )
    found = train(make_setting, "ppo", 204_800, seed=1, overrides=overrides)
    assert share_of_oracle(found, "regime") >= 0.6
