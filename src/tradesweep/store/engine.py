"""Opening and creating the database file.

The file carries our application id, so that a foreign SQLite file is refused before anything is written to it,
and its schema revision, so that a newer one is. A database is created under another name and renamed when it is
whole: there is never half of one.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import quote

from sqlalchemy import Engine, create_engine, event
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool, StaticPool

from tradesweep.errors import SchemaMismatch, StoreError
from tradesweep.store.migrations import HEAD, REVISIONS, upgrade

APPLICATION_ID = 0x74737770
"""`tswp` in the header of our database files."""

BUSY_TIMEOUT_MS = 5_000
"""How long SQLite itself waits for somebody else's lock before it gives up."""

_WRITE_PRAGMAS = (
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",
    "PRAGMA foreign_keys = ON",
    "PRAGMA cache_size = -65536",
    "PRAGMA temp_store = MEMORY",
)
_READ_PRAGMAS = ("PRAGMA cache_size = -65536", "PRAGMA temp_store = MEMORY", "PRAGMA mmap_size = 1073741824")


def database_path(url_or_path: str | os.PathLike[str]) -> Path:
    """The file that a path or a `sqlite:///` URL names, absolute."""
    text = os.fspath(url_or_path)
    if text.startswith("sqlite:///"):
        text = text.removeprefix("sqlite:///")
    elif "://" in text:
        scheme = text.split("://", 1)[0]
        raise StoreError(f"database URL must begin with sqlite:///, began with {scheme}://")
    if not text or text == ":memory:":
        raise StoreError("database URL must name a file, named none, as in sqlite:////path/to/file.db")
    return Path(text).absolute()


def create_database(path: Path) -> None:
    """Create an empty database of the newest schema; its folder must exist."""
    _check_folder(path)
    draft = path.with_name(f"{path.name}.creating")
    draft.unlink(missing_ok=True)
    try:
        _fill_draft(draft)
        draft.replace(path)
    except (DBAPIError, OSError) as error:
        raise describe_error(path, error) from error
    finally:
        for leftover in (draft, *(draft.with_name(draft.name + end) for end in ("-wal", "-shm", "-journal"))):
            leftover.unlink(missing_ok=True)


def _fill_draft(draft: Path) -> None:
    os.close(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    engine = write_engine(draft)
    with engine.begin() as connection:
        upgrade(connection)
        connection.exec_driver_sql(f"PRAGMA application_id = {APPLICATION_ID}")
    engine.dispose()


def upgrade_database(path: Path) -> str | None:
    """Bring an older database of ours to the newest schema; the revision it came from, None when nothing was due.

    Raises SchemaMismatch for a foreign file or a newer schema. The caller holds the database's lock.
    """
    revision = read_revision(path)
    if revision == HEAD:
        return None
    engine = write_engine(path)
    try:
        with engine.begin() as connection:
            upgrade(connection)
    except DBAPIError as error:
        raise describe_error(path, error) from error
    finally:
        engine.dispose()
    return revision


def check_database(path: Path) -> None:
    """Raise StoreError when there is no database, SchemaMismatch when it is foreign, older or newer."""
    revision = read_revision(path)
    if revision != HEAD:
        raise SchemaMismatch(
            f"{path}: the database has schema {revision}, this version works with {HEAD}; run `tradesweep db upgrade`"
        )


def check_writable(path: Path) -> None:
    """Raise StoreError when the file or its folder is marked read-only."""
    _check_folder(path)
    if path.exists() and not path.stat().st_mode & 0o200:
        raise StoreError(f"{path}: the database is read-only; make it writable with `chmod u+w`")


def read_revision(path: Path) -> str:
    """The schema revision of a database of ours. Raises StoreError or SchemaMismatch when it is not one."""
    if not path.is_file():
        raise StoreError(f"{path}: there is no database; run a sweep first, or set TRADESWEEP_HOME to where it is")
    _check_header(path)
    try:
        with closing(sqlite3.connect(_untouched_uri(path), uri=True)) as connection:
            rows = connection.execute("SELECT version_num FROM alembic_version").fetchall()
    except sqlite3.Error as error:
        raise describe_error(path, error) from error
    return _known_revision(path, [str(row[0]) for row in rows])


def _check_header(path: Path) -> None:
    """Whose file it is, from its first bytes: SQLite itself would leave traces beside a foreign database."""
    with path.open("rb") as file:
        header = file.read(100)
    if len(header) < 100 or not header.startswith(b"SQLite format 3\0"):
        raise describe_error(path, StoreError("file is not a database"))
    if int.from_bytes(header[68:72], "big") != APPLICATION_ID:
        raise SchemaMismatch(
            f"{path}: this SQLite file was not made by tradesweep and was left alone;"
            " move it away, or set TRADESWEEP_HOME to another folder"
        )


def _known_revision(path: Path, found: list[str]) -> str:
    if len(found) == 1 and found[0] in REVISIONS:
        return found[0]
    raise SchemaMismatch(
        f"{path}: the database has schema {', '.join(found) or 'none'}, the newest that this version knows is {HEAD};"
        " it was made by a newer tradesweep: install that one"
    )


def write_engine(path: Path) -> Engine:
    """An engine with one connection, which every transaction uses: BEGIN IMMEDIATE, WAL, synchronous FULL."""
    engine = create_engine(
        "sqlite+pysqlite://",
        creator=lambda: _connect(f"file:{quote(str(path))}?mode=rw", _WRITE_PRAGMAS),
        poolclass=StaticPool,
    )
    _own_transactions(engine, "BEGIN IMMEDIATE")
    return engine


def read_engine(path: Path) -> Engine:
    """An engine whose connections cannot write to the database; each is closed after use."""
    engine = create_engine(
        "sqlite+pysqlite://",
        creator=lambda: _connect(_read_only_uri(path), _READ_PRAGMAS),
        poolclass=NullPool,
    )
    _own_transactions(engine, "BEGIN")
    return engine


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


def _read_only_uri(path: Path) -> str:
    return f"file:{quote(str(path))}?mode=ro"


def _untouched_uri(path: Path) -> str:
    """Read-only, and without the files that SQLite makes beside a database nobody else has open."""
    is_open = path.with_name(f"{path.name}-wal").exists()
    return _read_only_uri(path) if is_open else f"{_read_only_uri(path)}&immutable=1"


def _check_folder(path: Path) -> None:
    if not path.parent.is_dir():
        raise StoreError(f"{path}: the folder of the database does not exist; create {path.parent}")
    if not path.parent.stat().st_mode & 0o200:
        raise StoreError(f"{path}: the folder of the database is read-only; make it writable with `chmod u+w`")


_REMEDIES = (
    ("not a database", "the file is not an SQLite database; move it away, or set TRADESWEEP_HOME to another folder"),
    ("malformed", "the database is damaged; restore a backup (`tradesweep db backup` makes them)"),
    ("readonly", "the database is read-only; make the file and its folder writable"),
    ("disk is full", "the disk is full; free some space and run the same command again, nothing committed is lost"),
    ("locked", "another program holds a lock on the database; close it (a database browser?) and try again"),
    ("no such table", "tables are missing; restore a backup (`tradesweep db backup` makes them)"),
    ("unable to open", "the database cannot be opened; check that the file and its folder are readable and writable"),
)


def describe_error(path: Path, error: Exception) -> StoreError:
    """A driver's or the system's error as one line with its remedy."""
    cause = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    text = str(cause)
    for sign, remedy in _REMEDIES:
        if sign in text:
            return StoreError(f"{path}: {remedy}")
    return StoreError(f"{path}: the database refused: {text}")


@contextmanager
def store_errors(path: Path) -> Iterator[None]:
    """Turn a driver's error into a StoreError."""
    try:
        yield
    except DBAPIError as error:
        raise describe_error(path, error) from error
