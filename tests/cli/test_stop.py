"""A sweep that runs is stopped from another terminal."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tradesweep.names import SweepStatus
from tradesweep.store import Writer

DRIVE = """
import sys, time
from pathlib import Path
from tradesweep.home import Home
from tradesweep.sweep.driver import be_driver
from tradesweep.sweep.signals import Interruption, catch_signals
interruption = Interruption()
with be_driver(Home(Path(sys.argv[1])), "small-1", "small"), catch_signals(interruption):
    print("runs", flush=True)
    while not interruption.is_requested:
        time.sleep(0.01)
    time.sleep(float(sys.argv[2]))
sys.exit(interruption.exit_code)
"""


@pytest.fixture
def drive(home: Any) -> Iterator[Callable[[float], subprocess.Popen[str]]]:
    """A driver that takes so long to save its trials."""
    started: list[subprocess.Popen[str]] = []

    def start(saves_s: float) -> subprocess.Popen[str]:
        words = [sys.executable, "-c", DRIVE, str(home.path), str(saves_s)]
        started.append(subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True))
        assert started[-1].stdout is not None
        assert started[-1].stdout.readline() == "runs\n"
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_where_nothing_runs_that_is_a_plain_answer(command: Any, home: Any) -> None:
    said = command("stop")
    assert (said.code, said.out) == (0, f"nothing runs in {home.path}\n")
    assert command("stop", "--json").json == {"stopped": []}
    assert not home.path.exists(), "asking writes nothing"


def test_a_sweep_that_has_ended_does_not_run_and_an_unknown_one_is_an_error(command: Any, swept: Any) -> None:
    assert (command("stop", "small").code, command("stop", swept.sweep_id).code) == (0, 0)
    assert command("stop", "small").out == "small does not run\n"
    said = command("stop", "nosuch")
    assert (said.code, "nosuch" in said.err) == (2, True)


@pytest.mark.parametrize("name", [(), ("small",), ("small-1",)])
def test_the_driver_is_asked_and_waited_for(command: Any, drive: Any, name: tuple[str, ...]) -> None:
    process = drive(0.2)
    said = command("stop", *name)
    assert said.code == 0
    assert f"small-1: process {process.pid} ends each trial after the evaluation under way" in said.out
    assert process.poll() == 143, "it has ended when the command has"


def test_another_sweep_is_not_stopped(command: Any, world: Any, drive: Any) -> None:
    process = drive(0.0)
    world.write_sweep({0: 1.0}, status=SweepStatus.FINISHED)
    assert command("stop", world.sweep_id).out == f"{world.sweep_id} does not run\n"
    assert process.poll() is None


def test_now_sends_the_second_signal(command: Any, drive: Any) -> None:
    process = drive(120.0)
    told = command("stop", "small", "--now", "--json").json["stopped"]
    assert [(driver["pid"], driver["sweep_id"], driver["end"]) for driver in told] == [(process.pid, "small-1", "left")]
    assert process.poll() == 143


def test_one_that_takes_too_long_is_said_to_run_still(command: Any, drive: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("tradesweep.cli.stop.PATIENCE_S", 0.2)
    monkeypatch.setattr("tradesweep.cli.stop.BEAT_S", 0.05)
    process = drive(120.0)
    said = command("stop", "small")
    assert said.code == 1
    assert "`tradesweep stop small-1 --now`" in said.err
    assert process.poll() is None


def test_a_sweep_of_another_machine_is_refused_by_its_name(command: Any, world: Any) -> None:
    with Writer(world.home.database) as writer:
        world.open_sweep(writer, driver_host="elsewhere", driver_pid=77)
    said = command("stop", "small")
    assert said.code == 3
    assert "process 77 on elsewhere" in said.err


def test_a_sweep_whose_process_is_gone_takes_no_signal_to_whoever_has_its_number(command: Any, world: Any) -> None:
    innocent = subprocess.Popen(["sleep", "60"])
    try:
        with Writer(world.home.database) as writer:
            world.open_sweep(writer, driver_pid=innocent.pid, driver_host=socket.gethostname())
        assert command("stop", "small").out == "small does not run\n"
        assert innocent.poll() is None
    finally:
        innocent.kill()
        innocent.wait()
