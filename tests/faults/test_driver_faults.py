"""The driver is killed, stopped, started twice and robbed of Ray: the same words go on, and nothing stays behind."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.faults.invariants import ProcessMark, SqliteDatabase, check_invariants, check_processes
from tests.faults.sweeps import finish, iterations, query, wait_until

from tradesweep.sweep.leftovers import processes_of

KILLS = int(os.environ.get("TRADESWEEP_DRIVER_KILLS", "3"))
PATIENCE_S = 120.0
"""For what takes seconds on a quiet machine."""

pytestmark = [pytest.mark.fault, pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600 + 60 * KILLS)]


@dataclass(frozen=True)
class Terminal:
    """A workplace whose commands have a temporary folder of their own, and a process group each, as in a terminal."""

    workplace: Any
    temporary: Path

    @property
    def database(self) -> Path:
        return Path(self.workplace.database)

    @property
    def environment(self) -> dict[str, str]:
        return self.workplace.environment | {"TMPDIR": str(self.temporary)}

    @contextmanager
    def running(self, *arguments: str) -> Iterator[subprocess.Popen[str]]:
        process = subprocess.Popen(
            self.workplace.command(*arguments),
            cwd=self.workplace.root,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()
                process.communicate()

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return self.workplace.run(*arguments, **{"TMPDIR": str(self.temporary)} | environment)

    def sessions(self) -> list[Path]:
        return sorted(self.temporary.glob("ts-*"))

    def session_processes(self) -> list[psutil.Process]:
        """Ray's processes of the sessions that are there."""
        return [process for found in processes_of(self.sessions()).values() for process in found]

    def find_process(self, name: str) -> psutil.Process:
        """One of Ray's own servers."""
        return next(process for process in self.session_processes() if process.name() == name)


@pytest.fixture
def terminal(make_workplace: Callable[[], Any]) -> Iterator[Terminal]:
    temporary = Path(tempfile.mkdtemp(prefix="d", dir="/tmp"))
    yield Terminal(make_workplace(), temporary)
    shutil.rmtree(temporary, ignore_errors=True)


def check_quiet(printed: str) -> None:
    """Nothing of Ray's own, and no traceback, reaches a person."""
    for noise in ("Traceback", "(raylet)", "rpc_client", "*** SIG", "WARNING", "core_worker", "ray::"):
        assert noise not in printed, printed


def check_finished(terminal: Terminal, trials: int, count: int) -> None:
    """Every trial once and finished, each of its iterations once, every rule green."""
    database = SqliteDatabase(terminal.database)
    rows = database.rows("select trial_no, status from trials order by trial_no")
    assert rows == [(trial_no, "FINISHED") for trial_no in range(trials)]
    sql = "select count(*), count(distinct iteration), max(iteration) from effective_iterations group by trial_id"
    assert database.rows(sql) == [(count, count, count)] * trials
    check_invariants(terminal.database)


# --- killed ---------------------------------------------------------------------------------------------------

LONG = ("--set", "budget.env_steps_per_trial=32000")
SHORT = ("--set", "budget.env_steps_per_trial=16000")


def test_a_driver_killed_at_random_moments_ends_with_every_trial_once(terminal: Terminal) -> None:
    chance = random.Random(23)
    done, left = [0], []
    for _ in range(KILLS):
        with terminal.running("sweep", "tiny_dqn", *LONG) as process:
            if chance.random() < 0.8:
                wait_until(lambda: iterations_done(terminal) > done[-1], process)
                check_gone(left)
                left = []
                time.sleep(chance.uniform(0.0, 2.0))
            else:  # perhaps before there is a Ray, or a database
                time.sleep(chance.uniform(0.0, 6.0))
            left += [ProcessMark.of(found.pid) for found in terminal.session_processes()]
            process.kill()
            process.communicate()
        done.append(iterations_done(terminal))
    assert done == sorted(done), "what was done stays done"
    finished = terminal.run("sweep", "tiny_dqn", *LONG)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    check_gone(left)
    assert terminal.sessions() == []
    check_finished(terminal, trials=3, count=8)
    check_little_was_repeated(terminal)
    assert query(terminal.database, "select 1 from attempts where resumed_from_iteration > 0"), "not from nothing"
    board = json.loads(terminal.run("sweep", "tiny_dqn", *LONG, "--json").stdout)["leaderboard"]
    assert sorted(row["trial_no"] for row in board["rows"]) == [0, 1, 2]


def iterations_done(terminal: Terminal) -> int:
    rows = query(terminal.database, "select count(*) from effective_iterations")
    return int(rows[0][0]) if rows else 0


def check_gone(processes: list[ProcessMark]) -> None:
    """Once the next sweep trains, or has ended, nothing of the killed one lives."""
    check_processes(processes, 0.0)


def check_little_was_repeated(terminal: Terminal) -> None:
    """Each attempt that was cut off lost less than two training steps more than the iteration it was at."""
    sql = """
        select t.trial_id, t.env_steps, t.attempts, sum(p.steps_recorded) from trials t join producers p
        on p.trial_id = t.trial_id and p.role = 'runner' group by t.trial_id
    """
    for trial_id, env_steps, attempts, recorded in query(terminal.database, sql):
        iteration = env_steps / 8
        assert recorded - env_steps <= (attempts - 1) * (iteration + 2 * 64), (trial_id, attempts)


# --- Ray dies -------------------------------------------------------------------------------------------------


def test_without_ray_the_driver_says_so_in_a_line_and_the_same_command_goes_on(terminal: Terminal) -> None:
    for name in ("gcs_server", "raylet"):
        with terminal.running("sweep", "tiny_dqn", *SHORT) as process:
            before = iterations(terminal)
            wait_until(lambda before=before: iterations(terminal) > before, process)
            terminal.find_process(name).kill()
            printed = finish(process, 60)
            assert process.returncode == 1, printed
        check_quiet(printed)
        assert f"{name} has ended" in printed
    finished = terminal.run("sweep", "tiny_dqn", *SHORT)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    check_finished(terminal, trials=3, count=8)


# --- signals --------------------------------------------------------------------------------------------------


def test_ctrl_c_in_a_terminal_drains_and_names_the_command_that_goes_on(terminal: Terminal) -> None:
    with terminal.running("sweep", "tiny_dqn", *SHORT) as process:
        wait_until(lambda: iterations(terminal) >= 2, process)
        os.killpg(process.pid, signal.SIGINT)  # a terminal sends it to every process of the group
        printed = finish(process, PATIENCE_S)
        assert process.returncode == 130, printed
    check_quiet(printed)
    assert "tradesweep sweep tiny_dqn --set budget.env_steps_per_trial=16000" in printed
    assert {row[0] for row in query(terminal.database, "select status from trials")} <= {"INTERRUPTED", "FINISHED"}
    assert query(terminal.database, "select distinct end_reason from producers") == [("DONE",)]
    assert terminal.sessions() == []
    assert terminal.run("verify").returncode == 0

    with terminal.running("sweep", "tiny_dqn", *SHORT) as process:
        before = iterations(terminal)
        wait_until(lambda: iterations(terminal) > before, process)
        stopped = terminal.run("stop", "tiny_dqn", "--now")
        assert stopped.returncode == 0, stopped.stdout + stopped.stderr
        # A shell calls both 143; the second signal may come when all is saved and Python has its own handlers again.
        assert process.wait(10) in (143, -signal.SIGTERM)
        left = [ProcessMark.of(found.pid) for found in terminal.session_processes()]
    corrupt_what_ray_tune_keeps(terminal)
    finished = terminal.run("sweep", "tiny_dqn", *SHORT)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    check_gone(left)
    check_finished(terminal, trials=3, count=8)


def corrupt_what_ray_tune_keeps(terminal: Terminal) -> None:
    """Some of Tune's files are empty, some are cut, the others are gone; and the clock goes wrong by a day."""
    files = [path for path in terminal.workplace.home.glob("sweeps/*/tune/**/*") if path.is_file()]
    assert files
    for number, path in enumerate(files):
        data = path.read_bytes()
        path.unlink() if number % 3 == 0 else path.write_bytes(data[: len(data) // 2] if number % 3 == 1 else b"")
    with closing(sqlite3.connect(terminal.database)) as db, db:
        db.execute("update sweeps set driver_pid = ?, driver_started_at = driver_started_at + 86400000000", (1,))


def test_a_signal_before_anything_runs_ends_the_command_in_order(terminal: Terminal) -> None:
    with terminal.running("sweep", "tiny_dqn", *SHORT) as process:
        wait_until(terminal.sessions, process)
        os.killpg(process.pid, signal.SIGTERM)
        printed = finish(process, PATIENCE_S)
        assert process.returncode == 143, printed
    check_quiet(printed)
    assert query(terminal.database, "select count(*) from trials") in ([], [(0,)])
    assert terminal.sessions() == []


# --- twice, and changed ---------------------------------------------------------------------------------------


def test_of_two_that_start_together_one_runs_and_a_changed_spec_says_what_changed(terminal: Terminal) -> None:
    with terminal.running("sweep", "tiny_dqn") as one, terminal.running("sweep", "tiny_dqn") as other:
        printed = {process.pid: finish(process, 240) for process in (one, other)}
    winner, loser = (one, other) if one.returncode == 0 else (other, one)
    assert (winner.returncode, loser.returncode) == (0, 1), printed
    assert f"is being run by process {winner.pid}" in printed[loser.pid]
    check_finished(terminal, trials=3, count=8)
    shown = terminal.run("sweep", "tiny_dqn", "--json")
    assert json.loads(shown.stdout)["already_finished"]
    changed = terminal.run("plan", "tiny_dqn", "--set", "fixed.gamma=0.95", "--json")
    (difference,) = json.loads(changed.stdout)["changed_since"]["differences"]
    assert difference == {"key": "fixed.gamma", "before": "0.9", "after": "0.95"}
    said = terminal.run("plan", "tiny_dqn", "--set", "fixed.gamma=0.95").stdout
    assert "fixed.gamma: 0.9 -> 0.95" in said


# --- hostile places -------------------------------------------------------------------------------------------


def test_a_strange_place_few_files_and_no_home_are_enough(terminal: Terminal) -> None:
    strange = terminal.workplace.root / "a place with ☃ and blanks"
    strange.mkdir()
    for name in ("experiments.yaml", "sweeps"):
        (terminal.workplace.root / name).rename(strange / name)
    command = ["bash", "-c", 'ulimit -n 256; exec "$@"', "bash", *terminal.workplace.command("sweep", "tiny_dqn")]
    poor = terminal.environment | {"LC_ALL": "C", "HOME": "/proc/none"}

    def sweep(**more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, cwd=strange, env=poor | more, capture_output=True, text=True, timeout=240, check=False
        )

    mute = sweep(PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    assert mute.returncode == 2
    assert "PYTHONUTF8=1" in mute.stderr
    done = sweep()
    assert done.returncode == 0, done.stdout + done.stderr
    check_quiet(done.stderr)
    with closing(sqlite3.connect(strange / "runs" / "tradesweep.db")) as db:
        assert db.execute("select status, count(*) from trials group by 1").fetchall() == [("FINISHED", 3)]
