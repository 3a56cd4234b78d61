"""Shared data: a well-formed daily CSV, rules that accept it, and the built-in features."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tradesweep.market.bars import Bars
from tradesweep.market.rules import BarRules

HEADER = "Date,Open,High,Low,Close,Volume"


@pytest.fixture
def rows() -> list[list[str]]:
    """Sixty business days from 2020-01-02; row i stands in line i + 2 of a file."""
    rng = np.random.default_rng(0)
    days = np.busday_offset(np.datetime64("2020-01-02"), np.arange(60), roll="forward")
    close = 100 * np.cumprod(1 + 0.01 * rng.standard_normal(60))
    opened = close * (1 + 0.002 * rng.standard_normal(60))
    high, low = np.maximum(opened, close) + 0.5, np.minimum(opened, close) - 0.5
    prices = np.column_stack((opened, high, low, close))
    return [[str(day), *(f"{p:.4f}" for p in four), "1000"] for day, four in zip(days, prices, strict=True)]


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write rows, or text or bytes as they are, as a CSV file."""

    def write_file(content: list[list[str]] | str | bytes, header: str = HEADER) -> Path:
        path = tmp_path / "prices.csv"
        if isinstance(content, list):
            content = "\n".join([header, *(",".join(row) for row in content)]) + "\n"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write_file


@pytest.fixture
def rules() -> Callable[..., BarRules]:
    """Rules of a daily session market in New York, with changes."""

    def make(**changes: Any) -> BarRules:
        usual = {"periods_per_year": 252, "fill": "next_open", "timezone": "America/New_York"}
        return BarRules(**{**usual, **changes})

    return make


@pytest.fixture
def make_bars() -> Callable[..., Bars]:
    """Bars from closes, hourly from 2020-01-01 unless `time_us` is given."""

    def make(close: Any, **changes: Any) -> Bars:
        close = np.asarray(close, dtype=float)
        opened = np.concatenate((close[:1], close[:-1])) * 1.001
        hours = np.arange(1, len(close) + 1) * 3_600_000_000 + 1_577_836_800_000_000
        prices = {
            "time_us": hours,
            "open": opened,
            "high": np.maximum(opened, close) * 1.01,
            "low": np.minimum(opened, close) * 0.99,
            "close": close,
            "volume": np.full(len(close), 5.0),
        }
        return Bars.from_prices(**{**prices, **changes})

    return make


@pytest.fixture(scope="session")
def features() -> list[tuple[str, dict[str, Any]]]:
    """All seven indicators with their default parameters."""
    names = ("log_returns", "rsi", "macd", "bollinger_position", "atr", "realised_volatility", "trend")
    return [(name, {}) for name in names]
