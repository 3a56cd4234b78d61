"""Applying a batch: rows and watermark in one transaction, each batch once.

A producer's batches are numbered without gaps. The watermark (`producers.last_seq`) is written with the rows, so
whatever is killed when, a batch that was sent twice is recognised, and one that was lost is missed.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from sqlalchemy import and_, bindparam, func, insert, select, update
from sqlalchemy.engine import Connection, Row

from tradesweep.errors import StoreError
from tradesweep.names import (
    PRODUCER_EPISODE_BITS,
    Answer,
    EpisodeEnd,
    EpisodeStatus,
    Grant,
    ProducerKey,
    Record,
)
from tradesweep.store.closing import close_open_episodes
from tradesweep.store.inputs import DecodedBatch
from tradesweep.store.models import Attempt, Episode, Producer, ProducerEnd
from tradesweep.store.outbox import announce_checkpoints, announce_iterations
from tradesweep.store.statements import Rows, write_rows
from tradesweep.store.summary import refresh_trial

MAX_PRODUCER_NO = 2**19 - 1
"""A step id has 63 bits: 24 for t, 20 for the episode, 19 for the producer."""

_SUMMARISED = (Record.ITERATIONS, Record.EVALUATIONS)

# Each batch runs these: to build them anew would cost as much as some hundred rows.
_PRODUCERS = Producer.table()
_IS_OF = and_(
    *(_PRODUCERS.c[name] == bindparam(name) for name in ("sweep_id", "trial_id", "attempt", "role", "worker"))
)
_FIND = select(_PRODUCERS).where(_IS_OF).order_by(_PRODUCERS.c.epoch.desc()).limit(1)
_FIND_TO_WRITE = _FIND.with_for_update()
_COUNT_STEPS = select(func.coalesce(func.sum(_PRODUCERS.c.steps_recorded + _PRODUCERS.c.steps_dropped), 0)).where(
    _IS_OF
)
_MOVE_WATERMARK = (
    update(_PRODUCERS)
    .where(_PRODUCERS.c.producer_no == bindparam("of_producer"))
    .values(
        last_seq=bindparam("seq"),
        batches=_PRODUCERS.c.batches + 1,
        steps_recorded=_PRODUCERS.c.steps_recorded + bindparam("recorded"),
        steps_dropped=_PRODUCERS.c.steps_dropped + bindparam("dropped"),
        last_batch_at=bindparam("at"),
    )
)


def grant_producer(db: Connection, key: ProducerKey, *, pid: int, host: str, at: int) -> Grant:
    """Begin an incarnation of a producer; the one before is fenced and its open episodes are closed.

    One that comes when its attempt is over is fenced from the beginning: what it sends would count for nothing.
    """
    is_over = _check_attempt(db, key).ended_at is not None
    previous = _find_producer(db, key)
    if previous is not None and previous.ended_at is None:
        end_producers(db, Producer.table().c.producer_no == previous.producer_no, ProducerEnd.FENCED, at=at)
        open_there = Episode.table().c.producer_no == previous.producer_no
        close_open_episodes(db, open_there, EpisodeStatus.ABANDONED, EpisodeEnd.PRODUCER_LOST, at=at)
    epoch = previous.epoch + 1 if previous is not None else 1
    number = _insert_producer(db, key, epoch, pid=pid, host=host, at=at)
    if is_over:
        end_producers(db, Producer.table().c.producer_no == number, ProducerEnd.FENCED, at=at)
    return Grant(epoch=epoch, steps_before=_count_steps(db, key), producer_no=number)


def end_producers(db: Connection, which: Any, reason: ProducerEnd, *, at: int) -> None:
    """Say that these incarnations send no more; what still comes from them is fenced."""
    table = Producer.table()
    db.execute(update(table).where(which, table.c.ended_at.is_(None)).values(ended_at=at, end_reason=reason.value))


def apply_batch(db: Connection, batch: DecodedBatch, *, at: int) -> Answer:
    """Write the rows and the watermark, or say why not; a refused batch leaves nothing behind."""
    producer = _find_producer(db, batch.producer, to_write=True)
    if producer is None:
        raise StoreError(f"batch {batch.seq} is from {batch.producer}, which never said hello; say hello first")
    answer = _judge(producer, batch)
    if answer == Answer.OK:
        _move_watermark(db, producer, batch, at=at)
        _write_rows(db, producer, batch)
        _tell(db, producer, batch)
    return answer


def _judge(producer: Row[Any], batch: DecodedBatch) -> Answer:
    if batch.epoch != producer.epoch:
        return Answer.FENCED
    if batch.seq <= producer.last_seq:
        return Answer.DUP
    if producer.ended_at is not None:
        return Answer.FENCED
    return Answer.OK if batch.seq == producer.last_seq + 1 else Answer.GAP


def _move_watermark(db: Connection, producer: Row[Any], batch: DecodedBatch, *, at: int) -> None:
    values = {
        "of_producer": producer.producer_no,
        "seq": batch.seq,
        "recorded": len(batch.rows.get(Record.STEPS, ())),
        "dropped": batch.dropped,
        "at": at,
    }
    db.execute(_MOVE_WATERMARK, values)


def _write_rows(db: Connection, producer: Row[Any], batch: DecodedBatch) -> None:
    """Parents before children: the order of the enum."""
    for kind in Record:
        rows = batch.rows.get(kind)
        if not rows:
            continue
        if kind == Record.EPISODES_OPENED:
            _check_numbers(producer, rows)
        extra = _EXTRA[kind](db, producer) if kind in _EXTRA else ()
        touched = write_rows(db, kind, [row + extra for row in rows] if extra else rows)
        if kind == Record.EPISODES_CLOSED and touched != len(rows):
            raise StoreError(
                f"producer {producer.producer_no} must close episodes that are open, closed {len(rows)} of which"
                f" {touched} were; an opening was lost before it was sent"
            )


def _check_numbers(producer: Row[Any], openings: Rows) -> None:
    foreign = [row[0] for row in openings if row[0] >> PRODUCER_EPISODE_BITS != producer.producer_no]
    if foreign:
        raise StoreError(
            f"producer {producer.producer_no} must number its episodes {producer.producer_no} <<"
            f" {PRODUCER_EPISODE_BITS} | k, opened {foreign[0]}; the producer and the store are different versions"
        )


def _attempt_of(db: Connection, producer: Row[Any]) -> tuple[int, ...]:  # noqa: ARG001 - one signature for all
    return (producer.trial_id, producer.attempt)


def _attempt_and_producer_of(db: Connection, producer: Row[Any]) -> tuple[int, ...]:
    return (*_attempt_of(db, producer), producer.producer_no)


def _recording_state(db: Connection, producer: Row[Any]) -> tuple[int, ...]:
    """Where recording stands when a checkpoint is published: the newest producer, and the steps dropped so far."""
    table = Producer.table()
    attempt = (table.c.trial_id == producer.trial_id) & (table.c.attempt == producer.attempt)
    newest = db.execute(select(func.max(table.c.producer_no), func.sum(table.c.steps_dropped)).where(attempt)).one()
    return (*_attempt_of(db, producer), *map(int, newest))  # PostgreSQL's sums are decimals


_EXTRA = {
    Record.EPISODES_OPENED: _attempt_and_producer_of,
    Record.ITERATIONS: _attempt_of,
    Record.EVALUATIONS: _attempt_of,
    Record.CHECKPOINTS: _recording_state,
}
"""Values of `statements.EXTRA_COLUMNS`."""


def _tell(db: Connection, producer: Row[Any], batch: DecodedBatch) -> None:
    """Bring the trial's summary up to date and announce what MLflow should hear."""
    if any(batch.rows.get(kind) for kind in _SUMMARISED):
        refresh_trial(db, producer.trial_id)
    announce_iterations(db, producer.trial_id, producer.attempt, batch.rows.get(Record.ITERATIONS, []))
    announce_checkpoints(db, producer.trial_id, producer.attempt, batch.rows.get(Record.CHECKPOINTS, []))


def _check_attempt(db: Connection, key: ProducerKey) -> Row[Any]:
    table = Attempt.table()
    known = db.execute(
        select(table.c.ended_at).where(table.c.trial_id == key.trial_id, table.c.attempt == key.attempt)
    ).first()
    if known is None:
        raise StoreError(f"trial {key.trial_id} has no attempt {key.attempt}; call start_attempt before hello")
    return known


def _find_producer(db: Connection, key: ProducerKey, *, to_write: bool = False) -> Row[Any] | None:
    """The newest incarnation of this producer. `to_write`: nobody else moves its watermark until we have.

    A transaction whose connection was lost may still be committing on a server: its row lock is waited for.
    """
    return db.execute(_FIND_TO_WRITE if to_write else _FIND, _values_of(key)).first()


def _count_steps(db: Connection, key: ProducerKey) -> int:
    """Steps of all incarnations so far, recorded or reported as dropped."""
    return int(db.execute(_COUNT_STEPS, _values_of(key)).scalar_one())


def _values_of(key: ProducerKey) -> dict[str, Any]:
    return {**asdict(key), "role": str(key.role)}


def _insert_producer(db: Connection, key: ProducerKey, epoch: int, *, pid: int, host: str, at: int) -> int:
    values = {
        "sweep_id": key.sweep_id,
        "trial_id": key.trial_id,
        "attempt": key.attempt,
        "role": str(key.role),
        "worker": key.worker,
        "epoch": epoch,
        "pid": pid,
        "host": host,
        "started_at": at,
        **dict.fromkeys(("last_seq", "batches", "steps_recorded", "steps_dropped"), 0),
    }
    number = db.execute(insert(Producer.table()).values(values)).inserted_primary_key
    assert number is not None
    if number[0] > MAX_PRODUCER_NO:
        raise StoreError(f"this database had {MAX_PRODUCER_NO} producers, which is all it can number; begin a new one")
    return int(number[0])
