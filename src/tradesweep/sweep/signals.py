"""Ctrl-C and SIGTERM: the first drains and saves, the second leaves at once. A sweep may ask itself for the first."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NoReturn

EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}
SAME_S = 0.5
"""Two signals within so long are one: a terminal and the command that started this one hand on the same Ctrl-C."""
STDERR = 2
STOPPING = b"\nstopping: trials are saved where they stand; once more leaves at once\n"
SHOW_CURSOR = b"\033[?25h"
"""A table that is drawn anew hides it."""


class Interruption:
    """Whether the sweep was asked to stop, by which signal or for what reason of its own."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self.reason: str | None = None
        self._first_s = 0.0

    @property
    def is_requested(self) -> bool:
        """Shall the sweep drain."""
        return self.signal is not None or self.reason is not None

    @property
    def exit_code(self) -> int:
        """130 after Ctrl-C, 143 after SIGTERM, 0 when nobody asked."""
        return EXIT_CODES[self.signal] if self.signal is not None else 0

    def stop(self, reason: str) -> None:
        """The sweep cannot go on, and says why."""
        self.reason = reason

    def request(self, number: int) -> None:
        """First call: remember, and say so. Second call: leave; the store's transactions are atomic."""
        if self.signal is None:
            self.signal, self._first_s = signal.Signals(number), time.monotonic()
            _say(STOPPING)
        elif time.monotonic() - self._first_s > SAME_S:
            leave(EXIT_CODES[signal.Signals(number)], "left at once; the same command goes on")


def leave(code: int, said: str) -> NoReturn:
    """End this process at once, whatever its threads are at; the store's transactions are atomic."""
    if os.isatty(STDERR):
        _say(SHOW_CURSOR)
    _say(f"{said}\n".encode())
    os._exit(code)


def _say(text: bytes) -> None:
    """Past Python's streams, in which the signal may have come; a terminal that was closed hears nothing."""
    with suppress(OSError):
        os.write(STDERR, text)


@contextmanager
def catch_signals(interruption: Interruption) -> Iterator[None]:
    """Hand SIGINT and SIGTERM to `interruption`; does nothing outside the main thread, where Python forbids it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: FrameType | None) -> None:
        del frame
        interruption.request(number)

    before: dict[signal.Signals, Callable[..., object] | int | None] = {
        number: signal.signal(number, handle) for number in EXIT_CODES
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
