"""RLlib's episode callbacks on the vector env runner, for those who override them.

RLlib's own runner keeps one episode object per lane and calls back at every step. Here that is done only when a
callback is overridden: nobody else pays for it. What the callbacks see, and may change, is what is sampled.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.callbacks.callbacks import RLlibCallback
from ray.rllib.callbacks.utils import make_callback
from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner
from ray.rllib.env.single_agent_episode import SingleAgentEpisode
from ray.rllib.utils.metrics import WEIGHTS_SEQ_NO

from tradesweep.agents.fragment import name_episode

EPISODE_HOOKS = ("on_episode_created", "on_episode_start", "on_episode_step", "on_episode_end")


def is_overridden(hook: str, callbacks: Iterable[RLlibCallback], config: AlgorithmConfig) -> bool:
    """True when a callback class overrides `hook`, or a function is registered for it."""
    if getattr(config, f"callbacks_{hook}"):
        return True
    return any(getattr(type(callback), hook) is not getattr(RLlibCallback, hook) for callback in callbacks)


class LiveEpisodes:
    """One episode object per lane, fed row by row; calls the hooks when and as RLlib's own runner does."""

    def __init__(self, runner: SingleAgentEnvRunner, callbacks: list[RLlibCallback]) -> None:
        self._runner, self._callbacks = runner, callbacks
        self._lanes: list[SingleAgentEpisode] = []
        self._earlier: defaultdict[str, list[SingleAgentEpisode]] = defaultdict(list)
        self._ended: list[SingleAgentEpisode] = []

    def create(self, runner_id: str) -> None:
        """New episodes in all lanes, before they are reset; those that ran are dropped."""
        self._runner_id = runner_id
        self._earlier.clear()
        self._number_E = [-1] * self._runner.num_envs
        self._lanes = [self._next_episode(lane) for lane in range(self._runner.num_envs)]
        for lane in range(len(self._lanes)):
            self._call("on_episode_created", lane)

    def start(self, obs_ED: npt.NDArray[np.float32]) -> None:
        """All lanes were reset."""
        for episode, obs_D in zip(self._lanes, obs_ED, strict=True):
            episode.add_env_reset(observation=obs_D, infos={})
        for lane in range(len(self._lanes)):
            self._call("on_episode_start", lane)

    def add(
        self,
        *,
        actions_E: npt.NDArray[np.int64],
        obs_ED: npt.NDArray[np.float32],
        rewards_E: npt.NDArray[np.float32],
        terminated_E: npt.NDArray[np.bool_],
        truncated_E: npt.NDArray[np.bool_],
        valid_E: npt.NDArray[np.bool_],
        ended_E: npt.NDArray[np.bool_],
        extras: dict[str, npt.NDArray[np.float32]],
        weights_version: int,
    ) -> None:
        """One row: first every lane takes its step, then the hooks are called lane by lane."""
        for lane, episode in enumerate(self._lanes):
            if not valid_E[lane]:
                episode.add_env_reset(observation=obs_ED[lane], infos={})
                continue
            outputs = {name: column[lane] for name, column in extras.items()}
            episode.add_env_step(
                observation=obs_ED[lane],
                action=actions_E[lane],
                reward=rewards_E[lane],
                infos={},
                terminated=bool(terminated_E[lane]),
                truncated=bool(truncated_E[lane]),
                extra_model_outputs={**outputs, WEIGHTS_SEQ_NO: weights_version},
            )
        for lane in range(len(self._lanes)):
            self._call("on_episode_step" if valid_E[lane] else "on_episode_start", lane)
            if ended_E[lane]:
                self._end(lane)

    def take(self, *, cut: bool) -> list[SingleAgentEpisode]:
        """The episodes that ended since the last call, and with `cut` the chunks of those that run on."""
        ended, self._ended = self._ended, []
        if not cut:
            return [episode.to_numpy() for episode in ended]
        horizon = self._runner.config.episode_lookback_horizon
        chunks, self._lanes = self._lanes, [lane.cut(len_lookback_buffer=horizon) for lane in self._lanes]
        running = [chunk for chunk in chunks if chunk.t > 0]
        for chunk in running:
            self._earlier[chunk.id_].append(chunk)
        return [episode.to_numpy() for episode in ended + running]

    def _end(self, lane: int) -> None:
        self._call("on_episode_end", lane, prev_episode_chunks=self._earlier.pop(self._lanes[lane].id_, []))
        self._ended.append(self._lanes[lane])
        self._lanes[lane] = self._next_episode(lane)
        self._call("on_episode_created", lane)

    def _next_episode(self, lane: int) -> SingleAgentEpisode:
        self._number_E[lane] += 1
        env = self._runner.env
        return SingleAgentEpisode(
            id_=name_episode(self._runner_id, lane, self._number_E[lane]),
            observation_space=env.single_observation_space,
            action_space=env.single_action_space,
        )

    def _call(self, hook: str, lane: int, **more: Any) -> None:
        runner = self._runner
        make_callback(
            hook,
            callbacks_objects=self._callbacks,
            callbacks_functions=getattr(runner.config, f"callbacks_{hook}"),
            kwargs={
                "episode": self._lanes[lane],
                "env_runner": runner,
                "metrics_logger": runner.metrics,
                "env": runner.env.unwrapped,
                "rl_module": runner.module,
                "env_index": lane,
                **more,
            },
        )
