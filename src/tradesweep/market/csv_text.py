"""CSV files as columns of text: what stands in a cell is read exactly or refused, never guessed.

The bytes are looked at once (byte-order mark, NUL, UTF-8), the header by itself, and then Arrow cuts the
rows into text. Limits: plain files of at most 2 GB, comma-separated, one header line, no quoted line breaks.
"""

from __future__ import annotations

import csv
import stat
from codecs import getincrementaldecoder
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from tradesweep.errors import MarketError
from tradesweep.market.where import Where

MOST_BYTES = 2_000_000_000
BLOCK_BYTES = 1 << 24
LONGEST_HEADER = 1 << 20
_MARKS = {
    b"\xef\xbb\xbf": "a UTF-8 byte-order mark",
    b"\xff\xfe": "a UTF-16 byte-order mark",
    b"\xfe\xff": "a UTF-16 byte-order mark",
    b"\x1f\x8b": "gzip data",
    b"PK\x03\x04": "zip data",
    b"PAR1": "parquet data",
}
_MARK_REMEDIES = {
    "gzip data": "unpack it first",
    "zip data": "unpack it first",
    "parquet data": "set market.source: parquet",
}


def check_file(path: Path) -> None:
    """A regular file of 1 byte to 2 GB; raises `MarketError` for anything else, without opening it."""
    try:
        status = path.stat()
    except OSError as e:
        raise MarketError(f"{path} must be a readable file, was not: {e.strerror}; mend market.path") from e
    except ValueError as e:
        raise MarketError(f"{str(path)!r} must be a path, was not: {e}; mend market.path") from e
    if not stat.S_ISREG(status.st_mode):
        raise MarketError(f"{path} must be a regular file, was {_kind_of(status.st_mode)}; mend market.path")
    if not 0 < status.st_size <= MOST_BYTES:
        raise MarketError(
            f"{path} must hold 1 to {MOST_BYTES:,} bytes, held {status.st_size:,}; split a longer"
            " file or use longer bars"
        )


def check_bytes(path: Path) -> None:
    """Plain UTF-8 text without byte-order mark and NUL; raises `MarketError` with the line."""
    decoder = getincrementaldecoder("utf-8")("strict")
    lines = 1
    for i, block in enumerate(_read_blocks(path)):
        if i == 0:
            _check_mark(path, block)
        nul = block.find(b"\0")
        if nul >= 0:
            line = lines + block.count(b"\n", 0, nul)
            raise MarketError(f"{path}:{line} must be text, held a NUL byte; export the file again as UTF-8 CSV")
        try:
            decoder.decode(block, final=not block)
        except UnicodeDecodeError as e:
            line, byte = lines + e.object.count(b"\n", 0, e.start), e.object[e.start]
            raise MarketError(
                f"{path}:{line} must be UTF-8, held byte 0x{byte:02x}; save the file as UTF-8 (it may be latin-1)"
            ) from None
        lines += block.count(b"\n")


def read_header(path: Path) -> list[str]:
    """The column names of the first line, stripped; raises `MarketError` for another separator."""
    with path.open("rb") as file:
        line = file.readline(LONGEST_HEADER).decode("utf-8", errors="replace").rstrip("\r\n")
    if not line.strip():
        raise MarketError(f"{path}:1 must be the header, was blank; name the columns in the first line")
    names = [name.strip() for name in _split(path, 1, line)]
    for separator, word in ((";", "semicolons"), ("\t", "tabs"), ("|", "bars")):
        if len(names) <= line.count(separator):
            raise MarketError(
                f"{path}:1 must be separated by commas, was separated by {word} ({line[:60]!r}); save"
                " it with commas and decimal points"
            )
    return names


def read_text(path: Path, header: list[str], wanted: list[int]) -> dict[int, Any]:
    """Arrow text arrays of the wanted columns, by position; raises `MarketError` for ragged rows."""
    import pyarrow as pa
    from pyarrow import csv as arrow_csv

    keys = [str(i) for i in range(len(header))]
    chosen = [keys[i] for i in wanted]
    try:
        table = arrow_csv.read_csv(
            path,
            read_options=arrow_csv.ReadOptions(column_names=keys, skip_rows=1, block_size=BLOCK_BYTES),
            parse_options=arrow_csv.ParseOptions(delimiter=",", ignore_empty_lines=True),
            convert_options=arrow_csv.ConvertOptions(
                include_columns=chosen,
                column_types=dict.fromkeys(chosen, pa.string()),
                strings_can_be_null=False,
            ),
        )
    except pa.ArrowInvalid as e:
        _raise_ragged(path, len(header), e)
    if table.num_rows == 0:
        raise MarketError(f"{path} must hold at least 2 bars, held only a header; bring data")
    return {i: table.column(keys[i]) for i in wanted}


def find_line(path: Path, row: int) -> int:
    """The file line, counted from 1, of a data row; blank lines hold no row."""
    with path.open(encoding="utf-8") as file:
        next(file)
        for number, line in enumerate(file, start=2):
            row -= line != "\n"
            if row < 0:
                return number
    raise AssertionError("a row that was read stands in the file")


def where_in(path: Path, stamp_of_row: Callable[[int], str]) -> Where:
    """Rows of this file by line and stamp."""
    return Where(source=str(path), line_of_row=lambda row: find_line(path, row), stamp_of_row=stamp_of_row)


def _raise_ragged(path: Path, columns: int, error: Exception) -> NoReturn:
    """Name the first line with another number of cells than the header."""
    with path.open(encoding="utf-8", newline="") as file:
        for number, line in enumerate(file, start=1):
            cells = len(_split(path, number, line.rstrip("\r\n")))
            if cells not in (0, columns):
                raise MarketError(
                    f"{path}:{number} must have {columns} cells as the header has, had {cells}; mend the row"
                ) from None
    raise MarketError(f"{path} must be a plain CSV, was not: {error}; export it again") from error


def _split(path: Path, number: int, line: str) -> list[str]:
    """The cells of a line."""
    try:
        return next(csv.reader([line]), [])
    except csv.Error as e:
        raise MarketError(f"{path}:{number} must be a line of cells, was not: {e}; mend the line") from e


def _check_mark(path: Path, block: bytes) -> None:
    for mark, what in _MARKS.items():
        if block.startswith(mark):
            remedy = _MARK_REMEDIES.get(what, "save it as UTF-8 without one")
            raise MarketError(f"{path}:1 must begin with the header, began with {what}; {remedy}")


def _read_blocks(path: Path) -> Iterator[bytes]:
    """The file's bytes, then an empty block."""
    try:
        with path.open("rb") as file:
            while block := file.read(BLOCK_BYTES):
                yield block
        yield b""
    except OSError as e:
        raise MarketError(f"{path} must be a readable file, was not: {e.strerror}; mend market.path") from e


def _kind_of(mode: int) -> str:
    kinds = {
        stat.S_IFDIR: "a directory",
        stat.S_IFIFO: "a pipe",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
    }
    return kinds.get(stat.S_IFMT(mode), "something else")
