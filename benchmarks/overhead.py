"""What it costs a sweep to record every step: whole sweeps in pairs, with all steps and with those of evaluations.

The points and seeds of both are the same. Two clocks: the trials' own (from the first training step to the last), and
the whole stretch from the first trial's start to the last one's end. A cost is 1 less the ratio of env steps a second.
"""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import tempfile
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.common import Options, Row, alternate
from benchmarks.peers.work import EVALUATIONS

TITLE = "env steps a second that recording every step costs a sweep"
ROOT = Path(__file__).parent.parent
"""The fewest that a sweep may have: what is measured is training."""
GOALS = {1: 2.0, 2: 6.0}
"""Percent, by trials at a time."""


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """A shipped experiment, so long."""

    experiment: str
    trials: int
    """All of them at a time."""
    env_steps: int

    def settings(self, steps: str) -> list[str]:
        values = {
            "budget.trials": self.trials,
            "budget.env_steps_per_trial": self.env_steps,
            "resources.concurrent_trials": self.trials,
            "evaluation.count": EVALUATIONS,
            "recording.steps": steps,
        }
        return [f"--set={key}={value}" for key, value in values.items()]


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Env steps a second of all trials together."""

    training: float
    whole: float


def run(options: Options) -> list[Row]:
    pairs = options.repeats or options.size(quick=1, usual=3, full=7)
    lengths = {
        "planted_ppo": options.size(quick=16_384, usual=204_800, full=409_600),
        "planted_dqn": options.size(quick=1_000, usual=20_000, full=60_000),
    }
    sweeps = [
        Sweep(experiment=name, trials=trials, env_steps=env_steps)
        for name, env_steps in lengths.items()
        for trials in (2, 1)
        if not options.quick or (name, trials) == ("planted_ppo", 2)
    ]
    return [row for sweep in sweeps for row in compare(sweep, pairs)]


def compare(sweep: Sweep, pairs: int) -> list[Row]:
    found = alternate(partial(measure, sweep, "all"), partial(measure, sweep, "evaluation"), pairs)
    name = f"{sweep.experiment}, {sweep.trials} at a time" if sweep.trials > 1 else f"{sweep.experiment}, one trial"
    rows = []
    for clock in ("training", "whole"):
        rates = [(getattr(recorded, clock), getattr(bare, clock)) for recorded, bare in found]
        rows.append(
            Row(
                what=f"{name}, {clock}",
                unit="% of steps/s",
                values=[100.0 * (1.0 - recorded / bare) for recorded, bare in rates],
                goal=GOALS[sweep.trials],
                better="less",
                digits=1,
                note=f"best {max(rate for rate, _ in rates):,.0f} steps/s recorded,"
                f" {max(rate for _, rate in rates):,.0f} not",
            )
        )
    return rows


def measure(sweep: Sweep, steps: str) -> Rates:
    """Run the sweep by its command, in a home of its own."""
    with tempfile.TemporaryDirectory(prefix="ts-bench-") as home:
        hidden = ("RAY_ADDRESS", "MLFLOW_TRACKING_URI", "TRADESWEEP_DB_URL")
        environment = {name: value for name, value in os.environ.items() if name not in hidden}
        command = [sys.executable, "-m", "tradesweep", "sweep", sweep.experiment, "--json", *sweep.settings(steps)]
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=environment | {"TRADESWEEP_HOME": home},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
        return read_rates(Path(home) / "tradesweep.db", sweep.trials)


def read_rates(database: Path, trials: int) -> Rates:
    sql = """
        SELECT sum(env_steps), sum(elapsed_s), (max(ended_at) - min(started_at)) / 1e6, count(*) FROM trials
        WHERE status = 'FINISHED'
    """
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        env_steps, elapsed_s, span_s, finished = connection.execute(sql).fetchone()
    assert finished == trials, f"{trials} trials must finish, {finished} did"
    return Rates(training=env_steps / elapsed_s * trials, whole=env_steps / span_s)
