"""What a plan tells about each split before anything is spent; never about `test`.

Legend: T returns of a split, P periods per year.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tradesweep.errors import NotFound, Refused
from tradesweep.market.dataset import Market, bar_returns

FEWEST_BARS = 500
LARGEST_NOISE = 0.7
"""sqrt(P / T) is the standard error of an annualised Sharpe near 0; above this it hides a Sharpe of 1."""
FEWEST_RETURNS = 30
LEAST_STD = 1e-12


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitFacts:
    """A split in numbers."""

    name: str
    """train or validation."""
    bars: int
    """Bars in the split."""
    years: float
    """Returns / periods per year."""
    buy_and_hold_sharpe: float | None
    """Annualised, of close-to-close simple returns without costs; None below 30 returns or where flat."""
    cost_free_turnover: float | None
    """Turnover a year, in units of equity, whose costs eat the mean return of buy-and-hold; 0 where that
    lost, None where trading is free."""


def split_facts(market: Market, name: str, *, cost_per_leg: float) -> SplitFacts:
    """Facts of one split; `cost_per_leg` is a fraction of the traded value (fee plus slippage).

    Buy-and-hold Sharpe = sqrt(P) mean / std (ddof 1). Cost-free turnover = P mean / `cost_per_leg`.
    Raises `Refused` for `test`, which only `promote` reads, and `NotFound` for an unknown split.
    """
    if name == "test":
        raise Refused("facts of the split test are not shown: it is read once, by promote")
    if name not in market.splits:
        raise NotFound(f"split must be one of {', '.join(market.splits)}, was {name!r}")
    split, periods = market.splits[name], market.periods_per_year
    returns_T = bar_returns(market.bars, split)
    mean = float(returns_T.mean()) if len(returns_T) else 0.0
    return SplitFacts(
        name=name,
        bars=len(split),
        years=(len(split) - 1) / periods,
        buy_and_hold_sharpe=_sharpe(returns_T, periods),
        cost_free_turnover=max(0.0, periods * mean / cost_per_leg) if cost_per_leg > 0 else None,
    )


def plan_warnings(market: Market, names: Sequence[str] = ("train", "validation", "test")) -> list[str]:
    """One sentence for each split that is too short to tell skill from luck; only lengths are used."""
    lengths = {name: len(market.splits[name]) for name in names if name in market.splits}
    few = [
        f"split {name} has {bars} bars, fewer than {FEWEST_BARS}"
        for name, bars in lengths.items()
        if bars < FEWEST_BARS
    ]
    noise = {name: float(np.sqrt(market.periods_per_year / max(bars - 1, 1))) for name, bars in lengths.items()}
    loud = [
        f"split {name}: one standard error of its annualised Sharpe is {error:.2f}, more than {LARGEST_NOISE}"
        for name, error in noise.items()
        if error > LARGEST_NOISE
    ]
    return few + loud


def _sharpe(returns_T: np.ndarray, periods_per_year: float) -> float | None:
    if len(returns_T) < FEWEST_RETURNS:
        return None
    std = float(returns_T.std(ddof=1))
    return float(np.sqrt(periods_per_year) * returns_T.mean() / std) if std >= LEAST_STD else None
