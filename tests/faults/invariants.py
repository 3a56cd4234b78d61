"""What must hold in a finished recording, whatever was killed while it ran.

The checks are plain SQL of their own, so that a mistake in the rules of `verify` cannot hide one in the writer; the
rules of `verify` are asked last. The SQL is what SQLite and PostgreSQL both understand.
"""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import psutil

from tradesweep.store import open_store, verify

EPISODE = 2**24
"""Step ids per episode: `step_id / EPISODE` is the episode."""


class Database(Protocol):
    """A database that can be asked."""

    url: str
    """What `open_store` takes."""

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """All rows of a query."""
        ...


class SqliteDatabase:
    """A file, read through Python's own driver."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.url = os.fspath(path)
        self._connection = sqlite3.connect(f"file:{self.url}?mode=ro", uri=True)

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        return self._connection.execute(sql).fetchall()


@dataclass(frozen=True)
class Ack:
    """What a client was told is committed: one batch, and the step ids it brought as (first, last) of each run."""

    producer_no: int
    seq: int
    spans: Sequence[Sequence[int]] = ()
    fills: int = 0
    trades: int = 0

    @classmethod
    def read_log(cls, path: Path) -> list[Ack]:
        """All whole lines of a log; a kill may have cut the last one."""
        text = path.read_text() if path.exists() else ""
        return [cls(**json.loads(line)) for line in text.splitlines(keepends=True) if line.endswith("\n")]


@dataclass(frozen=True)
class ProcessMark:
    """A process, told apart from a later one with the same number."""

    pid: int
    started_at: float

    @classmethod
    def of(cls, pid: int) -> ProcessMark:
        return cls(pid, psutil.Process(pid).create_time())

    def is_alive(self) -> bool:
        try:
            process = psutil.Process(self.pid)
            return process.create_time() == self.started_at and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False


def check_invariants(
    database: Database | str | os.PathLike[str],
    *,
    acks: Iterable[Ack] = (),
    processes: Iterable[ProcessMark] = (),
    deadline_s: float = 60.0,
) -> None:
    """Raise AssertionError, naming the invariant, when one is broken.

    `acks` is what clients were told, `processes` what must be gone within `deadline_s`.
    """
    asked = SqliteDatabase(database) if isinstance(database, str | os.PathLike) else database
    for name, sql in BROKEN.items():
        found = asked.rows(sql)
        assert not found, f"{name}: {len(found)} rows, such as {found[:3]}"
    check_acks(asked, acks)
    if isinstance(asked, SqliteDatabase):
        check_file(asked)
    check_processes(processes, deadline_s)
    check_rules(asked)


def _doubles(table: str, key: str) -> str:
    return f"SELECT {key}, count(*) FROM {table} GROUP BY {key} HAVING count(*) > 1"


BROKEN = {
    "I1 no step twice": _doubles("steps", "step_id"),
    "I1 no bar of an episode twice": _doubles(
        f"(SELECT step_id / {EPISODE} AS episode_no, bar FROM steps) s", "episode_no, bar"
    ),
    "I1 no fill twice": _doubles("fills", "step_id, leg"),
    "I1 no trade twice": _doubles("trades", "episode_no, trade_no"),
    "I1 no episode twice": _doubles("episodes", "episode_no"),
    "I1 no iteration of an attempt twice": _doubles("iterations", "trial_id, attempt, iteration"),
    "I1 no checkpoint of an attempt twice": _doubles("checkpoints", "trial_id, attempt, iteration"),
    "I1 no evaluation of an attempt twice": _doubles(
        "evaluations", "trial_id, attempt, iteration, split, cost_multiplier"
    ),
    "I1 no trial twice": _doubles("trials", "sweep_id, trial_no"),
    "I1 no incarnation twice": _doubles("producers", "sweep_id, trial_id, attempt, role, worker, epoch"),
    "I2 an incarnation's batches are 1 to last_seq": (
        "SELECT producer_no, last_seq, batches FROM producers WHERE batches <> last_seq"
    ),
    "I2 a producer's epochs are 1, 2, 3 and so on": """
        SELECT sweep_id, trial_id, attempt, role, worker, min(epoch), max(epoch), count(*) FROM producers
        GROUP BY sweep_id, trial_id, attempt, role, worker HAVING min(epoch) <> 1 OR max(epoch) <> count(*)
    """,
    "I2 a producer's steps are those its batches brought": f"""
        SELECT p.producer_no, p.steps_recorded, count(s.step_id) FROM producers p
        LEFT JOIN episodes e ON e.producer_no = p.producer_no
        LEFT JOIN steps s ON s.step_id BETWEEN e.episode_no * {EPISODE} AND e.episode_no * {EPISODE} + {EPISODE - 1}
        GROUP BY p.producer_no, p.steps_recorded HAVING p.steps_recorded <> count(s.step_id)
    """,
    "I3 a closed episode has the steps and the reward it says": f"""
        SELECT e.episode_no, e.status, e.total_steps, count(s.step_id), e.total_reward, sum(s.reward)
        FROM episodes e JOIN producers p ON p.producer_no = e.producer_no
        LEFT JOIN steps s ON s.step_id BETWEEN e.episode_no * {EPISODE} AND e.episode_no * {EPISODE} + {EPISODE - 1}
        WHERE e.status <> 'OPEN' AND NOT (e.role = 'train' AND p.steps_dropped > 0 AND p.steps_recorded = 0)
        GROUP BY e.episode_no, e.status, e.total_steps, e.total_reward
        HAVING e.total_steps IS NULL OR e.total_steps <> count(s.step_id)
          OR abs(e.total_reward - coalesce(sum(s.reward), 0.0)) > 1e-9 * (1.0 + coalesce(sum(abs(s.reward)), 0.0))
    """,
    "I3 no step without its episode": f"""
        SELECT step_id FROM steps WHERE step_id / {EPISODE} NOT IN (SELECT episode_no FROM episodes)
    """,
    "I4 no episode is open": "SELECT episode_no, producer_no FROM episodes WHERE status = 'OPEN'",
    "I4 no trial runs": "SELECT trial_id, status FROM trials WHERE status IN ('PENDING', 'RUNNING')",
    "I4 no attempt runs": "SELECT trial_id, attempt, status FROM attempts WHERE status IN ('PENDING', 'RUNNING')",
    "I4 no producer goes on": "SELECT producer_no FROM producers WHERE ended_at IS NULL",
    "I6 an iteration counts once": _doubles("effective_iterations", "trial_id, iteration"),
    "I6 a checkpoint counts once": _doubles("effective_checkpoints", "trial_id, iteration"),
    "I6 an evaluation counts once": _doubles("effective_evaluations", "trial_id, iteration, split, cost_multiplier"),
    "I6 iterations that count are 1, 2, 3 and so on": """
        SELECT trial_id, min(iteration), max(iteration), count(*) FROM effective_iterations
        GROUP BY trial_id HAVING min(iteration) <> 1 OR max(iteration) <> count(*)
    """,
}
"""Each invariant as a query for what breaks it."""


def check_acks(database: Database, acks: Iterable[Ack]) -> None:
    """I5: what a client was told is committed is there."""
    applied = dict(database.rows("SELECT producer_no, last_seq FROM producers"))
    for ack in acks:
        assert applied.get(ack.producer_no, 0) >= ack.seq, f"I5 acknowledged and not applied: {ack}"
        assert all(_count(database, "steps", "step_id", span) == span[1] - span[0] + 1 for span in ack.spans), (
            f"I5 acknowledged steps are missing: {ack}"
        )
        fills = sum(_count(database, "fills", "step_id", span) for span in ack.spans)
        trades = sum(_count(database, "trades", "exit_step_id", span) for span in ack.spans)
        assert fills == ack.fills, f"I5 {fills} fills in the place of {ack}"
        assert trades >= ack.trades, f"I5 {trades} trades in the place of {ack}"


def _count(database: Database, table: str, column: str, span: Sequence[int]) -> int:
    where = f"{column} BETWEEN {span[0]} AND {span[1]}"
    if table == "trades":  # its key is the episode; the database has no index on the steps
        where += f" AND episode_no BETWEEN {span[0] // EPISODE} AND {span[1] // EPISODE}"
    return int(database.rows(f"SELECT count(*) FROM {table} WHERE {where}")[0][0])


def check_file(database: SqliteDatabase) -> None:
    """I7: the file is sound."""
    assert database.rows("PRAGMA integrity_check") == [("ok",)], "I7 integrity_check"
    assert database.rows("PRAGMA foreign_key_check") == [], "I7 foreign_key_check"


def check_processes(processes: Iterable[ProcessMark], deadline_s: float) -> None:
    """I8: nobody is left behind."""
    wanted = list(processes)
    until = time.monotonic() + deadline_s
    while left := [process for process in wanted if process.is_alive()]:
        assert time.monotonic() < until, f"I8 still alive after {deadline_s:g} s: {left}"
        time.sleep(0.1)


def check_rules(database: Database) -> None:
    """Every rule of `verify`."""
    broken = [result for result in verify(open_store(database.url)) if not result.passed]
    assert not broken, "verify: " + "; ".join(f"{rule.rule}: {rule.examples[:2]}" for rule in broken)
