"""The recorder as a real actor over a real database, killed with real signals."""

from __future__ import annotations

import os
import pickle
import random
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

from tradesweep.errors import NotFound, RecorderUnavailable, StoreLocked
from tradesweep.names import ProducerKey, ProducerRole, TrialStatus
from tradesweep.recording import Producer, ProducerCounts, RemoteRecorder, connect_recorder, create_recorder
from tradesweep.recording.recorder import Outcome
from tradesweep.store import NewSweep, Writer

pytestmark = pytest.mark.ray

NAME = "recorder-under-test"
STEPS = 200


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    ray.init(num_cpus=2, include_dashboard=False, object_store_memory=100 * 2**20, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "tradesweep.db"


@pytest.fixture
def recorder(database: Path, new_sweep: NewSweep) -> Iterator[RemoteRecorder]:
    made = create_recorder(str(database), name=NAME, timeout_s=30.0)
    made.open_sweep(new_sweep)
    yield made
    made.close(30.0)


@pytest.fixture
def keys(recorder: RemoteRecorder, new_sweep: NewSweep) -> list[ProducerKey]:
    trial_id = recorder.open_trial(new_sweep.sweep_id, 0, {"lr": 1e-4}, {"lr": 1e-4}, 7, "hash")
    attempt = recorder.start_attempt(trial_id, os.getpid())
    return [ProducerKey(new_sweep.sweep_id, trial_id, attempt, ProducerRole.RUNNER, worker) for worker in range(3)]


def query(database: Path, sql: str) -> list[tuple[Any, ...]]:
    with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as connection:
        return connection.execute(sql).fetchall()


class Load(threading.Thread):
    """One producer that sends whole episodes as fast as it may, until it is told that it is enough."""

    def __init__(self, key: ProducerKey, make_episode: Callable[..., Any]) -> None:
        super().__init__()
        self._key, self._make = key, make_episode
        self.enough = threading.Event()
        self.episodes = 0
        self.counts: ProducerCounts | None = None

    def run(self) -> None:
        producer = Producer(lambda: connect_recorder(NAME), self._key, timeout_s=60.0)
        while not self.enough.is_set():
            producer.send(self._make(producer.next_episode_no(), STEPS))
            self.episodes += 1
        producer.flush()
        self.counts = producer.counts


def kill_recorder(recorder: RemoteRecorder) -> None:
    os.kill(recorder.stats().pid, signal.SIGKILL)


def test_a_recorder_killed_again_and_again_writes_each_row_once(
    recorder: RemoteRecorder, keys: list[ProducerKey], database: Path, episode: Callable[..., Any]
) -> None:
    loads, when = [Load(key, episode) for key in keys], random.Random(11)
    for load in loads:
        load.start()
    for _ in range(3):
        time.sleep(when.uniform(0.1, 0.5))
        kill_recorder(recorder)
    for load in loads:
        load.enough.set()
        load.join(120.0)

    sent = [load.counts for load in loads if load.counts is not None]
    assert len(sent) == len(loads)
    assert all(counts.rows_acknowledged == counts.rows_sent for counts in sent)
    total = sum(load.episodes for load in loads)
    assert query(database, "SELECT count(*), count(DISTINCT step_id) FROM steps") == [(total * STEPS,) * 2]
    assert query(database, "SELECT count(*) FROM fills") == [(total * STEPS,)]
    assert query(database, "SELECT count(*) FROM trades") == [(total * STEPS // 2,)]
    assert query(database, "SELECT status, count(*) FROM episodes GROUP BY status") == [("COMPLETED", total)]
    assert query(database, "SELECT worker, last_seq, steps_recorded FROM producers ORDER BY worker") == [
        (worker, load.episodes, load.episodes * STEPS) for worker, load in enumerate(loads)
    ]
    assert query(database, "PRAGMA integrity_check") == [("ok",)]
    assert sum(counts.resends for counts in sent) >= 1


def test_control_calls_outlive_a_killed_recorder(recorder: RemoteRecorder, keys: list[ProducerKey]) -> None:
    kill_recorder(recorder)
    assert recorder.hello(keys[0], pid=1, host="here").epoch == 1
    recorder.close_trial(keys[0].trial_id, TrialStatus.FINISHED)


def test_a_stopped_recorder_stops_its_producers_and_loses_nothing(
    recorder: RemoteRecorder, keys: list[ProducerKey], database: Path, episode: Callable[..., Any]
) -> None:
    producer = Producer(lambda: connect_recorder(NAME), keys[0], timeout_s=30.0)
    impatient = Producer(lambda: connect_recorder(NAME), keys[1], timeout_s=0.5)
    pid = recorder.stats().pid
    os.kill(pid, signal.SIGSTOP)
    try:
        impatient.send(episode(impatient.next_episode_no(), STEPS))
        with pytest.raises(RecorderUnavailable, match=r"within 0\.5 s"):
            impatient.send(episode(impatient.next_episode_no(), STEPS))
        assert impatient.counts.rows_acknowledged == 0
        producer.send(episode(producer.next_episode_no(), STEPS))
    finally:
        os.kill(pid, signal.SIGCONT)
    producer.flush()
    impatient.flush()
    assert query(database, "SELECT count(*) FROM steps") == [(2 * STEPS,)]
    assert query(database, "SELECT worker, steps_recorded, steps_dropped FROM producers") == [
        (0, STEPS, 0),
        (1, STEPS, STEPS),
    ]


def test_the_actor_answers_with_our_own_exceptions(recorder: RemoteRecorder) -> None:
    with pytest.raises(NotFound, match="trial_id 99") as caught:
        recorder.close_trial(99, TrialStatus.FAILED, "lost")
    assert type(caught.value) is NotFound


def test_a_database_in_use_is_refused_by_name_and_leaves_no_actor(database: Path) -> None:
    with Writer(database), pytest.raises(StoreLocked, match=f"in use by process {os.getpid()}"):
        create_recorder(str(database), name="second", lock_timeout_s=0.2)
    with pytest.raises(RecorderUnavailable, match="'second' must be running"):
        connect_recorder("second")


def test_the_start_barrier_counts_slots_from_any_process(recorder: RemoteRecorder) -> None:
    @ray.remote(num_cpus=0)
    def announce(slot: int) -> int:
        return connect_recorder(NAME).register_worker(f"slot {slot % 2}")

    assert max(ray.get([announce.remote(slot) for slot in range(4)])) == 2
    assert recorder.workers_ready() == 2


def test_stats_say_what_was_committed(
    recorder: RemoteRecorder, keys: list[ProducerKey], episode: Callable[..., Any]
) -> None:
    producer = Producer(lambda: connect_recorder(NAME), keys[0], timeout_s=30.0)
    producer.send(episode(producer.next_episode_no(), STEPS))
    stats = recorder.drain(30.0)
    producer.flush()
    assert stats.rows == producer.counts.rows_acknowledged
    assert stats.rows_per_s > 0
    assert stats.lag_s > 0
    assert stats.last_commit_at_us is not None
    assert stats.pid != os.getpid()


def test_closing_gives_the_lock_back_and_ends_the_actor(database: Path) -> None:
    made = create_recorder(str(database), name="short")
    made.close(30.0)
    Writer(database).close()
    with pytest.raises(RecorderUnavailable):
        connect_recorder("short")


def test_the_recorder_lives_on_when_its_creator_forgets_it(database: Path) -> None:
    create_recorder(str(database), name="forgotten")
    found = connect_recorder("forgotten")
    assert found.workers_ready() == 0
    found.close(30.0)


def test_outcomes_and_their_errors_can_be_pickled() -> None:
    outcome = pickle.loads(pickle.dumps(Outcome(None, StoreLocked("held by process 7"))))
    with pytest.raises(StoreLocked, match="held by process 7"):
        outcome.unwrap()
