"""Where an episode may run: bars with a full window of features, and no gap in between.

Legend: N bars, W window bars.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from tradesweep.env.rows import Bools, Ints

if TYPE_CHECKING:
    from tradesweep.market import Market


def decidable_bars(market: Market, window_bars: int) -> Bools:
    """(N,) True where the last `window_bars` bars have all features and lie in one segment."""
    usable = market.valid_N.astype(np.int64)
    full = _rolling_sum(usable, window_bars) == window_bars
    segment = market.bars.segment
    same = np.zeros(len(segment), np.bool_)
    same[window_bars - 1 :] = segment[window_bars - 1 :] == segment[: len(segment) - window_bars + 1]
    return np.asarray(full & same)


def list_runs(market: Market, split: str, window_bars: int) -> list[tuple[int, int]]:
    """The stretches [start, stop) of a split that one episode can run through, each of two bars or more.

    A market without gaps has one: from the split's first bar with a full window to the split's end.
    """
    bounds = market.splits[split]
    able = decidable_bars(market, window_bars)[bounds.start : bounds.stop]
    segment = market.bars.segment[bounds.start : bounds.stop]
    label = np.where(able, segment.astype(np.int64), -1)
    edges = [0, *(np.flatnonzero(np.diff(label)) + 1).tolist(), len(label)]
    runs = [(lo, hi) for lo, hi in pairwise(edges) if hi - lo >= 2 and label[lo] >= 0]
    return [(bounds.start + lo, bounds.start + hi) for lo, hi in runs]


def list_starts(market: Market, split: str, window_bars: int, episode_bars: int) -> Ints:
    """First bars s of all training episodes: [s, s + episode_bars] lies in one run of the split."""
    runs = list_runs(market, split, window_bars)
    starts = [np.arange(start, stop - episode_bars, dtype=np.int64) for start, stop in runs]
    return np.concatenate([np.zeros(0, np.int64), *starts])


def _rolling_sum(values: Ints, width: int) -> Ints:
    total = np.concatenate([[0], np.cumsum(values)])
    sums = np.zeros_like(values)
    sums[width - 1 :] = total[width:] - total[:-width]
    return sums
