"""The first signal asks, the second leaves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import pytest

from tradesweep.sweep.signals import Interruption, catch_signals


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
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
