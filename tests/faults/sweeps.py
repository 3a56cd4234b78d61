"""A real sweep in a process of its own, and looks at the database that it writes."""

from __future__ import annotations

import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any


def query(database: Any, sql: str, *values: Any) -> list[tuple[Any, ...]]:
    """Rows of the database; none while it does not exist."""
    try:
        with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
            return connection.execute(sql, values).fetchall()
    except sqlite3.OperationalError:
        return []


def wait_until(
    true: Callable[[], object], process: subprocess.Popen[str] | None = None, timeout_s: float = 240
) -> None:
    """Wait until it is true; not on when the process that should make it true has ended."""
    deadline = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < deadline, f"waited {timeout_s:g} s in vain"
        assert process is None or process.poll() is None, f"the command ended: {process.communicate()[0]}"
        time.sleep(0.1)


@contextmanager
def running(workplace: Any, *arguments: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """The command under way; killed at the end of the block if it still is."""
    process = subprocess.Popen(
        workplace.command(*arguments),
        cwd=workplace.root,
        env=workplace.environment | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


def finish(process: subprocess.Popen[str], timeout_s: float = 240) -> str:
    """Wait for the end of the command; what it printed."""
    return process.communicate(timeout=timeout_s)[0]


def iterations(workplace: Any) -> int:
    """Results that were recorded so far."""
    rows = query(workplace.database, "select count(*) from iterations")
    return rows[0][0] if rows else 0
