"""The sending side: numbers for episodes, one batch in flight, and no row lost without being counted.

A producer is one role of one attempt of one trial. `send` first awaits the answer to the batch before, so the
recorder can never be more than one batch behind any producer: a slow database slows the sampling, and nothing
buffers without bound. A batch is encoded once; whatever happens to the recorder, the same bytes go out again
until they are acknowledged, and the sequence number makes the second time harmless. `gather` puts small
fragments together first, since a commit costs the same for few rows as for many.

Only what may pass is waited for: a recorder that is gone, a database that is locked, full or away. What the
database refuses for good is an error at once. A producer that lost rows sends no others, since an episode
without its middle is none; the steps it lost it reports as dropped, as soon as the database listens.
"""

from __future__ import annotations

import logging
import os
import random
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

from tradesweep.errors import (
    Fenced,
    RecorderUnavailable,
    RecordingError,
    StoreError,
    StoreUnavailable,
    TradesweepError,
)
from tradesweep.names import PRODUCER_EPISODE_BITS, Answer, Batch, Frame, Grant, ProducerKey, Record
from tradesweep.recording.client import PendingReply, RecorderClient
from tradesweep.recording.gathering import Gathered, count_rows
from tradesweep.recording.wire import Columns, build_batch, cut_into_batches

Answered = TypeVar("Answered")

_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 2.0
_GAPS_FORGIVEN = 3

logger = logging.getLogger("tradesweep.recording")


@dataclass(frozen=True, kw_only=True, slots=True)
class ProducerCounts:
    """What one incarnation of a producer handed over."""

    rows_sent: int
    """Rows in all batches handed to the recorder, each counted once."""
    rows_acknowledged: int
    """Rows whose commit was confirmed."""
    steps_dropped: int
    """Steps the database counts as sampled and never recorded."""
    steps_unsent: int
    """Steps given to `send` and not yet known to be recorded or counted as dropped: those of the batch in flight,
    and those that a failed `send` could not hand over."""
    resends: int
    """Times a batch was sent again."""


@dataclass(slots=True)
class _InFlight:
    """The one batch that awaits its answer."""

    batch: Batch
    reply: PendingReply | None = None
    """None when the batch could not even be handed over, or must be sent again."""

    @property
    def rows(self) -> int:
        """Rows it brings."""
        return sum(frame.rows for frame in self.batch.frames)

    @property
    def steps(self) -> int:
        """Steps it accounts for."""
        return _count_steps(self.batch.frames) + self.batch.dropped


class _GapError(RecordingError):
    """The database's watermark is behind what it acknowledged."""


class _Patience:
    """The tries of one request: how long they may still go on, what failed, and what the log says of it."""

    def __init__(self, what: str, timeout_s: float) -> None:
        self.what = what
        self.trouble: TradesweepError | None = None
        self._timeout_s = timeout_s
        self._began_s = time.monotonic()
        self._pause_s = _FIRST_PAUSE_S
        self._jitter = random.Random()  # it spreads the retries; no result depends on it

    @property
    def left_s(self) -> float:
        """Seconds until patience ends."""
        return max(self._began_s + self._timeout_s - time.monotonic(), 0.0)

    def note(self, error: TradesweepError) -> None:
        """A try failed. What the database itself said counts for more than a silence after it."""
        if self.trouble is None:
            waits = f"sampling waits, for up to {self._timeout_s:g} s"
            logger.warning("the database does not take %s yet: %s; %s", self.what, error, waits)
        if isinstance(error, StoreError) or not isinstance(self.trouble, StoreError):
            self.trouble = error

    def end(self) -> None:
        """A try succeeded."""
        if self.trouble is not None:
            logger.info("the database took %s after %.1f s", self.what, time.monotonic() - self._began_s)

    def pause(self) -> None:
        """Wait before the next try, longer each time."""
        time.sleep(min(self._pause_s * self._jitter.uniform(0.5, 1.5), self.left_s))
        self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)


class Producer:
    """One incarnation of a producer. Not thread-safe: it belongs to the loop that samples.

    `connect` gives a client for the recorder as it is now and is called again after each failure. `timeout_s`
    is the longest wait for one answer, re-sending included, before RecorderUnavailable; the batch stays in
    flight then, and the next `flush` goes on trying.
    """

    def __init__(self, connect: Callable[[], RecorderClient], key: ProducerKey, *, timeout_s: float) -> None:
        self._connect = connect
        self._client: RecorderClient | None = None
        self._timeout_s = timeout_s
        self._in_flight: _InFlight | None = None
        self._gathered = Gathered()
        self._seq = 0
        self._episodes = 0
        self._rows_sent = self._rows_acknowledged = self._resends = 0
        self._steps_lost = self._steps_dropped = 0
        self._lost_rows = False
        self.key = key
        self.grant = self._persist(self._hello, "hello")

    @property
    def counts(self) -> ProducerCounts:
        """Rows sent and acknowledged, steps dropped and unsent, batches sent again."""
        return ProducerCounts(
            rows_sent=self._rows_sent,
            rows_acknowledged=self._rows_acknowledged,
            steps_dropped=self._steps_dropped,
            steps_unsent=self._steps_lost
            + self._gathered.steps
            + (self._in_flight.steps if self._in_flight is not None else 0),
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
        `timeout_s`, StoreError when the database refuses the rows for good, RecordingError when the records are
        not what the tables hold. What could not be handed over then is lost, and so is what comes after it.
        """
        self._gathered.add(records, dropped)
        self._send(*self._gathered.take())

    def gather(self, records: Mapping[Record, Columns], *, dropped: int = 0) -> None:
        """Keep the records until they are worth a batch, or half a second old, then do as `send` does."""
        self._gathered.add(records, dropped)
        if self._gathered.is_due:
            self._send(*self._gathered.take())

    def _send(self, records: Mapping[Record, Columns], dropped: int) -> None:
        parts = list(cut_into_batches(records)) or ([()] if dropped else [])
        self._steps_lost += sum(map(_count_steps, parts)) + dropped
        if self._lost_rows:
            raise self._lost_earlier()
        self._lost_rows = True  # until all of it is handed over
        for frames in parts:
            self._await_answer()
            self._hand_over(frames, dropped)
            dropped = 0
        self._lost_rows = False

    def flush(self) -> None:
        """Return when all is committed, and what was lost is counted as dropped. Raises as `send`."""
        records, dropped = self._gathered.take()
        if self._lost_rows:
            self._steps_lost += count_rows(records, Record.STEPS) + dropped
        elif records or dropped:
            self._send(records, dropped)
        self._await_answer()
        if self._steps_lost:
            self._hand_over((), self._steps_lost)
            self._await_answer()

    def _await_answer(self) -> None:
        if self._in_flight is None:
            return
        try:
            self._persist(self._settle, f"batch {self._seq}")
        except StoreError:
            self._give_up_refused()
            raise

    def _give_up_refused(self) -> None:
        """The database wrote nothing of the batch and never will: its number is free to tell what was lost."""
        refused = self._in_flight
        assert refused is not None
        self._in_flight, self._seq = None, self._seq - 1
        self._steps_lost += refused.steps
        self._lost_rows = True
        if refused.batch.frames:
            with suppress(TradesweepError):  # the refusal is what the caller must hear
                self.flush()

    def _hand_over(self, frames: tuple[Frame, ...], dropped: int) -> None:
        """Start the write; a recorder that is not there is the business of the one who awaits the answer."""
        self._seq += 1
        batch = build_batch(self.key, self.grant.epoch, self._seq, frames, dropped=dropped)
        self._in_flight = _InFlight(batch)
        self._rows_sent += self._in_flight.rows
        self._steps_lost -= self._in_flight.steps
        try:
            self._in_flight.reply = self._reach().write(batch)
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
            raise _GapError("a batch before it is missing")
        assert self._in_flight is not None
        self._rows_acknowledged += self._in_flight.rows
        self._steps_dropped += self._in_flight.batch.dropped
        self._in_flight = None

    def _reach(self) -> RecorderClient:
        if self._client is None:
            self._client = self._connect()
        return self._client

    def _persist(self, attempt: Callable[[float], Answered], what: str) -> Answered:
        """Repeat the attempt, with growing pauses, until it succeeds, cannot succeed or `timeout_s` is over."""
        patience, gaps = _Patience(what, self._timeout_s), 0
        while True:
            try:
                answered = attempt(patience.left_s)
            except (RecorderUnavailable, StoreUnavailable, _GapError) as error:
                self._client = None
                gaps += isinstance(error, _GapError)
                if gaps > _GAPS_FORGIVEN:
                    raise self._lost_batches() from error
                patience.note(error)
                if not patience.left_s:
                    raise self._no_answer(patience) from error
                patience.pause()
            else:
                patience.end()
                return answered

    def _lost_batches(self) -> RecordingError:
        return RecordingError(
            f"producer {self.key} epoch {self.grant.epoch} must find every batch below {self._seq} in the"
            " database, but acknowledged ones are missing; was its file replaced while the sweep ran?"
        )

    def _lost_earlier(self) -> RecordingError:
        return RecordingError(
            f"producer {self.key} epoch {self.grant.epoch} must hand over all it samples, but an earlier `send`"
            f" failed ({self.counts.steps_unsent} steps are not recorded); begin another incarnation of it"
        )

    def _no_answer(self, patience: _Patience) -> RecorderUnavailable:
        return RecorderUnavailable(
            f"{patience.what} of {self.key} must be committed within {self._timeout_s:g} s (recording.db_timeout_s),"
            f" was not: {patience.trouble}"
        )


def _count_steps(frames: Sequence[Frame]) -> int:
    return sum(frame.rows for frame in frames if frame.kind == Record.STEPS)
