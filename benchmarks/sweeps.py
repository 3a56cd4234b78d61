"""Whole sweeps on the same work: tradesweep by its command, stock Tune and RLlib, Stable-Baselines3 and Optuna.

Same market, network, hyperparameters and search, two trials at a time, eight evaluations a trial (the fewest that ours
does), every step recorded in ours and nothing in the others. Each sweep is a process of its own, and the
three take turns. Two clocks: from the process's start to its end, and from the first trial's first step to the last
trial's end, which leaves out what starts once a sweep.
"""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import psutil

from benchmarks.common import Options, Row, take_turns
from benchmarks.peers.work import EVALUATIONS, NO_SB3, OURS, ROOT, SB3, STOCK, Span, Work

TITLE = "env steps a second of whole sweeps, two trials at a time"
GOALS = {
    ("planted_ppo", STOCK): 6.0,
    ("planted_ppo", SB3): 2.5,
    ("planted_dqn", STOCK): 15.0,
    ("planted_dqn", SB3): 1.2,
}
CLOCKS = {"whole": "from process start", "running": "without the first start"}
HIDDEN = ("RAY_ADDRESS", "MLFLOW_TRACKING_URI", "TRADESWEEP_DB_URL")
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
TRIAL_PROCESSES = {OURS: "ray::ResourceTrainable", STOCK: ("ray::PPO", "ray::DQN")}
"""How the processes that train are called while they run; ours by what Tune wraps it in."""
LOOK_S = 5.0


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A sweep that was run."""

    whole: float
    """Env steps a second from the start of the process to its end."""
    running: float
    """Env steps a second from the first trial's first step to the last trial's end."""
    trial_mb: float | None
    """The most that one process that trains held alone."""


def run(options: Options) -> list[Row]:
    rounds = options.repeats or options.size(quick=1, usual=1, full=3)
    return [row for work in choose_works(options) for row in compare(work, rounds)]


def choose_works(options: Options) -> list[Work]:
    if options.quick:
        return [Work(experiment="planted_ppo", trials=2, env_steps=16_384)]
    return [
        Work(experiment="planted_ppo", trials=16 if options.full else 8, env_steps=102_400),
        Work(experiment="planted_dqn", trials=8 if options.full else 4, env_steps=20_000),
    ]


def compare(work: Work, rounds: int) -> list[Row]:
    """A line a side and clock, ours in units of the others, and the memory of the processes that train."""
    sides = {STOCK: run_stock, OURS: run_ours}
    if find_spec("stable_baselines3") is not None:
        sides[SB3] = run_sb3
    runs = take_turns([partial(side, work) for side in sides.values()], rounds)
    found = dict(zip(sides, zip(*runs, strict=True), strict=True))
    name = f"{work.experiment}, {work.trials} trials x {work.env_steps:,} steps"
    rows = [row for clock in CLOCKS for row in rate_rows(name, clock, found)]
    if SB3 not in found:
        rows.append(Row(what=f"{name}, {SB3}", unit="steps/s", note=NO_SB3))
    goals = {side: GOALS[work.experiment, side] for side in found if side != OURS}
    rows += [ratio_row(name, clock, side, found, goal) for side, goal in goals.items() for clock in CLOCKS]
    return rows + [memory_row(name, side, found[side]) for side in TRIAL_PROCESSES]


Found = Mapping[str, Sequence[Measured]]


def rate_rows(name: str, clock: str, found: Found) -> list[Row]:
    return [
        Row(
            what=f"{name}, {side}, {CLOCKS[clock]}",
            unit="steps/s",
            values=[getattr(run, clock) for run in runs],
            note=f"{EVALUATIONS} evaluations a trial" + (", every step recorded" if side == OURS else ""),
        )
        for side, runs in found.items()
    ]


def ratio_row(name: str, clock: str, side: str, found: Found, goal: float) -> Row:
    values = [getattr(one, clock) / getattr(other, clock) for one, other in zip(found[OURS], found[side], strict=True)]
    return Row(
        what=f"{name}, {OURS} / {side}, {CLOCKS[clock]}",
        unit="times",
        values=values,
        digits=2,
        goal=goal,
    )


def memory_row(name: str, side: str, runs: Sequence[Measured]) -> Row:
    values = [run.trial_mb for run in runs if run.trial_mb is not None]
    note = "the most that one held alone" if values else "not seen: the sweep was too short"
    return Row(what=f"{name}, {side}, a trial's process", unit="MB", values=values, better="less", note=note)


# --- the three sides ------------------------------------------------------------------------------------------


def run_ours(work: Work) -> Measured:
    """By its command, in a home of its own."""
    with tempfile.TemporaryDirectory(prefix="ts-bench-") as home:
        settings = {
            "budget.trials": work.trials,
            "budget.env_steps_per_trial": work.env_steps,
            "resources.concurrent_trials": work.at_a_time,
            "evaluation.count": EVALUATIONS,
            "recording.steps": "all",
        }
        arguments = ["tradesweep", "sweep", work.experiment, "--json"]
        arguments += [f"--set={key}={value}" for key, value in settings.items()]
        return measure(
            OURS, arguments, lambda _: read_span(Path(home) / "tradesweep.db", work.trials), TRADESWEEP_HOME=home
        )


def read_span(database: Path, trials: int) -> Span:
    sql = """
        SELECT sum(env_steps), min(started_at) / 1e6, max(ended_at) / 1e6, count(*) FROM trials
        WHERE status = 'FINISHED'
    """
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        env_steps, began, ended, finished = connection.execute(sql).fetchone()
    assert finished == trials, f"{trials} trials must finish, {finished} did"
    return Span(env_steps=env_steps, began=began, ended=ended)


def run_stock(work: Work) -> Measured:
    return measure(STOCK, ["benchmarks.peers.stock", work.to_json()], read_answer, **ONE_THREAD)


def run_sb3(work: Work) -> Measured:
    return measure(SB3, ["benchmarks.peers.sb3", work.to_json()], read_answer, **ONE_THREAD)


def read_answer(output: str) -> Span:
    return Span(**json.loads(output.splitlines()[-1]))


def measure(side: str, arguments: Sequence[str], read: Callable[[str], Span], **settings: str) -> Measured:
    """Run `python -m arguments` to its end."""
    environment = {name: value for name, value in os.environ.items() if name not in HIDDEN} | settings
    command = [sys.executable, "-m", *arguments]
    begun = time.time()
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        watch = Watch(process.pid, TRIAL_PROCESSES.get(side, ()))
        output, errors = process.communicate()
        seconds = time.time() - begun
    assert process.returncode == 0, f"{' '.join(command)}\n{output}\n{errors}"
    span = read(output)
    return Measured(
        whole=span.env_steps / seconds, running=span.env_steps / (span.ended - span.began), trial_mb=watch.stop()
    )


class Watch:
    """Looks at the processes below one, every now and then, for the most that one of these names held alone."""

    def __init__(self, pid: int, names: str | tuple[str, ...]) -> None:
        self._parent, self._names = psutil.Process(pid), names
        self._most: float | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look_on, daemon=True)
        self._thread.start()

    def stop(self) -> float | None:
        """Megabytes, or None where no such process was seen."""
        self._ended.set()
        self._thread.join()
        return self._most

    def _look_on(self) -> None:
        while not self._ended.wait(LOOK_S):
            with suppress(psutil.NoSuchProcess):
                for process in self._parent.children(recursive=True):
                    self._look_at(process)

    def _look_at(self, process: psutil.Process) -> None:
        """Some are gone meanwhile, or not yet buried."""
        with suppress(psutil.Error):
            if self._names and process.cmdline()[:1] and process.cmdline()[0].startswith(self._names):
                self._most = max(self._most or 0.0, process.memory_full_info().uss / 2**20)
