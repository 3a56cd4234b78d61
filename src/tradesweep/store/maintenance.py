"""Keeping a database: copies of it, and less of it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tradesweep.errors import BadInput, Refused, StoreError
from tradesweep.names import SweepStatus
from tradesweep.store.database import Address, Database, find_database
from tradesweep.store.pruning import Prunable, find_prunable
from tradesweep.store.queries import Store
from tradesweep.store.rows import SweepRow
from tradesweep.store.writer import Writer, now_us

DAY_US = 86_400_000_000


# --- backup ---------------------------------------------------------------------------------------------------


def back_up(address: Address, target: Path, *, force: bool = False) -> int:
    """Copy the database to a file, also while a sweep writes to it; the size of the copy.

    The file is there whole or not at all. Raises BadInput for a file that is in the way, unless `force`, and
    StoreError when there is no database, or it cannot be read or written.
    """
    database, target = find_database(address), target.absolute()
    database.read_revision()
    try:
        check_target(database, target, force=force)
        with _draft(target.with_name(f"{target.name}.part")) as part:
            database.back_up(part)
            _settle(part, target)
        return target.stat().st_size
    except OSError as error:
        raise StoreError(f"{target}: no backup was made ({error.strerror}); give another FILE") from error


@contextmanager
def _draft(part: Path) -> Iterator[Path]:
    """A file that is not there before and not after."""
    part.unlink(missing_ok=True)
    try:
        yield part
    finally:
        part.unlink(missing_ok=True)


def check_target(database: Database, target: Path, *, force: bool) -> None:
    """Raise BadInput when the file may not be written."""
    if not target.parent.is_dir():
        raise BadInput(f"{target}: the folder of the backup must exist; create {target.parent}")
    if target.is_dir():
        raise BadInput(f"{target}: the backup must be a file, is a folder; name a file in it")
    if database.owns(target):
        raise BadInput(f"{target}: the backup must be another file than the database")
    if target.exists() and not force:
        raise BadInput(f"{target}: there is such a file already; give --force to replace it, or another FILE")


def _settle(part: Path, target: Path) -> None:
    """On the disk first, then under its name."""
    _sync(part)
    part.replace(target)
    _sync(target.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# --- pruning --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Pruned:
    """What a pruning did."""

    steps: int
    bytes_before: int
    bytes_after: int


def choose_sweeps(store: Store, names: Sequence[str], *, older_than_days: float | None) -> list[SweepRow]:
    """The sweeps to prune: those named, or all that have ended; of them those that ended so long ago.

    Raises BadInput when neither is given, NotFound for an unknown name, Refused for a named sweep that runs.
    """
    if not names and older_than_days is None:
        raise BadInput("db prune must be given sweeps, or --older-than DAYS; `tradesweep status` lists sweeps")
    sweeps = {sweep.sweep_id: sweep for sweep in (map(store.get_sweep, names) if names else store.list_sweeps())}
    running = [sweep_id for sweep_id, sweep in sweeps.items() if sweep.status == SweepStatus.RUNNING]
    if names and running:
        raise Refused(
            f"{running[0]} must have ended to be pruned, is RUNNING; wait for it, or stop it with Ctrl-C (if its"
            " process was killed, the same sweep command goes on with it)"
        )
    latest = now_us() - (older_than_days or 0.0) * DAY_US
    return [sweep for sweep in sweeps.values() if sweep.ended_at is not None and sweep.ended_at <= latest]


def list_prunable(store: Store, sweeps: Sequence[SweepRow]) -> list[Prunable]:
    """What can be deleted of each sweep; those without anything are left out."""
    with store.connect() as db:
        found = [find_prunable(db, sweep.sweep_id) for sweep in sweeps]
    return [prunable for prunable in found if prunable.producers]


def prune(address: Address, prunables: Sequence[Prunable]) -> Pruned:
    """Delete what was found, one transaction a producer, under the database's lock, and give the room back.

    Raises StoreLocked while another process writes, and StoreError when the disk is too full for the rewriting that
    gives room back; what was deleted stays deleted then.
    """
    with Writer(address, alone=True) as writer:
        before, steps = writer.database.size_bytes(), 0
        for producer_no in (number for prunable in prunables for number in prunable.producers):
            steps += writer.prune_producer(producer_no)
        try:
            writer.database.reclaim()
        except StoreError as error:
            raise StoreError(
                f"{steps:,} steps were deleted, but their room could not be given back: {error}; what is recorded next"
                " takes it, and the same command tries again"
            ) from error
        return Pruned(steps=steps, bytes_before=before, bytes_after=writer.database.size_bytes())
