"""Peers have the same environment, hyperparameters and updates."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from benchmarks.peers.env import PlainTradingEnv
from benchmarks.peers.floor import build_floor
from benchmarks.peers.stock import stock_config, sweep_config
from benchmarks.peers.work import Span, Task, Work, make_env, ratio, run_greedily
from benchmarks.sweeps import read_answer

from tradesweep.agents import AgentConfig, RunnerContext, build_config
from tradesweep.agents.replay import ReplayConfig
from tradesweep.env import TradingEnv, compile_env, compile_market
from tradesweep.policy import evaluate_constant
from tradesweep.spec import load_spec

ROOT = Path(__file__).parent.parent.parent
torch.set_num_threads(1)  # as trials do: two threads in each of several processes only wait for each other
RLLIB_KEYS = json.loads((ROOT / "src/tradesweep/spec/rllib_keys.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("experiment", ["planted_ppo", "regime"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_plain_environment_equals_the_kernel_step_by_step(experiment: str, seed: int) -> None:
    overrides = ["env.borrow_bps_per_year=300", "env.positions=[-1, -0.5, 0, 1]"]
    spec = load_spec(experiment, root=ROOT, overrides=overrides)
    market = compile_market(spec)
    config = compile_env(spec, market)
    plain, ours = PlainTradingEnv(market, config), TradingEnv(market, config)
    generator = np.random.default_rng(seed)
    for episode in range(3):
        first: Any = {"seed": seed} if episode == 0 else {}
        ended = False
        np.testing.assert_allclose(plain.reset(**first)[0], ours.reset(**first)[0], rtol=1e-6, atol=1e-6)
        while not ended:
            action = int(generator.integers(4))
            theirs, own = plain.step(action), ours.step(action)
            np.testing.assert_allclose(theirs[0], own[0], rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(theirs[1], own[1], rtol=1e-9, atol=1e-12)
            assert theirs[2:4] == own[2:4]
            ended = theirs[2] or theirs[3]


@pytest.fixture(scope="module", params=["planted_ppo", "planted_dqn"])
def task(request: pytest.FixtureRequest) -> Task:
    return Task(request.param)


def test_stock_has_every_hyperparameter_of_ours(task: Task) -> None:
    agent = AgentConfig(algorithm=task.algorithm, params=task.params, seed=3, lanes=8, env_runners=0)
    ours = build_config(agent, RunnerContext(spec_json=task.spec.to_json(), market_sha256=task.market.sha256))
    stock = stock_config(task.algorithm, task.market, task.config, params=task.params, seed=3)
    for key in RLLIB_KEYS[task.algorithm]:
        assert getattr(stock, key) == getattr(ours, key), key
    assert stock.model_config == ours.model_config
    assert stock.seed == ours.seed


def test_stock_dqn_makes_an_update_as_often_as_ours() -> None:
    task = Task("planted_dqn")
    stock = stock_config("dqn", task.market, task.config, params=task.params, seed=3)
    assert 1 / stock.rollout_fragment_length == task.params["updates_per_env_step"] == 0.25
    assert stock.num_envs_per_env_runner == 1
    assert stock.replay_buffer_config == {"type": "EpisodeReplayBuffer", "capacity": ReplayConfig().capacity}


@pytest.mark.parametrize(("name", "env_steps", "interval"), [("planted_ppo", 102_400, 7), ("planted_dqn", 20_000, 3)])
def test_a_stock_trial_is_evaluated_no_more_often_than_ours(name: str, env_steps: int, interval: int) -> None:
    config = sweep_config(Work(experiment=name, trials=2, env_steps=env_steps), Task(name))
    assert config.evaluation_interval == interval
    assert (config.lr.lower, config.lr.upper) == Task(name).learning_rates


def test_a_peers_evaluation_is_the_whole_split_once(task: Task) -> None:
    rewards = run_greedily(make_env(task.market, task.config, "validation"), lambda _: 2)
    ours = evaluate_constant(1.0, task.market, task.config, split="validation")
    assert len(rewards) == ours.bars == 2_999
    assert sum(rewards) / task.config.reward_scale == pytest.approx(math.log(ours.final_equity / ours.initial_equity))


def test_the_ratio_that_ranks_peers_is_mean_over_deviation() -> None:
    assert ratio([1.0, 3.0]) == 2.0
    assert ratio([1.0, 1.0]) == 0.0


@pytest.mark.parametrize(("name", "updates", "env_steps"), [("planted_ppo", 56, 2_048), ("planted_dqn", 250, 1_000)])
def test_the_floor_makes_the_updates_of_training(name: str, updates: int, env_steps: int) -> None:
    task = Task(name)
    floor: Any = build_floor(task.algorithm, width=12, actions=3, params=task.params)
    before = [weight.clone() for weight in floor._weights]
    assert floor() == env_steps
    assert {state["step"].item() for state in floor._adam.state.values()} == {updates}
    assert all(not torch.equal(weight, old) for weight, old in zip(floor._weights, before, strict=True))


@pytest.mark.parametrize(("name", "lanes"), [("planted_ppo", 8), ("planted_dqn", 4)])
def test_sb3_makes_the_updates_of_training(name: str, lanes: int) -> None:
    sb3: Any = pytest.importorskip("benchmarks.peers.sb3", exc_type=ImportError)
    task = Task(name)
    model = sb3.build_sb3(task.algorithm, task.market, task.config, params=task.params, seed=1, env_steps=20_000)
    model.learn(2_048)
    assert model.n_envs == lanes
    if task.algorithm == "ppo":
        assert (model.num_timesteps, model._n_updates, model.n_steps, model.batch_size) == (2_048, 7, 256, 256)
    else:
        assert model._n_updates == (2_048 - 500) // 4
        assert model.exploration_schedule(1 - 6_000 / 20_000) == pytest.approx(0.05)


def test_work_and_its_answer_go_through_a_command_line() -> None:
    work = Work(experiment="planted_ppo", trials=3, env_steps=4_096)
    assert Work(**json.loads(work.to_json())) == work
    span = Span(env_steps=5, began=1.5, ended=2.5)
    assert read_answer(f"something else\n{span.to_json()}\n") == span
