import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tradesweep.errors import MarketError
from tradesweep.market.clock import local_dates
from tradesweep.market.rules import BarRules
from tradesweep.market.sources import load_sample
from tradesweep.market.splits import split_by_count, split_by_date
from tradesweep.market.synthetic import make_synthetic

USUAL = {
    "train": ("1999-01-01", "2009-12-31"),
    "validation": ("2010-01-01", "2014-12-31"),
    "test": ("2015-01-01", "2018-12-31"),
}


@pytest.fixture(scope="module")
def sample():
    return load_sample("nasdaq", BarRules(periods_per_year=252, fill="next_open"))


@pytest.fixture(scope="module")
def bars():
    return make_synthetic("brownian", bars=1000)


def test_both_dates_of_a_range_are_included(sample):
    splits = split_by_date(sample, USUAL)
    dates = local_dates(sample.time_us, sample.timezone)
    edges = {name: (str(dates[s.start]), str(dates[s.stop - 1])) for name, s in splits.items()}
    assert edges == {
        "train": ("1999-01-04", "2009-12-31"),
        "validation": ("2010-01-04", "2014-12-31"),
        "test": ("2015-01-02", "2018-12-31"),
    }


def test_a_bar_that_ends_at_midnight_belongs_to_the_day_that_closes(bars):
    splits = split_by_date(bars, {"train": ("2000-01-03", "2000-01-07"), "validation": ("2000-01-10", "2000-01-14")})
    assert (splits["train"].start, splits["train"].stop, splits["validation"].stop) == (0, 5, 10)


def test_an_embargo_takes_decisions_from_every_split_but_the_first(sample):
    plain, embargoed = split_by_date(sample, USUAL), split_by_date(sample, USUAL, 20)
    assert embargoed["train"] == plain["train"]
    for name in ("validation", "test"):
        assert embargoed[name].start == plain[name].start + 20
        assert embargoed[name].stop == plain[name].stop


@settings(deadline=None, max_examples=50)
@given(
    counts=st.lists(st.integers(20, 300), min_size=3, max_size=3),
    embargo=st.integers(0, 18),
)
def test_splits_by_count_are_consecutive_and_disjoint(bars, counts, embargo):
    names = ("train", "validation", "test")
    splits = split_by_count(bars, dict(zip(names, counts, strict=True)), embargo)
    edges = [0, *np.cumsum(counts).tolist()]
    for i, name in enumerate(names):
        assert splits[name].stop == edges[i + 1]
        assert splits[name].start == edges[i] + (embargo if i else 0)
        assert len(splits[name]) == counts[i] - (embargo if i else 0)


REFUSED = {
    "overlap": ({"validation": ("2009-12-31", "2014-12-31")}, "splits.validation must begin after splits.train ends"),
    "backwards": ({"test": ("2018-12-31", "2015-01-01")}, "splits.test must end on or after its first day"),
    "before the data": ({"train": ("1990-01-01", "2009-12-31")}, r"within the data \(1999-01-04 to 2018-12-31\)"),
    "after the data": ({"test": ("2015-01-01", "2025-12-31")}, "splits.test must lie within the data"),
    "empty": ({"validation": ("2010-01-02", "2010-01-03")}, "splits.validation must hold at least 2 bars"),
    "no such day": ({"train": ("1999-01-01", "2009-02-30")}, "splits.train must be ISO dates .* was '2009-02-30'"),
    "other format": ({"train": ("01/01/1999", "2009-12-31")}, "splits.train must be ISO dates"),
    "a year": ({"train": ("1999", "2009")}, "splits.train must be ISO dates"),
}


@pytest.mark.parametrize(("change", "message"), REFUSED.values(), ids=REFUSED)
def test_a_range_that_makes_no_sense_is_refused(sample, change, message):
    with pytest.raises(MarketError, match=message):
        split_by_date(sample, {**USUAL, **change})


def test_counts_and_embargo_must_fit(bars):
    with pytest.raises(MarketError, match="needed 1001 of 1000"):
        split_by_count(bars, {"train": 500, "validation": 501})
    with pytest.raises(MarketError, match=r"splits.train must hold at least 2 bars"):
        split_by_count(bars, {"train": 0, "validation": 501})
    with pytest.raises(MarketError, match="validation must hold at least 2 bars after an embargo of 99, held 1"):
        split_by_count(bars, {"train": 500, "validation": 100}, 99)
    with pytest.raises(MarketError, match="validation must hold at least 2 bars after an embargo of 101, held 0"):
        split_by_count(bars, {"train": 500, "validation": 100}, 101)
    with pytest.raises(MarketError, match="embargo_bars must be >= 0, was -1"):
        split_by_count(bars, {"train": 500}, -1)
