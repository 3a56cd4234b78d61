"""Whatever is killed, stopped, filled up or locked: each batch is written once, and none that was acknowledged is
missing.
"""

from __future__ import annotations

import os
import random
import re
import resource
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
from sqlalchemy import Engine, event
from tests.faults.load import make_again

from tradesweep.errors import Fenced, RecorderUnavailable
from tradesweep.home import DatabaseAddress
from tradesweep.names import RECORD_COLUMNS, Batch, Record
from tradesweep.recording import NAMESPACE, Producer, RemoteRecorder, connect_recorder
from tradesweep.recording.recorder import RecorderActor

pytestmark = [pytest.mark.fault, pytest.mark.ray, pytest.mark.timeout(300)]

MB = 2**20
KEYS = {Record.STEPS: "step_id", Record.FILLS: "step_id, leg", Record.TRADES: "episode_no, trade_no"}


def as_stored(records: dict[Record, dict[str, Any]], kind: Record) -> list[tuple[Any, ...]]:
    """Rows as a database gives them back: NaN is NULL, nothing is a NumPy scalar."""
    columns = [records[kind][column.name] for column in RECORD_COLUMNS[kind]]
    plain = [column.tolist() if hasattr(column, "tolist") else column for column in columns]
    return [tuple(None if value != value else value for value in row) for row in zip(*plain, strict=True)]


def check_rows_are_those_sent(arena: Any, hand: Any, *, seed: int, batches: int, **sizes: int) -> None:
    """Every value of the steps, fills and trades of a producer whose trial has not ended."""
    made = make_again(hand.producer_no, seed, batches, **sizes)
    episodes = f"producer_no = {hand.producer_no}"
    for kind, key in KEYS.items():
        names = ", ".join(column.name for column in RECORD_COLUMNS[kind])
        episode = "episode_no" if kind == Record.TRADES else f"(step_id / {2**24})"
        found = arena.rows(
            f"SELECT {names} FROM {kind}"
            f" WHERE {episode} IN (SELECT episode_no FROM episodes WHERE {episodes}) ORDER BY {key}"
        )
        assert found == sorted(row for records in made for row in as_stored(records, kind)), kind


def assert_all_committed(hands: list[Any]) -> None:
    for hand in hands:
        counts = hand.result()
        assert (counts.rows_acknowledged, counts.steps_unsent) == (counts.rows_sent, 0)


@pytest.mark.slow
def test_a_recorder_killed_ten_times_writes_exactly_what_four_producers_sent(arena: Any) -> None:
    producers, batches = 4, 200
    hands = [arena.hire(worker, seed=worker) for worker in range(producers)]
    for hand in hands:
        hand.start(batches)
    for count in sorted(random.Random(11).sample(range(producers * batches), 10)):
        arena.wait_for(count)
        arena.kill_recorder()
    counts = [hand.result() for hand in hands]
    assert all(each.rows_acknowledged == each.rows_sent for each in counts)
    assert sum(each.resends for each in counts) >= 10
    assert arena.rows("SELECT worker, last_seq FROM producers ORDER BY worker") == list(
        enumerate([batches] * producers)
    )
    for seed, hand in enumerate(hands):
        check_rows_are_those_sent(arena, hand, seed=seed, batches=batches)
    arena.finish()


# --- killed at the worst moment -----------------------------------------------------------------------------------


class DyingRecorder(RecorderActor):
    """Ends its own process with SIGKILL once, at one point of the third batch of a producer."""

    def __init__(self, address: DatabaseAddress, lock_timeout_s: float, point: str, once: Path) -> None:
        super().__init__(address, lock_timeout_s)
        self._point, self._once = point, once

    @ray.method(concurrency_group="write")
    def write(self, batch: Batch, sent_at_s: float) -> Any:
        armed = batch.seq == 3 and not self._once.exists()
        if armed and self._point == "before the commit":
            event.listen(Engine, "commit", lambda connection: self._die())
        outcome = super().write(batch, sent_at_s)
        if armed:
            self._die()
        return outcome

    def _die(self) -> None:
        self._once.touch()
        os.kill(os.getpid(), signal.SIGKILL)


def create_dying(point: str, once: Path) -> Callable[..., RemoteRecorder]:
    options = {"num_cpus": 0, "max_restarts": -1, "concurrency_groups": {"write": 1, "control": 1}}

    def create(database: str, *, name: str, timeout_s: float) -> RemoteRecorder:
        actor = ray.remote(**options)(DyingRecorder).options(name=name, namespace=NAMESPACE)
        handle = actor.remote(DatabaseAddress(database), 10.0, point, once)
        return RemoteRecorder(handle, name, timeout_s=timeout_s)

    return create


@pytest.mark.slow
@pytest.mark.parametrize(("point", "duplicates"), [("before the commit", 0), ("after the commit", 1)])
def test_a_recorder_killed_beside_its_commit_is_sent_the_batch_again(
    open_arena: Any, tmp_path: Path, point: str, duplicates: int
) -> None:
    """Rows without a commit are gone, so the batch is taken; rows with one are there, so it is recognised."""
    once = tmp_path / "died"
    arena = open_arena(create=create_dying(point, once))
    hand = arena.hire(0, seed=5)
    hand.start(6)
    counts = hand.result()
    assert once.exists()
    assert counts.resends >= 1
    assert arena.recorder.stats().duplicates == duplicates
    check_rows_are_those_sent(arena, hand, seed=5, batches=6)
    arena.finish()


# --- stopped ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_recorder_stopped_for_twenty_seconds_stops_its_producers_and_nothing_grows(arena: Any) -> None:
    big = {"lanes": 32, "rows": 100}
    hands = [arena.hire(worker, seed=worker, **big) for worker in range(2)]
    for hand in hands:
        hand.start(30)
    arena.wait_for(20)
    pid = arena.recorder_pid()
    os.kill(pid, signal.SIGSTOP)
    try:
        time.sleep(0.5)
        stopped_at, before = arena.acknowledged(), [memory_of(hand) for hand in hands]
        time.sleep(20.0)
        assert arena.acknowledged() <= stopped_at + len(hands), "a producer waits for the answer to its last batch"
        grown = [memory_of(hand) - was for hand, was in zip(hands, before, strict=True)]
    finally:
        os.kill(pid, signal.SIGCONT)
    assert max(grown) < 50 * MB
    assert_all_committed(hands)
    for seed, hand in enumerate(hands):
        check_rows_are_those_sent(arena, hand, seed=seed, batches=30, **big)
    arena.finish()


def memory_of(hand: Any) -> int:
    return int(psutil.Process(hand.mark.pid).memory_info().rss)


@pytest.mark.slow
def test_a_producer_that_slept_while_it_was_replaced_can_write_nothing_more(arena: Any) -> None:
    sleeper = arena.hire(0, seed=1)
    sleeper.start(10_000)
    arena.wait_for(5)
    sleeper.signal(signal.SIGSTOP)
    time.sleep(0.5)
    successor = arena.hire(0, seed=2)
    successor.start(5)
    successor.result()
    applied = arena.rows(f"SELECT last_seq FROM producers WHERE producer_no = {sleeper.producer_no}")
    sleeper.signal(signal.SIGCONT)
    with pytest.raises(Fenced, match="a newer incarnation of it exists"):
        sleeper.result()
    successor.start(5)
    successor.result()
    assert arena.rows("SELECT epoch, last_seq, end_reason FROM producers ORDER BY epoch") == [
        (1, applied[0][0], "FENCED"),
        (2, 10, None),
    ]
    assert arena.rows(
        "SELECT DISTINCT status, end_reason FROM episodes"
        f" WHERE producer_no = {sleeper.producer_no} AND status <> 'COMPLETED'"
    ) == [("ABANDONED", "PRODUCER_LOST")]
    arena.finish()


# --- no space -----------------------------------------------------------------------------------------------------


class SmallDisk:
    """A file system of two megabytes in memory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder], check=True, capture_output=True)

    def fill(self, pid: int) -> None:
        """It is small from the start."""

    def enlarge(self, pid: int) -> None:
        subprocess.run(["mount", "-o", "remount,size=200m", self.folder], check=True)

    def close(self) -> None:
        subprocess.run(["umount", "--lazy", self.folder], check=True)


class FileLimit:
    """The recorder may let no file grow beyond where the database is now."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()

    def fill(self, pid: int) -> None:
        largest = max(file.stat().st_size for file in self.folder.iterdir())
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (largest + MB, resource.RLIM_INFINITY))

    def enlarge(self, pid: int) -> None:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

    def close(self) -> None:
        shutil.rmtree(self.folder)


@pytest.fixture(params=[SmallDisk, FileLimit])
def disk(request: Any, tmp_path: Path) -> Iterator[Any]:
    try:
        disk = request.param(tmp_path / "disk")
    except (subprocess.CalledProcessError, FileNotFoundError):
        pytest.skip("mounting needs root")
    yield disk
    disk.close()


@pytest.mark.slow
def test_a_full_disk_stops_the_producers_until_there_is_space(
    disk: Any, open_arena: Any, caplog: pytest.LogCaptureFixture
) -> None:
    arena = open_arena(disk.folder / "tradesweep.db")
    hands = [arena.hire(worker, seed=worker, lanes=16) for worker in range(2)]
    impatient = Producer(lambda: connect_recorder(arena.recorder.name), arena.key(2), timeout_s=3.0)
    pid = arena.recorder_pid()
    disk.fill(pid)
    for hand in hands:
        hand.start(120)
    arena.wait_for(2)
    wait_until_nothing_is_acknowledged(arena)
    assert arena.acknowledged() < 240
    sent = make_again(impatient.grant.producer_no, 9, 1, lanes=16, rows=200)
    impatient.send(sent[0])
    with pytest.raises(RecorderUnavailable, match=r"batch 1 .* within 3 s .*disk"):
        impatient.flush()
    assert impatient.counts.steps_unsent == len(sent[0][Record.STEPS]["step_id"])
    assert re.search(r"the database does not take batch 1 yet: .*disk.*; sampling waits, for up to 3 s", caplog.text)
    assert arena.recorder.stats().pid == pid, "the recorder does not crash"
    disk.enlarge(pid)
    assert_all_committed(hands)
    impatient.flush()
    assert impatient.counts.steps_unsent == 0
    for seed, hand in enumerate(hands):
        check_rows_are_those_sent(arena, hand, seed=seed, batches=120, lanes=16)
    arena.finish()


def wait_until_nothing_is_acknowledged(arena: Any) -> None:
    before = -1
    while before != arena.acknowledged():
        before = arena.acknowledged()
        time.sleep(3.0)


# --- somebody else's lock -----------------------------------------------------------------------------------------


@pytest.fixture
def hold_lock() -> Iterator[Callable[[Path], sqlite3.Connection]]:
    """Do what a database browser does with an unfinished edit."""
    held: list[sqlite3.Connection] = []

    def hold(database: Path) -> sqlite3.Connection:
        held.append(sqlite3.connect(database, isolation_level=None, timeout=10.0))
        held[-1].execute("BEGIN EXCLUSIVE")
        return held[-1]

    yield hold
    for connection in held:
        connection.close()


@pytest.mark.slow
def test_producers_and_the_driver_wait_while_another_program_holds_the_database(
    arena: Any, hold_lock: Callable[[Path], sqlite3.Connection]
) -> None:
    hands = [arena.hire(worker, seed=worker) for worker in range(2)]
    for hand in hands:
        hand.start(100)
    arena.wait_for(50)
    connection = hold_lock(arena.database)
    count = arena.acknowledged()
    with ThreadPoolExecutor(1) as driver:
        marking = driver.submit(arena.recorder.mark_outbox, [1])
        time.sleep(12.0)  # SQLite itself waits for five
        assert not marking.done()
        assert arena.acknowledged() <= count + len(hands)
        connection.execute("ROLLBACK")
        marking.result(timeout=60.0)
    assert_all_committed(hands)
    for seed, hand in enumerate(hands):
        check_rows_are_those_sent(arena, hand, seed=seed, batches=100)
    arena.finish()


@pytest.mark.slow
def test_a_lock_that_is_held_for_ever_fails_in_time_and_says_why(
    arena: Any, hold_lock: Callable[[Path], sqlite3.Connection]
) -> None:
    producer = Producer(lambda: connect_recorder(arena.recorder.name), arena.key(0), timeout_s=8.0)
    connection = hold_lock(arena.database)
    producer.send(make_again(producer.grant.producer_no, 9, 1)[0])
    with pytest.raises(RecorderUnavailable, match=r"batch 1 .* within 8 s .*another program holds a lock"):
        producer.flush()
    connection.execute("ROLLBACK")
    producer.flush()
    arena.finish()
