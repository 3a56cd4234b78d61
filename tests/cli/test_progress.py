from __future__ import annotations

import io
import json
import logging
import os
import pty
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from tradesweep.cli.progress import (
    HEADERS,
    STALL_ITERATIONS,
    STALL_LEAST_S,
    STALL_UNKNOWN_S,
    LineView,
    NoView,
    Progress,
    Reader,
    Snapshot,
    TableView,
    TrialProgress,
    choose_rows,
    choose_view,
    describe_trial,
    table_lines,
)
from tradesweep.names import Metric, ProducerKey, ProducerRole, Record, TrialStatus
from tradesweep.store import DecodedBatch, Writer
from tradesweep.sweep.driver import be_driver


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


# --- on a terminal --------------------------------------------------------------------------------------------


def test_on_a_terminal_the_table_is_drawn_over_the_last_one_and_its_last_state_stays() -> None:
    screen = io.StringIO()
    view = TableView(Console(file=screen, force_terminal=True, width=100, height=12, color_system=None))
    view.show(snapshot(trial(0, TrialStatus.RUNNING, last_sharpe=None, eta_s=9.0)))
    first = screen.getvalue()
    view.show(snapshot(trial(0), trial(1, TrialStatus.RUNNING)))
    view.close()
    for word in ("s-1: 1 of 5 trials", *HEADERS, "RUNNING", "flat", "0:09", "luck hurdle 0.25"):
        assert word in first
    second = screen.getvalue().removeprefix(first)
    assert second.startswith("\r\x1b[2K\x1b[1A"), "over the first one, line by line"
    assert "FINISHED" in second
    assert second.index("FINISHED") < second.index("RUNNING")
    assert second.endswith("\x1b[?25h"), "the cursor is back"


def test_more_trials_than_lines_leave_the_table_on_the_screen() -> None:
    screen = io.StringIO()
    view = TableView(Console(file=screen, force_terminal=True, width=100, height=12, color_system=None))
    view.show(snapshot(*(trial(number) for number in range(40))))
    assert screen.getvalue().count("\n") < 12
    assert "... and 34 more" in screen.getvalue()
    view.close()


@pytest.mark.parametrize("kind", [TableView, LineView])
def test_a_terminal_that_is_closed_ends_the_showing_and_not_the_sweep(
    swept: Any, monkeypatch: pytest.MonkeyPatch, kind: Any
) -> None:
    keyboard, line = pty.openpty()
    stream = os.fdopen(line, "w", encoding="utf-8")
    monkeypatch.setattr("sys.stderr", stream)
    monkeypatch.setattr("tradesweep.cli.progress.PERIOD_S", 0.05)
    with Progress(swept.home.database, kind(), trials=3, env_steps_per_trial=1000) as progress:
        os.close(keyboard)
        progress.watch(swept.sweep_id)
        time.sleep(0.5)
        assert progress._thread is not None
        assert progress._thread.is_alive(), "it still says in the log what hangs"
    with suppress(OSError):
        stream.close()


# --- from another terminal ------------------------------------------------------------------------------------


@pytest.fixture
def start(world: Any) -> Callable[..., None]:
    """A running sweep of three trials, of which one has results, the last so long ago."""

    def start(*, iterations: int = 2, elapsed_s: float = 4.0, silent_s: float = 0.0) -> None:
        now = time.time_ns() // 1000
        with Writer(world.home.database, clock_us=lambda: now - int(silent_s * 1e6)) as writer:
            world.open_sweep(
                writer, spec_json=world.runtime.spec.to_json(), driver_host=socket.gethostname(), driver_started_at=now
            )
            trial_id = world.open_trial(writer, 0)
            key = ProducerKey(world.sweep_id, trial_id, writer.start_attempt(trial_id, 1), ProducerRole.TRIAL, 0)
            grant = writer.hello(key, pid=1, host="here")
            for number in range(1, iterations + 1):
                spent = elapsed_s * number / iterations
                metrics = json.dumps({Metric.RECORDER_ROWS_PER_S: 1.0, Metric.RECORDER_LAG: 0.1})
                rows = {Record.ITERATIONS: [(number, now, 100 * number, 10, 1, spent, metrics)]}
                writer.apply(DecodedBatch(producer=key, epoch=grant.epoch, seq=number, rows=rows))

    return start


def test_status_of_a_running_sweep_is_the_table_that_the_sweep_itself_shows(
    command: Any, world: Any, start: Any
) -> None:
    start()
    with be_driver(world.home, world.sweep_id, "small"):
        said = command("status", "small").out
        told = command("status", "small", "--json").json["progress"]
    title, headers, row = said.splitlines()[:3]
    assert title.startswith(f"{world.sweep_id}: 0 of 3 trials, 0:0")
    assert " ".join(HEADERS).split() == headers.split()
    assert row.split() == ["0", "RUNNING", "200", "50", "flat", "-", "0:16"]
    (trial,) = told["trials"]
    assert (trial["steps_per_s"], trial["eta_s"], trial["stalled_s"]) == (50.0, 16.0, None)
    assert "best:" in said or "no trial has a policy" in said, "and the leaderboard below it"
    assert command("status", "small", "--json").json["progress"] is None, "its process has ended"


def test_whoever_watches_sees_the_progress_alone_and_the_leaderboard_when_nothing_runs_any_more(
    command: Any, world: Any, start: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    start()
    driver, pauses = ExitStack(), []

    def pause(seconds: float) -> None:
        driver.close()
        pauses.append(seconds)
        if len(pauses) > 1:
            raise KeyboardInterrupt

    monkeypatch.setattr("tradesweep.cli.status.time", SimpleNamespace(time=time.time, sleep=pause))
    with driver:
        driver.enter_context(be_driver(world.home, world.sweep_id, "small"))
        said = command("status", "small", "--watch").out
    running, headers, ended = said.partition("steps/s")
    assert headers
    assert "no trial has a policy" not in running
    assert "steps/s" not in ended
    assert "no trial has a policy that may be chosen yet" in ended


# --- a trial that hangs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("iterations", "elapsed_s", "silent_s", "stalls"),
    [
        (2, 4.0, STALL_LEAST_S - 5, False),
        (2, 4.0, STALL_LEAST_S + 5, True),
        (2, 80.0, STALL_ITERATIONS * 40.0 - 5, False),
        (2, 80.0, STALL_ITERATIONS * 40.0 + 5, True),
        (0, 0.0, STALL_UNKNOWN_S - 5, False),
        (0, 0.0, STALL_UNKNOWN_S + 5, True),
    ],
)
def test_a_trial_may_hang_when_it_is_silent_for_much_longer_than_its_iterations_take(
    world: Any, start: Any, iterations: int, elapsed_s: float, silent_s: float, stalls: bool
) -> None:
    start(iterations=iterations, elapsed_s=elapsed_s, silent_s=silent_s)
    (seen,) = Reader.of(world.store, world.store.get_sweep(world.sweep_id)).read().trials
    assert (seen.stalled_s is not None) == stalls
    if stalls:
        assert seen.stalled_s == pytest.approx(silent_s, abs=3.0)


def test_an_attempt_that_has_just_begun_is_not_silent_since_the_last_one(world: Any, start: Any) -> None:
    start(silent_s=86_400.0)
    with Writer(world.home.database) as writer:
        (trial,) = world.store.list_trials(world.sweep_id)
        writer.start_attempt(trial.trial_id, 2)
    (seen,) = Reader.of(world.store, world.store.get_sweep(world.sweep_id)).read().trials
    assert (seen.status, seen.stalled_s) == (TrialStatus.RUNNING, None)


def test_a_trial_that_may_hang_is_named_in_the_log_in_lines_in_the_table_and_in_status(
    command: Any, world: Any, start: Any, capsys: Any, caplog: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    warning = "warning: trial 0 may hang: nothing committed for 2:1"
    start(silent_s=135.0)
    monkeypatch.setattr("tradesweep.cli.progress.PERIOD_S", 0.05)
    caplog.set_level(logging.WARNING, "tradesweep")
    with Progress(world.home.database, LineView(), trials=3, env_steps_per_trial=1000) as progress:
        progress.watch(world.sweep_id)
        time.sleep(0.5)
    assert capsys.readouterr().err.count(warning) == 1, "once, however often it is looked at"
    assert [message.startswith(warning) for message in caplog.messages] == [True]
    with be_driver(world.home, world.sweep_id, "small"):
        assert warning in command("status", "small").out
    view = LineView()
    for stalled_s in (100.0, 101.0, None, 102.0):
        view.show(snapshot(trial(0, TrialStatus.RUNNING, stalled_s=stalled_s)))
    assert capsys.readouterr().err.count("may hang") == 2, "again after it moved"
