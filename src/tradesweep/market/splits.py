"""Splits: which bars a policy may decide on, by date or by bar count.

A split is [start, stop) as on the environment page: the first decision is at the close of bar `start`, the
last at `stop` - 2, and nothing at or after `stop` is read or filled. Features may look back before `start`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from tradesweep.errors import MarketError
from tradesweep.market.bars import Bars
from tradesweep.market.clock import local_dates

EDGE_SLACK_DAYS = 10
"""A range may start or end this many days outside of the data: weekends and holidays."""
FEWEST_BARS = 2
"""One decision and its mark."""

Dates = NDArray[np.datetime64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Split:
    """The bars [start, stop) of a split."""

    name: str
    """train, validation or test."""
    start: int
    """The bar of the first decision."""
    stop: int
    """One past the last bar that is read; the last decision is at `stop` - 2."""

    def __len__(self) -> int:
        return self.stop - self.start


def split_by_date(bars: Bars, ranges: Mapping[str, tuple[str, str]], embargo_bars: int = 0) -> dict[str, Split]:
    """Splits from (first, last) ISO dates, both inclusive, in the order of time.

    A bar belongs to the calendar date, in the market's time zone, on which it ended (a bar that ends at
    midnight belongs to the day before). `embargo_bars` decisions are taken from the head of every split but
    the first; features still see those bars. Raises `MarketError` for overlaps, empty or outlying ranges.
    """
    dates_N = local_dates(bars.time_us, bars.timezone)
    splits: list[Split] = []
    for name, (first, last) in ranges.items():
        first_day, last_day = _parse_day(name, first), _parse_day(name, last)
        _check_range(name, first_day, last_day, dates_N)
        start, stop = np.searchsorted(dates_N, first_day, "left"), np.searchsorted(dates_N, last_day, "right")
        splits.append(Split(name=name, start=int(start), stop=int(stop)))
    return _finish(splits, embargo_bars)


def split_by_count(bars: Bars, counts: Mapping[str, int], embargo_bars: int = 0) -> dict[str, Split]:
    """Consecutive splits of so many bars each, from the first bar on; embargo as in `split_by_date`."""
    splits: list[Split] = []
    start = 0
    for name, count in counts.items():
        splits.append(Split(name=name, start=start, stop=start + count))
        start += count
    if start > len(bars):
        raise MarketError(
            f"splits must not need more bars than the market has, needed {start} of {len(bars)};"
            " shorten the splits or ask for more bars"
        )
    return _finish(splits, embargo_bars)


def _finish(splits: list[Split], embargo_bars: int) -> dict[str, Split]:
    _check_embargo(embargo_bars)
    for earlier, later in pairwise(splits):
        if later.start < earlier.stop:
            raise MarketError(
                f"splits.{later.name} must begin after splits.{earlier.name} ends, began at bar {later.start}"
                f" where {earlier.name} ends before bar {earlier.stop}; the order is train, validation, test"
            )
    heads = [0, *[embargo_bars] * (len(splits) - 1)]
    kept = [Split(name=s.name, start=s.start + n, stop=s.stop) for s, n in zip(splits, heads, strict=True)]
    for split in kept:
        _check_length(split, embargo_bars)
    return {split.name: split for split in kept}


def _check_embargo(embargo_bars: int) -> None:
    if embargo_bars < 0:
        raise MarketError(f"splits.embargo_bars must be >= 0, was {embargo_bars}")


def _check_length(split: Split, embargo_bars: int) -> None:
    bars = split.stop - split.start  # an embargo may be longer than its split, and no len() is negative
    if bars < FEWEST_BARS:
        raise MarketError(
            f"splits.{split.name} must hold at least {FEWEST_BARS} bars after an embargo of {embargo_bars},"
            f" held {max(bars, 0)}; widen its range"
        )


def _parse_day(name: str, text: str) -> np.datetime64:
    try:
        day = date.fromisoformat(text)
    except (ValueError, TypeError):
        day = None
    if day is None or day.isoformat() != text:
        raise MarketError(f"splits.{name} must be ISO dates such as 2009-12-31, was {text!r}")
    return np.datetime64(day)


def _check_range(name: str, first: np.datetime64, last: np.datetime64, dates_N: Dates) -> None:
    if last < first:
        raise MarketError(f"splits.{name} must end on or after its first day, was {first} to {last}")
    slack = np.timedelta64(EDGE_SLACK_DAYS, "D")
    if first < dates_N[0] - slack or last > dates_N[-1] + slack:
        raise MarketError(
            f"splits.{name} must lie within the data ({dates_N[0]} to {dates_N[-1]}), was {first} to {last};"
            " shorten the range or bring more data"
        )
