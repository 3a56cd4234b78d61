"""Room for rows, looked at every few seconds while a sweep runs: `recording.max_gb`, and what is left of the disk.

A sweep that runs out of room is stopped in order, as by Ctrl-C, while there is still room to end it well.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from tradesweep.errors import StoreError
from tradesweep.spec import SweepSpec
from tradesweep.store import Database
from tradesweep.sweep.signals import Interruption

PERIOD_S = 3.0
RESERVE_BYTES = 100_000_000
"""What a sweep leaves of the database's disk: more than the fastest of them writes in a period, and its end needs."""

logger = logging.getLogger(__name__)


def check_room(database: Database, spec: SweepSpec) -> None:
    """Refuse to begin or go on without room. Raises SpecError for the limit of the spec, StoreError for the disk."""
    size = database.size_bytes() if database.exists() else 0
    if size > limit_bytes(spec):
        raise spec.error_at(
            "recording.max_gb",
            f"must be more than the {size / 1e9:.3g} GB that {database} has already",
            spec.recording.max_gb,
            "raise it with `--set recording.max_gb=...`, or make room with `tradesweep db prune`",
        )
    full = describe_full_disk(database)
    if full is not None:
        raise StoreError(f"{full}; free some space, or set TRADESWEEP_HOME to another disk; nothing was started")


@contextmanager
def watch_room(database: Database, spec: SweepSpec, interruption: Interruption) -> Iterator[None]:
    """Stop the sweep in order when room runs out."""
    ended = threading.Event()

    def watch() -> None:
        while not (ended.wait(PERIOD_S) or interruption.is_requested):
            reason = find_reason_to_stop(database, spec)
            if reason is not None:
                interruption.stop(f"{reason}; the sweep was stopped in order, and the same command goes on with it")

    thread = threading.Thread(target=watch, name="disk", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def find_reason_to_stop(database: Database, spec: SweepSpec) -> str | None:
    """What a person must mend; None while there is room, or the database cannot be asked just now."""
    try:
        size = database.size_bytes()
    except StoreError as error:
        logger.warning("the size of the database is not known: %s", error)
        return None
    if size > limit_bytes(spec):
        return (
            f"{database}: the database has grown to {size / 1e9:.3g} GB, recording.max_gb is"
            f" {spec.recording.max_gb:g}; raise it with `--set recording.max_gb=...`, or make room with"
            " `tradesweep db prune`"
        )
    full = describe_full_disk(database)
    return None if full is None else f"{full}; free some space"


def describe_full_disk(database: Database) -> str | None:
    """How little is left; None while that is enough, or not known."""
    free = database.free_bytes()
    if free is None or free >= RESERVE_BYTES:
        return None
    return f"{database}: its disk must have {RESERVE_BYTES / 1e6:g} MB free, has {free / 1e6:.3g} MB"


def limit_bytes(spec: SweepSpec) -> float:
    """The limit of the spec."""
    return float(spec.recording.max_gb) * 1e9
