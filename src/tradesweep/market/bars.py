"""Bars: the one shape that market data takes after it was read and checked.

Legend: N bars, all arrays C-contiguous and read-only; times are int64 microseconds since 1970 UTC.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

PRICE_NAMES = ("open", "high", "low", "close")
US_PER_SECOND = 1_000_000
US_PER_DAY = 86_400 * US_PER_SECOND
DAYS_PER_YEAR = 365.25

_DTYPES: dict[str, type[np.generic]] = {
    "time_us": np.int64,
    **dict.fromkeys((*PRICE_NAMES, "volume"), np.float64),
    "tradable": np.bool_,
    "segment": np.int32,
}


def format_time(time_us: int) -> str:
    """The time as ISO-8601 in UTC, to the second (to the microsecond where there are any)."""
    text = str(np.datetime64(int(time_us), "us"))
    return f"{text.removesuffix('.000000')}Z"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Bars:
    """Price bars of one instrument, oldest first. Bar i is known at its END, `time_us[i]`."""

    time_us: Ints
    """(N,) END of each bar, microseconds since 1970 UTC, strictly increasing."""
    open: Floats
    """(N,) first price of the bar."""
    high: Floats
    """(N,) highest price of the bar."""
    low: Floats
    """(N,) lowest price of the bar."""
    close: Floats
    """(N,) last price of the bar."""
    volume: Floats
    """(N,) traded volume as the source gives it, >= 0."""
    tradable: NDArray[np.bool_]
    """(N,) False where a bar has no volume and no range: no fill there, the target stays."""
    segment: NDArray[np.int32]
    """(N,) number of the gap-free run a bar belongs to; all 0 unless gaps are split."""
    extra: Mapping[str, Floats] = field(default_factory=dict)
    """Further columns by name, each (N,), known at the END of the bar."""
    timezone: str = "UTC"
    """The market's time zone: it decides to which calendar date a bar belongs."""

    def __post_init__(self) -> None:
        for name, dtype in _DTYPES.items():
            object.__setattr__(self, name, _sealed(getattr(self, name), dtype, name, len(self.time_us)))
        extra = {key: _sealed(col, np.float64, key, len(self.time_us)) for key, col in self.extra.items()}
        object.__setattr__(self, "extra", extra)

    @classmethod
    def from_prices(
        cls,
        *,
        time_us: Ints,
        open: Floats,  # noqa: A002 - the column's name
        high: Floats,
        low: Floats,
        close: Floats,
        volume: Floats,
        extra: Mapping[str, Floats] | None = None,
        timezone: str = "UTC",
    ) -> Bars:
        """Bars in one segment; tradable where there is volume or a range."""
        tradable = ~((np.asarray(volume) == 0) & (np.asarray(high) == np.asarray(low)))
        return cls(
            time_us=time_us,
            open=open,
            high=high,
            low=low,
            close=close,
            volume=volume,
            tradable=tradable,
            segment=np.zeros(len(time_us), dtype=np.int32),
            extra=extra or {},
            timezone=timezone,
        )

    def __len__(self) -> int:
        return len(self.time_us)

    def __getitem__(self, rows: slice) -> Bars:
        """The bars of a slice, as views."""
        columns: dict[str, Any] = {name: getattr(self, name)[rows] for name in _DTYPES}
        extra = {key: column[rows] for key, column in self.extra.items()}
        return replace(self, **columns, extra=extra)

    def describe_row(self, i: int) -> str:
        """Row i for a message: its number and the time at which it ended."""
        return f"row {i} ({format_time(int(self.time_us[i]))})"

    def sha256(self) -> str:
        """Hex digest over every array, every column name and the time zone, in a fixed order."""
        digest = hashlib.sha256(f"tradesweep bars 1 {len(self)} {self.timezone}".encode())
        columns = {f.name: getattr(self, f.name) for f in fields(self) if f.name in _DTYPES}
        columns |= {f"extra {key}": self.extra[key] for key in sorted(self.extra)}
        for name, array in columns.items():
            digest.update(f"\n{name!r} {array.dtype.str}\n".encode())
            digest.update(np.ascontiguousarray(array).view(np.uint8).data)
        return digest.hexdigest()


def _sealed(values: Any, dtype: type[np.generic], name: str, n_bars: int) -> NDArray[Any]:
    """A read-only, contiguous view of the values; the caller's array stays as it is."""
    array = np.ascontiguousarray(values, dtype=dtype).view()
    assert array.shape == (n_bars,), f"{name} must have shape ({n_bars},), was {array.shape}"
    array.flags.writeable = False
    return array
