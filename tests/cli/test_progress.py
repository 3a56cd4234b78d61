from __future__ import annotations

from typing import Any

import pytest

from tradesweep.cli.progress import (
    LineView,
    NoView,
    Progress,
    Reader,
    Snapshot,
    TrialProgress,
    choose_rows,
    choose_view,
    describe_trial,
    table_lines,
)
from tradesweep.names import TrialStatus


def trial(number: int, status: TrialStatus = TrialStatus.FINISHED, **changes: Any) -> TrialProgress:
    values: dict[str, Any] = {
        "trial_no": number,
        "status": status,
        "iterations": 2,
        "env_steps": 1234,
        "steps_per_s": 100.0,
        "last_sharpe": 0.5,
        "best_sharpe": 0.75,
        "eta_s": None,
    }
    return TrialProgress(**(values | changes))


def snapshot(*trials: TrialProgress, **changes: Any) -> Snapshot:
    values: dict[str, Any] = {
        "sweep_id": "s-1",
        "trials": trials,
        "planned": 5,
        "ended": 1,
        "hurdle": 0.25,
        "elapsed_s": 61.0,
        "eta_s": 3723.0,
    }
    return Snapshot(**(values | changes))


def test_a_snapshot_is_what_the_store_says(swept: Any) -> None:
    seen = Reader(swept.store, swept.sweep_id, trials=4, env_steps_per_trial=1000).read()
    assert (seen.ended, seen.planned) == (3, 4)
    flat, good, _ = seen.trials
    assert (flat.last_sharpe, flat.best_sharpe) == (None, None)
    assert good.last_sharpe == good.best_sharpe == seen.best_sharpe
    assert good.steps_per_s == good.env_steps / 2.0
    assert good.eta_s is None


def test_an_extended_sweep_is_measured_by_its_larger_budget(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with world.writer() as writer:
        world.open_sweep(writer, env_steps_per_trial=3000)
        monkeypatch.setattr(type(writer), "close_trial", lambda *_: None)
        world.write_trial(writer, 0, 3.0)
        (running,) = Reader(world.store, world.sweep_id, trials=1, env_steps_per_trial=1000).read().trials
    assert running.eta_s == (3000 - running.env_steps) / (running.env_steps / 2.0)


def test_a_running_trial_has_an_eta_by_its_own_rate(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with world.writer() as writer:
        world.open_sweep(writer)
        monkeypatch.setattr(type(writer), "close_trial", lambda *_: None)
        world.write_trial(writer, 0, 3.0)
        (running,) = Reader(world.store, world.sweep_id, trials=1, env_steps_per_trial=1000).read().trials
    assert running.status == TrialStatus.RUNNING
    assert running.eta_s == (1000 - running.env_steps) / (running.env_steps / 2.0)


def test_lines_say_each_change_once(capsys: pytest.CaptureFixture[str]) -> None:
    view = LineView()
    view.show(snapshot(trial(0, TrialStatus.RUNNING, iterations=0, best_sharpe=None)))
    view.show(snapshot(trial(0, TrialStatus.RUNNING)))
    view.show(snapshot(trial(0, TrialStatus.RUNNING)))
    view.show(snapshot(trial(0), trial(1, TrialStatus.PENDING, iterations=0, best_sharpe=None)))
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        "trial 0 RUNNING",
        "trial 0 RUNNING, 1,234 steps, 100 steps/s, validation Sharpe 0.50",
        "best so far: validation Sharpe 0.75 | luck hurdle 0.25 | deflated 0.50",
        "trial 0 FINISHED, 1,234 steps, 100 steps/s, validation Sharpe 0.50",
        "trial 1 PENDING",
    ]


def test_the_table_shows_the_three_numbers_and_what_is_left() -> None:
    lines = table_lines(snapshot(trial(0), trial(1, TrialStatus.RUNNING, last_sharpe=None, eta_s=9.0)), rows=10)
    assert lines[0] == "s-1: 1 of 5 trials, 1:01, about 1:02:03 left"
    assert lines[3].split() == ["1", "RUNNING", "1,234", "100", "flat", "0.75", "0:09"]
    assert lines[-1] == "validation Sharpe 0.75 | luck hurdle 0.25 | deflated 0.50"


def test_a_finished_sweep_has_nothing_left() -> None:
    assert "left" not in table_lines(snapshot(trial(0), ended=5), rows=10)[0]


def test_what_runs_stays_on_a_small_screen_then_the_best() -> None:
    trials = (*(trial(n, best_sharpe=n / 10) for n in range(8)), trial(8, TrialStatus.RUNNING, best_sharpe=None))
    assert [row.trial_no for row in choose_rows(trials, 3)] == [6, 7, 8]
    lines = table_lines(snapshot(*trials), rows=3)
    assert "... and 6 more" in lines


def test_points_and_seeds_are_shown_where_a_point_has_more_than_one_trial() -> None:
    seeds = (trial(0), trial(1, seed_no=1), trial(2, TrialStatus.INTERRUPTED, seed_no=2, phase="confirm", eta_s=9e4))
    lines = table_lines(snapshot(*seeds), rows=10)
    assert [line.split()[-2:] for line in lines[1:4]] == [["point", "seed"], ["0", "0"], ["0", "1"]]
    assert lines[4].endswith("0 2 fresh")
    assert max(map(len, lines)) <= 80
    assert "point" not in table_lines(snapshot(trial(0)), rows=10)[1]
    assert describe_trial(seeds[2], with_seed=True).startswith("trial 2 INTERRUPTED (point 0, fresh seed 2), ")


def test_a_pipe_gets_lines_and_json_nothing() -> None:
    assert isinstance(choose_view(quiet=True), NoView)
    assert isinstance(choose_view(quiet=False), LineView)


def test_the_last_state_is_shown_when_the_sweep_ends(swept: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(swept.home.database, LineView(), trials=3, env_steps_per_trial=1000) as progress:
        progress.watch(swept.sweep_id)
    said = capsys.readouterr().err
    assert [f"trial {number} FINISHED" in said for number in range(3)] == [True, True, True]


def test_a_sweep_that_never_began_shows_nothing(swept: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(swept.home.database, LineView(), trials=3, env_steps_per_trial=1000):
        pass
    assert capsys.readouterr().err == ""
