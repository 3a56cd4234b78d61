"""TradingEnv: one lane of the same kernel as a plain Gymnasium environment.

Legend: D observation width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
from gymnasium.error import ResetNeeded
from numpy.typing import NDArray

from tradesweep.env.config import EnvConfig
from tradesweep.env.tape import Tape
from tradesweep.env.vector_env import TradingVectorEnv

if TYPE_CHECKING:
    from tradesweep.market import Market

Observation = NDArray[np.float32]


class TradingEnv(gym.Env[Observation, Any]):
    """One lane, without autoreset. With seed n its episodes are those of lane 0 of a vector reset with seed n."""

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012

    def __init__(self, market: Market, config: EnvConfig, *, split: str = "train", tape: Tape | None = None) -> None:
        self._vector = TradingVectorEnv(market, config, lanes=1, split=split, tape=tape)
        self.observation_space = self._vector.single_observation_space
        self.action_space = self._vector.single_action_space
        self.render_mode = None
        self._seed: int | None = None

    @property
    def config(self) -> EnvConfig:
        """The settings of this environment."""
        return self._vector.config

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin an episode at a random start; the observation has shape (D,)."""
        super().reset(seed=seed)
        self._seed = self._seed if seed is None else seed
        self._vector.use_generators([self.np_random], [self._seed])
        rows_ED, info = self._vector.reset(options=options)
        return rows_ED[0], info

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Run one step; `action` indexes the positions, the reward is scaled. Raises ResetNeeded after the end."""
        if self._vector.kernel.any_done:
            raise ResetNeeded("step needs a reset first: the episode has ended, or none has begun")
        rows_ED, rewards, terminated, truncated, info = self._vector.step(np.array([action], np.int64))
        return rows_ED[0], float(rewards[0]), bool(terminated[0]), bool(truncated[0]), info
