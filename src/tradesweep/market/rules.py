"""The rules every bar must keep; each check raises `MarketError` with row, rule, value and remedy.

Nothing here mends data: no bar is dropped, filled or moved.
Legend: N bars; wall times are local clock times.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tradesweep.errors import MarketError
from tradesweep.market.bars import DAYS_PER_YEAR, PRICE_NAMES, US_PER_DAY, US_PER_SECOND, Bars, Floats, Ints
from tradesweep.market.clock import get_zone, local_dates, to_wall
from tradesweep.market.where import Where

US_PER_HOUR = 3600 * US_PER_SECOND
DAILY_US = 23 * US_PER_HOUR
"""Bars at least this far apart are daily or longer (a day has 23 hours when clocks go forward)."""
DEFAULT_SESSION_GAP_US = 7 * US_PER_DAY
"""The longest closure of a session market by default: that of September 2001 was 7 days."""
WEEKEND_SLACK_US = 2 * US_PER_HOUR
"""A 24x5 market may open this much later on Sunday than it closed on Friday."""
MOST_LISTED = 5
JUMP_SIGMAS = 8.0
SPLIT_RATIOS = (1 / 10, 1 / 3, 1 / 2, 2.0, 3.0, 10.0)
SPLIT_NEARNESS = (0.05, 0.10)
"""Least and most distance, in log price, at which a move is near a split; 4 robust sigmas between."""
STALE_SHARE = 0.20
FEWEST_TO_JUDGE = 20
"""A calendar year with fewer bars says nothing about stale opens."""
PERIODS_TOLERANCE = 0.20
SHORTEST_SPAN_US = 28 * US_PER_DAY
"""Data that span less time say nothing about bars per year."""
YEARS = (1900, 2200)
_UNITS_US = {"s": US_PER_SECOND, "m": 60 * US_PER_SECOND, "h": US_PER_HOUR, "d": US_PER_DAY}


@dataclass(frozen=True, kw_only=True, slots=True)
class BarRules:
    """What a person says about a market's data."""

    periods_per_year: float
    """Bars per year; every annualised number uses it."""
    fill: Literal["next_open", "next_close"]
    """How orders fill; stale opens are refused for next_open."""
    timezone: str | None = None
    """IANA zone of naive stamps, and of the market's calendar dates."""
    bar_label: Literal["start", "end"] | None = None
    """Whether a stamp is the start or the end of its bar; required below daily."""
    calendar: Literal["sessions", "24x7", "24x5"] = "sessions"
    """When bars are expected."""
    max_gap: str | None = None
    """The longest time between two bars that is no gap, such as "7d", "36h", "90m". Default: 7d between
    sessions, one bar otherwise; inside a session every missing bar is a gap."""
    gaps: Literal["refuse", "allow", "split"] = "refuse"
    """What becomes of a gap; split: no episode, window or fill crosses it."""
    adjustment: Literal["none", "split", "total"] = "none"
    """What the adjusted close adjusts for; O, H, L, C all scale by adjusted / close."""
    allow_jumps: bool = False
    """Accept a move that looks like an unadjusted split."""
    columns: Mapping[str, str] | None = None
    """Renames: the file's column name to ours (time, open, high, low, close, volume, adjusted_close, ...)."""
    csv_columns: tuple[str, ...] = ()
    """Further columns of the file to keep, by their names after renaming."""

    def __post_init__(self) -> None:
        if not self.periods_per_year > 0:
            raise MarketError(f"market.periods_per_year must be > 0, was {self.periods_per_year!r}")
        if self.timezone is not None:
            get_zone(self.timezone)
        if self.max_gap is not None:
            parse_duration(self.max_gap)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Gaps:
    """Where bars are missing."""

    after_rows: Ints
    """(G,) the last bar before each gap."""
    excess_us: Ints
    """(G,) time in each gap beyond one bar."""
    missing: Ints
    """(G,) bars missing in each gap, by the usual spacing."""


def check_bars(bars: Bars, rules: BarRules, source: Where | str) -> None:
    """Check every rule of the market page that bars can break; raises `MarketError` at the first."""
    where = source if isinstance(source, Where) else Where(source=source)
    check_length(bars, where)
    check_order(bars, where)
    check_prices(bars, where)
    gaps = find_gaps(bars, rules)
    check_spacing(bars, rules, where)
    check_gaps(bars, rules, gaps, where)
    check_jumps(bars, rules, where)
    check_periods_per_year(bars, rules, gaps, where)
    check_stale_opens(bars, rules, where)


def check_length(bars: Bars, where: Where) -> None:
    """Two bars are the least: a decision and its mark."""
    if len(bars) < 2:
        raise where.error(f"must hold at least 2 bars, held {len(bars)}; bring more data")


def check_order(bars: Bars, where: Where) -> None:
    """Bar ends are strictly increasing and lie in years that a market can have."""
    back = np.flatnonzero(np.diff(bars.time_us) <= 0)
    if len(back):
        i = int(back[0]) + 1
        what = "was a duplicate" if bars.time_us[i] == bars.time_us[i - 1] else "went back"
        before = bars.describe_row(i - 1)
        raise where.error(
            f"time must be later than that of {before}, {what}; sort the rows and drop duplicates",
            at=where.bar(i, bars),
        )
    for i in (0, len(bars) - 1):
        year = int(str(bars.time_us[i : i + 1].view("datetime64[us]").astype("datetime64[Y]")[0]))
        if not YEARS[0] <= year <= YEARS[1]:
            raise where.error(
                f"time must lie in the years {YEARS[0]} to {YEARS[1]}, was in {year}", at=where.bar(i, bars)
            )


def check_prices(bars: Bars, where: Where) -> None:
    """O, H, L, C > 0 and finite; L <= min(O, C); H >= max(O, C); volume >= 0 and finite."""
    remedy = "mend or remove the row"
    for name in PRICE_NAMES:
        price_N = getattr(bars, name)
        i = _first(~(np.isfinite(price_N) & (price_N > 0)))
        if i is not None:
            raise where.error(f"{name} must be finite and > 0, was {price_N[i]:g}; {remedy}", at=where.bar(i, bars))
    i = _first(bars.low > np.minimum(bars.open, bars.close))
    if i is not None:
        values = f"low {bars.low[i]:g}, open {bars.open[i]:g}, close {bars.close[i]:g}"
        raise where.error(f"low must be <= min(open, close), was {values}; {remedy}", at=where.bar(i, bars))
    i = _first(bars.high < np.maximum(bars.open, bars.close))
    if i is not None:
        values = f"high {bars.high[i]:g}, open {bars.open[i]:g}, close {bars.close[i]:g}"
        raise where.error(f"high must be >= max(open, close), was {values}; {remedy}", at=where.bar(i, bars))
    i = _first(~(np.isfinite(bars.volume) & (bars.volume >= 0)))
    if i is not None:
        raise where.error(f"volume must be finite and >= 0, was {bars.volume[i]:g}; {remedy}", at=where.bar(i, bars))


def check_spacing(bars: Bars, rules: BarRules, where: Where) -> None:
    """In a round-the-clock market no bar stands nearer to its predecessor than the usual spacing."""
    if rules.calendar == "sessions":
        return
    spacing_us = usual_spacing_us(bars.time_us)
    slack_us = US_PER_HOUR if spacing_us >= DAILY_US else 0
    i = _first(np.diff(bars.time_us) < spacing_us - slack_us)
    if i is not None:
        apart = describe_duration(int(bars.time_us[i + 1] - bars.time_us[i]))
        raise where.error(
            f"time must be {describe_duration(spacing_us)} after the bar before (calendar {rules.calendar}),"
            f" was {apart}; remove the row or set calendar: sessions",
            at=where.bar(i + 1, bars),
        )


def check_gaps(bars: Bars, rules: BarRules, gaps: Gaps, where: Where) -> None:
    """With `gaps: refuse` there is none; the message lists them."""
    if rules.gaps != "refuse" or not len(gaps.after_rows):
        return
    listed = [
        f"{n} after {where.bar(int(i), bars)}"
        for i, n in zip(gaps.after_rows[:MOST_LISTED], gaps.missing[:MOST_LISTED], strict=True)
    ]
    more = len(gaps.after_rows) - len(listed)
    rest = f" and {more} more gaps" if more else ""
    raise where.error(
        f"bars must have no gaps (calendar {rules.calendar}, max_gap {rules.max_gap or 'default'}),"
        " missing about"
        f" {int(gaps.missing.sum())} bars: {'; '.join(listed)}{rest}; bring the bars, widen max_gap,"
        " or set gaps:"
        " allow or split"
    )


def check_jumps(bars: Bars, rules: BarRules, where: Where) -> None:
    """No one-bar move beyond 8 robust sigmas near the ratio of a share split."""
    if rules.allow_jumps:
        return
    moves_N = np.diff(np.log(bars.close))
    sigma = robust_sigma(moves_N)
    nearness = float(np.clip(4.0 * sigma, *SPLIT_NEARNESS))
    distance_N = np.abs(moves_N[:, None] - np.log(SPLIT_RATIOS)).min(axis=1)
    i = _first((np.abs(moves_N) > JUMP_SIGMAS * sigma) & (distance_N <= nearness))
    if i is not None:
        ratio = bars.close[i + 1] / bars.close[i]
        raise where.error(
            f"close must not move like an unadjusted split, was {ratio:.4g} times the close before;"
            " use adjusted"
            " prices (adjustment: split or total) or set allow_jumps: true",
            at=where.bar(i + 1, bars),
        )


def check_periods_per_year(bars: Bars, rules: BarRules, gaps: Gaps, where: Where) -> None:
    """`periods_per_year` is within 20 % of the bars per calendar year in the data, gaps taken out."""
    span_us = int(bars.time_us[-1] - bars.time_us[0]) - int(gaps.excess_us.sum())
    if span_us < SHORTEST_SPAN_US:
        return
    measured = (len(bars) - 1) * DAYS_PER_YEAR * US_PER_DAY / span_us
    if abs(rules.periods_per_year / measured - 1.0) > PERIODS_TOLERANCE:
        raise where.error(
            f"market.periods_per_year must be within {PERIODS_TOLERANCE:.0%} of the bars per year in the data"
            f" ({measured:.6g}), was {rules.periods_per_year:g}; set it to about {measured:.3g}"
        )


def check_stale_opens(bars: Bars, rules: BarRules, where: Where) -> None:
    """With `next_open` in a session market, open = last close on at most 20 % of each calendar year's bars."""
    if rules.calendar != "sessions" or rules.fill != "next_open":
        return
    years_N = local_dates(bars.time_us, bars.timezone).astype("datetime64[Y]")[1:]
    stale_N = bars.open[1:] == bars.close[:-1]
    for year in np.unique(years_N):
        share, n = float(stale_N[years_N == year].mean()), int((years_N == year).sum())
        if n >= FEWEST_TO_JUDGE and share > STALE_SHARE:
            i = int(np.flatnonzero((years_N == year) & stale_N)[0]) + 1
            raise where.error(
                f"open must differ from the close before on at least {1 - STALE_SHARE:.0%} of a year's bars"
                f" for fill next_open, was equal on {share:.0%} of {year}: stale; set env.fill:"
                " next_close",
                at=where.bar(i, bars),
            )


def find_gaps(bars: Bars, rules: BarRules) -> Gaps:
    """Where the calendar expects bars and there are none."""
    spacing_us = usual_spacing_us(bars.time_us)
    finder = {"sessions": _session_excess, "24x7": _clock_excess, "24x5": _weekday_excess}[rules.calendar]
    excess_N = finder(bars, spacing_us, parse_duration(rules.max_gap) if rules.max_gap else None)
    after = np.flatnonzero(excess_N > 0)
    missing = np.maximum(np.rint(excess_N[after] / spacing_us), 1).astype(np.int64)
    return Gaps(after_rows=after, excess_us=excess_N[after], missing=missing)


def number_segments(n_bars: int, gaps: Gaps) -> NDArray[np.int32]:
    """(N,) number of the gap-free run each bar belongs to."""
    segment_N = np.zeros(n_bars, dtype=np.int32)
    segment_N[gaps.after_rows + 1] = 1
    return np.cumsum(segment_N, dtype=np.int32)


def usual_spacing_us(time_us: Ints) -> int:
    """The most common time between two bars; the shortest where several are as common."""
    values, counts = np.unique(np.diff(time_us), return_counts=True)
    return int(values[counts.argmax()])


def robust_sigma(values_N: Floats) -> float:
    """1.4826 x the median absolute deviation: the standard deviation of a normal sample, deaf to outliers."""
    return float(1.4826 * np.median(np.abs(values_N - np.median(values_N))))


def parse_duration(text: str) -> int:
    """Microseconds of "90s", "15m", "36h" or "7d"; raises `MarketError`."""
    match = re.fullmatch(r"(\d{1,6}(?:\.\d+)?)([smhd])", str(text))
    if match is None or float(match[1]) <= 0:
        raise MarketError(f"market.max_gap must be a number with s, m, h or d, such as 7d, was {text!r}")
    return round(float(match[1]) * _UNITS_US[match[2]])


def describe_duration(duration_us: int) -> str:
    """The time in its largest whole unit."""
    for unit in ("d", "h", "m"):
        if duration_us % _UNITS_US[unit] == 0:
            return f"{duration_us // _UNITS_US[unit]}{unit}"
    return f"{duration_us / US_PER_SECOND:g}s"


def _clock_excess(bars: Bars, spacing_us: int, max_gap_us: int | None) -> Ints:
    """(N-1,) time beyond one bar where the market should have traded; 0 where nothing is missing."""
    slack_us = US_PER_HOUR if spacing_us >= DAILY_US else 0
    apart_N = np.diff(bars.time_us)
    return np.where(apart_N > (max_gap_us or spacing_us) + slack_us, apart_N - spacing_us, 0)


def _weekday_excess(bars: Bars, spacing_us: int, max_gap_us: int | None) -> Ints:
    """As `_clock_excess`, with 48 hours less for every Saturday and Sunday between two bars."""
    dates_N = local_dates(bars.time_us, bars.timezone)
    saturdays_N = np.busday_count(dates_N[:-1], dates_N[1:], weekmask="Sat")
    weekends_N = saturdays_N * 2 * US_PER_DAY
    apart_N = np.diff(bars.time_us) - weekends_N
    slack_N = np.where(weekends_N > 0, WEEKEND_SLACK_US, US_PER_HOUR if spacing_us >= DAILY_US else 0)
    return np.where(apart_N > (max_gap_us or spacing_us) + slack_N, apart_N - spacing_us, 0)


def _session_excess(bars: Bars, spacing_us: int, max_gap_us: int | None) -> Ints:
    """(N-1,) time beyond one bar: between sessions by `max_gap`, inside a session by the spacing.

    A pause at a time of day at which more than half of the sessions pause (lunch) is none.
    """
    wall_us, apart_N = to_wall(bars.time_us, bars.timezone), np.diff(bars.time_us)
    days_N = np.diff(local_dates(bars.time_us, bars.timezone)).astype(np.int64)
    closure_us = max_gap_us or max(DEFAULT_SESSION_GAP_US, 2 * spacing_us)
    closed_N = days_N * US_PER_DAY if spacing_us >= DAILY_US else np.diff(wall_us)
    excess_N = np.where((days_N > 0) & (closed_N > closure_us), apart_N - spacing_us, 0)
    if spacing_us >= DAILY_US:
        return excess_N
    paused_N = (days_N == 0) & (apart_N > spacing_us * 3 // 2)
    paused_N &= ~_is_habit(wall_us[:-1] % US_PER_DAY, paused_N, int((days_N > 0).sum()) + 1)
    return np.where(paused_N, apart_N - spacing_us, excess_N)


def _is_habit(time_of_day_N: Ints, paused_N: NDArray[np.bool_], sessions: int) -> NDArray[np.bool_]:
    """(N-1,) True where a pause starts at a time of day at which over half of the sessions pause."""
    times, counts = np.unique(time_of_day_N[paused_N], return_counts=True)
    return np.isin(time_of_day_N, times[counts * 2 > sessions])


def _first(broken_N: NDArray[np.bool_]) -> int | None:
    return int(broken_N.argmax()) if broken_N.any() else None
