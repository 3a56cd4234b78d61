"""Ctrl-C and SIGTERM: the first drains and saves, the second leaves at once. A sweep may ask itself for the first."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}


class Interruption:
    """Whether the sweep was asked to stop, by which signal or for what reason of its own."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self.reason: str | None = None

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
        """First call: remember. Second call: leave; the store stays consistent, its transactions are atomic."""
        if self.signal is not None:
            os._exit(EXIT_CODES[signal.Signals(number)])
        self.signal = signal.Signals(number)


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
