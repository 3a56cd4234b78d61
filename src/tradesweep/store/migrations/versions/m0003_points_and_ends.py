"""A point may have several trials, a sweep an extended budget and a reason for its end."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

INTEGER: sa.types.TypeEngine[int] = sa.BigInteger().with_variant(sa.INTEGER(), "sqlite")

ENDS = "'budget.env_steps', 'budget.wall_time_s', 'budget.patience_trials', 'search'"

TRAINING_RUNS = """
    SELECT t.trial_id AS run_id, t.sweep_id, s.experiment, t.trial_no, t.started_at AS start_time,
           t.ended_at AS end_time, t.params_json AS parameters, t.status, coalesce(t.notes, t.error) AS notes,
           t.env_steps, t.iterations, t.best_iteration, t.best_sharpe, t.best_total_return, t.best_pnl,
           t.best_max_drawdown, t.best_trades, t.best_win_rate, t.last_score, t.final_metrics,
           t.point_no, t.seed_no, t.phase
    FROM trials t JOIN sweeps s ON s.sweep_id = t.sweep_id
"""


def upgrade() -> None:
    """Every trial that there is becomes the only one of a point of its own."""
    op.add_column("sweeps", sa.Column("env_steps_per_trial", INTEGER, nullable=True))
    op.execute(
        f"ALTER TABLE sweeps ADD COLUMN end_reason TEXT CONSTRAINT ck_sweeps_end_reason CHECK (end_reason IN ({ENDS}))"
    )
    for name in ("point_no", "seed_no"):
        op.add_column("trials", sa.Column(name, INTEGER, server_default=sa.text("0"), nullable=False))
    op.execute(
        "ALTER TABLE trials ADD COLUMN phase TEXT DEFAULT 'search' NOT NULL"
        " CONSTRAINT ck_trials_phase CHECK (phase IN ('search', 'confirm'))"
    )
    op.execute("UPDATE trials SET point_no = trial_no")
    op.create_index(
        op.f("ix_trials_sweep_id_point_no_seed_no"), "trials", ["sweep_id", "point_no", "seed_no"], unique=True
    )
    op.execute("DROP VIEW training_runs")
    op.execute(f"CREATE VIEW training_runs AS {TRAINING_RUNS}")
