"""Time zones: from naive wall-clock time to UTC and back.

Legend: wall times are int64 microseconds since 1970-01-01 00:00 of the local clock.
"""

from __future__ import annotations

from typing import Literal
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from tradesweep.errors import MarketError
from tradesweep.market.bars import Ints

UNFIXED = np.iinfo(np.int64).min
"""What stands for a wall time that a clock shows twice or never (NaT as an integer)."""

Twice = Literal["unfixed", "later"]


def get_zone(name: str) -> ZoneInfo:
    """The zone of an IANA name; raises `MarketError` for an unknown one."""
    try:
        return ZoneInfo(name)
    except (OSError, ValueError, LookupError) as e:
        raise MarketError(f"market.timezone must be an IANA name such as America/New_York, was {name!r}") from e


def to_utc(wall_us: Ints, timezone: str, *, twice: Twice = "unfixed") -> Ints:
    """(N,) UTC times of wall times.

    A wall time that occurs twice or never comes back as `UNFIXED`; with `twice="later"` it becomes the later
    of the two, or the first that exists after it (for ends of days, where a later time is never too early).
    """
    if timezone == "UTC":
        return wall_us
    import pandas as pd

    index = pd.DatetimeIndex(wall_us.view("datetime64[us]"))
    zone = get_zone(timezone)
    if twice == "later":
        fixed = index.tz_localize(zone, ambiguous=np.zeros(len(index), dtype=bool), nonexistent="shift_forward")
    else:
        fixed = index.tz_localize(zone, ambiguous="NaT", nonexistent="NaT")
    return np.asarray(fixed.as_unit("us").asi8, dtype=np.int64)


def to_wall(time_us: Ints, timezone: str) -> Ints:
    """(N,) wall times of UTC times."""
    if timezone == "UTC":
        return time_us
    import pandas as pd

    index = pd.DatetimeIndex(time_us.view("datetime64[us]")).tz_localize("UTC")
    local = index.tz_convert(get_zone(timezone)).tz_localize(None)
    return np.asarray(local.as_unit("us").asi8, dtype=np.int64)


def local_dates(time_us: Ints, timezone: str) -> NDArray[np.datetime64]:
    """(N,) calendar date of each bar end: a bar that ends at midnight belongs to the day that closes."""
    wall_us = to_wall(time_us, timezone) - 1
    return wall_us.view("datetime64[us]").astype("datetime64[D]")
