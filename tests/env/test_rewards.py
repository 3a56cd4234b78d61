"""Rewards against their formulas, with the kernel's own rows."""

from __future__ import annotations

import numpy as np
import pytest

from tradesweep.env import REWARDS, build_reward
from tradesweep.errors import BadInput


def run_reward(box, name, params, targets, *, seed=3, sigma=0.02):
    """(rewards, states, equity with the start in front, rows as (quantity, price)) of one lane."""
    bars, config = box.random_bars(seed, sigma=sigma), box.config()
    kernel, reward = box.kernel(bars, config), build_reward(name, params)
    reward.allocate(kernel)
    box.start(kernel, [0], [len(targets) + 1])
    reward.reset(np.array([True]))
    rewards, states, equity, fills = [], [], [config.initial_equity], []
    for target in targets:
        row = kernel.step(np.array([float(target)]))
        rewards.append(float(reward(row, kernel)[0]))
        states.append(reward.state_E()[0].copy())
        equity.append(float(row.equity[0]))
        fills.append((row.quantity[:, 0].copy(), float(row.price[0])))
        if kernel.any_done:
            break
    return np.array(rewards), np.array(states), np.array(equity), fills


TARGETS = [1, 1, -1, 0, 0.5, 1, -1, -1, 0, 1] * 3


def test_log_return_is_the_log_of_the_equity_ratio(box):
    rewards, states, equity, _ = run_reward(box, "log_return", {}, TARGETS)
    np.testing.assert_allclose(rewards, np.diff(np.log(equity)), rtol=1e-9)
    assert states.shape[1] == 0


def test_differential_sharpe_follows_moody_and_saffell(box):
    eta = 0.05
    rewards, states, equity, _ = run_reward(box, "differential_sharpe", {"eta": eta}, TARGETS)
    mean = square = 0.0
    for k, value in enumerate(np.diff(equity) / equity[:-1]):
        spread = max(square - mean**2, 1e-8) ** 1.5
        expected = (square * (value - mean) - 0.5 * mean * (value**2 - square)) / spread
        mean, square = mean + eta * (value - mean), square + eta * (value**2 - square)
        assert rewards[k] == pytest.approx(expected, rel=1e-9, abs=1e-12)
        np.testing.assert_allclose(states[k], [100 * mean, 100 * np.sqrt(square)], rtol=1e-9)


def test_differential_sharpe_is_the_slope_of_the_sharpe_ratio_in_eta(box):
    """Its definition: the derivative of the exponential-average Sharpe ratio with respect to the rate, at 0."""
    eta = 1e-6
    mean, square, value = 0.002, 0.0005, 0.03
    ratio = mean / np.sqrt(square - mean**2)
    mean_1, square_1 = mean + eta * (value - mean), square + eta * (value**2 - square)
    slope = (mean_1 / np.sqrt(square_1 - mean_1**2) - ratio) / eta
    formula = (square * (value - mean) - 0.5 * mean * (value**2 - square)) / (square - mean**2) ** 1.5
    assert formula == pytest.approx(slope, rel=1e-3)
    rewards, _, equity, _ = run_reward(box, "differential_sharpe", {"eta": 1.0}, [1, 1])
    first, second = np.diff(equity) / equity[:-1]  # with eta = 1 the averages are the last return: no spread
    assert rewards[0] == 0.0
    expected = (first**2 * (second - first) - 0.5 * first * (second**2 - first**2)) / 1e-12
    assert rewards[1] == pytest.approx(expected, rel=1e-6)


def test_penalties_fall_on_new_drawdown_and_on_turnover(box):
    params = {"drawdown_penalty": 0.7, "turnover_penalty": 0.002}
    rewards, states, equity, fills = run_reward(box, "penalised_log_return", params, TARGETS)
    drawdown = 1 - equity / np.maximum.accumulate(equity)
    for k, (quantity, price) in enumerate(fills):
        turnover = np.abs(quantity).sum() * price / equity[k]
        fresh = max(0.0, drawdown[k + 1] - drawdown[k])
        expected = np.log(equity[k + 1] / equity[k]) - 0.7 * fresh - 0.002 * turnover
        assert rewards[k] == pytest.approx(expected, rel=1e-9, abs=1e-12)
        assert states[k, 0] == pytest.approx(drawdown[k + 1], abs=1e-12)


def test_no_penalty_is_the_log_return(box):
    plain = run_reward(box, "log_return", {}, TARGETS)[0]
    np.testing.assert_array_equal(run_reward(box, "penalised_log_return", {}, TARGETS)[0], plain)


@pytest.mark.parametrize("name", REWARDS)
def test_a_reset_forgets_one_lane_and_leaves_the_other(box, name):
    bars, config = box.random_bars(3, sigma=0.01), box.config()
    kernel, reward = box.kernel(bars, config, lanes=2), build_reward(name, {})
    reward.allocate(kernel)
    box.start(kernel, [0, 0], [50, 50])
    fresh = reward.state_E().copy()
    for target in (1.0, -1.0, 1.0):
        reward(kernel.step(np.full(2, target)), kernel)
    kept = reward.state_E()[1].copy()
    reward.reset(np.array([True, False]))
    np.testing.assert_array_equal(reward.state_E()[0], fresh[0])
    np.testing.assert_array_equal(reward.state_E()[1], kept)


@pytest.mark.parametrize("name", REWARDS)
def test_a_lane_that_did_not_run_gets_no_reward(box, name):
    kernel, reward = box.kernel(box.random_bars(3), box.config(), lanes=2), build_reward(name, {})
    reward.allocate(kernel)
    box.start(kernel, [0, 0], [50, 50])
    for _ in range(3):
        reward(kernel.step(np.ones(2)), kernel)
    assert reward(kernel.step(np.ones(2), np.array([False, True])), kernel)[0] == 0.0


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        ("sharp", {}, "reward must be one of log_return, .* was 'sharp'"),
        ("differential_sharpe", {"eta": 0.0}, "reward_params.eta must be in"),
        ("differential_sharpe", {"rate": 0.1}, "reward_params of differential_sharpe must be among .*'rate'"),
        ("penalised_log_return", {"turnover_penalty": -1.0}, "turnover_penalty must be >= 0, was -1.0"),
        ("penalised_log_return", {"drawdown_penalty": float("nan")}, "drawdown_penalty must be >= 0, was nan"),
    ],
)
def test_a_wrong_reward_is_refused(name, params, message):
    with pytest.raises(BadInput, match=message):
        build_reward(name, params)
