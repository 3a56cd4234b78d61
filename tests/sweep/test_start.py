"""What a command does with a plan before anything is started."""

from __future__ import annotations

import os
import socket
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tradesweep.errors import StoreLocked
from tradesweep.home import Home
from tradesweep.names import SweepStatus
from tradesweep.store import NewSweep, Writer
from tradesweep.sweep.driver import be_driver
from tradesweep.sweep.plan import Plan, make_plan
from tradesweep.sweep.start import choose_sweep, is_finished, start_sweep


@pytest.fixture
def plan(load: Any) -> Plan:
    return make_plan(load())


def write_sweep(home: Home, plan: Plan, status: SweepStatus | None = None, **changes: Any) -> None:
    home.path.mkdir(exist_ok=True)
    sweep = NewSweep(
        sweep_id=plan.sweep_id,
        experiment="tiny",
        spec_json="{}",
        identity=plan.identity,
        data_sha256="d",
        instrument="planted",
        git_revision=None,
        versions_json="{}",
        resources_json="{}",
        seed=0,
        driver_pid=os.getppid(),
        driver_host=socket.gethostname(),
        driver_started_at=time.time_ns() // 1000,
        buy_hold_sharpe=None,
        validation_bars=299,
        periods_per_year=252.0,
    )
    with Writer(home.database) as writer:
        writer.open_sweep(replace(sweep, **changes))
        if status is not None:
            writer.close_sweep(changes.get("sweep_id", plan.sweep_id), status)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "runs")


def test_without_a_database_everything_is_new(plan: Plan, home: Home) -> None:
    assert choose_sweep(plan, home, fresh=False) is plan
    assert not is_finished(plan, home)
    assert not home.path.exists(), "asking writes nothing"


@pytest.mark.parametrize(
    "changes", [{}, {"driver_started_at": 1}, {"driver_started_at": (time.time_ns() // 1000) + 86_400_000_000}]
)
def test_a_row_that_says_running_holds_nobody_up_whatever_process_it_names_and_since_when(
    plan: Plan, home: Home, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    write_sweep(home, plan, **changes)
    began = []
    monkeypatch.setitem(
        sys.modules, "tradesweep.sweep.run", SimpleNamespace(run_sweep=lambda *_, **__: began.append(1))
    )
    start_sweep(plan, home=home, root=home.path)
    assert began == [1]


def test_a_sweep_that_runs_is_refused_before_ray_is_needed(
    plan: Plan, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tradesweep.sweep.run", None)
    with (
        be_driver(home, plan.sweep_id, "tiny"),
        pytest.raises(StoreLocked, match=rf"{plan.sweep_id} is being run by process {os.getpid()}"),
    ):
        start_sweep(plan, home=home, root=home.path)


def test_the_newest_sweep_of_the_identity_goes_on_and_fresh_makes_another(plan: Plan, home: Home) -> None:
    write_sweep(home, plan, SweepStatus.FINISHED)
    fresh = choose_sweep(plan, home, fresh=True)
    assert fresh.sweep_id == f"{plan.sweep_id}-2"
    write_sweep(home, plan, SweepStatus.INTERRUPTED, sweep_id=fresh.sweep_id)
    assert choose_sweep(plan, home, fresh=False).sweep_id == fresh.sweep_id
    assert choose_sweep(plan, home, fresh=True).sweep_id == f"{plan.sweep_id}-3"


def test_a_finished_sweep_with_too_few_trials_is_not_finished(plan: Plan, home: Home) -> None:
    write_sweep(home, plan, SweepStatus.FINISHED)
    assert not is_finished(plan, home)
