"""Disks and limits that run out, under real commands: one line with the remedy, and nothing half-made or lost."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from tests.faults.invariants import SqliteDatabase, check_invariants, check_rules
from tests.faults.sweeps import finish, query, running, wait_until

pytestmark = [pytest.mark.fault, pytest.mark.slow, pytest.mark.timeout(900)]

FROZEN = Path(__file__).parents[1] / "store" / "frozen"
LONGER = ("--set", "budget.env_steps_per_trial=16000")


class Disk:
    """A small disk of its own, in memory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ballast = folder / "ballast"

    def resize(self, size: str) -> None:
        subprocess.run(["mount", "-o", f"remount,size={size}", self.folder], check=True)

    def fill(self, *, leave: int) -> None:
        """Take what is free, but for so many bytes."""
        while (free := shutil.disk_usage(self.folder).free) > leave:
            # A sweep that writes meanwhile takes of the same room: what was free is then no longer there.
            with suppress(OSError), self.ballast.open("ab") as file:
                os.posix_fallocate(file.fileno(), file.tell(), free - leave)

    def empty(self) -> None:
        self.ballast.unlink()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=200m", "tmpfs", folder], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip(f"a small disk needs the right to mount: {done.stderr.decode().strip()}")
    yield Disk(folder)
    subprocess.run(["umount", "--lazy", folder], check=True)


def thaw(path: Path, schema: str = "0003") -> Path:
    path.write_bytes(gzip.decompress((FROZEN / f"schema_{schema}.db.gz").read_bytes()))
    path.chmod(0o600)
    return path


@pytest.fixture
def kept(make_workplace: Any) -> Any:
    """A workplace with a finished sweep of earlier code."""
    workplace = make_workplace()
    workplace.home.mkdir()
    thaw(workplace.database)
    return workplace


def check_one_line(said: str, *words: str) -> None:
    """The last of what was printed is one line with these words, and nothing in it is a traceback."""
    assert "Traceback" not in said
    last = said.strip().splitlines()[-1]
    for word in words:
        assert word in last, said


def counted(database: Path) -> int:
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as db:
        return int(db.execute("SELECT coalesce(sum(steps_recorded), 0) FROM producers").fetchone()[0])


def fatten(database: Path, size: int) -> None:
    """Let the rows of earlier sweeps fill the database up to so many bytes."""
    with closing(sqlite3.connect(database)) as db, db:
        db.execute(
            "UPDATE trials SET notes = hex(zeroblob(?)) WHERE trial_no = 0", ((size - database.stat().st_size) // 2,)
        )


# --- a sweep --------------------------------------------------------------------------------------------------


@pytest.mark.ray
def test_a_sweep_that_outgrows_its_limit_stops_in_order_and_goes_on_with_a_higher_one(kept: Any) -> None:
    words = ("sweep", "tiny_dqn", "--set", "budget.trials=1 budget.env_steps_per_trial=48000")
    planned = kept.run("plan", *words[1:], "--json")
    limit = json.loads(planned.stdout)["disk_bytes"] + 1_000_000
    fatten(kept.database, limit - 500_000)
    with running(kept, *words, "--set", f"recording.max_gb={limit / 1e9}") as process:
        said = finish(process)
    assert process.returncode == 1, said
    check_one_line(said, "the database has grown to", "recording.max_gb", "tradesweep db prune", "goes on")
    newest = "SELECT status FROM sweeps ORDER BY created_at DESC LIMIT 1"
    assert query(kept.database, newest) == [("INTERRUPTED",)]
    check_invariants(kept.database)
    done = kept.run(*words)
    assert done.returncode == 0, done.stdout + done.stderr
    assert query(kept.database, newest) == [("FINISHED",)]
    check_invariants(kept.database)
    refused = kept.run(*words, "--set", f"recording.max_gb={limit / 1e9} budget.trials=2 recording.steps=evaluation")
    assert refused.returncode == 2
    check_one_line(refused.stderr, "recording.max_gb must be more than", "--set recording.max_gb=")


@pytest.mark.ray
def test_a_disk_that_fills_up_stops_the_sweep_in_order_and_it_goes_on_when_there_is_room(
    make_workplace: Any, disk: Disk
) -> None:
    workplace = make_workplace()
    database = disk.folder / "a.db"
    where = {"TRADESWEEP_DB_URL": f"sqlite:///{database}"}
    with running(workplace, "sweep", "tiny_dqn", *LONGER, **where) as process:
        wait_until(lambda: query(database, "SELECT 1 FROM iterations"))
        disk.fill(leave=50_000_000)
        said = finish(process)
    assert process.returncode == 1, said
    check_one_line(said, "its disk must have 100 MB free", "free some space", "goes on")
    assert query(database, "SELECT status FROM sweeps") == [("INTERRUPTED",)]
    assert {status for (status,) in query(database, "SELECT status FROM trials")} <= {"INTERRUPTED", "FINISHED"}
    check_invariants(database)
    environment = workplace.environment | where
    refused = run(workplace, environment, "sweep", "tiny_dqn", *LONGER)
    assert refused.returncode == 1
    check_one_line(refused.stderr, "its disk must have 100 MB free", "nothing was started")
    disk.empty()
    done = run(workplace, environment, "sweep", "tiny_dqn", *LONGER)
    assert done.returncode == 0, done.stdout + done.stderr
    assert query(database, "SELECT status, count(*) FROM trials GROUP BY 1") == [("FINISHED", 3)]
    check_invariants(database)


@pytest.mark.ray
def test_a_disk_that_is_full_at_once_loses_nothing_that_was_acknowledged(make_workplace: Any, disk: Disk) -> None:
    workplace = make_workplace()
    database = disk.folder / "a.db"
    environment = workplace.environment | {"TRADESWEEP_DB_URL": f"sqlite:///{database}"}
    words = ("sweep", "tiny_dqn", *LONGER, "--set", "recording.db_timeout_s=5")
    with running(workplace, *words, TRADESWEEP_DB_URL=environment["TRADESWEEP_DB_URL"]) as process:
        wait_until(lambda: query(database, "SELECT 1 FROM iterations"))
        disk.fill(leave=0)
        before = counted(database)
        said = finish(process, timeout_s=400)
    assert process.returncode == 1, said
    check_one_line(said, "free some space")
    assert counted(database) >= before > 0
    disk.empty()
    done = run(workplace, environment, *words)
    assert done.returncode == 0, done.stdout + done.stderr
    assert counted(database) > before
    check_invariants(database)


def run(workplace: Any, environment: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        workplace.command(*words),
        cwd=workplace.root,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=400,
    )


# --- the other commands ---------------------------------------------------------------------------------------


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("words", [("db", "backup", "{disk}/copy.db"), ("export", "frozen", "--parquet", "{disk}/out")])
def test_a_copy_for_which_there_is_no_room_is_not_half_made(kept: Any, disk: Disk, words: tuple[str, ...]) -> None:
    disk.resize("64k")
    done = kept.run(*(word.format(disk=disk.folder) for word in words))
    assert done.returncode == 1
    assert done.stdout == ""
    check_one_line(done.stderr, str(disk.folder), "free some space")
    assert names_in(disk.folder) == set()
    disk.resize("20m")
    assert kept.run(*(word.format(disk=disk.folder) for word in words)).returncode == 0


def test_an_upgrade_for_which_there_is_no_room_changes_nothing(kept: Any, disk: Disk) -> None:
    database = thaw(disk.folder / "a.db", "0001")
    before = database.read_bytes()
    disk.fill(leave=0)
    environment = kept.environment | {"TRADESWEEP_DB_URL": f"sqlite:///{database}"}
    done = run(kept, environment, "db", "upgrade")
    assert done.returncode == 1
    check_one_line(done.stderr, str(database), "disk", "space")
    assert database.read_bytes() == before
    disk.empty()
    assert run(kept, environment, "db", "upgrade").returncode == 0
    assert run(kept, environment, "status", "frozen").returncode == 0


def test_a_pruning_for_which_there_is_no_room_loses_nothing_and_is_done_later(kept: Any, disk: Disk) -> None:
    database = thaw(disk.folder / "a.db")
    environment = kept.environment | {"TRADESWEEP_DB_URL": f"sqlite:///{database}"}
    disk.fill(leave=300_000)
    done = run(kept, environment, "db", "prune", "frozen", "--yes")
    assert done.returncode == 1
    check_one_line(done.stderr, str(database), "disk", "space")
    check_rules(SqliteDatabase(database))
    disk.empty()
    assert run(kept, environment, "db", "prune", "frozen", "--yes").returncode == 0
    check_rules(SqliteDatabase(database))
    assert query(database, "SELECT sum(steps_recorded - steps_pruned) FROM producers WHERE role = 'runner'") == [(0,)]
