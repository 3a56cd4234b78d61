"""The k-th call to the database fails, for k = 1, 2, 3 ... until a run passes clean: nothing is lost, nothing doubled.

The method is SQLite's own: instead of guessing where a failure hurts, fail everywhere once.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.exc import OperationalError

from tradesweep.names import ProducerKey, ProducerRole, TrialStatus
from tradesweep.recording import LocalRecorder, Producer
from tradesweep.store import NewSweep, Writer

EPISODES, STEPS = 3, 40


class KthCall:
    """Raises at the k-th call of one kind, once."""

    def __init__(self, k: int) -> None:
        self.k, self.calls = k, 0

    @property
    def was_hit(self) -> bool:
        return self.calls >= self.k

    def __call__(self, *arguments: Any) -> None:
        self.calls += 1
        if self.calls == self.k:
            raise OperationalError("a planted failure", {}, sqlite3.OperationalError("disk I/O error"))


def fail_statements(writer: Writer, kth: KthCall) -> None:
    event.listen(writer._engine, "before_cursor_execute", lambda *arguments: kth())


def fail_before_commit(writer: Writer, kth: KthCall) -> None:
    event.listen(writer._engine, "commit", lambda connection: kth())


def fail_after_commit(writer: Writer, kth: KthCall) -> None:
    """The rows are in and the answer is lost: only the watermark knows."""
    commit = writer._engine.dialect.do_commit

    def commit_and_fail(connection: Any) -> None:
        commit(connection)
        kth()

    writer._engine.dialect.do_commit = commit_and_fail  # type: ignore[method-assign]


MODES = {"statement": fail_statements, "before_commit": fail_before_commit, "after_commit": fail_after_commit}


def query(database: Path, sql: str) -> list[tuple[Any, ...]]:
    connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True)
    try:
        return connection.execute(sql).fetchall()
    finally:
        connection.close()


@pytest.mark.parametrize("mode", sorted(MODES))
def test_the_kth_failure_loses_and_doubles_nothing(
    tmp_path: Path, new_sweep: NewSweep, episode: Callable[..., Any], mode: str
) -> None:
    k = 0
    hit = True
    while hit:
        k += 1
        database = tmp_path / f"{k}.db"
        writer = Writer(database)
        recorder = LocalRecorder(writer)
        recorder.open_sweep(new_sweep)
        trial_id = recorder.open_trial(new_sweep.sweep_id, 0, {"lr": 1e-4}, {"lr": 1e-4}, 7, "hash")
        attempt = recorder.start_attempt(trial_id, 1)
        key = ProducerKey(new_sweep.sweep_id, trial_id, attempt, ProducerRole.RUNNER, 0)
        producer = Producer(lambda recorder=recorder: recorder, key, timeout_s=10.0)
        kth = KthCall(k)
        MODES[mode](writer, kth)
        for _ in range(EPISODES):
            producer.send(episode(producer.next_episode_no(), STEPS))
        producer.flush()
        hit = kth.was_hit
        assert k < 200, "the sequence has an end"
        kth.k = -1
        recorder.close_trial(trial_id, TrialStatus.FINISHED)
        recorder.close()
        check(database)
    assert k > EPISODES, "each batch had its turn"


def check(database: Path) -> None:
    """Each row once, the watermark at the last batch, no episode open, the file sound."""
    assert query(database, "select count(*), count(distinct step_id) from steps") == [(EPISODES * STEPS,) * 2]
    assert query(database, "select count(*) from fills") == [(EPISODES * STEPS,)]
    assert query(database, "select count(*) from trades") == [(EPISODES * STEPS // 2,)]
    assert query(database, "select status, count(*) from episodes group by 1") == [("COMPLETED", EPISODES)]
    assert query(database, "select last_seq, batches, steps_recorded from producers") == [
        (EPISODES, EPISODES, EPISODES * STEPS)
    ]
    assert query(database, "pragma integrity_check") == [("ok",)]
