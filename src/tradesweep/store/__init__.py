"""The store: tables, the one writer, queries, migrations, verification."""

from tradesweep.store.database import Database, database_exists, delete_database, find_database, upgrade_database
from tradesweep.store.export import ExportedFile, export_parquet
from tradesweep.store.inputs import ColumnRows, DecodedBatch, NewPromotion, NewSweep, NewTestReading
from tradesweep.store.maintenance import Pruned, back_up, choose_sweeps, list_prunable, prune
from tradesweep.store.pruning import Prunable
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
    "ColumnRows",
    "CurveRow",
    "Database",
    "DecodedBatch",
    "EpisodeRow",
    "EvaluationRow",
    "ExportedFile",
    "IterationRow",
    "NewPromotion",
    "NewSweep",
    "NewTestReading",
    "OutboxRow",
    "PromotionRow",
    "Prunable",
    "Pruned",
    "ReadingRow",
    "RuleResult",
    "Store",
    "SweepCounts",
    "SweepRow",
    "TrialRow",
    "Writer",
    "back_up",
    "choose_sweeps",
    "database_exists",
    "delete_database",
    "export_parquet",
    "find_database",
    "list_prunable",
    "open_store",
    "prune",
    "upgrade_database",
    "verify",
]
