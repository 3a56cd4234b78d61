"""A trading environment as people write one: plain Python, one lane, Gymnasium's interface.

It is the environment of this project with fill `next_open` and reward `log_return`, written for speed in the usual
way, so that a peer is slowed by nothing of ours; `tests/benchmarks` holds it against the kernel, step by step.

Legend: N bars, W window bars, F features, A positions, D observation width.
"""

from __future__ import annotations

from math import copysign, log
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from tradesweep.env import EnvConfig
from tradesweep.env.windows import list_starts
from tradesweep.market import Market

REWARD_FLOOR = 1e-3
EXPOSURE_LIMIT = 5.0
BPS = 1e-4
Observation = NDArray[np.float32]


class PlainTradingEnv(gym.Env[Observation, int]):
    """One account on one split of a market, from random starts."""

    def __init__(self, market: Market, config: EnvConfig, *, split: str = "train") -> None:
        assert (config.fill, config.reward, config.extra_delay_bars) == ("next_open", "log_return", 0)
        assert bool(np.all(market.bars.tradable)), "every bar must be tradable"
        self._open, self._close = market.bars.open.tolist(), market.bars.close.tolist()
        self._positions = [float(position) for position in config.positions]
        self._slippage, self._fee = config.costs.slippage_bps * BPS, config.costs.fee_bps * BPS
        self._borrow = config.costs.borrow_bps_per_year * BPS / config.periods_per_year
        self._start_equity, self._scale = config.initial_equity, config.reward_scale
        self._ruin = config.ruin_fraction * config.initial_equity
        self._window_bars, self._episode_bars = config.window_bars, config.episode_bars
        self._starts = list_starts(market, split, config.window_bars, config.episode_bars)
        self._windows_ND = _spread_windows(market.features_NF, config.window_bars)
        width = self._windows_ND.shape[1] + len(self._positions) + 3
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (width,), np.float32)
        self.action_space = gym.spaces.Discrete(len(self._positions))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        super().reset(seed=seed, options=options)
        self._bar = int(self._starts[self.np_random.integers(len(self._starts))])
        self._last_bar = self._bar + self._episode_bars
        self._cash = self._equity = self._trade_equity = self._start_equity
        self._units, self._target, self._opened_at = 0.0, 0.0, 0
        return self._observe(), {}

    def step(self, action: int) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        self._bar += 1
        before, close = self._equity, self._close[self._bar]
        self._trade(self._positions[action], self._open[self._bar])
        self._cash -= self._borrow * max(-self._units, 0.0) * close
        self._equity = self._cash + self._units * close
        reward = log(max(self._equity, REWARD_FLOOR * self._start_equity) / before)
        terminated = self._equity <= self._ruin
        truncated = self._bar == self._last_bar and not terminated
        return self._observe(), reward * self._scale, terminated, truncated, {}

    def _trade(self, target: float, price: float) -> None:
        """Bring the position to `target`; the cost of a leg comes before the next is sized."""
        value = self._cash + self._units * price
        if value <= self._ruin:
            target = 0.0
        if target == self._target:
            return
        if target * self._units <= 0.0:
            self._pay(-self._units * price)
            self._units = 0.0
            if target:
                self._trade_equity, self._opened_at = self._cash, self._bar
        held = self._units * price
        wanted = target * (self._cash + held) - held
        notional = wanted / (1.0 + target * copysign(1.0, wanted) * self._rate(wanted))
        self._pay(notional)
        self._units += notional / price
        self._target = target

    def _pay(self, notional: float) -> None:
        self._cash -= notional + abs(notional) * self._rate(notional)

    def _rate(self, notional: float) -> float:
        """Cost of a leg as a fraction: (1 + s)(1 + f) - 1 for a buy, 1 - (1 - s)(1 - f) for a sale."""
        return self._slippage + self._fee + copysign(self._slippage * self._fee, notional)

    def _observe(self) -> Observation:
        exposure = (self._equity - self._cash) / max(self._equity, 1e-12 * self._start_equity)
        held = self._units != 0.0
        bars = self._bar - self._opened_at if held else 0
        row = np.empty(self.observation_space.shape, np.float32)  # type: ignore[arg-type]
        features = self._windows_ND[self._bar]
        row[: len(features)] = features
        row[len(features) :] = (
            min(max(exposure, -EXPOSURE_LIMIT), EXPOSURE_LIMIT),
            *[position == self._target for position in self._positions],
            self._equity / self._trade_equity - 1.0 if held else 0.0,
            bars / (bars + self._window_bars),
        )
        return row


def _spread_windows(features_NF: NDArray[np.floating], window_bars: int) -> NDArray[np.float32]:
    """(N, W F) the window of each bar, oldest first; rows before the first full window are zero."""
    features_NF = np.asarray(features_NF, np.float32)
    spread = np.zeros((len(features_NF), window_bars * features_NF.shape[1]), np.float32)
    windows = np.lib.stride_tricks.sliding_window_view(features_NF, window_bars, axis=0)  # (N - W + 1, F, W)
    spread[window_bars - 1 :] = windows.transpose(0, 2, 1).reshape(len(windows), -1)
    return spread
