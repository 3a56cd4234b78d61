"""TradingVectorEnv: lanes equal single runs, autoreset edges, seeds, and results that stay the caller's."""

from __future__ import annotations

import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode

from tradesweep.env import TradingEnv, TradingVectorEnv
from tradesweep.errors import BadInput
from tradesweep.market import Split


def make_env(box, *, lanes=4, bars_seed=2, n_bars=200, market=None, **changes):
    market = market or box.market(box.random_bars(bars_seed, n_bars=n_bars), first_valid=6)
    return TradingVectorEnv(market, box.config(**changes), lanes=lanes)


def scripted_actions(lane: int, steps: int):
    return np.random.default_rng(1000 + lane).integers(0, 3, steps)


@pytest.mark.parametrize("fill", ["next_open", "next_close"])
@pytest.mark.parametrize("reward", ["log_return", "differential_sharpe", "penalised_log_return"])
def test_64_lanes_equal_64_single_runs(box, fill, reward):
    lanes, steps = 64, 60
    market = box.market(box.random_bars(5, n_bars=150, sigma=0.05), first_valid=4)
    config = box.config(fill=fill, reward=reward, episode_bars=17)
    env = TradingVectorEnv(market, config, lanes=lanes)
    actions_TE = np.stack([scripted_actions(lane, steps) for lane in range(lanes)], axis=1)
    rows = [(env.reset(seed=11)[0], np.zeros(lanes), np.zeros(lanes, bool), np.zeros(lanes, bool))]
    rows += [env.step(actions_E)[:4] for actions_E in actions_TE]
    ruined = 0
    for lane in range(lanes):
        single = TradingEnv(market, config)
        result = (single.reset(seed=11 + lane)[0], 0.0, False, False)
        for k, row in enumerate(rows):
            np.testing.assert_array_equal(row[0][lane], result[0])
            assert tuple(part[lane] for part in row[1:]) == result[1:]
            ruined += result[2]
            if k < steps:
                over = result[2] or result[3]
                result = (single.reset()[0], 0.0, False, False) if over else single.step(actions_TE[k, lane])[:4]
    assert ruined, "some lanes must end early, so that lanes part"


def test_an_episode_has_so_many_steps_and_then_a_reset_row(box):
    env = make_env(box, episode_bars=5, positions=(0.0, 0.5, 1.0))
    assert env.metadata["autoreset_mode"] == AutoresetMode.NEXT_STEP
    env.reset(seed=0)
    for k in range(1, 14):
        rows_ED, rewards, terminated, truncated, info = env.step(np.full(4, 2))
        in_episode = k % 6
        assert truncated.tolist() == [in_episode == 5] * 4
        assert env.reset_rows_E.tolist() == [in_episode == 0] * 4
        assert not terminated.any()
        assert info == {}
        assert (rewards[env.reset_rows_E] == 0).all()
        assert (env.kernel.step_E == in_episode).all()
        assert np.isfinite(rows_ED).all()


def test_the_row_after_the_end_is_the_first_observation_of_the_next_episode(box):
    env = make_env(box, lanes=1, episode_bars=3)
    env.reset(seed=0)
    for _ in range(3):
        env.step(np.array([2]))
    rows_ED = env.step(np.array([2]))[0]
    window = env.observer.window_width
    np.testing.assert_array_equal(rows_ED[0, window:], [0, 0, 1, 0, 0, 0])
    bar = env.kernel.bar_E[0]
    features = env.observer._features_NF[bar - 2 : bar + 1].ravel()
    np.testing.assert_array_equal(rows_ED[0, :window], features)


def test_the_last_observation_of_an_episode_is_its_own(box):
    env = make_env(box, lanes=1, episode_bars=3, positions=(0.0, 1.0))
    env.reset(seed=0)
    for _ in range(3):
        rows_ED, _, _, truncated, _ = env.step(np.array([1]))
    assert truncated[0]
    assert rows_ED[0, env.observer.window_width] == pytest.approx(1.0, abs=0.05)  # still invested


def test_the_same_seed_gives_the_same_run_and_another_seed_another(box):
    def run(seed):
        env = make_env(box)
        rows = [env.reset(seed=seed)[0]]
        rows += [env.step(scripted_actions(k, 4))[0] for k in range(50)]
        return np.array(rows)

    np.testing.assert_array_equal(run(3), run(3))
    assert not np.array_equal(run(3), run(4))


def test_lanes_are_numbered_through_the_seed(box):
    """Lanes 2 and 3 of seed 7 are lanes 0 and 1 of seed 9: two runners equal one."""
    whole, half = make_env(box, lanes=4), make_env(box, lanes=2)
    rows, half_rows = [whole.reset(seed=7)[0]], [half.reset(seed=9)[0]]
    for k in range(60):
        actions = scripted_actions(k, 4)
        rows.append(whole.step(actions)[0])
        half_rows.append(half.step(actions[2:])[0])
    np.testing.assert_array_equal(np.array(rows)[:, 2:], np.array(half_rows))


def test_later_resets_go_on_with_the_lanes_generator(box):
    env = make_env(box, lanes=1)
    rng = np.random.default_rng(42)
    env.reset(seed=42)
    starts = [int(env.kernel.start_E[0])]
    for _ in range(5):
        env.reset()
        starts.append(int(env.kernel.start_E[0]))
    s_min, count = 6 + 2, 200 - 20 - (6 + 2)
    assert starts == [s_min + int(rng.integers(count)) for _ in range(6)]


def test_starts_cover_all_bars_of_the_split(box):
    splits = {"train": Split(name="train", start=0, stop=40)}
    market = box.market(box.random_bars(0), first_valid=2, splits=splits)
    env = TradingVectorEnv(market, box.config(window_bars=1, episode_bars=30), lanes=200)
    env.reset(seed=0)
    assert sorted(set(env.kernel.start_E.tolist())) == list(range(2, 10))
    for _ in range(30):
        truncated = env.step(np.ones(200, int))[3]
    assert truncated.all()
    assert env.kernel.bar_E.max() == 39


def test_what_was_returned_is_never_written_again(box):
    env = make_env(box)
    results = [env.reset(seed=0)[0]]
    for k in range(30):
        results += env.step(scripted_actions(k, 4))[:4]
    kept = [array.copy() for array in results]
    for k in range(30):
        env.step(scripted_actions(k + 50, 4))
    for array, copy in zip(results, kept, strict=True):
        np.testing.assert_array_equal(array, copy)
    assert not any(np.shares_memory(one, two) for one in results[-4:] for two in results[:-4])


def test_observations_go_into_the_callers_array(box):
    env, other = make_env(box), make_env(box)
    out_TED = np.zeros((3, 4, env.observer.width), np.float32)
    env.reset(seed=0, out=out_TED[0])
    first = other.reset(seed=0)[0]
    for k in (1, 2):
        env.step(scripted_actions(k, 4), out=out_TED[k])
        rows_ED = other.step(scripted_actions(k, 4))[0]
    np.testing.assert_array_equal(out_TED[0], first)
    np.testing.assert_array_equal(out_TED[2], rows_ED)


def test_the_reward_is_scaled_for_the_learner_only(box):
    tape = box.tape()
    env, plain = make_env(box, reward_scale=40.0), make_env(box)
    env.record_to(tape)
    env.reset(seed=1)
    plain.reset(seed=1)
    for k in range(10):
        scaled, unscaled = (some.step(scripted_actions(k, 4))[1] for some in (env, plain))
        np.testing.assert_allclose(scaled, 40.0 * unscaled, rtol=1e-12)
    stored = tape.drain(0)["steps"]["reward"].reshape(4, 10)
    np.testing.assert_array_equal(stored[:, -1], unscaled)


def test_two_environments_in_one_process_never_touch(box):
    market = box.market(box.random_bars(2, n_bars=200))
    one, two, alone = (TradingVectorEnv(market, box.config(), lanes=2) for _ in range(3))
    rows, expected = [one.reset(seed=0)[0]], [alone.reset(seed=0)[0]]
    two.reset(seed=5)
    for k in range(40):
        rows.append(one.step(scripted_actions(k, 2))[0])
        two.step(scripted_actions(k + 99, 2))
        expected.append(alone.step(scripted_actions(k, 2))[0])
    np.testing.assert_array_equal(rows, expected)


def test_a_step_before_a_reset_is_refused(box):
    env = make_env(box)
    with pytest.raises(ResetNeeded):
        env.step(np.zeros(4, int))
    env.reset(seed=0)
    env.record_to(box.tape())
    with pytest.raises(ResetNeeded):
        env.step(np.zeros(4, int))


def test_an_episode_longer_than_its_split_is_refused(box):
    with pytest.raises(BadInput, match=r"env\.episode_bars must fit into split train .* was 300"):
        make_env(box, episode_bars=300)


def test_an_action_that_does_not_exist_is_refused(box):
    env = make_env(box)
    env.reset(seed=0)
    with pytest.raises(IndexError):
        env.step(np.array([0, 1, 2, 3]))


def test_spaces_fit_what_is_returned(box):
    env = make_env(box)
    rows_ED, _ = env.reset(seed=0)
    assert env.observation_space.contains(rows_ED)
    assert env.single_observation_space.shape == (env.observer.width,)
    assert env.action_space.contains(np.array([0, 1, 2, 0]))
    assert env.single_action_space.n == 3
