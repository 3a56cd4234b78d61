"""Columnar replay: transitions in preallocated arrays, n-step returns built from whole rows, prioritised by a sum tree.

Legend: B batch, C capacity, D observation width, E lanes, T rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tradesweep.agents.fragment import Fragment


@dataclass(frozen=True, kw_only=True, slots=True)
class ReplayBatch:
    """B transitions of n steps (fewer where an episode ended)."""

    obs: npt.NDArray[np.float32]
    """(B, D)"""
    next_obs: npt.NDArray[np.float32]
    """(B, D) after `n_step` steps"""
    actions: npt.NDArray[np.int64]
    """(B,)"""
    rewards: npt.NDArray[np.float32]
    """(B,) discounted sum over the n steps"""
    terminated: npt.NDArray[np.bool_]
    """(B,) True: no bootstrap. A truncated transition does bootstrap."""
    n_step: npt.NDArray[np.float32]
    """(B,) steps the sum spans: the exponent of gamma at the bootstrap"""
    weights: npt.NDArray[np.float32]
    """(B,) importance weights, largest 1"""
    rows: npt.NDArray[np.int64]
    """(B,) where they stand, for `update_priorities`"""


class SumTree:
    """Priorities of C leaves under a binary tree of sums; all operations are vectorised over the batch."""

    def __init__(self, capacity: int) -> None:
        self._leaves = 1 << (capacity - 1).bit_length()
        self._depth = self._leaves.bit_length() - 1
        self._nodes = np.zeros(2 * self._leaves)

    @property
    def total(self) -> float:
        """Sum of all priorities."""
        return float(self._nodes[1])

    def get(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """Priorities of the rows."""
        return self._nodes[self._leaves + rows]

    def set(self, rows: npt.NDArray[np.int64], priorities: npt.NDArray[np.float64]) -> None:
        """Set the leaves, then recompute each touched parent once a level."""
        nodes = self._leaves + rows
        self._nodes[nodes] = priorities
        for _ in range(self._depth):
            nodes = np.unique(nodes >> 1)
            self._nodes[nodes] = self._nodes[2 * nodes] + self._nodes[2 * nodes + 1]

    def find(self, masses_B: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
        """Rows whose cumulated priority covers each mass in [0, total)."""
        nodes = np.ones(len(masses_B), np.int64)
        masses = masses_B.copy()
        for _ in range(self._depth):
            left = self._nodes[2 * nodes]
            right = masses >= left
            masses -= np.where(right, left, 0.0)
            nodes = 2 * nodes + right
        return nodes - self._leaves


@dataclass(frozen=True, kw_only=True, slots=True)
class ReplayConfig:
    """How transitions are kept and drawn."""

    capacity: int = 50_000
    """Transitions kept; the oldest are overwritten."""
    n_step: int = 1
    """Steps a transition spans."""
    gamma: float = 0.99
    """Discount inside the n-step sum."""
    prioritized: bool = False
    """Draw by TD error (Schaul et al. 2016, proportional variant) instead of uniformly."""
    alpha: float = 0.6
    """Exponent on the TD error."""
    beta: float = 0.4
    """Exponent of the importance weights."""


class ColumnarReplay:
    """A ring of C transitions in columns.

    `add` takes a fragment's whole rows. Rows whose n steps reach beyond the fragment wait for the next one, so
    sums are right across fragment edges; sums stop at an episode's end, so they are right across episodes too.
    """

    def __init__(self, config: ReplayConfig, *, obs_width: int, generator: np.random.Generator) -> None:
        capacity = config.capacity
        self.config = config
        self._generator = generator
        self._obs = np.empty((capacity, obs_width), np.float32)
        self._next_obs = np.empty((capacity, obs_width), np.float32)
        self._actions = np.empty(capacity, np.int64)
        self._rewards = np.empty(capacity, np.float32)
        self._terminated = np.empty(capacity, np.bool_)
        self._n_step = np.empty(capacity, np.float32)
        self._tree = SumTree(capacity) if config.prioritized else None
        self._largest_priority = 1.0
        self._next_row = 0
        self._size = 0
        self._waiting: dict[str, Fragment] = {}

    def __len__(self) -> int:
        return self._size

    def add(self, fragment: Fragment) -> None:
        """Append every transition of the fragment whose n-step sum is complete."""
        joined = _join(self._waiting.get(fragment.runner_id), fragment)
        columns, complete_TE = _n_step_columns(joined, self.config.n_step, self.config.gamma)
        self._append({name: column[complete_TE] for name, column in columns.items()})
        self._waiting[fragment.runner_id] = _tail(joined, self.config.n_step - 1, complete_TE)

    def _append(self, columns: dict[str, npt.NDArray[Any]]) -> None:
        count = len(columns["actions"])
        rows = (self._next_row + np.arange(count)) % self.config.capacity
        self._obs[rows], self._next_obs[rows] = columns["obs"], columns["next_obs"]
        self._actions[rows], self._rewards[rows] = columns["actions"], columns["rewards"]
        self._terminated[rows], self._n_step[rows] = columns["terminated"], columns["n_step"]
        if self._tree is not None and count:
            self._tree.set(rows, np.full(count, self._largest_priority))
        self._next_row = int((self._next_row + count) % self.config.capacity)
        self._size = min(self._size + count, self.config.capacity)

    def sample(self, count: int) -> ReplayBatch:
        """Draw `count` transitions with replacement. The buffer must not be empty."""
        assert self._size, "sample() before anything was added"
        rows, weights = self._draw(count)
        return ReplayBatch(
            obs=self._obs[rows],
            next_obs=self._next_obs[rows],
            actions=self._actions[rows],
            rewards=self._rewards[rows],
            terminated=self._terminated[rows],
            n_step=self._n_step[rows],
            weights=weights,
            rows=rows,
        )

    def _draw(self, count: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        if self._tree is None:
            return self._generator.integers(self._size, size=count), np.ones(count, np.float32)
        total = self._tree.total
        rows = self._tree.find(self._generator.random(count) * total)
        rows = np.minimum(rows, self._size - 1)
        probability = self._tree.get(rows) / total
        weights = (self._size * probability) ** -self.config.beta
        return rows, (weights / weights.max()).astype(np.float32)

    def update_priorities(self, rows: npt.NDArray[np.int64], td_errors: npt.NDArray[np.floating]) -> None:
        """Set priorities to (|TD error| + 1e-6) ** alpha; of a row drawn twice the last error counts."""
        if self._tree is None:
            return
        unique, first_of_reversed = np.unique(rows[::-1], return_index=True)
        errors = np.abs(td_errors[::-1][first_of_reversed].astype(np.float64))
        priorities = (errors + 1e-6) ** self.config.alpha
        self._largest_priority = max(self._largest_priority, float(priorities.max()))
        self._tree.set(unique, priorities)


def _join(before: Fragment | None, fragment: Fragment) -> Fragment:
    """Put the waiting rows of the same runner in front."""
    if before is None or not len(before.actions):
        return fragment
    return Fragment(
        obs=np.concatenate([before.obs[:-1], fragment.obs]),
        actions=np.concatenate([before.actions, fragment.actions]),
        rewards=np.concatenate([before.rewards, fragment.rewards]),
        terminated=np.concatenate([before.terminated, fragment.terminated]),
        truncated=np.concatenate([before.truncated, fragment.truncated]),
        valid=np.concatenate([before.valid, fragment.valid]),
        runner_id=fragment.runner_id,
    )


def _tail(fragment: Fragment, rows: int, complete_TE: npt.NDArray[np.bool_]) -> Fragment:
    """The last rows, kept until their sums are complete; what was handed out is marked as no transition."""
    start = max(len(fragment.actions) - rows, 0)
    return Fragment(
        obs=fragment.obs[start:].copy(),
        actions=fragment.actions[start:].copy(),
        rewards=fragment.rewards[start:].copy(),
        terminated=fragment.terminated[start:].copy(),
        truncated=fragment.truncated[start:].copy(),
        valid=(fragment.valid & ~complete_TE)[start:],
        runner_id=fragment.runner_id,
    )


def _n_step_columns(
    fragment: Fragment, n_step: int, gamma: float
) -> tuple[dict[str, npt.NDArray[Any]], npt.NDArray[np.bool_]]:
    """Columns of shape (T, E, ...) and which rows are complete: n steps seen, or the episode ended before.

    sum_{k < span} gamma^k r_{t+k}; the span is n, or shorter where the episode ends (Sutton and Barto, 7.1).
    """
    done_TE = fragment.terminated | fragment.truncated
    sums_TE, spans_TE = _discounted_sums(fragment, done_TE, n_step, gamma)
    rows, lanes = fragment.actions.shape
    last_TE = np.arange(rows)[:, None] + np.maximum(spans_TE, 1) - 1
    lane_E = np.arange(lanes)[None, :]
    complete_TE = fragment.valid & (done_TE[last_TE, lane_E] | (spans_TE == n_step))
    columns: dict[str, npt.NDArray[Any]] = {
        "obs": fragment.obs[:-1],
        "next_obs": fragment.obs[last_TE + 1, lane_E],
        "actions": fragment.actions,
        "rewards": sums_TE,
        "terminated": fragment.terminated[last_TE, lane_E],
        "n_step": spans_TE.astype(np.float32),
    }
    return columns, complete_TE


def _discounted_sums(
    fragment: Fragment, done_TE: npt.NDArray[np.bool_], n_step: int, gamma: float
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    rows = len(fragment.actions)
    sums_TE = np.zeros(fragment.actions.shape, np.float32)
    spans_TE = np.zeros(fragment.actions.shape, np.int64)
    running_TE = fragment.valid.copy()
    for k in range(min(n_step, rows)):
        now, ahead = slice(0, rows - k), slice(k, rows)
        sums_TE[now] += np.float32(gamma**k) * np.where(running_TE[now], fragment.rewards[ahead], 0.0)
        spans_TE[now] += running_TE[now]
        running_TE[now] &= ~done_TE[ahead]
    return sums_TE, spans_TE
