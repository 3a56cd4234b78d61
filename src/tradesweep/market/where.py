"""Where a row stands, for messages: file and line of a CSV, else source and row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tradesweep.errors import MarketError
from tradesweep.market.bars import Bars, format_time

LONGEST_STAMP = 40
"""Characters of a stamp that a message shows."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Where:
    """The place of market data."""

    source: str
    """A path, or a name such as `sample sp500`."""
    line_of_row: Callable[[int], int] | None = None
    """File line of a row, counted from 1; only known for text files."""
    stamp_of_row: Callable[[int], str] | None = None
    """The time stamp of a row as the source writes it."""

    def row(self, i: int, stamp: str = "") -> str:
        """`prices.csv:17 (2020-01-03)` or `sample sp500 row 15 (2020-01-03)`."""
        stamp = self.stamp_of_row(i) if self.stamp_of_row else stamp
        place = f"{self.source} row {i}" if self.line_of_row is None else f"{self.source}:{self.line_of_row(i)}"
        return f"{place} ({_shown(stamp)})" if stamp else place

    def bar(self, i: int, bars: Bars) -> str:
        """The place of a bar, with its stamp or else the time at which it ended."""
        return self.row(i, format_time(int(bars.time_us[i])))

    def error(self, message: str, *, at: str = "") -> MarketError:
        """The error to raise for the whole source, or for the row described by `at`."""
        return MarketError(f"{at or self.source} {message}")


def _shown(stamp: str) -> str:
    """As it is written, unless it would break a line or a terminal; cut when long."""
    text = stamp if stamp.isprintable() else repr(stamp)[1:-1]
    return text if len(text) <= LONGEST_STAMP else f"{text[:LONGEST_STAMP]}..."
