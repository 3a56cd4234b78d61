"""Time stamps: from ISO-8601 text to the END of each bar in UTC.

Three kinds are read, never mixed in one file: dates (2020-01-31), naive stamps (2020-01-31 16:00) and stamps
with an offset (2020-01-31T16:00:00-05:00 or ...Z). Epoch numbers, dd/mm and month names are refused.
Legend: N bars; wall times are local clock times.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from tradesweep.market.bars import US_PER_DAY, Ints
from tradesweep.market.clock import UNFIXED, to_utc, to_wall
from tradesweep.market.rules import DAILY_US, YEARS, BarRules, describe_duration, usual_spacing_us
from tradesweep.market.where import Where

Kind = Literal["date", "naive", "aware"]

_DATE = r"\d{4}-\d{2}-\d{2}"
_CLOCK = r"[T ]\d{2}:\d{2}(:\d{2}(\.\d{1,6})?)?"
_OFFSET = r"(Z|[+-]\d{2}(:?\d{2})?)"
PATTERNS: dict[Kind, str] = {
    "date": f"^{_DATE}$",
    "naive": f"^{_DATE}{_CLOCK}$",
    "aware": f"^{_DATE}{_CLOCK}{_OFFSET}$",
}
_WORDS: dict[Kind, str] = {
    "date": "dates",
    "naive": "times without an offset",
    "aware": "times with an offset",
}
_REMEDY = "write ISO-8601, such as 2020-01-31 or 2020-01-31T16:00:00-05:00"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Stamps:
    """What a file's time column says, before it is known what it labels."""

    kind: Kind
    """dates, naive or aware."""
    time_us: Ints
    """(N,) UTC for aware stamps, wall time else."""


def parse_stamps(cells: Any, rules: BarRules, where: Where) -> Stamps:
    """Stamps of an Arrow text array; raises `MarketError` at the first cell of another format or zone."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = _find_kind(cells, where)
    odd = pc.index(pc.match_substring_regex(cells, PATTERNS[kind]), False).as_py()
    if odd >= 0:
        raise where.error(
            f"time must be in one format throughout ({_WORDS[kind]}, as in the first row), was"
            f" {cells[odd].as_py()!r};"
            f" {_REMEDY} in every row",
            at=where.row(odd),
        )
    time_us = _cast(cells, pa.timestamp("us", tz="UTC" if kind == "aware" else None), where)
    check_years(time_us, where)
    if kind == "aware":
        _check_offsets(cells, time_us, rules, where)
    return Stamps(kind=kind, time_us=time_us)


def check_zone_known(stamps: Stamps, rules: BarRules, where: Where) -> None:
    """Naive stamps and dates need `timezone:`."""
    if stamps.kind != "aware" and rules.timezone is None:
        raise where.error(
            f"time must have a time zone, was {_WORDS[stamps.kind]}; set market.timezone, such as"
            " America/New_York or UTC"
        )


def check_sorted(stamps: Stamps, where: Where) -> None:
    """Stamps are strictly increasing."""
    back = np.flatnonzero(np.diff(stamps.time_us) <= 0)
    if not len(back):
        return
    i = int(back[0]) + 1
    same = stamps.time_us[i] == stamps.time_us[i - 1]
    what = "was the same (a duplicate)" if same else f"was earlier than {show_stamp(stamps, i - 1)}"
    raise where.error(
        f"time must be later than in the row before, {what}; sort the rows and drop duplicates",
        at=where.row(i),
    )


def find_bar_ends(stamps: Stamps, rules: BarRules, where: Where) -> Ints:
    """(N,) UTC END of every bar.

    A date, or a daily stamp at local midnight, means the end of that calendar day (so it is never too early).
    Below daily `bar_label` is required, and a start label is moved by the usual spacing. Raises `MarketError`
    for a wall time that the clock shows twice or never.
    """
    check_zone_known(stamps, rules, where)
    zone = rules.timezone or "UTC"
    if stamps.kind == "date":
        return _day_ends(stamps.time_us, rules, zone)
    time_us = stamps.time_us if stamps.kind == "aware" else _fix(stamps, zone, where)
    check_sorted(Stamps(kind="aware", time_us=time_us), where)
    spacing_us = usual_spacing_us(time_us)
    if spacing_us < DAILY_US:
        _check_label(rules, spacing_us, where)
        return time_us + spacing_us if rules.bar_label == "start" else time_us
    wall_us = to_wall(time_us, zone)
    if rules.bar_label != "end" and not (wall_us % US_PER_DAY).any():
        return _day_ends(wall_us, rules, zone)
    return time_us + spacing_us if rules.bar_label == "start" else time_us


def find_instants(stamps: Stamps, rules: BarRules, where: Where) -> Ints:
    """(N,) UTC instants of stamps that label no bar (`available_at`); a date means the end of its day."""
    check_zone_known(stamps, rules, where)
    zone = rules.timezone or "UTC"
    if stamps.kind == "date":
        return to_utc(stamps.time_us + US_PER_DAY, zone, twice="later")
    return stamps.time_us if stamps.kind == "aware" else _fix(stamps, zone, where)


def _day_ends(midnight_us: Ints, rules: BarRules, zone: str) -> Ints:
    """(N,) ends of calendar days; of longer bars that are labelled by their start, the next bar's start."""
    spacing_us = usual_spacing_us(midnight_us)
    ends_us = midnight_us + US_PER_DAY
    if rules.bar_label == "start" and spacing_us > US_PER_DAY:
        ends_us = np.append(midnight_us[1:], midnight_us[-1] + spacing_us)
    return to_utc(ends_us, zone, twice="later")


def _check_label(rules: BarRules, spacing_us: int, where: Where) -> None:
    if rules.bar_label is None:
        raise where.error(
            "market.bar_label must be start or end for bars shorter than a day"
            f" ({describe_duration(spacing_us)}),"
            " was not given; say which end of the bar a stamp marks"
        )


def _fix(stamps: Stamps, zone: str, where: Where) -> Ints:
    """(N,) UTC of naive stamps; a wall time that is no single instant is refused."""
    time_us = to_utc(stamps.time_us, zone)
    lost = np.flatnonzero(time_us == UNFIXED)
    if not len(lost):
        return time_us
    i = int(lost[0])
    exists = to_wall(to_utc(stamps.time_us[i : i + 1], zone, twice="later"), zone)[0] == stamps.time_us[i]
    what = "twice (clocks go back)" if exists else "never (clocks go forward)"
    raise where.error(
        f"time must be one instant, but {show_stamp(stamps, i)} occurs {what} in {zone}; write stamps with"
        " an offset or in UTC",
        at=where.row(i),
    )


def _check_offsets(cells: Any, time_us: Ints, rules: BarRules, where: Where) -> None:
    """Different offsets in one file are one time zone only if `timezone` has each of them at its time."""
    import pyarrow as pa
    import pyarrow.compute as pc

    parts = pc.extract_regex(cells, f"^(?P<wall>{_DATE}{_CLOCK.replace('(', '(?:')})(?P<offset>.*)$")
    offsets = pc.struct_field(parts, "offset")
    if len(pc.unique(offsets)) == 1:
        return
    if rules.timezone is None:
        i = pc.index(pc.equal(offsets, offsets[0]), False).as_py()
        rule, remedy = f"{offsets[0].as_py()}, as in the first row", "set market.timezone or write UTC"
    else:
        wall_us = _cast(pc.struct_field(parts, "wall"), pa.timestamp("us"), where)
        wrong = np.flatnonzero(to_wall(time_us, rules.timezone) != wall_us)
        i = int(wrong[0]) if len(wrong) else -1
        rule, remedy = rules.timezone, "write its offset, or UTC, in every row"
    if i >= 0:
        raise where.error(
            f"time must keep to one time zone ({rule}), was at offset {offsets[i].as_py()}; {remedy}",
            at=where.row(i),
        )


def _find_kind(cells: Any, where: Where) -> Kind:
    """The kind of the first cell."""
    import pyarrow as pa
    import pyarrow.compute as pc

    first = cells[0].as_py()
    for kind, pattern in PATTERNS.items():
        if pc.match_substring_regex(pa.array([first]), pattern)[0].as_py():
            return kind
    number = first.replace(".", "", 1).lstrip("+-").isdigit()
    what = f"{first!r}, a number (epoch times are not guessed)" if number else repr(first)
    raise where.error(f"time must be an ISO-8601 date or time, was {what}; {_REMEDY}", at=where.row(0))


def check_years(time_us: Ints, where: Where) -> None:
    """Years outside of any market's are a mistake, and break time zones."""
    first, last = (np.datetime64(str(year), "us").astype(np.int64) for year in (YEARS[0], YEARS[1] + 1))
    odd = np.flatnonzero((time_us < first) | (time_us >= last))
    if len(odd):
        i = int(odd[0])
        year = time_us.view("datetime64[us]")[i].astype("datetime64[Y]")
        raise where.error(
            f"time must lie in the years {YEARS[0]} to {YEARS[1]}, was in {year}; mend the stamp",
            at=where.row(i),
        )


def _cast(cells: Any, kind: Any, where: Where) -> Ints:
    """(N,) microseconds; the first cell that is no date of the calendar is named."""
    import pyarrow as pa
    import pyarrow.compute as pc

    try:
        return np.asarray(pc.cast(pc.cast(cells, kind), pa.int64()).to_numpy(), dtype=np.int64)
    except pa.ArrowInvalid:
        i = find_bad_cell(cells, kind)
    value = cells[i].as_py()
    raise where.error(f"time must exist in the calendar, was {value!r}; {_REMEDY}", at=where.row(i))


def find_bad_cell(cells: Any, kind: Any) -> int:
    """The first cell that cannot be cast, found by halving."""
    import pyarrow as pa
    import pyarrow.compute as pc

    good, size = 0, len(cells)
    while size > 1:
        half = size // 2
        try:
            pc.cast(cells.slice(good, half), kind)
            good, size = good + half, size - half
        except pa.ArrowInvalid:
            size = half
    return good


def show_stamp(stamps: Stamps, i: int) -> str:
    """The stamp of a row, as ISO-8601."""
    unit: Literal["D", "s"] = "D" if stamps.kind == "date" else "s"
    text = str(np.datetime_as_string(stamps.time_us.view("datetime64[us]")[i], unit=unit))
    return text + ("Z" if stamps.kind == "aware" else "")
