"""Columnar replay: transitions in preallocated arrays, n-step returns built from whole rows, prioritised by a sum tree.

Legend: B batch, C capacity, D observation width, E lanes, T rows.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tradesweep.agents.fragment import Fragment
from tradesweep.errors import CheckpointError

DRAWN_AT_ONCE = 32
"""Minibatches of one gather; more would save nothing and hold memory."""


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

    def split(self, size: int) -> Iterator[ReplayBatch]:
        """Batches of `size`, one behind the other: views."""
        columns = {field.name: getattr(self, field.name) for field in fields(self)}
        for start in range(0, len(self.rows), size):
            yield ReplayBatch(**{name: column[start : start + size] for name, column in columns.items()})


class SumTree:
    """Priorities of C leaves under a tree of sums, 16 children a node; all operations take whole batches.

    Sixteen and not two: a level costs a handful of NumPy calls whatever its width, so few wide levels are cheaper.
    """

    FAN = 16

    def __init__(self, capacity: int) -> None:
        self._levels = [np.zeros((1, self.FAN))]
        while self._levels[-1].size < capacity:
            self._levels.append(np.zeros((self._levels[-1].size, self.FAN)))

    @property
    def total(self) -> float:
        """Sum of all priorities."""
        return float(np.cumsum(self._levels[0][0])[-1])

    def get(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """Priorities of the rows."""
        return self._levels[-1].ravel()[rows]

    def set(self, rows: npt.NDArray[np.int64], priorities: npt.NDArray[np.float64]) -> None:
        """Set the leaves, then recompute each touched node. A row may be named once."""
        self._levels[-1].ravel()[rows] = priorities
        for level, above in zip(self._levels[:0:-1], self._levels[-2::-1], strict=True):
            rows = rows // self.FAN  # a node named twice gets the same sum twice
            above.ravel()[rows] = np.cumsum(level[rows], axis=1)[:, -1]

    def find(self, masses_B: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
        """Rows whose cumulated priority covers each mass in [0, total)."""
        nodes_B, masses_B = np.zeros(len(masses_B), np.int64), masses_B.copy()
        batch_B = np.arange(len(masses_B))
        for level in self._levels:
            reach_BF = np.cumsum(level[nodes_B], axis=1)
            child_B = np.minimum((reach_BF <= masses_B[:, None]).sum(axis=1), self.FAN - 1)
            masses_B -= np.where(child_B > 0, reach_BF[batch_B, child_B - 1], 0.0)
            nodes_B = nodes_B * self.FAN + child_B
        return nodes_B


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
    checkpoint: bool = False
    """Keep the contents in checkpoints, so that a restored trial learns on without filling its replay again."""


class ColumnarReplay:
    """A ring of C transitions in columns.

    `add` takes a fragment's whole rows. Rows whose n steps reach beyond the fragment wait for the next one, so
    sums are right across fragment edges; sums stop at an episode's end, so they are right across episodes too.
    """

    def __init__(self, config: ReplayConfig, *, obs_width: int, generator: np.random.Generator) -> None:
        capacity = config.capacity
        self.config = config
        self._generator = generator
        self._columns: dict[str, npt.NDArray[Any]] = {
            "obs": np.empty((capacity, obs_width), np.float32),
            "next_obs": np.empty((capacity, obs_width), np.float32),
            "actions": np.empty(capacity, np.int64),
            "rewards": np.empty(capacity, np.float32),
            "terminated": np.empty(capacity, np.bool_),
            "n_step": np.empty(capacity, np.float32),
        }
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
        count, capacity = len(columns["actions"]), self.config.capacity
        kept = np.arange(max(count - capacity, 0), count)  # of more than there is room for, the newest
        rows = (self._next_row + kept) % capacity
        for name, column in columns.items():
            self._columns[name][rows] = column[kept]
        if self._tree is not None:
            self._tree.set(rows, np.full(len(rows), self._largest_priority))
        self._next_row = (self._next_row + count) % capacity
        self._size = min(self._size + count, capacity)

    def minibatches(self, count: int, size: int) -> Iterator[ReplayBatch]:
        """`count` minibatches. Priorities move with each; without them many are drawn by one gather."""
        at_once = 1 if self.config.prioritized else DRAWN_AT_ONCE
        for start in range(0, count, at_once):
            yield from self.sample(min(at_once, count - start) * size).split(size)

    def sample(self, count: int) -> ReplayBatch:
        """Draw `count` transitions with replacement. The buffer must not be empty."""
        assert self._size, "sample() before anything was added"
        rows, weights = self._draw(count)
        drawn = {name: column.take(rows, axis=0) for name, column in self._columns.items()}
        return ReplayBatch(**drawn, weights=weights, rows=rows)

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

    # --- checkpoints ---------------------------------------------------------------------------------------------

    def save(self, path: Path, *, pace: tuple[int, float]) -> None:
        """Write what is stored, its priorities and the state of the draws as one npz file, and with them `pace`.

        Rows that wait for their n steps are left out: whoever restores begins fresh episodes.
        """
        rows = np.arange(self._size)
        priorities = self._tree.get(rows) if self._tree is not None else np.zeros(0)
        facts = {
            "next_row": self._next_row,
            "largest_priority": self._largest_priority,
            "generator": self._generator.bit_generator.state,
            "pace": pace,
        }
        columns = {name: column[: self._size] for name, column in self._columns.items()}
        with path.open("wb") as file:
            np.savez(file, allow_pickle=False, facts=np.array(json.dumps(facts)), priorities=priorities, **columns)

    def load(self, path: Path) -> tuple[int, float]:
        """Go on from what `save` wrote; return its pace. Raises CheckpointError for a replay of another shape."""
        with np.load(path, allow_pickle=False) as saved:
            columns = {name: saved[name] for name in self._columns}
            facts, priorities = json.loads(str(saved["facts"])), saved["priorities"]
        self._check_fits(path, columns)
        self._size = len(columns["actions"])
        for name, column in columns.items():
            self._columns[name][: self._size] = column
        self._next_row, self._largest_priority = facts["next_row"], facts["largest_priority"]
        self._generator.bit_generator.state = facts["generator"]
        if self._tree is not None:
            self._tree.set(np.arange(self._size), priorities)
        self._waiting.clear()
        steps, due = facts["pace"]
        return int(steps), float(due)

    def _check_fits(self, path: Path, columns: dict[str, npt.NDArray[Any]]) -> None:
        stored, (capacity, width) = columns["obs"].shape, self._columns["obs"].shape
        if stored[0] > capacity or stored[1] != width:
            raise CheckpointError(
                f"{path} must hold at most {capacity:,} observations of width {width}, was {stored[0]:,} of width"
                f" {stored[1]}; restore it with the settings it was saved with"
            )


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
