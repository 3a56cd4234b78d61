"""What the store knows of a sweep's earlier runs, as the search and the driver need it."""

from __future__ import annotations

import json

from tradesweep.home import Home
from tradesweep.names import BAD_ENDS, TRIAL_ENDS, TrialStatus
from tradesweep.store import CheckpointRow, Store, TrialRow
from tradesweep.sweep.bridge import UnfinishedTrial
from tradesweep.sweep.search import PastTrial
from tradesweep.trial import ResumePoint


def read_past(store: Store, sweep_id: str) -> list[PastTrial]:
    """Trials that have an end, in the order they were asked."""
    return [
        PastTrial(
            trial_no=trial.trial_no,
            point=json.loads(trial.point_json),
            scores=_scores(store, trial),
            pruned=trial.status == TrialStatus.PRUNED,
            failed=trial.status in BAD_ENDS,
        )
        for trial in store.list_trials(sweep_id)
        if trial.status in TRIAL_ENDS
    ]


def read_unfinished(store: Store, home: Home, sweep_id: str) -> list[UnfinishedTrial]:
    """Trials that were under way when the driver ended; each goes on from its last checkpoint."""
    return [
        UnfinishedTrial(
            trial_id=trial.trial_id,
            trial_no=trial.trial_no,
            point=json.loads(trial.point_json),
            seed=trial.seed,
            scores=_scores(store, trial),
            resume=_resume_point(store.find_last_checkpoint(trial.trial_id), home),
        )
        for trial in store.list_trials(sweep_id)
        if trial.status not in TRIAL_ENDS
    ]


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
