"""`tradesweep status`: sweeps, and the trials of one."""

from __future__ import annotations

import json
import shutil
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tradesweep.cli.board import board_lines
from tradesweep.cli.options import JsonOption, OptionalSweepArgument, RootOption, check_sweep_name, find_home
from tradesweep.cli.output import cut, format_number, format_table, format_time, print_json, print_lines
from tradesweep.cli.progress import LINES_AROUND, Reader, table_lines
from tradesweep.errors import NotFound
from tradesweep.garbage import collect_as_usual

if TYPE_CHECKING:
    from tradesweep.cli.progress import Snapshot
    from tradesweep.home import Home
    from tradesweep.store import Store, SweepRow, TrialRow

PERIOD_S = 2.0
SILENCE_S = 15.0
"""Longer without a commit than training and evaluating take."""
LINES_BELOW = 4
"""Lines of the screen below the table: rows, times, how recording goes."""
CLEAR = "\033[2J\033[H"
"""Clears a terminal."""
HEADERS = ("sweep", "state", "trials", "failed", "Sharpe", "hurdle", "deflated", "started")
WatchOption = Annotated[bool, typer.Option("--watch", help="Show it again every two seconds, until Ctrl-C.")]


def status(
    name: OptionalSweepArgument = None,
    watch: WatchOption = False,
    root: RootOption = Path(),
    json_: JsonOption = False,
) -> None:
    """Show the sweeps, or one with its trials."""
    if name is not None:
        check_sweep_name(name)
    home = find_home(root)

    readers: dict[str, Reader] = {}

    def look() -> dict[str, Any] | list[str]:
        if name is None:
            return describe_all(home, as_json=json_)
        return describe_one(home, name, as_json=json_, watch=watch, readers=readers)

    show(look())
    if watch:
        collect_as_usual()
    while watch:
        time.sleep(PERIOD_S)
        show_again(look)


def show(said: dict[str, Any] | list[str]) -> None:
    """As an object or as lines."""
    if isinstance(said, dict):
        print_json(said)
    else:
        print_lines(said)


def show_again(look: Callable[[], dict[str, Any] | list[str]]) -> None:
    """In the place of the last one on a terminal, below it elsewhere."""
    said = look()
    if sys.stdout.isatty():
        typer.echo(CLEAR, nl=False)
    show(said)


# --- all sweeps -----------------------------------------------------------------------------------------------


def describe_all(home: Home, *, as_json: bool) -> dict[str, Any] | list[str]:
    """Every sweep, newest first; before the first one there is no database, which is no error here."""
    from tradesweep.store import database_exists, open_store

    if not database_exists(home.database):
        return {"sweeps": []} if as_json else [f"no sweep yet in {home.path}; run `tradesweep sweep EXPERIMENT`"]
    store = open_store(home.database)
    sweeps = [summarise(home, store, sweep) for sweep in store.list_sweeps()]
    if as_json:
        return {"sweeps": sweeps}
    return format_table(HEADERS, [_cells(sweep) for sweep in sweeps], left=(0, 1))


def summarise(home: Home, store: Store, sweep: SweepRow) -> dict[str, Any]:
    """One sweep in a few numbers."""
    from tradesweep.names import BAD_ENDS, TRIAL_ENDS, TrialPhase
    from tradesweep.selection.leaderboard import luck_of
    from tradesweep.selection.standing import choose_best_trial

    trials = store.list_trials(sweep.sweep_id)
    winner = choose_best_trial(sweep, trials)
    best = None if winner is None else winner.best_sharpe
    counted, hurdle = luck_of(sweep, trials)
    return {
        "sweep_id": sweep.sweep_id,
        "experiment": sweep.experiment,
        "status": describe_state(home, sweep),
        "trials": len(trials),
        "ended": sum(trial.status in TRIAL_ENDS for trial in trials),
        "failed": sum(trial.status in BAD_ENDS for trial in trials),
        "best_sharpe": best,
        "hurdle": hurdle if counted else None,
        "deflated": None if best is None else best - hurdle,
        "points": len({trial.point_no for trial in trials}),
        "phase": "confirm" if any(trial.phase == TrialPhase.CONFIRM for trial in trials) else "search",
        "env_steps_per_trial": sweep.env_steps_per_trial,
        "ended_by": sweep.end_reason,
        "created_at": sweep.created_at,
        "ended_at": sweep.ended_at,
    }


def _cells(sweep: dict[str, Any]) -> tuple[str, ...]:
    return (
        sweep["sweep_id"],
        sweep["status"],
        f"{sweep['ended']}/{sweep['trials']}",
        str(sweep["failed"]),
        format_number(sweep["best_sharpe"]),
        format_number(sweep["hurdle"]),
        format_number(sweep["deflated"]),
        format_time(sweep["created_at"]),
    )


def describe_state(home: Home, sweep: SweepRow) -> str:
    """Its state; LOST when it runs by the book and nobody runs it: the same command goes on with it."""
    from tradesweep.names import SweepStatus
    from tradesweep.sweep.driver import find_driver

    if sweep.status == SweepStatus.RUNNING and sweep.driver_host == socket.gethostname():
        driver = find_driver(home, sweep.sweep_id)
        if driver is None or driver.sweep_id != sweep.sweep_id:
            return "LOST"
    return sweep.status.value


# --- one sweep ------------------------------------------------------------------------------------------------


def describe_one(
    home: Home, name: str, *, as_json: bool, watch: bool = False, readers: dict[str, Reader] | None = None
) -> dict[str, Any] | list[str]:
    """A sweep's progress while it runs, its leaderboard, and what went wrong. Raises NotFound.

    Whoever watches sees the progress alone while there is any; `readers` remember it from look to look.
    """
    from tradesweep.selection import build_leaderboard
    from tradesweep.store import database_exists, open_store

    if not database_exists(home.database):
        raise NotFound(f"there is no sweep or experiment {name!r}; there is no sweep yet in {home.path}")
    store = open_store(home.database)
    sweep = store.get_sweep(name)
    board, counts = build_leaderboard(store, sweep.sweep_id), store.counts(sweep.sweep_id)
    failed = [trial for trial in store.list_trials(sweep.sweep_id) if trial.error]
    recorder = find_recorder(store, home, sweep)
    progress = find_progress(store, home, sweep, {} if readers is None else readers)
    if as_json:
        errors = {str(trial.trial_no): trial.error for trial in failed}
        return {
            "sweep": summarise(home, store, sweep),
            "progress": None if progress is None else asdict(progress),
            "leaderboard": board.to_dict(),
            "counts": asdict(counts),
            "recorder": recorder,
            "errors": errors,
        }
    rows = f"{counts.episodes:,} episodes, {counts.steps:,} steps, {counts.trades:,} trades"
    times = f"{format_time(sweep.created_at)} to {format_time(sweep.ended_at)}"
    lines = [] if progress is None else [*table_lines(progress, rows=screen_rows(progress)), ""]
    if progress is None or not watch:
        lines += [*board_lines(board), ""]
    lines += [rows, times]
    if sweep.env_steps_per_trial is not None:
        lines.append(f"extended to {sweep.env_steps_per_trial:,} env steps a trial")
    if recorder is not None:
        lines.append(describe_recorder(recorder))
    if describe_state(home, sweep) == "LOST":
        lines.append(f"its process is gone; `tradesweep sweep {sweep.sweep_id}` goes on with it")
    return [*lines, *(describe_error(trial) for trial in failed)]


def find_progress(store: Store, home: Home, sweep: SweepRow, readers: dict[str, Reader]) -> Snapshot | None:
    """Where its trials stand; None unless it runs."""
    if describe_state(home, sweep) != "RUNNING":
        return None
    if sweep.sweep_id not in readers:
        readers[sweep.sweep_id] = Reader.of(store, sweep)
    return readers[sweep.sweep_id].read()


def screen_rows(progress: Snapshot) -> int:
    """So many trials as the terminal has room for; elsewhere all."""
    if not sys.stdout.isatty():
        return len(progress.trials)
    return max(shutil.get_terminal_size().lines - LINES_AROUND - LINES_BELOW, 3)


def find_recorder(store: Store, home: Home, sweep: SweepRow) -> dict[str, Any] | None:
    """How recording goes, as far as the database knows; None unless the sweep runs and something was committed."""
    from tradesweep.names import Metric, TrialStatus

    last_commit_at = store.find_last_commit(sweep.sweep_id)
    if describe_state(home, sweep) != "RUNNING" or last_commit_at is None:
        return None
    running = [trial for trial in store.list_trials(sweep.sweep_id) if trial.status == TrialStatus.RUNNING]
    iterations = [row for trial in running for row in store.list_iterations(trial.trial_id)]
    newest = max(iterations, key=lambda row: row.at, default=None)
    metrics = {} if newest is None else json.loads(newest.metrics)
    return {
        "rows_per_s": metrics.get(Metric.RECORDER_ROWS_PER_S),
        "lag_s": metrics.get(Metric.RECORDER_LAG),
        "last_commit_at": last_commit_at,
        "silent_s": max(time.time() - last_commit_at / 1e6, 0.0),
        "free_bytes": shutil.disk_usage(home.path).free,
    }


def describe_recorder(recorder: dict[str, Any]) -> str:
    """Rows a second while it records; how long it has been silent when it does not."""
    if recorder["silent_s"] > SILENCE_S:
        free = f"free disk: {recorder['free_bytes'] / 1e6:,.0f} MB"
        return f"nothing committed for {recorder['silent_s']:.0f} s: the database waits, or no trial moves ({free})"
    last = f"last commit {recorder['silent_s']:.0f} s ago"
    if recorder["rows_per_s"] is None:
        return f"recorder: {last}"
    return f"recorder: {recorder['rows_per_s']:,.0f} rows/s, slowest batch {recorder['lag_s']:.2f} s, {last}"


def describe_error(trial: TrialRow) -> str:
    """The last line of a trial's error."""
    last = (trial.error or "").strip().splitlines()[-1]
    return cut(f"trial {trial.trial_no} {trial.status.value}: {last}")
