"""Observations: float32 rows of the environment page's layout.

Legend: N bars, F features, W window bars, E lanes, A positions, S state columns, D = W F + S row width.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy import add, divide, equal, maximum, minimum, multiply, not_equal, subtract
from numpy.typing import NDArray

from tradesweep.env.kernel import Kernel
from tradesweep.env.rows import Bools, Floats, Ints

EXPOSURE_LIMIT = 5.0
LEAST_EQUITY = 1e-12
"""The exposure of a lane without equity (it just ended) is taken at this fraction of the starting equity."""


class ObservationBuilder:
    """Writes (E, D) float32 rows: features t-W+1..t oldest first, then the state of the position and the reward.

    Nothing after bar t is read. The windows are not copied into a table: a row of W F numbers is one element of an
    overlapping view of the (N, F) features, so a gather is one copy per lane and the features stay in cache.
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
        self._features_NF = np.ascontiguousarray(features_NF, dtype=np.float32)
        self._window_bars = window_bars
        self._reward_state_size = reward_state_size
        self._positions_A1 = np.array(positions, dtype=np.float64)[:, None]
        self.window_width = window_bars * self._features_NF.shape[1]
        self.width = self.window_width + sum(size for _, size in self.layout()[1:])
        self._windows = self._view_windows()
        self._lanes = lanes
        self._allocate()

    def _allocate(self) -> None:
        lanes, positions = self._lanes, len(self._positions_A1)
        self._state_SE = np.zeros((self.width - self.window_width, lanes))
        self._exposure_E, self._onehot_AE = self._state_SE[0], self._state_SE[1 : 1 + positions]
        self._trade_2E = self._state_SE[1 + positions : 3 + positions]
        self._unrealised_E, self._bars_E = self._trade_2E
        self._reward_state_RE = self._state_SE[3 + positions :]
        self._scratch_E, self._held_E, self._least_E, self._zero_E = np.zeros((4, lanes))
        self._one_E, self._window_E = np.ones(lanes), np.full(lanes, float(self._window_bars))
        self._limit_E, self._minus_limit_E = np.full(lanes, EXPOSURE_LIMIT), np.full(lanes, -EXPOSURE_LIMIT)
        self._is_held_E: Bools = np.zeros(lanes, np.bool_)
        self._is_at_AE: Bools = np.zeros((positions, lanes), np.bool_)
        self._age_E: Ints = np.zeros(lanes, np.int64)

    def layout(self) -> list[tuple[str, int]]:
        """Parts of a row in order, with their widths."""
        return [
            ("features", self.window_width),
            ("exposure", 1),
            ("position", len(self._positions_A1)),
            ("unrealised_return", 1),
            ("bars_in_trade", 1),
            ("reward_state", self._reward_state_size),
        ]

    def build(
        self, kernel: Kernel, reward_state_E: Floats, out_ED: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """(E, D) rows at the bars where the lanes stand: a new array, or `out_ED` (C-contiguous) written in place."""
        rows_ED = np.empty((self._lanes, self.width), np.float32) if out_ED is None else out_ED
        if self.window_width:
            self._window_part(rows_ED)[:] = self._windows[kernel.bar_E - (self._window_bars - 1)]
        rows_ED[:, self.window_width :] = self._write_state(kernel, reward_state_E).T
        return rows_ED

    def build_windows(self, bars: Ints) -> NDArray[np.float32]:
        """(n, W F) the feature parts of rows at these bars (n,)."""
        if not self.window_width:
            return np.zeros((len(bars), 0), np.float32)
        windows = self._windows[bars - (self._window_bars - 1)]
        return windows.view(np.float32).reshape(len(bars), self.window_width)

    def build_states(self, kernel: Kernel, reward_state_E: Floats) -> NDArray[np.float32]:
        """(E, S) the other parts, at the bars where the lanes stand."""
        return self._write_state(kernel, reward_state_E).T.astype(np.float32, order="C")

    def _view_windows(self) -> NDArray[np.void]:
        """(N - W + 1,) elements of W F float32 each, overlapping."""
        n_bars, n_features = self._features_NF.shape
        count = max(n_bars - self._window_bars + 1, 0)
        dtype = np.dtype((np.void, 4 * self.window_width))
        if not self.window_width or not count:
            return np.empty(0, dtype)
        return np.ndarray((count,), dtype, buffer=self._features_NF, strides=(4 * n_features,))

    def _window_part(self, rows_ED: NDArray[np.float32]) -> NDArray[np.void]:
        """The head of each row as one element."""
        dtype = np.dtype((np.void, 4 * self.window_width))
        return np.ndarray((self._lanes,), dtype, buffer=rows_ED, strides=(4 * self.width,))

    def _write_state(self, kernel: Kernel, reward_state_E: Floats) -> Floats:
        """(S, E) float64, valid until the next call."""
        unrealised_E, bars_E = self._unrealised_E, self._bars_E
        self._write_exposure(kernel)
        self._onehot_AE[:] = equal(self._positions_A1, kernel.target_E, self._is_at_AE)
        self._held_E[:] = not_equal(kernel.units_E, self._zero_E, self._is_held_E)
        divide(kernel.equity_E, kernel.trade_equity_E, unrealised_E)
        subtract(unrealised_E, self._one_E, unrealised_E)
        bars_E[:] = subtract(kernel.bar_E, kernel.open_bar_E, self._age_E)
        multiply(self._trade_2E, self._held_E, self._trade_2E)
        add(bars_E, self._window_E, self._scratch_E)
        divide(bars_E, self._scratch_E, bars_E)
        if self._reward_state_size:
            self._reward_state_RE[:] = reward_state_E.T
        return self._state_SE

    def _write_exposure(self, kernel: Kernel) -> None:
        """u C / E = (E - M) / E, clipped."""
        exposure_E = self._exposure_E
        self._least_E.fill(LEAST_EQUITY * kernel.initial_equity)
        subtract(kernel.equity_E, kernel.cash_E, exposure_E)
        maximum(kernel.equity_E, self._least_E, out=self._scratch_E)
        divide(exposure_E, self._scratch_E, exposure_E)
        minimum(exposure_E, self._limit_E, out=exposure_E)
        maximum(exposure_E, self._minus_limit_E, out=exposure_E)
