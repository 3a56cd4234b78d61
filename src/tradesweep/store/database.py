"""What a kind of database does in its own way: being made, locked, opened, upgraded, and explained.

Everything above this page speaks SQLAlchemy and does not know which kind it has.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from sqlalchemy import Engine
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError

from tradesweep.errors import SchemaMismatch, StoreError
from tradesweep.home import DatabaseAddress
from tradesweep.store.migrations import HEAD, REVISIONS

Address = str | os.PathLike[str] | DatabaseAddress
"""A path, a URL, or either of them as the home gives it."""


class Lock(Protocol):
    """The right to write, until it is released."""

    def release(self) -> None:
        """Give it back; a second call does nothing."""
        ...


class Database(ABC):
    """One database, which need not exist yet. Its text is what people may read: no password is in it."""

    many_writers = False
    """May several sweeps write to it at the same time."""
    driver_errors: tuple[type[Exception], ...] = (DBAPIError,)
    """What `describe_error` explains."""

    @abstractmethod
    def __str__(self) -> str: ...

    @abstractmethod
    def exists(self) -> bool:
        """Has it been made."""

    @abstractmethod
    def create(self) -> None:
        """Make an empty one of the newest schema, whole or not at all."""

    @abstractmethod
    def read_revision(self) -> str:
        """Its schema. Raises StoreError or SchemaMismatch when there is none, or it is not one of ours."""

    @abstractmethod
    def check_writable(self) -> None:
        """Raise StoreError when it can be seen, without touching anything, that it cannot be written."""

    @abstractmethod
    def lock(self, *, alone: bool = True) -> Lock:
        """Become its writer, or without `alone` one of its writers where there may be several.

        Raises StoreLocked, naming the holder, while another process is in the way.
        """

    def claim(self, db: Connection, sweep_id: str) -> None:  # noqa: B027 - the lock of the only writer covers it
        """Become the only writer of a sweep, for as long as the connection lasts; to claim twice does nothing.

        Raises StoreLocked, naming the holder, while another process is.
        """

    @abstractmethod
    def write_engine(self) -> Engine:
        """An engine with one connection, which every transaction uses."""

    @abstractmethod
    def read_engine(self) -> Engine:
        """An engine whose connections cannot write, and whose transactions each see one state."""

    @abstractmethod
    def upgrade(self) -> str | None:
        """Bring it to the newest schema; the revision it came from, None when nothing was due.

        Raises SchemaMismatch for one that is not ours or is newer. The caller holds its lock.
        """

    @abstractmethod
    def delete(self) -> None:
        """Delete it with all it holds. The caller holds its lock."""

    @abstractmethod
    def size_bytes(self) -> int:
        """The room it takes on its disk now."""

    def free_bytes(self) -> int | None:
        """What is left on its disk; None where that cannot be known."""
        return None

    @abstractmethod
    def reclaim(self) -> None:
        """Give the room of deleted rows back. The caller holds its lock, and no transaction."""

    @abstractmethod
    def name_backup(self, stem: str) -> str:
        """What a backup of this kind of database is called."""

    @abstractmethod
    def back_up(self, target: Path) -> None:
        """Write a copy of one state of it to a file that nobody else may read, and check it.

        A writer may go on meanwhile. Raises StoreError; what was begun of the file is the caller's to delete.
        """

    def owns(self, path: Path) -> bool:  # noqa: ARG002 - a server's files are out of reach
        """Is this file a part of it."""
        return False

    @abstractmethod
    def describe_restore(self, backup: Path) -> str:
        """The command that puts a backup in its place."""

    @abstractmethod
    def describe_error(self, error: Exception) -> StoreError:
        """A driver's or the system's error as one line with its remedy."""

    def check(self) -> None:
        """Raise StoreError when there is none, SchemaMismatch when it is foreign, older or newer."""
        revision = self.read_revision()
        if revision != HEAD:
            raise SchemaMismatch(
                f"{self}: the database has schema {revision}, this version works with {HEAD}; run `tradesweep db"
                " upgrade`"
            )

    def check_revision(self, found: list[str]) -> str:
        """The one revision found, when this version knows it. Raises SchemaMismatch."""
        if len(found) == 1 and found[0] in REVISIONS:
            return found[0]
        raise SchemaMismatch(
            f"{self}: the database has schema {', '.join(found) or 'none'}, the newest that this version knows is"
            f" {HEAD}; it was made by a newer tradesweep: install that one"
        )

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Turn a driver's error into a StoreError."""
        try:
            yield
        except self.driver_errors as error:
            raise self.describe_error(error) from error


def find_database(address: Address) -> Database:
    """The database of a path or URL; nothing is opened. Raises StoreError for a URL of another kind."""
    url = address.url if isinstance(address, DatabaseAddress) else os.fspath(address)
    scheme = url.split("://", 1)[0] if "://" in url else "sqlite"
    if scheme not in _KINDS:
        raise StoreError(f"database URL must begin with {' or '.join(_KINDS)}://, began with {scheme}://")
    return _KINDS[scheme](url)


def _find_sqlite(url: str) -> Database:
    from tradesweep.store.sqlite import SqliteDatabase

    return SqliteDatabase.from_url(url)


def _find_postgres(url: str) -> Database:
    try:
        from tradesweep.store.postgres import PostgresDatabase
    except ImportError as error:
        raise StoreError(
            f"{DatabaseAddress(url)}: PostgreSQL needs its driver, which is not installed; run"
            " `pip install 'tradesweep[postgres]'`"
        ) from error
    return PostgresDatabase(url)


_KINDS: dict[str, Callable[[str], Database]] = {
    "sqlite": _find_sqlite,
    "postgresql": _find_postgres,
    "postgres": _find_postgres,
}
"""By the scheme of their URL."""


def database_exists(address: Address) -> bool:
    """Has the database been made: before the first sweep there is none."""
    return find_database(address).exists()


def upgrade_database(address: Address) -> str | None:
    """Bring an older database of ours to the newest schema, under its lock; the revision it came from, if another.

    Raises StoreLocked while another process writes to it, SchemaMismatch for one that is not ours or is newer.
    """
    database = find_database(address)
    database.read_revision()
    database.check_writable()
    lock = database.lock()
    try:
        return database.upgrade()
    finally:
        lock.release()


@contextmanager
def delete_database(address: Address) -> Iterator[None]:
    """Delete a database under its lock, which is held until the caller has deleted what belongs to it.

    Raises StoreLocked while another process writes to it, SchemaMismatch for one that is not ours or is newer.
    """
    database = find_database(address)
    if database.exists():
        database.read_revision()
    lock = database.lock()
    try:
        if database.exists():
            database.delete()
        yield
    finally:
        lock.release()
