"""What a sweep will be, before anything is spent: resources, steps, rows, the look-ahead proof, the luck hurdle."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from tradesweep.env import EnvConfig, build_observer, build_reward, check_causal, compile_env, compile_market
from tradesweep.market import LookaheadVerdict, Market, SplitFacts, plan_warnings, split_facts
from tradesweep.metrics import expected_max_sharpe
from tradesweep.policy import check_evaluable
from tradesweep.spec import STEPS_PER_TRAINING_STEP, SweepSpec, possible_values
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
    replay_bytes = count_replay_bytes(spec, market, config)
    machine = look_at_machine()
    resources = resolve_resources(spec, machine, replay_bytes=replay_bytes)
    check_intervals(spec, resources.lanes)
    sha256, lanes, runners = market.sha256, resources.lanes, resources.env_runners
    points = count_points(spec)
    trials = count_trials(spec, points)
    validation = market.splits["validation"]
    bars = validation.stop - validation.start - 1
    rows = count_rows(spec, trials, bars)
    disk_bytes = estimate_disk(spec, rows, trials, replay_bytes)
    check_disk(spec, disk_bytes)
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
        env_steps=trials * spec.budget.env_steps_per_trial,
        updates=trials * updates_per_trial(spec),
        rows=rows,
        disk_bytes=disk_bytes,
        hurdle=expected_max_sharpe(trials, bars, market.periods_per_year),
        validation_bars=bars,
        lookahead=lookahead,
        splits=tuple(split_facts(market, name, cost_per_leg=cost) for name in ("train", "validation")),
        warnings=(*plan_warnings(market), *count_warnings(spec, points), *memory_warnings(resources, machine)),
    )


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
            f"must hold the estimated {disk_bytes / 1e9:.2g} GB of this sweep",
            spec.recording.max_gb,
            "raise it, write recording.steps: evaluation, or fewer env steps",
        )


def check_intervals(spec: SweepSpec, lanes: int) -> None:
    """Each evaluation needs training steps of its own: none may span two evaluations."""
    count = spec.evaluation.count
    if spec.algorithm == "ppo":
        least, word = largest_value(spec, "train_batch_size_per_learner"), "batch"
        remedy = ", or a smaller train_batch_size_per_learner"
    else:
        least, word, remedy = -(-STEPS_PER_TRAINING_STEP // lanes) * lanes, "training step", ""
    if least > spec.budget.env_steps_per_trial // count:
        raise spec.error_at(
            "budget.env_steps_per_trial",
            f"must give each of {count} evaluations at least one {word} of {least:g} steps",
            spec.budget.env_steps_per_trial,
            f"write at least {int(least) * count}{remedy}",
        )


def count_replay_bytes(spec: SweepSpec, market: Market, config: EnvConfig) -> int:
    """What the largest replay of a trial holds: two observations a transition, and six numbers."""
    if spec.algorithm != "dqn":
        return 0
    reward = build_reward(config.reward, config.reward_params)
    width = build_observer(market, config, lanes=1, reward_state_size=reward.state_size).width
    stored = min(largest_value(spec, "replay_buffer_config.capacity"), spec.budget.env_steps_per_trial)
    return int(stored * (8 * width + 25))


def keeps_replay(spec: SweepSpec) -> bool:
    """Whether checkpoints hold the replay's contents, at some point at least."""
    return spec.algorithm == "dqn" and any(possible_values(spec, "replay_buffer_config.checkpoint"))


def largest_value(spec: SweepSpec, key: str) -> float:
    """The largest value a numeric key can take in this sweep."""
    return float(max(possible_values(spec, key)))


def updates_per_trial(spec: SweepSpec) -> int:
    """Gradient steps a trial makes."""
    steps = spec.budget.env_steps_per_trial
    if spec.algorithm == "dqn":
        return int(steps * largest_value(spec, "updates_per_env_step"))
    batch, epochs = largest_value(spec, "train_batch_size_per_learner"), largest_value(spec, "num_epochs")
    return int(steps // batch * epochs * max(batch // largest_value(spec, "minibatch_size"), 1))


def count_rows(spec: SweepSpec, trials: int, validation_bars: int) -> int:
    """Step rows of all trials: training, when recorded, and every evaluation."""
    training = spec.budget.env_steps_per_trial if spec.recording.steps == "all" else 0
    return trials * (training + spec.evaluation.count * validation_bars)
