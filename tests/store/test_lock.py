"""One writing process per database."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tradesweep.errors import StoreError, StoreLocked
from tradesweep.store import Writer, open_store
from tradesweep.store.lock import FileLock, describe_holder
from tradesweep.store.sqlite import SqliteDatabase

HOLD = """
import sys, time
from tradesweep.store import Writer
writer = Writer(sys.argv[1])
print("held", flush=True)
time.sleep(60)
"""


def start_holder(path: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_writer_is_told_who_holds_the_database(tmp_path: Path) -> None:
    holder = start_holder(tmp_path / "a.db")
    try:
        with pytest.raises(StoreLocked, match=f"in use by process {holder.pid} on .* since 20"):
            Writer(tmp_path / "a.db")
        assert open_store(tmp_path / "a.db").list_sweeps() == []
    finally:
        holder.kill()
        holder.wait()


def test_the_lock_of_a_killed_writer_is_free(tmp_path: Path) -> None:
    holder = start_holder(tmp_path / "a.db")
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    Writer(tmp_path / "a.db").close()


def test_one_process_cannot_open_two_writers(tmp_path: Path) -> None:
    with Writer(tmp_path / "a.db"), pytest.raises(StoreLocked, match=f"in use by process {os.getpid()} on"):
        Writer(tmp_path / "a.db")
    Writer(tmp_path / "a.db").close()


def test_a_writer_that_cannot_open_gives_its_lock_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(SqliteDatabase, "create", lambda self: (_ for _ in ()).throw(StoreError("no")))
        with pytest.raises(StoreError):
            Writer(tmp_path / "a.db")
    Writer(tmp_path / "a.db").close()


def test_the_lock_file_names_its_holder(tmp_path: Path) -> None:
    lock = FileLock(tmp_path / "a.lock")
    holder = json.loads((tmp_path / "a.lock").read_text())
    assert holder["pid"] == os.getpid()
    assert holder["since"] <= time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime())
    lock.release()
    lock.release()


@pytest.mark.parametrize("text", ["", "nonsense", "[]", "{}"])
def test_a_lock_file_without_a_name_still_describes_somebody(text: str) -> None:
    assert describe_holder(text) == "another process"
