"""From settings to parts, and settings to JSON and back."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from tradesweep.env import EnvConfig, build_kernel, build_observer


def test_a_config_survives_json(box):
    config = box.config(reward="differential_sharpe", reward_params={"eta": 0.1}, positions=(0.0, 0.3))
    assert EnvConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_an_unknown_setting_is_refused(box):
    with pytest.raises(TypeError, match="leverage"):
        EnvConfig.from_dict(box.config().to_dict() | {"leverage": 2})


def test_a_lane_at_double_cost_pays_double(box):
    bars = box.bars([100] * 4, [100] * 4)
    kernel = build_kernel(bars, box.config(), lanes=2, cost_multipliers=[1.0, 2.0])
    box.start(kernel, [0, 0], [4, 4])
    kernel.step(np.array([-1.0, -1.0]))
    row = kernel.step(np.array([0.0, 0.0]))
    one, two = row.cost / np.abs(row.quantity).sum(axis=0)
    assert two == pytest.approx(2 * one, rel=1e-3)


def test_the_observer_has_the_layout_of_the_config(box):
    market = box.market(box.random_bars(0))
    observer = build_observer(market, box.config(window_bars=5), lanes=3, reward_state_size=2)
    assert observer.layout() == [
        ("features", 15),
        ("exposure", 1),
        ("position", 3),
        ("unrealised_return", 1),
        ("bars_in_trade", 1),
        ("reward_state", 2),
    ]


def test_an_evaluator_needs_neither_gymnasium_nor_the_market_rooms_libraries():
    code = "import sys, tradesweep.env; print({'gymnasium', 'pandas', 'talib', 'pydantic'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
