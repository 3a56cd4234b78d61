"""What a recorder offers, whoever asks and wherever it lives.

`RemoteRecorder` is the Ray actor as seen from any process of the sweep; `LocalRecorder` is a store.Writer in
this process, for commands and tests. A call that gets no answer raises RecorderUnavailable: whether it was
executed is unknown then, so a batch is sent again with the same bytes and the store's watermark decides.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, cast

from tradesweep.names import Answer, Batch, Grant, ProducerKey, SweepEnd, SweepStatus, TrialPhase, TrialStatus
from tradesweep.recording.stats import RecorderStats

if TYPE_CHECKING:
    from tradesweep.store import NewSweep


class PendingReply(Protocol):
    """An answer that is on its way."""

    def result(self, timeout_s: float) -> Answer:
        """Wait for the answer. Raises RecorderUnavailable when none comes in time."""
        ...


class RecorderClient(ABC):
    """Everything that may be asked of a recorder.

    Errors are the store's own (StoreError and below), RecordingError for a message that cannot be read, and
    RecorderUnavailable when no answer came.
    """

    @abstractmethod
    def write(self, batch: Batch) -> PendingReply:
        """Hand over a batch; the reply comes after its commit."""

    @abstractmethod
    def control(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Ask the recorder for anything but a write, and wait for the answer."""

    def hello(self, key: ProducerKey, *, pid: int, host: str) -> Grant:
        """Start an incarnation of a producer; earlier incarnations are fenced from here on."""
        return cast("Grant", self.control("hello", key, pid=pid, host=host))

    def open_sweep(self, sweep: NewSweep) -> None:
        """Create the sweep, or go on with it."""
        self.control("open_sweep", sweep)

    def close_sweep(
        self,
        sweep_id: str,
        status: SweepStatus,
        reason: SweepEnd | None = None,
        best_trial_id: int | None = None,
    ) -> None:
        """Say how the sweep ended, what ended it before it had all its trials, and which of them won."""
        self.control("close_sweep", sweep_id, status, reason, best_trial_id)

    def open_trial(
        self,
        sweep_id: str,
        trial_no: int,
        params: Mapping[str, Any],
        point: Mapping[str, Any],
        seed: int,
        point_hash: str,
        *,
        point_no: int | None = None,
        seed_no: int = 0,
        phase: TrialPhase = TrialPhase.SEARCH,
    ) -> int:
        """Create a trial and give its trial_id. `params` is everything, `point` what the search chose.

        Without `point_no` it is the only trial of its point.
        """
        texts = {"params_json": json.dumps(dict(params)), "point_json": json.dumps(dict(point))}
        place = {"point_no": point_no, "seed_no": seed_no, "phase": phase}
        words = {"seed": seed, "point_hash": point_hash, **texts, **place}
        return cast("int", self.control("open_trial", sweep_id, trial_no, **words))

    def start_attempt(self, trial_id: int, pid: int, resumed_from_iteration: int | None = None) -> int:
        """Start the next attempt of a trial and give its number."""
        return cast("int", self.control("start_attempt", trial_id, pid, resumed_from_iteration))

    def close_trial(self, trial_id: int, status: TrialStatus, error: str | None = None) -> None:
        """End a trial: its attempt, its open episodes, its open trades, its producers."""
        self.control("close_trial", trial_id, status, error)

    def mark_checkpoint_deleted(self, trial_id: int, iteration: int) -> None:
        """Say that retention removed the files of a checkpoint."""
        self.control("mark_checkpoint_deleted", trial_id, iteration)

    def mark_outbox(self, ids: Sequence[int]) -> None:
        """Say that these outbox rows reached MLflow."""
        self.control("mark_outbox", list(ids))

    def note_mlflow_run(self, sweep_id: str, trial_id: int | None, run_id: str) -> None:
        """Note the MLflow run of a sweep, or of one of its trials."""
        if trial_id is None:
            self.control("set_sweep_mlflow_run", sweep_id, run_id)
        else:
            self.control("set_trial_mlflow_run", trial_id, run_id)

    def register_worker(self, token: str) -> int:
        """Announce a worker slot as up, and learn how many are.

        The start barrier: a worker announces itself and asks again until as many are up as there are slots.
        Announcing twice counts once; asking by announcing heals a recorder that restarted in between.
        """
        return cast("int", self.control("register_worker", token))

    def workers_ready(self) -> int:
        """How many worker slots have announced themselves."""
        return cast("int", self.control("workers_ready"))

    def stats(self) -> RecorderStats:
        """Rows, rate, lag and the last commit."""
        return cast("RecorderStats", self.control("stats"))

    @abstractmethod
    def drain(self, timeout_s: float) -> RecorderStats:
        """Wait until everything handed over before this call is committed."""

    @abstractmethod
    def close(self, timeout_s: float) -> None:
        """Drain, close the database and give its lock back. A closed recorder answers nothing more."""
