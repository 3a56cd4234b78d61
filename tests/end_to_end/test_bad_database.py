"""Whatever is wrong with the database: one line with the remedy, exit code 1, and it is left as it was."""

from __future__ import annotations

import gzip
import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

FROZEN = Path(__file__).parents[1] / "store" / "frozen"
READING = (("status",), ("verify",), ("export", "frozen", "--parquet", "out"), ("db", "backup", "copy.db"))
WRITING = (("sweep", "tiny_dqn"), ("db", "prune", "frozen", "--yes"))
FILES = ("db", "upgrade"), ("db", "reset", "--yes")


def thaw(path: Path, schema: str = "0003") -> None:
    path.write_bytes(gzip.decompress((FROZEN / f"schema_{schema}.db.gz").read_bytes()))
    path.chmod(0o600)


def newer(path: Path) -> None:
    thaw(path)
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE alembic_version SET version_num = '9999'")


def foreign(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("CREATE TABLE mine (x)")


def text(path: Path) -> None:
    path.write_text("time,open,high,low,close\n" * 100)


def truncated(path: Path) -> None:
    thaw(path)
    path.write_bytes(path.read_bytes()[:2000])


BAD = {
    newer: "has schema 9999, the newest that this version knows is 0003; it was made by a newer tradesweep: install",
    foreign: "this SQLite file was not made by tradesweep and was left alone; move it away, or set TRADESWEEP_HOME",
    text: "the file is not an SQLite database; move it away, or set TRADESWEEP_HOME to another folder",
    truncated: "the database is damaged; restore a backup (`tradesweep db backup` makes them)",
}


@pytest.fixture
def workplace(make_workplace: Callable[[], Any]) -> Any:
    made = make_workplace()
    made.home.mkdir()
    return made


def look(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def run_all(workplace: Any, *commands: tuple[str, ...], **environment: str) -> list[subprocess.CompletedProcess[str]]:
    """All of them at once: none may change anything, so none can disturb another."""
    surroundings = workplace.environment | environment
    started = [
        subprocess.Popen(
            workplace.command(*words),
            cwd=workplace.root,
            env=surroundings,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for words in commands
    ]
    ended = [(process, *process.communicate(timeout=120)) for process in started]
    return [subprocess.CompletedProcess(process.args, process.returncode, out, err) for process, out, err in ended]


def check_refused(done: subprocess.CompletedProcess[str], said: str) -> None:
    assert done.returncode == 1, done
    (line,) = done.stderr.splitlines()
    assert said in line, done
    assert "Traceback" not in done.stdout


@pytest.mark.parametrize("make", BAD, ids=lambda make: make.__name__)
def test_a_database_that_cannot_be_used_is_refused_by_every_command_and_left_alone(workplace: Any, make: Any) -> None:
    make(workplace.database)
    before = look(workplace.root)
    for done in run_all(workplace, *READING, *WRITING, *FILES):
        check_refused(done, BAD[make])
        assert str(workplace.database) in done.stderr
    assert look(workplace.root) == before


def test_half_a_database_is_never_taken_for_a_whole_one(workplace: Any) -> None:
    thaw(workplace.database)
    image = workplace.database.read_bytes()
    workplace.database.write_bytes(image[: len(image) // 2 // 4096 * 4096])
    before = workplace.database.read_bytes()
    for done in run_all(workplace, *READING, *WRITING):
        check_refused(done, "the database is damaged; restore a backup")
    assert workplace.database.read_bytes() == before
    assert {path.name for path in workplace.root.iterdir()} == {"experiments.yaml", "runs", "sweeps"}


def test_a_read_only_database_is_read_and_not_written(workplace: Any) -> None:
    thaw(workplace.database)
    workplace.database.chmod(0o400)
    before = workplace.database.read_bytes()
    for done in run_all(workplace, *WRITING):
        check_refused(done, "the database is read-only; make it writable with `chmod u+w`")
    status, _, export, backup = run_all(workplace, *READING)
    assert (status.returncode, export.returncode, backup.returncode) == (0, 0, 0), (status, export, backup)
    assert workplace.database.read_bytes() == before


def test_an_older_read_only_database_is_not_upgraded(workplace: Any) -> None:
    thaw(workplace.database, "0001")
    workplace.database.chmod(0o400)
    before = look(workplace.root)
    (done,) = run_all(workplace, ("db", "upgrade"))
    check_refused(done, "the database is read-only; make it writable with `chmod u+w`")
    assert look(workplace.root) == before


def test_a_read_only_folder_takes_no_sweep_and_no_pruning(workplace: Any) -> None:
    thaw(workplace.database)
    before = look(workplace.root)
    workplace.home.chmod(0o500)
    try:
        for done in run_all(workplace, *WRITING):
            check_refused(done, "the folder of the database is read-only; make it writable with `chmod u+w`")
        assert {path.name for path in workplace.home.iterdir()} <= {
            f"tradesweep.db{end}" for end in ("", "-wal", "-shm")
        }
        assert workplace.database.read_bytes() == before["runs/tradesweep.db"]
    finally:
        workplace.home.chmod(0o700)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("mysql://user:hidden@host/db?password=hidden", "database URL must begin with sqlite"),
        (
            "postgresql://user:hidden@127.0.0.1:1/db?password=hidden",
            "postgresql://127.0.0.1:1/db: no server answers there",
        ),
    ],
)
def test_a_wrong_url_is_refused_without_its_secret(workplace: Any, url: str, said: str) -> None:
    before = look(workplace.root)
    for done in run_all(
        workplace, ("status",), ("db", "backup"), ("db", "prune", "x"), ("db", "upgrade"), TRADESWEEP_DB_URL=url
    ):
        check_refused(done, said)
        assert "hidden" not in done.stdout + done.stderr
    assert look(workplace.root) == before
