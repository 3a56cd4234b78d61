"""The receiving side without Ray: one open Writer, decoding, counting, the start barrier."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tradesweep.errors import RecorderUnavailable, RecordingError, StoreLocked, TradesweepError
from tradesweep.names import Answer, Batch
from tradesweep.recording.client import RecorderClient
from tradesweep.recording.stats import CommitMeter, RecorderStats
from tradesweep.recording.wire import decode_batch

if TYPE_CHECKING:
    from tradesweep.store import Writer

_LOCK_PAUSE_S = 0.05

WRITER_METHODS = frozenset(
    {
        "hello",
        "open_sweep",
        "close_sweep",
        "open_trial",
        "start_attempt",
        "close_trial",
        "mark_checkpoint_deleted",
        "mark_outbox",
        "set_sweep_mlflow_run",
        "set_trial_mlflow_run",
    }
)
"""What a client may ask of the Writer by name."""


def open_writer_patiently(open_writer: Callable[[], Writer], *, lock_timeout_s: float) -> Writer:
    """Open the database, waiting for the lock of a recorder that just died.

    Raises StoreLocked, naming the holder, when another process still has the lock after `lock_timeout_s`.
    """
    deadline = time.monotonic() + lock_timeout_s
    while True:
        try:
            return open_writer()
        except StoreLocked:
            if time.monotonic() >= deadline:
                raise
            time.sleep(_LOCK_PAUSE_S)


class RecorderService:
    """Applies batches and answers questions. Writes come from one thread, control from another."""

    def __init__(self, open_writer: Callable[[], Writer]) -> None:
        self._open_writer = open_writer
        self._writer: Writer | None = None
        self._closed = False
        self._mutex = threading.Lock()
        self._meter = CommitMeter()
        self._workers: set[str] = set()

    def open(self) -> None:
        """Open the database now rather than at the first call that needs it."""
        self._opened()

    def _opened(self) -> Writer:
        """The Writer, opened by whoever asks first; a failed opening is tried again by the next one."""
        with self._mutex:
            if self._closed:
                raise RecorderUnavailable("the recorder was closed; its sweep has ended")
            if self._writer is None:
                self._writer = self._open_writer()
            return self._writer

    def write(self, batch: Batch, sent_at_s: float) -> Answer:
        """Apply a batch in one transaction; the answer is given after its commit."""
        from tradesweep.store import DecodedBatch

        rows = decode_batch(batch)
        decoded = DecodedBatch(
            producer=batch.producer, epoch=batch.epoch, seq=batch.seq, rows=rows, dropped=batch.dropped
        )
        answer = self._opened().apply(decoded)
        self._meter.count(answer, rows=sum(map(len, rows.values())), sent_at_s=sent_at_s)
        return answer

    def control(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Answer anything but a write."""
        if method in WRITER_METHODS:
            return getattr(self._opened(), method)(*args, **kwargs)
        own: dict[str, Callable[..., Any]] = {
            "register_worker": self.register_worker,
            "workers_ready": self.workers_ready,
            "stats": self._meter.read,
        }
        if method not in own:
            raise RecordingError(f"a recorder knows {sorted(WRITER_METHODS | own.keys())}, was asked for {method!r}")
        return own[method](*args, **kwargs)

    def register_worker(self, token: str) -> int:
        """Note that a worker slot is up; how many are."""
        self._workers.add(token)
        return len(self._workers)

    def workers_ready(self) -> int:
        """How many worker slots are up."""
        return len(self._workers)

    def stats(self) -> RecorderStats:
        """The numbers as they stand now."""
        return self._meter.read()

    def close(self) -> None:
        """Close the Writer once and for all."""
        with self._mutex:
            self._closed = True
            writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()


class _Answered:
    """A reply that was there at once: an answer, or the error that stands in its place."""

    def __init__(self, answer: Answer | TradesweepError) -> None:
        self._answer = answer

    def result(self, timeout_s: float) -> Answer:  # noqa: ARG002 - the answer is here
        """Give the answer without waiting."""
        if isinstance(self._answer, TradesweepError):
            raise self._answer
        return self._answer


class LocalRecorder(RecorderClient):
    """The recorder interface over an open Writer in this process; `close` closes the Writer."""

    def __init__(self, writer: Writer) -> None:
        self._service = RecorderService(lambda: writer)
        self._service.open()

    def write(self, batch: Batch) -> _Answered:
        """Apply the batch now."""
        try:
            return _Answered(self._service.write(batch, time.time()))
        except TradesweepError as error:
            return _Answered(error)

    def control(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Ask the service directly."""
        return self._service.control(method, *args, **kwargs)

    def drain(self, timeout_s: float = 0.0) -> RecorderStats:  # noqa: ARG002 - nothing waits
        """The numbers as they stand: every write was committed before it returned."""
        return self._service.stats()

    def close(self, timeout_s: float = 0.0) -> None:  # noqa: ARG002 - nothing waits
        """Close the Writer and give its lock back."""
        self._service.close()
