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


def test_the_second_signal_leaves_at_once() -> None:
    code = (
        "import os, signal, time\nfrom tradesweep.sweep.signals import Interruption, catch_signals\n"
        "with catch_signals(Interruption()):\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n    os.kill(os.getpid(), signal.SIGINT)\n    time.sleep(60)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=30, check=False).returncode == 130


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
