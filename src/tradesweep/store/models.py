"""The tables, as SQLAlchemy models. `docs/schema.md` says what each column means.

A table whose rows arrive in batches lists the columns of `names.RECORD_COLUMNS` first and in that order; what
the store adds (trial, attempt, producer) comes after them. Integer keys carry the structure: an episode's
number contains its producer's, a step's id its episode's. `steps`, `fills` and `trades` have no foreign keys,
which would halve the rate of writing; `verify` checks what a key would.

All times are microseconds since 1970-01-01 UTC.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import Any, ClassVar

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Double,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    LargeBinary,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.sqlite import INTEGER, REAL
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeEngine

from tradesweep.names import (
    Direction,
    EpisodeEnd,
    EpisodeRole,
    EpisodeStatus,
    EvaluationStatus,
    Operation,
    ProducerRole,
    Record,
    SweepEnd,
    SweepStatus,
    TradeStatus,
    TrialPhase,
    TrialStatus,
)

_INTEGER: TypeEngine[Any] = BigInteger().with_variant(INTEGER(), "sqlite")
_REAL: TypeEngine[Any] = Double().with_variant(REAL(), "sqlite")

STRICT: dict[str, Any] = {"sqlite_strict": True}
"""SQLite refuses a value of another type, so that no NumPy scalar ends up as a blob."""
NUMBERED: dict[str, Any] = {"sqlite_strict": True, "sqlite_autoincrement": True}
"""Numbers are never given twice, even after the highest row was deleted."""
CLUSTERED: dict[str, Any] = {"sqlite_strict": True, "sqlite_with_rowid": False}
"""Rows lie in the order of their key; without this a composite key is a second copy of the table's keys."""

FILL_OPERATIONS = tuple(operation for operation in Operation if operation != Operation.HOLD)
"""HOLD stands for a step without a fill and is never stored."""


class ProducerEnd(StrEnum):
    """Why an incarnation of a producer ended."""

    DONE = "DONE"
    FENCED = "FENCED"
    LOST = "LOST"


class OutboxKind(StrEnum):
    """What an outbox row announces."""

    SWEEP_OPENED = "sweep_opened"
    TRIAL_OPENED = "trial_opened"
    ITERATION = "iteration"
    CHECKPOINT = "checkpoint"
    TRIAL_CLOSED = "trial_closed"
    SWEEP_CLOSED = "sweep_closed"
    PROMOTION = "promotion"


def _one_of(column: str, domain: Iterable[StrEnum]) -> CheckConstraint:
    """A CHECK that keeps a column within a domain; NULL passes where the column may be NULL."""
    words = ", ".join(f"'{member.value}'" for member in domain)
    return CheckConstraint(f"{column} IN ({words})", name=column)


class Base(DeclarativeBase):
    """Types and constraint names of all tables."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map: ClassVar[dict[Any, Any]] = {int: _INTEGER, float: _REAL, str: Text(), bytes: LargeBinary()}

    @classmethod
    def table(cls) -> Table:
        """The Core table of this model."""
        table = cls.__table__
        assert isinstance(table, Table)
        return table


class Sweep(Base):
    """One search for one experiment on one state of spec and data."""

    __tablename__ = "sweeps"
    __table_args__ = (
        _one_of("status", SweepStatus),
        _one_of("end_reason", SweepEnd),
        Index(None, "experiment", "created_at"),
        STRICT,
    )

    sweep_id: Mapped[str] = mapped_column(primary_key=True)
    experiment: Mapped[str]
    status: Mapped[str]
    spec_json: Mapped[str]
    identity: Mapped[str]
    data_sha256: Mapped[str]
    instrument: Mapped[str]
    git_revision: Mapped[str | None]
    versions_json: Mapped[str]
    resources_json: Mapped[str]
    seed: Mapped[int]
    driver_pid: Mapped[int]
    driver_host: Mapped[str]
    driver_started_at: Mapped[int]
    buy_hold_sharpe: Mapped[float | None]
    validation_bars: Mapped[int]
    periods_per_year: Mapped[float]
    created_at: Mapped[int]
    ended_at: Mapped[int | None]
    mlflow_run_id: Mapped[str | None]
    notes: Mapped[str | None]
    env_steps_per_trial: Mapped[int | None]
    end_reason: Mapped[str | None]


class Trial(Base):
    """One training of one point with one seed, and a summary kept up to date with each evaluation."""

    __tablename__ = "trials"
    __table_args__ = (
        UniqueConstraint("sweep_id", "trial_no"),
        Index(None, "sweep_id", "point_no", "seed_no", unique=True),
        _one_of("status", TrialStatus),
        _one_of("phase", TrialPhase),
        NUMBERED,
    )

    trial_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    sweep_id: Mapped[str] = mapped_column(ForeignKey("sweeps.sweep_id"))
    trial_no: Mapped[int]
    status: Mapped[str]
    params_json: Mapped[str]
    point_json: Mapped[str]
    point_hash: Mapped[str]
    seed: Mapped[int]
    attempts: Mapped[int]
    env_steps: Mapped[int]
    updates: Mapped[int]
    iterations: Mapped[int]
    elapsed_s: Mapped[float]
    last_score: Mapped[float | None]
    best_iteration: Mapped[int | None]
    best_attempt: Mapped[int | None]
    best_sharpe: Mapped[float | None]
    best_total_return: Mapped[float | None]
    best_pnl: Mapped[float | None]
    best_max_drawdown: Mapped[float | None]
    best_trades: Mapped[int | None]
    best_win_rate: Mapped[float | None]
    final_metrics: Mapped[str | None]
    error: Mapped[str | None]
    created_at: Mapped[int]
    started_at: Mapped[int | None]
    ended_at: Mapped[int | None]
    mlflow_run_id: Mapped[str | None]
    notes: Mapped[str | None]
    point_no: Mapped[int] = mapped_column(server_default=text("0"))
    seed_no: Mapped[int] = mapped_column(server_default=text("0"))
    phase: Mapped[str] = mapped_column(server_default=text("'search'"))


class Attempt(Base):
    """One stretch of a trial between two restarts."""

    __tablename__ = "attempts"
    __table_args__ = (_one_of("status", TrialStatus), STRICT)

    trial_id: Mapped[int] = mapped_column(ForeignKey("trials.trial_id"), primary_key=True)
    attempt: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    status: Mapped[str]
    pid: Mapped[int]
    started_at: Mapped[int]
    ended_at: Mapped[int | None]
    resumed_from_iteration: Mapped[int | None]
    resumed_from_attempt: Mapped[int | None]
    resumed_env_steps: Mapped[int]
    error: Mapped[str | None]


class Producer(Base):
    """One incarnation of a producer, with the watermark of its batches."""

    __tablename__ = "producers"
    __table_args__ = (
        UniqueConstraint("sweep_id", "trial_id", "attempt", "role", "worker", "epoch"),
        ForeignKeyConstraint(["trial_id", "attempt"], ["attempts.trial_id", "attempts.attempt"]),
        _one_of("role", ProducerRole),
        _one_of("end_reason", ProducerEnd),
        NUMBERED,
    )

    producer_no: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    sweep_id: Mapped[str] = mapped_column(ForeignKey("sweeps.sweep_id"))
    trial_id: Mapped[int]
    attempt: Mapped[int]
    role: Mapped[str]
    worker: Mapped[int]
    epoch: Mapped[int]
    pid: Mapped[int]
    host: Mapped[str]
    last_seq: Mapped[int]
    batches: Mapped[int]
    steps_recorded: Mapped[int]
    steps_dropped: Mapped[int]
    started_at: Mapped[int]
    last_batch_at: Mapped[int | None]
    ended_at: Mapped[int | None]
    end_reason: Mapped[str | None]
    steps_pruned: Mapped[int] = mapped_column(server_default=text("0"))


class Episode(Base):
    """One run of the environment from reset to its end. `effective_steps` NULL means all of its steps count."""

    __tablename__ = "episodes"
    __table_args__ = (
        _one_of("role", EpisodeRole),
        _one_of("status", EpisodeStatus),
        _one_of("end_reason", EpisodeEnd),
        ForeignKeyConstraint(["trial_id", "attempt"], ["attempts.trial_id", "attempts.attempt"]),
        Index(None, "trial_id", "attempt", "role"),
        Index(
            "ix_episodes_open",
            "producer_no",
            sqlite_where=text("status = 'OPEN'"),
            postgresql_where=text("status = 'OPEN'"),
        ),
        STRICT,
    )

    episode_no: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    role: Mapped[str]
    lane: Mapped[int]
    rllib_episode_id: Mapped[str | None]
    seed: Mapped[int | None]
    started_at: Mapped[int]
    start_bar: Mapped[int]
    start_time: Mapped[int]
    initial_equity: Mapped[float]
    trial_id: Mapped[int]
    attempt: Mapped[int]
    producer_no: Mapped[int] = mapped_column(ForeignKey("producers.producer_no"))
    status: Mapped[str] = mapped_column(server_default=text("'OPEN'"))
    end_reason: Mapped[str | None]
    ended_at: Mapped[int | None]
    final_equity: Mapped[float | None]
    pnl: Mapped[float | None]
    total_reward: Mapped[float | None]
    total_steps: Mapped[int | None]
    sharpe: Mapped[float | None]
    max_drawdown: Mapped[float | None]
    trades: Mapped[int | None]
    win_rate: Mapped[float | None]
    ruined: Mapped[int | None]
    effective_steps: Mapped[int | None]


class Step(Base):
    """One decision and its mark. `step_id = episode_no << 24 | t`."""

    __tablename__ = "steps"
    __table_args__ = STRICT

    step_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    bar: Mapped[int]
    decision_time: Mapped[int]
    mark_time: Mapped[int]
    action: Mapped[int]
    target: Mapped[float]
    units: Mapped[float]
    fill_price: Mapped[float | None]
    mark_price: Mapped[float]
    equity: Mapped[float]
    reward: Mapped[float]
    cost: Mapped[float]
    weights_version: Mapped[int]


class Fill(Base):
    """One leg of a step. `quantity` is signed: bought units are positive."""

    __tablename__ = "fills"
    __table_args__ = (_one_of("operation", FILL_OPERATIONS), CLUSTERED)

    step_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    leg: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    trade_no: Mapped[int]
    operation: Mapped[str]
    quantity: Mapped[float]
    price: Mapped[float]
    fee: Mapped[float]
    slippage: Mapped[float]


class Trade(Base):
    """From flat to flat or to a sign flip; MARKED when the episode ended with it open."""

    __tablename__ = "trades"
    __table_args__ = (_one_of("direction", Direction), _one_of("status", TradeStatus), CLUSTERED)

    episode_no: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    trade_no: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    direction: Mapped[str]
    status: Mapped[str]
    entry_step_id: Mapped[int]
    exit_step_id: Mapped[int]
    entry_time: Mapped[int]
    exit_time: Mapped[int]
    entry_price: Mapped[float]
    exit_price: Mapped[float]
    quantity: Mapped[float]
    pnl: Mapped[float]
    fees: Mapped[float]
    slippage: Mapped[float]
    borrow: Mapped[float]


class Iteration(Base):
    """One evaluation interval of training. A row that a later attempt trained anew is superseded."""

    __tablename__ = "iterations"
    __table_args__ = (
        ForeignKeyConstraint(["trial_id", "attempt"], ["attempts.trial_id", "attempts.attempt"]),
        STRICT,
    )

    iteration: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    at: Mapped[int]
    env_steps: Mapped[int]
    updates: Mapped[int]
    weights_version: Mapped[int]
    elapsed_s: Mapped[float]
    metrics: Mapped[str]
    trial_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    attempt: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    superseded_by_attempt: Mapped[int | None]


class Evaluation(Base):
    """The greedy policy run once over a split."""

    __tablename__ = "evaluations"
    __table_args__ = (
        ForeignKeyConstraint(["trial_id", "attempt"], ["attempts.trial_id", "attempts.attempt"]),
        _one_of("split", EpisodeRole),
        _one_of("status", EvaluationStatus),
        CheckConstraint("eligible IN (0, 1)", name="eligible"),
        Index(None, "trial_id", "iteration"),
        STRICT,
    )

    episode_no: Mapped[int] = mapped_column(ForeignKey("episodes.episode_no"), primary_key=True, autoincrement=False)
    iteration: Mapped[int]
    split: Mapped[str]
    cost_multiplier: Mapped[float]
    status: Mapped[str]
    sharpe: Mapped[float | None]
    score: Mapped[float]
    bars: Mapped[int]
    trades: Mapped[int]
    total_return: Mapped[float]
    max_drawdown: Mapped[float]
    mean_exposure: Mapped[float]
    turnover: Mapped[float]
    eligible: Mapped[int]
    at: Mapped[int]
    trial_id: Mapped[int]
    attempt: Mapped[int]
    superseded_by_attempt: Mapped[int | None]


class EvaluationCurve(Base):
    """The ledger of everything ever evaluated: net returns and exposures as little-endian float64."""

    __tablename__ = "evaluation_curves"
    __table_args__ = (Index(None, "instrument", "first_time"), STRICT)

    episode_no: Mapped[int] = mapped_column(ForeignKey("evaluations.episode_no"), primary_key=True, autoincrement=False)
    instrument: Mapped[str]
    market_sha256: Mapped[str]
    first_time: Mapped[int]
    last_time: Mapped[int]
    blocks: Mapped[int]
    returns: Mapped[bytes]
    exposures: Mapped[bytes]


class Checkpoint(Base):
    """A published checkpoint folder.

    `last_producer_no` and `steps_dropped` say where recording stood when it was published, so that a resume knows
    which episodes came later.
    """

    __tablename__ = "checkpoints"
    __table_args__ = (
        ForeignKeyConstraint(["trial_id", "attempt"], ["attempts.trial_id", "attempts.attempt"]),
        CheckConstraint("eligible IN (0, 1)", name="eligible"),
        STRICT,
    )

    iteration: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    at: Mapped[int]
    env_steps: Mapped[int]
    weights_version: Mapped[int]
    path: Mapped[str]
    manifest_sha256: Mapped[str]
    sharpe: Mapped[float | None]
    score: Mapped[float]
    eligible: Mapped[int]
    lanes: Mapped[str]
    trial_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    attempt: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    last_producer_no: Mapped[int]
    steps_dropped: Mapped[int]
    superseded_by_attempt: Mapped[int | None]
    deleted_at: Mapped[int | None]


class Promotion(Base):
    """One move of a registry alias, or a refusal to move it."""

    __tablename__ = "promotions"
    __table_args__ = (
        CheckConstraint("verdict IN ('PASSED', 'FORCED', 'REFUSED', 'ROLLED_BACK')", name="verdict"),
        NUMBERED,
    )

    promotion_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    at: Mapped[int]
    experiment: Mapped[str]
    sweep_id: Mapped[str] = mapped_column(ForeignKey("sweeps.sweep_id"))
    trial_id: Mapped[int] = mapped_column(ForeignKey("trials.trial_id"))
    iteration: Mapped[int]
    manifest_sha256: Mapped[str]
    model: Mapped[str]
    version: Mapped[str | None]
    alias: Mapped[str]
    previous_version: Mapped[str | None]
    verdict: Mapped[str]
    reason: Mapped[str | None]
    details_json: Mapped[str]


class HoldoutReading(Base):
    """One reading of a test split. Every reading is a row, whatever came of it."""

    __tablename__ = "test_readings"
    __table_args__ = (Index(None, "instrument", "first_time"), NUMBERED)

    reading_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    at: Mapped[int]
    experiment: Mapped[str]
    sweep_id: Mapped[str] = mapped_column(ForeignKey("sweeps.sweep_id"))
    trial_id: Mapped[int] = mapped_column(ForeignKey("trials.trial_id"))
    iteration: Mapped[int]
    market_sha256: Mapped[str]
    instrument: Mapped[str]
    first_time: Mapped[int]
    last_time: Mapped[int]
    sharpe: Mapped[float | None]
    reason: Mapped[str]


class OutboxEntry(Base):
    """What MLflow should hear, committed together with what it tells of."""

    __tablename__ = "outbox"
    __table_args__ = (
        _one_of("kind", OutboxKind),
        Index(
            "ix_outbox_undelivered",
            "id",
            sqlite_where=text("delivered_at IS NULL"),
            postgresql_where=text("delivered_at IS NULL"),
        ),
        NUMBERED,
    )

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    kind: Mapped[str]
    sweep_id: Mapped[str] = mapped_column(ForeignKey("sweeps.sweep_id"))
    trial_id: Mapped[int | None] = mapped_column(ForeignKey("trials.trial_id"))
    at: Mapped[int]
    payload: Mapped[str]
    delivered_at: Mapped[int | None]


VIEWS = (
    "training_runs",
    "trading_operations",
    "trade_lineage",
    "effective_steps",
    "effective_episodes",
    "effective_iterations",
    "effective_evaluations",
    "effective_checkpoints",
)
"""The migrations define them."""

MODEL_OF_RECORD: dict[Record, type[Base]] = {
    Record.EPISODES_OPENED: Episode,
    Record.STEPS: Step,
    Record.FILLS: Fill,
    Record.TRADES: Trade,
    Record.EPISODES_CLOSED: Episode,
    Record.ITERATIONS: Iteration,
    Record.EVALUATIONS: Evaluation,
    Record.EVALUATION_CURVES: EvaluationCurve,
    Record.CHECKPOINTS: Checkpoint,
}
"""Which table a record kind goes to."""
