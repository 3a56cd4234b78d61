"""Every trade leads to the checkpoint it was made from; recorded steps may be pruned."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

INTEGER: sa.types.TypeEngine[int] = sa.BigInteger().with_variant(sa.INTEGER(), "sqlite")

TRADE_LINEAGE = """
    SELECT l.episode_no, l.trade_no, l.trial_id, l.attempt, l.role, l.weights_version,
           CASE WHEN l.own IS NULL THEN l.resumed_from_attempt ELSE l.attempt END AS checkpoint_attempt,
           coalesce(l.own, l.resumed_from_iteration) AS checkpoint_iteration
    FROM (
        SELECT d.episode_no, d.trade_no, e.trial_id, e.attempt, e.role, s.weights_version,
               a.resumed_from_attempt, a.resumed_from_iteration,
               (SELECT max(c.iteration) FROM checkpoints c WHERE c.trial_id = e.trial_id AND c.attempt = e.attempt
                  AND c.weights_version <= s.weights_version) AS own
        FROM trades d
        JOIN episodes e ON e.episode_no = d.episode_no
        JOIN attempts a ON a.trial_id = e.trial_id AND a.attempt = e.attempt
        JOIN steps s ON s.step_id = d.entry_step_id
    ) l
"""


def upgrade() -> None:
    """Add `producers.steps_pruned` and the view `trade_lineage`."""
    op.add_column("producers", sa.Column("steps_pruned", INTEGER, server_default=sa.text("0"), nullable=False))
    op.execute(f"CREATE VIEW trade_lineage AS {TRADE_LINEAGE}")
