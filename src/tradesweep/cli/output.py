"""Numbers and tables as text, at most 80 columns wide where the content allows it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import typer

WIDTH = 80
NONE = "-"


def print_json(value: object) -> None:
    """One object, on stdout."""
    typer.echo(json.dumps(value, indent=1, allow_nan=False, default=str))


def print_lines(lines: Sequence[str]) -> None:
    """Text, on stdout."""
    for line in lines:
        typer.echo(line)


def format_table(headers: Sequence[str], rows: Sequence[Sequence[str]], *, left: Sequence[int] = ()) -> list[str]:
    """Columns one blank apart, right-aligned except those in `left`; the headers first."""
    columns = list(zip(headers, *rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    return [
        " ".join(
            cell.ljust(width) if index in left else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in (headers, *rows)
    ]


def format_number(value: float | None, digits: int = 2) -> str:
    """Fixed digits; a dash for None."""
    return NONE if value is None else f"{value:,.{digits}f}"


def format_percent(value: float | None, digits: int = 1) -> str:
    """A number that is already in percent."""
    return NONE if value is None else f"{value:,.{digits}f}%"


def format_count(value: int | None) -> str:
    """With thousands separators."""
    return NONE if value is None else f"{value:,}"


def format_seconds(seconds: float | None) -> str:
    """As `1:02:03` or `2:03`; a dash for None."""
    if seconds is None:
        return NONE
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def format_time(at_us: int | None) -> str:
    """Microseconds since 1970 as local time to the minute; a dash for None."""
    if at_us is None:
        return NONE
    return datetime.fromtimestamp(at_us / 1e6, tz=UTC).astimezone().strftime("%Y-%m-%d %H:%M")


def format_bytes(size: int) -> str:
    """In the unit that leaves one to three digits before the point."""
    value, unit = float(size), "B"
    for larger in ("kB", "MB", "GB", "TB", "PB", "EB"):
        if value < 999.5:
            break
        value, unit = value / 1000, larger
    return f"{value:.3g} {unit}" if value < 999.5 else f"{value:,.0f} {unit}"


def format_seed(point_no: int, seed_no: int, *, fresh: bool) -> str:
    """Which point a trial trains, and which of its seeds."""
    return f"point {point_no}, {'fresh ' if fresh else ''}seed {seed_no}"


def format_params(params: Mapping[str, Any]) -> str:
    """Hyperparameters in one line; floats to three digits."""
    return " ".join(f"{key}={_format_value(value)}" for key, value in params.items())


def _format_value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


def three_numbers(sharpe: float, hurdle: float) -> str:
    """The best Sharpe ratio never stands alone."""
    return f"validation Sharpe {sharpe:.2f} | luck hurdle {hurdle:.2f} | deflated {sharpe - hurdle:.2f}"


def cut(text: str, width: int = WIDTH) -> str:
    """At most `width` wide."""
    return text if len(text) <= width else text[: width - 3] + "..."
