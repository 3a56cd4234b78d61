"""One stretch of sampling as whole arrays.

Legend: T rows, E lanes, D observation width. A row steps every lane once. Under NEXT_STEP autoreset a lane that
ended in row r spends row r+1 on its reset: that row holds no transition and `valid_TE` is False there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from ray.rllib.core.columns import Columns
from ray.rllib.env.single_agent_episode import SingleAgentEpisode
from ray.rllib.env.utils.infinite_lookback_buffer import InfiniteLookbackBuffer

FloatArray = npt.NDArray[np.floating]
Scalar = TypeVar("Scalar", bound=np.generic)


@dataclass(frozen=True, kw_only=True, slots=True)
class Fragment:
    """T rows of E lanes, sampled under one set of weights."""

    obs: npt.NDArray[np.float32]
    """(T + 1, E, D): the observation before each row's action, and the last one."""
    actions: npt.NDArray[np.int64]
    """(T, E) indices into the positions."""
    rewards: npt.NDArray[np.float32]
    """(T, E), scaled: what the learner sees."""
    terminated: npt.NDArray[np.bool_]
    """(T, E)"""
    truncated: npt.NDArray[np.bool_]
    """(T, E)"""
    valid: npt.NDArray[np.bool_]
    """(T, E): False in the row in which a lane resets."""
    extras: dict[str, npt.NDArray[np.float32]] = field(default_factory=dict)
    """(T, E, ...) outputs of the module that belong to the action: distribution inputs, log-probability."""
    runner_id: str = ""
    """Distinguishes the episodes of this runner from those of others."""
    episode_count: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    """(E,) episodes each lane had begun and left before row 0."""
    episode_t: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    """(E,) steps each of those episodes had before row 0."""
    weights_version: int = 0
    """The weights that acted."""

    @property
    def steps(self) -> int:
        """Number of transitions: lanes times rows less the reset rows."""
        return int(self.valid.sum())


@dataclass(frozen=True, slots=True)
class Segment:
    """Rows [start, stop) of one lane that belong to one episode."""

    lane: int
    start: int
    stop: int
    ordinal: int


def segments(fragment: Fragment) -> Iterator[Segment]:
    """Yield each lane's stretches of one episode, in the order of time."""
    rows = fragment.valid.shape[0]
    for lane in range(fragment.valid.shape[1]):
        resets = np.flatnonzero(~fragment.valid[:, lane])
        edges = [-1, *resets.tolist(), rows]
        for ordinal, (before, after) in enumerate(pairwise(edges)):
            if after > before + 1:
                yield Segment(lane, before + 1, after, ordinal)


def name_episode(runner_id: str, lane: int, number: int) -> str:
    """Runner, lane and the lane's count of episodes: the same for every chunk of one episode."""
    return f"{runner_id}-{lane}-{number}"


def build_episodes(fragment: Fragment) -> list[SingleAgentEpisode]:
    """Build RLlib episodes in RLlib's order: those that ended, as they did, then chunks of running ones, by lane.

    They are numpy'd: their buffers are views on the fragment's columns, so nothing is copied per step.
    """
    return [_build_episode(fragment, segment) for segment in sorted(segments(fragment), key=_rllib_order(fragment))]


def _rllib_order(fragment: Fragment) -> Callable[[Segment], tuple[int, int]]:
    rows = len(fragment.actions)

    def order(segment: Segment) -> tuple[int, int]:
        last = segment.stop - 1
        done = fragment.terminated[last, segment.lane] or fragment.truncated[last, segment.lane]
        return (last if done else rows, segment.lane)

    return order


def _build_episode(fragment: Fragment, segment: Segment) -> SingleAgentEpisode:
    rows, lane = slice(segment.start, segment.stop), segment.lane
    last = segment.stop - 1
    length = segment.stop - segment.start
    return SingleAgentEpisode(
        id_=name_episode(fragment.runner_id, lane, int(fragment.episode_count[lane]) + segment.ordinal),
        observations=_buffer(fragment.obs[segment.start : segment.stop + 1, lane]),
        infos=InfiniteLookbackBuffer(data=[{}] * (length + 1)),
        actions=_buffer(fragment.actions[rows, lane]),
        rewards=_buffer(fragment.rewards[rows, lane]),
        extra_model_outputs={
            **{name: _buffer(column[rows, lane]) for name, column in fragment.extras.items()},
            "weights_seq_no": _buffer(np.full(length, fragment.weights_version, np.int64)),
        },
        terminated=bool(fragment.terminated[last, lane]),
        truncated=bool(fragment.truncated[last, lane]),
        t_started=int(fragment.episode_t[lane]) if segment.ordinal == 0 else 0,
        len_lookback_buffer=0,
    )


def _buffer(column: npt.NDArray[np.generic]) -> InfiniteLookbackBuffer:
    buffer = InfiniteLookbackBuffer(lookback=0)
    buffer.data = column
    buffer.finalized = True
    return buffer


class FragmentBuilder:
    """Collects rows into preallocated columns; grows when reset rows make a fragment longer than expected."""

    def __init__(self, first_obs_ED: npt.NDArray[np.float32], *, rows: int) -> None:
        lanes, width = first_obs_ED.shape
        self._obs = np.empty((rows + 1, lanes, width), np.float32)
        self._obs[0] = first_obs_ED
        self._actions = np.empty((rows, lanes), np.int64)
        self._rewards = np.empty((rows, lanes), np.float32)
        self._terminated = np.empty((rows, lanes), np.bool_)
        self._truncated = np.empty((rows, lanes), np.bool_)
        self._valid = np.empty((rows, lanes), np.bool_)
        self._extras: dict[str, npt.NDArray[np.float32]] = {}
        self.rows = 0

    @property
    def last_obs_ED(self) -> npt.NDArray[np.float32]:
        """The newest observation of every lane."""
        newest: npt.NDArray[np.float32] = self._obs[self.rows]
        return newest

    def add(
        self,
        *,
        actions_E: npt.NDArray[np.int64],
        obs_ED: npt.NDArray[np.float32],
        rewards_E: FloatArray,
        terminated_E: npt.NDArray[np.bool_],
        truncated_E: npt.NDArray[np.bool_],
        valid_E: npt.NDArray[np.bool_],
        extras: dict[str, npt.NDArray[np.float32]],
    ) -> None:
        """Append one row; `obs_ED` is what followed the actions."""
        row = self.rows
        if row == len(self._actions):
            self._grow()
        self._actions[row], self._rewards[row], self._valid[row] = actions_E, rewards_E, valid_E
        self._terminated[row], self._truncated[row] = terminated_E, truncated_E
        for name, values in extras.items():
            if name not in self._extras:
                self._extras[name] = np.empty((len(self._actions), *values.shape), np.float32)
            self._extras[name][row] = values
        self._obs[row + 1] = obs_ED
        self.rows = row + 1

    def _grow(self) -> None:
        for name in ("_obs", "_actions", "_rewards", "_terminated", "_truncated", "_valid"):
            setattr(self, name, _doubled(getattr(self, name)))
        self._extras = {name: _doubled(column) for name, column in self._extras.items()}

    def build(
        self,
        *,
        runner_id: str,
        episode_count: npt.NDArray[np.int64],
        episode_t: npt.NDArray[np.int64],
        weights_version: int,
    ) -> Fragment:
        """Close the fragment: views on the filled part of the columns."""
        rows = self.rows
        return Fragment(
            obs=self._obs[: rows + 1],
            actions=self._actions[:rows],
            rewards=self._rewards[:rows],
            terminated=self._terminated[:rows],
            truncated=self._truncated[:rows],
            valid=self._valid[:rows],
            extras=with_log_probability(
                {name: column[:rows] for name, column in self._extras.items()}, self._actions[:rows]
            ),
            runner_id=runner_id,
            episode_count=episode_count,
            episode_t=episode_t,
            weights_version=weights_version,
        )


def _doubled(column: npt.NDArray[Scalar]) -> npt.NDArray[Scalar]:
    return np.concatenate([column, np.empty_like(column)])


LOG_PROBABILITY = Columns.ACTION_LOGP
DISTRIBUTION_INPUTS = Columns.ACTION_DIST_INPUTS


def with_log_probability(
    extras: dict[str, npt.NDArray[np.float32]], actions: npt.NDArray[np.int64]
) -> dict[str, npt.NDArray[np.float32]]:
    """Logits (..., A) are joined by the log probability (...) of the actions taken: of one row, or of all at once."""
    if DISTRIBUTION_INPUTS not in extras:
        return extras
    logits = extras[DISTRIBUTION_INPUTS]
    shifted = logits - logits.max(axis=-1, keepdims=True)
    taken = np.take_along_axis(shifted, actions[..., None], axis=-1)[..., 0]
    return {**extras, LOG_PROBABILITY: taken - np.log(np.exp(shifted).sum(axis=-1))}
