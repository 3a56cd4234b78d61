"""Deleting the bulk of ended sweeps: the steps and fills of training.

Episode totals, trades, evaluations with their steps, checkpoints and the ledger of curves stay. A producer is pruned
whole, in one transaction that also notes how many steps are gone, so every rule of `verify` holds after each of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import delete, func, select, update
from sqlalchemy.engine import Connection

from tradesweep.errors import StoreError
from tradesweep.names import EPISODE_STEP_BITS, PRODUCER_EPISODE_BITS, ProducerRole, SweepStatus
from tradesweep.store.models import Fill, Producer, Step, Sweep

STEP_BYTES = 91
FILL_BYTES = 69
"""Measured on SQLite, over 1.2 million steps: what a row takes in the file."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Prunable:
    """What can be deleted of a sweep."""

    sweep_id: str
    producers: tuple[int, ...]
    """Those that still have steps of training."""
    steps: int
    fills: int

    @property
    def bytes(self) -> int:
        """About the room that these rows take."""
        return self.steps * STEP_BYTES + self.fills * FILL_BYTES


def find_prunable(db: Connection, sweep_id: str) -> Prunable:
    """What is left of the sweep's training rows."""
    table = Producer.table()
    left = table.c.steps_recorded - table.c.steps_pruned
    found = db.execute(
        select(table.c.producer_no, left)
        .where(table.c.sweep_id == sweep_id, table.c.role == ProducerRole.RUNNER.value, left > 0)
        .order_by(table.c.producer_no)
    ).all()
    producers = tuple(int(number) for number, _ in found)
    steps = sum(int(count) for _, count in found)
    return Prunable(sweep_id=sweep_id, producers=producers, steps=steps, fills=_count_fills(db, producers))


def _count_fills(db: Connection, producers: Sequence[int]) -> int:
    table = Fill.table()
    counting = select(func.count()).select_from(table)
    return sum(
        int(db.execute(counting.where(table.c.step_id.between(*step_ids(producer_no)))).scalar_one())
        for producer_no in producers
    )


def prune_producer(db: Connection, producer_no: int) -> int:
    """Delete a producer's steps and fills, and note it; how many steps that were."""
    _check_ended(db, producer_no)
    ids, producer = step_ids(producer_no), Producer.table()
    db.execute(delete(Fill.table()).where(Fill.table().c.step_id.between(*ids)))
    steps = db.execute(delete(Step.table()).where(Step.table().c.step_id.between(*ids))).rowcount
    db.execute(
        update(producer)
        .where(producer.c.producer_no == producer_no)
        .values(steps_pruned=producer.c.steps_pruned + steps)
    )
    return steps


def _check_ended(db: Connection, producer_no: int) -> None:
    producer, sweep = Producer.table(), Sweep.table()
    owner = db.execute(
        select(producer.c.role, sweep.c.sweep_id, sweep.c.status)
        .join(sweep, sweep.c.sweep_id == producer.c.sweep_id)
        .where(producer.c.producer_no == producer_no)
    ).one()
    assert owner.role == ProducerRole.RUNNER, "evaluations keep their steps"
    if owner.status == SweepStatus.RUNNING:
        raise StoreError(f"sweep {owner.sweep_id} must have ended to be pruned, is RUNNING; wait for it, or stop it")


def step_ids(producer_no: int) -> tuple[int, int]:
    """The first and the last step id that a producer can give."""
    first = producer_no << (PRODUCER_EPISODE_BITS + EPISODE_STEP_BITS)
    return first, first + (1 << (PRODUCER_EPISODE_BITS + EPISODE_STEP_BITS)) - 1
