"""A private PostgreSQL server for tests: in a folder of its own, on a free port, with a password nobody else has.

Its programs are those of the machine, else those of the PyPI package `pgserver`.
"""

from __future__ import annotations

import importlib.util
import itertools
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any

USER = "tradesweep_tests"
STOP = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}
"""How a server ends: it waits for its clients, it sends them away, or it is as if it had crashed."""
START_TIMEOUT_S = 60.0
ROOM = 4 * 2**30
SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "max_connections": "60",
    "shared_buffers": "128MB",
    "max_wal_size": "2GB",
    "timezone": "UTC",
}


def find_programs() -> Path | None:
    """The folder of `initdb` and `postgres`: of the machine, else of the package `pgserver`."""
    found = shutil.which("postgres")
    folders = [Path(found).resolve().parent] if found else []
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    package = importlib.util.find_spec("pgserver")
    if package is not None:
        folders += [Path(place) / "pginstall" / "bin" for place in package.submodule_search_locations or []]
    return next((folder for folder in folders if (folder / "initdb").exists()), None)


class PostgresServer:
    """One server, from `start` to `close`. With `durable` it waits for the disk, as a real one does."""

    def __init__(self, programs: Path, *, durable: bool = False) -> None:
        self.programs = programs
        self.password = f"pw-{secrets.token_hex(12)}"
        self.port = _free_port()
        self.settings = SETTINGS | {"fsync": "on" if durable else "off"}
        self.folder = Path(tempfile.mkdtemp(prefix="pg-", dir=None if durable else _find_memory()))
        self._numbers = itertools.count(1)
        self._process: subprocess.Popen[bytes] | None = None
        self._become: dict[str, Any] = {"user": "nobody", "extra_groups": []} if os.geteuid() == 0 else {}
        self._initialise()
        self.start()

    def __enter__(self) -> PostgresServer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")

    def _initialise(self) -> None:
        """A server refuses to run as root: there it runs as nobody."""
        if self._become:
            shutil.chown(self.folder, "nobody")
        password_file = self.folder / "password"
        password_file.touch(mode=0o644)
        password_file.write_text(self.password)
        command = [self.programs / "initdb", "-D", self.data, "-U", USER, "-A", "scram-sha-256", "--no-sync"]
        options = [f"--pwfile={password_file}", "--encoding=UTF8", "--locale=C"]
        done = subprocess.run([*command, *options], capture_output=True, check=False, **self._surroundings())
        password_file.unlink()
        assert done.returncode == 0, done.stderr.decode()

    def _surroundings(self) -> dict[str, Any]:
        return {"cwd": "/", "env": {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}, **self._become}

    def start(self) -> None:
        """Start it and wait until it answers; nothing happens while it runs."""
        if self._process is not None:
            return
        options = [f"--{name}={value}" for name, value in self.settings.items()]
        command = [self.programs / "postgres", "-D", self.data, "-p", str(self.port), "-k", self.folder, *options]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, **self._surroundings())
        self._wait_for_answer()

    def _wait_for_answer(self) -> None:
        import psycopg

        until = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                psycopg.connect(self.url("postgres"), connect_timeout=5).close()
                return
            except psycopg.OperationalError:
                assert self._process is not None
                assert self._process.poll() is None, self.log
                assert time.monotonic() < until, self.log
                time.sleep(0.05)

    def stop(self, mode: str = "fast") -> None:
        """Stop it, and wait until it has; nothing happens when it does not run."""
        if self._process is not None:
            self._process.send_signal(STOP[mode])
            self._process.wait(timeout=60)
            self._process = None

    def restart(self, mode: str = "fast") -> None:
        self.stop(mode)
        self.start()

    def close(self) -> None:
        self.stop("immediate")
        shutil.rmtree(self.folder, ignore_errors=True)

    def url(self, database: str) -> str:
        """Where a database of that name would be."""
        return f"postgresql://{USER}:{self.password}@127.0.0.1:{self.port}/{database}"

    def execute(self, sql: str, database: str = "postgres") -> list[tuple[Any, ...]]:
        """Run one statement as the server's owner; its rows, if it has any."""
        import psycopg

        with psycopg.connect(self.url(database), autocommit=True) as connection:
            cursor = connection.execute(sql)  # type: ignore[call-overload]
            return cursor.fetchall() if cursor.description else []

    def new_database(self, template: str | None = None) -> str:
        """Make an empty database, or a copy of one; its URL."""
        name = f"test_{next(self._numbers)}"
        self.execute(f"CREATE DATABASE {name}" + (f" TEMPLATE {database_of(template)}" if template else ""))
        return self.url(name)

    def drop_database(self, url: str) -> None:
        """Delete a database, whoever is connected to it."""
        self.execute(f"DROP DATABASE IF EXISTS {database_of(url)} WITH (FORCE)")


def _find_memory() -> Path | None:
    """A folder that is memory, if there is one with room: databases of tests are many, and short-lived."""
    memory = Path("/dev/shm")
    return memory if os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > ROOM else None


def database_of(url: str) -> str:
    """The name in a URL of `new_database`."""
    return url.rsplit("/", 1)[1].partition("?")[0]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
