"""SQLite: one file, one writing connection.

The file carries our application id, so that a foreign SQLite file is refused before anything is written to it,
and its schema revision, so that a newer one is. A database is created under another name and renamed when it is
whole: there is never half of one.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from shlex import quote as quote_word
from urllib.parse import quote

from sqlalchemy import Engine, create_engine, event
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool, StaticPool

from tradesweep.errors import SchemaMismatch, StoreError, StoreUnavailable
from tradesweep.store.database import Database
from tradesweep.store.lock import FileLock
from tradesweep.store.migrations import HEAD, upgrade

APPLICATION_ID = 0x74737770
"""`tswp` in the header of our database files."""

BUSY_TIMEOUT_MS = 2_000
"""How long SQLite itself waits for somebody else's lock before it gives up; a recorder's clients try again, and can
say what they wait for."""

_WRITE_PRAGMAS = (
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",
    "PRAGMA foreign_keys = ON",
    "PRAGMA cache_size = -65536",
    "PRAGMA temp_store = MEMORY",
)
_READ_PRAGMAS = ("PRAGMA cache_size = -65536", "PRAGMA temp_store = MEMORY", "PRAGMA mmap_size = 1073741824")


class SqliteDatabase(Database):
    """A database file, with its lock file beside it."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path).absolute()

    @classmethod
    def from_url(cls, url_or_path: str) -> SqliteDatabase:
        """The file that a path or a `sqlite:///` URL names."""
        text = url_or_path.removeprefix("sqlite:///")
        if not text or text == ":memory:" or "://" in text:
            raise StoreError("database URL must name a file, named none, as in sqlite:////path/to/file.db")
        return cls(text)

    def __str__(self) -> str:
        return str(self.path)

    def exists(self) -> bool:
        """Is the file there."""
        return self.path.exists()

    def create(self) -> None:
        """Make the file under another name and rename it when it is whole; its folder must exist."""
        _check_folder(self.path)
        draft = SqliteDatabase(self.path.with_name(f"{self.path.name}.creating"))
        draft.path.unlink(missing_ok=True)
        try:
            draft._fill()
            draft.path.replace(self.path)
        except (DBAPIError, OSError) as error:
            raise self.describe_error(error) from error
        finally:
            for leftover in draft.files():
                leftover.unlink(missing_ok=True)

    def _fill(self) -> None:
        os.close(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        engine = self.write_engine()
        with engine.begin() as connection:
            upgrade(connection)
            connection.exec_driver_sql(f"PRAGMA application_id = {APPLICATION_ID}")
        engine.dispose()

    def files(self) -> list[Path]:
        """The file, and those that SQLite makes beside it."""
        return [self.path.with_name(self.path.name + end) for end in ("", "-wal", "-shm", "-journal")]

    def read_revision(self) -> str:
        """Read without leaving traces beside a file that is not ours."""
        if not self.path.is_file():
            raise StoreError(
                f"{self.path}: there is no database; run a sweep first, or set TRADESWEEP_HOME to where it is"
            )
        self._check_header()
        try:
            with closing(sqlite3.connect(self._untouched_uri(), uri=True)) as connection:
                rows = connection.execute("SELECT version_num FROM alembic_version").fetchall()
        except sqlite3.Error as error:
            raise self.describe_error(error) from error
        return self.check_revision([str(row[0]) for row in rows])

    def _check_header(self) -> None:
        """Whose file it is, from its first bytes: SQLite itself would leave traces beside a foreign database."""
        with self.path.open("rb") as file:
            header = file.read(100)
        if len(header) < 100 or not header.startswith(b"SQLite format 3\0"):
            raise self.describe_error(StoreError("file is not a database"))
        if int.from_bytes(header[68:72], "big") != APPLICATION_ID:
            raise SchemaMismatch(
                f"{self.path}: this SQLite file was not made by tradesweep and was left alone;"
                " move it away, or set TRADESWEEP_HOME to another folder"
            )

    def check_writable(self) -> None:
        """Raise StoreError when the file or its folder is marked read-only."""
        _check_folder(self.path)
        if self.path.exists() and not self.path.stat().st_mode & 0o200:
            raise StoreError(f"{self.path}: the database is read-only; make it writable with `chmod u+w`")

    def lock(self, *, alone: bool = True) -> FileLock:  # noqa: ARG002 - a file has one writer
        """A lock file beside the database, which the kernel frees when its holder dies."""
        return FileLock(self._lock_path)

    def upgrade(self) -> str | None:
        """One transaction."""
        revision = self.read_revision()
        if revision == HEAD:
            return None
        engine = self.write_engine()
        try:
            with self.errors(), engine.begin() as connection:
                upgrade(connection)
        finally:
            engine.dispose()
        return revision

    def delete(self) -> None:
        """The lock file goes last: whoever waits for it finds no database."""
        for path in (*self.files(), self._lock_path):
            path.unlink(missing_ok=True)

    @property
    def _lock_path(self) -> Path:
        return self.path.with_name(f"{self.path.name}.lock")

    def write_engine(self) -> Engine:
        """BEGIN IMMEDIATE, WAL, synchronous FULL."""
        engine = create_engine(
            "sqlite+pysqlite://",
            creator=lambda: _connect(self._uri("rw"), _WRITE_PRAGMAS),
            poolclass=StaticPool,
        )
        _own_transactions(engine, "BEGIN IMMEDIATE")
        return engine

    def read_engine(self) -> Engine:
        """Read-only connections, each closed after use."""
        engine = create_engine(
            "sqlite+pysqlite://",
            creator=lambda: _connect(self._uri("ro"), _READ_PRAGMAS),
            poolclass=NullPool,
        )
        _own_transactions(engine, "BEGIN")
        return engine

    def _uri(self, mode: str) -> str:
        return f"file:{quote(str(self.path))}?mode={mode}"

    def _untouched_uri(self) -> str:
        """Read-only, and without the files that SQLite makes beside a database nobody else has open."""
        is_open = self.path.with_name(f"{self.path.name}-wal").exists()
        return self._uri("ro") if is_open else f"{self._uri('ro')}&immutable=1"

    def size_bytes(self) -> int:
        """The file and its write-ahead log."""
        return sum(_size_of(path) for path in self.files()[:2])

    def free_bytes(self) -> int:
        """Of the disk that its folder is on, or will be."""
        folder = next(folder for folder in self.path.parents if folder.is_dir())
        return shutil.disk_usage(folder).free

    def reclaim(self) -> None:
        """Write the file anew without its free pages, through the write-ahead log, which is then cut."""
        try:
            with closing(_connect(self._uri("rw"), ("PRAGMA temp_store = FILE",))) as connection:
                if connection.execute("PRAGMA freelist_count").fetchone()[0]:
                    connection.execute("VACUUM")
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except sqlite3.Error as error:
            raise self.describe_error(error) from error

    def name_backup(self, stem: str) -> str:
        """Another database file."""
        return f"{stem}.db"

    def back_up(self, target: Path) -> None:
        """The online backup in one step: one state of the database, and its writer is not kept waiting."""
        os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        copy = SqliteDatabase(target)
        try:
            with (
                closing(_connect(self._uri("ro"), ())) as source,
                closing(_connect(copy._uri("rw"), ("PRAGMA journal_mode = OFF", "PRAGMA synchronous = OFF"))) as whole,
            ):
                source.backup(whole)
            with closing(_connect(f"{copy._uri('ro')}&immutable=1", ())) as written:
                found = [str(row[0]) for row in written.execute("PRAGMA quick_check")]
        except sqlite3.Error as error:
            kind, remedy = _explain(error)
            raise kind(f"{target}: no backup was made: {remedy}") from error
        if found != ["ok"]:
            raise StoreError(
                f"{target}: no backup was made: {self.path} is damaged ({found[0]}); restore an earlier one"
            )

    def owns(self, path: Path) -> bool:
        """Its file, those beside it, and the lock file."""
        return path.resolve() in [own.resolve() for own in (*self.files(), self._lock_path)]

    def describe_restore(self, backup: Path) -> str:
        """The old log must go: SQLite would apply it to the file that takes the place of its own."""
        old, log, shared = (quote_word(str(path)) for path in self.files()[:3])
        return f"rm -f {log} {shared} && cp {quote_word(str(backup))} {old}"

    def describe_error(self, error: Exception) -> StoreError:
        """By what SQLite says."""
        kind, remedy = _explain(error)
        return kind(f"{self.path}: {remedy}")


def _explain(error: Exception) -> tuple[type[StoreError], str]:
    cause = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    text = str(cause)
    for sign, kind, remedy in _REMEDIES:
        if sign in text:
            return kind, remedy
    return StoreError, f"the database refused: {text}"


def _size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _connect(uri: str, pragmas: tuple[str, ...]) -> sqlite3.Connection:
    connection = sqlite3.connect(
        uri, uri=True, timeout=BUSY_TIMEOUT_MS / 1000, isolation_level=None, check_same_thread=False
    )
    for pragma in pragmas:
        connection.execute(pragma)
    return connection


def _own_transactions(engine: Engine, begin: str) -> None:
    """Begin transactions ourselves: the driver would begin them late, and upgrade reads to writes without waiting."""

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql(begin)


def _check_folder(path: Path) -> None:
    if not path.parent.is_dir():
        raise StoreError(f"{path}: the folder of the database does not exist; create {path.parent}")
    if not path.parent.stat().st_mode & 0o200:
        raise StoreError(f"{path}: the folder of the database is read-only; make it writable with `chmod u+w`")


_REMEDIES: tuple[tuple[str, type[StoreError], str], ...] = (
    (
        "not a database",
        StoreError,
        "the file is not an SQLite database; move it away, or set TRADESWEEP_HOME to another folder",
    ),
    ("malformed", StoreError, "the database is damaged; restore a backup (`tradesweep db backup` makes them)"),
    ("readonly", StoreError, "the database is read-only; make the file and its folder writable"),
    (
        "disk is full",
        StoreUnavailable,
        "the disk is full; free some space and run the same command again, nothing committed is lost",
    ),
    ("disk I/O error", StoreUnavailable, "the disk refuses to read or write; see that it is sound and has space left"),
    (
        "locked",
        StoreUnavailable,
        "another program holds a lock on the database; close it (a database browser?) and try again",
    ),
    ("no such table", StoreError, "tables are missing; restore a backup (`tradesweep db backup` makes them)"),
    (
        "unable to open",
        StoreError,
        "the database cannot be opened; check that the file and its folder are readable and writable",
    ),
)
"""What SQLite says, whether it may pass, and what to do."""
