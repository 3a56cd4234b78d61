"""A sweep that is interrupted or robbed of a process goes on with the same command and counts every trial once."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

pytestmark = [pytest.mark.fault, pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]

LONGER = ("--set", "budget.env_steps_per_trial=16000")


def query(database: Any, sql: str, *values: Any) -> list[tuple[Any, ...]]:
    try:
        connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True)
        try:
            return connection.execute(sql, values).fetchall()
        finally:
            connection.close()
    except sqlite3.OperationalError:
        return []


def wait_until(true: Callable[[], bool], timeout_s: float = 240) -> None:
    deadline = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.2)


@contextmanager
def running(workplace: Any, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        workplace.command(*arguments),
        cwd=workplace.root,
        env=workplace.environment,
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


def iterations(workplace: Any) -> int:
    rows = query(workplace.database, "select count(*) from iterations")
    return rows[0][0] if rows else 0


def check_whole(workplace: Any, trials: int) -> None:
    """Every trial once and finished, every iteration once in the effective view, all rules green."""
    rows = query(workplace.database, "select trial_no, status from trials order by trial_no")
    assert [row[0] for row in rows] == list(range(trials))
    assert {row[1] for row in rows} == {"FINISHED"}
    for trial_id, count, distinct, last in query(
        workplace.database,
        "select trial_id, count(*), count(distinct iteration), max(iteration) from effective_iterations group by 1",
    ):
        assert count == distinct == last == 8, trial_id
    done = workplace.run("verify")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_drains_and_the_same_command_goes_on(make_workplace, number: int, code: int) -> None:
    workplace = make_workplace()
    with running(workplace, "sweep", "tiny_dqn", *LONGER) as process:
        wait_until(lambda: iterations(workplace) >= 3)
        process.send_signal(number)
        assert process.wait(timeout=60) == code
    statuses = {row[0] for row in query(workplace.database, "select status from trials")}
    assert statuses <= {"INTERRUPTED", "FINISHED"}
    assert not query(workplace.database, "select 1 from episodes where status = 'OPEN'")
    done = workplace.run("sweep", "tiny_dqn", *LONGER)
    assert done.returncode == 0, done.stdout + done.stderr
    check_whole(workplace, 3)


def test_a_killed_driver_leaves_a_sweep_that_goes_on(make_workplace) -> None:
    workplace = make_workplace()
    with running(workplace, "sweep", "tiny_dqn", *LONGER) as process:
        wait_until(lambda: iterations(workplace) >= 5)
        process.kill()
    done = workplace.run("sweep", "tiny_dqn", *LONGER)
    assert done.returncode == 0, done.stdout + done.stderr
    resumed = query(workplace.database, "select resumed_from_iteration from attempts where resumed_from_iteration > 0")
    assert resumed, "trials went on from their checkpoints, not from nothing"
    check_whole(workplace, 3)


def test_a_killed_worker_crashes_its_trial_and_no_other(make_workplace) -> None:
    workplace = make_workplace()
    with running(workplace, "sweep", "tiny_dqn", *LONGER) as process:
        wait_until(lambda: iterations(workplace) >= 2)
        trial_id, pid = query(
            workplace.database, "select trial_id, pid from attempts where status = 'RUNNING' limit 1"
        )[0]
        os.kill(pid, signal.SIGKILL)
        assert process.wait(timeout=240) == 0
    statuses = dict(query(workplace.database, "select trial_id, status from trials"))
    assert statuses.pop(trial_id) == "CRASHED"
    assert set(statuses.values()) == {"FINISHED"}
    assert workplace.run("verify").returncode == 0


def test_a_killed_recorder_loses_nothing(make_workplace) -> None:
    workplace = make_workplace()
    with running(workplace, "sweep", "tiny_dqn", *LONGER) as process:
        wait_until(lambda: iterations(workplace) >= 2)
        holder = (workplace.database.parent / "tradesweep.db.lock").read_text()
        pid = int("".join(character if character.isdigit() else " " for character in holder).split()[0])
        os.kill(pid, signal.SIGKILL)
        assert process.wait(timeout=240) == 0
    check_whole(workplace, 3)
