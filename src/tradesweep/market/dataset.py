"""Market: everything an environment needs of a market, compiled once and then only read.

Legend: N bars, F features.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tradesweep.errors import MarketError
from tradesweep.market.bars import Bars, Floats
from tradesweep.market.features import (
    FeatureBuilder,
    FeatureRequest,
    check_features,
    check_return_like,
    compute_features,
)
from tradesweep.market.rules import BarRules
from tradesweep.market.scaling import Scaler
from tradesweep.market.splits import Split, split_by_count, split_by_date

SplitRange = tuple[str, str] | int
"""(first, last) ISO dates, both inclusive, or a number of bars."""
LEAST_STD = 1e-12


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Market:
    """Checked bars, scaled features and splits of one instrument; all arrays are read-only."""

    bars: Bars
    """(N,) bars."""
    feature_names: tuple[str, ...]
    """(F,) names of the feature columns."""
    features_NF: NDArray[np.float32]
    """(N, F) features scaled on train and clipped to +-10; NaN where a bar has not all features yet."""
    first_valid: int
    """The first bar with all features."""
    splits: dict[str, Split]
    """train, validation and test by name."""
    scaler: Scaler
    """What scaled the features."""
    instrument: str
    """Name of what is traded."""
    source: str
    """Where the bars came from, for people."""
    periods_per_year: float
    """Bars per year."""
    sha256: str
    """Hex digest of the bars, their column names and `periods_per_year`."""
    reward_scale_auto: float
    """1 / standard deviation of the train split's close-to-close simple returns; 1 where they do not move."""

    @property
    def valid_N(self) -> NDArray[np.bool_]:
        """(N,) True where a bar has all features (also False at the head of every later segment)."""
        return np.asarray(np.isfinite(self.features_NF).all(axis=1))


def build_market(
    bars: Bars,
    *,
    features: Sequence[FeatureRequest],
    splits: Mapping[str, SplitRange],
    rules: BarRules,
    instrument: str,
    source: str,
    embargo_bars: int = 0,
    plugins: Mapping[str, FeatureBuilder] | None = None,
) -> Market:
    """Compile checked bars into a `Market`.

    `splits` maps train, validation and test, in this order, to dates or to bar counts, all of one kind.
    Raises `MarketError` for splits or features that do not fit the bars.
    """
    table = compute_features(bars, features, plugins)
    check_features(table, bars)
    if rules.adjustment != "none":
        check_return_like(bars, features, table, plugins)
    ranges = _build_splits(bars, splits, embargo_bars)
    scaler = Scaler.fit(table.values_NF, ranges["train"])
    features_NF = scaler.transform(table.values_NF)
    features_NF.flags.writeable = False
    return Market(
        bars=bars,
        feature_names=table.names,
        features_NF=features_NF,
        first_valid=table.first_valid,
        splits=ranges,
        scaler=scaler,
        instrument=instrument,
        source=source,
        periods_per_year=float(rules.periods_per_year),
        sha256=hash_market(bars, rules.periods_per_year),
        reward_scale_auto=compute_reward_scale(bars, ranges["train"]),
    )


def hash_market(bars: Bars, periods_per_year: float) -> str:
    """Hex digest of the bars together with `periods_per_year`: the data sha256 of a sweep."""
    return hashlib.sha256(f"{bars.sha256()} {float(periods_per_year)!r}".encode()).hexdigest()


def compute_reward_scale(bars: Bars, train: Split) -> float:
    """1 / standard deviation (ddof 1) of train's close-to-close simple returns, none of them across a gap."""
    returns_T = bar_returns(bars, train)
    std = float(returns_T.std(ddof=1)) if len(returns_T) > 1 else 0.0
    return 1.0 / std if std > LEAST_STD else 1.0


def bar_returns(bars: Bars, split: Split) -> Floats:
    """(T,) close-to-close simple returns within a split, none of them across a gap."""
    close_N, segment_N = bars.close[split.start : split.stop], bars.segment[split.start : split.stop]
    returns_T = close_N[1:] / close_N[:-1] - 1.0
    return np.asarray(returns_T[segment_N[1:] == segment_N[:-1]])


def _build_splits(bars: Bars, splits: Mapping[str, SplitRange], embargo_bars: int) -> dict[str, Split]:
    if "train" not in splits:
        raise MarketError(f"splits must name train, named {', '.join(splits) or 'nothing'}")
    counts = {name: value for name, value in splits.items() if isinstance(value, int)}
    dates = {name: value for name, value in splits.items() if not isinstance(value, int)}
    if counts and dates:
        raise MarketError(
            f"splits must be all dates or all bar counts, was a count for {', '.join(counts)} and dates for"
            f" {', '.join(dates)}"
        )
    return split_by_count(bars, counts, embargo_bars) if counts else split_by_date(bars, dates, embargo_bars)
