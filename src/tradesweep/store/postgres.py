"""PostgreSQL: one schema of one database, any number of sweeps at a time, one writer a sweep.

The right to write is an advisory lock of the very connection that writes. A connection that is lost loses the right
with whatever it had begun, and nobody else gets the right while the server still works on it. Writers share the lock
of the database, and each holds the lock of its sweep alone; an upgrade, a pruning and a deletion hold the first alone.

A schema is ours when its table of revisions says so; any other one that is not empty is left alone. Messages of the
driver may quote the URL with its password: none of them is shown as it is.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from sqlalchemy import Engine, create_engine
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool, QueuePool

from tradesweep.errors import SchemaMismatch, StoreError, StoreLocked, StoreUnavailable
from tradesweep.home import DatabaseAddress
from tradesweep.store.copying import driver_connection
from tradesweep.store.database import Database
from tradesweep.store.migrations import HEAD, upgrade
from tradesweep.store.models import VIEWS, Base

MARK = "tradesweep"
"""Comment on the table of revisions of our schemas."""
VERSIONS = "alembic_version"

_DEFAULTS: dict[str, Any] = {
    "connect_timeout": 10,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}
"""A server that is gone is noticed within half a minute; the URL may say otherwise."""
_SERVER_DEFAULTS = "SET tcp_keepalives_idle = 10; SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 3"
"""And so is a writer that is gone, whose locks would stay with the server."""

_DATABASE_KEY = "hashtextextended('tradesweep ' || current_schema(), 0)"
_CREATION_KEY = "hashtextextended('tradesweep creation ' || current_schema(), 0)"
_SWEEP_KEY = "hashtextextended('tradesweep sweep ' || current_schema() || ' ' || %s, 0)"


class PostgresLock:
    """A connection that holds the lock of the database. When it is lost, the next one takes the lock again."""

    def __init__(self, database: PostgresDatabase, *, alone: bool) -> None:
        self.engine = create_engine(
            "postgresql+psycopg://",
            creator=lambda: database.connect_writer(alone=alone),
            poolclass=QueuePool,
            pool_size=1,
            max_overflow=0,
            use_native_hstore=False,
        )
        self.engine.raw_connection().close()

    def release(self) -> None:
        """Give the lock back; a second call does nothing."""
        self.engine.dispose()


class PostgresDatabase(Database):
    """The schema that comes first in the search path of a database's URL."""

    many_writers = True
    driver_errors = (DBAPIError, psycopg.Error)

    def __init__(self, url: str) -> None:
        self._address = DatabaseAddress(url)
        try:
            given = conninfo_to_dict(url)
        except psycopg.Error as error:
            said = self._address.mask(_first_line(error))
            raise StoreError(
                f"{self}: the URL of the database cannot be read ({said}); write"
                " postgresql://user@host:5432/database, with signs of the password as %40 or %2F"
            ) from None
        name = {"application_name": f"tradesweep {os.getpid()} on {socket.gethostname()}"[:63]}
        self._settings: dict[str, Any] = _DEFAULTS | given | name
        self._lock: PostgresLock | None = None

    def __str__(self) -> str:
        return str(self._address)

    # --- connections ------------------------------------------------------------------------------------------

    def _connect(self) -> psycopg.Connection[Any]:
        try:
            return psycopg.connect(**self._settings, autocommit=True)
        except psycopg.Error as error:
            raise self._explain_connecting(error) from None

    @contextmanager
    def _session(self) -> Iterator[psycopg.Connection[Any]]:
        """A connection for some questions; each statement is a transaction."""
        with closing(self._connect()) as connection, self.errors():
            yield connection

    def _connect_for_engine(self) -> psycopg.Connection[Any]:
        connection = self._connect()
        connection.autocommit = False
        return connection

    def connect_writer(self, *, alone: bool) -> psycopg.Connection[Any]:
        """A connection that holds the lock of the database. Raises StoreLocked."""
        connection = self._connect()
        try:
            with self.errors():
                connection.execute(_SERVER_DEFAULTS)
                kind = "" if alone else "_shared"
                taken = connection.execute(f"SELECT pg_try_advisory_lock{kind}({_DATABASE_KEY})").fetchone()
                if taken != (True,):
                    raise StoreLocked(self._describe_lock("the database", connection, _DATABASE_KEY))
                connection.autocommit = False
        except BaseException:
            connection.close()
            raise
        return connection

    def write_engine(self) -> Engine:
        """The engine of the lock; without one, an engine that takes it as one of several writers."""
        return self._lock.engine if self._lock is not None else PostgresLock(self, alone=False).engine

    def read_engine(self) -> Engine:
        """Read-only transactions of one snapshot each, on connections that are closed after use."""
        return create_engine(
            "postgresql+psycopg://",
            creator=self._connect_for_engine,
            poolclass=NullPool,
            use_native_hstore=False,
            execution_options={"isolation_level": "REPEATABLE READ", "postgresql_readonly": True},
        )

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        """A transaction on the connection that holds the lock; without one, on one of its own."""
        engine = self.write_engine()
        try:
            with self.errors(), engine.begin() as db:
                yield db
        finally:
            if self._lock is None:
                engine.dispose()

    # --- locks ------------------------------------------------------------------------------------------------

    def lock(self, *, alone: bool = True) -> PostgresLock:
        """An advisory lock, which the server frees when the connection ends."""
        self._lock = PostgresLock(self, alone=alone)
        return self._lock

    def claim(self, db: Connection, sweep_id: str) -> None:
        """An advisory lock of the connection that writes."""
        claimed: set[str] = db.info.setdefault("claimed", set())
        if sweep_id in claimed:
            return
        connection = driver_connection(db)
        taken = connection.execute(f"SELECT pg_try_advisory_lock({_SWEEP_KEY})", (sweep_id,)).fetchone()
        if taken != (True,):
            raise StoreLocked(self._describe_lock(f"sweep {sweep_id}", connection, _SWEEP_KEY, sweep_id))
        claimed.add(sweep_id)

    def _describe_lock(self, what: str, connection: psycopg.Connection[Any], key: str, *parameters: str) -> str:
        holder = connection.execute(
            f"""
            SELECT a.application_name, a.backend_start
            FROM pg_locks l JOIN pg_stat_activity a USING (pid), (SELECT {key} AS key) k
            WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1 AND l.pid <> pg_backend_pid()
              AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
              AND l.classid::bigint = (k.key >> 32) & 4294967295 AND l.objid::bigint = k.key & 4294967295
            ORDER BY a.backend_start LIMIT 1
            """,  # noqa: S608 - a constant of this page
            parameters,
        ).fetchone()
        return f"{self}: {what} is in use by {_describe_holder(holder)}; wait for it to end, or stop it with Ctrl-C"

    # --- what there is ----------------------------------------------------------------------------------------

    def exists(self) -> bool:
        """Is there anything in the schema: what is not ours is found by `read_revision`."""
        with self._session() as connection:
            return bool(_ask(connection, _ANYTHING))

    def read_revision(self) -> str:
        """As its table of revisions says, when that is marked as ours."""
        with self._session() as connection:
            if not _ask(connection, _ANYTHING):
                raise StoreError(
                    f"{self}: there is no database; run a sweep first, or set TRADESWEEP_DB_URL to where it is"
                )
            if _ask(connection, _MARK_FOUND) != MARK:
                raise SchemaMismatch(
                    f"{self}: schema {_ask(connection, _SCHEMA)} holds tables that were not made by tradesweep and was"
                    " left alone; set TRADESWEEP_DB_URL to an empty database, or to one of its own schemas with"
                    " ?options=-csearch_path%3DNAME"
                )
            rows = connection.execute("SELECT version_num FROM alembic_version").fetchall()
        return self.check_revision([str(row[0]) for row in rows])

    def check_writable(self) -> None:
        """Ask whether the server takes writes, and there is a schema to put tables into."""
        with self._session() as connection:
            if _ask(connection, "SHOW transaction_read_only") == "on":
                raise self._explain_state("25006")
            if _ask(connection, _SCHEMA) is None:
                raise self._explain_state("3F000")

    # --- making, changing, deleting ---------------------------------------------------------------------------

    def create(self) -> None:
        """One transaction; of two that create at once, the second finds it made."""
        with self._writing() as db:
            db.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_CREATION_KEY})")
            if self.exists():
                return
            upgrade(db)
            db.exec_driver_sql(f"COMMENT ON TABLE {VERSIONS} IS '{MARK}'")

    def upgrade(self) -> str | None:
        """One transaction."""
        revision = self.read_revision()
        if revision == HEAD:
            return None
        with self._writing() as db:
            upgrade(db)
        return revision

    def delete(self) -> None:
        """Drop our views and tables in one transaction; the schema and what else is in it stay."""
        views, tables = ", ".join(VIEWS), ", ".join([*Base.metadata.tables, VERSIONS])
        with self._writing() as db:
            db.exec_driver_sql(f"DROP VIEW IF EXISTS {views}")
            db.exec_driver_sql(f"DROP TABLE IF EXISTS {tables}")

    # --- size and backups -------------------------------------------------------------------------------------

    def size_bytes(self) -> int:
        """Tables with their indexes."""
        with self._session() as connection:
            return int(_ask(connection, _SIZE, [*Base.metadata.tables]))

    def reclaim(self) -> None:
        """Write the two large tables anew, which takes as much room again while it lasts."""
        with self.errors(), self.write_engine().connect() as db:
            db.execution_options(isolation_level="AUTOCOMMIT").exec_driver_sql("VACUUM (FULL, ANALYZE) steps, fills")

    def name_backup(self, stem: str) -> str:
        """In the form of `pg_dump`."""
        return f"{stem}.dump"

    def back_up(self, target: Path) -> None:
        """Let `pg_dump` copy our tables and views; the password goes to it in its environment."""
        os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        with self._session() as connection:
            names = [
                f"--table={_ask(connection, _QUALIFIED, name)}" for name in (*Base.metadata.tables, VERSIONS, *VIEWS)
            ]
        self._run("pg_dump", "--format=custom", f"--file={target}", *names, "--dbname", self._without_password())
        self._run("pg_restore", "--list", str(target))

    def describe_restore(self, backup: Path) -> str:
        """Into the same place, or an empty database."""
        return f"pg_restore --clean --if-exists --dbname={self} {backup}"

    def _without_password(self) -> str:
        return make_conninfo(**{name: value for name, value in self._settings.items() if name != "password"})

    def _run(self, program: str, *arguments: str) -> None:
        path = shutil.which(program)
        if path is None:
            raise StoreError(
                f"{self}: a backup is made with {program}, which is not installed; install PostgreSQL's client"
            )
        password = self._settings.get("password")
        environment = os.environ | ({"PGPASSWORD": password} if password else {})
        done = subprocess.run([path, *arguments], env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            said = self._address.mask(done.stderr.strip().partition("\n")[0])
            raise StoreError(f"{self}: no backup was made: {said}")

    # --- errors -----------------------------------------------------------------------------------------------

    def describe_error(self, error: Exception) -> StoreError:
        """By its SQLSTATE; what has none and came over a connection means that this was lost."""
        cause = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
        state: str = getattr(cause, "sqlstate", None) or ""
        if state in _REMEDIES or state[:2] in _REMEDIES:
            return self._explain_state(state, cause)
        if not state and isinstance(cause, (psycopg.OperationalError, psycopg.InterfaceError)):
            return StoreUnavailable(f"{self}: the connection to the database was lost; try again when it is back")
        return StoreError(f"{self}: the database refused: {self._address.mask(_first_line(cause))}")

    def _explain_state(self, state: str, cause: BaseException | None = None) -> StoreError:
        kind, remedy = _REMEDIES.get(state) or _REMEDIES[state[:2]]
        said = "" if cause is None else f" ({self._address.mask(_first_line(cause))})"
        return kind(f"{self}: {remedy}{said}")

    def _explain_connecting(self, error: psycopg.Error) -> StoreError:
        """By what the driver says: the server's answer to a login has no SQLSTATE there."""
        text = str(error)
        for sign, kind, remedy in _CONNECTING:
            if re.search(sign, text):
                return kind(f"{self}: {remedy}")
        return StoreUnavailable(f"{self}: the database cannot be reached: {self._address.mask(_first_line(error))}")


def _ask(connection: psycopg.Connection[Any], question: str, *parameters: Any) -> Any:
    """The one value that a query gives."""
    row = connection.execute(sql.SQL(question), parameters or None).fetchone()
    assert row is not None
    return row[0]


def _first_line(error: BaseException) -> str:
    """Without the driver's lines about where in the statement it was."""
    diagnosis = getattr(error, "diag", None)
    said = getattr(diagnosis, "message_primary", None) or str(error)
    return str(said).strip().partition("\n")[0]


def _describe_holder(row: tuple[Any, ...] | None) -> str:
    found = re.fullmatch(r"tradesweep (\d+) on (.+)", row[0] or "") if row is not None else None
    if row is None or found is None:
        return "another process"
    since = f" since {row[1].isoformat(timespec='seconds')}" if row[1] is not None else ""
    return f"process {found[1]} on {found[2]}{since}"


_SCHEMA = "SELECT current_schema()"
_ANYTHING = """
    SELECT EXISTS (
        SELECT FROM pg_class c WHERE c.relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = current_schema())
          AND NOT EXISTS (
            SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e'))
"""
"""Extensions put tables of their own into a schema; these are nobody's."""
_MARK_FOUND = f"SELECT obj_description(to_regclass(quote_ident(current_schema()) || '.{VERSIONS}'), 'pg_class')"
_QUALIFIED = "SELECT quote_ident(current_schema()) || '.' || quote_ident(%s)"
_SIZE = """
    SELECT coalesce(sum(pg_total_relation_size(c.oid)), 0) FROM pg_class c
    WHERE c.relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = current_schema())
      AND c.relkind = 'r' AND c.relname = ANY(%s)
"""

_REMEDIES: dict[str, tuple[type[StoreError], str]] = {
    "53100": (StoreUnavailable, "the server's disk is full; make room there"),
    "53300": (StoreUnavailable, "the server takes no more connections; close some, or raise its max_connections"),
    "25006": (StoreUnavailable, "the server takes no writes, it is read-only or a standby; name the primary"),
    "3F000": (
        StoreError,
        "the search path names no schema that exists; create it, or leave search_path out of the URL",
    ),
    "3D000": (StoreError, "there is no such database; create it, for example with `createdb`"),
    "28000": (StoreError, "the server refused the login; check user and password"),
    "28P01": (StoreError, "the server refused the login; check user and password"),
    "42501": (StoreError, "the user lacks a right; use a database that belongs to this user"),
    "42P01": (StoreError, "tables are missing; restore a backup (`tradesweep db backup` makes them)"),
    "08": (StoreUnavailable, "the connection to the database was lost; try again when it is back"),
    "40": (StoreUnavailable, "the server undid the transaction; try again"),
    "53": (StoreUnavailable, "the server is short of something; see its log"),
    "55": (StoreUnavailable, "another program holds a lock on the tables; wait for it, or end it"),
    "57": (StoreUnavailable, "the server ended the connection, or is starting or stopping; try again"),
}
"""SQLSTATE, or its class: whether it may pass, and what to do."""

_CONNECTING: tuple[tuple[str, type[StoreError], str], ...] = (
    (
        "authentication failed|no password supplied|role .* does not exist",
        StoreError,
        "the server refused the login; check user and password in TRADESWEEP_DB_URL, or in the password file",
    ),
    ("no pg_hba.conf entry", StoreError, "the server lets this user not in from here; change its pg_hba.conf"),
    ("database .* does not exist", *_REMEDIES["3D000"]),
    ("permission denied for database", *_REMEDIES["42501"]),
    ("too many (clients|connections)|remaining connection slots", *_REMEDIES["53300"]),
    ("starting up|shutting down|recovery mode|not yet accepting", *_REMEDIES["57"]),
    (
        "resolve host|translate host name|not known",
        StoreUnavailable,
        "there is no host of that name; check TRADESWEEP_DB_URL (signs of the password are written as %40 or %2F)",
    ),
    (
        "refused|No such file|timeout expired|timed out|No route|unreachable",
        StoreUnavailable,
        "no server answers there; start it, or check host and port in TRADESWEEP_DB_URL",
    ),
    (
        "invalid (integer value|port)",
        StoreError,
        "the port must be a number; check TRADESWEEP_DB_URL (signs of the password are written as %40 or %2F)",
    ),
    ("closed the connection", *_REMEDIES["57"]),
)
"""What the driver says when it cannot connect."""
