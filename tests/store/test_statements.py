"""Rows go to SQLite in blocks: however many there are, each arrives once, in its place, with its types."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, create_engine
from sqlalchemy.exc import IntegrityError

from tradesweep.names import RECORD_COLUMNS, Record
from tradesweep.store import ColumnRows, Writer
from tradesweep.store.statements import BLOCK_ROWS, BULK

COUNTS = (1, 2, BLOCK_ROWS - 1, BLOCK_ROWS, BLOCK_ROWS + 1, 2 * BLOCK_ROWS, 5 * BLOCK_ROWS + 7)


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("statements") / "empty.db"
    Writer(path).close()
    return path


@pytest.fixture
def db(database: Path) -> Any:
    """A connection whose rows nobody keeps."""
    engine = create_engine(f"sqlite:///{database}")
    with engine.connect() as connection:
        yield connection
        connection.rollback()
    engine.dispose()


def make_steps(count: int) -> list[tuple[Any, ...]]:
    """A value of each column tells row and column, so that none can be in another's place."""
    columns = RECORD_COLUMNS[Record.STEPS]
    kinds: dict[str, type] = {"int": int, "float": float}
    rows = []
    for row in range(1, count + 1):
        values = [kinds[column.kind](100 * row + place) for place, column in enumerate(columns)]
        rows.append(tuple(None if c.nullable and row % 2 else v for c, v in zip(columns, values, strict=True)))
    return rows


def read_steps(db: Connection) -> list[tuple[Any, ...]]:
    names = ", ".join(column.name for column in RECORD_COLUMNS[Record.STEPS])
    return [tuple(row) for row in db.exec_driver_sql(f"SELECT {names} FROM steps ORDER BY step_id")]


def as_columns(rows: list[tuple[Any, ...]]) -> ColumnRows:
    return ColumnRows(list(zip(*rows, strict=True)))


@pytest.mark.parametrize("lie_as", [list, as_columns])
@pytest.mark.parametrize("count", COUNTS)
def test_every_row_arrives_once_in_its_place_with_its_types(
    db: Connection, count: int, lie_as: Callable[[list[tuple[Any, ...]]], Sequence[tuple[Any, ...]]]
) -> None:
    rows = make_steps(count)
    assert BULK[Record.STEPS].run(db, lie_as(rows)) == count
    found = read_steps(db)
    assert found == rows
    assert [list(map(type, row)) for row in found] == [list(map(type, row)) for row in rows]


@pytest.mark.parametrize("place", [0, BLOCK_ROWS + 3, 3 * BLOCK_ROWS])
def test_a_value_of_another_type_is_refused_wherever_it_stands(db: Connection, place: int) -> None:
    rows = make_steps(3 * BLOCK_ROWS + 1)
    rows[place] = (*rows[place][:-1], "words")
    with pytest.raises(IntegrityError, match="cannot store TEXT value in INTEGER column"):
        BULK[Record.STEPS].run(db, rows)


def test_no_row_is_no_work(db: Connection) -> None:
    assert BULK[Record.STEPS].run(db, []) == 0


def test_an_update_goes_row_by_row() -> None:
    assert BULK[Record.EPISODES_CLOSED].block_sql is None
    assert all(BULK[kind].block_sql for kind in set(Record) - {Record.EPISODES_CLOSED})


def test_rows_that_lie_as_columns_are_the_same_rows() -> None:
    rows = make_steps(5)
    found = as_columns(rows)
    assert (len(found), found[0], found[-1]) == (5, rows[0], rows[-1])
    assert list(found) == rows
    assert list(found[1:4]) == rows[1:4]
    assert rows[2] in found
