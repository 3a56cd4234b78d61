"""Where bars come from: csv, parquet, the samples of the package `arch`, and synthetic markets.

Every source ends in the same place, `finish`: prices are adjusted, every rule is checked, gaps are numbered.
Names of columns are matched without regard to case: time (or date, datetime, timestamp), open, high, low,
close, volume, adjusted_close (or adj close); everything else is kept only on demand (`csv_columns`).
Legend: N bars.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from tradesweep.errors import MarketError
from tradesweep.market.bars import PRICE_NAMES, US_PER_SECOND, Bars, Floats, Ints
from tradesweep.market.clock import to_utc
from tradesweep.market.csv_text import check_bytes, check_file, read_header, read_text, where_in
from tradesweep.market.rules import BarRules, check_bars, find_gaps, number_segments
from tradesweep.market.stamps import (
    Stamps,
    check_sorted,
    check_years,
    check_zone_known,
    find_bad_cell,
    find_bar_ends,
    find_instants,
    parse_stamps,
    show_stamp,
)
from tradesweep.market.synthetic import make_synthetic
from tradesweep.market.where import Where

SAMPLES = ("nasdaq", "sp500")
SAMPLE_TIMEZONE = "America/New_York"
SAMPLE_CLOSE_S = 16 * 3600
"""The samples carry dates; a bar is taken to end with the session, at 16:00 in New York."""
MOST_ROWS = 40_000_000
REQUIRED = ("time", *PRICE_NAMES, "volume")
AVAILABLE_AT = "available_at"
ALIASES = {
    **dict.fromkeys(("time", "date", "datetime", "timestamp"), "time"),
    **dict.fromkeys(("adjusted_close", "adj_close", "adjclose"), "adjusted_close"),
    **{name: name for name in (*PRICE_NAMES, "volume", AVAILABLE_AT)},
}


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class RawBars:
    """What a source holds before adjustment and checks."""

    time_us: Ints
    """(N,) UTC END of each bar."""
    timezone: str
    """IANA zone of the market's dates."""
    columns: Mapping[str, Floats]
    """open, high, low, close, volume and, where there is one, adjusted_close."""
    extra: Mapping[str, Floats]
    """Further columns, each known at the END of its bar."""
    where: Where
    """The place of rows, for messages."""


def load_csv(path: Path | str, rules: BarRules) -> Bars:
    """Bars of a CSV file: UTF-8, commas, a header, ISO-8601 stamps, plain decimal numbers.

    Raises `MarketError` (file, line and stamp, rule, value, remedy) for anything that breaks a rule.
    """
    path = Path(path)
    check_file(path)
    check_bytes(path)
    header = read_header(path)
    places = resolve_columns(header, rules, f"{path}:1")
    cells = read_text(path, header, sorted(places.values()))
    where = where_in(path, partial(_cell_text, cells[places["time"]]))
    stamps = parse_stamps(cells[places["time"]], rules, where)
    numbers = {
        name: parse_numbers(name, cells[i], where) for name, i in places.items() if name not in ("time", AVAILABLE_AT)
    }
    available = parse_stamps(cells[places[AVAILABLE_AT]], rules, where) if AVAILABLE_AT in places else None
    return finish(_to_raw(stamps, numbers, available, rules, where), rules)


def load_parquet(path: Path | str, rules: BarRules) -> Bars:
    """Bars of a parquet file: a timestamp, date or ISO-8601 text column, and numeric columns without nulls.

    Raises `MarketError` as `load_csv` does; rows are counted from 0.
    """
    path = Path(path)
    check_file(path)
    where = Where(source=str(path))
    header, cells_of = _open_parquet(path)
    places = resolve_columns(header, rules, str(path))
    stamps = _arrow_stamps("time", cells_of(places["time"]), rules, where)
    where = replace(where, stamp_of_row=partial(show_stamp, stamps))
    numbers = {
        name: _arrow_numbers(name, cells_of(i), where)
        for name, i in places.items()
        if name not in ("time", AVAILABLE_AT)
    }
    at = places.get(AVAILABLE_AT)
    available = None if at is None else _arrow_stamps(AVAILABLE_AT, cells_of(at), rules, where)
    return finish(_to_raw(stamps, numbers, available, rules, where), rules)


def load_sample(name: str, rules: BarRules) -> Bars:
    """Daily bars of the S&P 500 or the Nasdaq composite, 1999-01-04 to 2018-12-31, from the package `arch`.

    A date is the END of its session, 16:00 America/New_York. Prices are as traded: an index has no splits.
    """
    import pandas as pd

    if name not in SAMPLES:
        raise MarketError(f"sample must be one of {', '.join(SAMPLES)}, was {name!r}")
    if rules.timezone not in (None, SAMPLE_TIMEZONE):
        raise MarketError(f"sample {name} has market.timezone {SAMPLE_TIMEZONE}, was {rules.timezone}; leave it out")
    frame = pd.read_csv(_find_sample(name))
    places = resolve_columns(list(frame.columns), rules, f"sample {name}")
    days = pd.to_datetime(frame["Date"], format="%m/%d/%Y").dt.as_unit("us").to_numpy().astype(np.int64)
    numbers = {key: frame.iloc[:, i].to_numpy(dtype=np.float64) for key, i in places.items() if key != "time"}
    raw = RawBars(
        time_us=to_utc(days + SAMPLE_CLOSE_S * US_PER_SECOND, SAMPLE_TIMEZONE),
        timezone=SAMPLE_TIMEZONE,
        columns=numbers,
        extra={key: numbers[key] for key in rules.csv_columns},
        where=Where(source=f"sample {name}"),
    )
    return finish(raw, rules)


def load_synthetic(name: str, rules: BarRules, params: Mapping[str, float | int | str]) -> Bars:
    """A synthetic market; it keeps every rule by construction (an open equal to the close is its law)."""
    if "periods_per_year" in params:
        raise MarketError("market.params must not hold periods_per_year; it is a key of market itself")
    return make_synthetic(name, periods_per_year=rules.periods_per_year, **params)  # type: ignore[arg-type]


def load_bars(
    source: str,
    rules: BarRules,
    *,
    name: str | None = None,
    path: Path | str | None = None,
    params: Mapping[str, float | int | str] | None = None,
) -> Bars:
    """Bars of any source: `csv` and `parquet` need `path`, `sample` and `synthetic` need `name`."""
    loaders: dict[str, Callable[[], Bars]] = {
        "csv": lambda: load_csv(_given("path", source, path), rules),
        "parquet": lambda: load_parquet(_given("path", source, path), rules),
        "sample": lambda: load_sample(str(_given("name", source, name)), rules),
        "synthetic": lambda: load_synthetic(str(_given("name", source, name)), rules, params or {}),
    }
    if source not in loaders:
        raise MarketError(f"market.source must be one of {', '.join(loaders)}, was {source!r}")
    return loaders[source]()


def finish(raw: RawBars, rules: BarRules) -> Bars:
    """Adjust prices, check every rule, number the segments."""
    columns = adjust(raw.columns, rules, raw.where)
    prices = {name: columns[name] for name in (*PRICE_NAMES, "volume")}
    bars = Bars.from_prices(time_us=raw.time_us, timezone=raw.timezone, extra=raw.extra, **prices)
    check_bars(bars, rules, raw.where)
    if rules.gaps != "split":
        return bars
    return replace(bars, segment=number_segments(len(bars), find_gaps(bars, rules)))


def adjust(columns: Mapping[str, Floats], rules: BarRules, where: Where) -> Mapping[str, Floats]:
    """O, H, L and C all times adjusted_close / close; the volume stays as the source gives it."""
    if rules.adjustment == "none":
        return columns
    adjusted_N, close_N = columns["adjusted_close"], columns["close"]
    bad = np.flatnonzero(~(np.isfinite(adjusted_N) & (adjusted_N > 0) & (close_N > 0)))
    if len(bad):
        i = int(bad[0])
        raise where.error(
            f"adjusted_close and close must be > 0, were {adjusted_N[i]:g} and {close_N[i]:g}; mend or remove the row",
            at=where.row(i),
        )
    ratio_N = adjusted_N / close_N
    return {**columns, **{name: columns[name] * ratio_N for name in PRICE_NAMES}}


def resolve_columns(header: Sequence[str], rules: BarRules, place: str) -> dict[str, int]:
    """Our column names with their positions; raises `MarketError` for missing and for doubled ones."""
    renames = rules.columns or {}
    unknown = [name for name in renames if name not in header]
    if unknown:
        raise MarketError(
            f"{place} must have the column {unknown[0]!r} that market.columns renames, had {_listed(header)}"
        )
    ours = [renames.get(name) or _our_name(name, renames, rules) for name in header]
    wanted = [*REQUIRED, *(["adjusted_close"] if rules.adjustment != "none" else []), *rules.csv_columns]
    for check in (_check_single, _check_present):
        for name in wanted:
            check(name, ours, header, place)
    if AVAILABLE_AT in ours and rules.csv_columns:
        wanted.append(AVAILABLE_AT)
    return {name: ours.index(name) for name in wanted}


def parse_numbers(name: str, cells: Any, where: Where) -> Floats:
    """(N,) float64 of an Arrow text array of plain decimal numbers; the first other cell is refused."""
    import pyarrow as pa
    import pyarrow.compute as pc

    try:
        values_N = np.asarray(pc.cast(cells, pa.float64()).to_numpy(), dtype=np.float64)
        odd = np.flatnonzero(~np.isfinite(values_N))
        i = int(odd[0]) if len(odd) else -1
    except pa.ArrowInvalid:
        values_N, i = np.empty(0), find_bad_cell(cells, pa.float64())
    if i >= 0:
        cell = cells[i].as_py()
        what = "blank" if not cell.strip() else repr(cell)
        raise where.error(
            f"{name} must be a plain decimal number such as 1234.5, was {what}; mend or remove the row",
            at=where.row(i),
        )
    return values_N


def join_available(time_us: Ints, available_us: Ints, values_M: Floats) -> Floats:
    """(N,) for each bar the newest value that was available at or before its END; NaN before the first.

    `available_us` and `values_M` are (M,) in any order; among values of one instant the last one counts.
    """
    order = np.argsort(available_us, kind="stable")
    newest_N = np.searchsorted(available_us[order], time_us, side="right") - 1
    return np.where(newest_N >= 0, values_M[order][newest_N], np.nan)


def _to_raw(
    stamps: Stamps, numbers: dict[str, Floats], available: Stamps | None, rules: BarRules, where: Where
) -> RawBars:
    check_zone_known(stamps, rules, where)
    if len(stamps.time_us) < 2:
        raise where.error(f"must hold at least 2 bars, held {len(stamps.time_us)}; bring more data")
    check_sorted(stamps, where)
    time_us = find_bar_ends(stamps, rules, where)
    extra = {name: numbers[name] for name in rules.csv_columns}
    if available is not None:
        available_us = find_instants(available, rules, where)
        extra = {name: join_available(time_us, available_us, values) for name, values in extra.items()}
    return RawBars(time_us=time_us, timezone=rules.timezone or "UTC", columns=numbers, extra=extra, where=where)


def _our_name(name: str, renames: Mapping[str, str], rules: BarRules) -> str:
    """Our name of a column that is not renamed; an explicit rename leaves no room for an alias."""
    if name in rules.csv_columns:
        return name
    alias = ALIASES.get(name.strip().lower().replace(" ", "_"), name)
    return name if alias in renames.values() else alias


def _check_present(name: str, ours: Sequence[str], header: Sequence[str], place: str) -> None:
    if name not in ours:
        raise MarketError(
            f"{place} must have a column {name}, had {_listed(header)}; add it, or name it by market.columns:"
            f" {{theirs: {name}}}"
        )


def _check_single(name: str, ours: Sequence[str], header: Sequence[str], place: str) -> None:
    found = [theirs for theirs, our in zip(header, ours, strict=True) if our == name]
    if len(found) > 1:
        raise MarketError(
            f"{place} must have one column {name}, had {_listed(found)}; remove one or rename it by market.columns"
        )


def _open_parquet(path: Path) -> tuple[list[str], Callable[[int], Any]]:
    """Column names, and a reader of one column by position."""
    import pyarrow as pa
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(path, memory_map=True)
        header = list(file.schema_arrow.names)
    except (pa.ArrowException, OSError) as e:
        raise MarketError(f"{path} must be a parquet file, was not: {str(e).splitlines()[0]}; mend market.path") from e
    rows = file.metadata.num_rows
    if not 2 <= rows <= MOST_ROWS:
        raise MarketError(f"{path} must hold 2 to {MOST_ROWS:,} bars, held {rows:,}; bring more data or longer bars")

    def read(i: int) -> Any:
        try:
            return file.read(columns=[header[i]]).column(0)
        except (pa.ArrowException, OSError) as e:
            raise MarketError(f"{path} column {header[i]} must be readable, was not: {str(e).splitlines()[0]}") from e

    return ["time" if name == "__index_level_0__" else name for name in header], read


def _arrow_stamps(name: str, cells: Any, rules: BarRules, where: Where) -> Stamps:
    """Stamps of a timestamp, date or text column."""
    import pyarrow as pa
    import pyarrow.compute as pc

    _check_no_nulls(name, cells, where)
    if pa.types.is_string(cells.type) or pa.types.is_large_string(cells.type):
        return parse_stamps(pc.cast(cells, pa.string()), rules, where)
    if not (pa.types.is_timestamp(cells.type) or pa.types.is_date(cells.type)):
        raise where.error(
            f"{name} must be a timestamp, date or ISO-8601 text column, was {cells.type} (epoch times"
            " are not guessed);"
            " write timestamps"
        )
    aware = pa.types.is_timestamp(cells.type) and cells.type.tz is not None
    micro = pc.cast(cells, pa.timestamp("us", tz=cells.type.tz if aware else None), safe=False)
    time_us = np.asarray(pc.cast(micro, pa.int64()).to_numpy(), dtype=np.int64)
    check_years(time_us, where)
    dates = pa.types.is_date(cells.type)
    return Stamps(kind="date" if dates else "aware" if aware else "naive", time_us=time_us)


def _arrow_numbers(name: str, cells: Any, where: Where) -> Floats:
    import pyarrow as pa
    import pyarrow.compute as pc

    _check_no_nulls(name, cells, where)
    number = pa.types.is_integer(cells.type) or pa.types.is_floating(cells.type) or pa.types.is_decimal(cells.type)
    if not number:
        raise where.error(f"{name} must be a numeric column, was {cells.type}; write numbers")
    values_N = np.asarray(pc.cast(cells, pa.float64(), safe=False).to_numpy(), dtype=np.float64)
    odd = np.flatnonzero(~np.isfinite(values_N))
    if len(odd):
        i = int(odd[0])
        raise where.error(f"{name} must be finite, was {values_N[i]:g}; mend or remove the row", at=where.row(i))
    return values_N


def _check_no_nulls(name: str, cells: Any, where: Where) -> None:
    import pyarrow.compute as pc

    if cells.null_count:
        i = pc.index(pc.is_null(cells), True).as_py()
        raise where.error(f"{name} must not be null, was null; mend or remove the row", at=where.row(i))


def _find_sample(name: str) -> Path:
    """The sample's file; found without importing `arch`, which takes two seconds."""
    spec = find_spec("arch")
    folders = spec.submodule_search_locations if spec else None
    path = Path(folders[0]) / "data" / name / f"{name}.csv.gz" if folders else None
    if path is None or not path.is_file():
        raise MarketError(f"sample {name} needs the package arch with its data; install it: pip install arch")
    return path


def _given(key: str, source: str, value: Path | str | None) -> Path | str:
    if value is None:
        raise MarketError(f"market.{key} must be given for source {source}, was not")
    return value


def _cell_text(cells: Any, i: int) -> str:
    return str(cells[i].as_py())


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:20]))
