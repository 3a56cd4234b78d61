"""Between the ledger and Tune: a Searcher, a TrialScheduler and a Callback, each a thin adapter.

All three run in Tune's event loop in the driver, where an exception would end the whole sweep: what a trial did wrong
ends that trial only.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ray.tune import Callback
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from tradesweep.errors import TradesweepError
from tradesweep.names import BAD_ENDS
from tradesweep.store import Store
from tradesweep.sweep.ledger import SCORE, Ledger
from tradesweep.sweep.signals import Drain

logger = logging.getLogger(__name__)


class SearcherBridge(Searcher):
    """Tune asks for configs here; arbitrary configs need no `param_space`."""

    def __init__(self, ledger: Ledger, drain: Drain) -> None:
        super().__init__(metric=SCORE, mode="max")
        self._ledger, self._drain = ledger, drain
        self._limit = ledger.limit

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The next trial's config; None while there is nothing now and may be later; FINISHED when there is no more."""
        ends = self._drain.is_due()
        assignment = None if ends else self._ledger.next_assignment(trial_id)
        if self._ledger.limit != self._limit:
            self._limit = self._ledger.limit
            logger.info("limit reached: %s", self._limit)
        if assignment is not None:
            return assignment.to_config()
        return None if self._ledger.may_go_on and not ends else Searcher.FINISHED

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

    def __init__(self, ledger: Ledger, drain: Drain, store: Store) -> None:
        self._ledger, self._drain, self._store = ledger, drain, store
        self.error: BaseException | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune writes what it is given into its folder, where no database connection belongs."""
        return {}

    def on_trial_start(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        """A process has it."""
        del iteration, trials, info
        self._drain.training.add(trial.trial_id)
        logger.info("%s", describe_begin(trial.config))

    def on_trial_complete(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        """Finished, stopped or pruned."""
        del iteration, trials, info
        self._close(trial, lost=None)

    def on_trial_error(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        """Its process is gone."""
        del iteration, trials, info
        self._close(trial, lost=describe_loss(trial))

    def _close(self, trial: TuneTrial, *, lost: str | None) -> None:
        self._drain.training.discard(trial.trial_id)
        try:
            self._ledger.end(trial.trial_id, lost=lost)
            log_end(self._store, trial.config["trial_id"])
        except Exception as error:  # raising here would end every other trial; the driver looks at it after the run
            logger.exception("trial %s could not be closed", trial.trial_id)
            self.error = self.error or error
        forget(trial)


def forget(trial: TuneTrial) -> None:
    """Tune keeps statistics of every number of every trial to its end, and then writes a text of each: nobody reads
    either, and both take memory that grows with the sweep."""
    trial.run_metadata.metric_analysis.clear()
    trial.run_metadata.metric_n_steps.clear()
    trial.get_json_state = lambda: ("", "")


def describe_begin(config: Mapping[str, Any]) -> str:
    """A line of the driver's log."""
    resume = config["resume"]
    how = "begins" if resume is None else f"goes on from iteration {resume['iteration']}"
    return f"trial {config['trial_no']} {how}: {dict(config['params'])}"


def log_end(store: Store, trial_id: int) -> None:
    """How the trial ended, by the store, whose words count."""
    try:
        trial = store.get_trial(trial_id)
    except TradesweepError as error:  # the trial is closed; what is missing is a line
        logger.warning("how trial %s ended could not be read: %s", trial_id, error)
        return
    best = "none" if trial.best_sharpe is None else f"{trial.best_sharpe:.3f}"
    counted = f"{trial.iterations} iterations, {trial.env_steps:,} env steps, best validation Sharpe {best}"
    why = f": {trial.error.strip().splitlines()[-1]}" if trial.error else ""
    level = logging.WARNING if trial.status in BAD_ENDS else logging.INFO
    logger.log(level, "trial %s %s: %s%s", trial.trial_no, trial.status, counted, why)


def describe_loss(trial: TuneTrial) -> str:
    """Why Tune lost a trial's process, as far as it knows: by a signal, for want of memory, ...

    Tune has written it into the trial's folder by now; its own `get_error` looks where that is copied to later.
    """
    path = trial.error_file
    said = Path(path).read_text(encoding="utf-8").partition("\n")[2].strip() if path else ""
    return f"worker process lost: {said}" if said else "worker process lost"
