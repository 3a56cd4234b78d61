"""Names that cross rooms, each defined once: metric names, states, record columns.

A *record kind* is one table's worth of rows inside a batch. Producers build their Arrow payload from these
columns and the store builds its statements from them; a test compares both with the real tables, so a key
cannot part from its column unnoticed.

All times are integers: microseconds since 1970-01-01 UTC. Booleans are stored as 0 and 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Literal

EPISODE_STEP_BITS = 24
"""`step_id = episode_no << 24 | t`: an episode has at most 16,777,216 steps."""

PRODUCER_EPISODE_BITS = 20
"""`episode_no = producer_no << 20 | k`: one incarnation of a producer opens at most 1,048,576 episodes."""


SCORE_FLOOR = -10.0
"""The score of a policy that ruined its account, and of a trial that failed."""


LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s %(message)s"
"""Of every log of ours; Ray gives it to the handlers that it finds, which are ours."""


class Metric(StrEnum):
    """Every metric name that reaches a result, the store or MLflow."""

    TRAIN_ENV_STEPS = "train/env_steps"
    TRAIN_UPDATES = "train/updates"
    TRAIN_LOSS = "train/loss"
    TRAIN_LEARNING_RATE = "train/learning_rate"
    TRAIN_ENTROPY = "train/entropy"
    TRAIN_KL = "train/kl"
    TRAIN_GRAD_NORM = "train/grad_norm"
    TRAIN_Q_MEAN = "train/q_mean"
    TRAIN_SHARPE_GREEDY = "train/sharpe_greedy"
    ROLLOUT_RETURN_MEAN = "rollout/return_mean"
    ROLLOUT_LENGTH_MEAN = "rollout/length_mean"
    VALIDATION_SHARPE = "validation/sharpe"
    VALIDATION_SHARPE_DOUBLE_COST = "validation/sharpe_double_cost"
    VALIDATION_SHARPE_SAMPLED = "validation/sharpe_sampled"
    VALIDATION_SCORE = "validation/score"
    VALIDATION_PNL = "validation/pnl"
    VALIDATION_PNL_PCT = "validation/pnl_pct"
    VALIDATION_FINAL_WORTH = "validation/final_worth"
    VALIDATION_TRADES = "validation/trades"
    VALIDATION_WIN_RATE = "validation/win_rate"
    VALIDATION_MAX_DRAWDOWN = "validation/max_drawdown"
    VALIDATION_MEAN_EXPOSURE = "validation/mean_exposure"
    VALIDATION_BEST_SHARPE = "validation/best_sharpe"
    TEST_SHARPE = "test/sharpe"
    TEST_PNL_PCT = "test/pnl_pct"
    TEST_MAX_DRAWDOWN = "test/max_drawdown"
    TEST_TRADES = "test/trades"
    TIME_ELAPSED = "time/elapsed_s"
    TIME_STEPS_PER_S = "time/env_steps_per_s"
    TIME_EVALUATION = "time/evaluation_s"
    RECORDER_ROWS_PER_S = "recorder/rows_per_s"
    RECORDER_LAG = "recorder/lag_s"


class Draw(IntEnum):
    """What a trial draws random numbers for: second in its generator's seed, so that no two draw the same ones.

    Lanes draw their starts from `default_rng(seed + lane)`, which NumPy takes for [seed + lane, 0, 0 ...].
    """

    REPLAY = 1
    MINIBATCHES = 2
    ACTIONS = 3
    EVALUATION = 4


class SweepStatus(StrEnum):
    """Where a sweep stands."""

    RUNNING = "RUNNING"
    FINISHED = "FINISHED"
    INTERRUPTED = "INTERRUPTED"
    FAILED = "FAILED"


class SweepEnd(StrEnum):
    """What ended a sweep before it had all its trials: the key of the spec that decided it."""

    ENV_STEPS = "budget.env_steps"
    WALL_TIME = "budget.wall_time_s"
    PATIENCE = "budget.patience_trials"
    SPACE = "search"


class TrialPhase(StrEnum):
    """What a trial is for: to find a point, or to train a leader again on a fresh seed."""

    SEARCH = "search"
    CONFIRM = "confirm"


class TrialStatus(StrEnum):
    """Where a trial stands. STOPPED is early stopping on patience, PRUNED the pruner's word."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    FINISHED = "FINISHED"
    STOPPED = "STOPPED"
    PRUNED = "PRUNED"
    INTERRUPTED = "INTERRUPTED"
    FAILED = "FAILED"
    DIVERGED = "DIVERGED"
    CRASHED = "CRASHED"


GOOD_ENDS = frozenset({TrialStatus.FINISHED, TrialStatus.STOPPED, TrialStatus.PRUNED})
BAD_ENDS = frozenset({TrialStatus.FAILED, TrialStatus.DIVERGED, TrialStatus.CRASHED})
TRIAL_ENDS = GOOD_ENDS | BAD_ENDS


class EpisodeStatus(StrEnum):
    """How an episode stands.

    COMPLETED: the environment ended it (last bar, or ruin). TRUNCATED: its trial ended in order while it ran.
    ABANDONED: its producer was lost.
    """

    OPEN = "OPEN"
    COMPLETED = "COMPLETED"
    TRUNCATED = "TRUNCATED"
    ABANDONED = "ABANDONED"


class EpisodeEnd(StrEnum):
    """Why an episode ended."""

    LAST_BAR = "LAST_BAR"
    RUINED = "RUINED"
    RESET = "RESET"
    TRIAL_ENDED = "TRIAL_ENDED"
    PRODUCER_LOST = "PRODUCER_LOST"


class EpisodeRole(StrEnum):
    """What an episode was for. Only `train` episodes are sampled; the others are evaluations."""

    TRAIN = "train"
    VALIDATION = "validation"
    STRESS = "stress"
    TEST = "test"


class EvaluationStatus(StrEnum):
    """Whether an evaluation has a Sharpe ratio. FLAT and TOO_SHORT are results, not failures: NULL is stored."""

    OK = "OK"
    FLAT = "FLAT"
    TOO_SHORT = "TOO_SHORT"
    RUINED = "RUINED"


class Operation(StrEnum):
    """What a fill does. HOLD stands for a step without a fill and exists only in `trading_operations`."""

    ENTRY_LONG = "ENTRY_LONG"
    EXIT_LONG = "EXIT_LONG"
    ENTRY_SHORT = "ENTRY_SHORT"
    EXIT_SHORT = "EXIT_SHORT"
    HOLD = "HOLD"


class Direction(StrEnum):
    """Which side a trade was on."""

    LONG = "LONG"
    SHORT = "SHORT"


class TradeStatus(StrEnum):
    """CLOSED by a fill, or MARKED at the last price of an episode that ended with the position open."""

    CLOSED = "CLOSED"
    MARKED = "MARKED"


class ProducerRole(StrEnum):
    """Who sends batches: an env runner, or the trial itself (evaluations, iterations, checkpoints)."""

    RUNNER = "runner"
    TRIAL = "trial"


Kind = Literal["int", "float", "text", "blob"]


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a record kind."""

    name: str
    kind: Kind
    nullable: bool = False


def _columns(text: str) -> tuple[Column, ...]:
    """Parse `name:kind` words; a trailing `?` marks a column that may be NULL."""
    words = (word.split(":") for word in text.split())
    return tuple(Column(name, kind.rstrip("?"), kind.endswith("?")) for name, kind in words)  # type: ignore[arg-type]


class Record(StrEnum):
    """The record kinds a batch may hold."""

    EPISODES_OPENED = "episodes_opened"
    STEPS = "steps"
    FILLS = "fills"
    TRADES = "trades"
    EPISODES_CLOSED = "episodes_closed"
    ITERATIONS = "iterations"
    EVALUATIONS = "evaluations"
    EVALUATION_CURVES = "evaluation_curves"
    CHECKPOINTS = "checkpoints"


RECORD_COLUMNS: dict[Record, tuple[Column, ...]] = {
    Record.EPISODES_OPENED: _columns(
        "episode_no:int role:text lane:int rllib_episode_id:text? seed:int? started_at:int start_bar:int"
        " start_time:int initial_equity:float"
    ),
    Record.STEPS: _columns(
        "step_id:int bar:int decision_time:int mark_time:int action:int target:float units:float"
        " fill_price:float? mark_price:float equity:float reward:float cost:float weights_version:int"
    ),
    Record.FILLS: _columns(
        "step_id:int leg:int trade_no:int operation:text quantity:float price:float fee:float slippage:float"
    ),
    Record.TRADES: _columns(
        "episode_no:int trade_no:int direction:text status:text entry_step_id:int exit_step_id:int entry_time:int"
        " exit_time:int entry_price:float exit_price:float quantity:float pnl:float fees:float slippage:float"
        " borrow:float"
    ),
    Record.EPISODES_CLOSED: _columns(
        "episode_no:int status:text end_reason:text ended_at:int final_equity:float pnl:float total_reward:float"
        " total_steps:int sharpe:float? max_drawdown:float trades:int win_rate:float? ruined:int"
    ),
    Record.ITERATIONS: _columns(
        "iteration:int at:int env_steps:int updates:int weights_version:int elapsed_s:float metrics:text"
    ),
    Record.EVALUATIONS: _columns(
        "episode_no:int iteration:int split:text cost_multiplier:float status:text sharpe:float? score:float bars:int"
        " trades:int total_return:float max_drawdown:float mean_exposure:float turnover:float eligible:int at:int"
    ),
    Record.EVALUATION_CURVES: _columns(
        "episode_no:int instrument:text market_sha256:text first_time:int last_time:int blocks:int returns:blob"
        " exposures:blob"
    ),
    Record.CHECKPOINTS: _columns(
        "iteration:int at:int env_steps:int weights_version:int path:text manifest_sha256:text sharpe:float?"
        " score:float eligible:int lanes:text"
    ),
}
"""Columns of each record kind, in order. What the producer's identity already says (trial, attempt, producer
number) is not repeated in a batch: the store adds it."""


@dataclass(frozen=True, slots=True, order=True)
class ProducerKey:
    """Who produces: one role of one attempt of one trial of one sweep. `worker` is 0 in process, 1.. remote."""

    sweep_id: str
    trial_id: int
    attempt: int
    role: ProducerRole
    worker: int


@dataclass(frozen=True, slots=True)
class Grant:
    """The answer to `hello`: this incarnation's epoch and number."""

    epoch: int
    producer_no: int
    steps_before: int = 0
    """Steps that earlier incarnations recorded, or reported as dropped; they cannot become more."""


@dataclass(frozen=True, slots=True)
class Frame:
    """Rows of one record kind as one Arrow IPC stream."""

    kind: Record
    rows: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class Batch:
    """What a producer sends; applied whole or not at all, and once.

    `checksum` is zlib.crc32 over the payloads in order. `dropped` counts steps this producer sampled since
    its previous batch and will never record.
    """

    producer: ProducerKey
    epoch: int
    seq: int
    frames: tuple[Frame, ...]
    checksum: int
    dropped: int = 0


class Answer(StrEnum):
    """The answer to a batch, given after commit."""

    OK = "OK"
    DUP = "DUP"
    GAP = "GAP"
    FENCED = "FENCED"
