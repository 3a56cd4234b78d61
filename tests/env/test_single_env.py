"""TradingEnv: what Gymnasium asks of an environment."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env

from tradesweep.env import TradingEnv


@pytest.fixture
def env(box):
    return TradingEnv(box.market(box.random_bars(2, n_bars=200), first_valid=6), box.config())


@pytest.mark.parametrize("reward", ["log_return", "differential_sharpe", "penalised_log_return"])
def test_gymnasium_accepts_the_environment(box, reward):
    env = TradingEnv(box.market(box.random_bars(2, n_bars=200), first_valid=6), box.config(reward=reward))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*(infinity|spec).*", category=UserWarning)
        check_env(env)


def test_an_episode_ends_at_its_last_bar(env):
    env.reset(seed=0)
    results = [env.step(1) for _ in range(env.config.episode_bars)]
    assert [result[3] for result in results] == [False] * 19 + [True]
    assert results[0][0].shape == env.observation_space.shape


def test_a_step_after_the_end_is_refused(env):
    env.reset(seed=0)
    for _ in range(20):
        env.step(1)
    with pytest.raises(ResetNeeded):
        env.step(1)


def test_results_are_plain_values(env):
    env.reset(seed=0)
    _, reward, terminated, truncated, _ = env.step(np.int64(2))
    assert (type(reward), type(terminated), type(truncated)) == (float, bool, bool)


def test_episodes_of_one_lane_are_recorded(box):
    tape = box.tape()
    env = TradingEnv(box.market(box.random_bars(2, n_bars=200)), box.config(), tape=tape)
    env.reset(seed=4)
    for _ in range(20):
        env.step(2)
    drained = tape.drain(0)
    assert drained["episodes_opened"]["seed"] == [4]
    assert drained["episodes_closed"]["total_steps"].tolist() == [20]
