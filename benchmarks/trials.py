"""What a trial costs beside its training: sweeps of many short trials, by the real command, against few long ones.

A short trial here is one batch of PPO, about a second of training, and one evaluation: a spec asks for eight, but a
pruner that lets only the best so far pass ends nearly all trials at their first. Whatever does not shrink with the
training shows. Long trials give the rate of training alone, on the same machine in the same minutes.
"""

from __future__ import annotations

import json
import os
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

import psutil

from benchmarks.common import Options, Row, alternate
from benchmarks.peers.work import EVALUATIONS

TITLE = "what trials cost beside their training"
ROOT = Path(__file__).parent.parent
EXPERIMENT = "planted_ppo"
BATCH = 40_960
"""Env steps of a batch: about a second of sampling and learning on one core."""
VALIDATION_BARS = 1_000
MAX_GB = 100.0
"""The plan counts trials whole; pruned ones write an eighth of that."""
NOBODY = "http://127.0.0.1:9"
"""A tracking server that is not there: what a sweep is without MLflow."""
LOOK_S = 0.5
OVERHEAD_GOALS = {0: 0.2, 1: 0.5}
"""Seconds, by remote runners."""
BEYOND_GOALS = {False: 15.0, True: 25.0}
"""Percent beyond training, without and with MLflow."""
GROWTH_GOAL_MB = 20.0
LIBRARY_TRIALS = 100
"""By then a driver has imported what it imports, and MLflow has filled its caches."""


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """So many trials, two at a time, or one where it samples remotely."""

    trials: int
    batches: int = EVALUATIONS
    """Batches of a trial that is not pruned; a short one ends after the first."""
    short: bool = True
    env_runners: int = 0
    mlflow: bool = True

    def settings(self, batch: int) -> list[str]:
        pruner = "{kind: successive_halving, min_evaluations: 1, reduction_factor: 10000}"
        values = {
            "budget.trials": self.trials,
            "budget.env_steps_per_trial": self.batches * batch,
            "fixed.train_batch_size_per_learner": batch,
            "evaluation.count": EVALUATIONS,
            "pruner": pruner if self.short else "{kind: none}",
            "splits.validation": VALIDATION_BARS,
            "recording.max_gb": MAX_GB,
            "searcher.kind": "random",
            "resources.concurrent_trials": 1 if self.env_runners else 2,
            "resources.env_runners": self.env_runners,
        }
        return [f"--set={key}={value}" for key, value in values.items()]


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What the database says of a trial."""

    pid: int
    ended_s: float
    evaluations: int
    env_steps: int
    training_s: float
    """By the trial's own clock, its evaluations left out."""
    evaluation_s: float


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A sweep that was run."""

    trials: Sequence[Trial]
    memory: Sequence[tuple[int, float]]
    """(trials ended, MB of the driver alone), as it ran."""

    @property
    def steps_per_training_s(self) -> float:
        return sum(trial.env_steps for trial in self.trials) / sum(trial.training_s for trial in self.trials)

    @property
    def slot_s(self) -> float:
        """Mean time of a slot for a trial, the first of each slot left out."""
        return statistics.mean(seconds for seconds, _ in self._later())

    @property
    def overhead_s(self) -> float:
        """Of that, what was neither training nor evaluation."""
        return statistics.mean(seconds - one.training_s - one.evaluation_s for seconds, one in self._later())

    def beyond(self, rate: float) -> float:
        """Percent that slots took beyond training the same env steps at that rate."""
        steps = statistics.mean(one.env_steps for _, one in self._later())
        return 100.0 * (self.slot_s * rate / steps - 1.0)

    @property
    def beyond_own(self) -> float:
        """Percent that slots took beyond the training that was done in them."""
        return 100.0 * (self.slot_s / statistics.mean(one.training_s for _, one in self._later()) - 1.0)

    def megabytes(self, ended: int) -> float:
        """The driver's memory when so many trials had ended."""
        return next((used for count, used in self.memory if count >= ended), self.memory[-1][1])

    def _later(self) -> list[tuple[float, Trial]]:
        """Each short trial but the first of its process, with the seconds since the one before it ended."""
        slots: dict[int, list[Trial]] = {}
        for trial in sorted(self.trials, key=lambda trial: trial.ended_s):
            slots.setdefault(trial.pid, []).append(trial)
        pairs = [pair for trials in slots.values() for pair in pairwise(trials)]
        return [(two.ended_s - one.ended_s, two) for one, two in pairs if two.evaluations == 1]


def run(options: Options) -> list[Row]:
    batch = options.size(quick=1_024, usual=BATCH)
    return [*overhead_rows(options, batch), *beyond_rows(options, batch)]


def overhead_rows(options: Options, batch: int) -> list[Row]:
    """Seconds a trial, by where it samples."""
    trials = options.size(quick=8, usual=20, full=40)
    repeats = options.repeats or options.size(quick=1, usual=3)
    rows = []
    places = ("in process", "one remote runner")
    for env_runners, where in enumerate(places[: options.size(quick=1, usual=2)]):
        sweep = Sweep(trials=trials, env_runners=env_runners, mlflow=False)
        found = [measure(sweep, batch) for _ in range(repeats)]
        rows.append(
            Row(
                what=f"overhead a trial, {where}",
                unit="s",
                values=[one.overhead_s for one in found],
                goal=OVERHEAD_GOALS[env_runners],
                better="less",
                digits=3,
                note=f"after the first of a slot; {describe_slot(found[-1])}",
            )
        )
    return rows


def beyond_rows(options: Options, batch: int) -> list[Row]:
    """Many short trials against few long ones; and what the driver holds meanwhile."""
    trials = options.size(quick=8, usual=60, full=1_000)
    pairs = options.repeats or 1
    rows = []
    ways = ("without MLflow", "with MLflow")
    for mlflow, name in enumerate(ways[: options.size(quick=1, usual=2)]):
        many = Sweep(trials=trials, mlflow=bool(mlflow))
        few = Sweep(trials=2, batches=options.size(quick=8, usual=24, full=48), short=False, mlflow=False)
        found = alternate(partial(measure, many, batch), partial(measure, few, batch), pairs)
        row = partial(Row, unit="%", goal=BEYOND_GOALS[bool(mlflow)], better="less", digits=1)
        short, long = zip(*found, strict=True)
        alone_s = batch / long[-1].steps_per_training_s
        own = row(
            what=f"{trials:,} short trials beyond their own training, {name}",
            values=[one.beyond_own for one in short],
            note=describe_slot(short[-1]),
        )
        others = row(
            what=f"{trials:,} short trials beyond the same steps of long ones, {name}",
            values=[one.beyond(other.steps_per_training_s) for one, other in found],
            note=f"those take {alone_s:.2f} s: who has learned trades less, and less is recorded",
        )
        rows += [own, others, *memory_rows(short, trials, name)]
    return rows


def describe_slot(found: Measured) -> str:
    later = [trial for _, trial in found._later()]
    training = statistics.mean(trial.training_s for trial in later)
    evaluation = statistics.mean(trial.evaluation_s for trial in later)
    return f"of {found.slot_s:.2f} s: training {training:.2f}, evaluation {evaluation:.2f}"


def memory_rows(found: Sequence[Measured], trials: int, name: str) -> list[Row]:
    sizes = [size for size in (10, 100, 1_000) if size <= trials] or [trials]
    rows = [
        Row(what=f"driver, {size:,} trials ended, {name}", unit="MB", values=[one.megabytes(size) for one in found])
        for size in sizes
    ]
    growth = [one.megabytes(trials) - one.megabytes(min(LIBRARY_TRIALS, trials // 2)) for one in found]
    return [
        *rows,
        Row(
            what=f"driver, growth over the last {trials - min(LIBRARY_TRIALS, trials // 2):,} trials, {name}",
            unit="MB",
            values=growth,
            goal=GROWTH_GOAL_MB,
            better="less",
            digits=1,
        ),
    ]


def measure(sweep: Sweep, batch: int) -> Measured:
    """Run the sweep by its command, in a home of its own, and watch its driver."""
    with tempfile.TemporaryDirectory(prefix="ts-bench-") as folder:
        home = Path(folder)
        memory = run_watched(sweep.settings(batch), home, {} if sweep.mlflow else {"MLFLOW_TRACKING_URI": NOBODY})
        trials = read_trials(home / "tradesweep.db")
    assert len(trials) == sweep.trials, f"{sweep.trials} trials must finish, {len(trials)} did"
    return Measured(trials=trials, memory=memory)


def run_watched(settings: Sequence[str], home: Path, more: dict[str, str]) -> list[tuple[int, float]]:
    hidden = ("RAY_ADDRESS", "MLFLOW_TRACKING_URI", "TRADESWEEP_DB_URL")
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    command = [sys.executable, "-m", "tradesweep", "sweep", EXPERIMENT, "--json", *settings]
    with (home / "output").open("w+", encoding="utf-8") as output:
        environment |= {"TRADESWEEP_HOME": str(home), **more}
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT)
        seen = watch(process, home / "tradesweep.db")
        output.seek(0)
        assert process.returncode == 0, f"{' '.join(command)}\n{output.read()}"
    return seen


def watch(process: subprocess.Popen[bytes], database: Path) -> list[tuple[int, float]]:
    """(trials ended, MB of the driver) every now and then, until it ends."""
    driver, seen = psutil.Process(process.pid), []
    while process.poll() is None:
        with suppress(sqlite3.OperationalError, psutil.Error):  # nothing there yet, or nothing any more
            info = driver.memory_info()
            used = (info.rss - info.shared) / 2**20  # libraries become its own when the other processes end
            if used:  # one that has just ended holds nothing
                seen.append((count_ended(database), used))
        time.sleep(LOOK_S)
    return seen


def count_ended(database: Path) -> int:
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        return int(connection.execute("SELECT count(*) FROM trials WHERE ended_at IS NOT NULL").fetchone()[0])


def read_trials(database: Path) -> list[Trial]:
    sql = """
        SELECT t.trial_id, a.pid, t.ended_at / 1e6, t.env_steps, t.elapsed_s FROM trials t
        JOIN attempts a USING (trial_id) WHERE t.status IN ('FINISHED', 'PRUNED') AND t.attempts = 1
    """
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        metrics: dict[int, list[float]] = {}
        for trial_id, text in connection.execute("SELECT trial_id, metrics FROM iterations ORDER BY iteration"):
            metrics.setdefault(trial_id, []).append(json.loads(text)["time/evaluation_s"])
        return [
            Trial(
                pid=pid,
                ended_s=ended_s,
                evaluations=len(metrics[trial_id]),
                env_steps=env_steps,
                training_s=elapsed_s - sum(metrics[trial_id][:-1]),
                evaluation_s=sum(metrics[trial_id]),
            )
            for trial_id, pid, ended_s, env_steps, elapsed_s in connection.execute(sql)
        ]
