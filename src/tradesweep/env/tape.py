"""Tape: the columnar log of what lanes did, written in place while they step.

A kernel writes each step straight into the tape's (T, E) columns; `drain` turns them into the columns of the
record kinds. Nothing is computed twice: fills, trades and totals are sums over what the kernel wrote.

Legend: T rows the tape holds before it must digest them, E lanes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tradesweep.env.accounts import STEP_MASK, Accounts, Columns
from tradesweep.env.kernel import Kernel
from tradesweep.env.rows import Ints, StepBlock, StepRow
from tradesweep.names import EPISODE_STEP_BITS, RECORD_COLUMNS, EpisodeEnd, EpisodeRole, Record

DEFAULT_ROWS = 512
TAPE_RECORDS = (
    Record.EPISODES_OPENED,
    Record.STEPS,
    Record.FILLS,
    Record.TRADES,
    Record.EPISODES_CLOSED,
)
_EMPTY: dict[str, Any] = {"int": np.int64, "float": np.float64, "text": object, "blob": object}


def now_us() -> int:
    """Wall clock, microseconds since 1970 UTC."""
    return time.time_ns() // 1000


class Tape:
    """Records the lanes of one kernel. Made by its owner, bound when a kernel records to it.

    `next_episode_no` numbers the episodes. `role` is one for all lanes or one per lane. A fragment of up to `rows`
    steps is drained in lane-major order; a longer one is lane-major within each `rows` steps.
    """

    def __init__(
        self,
        *,
        next_episode_no: Callable[[], int],
        role: EpisodeRole | Sequence[EpisodeRole] = EpisodeRole.TRAIN,
        rows: int = DEFAULT_ROWS,
        clock_us: Callable[[], int] = now_us,
    ) -> None:
        assert rows >= 1, f"a tape needs a row, was {rows}"
        self.seeds: list[int | None] | None = None
        """Seed of each lane's generator, written into its openings."""
        self._next_episode_no = next_episode_no
        self._role = role
        self._capacity = rows
        self._clock_us = clock_us
        self._kernel: Kernel | None = None
        self._pending: list[dict[Record, Columns]] = []
        self._openings: list[tuple[Any, ...]] = []

    # --- what a kernel does -----------------------------------------------------------------------------------

    def bind(self, kernel: Kernel) -> None:
        """Allocate for this kernel's lanes. Rows of an earlier kernel stay until the next drain."""
        self._digest()
        self._kernel = kernel
        self._accounts = Accounts(kernel)
        self._block = StepBlock(self._capacity, kernel.lanes)
        self._used = 0
        self._offset_E: Ints = -kernel.bar_E  # step_id less bar: one number for each episode
        self._shifts: list[tuple[int, Ints, Ints]] = []
        self._roles = [self._role] * kernel.lanes if isinstance(self._role, str) else list(self._role)
        assert len(self._roles) == kernel.lanes, f"one role per lane: {kernel.lanes} lanes, {len(self._roles)} roles"

    def next_row(self) -> StepRow:
        """The row that the coming step is written into."""
        self._make_room(1)
        return self._block.row(self._used)

    def next_cells(self, count: int) -> NDArray[Any]:
        """(T, E) the cells that the coming `count` steps are written into; no more than the tape has rows."""
        assert count <= self._capacity, f"a tape of {self._capacity} rows has no room for {count}"
        self._make_room(count)
        return self._block.cells_TE[self._used : self._used + count]

    def commit(self, count: int = 1) -> None:
        """So many rows are written."""
        self._used += count

    def open_episodes(self, lanes: Ints, start_bar: Ints) -> None:
        """These lanes begin an episode at the close of `start_bar`."""
        numbers = [self._open(lane, bar) for lane, bar in zip(lanes.tolist(), start_bar.tolist(), strict=True)]
        offset = (np.array(numbers, np.int64) << EPISODE_STEP_BITS) - start_bar
        self._shifts.append((self._used, lanes, offset - self._offset_E[lanes]))
        self._offset_E[lanes] = offset

    def close_episodes(self, lanes: Ints, reason: EpisodeEnd = EpisodeEnd.RESET) -> None:
        """These lanes' running episodes end where they stand, TRUNCATED."""
        self._digest()
        next_id = self._next_ids()[lanes]
        episode_no, begun = next_id >> EPISODE_STEP_BITS, (next_id & STEP_MASK) > 0
        self._pending.append(self._accounts.close(lanes, episode_no, begun, self._clock_us(), reason))

    # --- what the owner does ----------------------------------------------------------------------------------

    def positions(self) -> list[tuple[int, int]]:
        """(episode number, t of the next step) of every lane."""
        return [(i >> EPISODE_STEP_BITS, i & STEP_MASK) for i in self._next_ids().tolist()]

    def last_row(self) -> StepRow:
        """The row that was written last."""
        return self._block.row(self._used - 1)

    def columns(self) -> dict[str, NDArray[Any]]:
        """(T, E) columns of `StepRow` for the last rows, at most `rows` of them and none drained: views."""
        return {name: column[: self._used] for name, column in self._block.columns.items()}

    def drain(self, weights_version: int) -> dict[Record, dict[str, NDArray[Any] | list[Any]]]:
        """All rows since the last drain, as the columns of `names.RECORD_COLUMNS`; the arrays are the caller's.

        `weights_version` is written into every step. NaN stands for NULL. Episodes that still run go on.
        """
        self._digest()
        records = {kind: _join(kind, self._pending) for kind in TAPE_RECORDS[1:]}
        steps = records[Record.STEPS]
        steps["weights_version"] = np.full(len(steps["step_id"]), weights_version, np.int64)
        opened = self._opening_columns()
        self._pending, self._openings = [], []
        return {Record.EPISODES_OPENED: opened, **records}

    # --- inside -----------------------------------------------------------------------------------------------

    def _open(self, lane: int, bar: int) -> int:
        assert self._kernel is not None, "a tape records only for the kernel it is bound to"
        number = self._next_episode_no()
        start_time = int(self._kernel.bars.time_us[bar])
        seed = self.seeds[lane] if self.seeds else None
        equity = float(self._kernel.initial_equity)
        row = (number, str(self._roles[lane]), lane, None, seed, self._clock_us(), bar, start_time, equity)
        self._openings.append(row)
        return number

    def _next_ids(self) -> Ints:
        """(E,) step_id of each lane's next step."""
        assert self._kernel is not None, "a tape has positions only of the kernel it is bound to"
        return self._kernel.bar_E + self._offset_E

    def _number_steps(self, bar_TE: NDArray[Any]) -> Ints:
        """(T, E) step ids of the rows written so far; a lane's rows before an opening are of the episode before."""
        ids_TE: Ints = bar_TE + self._offset_E
        for row, lanes, shift in self._shifts:
            ids_TE[:row, lanes] -= shift
        self._shifts = []
        return ids_TE

    def _opening_columns(self) -> dict[str, NDArray[Any] | list[Any]]:
        names = [column.name for column in RECORD_COLUMNS[Record.EPISODES_OPENED]]
        columns = list(zip(*self._openings, strict=True)) or [()] * len(names)
        return {name: list(column) for name, column in zip(names, columns, strict=True)}

    def _make_room(self, count: int) -> None:
        if self._used + count > self._capacity:
            self._digest()

    def _digest(self) -> None:
        """Turn the rows written so far into columns, and begin again."""
        if self._kernel is None or not self._used:
            return
        columns = self.columns()
        columns["step_id"] = self._number_steps(columns["bar"])
        self._used = 0
        self._pending.append(self._accounts.digest(columns, self._clock_us()))


def _join(kind: Record, chunks: list[dict[Record, Columns]]) -> dict[str, NDArray[Any] | list[Any]]:
    parts = [chunk[kind] for chunk in chunks if kind in chunk]
    columns = [column for column in RECORD_COLUMNS[kind] if column.name != "weights_version"]
    if not parts:
        return {column.name: np.zeros(0, _EMPTY[column.kind]) for column in columns}
    if len(parts) == 1:
        return {column.name: parts[0][column.name] for column in columns}
    return {column.name: np.concatenate([part[column.name] for part in parts]) for column in columns}
