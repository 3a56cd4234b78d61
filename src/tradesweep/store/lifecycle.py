"""Opening and closing sweeps, trials and attempts. Each function runs inside the caller's transaction.

All of them may run twice with the same arguments: a driver whose recorder died does not know whether its last
call was executed, and asks again.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from sqlalchemy import func, insert, select, update
from sqlalchemy.engine import Connection, Row

from tradesweep.errors import NotFound, StoreError
from tradesweep.names import (
    GOOD_ENDS,
    TRIAL_ENDS,
    EpisodeEnd,
    EpisodeStatus,
    SweepEnd,
    SweepStatus,
    TrialStatus,
)
from tradesweep.store.batches import end_producers
from tradesweep.store.closing import close_open_episodes
from tradesweep.store.inputs import NewSweep, NewTrial
from tradesweep.store.models import Attempt, Episode, Producer, ProducerEnd, Sweep, Trial
from tradesweep.store.outbox import (
    announce_sweep_closed,
    announce_sweep_opened,
    announce_trial_closed,
    announce_trial_opened,
)
from tradesweep.store.rewind import rewind_trial

_DRIVER = ("driver_pid", "driver_host", "driver_started_at")
_RESUMABLE = ("spec_json", "git_revision", "versions_json", "resources_json", "notes", *_DRIVER)
"""What may differ when a sweep goes on; everything else is part of what it is."""


# --- sweeps ---------------------------------------------------------------------------------------------------


def open_sweep(db: Connection, sweep: NewSweep, *, at: int) -> None:
    """Create the sweep, or go on with it: what an earlier driver left open is closed as interrupted."""
    found = _find(db, Sweep, sweep_id=sweep.sweep_id)
    if found is None:
        values = asdict(sweep) | {"status": SweepStatus.RUNNING.value, "created_at": at}
        db.execute(insert(Sweep.table()).values(values))
    else:
        _check_identity(found, sweep)
        if _is_same_driver(found, sweep) and found.status == SweepStatus.RUNNING:
            return
        _resume_sweep(db, sweep, at=at)
    announce_sweep_opened(db, sweep, at=at)


def _check_identity(found: Row[Any], sweep: NewSweep) -> None:
    if found.identity != sweep.identity:
        raise StoreError(
            f"sweep {sweep.sweep_id} has identity {found.identity[:12]}, was opened with {sweep.identity[:12]};"
            " a changed spec is another sweep: run it with --fresh"
        )


def _is_same_driver(found: Row[Any], sweep: NewSweep) -> bool:
    return all(found._mapping[name] == getattr(sweep, name) for name in _DRIVER)


def _resume_sweep(db: Connection, sweep: NewSweep, *, at: int) -> None:
    _interrupt_trials(db, sweep.sweep_id, at=at)
    values = {name: getattr(sweep, name) for name in _RESUMABLE}
    values |= {"status": SweepStatus.RUNNING.value, "ended_at": None, "end_reason": None}
    if sweep.env_steps_per_trial is not None:
        values["env_steps_per_trial"] = sweep.env_steps_per_trial
        _reopen_trials(db, sweep.sweep_id, sweep.env_steps_per_trial)
    db.execute(update(Sweep.table()).where(Sweep.table().c.sweep_id == sweep.sweep_id).values(values))


def _interrupt_trials(db: Connection, sweep_id: str, *, at: int) -> None:
    """Their driver is gone, and with it their processes: what they left open was lost, not ended in order."""
    table = Trial.table()
    running = select(table.c.trial_id).where(
        table.c.sweep_id == sweep_id, table.c.status.in_([TrialStatus.PENDING, TrialStatus.RUNNING])
    )
    for trial_id in db.execute(running.order_by(table.c.trial_id)).scalars().all():
        close_trial(db, trial_id, TrialStatus.INTERRUPTED, None, at=at, lost=True)


def _reopen_trials(db: Connection, sweep_id: str, env_steps: int) -> None:
    """Trials that had spent their whole budget go on to the extended one; all other ends stay."""
    table = Trial.table()
    spent = (table.c.status == TrialStatus.FINISHED.value) & (table.c.env_steps < env_steps)
    db.execute(update(table).where(table.c.sweep_id == sweep_id, spent).values(status=TrialStatus.INTERRUPTED.value))


def close_sweep(
    db: Connection,
    sweep_id: str,
    status: SweepStatus,
    reason: SweepEnd | None,
    best_trial_id: int | None,
    *,
    at: int,
) -> None:
    """Say how the sweep ended, what ended it before it had all its trials, and who won. What runs is interrupted."""
    sweep = _get(db, Sweep, sweep_id=sweep_id)
    if sweep.status == status and sweep.ended_at is not None:
        return
    if status == SweepStatus.RUNNING:
        raise StoreError(f"sweep {sweep_id} must be closed with an end, was RUNNING")
    _interrupt_trials(db, sweep_id, at=at)
    values = {"status": status.value, "ended_at": at, "end_reason": reason.value if reason else None}
    db.execute(update(Sweep.table()).where(Sweep.table().c.sweep_id == sweep_id).values(values))
    announce_sweep_closed(db, sweep_id, status, best_trial_id, at=at)


# --- trials ---------------------------------------------------------------------------------------------------


def open_trial(db: Connection, sweep_id: str, trial: NewTrial, *, at: int) -> int:
    """Create a trial, PENDING; a trial that exists with the same point and seed gives its id again."""
    _get(db, Sweep, sweep_id=sweep_id)
    found = _find(db, Trial, sweep_id=sweep_id, trial_no=trial.trial_no)
    if found is not None:
        if (found.point_hash, found.seed) != (trial.point_hash, trial.seed):
            raise StoreError(
                f"sweep {sweep_id}: trial {trial.trial_no} has point {found.point_hash[:12]} and seed {found.seed}, was"
                f" opened with {trial.point_hash[:12]} and {trial.seed}; give it the next free number"
            )
        return int(found.trial_id)
    values = asdict(trial) | {
        "sweep_id": sweep_id,
        "phase": trial.phase.value,
        "status": TrialStatus.PENDING.value,
        "created_at": at,
        "elapsed_s": 0.0,
        **dict.fromkeys(("attempts", "env_steps", "updates", "iterations"), 0),
    }
    key = db.execute(insert(Trial.table()).values(values)).inserted_primary_key
    assert key is not None
    announce_trial_opened(db, key[0])
    return int(key[0])


def close_trial(
    db: Connection, trial_id: int, status: TrialStatus, error: str | None, *, at: int, lost: bool = False
) -> None:
    """End the trial with its attempt, producers and episodes. The first end stands: a second call does nothing.

    `lost`: its processes are gone, as they are when it crashed.
    """
    trial = _get(db, Trial, trial_id=trial_id)
    if trial.status in TRIAL_ENDS or (trial.status == status and trial.ended_at is not None):
        return
    if status not in TRIAL_ENDS and status != TrialStatus.INTERRUPTED:
        raise StoreError(f"trial {trial_id} must be closed with an end, was {status}")
    error = error.replace("\0", "") if error is not None else None  # PostgreSQL has no such character
    _end_attempt(db, trial_id, status, error, at=at, lost=lost or status == TrialStatus.CRASHED)
    values = {"status": status.value, "error": error, "ended_at": at}
    db.execute(update(Trial.table()).where(Trial.table().c.trial_id == trial_id).values(values))
    announce_trial_closed(db, trial_id, status, at=at)


def _end_attempt(db: Connection, trial_id: int, status: TrialStatus, error: str | None, *, at: int, lost: bool) -> None:
    """Close what runs of the trial: producers, episodes, attempt."""
    end_producers(db, Producer.table().c.trial_id == trial_id, ProducerEnd.LOST if lost else ProducerEnd.DONE, at=at)
    how = (
        (EpisodeStatus.ABANDONED, EpisodeEnd.PRODUCER_LOST)
        if lost
        else (EpisodeStatus.TRUNCATED, EpisodeEnd.TRIAL_ENDED)
    )
    close_open_episodes(db, Episode.table().c.trial_id == trial_id, *how, at=at)
    table = Attempt.table()
    db.execute(
        update(table)
        .where(table.c.trial_id == trial_id, table.c.ended_at.is_(None))
        .values(status=status.value, error=error, ended_at=at)
    )


def get_sweep_of(db: Connection, trial_id: int) -> str:
    """The sweep that a trial belongs to. Raises NotFound."""
    return str(_get(db, Trial, trial_id=trial_id).sweep_id)


# --- attempts -------------------------------------------------------------------------------------------------


def start_attempt(db: Connection, trial_id: int, pid: int, resumed_from_iteration: int | None, *, at: int) -> int:
    """Begin the trial's next attempt, from a checkpoint or from nothing; what ran past it is superseded."""
    trial = _get(db, Trial, trial_id=trial_id)
    if trial.status in GOOD_ENDS:
        raise StoreError(f"trial {trial_id} ended {trial.status}; it cannot be started again, open a new trial")
    if _is_repeated(db, trial, pid, resumed_from_iteration):
        return int(trial.attempts)
    _end_attempt(db, trial_id, TrialStatus.CRASHED, "a later attempt took over", at=at, lost=True)
    attempt = trial.attempts + 1
    origin = rewind_trial(db, trial_id, attempt, resumed_from_iteration) if trial.attempts else None
    if origin is None and resumed_from_iteration is not None:
        raise StoreError(f"trial {trial_id} has no checkpoint of iteration {resumed_from_iteration}; start it anew")
    values = {
        "trial_id": trial_id,
        "attempt": attempt,
        "status": TrialStatus.RUNNING.value,
        "pid": pid,
        "started_at": at,
        "resumed_from_iteration": resumed_from_iteration,
        "resumed_from_attempt": origin.attempt if origin is not None else None,
        "resumed_env_steps": origin.env_steps if origin is not None else 0,
    }
    db.execute(insert(Attempt.table()).values(values))
    _mark_running(db, trial_id, attempt, at=at)
    return int(attempt)


def _is_repeated(db: Connection, trial: Row[Any], pid: int, resumed_from_iteration: int | None) -> bool:
    """The same call was executed already, and nobody has produced anything in that attempt."""
    last = _find(db, Attempt, trial_id=trial.trial_id, attempt=trial.attempts)
    if last is None or last.ended_at is not None:
        return False
    if (last.pid, last.resumed_from_iteration) != (pid, resumed_from_iteration):
        return False
    table = Producer.table()
    where = (table.c.trial_id == trial.trial_id) & (table.c.attempt == trial.attempts)
    return db.execute(select(func.count()).where(where)).scalar_one() == 0


def _mark_running(db: Connection, trial_id: int, attempt: int, *, at: int) -> None:
    table = Trial.table()
    values = {
        "status": TrialStatus.RUNNING.value,
        "attempts": attempt,
        "started_at": func.coalesce(table.c.started_at, at),
        "ended_at": None,
        "error": None,
    }
    db.execute(update(table).where(table.c.trial_id == trial_id).values(values))


# --- rows by key ----------------------------------------------------------------------------------------------


def _find(db: Connection, model: type[Sweep | Trial | Attempt], **key: Any) -> Row[Any] | None:
    table = model.table()
    return db.execute(select(table).where(*(table.c[name] == value for name, value in key.items()))).first()


def _get(db: Connection, model: type[Sweep | Trial | Attempt], **key: Any) -> Row[Any]:
    row = _find(db, model, **key)
    if row is None:
        words = ", ".join(f"{name} {value}" for name, value in key.items())
        raise NotFound(f"{model.__tablename__}: there is no row with {words}")
    return row
