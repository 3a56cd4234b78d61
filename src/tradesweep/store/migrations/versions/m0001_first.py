# ruff: noqa: E501 - generated from the models, then frozen
"""The first schema.

A migration is history: it is never edited once it was released, and it takes nothing from the models.
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

INTEGER: sa.types.TypeEngine[int] = sa.BigInteger().with_variant(sa.INTEGER(), "sqlite")
REAL: sa.types.TypeEngine[float] = sa.Double().with_variant(sa.REAL(), "sqlite")

VIEWS = {
    "training_runs": """
        SELECT t.trial_id AS run_id, t.sweep_id, s.experiment, t.trial_no, t.started_at AS start_time,
               t.ended_at AS end_time, t.params_json AS parameters, t.status, coalesce(t.notes, t.error) AS notes,
               t.env_steps, t.iterations, t.best_iteration, t.best_sharpe, t.best_total_return, t.best_pnl,
               t.best_max_drawdown, t.best_trades, t.best_win_rate, t.last_score, t.final_metrics
        FROM trials t JOIN sweeps s ON s.sweep_id = t.sweep_id
    """,
    "trading_operations": """
        SELECT (f.step_id << 1) | f.leg AS operation_id, f.step_id, f.step_id >> 24 AS episode_no,
               s.mark_time AS timestamp, f.operation AS operation_type, abs(f.quantity) AS size, f.price
        FROM fills f JOIN steps s ON s.step_id = f.step_id
        UNION ALL
        SELECT s.step_id << 1, s.step_id, s.step_id >> 24, s.mark_time, 'HOLD', 0.0, s.mark_price
        FROM steps s WHERE NOT EXISTS (SELECT 1 FROM fills f WHERE f.step_id = s.step_id)
    """,
    "effective_iterations": "SELECT i.* FROM iterations i WHERE i.superseded_by_attempt IS NULL",
    "effective_evaluations": "SELECT v.* FROM evaluations v WHERE v.superseded_by_attempt IS NULL",
    "effective_checkpoints": "SELECT c.* FROM checkpoints c WHERE c.superseded_by_attempt IS NULL",
    "effective_episodes": """
        SELECT e.*, coalesce(e.effective_steps, e.total_steps) AS counted_steps
        FROM episodes e WHERE e.effective_steps IS NULL OR e.effective_steps > 0
    """,
    "effective_steps": """
        SELECT s.*, e.episode_no, s.step_id & 16777215 AS t, e.trial_id, e.attempt, e.role
        FROM episodes e
        JOIN steps s ON s.step_id BETWEEN e.episode_no << 24 AND (e.episode_no << 24) + 16777215
        WHERE e.effective_steps IS NULL OR (s.step_id & 16777215) < e.effective_steps
    """,
}


def upgrade() -> None:
    """Create all tables and views."""
    op.create_table(
        "fills",
        sa.Column("step_id", INTEGER, autoincrement=False, nullable=False),
        sa.Column("leg", INTEGER, autoincrement=False, nullable=False),
        sa.Column("trade_no", INTEGER, nullable=False),
        sa.Column("operation", sa.Text(), nullable=False),
        sa.Column("quantity", REAL, nullable=False),
        sa.Column("price", REAL, nullable=False),
        sa.Column("fee", REAL, nullable=False),
        sa.Column("slippage", REAL, nullable=False),
        sa.CheckConstraint(
            "operation IN ('ENTRY_LONG', 'EXIT_LONG', 'ENTRY_SHORT', 'EXIT_SHORT')", name=op.f("ck_fills_operation")
        ),
        sa.PrimaryKeyConstraint("step_id", "leg", name=op.f("pk_fills")),
        sqlite_strict=True,
        sqlite_with_rowid=False,
    )
    op.create_table(
        "steps",
        sa.Column("step_id", INTEGER, autoincrement=False, nullable=False),
        sa.Column("bar", INTEGER, nullable=False),
        sa.Column("decision_time", INTEGER, nullable=False),
        sa.Column("mark_time", INTEGER, nullable=False),
        sa.Column("action", INTEGER, nullable=False),
        sa.Column("target", REAL, nullable=False),
        sa.Column("units", REAL, nullable=False),
        sa.Column("fill_price", REAL, nullable=True),
        sa.Column("mark_price", REAL, nullable=False),
        sa.Column("equity", REAL, nullable=False),
        sa.Column("reward", REAL, nullable=False),
        sa.Column("cost", REAL, nullable=False),
        sa.Column("weights_version", INTEGER, nullable=False),
        sa.PrimaryKeyConstraint("step_id", name=op.f("pk_steps")),
        sqlite_strict=True,
    )
    op.create_table(
        "sweeps",
        sa.Column("sweep_id", sa.Text(), nullable=False),
        sa.Column("experiment", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("spec_json", sa.Text(), nullable=False),
        sa.Column("identity", sa.Text(), nullable=False),
        sa.Column("data_sha256", sa.Text(), nullable=False),
        sa.Column("instrument", sa.Text(), nullable=False),
        sa.Column("git_revision", sa.Text(), nullable=True),
        sa.Column("versions_json", sa.Text(), nullable=False),
        sa.Column("resources_json", sa.Text(), nullable=False),
        sa.Column("seed", INTEGER, nullable=False),
        sa.Column("driver_pid", INTEGER, nullable=False),
        sa.Column("driver_host", sa.Text(), nullable=False),
        sa.Column("driver_started_at", INTEGER, nullable=False),
        sa.Column("buy_hold_sharpe", REAL, nullable=True),
        sa.Column("validation_bars", INTEGER, nullable=False),
        sa.Column("periods_per_year", REAL, nullable=False),
        sa.Column("created_at", INTEGER, nullable=False),
        sa.Column("ended_at", INTEGER, nullable=True),
        sa.Column("mlflow_run_id", sa.Text(), nullable=True),
        sa.Column("notes", sa.Text(), nullable=True),
        sa.CheckConstraint("status IN ('RUNNING', 'FINISHED', 'INTERRUPTED', 'FAILED')", name=op.f("ck_sweeps_status")),
        sa.PrimaryKeyConstraint("sweep_id", name=op.f("pk_sweeps")),
        sqlite_strict=True,
    )
    op.create_index(op.f("ix_sweeps_experiment_created_at"), "sweeps", ["experiment", "created_at"], unique=False)
    op.create_table(
        "trades",
        sa.Column("episode_no", INTEGER, autoincrement=False, nullable=False),
        sa.Column("trade_no", INTEGER, autoincrement=False, nullable=False),
        sa.Column("direction", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("entry_step_id", INTEGER, nullable=False),
        sa.Column("exit_step_id", INTEGER, nullable=False),
        sa.Column("entry_time", INTEGER, nullable=False),
        sa.Column("exit_time", INTEGER, nullable=False),
        sa.Column("entry_price", REAL, nullable=False),
        sa.Column("exit_price", REAL, nullable=False),
        sa.Column("quantity", REAL, nullable=False),
        sa.Column("pnl", REAL, nullable=False),
        sa.Column("fees", REAL, nullable=False),
        sa.Column("slippage", REAL, nullable=False),
        sa.Column("borrow", REAL, nullable=False),
        sa.CheckConstraint("direction IN ('LONG', 'SHORT')", name=op.f("ck_trades_direction")),
        sa.CheckConstraint("status IN ('CLOSED', 'MARKED')", name=op.f("ck_trades_status")),
        sa.PrimaryKeyConstraint("episode_no", "trade_no", name=op.f("pk_trades")),
        sqlite_strict=True,
        sqlite_with_rowid=False,
    )
    op.create_table(
        "trials",
        sa.Column("trial_id", INTEGER, autoincrement=True, nullable=False),
        sa.Column("sweep_id", sa.Text(), nullable=False),
        sa.Column("trial_no", INTEGER, nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("params_json", sa.Text(), nullable=False),
        sa.Column("point_json", sa.Text(), nullable=False),
        sa.Column("point_hash", sa.Text(), nullable=False),
        sa.Column("seed", INTEGER, nullable=False),
        sa.Column("attempts", INTEGER, nullable=False),
        sa.Column("env_steps", INTEGER, nullable=False),
        sa.Column("updates", INTEGER, nullable=False),
        sa.Column("iterations", INTEGER, nullable=False),
        sa.Column("elapsed_s", REAL, nullable=False),
        sa.Column("last_score", REAL, nullable=True),
        sa.Column("best_iteration", INTEGER, nullable=True),
        sa.Column("best_attempt", INTEGER, nullable=True),
        sa.Column("best_sharpe", REAL, nullable=True),
        sa.Column("best_total_return", REAL, nullable=True),
        sa.Column("best_pnl", REAL, nullable=True),
        sa.Column("best_max_drawdown", REAL, nullable=True),
        sa.Column("best_trades", INTEGER, nullable=True),
        sa.Column("best_win_rate", REAL, nullable=True),
        sa.Column("final_metrics", sa.Text(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("created_at", INTEGER, nullable=False),
        sa.Column("started_at", INTEGER, nullable=True),
        sa.Column("ended_at", INTEGER, nullable=True),
        sa.Column("mlflow_run_id", sa.Text(), nullable=True),
        sa.Column("notes", sa.Text(), nullable=True),
        sa.CheckConstraint(
            "status IN ('PENDING', 'RUNNING', 'FINISHED', 'STOPPED', 'PRUNED', 'INTERRUPTED', 'FAILED', 'DIVERGED', 'CRASHED')",
            name=op.f("ck_trials_status"),
        ),
        sa.ForeignKeyConstraint(["sweep_id"], ["sweeps.sweep_id"], name=op.f("fk_trials_sweep_id")),
        sa.PrimaryKeyConstraint("trial_id", name=op.f("pk_trials")),
        sa.UniqueConstraint("sweep_id", "trial_no", name=op.f("uq_trials_sweep_id_trial_no")),
        sqlite_autoincrement=True,
        sqlite_strict=True,
    )
    op.create_table(
        "attempts",
        sa.Column("trial_id", INTEGER, nullable=False),
        sa.Column("attempt", INTEGER, autoincrement=False, nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("pid", INTEGER, nullable=False),
        sa.Column("started_at", INTEGER, nullable=False),
        sa.Column("ended_at", INTEGER, nullable=True),
        sa.Column("resumed_from_iteration", INTEGER, nullable=True),
        sa.Column("resumed_from_attempt", INTEGER, nullable=True),
        sa.Column("resumed_env_steps", INTEGER, nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.CheckConstraint(
            "status IN ('PENDING', 'RUNNING', 'FINISHED', 'STOPPED', 'PRUNED', 'INTERRUPTED', 'FAILED', 'DIVERGED', 'CRASHED')",
            name=op.f("ck_attempts_status"),
        ),
        sa.ForeignKeyConstraint(["trial_id"], ["trials.trial_id"], name=op.f("fk_attempts_trial_id")),
        sa.PrimaryKeyConstraint("trial_id", "attempt", name=op.f("pk_attempts")),
        sqlite_strict=True,
    )
    op.create_table(
        "outbox",
        sa.Column("id", INTEGER, autoincrement=True, nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("sweep_id", sa.Text(), nullable=False),
        sa.Column("trial_id", INTEGER, nullable=True),
        sa.Column("at", INTEGER, nullable=False),
        sa.Column("payload", sa.Text(), nullable=False),
        sa.Column("delivered_at", INTEGER, nullable=True),
        sa.CheckConstraint(
            "kind IN ('sweep_opened', 'trial_opened', 'iteration', 'checkpoint', 'trial_closed', 'sweep_closed', 'promotion')",
            name=op.f("ck_outbox_kind"),
        ),
        sa.ForeignKeyConstraint(["sweep_id"], ["sweeps.sweep_id"], name=op.f("fk_outbox_sweep_id")),
        sa.ForeignKeyConstraint(["trial_id"], ["trials.trial_id"], name=op.f("fk_outbox_trial_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_outbox")),
        sqlite_autoincrement=True,
        sqlite_strict=True,
    )
    op.create_index(
        "ix_outbox_undelivered",
        "outbox",
        ["id"],
        unique=False,
        sqlite_where=sa.text("delivered_at IS NULL"),
        postgresql_where=sa.text("delivered_at IS NULL"),
    )
    op.create_table(
        "promotions",
        sa.Column("promotion_id", INTEGER, autoincrement=True, nullable=False),
        sa.Column("at", INTEGER, nullable=False),
        sa.Column("experiment", sa.Text(), nullable=False),
        sa.Column("sweep_id", sa.Text(), nullable=False),
        sa.Column("trial_id", INTEGER, nullable=False),
        sa.Column("iteration", INTEGER, nullable=False),
        sa.Column("manifest_sha256", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("version", sa.Text(), nullable=True),
        sa.Column("alias", sa.Text(), nullable=False),
        sa.Column("previous_version", sa.Text(), nullable=True),
        sa.Column("verdict", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("details_json", sa.Text(), nullable=False),
        sa.CheckConstraint(
            "verdict IN ('PASSED', 'FORCED', 'REFUSED', 'ROLLED_BACK')", name=op.f("ck_promotions_verdict")
        ),
        sa.ForeignKeyConstraint(["sweep_id"], ["sweeps.sweep_id"], name=op.f("fk_promotions_sweep_id")),
        sa.ForeignKeyConstraint(["trial_id"], ["trials.trial_id"], name=op.f("fk_promotions_trial_id")),
        sa.PrimaryKeyConstraint("promotion_id", name=op.f("pk_promotions")),
        sqlite_autoincrement=True,
        sqlite_strict=True,
    )
    op.create_table(
        "test_readings",
        sa.Column("reading_id", INTEGER, autoincrement=True, nullable=False),
        sa.Column("at", INTEGER, nullable=False),
        sa.Column("experiment", sa.Text(), nullable=False),
        sa.Column("sweep_id", sa.Text(), nullable=False),
        sa.Column("trial_id", INTEGER, nullable=False),
        sa.Column("iteration", INTEGER, nullable=False),
        sa.Column("market_sha256", sa.Text(), nullable=False),
        sa.Column("instrument", sa.Text(), nullable=False),
        sa.Column("first_time", INTEGER, nullable=False),
        sa.Column("last_time", INTEGER, nullable=False),
        sa.Column("sharpe", REAL, nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["sweep_id"], ["sweeps.sweep_id"], name=op.f("fk_test_readings_sweep_id")),
        sa.ForeignKeyConstraint(["trial_id"], ["trials.trial_id"], name=op.f("fk_test_readings_trial_id")),
        sa.PrimaryKeyConstraint("reading_id", name=op.f("pk_test_readings")),
        sqlite_autoincrement=True,
        sqlite_strict=True,
    )
    op.create_index(
        op.f("ix_test_readings_instrument_first_time"), "test_readings", ["instrument", "first_time"], unique=False
    )
    op.create_table(
        "checkpoints",
        sa.Column("iteration", INTEGER, autoincrement=False, nullable=False),
        sa.Column("at", INTEGER, nullable=False),
        sa.Column("env_steps", INTEGER, nullable=False),
        sa.Column("weights_version", INTEGER, nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("manifest_sha256", sa.Text(), nullable=False),
        sa.Column("sharpe", REAL, nullable=True),
        sa.Column("score", REAL, nullable=False),
        sa.Column("eligible", INTEGER, nullable=False),
        sa.Column("lanes", sa.Text(), nullable=False),
        sa.Column("trial_id", INTEGER, autoincrement=False, nullable=False),
        sa.Column("attempt", INTEGER, autoincrement=False, nullable=False),
        sa.Column("last_producer_no", INTEGER, nullable=False),
        sa.Column("steps_dropped", INTEGER, nullable=False),
        sa.Column("superseded_by_attempt", INTEGER, nullable=True),
        sa.Column("deleted_at", INTEGER, nullable=True),
        sa.CheckConstraint("eligible IN (0, 1)", name=op.f("ck_checkpoints_eligible")),
        sa.ForeignKeyConstraint(
            ["trial_id", "attempt"],
            ["attempts.trial_id", "attempts.attempt"],
            name=op.f("fk_checkpoints_trial_id_attempt"),
        ),
        sa.PrimaryKeyConstraint("iteration", "trial_id", "attempt", name=op.f("pk_checkpoints")),
        sqlite_strict=True,
    )
    op.create_table(
        "iterations",
        sa.Column("iteration", INTEGER, autoincrement=False, nullable=False),
        sa.Column("at", INTEGER, nullable=False),
        sa.Column("env_steps", INTEGER, nullable=False),
        sa.Column("updates", INTEGER, nullable=False),
        sa.Column("weights_version", INTEGER, nullable=False),
        sa.Column("elapsed_s", REAL, nullable=False),
        sa.Column("metrics", sa.Text(), nullable=False),
        sa.Column("trial_id", INTEGER, autoincrement=False, nullable=False),
        sa.Column("attempt", INTEGER, autoincrement=False, nullable=False),
        sa.Column("superseded_by_attempt", INTEGER, nullable=True),
        sa.ForeignKeyConstraint(
            ["trial_id", "attempt"],
            ["attempts.trial_id", "attempts.attempt"],
            name=op.f("fk_iterations_trial_id_attempt"),
        ),
        sa.PrimaryKeyConstraint("iteration", "trial_id", "attempt", name=op.f("pk_iterations")),
        sqlite_strict=True,
    )
    op.create_table(
        "producers",
        sa.Column("producer_no", INTEGER, autoincrement=True, nullable=False),
        sa.Column("sweep_id", sa.Text(), nullable=False),
        sa.Column("trial_id", INTEGER, nullable=False),
        sa.Column("attempt", INTEGER, nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("worker", INTEGER, nullable=False),
        sa.Column("epoch", INTEGER, nullable=False),
        sa.Column("pid", INTEGER, nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("last_seq", INTEGER, nullable=False),
        sa.Column("batches", INTEGER, nullable=False),
        sa.Column("steps_recorded", INTEGER, nullable=False),
        sa.Column("steps_dropped", INTEGER, nullable=False),
        sa.Column("started_at", INTEGER, nullable=False),
        sa.Column("last_batch_at", INTEGER, nullable=True),
        sa.Column("ended_at", INTEGER, nullable=True),
        sa.Column("end_reason", sa.Text(), nullable=True),
        sa.CheckConstraint("end_reason IN ('DONE', 'FENCED', 'LOST')", name=op.f("ck_producers_end_reason")),
        sa.CheckConstraint("role IN ('runner', 'trial')", name=op.f("ck_producers_role")),
        sa.ForeignKeyConstraint(["sweep_id"], ["sweeps.sweep_id"], name=op.f("fk_producers_sweep_id")),
        sa.ForeignKeyConstraint(
            ["trial_id", "attempt"],
            ["attempts.trial_id", "attempts.attempt"],
            name=op.f("fk_producers_trial_id_attempt"),
        ),
        sa.PrimaryKeyConstraint("producer_no", name=op.f("pk_producers")),
        sa.UniqueConstraint(
            "sweep_id",
            "trial_id",
            "attempt",
            "role",
            "worker",
            "epoch",
            name=op.f("uq_producers_sweep_id_trial_id_attempt_role_worker_epoch"),
        ),
        sqlite_autoincrement=True,
        sqlite_strict=True,
    )
    op.create_table(
        "episodes",
        sa.Column("episode_no", INTEGER, autoincrement=False, nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("lane", INTEGER, nullable=False),
        sa.Column("rllib_episode_id", sa.Text(), nullable=True),
        sa.Column("seed", INTEGER, nullable=True),
        sa.Column("started_at", INTEGER, nullable=False),
        sa.Column("start_bar", INTEGER, nullable=False),
        sa.Column("start_time", INTEGER, nullable=False),
        sa.Column("initial_equity", REAL, nullable=False),
        sa.Column("trial_id", INTEGER, nullable=False),
        sa.Column("attempt", INTEGER, nullable=False),
        sa.Column("producer_no", INTEGER, nullable=False),
        sa.Column("status", sa.Text(), server_default=sa.text("'OPEN'"), nullable=False),
        sa.Column("end_reason", sa.Text(), nullable=True),
        sa.Column("ended_at", INTEGER, nullable=True),
        sa.Column("final_equity", REAL, nullable=True),
        sa.Column("pnl", REAL, nullable=True),
        sa.Column("total_reward", REAL, nullable=True),
        sa.Column("total_steps", INTEGER, nullable=True),
        sa.Column("sharpe", REAL, nullable=True),
        sa.Column("max_drawdown", REAL, nullable=True),
        sa.Column("trades", INTEGER, nullable=True),
        sa.Column("win_rate", REAL, nullable=True),
        sa.Column("ruined", INTEGER, nullable=True),
        sa.Column("effective_steps", INTEGER, nullable=True),
        sa.CheckConstraint(
            "end_reason IN ('LAST_BAR', 'RUINED', 'RESET', 'TRIAL_ENDED', 'PRODUCER_LOST')",
            name=op.f("ck_episodes_end_reason"),
        ),
        sa.CheckConstraint("role IN ('train', 'validation', 'stress', 'test')", name=op.f("ck_episodes_role")),
        sa.CheckConstraint(
            "status IN ('OPEN', 'COMPLETED', 'TRUNCATED', 'ABANDONED')", name=op.f("ck_episodes_status")
        ),
        sa.ForeignKeyConstraint(["producer_no"], ["producers.producer_no"], name=op.f("fk_episodes_producer_no")),
        sa.ForeignKeyConstraint(
            ["trial_id", "attempt"],
            ["attempts.trial_id", "attempts.attempt"],
            name=op.f("fk_episodes_trial_id_attempt"),
        ),
        sa.PrimaryKeyConstraint("episode_no", name=op.f("pk_episodes")),
        sqlite_strict=True,
    )
    op.create_index(
        "ix_episodes_open",
        "episodes",
        ["producer_no"],
        unique=False,
        sqlite_where=sa.text("status = 'OPEN'"),
        postgresql_where=sa.text("status = 'OPEN'"),
    )
    op.create_index(
        op.f("ix_episodes_trial_id_attempt_role"), "episodes", ["trial_id", "attempt", "role"], unique=False
    )
    op.create_table(
        "evaluations",
        sa.Column("episode_no", INTEGER, autoincrement=False, nullable=False),
        sa.Column("iteration", INTEGER, nullable=False),
        sa.Column("split", sa.Text(), nullable=False),
        sa.Column("cost_multiplier", REAL, nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("sharpe", REAL, nullable=True),
        sa.Column("score", REAL, nullable=False),
        sa.Column("bars", INTEGER, nullable=False),
        sa.Column("trades", INTEGER, nullable=False),
        sa.Column("total_return", REAL, nullable=False),
        sa.Column("max_drawdown", REAL, nullable=False),
        sa.Column("mean_exposure", REAL, nullable=False),
        sa.Column("turnover", REAL, nullable=False),
        sa.Column("eligible", INTEGER, nullable=False),
        sa.Column("at", INTEGER, nullable=False),
        sa.Column("trial_id", INTEGER, nullable=False),
        sa.Column("attempt", INTEGER, nullable=False),
        sa.Column("superseded_by_attempt", INTEGER, nullable=True),
        sa.CheckConstraint("split IN ('train', 'validation', 'stress', 'test')", name=op.f("ck_evaluations_split")),
        sa.CheckConstraint("status IN ('OK', 'FLAT', 'TOO_SHORT', 'RUINED')", name=op.f("ck_evaluations_status")),
        sa.CheckConstraint("eligible IN (0, 1)", name=op.f("ck_evaluations_eligible")),
        sa.ForeignKeyConstraint(["episode_no"], ["episodes.episode_no"], name=op.f("fk_evaluations_episode_no")),
        sa.ForeignKeyConstraint(
            ["trial_id", "attempt"],
            ["attempts.trial_id", "attempts.attempt"],
            name=op.f("fk_evaluations_trial_id_attempt"),
        ),
        sa.PrimaryKeyConstraint("episode_no", name=op.f("pk_evaluations")),
        sqlite_strict=True,
    )
    op.create_index(op.f("ix_evaluations_trial_id_iteration"), "evaluations", ["trial_id", "iteration"], unique=False)
    op.create_table(
        "evaluation_curves",
        sa.Column("episode_no", INTEGER, autoincrement=False, nullable=False),
        sa.Column("instrument", sa.Text(), nullable=False),
        sa.Column("market_sha256", sa.Text(), nullable=False),
        sa.Column("first_time", INTEGER, nullable=False),
        sa.Column("last_time", INTEGER, nullable=False),
        sa.Column("blocks", INTEGER, nullable=False),
        sa.Column("returns", sa.LargeBinary(), nullable=False),
        sa.Column("exposures", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["episode_no"], ["evaluations.episode_no"], name=op.f("fk_evaluation_curves_episode_no")
        ),
        sa.PrimaryKeyConstraint("episode_no", name=op.f("pk_evaluation_curves")),
        sqlite_strict=True,
    )
    op.create_index(
        op.f("ix_evaluation_curves_instrument_first_time"),
        "evaluation_curves",
        ["instrument", "first_time"],
        unique=False,
    )
    for name, query in VIEWS.items():
        op.execute(f"CREATE VIEW {name} AS {query}")
