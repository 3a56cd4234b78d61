"""The first signal asks, the second leaves; trials end with their next result, as long as that may take."""

from __future__ import annotations

import logging
import os
import pty
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from tradesweep.sweep.signals import DRAIN_TRIALS_S, Drain, Interruption, catch_signals


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_the_first_signal_is_remembered_and_the_old_handler_comes_back(number: signal.Signals, code: int) -> None:
    before = signal.getsignal(number)
    interruption = Interruption()
    with catch_signals(interruption):
        assert interruption.exit_code == 0
        os.kill(os.getpid(), number)
        assert interruption.signal == number
    assert interruption.exit_code == code
    assert signal.getsignal(number) == before


LEAVE = """
import os, signal, time
from tradesweep.sweep.signals import SAME_S, Interruption, catch_signals
with catch_signals(Interruption()):
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep({pause} * SAME_S)
    os.kill(os.getpid(), signal.SIGTERM)
    print("still here")
"""


@pytest.mark.parametrize(("pause", "code", "said"), [(1.5, 143, ""), (0.0, 0, "still here\n")])
def test_the_second_signal_leaves_at_once_unless_it_is_the_first_one_twice(pause: float, code: int, said: str) -> None:
    words = [sys.executable, "-c", LEAVE.format(pause=pause)]
    done = subprocess.run(words, timeout=30, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (code, said)
    assert done.stderr.count("stopping") == 1, "the first is answered, so that nobody thinks it was lost"


def test_outside_the_main_thread_nothing_is_caught() -> None:
    seen = []

    def work() -> None:
        with catch_signals(Interruption()):
            seen.append(signal.getsignal(signal.SIGTERM))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]


# --- a terminal that is closed --------------------------------------------------------------------------------


def test_a_hang_up_that_was_ignored_is_ignored_still(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as `nohup` does
    try:
        interruption = Interruption()
        with catch_signals(interruption):
            os.kill(os.getpid(), signal.SIGHUP)
            assert not interruption.is_requested
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


WRITE = """
import os, signal, sys, time
from tradesweep.sweep.signals import SAME_S, Interruption, catch_signals
interruption = Interruption()
with catch_signals(interruption):
    print("runs", flush=True)
    sys.stdin.read()
    if not {before}:
        os.kill(os.getpid(), signal.SIGHUP)
    while not interruption.is_requested:
        time.sleep(0.01)
    if {before}:
        print("to nobody", file=sys.stderr, flush=True)
print("to nobody", flush=True)
if {twice}:
    time.sleep(1.5 * SAME_S)
    with catch_signals(interruption):
        os.kill(os.getpid(), signal.SIGHUP)
open({path!r}, "w").write("done")
sys.exit(interruption.exit_code)
"""


@pytest.fixture
def write(tmp_path: Any) -> Callable[..., tuple[int, bool]]:
    """Run it, let who reads its output go away, and hang up; its exit code, and whether it came to its end."""

    def run(output: int, reader: int, *, before: bool, twice: bool = False) -> tuple[int, bool]:
        path = tmp_path / "done"
        words = [sys.executable, "-c", WRITE.format(before=before, twice=twice, path=str(path))]
        process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=output, stderr=output)
        os.close(output)
        with open(reader, "rb", buffering=0) as lines:
            assert lines.readline().strip() == b"runs"
        assert process.stdin is not None
        process.stdin.close()
        if before:
            process.send_signal(signal.SIGHUP)
        return process.wait(30), path.exists()

    return run


@pytest.mark.parametrize("before", [True, False])
def test_after_a_hang_up_what_is_written_to_nobody_is_no_error(write: Any, before: bool) -> None:
    reader, terminal = pty.openpty()
    assert write(terminal, reader, before=before) == (129, True)
    reader, pipe = os.pipe()
    assert write(pipe, reader, before=before) == (129, True)


def test_a_second_hang_up_leaves_at_once(write: Any) -> None:
    reader, terminal = pty.openpty()
    assert write(terminal, reader, before=True, twice=True) == (129, False)


# --- how it ends ----------------------------------------------------------------------------------------------


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that the test sets."""
    now = [100.0]
    monkeypatch.setattr("tradesweep.sweep.signals.time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


def test_trials_that_train_may_come_to_their_next_result_and_no_longer(clock: list[float], caplog: Any) -> None:
    caplog.set_level(logging.INFO, "tradesweep")
    interruption = Interruption()
    drain = Drain(interruption)
    drain.training.add("a")
    assert (drain.is_due(), drain.is_over()) == (False, False)
    interruption.request(signal.SIGTERM)
    assert (drain.is_due(), drain.is_over()) == (True, False)
    clock[0] += DRAIN_TRIALS_S - 0.1
    assert not drain.is_over()
    clock[0] += 0.2
    assert drain.is_over()
    assert drain.is_over()
    asked, given_up = caplog.messages
    assert asked.startswith("stopping (SIGTERM): trials that train: 1")
    assert "stopped where they are" in given_up


def test_where_nothing_trains_nothing_is_waited_for(clock: list[float]) -> None:
    interruption = Interruption()
    drain = Drain(interruption)
    drain.training.add("a")
    interruption.request(signal.SIGINT)
    assert not drain.is_over()
    drain.training.discard("a")
    assert drain.is_over()


def test_without_room_for_more_rows_no_result_is_waited_for(clock: list[float]) -> None:
    interruption = Interruption()
    drain = Drain(interruption)
    drain.training.add("a")
    interruption.stop("the disk is full")
    assert drain.is_over()


def test_a_wall_time_that_is_spent_ends_trials_as_a_signal_does_and_is_remembered(clock: list[float]) -> None:
    endless, spent = Drain(Interruption()), Drain(Interruption(), 10.0)
    for drain in (endless, spent):
        drain.training.add("a")
    clock[0] += 10.1
    assert (endless.is_due(), endless.out_of_time) == (False, False)
    assert (spent.is_due(), spent.is_over(), spent.out_of_time) == (True, False, True)
    spent.training.clear()
    assert spent.is_over()
