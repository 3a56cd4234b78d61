"""A new sweep says what makes it new."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from tradesweep.home import Home
from tradesweep.store import NewSweep, Writer
from tradesweep.sweep.differences import find_changes
from tradesweep.sweep.plan import Plan, make_plan


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "runs")


def write_sweep(home: Home, plan: Plan, **changes: Any) -> None:
    home.path.mkdir(exist_ok=True)
    values: dict[str, Any] = {
        "sweep_id": plan.sweep_id,
        "experiment": plan.spec.experiment,
        "spec_json": plan.spec.to_json(),
        "identity": plan.identity,
        "data_sha256": plan.market.sha256,
        "instrument": "planted",
        "git_revision": None,
        "versions_json": "{}",
        "resources_json": json.dumps(plan.resources.to_dict()),
        "seed": 0,
        "driver_pid": 1,
        "driver_host": "here",
        "driver_started_at": time.time_ns() // 1000,
        "buy_hold_sharpe": None,
        "validation_bars": 299,
        "periods_per_year": 252.0,
    }
    with Writer(home.database) as writer:
        writer.open_sweep(NewSweep(**values | changes))


def changes(plan: Plan, home: Home) -> dict[str, tuple[str | None, str | None]]:
    found = find_changes(plan, home)
    assert found is not None
    return {difference.key: (difference.before, difference.after) for difference in found.differences}


def test_the_first_sweep_and_one_that_goes_on_differ_from_nothing(load: Any, home: Home) -> None:
    plan = make_plan(load())
    assert find_changes(plan, home) is None
    assert not home.path.exists(), "asking writes nothing"
    write_sweep(home, plan)
    assert find_changes(plan, home) is None
    assert find_changes(make_plan(load("budget.trials=9", "recording.max_gb=1")), home) is None


@pytest.mark.parametrize(
    ("setting", "key", "before", "after"),
    [
        ("fixed.gamma=0.95", "fixed.gamma", "0.9", "0.95"),
        ("fixed.n_step=3", "fixed.n_step", None, "3"),
        ("search.lr={loguniform: [1e-3, 2e-3]}", "search.lr.high", "0.003", "0.002"),
        ("env.fee_bps=2", "env.fee_bps", "3.0", "2.0"),
        ("evaluation.count=9", "evaluation.count", "8", "9"),
        ("budget.env_steps_per_trial=2048", "budget.env_steps_per_trial", "1024", "2048"),
        ("resources.lanes=8", "resources.lanes", "4", "8"),
        ("seed=1", "seed", "0", "1"),
    ],
)
def test_what_changed_is_named_with_both_values(
    load: Any, home: Home, setting: str, key: str, before: str | None, after: str | None
) -> None:
    write_sweep(home, make_plan(load()))
    plan = make_plan(load(setting))
    assert changes(plan, home) == {key: (before, after)}
    told = find_changes(plan, home).to_dict()
    assert told["sweep_id"] == make_plan(load()).sweep_id
    assert told["differences"] == [{"key": key, "before": before, "after": after}]


def test_other_bars_are_named_by_their_hash_beside_what_made_them(load: Any, home: Home) -> None:
    write_sweep(home, make_plan(load()))
    found = changes(make_plan(load("market.params.seed=8")), home)
    assert found["market.params.seed"] == ("7", "8")
    before, after = found["data"]
    assert before != after
    assert before.startswith("sha256 ")


def test_a_feature_more_shifts_no_other(load: Any, home: Home) -> None:
    write_sweep(home, make_plan(load()))
    features = "features=[{csv_columns: {names: [signal, noise_1]}}, {rsi: {period: 14}}]"
    assert changes(make_plan(load(features)), home) == {
        "features": ('["csv_columns"]', '["csv_columns", "rsi"]'),
        "features.rsi.period": (None, "14"),
    }


def test_a_sweep_of_a_version_that_cannot_be_read_is_said_to_be_so(load: Any, home: Home) -> None:
    plan = make_plan(load())
    write_sweep(home, plan, sweep_id="tiny-old", identity="another", spec_json="{}")
    assert changes(plan, home)["spec"] == ("one that this version cannot read", None)


def test_the_newest_sweep_of_the_experiment_is_compared(load: Any, home: Home) -> None:
    write_sweep(home, make_plan(load("seed=1")))
    time.sleep(0.002)
    write_sweep(home, make_plan(load("seed=2")))
    assert changes(make_plan(load()), home) == {"seed": ("2", "0")}
