from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tradesweep.errors import Fenced, RecorderUnavailable, RecordingError, SchemaMismatch, StoreError
from tradesweep.names import PRODUCER_EPISODE_BITS, Answer, ProducerKey, Record
from tradesweep.recording import MAX_BATCH_ROWS, Producer, decode_batch

Scripted = Callable[..., Any]


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tradesweep.recording.producer.time.sleep", lambda seconds: None)


def producer_of(recorder: Any, key: ProducerKey, timeout_s: float = 30.0) -> Producer:
    return Producer(lambda: recorder, key, timeout_s=timeout_s)


def test_episode_numbers_carry_the_number_of_the_producer(scripted: Scripted, key: ProducerKey) -> None:
    producer = producer_of(scripted(), key)
    assert [producer.next_episode_no() for _ in range(3)] == [(5 << PRODUCER_EPISODE_BITS) + k for k in range(3)]


def test_a_producer_never_borrows_the_numbers_of_the_next_one(
    scripted: Scripted, key: ProducerKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tradesweep.recording.producer.PRODUCER_EPISODE_BITS", 1)
    producer = producer_of(scripted(), key)
    assert [producer.next_episode_no(), producer.next_episode_no()] == [10, 11]
    with pytest.raises(RecordingError, match="at most 2 episodes"):
        producer.next_episode_no()


def test_batches_are_numbered_from_one_without_a_gap(
    scripted: Scripted, key: ProducerKey, episode: Callable[..., Any]
) -> None:
    recorder = scripted()
    producer = producer_of(recorder, key)
    for number in range(4):
        producer.send(episode(number, 5))
    assert [batch.seq for batch in recorder.batches] == [1, 2, 3, 4]
    assert {(batch.producer, batch.epoch) for batch in recorder.batches} == {(key, 1)}


def test_at_most_one_batch_is_in_flight(scripted: Scripted, key: ProducerKey, episode: Callable[..., Any]) -> None:
    producer = producer_of(scripted(), key)
    producer.send(episode(1, 5))
    one = producer.counts.rows_sent
    assert producer.counts.rows_acknowledged == 0
    producer.send(episode(2, 5))
    assert producer.counts.rows_acknowledged == one
    producer.flush()
    assert producer.counts.rows_acknowledged == producer.counts.rows_sent == 2 * one


def test_a_lost_answer_sends_the_same_bytes_again(
    scripted: Scripted, key: ProducerKey, episode: Callable[..., Any], lost: RecorderUnavailable
) -> None:
    recorder = scripted(lost, lost, Answer.DUP)
    producer = producer_of(recorder, key)
    producer.send(episode(1, 5))
    producer.flush()
    assert len(recorder.batches) == 3
    assert all(batch == recorder.batches[0] for batch in recorder.batches)
    assert producer.counts.rows_acknowledged == producer.counts.rows_sent
    assert producer.counts.resends == 2


def test_after_a_lost_answer_the_recorder_is_looked_up_again(
    scripted: Scripted, key: ProducerKey, episode: Callable[..., Any], lost: RecorderUnavailable
) -> None:
    recorders = [scripted(lost), scripted()]
    producer = Producer(lambda: recorders[0] if len(recorders[0].batches) == 0 else recorders[1], key, timeout_s=30)
    producer.send(episode(1, 5))
    producer.flush()
    assert recorders[0].batches == recorders[1].batches


@pytest.mark.parametrize("trouble", [StoreError("database is locked"), StoreError("disk full"), Answer.GAP])
def test_a_trouble_that_passes_is_waited_out(
    scripted: Scripted, key: ProducerKey, episode: Callable[..., Any], trouble: Any
) -> None:
    recorder = scripted(trouble, trouble, Answer.OK)
    producer = producer_of(recorder, key)
    producer.send(episode(1, 5))
    producer.flush()
    assert [batch.seq for batch in recorder.batches] == [1, 1, 1]


def test_a_database_that_stays_away_fails_with_its_own_words(
    scripted: Scripted, key: ProducerKey, episode: Callable[..., Any]
) -> None:
    producer = producer_of(scripted(StoreError("disk is full")), key, timeout_s=0.0)
    producer.send(episode(1, 5))
    with pytest.raises(RecorderUnavailable, match=r"within 0 s .*db_timeout_s.*disk is full"):
        producer.flush()


def test_what_was_not_acknowledged_stays_in_flight_and_comes_first_later(
    scripted: Scripted, key: ProducerKey, episode: Callable[..., Any], lost: RecorderUnavailable
) -> None:
    recorder = scripted(lost)
    producer = producer_of(recorder, key, timeout_s=0.0)
    producer.send(episode(1, 5))
    with pytest.raises(RecorderUnavailable):
        producer.send(episode(2, 5))
    producer.send(episode(3, 5))
    producer.flush()
    assert [batch.seq for batch in recorder.batches] == [1, 1, 2]
    assert producer.counts.rows_acknowledged == producer.counts.rows_sent


def test_a_recorder_that_cannot_be_found_is_waited_for(
    scripted: Scripted, key: ProducerKey, lost: RecorderUnavailable
) -> None:
    tries: list[int] = []

    def connect() -> Any:
        tries.append(1)
        if len(tries) < 3:
            raise lost
        return scripted()

    assert Producer(connect, key, timeout_s=30).grant.producer_no == 5
    with pytest.raises(RecorderUnavailable, match="hello"):
        Producer(lambda: (_ for _ in ()).throw(lost), key, timeout_s=0.0)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (Answer.FENCED, Fenced),
        (SchemaMismatch("database of a newer schema"), SchemaMismatch),
        (RecordingError("checksum"), RecordingError),
    ],
)
def test_what_waiting_cannot_mend_stops_the_producer_at_once(
    scripted: Scripted, key: ProducerKey, episode: Callable[..., Any], answer: Any, error: type[Exception]
) -> None:
    recorder = scripted(answer)
    producer = producer_of(recorder, key)
    producer.send(episode(1, 5))
    with pytest.raises(error):
        producer.flush()
    assert len(recorder.batches) == 1
    assert producer.counts.rows_acknowledged == 0


def test_a_database_that_forgot_acknowledged_batches_is_an_error(
    scripted: Scripted, key: ProducerKey, episode: Callable[..., Any]
) -> None:
    producer = producer_of(scripted(*[Answer.GAP] * 10), key)
    producer.send(episode(1, 5))
    with pytest.raises(RecordingError, match="acknowledged ones are missing"):
        producer.flush()


def test_dropped_steps_travel_once_even_without_rows(scripted: Scripted, key: ProducerKey) -> None:
    recorder = scripted()
    producer = producer_of(recorder, key)
    producer.send({}, dropped=12)
    producer.send({})
    producer.flush()
    assert [(batch.seq, batch.dropped, batch.frames) for batch in recorder.batches] == [(1, 12, ())]
    assert producer.counts.steps_dropped == 12


def test_a_long_fragment_is_cut_and_loses_nothing(
    scripted: Scripted, key: ProducerKey, episode: Callable[..., Any]
) -> None:
    recorder = scripted()
    producer = producer_of(recorder, key)
    records = episode(1, 20_000)
    producer.send(records, dropped=3)
    producer.flush()
    assert [batch.dropped for batch in recorder.batches] == [3, 0, 0, 0][: len(recorder.batches)]
    assert all(sum(frame.rows for frame in batch.frames) <= MAX_BATCH_ROWS for batch in recorder.batches)
    steps = [row[0] for batch in recorder.batches for row in decode_batch(batch).get(Record.STEPS, [])]
    assert steps == records[Record.STEPS]["step_id"].tolist()


def test_records_that_cannot_be_encoded_send_nothing(
    scripted: Scripted, key: ProducerKey, episode: Callable[..., Any]
) -> None:
    recorder = scripted()
    producer = producer_of(recorder, key)
    records = episode(1, 5)
    records[Record.STEPS]["reward"] = [0.0, 0.0, float("nan"), 0.0, 0.0]
    with pytest.raises(RecordingError, match="column reward"):
        producer.send(records)
    producer.send(episode(1, 5))
    assert [batch.seq for batch in recorder.batches] == [1]
