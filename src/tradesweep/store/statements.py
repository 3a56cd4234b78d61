"""One prepared statement per record kind.

Rows go to the driver as tuples (`exec_driver_sql`), which is five times as fast as dictionaries through
SQLAlchemy Core; the statements themselves are written by Core from the models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import bindparam, literal_column, update
from sqlalchemy.dialects import sqlite
from sqlalchemy.engine import Connection

from tradesweep.names import RECORD_COLUMNS, EpisodeStatus, Record
from tradesweep.store.models import MODEL_OF_RECORD, Episode

Rows = list[tuple[Any, ...]]

EXTRA_COLUMNS: dict[Record, tuple[str, ...]] = {
    Record.EPISODES_OPENED: ("trial_id", "attempt", "producer_no"),
    Record.ITERATIONS: ("trial_id", "attempt"),
    Record.EVALUATIONS: ("trial_id", "attempt"),
    Record.CHECKPOINTS: ("trial_id", "attempt", "last_producer_no", "steps_dropped"),
}
"""What the store adds to each row of a record kind, behind the columns it came with."""


@dataclass(frozen=True, slots=True)
class BulkStatement:
    """SQL with positional parameters, and the places in a row that they are taken from."""

    sql: str
    order: tuple[int, ...] | None
    """None: the row as it is."""

    def run(self, db: Connection, rows: Rows) -> int:
        """Execute for all rows; how many rows of the table it touched."""
        if self.order is not None:
            rows = [tuple(row[place] for place in self.order) for row in rows]
        return db.exec_driver_sql(self.sql, rows).rowcount


def _statement(statement: Any, names: Sequence[str]) -> BulkStatement:
    compiled = statement.compile(dialect=sqlite.dialect())
    order = tuple(names.index(name.removeprefix("key_")) for name in compiled.positiontup)
    return BulkStatement(str(compiled), None if order == tuple(range(len(names))) else order)


def _build_insert(kind: Record) -> BulkStatement:
    names = [column.name for column in RECORD_COLUMNS[kind]] + list(EXTRA_COLUMNS.get(kind, ()))
    insert = sqlite.insert(MODEL_OF_RECORD[kind].table()).values({name: bindparam(name) for name in names})
    return _statement(insert.on_conflict_do_nothing(), names)


def _build_closing() -> BulkStatement:
    """An episode is closed once, and only while it is open."""
    names = [column.name for column in RECORD_COLUMNS[Record.EPISODES_CLOSED]]
    table = Episode.table()
    still_open = table.c.status == literal_column(f"'{EpisodeStatus.OPEN}'")
    values: dict[str, Any] = {name: bindparam(name) for name in names if name != "episode_no"}
    closing = update(table).where(table.c.episode_no == bindparam("key_episode_no"), still_open).values(values)
    return _statement(closing, names)


BULK: dict[Record, BulkStatement] = {
    kind: _build_closing() if kind == Record.EPISODES_CLOSED else _build_insert(kind) for kind in Record
}
