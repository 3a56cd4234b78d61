"""Copies of a database."""

from __future__ import annotations

import shutil
import sqlite3
import stat
import subprocess
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tradesweep.errors import BadInput, SchemaMismatch, StoreError
from tradesweep.store import Writer, back_up, find_database, open_store, verify


def rows(path: Path, sql: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
        return db.execute(sql).fetchall()


def dump(path: Path) -> list[str]:
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
        return list(db.iterdump())


def broken(path: Path) -> list[str]:
    return [result.rule for result in verify(open_store(path)) if not result.passed]


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


# --- backup ---------------------------------------------------------------------------------------------------


def test_a_backup_is_the_database_for_its_owner_alone(green: Path, tmp_path: Path) -> None:
    target = tmp_path / "copy.db"
    size = back_up(green, target)
    assert size == target.stat().st_size
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert dump(target) == dump(green)
    assert broken(target) == []


def test_a_backup_holds_what_is_still_in_the_log_of_a_writer(world: Any, tmp_path: Path) -> None:
    world.begin().train(7)
    assert rows(world.path, "SELECT count(*) FROM steps") == [(28,)]
    back_up(world.path, tmp_path / "copy.db")
    world.writer.close()
    assert rows(tmp_path / "copy.db", "SELECT count(*) FROM steps") == [(28,)]


def test_backups_made_while_batches_arrive_hold_whole_batches(world: Any, tmp_path: Path) -> None:
    ended = threading.Event()

    run = world.begin()

    def record() -> None:
        while not ended.is_set():
            run.train(3, 4)

    thread = threading.Thread(target=record)
    thread.start()
    try:
        for number in range(8):
            back_up(world.path, tmp_path / f"{number}.db")
    finally:
        ended.set()
        thread.join()
    said = [rows(tmp_path / f"{number}.db", "SELECT sum(steps_recorded) FROM producers") for number in range(8)]
    assert said == [rows(tmp_path / f"{number}.db", "SELECT count(*) FROM steps") for number in range(8)]
    assert said[7] > said[0]


def test_the_command_that_is_named_restores_a_backup(green: Path, tmp_path: Path) -> None:
    target = tmp_path / "a copy's.db"
    back_up(green, target)
    before = dump(green)
    writer = Writer(green)
    writer.open_sweep(_another_sweep())
    shutil.copy(f"{green}-wal", tmp_path / "log")
    writer.close()
    shutil.copy(tmp_path / "log", f"{green}-wal")
    subprocess.run(find_database(green).describe_restore(target), shell=True, check=True)
    assert dump(green) == before


def _another_sweep() -> Any:
    from tradesweep.store import NewSweep

    texts = ("experiment", "identity", "data_sha256", "instrument", "driver_host")
    empty = dict.fromkeys(("spec_json", "versions_json", "resources_json"), "{}")
    numbers = dict.fromkeys(("seed", "driver_pid", "driver_started_at", "validation_bars"), 1)
    values: dict[str, Any] = dict.fromkeys(texts, "x") | empty | numbers
    return NewSweep(sweep_id="another-1", git_revision=None, buy_hold_sharpe=None, periods_per_year=252.0, **values)


def test_a_file_that_is_there_is_replaced_only_by_force(green: Path, tmp_path: Path) -> None:
    target = tmp_path / "copy.db"
    target.write_text("mine")
    with pytest.raises(BadInput, match="there is such a file already; give --force"):
        back_up(green, target)
    assert target.read_text() == "mine"
    back_up(green, target, force=True)
    assert broken(target) == []
    assert "copy.db.part" not in names_in(tmp_path)


@pytest.mark.parametrize("end", ["", "-wal", ".lock"])
def test_the_database_is_not_replaced_by_its_copy(green: Path, end: str) -> None:
    before = green.read_bytes()
    with pytest.raises(BadInput, match="must be another file than the database"):
        back_up(green, green.with_name(green.name + end), force=True)
    assert green.read_bytes() == before


def test_a_place_that_cannot_hold_a_backup_is_refused(green: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=f"the folder of the backup must exist; create {tmp_path}/none"):
        back_up(green, tmp_path / "none" / "copy.db")
    with pytest.raises(BadInput, match="must be a file, is a folder"):
        back_up(green, tmp_path)
    with pytest.raises(StoreError, match=r"no backup was made \(File name too long\); give another FILE"):
        back_up(green, tmp_path / ("x" * 300))


def test_what_a_killed_backup_left_is_cleared_away(green: Path, tmp_path: Path) -> None:
    (tmp_path / "copy.db.part").write_bytes(b"half")
    back_up(green, tmp_path / "copy.db")
    assert "copy.db.part" not in names_in(tmp_path)


def test_a_damaged_database_gives_no_backup(green: Path, tmp_path: Path) -> None:
    image = bytearray(green.read_bytes())
    (page_size,) = rows(green, "PRAGMA page_size")[0]
    (root,) = rows(green, "SELECT rootpage FROM sqlite_master WHERE name = 'steps'")[0]
    image[(root - 1) * page_size : root * page_size] = b"\xff" * page_size
    green.write_bytes(image)
    before = names_in(tmp_path)
    with pytest.raises(StoreError, match=r"no backup was made: .*damaged"):
        back_up(green, tmp_path / "copy.db")
    assert names_in(tmp_path) - before <= {f"{green.name}-wal", f"{green.name}-shm"}


def test_a_foreign_file_is_not_copied(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "mine.db")) as db, db:
        db.execute("CREATE TABLE mine (x)")
    with pytest.raises(SchemaMismatch, match="not made by tradesweep"):
        back_up(tmp_path / "mine.db", tmp_path / "copy.db")
    assert names_in(tmp_path) == {"mine.db"}
