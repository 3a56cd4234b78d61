"""What a sweep has still to train: seeds of points that were begun, new points, fresh seeds for the leaders.

Read from the store's rows alone; needs neither Ray nor Optuna. The first seed of a point races for all of them: when
it is pruned, the point is, and the other seeds are not trained.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field

from tradesweep.metrics import aggregate
from tradesweep.names import BAD_ENDS, SCORE_FLOOR, TRIAL_ENDS, SweepEnd, SweepStatus, TrialPhase, TrialStatus
from tradesweep.selection.standing import Seeding, rank_points
from tradesweep.spec import SweepSpec
from tradesweep.store import Store, SweepRow, TrialRow
from tradesweep.sweep.limits import STOPS_ALL, is_in_force
from tradesweep.sweep.points import Point


@dataclass(frozen=True, kw_only=True, slots=True)
class NewSeed:
    """A trial that is still to be begun."""

    point_no: int
    seed_no: int
    point: Point
    phase: TrialPhase = TrialPhase.SEARCH


@dataclass(kw_only=True, slots=True)
class SearchPoint:
    """A point that the search asked for, and how its seeds stand."""

    point_no: int
    point: Point
    seeds: int
    waiting: list[int]
    """Seeds that no trial was begun for."""
    scores: dict[int, float] = field(default_factory=dict)
    """The last score of each seed that has ended; the floor where it failed."""
    failed: int = 0
    """Seeds that failed."""
    pruned: bool = False
    """The first seed lost the race for all of them."""

    @classmethod
    def new(cls, point_no: int, point: Point, seeds: int) -> SearchPoint:
        """A point of which no seed was begun."""
        return cls(point_no=point_no, point=point, seeds=seeds, waiting=list(range(seeds)))

    def begin_seed(self) -> NewSeed:
        """The next seed that waits."""
        return NewSeed(point_no=self.point_no, seed_no=self.waiting.pop(0), point=self.point)

    def end_seed(self, seed_no: int, status: TrialStatus, score: float | None) -> bool:
        """Take in how a seed ended; True when the point has."""
        if status == TrialStatus.PRUNED and seed_no == 0:
            self.pruned = True
            self.waiting.clear()
        failed = status in BAD_ENDS or score is None
        self.failed += failed
        self.scores[seed_no] = SCORE_FLOOR if failed or score is None else score
        return self.has_ended

    @property
    def has_ended(self) -> bool:
        """Nothing more will become known of it."""
        return self.pruned or len(self.scores) == self.seeds

    @property
    def has_failed(self) -> bool:
        """Every seed failed; while one has not, the others count as the floor of scores."""
        return self.failed == self.seeds

    def value(self, how: str) -> float:
        """What the search is told."""
        return aggregate(list(self.scores.values()), how)


def read_points(store: Store, trials: Sequence[TrialRow], spec: SweepSpec) -> dict[int, SearchPoint]:
    """Every point that was begun, by its number."""
    points: dict[int, SearchPoint] = {}
    for trial in (trial for trial in trials if trial.phase == TrialPhase.SEARCH):
        fresh = SearchPoint.new(trial.point_no, json.loads(trial.point_json), spec.seeds)
        point = points.setdefault(trial.point_no, fresh)
        if trial.seed_no in point.waiting:
            point.waiting.remove(trial.seed_no)
        if not goes_on(store, trial, spec.budget.max_retries):
            point.end_seed(trial.seed_no, trial.status, trial.last_score)
    return points


def read_confirmations(trials: Sequence[TrialRow], spec: SweepSpec) -> list[NewSeed]:
    """Fresh seeds of the leaders that were not begun. The leaders are those of the search, whatever was confirmed."""
    if spec.confirm is None:
        return []
    searched = [trial for trial in trials if trial.phase == TrialPhase.SEARCH]
    ranked = rank_points(searched, Seeding(seeds=spec.seeds, aggregate=spec.aggregate))
    leaders = [standing.point_no for standing in ranked if standing.sharpe is not None][: spec.confirm.top]
    points = {trial.point_no: json.loads(trial.point_json) for trial in searched}
    begun = {(trial.point_no, trial.seed_no) for trial in trials}
    fresh = range(spec.seeds, spec.seeds + spec.confirm.seeds)
    return [
        NewSeed(point_no=point_no, seed_no=seed_no, point=points[point_no], phase=TrialPhase.CONFIRM)
        for point_no in leaders
        for seed_no in fresh
        if (point_no, seed_no) not in begun
    ]


def is_complete(store: Store, sweep: SweepRow, spec: SweepSpec, *, points: int, env_steps_per_trial: int) -> bool:
    """Has the sweep everything that `spec` asks of it, or was it ended by a limit that has not grown?

    So has one that failed, whose trials all have their ends: none is trained again that failed or diverged.
    """
    reached = sweep.env_steps_per_trial or spec.budget.env_steps_per_trial
    if sweep.status not in (SweepStatus.FINISHED, SweepStatus.FAILED) or env_steps_per_trial > reached:
        return False
    limit = read_limit(sweep, spec)
    if limit in STOPS_ALL:
        return True
    trials = store.list_trials(sweep.sweep_id)
    begun = read_points(store, trials, spec)
    if any(goes_on(store, trial, spec.budget.max_retries) for trial in trials):
        return False
    if any(not point.has_ended for point in begun.values()) or (limit is None and len(begun) < points):
        return False
    return not read_confirmations(trials, spec)


def read_limit(sweep: SweepRow, spec: SweepSpec) -> SweepEnd | None:
    """What ended the sweep, where that has not grown since."""
    if sweep.end_reason is None:
        return None
    then = SweepSpec.from_json(sweep.spec_json).budget
    return sweep.end_reason if is_in_force(sweep.end_reason, then, spec.budget) else None


def goes_on(store: Store, trial: TrialRow, max_retries: int) -> bool:
    """It has no end yet, or crashed no more often than it may."""
    if trial.status == TrialStatus.CRASHED:
        return count_crashes(store, trial) <= max_retries
    return trial.status not in TRIAL_ENDS


def count_crashes(store: Store, trial: TrialRow) -> int:
    """By its attempts; a process that was lost before it began one counts as well."""
    crashed = sum(attempt.status == TrialStatus.CRASHED for attempt in store.list_attempts(trial.trial_id))
    return max(crashed, int(trial.status == TrialStatus.CRASHED))
