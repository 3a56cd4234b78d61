"""Databases that cannot be used: one line with the remedy, and nothing half-created."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tradesweep.errors import SchemaMismatch, StoreError
from tradesweep.names import Answer
from tradesweep.store import Writer, open_store, upgrade_database, verify
from tradesweep.store.database import find_database
from tradesweep.store.migrations import HEAD
from tradesweep.store.sqlite import APPLICATION_ID, SqliteDatabase


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def foreign_file(path: Path) -> Path:
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("CREATE TABLE somebody_elses (x)")
    return path


def newer_file(path: Path) -> Path:
    SqliteDatabase(path).create()
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE alembic_version SET version_num = '9999'")
    return path


def text_file(path: Path) -> Path:
    path.write_text("time,open,high,low,close\n" * 100)
    return path


def cut_file(path: Path) -> Path:
    SqliteDatabase(path).create()
    path.write_bytes(path.read_bytes()[:1000])
    return path


UNUSABLE: list[tuple[Any, type[StoreError], str]] = [
    (foreign_file, SchemaMismatch, "not made by tradesweep and was left alone; move it away, or set TRADESWEEP_HOME"),
    (newer_file, SchemaMismatch, "has schema 9999, the newest that this version knows is 0003; .* install that one"),
    (text_file, StoreError, "not an SQLite database; move it away"),
    (lambda path: (path.touch(), path)[1], StoreError, "not an SQLite database; move it away"),
    (cut_file, StoreError, "damaged; restore a backup"),
]


@pytest.mark.parametrize(("make", "error", "message"), UNUSABLE)
@pytest.mark.parametrize("opener", [Writer, open_store, lambda path: open_store(path, create=True)])
def test_an_unusable_file_is_refused_in_one_line_and_left_alone(
    tmp_path: Path, make: Any, error: type[StoreError], message: str, opener: Any
) -> None:
    path = make(tmp_path / "a.db")
    before = path.read_bytes()
    with pytest.raises(error, match=message) as caught:
        opener(path)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(str(path))
    assert path.read_bytes() == before
    assert names_in(tmp_path) == {"a.db"}


@pytest.mark.parametrize("opener", [Writer, lambda path: open_store(path, create=True)])
def test_a_missing_folder_is_named_and_not_created(tmp_path: Path, opener: Any) -> None:
    with pytest.raises(StoreError, match=f"folder of the database does not exist; create {tmp_path}/none"):
        opener(tmp_path / "none" / "a.db")
    assert names_in(tmp_path) == set()


def test_reading_a_database_that_is_not_there_creates_none(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="there is no database; run a sweep first, or set TRADESWEEP_HOME"):
        open_store(tmp_path / "a.db")
    assert names_in(tmp_path) == set()


def test_a_read_only_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    SqliteDatabase(path).create()
    path.chmod(0o400)
    with pytest.raises(StoreError, match="the database is read-only; make it writable with `chmod"):
        Writer(path)
    assert names_in(tmp_path) == {"a.db"}


def test_a_read_only_folder_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(StoreError, match="folder of the database is read-only"):
            Writer(tmp_path / "a.db")
        assert names_in(tmp_path) == set()
    finally:
        tmp_path.chmod(0o700)


def test_another_kind_of_url_is_refused_without_its_secret() -> None:
    with pytest.raises(StoreError, match="must begin with sqlite or postgresql or postgres://, began with") as caught:
        Writer("mysql://user:secret@host/db?password=secret")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("url", ["", "sqlite:///", ":memory:"])
def test_a_url_without_a_file_is_refused(url: str) -> None:
    with pytest.raises(StoreError, match="must name a file"):
        Writer(url)


def test_a_url_and_a_path_name_the_same_file(tmp_path: Path) -> None:
    assert (
        str(find_database(f"sqlite:///{tmp_path}/a.db")) == str(find_database(tmp_path / "a.db")) == f"{tmp_path}/a.db"
    )


def test_a_path_may_hold_spaces_and_signs(tmp_path: Path) -> None:
    path = tmp_path / "a ☃ 100%?#.db"
    Writer(path).close()
    assert open_store(path).list_sweeps() == []


def test_files_are_for_their_owner_alone(world: Any) -> None:
    world.begin()
    files = [path for path in world.path.parent.iterdir() if path.is_file()]
    assert {path.name for path in files} >= {"small.db", "small.db-wal", "small.db.lock"}
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}


def test_a_failed_creation_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(connection: Any) -> None:
        connection.exec_driver_sql("CREATE TABLE half (x)")
        connection.exec_driver_sql("this is no SQL")

    monkeypatch.setattr("tradesweep.store.sqlite.upgrade", refuse)
    with pytest.raises(StoreError, match="the database refused"):
        Writer(tmp_path / "a.db")
    assert names_in(tmp_path) <= {"a.db.lock"}


def test_the_leftover_of_a_killed_creation_is_cleared_away(tmp_path: Path) -> None:
    (tmp_path / "a.db.creating").write_bytes(b"half")
    Writer(tmp_path / "a.db").close()
    assert names_in(tmp_path) == {"a.db", "a.db.lock"}


def test_a_database_says_whose_it_is(tmp_path: Path) -> None:
    SqliteDatabase(tmp_path / "a.db").create()
    with closing(sqlite3.connect(tmp_path / "a.db")) as db:
        assert db.execute("PRAGMA application_id").fetchone() == (APPLICATION_ID,)
        assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert db.execute("SELECT version_num FROM alembic_version").fetchall() == [(HEAD,)]


def test_the_newest_schema_needs_no_upgrade(tmp_path: Path) -> None:
    SqliteDatabase(tmp_path / "a.db").create()
    assert upgrade_database(tmp_path / "a.db") is None


def test_the_writing_connection_is_durable_and_checks_keys(tmp_path: Path) -> None:
    SqliteDatabase(tmp_path / "a.db").create()
    engine = SqliteDatabase(tmp_path / "a.db").write_engine()
    with engine.connect() as db:
        pragmas = [db.exec_driver_sql(f"PRAGMA {name}").scalar() for name in ("synchronous", "foreign_keys")]
    engine.dispose()
    assert pragmas == [2, 1]


def test_a_reading_connection_cannot_write(tmp_path: Path) -> None:
    SqliteDatabase(tmp_path / "a.db").create()
    with SqliteDatabase(tmp_path / "a.db").read_engine().connect() as db, pytest.raises(Exception, match="readonly"):
        db.exec_driver_sql("DELETE FROM outbox")


def test_a_reader_sees_one_state_while_the_writer_goes_on(world: Any) -> None:
    with world.store.connect() as db:
        assert db.exec_driver_sql("SELECT count(*) FROM trials").scalar() == 0
        world.open_trial(0)
        assert db.exec_driver_sql("SELECT count(*) FROM trials").scalar() == 0
    assert len(world.store.list_trials(world.sweep_id)) == 1


def test_a_full_disk_is_named_and_what_was_written_stays(world: Any) -> None:
    run = world.begin()
    run.train(5)
    with world.writer._engine.connect() as db:
        pages = db.exec_driver_sql("PRAGMA page_count").scalar()
        db.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
    runner = run.runners[0]

    tried: list[Any] = []

    def fill_disk() -> None:
        while True:
            episode = world.Episode(next(runner.numbers), [0.0, 1.0] * 25)
            tried.append(runner.batch(episode.between(0, 50)))
            world.writer.apply(tried[-1])

    with pytest.raises(StoreError, match="the disk is full; free some space and run the same command again"):
        fill_disk()
    with world.writer._engine.connect() as db:
        db.exec_driver_sql("PRAGMA max_page_count = 1000000")
    assert world.writer.apply(tried[-1]) == Answer.OK
    assert [result.rule for result in verify(world.store) if not result.passed] == []


def test_importing_the_store_needs_neither_ray_nor_torch_nor_scipy_nor_alembic() -> None:
    code = (
        "import sys, tradesweep.store;"
        "print(sorted({'ray', 'torch', 'scipy', 'alembic', 'pandas', 'mlflow'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=dict(os.environ)
    )
    assert done.stdout.strip() == "[]"
