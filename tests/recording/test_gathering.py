"""Small fragments travel together: nothing is lost, doubled or reordered, and nothing waits for ever."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tradesweep.errors import RecorderUnavailable
from tradesweep.names import ProducerKey, Record
from tradesweep.recording import Producer, gathering
from tradesweep.recording.wire import decode_batch

Scripted = Callable[..., Any]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(gathering.time, "monotonic", lambda: now[0])
    return now


def producer_of(recorder: Any, key: ProducerKey, timeout_s: float = 5.0) -> Producer:
    return Producer(lambda: recorder, key, timeout_s=timeout_s)


def step_ids(recorder: Any) -> list[int]:
    return [row[0] for batch in recorder.batches for row in decode_batch(batch).get(Record.STEPS, ())]


def ids_of(records: Any) -> list[int]:
    return [int(value) for value in records[Record.STEPS]["step_id"]]


def test_small_fragments_travel_in_one_batch_and_in_their_order(
    scripted: Scripted, key: ProducerKey, episode: Callable[..., Any], clock: list[float]
) -> None:
    recorder = scripted()
    producer = producer_of(recorder, key)
    parts = [episode(number, 3) for number in range(1, 6)]
    for part in parts:
        producer.gather(part, dropped=1)
    assert recorder.batches == []
    assert producer.counts.steps_unsent == 5 * (3 + 1)
    producer.flush()
    assert [batch.dropped for batch in recorder.batches] == [5]
    assert step_ids(recorder) == [number for part in parts for number in ids_of(part)]
    assert producer.counts.steps_unsent == 0


def test_what_waited_half_a_second_is_sent_with_the_next(
    scripted: Scripted, key: ProducerKey, episode: Callable[..., Any], clock: list[float]
) -> None:
    recorder = scripted()
    producer = producer_of(recorder, key)
    producer.gather(episode(1, 3))
    clock[0] += gathering.GATHER_S / 2
    producer.gather(episode(2, 3))
    assert recorder.batches == []
    clock[0] += gathering.GATHER_S / 2
    producer.gather(episode(3, 3))
    assert len(recorder.batches) == 1
    assert len(step_ids(recorder)) == 9


def test_a_batch_is_sent_when_another_part_like_these_would_not_fit(
    scripted: Scripted,
    key: ProducerKey,
    episode: Callable[..., Any],
    clock: list[float],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recorder = scripted()
    producer = producer_of(recorder, key)
    parts = [episode(number, 3) for number in (1, 2, 3, 4)]
    rows = sum(gathering.count_rows(parts[0], kind) for kind in parts[0])
    monkeypatch.setattr(gathering, "MAX_BATCH_ROWS", 4 * rows - 1)
    for part in parts:
        producer.gather(part)
    assert len(recorder.batches) == 1
    assert step_ids(recorder) == [step for part in parts[:3] for step in ids_of(part)]


def test_a_part_that_fills_a_batch_is_sent_at_once(
    scripted: Scripted, key: ProducerKey, episode: Callable[..., Any], clock: list[float]
) -> None:
    recorder = scripted()
    producer_of(recorder, key).gather(episode(1, gathering.MAX_BATCH_ROWS))
    assert len(step_ids(recorder)) == gathering.MAX_BATCH_ROWS


def test_what_is_sent_directly_goes_behind_what_waits(
    scripted: Scripted, key: ProducerKey, episode: Callable[..., Any], clock: list[float]
) -> None:
    recorder = scripted()
    producer = producer_of(recorder, key)
    first, second = episode(1, 3), episode(2, 3)
    producer.gather(first)
    producer.send(second)
    assert step_ids(recorder) == ids_of(first) + ids_of(second)


def test_fragments_without_rows_of_a_kind_do_not_change_its_type(
    scripted: Scripted, key: ProducerKey, episode: Callable[..., Any], clock: list[float]
) -> None:
    recorder = scripted()
    producer = producer_of(recorder, key)
    empty = {
        kind: {name: np.zeros(0) for name in columns} if kind != Record.STEPS else columns
        for kind, columns in episode(1, 2).items()
    }
    producer.gather(empty)
    producer.gather(episode(2, 2))
    producer.flush()
    assert len(step_ids(recorder)) == 4


def test_what_waits_when_rows_were_lost_is_counted_as_dropped(
    scripted: Scripted, key: ProducerKey, episode: Callable[..., Any], lost: RecorderUnavailable, clock: list[float]
) -> None:
    recorder = scripted(lost)
    producer = producer_of(recorder, key, timeout_s=0.0)
    producer.send(episode(1, 5))
    with pytest.raises(RecorderUnavailable):
        producer.send(episode(2, 7))
    producer.gather(episode(3, 11))
    producer.flush()
    assert sum(batch.dropped for batch in recorder.batches[-1:]) == 7 + 11
    assert producer.counts.steps_unsent == 0
