"""What the recorder measures about itself, over a window of the last ten seconds."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from tradesweep.names import Answer

WINDOW_S = 10.0
_MOST_COMMITS = 8192
"""Commits remembered at most, so that the memory of the recorder does not follow the load."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RecorderStats:
    """What the recorder says about itself. A restarted recorder counts from zero."""

    pid: int
    """Its process."""
    rows: int
    """Rows committed."""
    batches: int
    """Batches answered OK."""
    duplicates: int
    """Batches answered DUP: they came again after their commit."""
    rows_per_s: float
    """Rows committed per second, over the window."""
    lag_s: float
    """Longest time from a producer's send to the commit, over the window."""
    last_commit_at_us: int | None
    """Time of the last commit; None before the first."""


@dataclass(frozen=True, slots=True)
class _Commit:
    at_s: float
    rows: int
    lag_s: float


class CommitMeter:
    """Counts commits. `clock` gives seconds since 1970, as the producers' send times do."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._started_at_s = clock()
        self._commits: deque[_Commit] = deque(maxlen=_MOST_COMMITS)
        self._mutex = threading.Lock()
        self._rows = self._batches = self._duplicates = 0
        self._last_at_s: float | None = None

    def count(self, answer: Answer, *, rows: int, sent_at_s: float) -> None:
        """Take note of an answered batch."""
        with self._mutex:
            if answer is Answer.OK:
                self._last_at_s = self._clock()
                self._rows += rows
                self._batches += 1
                self._commits.append(_Commit(self._last_at_s, rows, max(0.0, self._last_at_s - sent_at_s)))
            elif answer is Answer.DUP:
                self._duplicates += 1

    def read(self) -> RecorderStats:
        """The numbers as they stand now."""
        with self._mutex:
            now_s = self._clock()
            recent = [commit for commit in self._commits if commit.at_s > now_s - WINDOW_S]
            # The first second after the start is counted whole, so that one early batch is no record rate.
            span_s = min(max(now_s - self._started_at_s, 1.0), WINDOW_S)
            return RecorderStats(
                pid=os.getpid(),
                rows=self._rows,
                batches=self._batches,
                duplicates=self._duplicates,
                rows_per_s=sum(commit.rows for commit in recent) / span_s,
                lag_s=max((commit.lag_s for commit in recent), default=0.0),
                last_commit_at_us=None if self._last_at_s is None else int(self._last_at_s * 1e6),
            )
