"""Between PointSearch and Tune: a Searcher, a TrialScheduler and a Callback, each a thin adapter.

All three run in Tune's event loop in the driver, where an exception would end the whole sweep: what a trial did wrong
ends that trial only.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from ray.tune import Callback
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from tradesweep.names import BAD_ENDS, Metric, TrialStatus
from tradesweep.recording import RecorderClient
from tradesweep.sweep.points import Point, point_hash
from tradesweep.sweep.search import PointSearch
from tradesweep.trial import Assignment, ResumePoint

logger = logging.getLogger(__name__)

SCORE = Metric.VALIDATION_SCORE.value


@dataclass(frozen=True, kw_only=True, slots=True)
class UnfinishedTrial:
    """A trial that goes on before new ones begin: of an earlier run, or one that crashed and may be tried again."""

    trial_id: int
    trial_no: int
    point: Point
    seed: int
    scores: tuple[float, ...]
    resume: ResumePoint | None
    retries: int = 0
    """How often it may still be tried again when it crashes."""


@dataclass(kw_only=True, slots=True)
class RunningTrial:
    """What the driver knows of a trial that Tune runs."""

    trial_id: int
    trial_no: int
    retries: int
    pruned: bool = False
    last: dict[str, Any] = field(default_factory=dict)


class Ledger:
    """The driver's side of all trials: opens and closes them in the store, tells the search how they did."""

    def __init__(
        self,
        *,
        sweep_id: str,
        seed: int,
        fixed: Point,
        budget: int,
        search: PointSearch,
        recorder: RecorderClient,
        unfinished: Sequence[UnfinishedTrial] = (),
        next_trial_no: int = 0,
        max_retries: int = 0,
        read_crashed: Callable[[int], UnfinishedTrial] | None = None,
    ) -> None:
        self._sweep_id, self._seed, self._fixed, self._budget = sweep_id, seed, fixed, budget
        self._search, self._recorder = search, recorder
        self._unfinished = list(unfinished)
        self._next_trial_no = next_trial_no
        self._max_retries, self._read_crashed = max_retries, read_crashed
        self.running: dict[str, RunningTrial] = {}
        self.failed = 0
        self.interrupted = False

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune writes what it is given into its folder, where no database connection belongs."""
        return {}

    @property
    def left(self) -> int:
        """Trials still to be started."""
        return len(self._unfinished) + self._budget - self._next_trial_no

    @property
    def most_starts(self) -> int:
        """How often a trial may be started from here on, retries included."""
        return (
            self.left
            + self._max_retries * (self._budget - self._next_trial_no)
            + sum(trial.retries for trial in self._unfinished)
        )

    @property
    def may_retry(self) -> bool:
        """There may be more to start, though nothing is left now: a trial that runs may crash and come back."""
        return any(trial.retries for trial in self.running.values())

    def next_assignment(self, tune_id: str) -> Assignment | None:
        """The next trial to run: unfinished ones first, then new points; None when there are no more."""
        if self._unfinished:
            return self._resume(tune_id, self._unfinished.pop(0))
        if self._next_trial_no >= self._budget:
            return None
        trial_no = self._next_trial_no
        point = self._search.ask(trial_no)
        if point is None:
            return None
        self._next_trial_no += 1
        seed = trial_seed(self._seed, trial_no)
        params = {**self._fixed, **point}
        trial_id = self._recorder.open_trial(self._sweep_id, trial_no, params, point, seed, point_hash(point))
        self.running[tune_id] = RunningTrial(trial_id=trial_id, trial_no=trial_no, retries=self._max_retries)
        return Assignment(trial_id=trial_id, trial_no=trial_no, params=params, seed=seed)

    def _resume(self, tune_id: str, trial: UnfinishedTrial) -> Assignment:
        self._search.adopt(trial.trial_no, trial.point, trial.scores)
        self.running[tune_id] = RunningTrial(trial_id=trial.trial_id, trial_no=trial.trial_no, retries=trial.retries)
        return Assignment(
            trial_id=trial.trial_id,
            trial_no=trial.trial_no,
            params={**self._fixed, **trial.point},
            seed=trial.seed,
            resume=trial.resume,
        )

    def report(self, tune_id: str, result: dict[str, Any]) -> bool:
        """Take in a result once; True when the trial should be pruned."""
        trial = self.running[tune_id]
        if trial.last.get("evaluation") == result["evaluation"]:
            return False
        trial.last = result
        if result["status"] in BAD_ENDS:
            return False
        trial.pruned = self._search.report(trial.trial_no, result["evaluation"], result[SCORE])
        return trial.pruned and not result["done"]

    def end(self, tune_id: str, *, lost: str | None = None) -> None:
        """Close a trial once. `lost` says why its process is gone."""
        trial = self.running.pop(tune_id, None)
        if trial is None:
            return
        status = self._status(trial, lost)
        self._recorder.close_trial(trial.trial_id, status, lost or trial.last.get("error"))
        self._tell(trial, status)
        if status == TrialStatus.CRASHED and trial.retries > 0:
            self._try_again(trial)

    def _try_again(self, trial: RunningTrial) -> None:
        """Put it in front of new points; the search has forgotten it and takes it in again when it starts."""
        assert self._read_crashed is not None
        again = replace(self._read_crashed(trial.trial_id), retries=trial.retries - 1)
        logger.warning("trial %s crashed and goes on from %s", trial.trial_no, again.resume or "its beginning")
        self._unfinished.append(again)

    def end_all(self) -> None:
        """Close what still runs as interrupted: the next run goes on with it."""
        for tune_id in list(self.running):
            trial = self.running.pop(tune_id)
            self._recorder.close_trial(trial.trial_id, TrialStatus.INTERRUPTED, None)

    def _status(self, trial: RunningTrial, lost: str | None) -> TrialStatus:
        said = TrialStatus(trial.last.get("status", TrialStatus.RUNNING))
        if lost is not None:
            return TrialStatus.CRASHED
        if said != TrialStatus.RUNNING:
            return said
        return TrialStatus.PRUNED if trial.pruned else TrialStatus.INTERRUPTED

    def _tell(self, trial: RunningTrial, status: TrialStatus) -> None:
        if status in BAD_ENDS:
            self.failed += 1
            self._search.tell_failed(trial.trial_no)
        elif status == TrialStatus.PRUNED:
            self._search.tell_pruned(trial.trial_no)
        elif status != TrialStatus.INTERRUPTED:
            self._search.tell_finished(trial.trial_no, trial.last[SCORE])


def trial_seed(sweep_seed: int, trial_no: int) -> int:
    """The seed of a trial, below 2**31: the same point under another number is another draw.

    NumPy's legacy generator, which RLlib seeds, refuses 2**32 and above; lanes and runners add to the seed.
    """
    return int(np.random.SeedSequence([sweep_seed, trial_no]).generate_state(1)[0]) >> 1


class SearcherBridge(Searcher):
    """Tune asks for configs here; arbitrary configs need no `param_space`."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__(metric=SCORE, mode="max")
        self._ledger = ledger

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The next trial's config; None while there is nothing now and may be later; FINISHED when there is no more."""
        assignment = self._ledger.next_assignment(trial_id)
        if assignment is not None:
            return assignment.to_config()
        return None if self._ledger.may_retry else Searcher.FINISHED

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Nothing: the callback closes trials, since Tune says the same here for a finish and for a stop."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the store is the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: a search is rebuilt from the store."""


class PruningScheduler(TrialScheduler):
    """Stops what Optuna's pruner would prune."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__()
        self._ledger = ledger

    def set_search_properties(self, metric: str | None, mode: str | None, **spec: Any) -> bool:
        """Metric and mode are known."""
        del metric, mode, spec
        return True

    def on_trial_add(self, tune_controller: Any, trial: TuneTrial) -> None:
        """Nothing to prepare."""

    def on_trial_error(self, tune_controller: Any, trial: TuneTrial) -> None:
        """The callback closes it."""

    def on_trial_result(self, tune_controller: Any, trial: TuneTrial, result: dict[str, Any]) -> str:
        """STOP when the pruner says so."""
        del tune_controller
        pruned = self._ledger.report(trial.trial_id, result)
        return str(TrialScheduler.STOP if pruned else TrialScheduler.CONTINUE)

    def on_trial_complete(self, tune_controller: Any, trial: TuneTrial, result: dict[str, Any]) -> None:
        """Tune asks the scheduler only here about a last result."""
        del tune_controller
        self._ledger.report(trial.trial_id, result)

    def on_trial_remove(self, tune_controller: Any, trial: TuneTrial) -> None:
        """Nothing is kept for it."""

    def choose_trial_to_run(self, tune_controller: Any) -> TuneTrial | None:
        """First come, first served."""
        for trial in tune_controller.get_trials():
            if trial.status in (TuneTrial.PENDING, TuneTrial.PAUSED):
                return trial
        return None

    def debug_string(self) -> str:
        """For Tune's own log."""
        return "PruningScheduler"

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the store is the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: a search is rebuilt from the store."""


class TrialCloser(Callback):
    """Closes each trial in the recorder: under actor reuse Tune never tells a trainable that its trial ended."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self.error: BaseException | None = None

    def on_trial_complete(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        """Finished, stopped or pruned."""
        del iteration, trials, info
        self._close(trial, lost=None)

    def on_trial_error(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        """Its process is gone."""
        del iteration, trials, info
        self._close(trial, lost=describe_loss(trial))

    def _close(self, trial: TuneTrial, *, lost: str | None) -> None:
        try:
            self._ledger.end(trial.trial_id, lost=lost)
        except Exception as error:  # raising here would end every other trial; the driver looks at it after the run
            logger.exception("trial %s could not be closed", trial.trial_id)
            self.error = self.error or error


def describe_loss(trial: TuneTrial) -> str:
    """Why Tune lost a trial's process, as far as it knows."""
    error = trial.get_pickled_error() or trial.get_error()
    return f"worker process lost: {error}" if error else "worker process lost"
