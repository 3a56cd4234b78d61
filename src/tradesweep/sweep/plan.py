"""What a sweep will be, before anything is spent: resources, steps, rows, the look-ahead proof, the luck hurdle."""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tradesweep.env import EnvConfig, build_observer, build_reward, check_causal, compile_env, compile_market
from tradesweep.errors import StoreError
from tradesweep.home import Home
from tradesweep.market import LookaheadVerdict, Market, SplitFacts, plan_warnings, split_facts
from tradesweep.metrics import expected_max_sharpe
from tradesweep.policy import check_evaluable
from tradesweep.spec import STEPS_PER_TRAINING_STEP, SweepSpec, possible_values
from tradesweep.store import find_database
from tradesweep.sweep.machine import Machine, look_at_machine
from tradesweep.sweep.points import count_points, count_warnings
from tradesweep.sweep.resources import Resources, resolve_resources

BYTES_PER_STEP = 160
"""Measured on SQLite: a steps row with its share of fills, trades and episodes."""
BYTES_PER_CHECKPOINT = 400_000
"""Measured: RLlib's state and the plain policy of a 64x64 network."""
NEWEST_KEPT = 2
"""Checkpoints of a trial beside its best ones: the last two."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """A spec that passed every check, with what it needs."""

    spec: SweepSpec
    market: Market
    env: EnvConfig
    sweep_id: str
    identity: str
    resources: Resources
    free_bytes: int | None
    """Memory that is free now; None where nobody says."""
    points: int
    """What the search asks for."""
    trials: int
    """At most: every seed of every point, and every confirmation."""
    env_steps: int
    """Through all trials, training only."""
    updates: int
    rows: int
    """Step rows, evaluations included."""
    disk_bytes: int
    free_disk_bytes: int | None = None
    """What is free where results go; None until somebody looked there."""
    hurdle: float
    """Annualised Sharpe the best of `trials` skill-less trials is expected to show on the validation split."""
    validation_bars: int
    """Returns of one evaluation."""
    lookahead: LookaheadVerdict
    """Both proofs on this very spec and data."""
    splits: tuple[SplitFacts, ...]
    """Facts of train and validation; never of test."""
    warnings: tuple[str, ...]
    extended_env_steps: int | None = None
    """The budget of a trial where its sweep was extended; None: as the spec says."""

    @property
    def env_steps_per_trial(self) -> int:
        """The budget of a trial."""
        return self.extended_env_steps or self.spec.budget.env_steps_per_trial

    @property
    def evaluations(self) -> int:
        """Of a trial: as many as the spec says, and beyond its steps as often as within them."""
        return count_evaluations(self.spec, self.env_steps_per_trial)

    @property
    def confirmations(self) -> int:
        """Trials on fresh seeds, when there are as many leaders as wanted."""
        return self.trials - self.points * self.spec.seeds

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "experiment": self.spec.experiment,
            "sweep_id": self.sweep_id,
            "algorithm": self.spec.algorithm,
            "resources": self.resources.to_dict(),
            "free_bytes": self.free_bytes,
            "points": self.points,
            "seeds": self.spec.seeds,
            "confirmations": self.confirmations,
            "trials": self.trials,
            "limits": describe_limits(self.spec),
            "env_steps": self.env_steps,
            "updates": self.updates,
            "rows": self.rows,
            "disk_bytes": self.disk_bytes,
            "free_disk_bytes": self.free_disk_bytes,
            "hurdle": self.hurdle,
            "validation_bars": self.validation_bars,
            "lookahead": {"passed": self.lookahead.passed, "cuts": self.lookahead.cuts},
            "splits": [asdict(facts) for facts in self.splits],
            "warnings": list(self.warnings),
        }


def make_plan(spec: SweepSpec) -> Plan:
    """Compile and check everything a sweep stands on. Raises SpecError or MarketError; nothing is written."""
    market = compile_market(spec)
    config = compile_env(spec, market)
    with spec.placing("splits"):
        for split in ("validation", "test"):
            check_evaluable(market, config.window_bars, split)
    lookahead = check_causal(spec, market)
    with spec.placing("features"):
        lookahead.check()
    replay_bytes = count_replay_bytes(spec, market, config, spec.budget.env_steps_per_trial)
    machine = look_at_machine()
    resources = resolve_resources(spec, machine, replay_bytes=replay_bytes)
    check_intervals(spec, resources.lanes)
    sha256, lanes, runners = market.sha256, resources.lanes, resources.env_runners
    points = count_points(spec)
    trials = count_trials(spec, points)
    validation = market.splits["validation"]
    bars = validation.stop - validation.start - 1
    costs = estimate_costs(spec, trials, bars, replay_bytes, spec.budget.env_steps_per_trial)
    check_disk(spec, costs.disk_bytes)
    cost = (config.costs.fee_bps + config.costs.slippage_bps) / 1e4
    return Plan(
        spec=spec,
        market=market,
        env=config,
        sweep_id=spec.sweep_id(data_sha256=sha256, lanes=lanes, env_runners=runners),
        identity=spec.identity(data_sha256=sha256, lanes=lanes, env_runners=runners),
        resources=resources,
        free_bytes=machine.free_bytes,
        points=points,
        trials=trials,
        **asdict(costs),
        hurdle=expected_max_sharpe(trials, bars, market.periods_per_year),
        validation_bars=bars,
        lookahead=lookahead,
        splits=tuple(split_facts(market, name, cost_per_leg=cost) for name in ("train", "validation")),
        warnings=(*plan_warnings(market), *count_warnings(spec, points), *memory_warnings(resources, machine)),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Costs:
    """What trials of some length take, all of them together."""

    env_steps: int
    updates: int
    rows: int
    disk_bytes: int


def estimate_costs(
    spec: SweepSpec, trials: int, validation_bars: int, replay_bytes: int, env_steps_per_trial: int
) -> Costs:
    """Of so many trials of that many env steps."""
    rows = trials * rows_per_trial(spec, validation_bars, env_steps_per_trial)
    return Costs(
        env_steps=trials * env_steps_per_trial,
        updates=trials * updates_per_trial(spec, env_steps_per_trial),
        rows=rows,
        disk_bytes=estimate_disk(spec, rows, trials, replay_bytes),
    )


def lengthen(plan: Plan, env_steps_per_trial: int) -> Plan:
    """The plan with longer trials than its spec says, and what they take."""
    replay_bytes = count_replay_bytes(plan.spec, plan.market, plan.env, env_steps_per_trial)
    costs = estimate_costs(plan.spec, plan.trials, plan.validation_bars, replay_bytes, env_steps_per_trial)
    return replace(plan, extended_env_steps=env_steps_per_trial, **asdict(costs))


def look_at_disk(plan: Plan, home: Home) -> Plan:
    """The plan with what is free where its results go, and a warning where that is less than they are expected to take.

    Nothing is created. A database that cannot be asked is for the sweep itself to complain about.
    """
    free_bytes = shutil.disk_usage(find_existing(home.path)).free
    try:
        of_database = find_database(home.database).free_bytes()
    except StoreError:
        of_database = None
    free_bytes = min(free_bytes, free_bytes if of_database is None else of_database)
    return replace(
        plan, free_disk_bytes=free_bytes, warnings=(*plan.warnings, *disk_warnings(plan.disk_bytes, free_bytes, home))
    )


def find_existing(path: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    return next(folder for folder in (path, *path.parents) if folder.is_dir())


def disk_warnings(disk_bytes: int, free_bytes: int, home: Home) -> list[str]:
    """The estimate is of a sweep that begins: too rough to refuse what may go on with another one."""
    if disk_bytes <= free_bytes:
        return []
    remedy = "free some space, set TRADESWEEP_HOME to another disk, or write recording.steps: evaluation"
    return [f"{home.path}: about {in_words(disk_bytes)} are needed on disk, {in_words(free_bytes)} are free; {remedy}"]


def in_words(size: float) -> str:
    """Bytes as megabytes or gigabytes."""
    return in_gb(size) if size >= 1e9 else f"{size / 1e6:,.1f} MB"


def in_gb(size: float) -> str:
    """Bytes as gigabytes, never in powers of ten."""
    value = size / 1e9
    return f"{value:,.0f} GB" if value >= 100 else f"{value:.2g} GB"


def memory_warnings(resources: Resources, machine: Machine) -> list[str]:
    """What was asked for may be more than there is; the estimate is too rough to refuse it."""
    needed, free = resources.memory_bytes, machine.free_bytes
    if free is None or needed <= free:
        return []
    few = "fewer resources.concurrent_trials" if resources.concurrent_trials > 1 else "a smaller replay"
    return [f"about {needed / 1e9:.1f} GB of memory are needed, {free / 1e9:.1f} GB are free; choose {few}"]


def count_trials(spec: SweepSpec, points: int) -> int:
    """Every point on each of its seeds, and the leaders again on fresh ones."""
    fresh = 0 if spec.confirm is None else min(spec.confirm.top, points) * spec.confirm.seeds
    return points * spec.seeds + fresh


def describe_limits(spec: SweepSpec) -> list[str]:
    """What may end the sweep before it has all its trials."""
    budget, limits = spec.budget, []
    if budget.env_steps is not None:
        limits.append(f"{budget.env_steps:,} env steps over all trials")
    if budget.wall_time_s is not None:
        limits.append(f"{budget.wall_time_s:g} s a run")
    if budget.patience_trials is not None:
        limits.append(f"{budget.patience_trials} trials without a better best, after {budget.min_trials}")
    return limits


def estimate_disk(spec: SweepSpec, rows: int, trials: int, replay_bytes: int) -> int:
    """Bytes of the database and of the checkpoints that stay."""
    checkpoint_bytes = BYTES_PER_CHECKPOINT + (replay_bytes if keeps_replay(spec) else 0)
    return rows * BYTES_PER_STEP + trials * (spec.recording.keep_best + NEWEST_KEPT) * checkpoint_bytes


def check_disk(spec: SweepSpec, disk_bytes: int) -> None:
    """Refuse a sweep whose estimate is over its own limit, before it fills a disk."""
    if disk_bytes > spec.recording.max_gb * 1e9:
        raise spec.error_at(
            "recording.max_gb",
            f"must hold the estimated {in_gb(disk_bytes)} of this sweep",
            spec.recording.max_gb,
            "raise it, write recording.steps: evaluation, or fewer env steps",
            beside=["recording", "budget", "seeds", "confirm", "evaluation.count"],
        )


def check_intervals(spec: SweepSpec, lanes: int) -> None:
    """Each evaluation needs training steps of its own: none may span two evaluations."""
    count = spec.evaluation.count
    if spec.algorithm == "ppo":
        least, word = largest_value(spec, "train_batch_size_per_learner"), "batch"
        remedy = ", or a smaller train_batch_size_per_learner"
        beside = [f"{part}.train_batch_size_per_learner" for part in ("fixed", "search")]
    else:
        least, word, remedy = -(-STEPS_PER_TRAINING_STEP // lanes) * lanes, "training step", ""
        beside = ["resources.lanes", "resources.env_runners"]
    if least > spec.budget.env_steps_per_trial // count:
        raise spec.error_at(
            "budget.env_steps_per_trial",
            f"must give each of {count} evaluations at least one {word} of {least:g} steps",
            spec.budget.env_steps_per_trial,
            f"write at least {int(least) * count}{remedy}",
            beside=["evaluation.count", *beside],
        )


def count_replay_bytes(spec: SweepSpec, market: Market, config: EnvConfig, env_steps_per_trial: int) -> int:
    """What the largest replay of a trial holds: two observations a transition, and six numbers."""
    if spec.algorithm != "dqn":
        return 0
    reward = build_reward(config.reward, config.reward_params)
    width = build_observer(market, config, lanes=1, reward_state_size=reward.state_size).width
    stored = min(largest_value(spec, "replay_buffer_config.capacity"), env_steps_per_trial)
    return int(stored * (8 * width + 25))


def keeps_replay(spec: SweepSpec) -> bool:
    """Whether checkpoints hold the replay's contents, at some point at least."""
    return spec.algorithm == "dqn" and any(possible_values(spec, "replay_buffer_config.checkpoint"))


def largest_value(spec: SweepSpec, key: str) -> float:
    """The largest value a numeric key can take in this sweep."""
    return float(max(possible_values(spec, key)))


def updates_per_trial(spec: SweepSpec, steps: int) -> int:
    """Gradient steps a trial of so many env steps makes."""
    if spec.algorithm == "dqn":
        return int(steps * largest_value(spec, "updates_per_env_step"))
    batch, epochs = largest_value(spec, "train_batch_size_per_learner"), largest_value(spec, "num_epochs")
    return int(steps // batch * epochs * max(batch // largest_value(spec, "minibatch_size"), 1))


def rows_per_trial(spec: SweepSpec, validation_bars: int, steps: int) -> int:
    """Step rows of a trial of so many env steps: training, when recorded, and every evaluation."""
    return (steps if spec.recording.steps == "all" else 0) + count_evaluations(spec, steps) * validation_bars


def count_evaluations(spec: SweepSpec, steps: int) -> int:
    """Of a trial of so many env steps."""
    return spec.evaluation.count * steps // spec.budget.env_steps_per_trial
