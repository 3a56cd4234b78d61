"""What the store knows of a sweep's earlier runs, as the search and the driver need it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace

from tradesweep.home import Home
from tradesweep.names import SweepEnd, TrialPhase
from tradesweep.spec import SweepSpec
from tradesweep.store import Store, TrialRow
from tradesweep.sweep.agenda import NewSeed, SearchPoint, count_crashes, goes_on, read_confirmations, read_points
from tradesweep.sweep.limits import find_limit
from tradesweep.sweep.points import Point
from tradesweep.sweep.search import PastTrial
from tradesweep.trial import ResumePoint


@dataclass(frozen=True, kw_only=True, slots=True)
class UnfinishedTrial:
    """A trial that goes on before new ones begin: of an earlier run, or one that crashed and may be tried again."""

    trial_id: int
    trial_no: int
    point: Point
    seed: int
    scores: tuple[float, ...]
    resume: ResumePoint | None
    point_no: int
    seed_no: int = 0
    phase: TrialPhase = TrialPhase.SEARCH
    retries: int = 0
    """How often it may still be tried again when it crashes."""


class History:
    """A sweep's trials as they stand in the store, read anew at each question."""

    def __init__(self, store: Store, home: Home, sweep_id: str, spec: SweepSpec) -> None:
        self._store, self._home, self.sweep_id, self._spec = store, home, sweep_id, spec
        self._closings: dict[int, int] = {}
        """By trial the number of its last closing, read on from the last one."""

    def list_trials(self) -> list[TrialRow]:
        """All of them, by number."""
        return self._store.list_trials(self.sweep_id)

    def read_points(self) -> dict[int, SearchPoint]:
        """Every point that was begun, by its number."""
        return read_points(self._store, self.list_trials(), self._spec)

    def read_races(self, points: Iterable[SearchPoint]) -> dict[int, tuple[float, ...]]:
        """By point the scores of its first seed, which races for all of them."""
        wanted = {point.point_no for point in points}
        racers = (trial for trial in self.list_trials() if trial.seed_no == 0 and trial.point_no in wanted)
        return {trial.point_no: self._scores(trial) for trial in racers}

    def read_past(self) -> list[PastTrial]:
        """Points that have an end, in the order they were asked for."""
        ended = [point for point in self.read_points().values() if point.has_ended]
        races = self.read_races(ended)
        return [self._past(point, races[point.point_no]) for point in ended]

    def read_unfinished(self) -> list[UnfinishedTrial]:
        """Trials that were under way when the driver ended, or crashed and may be tried again."""
        most = self._spec.budget.max_retries
        return [
            replace(self.read_trial(trial.trial_id), retries=max(most - count_crashes(self._store, trial), 0))
            for trial in self.list_trials()
            if goes_on(self._store, trial, most)
        ]

    def read_trial(self, trial_id: int) -> UnfinishedTrial:
        """A trial as it goes on from its last checkpoint, or from the newest that is not damaged."""
        trial = self._store.get_trial(trial_id)
        return UnfinishedTrial(
            trial_id=trial.trial_id,
            trial_no=trial.trial_no,
            point=json.loads(trial.point_json),
            seed=trial.seed,
            scores=self._scores(trial),
            resume=self._resume_point(trial_id),
            point_no=trial.point_no,
            seed_no=trial.seed_no,
            phase=trial.phase,
        )

    def read_confirmations(self) -> list[NewSeed]:
        """Fresh seeds of the leaders that were not begun; asked when the search has ended."""
        return read_confirmations(self.list_trials(), self._spec)

    def find_limit(self) -> SweepEnd | None:
        """The limit that the trials have reached."""
        budget = self._spec.budget
        if budget.env_steps is None and budget.patience_trials is None:
            return None
        last = max(self._closings.values(), default=0)
        self._closings |= {trial_id: number for number, trial_id in self._store.closings_after(last, self.sweep_id)}
        return find_limit(budget, self.list_trials(), self._closings)

    def _past(self, point: SearchPoint, race: tuple[float, ...]) -> PastTrial:
        failed = not point.pruned and point.has_failed
        return PastTrial(
            trial_no=point.point_no,
            point=point.point,
            scores=race,
            pruned=point.pruned,
            failed=failed,
            value=None if point.pruned or failed else point.value(self._spec.aggregate),
        )

    def _scores(self, trial: TrialRow) -> tuple[float, ...]:
        """The score after each evaluation, superseded ones left out."""
        evaluations = self._store.list_evaluations(trial.trial_id, split="validation")
        return tuple(row.score for row in evaluations if row.cost_multiplier == 1.0)

    def _resume_point(self, trial_id: int) -> ResumePoint | None:
        """The last checkpoint, with those to fall back to behind it."""
        promoted = [row.iteration for row in self._store.list_promotions() if row.trial_id == trial_id and row.version]
        points = [
            ResumePoint(
                iteration=checkpoint.iteration,
                path=str(self._home.path / checkpoint.path),
                manifest_sha256=checkpoint.manifest_sha256,
                promoted=tuple(promoted),
            )
            for checkpoint in reversed(self._store.list_checkpoints(trial_id))
        ]
        return replace(points[0], older=tuple(points[1:])) if points else None
