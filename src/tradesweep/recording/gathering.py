"""Records that wait until they are worth a batch."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np

from tradesweep.names import Record
from tradesweep.recording.wire import MAX_BATCH_ROWS, Columns

GATHER_S = 0.5
"""Seconds after which few rows are worth a batch, too."""


class Gathered:
    """Records that wait for a batch, in the order in which they came."""

    def __init__(self) -> None:
        self._parts: list[Mapping[Record, Columns]] = []
        self._rows = self._largest = self._dropped = 0
        self._since_s = 0.0

    @property
    def is_due(self) -> bool:
        """A batch is full, which is when another part like these would not fit, or it is old enough."""
        is_full = self._rows + self._largest > MAX_BATCH_ROWS
        return bool(self._parts) and (is_full or time.monotonic() - self._since_s >= GATHER_S)

    @property
    def steps(self) -> int:
        """Steps that wait, those included that will never be recorded."""
        return sum(count_rows(part, Record.STEPS) for part in self._parts) + self._dropped

    def add(self, records: Mapping[Record, Columns], dropped: int) -> None:
        """Put these behind the others."""
        if not self._parts:
            self._since_s = time.monotonic()
        self._parts.append(records)
        rows = sum(count_rows(records, kind) for kind in records)
        self._rows, self._largest = self._rows + rows, max(self._largest, rows)
        self._dropped += dropped

    def take(self) -> tuple[dict[Record, Columns], int]:
        """All of them as one, and how many steps were dropped; nothing waits then."""
        kinds = {kind for part in self._parts for kind in part}
        joined = {kind: _join([part[kind] for part in self._parts if kind in part]) for kind in kinds}
        dropped = self._dropped
        self._parts, self._rows, self._largest, self._dropped = [], 0, 0, 0
        return joined, dropped


def count_rows(records: Mapping[Record, Columns], kind: Record) -> int:
    """Rows of one kind."""
    return len(next(iter(records[kind].values()), ())) if kind in records else 0


def _join(parts: Sequence[Columns]) -> Columns:
    if len(parts) == 1:
        return parts[0]
    return {name: _chain([part[name] for part in parts]) for name in parts[0]}


def _chain(columns: Sequence[Any]) -> Any:
    """One behind the other. Empty ones are left out: NumPy gives them a type that would spread to the others."""
    filled = [column for column in columns if len(column)] or [columns[0]]
    if all(isinstance(column, np.ndarray) for column in filled):
        return np.concatenate(filled)
    return list(chain.from_iterable(filled))
