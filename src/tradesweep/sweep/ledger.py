"""The driver's side of all trials: what is trained next, how each of them ended, and what the search is told of it.

A point is asked for once and trained on as many seeds as the spec says, a trial each. Only the first of them reports to
the pruner: it races for all. The search hears of a point when all its seeds have ended. When the search is over, its
leaders are trained again on fresh seeds, of which the search hears nothing.

Every method may be called anew after a kill: what the ledger knows is read from the store. Knows nothing of Tune.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from typing import Any

from tradesweep.names import BAD_ENDS, Metric, SweepEnd, TrialPhase, TrialStatus
from tradesweep.recording import RecorderClient
from tradesweep.spec import SweepSpec
from tradesweep.sweep.agenda import NewSeed, SearchPoint
from tradesweep.sweep.history import History, UnfinishedTrial
from tradesweep.sweep.limits import STOPS_ALL
from tradesweep.sweep.points import point_hash
from tradesweep.sweep.search import PointSearch
from tradesweep.trial import Assignment, ResumePoint, derive_seed

logger = logging.getLogger(__name__)

SCORE = Metric.VALIDATION_SCORE.value


@dataclass(kw_only=True, slots=True)
class RunningTrial:
    """What the driver knows of a trial that runs."""

    trial_id: int
    trial_no: int
    point_no: int
    seed_no: int
    phase: TrialPhase
    retries: int
    pruned: bool = False
    last: dict[str, Any] = field(default_factory=dict)

    @property
    def races(self) -> bool:
        """Is it the trial of its point that the pruner sees?"""
        return self.phase == TrialPhase.SEARCH and self.seed_no == 0


class Ledger:
    """Opens and closes trials in the store, and tells the search how its points did."""

    def __init__(
        self, spec: SweepSpec, history: History, *, points: int, search: PointSearch, recorder: RecorderClient
    ) -> None:
        self._spec, self._history, self._search, self._recorder = spec, history, search, recorder
        self._budget = points
        self._points = history.read_points()
        self._unfinished = history.read_unfinished()
        self._next_trial_no = len(history.list_trials())
        self._confirmations: list[NewSeed] | None = None
        self.limit = history.find_limit()
        self.running: dict[str, RunningTrial] = {}
        begun = [point for point in self._points.values() if not point.has_ended]
        races = history.read_races(begun)
        for point in begun:
            self._search.adopt(point.point_no, point.point, races[point.point_no])

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune writes what it is given into its folder, where no database connection belongs."""
        return {}

    # --- what is left ------------------------------------------------------------------------------------------

    @property
    def left(self) -> int:
        """Trials still to be started; while the search goes on, all the confirmations there may be."""
        return self.at_once if self._is_searched else self.at_once + self._most_confirmations

    @property
    def at_once(self) -> int:
        """Trials that could be started now, had they all a place."""
        return len(self._unfinished) + (len(self._list_confirmations()) if self._is_searched else self._search_left)

    @property
    def most_starts(self) -> int:
        """How often a trial may be started from here on, retries included."""
        return self.left * (1 + self._spec.budget.max_retries)

    @property
    def may_go_on(self) -> bool:
        """There may be more to start, though nothing is left now: a crash is tried again, leaders are confirmed."""
        retries = any(trial.retries for trial in self.running.values())
        return retries or (not self._is_searched and self._most_confirmations > 0)

    @property
    def _search_left(self) -> int:
        if self.limit in STOPS_ALL:
            return 0
        begun = sum(len(point.waiting) for point in self._points.values())
        new = 0 if self.limit else max(self._budget - len(self._points), 0)  # a budget may have become smaller
        return begun + new * self._spec.seeds

    @property
    def _is_searched(self) -> bool:
        """Every trial of the search has its end."""
        phases = {trial.phase for trial in self._unfinished} | {trial.phase for trial in self.running.values()}
        return not self._search_left and TrialPhase.SEARCH not in phases

    @property
    def _most_confirmations(self) -> int:
        confirm = self._spec.confirm
        return 0 if confirm is None or self.limit in STOPS_ALL else confirm.top * confirm.seeds

    def _list_confirmations(self) -> list[NewSeed]:
        if self.limit in STOPS_ALL:
            return []
        if self._confirmations is None:
            self._confirmations = self._history.read_confirmations()
        return self._confirmations

    # --- handing out -------------------------------------------------------------------------------------------

    def next_assignment(self, tune_id: str) -> Assignment | None:
        """The next trial to run: unfinished ones, seeds of points that were begun, new points, confirmations."""
        if self._unfinished:
            return self._resume(tune_id, self._unfinished.pop(0))
        self.limit = self.limit or self._history.find_limit()
        seed = None if self.limit in STOPS_ALL else self._next_seed()
        return None if seed is None else self._open(tune_id, seed)

    def _next_seed(self) -> NewSeed | None:
        point = next((point for point in self._points.values() if point.waiting), None) or self._next_point()
        if point is not None:
            return point.begin_seed()
        confirmations = self._list_confirmations() if self._is_searched else []
        return confirmations.pop(0) if confirmations else None

    def _next_point(self) -> SearchPoint | None:
        number = len(self._points)
        if self.limit is not None or number >= self._budget:
            return None
        point = self._search.ask(number)
        if point is None:
            self.limit = SweepEnd.SPACE
            return None
        self._points[number] = SearchPoint.new(number, point, self._spec.seeds)
        return self._points[number]

    def _open(self, tune_id: str, new: NewSeed) -> Assignment:
        trial_no, self._next_trial_no = self._next_trial_no, self._next_trial_no + 1
        seed = derive_seed(self._spec.seed, new.point_no, new.seed_no)
        trial_id = self._recorder.open_trial(
            self._history.sweep_id,
            trial_no,
            {**self._spec.fixed, **new.point},
            new.point,
            seed,
            point_hash(new.point),
            point_no=new.point_no,
            seed_no=new.seed_no,
            phase=new.phase,
        )
        return self._begin(
            tune_id, new, trial_id=trial_id, trial_no=trial_no, seed=seed, retries=self._spec.budget.max_retries
        )

    def _resume(self, tune_id: str, trial: UnfinishedTrial) -> Assignment:
        return self._begin(
            tune_id,
            trial,
            trial_id=trial.trial_id,
            trial_no=trial.trial_no,
            seed=trial.seed,
            retries=trial.retries,
            resume=trial.resume,
        )

    def _begin(
        self,
        tune_id: str,
        place: NewSeed | UnfinishedTrial,
        *,
        trial_id: int,
        trial_no: int,
        seed: int,
        retries: int,
        resume: ResumePoint | None = None,
    ) -> Assignment:
        self.running[tune_id] = RunningTrial(
            trial_id=trial_id,
            trial_no=trial_no,
            point_no=place.point_no,
            seed_no=place.seed_no,
            phase=place.phase,
            retries=retries,
        )
        params = {**self._spec.fixed, **place.point}
        return Assignment(trial_id=trial_id, trial_no=trial_no, params=params, seed=seed, resume=resume)

    # --- taking in ---------------------------------------------------------------------------------------------

    def report(self, tune_id: str, result: dict[str, Any]) -> bool:
        """Take in a result once; True when the trial should be pruned."""
        trial = self.running[tune_id]
        if trial.last.get("evaluation") == result["evaluation"]:
            return False
        trial.last = result
        if result["status"] in BAD_ENDS:
            return False
        trial.pruned = self._falls_behind(trial, result["evaluation"], result[SCORE])
        return trial.pruned and not result["done"]

    def _falls_behind(self, trial: RunningTrial, evaluation: int, score: float) -> bool:
        """What was extended beyond the spec's evaluations has won its race already."""
        if trial.phase == TrialPhase.CONFIRM:
            return False
        if self._points[trial.point_no].pruned:
            return True
        if not trial.races or evaluation > self._spec.evaluation.count:
            return False
        return self._search.report(trial.point_no, evaluation, score)

    def end(self, tune_id: str, *, lost: str | None = None) -> None:
        """Close a trial once. `lost` says why its process is gone."""
        trial = self.running.pop(tune_id, None)
        if trial is None:
            return
        status = self._status(trial, lost)
        self._recorder.close_trial(trial.trial_id, status, lost or trial.last.get("error"))
        if status == TrialStatus.CRASHED and trial.retries > 0:
            self._try_again(trial)
        elif trial.phase == TrialPhase.SEARCH and status != TrialStatus.INTERRUPTED:
            self._count(trial, status)

    def _try_again(self, trial: RunningTrial) -> None:
        """Put it in front of new ones; the study sees its point as begun anew, with the scores that count."""
        again = replace(self._history.read_trial(trial.trial_id), retries=trial.retries - 1)
        logger.warning("trial %s crashed and goes on from %s", trial.trial_no, again.resume or "its beginning")
        self._unfinished.append(again)
        if trial.races:
            self._search.tell_failed(trial.point_no)
            self._search.adopt(trial.point_no, again.point, again.scores)

    def end_all(self) -> None:
        """Close what still runs as interrupted: the next run goes on with it."""
        for tune_id in list(self.running):
            trial = self.running.pop(tune_id)
            self._recorder.close_trial(trial.trial_id, TrialStatus.INTERRUPTED, None)
        self._unfinished = self._history.read_unfinished()

    def _status(self, trial: RunningTrial, lost: str | None) -> TrialStatus:
        said = TrialStatus(trial.last.get("status", TrialStatus.RUNNING))
        if lost is not None:
            return TrialStatus.CRASHED
        if said != TrialStatus.RUNNING:
            return said
        return TrialStatus.PRUNED if trial.pruned else TrialStatus.INTERRUPTED

    def _count(self, trial: RunningTrial, status: TrialStatus) -> None:
        """Tell the search of the point when its last seed has ended, or its first one lost the race."""
        point = self._points[trial.point_no]
        if not point.has_ended and point.end_seed(trial.seed_no, status, trial.last.get(SCORE)):
            self._tell(point)

    def _tell(self, point: SearchPoint) -> None:
        if point.pruned:
            self._search.tell_pruned(point.point_no)
        elif point.has_failed:
            self._search.tell_failed(point.point_no)
        else:
            self._search.tell_finished(point.point_no, point.value(self._spec.aggregate))
