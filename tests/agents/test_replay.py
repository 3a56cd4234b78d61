"""n-step sums, the ring and the sum tree against slow references."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tradesweep.agents.fragment import Fragment, FragmentBuilder, build_episodes
from tradesweep.agents.replay import ColumnarReplay, ReplayConfig, SumTree


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
@given(
    lanes=st.integers(1, 4),
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    cuts=st.lists(st.integers(1, 7), min_size=1, max_size=6),
    n=st.integers(1, 6),
)
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
        tuple(replay._obs[i]): (
            *replay._next_obs[i],
            float(replay._rewards[i]),
            float(replay._terminated[i]),
            float(replay._n_step[i]),
        )
        for i in range(size)
    }
    assert size == len(expected), "each transition once"
    assert got.keys() == expected.keys()
    for key, values in expected.items():
        np.testing.assert_allclose(got[key], values, rtol=1e-5, atol=1e-6)


def test_the_ring_overwrites_the_oldest() -> None:
    env = Lanes(1, [1000], np.random.default_rng(0))
    replay = ColumnarReplay(ReplayConfig(capacity=8), obs_width=3, generator=np.random.default_rng(0))
    for _ in range(3):
        replay.add(sample(env, 5, env.t.copy(), env.episode.copy()))
    assert len(replay) == 8
    assert sorted(replay._obs[:, 2]) == list(range(7, 15))


@settings(deadline=None, max_examples=40)
@given(st.lists(st.floats(0.01, 10.0), min_size=1, max_size=33), st.integers(0, 2**16))
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
