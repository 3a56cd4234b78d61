"""What a command does with a plan before anything is started."""

from __future__ import annotations

import itertools
import json
import os
import socket
import sqlite3
import sys
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tradesweep.errors import BadInput, NotFound, SpecError, StoreLocked
from tradesweep.home import Home
from tradesweep.names import SweepEnd, SweepStatus, TrialStatus
from tradesweep.store import NewSweep, Writer, open_store
from tradesweep.sweep.driver import be_driver
from tradesweep.sweep.plan import Plan, make_plan
from tradesweep.sweep.start import choose_sweep, find_end, find_experiment, settle_plan, start_sweep


@pytest.fixture
def plan(load: Any) -> Plan:
    return make_plan(load())


DRIVERS = itertools.count(1)
DAY_US = 86_400_000_000


def write_sweep(
    home: Home, plan: Plan, status: SweepStatus | None = None, *, at_us: int = 9 * DAY_US, **changes: Any
) -> None:
    home.path.mkdir(exist_ok=True)
    sweep = NewSweep(
        sweep_id=plan.sweep_id,
        experiment="tiny",
        spec_json=plan.spec.to_json(),
        identity=plan.identity,
        data_sha256=plan.market.sha256,
        instrument="planted",
        git_revision=None,
        versions_json="{}",
        resources_json=json.dumps({"lanes": 4, "env_runners": 0}),
        seed=0,
        driver_pid=os.getppid(),
        driver_host=socket.gethostname(),
        driver_started_at=next(DRIVERS),
        buy_hold_sharpe=None,
        validation_bars=299,
        periods_per_year=252.0,
    )
    with Writer(home.database, clock_us=lambda: at_us) as writer:
        writer.open_sweep(replace(sweep, **changes))
        if status is not None:
            writer.close_sweep(changes.get("sweep_id", plan.sweep_id), status)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "runs")


def test_without_a_database_everything_is_new(plan: Plan, home: Home) -> None:
    assert choose_sweep(plan, home, fresh=False) is plan
    assert find_end(plan, home) is None
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
    assert find_end(plan, home) is None


# --- a clock that was set back --------------------------------------------------------------------------------


def test_a_fresh_sweep_goes_on_though_the_clock_was_set_back(plan: Plan, home: Home) -> None:
    write_sweep(home, plan, SweepStatus.FINISHED)
    again = f"{plan.sweep_id}-2"
    write_sweep(home, plan, SweepStatus.INTERRUPTED, sweep_id=again, at_us=8 * DAY_US)
    assert choose_sweep(plan, home, fresh=False).sweep_id == again
    assert open_store(home.database).get_sweep("tiny").sweep_id == again
    assert choose_sweep(plan, home, fresh=True).sweep_id == f"{plan.sweep_id}-3"


def test_the_tenth_sweep_is_newer_than_the_ninth(plan: Plan, home: Home) -> None:
    for number in (1, 9, 10):
        write_sweep(home, plan, sweep_id=plan.sweep_id if number == 1 else f"{plan.sweep_id}-{number}")
    assert choose_sweep(plan, home, fresh=False).sweep_id == f"{plan.sweep_id}-10"


def test_another_experiment_of_the_same_spec_is_not_gone_on_with(plan: Plan, home: Home) -> None:
    write_sweep(home, plan, SweepStatus.INTERRUPTED, sweep_id="copy-12345678", experiment="copy")
    assert choose_sweep(plan, home, fresh=False) is plan


# --- one sweep of several -------------------------------------------------------------------------------------


def test_an_older_sweep_goes_on_by_its_id(plan: Plan, home: Home) -> None:
    write_sweep(home, plan, SweepStatus.INTERRUPTED)
    write_sweep(home, plan, SweepStatus.INTERRUPTED, sweep_id=f"{plan.sweep_id}-2")
    assert find_experiment("tiny", ["tiny"], home) == ("tiny", None)
    for name in (plan.sweep_id, f"{plan.sweep_id}-2"):
        assert find_experiment(name, ["tiny"], home) == ("tiny", name)
        assert settle_plan(plan, home, sweep_id=name).sweep_id == name
    assert settle_plan(plan, home).sweep_id == f"{plan.sweep_id}-2"


def test_an_experiment_goes_before_a_sweep_of_its_name_and_what_nobody_knows_is_left_as_it_is(
    plan: Plan, home: Home
) -> None:
    assert find_experiment("nosuch", ["tiny"], home) == ("nosuch", None)
    write_sweep(home, plan)
    assert find_experiment(plan.sweep_id, ["tiny", plan.sweep_id], home) == (plan.sweep_id, None)
    assert find_experiment("nosuch", ["tiny"], home) == ("nosuch", None)
    with pytest.raises(NotFound):
        settle_plan(plan, home, sweep_id="nosuch")


def test_a_sweep_that_the_spec_is_not_any_more_is_refused_with_what_differs(plan: Plan, home: Home, load: Any) -> None:
    write_sweep(home, plan, SweepStatus.INTERRUPTED)
    changed = make_plan(load("fixed.gamma=0.95"))
    with pytest.raises(BadInput) as refused:
        settle_plan(changed, home, sweep_id=plan.sweep_id)
    first, *rest = str(refused.value).splitlines()
    assert first.startswith(f"{plan.sweep_id}: the spec and its bars must be what this sweep began with, are not; give")
    assert rest == ["  fixed.gamma: 0.9 -> 0.95"]
    with pytest.raises(BadInput, match="--fresh begins another sweep of an experiment"):
        settle_plan(plan, home, sweep_id=plan.sweep_id, fresh=True)


# --- more env steps -------------------------------------------------------------------------------------------


def test_an_extended_plan_says_what_its_longer_trials_take(plan: Plan, home: Home, load: Any) -> None:
    write_sweep(home, plan, SweepStatus.FINISHED)
    longer = settle_plan(plan, home, extend_steps=4096)
    asked = make_plan(load("budget.env_steps_per_trial=4096", "evaluation.count=32"))
    for name in ("env_steps_per_trial", "env_steps", "updates", "rows", "disk_bytes", "evaluations"):
        assert getattr(longer, name) == getattr(asked, name) > getattr(plan, name), name
    write_sweep(home, plan, SweepStatus.INTERRUPTED, env_steps_per_trial=4096)
    assert settle_plan(plan, home).rows == longer.rows, "the plain command goes on with what was extended"


def test_steps_that_no_trial_may_have_are_refused_by_every_door(plan: Plan, home: Home, load: Any) -> None:
    write_sweep(home, plan, SweepStatus.FINISHED)
    with pytest.raises(
        BadInput, match=r"--extend-steps: must be at most 1,000,000,000,000 env steps a trial, was 9{23}$"
    ):
        settle_plan(plan, home, extend_steps=99999999999999999999999)
    with pytest.raises(
        SpecError, match=r"budget.env_steps_per_trial must be a whole number >= 8 and <= 1,000,000,000,000"
    ):
        load("budget.env_steps_per_trial=1000000000001")


def test_an_extension_over_the_disk_limit_of_the_sweep_is_refused(load: Any, home: Home) -> None:
    plan = make_plan(load("recording.max_gb=0.01"))
    write_sweep(home, plan, SweepStatus.FINISHED)
    with pytest.raises(SpecError, match=r"recording\.max_gb must hold the estimated .* GB of this sweep, was 0\.01"):
        settle_plan(plan, home, extend_steps=100_000)
    assert settle_plan(plan, home, extend_steps=2048).env_steps == 3 * 2048


# --- what has ended -------------------------------------------------------------------------------------------


def end_trials(home: Home, plan: Plan, status: TrialStatus, end: SweepStatus, reason: SweepEnd | None = None) -> None:
    """A sweep whose three trials have that end."""
    write_sweep(home, plan)
    with Writer(home.database) as writer:
        for number in range(3):
            point = json.dumps({"lr": 1e-3 * (number + 1)})
            trial_id = writer.open_trial(plan.sweep_id, number, point, number, f"hash {number}", point)
            writer.start_attempt(trial_id, 1)
            writer.close_trial(trial_id, status, f"boom {number}")
        writer.close_sweep(plan.sweep_id, end, reason)


@pytest.mark.parametrize("status", [TrialStatus.FAILED, TrialStatus.DIVERGED, TrialStatus.CRASHED])
def test_a_failed_sweep_with_nothing_left_is_shown_without_ray(
    plan: Plan, home: Home, load: Any, monkeypatch: pytest.MonkeyPatch, status: TrialStatus
) -> None:
    end_trials(home, plan, status, SweepStatus.FAILED)
    monkeypatch.setitem(sys.modules, "tradesweep.sweep.run", None)
    outcome = start_sweep(plan, home=home, root=home.path)
    assert (outcome.status, outcome.already_finished, outcome.exit_code) == (SweepStatus.FAILED, True, 1)
    assert outcome.errors == {number: f"{status.value}: boom {number}" for number in range(3)}
    assert find_end(make_plan(load("budget.trials=4")), home) is None, "more trials go on with it"
    retried = find_end(make_plan(load("budget.max_retries=1")), home)
    assert (retried is None) == (status == TrialStatus.CRASHED)


def test_an_error_is_told_by_the_line_that_says_what_was_raised(plan: Plan, home: Home) -> None:
    end_trials(home, plan, TrialStatus.FAILED, SweepStatus.FAILED)
    with closing(sqlite3.connect(home.path / "tradesweep.db", isolation_level=None)) as db:
        trace = "Traceback (most recent call last):\n  File x\nValueError: no\n  detail\n"
        db.execute("UPDATE trials SET error = ? WHERE trial_no = 0", [trace])
        db.execute("UPDATE trials SET error = ? WHERE trial_no = 1", ["worker lost: killed\nits log ends"])
        db.execute("UPDATE trials SET error = NULL WHERE trial_no = 2")
    outcome = start_sweep(plan, home=home, root=home.path)
    said = ["FAILED: ValueError: no", "FAILED: worker lost: killed", "FAILED: no error was recorded"]
    assert list(outcome.errors.values()) == said
