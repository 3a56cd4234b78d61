"""Rows as the read side gives them. Each field is a column of that name; `docs/schema.md` says what it means."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tradesweep.names import (
    EpisodeEnd,
    EpisodeRole,
    EpisodeStatus,
    EvaluationStatus,
    SweepEnd,
    SweepStatus,
    TrialPhase,
    TrialStatus,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepRow:
    """A row of `sweeps`."""

    sweep_id: str
    experiment: str
    status: SweepStatus
    spec_json: str
    identity: str
    data_sha256: str
    instrument: str
    git_revision: str | None
    versions_json: str
    resources_json: str
    seed: int
    driver_pid: int
    driver_host: str
    driver_started_at: int
    buy_hold_sharpe: float | None
    validation_bars: int
    periods_per_year: float
    created_at: int
    ended_at: int | None
    mlflow_run_id: str | None
    notes: str | None
    env_steps_per_trial: int | None
    end_reason: SweepEnd | None


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialRow:
    """A row of `trials`."""

    trial_id: int
    sweep_id: str
    trial_no: int
    status: TrialStatus
    params_json: str
    point_json: str
    point_hash: str
    seed: int
    attempts: int
    env_steps: int
    updates: int
    iterations: int
    elapsed_s: float
    last_score: float | None
    best_iteration: int | None
    best_attempt: int | None
    best_sharpe: float | None
    best_total_return: float | None
    best_pnl: float | None
    best_max_drawdown: float | None
    best_trades: int | None
    best_win_rate: float | None
    final_metrics: str | None
    error: str | None
    created_at: int
    started_at: int | None
    ended_at: int | None
    mlflow_run_id: str | None
    notes: str | None
    point_no: int
    seed_no: int
    phase: TrialPhase


@dataclass(frozen=True, kw_only=True, slots=True)
class AttemptRow:
    """A row of `attempts`."""

    trial_id: int
    attempt: int
    status: TrialStatus
    pid: int
    started_at: int
    ended_at: int | None
    resumed_from_iteration: int | None
    resumed_from_attempt: int | None
    resumed_env_steps: int
    error: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class IterationRow:
    """A row of `iterations`."""

    trial_id: int
    attempt: int
    iteration: int
    at: int
    env_steps: int
    updates: int
    weights_version: int
    elapsed_s: float
    metrics: str
    superseded_by_attempt: int | None


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationRow:
    """A row of `evaluations`."""

    episode_no: int
    trial_id: int
    attempt: int
    iteration: int
    split: str
    cost_multiplier: float
    status: EvaluationStatus
    sharpe: float | None
    score: float
    bars: int
    trades: int
    total_return: float
    max_drawdown: float
    mean_exposure: float
    turnover: float
    eligible: int
    at: int
    superseded_by_attempt: int | None


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointRow:
    """A row of `checkpoints`. `path` is relative to the home folder; `lanes` is JSON."""

    trial_id: int
    attempt: int
    iteration: int
    at: int
    env_steps: int
    weights_version: int
    path: str
    manifest_sha256: str
    sharpe: float | None
    score: float
    eligible: int
    lanes: str
    superseded_by_attempt: int | None
    deleted_at: int | None


@dataclass(frozen=True, kw_only=True, slots=True)
class EpisodeRow:
    """A row of `episodes`."""

    episode_no: int
    role: EpisodeRole
    lane: int
    rllib_episode_id: str | None
    seed: int | None
    started_at: int
    start_bar: int
    start_time: int
    initial_equity: float
    trial_id: int
    attempt: int
    producer_no: int
    status: EpisodeStatus
    end_reason: EpisodeEnd | None
    ended_at: int | None
    final_equity: float | None
    pnl: float | None
    total_reward: float | None
    total_steps: int | None
    sharpe: float | None
    max_drawdown: float | None
    trades: int | None
    win_rate: float | None
    ruined: int | None
    effective_steps: int | None


@dataclass(frozen=True, kw_only=True, slots=True)
class CurveRow:
    """A row of `evaluation_curves`; the blobs are little-endian float64."""

    episode_no: int
    instrument: str
    market_sha256: str
    first_time: int
    last_time: int
    blocks: int
    returns: bytes
    exposures: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class PromotionRow:
    """A row of `promotions`."""

    promotion_id: int
    at: int
    experiment: str
    sweep_id: str
    trial_id: int
    iteration: int
    manifest_sha256: str
    model: str
    version: str | None
    alias: str
    previous_version: str | None
    verdict: str
    reason: str | None
    details_json: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadingRow:
    """A row of `test_readings`."""

    reading_id: int
    at: int
    experiment: str
    sweep_id: str
    trial_id: int
    iteration: int
    market_sha256: str
    instrument: str
    first_time: int
    last_time: int
    sharpe: float | None
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class OutboxRow:
    """A row of `outbox`, its payload read from JSON."""

    id: int
    kind: str
    sweep_id: str
    trial_id: int | None
    at: int
    payload: dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepCounts:
    """How many rows a sweep has."""

    trials: int
    """All trials."""
    trials_by_status: dict[TrialStatus, int]
    """Those statuses that occur."""
    attempts: int
    """Attempts of all trials."""
    iterations: int
    """Iterations that count."""
    episodes: int
    """All episodes, also superseded ones."""
    open_episodes: int
    """Episodes that nobody has closed."""
    steps: int
    """Step rows, as the producers' watermarks count them."""
    steps_dropped: int
    """Steps that were sampled and, as known, not recorded."""
    trades: int
    """Trades, closed and marked."""
    evaluations: int
    """All evaluations, also superseded ones."""
