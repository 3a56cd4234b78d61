"""How a sweep ended, counted in the store."""

from __future__ import annotations

from dataclasses import dataclass

from tradesweep.home import Home
from tradesweep.names import GOOD_ENDS, TRIAL_ENDS, SweepEnd, SweepStatus
from tradesweep.store import TrialRow, open_store
from tradesweep.sweep.plan import Plan

MOST_ERRORS = 3
"""Trials of which an outcome says what went wrong."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """How a sweep ended."""

    sweep_id: str
    status: SweepStatus
    trials: int
    """Trials that have an end."""
    failed: int
    """Failed, diverged or crashed."""
    errors: dict[int, str]
    """Of the first of them, by trial number: the line that says what went wrong."""
    ended_by: SweepEnd | None
    """The limit that ended it before it had all its trials."""
    undelivered: int
    """Rows of the database's outbox that MLflow does not have yet."""
    already_finished: bool
    exit_code: int


def count_outcome(
    plan: Plan, home: Home, status: SweepStatus, *, signal_code: int = 0, already_finished: bool = False
) -> Outcome:
    """Count trials by their ends in the store."""
    store = open_store(home.database)
    ended = [trial for trial in store.list_trials(plan.sweep_id) if trial.status in TRIAL_ENDS]
    failed = [trial for trial in ended if trial.status not in GOOD_ENDS]
    return Outcome(
        sweep_id=plan.sweep_id,
        status=status,
        trials=len(ended),
        failed=len(failed),
        errors={trial.trial_no: telling_line(trial) for trial in failed[:MOST_ERRORS]},
        ended_by=store.get_sweep(plan.sweep_id).end_reason,
        undelivered=store.count_outbox(plan.sweep_id if store.database.many_writers else None),
        already_finished=already_finished,
        exit_code=signal_code or (0 if status == SweepStatus.FINISHED else 1),
    )


def telling_line(trial: TrialRow) -> str:
    """How a trial ended and why: the first line of what its error says, which in a traceback stands at the end."""
    lines = (trial.error or "").strip().splitlines() or ["no error was recorded"]
    if not lines[0].startswith("Traceback"):
        return f"{trial.status.value}: {lines[0]}"
    raised = [line for line in lines[1:] if line and not line[0].isspace()]
    return f"{trial.status.value}: {(raised or lines)[-1]}"
