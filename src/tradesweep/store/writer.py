"""The one writer of a database. Every method is one transaction and may be called from any thread."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from sqlalchemy import insert, update
from sqlalchemy.engine import Connection

from tradesweep.errors import StoreError
from tradesweep.names import Answer, Grant, ProducerKey, SweepEnd, SweepStatus, TrialPhase, TrialStatus
from tradesweep.store import batches, lifecycle, pruning
from tradesweep.store.database import Address, find_database
from tradesweep.store.inputs import DecodedBatch, NewPromotion, NewSweep, NewTestReading, NewTrial
from tradesweep.store.models import Checkpoint, HoldoutReading, OutboxEntry, OutboxKind, Promotion, Sweep, Trial
from tradesweep.store.outbox import announce_trial


def now_us() -> int:
    """Wall clock, microseconds since 1970 UTC."""
    return time.time_ns() // 1000


class Writer:
    """Opens the database, creating it where there is none, and holds its lock until `close`.

    A database of several writers lets other Writers in, each for its own sweeps, but not with `alone`. What writes to
    a sweep makes this Writer the only one of that sweep.

    Raises StoreLocked, naming the holder, while another process holds the lock; SchemaMismatch for a foreign file
    or another schema; StoreError when the file or its folder cannot be used. Nothing is created then.
    """

    def __init__(self, address: Address, *, alone: bool = False, clock_us: Callable[[], int] = now_us) -> None:
        self.database = find_database(address)
        self._clock_us = clock_us
        self._mutex = threading.Lock()
        self.database.check_writable()
        if self.database.exists():
            self.database.check()
        self._lock = self.database.lock(alone=alone)
        try:
            self._open()
        except BaseException:
            self._lock.release()
            raise

    def _open(self) -> None:
        if not self.database.exists():
            self.database.create()
        self.database.check()
        self._engine = self.database.write_engine()
        with self.database.errors(), self._engine.begin():
            self._closed = False

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the database and give the lock back; a second call does nothing."""
        with self._mutex:
            self._closed = True
            self._engine.dispose()
            self._lock.release()

    @contextmanager
    def _transaction(self, sweep_id: str | None = None) -> Iterator[Connection]:
        """Write, as the only writer of that sweep when one is named."""
        with self._mutex:
            if self._closed:
                raise StoreError(f"{self.database}: this Writer was closed; open another one")
            with self.database.errors(), self._engine.begin() as db:
                if sweep_id is not None:
                    self.database.claim(db, sweep_id)
                yield db

    @contextmanager
    def _trial_transaction(self, trial_id: int) -> Iterator[Connection]:
        """Write, as the only writer of the trial's sweep."""
        with self._transaction() as db:
            self.database.claim(db, lifecycle.get_sweep_of(db, trial_id))
            yield db

    def claim(self, sweep_id: str) -> None:
        """Become the only writer of a sweep. Raises StoreLocked, naming the holder, while another process is."""
        with self._transaction(sweep_id):
            pass

    # --- producers --------------------------------------------------------------------------------------------

    def hello(self, key: ProducerKey, *, pid: int, host: str) -> Grant:
        """Begin an incarnation of a producer. The one before is fenced and its open episodes are closed."""
        with self._transaction(key.sweep_id) as db:
            return batches.grant_producer(db, key, pid=pid, host=host, at=self._clock_us())

    def apply(self, batch: DecodedBatch) -> Answer:
        """Write a batch once; the answer is given after the commit.

        OK: written. DUP: it was written before. GAP: the one before it never came. FENCED: the producer has a newer
        incarnation, or its trial has ended. Raises StoreError when the database refuses the rows; nothing of the
        batch is written then.
        """
        with self._transaction(batch.producer.sweep_id) as db:
            return batches.apply_batch(db, batch, at=self._clock_us())

    # --- sweeps and trials ------------------------------------------------------------------------------------

    def open_sweep(self, sweep: NewSweep) -> None:
        """Create the sweep, or go on with it; trials that a lost driver left running are interrupted.

        Raises StoreError when the sweep exists with another identity.
        """
        with self._transaction(sweep.sweep_id) as db:
            lifecycle.open_sweep(db, sweep, at=self._clock_us())

    def close_sweep(
        self,
        sweep_id: str,
        status: SweepStatus,
        reason: SweepEnd | None = None,
        best_trial_id: int | None = None,
    ) -> None:
        """Say how the sweep ended, and what ended it early; trials that still run are interrupted.

        `best_trial_id` won; without it that is the trial of the highest validation Sharpe ratio.
        """
        with self._transaction(sweep_id) as db:
            lifecycle.close_sweep(db, sweep_id, SweepStatus(status), reason, best_trial_id, at=self._clock_us())

    def open_trial(
        self,
        sweep_id: str,
        trial_no: int,
        params_json: str,
        seed: int,
        point_hash: str,
        point_json: str | None = None,
        *,
        point_no: int | None = None,
        seed_no: int = 0,
        phase: TrialPhase = TrialPhase.SEARCH,
    ) -> int:
        """Create a trial and give its trial_id. `params_json` is all hyperparameters, `point_json` the sampled ones.

        Without `point_json` all of them count as sampled; without `point_no` the trial is the only one of its point.
        """
        trial = NewTrial(
            trial_no=trial_no,
            params_json=params_json,
            seed=seed,
            point_hash=point_hash,
            point_json=point_json or params_json,
            point_no=trial_no if point_no is None else point_no,
            seed_no=seed_no,
            phase=phase,
        )
        with self._transaction(sweep_id) as db:
            return lifecycle.open_trial(db, sweep_id, trial, at=self._clock_us())

    def start_attempt(self, trial_id: int, pid: int, resumed_from_iteration: int | None = None) -> int:
        """Begin the trial's next attempt and give its number. What ran past the checkpoint is superseded.

        Raises StoreError when the trial has ended well, or has no checkpoint of that iteration.
        """
        with self._trial_transaction(trial_id) as db:
            return lifecycle.start_attempt(db, trial_id, pid, resumed_from_iteration, at=self._clock_us())

    def close_trial(self, trial_id: int, status: TrialStatus, error: str | None = None) -> None:
        """End the trial with its attempt, producers and episodes; open trades are marked at the last price."""
        with self._trial_transaction(trial_id) as db:
            lifecycle.close_trial(db, trial_id, TrialStatus(status), error, at=self._clock_us())

    def mark_checkpoint_deleted(self, trial_id: int, iteration: int) -> None:
        """Retention removed the files of a checkpoint."""
        table = Checkpoint.table()
        where = (table.c.trial_id == trial_id) & (table.c.iteration == iteration) & table.c.deleted_at.is_(None)
        with self._trial_transaction(trial_id) as db:
            db.execute(update(table).where(where).values(deleted_at=self._clock_us()))

    def prune_producer(self, producer_no: int) -> int:
        """Delete the steps and fills of a producer of training whose sweep has ended; how many steps that were.

        Raises StoreError while the sweep runs.
        """
        with self._transaction() as db:
            return pruning.prune_producer(db, producer_no)

    # --- MLflow -----------------------------------------------------------------------------------------------

    def mark_outbox(self, ids: Sequence[int]) -> None:
        """These outbox rows have been delivered."""
        table = OutboxEntry.table()
        where = table.c.id.in_(ids) & table.c.delivered_at.is_(None)
        with self._transaction() as db:
            db.execute(update(table).where(where).values(delivered_at=self._clock_us()))

    def set_sweep_mlflow_run(self, sweep_id: str, run_id: str) -> None:
        """Note the sweep's run."""
        table = Sweep.table()
        with self._transaction() as db:
            db.execute(update(table).where(table.c.sweep_id == sweep_id).values(mlflow_run_id=run_id))

    def set_trial_mlflow_run(self, trial_id: int, run_id: str) -> None:
        """Note the trial's run."""
        table = Trial.table()
        with self._transaction() as db:
            db.execute(update(table).where(table.c.trial_id == trial_id).values(mlflow_run_id=run_id))

    # --- promotion --------------------------------------------------------------------------------------------

    def record_promotion(self, promotion: NewPromotion) -> int:
        """Write down that an alias was moved, or that the gate refused; the row's number."""
        values = asdict(promotion)
        details = values.pop("details")
        with self._transaction() as db:
            at = self._clock_us()
            row = values | {"at": at, "details_json": json.dumps(details)}
            number = _insert(db, Promotion, row)
            payload = values | {"promotion_id": number, "details": details}
            announce_trial(db, OutboxKind.PROMOTION, promotion.trial_id, payload, at=at)
            return number

    def record_test_reading(self, reading: NewTestReading) -> int:
        """Write down that a test split was read; the row's number."""
        with self._transaction() as db:
            return _insert(db, HoldoutReading, asdict(reading) | {"at": self._clock_us()})


def _insert(db: Connection, model: type[Promotion | HoldoutReading], values: dict[str, Any]) -> int:
    key = db.execute(insert(model.table()).values(values)).inserted_primary_key
    assert key is not None
    return int(key[0])
