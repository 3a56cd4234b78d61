"""Trading lanes without a learner: the real kernel and tape under random decisions, as fast as they go.

What a recorder is given here is what an env runner gives it: whole fragments with their fills, trades and episodes.

Legend: N bars, E lanes, T steps.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tradesweep.env import Costs, EnvConfig, Tape, build_kernel
from tradesweep.market import Bars, make_synthetic
from tradesweep.names import EpisodeRole, Record

Records = dict[Record, dict[str, NDArray[Any] | list[Any]]]

MARKET_BARS = 10_000
EPISODE_BARS = 252
CONFIG = EnvConfig(
    fill="next_open",
    costs=Costs(fee_bps=1.0, slippage_bps=1.0, borrow_bps_per_year=50.0),
    episode_bars=EPISODE_BARS,
    periods_per_year=252.0,
)
ACTIVITY = 0.56
"""Share of steps with a new decision. It gives about one fill in two steps and one trade in four, which is what the
databases of the shipped experiments hold; 0.1 gives an eleventh and a twentieth."""


def make_bars() -> Bars:
    """A brownian market: nothing depends on what it does."""
    return make_synthetic("brownian", seed=7, bars=MARKET_BARS)


class Lanes:
    """E lanes that run episodes from random starts, one after the other, and decide at random."""

    def __init__(
        self,
        bars: Bars,
        *,
        lanes: int,
        next_episode_no: Callable[[], int],
        seed: int = 0,
        activity: float = ACTIVITY,
        role: EpisodeRole = EpisodeRole.TRAIN,
        steps: int = EPISODE_BARS,
        rows: int = 512,
    ) -> None:
        self.kernel = build_kernel(bars, CONFIG, lanes=lanes)
        self._tape = Tape(next_episode_no=next_episode_no, role=role, rows=rows)
        self.kernel.record_to(self._tape)
        self._generator = np.random.default_rng(seed)
        self._starts = len(bars) - steps - 1
        self._steps, self._activity = steps, activity
        self._actions_E = np.ones(lanes, np.int64)
        self._positions_A = np.array(CONFIG.positions)

    def sample(self, rows: int, *, weights_version: int = 0) -> Records:
        """`rows` steps of every lane; a lane whose episode ended begins the next at once."""
        for _ in range(rows):
            if self.kernel.any_done:
                self._begin(self.kernel.done_E)
            self._decide()
            self.kernel.step(self._positions_A[self._actions_E], actions_E=self._actions_E)
        return self._tape.drain(weights_version)

    def positions(self) -> list[tuple[int, int]]:
        """(episode number, t of the next step) of every lane."""
        return self._tape.positions()

    def _begin(self, done_E: NDArray[np.bool_]) -> None:
        starts_E = self._generator.integers(self._starts, size=self.kernel.lanes)
        self.kernel.reset(done_E.copy(), starts_E, starts_E + self._steps + 1)

    def _decide(self) -> None:
        draws_2E = self._generator.random((2, self.kernel.lanes))
        anew_E = (draws_2E[1] * len(self._positions_A)).astype(np.int64)
        self._actions_E = np.where(draws_2E[0] < self._activity, anew_E, self._actions_E)
