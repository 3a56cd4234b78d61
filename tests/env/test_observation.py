"""Observations: layout, window order, state columns, and no view of the future."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tradesweep.env import ObservationBuilder, TradingVectorEnv
from tradesweep.market import Bars


def split_row(observer: ObservationBuilder, rows_ED):
    parts, at = {}, 0
    for name, width in observer.layout():
        parts[name] = rows_ED[:, at : at + width]
        at += width
    assert at == rows_ED.shape[1]
    return parts


def make_observer(box, market, config, lanes=1):
    return ObservationBuilder(
        market.features_NF, positions=config.positions, window_bars=config.window_bars, lanes=lanes
    )


def test_the_window_ends_at_the_bar_of_the_decision_oldest_first(box):
    market, config = box.market(box.random_bars(0)), box.config(window_bars=4)
    kernel, observer = box.kernel(market.bars, config, lanes=2), make_observer(box, market, config, 2)
    box.start(kernel, [3, 20], [30, 30])
    parts = split_row(observer, observer.build(kernel, np.zeros((2, 0))))
    np.testing.assert_array_equal(parts["features"][0], market.features_NF[0:4].ravel())
    np.testing.assert_array_equal(parts["features"][1], market.features_NF[17:21].ravel())


def test_state_columns_follow_the_page(box):
    market, config = box.market(box.random_bars(3, sigma=0.01)), box.config(window_bars=3)
    kernel, observer = box.kernel(market.bars, config), make_observer(box, market, config)
    box.start(kernel, [2], [30])
    flat = split_row(observer, observer.build(kernel, np.zeros((1, 0))))
    assert flat["position"].tolist() == [[0, 1, 0]]
    assert flat["exposure"][0] == flat["unrealised_return"][0] == flat["bars_in_trade"][0] == 0
    opened = None
    for k, target in enumerate([-1, -1, -1]):
        kernel.step(np.array([float(target)]))
        opened = opened or kernel.trade_equity_E[0]
        parts = split_row(observer, observer.build(kernel, np.zeros((1, 0))))
        close, units, equity = market.bars.close[3 + k], kernel.units_E[0], kernel.equity_E[0]
        assert parts["exposure"][0, 0] == pytest.approx(units * close / equity, rel=1e-6)
        assert parts["unrealised_return"][0, 0] == pytest.approx(equity / opened - 1, rel=1e-5)
        assert parts["bars_in_trade"][0, 0] == pytest.approx(k / (k + 3), rel=1e-6)
        assert parts["position"].tolist() == [[1, 0, 0]]


def test_a_ruined_lane_still_has_a_finite_observation(box):
    bars = box.bars([100, 100, 100, 100], [100, 100, 300, 100])
    market, config = box.market(bars), box.config(window_bars=1)
    kernel, observer = box.kernel(bars, config), make_observer(box, market, config)
    box.start(kernel, [0], [4])
    kernel.step(np.array([-1.0]))
    kernel.step(np.array([-1.0]))
    assert kernel.equity_E[0] < 0
    rows = observer.build(kernel, np.zeros((1, 0)))
    assert np.isfinite(rows).all()
    assert split_row(observer, rows)["exposure"][0, 0] == -5.0


def test_rows_are_written_into_the_callers_array(box):
    market, config = box.market(box.random_bars(0)), box.config()
    kernel, observer = box.kernel(market.bars, config, lanes=2), make_observer(box, market, config, 2)
    box.start(kernel, [3, 9], [30, 30])
    out = np.full((2, observer.width), np.nan, np.float32)
    assert observer.build(kernel, np.zeros((2, 0)), out) is out
    np.testing.assert_array_equal(out, observer.build(kernel, np.zeros((2, 0))))


def test_a_market_without_features_shows_the_position_alone(box):
    market, config = box.market(box.random_bars(0), n_features=0), box.config(window_bars=1)
    kernel, observer = box.kernel(market.bars, config), make_observer(box, market, config)
    box.start(kernel, [3], [30])
    assert observer.build(kernel, np.zeros((1, 0))).tolist() == [[0, 0, 1, 0, 0, 0]]


@given(seed=st.integers(0, 2**32 - 1), fill=st.sampled_from(["next_open", "next_close"]), cut=st.integers(1, 18))
@settings(deadline=None, max_examples=40)
def test_no_observation_changes_when_later_bars_change(box, seed, fill, cut):
    """Two markets that agree up to bar t give the same observations, rewards and equity up to bar t."""
    bars, config = box.random_bars(seed, n_bars=24, sigma=0.01), box.config(fill=fill, window_bars=2)
    other = box.random_bars(seed + 1, n_bars=24, sigma=0.01)
    start = 2
    last = start + cut
    changed = Bars(
        time_us=bars.time_us,
        tradable=bars.tradable,
        segment=bars.segment,
        **{
            name: np.concatenate([getattr(bars, name)[: last + 1], getattr(other, name)[last + 1 :]])
            for name in ("open", "high", "low", "close", "volume")
        },
    )
    features = np.random.default_rng(seed).standard_normal((24, 3)).astype(np.float32)
    changed_features = features.copy()
    changed_features[last + 1 :] += 1
    targets = np.random.default_rng(seed).choice(config.positions, 30)
    seen = []
    for some_bars, some_features in ((bars, features), (changed, changed_features)):
        kernel = box.kernel(some_bars, config)
        observer = ObservationBuilder(some_features, positions=config.positions, window_bars=2, lanes=1)
        box.start(kernel, [start], [24])
        rows = [observer.build(kernel, np.zeros((1, 0)))]
        for target in targets[:cut]:
            row = kernel.step(np.array([target]))
            rows.append(np.append(observer.build(kernel, np.zeros((1, 0))), [row.equity, row.reward]))
        seen.append(rows)
    for one, two in zip(*seen, strict=True):
        np.testing.assert_array_equal(one, two)


def test_reward_state_is_part_of_the_row(box):
    market = box.market(box.random_bars(0, n_bars=100))
    for reward, width in (("log_return", 0), ("penalised_log_return", 1), ("differential_sharpe", 2)):
        env = TradingVectorEnv(market, box.config(reward=reward), lanes=2)
        assert dict(env.observer.layout())["reward_state"] == width
        rows_ED, _ = env.reset(seed=0)
        assert rows_ED.shape == (2, env.observer.width)


@pytest.mark.parametrize(("window_bars", "n_features"), [(1, 3), (4, 3), (2, 0)])
def test_windows_are_the_feature_parts_of_rows(box, window_bars, n_features):
    market = box.market(box.random_bars(0), n_features=n_features)
    config = box.config(window_bars=window_bars)
    kernel, observer = box.kernel(market.bars, config, lanes=2), make_observer(box, market, config, 2)
    box.start(kernel, [3, 20], [30, 50])
    for target in (1.0, 1.0, -1.0):
        kernel.step(np.array([target, -target]))
        windows, rows = observer.build_windows(kernel.bar_E), observer.build(kernel, np.zeros((2, 0)))
        np.testing.assert_array_equal(windows, rows[:, : observer.window_width])
        assert windows.dtype == rows.dtype
