"""A small Ray, a recorder over a real database, and producers in processes that tests may kill."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import ray
from tests.faults.invariants import Ack, ProcessMark, SqliteDatabase, check_invariants
from tests.faults.load import ENOUGH, Sampler, make_sweep

from tradesweep.names import ProducerKey, ProducerRole, SweepStatus, TrialStatus
from tradesweep.recording import ProducerCounts, RemoteRecorder, create_recorder

SWEEP = "faults-00000000"
RAY_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """One small Ray for the module."""
    saved = {name: os.environ.get(name) for name in RAY_ENVIRONMENT}
    os.environ.update(RAY_ENVIRONMENT)
    folder = Path(tempfile.mkdtemp(prefix="ts-", dir="/tmp"))
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        object_store_memory=200 * 2**20,
        _temp_dir=str(folder),
        log_to_driver=False,
        logging_level="ERROR",
    )
    yield
    ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)
    for name, value in saved.items():
        os.environ.pop(name) if value is None else os.environ.update({name: value})


@dataclass
class Hand:
    """A hired producer."""

    actor: Any
    key: ProducerKey
    mark: ProcessMark
    producer_no: int
    acks: Path
    work: Any = None

    def start(self, fragments: int, pause_s: float = 0.0) -> None:
        """Sample and record so many fragments."""
        self.work = self.actor.work.remote(fragments, pause_s)

    def result(self, timeout_s: float = 120.0) -> ProducerCounts:
        """Wait until they are committed, or raise what stopped the producer."""
        return ray.get(self.work, timeout=timeout_s)

    def check(self) -> None:
        """Raise what stopped the producer, if it was stopped."""
        if self.work is not None and ray.wait([self.work], timeout=0)[0]:
            ray.get(self.work)

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.mark.pid, number)

    def kill(self) -> None:
        """What it was at has no result."""
        self.signal(signal.SIGKILL)
        self.work = None

    def acknowledged(self) -> int:
        """Batches it was told are committed."""
        return self.acks.read_bytes().count(b"\n") if self.acks.exists() else 0


@dataclass
class Arena:
    """A sweep with one trial under way, its recorder, and its producers."""

    folder: Path
    database: Path
    recorder: RemoteRecorder
    hands: list[Hand] = field(default_factory=list)
    recorders: list[ProcessMark] = field(default_factory=list)
    trial_id: int = 0
    attempt: int = 0

    def begin(self) -> Arena:
        self.recorder.open_sweep(make_sweep(SWEEP))
        self.trial_id = self.recorder.open_trial(SWEEP, 0, {"lr": 1e-4}, {"lr": 1e-4}, 7, "hash")
        self.attempt = self.recorder.start_attempt(self.trial_id, os.getpid())
        return self

    def key(self, worker: int) -> ProducerKey:
        return ProducerKey(SWEEP, self.trial_id, self.attempt, ProducerRole.RUNNER, worker)

    def hire(self, worker: int, *, seed: int, timeout_s: float = 60.0, **sizes: int) -> Hand:
        """Start a producer; another one of the same worker is its next incarnation."""
        acks = self.folder / f"acks-{len(self.hands)}.jsonl"
        actor = ray.remote(num_cpus=0, max_restarts=0, max_task_retries=0)(Sampler).remote(
            self.recorder.name, self.key(worker), acks, seed=seed, timeout_s=timeout_s, **sizes
        )
        pid, producer_no = ray.get(actor.identify.remote())
        hand = Hand(actor, self.key(worker), ProcessMark.of(pid), producer_no, acks)
        self.hands.append(hand)
        return hand

    def acknowledged(self) -> int:
        return sum(hand.acknowledged() for hand in self.hands)

    def wait_for(self, acknowledged: int, timeout_s: float = 60.0) -> None:
        """Wait until producers were told that so many batches are committed."""
        deadline = time.monotonic() + timeout_s
        while self.acknowledged() < acknowledged:
            for hand in self.hands:
                hand.check()
            assert time.monotonic() < deadline, f"{self.acknowledged()} of {acknowledged} after {timeout_s:g} s"
            time.sleep(0.01)

    def recorder_pid(self) -> int:
        """The recorder's process, once it answers."""
        mark = ProcessMark.of(self.recorder.stats().pid)
        self.recorders.append(mark)
        return mark.pid

    def kill_recorder(self) -> None:
        os.kill(self.recorder_pid(), signal.SIGKILL)

    def say_enough(self) -> None:
        """Producers end with the fragment they are at."""
        (self.folder / ENOUGH).touch()

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        return SqliteDatabase(self.database).rows(sql)

    def finish(self, processes: Sequence[ProcessMark] = ()) -> None:
        """End the trial and the sweep, close the recorder, and check everything."""
        self.recorder.close_trial(self.trial_id, TrialStatus.INTERRUPTED)
        self.recorder.close_sweep(SWEEP, SweepStatus.INTERRUPTED)
        self.recorder_pid()
        self.recorder.close(60.0)
        for hand in self.hands:
            ray.kill(hand.actor)
        check_invariants(
            self.database,
            acks=[ack for hand in self.hands for ack in Ack.read_log(hand.acks)],
            processes=[*processes, *self.recorders, *(hand.mark for hand in self.hands)],
        )


@pytest.fixture
def open_arena(cluster: None, tmp_path: Path) -> Iterator[Callable[..., Arena]]:
    """Open a recorder over a database, in the test's folder if no other is named."""
    made: list[Arena] = []

    def open_one(database: Path | None = None, *, create: Callable[..., RemoteRecorder] = create_recorder) -> Arena:
        database = database or tmp_path / "tradesweep.db"
        recorder = create(str(database), name=f"recorder-{tmp_path.name}-{len(made)}", timeout_s=60.0)
        made.append(Arena(tmp_path, database, recorder))
        return made[-1].begin()

    yield open_one
    for arena in made:
        for hand in arena.hands:
            ray.kill(hand.actor)
        ray.kill(arena.recorder._handle)


@pytest.fixture
def arena(open_arena: Callable[..., Arena]) -> Arena:
    return open_arena()
