"""What a Sharpe ratio is worth: luck of the best of many, and the chance that it is above a benchmark.

Ratios that carry "per bar" are mean / std without annualisation; mixing the two inflates a deflated Sharpe ratio by
sqrt(P). Legend: T returns, N trials, P periods per year.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import log_ndtr, ndtr

from tradesweep.metrics.performance import LEAST_RETURNS, LEAST_STD, Floats

_GRID_STEP = 1.0 / 64.0
_GRID: Floats = np.arange(-12.0, 16.0, _GRID_STEP)
_LOG_DENSITY: Floats = -0.5 * _GRID**2 - 0.5 * math.log(2.0 * math.pi)
_LOG_BELOW: Floats = log_ndtr(_GRID)


def expected_max_normal(n_trials: int) -> float:
    """E[max of N independent standard normals] = integral of x N phi(x) Phi(x)^(N - 1) dx; 0 for N = 1.

    Exact (trapezoid rule, whose error is below 1e-12 for such an integrand), where the usual approximation by two
    quantiles (Bailey and Lopez de Prado 2014, equation 6) is some percent off: 2.508 against 2.531 for N = 100.
    Source: David and Nagaraja, Order Statistics, 3.1.
    """
    if n_trials < 1:
        raise ValueError(f"n_trials must be >= 1, was {n_trials}")
    if n_trials == 1:
        return 0.0
    density = np.exp(math.log(n_trials) + _LOG_DENSITY + (n_trials - 1) * _LOG_BELOW)
    return float(_GRID_STEP * np.dot(_GRID, density))


def expected_max_sharpe(n_trials: int, n_bars: int, periods_per_year: float) -> float:
    """The luck hurdle: expected best annualised Sharpe ratio of N trials without skill over T = `n_bars` returns.

    E[max of N standard normals] sqrt(P / T): without skill, a Sharpe ratio per bar has variance 1 / T. Trials that
    resemble each other have less luck, so the hurdle is on the safe side. Source: Bailey and Lopez de Prado 2014.
    """
    if n_bars < 1:
        raise ValueError(f"n_bars must be >= 1, was {n_bars}")
    return expected_max_normal(n_trials) * math.sqrt(periods_per_year / n_bars)


def deflated(best: float, hurdle: float) -> float:
    """What is left of the best Sharpe ratio when the luck hurdle is taken away; both annualised."""
    return best - hurdle


def probabilistic_sharpe(returns_T: ArrayLike, benchmark_per_bar: float = 0.0) -> float | None:
    """Probability that the true Sharpe ratio per bar is above `benchmark_per_bar`.

    Phi((S - S*) sqrt(T - 1) / sqrt(1 - skew S + (kurtosis - 1) / 4 S^2)), S = mean / std (ddof 1) per bar, skewness
    and kurtosis (normal: 3) of the population. None below 30 returns, where std < 1e-12, and where the variance in
    the root is not positive. Source: Bailey and Lopez de Prado 2012, equation 8.
    """
    returns_T = np.asarray(returns_T, dtype=np.float64)
    if not np.isfinite(returns_T).all():
        raise ValueError("returns must be finite")
    if len(returns_T) < LEAST_RETURNS or returns_T.std(ddof=1) < LEAST_STD:
        return None
    ratio = float(returns_T.mean() / returns_T.std(ddof=1))
    skewness, kurtosis = _shape(returns_T)
    variance = 1.0 - skewness * ratio + (kurtosis - 1.0) / 4.0 * ratio**2
    if variance <= 0.0:
        return None
    return float(ndtr((ratio - benchmark_per_bar) * math.sqrt((len(returns_T) - 1) / variance)))


def deflated_sharpe(returns_T: ArrayLike, n_trials: int) -> float | None:
    """Probability that the true Sharpe ratio is above what the best of N trials without skill would show.

    `probabilistic_sharpe` against E[max of N] / sqrt(T - 1) per bar: the variance of the null, not the variance
    across trials, which is large exactly when some trials learned. None as there. Source: Bailey and Lopez de Prado
    2014; the null variance is the selection page's.
    """
    n_returns = len(np.asarray(returns_T))
    hurdle = expected_max_normal(n_trials) / math.sqrt(max(n_returns - 1, 1))
    return probabilistic_sharpe(returns_T, hurdle)


def iqm(values: ArrayLike) -> float:
    """Interquartile mean: the mean without the int(n / 4) least and the int(n / 4) largest of (n,) values, n >= 1.

    Source: Agarwal et al. 2021 (rliable), a trimmed mean with 25 % cut at both ends.
    """
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    if not len(ordered) or not np.isfinite(ordered).all():
        raise ValueError(f"values must be finite and one or more, were {ordered.tolist()}")
    cut = len(ordered) // 4
    return float(ordered[cut : len(ordered) - cut].mean())


def aggregate(values: ArrayLike, how: str) -> float:
    """One number for the seeds of a point: their mean, median or iqm. (n,) finite values, n >= 1."""
    values_N = np.asarray(values, dtype=np.float64)
    if how == "iqm":
        return iqm(values_N)
    return float(np.median(values_N) if how == "median" else np.mean(values_N))


def _shape(returns_T: Floats) -> tuple[float, float]:
    """Skewness and kurtosis (normal: 0 and 3), population moments."""
    centred = returns_T - returns_T.mean()
    spread = math.sqrt(float(np.mean(centred**2)))
    return float(np.mean((centred / spread) ** 3)), float(np.mean((centred / spread) ** 4))
