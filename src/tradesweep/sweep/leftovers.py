"""What drivers that were killed left behind: Ray's processes, and its session folder in the temporary folder.

Ray ends most of its processes with their driver, some only minutes later, and its folder never.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from tradesweep.sweep.driver import LOCK, hold, is_held

FOLDER = "ts"
"""A session folder is called ts-PID-RANDOM: paths of sockets in it may have 107 bytes."""
ENDING_S = 5.0
"""How long a killed process may take to be gone."""
REMOVAL_S = 3.0
"""How long the removal of a folder is tried, while the last processes still write into it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Leftover:
    """A session whose driver is gone."""

    folder: Path
    processes: tuple[psutil.Process, ...]
    """Those of its processes that still live, each told apart from a later one with the same number."""


class Session:
    """A folder for one Ray, held by this process until it is removed."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix=f"{FOLDER}-{os.getpid()}-"))
        # Locked before it has its name: a lock that exists and is not held means that the driver is gone.
        self._descriptor = hold(self.folder / f"{LOCK}.new")
        (self.folder / f"{LOCK}.new").rename(self.folder / LOCK)

    def remove(self) -> None:
        """Delete it; what cannot go yet goes when the next sweep starts."""
        remove_when_quiet(self.folder)
        if self._descriptor is not None:
            os.close(self._descriptor)


def find_leftovers() -> list[Leftover]:
    """The sessions in the temporary folder that are this user's and have no driver."""
    folders = [folder for folder in sorted(session_folders()) if is_abandoned(folder)]
    owners = processes_of(folders) if folders else {}
    return [Leftover(folder=folder, processes=tuple(owners[folder])) for folder in folders]


def remove_leftover(left: Leftover) -> None:
    """End its processes and delete its folder."""
    end_processes(left.processes)
    remove_when_quiet(left.folder)


def session_folders() -> Iterator[Path]:
    """Folders that a driver of this user made for its Ray."""
    for folder in Path(tempfile.gettempdir()).glob(f"{FOLDER}-*-*"):
        with suppress(OSError):
            if folder.name.split("-")[1].isdigit() and folder.is_dir() and folder.lstat().st_uid == os.getuid():
                yield folder


def is_abandoned(folder: Path) -> bool:
    """Is its driver gone? One that is just making the folder has not locked it yet, and is there by its number."""
    made_now = not (folder / LOCK).exists() and psutil.pid_exists(int(folder.name.split("-")[1]))
    return not made_now and not is_held(folder / LOCK)


# --- processes ------------------------------------------------------------------------------------------------


def processes_of(folders: Sequence[Path]) -> dict[Path, list[psutil.Process]]:
    """Ray's processes of this user that belong to each of the sessions."""
    found: dict[Path, list[psutil.Process]] = {folder: [] for folder in folders}
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.pid != os.getpid() and process.uids().real == os.getuid() and is_of_ray(process):
                for folder in folders:
                    if names(process, folder):
                        found[folder].append(process)
    return found


def is_of_ray(process: psutil.Process) -> bool:
    """By its title or its program: an editor that shows a log of the session is not."""
    words = process.cmdline()
    return any(word.startswith("ray::") or "/ray/" in word for word in words)


def names(process: psutil.Process, folder: Path) -> bool:
    """Does it name the folder in its words, or have a file open in it? Workers give up their words for a title."""
    mark = f"{folder}{os.sep}"
    if any(f"{word}{os.sep}".find(mark) >= 0 for word in process.cmdline()):
        return True
    return any(file.path.startswith(mark) for file in process.open_files())


def end_processes(processes: Sequence[psutil.Process]) -> None:
    """Kill them and wait until they are gone. psutil compares each start time before it sends a signal."""
    for process in processes:
        with suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(list(processes), timeout=ENDING_S)


# --- folders --------------------------------------------------------------------------------------------------


def remove_when_quiet(folder: Path) -> None:
    """Delete the folder, again and again while somebody still writes into it."""
    deadline = time.monotonic() + REMOVAL_S
    shutil.rmtree(folder, ignore_errors=True)
    while folder.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
        shutil.rmtree(folder, ignore_errors=True)
