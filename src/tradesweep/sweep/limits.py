"""What ends a sweep before it had all its trials. Pure rules over the store's rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from tradesweep.names import TRIAL_ENDS, SweepEnd, TrialPhase
from tradesweep.spec import BudgetSpec
from tradesweep.store import TrialRow

WORDS = {
    SweepEnd.ENV_STEPS: "budget.env_steps is spent; more of it go on",
    SweepEnd.WALL_TIME: "budget.wall_time_s is spent; more of it go on",
    SweepEnd.PATIENCE: "no better best in budget.patience_trials; more go on",
    SweepEnd.SPACE: "every point of the search space was tried",
}
"""Few words for people."""

STOPS_ALL = (SweepEnd.ENV_STEPS, SweepEnd.WALL_TIME)
"""After these no trial is begun; after the others, points that were begun are completed and leaders confirmed."""


def find_limit(budget: BudgetSpec, trials: Iterable[TrialRow], closings: Mapping[int, int]) -> SweepEnd | None:
    """The limit that the trials of a sweep have reached; `closings` as for `count_stale`."""
    trials = list(trials)
    if budget.env_steps is not None and sum(trial.env_steps for trial in trials) >= budget.env_steps:
        return SweepEnd.ENV_STEPS
    if budget.patience_trials is not None:
        ended, stale = count_stale(trials, closings)
        if ended >= budget.min_trials and stale >= budget.patience_trials:
            return SweepEnd.PATIENCE
    return None


def count_stale(trials: Iterable[TrialRow], closings: Mapping[int, int]) -> tuple[int, int]:
    """Trials of the search that ended, and how many of them since the best Sharpe ratio became better.

    `closings` has by trial id the number of its last closing: their order, which no clock decides.
    """
    searched = (trial for trial in trials if trial.phase == TrialPhase.SEARCH and trial.status in TRIAL_ENDS)
    best, ended, stale = float("-inf"), 0, 0
    for trial in sorted(searched, key=lambda trial: (closings.get(trial.trial_id, 0), trial.trial_no)):
        ended, stale = ended + 1, stale + 1
        if trial.best_sharpe is not None and trial.best_sharpe > best:
            best, stale = trial.best_sharpe, 0
    return ended, stale


def is_in_force(end: SweepEnd | None, then: BudgetSpec, now: BudgetSpec) -> bool:
    """Does what ended the sweep under the budget `then` still end it under `now`?"""
    if end is None or end == SweepEnd.SPACE:
        return end is not None
    field = end.value.removeprefix("budget.")
    old, new = getattr(then, field), getattr(now, field)
    return new is not None and old is not None and bool(new <= old)
