"""A database of any size that keeps every rule of `tradesweep verify`, written as a sweep writes it.

    python -m benchmarks.build_database FILE --steps 10000000

Episodes come from the real kernel and tape, batches go through Producer, wire format and Writer; only the learner is
left out, and Ray between the two.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.workload import ACTIVITY, CONFIG, Lanes, Records, make_bars
from tradesweep.market import Bars
from tradesweep.metrics import equity_returns, max_drawdown, sharpe
from tradesweep.names import EpisodeRole, ProducerKey, ProducerRole, Record, SweepStatus, TrialStatus
from tradesweep.recording import LocalRecorder, Producer, RecorderClient
from tradesweep.store import NewSweep, Writer

LANES = 64
FRAGMENT_ROWS = 128
"""Steps of each lane in a fragment, which fits into one batch together with its fills and trades."""
VALIDATION_BARS = 500
SWEEP_ID = "bench-00000000"
SHA256 = "0" * 64


def new_sweep(sweep_id: str = SWEEP_ID) -> NewSweep:
    """A sweep that never was."""
    return NewSweep(
        sweep_id=sweep_id,
        experiment="bench",
        spec_json="{}",
        identity=SHA256,
        data_sha256=SHA256,
        instrument="brownian",
        git_revision=None,
        versions_json="{}",
        resources_json="{}",
        seed=0,
        driver_pid=os.getpid(),
        driver_host="here",
        driver_started_at=time.time_ns() // 1000,
        buy_hold_sharpe=0.0,
        validation_bars=VALIDATION_BARS,
        periods_per_year=CONFIG.periods_per_year,
    )


def build_database(
    target: str | os.PathLike[str],
    *,
    steps: int,
    trials: int = 10,
    iterations: int = 5,
    lanes: int = LANES,
    activity: float = ACTIVITY,
) -> int:
    """Fill a new database (a file, or the URL of one) with one finished sweep of about `steps` training steps.

    Returns the steps of training episodes, which are whole fragments and so a few more than asked for.
    """
    client = LocalRecorder(Writer(target))
    rows = -(-steps // (trials * iterations * lanes))
    fragments = -(-rows // FRAGMENT_ROWS)
    client.open_sweep(new_sweep())
    made = 0
    for number in range(trials):
        with opened_trial(client, number) as trial:
            run = TrialRun(client, trial, make_bars(), lanes=lanes, rows=-(-rows // fragments), activity=activity)
            for _ in range(iterations):
                run.iterate(fragments)
            made += run.env_steps
    client.close_sweep(SWEEP_ID, SweepStatus.FINISHED)
    client.close()
    return made


@contextmanager
def opened_trial(client: RecorderClient, number: int, sweep_id: str = SWEEP_ID) -> Iterator[tuple[int, int]]:
    """A trial and its attempt, closed as finished in the end."""
    point = {"lr": 0.001 * (number + 1)}
    trial_id = client.open_trial(sweep_id, number, params=point, point=point, seed=number, point_hash=f"{number:08x}")
    yield trial_id, client.start_attempt(trial_id, os.getpid())
    client.close_trial(trial_id, TrialStatus.FINISHED)


@dataclass
class TrialRun:
    """One attempt: a producer that samples in process, and the trial's own."""

    client: RecorderClient
    trial: tuple[int, int]
    bars: Bars
    sweep_id: str = SWEEP_ID
    lanes: int = LANES
    rows: int = FRAGMENT_ROWS
    activity: float = ACTIVITY
    env_steps: int = 0
    iteration: int = 0
    sampling: Producer = field(init=False)
    judging: Producer = field(init=False)

    def __post_init__(self) -> None:
        self.sampling = self.producer(ProducerRole.RUNNER)
        self.judging = self.producer(ProducerRole.TRIAL)
        self.running = Lanes(
            self.bars,
            lanes=self.lanes,
            next_episode_no=self.sampling.next_episode_no,
            seed=self.trial[0],
            activity=self.activity,
            rows=self.rows + 1,
        )

    def producer(self, role: ProducerRole) -> Producer:
        trial_id, attempt = self.trial
        return Producer(lambda: self.client, ProducerKey(self.sweep_id, trial_id, attempt, role, 0), timeout_s=60.0)

    def iterate(self, fragments: int) -> None:
        """Sample so many fragments, then evaluate, as a trial does."""
        for _ in range(fragments):
            records = self.running.sample(self.rows, weights_version=self.iteration)
            self.env_steps += len(records[Record.STEPS]["step_id"])
            self.sampling.send(records)
        self.sampling.flush()
        self.iteration += 1
        self.judging.send(self.evaluation())
        self.judging.flush()

    def evaluation(self) -> Records:
        """An episode over the validation split, and the rows that judge the trial by it."""
        lane = Lanes(
            self.bars,
            lanes=1,
            next_episode_no=self.judging.next_episode_no,
            seed=self.trial[0] * 1000 + self.iteration,
            activity=self.activity,
            role=EpisodeRole.VALIDATION,
            steps=VALIDATION_BARS,
        )
        records = lane.sample(VALIDATION_BARS, weights_version=self.iteration)
        path_T1 = np.concatenate([[CONFIG.initial_equity], records[Record.STEPS]["equity"]])
        ratio = sharpe(equity_returns(path_T1), CONFIG.periods_per_year)
        return records | self.judgement(records, path_T1, ratio)

    def judgement(self, records: Records, path_T1: NDArray[Any], ratio: float | None) -> Records:
        """Evaluation, curve, iteration and checkpoint."""
        opened, closed = records[Record.EPISODES_OPENED], records[Record.EPISODES_CLOSED]
        score = 0.0 if ratio is None else ratio
        shared = {"iteration": self.iteration, "at": time.time_ns() // 1000}
        progress = {"env_steps": self.env_steps, "weights_version": self.iteration}
        verdict = {"sharpe": ratio, "score": score, "eligible": int(ratio is not None)}
        return {
            Record.EVALUATIONS: _row(
                shared | verdict,
                episode_no=opened["episode_no"][0],
                split="validation",
                cost_multiplier=1.0,
                status="FLAT" if ratio is None else "OK",
                bars=VALIDATION_BARS,
                trades=int(closed["trades"][0]),
                total_return=float(path_T1[-1] / path_T1[0] - 1.0),
                max_drawdown=max_drawdown(path_T1),
                mean_exposure=0.0,
                turnover=0.0,
            ),
            Record.EVALUATION_CURVES: _row(
                episode_no=opened["episode_no"][0],
                instrument="brownian",
                market_sha256=SHA256,
                first_time=opened["start_time"][0],
                last_time=int(records[Record.STEPS]["mark_time"][-1]),
                blocks=VALIDATION_BARS,
                returns=bytes(8 * VALIDATION_BARS),
                exposures=bytes(8 * VALIDATION_BARS),
            ),
            Record.ITERATIONS: _row(
                shared | progress, updates=0, elapsed_s=float(self.iteration), metrics=json.dumps(verdict)
            ),
            Record.CHECKPOINTS: _row(
                shared | progress | verdict,
                path=f"sweeps/{SWEEP_ID}/{self.trial[0]}/{self.iteration:06d}",
                manifest_sha256=SHA256,
                lanes=json.dumps(self.running.positions()),
            ),
        }


def _row(values: dict[str, Any] | None = None, **more: Any) -> dict[str, NDArray[Any] | list[Any]]:
    return {name: [value] for name, value in ((values or {}) | more).items()}


def main() -> None:
    parser = argparse.ArgumentParser(description="Fill a database that keeps every rule.")
    parser.add_argument("file", type=Path)
    parser.add_argument("--steps", type=int, default=10_000_000)
    arguments = parser.parse_args()
    begun = time.perf_counter()
    made = build_database(arguments.file, steps=arguments.steps)
    print(f"{made:,} steps of training in {time.perf_counter() - begun:.1f} s")


if __name__ == "__main__":
    main()
