"""The read side: what other rooms ask of a database. Each call sees one consistent state of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from enum import StrEnum
from functools import cache
from typing import Any, TypeVar, get_type_hints

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Engine, Select, Subquery, func, select
from sqlalchemy.engine import Connection, Row

from tradesweep.errors import NotFound
from tradesweep.names import PRODUCER_EPISODE_BITS, EpisodeRole, EpisodeStatus, TrialStatus
from tradesweep.store.closing import step_range
from tradesweep.store.database import Address, Database, find_database
from tradesweep.store.models import (
    Attempt,
    Base,
    Checkpoint,
    Episode,
    Evaluation,
    EvaluationCurve,
    HoldoutReading,
    Iteration,
    OutboxEntry,
    OutboxKind,
    Producer,
    Promotion,
    Step,
    Sweep,
    Trade,
    Trial,
)
from tradesweep.store.rows import (
    AttemptRow,
    CheckpointRow,
    CurveRow,
    EpisodeRow,
    EvaluationRow,
    IterationRow,
    OutboxRow,
    PromotionRow,
    ReadingRow,
    SweepCounts,
    SweepRow,
    TrialRow,
)

RowType = TypeVar("RowType", bound=object)


def open_store(address: Address, *, create: bool = False) -> Store:
    """Open a database for reading; `create` makes an empty one where there is none.

    Raises StoreError when there is none or it cannot be read, SchemaMismatch for a foreign file or another schema.
    """
    database = find_database(address)
    if create and not database.exists():
        database.create()
    database.check()
    return Store(database)


class Store:
    """Reads a database, also while its Writer writes. It holds nothing open and may be used from any thread."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.engine: Engine = database.read_engine()

    @contextmanager
    def connect(self) -> Iterator[Connection]:
        """A read transaction: everything read inside belongs to one state of the database."""
        with self.database.errors(), self.engine.begin() as db:
            yield db

    @contextmanager
    def scratch(self) -> Iterator[Connection]:
        """A read transaction that may make temporary tables; nothing of it stays."""
        with self.database.errors(), self.engine.connect() as db:
            yield db.execution_options(postgresql_readonly=False)

    # --- sweeps -----------------------------------------------------------------------------------------------

    def list_sweeps(self, experiment: str | None = None) -> list[SweepRow]:
        """Sweeps, newest first; of one experiment, or all.

        By the number under which each was announced when it was opened first: a clock may be set back between two.
        """
        table, opened = Sweep.table(), _numbers_of_opening()
        query = _select(SweepRow, Sweep).outerjoin(opened, opened.c.sweep_id == table.c.sweep_id)
        query = query.order_by(func.coalesce(opened.c.number, 0).desc(), table.c.sweep_id.desc())
        return self._rows(SweepRow, query if experiment is None else query.where(table.c.experiment == experiment))

    def find_sweep(self, name: str) -> SweepRow | None:
        """The sweep of that id, or the newest one of the experiment of that name."""
        by_id = self._rows(SweepRow, _select(SweepRow, Sweep).where(Sweep.table().c.sweep_id == name))
        return next(iter(by_id or self.list_sweeps(name)), None)

    def get_sweep(self, name: str) -> SweepRow:
        """As `find_sweep`. Raises NotFound, naming the sweeps there are."""
        found = self.find_sweep(name)
        if found is None:
            known = ", ".join(sweep.sweep_id for sweep in self.list_sweeps()[:10]) or "none"
            raise NotFound(f"{self.database}: there is no sweep or experiment {name!r}; there are: {known}")
        return found

    def counts(self, sweep_id: str) -> SweepCounts:
        """How many rows the sweep has."""
        with self.connect() as db:
            return _count_sweep(db, sweep_id)

    # --- trials -----------------------------------------------------------------------------------------------

    def list_trials(self, sweep_id: str) -> list[TrialRow]:
        """Trials by number."""
        table = Trial.table()
        query = _select(TrialRow, Trial).where(table.c.sweep_id == sweep_id).order_by(table.c.trial_no)
        return self._rows(TrialRow, query)

    def closings_after(self, last_id: int, sweep_id: str) -> list[tuple[int, int]]:
        """(number, trial id) of each closing of a trial of the sweep behind `last_id`, in their order.

        A trial that went on was closed more than once. Numbers go up, whatever the clock does.
        """
        table = OutboxEntry.table()
        wanted = (table.c.kind == OutboxKind.TRIAL_CLOSED.value, table.c.sweep_id == sweep_id, table.c.id > last_id)
        with self.connect() as db:
            found = db.execute(select(table.c.id, table.c.trial_id).where(*wanted).order_by(table.c.id))
            return [(row.id, row.trial_id) for row in found]

    def find_trial(self, trial_id: int) -> TrialRow | None:
        """The trial of that id."""
        found = self._rows(TrialRow, _select(TrialRow, Trial).where(Trial.table().c.trial_id == trial_id))
        return next(iter(found), None)

    def get_trial(self, trial_id: int) -> TrialRow:
        """As `find_trial`. Raises NotFound."""
        found = self.find_trial(trial_id)
        if found is None:
            raise NotFound(f"{self.database}: there is no trial {trial_id}; `tradesweep status` lists them")
        return found

    def list_attempts(self, trial_id: int) -> list[AttemptRow]:
        """Attempts of a trial, first to last."""
        table = Attempt.table()
        query = _select(AttemptRow, Attempt).where(table.c.trial_id == trial_id).order_by(table.c.attempt)
        return self._rows(AttemptRow, query)

    def list_iterations(self, trial_id: int, *, superseded: bool = False) -> list[IterationRow]:
        """Iterations of a trial in order; with `superseded` also those that a later attempt trained anew."""
        return self._rows(IterationRow, _of_trial(IterationRow, Iteration, trial_id, superseded))

    def find_last_commit(self, sweep_id: str) -> int | None:
        """When a batch of the sweep was committed last; None when none was."""
        table = Producer.table()
        with self.connect() as db:
            return db.execute(select(func.max(table.c.last_batch_at)).where(table.c.sweep_id == sweep_id)).scalar()

    # --- evaluations and checkpoints --------------------------------------------------------------------------

    def list_evaluations(
        self, trial_id: int, *, split: str = EpisodeRole.VALIDATION, superseded: bool = False
    ) -> list[EvaluationRow]:
        """Evaluations of a trial on a split, in order."""
        query = _of_trial(EvaluationRow, Evaluation, trial_id, superseded)
        return self._rows(EvaluationRow, query.where(Evaluation.table().c.split == str(split)))

    def list_checkpoints(self, trial_id: int) -> list[CheckpointRow]:
        """Checkpoints of a trial that count and whose files were kept, in order."""
        query = _of_trial(CheckpointRow, Checkpoint, trial_id, False)
        return self._rows(CheckpointRow, query.where(Checkpoint.table().c.deleted_at.is_(None)))

    def find_best_checkpoint(self, trial_id: int) -> CheckpointRow | None:
        """The checkpoint of the trial's best validation Sharpe, also where its files are gone."""
        trial, checkpoint = Trial.table(), Checkpoint.table()
        query = _select(CheckpointRow, Checkpoint).join(
            trial,
            (trial.c.trial_id == checkpoint.c.trial_id)
            & (trial.c.best_attempt == checkpoint.c.attempt)
            & (trial.c.best_iteration == checkpoint.c.iteration),
        )
        found = self._rows(CheckpointRow, query.where(trial.c.trial_id == trial_id))
        return next(iter(found), None)

    def find_last_checkpoint(self, trial_id: int) -> CheckpointRow | None:
        """Where a resume goes on from; None when no checkpoint was kept."""
        return next(reversed(self.list_checkpoints(trial_id)), None)

    def list_curves(self, instrument: str, *, first_time: int, last_time: int) -> list[CurveRow]:
        """The ledger: every evaluation of the instrument whose bars overlap [first_time, last_time]."""
        table = EvaluationCurve.table()
        query = _select(CurveRow, EvaluationCurve).where(
            table.c.instrument == instrument, table.c.first_time <= last_time, table.c.last_time >= first_time
        )
        return self._rows(CurveRow, query.order_by(table.c.episode_no))

    # --- episodes ---------------------------------------------------------------------------------------------

    def list_episodes(self, trial_id: int, *, role: str | None = None) -> list[EpisodeRow]:
        """All episodes of a trial, also superseded ones, by number."""
        table = Episode.table()
        query = _select(EpisodeRow, Episode).where(table.c.trial_id == trial_id).order_by(table.c.episode_no)
        return self._rows(EpisodeRow, query if role is None else query.where(table.c.role == str(role)))

    def find_episode(self, episode_no: int) -> EpisodeRow | None:
        """The episode of that number."""
        query = _select(EpisodeRow, Episode).where(Episode.table().c.episode_no == episode_no)
        return next(iter(self._rows(EpisodeRow, query)), None)

    def equity_of_episode(self, episode_no: int) -> NDArray[np.float64]:
        """(T + 1,) equity of an episode, its start in front. Raises NotFound."""
        episode, step = Episode.table(), Step.table()
        with self.connect() as db:
            start = db.execute(select(episode.c.initial_equity).where(episode.c.episode_no == episode_no)).scalar()
            if start is None:
                raise NotFound(f"{self.database}: there is no episode {episode_no}")
            query = select(step.c.equity).where(step.c.step_id.between(*step_range(episode_no)))
            equity = db.execute(query.order_by(step.c.step_id)).scalars().all()
        return np.array([start, *equity], dtype=np.float64)

    # --- outbox, promotions, readings -------------------------------------------------------------------------

    def outbox_after(self, last_id: int, limit: int, *, sweep_id: str | None = None) -> list[OutboxRow]:
        """Up to `limit` rows behind `last_id` that were not delivered, in order; of one sweep, or all."""
        table = OutboxEntry.table()
        query = select(table).where(table.c.id > last_id, *_undelivered(sweep_id))
        with self.connect() as db:
            found = db.execute(query.order_by(table.c.id).limit(limit)).all()
        return [_to_outbox_row(row) for row in found]

    def count_outbox(self, sweep_id: str | None = None) -> int:
        """Rows that were not delivered; of one sweep, or all."""
        with self.connect() as db:
            return _count(db, OutboxEntry, *_undelivered(sweep_id))

    def list_undelivered(self) -> list[str]:
        """Sweeps with rows that were not delivered, in their order."""
        table = OutboxEntry.table()
        query = select(table.c.sweep_id).where(*_undelivered(None)).group_by(table.c.sweep_id)
        with self.connect() as db:
            return list(db.execute(query.order_by(func.min(table.c.id))).scalars())

    def list_promotions(self, *, model: str | None = None) -> list[PromotionRow]:
        """Promotions, newest first; of one registered model, or all."""
        table = Promotion.table()
        query = _select(PromotionRow, Promotion).order_by(table.c.promotion_id.desc())
        return self._rows(PromotionRow, query if model is None else query.where(table.c.model == model))

    def list_test_readings(self, instrument: str, *, first_time: int, last_time: int) -> list[ReadingRow]:
        """Every reading of test bars of the instrument that overlap [first_time, last_time], oldest first."""
        table = HoldoutReading.table()
        query = _select(ReadingRow, HoldoutReading).where(
            table.c.instrument == instrument, table.c.first_time <= last_time, table.c.last_time >= first_time
        )
        return self._rows(ReadingRow, query.order_by(table.c.reading_id))

    def _rows(self, row_type: type[RowType], query: Select[Any]) -> list[RowType]:
        with self.connect() as db:
            return [_to_row(row_type, row) for row in db.execute(query)]


# --- rows -----------------------------------------------------------------------------------------------------


def _select(row_type: type[Any], model: type[Base]) -> Select[Any]:
    return select(*(model.table().c[field.name] for field in fields(row_type)))


def _of_trial(
    row_type: type[Any], model: type[Iteration | Evaluation | Checkpoint], trial_id: int, superseded: bool
) -> Select[Any]:
    table = model.table()
    query = _select(row_type, model).where(table.c.trial_id == trial_id)
    if not superseded:
        query = query.where(table.c.superseded_by_attempt.is_(None))
    return query.order_by(table.c.attempt, table.c.iteration)


def _to_row(row_type: Callable[..., RowType], row: Row[Any]) -> RowType:
    values = dict(row._mapping)
    for name, enum in _enums(row_type).items():
        if values[name] is not None:
            values[name] = enum(values[name])
    return row_type(**values)


@cache
def _enums(row_type: Callable[..., Any]) -> dict[str, type[StrEnum]]:
    """Fields that hold a word of an enum."""
    found: dict[str, type[StrEnum]] = {}
    for name, hint in get_type_hints(row_type).items():
        for option in getattr(hint, "__args__", (hint,)):
            if isinstance(option, type) and issubclass(option, StrEnum):
                found[name] = option
    return found


def _numbers_of_opening() -> Subquery:
    """By sweep the first outbox row that announced it."""
    table = OutboxEntry.table()
    opened = table.c.kind == OutboxKind.SWEEP_OPENED.value
    numbers = select(table.c.sweep_id, func.min(table.c.id).label("number")).where(opened)
    return numbers.group_by(table.c.sweep_id).subquery()


def _undelivered(sweep_id: str | None) -> list[Any]:
    table = OutboxEntry.table()
    return [table.c.delivered_at.is_(None), *([] if sweep_id is None else [table.c.sweep_id == sweep_id])]


def _to_outbox_row(row: Row[Any]) -> OutboxRow:
    return OutboxRow(
        id=row.id,
        kind=row.kind,
        sweep_id=row.sweep_id,
        trial_id=row.trial_id,
        at=row.at,
        payload=json.loads(row.payload),
    )


# --- counts ---------------------------------------------------------------------------------------------------


def _count(db: Connection, model: type[Base], *where: Any) -> int:
    return int(db.execute(select(func.count()).select_from(model.table()).where(*where)).scalar_one())


def _count_sweep(db: Connection, sweep_id: str) -> SweepCounts:
    trial, producer, episode = Trial.table(), Producer.table(), Episode.table()
    mine = select(trial.c.trial_id).where(trial.c.sweep_id == sweep_id)
    by_status = db.execute(
        select(trial.c.status, func.count()).where(trial.c.sweep_id == sweep_id).group_by(trial.c.status)
    ).all()
    steps, dropped = db.execute(
        select(func.sum(producer.c.steps_recorded), func.sum(producer.c.steps_dropped)).where(
            producer.c.sweep_id == sweep_id
        )
    ).one()
    in_trials = episode.c.trial_id.in_(mine)
    iteration, attempt, evaluation = Iteration.table(), Attempt.table(), Evaluation.table()
    return SweepCounts(
        trials=sum(count for _, count in by_status),
        trials_by_status={TrialStatus(status): count for status, count in by_status},
        attempts=_count(db, Attempt, attempt.c.trial_id.in_(mine)),
        iterations=_count(db, Iteration, iteration.c.trial_id.in_(mine), iteration.c.superseded_by_attempt.is_(None)),
        episodes=_count(db, Episode, in_trials),
        open_episodes=_count(db, Episode, in_trials, episode.c.status == EpisodeStatus.OPEN.value),
        steps=int(steps or 0),  # PostgreSQL's sums are decimals
        steps_dropped=int(dropped or 0),
        trades=_count_trades(db, sweep_id),
        evaluations=_count(db, Evaluation, evaluation.c.trial_id.in_(mine)),
    )


def _count_trades(db: Connection, sweep_id: str) -> int:
    """By ranges of the key: each producer's episodes, and so their trades, lie side by side."""
    producer = Producer.table()
    numbers: Sequence[int] = (
        db.execute(select(producer.c.producer_no).where(producer.c.sweep_id == sweep_id)).scalars().all()
    )
    trade = Trade.table()
    total = 0
    for number in numbers:
        first = number << PRODUCER_EPISODE_BITS
        total += _count(db, Trade, trade.c.episode_no.between(first, first + (1 << PRODUCER_EPISODE_BITS) - 1))
    return total
