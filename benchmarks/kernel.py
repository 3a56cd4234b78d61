"""Env steps a second of the batched kernel by lanes, against one-lane environments with equal features.

One core, one process. Every step has its full accounting: the tape is written and drained as a runner does, so that
fills, trades and episodes are there in columns. Decisions are drawn beforehand; a row of observations is 200 floats.
Rates are by CPU time, which others on the machine disturb less than the clock.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from benchmarks.common import Options, Row, take_turns
from benchmarks.peers.env import PlainTradingEnv
from benchmarks.peers.gym_trading import INSTALL, build_gym_trading
from benchmarks.workload import ACTIVITY
from tradesweep.env import EnvConfig, Tape, TradingVectorEnv, compile_env, compile_market
from tradesweep.env.rows import Ints
from tradesweep.market import Market
from tradesweep.names import Record
from tradesweep.spec import load_spec

TITLE = "env steps a second of the kernel, full accounting, 200-float observations, one core"
ROOT = Path(__file__).parent.parent
LANES = (1, 4, 8, 16, 64, 256, 1_024)
GOAL_LANES = 256
GOAL, PEER_GOAL = 3_000_000, 50.0
BARS = 10_000
GROWTH_BARS = (1_000, 10_000, 100_000, 1_000_000)
FEATURES, WINDOW_BARS = 2, 97
"""97 bars of two features, three positions and three numbers of the account make 200."""
OBSERVATION_FLOATS = 200
PACKAGE, PACKAGE_WINDOW_BARS = "one lane, gym-trading-env", 50
"""It has two numbers of the account in each bar of a window: 50 bars make 200."""
FRAGMENT = 8_192
LEAST_ROWS = 16
"""Rows of a fragment, however many lanes there are."""
ROWS = 25_000
"""The most that are measured: a row costs about the same with one lane as with eight."""
WARM_UP_SHARE = 0.1
ACTIONS = 3
OneLane = gym.Env[Any, Any]


def run(options: Options) -> list[Row]:
    repeats = options.repeats or options.size(quick=1, usual=7)
    steps = options.size(quick=20_000, usual=2_000_000)
    return compare_lanes(repeats, steps) + compare_bars(options, repeats, steps)


def compare_lanes(repeats: int, steps: int) -> list[Row]:
    """By lanes, and how often each one-lane peer goes into the lanes of the goal."""
    stage = set_stage(BARS)
    measures = {lane_name(lanes): partial(Batched(stage, lanes).rate, min(steps, ROWS * lanes)) for lanes in LANES}
    peers = {name: partial(Peer(build(stage)).rate, steps // 20) for name, build in find_peers().items()}
    measures |= peers
    found = dict(zip(measures, zip(*take_turns(list(measures.values()), repeats), strict=True), strict=True))
    best = lane_name(GOAL_LANES)
    rows = [
        Row(what=name, unit="steps/s", values=rates, goal=GOAL if name == best else None)
        for name, rates in found.items()
    ]
    rows += [peer_row(name, found[best], found[name]) for name in peers]
    return rows if PACKAGE in peers else [*rows, Row(what=PACKAGE, unit="steps/s", note=INSTALL)]


def peer_row(name: str, ours: Sequence[float], theirs: Sequence[float]) -> Row:
    return Row(
        what=f"{lane_name(GOAL_LANES)} / {name}",
        unit="times",
        values=[one / other for one, other in zip(ours, theirs, strict=True)],
        goal=PEER_GOAL,
        digits=1,
    )


def find_peers() -> dict[str, Callable[[Stage], OneLane]]:
    """One-lane environments with observations as wide as ours."""
    peers: dict[str, Callable[[Stage], OneLane]] = {
        "one lane, plain Python": lambda stage: PlainTradingEnv(stage.market, stage.config)
    }
    if find_spec("gym_trading_env") is not None:
        peers[PACKAGE] = lambda stage: build_gym_trading(stage.market, stage.config, window_bars=PACKAGE_WINDOW_BARS)
    return peers


def compare_bars(options: Options, repeats: int, steps: int) -> list[Row]:
    """Does a long market cost anything?"""
    sizes = GROWTH_BARS[:1] if options.quick else GROWTH_BARS
    measures = [partial(Batched(set_stage(bars), GOAL_LANES).rate, steps) for bars in sizes]
    found = zip(*take_turns(measures, repeats), strict=True)
    return [
        Row(what=f"{bars:,} bars, {GOAL_LANES} lanes", unit="steps/s", values=rates)
        for bars, rates in zip(sizes, found, strict=True)
    ]


def lane_name(lanes: int) -> str:
    return "1 lane" if lanes == 1 else f"{lanes:,} lanes"


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A market and an environment on it."""

    market: Market
    config: EnvConfig


def set_stage(bars: int) -> Stage:
    """A market without a signal, so long, with costs; nearly all of it is for training."""
    overrides = [
        f"market.params={{bars: {bars}, seed: 7}}",
        "features=[{log_returns: {lags: [1, 5]}}]",
        f"splits.train={bars - 200}",
        "splits.validation=100",
        "splits.test=100",
        f"env.window_bars={WINDOW_BARS}",
        "env.fee_bps=1",
        "env.slippage_bps=1",
        "env.borrow_bps_per_year=50",
    ]
    spec = load_spec("brownian", root=ROOT, overrides=overrides)
    market = compile_market(spec)
    return Stage(market=market, config=compile_env(spec, market))


class Batched:
    """The vector environment as a runner steps it."""

    def __init__(self, stage: Stage, lanes: int) -> None:
        self._tape = Tape(next_episode_no=count(1).__next__)
        self._env = TradingVectorEnv(stage.market, stage.config, lanes=lanes, tape=self._tape)
        assert self._env.observer.width == OBSERVATION_FLOATS
        self._actions_TE = draw_actions(max(LEAST_ROWS, FRAGMENT // lanes), lanes)
        self._env.reset(seed=0)

    def rate(self, steps: int) -> float:
        """Env steps a second of CPU time; rows in which a lane resets are no steps."""
        return cpu_rate(self._sample_fragment, steps)

    def _sample_fragment(self) -> int:
        for actions_E in self._actions_TE:
            self._env.step(actions_E)
        return len(self._tape.drain(0)[Record.STEPS]["step_id"])


class Peer:
    """A one-lane environment in the simplest loop."""

    def __init__(self, env: OneLane) -> None:
        self._env = env
        assert math.prod(env.observation_space.shape or ()) == OBSERVATION_FLOATS
        self._actions = draw_actions(FRAGMENT, 1)[:, 0].tolist()
        env.reset(seed=0)

    def rate(self, steps: int) -> float:
        """Env steps a second of CPU time."""
        return cpu_rate(self._sample_fragment, steps)

    def _sample_fragment(self) -> int:
        for action in self._actions:
            _, _, terminated, truncated, _ = self._env.step(action)
            if terminated or truncated:
                self._env.reset()
        return len(self._actions)


def draw_actions(rows: int, lanes: int) -> Ints:
    """(T, E) decisions with as many new ones as the recording's load has."""
    generator = np.random.default_rng(0)
    anew_TE = generator.random((rows, lanes)) < ACTIVITY
    anew_TE[0] = True
    drawn_TE = generator.integers(ACTIONS, size=(rows, lanes))
    last_TE = np.maximum.accumulate(np.where(anew_TE, np.arange(rows)[:, None], 0), axis=0)
    return np.take_along_axis(drawn_TE, last_TE, axis=0)


def cpu_rate(work: Callable[[], int], steps: int) -> float:
    """What `work` does a second, over at least `steps`, after a tenth as warm-up."""
    repeat(work, int(WARM_UP_SHARE * steps))
    begun = time.process_time()
    done = repeat(work, steps)
    return done / (time.process_time() - begun)


def repeat(work: Callable[[], int], least: int) -> int:
    done = 0
    while done < least:
        done += work()
    return done
