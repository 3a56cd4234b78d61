"""A database of every released schema is upgraded with all its rows, keeps every rule, and takes new ones."""

from __future__ import annotations

import gzip
import re
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tradesweep.errors import SchemaMismatch
from tradesweep.names import SweepStatus, TrialStatus
from tradesweep.store import Writer, back_up, open_store, upgrade_database, verify
from tradesweep.store.migrations import HEAD, REVISIONS

FOLDER = Path(__file__).parent / "frozen"
OLDER = [schema for schema in REVISIONS if schema != HEAD]


def thaw(schema: str, folder: Path) -> Path:
    path = folder / "tradesweep.db"
    path.write_bytes(gzip.decompress((FOLDER / f"schema_{schema}.db.gz").read_bytes()))
    path.chmod(0o600)
    return path


def read_tables(path: Path, like: dict[str, Any] | None = None) -> dict[str, Any]:
    """Every table, or the columns of `like` of them: names of columns, and rows by their key."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
        db.execute("PRAGMA query_only = ON")
        names = (
            "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT IN ('alembic_version', 'sqlite_sequence')"
        )
        tables = {}
        for (name,) in db.execute(names).fetchall():
            if like is not None and name not in like:
                continue
            columns = like[name][0] if like else [row[1] for row in db.execute(f"PRAGMA table_info({name})")]
            tables[name] = (columns, set(db.execute(f"SELECT {', '.join(columns)} FROM {name}").fetchall()))
    return tables


def broken(path: Path) -> list[str]:
    return [result.rule for result in verify(open_store(path)) if not result.passed]


def test_every_released_schema_has_a_frozen_database() -> None:
    found = {re.sub(r"\D", "", path.name) for path in FOLDER.glob("*.db.gz")}
    assert found == set(REVISIONS)


@pytest.mark.parametrize("schema", REVISIONS)
def test_a_frozen_database_is_of_its_schema_and_holds_a_sweep(schema: str, tmp_path: Path) -> None:
    path = thaw(schema, tmp_path)
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT version_num FROM alembic_version").fetchall() == [(schema,)]
        assert db.execute("SELECT status, count(*) FROM trials GROUP BY 1").fetchall() == [("FINISHED", 2)]
        roles = dict(db.execute("SELECT role, count(*) FROM episodes GROUP BY 1").fetchall())
    assert roles.keys() == {"train", "validation"}


@pytest.mark.parametrize("schema", REVISIONS)
def test_an_upgraded_database_has_its_old_rows_and_keeps_every_rule(schema: str, tmp_path: Path) -> None:
    path = thaw(schema, tmp_path)
    before = read_tables(path)
    assert upgrade_database(path) == (None if schema == HEAD else schema)
    assert read_tables(path, before) == before
    assert broken(path) == []
    assert upgrade_database(path) is None


@pytest.mark.parametrize("schema", OLDER)
def test_trials_of_before_there_were_seeds_are_points_of_their_own(schema: str, tmp_path: Path) -> None:
    path = thaw(schema, tmp_path)
    upgrade_database(path)
    with closing(sqlite3.connect(path)) as db:
        found = db.execute("SELECT trial_no, point_no, seed_no, phase FROM trials ORDER BY 1").fetchall()
    assert found == [(0, 0, 0, "search"), (1, 1, 0, "search")]


@pytest.mark.parametrize("schema", REVISIONS)
def test_an_upgraded_database_is_made_like_a_new_one(schema: str, tmp_path: Path) -> None:
    path = thaw(schema, tmp_path)
    upgrade_database(path)
    Writer(tmp_path / "new.db").close()
    assert read_schema(path) == read_schema(tmp_path / "new.db")


def read_schema(path: Path) -> dict[str, Any]:
    """Columns of tables and views, indexes, and the text of views."""
    with closing(sqlite3.connect(path)) as db:
        made = db.execute("SELECT name, type, sql FROM sqlite_master WHERE sql IS NOT NULL").fetchall()
        return {
            name: sql.split() if kind != "table" else db.execute(f"PRAGMA table_xinfo({name})").fetchall()
            for name, kind, sql in made
        }


@pytest.mark.parametrize("schema", REVISIONS)
def test_an_upgraded_database_takes_another_sweep(schema: str, tmp_path: Path, world_type: Any) -> None:
    path = thaw(schema, tmp_path)
    before = read_tables(path)
    upgrade_database(path)
    with Writer(path) as writer:
        writer.open_sweep(world_type.new_sweep())
        trial_id = writer.open_trial(world_type.sweep_id, 0, '{"lr": 0.1}', 7, "hash")
        run = world_type.TrialRun(writer, trial_id)
        run.train(7, 9)
        run.evaluate()
        writer.close_trial(trial_id, TrialStatus.FINISHED)
        writer.close_sweep(world_type.sweep_id, SweepStatus.FINISHED)
    assert broken(path) == []
    after = read_tables(path, before)
    assert all(rows <= after[name][1] for name, (_, rows) in before.items())
    assert len(after["steps"][1]) == len(before["steps"][1]) + 4 * 16 + 40


@pytest.mark.parametrize("schema", OLDER)
@pytest.mark.parametrize("opener", [Writer, open_store])
def test_an_older_database_must_be_upgraded_first_and_is_left_alone(schema: str, tmp_path: Path, opener: Any) -> None:
    path = thaw(schema, tmp_path)
    before = path.read_bytes()
    with pytest.raises(
        SchemaMismatch, match=f"has schema {schema}, this version works with {HEAD}; run `tradesweep db"
    ):
        opener(path)
    assert path.read_bytes() == before
    assert [found.name for found in tmp_path.iterdir()] == ["tradesweep.db"]


@pytest.mark.parametrize("schema", OLDER)
def test_an_older_database_can_be_backed_up_before_it_is_upgraded(schema: str, tmp_path: Path) -> None:
    path = thaw(schema, tmp_path)
    back_up(path, tmp_path / "before.db")
    assert read_tables(tmp_path / "before.db") == read_tables(path)
    assert upgrade_database(tmp_path / "before.db") == schema
