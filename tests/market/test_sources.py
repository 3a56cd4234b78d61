import os
from datetime import date
from functools import partial

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from tradesweep.errors import MarketError
from tradesweep.market.clock import local_dates
from tradesweep.market.sources import join_available, load_bars, load_csv, load_parquet, load_sample


def table_of(rows, **changes):
    """The rows as an Arrow table with real types."""
    columns = {
        "Date": pa.array([date.fromisoformat(row[0]) for row in rows]),
        **{
            name: pa.array([float(row[i + 1]) for row in rows])
            for i, name in enumerate(("Open", "High", "Low", "Close", "Volume"))
        },
    }
    return pa.table({**columns, **changes})


# -- what is accepted


def test_a_well_formed_csv_is_read_to_the_digit(write, rows, rules):
    bars = load_csv(write(rows), rules())
    assert bars.close.tolist() == [float(row[4]) for row in rows]
    assert bars.volume.tolist() == [1000.0] * 60
    assert bars.segment.tolist() == [0] * 60


def test_a_date_means_the_end_of_that_day_in_the_markets_zone(write, rows, rules):
    bars = load_csv(write(rows), rules())
    assert bars.describe_row(0) == "row 0 (2020-01-03T05:00:00Z)"
    assert [str(day) for day in local_dates(bars.time_us, bars.timezone)] == [row[0] for row in rows]


@pytest.mark.parametrize("newline", ["\r\n", "\n\n"])
def test_line_endings_and_blank_lines_do_not_matter(write, rows, rules, newline):
    plain = write(rows)
    other = load_csv(plain, rules()).sha256()
    plain.write_bytes(plain.read_bytes().replace(b"\n", newline.encode()))
    assert load_csv(plain, rules()).sha256() == other


def test_columns_may_come_in_any_order_and_more_are_ignored(write, rows, rules):
    turned = [[*reversed(row), "note"] for row in rows]
    bars = load_csv(write(turned, "Volume,Close,Low,High,Open,Date,Note"), rules())
    assert bars.close.tolist() == [float(row[4]) for row in rows]


def test_columns_are_renamed_from_theirs_to_ours(write, rows, rules):
    path = write(rows, "day,o,High,Low,last,Volume")
    bars = load_csv(path, rules(columns={"day": "time", "o": "open", "last": "close"}))
    assert bars.open.tolist() == [float(row[1]) for row in rows]


def test_a_rename_decides_between_two_candidates(write, rows, rules):
    path = write([["x", *row] for row in rows], "Timestamp,Date,Open,High,Low,Close,Volume")
    with pytest.raises(MarketError, match="one column time, had 'Timestamp', 'Date'"):
        load_csv(path, rules())
    assert len(load_csv(path, rules(columns={"Date": "time"}))) == 60


def test_wanted_columns_are_kept(write, rows, rules):
    path = write([[*row, str(i)] for i, row in enumerate(rows)], "Date,Open,High,Low,Close,Volume,Mood")
    assert load_csv(path, rules(csv_columns=("Mood",))).extra["Mood"].tolist() == list(range(60))


def test_an_adjusted_close_scales_all_four_prices(write, rows, rules):
    path = write([[*row, str(float(row[4]) / 4)] for row in rows], "Date,Open,High,Low,Close,Volume,Adj Close")
    raw, scaled = load_csv(path, rules()), load_csv(path, rules(adjustment="total"))
    for name in ("open", "high", "low", "close"):
        assert getattr(scaled, name) == pytest.approx(getattr(raw, name) / 4, rel=1e-12)
    assert scaled.volume.tolist() == raw.volume.tolist()


def test_a_value_joins_the_first_bar_that_ends_after_it_was_available(write, rows, rules):
    late = [[*row, str(i), rows[min(i + 2, 59)][0]] for i, row in enumerate(rows)]
    path = write(late, "Date,Open,High,Low,Close,Volume,Mood,Available At")
    mood = load_csv(path, rules(csv_columns=("Mood",))).extra["Mood"]
    assert np.isnan(mood[:2]).all()
    assert mood[2:6].tolist() == [0, 1, 2, 3]


def test_joining_takes_the_newest_value_that_is_available():
    ends, available = np.array([10, 20, 30]), np.array([20, 5, 31])
    assert join_available(ends, available, np.array([2.0, 1.0, 3.0])).tolist() == [1, 2, 2]


def test_with_gaps_split_the_runs_are_numbered(write, rows, rules):
    path = write(rows[:20] + rows[30:])
    assert load_csv(path, rules(gaps="allow")).segment.tolist() == [0] * 50
    assert load_csv(path, rules(gaps="split")).segment.tolist() == [0] * 20 + [1] * 30


# -- what is refused, with file, line and stamp, rule, value, remedy


def cell(row, column, value):
    def break_it(rows):
        rows[row][column] = value
        return rows

    return break_it


CELLS = {
    "nan": (cell(5, 4, "nan"), r"prices.csv:7 \(2020-01-09\) close .* was 'nan'"),
    "blank": (cell(5, 4, ""), r"prices.csv:7 \(2020-01-09\) close .* was blank"),
    "dash": (cell(5, 4, "-"), r"prices.csv:7 .* was '-'"),
    "thousands": (cell(5, 4, '"1,234.5"'), r"prices.csv:7 .* was '1,234.5'"),
    "infinite volume": (cell(5, 5, "inf"), r"prices.csv:7 .* volume .* was 'inf'"),
    "negative volume": (cell(5, 5, "-1"), r"prices.csv:7 .* volume .* was -1"),
    "negative": (cell(5, 3, "-1"), r"prices.csv:7 \(2020-01-09\) low must be finite and > 0, was -1"),
    "zero": (cell(5, 1, "0"), r"prices.csv:7 .* open must be finite and > 0, was 0"),
    "high below": (cell(5, 2, "1"), r"prices.csv:7 .* high must be >= max\(open, close\), was high 1,"),
    "low above": (cell(5, 3, "1000"), r"prices.csv:7 .* low must be <= min\(open, close\), was low 1000,"),
    "duplicate stamp": (
        cell(5, 0, "2020-01-08"),
        r"prices.csv:7 \(2020-01-08\) .* was the same \(a duplicate\)",
    ),
    "unsorted": (cell(5, 0, "2020-01-06"), r"prices.csv:7 \(2020-01-06\) .* was earlier than 2020-01-08"),
    "mixed formats": (cell(5, 0, "2020-01-09 16:00"), r"prices.csv:7 .* one format throughout \(dates"),
    "dd/mm": (
        cell(0, 0, "13/01/2020"),
        r"prices.csv:2 .* must be an ISO-8601 date or time, was '13/01/2020'",
    ),
    "dd/mm later": (cell(7, 0, "13/01/2020"), r"prices.csv:9 .* one format throughout"),
    "no such day": (
        cell(5, 0, "2020-02-30"),
        r"prices.csv:7 .* must exist in the calendar, was '2020-02-30'",
    ),
    "epoch": (cell(0, 0, "1577934000"), r"prices.csv:2 .* a number \(epoch times are not guessed\)"),
    "year 1677": (cell(0, 0, "1677-01-01"), r"prices.csv:2 .* in the years 1900 to 2200, was in 1677"),
    "year 9999": (cell(59, 0, "9999-01-01"), r"prices.csv:61 .* was in 9999"),
    "one cell more": (cell(8, 5, "1,7"), r"prices.csv:10 must have 6 cells as the header has, had 7"),
    "NUL": (cell(5, 1, "1\0"), r"prices.csv:7 must be text, held a NUL byte"),
    "control characters": (cell(5, 0, "\x1b[31m"), r"prices.csv:7 \(\\x1b\[31m\) time must be in one format"),
    "a very long stamp": (cell(5, 0, "x" * 300), r"prices.csv:7 \(x{40}\.\.\.\) time must be in one format"),
    "a very long cell": (
        cell(5, 4, '"' + "1" * 200_000),
        r"prices.csv:7 must be a line of cells, was not: field larger",
    ),
    "one row": (lambda rows: rows[:1], r"must hold at least 2 bars, held 1"),
    "header only": (lambda _: [], r"must hold at least 2 bars, held only a header"),
}


@pytest.mark.parametrize(("break_it", "message"), CELLS.values(), ids=CELLS)
def test_a_broken_row_is_named(write, rows, rules, break_it, message):
    with pytest.raises(MarketError, match=message):
        load_csv(write(break_it(rows)), rules())


FILES = {
    "byte-order mark": (
        lambda b: b"\xef\xbb\xbf" + b,
        "prices.csv:1 .* began with a UTF-8 byte-order mark; save",
    ),
    "UTF-16": (lambda b: b.decode().encode("utf-16"), "prices.csv:1 .* began with a UTF-16 byte-order mark"),
    "gzip": (lambda b: b"\x1f\x8b" + b, "prices.csv:1 .* began with gzip data; unpack it first"),
    "semicolons": (lambda b: b.replace(b",", b";"), "prices.csv:1 .* separated by semicolons"),
    "tabs": (lambda b: b.replace(b",", b"\t"), "prices.csv:1 .* separated by tabs"),
    "latin-1": (lambda b: b + "é".encode("latin-1"), "prices.csv:62 must be UTF-8, held byte 0xe9"),
    "missing column": (
        lambda b: b.replace(b"Volume", b"Vol"),
        "prices.csv:1 must have a column volume, had .*'Vol'",
    ),
    "doubled column": (lambda b: b.replace(b"Open", b"Close"), "prices.csv:1 must have one column close"),
    "empty": (lambda _: b"", "must hold 1 to 2,000,000,000 bytes, held 0"),
    "a very long column": (lambda b: b"x" * 200_000 + b, "prices.csv:1 must be a line of cells, was not: field larger"),
    "old Mac line ends": (lambda b: b.replace(b"\n", b"\r"), "prices.csv:1 must be a line of cells, was not: new-line"),
    "blank header": (lambda b: b"\n" + b, "prices.csv:1 must be the header, was blank"),
}


@pytest.mark.parametrize(("break_it", "message"), FILES.values(), ids=FILES)
def test_a_broken_file_is_named(write, rows, rules, break_it, message):
    path = write(rows)
    path.write_bytes(break_it(path.read_bytes()))
    with pytest.raises(MarketError, match=message):
        load_csv(path, rules())


def test_lines_are_counted_with_blank_ones(write, rows, rules):
    path = write(cell(5, 4, "nan")(rows))
    path.write_bytes(path.read_bytes().replace(b"\n", b"\n\n", 3))
    with pytest.raises(MarketError, match=r"prices.csv:10 \(2020-01-09\) close"):
        load_csv(path, rules())


def test_line_ends_of_two_kinds_are_both_counted(write, rows, rules):
    path = write(cell(5, 4, "nan")(rows))
    raw = path.read_bytes().replace(b"\n", b"\r", 4).replace(b"\r", b"\n", 1)
    path.write_bytes(raw)
    with pytest.raises(MarketError, match=r"prices.csv:7 \(2020-01-09\) close"):
        load_csv(path, rules())


@pytest.mark.parametrize("load", [load_csv, load_parquet])
def test_only_regular_files_are_opened(tmp_path, rules, load):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(MarketError, match="was a pipe"):
        load(tmp_path / "pipe", rules())
    with pytest.raises(MarketError, match="was a directory"):
        load(tmp_path, rules())
    with pytest.raises(MarketError, match="was a device"):
        load("/dev/zero", rules())
    with pytest.raises(MarketError, match="No such file"):
        load(tmp_path / "none.csv", rules())


def test_a_file_above_the_size_limit_is_refused_unread(tmp_path, rules):
    path = tmp_path / "huge.csv"
    with path.open("wb") as file:
        file.truncate(2_000_000_001)
    with pytest.raises(MarketError, match="held 2,000,000,001; split"):
        load_csv(path, rules())


def test_an_adjustment_needs_its_column_and_positive_values(write, rows, rules):
    with pytest.raises(MarketError, match="must have a column adjusted_close"):
        load_csv(write(rows), rules(adjustment="split"))
    path = write([[*row, "0"] for row in rows], "Date,Open,High,Low,Close,Volume,Adj Close")
    with pytest.raises(MarketError, match=r"prices.csv:2 .* adjusted_close and close must be > 0, were 0"):
        load_csv(path, rules(adjustment="split"))


def test_a_rename_of_a_missing_column_is_named(write, rows, rules):
    with pytest.raises(MarketError, match=r"must have the column 'Last' that market.columns renames"):
        load_csv(write(rows), rules(columns={"Last": "close"}))


# -- parquet


def test_parquet_and_csv_hold_the_same_bars(write, rows, rules, tmp_path):
    parquet.write_table(table_of(rows), tmp_path / "p.parquet")
    assert load_parquet(tmp_path / "p.parquet", rules()).sha256() == load_csv(write(rows), rules()).sha256()


def test_parquet_reads_aware_timestamps_and_text(rows, rules, tmp_path):
    text = pa.array([f"{row[0]}T21:00:00Z" for row in rows])
    typed = pa.array([np.datetime64(f"{row[0]}T21:00:00", "us") for row in rows]).cast(pa.timestamp("ns", tz="UTC"))
    digests = []
    for stamps in (text, typed):
        parquet.write_table(table_of(rows, Date=stamps), tmp_path / "p.parquet")
        digests.append(load_parquet(tmp_path / "p.parquet", rules()).sha256())
    assert digests[0] == digests[1]


def test_parquet_with_a_null_an_epoch_or_text_prices_is_refused(rows, rules, tmp_path):
    path = tmp_path / "p.parquet"
    null = pa.array([None, *(float(row[4]) for row in rows[1:])])
    broken = {
        r"row 0 \(2020-01-02\) close must not be null": {"Close": null},
        r"time must be a timestamp.*was int64 \(epoch times are not guessed\)": {"Date": pa.array(range(60))},
        "close must be a numeric column, was string": {"Close": pa.array(["1"] * 60)},
        r"row 3 \(2020-01-07\) close must be finite": {"Close": pa.array([1.0, 1.0, 1.0, np.nan, *[1.0] * 56])},
    }
    for message, change in broken.items():
        parquet.write_table(table_of(rows, **change), path)
        with pytest.raises(MarketError, match=message):
            load_parquet(path, rules())


def test_something_else_than_parquet_is_refused(write, rows, rules):
    with pytest.raises(MarketError, match="must be a parquet file, was not"):
        load_parquet(write(rows), rules())


# -- samples and the choice of a source


@pytest.mark.parametrize("name", ["sp500", "nasdaq"])
def test_the_samples_keep_every_rule_at_the_next_close(rules, name):
    bars = load_sample(name, rules(fill="next_close", timezone=None))
    assert len(bars) == 5031
    dates = local_dates(bars.time_us, bars.timezone)
    assert (str(dates[0]), str(dates[-1])) == ("1999-01-04", "2018-12-31")
    assert bars.tradable.all()


def test_a_sample_bar_ends_at_four_in_new_york_in_winter_and_summer(rules):
    bars = load_sample("nasdaq", rules())
    assert bars.describe_row(0) == "row 0 (1999-01-04T21:00:00Z)"
    assert bars.describe_row(130) == "row 130 (1999-07-12T20:00:00Z)"


def test_the_open_of_the_nasdaq_can_be_filled_and_that_of_the_sp500_cannot(rules):
    assert len(load_sample("nasdaq", rules(fill="next_open"))) == 5031
    with pytest.raises(MarketError, match=r"was equal on 97% of 1999: stale; set env.fill: next_close"):
        load_sample("sp500", rules(fill="next_open"))


def test_a_sample_takes_total_adjustment_and_an_index_changes_little(rules):
    raw = load_sample("nasdaq", rules())
    assert load_sample("nasdaq", rules(adjustment="total")).close == pytest.approx(raw.close)


def test_a_source_is_chosen_by_name(write, rows, rules):
    path = write(rows)
    load = partial(load_bars, rules=rules())
    assert len(load_bars("csv", rules(), path=path)) == 60
    assert len(load_bars("synthetic", rules(), name="planted", params={"bars": 70, "seed": 3})) == 70
    assert len(load_bars("sample", rules(), name="nasdaq")) == 5031
    for source, message in {
        "csv": "market.path must be given",
        "sample": "market.name must",
        "x": "one of",
    }.items():
        with pytest.raises(MarketError, match=message):
            load(source)
    with pytest.raises(MarketError, match="one of nasdaq, sp500, was 'dax'"):
        load_bars("sample", rules(), name="dax")


def test_synthetic_parameters_hold_only_the_markets_own(rules):
    for params, message in (({"periods_per_year": 52}, "a key of market itself"), ({"name": 1}, "no parameter 'name'")):
        with pytest.raises(MarketError, match=message):
            load_bars("synthetic", rules(), name="planted", params=params)
