"""What a producer could not hand over is counted: recorded + dropped = sampled, and no rule of `verify` breaks."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.faults.invariants import check_invariants
from tests.faults.load import sample

from tradesweep.errors import RecorderUnavailable, RecordingError, StoreError
from tradesweep.names import Batch, ProducerKey, ProducerRole, Record, SweepStatus, TrialStatus
from tradesweep.recording import LocalRecorder, Producer, RecorderClient, RecorderStats
from tradesweep.store import NewSweep, Writer


class NoReply:
    def result(self, timeout_s: float) -> Any:
        raise RecorderUnavailable("the recorder gave no answer")


class Unreliable(RecorderClient):
    """A recorder that can be away: it takes nothing, or takes batches whose answers are lost."""

    def __init__(self, recorder: LocalRecorder) -> None:
        self.recorder = recorder
        self.away = self.silent = False

    def write(self, batch: Batch) -> Any:
        if not self.away:
            reply = self.recorder.write(batch)
        return NoReply() if self.away or self.silent else reply

    def control(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return self.recorder.control(method, *args, **kwargs)

    def drain(self, timeout_s: float) -> RecorderStats:
        return self.recorder.drain()

    def close(self, timeout_s: float) -> None:
        self.recorder.close()


@dataclass(frozen=True)
class Bench:
    """One producer of real episodes, over a database that can be away."""

    recorder: Unreliable
    producer: Producer
    fragments: Iterator[Any]
    database: Path
    trial_id: int

    def finish(self) -> tuple[int, int, int]:
        """End the sweep and check everything; rows of steps, and the steps recorded and dropped by the accounts."""
        self.recorder.close_trial(self.trial_id, TrialStatus.CRASHED, "the database was away")
        self.recorder.close_sweep(self.producer.key.sweep_id, SweepStatus.FINISHED)
        self.recorder.close(0.0)
        check_invariants(self.database)
        with closing(sqlite3.connect(self.database)) as db:
            return (
                *db.execute("SELECT count(*) FROM steps").fetchone(),
                *db.execute("SELECT steps_recorded, steps_dropped FROM producers").fetchone(),
            )


@pytest.fixture
def bench(tmp_path: Path, new_sweep: NewSweep) -> Bench:
    recorder = Unreliable(LocalRecorder(Writer(tmp_path / "tradesweep.db")))
    recorder.open_sweep(new_sweep)
    trial_id = recorder.open_trial(new_sweep.sweep_id, 0, {}, {}, 7, "hash")
    attempt = recorder.start_attempt(trial_id, 1)
    key = ProducerKey(new_sweep.sweep_id, trial_id, attempt, ProducerRole.RUNNER, 0)
    producer = Producer(lambda: recorder, key, timeout_s=0.0)
    return Bench(recorder, producer, sample(producer.next_episode_no, 5), tmp_path / "tradesweep.db", trial_id)


def count(records: Any) -> int:
    return len(records[Record.STEPS]["step_id"])


@pytest.mark.parametrize("trouble", ["away", "silent"])
def test_what_was_sampled_while_the_database_was_away_is_dropped_and_known(bench: Bench, trouble: str) -> None:
    sampled = [next(bench.fragments) for _ in range(6)]
    for records in sampled[:3]:
        bench.producer.send(records)
    bench.producer.flush()
    setattr(bench.recorder, trouble, True)
    bench.producer.send(sampled[3])
    with pytest.raises(RecorderUnavailable):
        bench.producer.send(sampled[4])
    with pytest.raises(RecordingError, match="begin another incarnation"):
        bench.producer.send(sampled[5])
    assert bench.producer.counts.steps_unsent == sum(map(count, sampled[3:]))
    setattr(bench.recorder, trouble, False)
    bench.producer.flush()
    assert bench.producer.counts.steps_unsent == 0
    recorded, dropped = sum(map(count, sampled[:4])), sum(map(count, sampled[4:]))
    assert bench.finish() == (recorded, recorded, dropped)


def test_what_the_database_refused_is_dropped_and_known(bench: Bench) -> None:
    sampled = [next(bench.fragments) for _ in range(4)]
    sampled[2][Record.FILLS]["operation"] = ["BOUGHT"] * len(sampled[2][Record.FILLS]["operation"])
    for records in sampled[:3]:
        bench.producer.send(records)
    with pytest.raises(StoreError, match="CHECK constraint failed"):
        bench.producer.send(sampled[3])
    recorded, dropped = sum(map(count, sampled[:2])), sum(map(count, sampled[2:]))
    assert (bench.producer.counts.steps_unsent, bench.producer.counts.steps_dropped) == (0, dropped)
    assert bench.finish() == (recorded, recorded, dropped)


def test_a_producer_that_is_given_up_leaves_no_rule_broken(bench: Bench) -> None:
    sampled = [next(bench.fragments) for _ in range(4)]
    bench.producer.send(sampled[0])
    bench.producer.send(sampled[1])
    bench.recorder.away = True
    bench.producer.send(sampled[2])
    with pytest.raises(RecorderUnavailable):
        bench.producer.send(sampled[3])
    recorded = sum(map(count, sampled[:2]))
    assert bench.finish() == (recorded, recorded, 0)
