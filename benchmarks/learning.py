"""Does it learn as much from an env step as stock RLlib? Planted markets, whose best policy is known, seed by seed.

Both sides have the same market, lanes, network, hyperparameters, env steps and updates. What a training run is worth is
the Sharpe ratio of its greedy policy over the validation split, by the one evaluator, in units of the best policy's.
The markets of the experiments are learned to the end; in weaker ones the sides are compared while they still learn.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.utils.metrics import ENV_RUNNER_RESULTS, NUM_ENV_STEPS_SAMPLED_LIFETIME
from scipy.special import stdtrit

from benchmarks.common import Options, Row
from benchmarks.peers.stock import build_stock, stock_config
from benchmarks.peers.work import OURS, STOCK, Task
from tradesweep.agents import AgentConfig, RunnerContext, build_algorithm, plain_layers
from tradesweep.market import oracle_targets
from tradesweep.policy import PlainPolicy, build_policy_spec, evaluate, evaluate_targets
from tradesweep.sweep.cluster import ray_session

TITLE = "Sharpe of the greedy policy in units of the best policy's, against stock RLlib"
UNIT = "of the best"
GOAL = 0.10
CONFIDENCE = 0.90
LANES = 8
"""Of both sides: their batches come from equally many episodes."""


@dataclass(frozen=True, kw_only=True)
class Contest:
    """What both sides learn, and when they are looked at."""

    experiment: str
    rho: float
    """How strong the planted signal is."""
    looks: Sequence[int]
    """Env steps after which the policies are compared."""
    times: int = 1
    """So many times the seeds: policies that are half learned vary more."""


CONTESTS = (
    Contest(experiment="planted_ppo", rho=0.25, looks=(51_200,)),
    Contest(experiment="planted_ppo", rho=0.16, looks=(8_192, 24_576), times=4),
    Contest(experiment="planted_dqn", rho=0.5, looks=(2_000, 20_000)),
    Contest(experiment="planted_dqn", rho=0.2, looks=(2_000, 6_000), times=4),
)
"""The experiments as they are shipped, and a weaker signal after a third of few steps and after all of them."""
QUICK_CONTESTS = (
    Contest(experiment="planted_ppo", rho=0.25, looks=(2_048, 4_096)),
    Contest(experiment="planted_dqn", rho=0.5, looks=(1_000,)),
)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The difference of two means of independent samples."""

    ours: float
    theirs: float
    margin: float
    """Half of the difference's confidence interval."""

    @property
    def difference(self) -> float:
        return self.ours - self.theirs

    @property
    def farthest(self) -> float:
        """The end of the interval that is farther away from no difference."""
        return abs(self.difference) + self.margin

    def __str__(self) -> str:
        low, high = self.difference - self.margin, self.difference + self.margin
        return f"means {self.ours:.3f} - {self.theirs:.3f} = {self.difference:+.3f}, between {low:+.3f} and {high:+.3f}"


def run(options: Options) -> list[Row]:
    torch.set_num_threads(1)
    seeds = options.repeats or options.size(quick=2, usual=3, full=10)
    contests = QUICK_CONTESTS if options.quick else CONTESTS
    with ray_session(cpus=1, gpus=0):
        return [row for contest in contests for row in compete(contest, list_seeds(seeds * contest.times))]


def list_seeds(count: int) -> list[int]:
    """On both sides lane i of seed n draws its episodes from n + i: neighbours would share most of them, and training
    runs that count as independent would not be."""
    return [1_000 * number for number in range(1, count + 1)]


def compete(contest: Contest, seeds: Sequence[int]) -> list[Row]:
    """Three rows a look: each side, and how far apart their means may be."""
    task = Task(contest.experiment, [f"market.params.rho={contest.rho}"])
    ours, theirs = [], []
    for seed in seeds:
        ours.append(follow(build_ours(task, seed), task, contest.looks))
        theirs.append(follow(build_theirs(task, seed), task, contest.looks))
    name = f"{task.algorithm.upper()}, signal {contest.rho}"
    found = zip(contest.looks, zip(*ours, strict=True), zip(*theirs, strict=True), strict=True)
    return [row for look, *sides in found for row in describe(f"{name}, {look:,} env steps", *sides)]


def describe(name: str, ours: Sequence[float], theirs: Sequence[float]) -> list[Row]:
    found = compare_means(ours, theirs)
    return [
        Row(what=f"{name}, {STOCK}", unit=UNIT, values=theirs, digits=3),
        Row(what=f"{name}, {OURS}", unit=UNIT, values=ours, digits=3),
        Row(
            what=f"{name}, means apart at most",
            unit=UNIT,
            values=[found.farthest],
            goal=GOAL,
            better="less",
            digits=3,
            note=f"{found} with {CONFIDENCE:.0%} confidence, {len(ours)} seeds a side",
        ),
    ]


def compare_means(ours: Sequence[float], theirs: Sequence[float]) -> Comparison:
    """Welch's interval: the sides may vary differently."""
    squares = [statistics.variance(side) / len(side) for side in (ours, theirs)]
    spread = sum(squares)
    terms = [square**2 / (len(side) - 1) for square, side in zip(squares, (ours, theirs), strict=True)]
    degrees = spread**2 / sum(terms) if spread else math.inf
    reach = float(stdtrit(degrees, (1.0 + CONFIDENCE) / 2.0))
    return Comparison(ours=statistics.fmean(ours), theirs=statistics.fmean(theirs), margin=reach * math.sqrt(spread))


def follow(algorithm: Algorithm, task: Task, looks: Sequence[int]) -> list[float]:
    """Train one seed and judge its policy at each look."""
    found = []
    for env_steps in looks:
        while algorithm.metrics.peek((ENV_RUNNER_RESULTS, NUM_ENV_STEPS_SAMPLED_LIFETIME), default=0) < env_steps:
            algorithm.train()
        found.append(judge(algorithm, task))
    algorithm.cleanup()
    return found


def judge(algorithm: Algorithm, task: Task) -> float:
    """What the greedy policy earns for its risk, in units of the best policy; one that never trades earns nothing."""
    layers, weights = plain_layers(task.algorithm, algorithm.get_module())
    policy = PlainPolicy.from_arrays(build_policy_spec(task.spec, task.market, task.config, layers=layers), weights)
    targets = oracle_targets(task.market.bars, str(task.spec.market.name))
    best = evaluate_targets(targets, task.market, task.config, "validation")
    assert best.sharpe is not None
    return (evaluate(policy, task.market, task.config, split="validation").sharpe or 0.0) / best.sharpe


def build_ours(task: Task, seed: int) -> Algorithm:
    agent = AgentConfig(algorithm=task.algorithm, params=task.params, seed=seed, lanes=LANES, env_runners=0)
    context = RunnerContext(spec_json=task.spec.to_json(), market_sha256=task.market.sha256)
    return build_algorithm(agent, context, task.market)


def build_theirs(task: Task, seed: int) -> Algorithm:
    """RLlib counts updates in rows learned from for each env step, once there are several lanes."""
    params = dict(task.params)
    if "updates_per_env_step" in params:
        params["training_intensity"] = params["updates_per_env_step"] * params["train_batch_size_per_learner"]
    return build_stock(stock_config(task.algorithm, task.market, task.config, params=params, seed=seed, lanes=LANES))
