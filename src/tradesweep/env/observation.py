"""Observations: float32 rows of the environment page's layout. What is in them is written in `observing.py`, compiled.

Legend: N bars, F features, W window bars, E lanes, A positions, S state columns, D = W F + S row width.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tradesweep.env.kernel import Kernel
from tradesweep.env.rows import Floats, Ints, read_only


class ObservationBuilder:
    """Writes (E, D) float32 rows: features t-W+1..t oldest first, then the state of the position and the reward.

    Nothing after bar t is read. There is no table of windows: a row's features are W F numbers in a row of the (N, F)
    features.
    """

    def __init__(
        self,
        features_NF: NDArray[np.float32],
        *,
        positions: Sequence[float],
        window_bars: int,
        lanes: int,
        reward_state_size: int = 0,
    ) -> None:
        self._features_NF: NDArray[np.float32] = read_only(features_NF, np.float32)
        self._positions_A = np.array(positions, dtype=np.float64)
        self._window_bars = window_bars
        self._lanes = lanes
        self._reward_state_ER = np.zeros((lanes, reward_state_size))
        self.window_width = window_bars * self._features_NF.shape[1]
        self.state_width = sum(size for _, size in self.layout()[1:])
        self.width = self.window_width + self.state_width

    def layout(self) -> list[tuple[str, int]]:
        """Parts of a row in order, with their widths."""
        return [
            ("features", self.window_width),
            ("exposure", 1),
            ("position", len(self._positions_A)),
            ("unrealised_return", 1),
            ("bars_in_trade", 1),
            ("reward_state", self._reward_state_ER.shape[1]),
        ]

    def build(
        self, kernel: Kernel, reward_state_E: Floats, out_ED: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """(E, D) rows at the bars where the lanes stand: a new array, or `out_ED` (C-contiguous) written in place."""
        shape = (self._lanes, self.width)
        rows_ED = np.empty(shape, np.float32) if out_ED is None else out_ED
        assert rows_ED.shape == shape, f"rows must have shape {shape}, had {rows_ED.shape}"
        state = self.state_parts(kernel, reward_state_E)
        self._write_rows(kernel.accounts_E, self._features_NF, *state, rows_ED)
        return rows_ED

    def state_parts(self, kernel: Kernel, reward_state_E: Floats) -> tuple[Floats, int, float, Floats]:
        """What compiled code needs, beside the accounts, to write the state; valid until the next call."""
        assert kernel.lanes == self._lanes, f"a builder of {self._lanes} lanes, a kernel of {kernel.lanes}"
        if self._reward_state_ER.shape[1]:
            self._reward_state_ER[:] = reward_state_E
        return self._positions_A, self._window_bars, kernel.initial_equity, self._reward_state_ER

    def build_windows(self, bars: Ints) -> NDArray[np.float32]:
        """(n, W F) the feature parts of rows at these bars (n,)."""
        bars_of_nW = bars[:, None] + np.arange(1 - self._window_bars, 1)
        windows: NDArray[np.float32] = self._features_NF[bars_of_nW].reshape(len(bars), self.window_width)
        return windows

    @cached_property
    def _write_rows(self) -> Any:
        from tradesweep.env.observing import write_rows  # here, since a plan asks for the width alone

        return write_rows
