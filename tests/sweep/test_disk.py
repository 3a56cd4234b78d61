"""A sweep without room is refused, or stopped in order."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tradesweep.errors import SpecError, StoreError
from tradesweep.store import Writer, find_database
from tradesweep.sweep import disk
from tradesweep.sweep.disk import check_room, find_reason_to_stop, watch_room
from tradesweep.sweep.signals import Interruption


@pytest.fixture
def database(tmp_path: Path) -> Any:
    Writer(tmp_path / "a.db").close()
    return find_database(tmp_path / "a.db")


def test_the_size_is_that_of_the_file_and_its_log(tmp_path: Path) -> None:
    with Writer(tmp_path / "a.db") as writer:
        writer.set_sweep_mlflow_run("none", "x")
        sizes = [(tmp_path / name).stat().st_size for name in ("a.db", "a.db-wal")]
        assert find_database(tmp_path / "a.db").size_bytes() == sum(sizes)
    assert find_database(tmp_path / "none.db").size_bytes() == 0


def test_the_free_room_is_known_before_the_folder_is_there(tmp_path: Path) -> None:
    assert find_database(tmp_path / "runs" / "a.db").free_bytes() > 0


def test_a_database_beyond_the_limit_is_not_added_to(database: Any, load: Any) -> None:
    with pytest.raises(
        SpecError, match=r"recording\.max_gb must be more than the 0\.000\d+ GB that .*a\.db has already"
    ):
        check_room(database, load("recording.max_gb=1e-6"))
    check_room(database, load("recording.max_gb=1"))


def test_a_database_that_is_not_there_yet_has_room(tmp_path: Path, load: Any) -> None:
    check_room(find_database(tmp_path / "runs" / "a.db"), load("recording.max_gb=1e-6"))


def test_a_disk_without_a_reserve_is_not_written_to(database: Any, load: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(database), "free_bytes", lambda self: 99_000_000)
    with pytest.raises(
        StoreError, match=r"its disk must have 100 MB free, has 99 MB; free some space.*nothing was started"
    ):
        check_room(database, load())
    assert "has 99 MB; free some space" in str(find_reason_to_stop(database, load()))


def test_what_is_not_known_stops_nobody(database: Any, load: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Any) -> int:
        raise StoreError("the server is away")

    monkeypatch.setattr(type(database), "free_bytes", lambda self: None)
    assert find_reason_to_stop(database, load()) is None
    monkeypatch.setattr(type(database), "size_bytes", refuse)
    assert find_reason_to_stop(database, load("recording.max_gb=1e-6")) is None


def test_a_database_that_grows_beyond_the_limit_stops_the_sweep(
    database: Any, load: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "PERIOD_S", 0.01)
    size = database.size_bytes()
    spec, interruption = load(f"recording.max_gb={(size + 1000) / 1e9}"), Interruption()
    with watch_room(database, spec, interruption):
        time.sleep(0.1)
        assert not interruption.is_requested
        with database.path.open("ab") as file:
            file.write(bytes(4096))
        wait_for(lambda: interruption.is_requested)
    assert interruption.exit_code == 0
    assert interruption.reason is not None
    for words in (
        str(database),
        "has grown to",
        "recording.max_gb is",
        "--set recording.max_gb=",
        "db prune",
        "goes on",
    ):
        assert words in interruption.reason


def test_the_watch_ends_with_the_sweep(database: Any, load: Any) -> None:
    with watch_room(database, load(), Interruption()):
        assert "disk" in [thread.name for thread in threading.enumerate()]
    assert "disk" not in [thread.name for thread in threading.enumerate()]


def wait_for(true: Any) -> None:
    deadline = time.monotonic() + 10
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)
