import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tradesweep.errors import MarketError
from tradesweep.market.scaling import Scaler
from tradesweep.market.splits import Split

TRAIN = Split(name="train", start=5, stop=60)


def values(seed=0):
    table = np.random.default_rng(seed).normal(3.0, 7.0, (100, 4))
    table[:10] = np.nan
    return table


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 1000), other=st.integers(0, 1000))
def test_scaling_never_sees_what_is_not_train(seed, other):
    table, changed = values(seed), values(seed)
    changed[TRAIN.stop :] = values(other)[TRAIN.stop :]
    one, two = Scaler.fit(table, TRAIN), Scaler.fit(changed, TRAIN)
    assert np.array_equal(one.mean_F, two.mean_F)
    assert np.array_equal(one.std_F, two.std_F)


def test_train_is_scaled_to_mean_zero_and_deviation_one():
    scaled = Scaler.fit(values(), TRAIN).transform(values())
    assert scaled.dtype == np.float32
    assert scaled[10:60].mean(axis=0) == pytest.approx(0.0, abs=1e-5)
    assert scaled[10:60].std(axis=0) == pytest.approx(1.0, abs=1e-5)
    assert np.isnan(scaled[:10]).all()


def test_outliers_are_clipped_at_ten():
    table = values()
    table[80] = [1e9, -1e9, 3.0, 3.0]
    assert Scaler.fit(table, TRAIN).transform(table)[80, :2].tolist() == [10.0, -10.0]


def test_a_constant_feature_is_only_centred():
    table = values()
    table[:, 2] = 5.0
    scaler = Scaler.fit(table, TRAIN)
    assert scaler.std_F[2] == 1.0
    assert not scaler.transform(table)[:, 2].any()


def test_a_train_split_without_features_is_refused():
    with pytest.raises(MarketError, match=r"splits.train must hold a bar with all features, but bars 0 to 9 have none"):
        Scaler.fit(values(), Split(name="train", start=0, stop=10))


def test_a_scaler_comes_back_from_json_bit_by_bit():
    scaler = Scaler.fit(values(), TRAIN)
    again = Scaler.from_dict(json.loads(json.dumps(scaler.to_dict())))
    assert np.array_equal(again.mean_F, scaler.mean_F)
    assert np.array_equal(again.std_F, scaler.std_F)
