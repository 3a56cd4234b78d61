"""The store: tables, the one writer, queries, migrations, verification."""

from tradesweep.store.engine import upgrade_database
from tradesweep.store.inputs import DecodedBatch, NewPromotion, NewSweep, NewTestReading
from tradesweep.store.queries import Store, open_store
from tradesweep.store.rows import (
    AttemptRow,
    CheckpointRow,
    CurveRow,
    EpisodeRow,
    EvaluationRow,
    IterationRow,
    OutboxRow,
    PromotionRow,
    ReadingRow,
    SweepCounts,
    SweepRow,
    TrialRow,
)
from tradesweep.store.verification import RuleResult, verify
from tradesweep.store.writer import Writer

__all__ = [
    "AttemptRow",
    "CheckpointRow",
    "CurveRow",
    "DecodedBatch",
    "EpisodeRow",
    "EvaluationRow",
    "IterationRow",
    "NewPromotion",
    "NewSweep",
    "NewTestReading",
    "OutboxRow",
    "PromotionRow",
    "ReadingRow",
    "RuleResult",
    "Store",
    "SweepCounts",
    "SweepRow",
    "TrialRow",
    "Writer",
    "open_store",
    "upgrade_database",
    "verify",
]
