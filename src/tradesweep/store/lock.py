"""One writing process per database: a lock file that names its holder.

SQLite is safe with one writing connection per file, not with several (the WAL-reset bug of 3.7.0 to 3.51.2). The
kernel gives the lock back when its holder dies, however it dies; the file stays and means nothing without the
lock.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tradesweep.errors import StoreError, StoreLocked


class FileLock:
    """An exclusive lock on `path`, held until `release`. Raises StoreLocked, naming the holder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = self._open()
        try:
            self._acquire()
            self._sign()
        except BaseException:
            os.close(self._descriptor)
            raise

    def release(self) -> None:
        """Give the lock back; a second call does nothing."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _open(self) -> int:
        try:
            return os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise StoreError(
                f"{self.path}: the lock of the database cannot be opened ({error.strerror}); make its folder"
                " writable, or set TRADESWEEP_HOME to one that is"
            ) from error

    def _acquire(self) -> None:
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise StoreError(
                    f"{self.path}: this file system has no locks ({error.strerror}); put the database on a local disk"
                ) from error
            raise StoreLocked(
                f"{self.path}: the database is in use by {describe_holder(self._read())}; wait for it to end, or"
                " stop it with Ctrl-C"
            ) from error

    def _read(self) -> str:
        return os.pread(self._descriptor, 4096, 0).decode("utf-8", errors="replace")

    def _sign(self) -> None:
        holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": _now_text()}
        with suppress(OSError):  # on a full disk the lock holds all the same, without a name
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, json.dumps(holder).encode(), 0)


def describe_holder(text: str) -> str:
    """Who wrote the lock file, in words."""
    try:
        holder: dict[str, Any] = json.loads(text)
        return f"process {holder['pid']} on {holder['host']} since {holder['since']}"
    except (ValueError, KeyError, TypeError):
        return "another process"


def _now_text() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
