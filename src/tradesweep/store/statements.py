"""Writing the rows of a record kind in bulk, in each database's own way.

SQLite has one prepared statement per record kind. Rows go to the driver as tuples (`exec_driver_sql`), which is five
times as fast as dictionaries through SQLAlchemy Core; the statements themselves are written by Core from the models.
Most rows are inserted a block at a time, by one execution of a statement with as many VALUES: SQLite prepares each
execution anew, and for a CHECK with a list of words that costs more than the row. PostgreSQL's way is in `copying`.

A row that is there already is an error: the watermark applies each batch once, so its rows can only have been there
when something else is wrong, and then silence would lose rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Dialect, bindparam, insert, literal_column, update
from sqlalchemy.dialects import sqlite
from sqlalchemy.engine import Connection

from tradesweep.names import RECORD_COLUMNS, EpisodeStatus, Record
from tradesweep.store.inputs import ColumnRows, Row
from tradesweep.store.models import MODEL_OF_RECORD, Episode

Rows = Sequence[Row]

EXTRA_COLUMNS: dict[Record, tuple[str, ...]] = {
    Record.EPISODES_OPENED: ("trial_id", "attempt", "producer_no"),
    Record.ITERATIONS: ("trial_id", "attempt"),
    Record.EVALUATIONS: ("trial_id", "attempt"),
    Record.CHECKPOINTS: ("trial_id", "attempt", "last_producer_no", "steps_dropped"),
}
"""What the store adds to each row of a record kind, behind the columns it came with."""


BLOCK_ROWS = 64
"""Rows of one execution; more of them gain nothing (measured)."""


@dataclass(frozen=True, slots=True)
class BulkStatement:
    """SQL with positional parameters, and the places in a row that they are taken from."""

    sql: str
    order: tuple[int, ...] | None
    """None: the row as it is."""
    block_sql: str | None = None
    """The same for BLOCK_ROWS rows at once; None where there is no such statement."""

    def run(self, db: Connection, rows: Rows) -> int:
        """Execute for all rows; how many rows of the table it touched."""
        if not rows:
            return 0
        columns = rows.columns if isinstance(rows, ColumnRows) else list(zip(*rows, strict=True))
        values = _row_by_row(columns if self.order is None else [columns[place] for place in self.order])
        block = BLOCK_ROWS * len(columns)
        rest = len(values) // block * block if self.block_sql is not None else 0
        touched = 0
        if self.block_sql is not None and rest:
            touched += db.exec_driver_sql(self.block_sql, _cut(values[:rest], block)).rowcount
        if rest < len(values):
            touched += db.exec_driver_sql(self.sql, _cut(values[rest:], len(columns))).rowcount
        return touched


def _row_by_row(columns: Sequence[Sequence[Any]]) -> list[Any]:
    """The values of the first row, then those of the second ..."""
    values: list[Any] = [None] * (len(columns) * len(columns[0]))
    for place, column in enumerate(columns):
        values[place :: len(columns)] = column
    return values


def _cut(values: list[Any], size: int) -> list[tuple[Any, ...]]:
    return [tuple(values[at : at + size]) for at in range(0, len(values), size)]


def write_rows(db: Connection, kind: Record, rows: Rows) -> int:
    """Write rows of one kind; how many rows of the table that touched."""
    if db.dialect.name == "postgresql":
        from tradesweep.store.copying import copy_rows

        return copy_rows(db, kind, rows if isinstance(rows, list) else list(rows))
    return BULK[kind].run(db, rows)


def column_names(kind: Record) -> list[str]:
    """The columns of a row as it is written."""
    return [column.name for column in RECORD_COLUMNS[kind]] + list(EXTRA_COLUMNS.get(kind, ()))


def compile_statement(statement: Any, names: Sequence[str], dialect: Dialect) -> BulkStatement:
    """A statement whose parameters carry names of columns, ready for rows of these columns."""
    compiled = statement.compile(dialect=dialect)
    order = tuple(names.index(name.removeprefix("key_")) for name in compiled.positiontup)
    return BulkStatement(str(compiled), None if order == tuple(range(len(names))) else order)


def _build_insert(kind: Record) -> BulkStatement:
    names = column_names(kind)
    insertion = insert(MODEL_OF_RECORD[kind].table()).values({name: bindparam(name) for name in names})
    single = compile_statement(insertion, names, sqlite.dialect())
    row = f"({', '.join('?' * len(names))})"
    assert single.sql.count(row) == 1, f"one row of parameters must be in {single.sql}"
    return replace(single, block_sql=single.sql.replace(row, ", ".join([row] * BLOCK_ROWS)))


def build_closing(dialect: Dialect) -> BulkStatement:
    """An episode is closed once, and only while it is open."""
    names = column_names(Record.EPISODES_CLOSED)
    table = Episode.table()
    still_open = table.c.status == literal_column(f"'{EpisodeStatus.OPEN}'")
    values: dict[str, Any] = {name: bindparam(name) for name in names if name != "episode_no"}
    closing = update(table).where(table.c.episode_no == bindparam("key_episode_no"), still_open).values(values)
    return compile_statement(closing, names, dialect)


BULK: dict[Record, BulkStatement] = {
    kind: build_closing(sqlite.dialect()) if kind == Record.EPISODES_CLOSED else _build_insert(kind) for kind in Record
}
"""SQLite's statements."""
