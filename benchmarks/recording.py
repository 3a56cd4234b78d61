"""From a producer's columns to the commit: one producer process, Ray, one recorder, one database.

The clock runs from the first `send` to the end of `flush`. The fragments lie ready, since sampling is not recording;
one line samples them meanwhile, as a runner does. Step rows are the rows of the table `steps`; the fills, trades and
episodes that travel with them are extra, and the note says how many rows that is altogether.
"""

from __future__ import annotations

import sqlite3
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from itertools import count, repeat
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from benchmarks.build_database import TrialRun, new_sweep, opened_trial
from benchmarks.common import Options, Row
from benchmarks.workload import ACTIVITY, make_bars
from tradesweep.names import Answer, Record, SweepStatus
from tradesweep.recording import (
    LocalRecorder,
    RecorderClient,
    build_batch,
    connect_recorder,
    create_recorder,
    cut_into_batches,
    decode_batch,
)
from tradesweep.store import DecodedBatch, Writer
from tradesweep.store.statements import BULK

TITLE = "step rows a second from one producer through Ray and the recorder to the commit"
GOAL, POSTGRES_GOAL = 300_000, 150_000


@dataclass(frozen=True, kw_only=True)
class Load:
    """What a producer hands over."""

    what: str
    rows: int
    """Steps of each of 64 lanes in a fragment."""
    activity: float = ACTIVITY
    sampled_meanwhile: bool = False
    goal: int | None = None


LOADS = (
    Load(what="as sweeps trade", rows=128, goal=GOAL),
    Load(what="as sweeps trade, sampled meanwhile", rows=128, sampled_meanwhile=True),
    Load(what="as sweeps trade, small fragments", rows=32),
    Load(what="few trades", rows=220, activity=0.1, goal=GOAL),
    Load(what="steps alone", rows=252, activity=0.0, goal=GOAL),
)


def run(options: Options) -> list[Row]:
    from tradesweep.sweep.cluster import ray_session

    steps, repeats = options.size(quick=20_000, usual=1_500_000), options.repeats or options.size(quick=1, usual=5)
    with ray_session(cpus=1, gpus=0), tempfile.TemporaryDirectory(prefix="ts-bench-") as folder:
        files = (f"{folder}/{number}.db" for number in count())
        rows = [measure(load, files, steps, repeats, "SQLite") for load in LOADS]
        rows.append(measure_postgres(options, steps, repeats))
        return rows + profile(Path(folder), options.size(quick=2, usual=40))


# --- the whole path -------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """What one run took and brought."""

    seconds: float
    recorder_s: float
    """CPU time of the recorder's process, which others on the machine disturb less than the clock."""
    steps: int
    rows: int


def measure(load: Load, databases: Iterator[str], steps: int, repeats: int, where: str) -> Row:
    found = [record(load, next(databases), steps) for _ in range(repeats)]
    recorder_us = [1e6 * run.recorder_s / run.steps for run in found]
    return Row(
        what=f"{where}, {load.what}",
        unit="steps/s",
        values=[run.steps / run.seconds for run in found],
        goal=load.goal,
        note=f"{found[0].rows / found[0].steps:.2f} rows a step in all tables; {64 * load.rows:,} steps a fragment;"
        f" recorder {median(recorder_us):.1f} us CPU a step",
    )


def measure_postgres(options: Options, steps: int, repeats: int) -> Row:
    """The first load, into the database of the options or into a private server that waits for its disk."""
    from tests.postgres import PostgresServer, find_programs

    load = replace(LOADS[0], goal=POSTGRES_GOAL)
    if find_spec("psycopg") is None:
        return Row(what="PostgreSQL", unit="steps/s", note="skipped: psycopg is not installed")
    if options.db_url is not None:
        return measure(load, repeat(options.db_url), steps, repeats, "PostgreSQL")
    programs = find_programs()
    if programs is None:
        return Row(what="PostgreSQL", unit="steps/s", note="skipped: no server here; give --db-url")
    with PostgresServer(programs, durable=True) as server:
        return measure(load, (server.new_database() for _ in count()), steps, repeats, "PostgreSQL")


def record(load: Load, database: str, steps: int) -> Recorded:
    """Send about so many steps into this database."""
    with recorder(database) as client, opened_run(client, load) as trial:
        process = psutil.Process(client.stats().pid)
        fragments = (trial.running.sample(load.rows) for _ in range(max(2, steps // (64 * load.rows))))
        ready = fragments if load.sampled_meanwhile else list(fragments)
        made, used_s, begun = 0, cpu_seconds(process), time.perf_counter()
        for records in ready:
            trial.sampling.send(records)
            made += len(records[Record.STEPS]["step_id"])
        trial.sampling.flush()
        return Recorded(
            seconds=time.perf_counter() - begun,
            recorder_s=cpu_seconds(process) - used_s,
            steps=made,
            rows=trial.sampling.counts.rows_acknowledged,
        )


def cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


@contextmanager
def recorder(database: str) -> Iterator[RecorderClient]:
    """A recorder of its own process, reached as a runner reaches it."""
    name = f"bench-{time.time_ns()}"
    created = create_recorder(database, name=name)
    try:
        yield connect_recorder(name)
    finally:
        created.close(60.0)


@contextmanager
def opened_run(client: RecorderClient, load: Load) -> Iterator[TrialRun]:
    """A sweep with one trial that samples this load."""
    sweep_id = f"bench-{time.time_ns()}"
    client.open_sweep(new_sweep(sweep_id))
    with opened_trial(client, 0, sweep_id) as trial:
        yield TrialRun(client, trial, make_bars(), sweep_id=sweep_id, rows=load.rows, activity=load.activity)
    client.close_sweep(sweep_id, SweepStatus.FINISHED)


# --- where the time of a row goes -----------------------------------------------------------------------------


def profile(folder: Path, fragments: int) -> list[Row]:
    """The stages one by one, in this process, for the first load; and SQLite's driver alone, for comparison."""
    writer = Writer(folder / "profile.db")
    with opened_run(LocalRecorder(writer), LOADS[0]) as trial, closing(open_floor(folder)) as floor:
        stages = [profile_fragment(trial, writer, floor, seq) for seq in range(1, fragments + 1)]
    writer.close()
    names = stages[0].keys()
    return [
        Row(what=name, unit="us/step", values=[stage[name] for stage in stages], better="less", digits=2)
        for name in names
    ]


def profile_fragment(trial: TrialRun, writer: Writer, floor: sqlite3.Connection, seq: int) -> dict[str, float]:
    """Microseconds a step in each stage."""
    key, epoch = trial.sampling.key, trial.sampling.grant.epoch
    clock = Stopwatch()
    records = trial.running.sample(trial.rows)
    clock.lap("environment: a sampled step")
    [frames] = cut_into_batches(records)
    batch = build_batch(key, epoch, seq, frames)
    clock.lap("producer: columns to bytes")
    rows = decode_batch(batch)
    clock.lap("recorder: bytes to rows")
    assert writer.apply(DecodedBatch(producer=key, epoch=epoch, seq=seq, rows=rows)) == Answer.OK
    clock.lap("recorder: rows to commit")
    insert(floor, rows)
    clock.lap("floor: executemany of ready rows, committed")
    steps = len(rows[Record.STEPS])
    return {name: 1e6 * seconds / steps for name, seconds in clock.laps.items()}


class Stopwatch:
    """Seconds between laps, by name."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps[name], self._last = now - self._last, now


def open_floor(folder: Path) -> sqlite3.Connection:
    """The same empty tables with the same safety, for the driver alone."""
    Writer(folder / "floor.db").close()
    floor = sqlite3.connect(folder / "floor.db", isolation_level=None)
    for pragma in ("synchronous = FULL", "cache_size = -65536", "temp_store = MEMORY"):
        floor.execute(f"PRAGMA {pragma}")
    return floor


def insert(floor: sqlite3.Connection, rows: dict[Record, list[tuple[Any, ...]]]) -> None:
    floor.execute("BEGIN IMMEDIATE")
    for kind in (Record.STEPS, Record.FILLS, Record.TRADES):
        floor.executemany(BULK[kind].sql, rows[kind])
    floor.execute("COMMIT")
