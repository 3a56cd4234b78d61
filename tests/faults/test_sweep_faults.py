"""A sweep that is interrupted or robbed of a process goes on with the same command and counts every trial once."""

from __future__ import annotations

import os
import re
import signal
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import pytest
from tests.faults.invariants import check_invariants
from tests.faults.sweeps import finish, iterations, query, running, wait_until

pytestmark = [pytest.mark.fault, pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]

LONGER = ("--set", "budget.env_steps_per_trial=16000")
ONE_TRIAL = (*LONGER, "--set", "budget.trials=1")


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


def test_stop_from_another_terminal_drains_and_the_same_command_goes_on(make_workplace) -> None:
    workplace = make_workplace()
    with running(workplace, "sweep", "tiny_dqn", *LONGER) as process:
        wait_until(lambda: iterations(workplace) >= 3, process)
        stopped = workplace.run("stop", "tiny_dqn")
        assert stopped.returncode == 0, stopped.stdout + stopped.stderr
        assert process.wait(timeout=10) == 143
    statuses = {row[0] for row in query(workplace.database, "select status from trials")}
    assert statuses <= {"INTERRUPTED", "FINISHED"}
    assert not query(workplace.database, "select 1 from episodes where status = 'OPEN'")
    done = workplace.run("sweep", "tiny_dqn", *LONGER)
    assert done.returncode == 0, done.stdout + done.stderr
    check_whole(workplace, 3)


def test_a_killed_worker_crashes_its_trial_and_no_other(make_workplace) -> None:
    workplace = make_workplace()
    with running(workplace, "sweep", "tiny_dqn", *LONGER) as process:
        wait_until(lambda: iterations(workplace) >= 2, process)
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
        wait_until(lambda: iterations(workplace) >= 2, process)
        holder = (workplace.database.parent / "tradesweep.db.lock").read_text()
        pid = int("".join(character if character.isdigit() else " " for character in holder).split()[0])
        os.kill(pid, signal.SIGKILL)
        assert process.wait(timeout=240) == 0
    check_whole(workplace, 3)


def test_a_killed_worker_is_tried_again_from_its_last_checkpoint(make_workplace) -> None:
    workplace = make_workplace()
    # Iterations of seconds: in one of less than half a second, all its steps come as one batch at its end.
    settings = "budget.max_retries=1 budget.trials=1 budget.env_steps_per_trial=80000"
    with running(workplace, "sweep", "tiny_dqn", "--set", settings) as process:
        wait_until(lambda: past_iteration(workplace, 2), process)
        ((pid,),) = query(workplace.database, "select pid from attempts")
        os.kill(pid, signal.SIGKILL)
        printed = finish(process)
        assert process.returncode == 0, printed
    sql = "select attempt, status, resumed_from_iteration from attempts order by attempt"
    assert query(workplace.database, sql) == [(1, "CRASHED", None), (2, "FINISHED", 2)]
    first = query(workplace.database, "select min(iteration) from iterations where attempt = 2")
    assert first == [(3,)]
    past = """
        select count(*), sum(e.total_steps > e.effective_steps) from episodes e
        where e.attempt = 1 and e.role = 'train' and e.effective_steps is not null
    """
    ((cut, superseded),) = query(workplace.database, past)
    assert cut > 0
    assert superseded > 0, "what the first attempt did after its checkpoint is there and does not count"
    check_whole(workplace, 1)
    check_invariants(workplace.database)


def past_iteration(workplace: Any, iteration: int) -> bool:
    """Steps were recorded after this iteration, and the next one was not."""
    sql = """
        select max(i.iteration), max(i.env_steps) from iterations i
        union all select 0, sum(p.steps_recorded) from producers p where p.role = 'runner'
    """
    (last, trained), (_, recorded) = query(workplace.database, sql) or [(0, 0), (0, 0)]
    return bool(last == iteration and recorded > trained)


@contextmanager
def locked(database: Any, seconds: float) -> Iterator[None]:
    """Another program holds the database for so long."""
    with closing(sqlite3.connect(database, timeout=60, isolation_level=None, check_same_thread=False)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        release = threading.Timer(seconds, connection.rollback)
        release.start()
        try:
            yield
        finally:
            release.cancel()
            release.join()


def test_a_database_that_is_locked_for_a_while_holds_the_sweep_up_and_no_more(make_workplace) -> None:
    workplace = make_workplace()
    with running(workplace, "sweep", "tiny_dqn", *ONE_TRIAL) as process:
        wait_until(lambda: iterations(workplace) >= 2, process)
        with locked(workplace.database, 15):
            held = iterations(workplace)
            time.sleep(10)
            assert iterations(workplace) == held, "nothing is committed, nothing is dropped"
            printed = finish(process)
        assert process.returncode == 0, printed
    assert query(workplace.database, "select sum(steps_dropped) from producers") == [(0,)]
    check_whole(workplace, 1)
    check_invariants(workplace.database)


def test_a_database_that_stays_locked_ends_the_sweep_with_its_name(make_workplace) -> None:
    workplace = make_workplace()
    with running(workplace, "sweep", "tiny_dqn", *ONE_TRIAL, "--set", "recording.db_timeout_s=8") as process:
        wait_until(lambda: iterations(workplace) >= 2, process)
        with locked(workplace.database, 600):
            printed = finish(process, 180)
            assert process.returncode == 1, printed
            assert "holds a lock on the database" in printed
    logs = "".join(path.read_text() for path in workplace.home.glob("sweeps/*/logs/trial-*.log"))
    assert re.search(r"must be committed within 8 s \(recording.db_timeout_s\), was not: .*holds a lock", logs)
    done = workplace.run("sweep", "tiny_dqn", *ONE_TRIAL)
    assert done.returncode == 0, done.stdout + done.stderr
    check_invariants(workplace.database)


def test_a_second_sweep_on_the_same_database_is_refused_and_leaves_nothing(make_workplace) -> None:
    workplace = make_workplace()
    with running(workplace, "sweep", "tiny_dqn", *ONE_TRIAL) as process:
        wait_until(lambda: iterations(workplace) >= 1, process)
        before = sorted(path.name for path in workplace.home.glob("sweeps/*"))
        second = workplace.run("sweep", "tiny_ppo", timeout_s=60)
        assert second.returncode == 1, second.stdout + second.stderr
        assert f"is being run by process {process.pid}" in second.stderr
        assert "Traceback" not in second.stderr
        assert sorted(path.name for path in workplace.home.glob("sweeps/*")) == before
        printed = finish(process)
        assert process.returncode == 0, printed
    assert query(workplace.database, "select experiment from sweeps") == [("tiny_dqn",)]
    check_whole(workplace, 1)
