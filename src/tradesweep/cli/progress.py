"""Progress of a running sweep, read from the store alone: `sweep` shows it, and `status` from another terminal.

In a sweep a thread of its own does, since the sweep has the main one. On a terminal it is a table that is drawn anew,
elsewhere one line for each change; both go to stderr.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, Self

import typer

from tradesweep.cli.output import (
    format_count,
    format_number,
    format_seconds,
    format_seed,
    format_table,
    three_numbers,
)

if TYPE_CHECKING:
    from rich.console import Console

    from tradesweep.home import DatabaseAddress
    from tradesweep.names import TrialStatus
    from tradesweep.store import Store, SweepRow, TrialRow

PERIOD_S = 1.0
HEADERS = ("trial", "state", "env steps", "steps/s", "last", "best", "eta")
LINES_AROUND = 6
"""Lines of the screen that the table's rows do not get."""
STALL_ITERATIONS = 5.0
"""A trial may hang when nothing of it was committed for as long as so many of its iterations take; each commits."""
STALL_LEAST_S, STALL_UNKNOWN_S = 60.0, 600.0
"""At least so long; and so long where no iteration of the sweep says how long they take."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialProgress:
    """Where one trial stands."""

    trial_no: int
    status: TrialStatus
    iterations: int
    env_steps: int
    steps_per_s: float | None
    """Over the whole trial; None before its first evaluation."""
    last_sharpe: float | None
    """Of its last evaluation."""
    best_sharpe: float | None
    """Of a policy that may be chosen."""
    eta_s: float | None
    """Until its budget is spent; None unless it runs."""
    point_no: int = 0
    seed_no: int = 0
    phase: str = "search"
    stalled_s: float | None = None
    """How long nothing of it was committed, where that is much longer than its iterations take."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """Where a sweep stands."""

    sweep_id: str
    trials: tuple[TrialProgress, ...]
    planned: int
    """Trials it will have."""
    ended: int
    """Trials that have an end."""
    hurdle: float
    """Annualised luck hurdle of the trials evaluated so far."""
    elapsed_s: float
    """Since the sweep's process began."""
    eta_s: float | None
    """Until all trials have spent their budget, at the rate so far."""

    @property
    def has_seeds(self) -> bool:
        """Have points more than one trial?"""
        return any(trial.seed_no for trial in self.trials)

    @property
    def best_sharpe(self) -> float | None:
        """The best of all trials."""
        return max((trial.best_sharpe for trial in self.trials if trial.best_sharpe is not None), default=None)


class Reader:
    """Makes snapshots of one sweep; remembers what cannot have changed since the last one."""

    def __init__(self, store: Store, sweep_id: str, *, trials: int, env_steps_per_trial: int) -> None:
        self._store, self._sweep_id = store, sweep_id
        self._planned, self._budget = trials, env_steps_per_trial
        self._last_sharpes: dict[tuple[int, int], float | None] = {}
        self._began_s = time.monotonic()
        self._done_before: int | None = None

    @classmethod
    def of(cls, store: Store, sweep: SweepRow) -> Self:
        """Of a sweep that another process runs, with what its spec says."""
        from tradesweep.spec import SweepSpec
        from tradesweep.sweep.plan import count_trials
        from tradesweep.sweep.points import count_points

        spec = SweepSpec.from_json(sweep.spec_json)
        trials = count_trials(spec, count_points(spec))
        return cls(store, sweep.sweep_id, trials=trials, env_steps_per_trial=spec.budget.env_steps_per_trial)

    def read(self) -> Snapshot:
        """Where the sweep stands now."""
        from tradesweep.names import TRIAL_ENDS
        from tradesweep.selection.leaderboard import luck_of

        trials, sweep = self._store.list_trials(self._sweep_id), self._store.get_sweep(self._sweep_id)
        self._budget = sweep.env_steps_per_trial or self._budget
        _, hurdle = luck_of(sweep, trials)
        stalls = self._find_stalls(trials)
        return Snapshot(
            sweep_id=self._sweep_id,
            trials=tuple(self._progress(trial, stalls.get(trial.trial_id)) for trial in trials),
            planned=self._planned,
            ended=sum(trial.status in TRIAL_ENDS for trial in trials),
            hurdle=hurdle,
            elapsed_s=max(time.time() - sweep.driver_started_at / 1e6, 0.0),
            eta_s=self._eta(trials, time.monotonic() - self._began_s),
        )

    def _progress(self, trial: TrialRow, stalled_s: float | None) -> TrialProgress:
        rate = trial.env_steps / trial.elapsed_s if trial.elapsed_s > 0 else None
        running = trial.status == "RUNNING" and rate
        return TrialProgress(
            trial_no=trial.trial_no,
            status=trial.status,
            iterations=trial.iterations,
            env_steps=trial.env_steps,
            steps_per_s=rate,
            last_sharpe=self._last_sharpe(trial),
            best_sharpe=trial.best_sharpe,
            eta_s=max(self._budget - trial.env_steps, 0) / rate if running and rate else None,
            point_no=trial.point_no,
            seed_no=trial.seed_no,
            phase=trial.phase,
            stalled_s=stalled_s,
        )

    def _find_stalls(self, trials: list[TrialRow]) -> dict[int, float]:
        """How long each trial that may hang has been silent. It is not ended: it may only be slow."""
        running = [trial.trial_id for trial in trials if trial.status == "RUNNING"]
        usual = {trial.trial_id: trial.elapsed_s / trial.iterations for trial in trials if trial.iterations}
        slowest = max(usual.values(), default=STALL_UNKNOWN_S / STALL_ITERATIONS)
        stalls = {}
        for trial_id, heard_at in self._last_heard(running).items():
            silent_s = time.time() - heard_at / 1e6
            if silent_s > max(STALL_ITERATIONS * usual.get(trial_id, slowest), STALL_LEAST_S):
                stalls[trial_id] = silent_s
        return stalls

    def _last_heard(self, running: list[int]) -> dict[int, int]:
        """When each of these trials committed something, or began its attempt."""
        from sqlalchemy import func, select

        from tradesweep.store.models import Attempt, Producer

        attempts, producers = Attempt.table().c, Producer.table().c
        begun = select(attempts.trial_id, func.max(attempts.started_at)).group_by(attempts.trial_id)
        sent = select(producers.trial_id, func.max(producers.last_batch_at)).group_by(producers.trial_id)
        queries = (
            begun.where(attempts.trial_id.in_(running)),
            sent.where(producers.sweep_id == self._sweep_id, producers.trial_id.in_(running)),
        )
        heard: dict[int, int] = {}
        with self._store.connect() as db:
            for query in queries:
                for trial_id, at in db.execute(query):
                    heard[trial_id] = max(heard.get(trial_id, 0), at or 0)
        return heard

    def _last_sharpe(self, trial: TrialRow) -> float | None:
        key = trial.trial_id, trial.iterations
        if key not in self._last_sharpes:
            evaluations = self._store.list_evaluations(trial.trial_id)
            self._last_sharpes[key] = evaluations[-1].sharpe if evaluations else None
        return self._last_sharpes[key]

    def _eta(self, trials: list[TrialRow], elapsed_s: float) -> float | None:
        """A trial that ended has done its budget, however early it stopped."""
        from tradesweep.names import TRIAL_ENDS

        done = sum(self._budget if trial.status in TRIAL_ENDS else trial.env_steps for trial in trials)
        if self._done_before is None:
            self._done_before = done
        made = done - self._done_before
        return (self._planned * self._budget - done) * elapsed_s / made if made > 0 else None


class View(Protocol):
    """Shows snapshots."""

    def show(self, snapshot: Snapshot) -> None:
        """Show how things stand."""

    def close(self) -> None:
        """Nothing more will be shown."""


class NoView:
    """Shows nothing."""

    def show(self, snapshot: Snapshot) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


class LineView:
    """One line for each trial that changed, and one for a new best."""

    def __init__(self) -> None:
        self._shown: dict[int, tuple[object, int]] = {}
        self._best: float | None = None
        self._stalled: set[int] = set()

    def show(self, snapshot: Snapshot) -> None:
        """Say what is new."""
        for trial in snapshot.trials:
            state = trial.status, trial.iterations
            if self._shown.get(trial.trial_no) != state:
                self._shown[trial.trial_no] = state
                typer.echo(describe_trial(trial, with_seed=snapshot.has_seeds), err=True)
        best = snapshot.best_sharpe
        if best is not None and best != self._best:
            self._best = best
            typer.echo(f"best so far: {three_numbers(best, snapshot.hurdle)}", err=True)
        for trial in newly_stalled(snapshot, self._stalled):
            typer.echo(describe_stall(trial), err=True)

    def close(self) -> None:
        """Every line is out."""


class TableView:
    """A table on a terminal, drawn anew."""

    def __init__(self, console: Console | None = None) -> None:
        from rich.console import Console
        from rich.live import Live

        self._console = console or Console(stderr=True)
        self._live = Live(console=self._console, auto_refresh=False)
        self._live.start()

    def show(self, snapshot: Snapshot) -> None:
        """Draw it."""
        from rich.text import Text

        lines = table_lines(snapshot, rows=max(self._console.height - LINES_AROUND, 3))
        self._live.update(Text("\n".join(lines), no_wrap=True, overflow="crop"), refresh=True)

    def close(self) -> None:
        """Leave the last state on the screen."""
        self._live.stop()


def choose_view(*, quiet: bool) -> View:
    """A table on a terminal, lines elsewhere, nothing when asked to be quiet."""
    if quiet:
        return NoView()
    return TableView() if sys.stderr.isatty() else LineView()


class Progress:
    """Shows a sweep until the block ends. Whatever goes wrong in showing never disturbs the sweep."""

    def __init__(self, database: DatabaseAddress, view: View, *, trials: int, env_steps_per_trial: int) -> None:
        self._database, self._view = database, view
        self._trials, self._env_steps = trials, env_steps_per_trial
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._ended.set()
        if self._thread is not None:
            self._thread.join(10 * PERIOD_S)
        with suppress(OSError):  # a terminal that was closed
            self._view.close()

    def watch(self, sweep_id: str) -> None:
        """Begin to show that sweep."""
        self._thread = threading.Thread(target=self._run, args=(sweep_id,), name="progress", daemon=True)
        self._thread.start()

    def _run(self, sweep_id: str) -> None:
        from tradesweep.errors import StoreError
        from tradesweep.store import open_store

        store = open_store(self._database)
        reader = Reader(store, sweep_id, trials=self._trials, env_steps_per_trial=self._env_steps)
        stalled: set[int] = set()
        last = False
        while not last:
            last = self._ended.wait(PERIOD_S)
            try:
                snapshot = reader.read()
            except StoreError:  # busy or full: the sweep says so itself; here the next look is good enough
                continue
            for trial in newly_stalled(snapshot, stalled):
                logger.warning("%s", describe_stall(trial))
            try:
                self._view.show(snapshot)
            except OSError:  # nobody reads it any more
                self._view = NoView()


def table_lines(snapshot: Snapshot, *, rows: int) -> list[str]:
    """The sweep as a table: what runs first, then the best of the others, as many as fit."""
    title = f"{snapshot.sweep_id}: {snapshot.ended} of {snapshot.planned} trials, {format_seconds(snapshot.elapsed_s)}"
    if snapshot.eta_s is not None and snapshot.ended < snapshot.planned:
        title += f", about {format_seconds(snapshot.eta_s)} left"
    shown = choose_rows(snapshot.trials, rows)
    more = ("point", "seed") if snapshot.has_seeds else ()
    cells = [(*_cells(trial), *(_seed_cells(trial) if more else ())) for trial in shown]
    table = format_table((*HEADERS, *more), cells, left=(1, 8))
    hidden = len(snapshot.trials) - len(shown)
    lines = [title, *table, *([f"... and {hidden} more"] if hidden else [])]
    lines += [describe_stall(trial) for trial in shown if trial.stalled_s is not None]
    best = snapshot.best_sharpe
    return lines if best is None else [*lines, three_numbers(best, snapshot.hurdle)]


def choose_rows(trials: tuple[TrialProgress, ...], rows: int) -> list[TrialProgress]:
    """At most `rows` trials, by number: those under way, then those with the best Sharpe."""

    def rank(trial: TrialProgress) -> tuple[bool, float]:
        best = trial.best_sharpe
        return trial.status not in ("RUNNING", "PENDING"), float("inf") if best is None else -best

    return sorted(sorted(trials, key=rank)[:rows], key=lambda trial: trial.trial_no)


def _cells(trial: TrialProgress) -> tuple[str, ...]:
    return (
        str(trial.trial_no),
        trial.status.value,
        format_count(trial.env_steps),
        format_number(trial.steps_per_s, 0),
        format_last(trial),
        format_number(trial.best_sharpe),
        format_seconds(trial.eta_s),
    )


def _seed_cells(trial: TrialProgress) -> tuple[str, str]:
    return str(trial.point_no), f"{trial.seed_no} fresh" if trial.phase == "confirm" else str(trial.seed_no)


def describe_trial(trial: TrialProgress, *, with_seed: bool = False) -> str:
    """One line about one trial."""
    line = f"trial {trial.trial_no} {trial.status.value}"
    if with_seed:
        line += f" ({format_seed(trial.point_no, trial.seed_no, fresh=trial.phase == 'confirm')})"
    if not trial.iterations:
        return line
    rate = format_number(trial.steps_per_s, 0)
    return f"{line}, {trial.env_steps:,} steps, {rate} steps/s, validation Sharpe {format_last(trial)}"


def newly_stalled(snapshot: Snapshot, known: set[int]) -> list[TrialProgress]:
    """Trials that may hang and are not among the `known` ones, which are brought up to date."""
    stalled = [trial for trial in snapshot.trials if trial.stalled_s is not None]
    new = [trial for trial in stalled if trial.trial_no not in known]
    known.clear()
    known.update(trial.trial_no for trial in stalled)
    return new


def describe_stall(trial: TrialProgress) -> str:
    """What a person should look at."""
    return f"warning: trial {trial.trial_no} may hang: nothing committed for {format_seconds(trial.stalled_s)}"


def format_last(trial: TrialProgress) -> str:
    """The last Sharpe ratio; undefined is shown as flat once there was an evaluation."""
    return "flat" if trial.last_sharpe is None and trial.iterations else format_number(trial.last_sharpe)
