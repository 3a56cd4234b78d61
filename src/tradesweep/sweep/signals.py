"""Ctrl-C, SIGTERM, a terminal that is closed: the first drains and saves, the second leaves at once.

A sweep may ask itself for the first.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NoReturn

EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}
DRAIN_TRIALS_S = 60.0
"""How long trials may take to their next result before they are stopped where they are.

Closing takes up to 20 s more, and what stops services kills them 90 s after it asked (systemd's default).
"""
SAME_S = 0.5
"""Two signals within so long are one: a terminal and the command that started this one hand on the same Ctrl-C."""
STDOUT, STDERR = 1, 2
STOPPING = (
    f"\nstopping: each trial ends after the evaluation under way, within {DRAIN_TRIALS_S:g} s;"
    " once more leaves at once\n"
).encode()
SHOW_CURSOR = b"\033[?25h"
"""A table that is drawn anew hides it."""

logger = logging.getLogger(__name__)


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
        """130 after Ctrl-C, 143 after SIGTERM, 129 after a hang-up, 0 when nobody asked."""
        return EXIT_CODES[self.signal] if self.signal is not None else 0

    def stop(self, reason: str) -> None:
        """The sweep cannot go on, and says why."""
        self.reason = reason

    def request(self, number: int) -> None:
        """First call: remember, and say so. Second call: leave; the store's transactions are atomic."""
        if number == signal.SIGHUP:
            silence_what_is_gone()
        if self.signal is None:
            self.signal, self._first_s = signal.Signals(number), time.monotonic()
            _say(STOPPING)
        elif time.monotonic() - self._first_s > SAME_S:
            leave(EXIT_CODES[signal.Signals(number)], "left at once; the same command goes on")


class Drain:
    """How a sweep that shall stop ends: each trial with the result it is training for, so that none of it is lost.

    It shall when somebody asked, or when the wall time of this run is spent. Nothing is waited for where no trial
    trains, when that takes too long, and when the sweep cannot go on: then there is no room for more rows.
    """

    def __init__(self, interruption: Interruption, wall_time_s: float | None = None) -> None:
        self._interruption = interruption
        self._wall_until_s = float("inf") if wall_time_s is None else time.monotonic() + wall_time_s
        self._until_s: float | None = None
        self._said_over = False
        self.out_of_time = False
        """The wall time is spent."""
        self.training: set[str] = set()
        """Trials that train now, by Tune's ids."""

    def is_due(self) -> bool:
        """Shall trials end, and none begin."""
        self.out_of_time = self.out_of_time or time.monotonic() > self._wall_until_s
        if self._until_s is None and (self.out_of_time or self._interruption.is_requested):
            self._until_s = time.monotonic() + DRAIN_TRIALS_S
            logger.info("stopping (%s): %s, each ends with its next evaluation", self._why(), self._count())
        return self._until_s is not None

    def is_over(self) -> bool:
        """Shall everything stop where it is."""
        if not self.is_due():
            return False
        if not self.training:
            return True
        assert self._until_s is not None
        over = self._interruption.reason is not None or time.monotonic() > self._until_s
        if over and not self._said_over:
            self._said_over = True
            logger.warning("%s, stopped where they are; they go on from their last checkpoint", self._count())
        return over

    def _count(self) -> str:
        return f"trials that train: {len(self.training)}"

    def _why(self) -> str:
        asked = self._interruption
        return asked.signal.name if asked.signal is not None else asked.reason or "budget.wall_time_s is spent"


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


def silence_what_is_gone() -> None:
    """Let what is written to a terminal that was closed, or to a pipe that nobody reads, go nowhere: it would raise."""
    for descriptor in (STDOUT, STDERR):
        if _is_gone(descriptor):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, descriptor)
            os.close(nowhere)


def _is_gone(descriptor: int) -> bool:
    asked = select.poll()
    asked.register(descriptor, 0)
    return bool(asked.poll(0))


@contextmanager
def catch_signals(interruption: Interruption) -> Iterator[None]:
    """Hand SIGINT, SIGTERM and SIGHUP to `interruption`; whoever had a hang-up ignored (`nohup`) has it ignored still.

    Does nothing outside the main thread, where Python forbids it.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: FrameType | None) -> None:
        del frame
        interruption.request(number)

    ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    before: dict[signal.Signals, Callable[..., object] | int | None] = {
        number: signal.signal(number, handle) for number in EXIT_CODES if number != signal.SIGHUP or not ignored
    }
    try:
        yield
    finally:
        if interruption.signal == signal.SIGHUP:
            silence_what_is_gone()  # some terminals send it before they close
        for number, handler in before.items():
            signal.signal(number, handler)
