"""Sampling by runners and lanes, and training at equal updates: stock RLlib, ours, Stable-Baselines3, and the floor.

Training is one trial in this process with one torch thread, without recording and evaluation. The sides take turns in
one run. Rates are by the clock; for training the note has them by the CPU time of this process too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from itertools import count
from statistics import median

import ray
import torch
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.execution.rollout_ops import synchronous_parallel_sample
from ray.rllib.utils.metrics import ENV_RUNNER_RESULTS, NUM_ENV_STEPS_SAMPLED_LIFETIME

from benchmarks.common import Options, Row, take_turns
from benchmarks.kernel import repeat
from benchmarks.peers.floor import build_floor
from benchmarks.peers.stock import build_stock, stock_config
from benchmarks.peers.work import EVALUATIONS, NO_SB3, OURS, SB3, STOCK, Task, make_env
from tradesweep.agents import AgentConfig, RunnerContext, build_algorithm, plain_layers, start_runners
from tradesweep.policy import Evaluator, PlainPolicy, build_policy_spec
from tradesweep.sweep.cluster import ray_session
from tradesweep.trial.metrics import evaluation_runs
from tradesweep.trial.session import STEPS_PER_RESULT

TITLE = "env steps a second of sampling, and of training at equal updates"
EXPERIMENTS = ("planted_ppo", "planted_dqn")
RUNNERS = (0, 1, 2)
LANES = (8, 16, 64)
STOCK_LANES = 8
FLOOR = "plain torch, the same minibatches alone"
FLOOR_GOAL = 0.5
"""Where a goal is not reached: within twice of the floor."""
EVALUATION_GOAL = 5.0
TRIAL_STEPS = {"ppo": 102_400, "dqn": 20_000}
"""Env steps of a trial, as in the benchmark of sweeps."""
SEED = 1
Train = Callable[[], int]
"""Trains a little and says how many env steps that were."""


def run(options: Options) -> list[Row]:
    torch.set_num_threads(1)
    repeats = options.repeats or options.size(quick=1, usual=5)
    with ray_session(cpus=max(RUNNERS), gpus=0):
        rows = sampling_rows(options, repeats)
        return rows + [row for name in EXPERIMENTS for row in training_rows(Task(name), options, repeats)]


# --- training -------------------------------------------------------------------------------------------------


def training_rows(task: Task, options: Options, repeats: int) -> list[Row]:
    """A line a side, then ours in units of the others."""
    sides = build_sides(task)
    steps = {
        "ppo": options.size(quick=2_048, usual=20_480, full=102_400),
        "dqn": options.size(quick=500, usual=2_000, full=10_000),
    }[task.algorithm]
    measures = [partial(measure_training, train, steps) for train in sides.values()]
    found = dict(zip(sides, zip(*take_turns(measures, repeats), strict=True), strict=True))
    name = task.algorithm.upper()
    rows = [rate_row(f"{name}, {side}", rates) for side, rates in found.items()]
    if SB3 not in found:
        rows.append(Row(what=f"{name}, {SB3}", unit="steps/s", note=NO_SB3))
    rows += [ratio_row(name, side, found[OURS], rates) for side, rates in found.items() if side != OURS]
    return rows + evaluation_rows(task, median(rate.clock for rate in found[OURS]), repeats)


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Env steps a second."""

    clock: float
    cpu: float
    """Of this process's CPU time, which others on the machine disturb less; but who waits looks faster by it."""


def measure_training(train: Train, steps: int) -> Rates:
    """After a tenth as warm-up."""
    repeat(train, steps // 10)
    clock, cpu = time.perf_counter(), time.process_time()
    done = repeat(train, steps)
    return Rates(clock=done / (time.perf_counter() - clock), cpu=done / (time.process_time() - cpu))


def rate_row(what: str, rates: Sequence[Rates]) -> Row:
    note = f"{median(rate.cpu for rate in rates):,.0f} by CPU time"
    return Row(what=what, unit="steps/s", values=[rate.clock for rate in rates], note=note)


def ratio_row(name: str, side: str, ours: Sequence[Rates], others: Sequence[Rates]) -> Row:
    pairs = list(zip(ours, others, strict=True))
    return Row(
        what=f"{name}, {OURS} / {side}",
        unit="times",
        values=[one.clock / other.clock for one, other in pairs],
        goal=FLOOR_GOAL if side == FLOOR else None,
        digits=2,
        note=f"{median(one.cpu / other.cpu for one, other in pairs):.2f} by CPU time",
    )


def evaluation_rows(task: Task, steps_per_s: float, repeats: int) -> list[Row]:
    """What an evaluation takes, all its runs in one pass, and all of a trial's beside its training at that rate."""
    algorithm = build_ours(task, lanes=8, runners=0)
    layers, weights = plain_layers(task.algorithm, algorithm.get_module(DEFAULT_MODULE_ID))
    policy_spec = build_policy_spec(task.spec, task.market, task.config, layers=layers)
    policy = PlainPolicy.from_arrays(policy_spec, weights)
    bars = len(task.market.splits["validation"])
    runs = evaluation_runs(task.algorithm, validation_bars=bars, seed=SEED)
    evaluator = Evaluator(task.market, task.config, list(runs.values()))
    numbers = count(1)
    seconds = [clock_pass(evaluator, policy, numbers) for _ in range(repeats + 1)][1:]
    training_s = TRIAL_STEPS[task.algorithm] / steps_per_s
    name, what = task.algorithm.upper(), f"{len(runs)} runs of {bars:,} bars, recorded"
    shares = [100.0 * EVALUATIONS * one / (EVALUATIONS * one + training_s) for one in seconds]
    return [
        Row(
            what=f"{name}, an evaluation",
            unit="us/bar",
            values=[1e6 * one / bars for one in seconds],
            better="less",
            digits=1,
            note=what,
        ),
        Row(
            what=f"{name}, {EVALUATIONS} evaluations of a trial",
            unit="% of it",
            values=shares,
            goal=EVALUATION_GOAL,
            better="less",
            digits=1,
            note=f"beside {TRIAL_STEPS[task.algorithm]:,} env steps, nothing else counted",
        ),
    ]


def clock_pass(evaluator: Evaluator, policy: PlainPolicy, numbers: Iterator[int]) -> float:
    begun = time.perf_counter()
    evaluator.run(policy, record=lambda: next(numbers))
    return time.perf_counter() - begun


def build_sides(task: Task) -> dict[str, Train]:
    """Each ready to train, beyond its warm-up."""
    sides = {STOCK: stock_side(task), OURS: our_side(task), FLOOR: floor_side(task)}
    if find_spec("stable_baselines3") is not None:
        sides[SB3] = sb3_side(task)
    warm_up = task.params.get("num_steps_sampled_before_learning_starts", 1)
    for train in sides.values():
        repeat(train, warm_up)
    return sides


def stock_side(task: Task) -> Train:
    algorithm = build_stock(stock_config(task.algorithm, task.market, task.config, params=task.params, seed=SEED))
    return partial(train_once, algorithm)


def our_side(task: Task) -> Train:
    lanes = task.spec.resources.lanes
    assert isinstance(lanes, int)
    return partial(train_once, build_ours(task, lanes=lanes, runners=0))


def train_once(algorithm: Algorithm) -> int:
    before = count_steps(algorithm)
    algorithm.train()
    return count_steps(algorithm) - before


def count_steps(algorithm: Algorithm) -> int:
    return int(algorithm.metrics.peek((ENV_RUNNER_RESULTS, NUM_ENV_STEPS_SAMPLED_LIFETIME), default=0))


def build_ours(task: Task, *, lanes: int, runners: int) -> Algorithm:
    """Our algorithm as a trial builds it, with nobody to record to."""
    agent = AgentConfig(
        algorithm=task.algorithm,
        params=task.params,
        seed=SEED,
        lanes=lanes,
        env_runners=runners,
        steps_per_result=STEPS_PER_RESULT,
    )
    context = RunnerContext(spec_json=task.spec.to_json(), market_sha256=task.market.sha256, env_runners=runners)
    algorithm = build_algorithm(agent, context, task.market)
    if runners:
        algorithm.attach_runners(start_runners(agent, context, ray.put(task.market), num_cpus=1))
    return algorithm


def sb3_side(task: Task) -> Train:
    from benchmarks.peers.sb3 import build_sb3

    chunk = {"ppo": 2_048, "dqn": 500}[task.algorithm]
    model = build_sb3(task.algorithm, task.market, task.config, params=task.params, seed=SEED, env_steps=1_000_000)

    def train() -> int:
        before = model.num_timesteps
        model.learn(chunk, reset_num_timesteps=False)
        return model.num_timesteps - before

    return train


def floor_side(task: Task) -> Train:
    [width] = make_env(task.market, task.config, "train").observation_space.shape or ()
    return build_floor(task.algorithm, width=width, actions=len(task.config.positions), params=task.params)


# --- sampling -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Who samples with how many."""

    side: str
    runners: int
    lanes: int
    """Of all runners together."""

    def __str__(self) -> str:
        where = "in process" if not self.runners else f"{self.runners} runner{'s' * (self.runners > 1)}"
        return f"sampling, {self.side}, {where}, {self.lanes} lanes"


def sampling_rows(options: Options, repeats: int) -> list[Row]:
    """PPO's batches, without learning."""
    task, steps = Task("planted_ppo"), options.size(quick=2_048, usual=20_480, full=204_800)
    layouts = [Layout(side=OURS, runners=runners, lanes=lanes) for runners in RUNNERS for lanes in LANES]
    layouts += [Layout(side=STOCK, runners=runners, lanes=STOCK_LANES) for runners in RUNNERS]
    wanted = [layout for layout in layouts if not options.quick or (layout.runners < 2 and layout.lanes == STOCK_LANES)]
    return [measure_sampling(layout, task, steps, repeats) for layout in wanted]


def measure_sampling(layout: Layout, task: Task, steps: int, repeats: int) -> Row:
    with sampler(layout, task) as sample:
        repeat(sample, int(task.params["train_batch_size_per_learner"]))
        rates = [clock_rate(sample, steps) for _ in range(repeats)]
    return Row(what=str(layout), unit="steps/s", values=rates)


@contextmanager
def sampler(layout: Layout, task: Task) -> Iterator[Train]:
    """One batch at a time; the runners' processes end with it."""
    build = {OURS: build_ours, STOCK: build_theirs}[layout.side]
    algorithm = build(task, lanes=layout.lanes, runners=layout.runners)
    try:
        yield partial({OURS: sample_ours, STOCK: sample_theirs}[layout.side], algorithm)
    finally:
        algorithm.cleanup()


def build_theirs(task: Task, *, lanes: int, runners: int) -> Algorithm:
    config = stock_config(
        task.algorithm, task.market, task.config, params=task.params, seed=SEED, lanes=lanes, runners=runners
    )
    return build_stock(config)


def sample_ours(algorithm: Algorithm) -> int:
    fragments = algorithm.sample_fragments(
        env_steps=algorithm.config.total_train_batch_size, so_far=algorithm.env_steps_sampled
    )
    return sum(fragment.steps for fragment in fragments)


def sample_theirs(algorithm: Algorithm) -> int:
    episodes, _ = synchronous_parallel_sample(
        worker_set=algorithm.env_runner_group, concat=True, _uses_new_env_runners=True, _return_metrics=True
    )
    return sum(len(episode) for episode in episodes)


def clock_rate(work: Train, steps: int) -> float:
    begun = time.perf_counter()
    done = repeat(work, steps)
    return done / (time.perf_counter() - begun)
