"""n-step sums, the ring and the sum tree against slow references."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tradesweep.agents.fragment import Fragment, FragmentBuilder, build_episodes
from tradesweep.agents.replay import ColumnarReplay, ReplayBatch, ReplayConfig, SumTree
from tradesweep.errors import CheckpointError

SAMPLED: dict[str, Any] = {
    "lanes": st.integers(1, 4),
    "lengths": st.lists(st.integers(1, 9), min_size=1, max_size=4),
    "cuts": st.lists(st.integers(1, 12), min_size=1, max_size=8),
}
"""Lanes, the lengths of their episodes, and the rows of each fragment."""


class Lanes:
    """A toy env with NEXT_STEP autoreset whose observation says lane, episode and t."""

    def __init__(self, lanes: int, lengths: list[int], generator: np.random.Generator) -> None:
        self.lanes, self.lengths, self.generator = lanes, lengths, generator
        self.episode = np.zeros(lanes, np.int64)
        self.t = np.zeros(lanes, np.int64)
        self.done = np.zeros(lanes, np.bool_)

    def obs(self) -> np.ndarray:
        return np.stack([np.arange(self.lanes), self.episode, self.t], axis=1).astype(np.float32)

    def step(self) -> tuple[np.ndarray, ...]:
        valid = ~self.done
        reward = np.where(valid, self.generator.normal(size=self.lanes), 0.0).astype(np.float32)
        self.t = np.where(valid, self.t + 1, 0)
        self.episode = self.episode + self.done
        length = np.array([self.lengths[(e + lane) % len(self.lengths)] for lane, e in enumerate(self.episode)])
        self.done = valid & (self.t >= length)
        terminated = self.done & (self.episode % 2 == 0)
        return reward, terminated, self.done & ~terminated, valid


def sample(lanes: Lanes, rows: int, t: np.ndarray, count: np.ndarray) -> Fragment:
    builder = FragmentBuilder(lanes.obs(), rows=1)
    for _ in range(rows):
        reward, terminated, truncated, valid = lanes.step()
        builder.add(
            actions_E=np.arange(lanes.lanes) * 7,
            obs_ED=lanes.obs(),
            rewards_E=reward,
            terminated_E=terminated,
            truncated_E=truncated,
            valid_E=valid,
            extras={},
        )
    return builder.build(runner_id="r", episode_count=count, episode_t=t, weights_version=3)


def slow_transitions(fragments: list[Fragment], n: int, gamma: float) -> dict[tuple[float, ...], tuple[float, ...]]:
    """Every complete n-step transition, by (lane, episode, t), one at a time."""
    found = {}
    for lane in range(fragments[0].actions.shape[1]):
        rows = [
            (f.obs[r, lane], f.rewards[r, lane], f.terminated[r, lane], f.truncated[r, lane], f.obs[r + 1, lane])
            for f in fragments
            for r in range(len(f.actions))
            if f.valid[r, lane]
        ]
        for start in range(len(rows)):
            total, k = 0.0, 0
            while True:
                _, reward, terminated, truncated, after = rows[start + k]
                total += gamma**k * float(reward)
                k += 1
                if terminated or truncated or k == n:
                    found[tuple(rows[start][0])] = (*after, total, float(terminated), float(k))
                    break
                if start + k >= len(rows):
                    break
    return found


@settings(deadline=None, max_examples=40)
@given(**SAMPLED, n=st.integers(1, 6))
def test_n_step_transitions_equal_a_slow_reference_however_sampling_is_cut(
    lanes: int, lengths: list[int], cuts: list[int], n: int
) -> None:
    env = Lanes(lanes, lengths, np.random.default_rng(0))
    config = ReplayConfig(capacity=1000, n_step=n, gamma=0.9)
    replay = ColumnarReplay(config, obs_width=3, generator=np.random.default_rng(0))
    fragments = []
    for rows in cuts:
        fragment = sample(env, rows, env.t.copy(), env.episode.copy())
        fragments.append(fragment)
        replay.add(fragment)
    expected = slow_transitions(fragments, n, 0.9)
    size = len(replay)
    got = {
        tuple(replay._columns["obs"][i]): (
            *replay._columns["next_obs"][i],
            *(float(replay._columns[name][i]) for name in ("rewards", "terminated", "n_step")),
        )
        for i in range(size)
    }
    assert size == len(expected), "each transition once"
    assert got.keys() == expected.keys()
    for key, values in expected.items():
        np.testing.assert_allclose(got[key], values, rtol=1e-5, atol=1e-6)


def build_replay(width: int = 3, seed: int = 0, **settings: Any) -> ColumnarReplay:
    return ColumnarReplay(ReplayConfig(**settings), obs_width=width, generator=np.random.default_rng(seed))


def stored(replay: ColumnarReplay) -> dict[str, np.ndarray]:
    """The rows, oldest first."""
    order = (replay._next_row - len(replay) + np.arange(len(replay))) % replay.config.capacity
    return {name: column[order] for name, column in replay._columns.items()}


@settings(deadline=None, max_examples=60)
@given(**SAMPLED, n=st.integers(1, 4), capacity=st.integers(1, 40))
def test_the_ring_holds_the_newest(lanes: int, lengths: list[int], cuts: list[int], n: int, capacity: int) -> None:
    env = Lanes(lanes, lengths, np.random.default_rng(0))
    ring, all_of_it = build_replay(capacity=capacity, n_step=n), build_replay(capacity=1000, n_step=n)
    for rows in cuts:
        fragment = sample(env, rows, env.t.copy(), env.episode.copy())
        ring.add(fragment)
        all_of_it.add(fragment)
        assert len(ring) == min(len(all_of_it), capacity)
        for name, column in stored(ring).items():
            np.testing.assert_array_equal(column, stored(all_of_it)[name][-capacity:], err_msg=name)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.floats(0.01, 10.0), min_size=1, max_size=600), st.integers(0, 2**16))
def test_sum_tree_finds_rows_in_proportion_to_their_priority(priorities: list[float], seed: int) -> None:
    tree = SumTree(len(priorities))
    order = np.random.default_rng(seed).permutation(len(priorities))
    tree.set(order, np.array(priorities)[order])
    assert tree.total == pytest.approx(sum(priorities))
    edges = np.cumsum(priorities)
    masses = np.random.default_rng(seed).random(50) * edges[-1] * (1 - 1e-9)
    expected = np.searchsorted(edges, masses, side="right")
    near_edge = np.abs(edges[:, None] - masses).min(axis=0) < 1e-9
    assert ((tree.find(masses) == expected) | near_edge).all()


def test_prioritised_draws_follow_the_td_errors_and_weights_undo_them() -> None:
    env = Lanes(1, [1000], np.random.default_rng(0))
    config = ReplayConfig(capacity=4, prioritized=True, alpha=1.0, beta=1.0)
    replay = ColumnarReplay(config, obs_width=3, generator=np.random.default_rng(0))
    replay.add(sample(env, 4, env.t.copy(), env.episode.copy()))
    replay.update_priorities(np.arange(4), np.array([1.0, 2.0, 3.0, 4.0]))
    batch = replay.sample(40_000)
    shares = np.bincount(batch.rows, minlength=4) / 40_000
    np.testing.assert_allclose(shares, np.array([1, 2, 3, 4]) / 10, atol=0.01)
    weight_of = {int(row): float(weight) for row, weight in zip(batch.rows, batch.weights, strict=True)}
    np.testing.assert_allclose([weight_of[row] * (row + 1) for row in range(4)], 1.0, rtol=1e-4)


@settings(deadline=None, max_examples=60)
@given(
    capacity=st.integers(1, 300),
    alpha=st.floats(0.0, 1.0),
    beta=st.floats(0.0, 1.0),
    work=st.lists(st.tuples(st.booleans(), st.integers(1, 60)), min_size=1, max_size=8),
    seed=st.integers(0, 99),
)
def test_prioritised_rows_probabilities_and_weights_equal_a_slow_reference(
    capacity: int, alpha: float, beta: float, work: list[tuple[bool, int]], seed: int
) -> None:
    env, generator = Lanes(1, [10_000], np.random.default_rng(0)), np.random.default_rng(seed)
    replay = build_replay(seed=seed, capacity=capacity, prioritized=True, alpha=alpha, beta=beta)
    priorities, added, largest = [0.0] * capacity, 0, 1.0
    for adds, count in [(True, 5), *work]:
        if adds:
            replay.add(sample(env, count, env.t.copy(), env.episode.copy()))
            for _ in range(count):
                priorities[added % capacity], added = largest, added + 1
            continue
        rows, errors = generator.integers(len(replay), size=count), generator.normal(size=count) * 3
        replay.update_priorities(rows, errors)
        for row, error in zip(rows, errors, strict=True):
            priorities[row] = (abs(float(error)) + 1e-6) ** alpha
        largest = max([largest, *(priorities[row] for row in rows)])
    size = min(added, capacity)
    shares = np.array(priorities[:size]) / sum(priorities)
    masses = np.random.default_rng(seed).random(64)  # the replay's own generator, which nothing else has used
    batch = replay.sample(64)
    off_edge = np.abs(np.cumsum(shares)[:, None] - masses).min(axis=0) > 1e-9
    np.testing.assert_array_equal(batch.rows[off_edge], np.searchsorted(np.cumsum(shares), masses[off_edge], "right"))
    weights = (size * shares[batch.rows]) ** -beta
    np.testing.assert_allclose(batch.weights, weights / weights.max(), rtol=1e-4)


@settings(deadline=None, max_examples=30)
@given(
    lanes=st.integers(1, 4),
    cuts=st.lists(st.integers(1, 12), min_size=1, max_size=6),
    capacity=st.integers(1, 60),
    prioritized=st.booleans(),
)
def test_a_replay_goes_on_from_its_file_as_if_it_had_never_stopped(
    tmp_path_factory: pytest.TempPathFactory, lanes: int, cuts: list[int], capacity: int, prioritized: bool
) -> None:
    env = Lanes(lanes, [5, 9], np.random.default_rng(0))
    first = build_replay(seed=1, capacity=capacity, prioritized=prioritized)
    second = build_replay(seed=2, capacity=capacity, prioritized=prioritized)
    file = tmp_path_factory.mktemp("replay") / "replay.npz"
    for rows in cuts:
        first.add(sample(env, rows, env.t.copy(), env.episode.copy()))
        drawn = first.sample(8)
        first.update_priorities(drawn.rows, np.linspace(0.1, 5.0, 8))
    first.save(file, pace=(321, 0.75))
    assert second.load(file) == (321, 0.75)
    for _ in range(3):
        fragment = sample(env, 4, env.t.copy(), env.episode.copy())
        batches = []
        for replay in (first, second):
            replay.add(fragment)
            batches.append(replay.sample(16))
            replay.update_priorities(batches[-1].rows, np.linspace(2.0, 0.1, 16))
        for field in fields(ReplayBatch):
            np.testing.assert_array_equal(*(getattr(batch, field.name) for batch in batches), err_msg=field.name)


@pytest.mark.parametrize("other", [{"capacity": 4}, {"width": 2}])
def test_a_replay_of_another_shape_is_refused(tmp_path: Path, other: dict[str, int]) -> None:
    env = Lanes(1, [9], np.random.default_rng(0))
    replay = build_replay(capacity=10)
    replay.add(sample(env, 8, env.t.copy(), env.episode.copy()))
    replay.save(tmp_path / "replay.npz", pace=(0, 0.0))
    with pytest.raises(CheckpointError, match="observations of width"):
        build_replay(**{"capacity": 10, **other}).load(tmp_path / "replay.npz")


@settings(deadline=None, max_examples=40)
@given(
    lanes=st.integers(1, 4),
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    cuts=st.lists(st.integers(1, 7), min_size=1, max_size=6),
)
def test_episode_chunks_join_to_the_episodes_that_happened(lanes: int, lengths: list[int], cuts: list[int]) -> None:
    env = Lanes(lanes, lengths, np.random.default_rng(0))
    chunks: dict[str, list] = {}
    for rows in cuts:
        fragment = sample(env, rows, env.t.copy(), env.episode.copy())
        for episode in build_episodes(fragment):
            chunks.setdefault(episode.id_, []).append(episode)
    for parts in chunks.values():
        obs = [row for part in parts for row in part.get_observations()[: len(part)]]
        lane, number = int(obs[0][0]), int(obs[0][1])
        assert [int(row[2]) for row in obs] == list(range(len(obs))), "t runs from 0 without a gap"
        assert all(int(row[0]) == lane and int(row[1]) == number for row in obs)
        assert [part.t_started for part in parts] == [int(part.get_observations()[0][2]) for part in parts]
        assert all(not part.is_done for part in parts[:-1])
        length = lengths[(number + lane) % len(lengths)]
        assert parts[-1].is_done == (len(obs) == length)
        assert parts[-1].is_terminated == (len(obs) == length and number % 2 == 0)
