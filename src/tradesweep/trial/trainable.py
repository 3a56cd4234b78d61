"""The Tune trainable: a thin adapter around TrialSession that lives on from trial to trial.

Whatever goes wrong inside a trial ends as a result with its status, never as an exception: Tune would throw the warm
process away and, on a missing metric, the whole sweep. Only a lost process surfaces as a Tune error.

The driver imports this to name it to Tune, and trains nothing: RLlib and torch are imported where trials run.
"""

from __future__ import annotations

import logging
import os
import time
import traceback
from typing import TYPE_CHECKING, Any

import ray
from ray import tune
from ray.exceptions import RayError, RayTaskError

from tradesweep.errors import RecordingError, TrialDiverged
from tradesweep.names import Metric, TrialStatus
from tradesweep.recording import connect_recorder
from tradesweep.trial.assignment import Assignment, SweepContext
from tradesweep.trial.logs import TrialLog
from tradesweep.trial.stopping import SCORE_FLOOR

if TYPE_CHECKING:
    from tradesweep.trial.session import IterationResult, TrialSession

BARRIER_S = 30.0
"""How long the first trial of a process waits for the other slots."""

logger = logging.getLogger(__name__)


class TrialTrainable(tune.Trainable):
    """One warm process per concurrent trial: `setup` once, `reset_config` for each later trial."""

    def setup(self, config: dict[str, Any], context: SweepContext | None = None) -> None:
        """Called once per process by Tune."""
        from tradesweep.trial.runners import RunnerPool

        assert context is not None
        self.context = context
        self.market = ray.get(context.market)
        self._runners = RunnerPool(context.market, num_cpus=context.cpus_per_bundle)
        self._session: TrialSession | None = None
        self._broken: BaseException | None = None
        self._log = TrialLog()
        self._await_all_slots()
        # Begun by the first step: Tune may give the trial to a process that became free while this one was starting,
        # and a process that began it all the same would shut out the one that trains it.
        self._waiting: dict[str, Any] | None = config

    def _await_all_slots(self) -> None:
        """Wait until all slots have a process.

        Without this, Tune hands every waiting trial to the first process that becomes free and removes those that
        are still starting: short trials would run one at a time for ever.
        """
        recorder = connect_recorder(self.context.recorder)
        token, deadline = f"{os.getpid()}", time.monotonic() + BARRIER_S
        while recorder.register_worker(token) < self.context.concurrent_trials and time.monotonic() < deadline:
            time.sleep(0.05)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Begin another trial in this process. Never False: Tune would fail the next, innocent trial."""
        self._waiting = None
        self._begin(new_config)
        return True

    def _begin(self, config: dict[str, Any]) -> None:
        from tradesweep.trial.session import TrialSession

        self._end_session()
        self._assignment = Assignment.from_config(config)
        self._log.begin(self.context.folders.logs(self.context.sweep_id), self._assignment.trial_no)
        logger.info("trial %s begins: %s", self._assignment.trial_no, dict(self._assignment.params))
        self._last: IterationResult | None = None
        self._broken = None
        try:
            self._session = TrialSession(self.context, self._assignment, market=self.market)
            if self.context.env_runners:
                self._session.attach_runners(self._runners)
        except Exception as error:
            logger.exception("trial %s could not be built", self._assignment.trial_no)
            self._broken = error

    def step(self) -> dict[str, Any]:
        """One evaluation interval."""
        if self._waiting is not None:
            config, self._waiting = self._waiting, None
            self._begin(config)
        try:
            if self._broken is not None:
                raise self._broken
            assert self._session is not None
            self._last = self._session.iterate()
        except Exception as error:
            return self._failed(classify(error), error)
        logger.info("trial %s %s", self._assignment.trial_no, self._last)
        return self._result(self._last, done=self._last.status != TrialStatus.RUNNING)

    def _result(self, result: IterationResult, *, done: bool) -> dict[str, Any]:
        return {
            Metric.VALIDATION_SCORE.value: result.score,
            Metric.TRAIN_ENV_STEPS.value: result.env_steps,
            "evaluation": result.iteration,
            "status": result.status.value,
            "error": None,
            "done": done,
        }

    def _failed(self, status: TrialStatus, error: BaseException) -> dict[str, Any]:
        """End the trial as failed. Living runners serve the next trial, which begins them anew."""
        logger.error("trial %s %s", self._assignment.trial_no, status, exc_info=error)
        if status == TrialStatus.CRASHED:
            self._runners.discard()
        elif self._session is not None:
            self._session.flush_what_is_left()
        last = self._last
        return {
            Metric.VALIDATION_SCORE.value: SCORE_FLOOR,
            Metric.TRAIN_ENV_STEPS.value: last.env_steps if last else 0,
            "evaluation": last.iteration + 1 if last else 1,
            "status": status.value,
            "error": "".join(traceback.format_exception(error)),
            "done": True,
        }

    def _end_session(self) -> None:
        """Close the last trial; what goes wrong with it is not the next one's."""
        session, self._session = self._session, None
        if session is None:
            return
        try:
            session.close()
        except Exception:
            logger.exception("trial %s could not be closed cleanly", self._assignment.trial_no)
            self._runners.discard()

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Checkpoints are published by the session; Tune is never asked to keep one."""
        del checkpoint_dir

    def load_checkpoint(self, checkpoint: dict[str, Any] | None) -> None:
        """A trial goes on from the checkpoint in its assignment."""
        del checkpoint

    def cleanup(self) -> None:
        """Called when Tune lets the process go."""
        self._end_session()
        self._runners.discard()
        self._log.end()


def classify(error: BaseException) -> TrialStatus:
    """DIVERGED: something is not finite. CRASHED: a process or the recorder is lost. FAILED: anything else.

    An error inside a remote runner arrives wrapped; what counts is what was raised there.
    """
    cause: BaseException | None = error
    while isinstance(cause, RayTaskError):
        cause = cause.cause
    if isinstance(cause, TrialDiverged):
        return TrialStatus.DIVERGED
    return TrialStatus.CRASHED if isinstance(cause, RayError | RecordingError) else TrialStatus.FAILED
