"""What makes two sweeps the same sweep."""

from __future__ import annotations

import pytest

from tradesweep.spec import SweepSpec

FACTS = {"data_sha256": "a" * 64, "lanes": 4, "env_runners": 0}


def identify(spec: SweepSpec, **changed: object) -> str:
    return spec.identity(**{**FACTS, **changed})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "override",
    [
        "budget.trials=30",
        "budget.wall_time_s=60",
        "budget.env_steps=90000",
        "budget={trials: 4, env_steps_per_trial: 4000, patience_trials: 3, min_trials: 2}",
        "aggregate=median",
        "resources.concurrent_trials=2",
        "resources.cpus_per_trial=2",
        "resources.gpus_per_trial=0.5",
        "recording={steps: evaluation, max_gb: 1, db_timeout_s: 5, keep_best: 3}",
        "promotion.model=other",
        "confirm={top: 3, seeds: 5}",
        "description=another text",
        "env.fee_bps=2.0",
        "fixed.gamma=9e-1",
        "fixed.model={hiddens: [32, 32]}",
        "search.lr={loguniform: [0.001, 0.003]}",
    ],
)
def test_what_only_decides_how_long_how_wide_or_how_it_is_written_keeps_the_sweep(load, override: str) -> None:
    assert identify(load(override)) == identify(load())


@pytest.mark.parametrize(
    "override",
    [
        "search.lr={loguniform: [1e-3, 4e-3]}",
        "search.lr={uniform: [1e-3, 3e-3]}",
        "search.lr={choice: [1e-3, 3e-3]}",
        "search.tau={uniform: [0.1, 1.0]}",
        "fixed.gamma=0.91",
        "fixed.double_q=false",
        "env.fee_bps=2.5",
        "env.slippage_bps=0",
        "env.borrow_bps_per_year=0",
        "env.fill=next_close",
        "env.reward=differential_sharpe",
        "env.positions=[0, 1]",
        "budget.env_steps_per_trial=4001",
        "evaluation.count=9",
        "evaluation.min_evaluations=8",
        "features=[rsi, log_returns: {lags: [1, 2]}]",
        "features=[log_returns: {lags: [1, 3]}, rsi]",
        "splits.train=599",
        "splits.embargo_bars=1",
        "searcher.kind=random",
        "pruner.kind=successive_halving",
        "market.params.rho=0.4",
        "market.periods_per_year=365",
        "seed=1",
        "seeds=2",
    ],
)
def test_what_decides_the_numbers_makes_another_sweep(load, override: str) -> None:
    assert identify(load(override)) != identify(load())


def test_the_order_of_features_counts_and_the_order_of_keys_does_not(load, dqn: str) -> None:
    swapped = dqn.replace("  gamma: 0.9\n  model: {hiddens: [32, 32]}\n", "  model.hiddens: [32, 32]\n  gamma: 0.9\n")
    assert swapped != dqn
    assert identify(load(sweep=swapped)) == identify(load(sweep=dqn))
    forward, backward = load("features=[rsi, atr]"), load("features=[atr, rsi]")
    assert identify(forward) != identify(backward)


@pytest.mark.parametrize("changed", [{"data_sha256": "b" * 64}, {"lanes": 8}, {"env_runners": 1}])
def test_data_lanes_and_runners_count(load, changed: dict[str, object]) -> None:
    assert identify(load(), **changed) != identify(load())


def test_where_a_file_lies_does_not_count_but_what_is_in_it_does(load) -> None:
    here, there = (
        load(f"market={{source: csv, path: {path}, periods_per_year: 252}}") for path in ("a.csv", "/data/b.csv")
    )
    assert here.market.path != there.market.path
    assert identify(here) == identify(there)
    assert identify(here, data_sha256="b" * 64) != identify(there)


def test_one_and_one_point_zero_are_one_value(load) -> None:
    whole, real = load("fixed.grad_clip=10"), load("fixed.grad_clip=10.0")
    assert identify(whole) == identify(real)
    assert isinstance(whole.fixed["grad_clip"], float)


def test_the_identity_of_this_very_spec_never_changes(load) -> None:
    """A new field or default changes every identity: sweeps of people would begin anew. Then raise format_version."""
    assert load().sweep_id(**FACTS) == "tiny-1e577340"  # type: ignore[arg-type]
