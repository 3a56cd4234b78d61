"""`tradesweep db`: upgrade, backup, prune, reset."""

from __future__ import annotations

import gzip
import sqlite3
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tradesweep.home import DB_URL
from tradesweep.store import Writer, database_exists
from tradesweep.store.migrations import HEAD

FROZEN = Path(__file__).parents[1] / "store" / "frozen"


def write_older_database(path: Path) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(gzip.decompress((FROZEN / "schema_0001.db.gz").read_bytes()))
    return path


def count(database: object, table: str) -> int:
    with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as db:
        return int(db.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


# --- upgrade --------------------------------------------------------------------------------------------------


def test_an_older_database_is_upgraded(command: Any, home: Any) -> None:
    write_older_database(home.path / "tradesweep.db")
    said = command("db", "upgrade")
    assert (said.code, said.out) == (0, f"{home.database}: upgraded from schema 0001\n")
    assert command("verify", "--json").json["rules"]


@pytest.mark.parametrize(
    "words",
    [
        ("status",),
        ("status", "frozen"),
        ("verify",),
        ("sweep", "small"),
        ("promote", "frozen"),
        ("logs", "frozen"),
        ("export", "frozen", "--parquet", "OUT"),
        ("db", "prune", "frozen"),
        ("db", "prune", "frozen", "--yes"),
    ],
    ids=" ".join,
)
def test_every_other_command_says_that_an_older_database_must_be_upgraded(
    command: Any, home: Any, tmp_path: Path, words: tuple[str, ...]
) -> None:
    path = write_older_database(home.path / "tradesweep.db")
    before = path.read_bytes()
    said = command(*(word.replace("OUT", str(tmp_path / "out")) for word in words))
    assert said.code == 1
    assert said.err == (
        f"{path}: the database has schema 0001, this version works with {HEAD}; run `tradesweep db upgrade`\n"
    )
    assert path.read_bytes() == before
    assert not (tmp_path / "out").exists()


def test_a_database_of_this_version_is_up_to_date(command: Any, swept: Any) -> None:
    assert command("db", "upgrade").out.endswith("up to date\n")
    assert command("db", "upgrade", "--json").json["upgraded_from"] is None


def test_a_foreign_database_is_left_alone(command: Any, home: Any) -> None:
    home.path.mkdir()
    with sqlite3.connect(str(home.database)) as db:
        db.execute("CREATE TABLE mine (x)")
    for words in (("reset", "--yes"), ("upgrade",), ("backup",), ("prune", "small")):
        said = command("db", *words)
        assert said.code == 1
        assert "was not made by tradesweep" in said.err
    assert database_exists(home.database)
    assert [path.name for path in home.path.iterdir()] == ["tradesweep.db"]


# --- backup ---------------------------------------------------------------------------------------------------


def test_a_backup_is_named_by_its_time_and_says_how_to_restore_it(command: Any, swept: Any) -> None:
    said = command("db", "backup")
    assert said.code == 0
    (copy,) = (swept.home.path / "backups").glob("tradesweep-*Z.db")
    first, second = said.out.splitlines()
    assert first.startswith(f"{copy}: ")
    assert first.endswith("B, checked")
    restore = second.removeprefix("to restore it, while no sweep runs: ")
    before = count(swept.home.database, "steps")
    assert command("db", "reset", "--yes").code == 0
    assert copy.exists(), "a reset keeps backups"
    subprocess.run(restore, shell=True, check=True)
    assert count(swept.home.database, "steps") == before > 0
    assert command("status", "--json").json["sweeps"][0]["sweep_id"] == swept.sweep_id


def test_a_backup_may_be_named_and_is_not_overwritten_unasked(command: Any, swept: Any, tmp_path: Path) -> None:
    target = tmp_path / "copy.db"
    told = command("db", "backup", str(target), "--json").json
    assert (told["backup"], told["bytes"]) == (str(target), target.stat().st_size)
    said = command("db", "backup", str(target))
    assert said.code == 2
    assert "give --force" in said.err
    assert command("db", "backup", str(target), "--force").code == 0


def test_a_backup_is_made_while_a_sweep_writes(command: Any, swept: Any, tmp_path: Path) -> None:
    with swept.writer():
        assert command("db", "backup", str(tmp_path / "copy.db")).code == 0
    assert count(tmp_path / "copy.db", "steps") == count(swept.home.database, "steps")


def test_before_the_first_sweep_there_is_nothing_to_back_up_and_nothing_is_made(command: Any, home: Any) -> None:
    said = command("db", "backup")
    assert said.code == 1
    assert "there is no database; run a sweep first" in said.err
    assert not home.path.exists()


# --- prune ----------------------------------------------------------------------------------------------------


@pytest.fixture
def trained(swept: Any) -> Any:
    """With steps of training in the sweep."""
    assert any(row.steps for row in open_rows(swept))
    return swept


def open_rows(world: Any) -> list[Any]:
    from tradesweep.store import list_prunable

    return list_prunable(world.store, world.store.list_sweeps())


def test_a_dry_run_says_what_would_be_freed_and_deletes_nothing(command: Any, trained: Any) -> None:
    (row,) = open_rows(trained)
    before = count(trained.home.database, "steps")
    said = command("db", "prune", "small", "--dry-run")
    assert said.code == 0
    header, line, kept = said.out.splitlines()
    assert header.split() == ["sweep", "steps", "fills", "frees"]
    assert line.split()[:3] == [trained.sweep_id, f"{row.steps:,}", f"{row.fills:,}"]
    assert kept.startswith("kept: episode totals, trades, evaluations")
    assert count(trained.home.database, "steps") == before
    told = command("db", "prune", "small", "--dry-run", "--json").json
    assert (told["sweeps"][0]["steps"], told["pruned"]) == (row.steps, None)


def test_prune_asks_where_somebody_can_answer_and_refuses_elsewhere(
    command: Any, trained: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = count(trained.home.database, "steps")
    said = command("db", "prune", "small")
    assert said.code == 2
    assert "db prune must be confirmed with --yes where nobody can be asked" in said.err
    monkeypatch.setattr("tradesweep.cli.db.is_interactive", lambda: True)
    assert command("db", "prune", "small", answer="n\n").code == 130
    assert count(trained.home.database, "steps") == before
    said = command("db", "prune", "small", answer="y\n")
    assert said.code == 0
    assert count(trained.home.database, "steps") < before


def test_prune_deletes_and_every_rule_holds(command: Any, trained: Any) -> None:
    (row,) = open_rows(trained)
    told = command("db", "prune", "--older-than", "0", "--yes", "--json").json
    assert told["pruned"]["steps"] == row.steps > 0
    assert command("verify").code == 0
    assert command("db", "prune", trained.sweep_id).out.startswith("there are no training steps to delete")


@pytest.mark.parametrize(
    ("words", "code", "hint"),
    [
        ((), 2, "must be given sweeps, or --older-than DAYS"),
        (("nosuch",), 2, "there is no sweep or experiment 'nosuch'"),
        (("../x",), 2, "must be letters, digits"),
        (("--older-than", "-1"), 2, "greater than or equal to 0"),
        (("small", "--older-than", "x"), 2, "valid number"),
    ],
)
def test_prune_must_be_told_what(command: Any, trained: Any, words: tuple[str, ...], code: int, hint: str) -> None:
    before = count(trained.home.database, "steps")
    said = command("db", "prune", *words, "--yes")
    assert said.code == code
    assert hint in said.err
    assert count(trained.home.database, "steps") == before


def test_a_running_sweep_is_never_pruned(command: Any, world: Any) -> None:
    with world.writer() as writer:
        world.open_sweep(writer)
    said = command("db", "prune", "small", "--yes")
    assert said.code == 3
    assert "must have ended to be pruned, is RUNNING" in said.err
    assert command("db", "prune", "--older-than", "0", "--yes").code == 0


# --- reset ----------------------------------------------------------------------------------------------------


def test_reset_asks_where_somebody_can_answer_and_refuses_elsewhere(
    command: Any, swept: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert command("db", "reset").code == 2
    monkeypatch.setattr("tradesweep.cli.db.is_interactive", lambda: True)
    assert command("db", "reset", answer="n\n").code == 130
    assert database_exists(swept.home.database)
    assert command("db", "reset", answer="y\n").code == 0
    assert not database_exists(swept.home.database)


def test_reset_deletes_results_and_nothing_else(command: Any, swept: Any) -> None:
    (swept.home.path / "mine.txt").write_text("keep me")
    told = command("db", "reset", "--yes", "--json").json
    assert {"tradesweep.db", "mlflow.db", "sweeps"} <= set(told["deleted"])
    assert [path.name for path in swept.home.path.iterdir()] == ["mine.txt"]
    assert command("db", "reset", "--yes").code == 0


def test_reset_waits_for_nobody(command: Any, swept: Any) -> None:
    with swept.writer():
        said = command("db", "reset", "--yes")
    assert said.code == 1
    assert "in use by process" in said.err
    assert database_exists(swept.home.database)


def test_reset_says_which_database_it_empties_and_deletes_that_one(
    command: Any, swept: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere.db"
    Writer(elsewhere).close()
    monkeypatch.setenv(DB_URL, f"sqlite:///{elsewhere}")
    monkeypatch.setattr("tradesweep.cli.db.is_interactive", lambda: True)
    said = command("db", "reset", answer="n\n")
    assert f"Delete all results in {swept.home.path} and all of sqlite://" in said.out
    assert str(elsewhere) in said.out
    told = command("db", "reset", "--yes", "--json").json
    assert any(str(elsewhere) in name for name in told["deleted"])
    assert not elsewhere.exists()
    assert database_exists(swept.home.database), "the one in the folder was not named"
