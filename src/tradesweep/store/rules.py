"""The rules of a database, each as a query for the rows that break it.

The queries read scratch tables which `verification` makes once per run (`SCRATCH`): the trials and episodes in
question, what the steps of each episode add up to, and where lanes stood at each checkpoint. Their computed keys are
cast, since SQLite uses no index on a column without a type. `recorded` is 0 for training episodes of a sweep that
records the steps of evaluations alone; they have totals and trades, and no steps.

Money is compared to 1e-9 of the episode's initial equity, other sums to 1e-9 of their size.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """One rule."""

    name: str
    """How it is called in reports."""
    description: str
    """What holds when it is kept."""
    sql: str
    """The rows that break it; their columns are shown."""


SCRATCH: tuple[tuple[str, str], ...] = (
    (
        "v_trials",
        """
        SELECT t.*, s.status AS sweep_status, s.periods_per_year
        FROM trials t JOIN sweeps s ON s.sweep_id = t.sweep_id
        WHERE :sweep_id IS NULL OR t.sweep_id = :sweep_id
        """,
    ),
    (
        "v_episodes",
        """
        SELECT e.*, t.status AS trial_status, t.periods_per_year,
               NOT (e.role = 'train' AND p.steps_dropped > 0 AND p.steps_recorded = 0) AS recorded
        FROM episodes e
        JOIN v_trials t ON t.trial_id = e.trial_id
        LEFT JOIN producers p ON p.producer_no = e.producer_no
        ORDER BY e.episode_no
        """,
    ),
    (
        "v_steps",
        """
        SELECT e.episode_no, count(*) AS steps, min(s.step_id) AS first_id, max(s.step_id) AS last_id,
               sum(s.reward) AS reward, sum(abs(s.reward)) AS reward_size, sum(s.cost) AS cost,
               min(s.bar - (s.step_id & 16777215)) AS least_start, max(s.bar - (s.step_id & 16777215)) AS most_start,
               min(s.mark_time - s.decision_time) AS least_wait, min(s.mark_price) AS least_price,
               sum(s.fill_price IS NOT NULL) AS filled, max(s.units <> 0.0) AS traded
        FROM v_episodes e CROSS JOIN steps s
          ON s.step_id BETWEEN e.episode_no << 24 AND (e.episode_no << 24) + 16777215
        GROUP BY e.episode_no
        """,
    ),
    (
        "v_moves",
        """
        SELECT s.step_id, s.equity, s.units, s.units - p.units AS moved,
               p.equity + p.units * (coalesce(s.fill_price, s.mark_price) - p.mark_price)
                 + s.units * (s.mark_price - coalesce(s.fill_price, s.mark_price)) - s.cost AS expected,
               abs(s.equity) + abs(s.units * s.mark_price) + abs(p.units * s.mark_price) AS size
        FROM steps s JOIN steps p ON p.step_id = s.step_id - 1
        WHERE s.step_id & 16777215 > 0 AND (s.fill_price IS NOT NULL OR s.units <> p.units
          OR abs(s.equity - (p.equity + p.units * (s.mark_price - p.mark_price) - s.cost))
            > 1e-9 * (abs(s.equity) + abs(s.units * s.mark_price)))
        """,
    ),
    (
        "v_legs",
        """
        SELECT e.episode_no, f.trade_no, min(f.step_id) AS first_id, max(f.step_id) AS last_id,
               sum(CASE WHEN f.operation LIKE 'ENTRY%' THEN abs(f.quantity) ELSE 0.0 END) AS entered,
               sum(CASE WHEN f.operation LIKE 'ENTRY%' THEN abs(f.quantity) * f.price ELSE 0.0 END) AS entry_notional,
               sum(CASE WHEN f.operation LIKE 'EXIT%' THEN abs(f.quantity) ELSE 0.0 END) AS exited,
               sum(CASE WHEN f.operation LIKE 'EXIT%' THEN abs(f.quantity) * f.price ELSE 0.0 END) AS exit_notional,
               sum(f.fee) AS fees, sum(f.slippage) AS slippage,
               min(CASE WHEN f.operation LIKE '%LONG' THEN 'LONG' ELSE 'SHORT' END) AS direction,
               count(DISTINCT CASE WHEN f.operation LIKE '%LONG' THEN 'LONG' ELSE 'SHORT' END) AS directions
        FROM v_episodes e CROSS JOIN fills f
          ON f.step_id BETWEEN e.episode_no << 24 AND (e.episode_no << 24) + 16777215
        GROUP BY e.episode_no, f.trade_no
        """,
    ),
    (
        "v_trades",
        """
        SELECT d.*, e.initial_equity, e.recorded, e.producer_no
        FROM v_episodes e CROSS JOIN trades d ON d.episode_no = e.episode_no
        """,
    ),
    (
        "v_checkpoints",
        """
        SELECT c.*, a.resumed_env_steps
        FROM checkpoints c
        JOIN v_trials t ON t.trial_id = c.trial_id
        JOIN attempts a ON a.trial_id = c.trial_id AND a.attempt = c.attempt
        """,
    ),
    (
        "v_lanes",
        """
        SELECT c.trial_id, c.attempt, c.iteration, CAST(json_extract(lane.value, '$[0]') AS INTEGER) AS episode_no,
               CAST(json_extract(lane.value, '$[0]') >> 20 AS INTEGER) AS producer_no,
               CAST(json_extract(lane.value, '$[1]') AS INTEGER) AS t
        FROM v_checkpoints c JOIN json_each(c.lanes) lane
        """,
    ),
)
"""Scratch tables in the order they are made: name and query."""

SCRATCH_INDEXES = (
    "CREATE UNIQUE INDEX temp.ix_v_episodes ON v_episodes (episode_no)",
    "CREATE INDEX temp.ix_v_episodes_attempt ON v_episodes (trial_id, attempt, role)",
    "CREATE UNIQUE INDEX temp.ix_v_steps ON v_steps (episode_no)",
    "CREATE UNIQUE INDEX temp.ix_v_legs ON v_legs (episode_no, trade_no)",
    "CREATE UNIQUE INDEX temp.ix_v_trades ON v_trades (episode_no, trade_no)",
    "CREATE INDEX temp.ix_v_lanes ON v_lanes (trial_id, attempt, iteration, producer_no)",
)

RULES: tuple[Rule, ...] = (
    # --- the database itself ----------------------------------------------------------------------------------
    Rule(
        name="integrity",
        description="the file is a sound SQLite database",
        sql="SELECT quick_check AS problem FROM pragma_quick_check WHERE quick_check <> 'ok'",
    ),
    Rule(
        name="foreign_keys",
        description="every declared foreign key resolves",
        sql='SELECT "table", rowid, parent FROM pragma_foreign_key_check',
    ),
    Rule(
        name="steps_have_episodes",
        description="every step belongs to an episode",
        sql="""
            SELECT s.step_id >> 24 AS episode_no, s.step_id FROM steps s
            WHERE NOT EXISTS (SELECT 1 FROM episodes e WHERE e.episode_no = s.step_id >> 24)
        """,
    ),
    Rule(
        name="fills_have_steps",
        description="every fill belongs to a step",
        sql="""
            SELECT f.step_id, f.leg FROM fills f
            WHERE NOT EXISTS (SELECT 1 FROM steps s WHERE s.step_id = f.step_id)
        """,
    ),
    Rule(
        name="trades_have_episodes",
        description="every trade belongs to an episode, and its entry and exit to steps of it",
        sql="""
            SELECT d.episode_no, d.trade_no, 'episode' AS missing FROM trades d
            WHERE NOT EXISTS (SELECT 1 FROM episodes e WHERE e.episode_no = d.episode_no)
            UNION ALL
            SELECT d.episode_no, d.trade_no, 'entry step' FROM v_trades d
            WHERE d.recorded AND (d.entry_step_id >> 24 <> d.episode_no
              OR NOT EXISTS (SELECT 1 FROM steps s WHERE s.step_id = d.entry_step_id))
            UNION ALL
            SELECT d.episode_no, d.trade_no, 'exit step' FROM v_trades d
            WHERE d.recorded AND (d.exit_step_id >> 24 <> d.episode_no
              OR NOT EXISTS (SELECT 1 FROM steps s WHERE s.step_id = d.exit_step_id))
        """,
    ),
    # --- sweeps, trials, attempts -----------------------------------------------------------------------------
    Rule(
        name="finished_trials_have_rows",
        description="a trial that ended well has rows in every table",
        sql="""
            SELECT t.trial_id, wanted.name AS missing FROM v_trials t
            JOIN (SELECT 'attempts' AS name UNION ALL SELECT 'producers' UNION ALL SELECT 'iterations'
                  UNION ALL SELECT 'training episodes' UNION ALL SELECT 'validation episodes' UNION ALL SELECT 'steps'
                  UNION ALL SELECT 'fills' UNION ALL SELECT 'trades' UNION ALL SELECT 'evaluations'
                  UNION ALL SELECT 'evaluation_curves' UNION ALL SELECT 'checkpoints') wanted
            WHERE t.status IN ('FINISHED', 'STOPPED', 'PRUNED') AND NOT CASE wanted.name
              WHEN 'attempts' THEN EXISTS (SELECT 1 FROM attempts a WHERE a.trial_id = t.trial_id)
              WHEN 'producers' THEN EXISTS (SELECT 1 FROM producers p WHERE p.trial_id = t.trial_id)
              WHEN 'iterations' THEN EXISTS (SELECT 1 FROM iterations i WHERE i.trial_id = t.trial_id)
              WHEN 'training episodes' THEN
                EXISTS (SELECT 1 FROM v_episodes e WHERE e.trial_id = t.trial_id AND e.role = 'train')
              WHEN 'validation episodes' THEN
                EXISTS (SELECT 1 FROM v_episodes e WHERE e.trial_id = t.trial_id AND e.role = 'validation')
              WHEN 'steps' THEN EXISTS (SELECT 1 FROM v_episodes e JOIN v_steps s ON s.episode_no = e.episode_no
                                        WHERE e.trial_id = t.trial_id)
              WHEN 'fills' THEN
                EXISTS (SELECT 1 FROM v_episodes e JOIN v_legs f ON f.episode_no = e.episode_no
                        WHERE e.trial_id = t.trial_id)
                OR NOT EXISTS (SELECT 1 FROM v_episodes e JOIN v_steps s ON s.episode_no = e.episode_no
                               WHERE e.trial_id = t.trial_id AND s.traded)
              WHEN 'trades' THEN
                EXISTS (SELECT 1 FROM v_episodes e JOIN v_trades d ON d.episode_no = e.episode_no
                        WHERE e.trial_id = t.trial_id)
                OR NOT EXISTS (SELECT 1 FROM v_episodes e JOIN v_steps s ON s.episode_no = e.episode_no
                               WHERE e.trial_id = t.trial_id AND s.traded)
              WHEN 'evaluations' THEN EXISTS (SELECT 1 FROM evaluations v WHERE v.trial_id = t.trial_id)
              WHEN 'evaluation_curves' THEN
                EXISTS (SELECT 1 FROM evaluations v JOIN evaluation_curves c ON c.episode_no = v.episode_no
                        WHERE v.trial_id = t.trial_id)
              ELSE EXISTS (SELECT 1 FROM checkpoints c WHERE c.trial_id = t.trial_id) END
        """,
    ),
    Rule(
        name="nothing_runs_after_the_end",
        description="an ended sweep has no running trial, an ended trial no running attempt",
        sql="""
            SELECT t.sweep_id, t.trial_id, t.status FROM v_trials t
            WHERE t.sweep_status <> 'RUNNING' AND t.status IN ('PENDING', 'RUNNING')
            UNION ALL
            SELECT t.sweep_id, t.trial_id, a.status FROM v_trials t JOIN attempts a ON a.trial_id = t.trial_id
            WHERE a.status IN ('PENDING', 'RUNNING') AND t.status NOT IN ('PENDING', 'RUNNING')
        """,
    ),
    Rule(
        name="trial_columns",
        description="sweeps, trials and attempts have every column that their status makes due",
        sql="""
            SELECT s.sweep_id AS row, 'ended_at' AS missing FROM sweeps s
            WHERE s.status <> 'RUNNING' AND s.ended_at IS NULL AND (:sweep_id IS NULL OR s.sweep_id = :sweep_id)
            UNION ALL
            SELECT t.trial_id, 'ended_at' FROM v_trials t
            WHERE t.status NOT IN ('PENDING', 'RUNNING') AND t.ended_at IS NULL
            UNION ALL
            SELECT t.trial_id, 'started_at' FROM v_trials t WHERE t.attempts > 0 AND t.started_at IS NULL
            UNION ALL
            SELECT t.trial_id, 'error' FROM v_trials t
            WHERE t.status IN ('FAILED', 'DIVERGED', 'CRASHED') AND t.error IS NULL
            UNION ALL
            SELECT t.trial_id, 'last_score, final_metrics' FROM v_trials t
            WHERE t.status IN ('FINISHED', 'STOPPED', 'PRUNED') AND (t.last_score IS NULL OR t.final_metrics IS NULL)
            UNION ALL
            SELECT a.trial_id, 'ended_at of attempt ' || a.attempt FROM attempts a
            JOIN v_trials t ON t.trial_id = a.trial_id
            WHERE a.status NOT IN ('PENDING', 'RUNNING') AND a.ended_at IS NULL
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
              OR ((e.recorded OR e.status = 'COMPLETED') AND (
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
        description="an episode's steps are as many as it says, numbered 0, 1, 2 ... over consecutive bars",
        sql="""
            SELECT e.episode_no, e.total_steps, coalesce(s.steps, 0) AS rows, s.first_id & 16777215 AS first_t,
                   s.last_id & 16777215 AS last_t
            FROM v_episodes e LEFT JOIN v_steps s ON s.episode_no = e.episode_no
            WHERE e.recorded AND (
              (e.status <> 'OPEN' AND coalesce(s.steps, 0) <> e.total_steps)
              OR s.first_id & 16777215 <> 0 OR (s.last_id & 16777215) <> s.steps - 1
              OR s.least_start <> e.start_bar OR s.most_start <> e.start_bar)
        """,
    ),
    Rule(
        name="step_domain",
        description="a step is marked after its decision, at a price above 0",
        sql="""
            SELECT episode_no, least_wait, least_price FROM v_steps WHERE least_wait <= 0 OR least_price <= 0.0
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
            SELECT e.episode_no, e.initial_equity, s.equity FROM v_episodes e
            JOIN v_steps n ON n.episode_no = e.episode_no JOIN steps s ON s.step_id = n.first_id
            WHERE abs(s.equity - (e.initial_equity - s.cost
              + s.units * (s.mark_price - coalesce(s.fill_price, s.mark_price)))) > 1e-9 * e.initial_equity
        """,
    ),
    Rule(
        name="last_equity",
        description="the last step's equity is the episode's final equity",
        sql="""
            SELECT e.episode_no, e.final_equity, s.equity FROM v_episodes e
            JOIN v_steps n ON n.episode_no = e.episode_no JOIN steps s ON s.step_id = n.last_id
            WHERE abs(s.equity - e.final_equity) > 1e-9 * e.initial_equity
        """,
    ),
    Rule(
        name="step_money",
        description="equity moves by the held units' price changes less the step's cost, and by nothing else",
        sql="""
            SELECT m.step_id >> 24 AS episode_no, m.step_id & 16777215 AS t, m.equity, m.expected FROM v_moves m
            WHERE abs(m.equity - m.expected) > 1e-9 * m.size
              AND EXISTS (SELECT 1 FROM v_episodes e WHERE e.episode_no = m.step_id >> 24)
        """,
    ),
    Rule(
        name="step_units",
        description="units change by the step's fills, and by nothing else",
        sql="""
            SELECT m.step_id >> 24 AS episode_no, m.step_id & 16777215 AS t, m.moved, coalesce(f.filled, 0.0) AS filled
            FROM v_moves m
            LEFT JOIN (SELECT step_id, sum(quantity) AS filled FROM fills GROUP BY step_id) f ON f.step_id = m.step_id
            WHERE abs(m.moved - coalesce(f.filled, 0.0)) > 1e-9 * (1.0 + abs(m.units) + abs(m.moved))
              AND EXISTS (SELECT 1 FROM v_episodes e WHERE e.episode_no = m.step_id >> 24)
        """,
    ),
    Rule(
        name="episode_pnl",
        description="an episode's pnl is its final less its initial equity, and the sum of its trades' pnl",
        sql="""
            SELECT e.episode_no, e.pnl, e.final_equity - e.initial_equity AS difference, sum(d.pnl) AS trades
            FROM v_episodes e LEFT JOIN v_trades d ON d.episode_no = e.episode_no
            WHERE e.pnl IS NOT NULL
            GROUP BY e.episode_no
            HAVING abs(e.pnl - (e.final_equity - e.initial_equity)) > 1e-9 * e.initial_equity
              OR abs(e.pnl - coalesce(sum(d.pnl), 0.0)) > 1e-9 * e.initial_equity
        """,
    ),
    Rule(
        name="episode_costs",
        description="what a closed episode's steps cost is what its trades paid in fees, slippage and borrow",
        sql="""
            SELECT e.episode_no, s.cost, sum(d.fees + d.slippage + d.borrow) AS paid FROM v_episodes e
            JOIN v_steps s ON s.episode_no = e.episode_no
            LEFT JOIN v_trades d ON d.episode_no = e.episode_no
            WHERE e.recorded AND e.status <> 'OPEN'
            GROUP BY e.episode_no
            HAVING abs(s.cost - coalesce(sum(d.fees + d.slippage + d.borrow), 0.0)) > 1e-9 * e.initial_equity
        """,
    ),
    Rule(
        name="episode_trades",
        description="an episode counts its closed trades, and the share of them that won",
        sql="""
            SELECT e.episode_no, e.trades, count(d.trade_no) AS rows, e.win_rate FROM v_episodes e
            LEFT JOIN v_trades d ON d.episode_no = e.episode_no AND d.status = 'CLOSED'
            WHERE e.trades IS NOT NULL
            GROUP BY e.episode_no
            HAVING e.trades <> count(d.trade_no)
              OR (e.trades > 0 AND abs(e.win_rate - 1.0 * sum(d.pnl > 0.0) / count(d.trade_no)) > 1e-9)
        """,
    ),
    # --- fills and trades -------------------------------------------------------------------------------------
    Rule(
        name="hold_where_no_fill",
        description="a step has a fill price exactly when it has fills; all others are HOLD",
        sql="""
            SELECT s.step_id, 'fills' AS missing FROM steps s
            WHERE s.fill_price IS NOT NULL AND NOT EXISTS (SELECT 1 FROM fills f WHERE f.step_id = s.step_id)
              AND EXISTS (SELECT 1 FROM v_episodes e WHERE e.episode_no = s.step_id >> 24)
            UNION ALL
            SELECT f.step_id, 'fill price' FROM fills f JOIN steps s ON s.step_id = f.step_id
            WHERE s.fill_price IS NULL AND EXISTS (SELECT 1 FROM v_episodes e WHERE e.episode_no = s.step_id >> 24)
        """,
    ),
    Rule(
        name="fill_domain",
        description="a fill has a known operation, units of its sign, a price above 0 and no negative cost",
        sql="""
            SELECT f.step_id, f.leg, f.operation, f.quantity, f.price FROM fills f
            WHERE EXISTS (SELECT 1 FROM v_episodes e WHERE e.episode_no = f.step_id >> 24) AND (
              f.operation NOT IN ('ENTRY_LONG', 'EXIT_LONG', 'ENTRY_SHORT', 'EXIT_SHORT')
              OR f.quantity = 0.0 OR (f.quantity > 0.0) <> (f.operation IN ('ENTRY_LONG', 'EXIT_SHORT'))
              OR f.price <= 0.0 OR f.fee < 0.0 OR f.slippage < 0.0 OR f.leg NOT IN (0, 1)
              OR (f.leg = 1 AND NOT EXISTS (SELECT 1 FROM fills g WHERE g.step_id = f.step_id AND g.leg = 0)))
        """,
    ),
    Rule(
        name="trade_domain",
        description="a trade has a known direction and status, quantity and prices above 0, and ends after it began",
        sql="""
            SELECT d.episode_no, d.trade_no, d.direction, d.status, d.quantity FROM v_trades d
            WHERE d.direction NOT IN ('LONG', 'SHORT') OR d.status NOT IN ('CLOSED', 'MARKED')
              OR d.quantity <= 0.0 OR d.entry_price <= 0.0 OR d.exit_price <= 0.0
              OR d.exit_time < d.entry_time OR d.exit_step_id < d.entry_step_id
              OR d.fees < 0.0 OR d.slippage < 0.0 OR d.borrow < 0.0
        """,
    ),
    Rule(
        name="fills_have_trades",
        description="every fill of a closed episode belongs to one trade, of its direction and between its ends",
        sql="""
            SELECT f.episode_no, f.trade_no, f.direction, d.direction AS trade FROM v_legs f
            JOIN v_episodes e ON e.episode_no = f.episode_no
            LEFT JOIN v_trades d ON d.episode_no = f.episode_no AND d.trade_no = f.trade_no
            WHERE e.status <> 'OPEN' AND (d.trade_no IS NULL OR f.directions <> 1 OR f.direction <> d.direction
              OR f.first_id <> d.entry_step_id OR f.last_id > d.exit_step_id
              OR (d.status = 'CLOSED' AND f.last_id <> d.exit_step_id))
        """,
    ),
    Rule(
        name="trade_sums",
        description="a trade's quantity, prices, fees, slippage and pnl are what its fills add up to",
        sql="""
            SELECT d.episode_no, d.trade_no, d.quantity, f.entered, d.pnl FROM v_trades d
            LEFT JOIN v_legs f ON f.episode_no = d.episode_no AND f.trade_no = d.trade_no
            LEFT JOIN steps s ON s.step_id = d.exit_step_id
            WHERE d.recorded AND (f.trade_no IS NULL
              OR abs(d.quantity - f.entered) > 1e-9 * d.quantity
              OR abs(d.entry_price * f.entered - f.entry_notional) > 1e-9 * f.entry_notional
              OR abs(d.fees - f.fees) > 1e-9 * d.initial_equity
              OR abs(d.slippage - f.slippage) > 1e-9 * d.initial_equity
              OR (d.status = 'CLOSED' AND abs(f.entered - f.exited) > 1e-9 * f.entered)
              OR abs(d.pnl + d.fees + d.borrow - CASE d.direction WHEN 'LONG' THEN 1.0 ELSE -1.0 END
                * (f.exit_notional + CASE d.status WHEN 'MARKED' THEN abs(s.units) * s.mark_price ELSE 0.0 END
                   - f.entry_notional)) > 1e-9 * (d.initial_equity + f.entry_notional))
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
            HAVING p.epoch <> sum(q.epoch <= p.epoch) OR (p.epoch < max(q.epoch) AND p.ended_at IS NULL)
        """,
    ),
    Rule(
        name="rows_received",
        description="a producer's episodes hold as many steps as its batches brought",
        sql="""
            SELECT p.producer_no, p.steps_recorded, coalesce(sum(s.steps), 0) AS rows FROM producers p
            JOIN v_trials t ON t.trial_id = p.trial_id
            LEFT JOIN v_episodes e ON e.producer_no = p.producer_no
            LEFT JOIN v_steps s ON s.episode_no = e.episode_no
            GROUP BY p.producer_no HAVING p.steps_recorded <> coalesce(sum(s.steps), 0)
        """,
    ),
    Rule(
        name="steps_accounted_for",
        description="at each attempt's last checkpoint: rows recorded + known dropped = steps counted by training,"
        " and more only where a producer was lost before",
        sql="""
            SELECT trial_id, attempt, iteration, counted, recorded, steps_dropped FROM (
                SELECT c.trial_id, c.attempt, c.iteration, c.steps_dropped,
                       c.env_steps - c.resumed_env_steps AS counted,
                       coalesce(sum(CASE
                         WHEN NOT e.recorded OR e.producer_no > c.last_producer_no THEN 0
                         WHEN l.t IS NOT NULL THEN min(coalesce(s.steps, 0), l.t)
                         WHEN e.episode_no > (SELECT max(n.episode_no) FROM v_lanes n
                                              WHERE n.trial_id = c.trial_id AND n.attempt = c.attempt
                                                AND n.iteration = c.iteration AND n.producer_no = e.producer_no) THEN 0
                         ELSE coalesce(s.steps, 0) END), 0) AS recorded,
                       EXISTS (SELECT 1 FROM producers p
                               WHERE p.trial_id = c.trial_id AND p.attempt = c.attempt AND p.role = 'runner'
                                 AND p.producer_no <= c.last_producer_no AND p.ended_at IS NOT NULL
                                 AND p.producer_no NOT IN (SELECT n.producer_no FROM v_lanes n
                                   WHERE n.trial_id = c.trial_id AND n.attempt = c.attempt
                                     AND n.iteration = c.iteration)) AS lost
                FROM v_checkpoints c
                LEFT JOIN v_episodes e ON e.trial_id = c.trial_id AND e.attempt = c.attempt AND e.role = 'train'
                LEFT JOIN v_steps s ON s.episode_no = e.episode_no
                LEFT JOIN v_lanes l ON l.trial_id = c.trial_id AND l.attempt = c.attempt AND l.iteration = c.iteration
                  AND l.producer_no = e.producer_no AND l.episode_no = e.episode_no
                WHERE c.iteration = (SELECT max(d.iteration) FROM v_checkpoints d
                                     WHERE d.trial_id = c.trial_id AND d.attempt = c.attempt)
                GROUP BY c.trial_id, c.attempt, c.iteration
            )
            WHERE recorded + steps_dropped < counted OR (recorded + steps_dropped > counted AND NOT lost)
        """,
    ),
    Rule(
        name="outbox_complete",
        description="every trial and every iteration was announced for MLflow",
        sql="""
            SELECT t.trial_id, (SELECT count(*) FROM iterations i WHERE i.trial_id = t.trial_id) AS iterations,
                   sum(o.kind = 'iteration') AS announced
            FROM v_trials t LEFT JOIN outbox o ON o.trial_id = t.trial_id
            GROUP BY t.trial_id
            HAVING coalesce(sum(o.kind = 'trial_opened'), 0) = 0 OR coalesce(sum(o.kind = 'iteration'), 0)
              <> (SELECT count(*) FROM iterations i WHERE i.trial_id = t.trial_id)
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
              OR (e.total_steps < v.bars AND NOT e.ruined)
              OR abs(e.final_equity / e.initial_equity - 1.0 - v.total_return) > 1e-9
        """,
    ),
    Rule(
        name="evaluation_sharpe",
        description="an evaluation's Sharpe ratio is what its steps give; bars after ruin count as 0",
        sql="""
            WITH returns AS (
                SELECT v.episode_no, s.equity / coalesce(
                         lag(s.equity) OVER (PARTITION BY v.episode_no ORDER BY s.step_id), e.initial_equity) - 1.0 AS r
                FROM evaluations v JOIN v_episodes e ON e.episode_no = v.episode_no
                CROSS JOIN steps s ON s.step_id BETWEEN v.episode_no << 24 AND (v.episode_no << 24) + 16777215
            ), means AS (
                SELECT v.episode_no, v.bars, v.status, v.sharpe, e.periods_per_year, sum(r.r) / v.bars AS mean,
                       count(*) AS steps
                FROM returns r JOIN evaluations v ON v.episode_no = r.episode_no
                JOIN v_episodes e ON e.episode_no = v.episode_no GROUP BY v.episode_no
            ), spreads AS (
                SELECT m.*, sqrt((sum((r.r - m.mean) * (r.r - m.mean)) + (m.bars - m.steps) * m.mean * m.mean)
                                 / (m.bars - 1)) AS std
                FROM means m JOIN returns r ON r.episode_no = m.episode_no WHERE m.bars > 1 GROUP BY m.episode_no
            )
            SELECT episode_no, status, sharpe, sqrt(periods_per_year) * mean / std AS recomputed FROM spreads
            WHERE (status = 'OK') > (sharpe IS NOT NULL) OR (status IN ('FLAT', 'TOO_SHORT') AND sharpe IS NOT NULL)
              OR (status = 'FLAT' AND std >= 2e-12) OR (status = 'TOO_SHORT' AND bars >= 30)
              OR (sharpe IS NOT NULL
                  AND abs(sharpe - sqrt(periods_per_year) * mean / std) > 1e-9 * (1.0 + abs(sharpe)))
        """,
    ),
    Rule(
        name="evaluated_weights",
        description="the steps of a validation carry the weights version of the checkpoint they judge",
        sql="""
            SELECT v.trial_id, v.iteration, c.weights_version, min(s.weights_version) AS acted FROM evaluations v
            JOIN v_checkpoints c ON c.trial_id = v.trial_id AND c.attempt = v.attempt AND c.iteration = v.iteration
            CROSS JOIN steps s ON s.step_id BETWEEN v.episode_no << 24 AND (v.episode_no << 24) + 16777215
            WHERE s.weights_version <> c.weights_version
            GROUP BY v.episode_no
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
            WHERE t.best_iteration IS NOT best.iteration OR t.best_sharpe IS NOT best.sharpe
              OR (t.best_iteration IS NOT NULL AND (c.iteration IS NULL OR c.deleted_at IS NOT NULL))
        """,
    ),
)
