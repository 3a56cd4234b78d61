from __future__ import annotations

import logging
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from tradesweep.errors import (
    Fenced,
    RecorderUnavailable,
    RecordingError,
    SchemaMismatch,
    StoreError,
    StoreLocked,
    StoreUnavailable,
)
from tradesweep.names import PRODUCER_EPISODE_BITS, Answer, ProducerKey, Record
from tradesweep.recording import MAX_BATCH_ROWS, Producer, decode_batch

Scripted = Callable[..., Any]


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "tradesweep.recording.producer.time", SimpleNamespace(monotonic=time.monotonic, sleep=lambda seconds: None)
    )


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
    producer.send(episode(1, 5), dropped=4)
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


@pytest.mark.parametrize("trouble", [StoreLocked("held by process 7"), StoreUnavailable("disk full"), Answer.GAP])
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
    producer = producer_of(scripted(StoreUnavailable("disk is full")), key, timeout_s=0.0)
    producer.send(episode(1, 5))
    with pytest.raises(RecorderUnavailable, match=r"within 0 s .*db_timeout_s.*disk is full"):
        producer.flush()


def test_what_the_database_said_outlives_the_silence_after_it(
    scripted: Scripted, key: ProducerKey, episode: Callable[..., Any], lost: RecorderUnavailable
) -> None:
    recorder = scripted(StoreUnavailable("disk is full"), then=lost)
    producer = producer_of(recorder, key, timeout_s=0.05)
    producer.send(episode(1, 5))
    with pytest.raises(RecorderUnavailable, match="disk is full"):
        producer.flush()
    assert len(recorder.batches) > 1


def test_a_failed_send_keeps_what_is_in_flight_and_reports_the_rest_as_dropped(
    scripted: Scripted, key: ProducerKey, episode: Callable[..., Any], lost: RecorderUnavailable
) -> None:
    recorder = scripted(lost, lost)
    producer = producer_of(recorder, key, timeout_s=0.0)
    producer.send(episode(1, 5))
    with pytest.raises(RecorderUnavailable):
        producer.send(episode(2, 7), dropped=2)
    assert (producer.counts.steps_unsent, producer.counts.steps_dropped) == (5 + 7 + 2, 0)
    with pytest.raises(RecorderUnavailable):
        producer.flush()
    producer.flush()
    assert [(batch.seq, batch.dropped) for batch in recorder.batches] == [(1, 0), (1, 0), (1, 0), (2, 9)]
    assert producer.counts.rows_acknowledged == producer.counts.rows_sent
    assert (producer.counts.steps_unsent, producer.counts.steps_dropped) == (0, 9)


def test_a_send_that_fails_in_the_middle_counts_the_steps_of_each_batch_once(
    scripted: Scripted, key: ProducerKey, episode: Callable[..., Any], lost: RecorderUnavailable
) -> None:
    recorder = scripted(Answer.OK, lost)
    producer = producer_of(recorder, key, timeout_s=0.0)
    with pytest.raises(RecorderUnavailable):
        producer.send(episode(1, 20_000))
    assert len(recorder.batches) == 2
    assert producer.counts.steps_unsent == 20_000 - steps_in(recorder.batches[:1])
    producer.flush()
    assert [batch.dropped for batch in recorder.batches] == [0, 0, 0, 20_000 - steps_in(recorder.batches[:2])]
    assert (producer.counts.steps_unsent, producer.counts.steps_dropped) == (0, recorder.batches[-1].dropped)


def steps_in(batches: list[Any]) -> int:
    return sum(len(decode_batch(batch).get(Record.STEPS, [])) for batch in batches)


def test_after_a_loss_nothing_more_is_sent(
    scripted: Scripted, key: ProducerKey, episode: Callable[..., Any], lost: RecorderUnavailable
) -> None:
    recorder = scripted(lost)
    producer = producer_of(recorder, key, timeout_s=0.0)
    producer.send(episode(1, 5))
    with pytest.raises(RecorderUnavailable):
        producer.send(episode(2, 7))
    for _ in range(2):
        with pytest.raises(RecordingError, match=r"an earlier `send` failed .* begin another incarnation"):
            producer.send(episode(3, 9))
        producer.flush()
    assert [(batch.seq, batch.dropped) for batch in recorder.batches] == [(1, 0), (1, 0), (2, 7 + 9), (3, 9)]
    assert producer.counts.steps_unsent == 0


def test_what_the_database_refuses_is_reported_as_dropped_at_once(
    scripted: Scripted, key: ProducerKey, episode: Callable[..., Any]
) -> None:
    recorder = scripted(Answer.OK, StoreError("CHECK constraint failed: episodes"))
    producer = producer_of(recorder, key)
    producer.send(episode(1, 5))
    producer.send(episode(2, 7))
    with pytest.raises(StoreError, match="CHECK constraint failed: episodes"):
        producer.send(episode(3, 9))
    assert [(batch.seq, batch.dropped) for batch in recorder.batches] == [(1, 0), (2, 0), (2, 7 + 9)]
    assert (producer.counts.steps_unsent, producer.counts.steps_dropped) == (0, 7 + 9)
    with pytest.raises(RecordingError, match="an earlier `send` failed"):
        producer.send(episode(4, 5))


def test_a_database_that_refuses_even_the_report_is_asked_once(
    scripted: Scripted, key: ProducerKey, episode: Callable[..., Any]
) -> None:
    recorder = scripted(*[StoreError("never said hello")] * 3)
    producer = producer_of(recorder, key)
    producer.send(episode(1, 5))
    with pytest.raises(StoreError, match="never said hello"):
        producer.flush()
    assert len(recorder.batches) == 2
    assert producer.counts.steps_unsent == 5


def test_the_log_says_once_that_sampling_waits_and_once_that_it_goes_on(
    scripted: Scripted,
    key: ProducerKey,
    episode: Callable[..., Any],
    lost: RecorderUnavailable,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, logger="tradesweep.recording")
    producer = producer_of(scripted(Answer.OK, StoreUnavailable("the disk is full"), lost, lost), key, timeout_s=60)
    for number in range(3):
        producer.send(episode(number, 5))
    producer.flush()
    assert [(record.name, record.levelname) for record in caplog.records] == [
        ("tradesweep.recording", "WARNING"),
        ("tradesweep.recording", "INFO"),
    ]
    said, done = caplog.messages
    assert said == "the database does not take batch 2 yet: the disk is full; sampling waits, for up to 60 s"
    assert done.startswith("the database took batch 2 after ")


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


@pytest.mark.parametrize("error", [StoreError("trial 1 has no attempt 1"), SchemaMismatch("a newer schema")])
def test_a_refused_hello_is_not_repeated(scripted: Scripted, key: ProducerKey, error: StoreError) -> None:
    asked: list[str] = []

    class Refusing(scripted):
        def control(self, method: str, *args: Any, **kwargs: Any) -> Any:
            asked.append(method)
            raise error

    with pytest.raises(type(error), match=str(error)):
        producer_of(Refusing(), key, timeout_s=0.5)
    assert asked == ["hello"]


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
