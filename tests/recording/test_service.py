"""The recorder in this process, over a real database."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tradesweep.errors import Fenced, NotFound, RecorderUnavailable, RecordingError, StoreError, StoreLocked
from tradesweep.names import Answer, Grant, ProducerKey, ProducerRole, TrialStatus
from tradesweep.recording import LocalRecorder, Producer, build_batch, cut_into_batches
from tradesweep.recording.service import open_writer_patiently
from tradesweep.store import NewSweep, Writer


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "tradesweep.db"


@pytest.fixture
def recorder(database: Path, new_sweep: NewSweep) -> Iterator[LocalRecorder]:
    made = LocalRecorder(Writer(database))
    made.open_sweep(new_sweep)
    yield made
    made.close()


@pytest.fixture
def trial_key(recorder: LocalRecorder, new_sweep: NewSweep) -> ProducerKey:
    trial_id = recorder.open_trial(new_sweep.sweep_id, 0, {"lr": 1e-4, "gamma": 0.99}, {"lr": 1e-4}, 7, "hash")
    attempt = recorder.start_attempt(trial_id, 1)
    return ProducerKey(new_sweep.sweep_id, trial_id, attempt, ProducerRole.RUNNER, 0)


def query(database: Path, sql: str) -> list[tuple[Any, ...]]:
    with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as connection:
        return connection.execute(sql).fetchall()


def test_what_is_sent_is_what_the_database_holds(
    recorder: LocalRecorder, trial_key: ProducerKey, database: Path, episode: Callable[..., Any]
) -> None:
    producer = Producer(lambda: recorder, trial_key, timeout_s=5.0)
    number = producer.next_episode_no()
    producer.send(episode(number, 10), dropped=4)
    producer.flush()
    assert query(database, "SELECT count(*), min(step_id), max(step_id) FROM steps") == [
        (10, number << 24, (number << 24) + 9)
    ]
    assert query(database, "SELECT count(*) FROM fills") == [(10,)]
    assert query(database, "SELECT count(*) FROM trades") == [(5,)]
    assert query(database, "SELECT status, total_steps FROM episodes") == [("COMPLETED", 10)]
    assert query(database, "SELECT last_seq, steps_recorded, steps_dropped FROM producers") == [(1, 10, 4)]
    assert recorder.stats().rows == producer.counts.rows_acknowledged == 27


def test_a_batch_that_comes_twice_is_written_once(
    recorder: LocalRecorder, trial_key: ProducerKey, database: Path, episode: Callable[..., Any]
) -> None:
    grant = recorder.hello(trial_key, pid=1, host="here")
    [frames] = cut_into_batches(episode(grant.producer_no << 20, 10))
    batch = build_batch(trial_key, grant.epoch, 1, frames)
    assert [recorder.write(batch).result(1.0) for _ in range(3)] == [Answer.OK, Answer.DUP, Answer.DUP]
    assert query(database, "SELECT count(*) FROM steps") == [(10,)]
    assert (recorder.stats().batches, recorder.stats().duplicates) == (1, 2)


def test_an_older_incarnation_is_fenced(
    recorder: LocalRecorder, trial_key: ProducerKey, episode: Callable[..., Any]
) -> None:
    old = Producer(lambda: recorder, trial_key, timeout_s=5.0)
    new = Producer(lambda: recorder, trial_key, timeout_s=5.0)
    assert new.grant == Grant(epoch=old.grant.epoch + 1, producer_no=old.grant.producer_no + 1)
    old.send(episode(old.next_episode_no(), 3))
    with pytest.raises(Fenced, match="a newer incarnation of it exists"):
        old.flush()
    new.send(episode(new.next_episode_no(), 3))
    new.flush()


def test_a_producer_of_a_closed_trial_is_fenced(
    recorder: LocalRecorder, trial_key: ProducerKey, episode: Callable[..., Any]
) -> None:
    producer = Producer(lambda: recorder, trial_key, timeout_s=5.0)
    recorder.close_trial(trial_key.trial_id, TrialStatus.PRUNED)
    producer.send(episode(producer.next_episode_no(), 3))
    with pytest.raises(Fenced, match="its trial was closed"):
        producer.flush()


def test_a_damaged_batch_is_refused_and_leaves_nothing(
    recorder: LocalRecorder, trial_key: ProducerKey, database: Path, episode: Callable[..., Any]
) -> None:
    grant = recorder.hello(trial_key, pid=1, host="here")
    [frames] = cut_into_batches(episode(grant.producer_no << 20, 10))
    batch = build_batch(trial_key, grant.epoch, 1, frames)
    object.__setattr__(batch, "checksum", batch.checksum ^ 1)
    with pytest.raises(RecordingError, match="checksum"):
        recorder.write(batch).result(1.0)
    assert query(database, "SELECT count(*) FROM steps") == [(0,)]


def test_a_trial_keeps_all_its_params_and_those_that_were_sampled(
    recorder: LocalRecorder, trial_key: ProducerKey, database: Path
) -> None:
    [(params, point)] = query(database, "SELECT params_json, point_json FROM trials")
    assert (json.loads(params), json.loads(point)) == ({"lr": 1e-4, "gamma": 0.99}, {"lr": 1e-4})


def test_mlflow_runs_are_noted_where_they_belong(
    recorder: LocalRecorder, trial_key: ProducerKey, database: Path
) -> None:
    recorder.note_mlflow_run(trial_key.sweep_id, None, "parent")
    recorder.note_mlflow_run(trial_key.sweep_id, trial_key.trial_id, "child")
    assert query(database, "SELECT s.mlflow_run_id, t.mlflow_run_id FROM sweeps s, trials t") == [("parent", "child")]


def test_workers_are_counted_by_slot(recorder: LocalRecorder) -> None:
    assert [recorder.register_worker(token) for token in ("a", "b", "a")] == [1, 2, 2]
    assert recorder.workers_ready() == 2


def test_the_error_of_the_writer_reaches_the_caller(recorder: LocalRecorder) -> None:
    with pytest.raises(NotFound, match="trial_id 99"):
        recorder.close_trial(99, TrialStatus.FAILED, "lost")


def test_only_what_a_recorder_offers_can_be_asked_of_it(recorder: LocalRecorder) -> None:
    with pytest.raises(RecordingError, match="was asked for 'apply'"):
        recorder.control("apply")


def test_a_closed_recorder_answers_no_more_and_holds_no_lock(recorder: LocalRecorder, database: Path) -> None:
    recorder.close()
    recorder.close()
    with pytest.raises(RecorderUnavailable, match="closed"):
        recorder.mark_outbox([1])
    Writer(database).close()


def test_the_lock_of_a_process_that_just_died_is_waited_for(database: Path) -> None:
    holders: list[Writer] = [Writer(database)]

    def open_writer() -> Writer:
        try:
            return Writer(database)
        except StoreLocked:
            if holders:
                holders.pop().close()
            raise

    open_writer_patiently(open_writer, lock_timeout_s=5.0).close()
    assert holders == []


def test_the_lock_of_a_process_that_lives_is_not_waited_for_without_end(database: Path) -> None:
    with Writer(database), pytest.raises(StoreLocked, match="in use by process"):
        open_writer_patiently(lambda: Writer(database), lock_timeout_s=0.1)


def test_a_database_that_cannot_be_opened_is_an_error_at_once(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="does not exist"):
        open_writer_patiently(lambda: Writer(tmp_path / "nowhere" / "x.db"), lock_timeout_s=60.0)
