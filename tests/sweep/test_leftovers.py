"""What a driver that is gone left behind goes; what lives, or is not Ray's, stays."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tradesweep.sweep.leftovers import Session, find_leftovers, is_abandoned, remove_leftover

LEAVE = "from tradesweep.sweep.leftovers import Session; print(Session().folder)"


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A temporary folder that nobody else uses."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@pytest.fixture
def left() -> Path:
    """The folder of a driver that has ended without removing it."""
    done = subprocess.run([sys.executable, "-c", LEAVE], capture_output=True, text=True, timeout=60, check=True)
    return Path(done.stdout.strip())


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """A process of that title, whose output goes to a file."""
    started: list[subprocess.Popen[bytes]] = []

    def start_one(title: str, log: Path) -> subprocess.Popen[bytes]:
        with log.open("w") as output:
            started.append(subprocess.Popen([title, "120"], executable="/bin/sleep", stdout=output))
        return started[-1]

    yield start_one
    for process in started:
        process.kill()
        process.wait()


def test_the_session_of_a_living_driver_is_left_alone(left: Path) -> None:
    session = Session()
    assert not is_abandoned(session.folder)
    assert [found.folder for found in find_leftovers()] == [left]
    session.remove()
    assert not session.folder.exists()


def test_a_number_that_another_process_has_by_now_does_not_keep_a_session(left: Path) -> None:
    reused = left.rename(left.with_name(f"ts-{os.getpid()}-abc"))
    assert is_abandoned(reused)


def test_a_folder_without_a_lock_is_just_being_made_as_long_as_its_process_lives(temporary: Path) -> None:
    mine, gone = temporary / f"ts-{os.getpid()}-abc", temporary / f"ts-{2**22 + 1}-abc"
    for folder in (mine, gone):
        folder.mkdir()
    assert [found.folder for found in find_leftovers()] == [gone]


def test_rays_processes_of_that_session_end_with_it_and_no_others(left: Path, temporary: Path, start) -> None:
    session = Session()
    worker, agent = start("ray::IDLE", left / "worker.out"), start("ray::DashboardAgent", left / "agent.out")
    others = [
        start("ray::IDLE", session.folder / "worker.out"),
        start("ray::IDLE", temporary / "elsewhere.out"),
        start("tail", left / "a-person-looks-at-it.out"),
    ]
    (found,) = find_leftovers()
    assert {process.pid for process in found.processes} == {worker.pid, agent.pid}
    remove_leftover(found)
    assert not any(psutil.pid_exists(process.pid) for process in (worker, agent))
    assert [process.poll() for process in others] == [None, None, None]
    assert not left.exists()
    assert session.folder.exists()
    session.remove()


def test_folders_of_other_names_are_nobodys_session(temporary: Path) -> None:
    for name in ("ts-abc", "ts-bench-abc", "tsx-1-abc"):
        (temporary / name).mkdir()
    (temporary / f"ts-{2**22 + 1}-file").write_text("")
    assert find_leftovers() == []
