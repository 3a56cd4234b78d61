"""The experiments in this repository."""

from __future__ import annotations

from pathlib import Path

import pytest

from tradesweep.spec import Grid, LogUniform, SweepSpec, list_experiments, load_spec

ROOT = Path(__file__).parents[2]
NAMES = sorted(list_experiments(ROOT))


@pytest.mark.parametrize("name", NAMES)
def test_an_experiment_comes_back_from_json_as_it_was(name: str) -> None:
    spec = load_spec(name, root=ROOT)
    back = SweepSpec.from_json(spec.to_json())
    assert back == spec
    assert back.to_json() == spec.to_json()
    assert str(back.error_at("env.fill", "must be x", 1)) == str(spec.error_at("env.fill", "must be x", 1))


@pytest.mark.parametrize("name", NAMES)
def test_an_experiment_keeps_its_sweep_id(name: str) -> None:
    first, second = (load_spec(name, root=ROOT) for _ in range(2))
    facts = {"data_sha256": "0" * 64, "lanes": 8, "env_runners": 0}
    assert first.sweep_id(**facts) == second.sweep_id(**facts) == SweepSpec.from_json(first.to_json()).sweep_id(**facts)
    assert first.sweep_id(**facts).startswith(f"{name}-")


def test_experiments_differ() -> None:
    identities = {load_spec(name, root=ROOT).identity(data_sha256="0", lanes=8, env_runners=0): name for name in NAMES}
    assert len(identities) == len(NAMES)


def test_dqn_lr_reads_as_written() -> None:
    spec = load_spec("dqn_lr", root=ROOT)
    assert spec.search["lr"] == LogUniform(low=1e-4, high=1e-2)
    assert spec.search["target_network_update_freq"].options == (100, 500, 2000)
    assert spec.fixed["model.hiddens"] == [64, 64]
    assert spec.fixed["epsilon"] == [[0, 1.0], [6000, 0.05]]
    assert spec.env.fill == "next_close"
    assert spec.env.positions == (-1.0, 0.0, 1.0)
    assert spec.splits.train == ("1999-01-04", "2009-12-31")
    assert [feature.name for feature in spec.features][:2] == ["log_returns", "rsi"]
    assert (spec.market.source, spec.market.name, spec.market.periods_per_year) == ("sample", "sp500", 252.0)


def test_a_list_of_an_experiment_replaces_the_list_of_the_defaults() -> None:
    assert [feature.name for feature in load_spec("regime", root=ROOT).features] == ["log_returns"]


def test_dqn_net_is_a_grid() -> None:
    spec = load_spec("dqn_net", root=ROOT)
    assert spec.search["n_step"] == Grid(options=(1, 3, 5))
    assert spec.search["model.hiddens"] == Grid(options=([32, 32], [64, 64], [128, 128]))
