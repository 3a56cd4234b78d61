"""What every peer is given to do, and what it says when it is done.

A peer's sweep runs in a process of its own, `python -m benchmarks.peers.NAME WORK`, with one thread of torch in each of
its processes. `WORK` and the answer, the last line on its stdout, are JSON.
"""

from __future__ import annotations

import json
import math
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from benchmarks.peers.env import Observation, PlainTradingEnv
from tradesweep.env import EnvConfig, compile_env, compile_market
from tradesweep.market import Market
from tradesweep.spec import LogUniform, SweepSpec, load_spec

ROOT = Path(__file__).parent.parent.parent
EVALUATIONS = 8
"""Of a trial, on every side: the fewest that a sweep of ours may have."""
OURS, STOCK, SB3 = "tradesweep", "stock RLlib", "Stable-Baselines3"
NO_SB3 = "skipped: stable-baselines3 is not installed; pip install -c constraints.txt -e '.[bench]'"


@dataclass(frozen=True, kw_only=True)
class Work:
    """A sweep of an experiment's market, algorithm and hyperparameters, so long."""

    experiment: str
    trials: int
    env_steps: int
    """Of each trial."""
    at_a_time: int = 2

    def to_json(self) -> str:
        return json.dumps(asdict(self))


@dataclass(frozen=True, kw_only=True)
class Span:
    """What a sweep did, and when, in seconds since 1970."""

    env_steps: int
    """Of all trials together."""
    began: float
    """The first trial began to train."""
    ended: float
    """The last trial ended."""

    def to_json(self) -> str:
        return json.dumps(asdict(self))


class Task:
    """An experiment, compiled once."""

    def __init__(self, experiment: str, overrides: Sequence[str] = ()) -> None:
        self.spec: SweepSpec = load_spec(experiment, root=ROOT, overrides=list(overrides))
        self.market: Market = compile_market(self.spec)
        self.config: EnvConfig = compile_env(self.spec, self.market)

    @property
    def algorithm(self) -> str:
        return self.spec.algorithm

    @property
    def fixed(self) -> Mapping[str, Any]:
        return self.spec.fixed

    @cached_property
    def learning_rates(self) -> tuple[float, float]:
        """The range that is searched."""
        searched = self.spec.search["lr"]
        assert isinstance(searched, LogUniform)
        return searched.low, searched.high

    @property
    def params(self) -> dict[str, Any]:
        """The point in the middle of the search."""
        return {**self.fixed, "lr": math.sqrt(math.prod(self.learning_rates))}


def make_env(market: Market, config: EnvConfig, split: str) -> PlainTradingEnv:
    """Training has episodes from random starts; any other split is one episode from its first bar to its last."""
    if split != "train":
        config = replace(config, episode_bars=len(market.splits[split]) - 1)
    return PlainTradingEnv(market, config, split=split)


def run_greedily(env: PlainTradingEnv, act: Callable[[Observation], int]) -> list[float]:
    """The rewards of one episode."""
    obs, _ = env.reset(seed=0)
    rewards, ended = [], False
    while not ended:
        obs, reward, terminated, truncated, _ = env.step(act(obs))
        rewards.append(reward)
        ended = terminated or truncated
    return rewards


def ratio(rewards: Sequence[float]) -> float:
    """Mean over deviation: the Sharpe ratio but for a factor, which is enough to rank policies."""
    deviation = statistics.pstdev(rewards)
    return statistics.fmean(rewards) / deviation if deviation else 0.0


def serve(run_sweep: Callable[[Work], Span]) -> None:
    """Do what the command line asks for."""
    print(run_sweep(Work(**json.loads(sys.argv[1]))).to_json())
