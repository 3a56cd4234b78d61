"""The rules of a database, each as a query for the rows that break it.

The queries read the scratch tables of `scratch`, and are what SQLite and PostgreSQL both understand. Sums are compared
to 1e-9 of their size, and money to 1e-9 of what was at stake: the episode's initial equity and what it became or moved.

`IS TRUE` after a column of a view keeps the view's outer joins what they are. Without it SQLite sees that they may be
inner ones, begins with the largest table and reads every step again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from sqlalchemy import ForeignKeyConstraint, Table

from tradesweep.store.models import Base


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """One rule."""

    name: str
    """How it is called in reports."""
    description: str
    """What holds when it is kept."""
    sql: str | dict[str, str]
    """The rows that break it; their columns are shown. By dialect where these have nothing in common."""

    def query(self, dialect: str) -> str:
        """The query in that dialect."""
        return self.sql if isinstance(self.sql, str) else self.sql[dialect]


INTEGRITY = {
    "sqlite": "SELECT quick_check AS problem FROM pragma_quick_check WHERE quick_check <> 'ok'",
    "postgresql": """
        SELECT 'constraint was never checked' AS problem, c.conname AS name FROM pg_constraint c
        JOIN pg_namespace n ON n.oid = c.connamespace
        WHERE n.nspname = current_schema() AND NOT c.convalidated
        UNION ALL
        SELECT 'index is not valid', r.relname FROM pg_index i
        JOIN pg_class r ON r.oid = i.indexrelid
        JOIN pg_namespace n ON n.oid = r.relnamespace
        WHERE n.nspname = current_schema() AND NOT i.indisvalid
    """,
}
"""SQLite reads every page, and checks types, NOT NULL and CHECK of every row. PostgreSQL does so when it writes, and
its pages are its own business (`pg_amcheck`, `pg_checksums`): here it is asked what it has not made sure of."""


def _find_broken_keys() -> str:
    """Of every foreign key that the models declare: on a server, triggers that should check it can be switched off."""
    return " UNION ALL ".join(_find_broken_key(table, key) for table, key in _foreign_keys())


def _foreign_keys() -> Iterator[tuple[Table, ForeignKeyConstraint]]:
    for table in Base.metadata.sorted_tables:
        for key in sorted(table.foreign_key_constraints, key=lambda key: list(key.column_keys)):
            yield table, key


def _find_broken_key(table: Table, key: ForeignKeyConstraint) -> str:
    pairs = [(element.parent.name, element.column.name) for element in key.elements]
    shown = " || ' ' || ".join(f"CAST(c.{column.name} AS TEXT)" for column in table.primary_key)
    given = " AND ".join(f"c.{own} IS NOT NULL" for own, _ in pairs)
    same = " AND ".join(f"p.{other} = c.{own}" for own, other in pairs)
    columns = ", ".join(own for own, _ in pairs)
    return (
        f"SELECT '{table.name}' AS in_table, {shown} AS row_key, '{columns}' AS column_names"  # noqa: S608 - our names
        f" FROM {table.name} c WHERE {given}"
        f" AND NOT EXISTS (SELECT 1 FROM {key.referred_table.name} p WHERE {same})"
    )


RULES: tuple[Rule, ...] = (
    # --- the database itself ----------------------------------------------------------------------------------
    Rule(
        name="integrity",
        description="SQLite finds the file sound, PostgreSQL has made sure of every constraint and index",
        sql=INTEGRITY,
    ),
    Rule(
        name="foreign_keys",
        description="every declared foreign key resolves",
        sql=_find_broken_keys(),
    ),
    Rule(
        name="steps_have_episodes",
        description="every step belongs to an episode",
        sql="""
            SELECT s.step_id >> 24 AS episode_no, s.step_id FROM v_gaps g
            JOIN steps s ON s.step_id BETWEEN g.first_no << 24 AND (g.last_no << 24) + 16777215
        """,
    ),
    Rule(
        name="fills_have_steps",
        description="every fill belongs to a step",
        sql="""
            SELECT f.step_id, f.leg FROM v_gaps g
            JOIN fills f ON f.step_id BETWEEN g.first_no << 24 AND (g.last_no << 24) + 16777215
            UNION ALL
            SELECT l.step_id, l.leg FROM v_legs l
            WHERE l.episode_no IN (SELECT n.episode_no FROM v_fills n JOIN v_steps s ON s.episode_no = n.episode_no
                                   WHERE n.fills <> s.legs)
              AND l.step_id IS NOT NULL AND NOT EXISTS (SELECT 1 FROM steps s WHERE s.step_id = l.step_id)
        """,
    ),
    Rule(
        name="trades_have_episodes",
        description="every trade belongs to an episode, and begins and ends at steps of it",
        sql="""
            SELECT d.episode_no, d.trade_no, d.entry_step_id, d.exit_step_id FROM v_gaps g
            JOIN trades d ON d.episode_no BETWEEN g.first_no AND g.last_no
            UNION ALL
            SELECT d.episode_no, d.trade_no, d.entry_step_id, d.exit_step_id FROM v_trades n
            JOIN v_deals d ON d.episode_no = n.episode_no WHERE n.suspects > 0 AND d.wrong_ends IS TRUE
        """,
    ),
    # --- sweeps, trials, attempts -----------------------------------------------------------------------------
    Rule(
        name="finished_trials_have_rows",
        description="a trial that ended well has rows in every table",
        sql="""
            SELECT t.trial_id, wanted.name AS missing FROM v_trials t
            CROSS JOIN (SELECT 'attempts' AS name UNION ALL SELECT 'producers' UNION ALL SELECT 'iterations'
                        UNION ALL SELECT 'training episodes' UNION ALL SELECT 'validation episodes'
                        UNION ALL SELECT 'steps' UNION ALL SELECT 'fills' UNION ALL SELECT 'trades'
                        UNION ALL SELECT 'evaluations' UNION ALL SELECT 'evaluation_curves'
                        UNION ALL SELECT 'checkpoints') wanted
            WHERE t.status IN ('FINISHED', 'STOPPED', 'PRUNED') AND NOT CASE wanted.name
              WHEN 'attempts' THEN EXISTS (SELECT 1 FROM attempts a WHERE a.trial_id = t.trial_id)
              WHEN 'producers' THEN EXISTS (SELECT 1 FROM producers p WHERE p.trial_id = t.trial_id)
              WHEN 'iterations' THEN EXISTS (SELECT 1 FROM iterations i WHERE i.trial_id = t.trial_id)
              WHEN 'training episodes' THEN
                EXISTS (SELECT 1 FROM v_episodes e WHERE e.trial_id = t.trial_id AND e.role = 'train')
              WHEN 'validation episodes' THEN
                EXISTS (SELECT 1 FROM v_episodes e WHERE e.trial_id = t.trial_id AND e.role = 'validation')
              WHEN 'steps' THEN EXISTS (SELECT 1 FROM v_episodes e JOIN v_steps s ON s.episode_no = e.episode_no
                                        WHERE e.trial_id = t.trial_id AND s.steps > 0)
              WHEN 'fills' THEN (
                SELECT sum(f.fills) > 0 OR sum(s.filled) = 0 FROM v_episodes e
                JOIN v_steps s ON s.episode_no = e.episode_no JOIN v_fills f ON f.episode_no = e.episode_no
                WHERE e.trial_id = t.trial_id)
              WHEN 'trades' THEN (
                SELECT sum(d.trades) > 0 OR sum(s.filled) = 0 FROM v_episodes e
                JOIN v_steps s ON s.episode_no = e.episode_no JOIN v_trades d ON d.episode_no = e.episode_no
                WHERE e.trial_id = t.trial_id)
              WHEN 'evaluations' THEN EXISTS (SELECT 1 FROM evaluations v WHERE v.trial_id = t.trial_id)
              WHEN 'evaluation_curves' THEN
                EXISTS (SELECT 1 FROM evaluations v JOIN evaluation_curves c ON c.episode_no = v.episode_no
                        WHERE v.trial_id = t.trial_id)
              ELSE EXISTS (SELECT 1 FROM checkpoints c WHERE c.trial_id = t.trial_id) END
        """,
    ),
    Rule(
        name="nothing_runs_after_the_end",
        description="an ended sweep has no running trial, an ended trial no running attempt and no live producer",
        sql="""
            SELECT t.sweep_id, t.trial_id, t.status FROM v_trials t
            WHERE t.sweep_status <> 'RUNNING' AND t.status IN ('PENDING', 'RUNNING')
            UNION ALL
            SELECT t.sweep_id, t.trial_id, 'attempt ' || a.status FROM v_trials t
            JOIN attempts a ON a.trial_id = t.trial_id
            WHERE a.status IN ('PENDING', 'RUNNING') AND t.status NOT IN ('PENDING', 'RUNNING')
            UNION ALL
            SELECT t.sweep_id, t.trial_id, 'producer ' || CAST(p.producer_no AS TEXT) FROM v_trials t
            JOIN producers p ON p.trial_id = t.trial_id
            WHERE p.ended_at IS NULL AND t.status NOT IN ('PENDING', 'RUNNING')
        """,
    ),
    Rule(
        name="trial_columns",
        description="sweeps, trials, attempts and producers have every column that their status makes due",
        sql="""
            SELECT 'sweep ' || s.sweep_id AS of, 'ended_at' AS missing FROM v_sweeps s
            WHERE s.status <> 'RUNNING' AND s.ended_at IS NULL
            UNION ALL
            SELECT 'trial ' || CAST(t.trial_id AS TEXT), 'ended_at' FROM v_trials t
            WHERE t.status NOT IN ('PENDING', 'RUNNING') AND t.ended_at IS NULL
            UNION ALL
            SELECT 'trial ' || CAST(t.trial_id AS TEXT), 'started_at' FROM v_trials t
            WHERE t.attempts > 0 AND t.started_at IS NULL
            UNION ALL
            SELECT 'trial ' || CAST(t.trial_id AS TEXT), 'error' FROM v_trials t
            WHERE t.status IN ('FAILED', 'DIVERGED', 'CRASHED') AND t.error IS NULL
            UNION ALL
            SELECT 'trial ' || CAST(t.trial_id AS TEXT), 'last_score, final_metrics' FROM v_trials t
            WHERE t.status IN ('FINISHED', 'STOPPED', 'PRUNED') AND (t.last_score IS NULL OR t.final_metrics IS NULL)
            UNION ALL
            SELECT 'trial ' || CAST(t.trial_id AS TEXT), 'best_*' FROM v_trials t
            WHERE t.best_iteration IS NOT NULL AND (t.best_attempt IS NULL OR t.best_sharpe IS NULL
              OR t.best_total_return IS NULL OR t.best_pnl IS NULL OR t.best_max_drawdown IS NULL
              OR t.best_trades IS NULL OR (t.best_trades > 0 AND t.best_win_rate IS NULL))
            UNION ALL
            SELECT 'trial ' || CAST(a.trial_id AS TEXT) || ' attempt ' || CAST(a.attempt AS TEXT),
                   'ended_at, error, resumed_from_attempt' FROM attempts a
            JOIN v_trials t ON t.trial_id = a.trial_id
            WHERE (a.status NOT IN ('PENDING', 'RUNNING') AND a.ended_at IS NULL)
              OR (a.status IN ('FAILED', 'DIVERGED', 'CRASHED') AND a.error IS NULL)
              OR (a.resumed_from_iteration IS NULL) <> (a.resumed_from_attempt IS NULL)
            UNION ALL
            SELECT 'producer ' || CAST(p.producer_no AS TEXT), 'end_reason, last_batch_at' FROM producers p
            JOIN v_trials t ON t.trial_id = p.trial_id
            WHERE (p.ended_at IS NULL) <> (p.end_reason IS NULL) OR (p.batches > 0 AND p.last_batch_at IS NULL)
        """,
    ),
    Rule(
        name="points",
        description="the trials of a point have its hash and a seed each; what is confirmed was found before",
        sql="""
            SELECT t.sweep_id, t.point_no, count(*) AS trials, count(DISTINCT t.point_hash) AS hashes,
                   count(DISTINCT t.seed) AS seeds
            FROM v_trials t GROUP BY t.sweep_id, t.point_no
            HAVING count(DISTINCT t.point_hash) <> 1 OR count(DISTINCT t.seed) <> count(*)
              OR count(*) FILTER (WHERE t.phase = 'search') = 0
              OR max(t.seed_no) FILTER (WHERE t.phase = 'search')
                >= min(t.seed_no) FILTER (WHERE t.phase = 'confirm')
        """,
    ),
    # --- episodes and steps -----------------------------------------------------------------------------------
    Rule(
        name="no_open_episodes",
        description="no episode is open when its trial has ended",
        sql="""
            SELECT e.trial_id, e.episode_no FROM v_episodes e
            WHERE e.status = 'OPEN' AND e.trial_status NOT IN ('PENDING', 'RUNNING')
        """,
    ),
    Rule(
        name="episode_columns",
        description="a closed episode has every column that its status makes due",
        sql="""
            SELECT e.episode_no, e.status FROM v_episodes e
            WHERE e.status <> 'OPEN' AND (e.end_reason IS NULL OR e.ended_at IS NULL
              OR ((e.left_out = 0 OR e.status = 'COMPLETED') AND (
                e.final_equity IS NULL OR e.pnl IS NULL OR e.total_reward IS NULL OR e.total_steps IS NULL
                OR e.max_drawdown IS NULL OR e.trades IS NULL OR e.ruined IS NULL
                OR (e.trades > 0) <> (e.win_rate IS NOT NULL))))
        """,
    ),
    Rule(
        name="episode_producers",
        description="an episode's number contains its producer's, and both are of one attempt",
        sql="""
            SELECT e.episode_no, e.producer_no FROM v_episodes e
            LEFT JOIN producers p ON p.producer_no = e.producer_no
            WHERE p.producer_no IS NULL OR e.episode_no >> 20 <> e.producer_no
              OR p.trial_id <> e.trial_id OR p.attempt <> e.attempt
        """,
    ),
    Rule(
        name="step_count",
        description="an episode's steps are as many as it says, numbered 0, 1, 2 ...; none where they are not kept",
        sql="""
            SELECT e.episode_no, e.total_steps, e.recorded, s.steps AS found, s.first_id & 16777215 AS first_t,
                   s.last_id & 16777215 AS last_t
            FROM v_episodes e JOIN v_steps s ON s.episode_no = e.episode_no
            WHERE (e.recorded AND e.status <> 'OPEN' AND s.steps <> e.total_steps) OR (s.steps > 0 AND (
              NOT e.recorded OR s.first_id & 16777215 <> 0 OR s.last_id & 16777215 <> s.steps - 1))
        """,
    ),
    Rule(
        name="step_bars",
        description="steps follow the market bar by bar, from where the episode starts",
        sql="""
            SELECT m.episode_no, m.t, m.bar, m.start_bar FROM v_steps n JOIN v_moves m ON m.episode_no = n.episode_no
            WHERE n.suspects > 0 AND m.wrong_bar IS TRUE
        """,
    ),
    Rule(
        name="step_domain",
        description="a step is marked after its decision, at a price above 0",
        sql="""
            SELECT m.episode_no, m.t, m.decision_time, m.mark_time, m.mark_price FROM v_steps n
            JOIN v_moves m ON m.episode_no = n.episode_no WHERE n.suspects > 0 AND m.wrong_domain IS TRUE
        """,
    ),
    Rule(
        name="reward_sum",
        description="an episode's total reward is the sum of its steps' rewards",
        sql="""
            SELECT e.episode_no, e.total_reward, s.reward FROM v_episodes e
            JOIN v_steps s ON s.episode_no = e.episode_no
            WHERE abs(e.total_reward - s.reward) > 1e-9 * (1.0 + s.reward_size)
        """,
    ),
    Rule(
        name="first_equity",
        description="the first step starts from the episode's initial equity",
        sql="""
            SELECT m.episode_no, m.equity_before AS initial_equity, m.equity, m.expected FROM v_steps n
            JOIN v_moves m ON m.episode_no = n.episode_no WHERE n.suspects > 0 AND (m.wrong_money AND m.t = 0) IS TRUE
        """,
    ),
    Rule(
        name="last_equity",
        description="the last step's equity is the episode's final equity",
        sql="""
            SELECT e.episode_no, e.final_equity, s.equity FROM v_episodes e
            JOIN v_steps n ON n.episode_no = e.episode_no JOIN steps s ON s.step_id = n.last_id
            WHERE abs(s.equity - e.final_equity) > 1e-9 * (e.initial_equity + abs(e.final_equity))
        """,
    ),
    Rule(
        name="step_money",
        description="equity moves by the held units' price changes less the step's cost, and by nothing else",
        sql="""
            SELECT m.episode_no, m.t, m.equity, m.expected FROM v_steps n
            JOIN v_moves m ON m.episode_no = n.episode_no WHERE n.suspects > 0 AND (m.wrong_money AND m.t > 0) IS TRUE
        """,
    ),
    Rule(
        name="step_units",
        description="units change by the step's fills, and by nothing else",
        sql="""
            SELECT m.episode_no, m.t, m.units_before, m.units, m.bought FROM v_steps n
            JOIN v_moves m ON m.episode_no = n.episode_no WHERE n.suspects > 0 AND m.wrong_units IS TRUE
        """,
    ),
    Rule(
        name="episode_pnl",
        description="an episode's pnl is its final less its initial equity, and the sum of its trades' pnl",
        sql="""
            SELECT e.episode_no, e.pnl, e.final_equity - e.initial_equity AS difference, d.pnl AS trades
            FROM v_episodes e JOIN v_trades d ON d.episode_no = e.episode_no
            WHERE abs(e.pnl - (e.final_equity - e.initial_equity)) > 1e-9 * (e.initial_equity + abs(e.final_equity))
              OR abs(e.pnl - d.pnl) > 1e-9 * (e.initial_equity + d.turned)
        """,
    ),
    Rule(
        name="episode_costs",
        description="what a closed episode's steps cost is what its trades paid in fees, slippage and borrow",
        sql="""
            SELECT e.episode_no, s.cost, d.paid FROM v_episodes e
            JOIN v_steps s ON s.episode_no = e.episode_no
            JOIN v_trades d ON d.episode_no = e.episode_no
            WHERE e.recorded AND e.status <> 'OPEN'
              AND abs(coalesce(s.cost, 0.0) - d.paid) > 1e-9 * (e.initial_equity + d.paid)
        """,
    ),
    Rule(
        name="episode_trades",
        description="an episode counts its closed trades, and the share of them that won",
        sql="""
            SELECT e.episode_no, e.trades, d.closed, e.win_rate, d.won FROM v_episodes e
            JOIN v_trades d ON d.episode_no = e.episode_no
            WHERE e.trades <> d.closed OR (e.trades > 0 AND abs(e.win_rate - 1.0 * d.won / nullif(d.closed, 0)) > 1e-9)
        """,
    ),
    # --- fills and trades -------------------------------------------------------------------------------------
    Rule(
        name="hold_where_no_fill",
        description="a step has a fill price exactly when it has fills; all others are HOLD",
        sql="""
            SELECT m.episode_no, m.t, CASE WHEN m.fill_price IS NULL THEN 'fill price' ELSE 'fills' END AS missing
            FROM v_steps n JOIN v_moves m ON m.episode_no = n.episode_no WHERE n.suspects > 0 AND m.wrong_fill IS TRUE
        """,
    ),
    Rule(
        name="fill_domain",
        description="a fill has a known operation, units of its sign, a price above 0 and no negative cost;"
        " leg 1 follows leg 0",
        sql="""
            SELECT l.step_id, l.leg, l.operation, l.quantity, l.price FROM v_legs l
            WHERE l.episode_no IN (SELECT n.episode_no FROM v_fills n JOIN v_steps s ON s.episode_no = n.episode_no
                                   WHERE n.suspects > 0 OR n.fills <> s.legs)
              AND (l.wrong_domain OR l.leg NOT IN (0, 1)
                OR (l.leg = 1 AND NOT EXISTS (SELECT 1 FROM fills g WHERE g.step_id = l.step_id AND g.leg = 0)))
        """,
    ),
    Rule(
        name="trade_domain",
        description="a trade has a known direction and status, quantity and prices above 0, and ends after it began",
        sql="""
            SELECT d.episode_no, d.trade_no, d.direction, d.status, d.quantity FROM v_trades n
            JOIN v_deals d ON d.episode_no = n.episode_no WHERE n.suspects > 0 AND d.wrong_domain IS TRUE
        """,
    ),
    Rule(
        name="fills_have_trades",
        description="every fill of a closed episode belongs to one trade, of its direction and between its ends",
        sql="""
            SELECT l.step_id, l.leg, l.trade_no, l.operation, l.direction FROM v_fills n
            JOIN v_legs l ON l.episode_no = n.episode_no WHERE n.suspects > 0 AND l.wrong_trade IS TRUE
        """,
    ),
    Rule(
        name="trade_sums",
        description="a trade begins and ends with its fills, and its quantity, prices, fees, slippage and pnl are"
        " what they add up to",
        sql="""
            SELECT d.episode_no, d.trade_no, d.quantity, abs(d.entered) AS entered, d.pnl FROM (
                SELECT d.episode_no, d.trade_no, d.direction, d.status, d.entry_step_id, d.exit_step_id, d.entry_price,
                       d.quantity, d.pnl, d.fees, d.slippage, d.borrow, min(e.initial_equity) AS initial_equity,
                       min(f.step_id) AS first_id, max(f.step_id) AS last_id,
                       sum(f.quantity) AS held, sum(f.quantity * f.price) AS spent,
                       sum(f.quantity) FILTER (
                         WHERE f.operation IN ('ENTRY_LONG', 'ENTRY_SHORT')) AS entered,
                       sum(f.quantity * f.price) FILTER (
                         WHERE f.operation IN ('ENTRY_LONG', 'ENTRY_SHORT')) AS entry_notional,
                       sum(f.fee) AS paid_fees, sum(f.slippage) AS paid_slippage
                FROM v_episodes e
                JOIN trades d ON d.episode_no = e.episode_no
                LEFT JOIN fills f ON f.step_id BETWEEN d.entry_step_id AND d.exit_step_id
                  AND f.step_id >> 24 = d.episode_no AND f.trade_no = d.trade_no
                WHERE e.recorded
                GROUP BY d.episode_no, d.trade_no
            ) d
            LEFT JOIN steps s ON s.step_id = CASE d.status WHEN 'MARKED' THEN d.exit_step_id END
            WHERE d.entered IS NULL OR d.first_id <> d.entry_step_id
              OR (d.status = 'CLOSED' AND d.last_id <> d.exit_step_id)
              OR abs(d.quantity - abs(d.entered)) > 1e-9 * d.quantity
              OR abs(d.entry_price * d.entered - d.entry_notional) > 1e-9 * abs(d.entry_notional)
              OR abs(d.fees - d.paid_fees) > 1e-9 * (d.initial_equity + d.fees)
              OR abs(d.slippage - d.paid_slippage) > 1e-9 * (d.initial_equity + d.slippage)
              OR abs(d.held - coalesce(s.units, 0.0)) > 1e-9 * d.quantity
              OR abs(d.pnl + d.fees + d.borrow + d.spent - coalesce(s.units * s.mark_price, 0.0))
                > 1e-9 * (d.initial_equity + abs(d.entry_notional))
        """,
    ),
    # --- recording --------------------------------------------------------------------------------------------
    Rule(
        name="batches_without_gap",
        description="each incarnation of a producer applied the batches 1, 2, 3 ... up to its watermark, each once",
        sql="""
            SELECT p.producer_no, p.last_seq, p.batches FROM producers p JOIN v_trials t ON t.trial_id = p.trial_id
            WHERE p.last_seq <> p.batches
        """,
    ),
    Rule(
        name="incarnations",
        description="a producer's epochs are 1, 2, 3 ..., and all but the newest have ended",
        sql="""
            SELECT p.producer_no, p.epoch FROM producers p
            JOIN v_trials t ON t.trial_id = p.trial_id
            JOIN producers q ON q.sweep_id = p.sweep_id AND q.trial_id = p.trial_id AND q.attempt = p.attempt
              AND q.role = p.role AND q.worker = p.worker
            GROUP BY p.producer_no
            HAVING p.epoch <> count(*) FILTER (WHERE q.epoch <= p.epoch)
              OR (p.epoch < max(q.epoch) AND p.ended_at IS NULL)
        """,
    ),
    Rule(
        name="rows_received",
        description="a producer's episodes hold as many steps as its batches brought, less those pruned since",
        sql="""
            SELECT p.producer_no, p.steps_recorded, p.steps_pruned, coalesce(sum(s.steps), 0) AS found FROM producers p
            JOIN v_trials t ON t.trial_id = p.trial_id
            LEFT JOIN v_episodes e ON e.producer_no = p.producer_no
            LEFT JOIN v_steps s ON s.episode_no = e.episode_no
            GROUP BY p.producer_no HAVING p.steps_recorded <> coalesce(sum(s.steps), 0) + p.steps_pruned
        """,
    ),
    Rule(
        name="pruned_episodes",
        description="a producer was pruned whole: of training alone, as many steps as its episodes say they had",
        sql="""
            SELECT p.producer_no, p.role, p.steps_pruned, coalesce(sum(e.total_steps), 0) AS counted,
                   coalesce(sum(s.steps), 0) AS left_over
            FROM producers p
            JOIN v_trials t ON t.trial_id = p.trial_id
            LEFT JOIN v_episodes e ON e.producer_no = p.producer_no
            LEFT JOIN v_steps s ON s.episode_no = e.episode_no
            WHERE p.steps_pruned <> 0
            GROUP BY p.producer_no
            HAVING p.role <> 'runner' OR coalesce(sum(e.total_steps), 0) <> p.steps_pruned
              OR coalesce(sum(s.steps), 0) > 0
        """,
    ),
    Rule(
        name="steps_accounted_for",
        description="at each attempt's last checkpoint: rows recorded (or pruned since) + known dropped = steps counted"
        " by training, and more only where a producer was lost before",
        sql="""
            WITH k AS MATERIALIZED (
                SELECT c.trial_id, c.attempt, c.iteration, c.steps_dropped,
                       c.env_steps - c.resumed_env_steps AS counted,
                       coalesce((
                         SELECT sum(CASE WHEN l.t < r.steps THEN l.t ELSE r.steps END) FROM (
                             SELECT e.producer_no, e.episode_no,
                                    CASE WHEN e.pruned = 1 THEN e.total_steps ELSE s.steps END AS steps
                             FROM v_episodes e JOIN v_steps s ON s.episode_no = e.episode_no
                             WHERE e.trial_id = c.trial_id AND e.attempt = c.attempt AND e.role = 'train'
                               AND e.producer_no <= c.last_producer_no
                         ) r
                         LEFT JOIN v_lanes l ON l.trial_id = c.trial_id AND l.attempt = c.attempt
                           AND l.iteration = c.iteration AND l.producer_no = r.producer_no
                           AND l.episode_no = r.episode_no
                         WHERE l.t IS NOT NULL OR r.episode_no <= coalesce((
                           SELECT max(n.episode_no) FROM v_lanes n
                           WHERE n.trial_id = c.trial_id AND n.attempt = c.attempt AND n.iteration = c.iteration
                             AND n.producer_no = r.producer_no), r.episode_no)), 0) AS recorded,
                       EXISTS (SELECT 1 FROM producers p
                               WHERE p.trial_id = c.trial_id AND p.attempt = c.attempt AND p.role = 'runner'
                                 AND p.producer_no <= c.last_producer_no AND p.ended_at IS NOT NULL
                                 AND p.producer_no NOT IN (SELECT n.producer_no FROM v_lanes n
                                   WHERE n.trial_id = c.trial_id AND n.attempt = c.attempt
                                     AND n.iteration = c.iteration)) AS lost
                FROM v_checkpoints c
                WHERE c.iteration = (SELECT max(d.iteration) FROM v_checkpoints d
                                     WHERE d.trial_id = c.trial_id AND d.attempt = c.attempt)
            )
            SELECT k.trial_id, k.attempt, k.iteration, k.counted, k.recorded, k.steps_dropped FROM k
            WHERE k.recorded + k.steps_dropped < k.counted OR (k.recorded + k.steps_dropped > k.counted AND NOT k.lost)
        """,
    ),
    Rule(
        name="outbox_complete",
        description="every trial and every iteration was announced for MLflow",
        sql="""
            SELECT t.trial_id, i.iterations, o.announced, o.opened FROM v_trials t
            LEFT JOIN (SELECT trial_id, count(*) AS iterations FROM iterations GROUP BY trial_id) i
              ON i.trial_id = t.trial_id
            LEFT JOIN (SELECT trial_id, count(*) FILTER (WHERE kind = 'iteration') AS announced,
                              count(*) FILTER (WHERE kind = 'trial_opened') AS opened
                       FROM outbox GROUP BY trial_id) o ON o.trial_id = t.trial_id
            WHERE coalesce(o.opened, 0) = 0 OR coalesce(o.announced, 0) <> coalesce(i.iterations, 0)
        """,
    ),
    # --- iterations, evaluations, checkpoints -----------------------------------------------------------------
    Rule(
        name="iterations_once",
        description="each iteration counts once per trial, numbered 1, 2, 3 ... with env steps that never fall",
        sql="""
            SELECT i.trial_id, i.iteration, i.attempt, i.env_steps FROM effective_iterations i
            JOIN v_trials t ON t.trial_id = i.trial_id
            WHERE (SELECT count(*) FROM effective_iterations j
                   WHERE j.trial_id = i.trial_id AND j.iteration = i.iteration) <> 1
              OR (i.iteration > 1 AND NOT EXISTS (
                   SELECT 1 FROM effective_iterations j WHERE j.trial_id = i.trial_id
                     AND j.iteration = i.iteration - 1 AND j.env_steps <= i.env_steps AND j.attempt <= i.attempt))
        """,
    ),
    Rule(
        name="evaluations_match",
        description="an evaluation has its curve, an iteration, and an episode of its role, length and trades",
        sql="""
            SELECT v.trial_id, v.iteration, v.episode_no FROM evaluations v
            JOIN v_trials t ON t.trial_id = v.trial_id
            LEFT JOIN v_episodes e ON e.episode_no = v.episode_no
            LEFT JOIN evaluation_curves c ON c.episode_no = v.episode_no
            LEFT JOIN iterations i ON i.trial_id = v.trial_id AND i.attempt = v.attempt AND i.iteration = v.iteration
            WHERE e.episode_no IS NULL OR c.episode_no IS NULL OR (i.iteration IS NULL AND v.split <> 'test')
              OR e.role = 'train' OR e.trial_id <> v.trial_id OR e.trades <> v.trades OR e.total_steps > v.bars
              OR (e.total_steps < v.bars AND e.ruined = 0)
              OR abs(e.final_equity / nullif(e.initial_equity, 0.0) - 1.0 - v.total_return) > 1e-9
        """,
    ),
    Rule(
        name="evaluation_sharpe",
        description="an evaluation's Sharpe ratio is what its steps give; bars after ruin count as 0",
        sql="""
            WITH returns AS (
                SELECT v.episode_no, m.equity / nullif(m.equity_before, 0.0) - 1.0 AS r
                FROM evaluations v JOIN v_moves m ON m.episode_no = v.episode_no WHERE v.bars > 1
            ), means AS (
                SELECT v.episode_no, v.bars, sum(r.r) / v.bars AS mean, v.bars - count(*) AS missing
                FROM returns r JOIN evaluations v ON v.episode_no = r.episode_no GROUP BY v.episode_no, v.bars
            ), spreads AS (
                SELECT m.episode_no, m.mean, sqrt(abs(sum((r.r - m.mean) * (r.r - m.mean))
                                                      + m.missing * m.mean * m.mean) / (m.bars - 1)) AS std
                FROM means m JOIN returns r ON r.episode_no = m.episode_no
                GROUP BY m.episode_no, m.mean, m.missing, m.bars
            ), recomputed AS (
                SELECT v.episode_no, v.status, v.sharpe, v.bars, s.std,
                       sqrt(e.periods_per_year) * s.mean / nullif(s.std, 0.0) AS recomputed
                FROM spreads s JOIN evaluations v ON v.episode_no = s.episode_no
                JOIN v_episodes e ON e.episode_no = s.episode_no
            )
            SELECT s.episode_no, s.status, s.sharpe, s.recomputed FROM recomputed s
            WHERE (s.status = 'OK' AND s.sharpe IS NULL)
              OR (s.status IN ('FLAT', 'TOO_SHORT') AND s.sharpe IS NOT NULL)
              OR (s.status = 'FLAT' AND s.std >= 2e-12) OR (s.status = 'TOO_SHORT' AND s.bars >= 30)
              OR (s.sharpe IS NOT NULL AND (s.recomputed IS NULL
                  OR abs(s.sharpe - s.recomputed) > 1e-9 * (1.0 + abs(s.sharpe))))
        """,
    ),
    Rule(
        name="evaluated_weights",
        description="the steps of a validation carry the weights version of the checkpoint they judge",
        sql="""
            SELECT v.trial_id, v.iteration, c.weights_version, min(s.weights_version) AS acted FROM v_checkpoints c
            JOIN evaluations v ON v.trial_id = c.trial_id AND v.attempt = c.attempt AND v.iteration = c.iteration
            CROSS JOIN steps s
            WHERE s.step_id BETWEEN v.episode_no << 24 AND (v.episode_no << 24) + 16777215
              AND s.weights_version <> c.weights_version
            GROUP BY v.episode_no, v.trial_id, v.iteration, c.weights_version
        """,
    ),
    Rule(
        name="best_is_best",
        description="a trial's best is the highest validation Sharpe of an eligible policy, ties to the earlier,"
        " and its checkpoint was kept",
        sql="""
            SELECT t.trial_id, t.best_iteration, t.best_sharpe, best.iteration AS highest, best.sharpe FROM v_trials t
            LEFT JOIN (
                SELECT trial_id, iteration, sharpe,
                       row_number() OVER (PARTITION BY trial_id ORDER BY sharpe DESC, iteration) AS place
                FROM effective_evaluations
                WHERE split = 'validation' AND cost_multiplier = 1.0 AND eligible = 1 AND sharpe IS NOT NULL
            ) best ON best.trial_id = t.trial_id AND best.place = 1
            LEFT JOIN v_checkpoints c ON c.trial_id = t.trial_id AND c.attempt = t.best_attempt
              AND c.iteration = t.best_iteration
            WHERE t.best_iteration IS DISTINCT FROM best.iteration OR t.best_sharpe IS DISTINCT FROM best.sharpe
              OR (t.best_iteration IS NOT NULL AND (c.iteration IS NULL OR c.deleted_at IS NOT NULL))
        """,
    ),
)
