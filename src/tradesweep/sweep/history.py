"""What the store knows of a sweep's earlier runs, as the search and the driver need it."""

from __future__ import annotations

import json
from dataclasses import replace

from tradesweep.home import Home
from tradesweep.names import BAD_ENDS, TRIAL_ENDS, TrialStatus
from tradesweep.store import CheckpointRow, Store, TrialRow
from tradesweep.sweep.bridge import UnfinishedTrial
from tradesweep.sweep.search import PastTrial
from tradesweep.trial import ResumePoint


def read_past(store: Store, sweep_id: str, *, max_retries: int = 0) -> list[PastTrial]:
    """Trials that have an end, in the order they were asked; not those that are tried again."""
    return [
        PastTrial(
            trial_no=trial.trial_no,
            point=json.loads(trial.point_json),
            scores=_scores(store, trial),
            pruned=trial.status == TrialStatus.PRUNED,
            failed=trial.status in BAD_ENDS,
        )
        for trial in store.list_trials(sweep_id)
        if not _goes_on(store, trial, max_retries)
    ]


def read_unfinished(store: Store, home: Home, sweep_id: str, *, max_retries: int = 0) -> list[UnfinishedTrial]:
    """Trials that were under way when the driver ended, or crashed and may be tried again."""
    return [
        replace(read_trial(store, home, trial.trial_id), retries=max(max_retries - _count_crashes(store, trial), 0))
        for trial in store.list_trials(sweep_id)
        if _goes_on(store, trial, max_retries)
    ]


def read_trial(store: Store, home: Home, trial_id: int) -> UnfinishedTrial:
    """A trial as it goes on from its last checkpoint."""
    trial = store.get_trial(trial_id)
    return UnfinishedTrial(
        trial_id=trial.trial_id,
        trial_no=trial.trial_no,
        point=json.loads(trial.point_json),
        seed=trial.seed,
        scores=_scores(store, trial),
        resume=_resume_point(store.find_last_checkpoint(trial.trial_id), home),
    )


def _goes_on(store: Store, trial: TrialRow, max_retries: int) -> bool:
    """It has no end yet, or crashed no more often than it may."""
    if trial.status == TrialStatus.CRASHED:
        return _count_crashes(store, trial) <= max_retries
    return trial.status not in TRIAL_ENDS


def _count_crashes(store: Store, trial: TrialRow) -> int:
    """By its attempts; a process that was lost before it began one counts as well."""
    crashed = sum(attempt.status == TrialStatus.CRASHED for attempt in store.list_attempts(trial.trial_id))
    return max(crashed, int(trial.status == TrialStatus.CRASHED))


def _scores(store: Store, trial: TrialRow) -> tuple[float, ...]:
    """The score after each evaluation, superseded ones left out."""
    evaluations = store.list_evaluations(trial.trial_id, split="validation")
    return tuple(row.score for row in evaluations if row.superseded_by_attempt is None and row.cost_multiplier == 1.0)


def _resume_point(checkpoint: CheckpointRow | None, home: Home) -> ResumePoint | None:
    if checkpoint is None:
        return None
    return ResumePoint(
        iteration=checkpoint.iteration,
        path=str(home.path / checkpoint.path),
        manifest_sha256=checkpoint.manifest_sha256,
    )
