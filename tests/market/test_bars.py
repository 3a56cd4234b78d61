import pickle
from dataclasses import replace

import numpy as np
import pytest


def test_arrays_are_read_only_and_contiguous(make_bars):
    bars = make_bars([1, 2, 3], extra={"x": np.arange(6.0)[::2]})
    for array in (bars.time_us, bars.open, bars.close, bars.tradable, bars.segment, bars.extra["x"]):
        assert array.flags.c_contiguous
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1


def test_the_callers_own_array_stays_writable(make_bars):
    volume = np.ones(3)
    make_bars([1, 2, 3], volume=volume)
    volume[0] = 2.0


def test_a_bar_without_volume_and_range_is_not_tradable(make_bars):
    bars = make_bars(
        [5, 5, 5],
        open=np.full(3, 5.0),
        high=np.array([5.0, 5.0, 5.1]),
        low=np.full(3, 5.0),
        volume=np.array([0.0, 1.0, 0.0]),
    )
    assert bars.tradable.tolist() == [False, True, True]


@pytest.mark.parametrize("column", ["time_us", "open", "high", "low", "close", "volume"])
def test_the_digest_covers_every_column(make_bars, column):
    bars = make_bars([1, 2, 3])
    changed = getattr(bars, column).copy()
    changed[1] += 1
    assert replace(bars, **{column: changed}).sha256() != bars.sha256()


def test_the_digest_covers_names_and_values_of_extra_columns(make_bars):
    one = make_bars([1, 2], extra={"a": np.zeros(2)})
    assert one.sha256() != make_bars([1, 2], extra={"b": np.zeros(2)}).sha256()
    assert one.sha256() != make_bars([1, 2], extra={"a": np.ones(2)}).sha256()
    assert one.sha256() != make_bars([1, 2]).sha256()
    assert one.sha256() == make_bars([1, 2], extra={"a": np.zeros(2)}).sha256()


def test_the_digest_does_not_depend_on_the_order_of_extra_columns(make_bars):
    a, b = np.zeros(2), np.ones(2)
    assert make_bars([1, 2], extra={"a": a, "b": b}).sha256() == make_bars([1, 2], extra={"b": b, "a": a}).sha256()


def test_a_slice_keeps_every_column(make_bars):
    part = make_bars([1, 2, 3, 4], extra={"x": np.arange(4.0)})[1:3]
    assert part.close.tolist() == [2, 3]
    assert part.extra["x"].tolist() == [1, 2]
    assert len(part) == 2


def test_bars_survive_pickling_bit_by_bit(make_bars):
    bars = make_bars([1, 2, 3], extra={"x": np.arange(3.0)})
    assert pickle.loads(pickle.dumps(bars)).sha256() == bars.sha256()


def test_a_row_is_described_by_number_and_time(make_bars):
    assert make_bars([1, 2]).describe_row(1) == "row 1 (2020-01-01T02:00:00Z)"
