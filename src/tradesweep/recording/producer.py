"""The sending side: numbers for episodes, one batch in flight, and no row lost without being counted.

A producer is one role of one attempt of one trial. `send` first awaits the answer to the batch before, so the
recorder can never be more than one batch behind any producer: a slow database slows the sampling, and nothing
buffers without bound. A batch is encoded once; whatever happens to the recorder, the same bytes go out again
until they are acknowledged, and the sequence number makes the second time harmless.
"""

from __future__ import annotations

import os
import random
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from tradesweep.errors import Fenced, RecorderUnavailable, RecordingError, SchemaMismatch, StoreError
from tradesweep.names import PRODUCER_EPISODE_BITS, Answer, Batch, Frame, Grant, ProducerKey, Record
from tradesweep.recording.client import PendingReply, RecorderClient
from tradesweep.recording.wire import Columns, build_batch, cut_into_batches

Answered = TypeVar("Answered")

_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 2.0
_GAPS_FORGIVEN = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class ProducerCounts:
    """What one incarnation of a producer handed over."""

    rows_sent: int
    """Rows in all batches handed to the recorder, each counted once."""
    rows_acknowledged: int
    """Rows whose commit was confirmed."""
    steps_dropped: int
    """Steps reported as sampled and never recorded."""
    resends: int
    """Times a batch was sent again."""


@dataclass(slots=True)
class _InFlight:
    """The one batch that awaits its answer."""

    batch: Batch
    rows: int
    reply: PendingReply | None
    """None when the batch could not even be handed over, or must be sent again."""


class _GapError(RecordingError):
    """The database's watermark is behind what it acknowledged."""


class Producer:
    """One incarnation of a producer. Not thread-safe: it belongs to the loop that samples.

    `connect` gives a client for the recorder as it is now and is called again after each failure. `timeout_s`
    is the longest wait for one answer, re-sending included, before RecorderUnavailable; the batch stays in
    flight then, and the next `send` or `flush` goes on trying.
    """

    def __init__(self, connect: Callable[[], RecorderClient], key: ProducerKey, *, timeout_s: float) -> None:
        self._connect = connect
        self._client: RecorderClient | None = None
        self._timeout_s = timeout_s
        self._jitter = random.Random()  # it spreads the retries; no result depends on it
        self._in_flight: _InFlight | None = None
        self._seq = 0
        self._episodes = 0
        self._rows_sent = self._rows_acknowledged = self._steps_dropped = self._resends = 0
        self.key = key
        self.grant = self._persist(self._hello, "hello")

    @property
    def counts(self) -> ProducerCounts:
        """Rows sent and acknowledged, steps dropped, batches sent again."""
        return ProducerCounts(
            rows_sent=self._rows_sent,
            rows_acknowledged=self._rows_acknowledged,
            steps_dropped=self._steps_dropped,
            resends=self._resends,
        )

    def next_episode_no(self) -> int:
        """A number no other episode of this database has: the producer's number and a running one."""
        if self._episodes >> PRODUCER_EPISODE_BITS:
            raise RecordingError(
                f"producer {self.key} must open at most {1 << PRODUCER_EPISODE_BITS} episodes;"
                " make env.episode_bars longer or the trial shorter"
            )
        number = self.grant.producer_no << PRODUCER_EPISODE_BITS | self._episodes
        self._episodes += 1
        return number

    def send(self, records: Mapping[Record, Columns], *, dropped: int = 0) -> None:
        """Encode and hand over; returns with the last batch in flight and all earlier ones committed.

        `dropped` counts steps sampled since the previous call that will never be recorded. Raises Fenced when
        a newer incarnation of this producer exists, RecorderUnavailable when an answer takes longer than
        `timeout_s`, RecordingError when the records are not what the tables hold.
        """
        parts = list(cut_into_batches(records))
        if dropped and not parts:
            parts = [()]
        for number, frames in enumerate(parts):
            self._send_frames(frames, dropped if number == 0 else 0)

    def flush(self) -> None:
        """Return when everything sent is committed. Raises as `send` does."""
        if self._in_flight is not None:
            self._persist(self._settle, f"batch {self._seq}")

    def _send_frames(self, frames: tuple[Frame, ...], dropped: int) -> None:
        self.flush()
        self._seq += 1
        batch = build_batch(self.key, self.grant.epoch, self._seq, frames, dropped=dropped)
        rows = sum(frame.rows for frame in frames)
        self._in_flight = _InFlight(batch, rows, None)
        self._rows_sent += rows
        self._steps_dropped += dropped
        self._hand_over()

    def _hand_over(self) -> None:
        """Start the write; a recorder that is not there is the business of the one who awaits the answer."""
        assert self._in_flight is not None
        try:
            self._in_flight.reply = self._reach().write(self._in_flight.batch)
        except RecorderUnavailable:
            self._client = None

    def _hello(self, _: float) -> Grant:
        return self._reach().hello(self.key, pid=os.getpid(), host=socket.gethostname())

    def _settle(self, timeout_s: float) -> None:
        """Await the answer to the batch in flight, sending it again first if its last sending failed."""
        waiting = self._in_flight
        assert waiting is not None
        if waiting.reply is None:
            self._resends += 1
            waiting.reply = self._reach().write(waiting.batch)
        reply, waiting.reply = waiting.reply, None
        self._take(reply.result(timeout_s))

    def _take(self, answer: Answer) -> None:
        if answer is Answer.FENCED:
            raise Fenced(
                f"producer {self.key} epoch {self.grant.epoch} must stop: a newer incarnation of it exists,"
                " or its trial was closed"
            )
        if answer is Answer.GAP:
            raise _GapError
        assert self._in_flight is not None
        self._rows_acknowledged += self._in_flight.rows
        self._in_flight = None

    def _reach(self) -> RecorderClient:
        if self._client is None:
            self._client = self._connect()
        return self._client

    def _persist(self, attempt: Callable[[float], Answered], what: str) -> Answered:
        """Repeat the attempt, with growing pauses, until it succeeds or `timeout_s` is over."""
        deadline, pause_s, gaps = time.monotonic() + self._timeout_s, _FIRST_PAUSE_S, 0
        while True:
            try:
                return attempt(max(deadline - time.monotonic(), 0.0))
            except SchemaMismatch:
                raise
            except (RecorderUnavailable, StoreError) as error:
                self._client = None
                trouble: Exception = error
            except _GapError as error:
                gaps += 1
                trouble = error
            if gaps > _GAPS_FORGIVEN:
                raise self._lost_batches()
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise self._no_answer(what, trouble) from trouble
            time.sleep(min(pause_s * self._jitter.uniform(0.5, 1.5), left_s))
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def _lost_batches(self) -> RecordingError:
        return RecordingError(
            f"producer {self.key} epoch {self.grant.epoch} must find every batch below {self._seq} in the"
            " database, but acknowledged ones are missing; was its file replaced while the sweep ran?"
        )

    def _no_answer(self, what: str, trouble: Exception) -> RecorderUnavailable:
        return RecorderUnavailable(
            f"{what} of {self.key} must be committed within {self._timeout_s:g} s (recording.db_timeout_s),"
            f" was not: {trouble}"
        )
