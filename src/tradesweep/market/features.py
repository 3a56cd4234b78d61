"""Causal features: pure functions of bars, built through TA-Lib, return-like or bounded.

A builder is a function `(bars, **params) -> (names, values_NK)`: row t may depend on bars 0..t only, and a
row that cannot be known yet is NaN. TA-Lib's recursive indicators (RSI, ATR, MACD) start from the first bar
and carry their state forward, which is causal. Prices enter only as ratios, so that a back-adjusted level,
which knows the future, never reaches an observation.
Legend: N bars, K columns of one feature, F columns of all.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tradesweep.errors import MarketError
from tradesweep.market.bars import PRICE_NAMES, Bars, Floats

FeatureBuilder = Callable[..., tuple[Sequence[str], Floats]]
FeatureRequest = tuple[str, Mapping[str, Any]]
"""A feature's name and its parameters."""

LONGEST_PERIOD = 100_000
"""TA-Lib's own limit."""
RETURN_UNIT = 100.0
"""Returns enter TA-Lib in percent: it takes a variance below 1e-14 for zero."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class FeatureTable:
    """Raw features, not scaled."""

    names: tuple[str, ...]
    """(F,) column names, unique."""
    values_NF: Floats
    """(N, F) float64, NaN where a feature is not known yet."""
    first_valid: int
    """The first bar with all features; equal to N where there is none."""

    @property
    def valid_N(self) -> NDArray[np.bool_]:
        """(N,) True where a bar has all features."""
        return np.asarray(np.isfinite(self.values_NF).all(axis=1))


def log_returns(bars: Bars, *, lags: Sequence[int] = (1, 5, 20)) -> tuple[list[str], Floats]:
    """log(C_t / C_{t - lag}) for each lag."""
    _check_whole("log_returns", "lags", *lags)
    log_close_N = np.log(bars.close)
    columns = [_lagged_difference(log_close_N, lag) for lag in lags]
    return [f"log_return_{lag}" for lag in lags], np.column_stack(columns)


def rsi(bars: Bars, *, period: int = 14) -> tuple[list[str], Floats]:
    """Relative strength index (Wilder), moved from 0..100 to -1..1."""
    _check_whole("rsi", "period", period, least=2)
    return _one(f"rsi_{period}", _talib("RSI", bars.close, timeperiod=period) / 50.0 - 1.0)


def macd(bars: Bars, *, fast: int = 12, slow: int = 26, signal: int = 9) -> tuple[list[str], Floats]:
    """MACD line and histogram, each relative to the close."""
    _check_whole("macd", "fast", fast, least=2)
    _check_whole("macd", "slow", slow, least=2)
    _check_whole("macd", "signal", signal)
    if fast >= slow:
        raise MarketError(f"features.macd.fast must be < slow, was {fast} against {slow}")
    line_N, _, histogram_N = _talib(
        "MACD", bars.close, fastperiod=fast, slowperiod=slow, signalperiod=signal, outputs=3
    )
    name = f"macd_{fast}_{slow}_{signal}"
    return [name, f"{name}_histogram"], np.column_stack((line_N, histogram_N)) / bars.close[:, None]


def bollinger_position(bars: Bars, *, period: int = 20, width: float = 2.0) -> tuple[list[str], Floats]:
    """(C - mean) / (width x standard deviation) over `period` bars; 0 where the price stood still."""
    _check_whole("bollinger_position", "period", period, least=2)
    _check_positive("bollinger_position", "width", width)
    mean_N = _talib("SMA", bars.close, timeperiod=period)
    relative_N = np.asarray(bars.close / bars.close[0] * RETURN_UNIT)
    deviation_N = _talib("STDDEV", relative_N, timeperiod=period) / RETURN_UNIT * bars.close[0]
    distance_N = bars.close - mean_N
    still_N = deviation_N <= 1e-9 * bars.close
    position_N = np.divide(distance_N, width * deviation_N, out=np.zeros(len(bars)), where=~still_N)
    return _one(f"bollinger_position_{period}", np.where(np.isnan(mean_N), np.nan, position_N))


def atr(bars: Bars, *, period: int = 14) -> tuple[list[str], Floats]:
    """Average true range (Wilder) relative to the close."""
    _check_whole("atr", "period", period)
    true_range_N = _talib("ATR", bars.high, bars.low, bars.close, timeperiod=period)
    return _one(f"atr_{period}", true_range_N / bars.close)


def realised_volatility(bars: Bars, *, period: int = 20) -> tuple[list[str], Floats]:
    """Standard deviation (ddof 0) of the last `period` log returns, per bar."""
    _check_whole("realised_volatility", "period", period, least=2)
    returns_N = _lagged_difference(np.log(bars.close), 1) * RETURN_UNIT
    return _one(f"realised_volatility_{period}", _talib("STDDEV", returns_N, timeperiod=period) / RETURN_UNIT)


def trend(bars: Bars, *, period: int = 50) -> tuple[list[str], Floats]:
    """log(C / simple mean of the last `period` closes)."""
    _check_whole("trend", "period", period, least=2)
    return _one(f"trend_{period}", np.log(bars.close / _talib("SMA", bars.close, timeperiod=period)))


def csv_columns(bars: Bars, *, names: Sequence[str]) -> tuple[list[str], Floats]:
    """Columns of the data file, or of a synthetic market, as they are."""
    missing = [name for name in names if name not in bars.extra]
    if missing or not names:
        raise MarketError(
            "features.csv_columns.names must name columns of the market"
            f" ({', '.join(bars.extra) or 'it has none'}),"
            f" was {', '.join(map(repr, missing)) or 'empty'}"
        )
    return list(names), np.column_stack([bars.extra[name] for name in names])


FEATURES: dict[str, FeatureBuilder] = {
    builder.__name__: builder
    for builder in (log_returns, rsi, macd, bollinger_position, atr, realised_volatility, trend, csv_columns)
}
"""The built-in features by name."""


def compute_features(
    bars: Bars, features: Sequence[FeatureRequest], plugins: Mapping[str, FeatureBuilder] | None = None
) -> FeatureTable:
    """All features of all bars, raw. With several segments every feature starts anew in each.

    Raises `MarketError` for an unknown feature or parameter, for a column name that occurs twice, and for a
    plugin whose answer has not one row a bar.
    """
    names, values_NF = build_columns(bars, features, plugins or {})
    doubled = sorted({name for name in names if names.count(name) > 1})
    if doubled:
        raise MarketError(f"features must not build a column twice, built {', '.join(doubled)} again; drop one")
    valid_N = np.isfinite(values_NF).all(axis=1)
    first_valid = int(valid_N.argmax()) if valid_N.any() else len(bars)
    return FeatureTable(names=tuple(names), values_NF=values_NF, first_valid=first_valid)


def build_columns(
    bars: Bars, features: Sequence[FeatureRequest], plugins: Mapping[str, FeatureBuilder]
) -> tuple[list[str], Floats]:
    """Column names and (N, F) values, segment by segment."""
    edges = [0, *(np.flatnonzero(np.diff(bars.segment)) + 1).tolist(), len(bars)]
    names: list[str] = []
    blocks: list[Floats] = []
    for start, stop in pairwise(edges):
        names, block_NF = _build_segment(bars[start:stop], features, plugins)
        blocks.append(block_NF)
    return names, np.ascontiguousarray(np.concatenate(blocks))


def check_features(table: FeatureTable, bars: Bars) -> None:
    """Every bar from the first valid one of its segment on must have all features, and one must exist."""
    valid_N = table.valid_N
    if not valid_N.any():
        raise MarketError(
            f"features must be known on at least one bar, but {_hungriest(table)} needs more than the"
            f" {len(bars)} bars there are; shorten its period or bring more bars"
        )
    fresh_N = np.concatenate(([True], np.diff(bars.segment) != 0))
    lost_N = np.concatenate(([False], valid_N[:-1] & ~valid_N[1:])) & ~fresh_N
    if lost_N.any():
        row = int(lost_N.argmax())
        column = int((~np.isfinite(table.values_NF[row])).argmax())
        raise MarketError(
            f"feature {table.names[column]} must be finite once it is known, was"
            f" {table.values_NF[row, column]}"
            f" at {bars.describe_row(row)}; guard divisions by zero in it"
        )


def check_return_like(
    bars: Bars,
    features: Sequence[FeatureRequest],
    table: FeatureTable,
    plugins: Mapping[str, FeatureBuilder] | None = None,
) -> None:
    """No feature may change when every price doubles: a back-adjusted level knows the future.

    Raises `MarketError` for the first column that is a level and not a ratio.
    """
    doubled = replace(bars, **{name: 2.0 * getattr(bars, name) for name in PRICE_NAMES})
    values_NF = compute_features(doubled, features, plugins).values_NF
    scale_F = np.abs(np.where(np.isfinite(table.values_NF), table.values_NF, 0.0)).max(axis=0)
    same_NF = np.isclose(values_NF, table.values_NF, rtol=1e-9, atol=0.0, equal_nan=True)
    level_F = ~(same_NF | (np.abs(values_NF - table.values_NF) <= 1e-9 * scale_F)).all(axis=0)
    if level_F.any():
        raise MarketError(
            f"feature {table.names[int(level_F.argmax())]} must not depend on the level of adjusted"
            " prices, which"
            " knows the future, but changes when all prices double; use ratios of prices"
        )


def get_builder(name: str, plugins: Mapping[str, FeatureBuilder] | None = None) -> FeatureBuilder:
    """The builder of a feature; raises `MarketError` that lists the known ones."""
    known = {**FEATURES, **(plugins or {})}
    if name not in known:
        raise MarketError(f"features must be among {', '.join(sorted(known))}, was {name!r}")
    return known[name]


def _build_segment(
    bars: Bars, features: Sequence[FeatureRequest], plugins: Mapping[str, FeatureBuilder]
) -> tuple[list[str], Floats]:
    names: list[str] = []
    blocks: list[Floats] = [np.empty((len(bars), 0))]
    for name, params in features:
        columns, block_NK = _build_one(bars, name, params, plugins)
        names.extend(columns)
        blocks.append(block_NK)
    return names, np.concatenate(blocks, axis=1)


def _build_one(
    bars: Bars, name: str, params: Mapping[str, Any], plugins: Mapping[str, FeatureBuilder]
) -> tuple[list[str], Floats]:
    builder = get_builder(name, plugins)
    _check_params(name, builder, params)
    columns, values = _call(name, builder, bars, params)
    block_NK = np.asarray(values, dtype=np.float64)
    block_NK = block_NK[:, None] if block_NK.ndim == 1 else block_NK
    if block_NK.shape != (len(bars), len(columns)):
        raise MarketError(
            f"feature {name} must return one row a bar and one column a name, ({len(bars)}, {len(columns)}),"
            f" was {np.shape(values)}"
        )
    return list(columns), block_NK


def _call(name: str, builder: FeatureBuilder, bars: Bars, params: Mapping[str, Any]) -> Any:
    """Run a builder; what foreign code raises becomes one message with the feature's name."""
    try:
        return builder(bars, **params)
    except MarketError:
        raise
    except Exception as e:
        raise MarketError(
            f"feature {name} must not raise, raised {type(e).__name__} on {len(bars)} bars: {e}; return NaN for"
            " bars that it cannot know yet"
        ) from e


def _check_params(name: str, builder: FeatureBuilder, params: Mapping[str, Any]) -> None:
    accepted = list(inspect.signature(builder).parameters.values())[1:]
    known = {p.name: p for p in accepted if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)}
    open_ended = any(p.kind is p.VAR_KEYWORD for p in accepted)
    unknown = [key for key in params if key not in known]
    if unknown and not open_ended:
        raise MarketError(f"features.{name} has no parameter {unknown[0]!r}; it has {', '.join(known) or 'none'}")
    missing = [key for key, p in known.items() if p.default is p.empty and key not in params]
    if missing:
        raise MarketError(f"features.{name} needs the parameter {missing[0]!r}")


def _hungriest(table: FeatureTable) -> str:
    return table.names[int(np.isfinite(table.values_NF).sum(axis=0).argmin())]


def _one(name: str, values_N: Floats) -> tuple[list[str], Floats]:
    return [name], values_N[:, None]


def _lagged_difference(values_N: Floats, lag: int) -> Floats:
    difference_N = np.full(len(values_N), np.nan)
    difference_N[lag:] = values_N[lag:] - values_N[:-lag]
    return difference_N


def _talib(function: str, *inputs_N: Floats, outputs: int = 1, **options: int) -> Any:
    """Call TA-Lib; where its inputs hold nothing yet, the answer is all NaN."""
    if np.isnan(inputs_N[0]).all():
        nothing = np.full(len(inputs_N[0]), np.nan)
        return nothing if outputs == 1 else (nothing,) * outputs
    import talib

    return getattr(talib, function)(*inputs_N, **options)


def _check_whole(feature: str, key: str, *values: object, least: int = 1) -> None:
    for value in values:
        good = isinstance(value, int) and not isinstance(value, bool) and least <= value <= LONGEST_PERIOD
        if not good:
            raise MarketError(
                f"features.{feature}.{key} must be a whole number from {least} to {LONGEST_PERIOD}, was {value!r}"
            )


def _check_positive(feature: str, key: str, value: object) -> None:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < float("inf"):
        raise MarketError(f"features.{feature}.{key} must be a number > 0, was {value!r}")
