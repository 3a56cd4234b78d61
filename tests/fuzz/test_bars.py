"""Whatever stands in a CSV file: `plan` takes it, or refuses it with exit code 2 and the line. Never a traceback."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fuzz.bench import Bench, fuzz

SPEC = """
version: 1
experiments:
  mine:
    sweep: mine
    market: {source: csv, path: bars.csv, periods_per_year: 252, timezone: America/New_York}
    features:
      - log_returns: {lags: [1, 5]}
      - rsi: {period: 5}
      - bollinger_position: {period: 5}
    splits: {train: 60, validation: 30, test: 30}
    env: {fill: next_open, episode_bars: 20}
    evaluation: {count: 8, min_trades: 1}
    budget: {trials: 1, env_steps_per_trial: 512}
    resources: {lanes: 4}
"""
SWEEP = """
algorithm: dqn
fixed: {num_steps_sampled_before_learning_starts: 64, train_batch_size_per_learner: 16, model: {hiddens: [8]}}
search: {lr: {loguniform: [1e-4, 1e-3]}}
"""
HEADER = ["Date", "Open", "High", "Low", "Close", "Volume"]
Rows = list[list[str]]


def good_rows() -> Rows:
    """A hundred and twenty business days; row i of the file is line i + 1, the header line 1."""
    rng = np.random.default_rng(0)
    days = np.busday_offset(np.datetime64("2020-01-02"), np.arange(120), roll="forward")
    close = 100 * np.cumprod(1 + 0.01 * rng.standard_normal(120))
    opened = close * (1 + 0.002 * rng.standard_normal(120))
    high, low = np.maximum(opened, close) + 0.5, np.minimum(opened, close) - 0.5
    prices = np.column_stack((opened, high, low, close))
    return [[str(day), *(f"{price:.4f}" for price in four), "1000"] for day, four in zip(days, prices, strict=True)]


GOOD = [HEADER, *good_rows()]

CELLS = [
    "", " ", "nan", "NaN", "inf", "-inf", "null", "-", "0", "-1", "1e-320", "1e308", "1e999", "1,5",
    '"1,234.5"', "1.2.3",
    "0x10", "1_000", "+5", "5.", ".5", "1e5", "abc", "☃", "é", '"', '""', "'", '"a""b"', "=1+1", "\u202e1", "٣",
    "2020-01-06", "2020-02-30", "2020-13-01", "1677-01-01", "9999-12-31", "06/01/2020", "1577934000",
    "2020-01-06 16:00",
    "2020-01-06T16:00:00Z", "2020-01-06T16:00:00-05:00", "2020-03-08 02:30", "20200106", "2020-W02-1", "0000-00-00",
    "2020-01-06T24:00:00Z", "2020-01-06T23:59:60Z", "2020-01-06T16:00:00+99:99", "x" * 300,
]  # fmt: skip
HEADERS = [
    "",
    "Date",
    "time",
    "datetime",
    "TIMESTAMP",
    "open",
    "CLOSE",
    "volume",
    "Adj Close",
    "available_at",
    " High ",
]


def spoil(rows: Rows, kind: str, row: int, column: int, cell: str) -> Rows:
    """A copy with one place of it changed."""
    copied = [list(cells) for cells in rows]
    row, back = row % len(rows), column % len(rows)
    column %= len(HEADER)
    if kind == "cell" and column < len(copied[row]):
        copied[row][column] = cell
    elif kind == "column":
        copied = [
            cells if i == 0 or column >= len(cells) else [*cells[:column], cell, *cells[column + 1 :]]
            for i, cells in enumerate(copied)
        ]
    elif kind == "header" and column < len(copied[0]):
        copied[0][column] = HEADERS[back % len(HEADERS)]
    elif kind == "drop column":
        copied = [cells[:column] + cells[column + 1 :] for cells in copied]
    elif kind == "add cell":
        copied[row].append(cell)
    elif kind == "double":
        copied.insert(row, list(copied[row]))
    elif kind == "swap":
        copied[row], copied[back] = copied[back], copied[row]
    elif kind == "drop row":
        del copied[row]
    elif kind == "cut":
        copied = copied[: row + 1]
    else:
        copied.insert(row, [cell])
    return copied or [[]]


ENCODINGS: dict[str, Callable[[str], bytes]] = {
    "as it is": lambda text: text.encode("utf-8", "surrogatepass"),
    "Windows line ends": lambda text: text.replace("\n", "\r\n").encode("utf-8", "surrogatepass"),
    "old Mac line ends": lambda text: text.replace("\n", "\r").encode("utf-8", "surrogatepass"),
    "byte-order mark": lambda text: b"\xef\xbb\xbf" + text.encode("utf-8", "surrogatepass"),
    "UTF-16": lambda text: text.encode("utf-16", "surrogatepass"),
    "latin-1": lambda text: text.encode("latin-1", "replace"),
    "semicolons": lambda text: text.replace(",", ";").encode("utf-8", "surrogatepass"),
    "tabs": lambda text: text.replace(",", "\t").encode("utf-8", "surrogatepass"),
    "decimal commas": lambda text: text.replace(",", ";").replace(".", ",").encode("utf-8", "surrogatepass"),
    "a NUL": lambda text: text.encode("utf-8", "surrogatepass") + b"\0",
    "no last line end": lambda text: text.rstrip("\n").encode("utf-8", "surrogatepass"),
    "blank lines": lambda text: text.replace("\n", "\n\n").encode("utf-8", "surrogatepass"),
    "half": lambda text: text.encode("utf-8", "surrogatepass")[: len(text) // 2],
}  # fmt: skip
spoils = st.lists(
    st.tuples(
        st.sampled_from(
            [
                "cell",
                "cell",
                "cell",
                "column",
                "header",
                "drop column",
                "add cell",
                "double",
                "swap",
                "drop row",
                "cut",
                "line",
            ]
        ),
        st.integers(0, 10_000),
        st.integers(0, 10_000),
        st.sampled_from(CELLS) | st.text(max_size=6) | st.floats().map(repr),
    ),
    max_size=3,
)


def to_text(rows: Rows) -> str:
    return "\n".join(",".join(cells) for cells in rows) + "\n"


@pytest.fixture(scope="module")
def market(bench: Bench) -> Bench:
    bench.write("experiments.yaml", SPEC)
    bench.write("sweeps/mine.yaml", SWEEP)
    return bench


def test_the_file_that_is_spoiled_below_is_accepted(market: Bench) -> None:
    market.write("bars.csv", to_text(GOOD))
    assert market.accepts("mine")


SETTINGS = [
    "market.gaps=split", "market.gaps=allow", "market.adjustment=total", "market.adjustment=split",
    "market.calendar=24x7", "market.calendar=24x5", "market.bar_label=start", "market.bar_label=end",
    "market.timezone=null", "market.timezone=UTC", "market.timezone=Mars/Olympus", "market.timezone='../UTC'",
    "market.max_gap=1d", "market.max_gap=0d", "market.max_gap=soon", "market.allow_jumps=true",
    "market.periods_per_year=365", "market.periods_per_year=1e-9", "market.columns={Close: close}",
    "market.columns={Close: open, Open: close}", "market.columns={Nope: close}", "market.columns={Close: Close}",
    "market.path=.", "market.path=nowhere.csv", "market.path=/dev/null", "market.path=''", "market.source=parquet",
    "market.instrument='../x'", "env.fill=next_close", "env.window_bars=50", "env.episode_bars=59",
    "splits={train: 100, validation: 10, test: 10}", "splits={train: 118, validation: 2, test: 2}",
    "splits={train: [2020-01-01, 2020-03-31], validation: [2020-04-01, 2020-04-30], test: [2020-05-01, 2020-06-30]}",
    "features=[csv_columns: {names: [Volume]}]", "features=[csv_columns: {names: 5}]", "features=[atr: {period: 200}]",
    "features=[csv_columns: {names: [Volume, Close]}, trend: {period: 2}]", "features=[macd: {fast: 3, slow: 2}]",
    "features=[csv_columns: {names: ['Adj Close']}]", "features=[log_returns: {lags: 1}]",
    "features=[rsi: {period: x}]",
]  # fmt: skip


@given(
    spoils,
    st.sampled_from(sorted(ENCODINGS)) | st.just("as it is"),
    st.lists(st.sampled_from(SETTINGS), max_size=2, unique=True),
)
@fuzz(100)
def test_a_spoiled_file_is_planned_or_refused(
    market: Bench, edits: list[tuple[str, int, int, str]], encoding: str, settings: list[str]
) -> None:
    rows = GOOD
    for edit in edits:
        rows = spoil(rows, *edit)
    market.write("bars.csv", ENCODINGS[encoding](to_text(rows)))
    market.accepts("mine", *(word for setting in settings for word in ("--set", setting)))


@given(st.binary(max_size=120))
@fuzz(30)
def test_any_bytes_are_refused(market: Bench, raw: bytes) -> None:
    market.write("bars.csv", raw)
    assert not market.accepts("mine")


FILES = {
    "empty": b"",
    "a header": to_text(GOOD[:1]).encode(),
    "a header without a line end": to_text(GOOD[:1]).rstrip("\n").encode(),
    "one row": to_text(GOOD[:2]).encode(),
    "fewer rows than the features need": to_text(GOOD[:5]).encode(),
    "one column": b"Date\n2020-01-02\n2020-01-03\n",
    "no header": to_text(GOOD[1:]).encode(),
    "a header twice": to_text([HEADER, *GOOD]).encode(),
    "a cell of a megabyte": to_text([HEADER, ["2020-01-02", "1" * 1_000_000, "1", "1", "1", "1"]]).encode(),
    "a header of a megabyte": b"x" * 1_000_000,
    "a quote that never ends": to_text(GOOD).replace("100", '"100', 1).encode(),
    "a line end in quotes": to_text([HEADER, ["2020-01-02", '"1\n2"', "1", "1", "1", "1"], *GOOD[1:]]).encode(),
    "all constant": to_text([HEADER, *([row[0], "5", "5", "5", "5", "0"] for row in GOOD[1:])]).encode(),
    "all zero": to_text([HEADER, *([row[0], "0", "0", "0", "0", "0"] for row in GOOD[1:])]).encode(),
    "huge": to_text([HEADER, *([row[0], *["1e308"] * 4, "1"] for row in GOOD[1:])]).encode(),
    "tiny": to_text([HEADER, *([row[0], *["5e-324"] * 4, "1"] for row in GOOD[1:])]).encode(),
    "backwards": to_text([HEADER, *reversed(GOOD[1:])]).encode(),
    "gzip": b"\x1f\x8b\x08\x00" + bytes(200),
    "zip": b"PK\x03\x04" + bytes(200),
    "parquet": b"PAR1" + bytes(200) + b"PAR1",
    "JSON": b'[{"date": "2020-01-02", "close": 1}]\n',
    "HTML": b"<html><body>404 Not Found</body></html>\n",
}


@pytest.mark.parametrize("raw", FILES.values(), ids=FILES)
def test_a_file_that_holds_no_market_is_refused_with_its_name(market: Bench, raw: bytes) -> None:
    market.write("bars.csv", raw)
    assert not market.accepts("mine")
