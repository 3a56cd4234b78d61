from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tradesweep.errors import MarketError
from tradesweep.market.features import check_features, check_return_like, compute_features
from tradesweep.market.synthetic import make_synthetic


@pytest.fixture(scope="module")
def bars():
    return make_synthetic("brownian", seed=1, bars=400)


def one(bars, name, **params):
    """(N,) the first column of a feature."""
    return compute_features(bars, [(name, params)]).values_NF[:, 0]


def test_log_returns_are_logs_of_price_ratios(bars):
    table = compute_features(bars, [("log_returns", {"lags": [1, 5]})])
    assert table.names == ("log_return_1", "log_return_5")
    assert table.values_NF[5:, 1] == pytest.approx(np.log(bars.close[5:] / bars.close[:-5]), rel=1e-9)
    assert np.isnan(table.values_NF[:5, 1]).all()


def test_rsi_is_wilders_from_minus_one_to_one(bars):
    gains, losses = np.clip(np.diff(bars.close), 0, None), np.clip(-np.diff(bars.close), 0, None)
    up, down = gains[:14].mean(), losses[:14].mean()
    for gain, loss in zip(gains[14:], losses[14:], strict=True):
        up, down = (13 * up + gain) / 14, (13 * down + loss) / 14
    assert one(bars, "rsi")[-1] == pytest.approx(2 * up / (up + down) - 1, rel=1e-9)


def test_atr_is_relative_to_the_close(bars):
    before = bars.close[:-1]
    ranges = np.maximum(bars.high[1:], before) - np.minimum(bars.low[1:], before)
    average = ranges[:14].mean()
    for true_range in ranges[14:]:
        average = (13 * average + true_range) / 14
    assert one(bars, "atr")[-1] == pytest.approx(average / bars.close[-1], rel=1e-9)


def test_bollinger_position_counts_in_widths(bars):
    last = bars.close[-20:]
    assert one(bars, "bollinger_position")[-1] == pytest.approx((last[-1] - last.mean()) / (2 * last.std()), rel=1e-6)


def test_realised_volatility_is_the_deviation_of_log_returns(bars):
    returns = np.diff(np.log(bars.close))[-20:]
    assert one(bars, "realised_volatility")[-1] == pytest.approx(returns.std(), rel=1e-6)


def test_trend_is_the_distance_from_the_mean(bars):
    assert one(bars, "trend", period=50)[-1] == pytest.approx(
        np.log(bars.close[-1] / bars.close[-50:].mean()), rel=1e-9
    )


def test_macd_gives_line_and_histogram(bars):
    table = compute_features(bars, [("macd", {})])
    assert table.names == ("macd_12_26_9", "macd_12_26_9_histogram")
    assert table.first_valid == 33


def test_a_tiny_volatility_is_not_taken_for_zero(make_bars):
    returns = 1e-6 * np.random.default_rng(0).standard_normal(100)
    assert one(make_bars(100 * np.exp(np.cumsum(returns))), "realised_volatility")[-1] > 5e-7


def test_a_price_that_stands_still_gives_finite_features(make_bars, features):
    still = make_bars(np.full(100, 5.0))
    table = compute_features(still, features)
    check_features(table, still)
    assert np.isfinite(table.values_NF[table.first_valid :]).all()


def test_columns_of_the_market_come_as_they_are():
    planted = make_synthetic("planted", bars=50)
    table = compute_features(planted, [("csv_columns", {"names": ["signal", "noise_2"]})])
    assert table.first_valid == 0
    assert table.values_NF[:, 1].tolist() == planted.extra["noise_2"].tolist()


@settings(deadline=None, max_examples=25)
@given(cut=st.integers(1, 399), seed=st.integers(0, 100))
def test_no_feature_of_a_bar_changes_with_the_bars_after_it(features, cut, seed):
    bars = make_synthetic("brownian", seed=seed, bars=400)
    full, part = compute_features(bars, features), compute_features(bars[:cut], features)
    assert np.array_equal(full.values_NF[:cut], part.values_NF, equal_nan=True)


@settings(deadline=None, max_examples=10)
@given(scale=st.sampled_from([2.0**-20, 0.5, 2.0, 1024.0]), seed=st.integers(0, 100))
def test_every_built_in_feature_is_free_of_the_price_level(features, scale, seed):
    bars = make_synthetic("brownian", seed=seed, bars=200)
    scaled = replace(bars, **{name: scale * getattr(bars, name) for name in ("open", "high", "low", "close")})
    ours, theirs = (compute_features(each, features).values_NF for each in (bars, scaled))
    assert np.allclose(ours, theirs, rtol=1e-6, atol=1e-9, equal_nan=True)


def test_features_start_anew_in_every_segment(bars, features):
    split = replace(bars, segment=np.repeat([0, 1], [150, 250]).astype(np.int32))
    table = compute_features(split, features)
    alone = compute_features(bars[150:], features)
    assert np.array_equal(table.values_NF[150:], alone.values_NF, equal_nan=True)
    assert not table.valid_N[150 : 150 + alone.first_valid].any()
    check_features(table, split)


def test_a_feature_that_is_lost_again_is_refused_with_its_bar(bars):
    def broken(bars):
        values = np.zeros(len(bars))
        values[77] = np.inf
        return ["holey"], values

    table = compute_features(bars, [("broken", {})], {"broken": broken})
    with pytest.raises(MarketError, match=r"feature holey must be finite once it is known, was inf at row 77 "):
        check_features(table, bars)


def test_too_few_bars_for_a_feature_are_refused(bars, features):
    short = bars[:30]
    table = compute_features(short, features)
    assert table.first_valid == 30
    with pytest.raises(MarketError, match="needs more than the 30 bars there are; shorten"):
        check_features(table, short)


def test_a_price_level_is_refused_on_adjusted_prices(bars):
    def level(bars):
        return ["level"], bars.close

    def ratio(bars):
        return ["ratio"], bars.close / bars.open

    requests, plugins = [("ratio", {}), ("level", {})], {"level": level, "ratio": ratio}
    with pytest.raises(MarketError, match="feature level must not depend on the level of adjusted prices"):
        check_return_like(bars, requests, compute_features(bars, requests, plugins), plugins)
    check_return_like(bars, requests[:1], compute_features(bars, requests[:1], plugins), plugins)


REFUSED = {
    "unknown feature": ("rsii", {}, "features must be among atr, .* was 'rsii'"),
    "unknown parameter": ("rsi", {"periods": 14}, "features.rsi has no parameter 'periods'; it has period"),
    "missing parameter": ("csv_columns", {}, "features.csv_columns needs the parameter 'names'"),
    "missing column": (
        "csv_columns",
        {"names": ["mood"]},
        r"must name columns of the market \(it has none\), was 'mood'",
    ),
    "no columns": ("csv_columns", {"names": []}, "was empty"),
    "half a period": ("rsi", {"period": 14.5}, "features.rsi.period must be a whole number from 2 to 100000, was 14.5"),
    "period of one": ("realised_volatility", {"period": 1}, "from 2 to"),
    "zero lag": ("log_returns", {"lags": [1, 0]}, "features.log_returns.lags must be a whole number from 1"),
    "slow below fast": ("macd", {"fast": 26, "slow": 12}, "features.macd.fast must be < slow, was 26 against 12"),
    "no width": ("bollinger_position", {"width": 0.0}, "features.bollinger_position.width must be a number > 0"),
}


@pytest.mark.parametrize(("name", "params", "message"), REFUSED.values(), ids=REFUSED)
def test_a_wrong_feature_or_parameter_is_refused(bars, name, params, message):
    with pytest.raises(MarketError, match=message):
        compute_features(bars, [(name, params)])


def test_a_plugin_that_raises_is_named(bars):
    with pytest.raises(MarketError, match="feature oops must not raise, raised ZeroDivisionError on 400 bars: "):
        compute_features(bars, [("oops", {})], {"oops": lambda bars: 1 / 0})


def test_a_column_built_twice_and_a_wrong_shape_are_refused(bars):
    with pytest.raises(MarketError, match="built rsi_14 again"):
        compute_features(bars, [("rsi", {}), ("rsi", {"period": 14})])
    with pytest.raises(MarketError, match=r"feature short must return one row a bar .*\(400, 1\), was \(399,\)"):
        compute_features(bars, [("short", {})], {"short": lambda bars: (["short"], bars.close[1:])})
