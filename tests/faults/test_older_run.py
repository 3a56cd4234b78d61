"""The run that an older system could not record without a repair script: 315 episodes of 700 bars, many runners, a
third of them killed in the middle of an episode.
"""

from __future__ import annotations

import os
import random
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.exceptions import ActorDiedError
from tests.faults.invariants import ProcessMark

from tradesweep.agents import AgentConfig, RecordingContext, RunnerContext
from tradesweep.agents.build import start_runners
from tradesweep.env import compile_market
from tradesweep.spec import load_spec

pytestmark = [pytest.mark.fault, pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]

EPISODES, BARS = 315, 700
RUNNERS, LANES = 9, 5
QUOTA = EPISODES // RUNNERS
FRAGMENTS = 7
"""Fragments of an episode: 100 bars each, and the first of a later episode begins with the row of its reset."""

EXPERIMENTS = """
version: 1
experiments:
  older:
    description: twenty years of the S&P 500
    sweep: older
    market: {source: sample, name: sp500, periods_per_year: 252}
    features:
      - log_returns: {lags: [1, 5]}
    splits: {train: 3000, validation: 1000, test: 1000}
    env: {fill: next_close, episode_bars: 700, fee_bps: 1, slippage_bps: 1, borrow_bps_per_year: 50}
    evaluation: {count: 8, min_trades: 1}
    budget: {trials: 1, env_steps_per_trial: 220500}
"""
SWEEP = """
algorithm: ppo
search:
  lr: {loguniform: [1e-4, 1e-2]}
"""


class Runners:
    """Nine real env runners of one trial, each in a process of its own, that can be killed and replaced."""

    def __init__(self, arena: Any, folder: Path) -> None:
        (folder / "sweeps").mkdir()
        (folder / "experiments.yaml").write_text(EXPERIMENTS)
        (folder / "sweeps" / "older.yaml").write_text(SWEEP)
        spec = load_spec("older", root=folder, overrides=[])
        market = compile_market(spec)
        self.agent = AgentConfig(algorithm="ppo", params={}, seed=11, lanes=LANES * RUNNERS, env_runners=RUNNERS)
        self.context = RunnerContext(
            spec_json=spec.to_json(),
            market_sha256=market.sha256,
            env_runners=RUNNERS,
            recording=RecordingContext(
                recorder=arena.recorder.name,
                sweep_id=arena.key(0).sweep_id,
                trial_id=arena.trial_id,
                attempt=arena.attempt,
                steps=True,
                timeout_s=60.0,
            ),
        )
        self.market = ray.put(market)
        self.marks: list[ProcessMark] = []
        self.alive: dict[int, Any] = {}
        self.under_way: dict[Any, int] = {}
        self.done: dict[int, int] = {}

    def start(self, workers: list[int]) -> None:
        """Start these workers' next incarnations, and their first fragments."""
        actors = start_runners(self.agent, self.context, self.market, num_cpus=0, workers=workers)
        for worker, actor in zip(workers, actors, strict=True):
            pid = ray.get(actor.apply.remote(lambda runner: os.getpid()))
            self.marks.append(ProcessMark.of(pid))
            self.alive[worker], self.done[worker] = actor, 0
            self.sample(worker)

    def sample(self, worker: int) -> None:
        """Have the worker sample and record its next fragment."""
        self.under_way[self.alive[worker].apply.remote(_sample, BARS // FRAGMENTS * LANES)] = worker

    def flush(self, worker: int) -> None:
        ray.get(self.alive[worker].apply.remote(lambda runner: runner.flush()))

    def kill(self, worker: int, arena: Any) -> None:
        """Kill it while it samples; what it had in hand is gone."""
        numbers = arena.rows(f"SELECT pid FROM producers WHERE worker = {worker} AND ended_at IS NULL")
        os.kill(numbers[0][0], signal.SIGKILL)
        del self.alive[worker]

    def end(self) -> None:
        for actor in self.alive.values():
            ray.kill(actor)


def _sample(runner: Any, timesteps: int) -> int:
    """What came before is committed first, so that a killed runner leaves an episode that has begun."""
    runner.flush()
    return int(runner.sample_fragment(timesteps=timesteps, env_steps=0).steps)


def completed(arena: Any, worker: int) -> int:
    return int(
        arena.rows(
            "SELECT count(*) FROM episodes e JOIN producers p ON p.producer_no = e.producer_no"
            f" WHERE p.worker = {worker} AND e.status = 'COMPLETED'"
        )[0][0]
    )


def test_the_older_run_is_whole_though_a_third_of_its_runners_were_killed(arena: Any, tmp_path: Path) -> None:
    chance = random.Random(3)
    runners = Runners(arena, tmp_path)
    wanted = dict.fromkeys(range(1, RUNNERS + 1), QUOTA // LANES)
    doomed = {worker: chance.randrange(1, 6 * FRAGMENTS) for worker in chance.sample(sorted(wanted), RUNNERS // 3)}
    runners.start(sorted(wanted))
    while runners.under_way:
        (ended,), _ = ray.wait(list(runners.under_way), num_returns=1)
        worker = runners.under_way.pop(ended)
        with suppress(ActorDiedError):
            runners.done[worker] += 1
            assert ray.get(ended) == BARS // FRAGMENTS * LANES
        if worker not in runners.alive:  # killed, in time or just after its last fragment
            runners.start([worker])
            wanted[worker] = (QUOTA - completed(arena, worker)) // LANES
            continue
        if runners.done[worker] == wanted[worker] * FRAGMENTS:
            runners.flush(worker)
            continue
        runners.sample(worker)
        if doomed.get(worker) == runners.done[worker]:
            del doomed[worker]
            time.sleep(chance.uniform(0.0, 0.03))
            runners.kill(worker, arena)
    assert not doomed
    runners.end()
    check_the_run(arena)
    arena.finish(processes=runners.marks)
    check_what_the_killed_left(arena)


def check_the_run(arena: Any) -> None:
    """315 episodes and 220,500 steps, with trades, from nine runners of which three have two incarnations."""
    assert arena.rows(
        "SELECT count(*), sum(total_steps), min(total_steps), max(total_steps), min(trades) > 0"
        " FROM episodes WHERE status = 'COMPLETED'"
    ) == [(EPISODES, EPISODES * BARS, BARS, BARS, 1)]
    assert arena.rows(
        "SELECT count(*) FROM steps WHERE step_id / 16777216 IN"
        " (SELECT episode_no FROM episodes WHERE status = 'COMPLETED')"
    ) == [(EPISODES * BARS,)]
    assert arena.rows("SELECT count(DISTINCT worker), count(*) FROM producers") == [(RUNNERS, RUNNERS + RUNNERS // 3)]
    assert arena.rows("SELECT count(*) FROM producers WHERE end_reason = 'FENCED'") == [(RUNNERS // 3,)]


def check_what_the_killed_left(arena: Any) -> None:
    """Each episode that a kill cut is closed, with its metrics, and its open trade is marked."""
    cut = "FROM episodes e JOIN producers p ON p.producer_no = e.producer_no WHERE p.end_reason = 'FENCED'"
    assert arena.rows(f"SELECT DISTINCT e.status, e.end_reason {cut} AND e.status <> 'COMPLETED'") == [
        ("ABANDONED", "PRODUCER_LOST")
    ]
    assert arena.rows(
        f"SELECT count(*) {cut} AND e.status = 'ABANDONED' AND e.total_steps > 0 AND (e.final_equity IS NULL"
        " OR e.total_reward IS NULL OR e.sharpe IS NULL OR e.max_drawdown IS NULL OR e.trades IS NULL)"
    ) == [(0,)]
    held = "(SELECT s.units FROM steps s WHERE s.step_id = e.episode_no * 16777216 + e.total_steps - 1) <> 0.0"
    marked = "EXISTS (SELECT 1 FROM trades d WHERE d.episode_no = e.episode_no AND d.status = 'MARKED')"
    assert arena.rows(f"SELECT count(*) {cut} AND e.status = 'ABANDONED' AND {held}")[0][0] > 0
    assert arena.rows(f"SELECT count(*) {cut} AND e.status = 'ABANDONED' AND {held} AND NOT {marked}") == [(0,)]
