"""What nobody needs any more: sessions and folders of runs that are gone, and checkpoints that no row names.

Nothing that a living driver has is touched, and no checkpoint that the database knows.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
from sqlalchemy import select

from tradesweep.errors import StoreLocked
from tradesweep.home import Home
from tradesweep.names import SweepStatus
from tradesweep.policy import MANIFEST
from tradesweep.store import Store, SweepRow, database_exists, open_store
from tradesweep.store.models import Checkpoint
from tradesweep.sweep.driver import Driver, be_driver, find_driver
from tradesweep.sweep.leftovers import Leftover, find_leftovers, remove_leftover

SMOKE = "tradesweep-smoke"
"""A folder of `tradesweep smoke` is called tradesweep-smoke-PID-RANDOM."""
TUNE = "tune"
"""Ray Tune's own files below a sweep's folder, which are never read again."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Garbage:
    """Something to be removed."""

    kind: str
    """session, smoke, checkpoint, tune, or sweep."""
    path: Path
    bytes: int
    processes: int = 0
    """That live on without their driver."""
    session: Leftover | None = None

    def remove(self) -> bool:
        """Remove it; whether it is gone."""
        if self.session is not None:
            remove_leftover(self.session)
        else:
            shutil.rmtree(self.path, ignore_errors=True)
        return not self.path.exists()


@dataclass(frozen=True, kw_only=True, slots=True)
class Spared:
    """Something that may be useless and is left alone."""

    path: Path
    why: str


def collect(home: Home, *, dry_run: bool) -> tuple[list[Garbage], list[Spared]]:
    """Find what can go, and unless it is a dry run remove it: what went or would go, and what was spared."""
    gone = [garbage for garbage in find_temporary() if dry_run or garbage.remove()]
    spared: list[Spared] = []
    if not database_exists(home.database):  # perhaps the sweeps of another database: nothing says what counts
        return gone, spared
    store = open_store(home.database)
    known = {sweep.sweep_id: sweep for sweep in store.list_sweeps()}
    folders = sorted(path for path in (home.path / "sweeps").glob("*") if path.is_dir())
    for folder in folders:
        with ExitStack() as alone:
            driver = driver_of(home, folder.name, known.get(folder.name))
            if driver is None and not dry_run:
                try:
                    alone.enter_context(be_driver(home, folder.name, None))
                except StoreLocked:
                    driver = "a process that has just begun"
            if driver is not None:
                spared.append(Spared(path=folder, why=f"in use by {driver}"))
                continue
            found = list(find_in_sweep(store, home, folder, known.get(folder.name), spared))
            gone += [garbage for garbage in found if dry_run or garbage.remove()]
    return gone, spared


def driver_of(home: Home, sweep_id: str, sweep: SweepRow | None) -> str | None:
    """Who may be using the sweep's folder: a process of this machine, or one of another; None: nobody."""
    driver = find_driver(home, sweep_id)
    if driver is not None:
        return _describe(driver)
    if sweep is not None and sweep.status == SweepStatus.RUNNING and sweep.driver_host != os.uname().nodename:
        return f"process {sweep.driver_pid} on {sweep.driver_host}"
    return None


def _describe(driver: Driver) -> str:
    return f"process {driver.pid}"


# --- the temporary folder -------------------------------------------------------------------------------------


def find_temporary() -> list[Garbage]:
    """Sessions without a driver, and folders of smoke runs that are over."""
    sessions = [
        Garbage(
            kind="session",
            path=left.folder,
            bytes=count_bytes(left.folder),
            processes=len(left.processes),
            session=left,
        )
        for left in find_leftovers()
    ]
    return sessions + [Garbage(kind="smoke", path=path, bytes=count_bytes(path)) for path in find_smokes()]


def find_smokes() -> Iterator[Path]:
    """Folders of this user's smoke runs whose process is gone."""
    for path in sorted(Path(tempfile.gettempdir()).glob(f"{SMOKE}-*-*")):
        pid = path.name.removeprefix(f"{SMOKE}-").split("-")[0]
        with suppress(OSError):
            mine = path.lstat().st_uid == os.getuid() and path.is_dir() and not path.is_symlink()
            if mine and pid.isdigit() and not psutil.pid_exists(int(pid)):
                yield path


# --- a sweep's folder -----------------------------------------------------------------------------------------


def find_in_sweep(
    store: Store, home: Home, folder: Path, sweep: SweepRow | None, spared: list[Spared]
) -> Iterator[Garbage]:
    """What can go of a sweep that nobody runs."""
    if sweep is None:
        yield from find_orphan(folder, spared)
        return
    named = name_checkpoints(store, home, sweep.sweep_id)
    for path in sorted(folder.glob("trials/*/checkpoints/*")):
        if path not in named and path.is_dir():
            yield Garbage(kind="checkpoint", path=path, bytes=count_bytes(path))
    if (folder / TUNE).is_dir():
        yield Garbage(kind="tune", path=folder / TUNE, bytes=count_bytes(folder / TUNE))


def find_orphan(folder: Path, spared: list[Spared]) -> Iterator[Garbage]:
    """A sweep that never began; one with checkpoints may be that of another database."""
    if any(folder.glob(f"trials/*/checkpoints/*/{MANIFEST}")):
        spared.append(Spared(path=folder, why="it has checkpoints, and this database does not know the sweep"))
        return
    yield Garbage(kind="sweep", path=folder, bytes=count_bytes(folder))


def name_checkpoints(store: Store, home: Home, sweep_id: str) -> set[Path]:
    """Folders of checkpoints that a row names and that retention has not deleted: best, last, promoted, superseded."""
    table = Checkpoint.table()
    trials = [trial.trial_id for trial in store.list_trials(sweep_id)]
    query = select(table.c.path).where(table.c.trial_id.in_(trials), table.c.deleted_at.is_(None))
    with store.connect() as db:
        return {home.path / path for path in db.execute(query).scalars()}


def count_bytes(folder: Path) -> int:
    """The room that its files take."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                total += (Path(place) / name).lstat().st_size
    return total
