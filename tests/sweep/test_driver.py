"""A driver is whoever holds the lock, and nobody else, whatever the numbers say."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from tradesweep.errors import BadInput, StoreLocked
from tradesweep.home import Home
from tradesweep.sweep.driver import (
    Driver,
    be_driver,
    find_driver,
    is_held,
    list_drivers,
    lock_of,
    reach,
    send,
    wait_for_end,
)

DRIVE = """
import sys, time
from pathlib import Path
from tradesweep.home import Home
from tradesweep.sweep.driver import be_driver
with be_driver(Home(Path(sys.argv[1])), sys.argv[2], "tiny"):
    print("runs", flush=True)
    time.sleep(120)
"""


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "runs")


@pytest.fixture
def drive(home: Home) -> Iterator[Callable[[str], subprocess.Popen[str]]]:
    """Start a driver of that sweep in a process of its own; it runs when this returns."""
    started: list[subprocess.Popen[str]] = []

    def start(sweep_id: str) -> subprocess.Popen[str]:
        words = [sys.executable, "-c", DRIVE, str(home.path), sweep_id]
        started.append(subprocess.Popen(words, stdout=subprocess.PIPE, text=True))
        assert started[-1].stdout is not None
        assert started[-1].stdout.readline() == "runs\n"
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_a_second_driver_is_refused_by_naming_the_first_and_how_to_stop_it(home: Home, drive) -> None:
    first = drive("tiny-1")
    with (
        pytest.raises(StoreLocked, match=rf"tiny-1 is being run by process {first.pid};.*`tradesweep stop tiny-1`"),
        be_driver(home, "tiny-2", "tiny"),
    ):
        pass


def test_on_a_server_sweeps_run_side_by_side_and_each_once(home: Home, drive) -> None:
    shared = replace(home, db_url="postgresql://nowhere/tradesweep")
    with be_driver(shared, "tiny-1", "tiny"), be_driver(shared, "tiny-2", "tiny"):
        assert {driver.sweep_id for driver in list_drivers(shared)} == {"tiny-1", "tiny-2"}
        with pytest.raises(StoreLocked, match="tiny-1 is being run"), be_driver(shared, "tiny-1", "tiny"):
            pass
    assert list_drivers(shared) == []


def test_the_lock_ends_with_its_process_however_that_ends(home: Home, drive) -> None:
    first = drive("tiny-1")
    assert [driver.pid for driver in list_drivers(home)] == [first.pid]
    first.kill()
    first.wait()
    assert list_drivers(home) == []
    with be_driver(home, "tiny-1", "tiny"):
        assert find_driver(home, "tiny-1") == list_drivers(home)[0]


def test_a_number_that_another_process_has_by_now_is_no_driver_and_takes_no_signal(home: Home) -> None:
    innocent = subprocess.Popen(["sleep", "60"])
    try:
        past = Driver(pid=innocent.pid, host="here", sweep_id="tiny-1", experiment="tiny")
        home.path.mkdir()
        lock_of(home, "tiny-1").write_text(json.dumps(asdict(past)))
        assert find_driver(home, "tiny-1") is None
        with reach(home, past) as process:
            assert process is None
        assert innocent.poll() is None
    finally:
        innocent.kill()
        innocent.wait()


def test_a_driver_that_is_reached_takes_signals_until_it_has_ended(home: Home, drive) -> None:
    process = drive("tiny-1")
    with reach(home, find_driver(home, "tiny-1")) as descriptor:
        assert not wait_for_end(descriptor, 0.0)
        send(descriptor, signal.SIGKILL)
        assert wait_for_end(descriptor, 30.0)
        process.wait()
        send(descriptor, signal.SIGKILL)


def test_a_command_that_wants_to_be_alone_keeps_sweeps_out_and_is_none(home: Home) -> None:
    with be_driver(home, "gc", None):
        assert list_drivers(home) == []
        assert is_held(lock_of(home, "tiny-1"))


def test_a_file_in_the_place_of_the_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("")
    with (
        pytest.raises(BadInput, match=r"runs: results must have a folder.*TRADESWEEP_HOME"),
        be_driver(Home(tmp_path / "runs"), "tiny-1", "tiny"),
    ):
        pass
