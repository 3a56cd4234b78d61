"""TradingVectorEnv: E lanes of the kernel as a native Gymnasium vector environment.

Autoreset is NEXT_STEP: the step after a lane's last ignores its action, gives reward 0 and the first observation of
the lane's next episode. Such a reset row is not a step and is not recorded.

Legend: E lanes, D observation width, A actions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from tradesweep.env.build import build_kernel, build_observer
from tradesweep.env.config import EnvConfig
from tradesweep.env.rewards import build_reward
from tradesweep.env.rows import Bools, Floats, Ints
from tradesweep.env.tape import Tape
from tradesweep.env.windows import list_starts
from tradesweep.errors import BadInput

if TYPE_CHECKING:
    from tradesweep.market import Market

Observations = NDArray[np.float32]


class TradingVectorEnv(VectorEnv[Observations, Ints, Any]):
    """E lanes over one split of a market, each running training episodes from random starts.

    A lane's generator is used for one draw per reset and for nothing else. What `reset` and `step` return belongs
    to the caller: later steps write none of it. With `out`, observations are written into the caller's array.
    """

    metadata: dict[str, Any] = {"autoreset_mode": AutoresetMode.NEXT_STEP, "render_modes": []}  # noqa: RUF012

    def __init__(
        self,
        market: Market,
        config: EnvConfig,
        *,
        lanes: int,
        split: str = "train",
        tape: Tape | None = None,
    ) -> None:
        self.config = config
        self.num_envs = lanes
        self.render_mode = None
        self.kernel = build_kernel(market.bars, config, lanes=lanes)
        self.reward = build_reward(config.reward, config.reward_params)
        self.reward.allocate(self.kernel)
        self.observer = build_observer(market, config, lanes=lanes, reward_state_size=self.reward.state_size)
        self._starts = _checked_starts(market, config, split)
        self._positions_A = np.array(config.positions, dtype=np.float64)
        self._reward_scale_E = np.full(lanes, config.reward_scale)
        self._generators: list[np.random.Generator] = []
        self._tape: Tape | None = None
        self._needs_reset = True
        self._no_lane_E: Bools = np.zeros(lanes, np.bool_)
        self.reset_rows_E: Bools = self._no_lane_E
        self._set_spaces()
        if tape is not None:
            self.record_to(tape)

    def record_to(self, tape: Tape | None) -> None:
        """Record into `tape` from the next reset on, which must come before the next step."""
        self.kernel.record_to(tape)
        self._tape = tape
        self._needs_reset = True

    def positions_of_lanes(self) -> list[tuple[int, int]]:
        """(episode number, t of the next step) of every lane; empty when nothing is recorded."""
        return [] if self._tape is None else self._tape.positions()

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,  # noqa: ARG002 - Gymnasium's signature
        out: Observations | None = None,
    ) -> tuple[Observations, dict[str, Any]]:
        """Begin an episode in every lane. Lane i of `seed=n` draws from `default_rng(n + i)`.

        Without a seed the lanes' generators go on. Episodes that still ran end as TRUNCATED, RESET.
        """
        self._seed_lanes(seed)
        self._start_lanes(np.ones(self.num_envs, np.bool_))
        self._needs_reset = False
        self.reset_rows_E = self._no_lane_E
        return self.observer.build(self.kernel, self.reward.state_E(), out), {}

    def step(
        self, actions: Ints, *, out: Observations | None = None
    ) -> tuple[Observations, Floats, Bools, Bools, dict[str, Any]]:
        """Run one step of every lane; `actions` (E,) index `config.positions`.

        Returns observations (E, D) float32, scaled rewards (E,) float64, terminated (E,), truncated (E,) and an
        empty dict. `reset_rows_E` says which lanes were reset instead.
        """
        if self._needs_reset:
            raise ResetNeeded("step needs a reset first: this environment is new, or records to another tape")
        ended_E = self.kernel.done_E.copy() if self.kernel.any_done else None
        row = self.kernel.step(self._positions_A.take(actions), actions_E=actions)
        reward_E = self.reward(row, self.kernel)
        if reward_E is not row.reward:
            np.copyto(row.reward, reward_E)
        if ended_E is not None:
            self._start_lanes(ended_E)
        self.reset_rows_E = self._no_lane_E if ended_E is None else ended_E
        rows_ED = self.observer.build(self.kernel, self.reward.state_E(), out)
        return rows_ED, row.reward * self._reward_scale_E, row.terminated.copy(), row.truncated.copy(), {}

    def _set_spaces(self) -> None:
        shape = (self.observer.width,)
        self.single_observation_space = gym.spaces.Box(-np.inf, np.inf, shape, np.float32)
        self.single_action_space = gym.spaces.Discrete(len(self._positions_A))
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)

    def _seed_lanes(self, seed: int | Sequence[int | None] | None) -> None:
        if seed is None and self._generators:
            return
        seeds = _spread_seed(seed, self.num_envs)
        self.use_generators([np.random.default_rng(value) for value in seeds], seeds)

    def use_generators(self, generators: Sequence[np.random.Generator], seeds: Sequence[int | None]) -> None:
        """Draw the starts of lane i from `generators[i]`; the seeds are only noted in what is recorded."""
        self._generators = list(generators)
        self._seeds = list(seeds)

    def _start_lanes(self, lanes_E: Bools) -> None:
        start_E = np.zeros(self.num_envs, np.int64)
        for lane in np.flatnonzero(lanes_E):
            start_E[lane] = self._starts[self._generators[lane].integers(len(self._starts))]
        if self._tape is not None:
            self._tape.seeds = self._seeds
        self.kernel.reset(lanes_E, start_E, start_E + self.config.episode_bars + 1)
        self.reward.reset(lanes_E)


def _checked_starts(market: Market, config: EnvConfig, split: str) -> Ints:
    starts = list_starts(market, split, config.window_bars, config.episode_bars)
    if not len(starts):
        bounds = market.splits[split]
        raise BadInput(
            f"env.episode_bars must fit into split {split} (bars {bounds.start} to {bounds.stop - 1}) after a window"
            f" of {config.window_bars} bars with all features, was {config.episode_bars}; shorten the episode or"
            " widen the split"
        )
    return starts


def _spread_seed(seed: int | Sequence[int | None] | None, lanes: int) -> list[int | None]:
    if seed is None:
        return [None] * lanes
    if isinstance(seed, Sequence):
        assert len(seed) == lanes, f"one seed per lane: {lanes} lanes, {len(seed)} seeds"
        return list(seed)
    return [int(seed) + lane for lane in range(lanes)]
