"""Performance of one path, or of many beside each other.

Returns are simple returns of consecutive bars, flat bars included as 0, in excess of cash (cash earns 0). A scalar
metric is a Python float, or None where it is undefined; its batch form has NaN there. Non-finite input raises
ValueError: a metric of it would be a number that nobody earned.

Legend: T returns, T + 1 equities (the start in front), E paths, B blocks, P periods per year.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

LEAST_RETURNS = 30
"""Fewer returns have no Sharpe ratio."""
LEAST_STD = 1e-12
"""Returns that spread less have no Sharpe ratio: the policy stood flat."""


def equity_returns(equity_T1: ArrayLike) -> Floats:
    """(T,) or (T, E) simple returns E_j / E_t - 1 of equities along axis 0, the start in front.

    Equity that stays where it is returns 0, also where an account ended at 0.
    """
    equity_T1 = _finite(equity_T1, "equity")
    before, after = equity_T1[:-1], equity_T1[1:]
    ratio = np.ones_like(after)
    np.divide(after, before, out=ratio, where=after != before)
    return ratio - 1.0


def sharpe(returns_T: ArrayLike, periods_per_year: float) -> float | None:
    """Annualised Sharpe ratio sqrt(P) mean / std (ddof 1) of (T,) returns.

    None below 30 returns, and where std < 1e-12. Source: Sharpe 1994, against cash that earns 0.
    """
    returns_T = _finite(returns_T, "returns")
    if len(returns_T) < LEAST_RETURNS:
        return None
    std = float(returns_T.std(ddof=1))
    return _annualise(float(returns_T.mean()) / std, periods_per_year) if std >= LEAST_STD else None


def sharpe_batch(returns_TE: ArrayLike, periods_per_year: float) -> Floats:
    """(E,) `sharpe` of each column of (T, E) returns, NaN where undefined. Sums in another order: equal to 1e-12."""
    returns_TE = _finite(returns_TE, "returns")
    if len(returns_TE) < LEAST_RETURNS:
        return np.full(returns_TE.shape[1:], np.nan)
    mean_E, std_E = returns_TE.mean(axis=0), returns_TE.std(axis=0, ddof=1)
    ratio_E = np.full(std_E.shape, np.nan)
    np.divide(mean_E, std_E, out=ratio_E, where=std_E >= LEAST_STD)
    return np.asarray(math.sqrt(periods_per_year) * ratio_E)


def sortino(returns_T: ArrayLike, periods_per_year: float) -> float | None:
    """Annualised Sortino ratio sqrt(P) mean / sqrt(mean(min(r, 0)^2)) of (T,) returns; the mean is over all T.

    None below 30 returns, and where the downside deviation is below 1e-12. Source: Sortino and Price 1994, target 0.
    """
    returns_T = _finite(returns_T, "returns")
    if len(returns_T) < LEAST_RETURNS:
        return None
    downside = math.sqrt(float(np.mean(np.minimum(returns_T, 0.0) ** 2)))
    return _annualise(float(returns_T.mean()) / downside, periods_per_year) if downside >= LEAST_STD else None


def max_drawdown(equity_T1: ArrayLike) -> float:
    """Largest fall from an earlier peak, max(1 - E / peak), of (T + 1,) equities, the start in front and > 0.

    In [0, 1], and above 1 where equity went below 0.
    """
    return float(max_drawdown_batch(_finite(equity_T1, "equity")[:, None])[0])


def max_drawdown_batch(equity_T1E: ArrayLike) -> Floats:
    """(E,) `max_drawdown` of each column of (T + 1, E) equities."""
    equity_T1E = _finite(equity_T1E, "equity")
    _check_start(equity_T1E)
    return np.asarray(np.max(1.0 - equity_T1E / np.maximum.accumulate(equity_T1E, axis=0), axis=0))


def annual_return(equity_T1: ArrayLike, periods_per_year: float) -> float:
    """Compound return a year, (E_T / E_0)^(P / T) - 1, of (T + 1,) equities, T >= 1; -1 where nothing is left."""
    equity_T1 = _finite(equity_T1, "equity")
    _check_start(equity_T1)
    if len(equity_T1) < 2:
        raise ValueError(f"equity must hold the start and one bar or more, held {len(equity_T1)}")
    growth = max(float(equity_T1[-1] / equity_T1[0]), 0.0)
    return float(growth ** (periods_per_year / (len(equity_T1) - 1)) - 1.0)


def calmar(equity_T1: ArrayLike, periods_per_year: float) -> float | None:
    """`annual_return` / `max_drawdown` over the whole of (T + 1,) equities; None where there was no drawdown.

    Source: Young 1991, who takes three years; here it is the span given.
    """
    drawdown = max_drawdown(equity_T1)
    return annual_return(equity_T1, periods_per_year) / drawdown if drawdown >= LEAST_STD else None


def turnover(traded_T: ArrayLike, equity_T1: ArrayLike, periods_per_year: float) -> float:
    """Value traded a year in units of equity: P / T times the sum of |notional| / equity before the step.

    `traded_T` (T,) unsigned notional of each step's fills; `equity_T1` (T + 1,), the start in front. A sign flip from
    +1 to -1 counts 2. Steps that began without equity count 0.
    """
    traded_T, equity_T1 = _finite(traded_T, "traded"), _finite(equity_T1, "equity")
    assert len(equity_T1) == len(traded_T) + 1, f"{len(traded_T)} steps need one equity more, had {len(equity_T1)}"
    if not len(traded_T):
        return 0.0
    share_T = np.zeros_like(traded_T)
    np.divide(traded_T, equity_T1[:-1], out=share_T, where=equity_T1[:-1] > 0.0)
    return float(periods_per_year * share_T.mean())


def compound_blocks(returns_T: ArrayLike, max_blocks: int = 2000) -> Floats:
    """(B,) returns compounded over blocks of equal length, B <= `max_blocks`; the last block may be shorter."""
    growth_T = 1.0 + _finite(returns_T, "returns")
    return np.asarray(np.multiply.reduceat(growth_T, _edges(len(growth_T), max_blocks)) - 1.0)


def average_blocks(values_T: ArrayLike, max_blocks: int = 2000) -> Floats:
    """(B,) means over the blocks of `compound_blocks`: for exposures beside returns."""
    values_T = _finite(values_T, "values")
    edges_B = _edges(len(values_T), max_blocks)
    return np.asarray(np.add.reduceat(values_T, edges_B) / np.diff(np.append(edges_B, len(values_T))))


def _edges(length: int, max_blocks: int) -> NDArray[np.int64]:
    """(B,) first index of each block."""
    return np.arange(0, length, max(-(-length // max_blocks), 1), dtype=np.int64)


def _annualise(ratio: float, periods_per_year: float) -> float:
    return math.sqrt(periods_per_year) * ratio


def _finite(values: ArrayLike, name: str) -> Floats:
    array = np.asarray(values, dtype=np.float64)
    wrong = np.flatnonzero(~np.isfinite(array))
    if len(wrong):
        raise ValueError(f"{name} must be finite, was {array.ravel()[wrong[0]]} at {wrong[0]}")
    return array


def _check_start(equity_T1: Floats) -> None:
    if not np.all(equity_T1[:1] > 0.0) or not len(equity_T1):
        raise ValueError(f"equity must start above 0, was {equity_T1[:1].tolist()}")
