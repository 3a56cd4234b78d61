"""The driver is killed, stopped, started twice and robbed of Ray: the same words go on, and nothing stays behind."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import random
import shutil
import signal
import sqlite3
import struct
import subprocess
import tempfile
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.faults.invariants import ProcessMark, SqliteDatabase, check_invariants, check_processes
from tests.faults.planted import STRIKES_AFTER
from tests.faults.planting import plant
from tests.faults.sweeps import finish, iterations, query, wait_until

from tradesweep.sweep.leftovers import processes_of
from tradesweep.sweep.signals import DRAIN_TRIALS_S

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

    def has_process(self, name: str) -> bool:
        """Does it run already; a process may end while it is looked at."""
        with suppress(psutil.Error):
            return any(process.name() == name for process in self.session_processes())
        return False


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
    done, left, cut = [0], [], 0
    for number in range(KILLS):
        with terminal.running("sweep", "tiny_dqn", *LONG) as process:
            if number % 3 == 1:  # perhaps before there is a Ray, or a database
                time.sleep(chance.uniform(0.0, 6.0))
            else:
                wait_until(lambda: iterations_done(terminal) > done[-1], process)
                check_gone(left)
                left = []
                time.sleep(chance.uniform(0.0, 2.0))
            left += [ProcessMark.of(found.pid) for found in terminal.session_processes()]
            process.kill()
            process.communicate()
        done.append(iterations_done(terminal))
        cut += done[-1] > done[-2] and trains(terminal)
    assert done == sorted(done), "what was done stays done"
    assert cut >= (2 * KILLS) // 3, "most kills hit trials that trained"
    finished = terminal.run("sweep", "tiny_dqn", *LONG)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    check_gone(left)
    assert terminal.sessions() == []
    check_finished(terminal, trials=3, count=8)
    check_little_was_repeated(terminal)
    assert query(terminal.database, "select 1 from attempts where resumed_from_iteration > 0"), "not from nothing"
    board = json.loads(terminal.run("sweep", "tiny_dqn", *LONG, "--json").stdout)["leaderboard"]
    assert sorted(row["trial_no"] for row in board["rows"]) == [0, 1, 2]


def trains(terminal: Terminal) -> bool:
    """Was a trial between two of its iterations when its driver was killed."""
    return bool(query(terminal.database, "select 1 from trials where status = 'RUNNING' and iterations > 0"))


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

    (tune,) = terminal.workplace.home.glob("sweeps/*/tune")
    shutil.rmtree(tune)
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


def test_a_trial_ends_with_the_evaluation_under_way_and_goes_on_from_it(terminal: Terminal) -> None:
    plant(terminal.workplace, "slow", [{"gamma": 0.98, "lr": 1e-3}])
    with terminal.running("sweep", "slow") as process:
        wait_until(lambda: iterations(terminal) == STRIKES_AFTER, process)  # the next one takes 13 s
        time.sleep(1.0)
        asked_at = time.time_ns() // 1000
        os.killpg(process.pid, signal.SIGINT)
        printed = finish(process, DRAIN_TRIALS_S)
        assert process.returncode == 130, printed
    check_quiet(printed)
    assert "stopping: each trial ends after the evaluation under way, within 60 s" in printed
    assert query(terminal.database, "select status, iterations from trials") == [("INTERRUPTED", STRIKES_AFTER + 1)]
    ((newest, at),) = query(terminal.database, "select max(iteration), max(at) from effective_checkpoints")
    assert newest == STRIKES_AFTER + 1
    assert at - asked_at > 10e6, "it was trained for longer than Tune waits, and kept"
    check_log(terminal, "stopping (SIGINT): trials that train: 1", "trial 0 INTERRUPTED: 4 iterations", "INTERRUPTED")
    finished = terminal.run("sweep", "slow")
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert query(terminal.database, "select attempt, resumed_from_iteration from attempts") == [(1, None), (2, newest)]
    trained = "select sum(steps_recorded) from producers where role = 'runner'"
    assert query(terminal.database, trained) == query(terminal.database, "select env_steps from trials"), (
        "nothing twice"
    )
    check_log(
        terminal, "trial 0 goes on from iteration 4", "trial 0 FINISHED: 8 iterations", " ends FINISHED: 1 trials"
    )
    check_finished(terminal, trials=1, count=8)


def check_log(terminal: Terminal, *words: str) -> None:
    """What `tradesweep logs` shows of the driver."""
    said = terminal.run("logs", query(terminal.database, "select experiment from sweeps")[0][0])
    assert said.returncode == 0, said.stderr
    assert [word for word in words if word not in said.stdout] == [], said.stdout


@pytest.mark.parametrize("sign", ["a session", "gcs_server", "raylet"])
def test_a_signal_before_anything_runs_ends_the_command_in_order(terminal: Terminal, sign: str) -> None:
    with terminal.running("sweep", "tiny_dqn", *SHORT) as process:
        wait_until(lambda: terminal.sessions() if sign == "a session" else terminal.has_process(sign), process)
        os.killpg(process.pid, signal.SIGTERM)
        printed = finish(process, PATIENCE_S)
        assert process.returncode == 143, printed
    check_quiet(printed)
    assert query(terminal.database, "select count(*) from trials") in ([], [(0,)])
    assert terminal.sessions() == []


def test_a_signal_while_trials_are_set_up_does_not_wait_for_them(terminal: Terminal) -> None:
    with terminal.running("sweep", "tiny_dqn", *SHORT) as process:
        wait_until(lambda: query(terminal.database, "select 1 from trials"), process)
        asked_s = time.monotonic()
        os.killpg(process.pid, signal.SIGTERM)
        printed = finish(process, PATIENCE_S)
        assert process.returncode == 143, printed
    assert time.monotonic() - asked_s < DRAIN_TRIALS_S / 2
    check_quiet(printed)
    assert terminal.sessions() == []
    check_invariants(terminal.database)


# --- a terminal that is closed --------------------------------------------------------------------------------


def test_a_terminal_that_is_closed_ends_the_sweep_in_order(terminal: Terminal) -> None:
    with in_a_terminal(terminal, "sweep", "tiny_dqn", *SHORT) as (process, screen):
        wait_until(lambda: iterations(terminal) >= 2, process)
        wait_until(lambda: "steps/s" in screen.read() and " RUNNING " in screen.read(), process)
        left = [ProcessMark.of(found.pid) for found in terminal.session_processes()]
        screen.close()
        assert process.wait(PATIENCE_S) == 129
    check_processes(left, 30.0)
    assert terminal.sessions() == []
    assert query(terminal.database, "select status from sweeps") == [("INTERRUPTED",)]
    assert {row[0] for row in query(terminal.database, "select status from trials")} <= {"INTERRUPTED", "FINISHED"}
    assert not list(terminal.workplace.home.glob("crashes/*")), "nothing was raised where nobody reads"
    check_log(terminal, "stopping (SIGHUP)")
    check_invariants(terminal.database)


class Screen:
    """Reads what is written to a terminal."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor, self._seen = descriptor, b""
        os.set_blocking(descriptor, False)

    def read(self) -> str:
        """All that was written so far."""
        with suppress(BlockingIOError, OSError):
            while more := os.read(self._descriptor, 65536):
                self._seen += more
        return self._seen.decode(errors="replace")

    def close(self) -> None:
        """The window is closed, the line is cut: the kernel tells who sits at the terminal."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


@contextmanager
def in_a_terminal(terminal: Terminal, *arguments: str) -> Iterator[tuple[subprocess.Popen[bytes], Screen]]:
    """The command as the leader of a session of its own, at a terminal of its own."""
    keyboard, line = pty.openpty()
    fcntl.ioctl(line, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    screen = Screen(keyboard)
    process = subprocess.Popen(
        terminal.workplace.command(*arguments),
        cwd=terminal.workplace.root,
        env=terminal.environment | {"TERM": "xterm"},
        stdin=line,
        stdout=line,
        stderr=line,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(line)
    try:
        yield process, screen
    finally:
        screen.close()
        if process.poll() is None:
            process.kill()
            process.wait()


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

    first, other = json.loads(shown.stdout), ("sweep", "tiny_dqn", "--set", "fixed.gamma=0.95 budget.trials=1")
    second = json.loads(terminal.run(*other, "--json").stdout)
    assert (second["status"], second["trials"], second["already_finished"]) == ("FINISHED", 1, False)
    assert query(terminal.database, "select sweep_id from sweeps order by created_at") == [
        (first["sweep_id"],),
        (second["sweep_id"],),
    ]
    for again, told in ((("sweep", "tiny_dqn"), first), (other, second)):
        shown = terminal.run(*again, "--json")
        assert shown.returncode == 0, shown.stderr
        assert json.loads(shown.stdout)["already_finished"]
        assert json.loads(shown.stdout)["leaderboard"] == told["leaderboard"], "the other one changed nothing of it"
    check_invariants(terminal.database)


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


SMALL_MEMORY = ("unshare", "-m", "bash", "-c", 'mount -t tmpfs -o size=64m tmpfs /dev/shm && exec "$@"', "bash")
"""A command that sees 64 MB of shared memory, as in a container of Docker; needs the right to mount."""


def test_little_shared_memory_is_enough_and_the_log_says_so(terminal: Terminal) -> None:
    if shutil.which("unshare") is None or subprocess.run((*SMALL_MEMORY, "true"), check=False).returncode != 0:
        pytest.skip("mounting is not permitted here")
    done = subprocess.run(
        (*SMALL_MEMORY, *terminal.workplace.command("sweep", "tiny_dqn", "--set", "budget.trials=1")),
        cwd=terminal.workplace.root,
        env=terminal.environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    check_quiet(done.stderr)
    check_log(terminal, "instead of /dev/shm because /dev/shm has only 67108864 bytes")
    check_finished(terminal, trials=1, count=8)
