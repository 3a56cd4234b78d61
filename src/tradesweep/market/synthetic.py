"""Synthetic markets whose best policy is known: planted, brownian, gap_trap, regime, beta.

Every market is drawn from one `numpy.random.default_rng(seed)`: the same arguments give the same bits.
Legend: N bars; sigma is the volatility of one bar; x_t is the column `signal`, known at the end of bar t.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tradesweep.errors import MarketError
from tradesweep.market.bars import DAYS_PER_YEAR, US_PER_DAY, Bars, Floats, Ints

START_PRICE = 100.0
LEAST_PRICE = 1e-200
VOLUME = 1_000_000.0
FIRST_DAY = np.datetime64("2000-01-03", "D")
MOST_BARS = 20_000_000
MOST_BUSINESS_DAYS = 20_000
"""More bars than this are spaced evenly over the year: business days would run out of the calendar."""
CLIP = 6.0
"""Standard normal draws that move a price are clipped to +-6, which keeps every price positive."""
DISTRACTORS = 5
REGIME_STAY = 0.98
REGIME_DRIFT = 0.003


@dataclass(frozen=True, kw_only=True, slots=True)
class _Path:
    """What a synthetic market says about each bar; prices follow from it."""

    gap_N: Floats
    """(N,) O_t / C_{t-1} - 1; the first entry is not used."""
    body_N: Floats
    """(N,) C_t / O_t - 1."""
    columns: dict[str, Floats] = field(default_factory=dict)
    """Feature columns, known at the end of the bar."""


def make_synthetic(
    name: str, /, *, seed: int = 0, periods_per_year: float = 252.0, **params: float | int | str
) -> Bars:
    """Draw a synthetic market.

    `params` are the keyword arguments of the market's own function (`bars`, `sigma`, and for planted `rho`
    and `q`). Raises `MarketError` for an unknown market or parameter and for a value out of its range.
    """
    draw = _find_market(name)
    bars, sigma = _check_params(name, draw, seed, periods_per_year, params)
    rng = np.random.default_rng(seed)
    path = draw(rng, periods_per_year=periods_per_year, **{**params, "bars": bars, "sigma": sigma})
    return _to_bars(rng, path, sigma, _stamps(bars, periods_per_year))


def draw_planted(
    rng: np.random.Generator,
    *,
    bars: int = 11_000,
    sigma: float = 0.01,
    rho: float = 0.25,
    q: float = 0.1,
    periods_per_year: float = 252.0,  # noqa: ARG001 - one signature for all markets
) -> _Path:
    """x_0 fair, x_{t+1} = -x_t with probability q; y_{t+1} = sigma (rho x_t + sqrt(1 - rho^2) e)."""
    x_N = _sticky_signs(rng, bars, 1.0 - q)
    noise_N = _clipped_normal(rng, bars)
    previous_N = np.concatenate(([0.0], x_N[:-1]))
    body_N = sigma * (rho * previous_N + np.sqrt(1.0 - rho**2) * noise_N)
    distractors = {f"noise_{i + 1}": rng.standard_normal(bars) for i in range(DISTRACTORS)}
    return _Path(gap_N=np.zeros(bars), body_N=body_N, columns={"signal": x_N, **distractors})


def draw_brownian(
    rng: np.random.Generator,
    *,
    bars: int = 11_000,
    sigma: float = 0.01,
    periods_per_year: float = 252.0,  # noqa: ARG001 - one signature for all markets
) -> _Path:
    """Simple returns y iid N(0, sigma^2): nothing to learn."""
    return _Path(gap_N=np.zeros(bars), body_N=sigma * _clipped_normal(rng, bars))


def draw_gap_trap(
    rng: np.random.Generator,
    *,
    bars: int = 10_000,
    sigma: float = 0.01,
    periods_per_year: float = 252.0,  # noqa: ARG001 - one signature for all markets
) -> _Path:
    """O_{t+1} = C_t (1 + sigma x_t), C_{t+1} = O_{t+1} (1 + sigma e): it pays only before the open."""
    x_N = _fair_signs(rng, bars)
    gap_N = sigma * np.concatenate(([0.0], x_N[:-1]))
    return _Path(gap_N=gap_N, body_N=sigma * _clipped_normal(rng, bars), columns={"signal": x_N})


def draw_regime(
    rng: np.random.Generator,
    *,
    bars: int = 11_000,
    sigma: float = 0.01,
    drift: float = REGIME_DRIFT,
    stay: float = REGIME_STAY,
    periods_per_year: float = 252.0,  # noqa: ARG001 - one signature for all markets
) -> _Path:
    """Hidden state +-1 that stays with probability `stay`; y = drift x state + sigma e; no column."""
    state_N = _sticky_signs(rng, bars, stay)
    return _Path(gap_N=np.zeros(bars), body_N=drift * state_N + sigma * _clipped_normal(rng, bars))


def draw_beta(
    rng: np.random.Generator,
    *,
    bars: int = 11_000,
    sigma: float = 0.01,
    sharpe: float = 0.6,
    periods_per_year: float = 252.0,
) -> _Path:
    """Brownian with a drift of the given annual Sharpe: holding looks like skill and is not."""
    drift = sharpe * sigma / np.sqrt(periods_per_year)
    return _Path(gap_N=np.zeros(bars), body_N=drift + sigma * _clipped_normal(rng, bars))


SYNTHETIC_MARKETS: dict[str, Callable[..., _Path]] = {
    "planted": draw_planted,
    "brownian": draw_brownian,
    "gap_trap": draw_gap_trap,
    "regime": draw_regime,
    "beta": draw_beta,
}

_BOUNDS: dict[str, tuple[float, float]] = {
    "bars": (2, MOST_BARS),
    "sigma": (1e-6, 0.1),
    "rho": (-1.0, 1.0),
    "q": (0.1, 1.0),
    "drift": (-0.05, 0.05),
    "stay": (0.0, 1.0),
    "sharpe": (-3.0, 3.0),
}
"""Lowest and highest value of each parameter; q below 0.1 leaves too few changes to learn from."""


def planted_best_sharpe(
    *,
    rho: float,
    q: float,
    cost_per_leg: float,
    sigma: float = 0.01,
    periods_per_year: float = 252.0,
) -> float:
    """The annualised Sharpe of the best policy on the planted market with positions {-1, 0, 1}.

    sqrt(P) (sigma rho - 2 c q) / sqrt(sigma^2 (1 - rho^2) + 4 c^2 q (1 - q)), c = `cost_per_leg`, a fraction.
    """
    mean = sigma * rho - 2.0 * cost_per_leg * q
    variance = sigma**2 * (1.0 - rho**2) + 4.0 * cost_per_leg**2 * q * (1.0 - q)
    return float(np.sqrt(periods_per_year) * mean / np.sqrt(variance))


def oracle_targets(bars: Bars, name: str, **params: float) -> Floats:
    """(N,) target position decided at the end of each bar by the reference policy of a synthetic market.

    planted: x_t. regime: the Hamilton filter (`sigma`, `drift`, `stay`). Other markets have no reference.
    """
    if name not in _ORACLES:
        raise MarketError(f"synthetic market {name!r} has no reference policy; there is one for {_listed(_ORACLES)}")
    return _ORACLES[name](bars, **params)


def planted_targets(bars: Bars) -> Floats:
    """(N,) the signal itself."""
    return bars.extra["signal"].copy()


def regime_targets(
    bars: Bars, *, sigma: float = 0.01, drift: float = REGIME_DRIFT, stay: float = REGIME_STAY
) -> Floats:
    """(N,) targets of the Hamilton filter: long where predictive - 1/2 > .1, short below -.1, else hold.

    p is the probability of the up state; the log likelihood ratio of y is 2 drift y / sigma^2.
    Source: Hamilton (1989), the two-state filter.
    """
    returns_N = bars.close / bars.open - 1.0
    ratio_N = np.exp(2.0 * drift * returns_N / sigma**2)
    targets_N = np.zeros(len(bars))
    predictive, target = 0.5, 0.0
    for i, ratio in enumerate(ratio_N.tolist()):
        posterior = predictive * ratio / (predictive * ratio + 1.0 - predictive)
        predictive = stay * posterior + (1.0 - stay) * (1.0 - posterior)
        edge = predictive - 0.5
        target = 1.0 if edge > 0.1 else -1.0 if edge < -0.1 else target
        targets_N[i] = target
    return targets_N


_ORACLES: dict[str, Callable[..., Floats]] = {"planted": planted_targets, "regime": regime_targets}


def _find_market(name: str) -> Callable[..., _Path]:
    if name not in SYNTHETIC_MARKETS:
        raise MarketError(f"synthetic market must be one of {_listed(SYNTHETIC_MARKETS)}, was {name!r}")
    return SYNTHETIC_MARKETS[name]


def _check_params(
    name: str,
    draw: Callable[..., _Path],
    seed: int,
    periods_per_year: float,
    params: dict[str, float | int | str],
) -> tuple[int, float]:
    """The number of bars and sigma, after every parameter was found known and in range."""
    known = {k: p.default for k, p in inspect.signature(draw).parameters.items() if k in _BOUNDS}
    for key, value in params.items():
        if key not in known:
            raise MarketError(
                f"market.params.{key} must be known, but {name} has no parameter {key!r}; it has {_listed(known)} and"
                " 'seed'"
            )
        _check_number(f"market.params.{key}", value, *_BOUNDS[key], whole=key == "bars")
    _check_number("market.params.seed", seed, 0, 2**63 - 1, whole=True)
    _check_number("market.periods_per_year", periods_per_year, 1.0, 1e8, whole=False)
    chosen = {**known, **params}
    return int(chosen["bars"]), float(chosen["sigma"])


def _check_number(what: str, value: object, low: float, high: float, *, whole: bool) -> None:
    kinds = (int, np.integer) if whole else (int, float, np.integer, np.floating)
    good = isinstance(value, kinds) and not isinstance(value, bool) and low <= float(value) <= high
    if not good:
        kind = "a whole number" if whole else "a number"
        raise MarketError(f"{what} must be {kind} from {low:g} to {high:g}, was {value!r}")


def _to_bars(rng: np.random.Generator, path: _Path, sigma: float, time_us: Ints) -> Bars:
    """Prices from gaps and bodies; H and L are the outer of O and C times 1 +- |n| sigma / 4."""
    gap_N = np.concatenate(([0.0], path.gap_N[1:]))
    with np.errstate(over="ignore", under="ignore"):
        growth_N = np.cumprod((1.0 + gap_N[1:]) * (1.0 + path.body_N[:-1]))
    open_N = START_PRICE * np.concatenate(([1.0], growth_N))
    close_N = open_N * (1.0 + path.body_N)
    if not path.gap_N.any():
        close_N = np.concatenate((open_N[1:], close_N[-1:]))
    _check_range(close_N)
    wick_2N = np.abs(_clipped_normal(rng, 2 * len(open_N)).reshape(2, -1)) * sigma / 4.0
    return Bars.from_prices(
        time_us=time_us,
        open=open_N,
        high=np.maximum(open_N, close_N) * (1.0 + wick_2N[0]),
        low=np.minimum(open_N, close_N) * (1.0 - wick_2N[1]),
        close=close_N,
        volume=np.full(len(open_N), VOLUME),
        extra=path.columns,
    )


def _check_range(close_N: Floats) -> None:
    """A random walk of very many wide steps runs out of floating-point numbers."""
    odd_N = ~((close_N > LEAST_PRICE) & (close_N < 1.0 / LEAST_PRICE))
    if odd_N.any():
        raise MarketError(
            f"synthetic prices must stay within {LEAST_PRICE:g} and {1.0 / LEAST_PRICE:g}, left it at bar"
            f" {int(odd_N.argmax())}; lower sigma or the number of bars"
        )


def _stamps(bars: int, periods_per_year: float) -> Ints:
    """(N,) ends of bars: business days for a daily market of a plausible length, else evenly spaced."""
    if 200 <= periods_per_year <= 300 and bars <= MOST_BUSINESS_DAYS:
        days = np.busday_offset(FIRST_DAY, np.arange(bars), roll="forward")
        return days.astype("datetime64[us]").astype(np.int64) + US_PER_DAY
    spacing_us = int(DAYS_PER_YEAR * US_PER_DAY / periods_per_year)
    first_us = int(FIRST_DAY.astype("datetime64[us]").astype(np.int64))
    return first_us + spacing_us * np.arange(1, bars + 1, dtype=np.int64)


def _fair_signs(rng: np.random.Generator, n: int) -> Floats:
    return np.asarray(rng.integers(0, 2, n) * 2 - 1, dtype=np.float64)


def _sticky_signs(rng: np.random.Generator, n: int, stay: float) -> Floats:
    """(n,) of +-1: the first is fair, each later one equals its predecessor with probability `stay`."""
    first = _fair_signs(rng, 1)
    flips: NDArray[np.float64] = np.where(rng.random(n - 1) < stay, 1.0, -1.0)
    return np.asarray(np.cumprod(np.concatenate((first, flips))))


def _clipped_normal(rng: np.random.Generator, n: int) -> Floats:
    return np.asarray(np.clip(rng.standard_normal(n), -CLIP, CLIP))


def _listed(names: object) -> str:
    return ", ".join(sorted(names))  # type: ignore[call-overload]
