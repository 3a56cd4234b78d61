"""What MLflow should hear, written in the transaction of what it tells of.

Payloads are complete: whoever reads them needs no table. Times are those of the events, so that telling twice
gives MLflow the same metric twice, which it keeps once.
"""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import insert, select
from sqlalchemy.engine import Connection

from tradesweep.names import RECORD_COLUMNS, Record, SweepStatus, TrialStatus
from tradesweep.store.inputs import NewSweep
from tradesweep.store.models import Checkpoint, OutboxEntry, OutboxKind, Sweep, Trial
from tradesweep.store.statements import Rows


def announce(
    db: Connection, kind: OutboxKind, payload: dict[str, Any], *, sweep_id: str, trial_id: int | None, at: int
) -> None:
    """Write one outbox row."""
    values = {"kind": kind.value, "sweep_id": sweep_id, "trial_id": trial_id, "at": at, "payload": json.dumps(payload)}
    db.execute(insert(OutboxEntry.table()).values(values))


def announce_sweep_opened(db: Connection, sweep: NewSweep, *, at: int) -> None:
    """Everything a parent run shows: spec, data, code, libraries, what to compare with."""
    payload = {
        "sweep_id": sweep.sweep_id,
        "experiment": sweep.experiment,
        "seed": sweep.seed,
        "spec_json": sweep.spec_json,
        "resources": json.loads(sweep.resources_json),
        "versions": json.loads(sweep.versions_json),
        "tags": {
            "identity": sweep.identity,
            "data_sha256": sweep.data_sha256,
            "git_revision": sweep.git_revision,
            "instrument": sweep.instrument,
        },
        "dataset": {
            "instrument": sweep.instrument,
            "data_sha256": sweep.data_sha256,
            "validation_bars": sweep.validation_bars,
            "periods_per_year": sweep.periods_per_year,
        },
        "buy_hold_sharpe": sweep.buy_hold_sharpe,
    }
    announce(db, OutboxKind.SWEEP_OPENED, payload, sweep_id=sweep.sweep_id, trial_id=None, at=at)


def announce_sweep_closed(
    db: Connection, sweep_id: str, status: SweepStatus, best_trial_id: int | None, *, at: int
) -> None:
    """How the sweep ended, and its best trial: the one that was chosen, else the one of the highest Sharpe ratio."""
    sweep, trial = Sweep.table(), Trial.table()
    experiment = db.execute(select(sweep.c.experiment).where(sweep.c.sweep_id == sweep_id)).scalar_one()
    chosen = [] if best_trial_id is None else [trial.c.trial_id == best_trial_id]
    best = db.execute(
        select(trial.c.trial_id, trial.c.trial_no, trial.c.best_iteration, trial.c.best_sharpe)
        .where(trial.c.sweep_id == sweep_id, trial.c.best_sharpe.is_not(None), *chosen)
        .order_by(trial.c.best_sharpe.desc(), trial.c.trial_no)
        .limit(1)
    ).first()
    payload = {
        "sweep_id": sweep_id,
        "experiment": experiment,
        "status": status.value,
        "best": dict(best._mapping) if best else None,
    }
    announce(db, OutboxKind.SWEEP_CLOSED, payload, sweep_id=sweep_id, trial_id=None, at=at)


def trial_identity(db: Connection, trial_id: int) -> dict[str, Any]:
    """The keys with which every payload about a trial begins."""
    sweep, trial = Sweep.table(), Trial.table()
    row = db.execute(
        select(trial.c.sweep_id, sweep.c.experiment, trial.c.trial_id, trial.c.trial_no)
        .join_from(trial, sweep)
        .where(trial.c.trial_id == trial_id)
    ).one()
    return dict(row._mapping)


def announce_trial(db: Connection, kind: OutboxKind, trial_id: int, payload: dict[str, Any], *, at: int) -> None:
    """Write one outbox row about a trial; its identity is put in front of the payload."""
    identity = trial_identity(db, trial_id)
    announce(db, kind, identity | payload, sweep_id=identity["sweep_id"], trial_id=trial_id, at=at)


def announce_trial_opened(db: Connection, trial_id: int) -> None:
    """Hyperparameters, sampled and fixed, and the seed."""
    trial = Trial.table()
    row = db.execute(select(trial).where(trial.c.trial_id == trial_id)).one()
    payload = {
        "params": json.loads(row.params_json),
        "sampled": json.loads(row.point_json),
        "seed": row.seed,
        "point_hash": row.point_hash,
        "point_no": row.point_no,
        "seed_no": row.seed_no,
        "phase": row.phase,
    }
    announce_trial(db, OutboxKind.TRIAL_OPENED, trial_id, payload, at=row.created_at)


def announce_trial_closed(db: Connection, trial_id: int, status: TrialStatus, *, at: int) -> None:
    """How the trial ended, its last metrics, and where its best checkpoint lies."""
    trial = Trial.table()
    row = db.execute(select(trial).where(trial.c.trial_id == trial_id)).one()
    payload = {
        "status": status.value,
        "error": row.error,
        "env_steps": row.env_steps,
        "iterations": row.iterations,
        "metrics": json.loads(row.final_metrics or "{}"),
        "best": _describe_best(db, row),
    }
    announce_trial(db, OutboxKind.TRIAL_CLOSED, trial_id, payload, at=at)


def _describe_best(db: Connection, trial: Any) -> dict[str, Any] | None:
    checkpoint = Checkpoint.table()
    row = db.execute(
        select(checkpoint.c.path, checkpoint.c.manifest_sha256, checkpoint.c.env_steps).where(
            checkpoint.c.trial_id == trial.trial_id,
            checkpoint.c.attempt == trial.best_attempt,
            checkpoint.c.iteration == trial.best_iteration,
        )
    ).first()
    if row is None:
        return None
    return {"iteration": trial.best_iteration, "sharpe": trial.best_sharpe, **row._mapping}


def announce_iterations(db: Connection, trial_id: int, attempt: int, rows: Rows) -> None:
    """One row per iteration, with all its metrics."""
    for values in _as_dicts(Record.ITERATIONS, rows):
        metrics = json.loads(values.pop("metrics"))
        payload = {"attempt": attempt, **values, "metrics": metrics}
        announce_trial(db, OutboxKind.ITERATION, trial_id, payload, at=values["at"])


def announce_checkpoints(db: Connection, trial_id: int, attempt: int, rows: Rows) -> None:
    """One row per checkpoint; `is_best` says whether it is the trial's best so far."""
    trial = Trial.table()
    best = db.execute(select(trial.c.best_iteration).where(trial.c.trial_id == trial_id)).scalar_one()
    for values in _as_dicts(Record.CHECKPOINTS, rows):
        del values["lanes"]
        payload = {"attempt": attempt, **values, "is_best": values["iteration"] == best}
        announce_trial(db, OutboxKind.CHECKPOINT, trial_id, payload, at=values["at"])


def _as_dicts(kind: Record, rows: Rows) -> list[dict[str, Any]]:
    names = [column.name for column in RECORD_COLUMNS[kind]]
    return [dict(zip(names, row, strict=True)) for row in rows]
