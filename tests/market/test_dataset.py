import pickle
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from tradesweep.errors import MarketError
from tradesweep.market.dataset import bar_returns, build_market
from tradesweep.market.rules import BarRules
from tradesweep.market.sources import load_sample
from tradesweep.market.synthetic import make_synthetic

DAILY = BarRules(periods_per_year=252, fill="next_close")
COUNTS = {"train": 600, "validation": 200, "test": 200}


@pytest.fixture
def build(features):
    return partial(
        build_market, features=features, splits=COUNTS, rules=DAILY, instrument="x", source="synthetic brownian"
    )


@pytest.fixture
def bars():
    return make_synthetic("brownian", seed=1, bars=1000)


def test_a_market_of_real_bars_is_complete(build):
    splits = {
        "train": ("1999-01-01", "2009-12-31"),
        "validation": ("2010-01-01", "2014-12-31"),
        "test": ("2015-01-01", "2018-12-31"),
    }
    market = build(load_sample("sp500", DAILY), splits=splits, instrument="sp500", source="sample sp500")
    assert market.features_NF.shape == (5031, 10)
    assert (market.features_NF.dtype, market.features_NF.flags.c_contiguous) == (np.float32, True)
    assert not market.features_NF.flags.writeable
    assert market.first_valid == 49
    assert np.isfinite(market.features_NF[49:]).all()
    assert np.isnan(market.features_NF[48]).any()
    assert np.abs(market.features_NF[49:]).max() <= 10
    assert market.valid_N.sum() == 5031 - 49


def test_the_reward_scale_is_one_over_the_deviation_of_train_returns(build, bars):
    returns = np.diff(bars.close[:600]) / bars.close[:599]
    assert build(bars).reward_scale_auto == pytest.approx(1 / returns.std(ddof=1), rel=1e-12)


def test_prices_that_stand_still_have_reward_scale_one(build, make_bars):
    assert build(make_bars(np.full(1000, 5.0))).reward_scale_auto == 1.0


def test_nothing_that_is_fitted_changes_with_validation_and_test(build, bars):
    changed = replace(
        bars,
        **{
            n: np.concatenate((getattr(bars, n)[:600], getattr(bars, n)[600:] * 3))
            for n in ("open", "high", "low", "close")
        },
    )
    one, two = build(bars), build(changed)
    assert one.reward_scale_auto == two.reward_scale_auto
    assert one.scaler.to_dict() == two.scaler.to_dict()
    assert np.array_equal(one.features_NF[:600], two.features_NF[:600], equal_nan=True)
    assert one.sha256 != two.sha256


def test_the_digest_holds_bars_and_periods_but_not_features(build, bars):
    market = build(bars)
    assert build(bars, features=[("rsi", {})]).sha256 == market.sha256
    assert build(bars, rules=replace(DAILY, periods_per_year=260)).sha256 != market.sha256


def test_returns_across_a_gap_do_not_count(build, bars):
    split = replace(bars, segment=np.repeat([0, 1], [300, 700]).astype(np.int32))
    market = build(split)
    assert len(bar_returns(split, market.splits["train"])) == 598
    assert not market.valid_N[300:349].any()


def test_a_level_feature_is_refused_on_adjusted_bars(build, bars):
    level = {"level": lambda bars: (["level"], bars.close)}
    assert build(bars, features=[("level", {})], plugins=level).feature_names == ("level",)
    with pytest.raises(MarketError, match="level of adjusted prices"):
        build(bars, features=[("level", {})], plugins=level, rules=replace(DAILY, adjustment="total"))


def test_splits_are_all_dates_or_all_counts_and_name_train(build, bars):
    with pytest.raises(MarketError, match="all dates or all bar counts"):
        build(bars, splits={"train": 600, "validation": ("2002-06-01", "2002-12-31")})
    with pytest.raises(MarketError, match="splits must name train, named validation"):
        build(bars, splits={"validation": 600})


def test_a_market_survives_pickling(build, bars):
    market = build(bars)
    again = pickle.loads(pickle.dumps(market))
    assert again.bars.sha256() == market.bars.sha256()
    assert np.array_equal(again.features_NF, market.features_NF, equal_nan=True)
