"""The process that runs a sweep, known by a file that it holds a lock on.

The kernel gives the lock back when its holder ends, however it ends. A number that another process has by now, a clock
that was set, a machine that was started anew: none of them can be taken for a living driver.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from tradesweep.errors import BadInput, StoreLocked
from tradesweep.home import Home
from tradesweep.store import find_database

LOCK = "driver.lock"
PATIENCE_S = 0.5
"""Whoever only looks holds a lock for an instant, and whoever takes it signs it an instant later."""
PAUSE_S = 0.01


@dataclass(frozen=True, kw_only=True, slots=True)
class Driver:
    """A process that runs a sweep now."""

    pid: int
    host: str
    sweep_id: str
    experiment: str | None
    """None: no sweep, but a command that wants to be alone."""


@contextmanager
def be_driver(home: Home, sweep_id: str, experiment: str | None) -> Iterator[None]:
    """Run the sweep as its only driver, and where a database has one writer, as the only one of that database.

    Raises StoreLocked at once, naming the process that does, and BadInput when the folder cannot be written.
    """
    path = lock_of(home, sweep_id)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = hold(path, sweep_id, experiment)
    except OSError as error:
        raise unwritable(home, error) from error
    if descriptor is None:
        raise StoreLocked(describe_busy(home, find_driver(home, sweep_id)))
    try:
        yield
    finally:
        os.close(descriptor)


def unwritable(home: Home, error: OSError) -> BadInput:
    """What to raise where results cannot be kept."""
    return BadInput(
        f"{home.path}: results must have a folder that can be written, cannot ({error.strerror}); set"
        " TRADESWEEP_HOME to another one"
    )


def describe_busy(home: Home, driver: Driver | None) -> str:
    """Who is in the way, and what to do about it."""
    if driver is None:
        return f"{home.database}: another process begins a sweep right now; try again"
    return (
        f"{home.database}: {driver.sweep_id} is being run by process {driver.pid}; wait for it to end, or stop it with"
        f" Ctrl-C or `tradesweep stop {driver.sweep_id}`"
    )


def find_driver(home: Home, sweep_id: str) -> Driver | None:
    """Who runs this sweep, or another one where a database has one writer; None when nobody does."""
    return read_holder(lock_of(home, sweep_id))


def list_drivers(home: Home) -> list[Driver]:
    """All processes of this machine that run sweeps of this database."""
    shared = find_database(home.database).many_writers
    paths = sorted(home.path.glob(f"sweeps/*/{LOCK}")) if shared else [home.path / LOCK]
    found = [read_holder(path) for path in paths]
    return [driver for driver in found if driver is not None and driver.experiment is not None]


def lock_of(home: Home, sweep_id: str) -> Path:
    """The file that its driver locks."""
    shared = find_database(home.database).many_writers
    return (home.sweep(sweep_id) if shared else home.path) / LOCK


# --- the lock -------------------------------------------------------------------------------------------------


def hold(path: Path, sweep_id: str = "", experiment: str | None = None) -> int | None:
    """Lock the file and sign it; its descriptor, to be closed in the end. None while another process holds it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        if not _lock_soon(descriptor):
            os.close(descriptor)
            return None
        signed = Driver(pid=os.getpid(), host=socket.gethostname(), sweep_id=sweep_id, experiment=experiment)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(asdict(signed)).encode(), 0)
    except BaseException:
        with suppress(OSError):
            os.close(descriptor)
        raise
    return descriptor


def _lock_soon(descriptor: int) -> bool:
    deadline = time.monotonic() + PATIENCE_S
    while not _lock(descriptor, fcntl.LOCK_EX):
        if time.monotonic() > deadline:
            return False
        time.sleep(PAUSE_S)
    return True


def _lock(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_held(path: Path) -> bool:
    """Does a living process hold the lock."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        return not _lock(descriptor, fcntl.LOCK_SH)
    finally:
        os.close(descriptor)


def read_holder(path: Path) -> Driver | None:
    """The living process that holds the lock; None when there is none, or it has not signed within an instant."""
    deadline = time.monotonic() + PATIENCE_S
    while is_held(path) and time.monotonic() < deadline:
        with suppress(OSError, ValueError, TypeError):
            return Driver(**json.loads(path.read_text(encoding="utf-8")))
        time.sleep(PAUSE_S)
    return None


# --- signals to it --------------------------------------------------------------------------------------------


@contextmanager
def reach(home: Home, driver: Driver) -> Iterator[int | None]:
    """A descriptor of the driver's process, which never is another process; None when it has ended meanwhile."""
    try:
        descriptor = os.pidfd_open(driver.pid)
    except ProcessLookupError:
        yield None
        return
    try:
        # The lock was looked at again after the number was bound to a process: it is the driver's.
        yield descriptor if find_driver(home, driver.sweep_id) == driver else None
    finally:
        os.close(descriptor)


def send(descriptor: int, number: signal.Signals) -> None:
    """Send the signal; a process that has ended takes none."""
    with suppress(ProcessLookupError):
        signal.pidfd_send_signal(descriptor, number)


def wait_for_end(descriptor: int, timeout_s: float) -> bool:
    """Wait until the process has ended; whether it has."""
    waiting = select.poll()
    waiting.register(descriptor, select.POLLIN)
    return bool(waiting.poll(timeout_s * 1000))
