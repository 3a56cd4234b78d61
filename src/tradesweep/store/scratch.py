"""What the rules of `verify` read: scratch tables and views, made once per run and gone with its transaction.

Steps and fills are read once each, in the order of their keys, into sums per episode: memory follows the number of
episodes and not of steps. The views `v_moves`, `v_legs` and `v_deals` judge single steps, fills and trades; the sums
count how many of an episode's rows look wrong (`suspects`), so that a rule reads rows again only where there are any.

Computed keys are cast, since SQLite uses no index on a column without a type. Episodes come first in every join with
a range of keys, for SQLite; `>> 24` says the same once more, for PostgreSQL, which can hash it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import text
from sqlalchemy.engine import Connection


@dataclass(frozen=True, kw_only=True, slots=True)
class Scratch:
    """A scratch table, or a view."""

    name: str
    """Rules read from it by this name."""
    sql: str | dict[str, str]
    """Its query; by dialect where they have nothing in common."""
    indexes: tuple[str, ...] = ()
    """Columns to index."""
    view: bool = False
    """A view is not filled."""
    reads: str = "trials and episodes"
    """What it goes through, in words for people who wait."""


SWEEPS = """
    SELECT s.* FROM sweeps s
    WHERE CAST(:sweep_id AS TEXT) IS NULL OR s.sweep_id = CAST(:sweep_id AS TEXT)
"""

TRIALS = """
    SELECT t.*, s.status AS sweep_status, s.periods_per_year
    FROM trials t JOIN v_sweeps s ON s.sweep_id = t.sweep_id
"""

EPISODES = """
    SELECT e.*, t.status AS trial_status, t.periods_per_year, e.pruned = 0 AND e.left_out = 0 AS recorded
    FROM (
        SELECT e.*,
               CASE WHEN e.role = 'train' AND p.steps_pruned > 0 THEN 1 ELSE 0 END AS pruned,
               CASE WHEN e.role = 'train' AND p.steps_dropped > 0 AND p.steps_recorded = 0
                 THEN 1 ELSE 0 END AS left_out
        FROM episodes e LEFT JOIN producers p ON p.producer_no = e.producer_no
    ) e JOIN v_trials t ON t.trial_id = e.trial_id
    ORDER BY e.episode_no
"""
"""`recorded` is false for training episodes whose steps were pruned, or left out by order of the spec; they have
totals and trades, and no steps."""

GAPS = """
    SELECT g.first_no, g.last_no FROM (
        SELECT n.episode_no + 1 AS first_no,
               lead(n.episode_no, 1, 549755813888) OVER (ORDER BY n.episode_no) - 1 AS last_no
        FROM (SELECT -549755813888 AS episode_no UNION ALL SELECT episode_no FROM episodes) n
    ) g WHERE g.first_no <= g.last_no
"""
"""Ranges of numbers that no episode has, of all sweeps: rows of theirs belong to none."""

MOVES = """
    SELECT m.*,
           m.bar <> m.start_bar + m.t AS wrong_bar,
           m.mark_time <= m.decision_time OR m.mark_price <= 0.0 AS wrong_domain,
           (m.fill_price IS NULL) <> (m.first_leg IS NULL) AS wrong_fill,
           abs(m.units - m.units_before - m.bought) > 1e-9 * (abs(m.units) + abs(m.bought)) AS wrong_units,
           abs(m.equity - m.expected) > 1e-9 * (abs(m.equity) + m.initial_equity) AS wrong_money
    FROM (
        SELECT e.episode_no, e.start_bar, e.initial_equity, s.step_id, s.step_id & 16777215 AS t, s.bar,
               s.decision_time, s.mark_time, s.fill_price, s.mark_price, s.units, s.equity, s.reward, s.cost,
               a.leg AS first_leg, b.leg AS second_leg, coalesce(a.quantity, 0.0) + coalesce(b.quantity, 0.0) AS bought,
               coalesce(p.units, 0.0) AS units_before, coalesce(p.equity, e.initial_equity) AS equity_before,
               coalesce(p.equity + p.units * (coalesce(s.fill_price, s.mark_price) - p.mark_price), e.initial_equity)
                 + s.units * (s.mark_price - coalesce(s.fill_price, s.mark_price)) - s.cost AS expected
        FROM v_episodes e
        LEFT JOIN steps s ON s.step_id BETWEEN e.episode_no << 24 AND (e.episode_no << 24) + 16777215
          AND s.step_id >> 24 = e.episode_no
        LEFT JOIN steps p ON p.step_id = s.step_id - 1 AND s.step_id & 16777215 > 0
        LEFT JOIN fills a ON a.step_id = s.step_id AND a.leg = 0
        LEFT JOIN fills b ON b.step_id = a.step_id AND b.leg = 1
    ) m
"""
"""Every step beside the one before it and its own fills; one row without a step for an episode that has none."""

STEPS = """
    SELECT m.episode_no, count(m.step_id) AS steps, min(m.step_id) AS first_id, max(m.step_id) AS last_id,
           sum(m.reward) AS reward, sum(abs(m.reward)) AS reward_size, sum(m.cost) AS cost,
           count(m.fill_price) AS filled, count(m.first_leg) + count(m.second_leg) AS legs,
           count(*) FILTER (
             WHERE m.wrong_bar OR m.wrong_domain OR m.wrong_fill OR m.wrong_units OR m.wrong_money) AS suspects
    FROM v_moves m GROUP BY m.episode_no
"""

LEGS = """
    SELECT e.episode_no, f.step_id, f.leg, f.trade_no, f.operation, f.quantity, f.price, d.direction,
           f.step_id IS NOT NULL AND (
             (f.quantity * CASE f.operation WHEN 'ENTRY_LONG' THEN 1.0 WHEN 'EXIT_SHORT' THEN 1.0
                                            WHEN 'EXIT_LONG' THEN -1.0 WHEN 'ENTRY_SHORT' THEN -1.0 END > 0.0)
               IS NOT TRUE OR f.price <= 0.0 OR f.fee < 0.0 OR f.slippage < 0.0) AS wrong_domain,
           (d.trade_no IS NULL AND f.step_id IS NOT NULL AND e.status <> 'OPEN')
             OR f.step_id NOT BETWEEN d.entry_step_id AND d.exit_step_id
             OR (f.operation IN ('ENTRY_LONG', 'EXIT_LONG')) <> (d.direction = 'LONG') AS wrong_trade
    FROM v_episodes e
    LEFT JOIN fills f ON f.step_id BETWEEN e.episode_no << 24 AND (e.episode_no << 24) + 16777215
      AND f.step_id >> 24 = e.episode_no
    LEFT JOIN trades d ON d.episode_no = e.episode_no AND d.trade_no = f.trade_no
"""
"""Every fill beside its trade; the trade of an open episode is written when it ends."""

FILLS = """
    SELECT l.episode_no, count(l.step_id) AS fills, count(*) FILTER (WHERE l.wrong_domain OR l.wrong_trade) AS suspects
    FROM v_legs l GROUP BY l.episode_no
"""

DEALS = """
    SELECT e.episode_no, d.trade_no, d.direction, d.status, d.entry_step_id, d.exit_step_id, d.quantity, d.pnl,
           d.fees + d.slippage + d.borrow AS paid,
           d.direction NOT IN ('LONG', 'SHORT') OR d.status NOT IN ('CLOSED', 'MARKED')
             OR d.quantity <= 0.0 OR d.entry_price <= 0.0 OR d.exit_price <= 0.0
             OR d.exit_time < d.entry_time OR d.exit_step_id < d.entry_step_id
             OR d.fees < 0.0 OR d.slippage < 0.0 OR d.borrow < 0.0 AS wrong_domain,
           d.entry_step_id >> 24 <> e.episode_no OR d.exit_step_id >> 24 <> e.episode_no
             OR (e.left_out = 0 AND d.entry_step_id & 16777215 >= coalesce(e.total_steps, n.steps))
             OR (e.left_out = 0 AND d.exit_step_id & 16777215 >= coalesce(e.total_steps, n.steps)) AS wrong_ends
    FROM v_episodes e
    JOIN v_steps n ON n.episode_no = e.episode_no
    LEFT JOIN trades d ON d.episode_no = e.episode_no
"""

TRADES = """
    SELECT d.episode_no, count(d.trade_no) AS trades, count(*) FILTER (WHERE d.status = 'CLOSED') AS closed,
           count(*) FILTER (WHERE d.status = 'CLOSED' AND d.pnl > 0.0) AS won, coalesce(sum(d.pnl), 0.0) AS pnl,
           coalesce(sum(abs(d.pnl)), 0.0) AS turned, coalesce(sum(d.paid), 0.0) AS paid,
           count(*) FILTER (WHERE d.wrong_domain OR d.wrong_ends) AS suspects
    FROM v_deals d GROUP BY d.episode_no
"""

CHECKPOINTS = """
    SELECT c.*, a.resumed_env_steps
    FROM checkpoints c
    JOIN v_trials t ON t.trial_id = c.trial_id
    JOIN attempts a ON a.trial_id = c.trial_id AND a.attempt = c.attempt
"""

LANES = {
    "sqlite": """
        SELECT c.trial_id, c.attempt, c.iteration, CAST(json_extract(lane.value, '$[0]') AS INTEGER) AS episode_no,
               CAST(json_extract(lane.value, '$[0]') >> 20 AS INTEGER) AS producer_no,
               CAST(json_extract(lane.value, '$[1]') AS INTEGER) AS t
        FROM v_checkpoints c JOIN json_each(c.lanes) lane
    """,
    "postgresql": """
        SELECT c.trial_id, c.attempt, c.iteration, CAST(lane.value ->> 0 AS BIGINT) AS episode_no,
               CAST(lane.value ->> 0 AS BIGINT) >> 20 AS producer_no, CAST(lane.value ->> 1 AS BIGINT) AS t
        FROM v_checkpoints c CROSS JOIN json_array_elements(CAST(c.lanes AS json)) AS lane(value)
    """,
}

SCRATCH = (
    Scratch(name="v_sweeps", sql=SWEEPS),
    Scratch(name="v_trials", sql=TRIALS, indexes=("trial_id",)),
    Scratch(name="v_episodes", sql=EPISODES, indexes=("episode_no", "trial_id, attempt, role", "producer_no")),
    Scratch(name="v_gaps", sql=GAPS),
    Scratch(name="v_moves", sql=MOVES, view=True),
    Scratch(name="v_steps", sql=STEPS, indexes=("episode_no",), reads="steps"),
    Scratch(name="v_legs", sql=LEGS, view=True),
    Scratch(name="v_fills", sql=FILLS, indexes=("episode_no",), reads="fills"),
    Scratch(name="v_deals", sql=DEALS, view=True),
    Scratch(name="v_trades", sql=TRADES, indexes=("episode_no",), reads="trades"),
    Scratch(name="v_checkpoints", sql=CHECKPOINTS, indexes=("trial_id, attempt, iteration",)),
    Scratch(name="v_lanes", sql=LANES, indexes=("trial_id, attempt, iteration, producer_no",)),
)
"""In the order they are made."""


def make_scratch(db: Connection, sweep_id: str | None, tell: Callable[[str], None]) -> None:
    """Make all of them, for one sweep or for all."""
    if db.dialect.name == "postgresql":  # rules are read to their end, with cursors
        db.execute(text("SET LOCAL cursor_tuple_fraction = 1"))
    for scratch in SCRATCH:
        tell(f"reading {scratch.reads}")
        query = scratch.sql if isinstance(scratch.sql, str) else scratch.sql[db.dialect.name]
        parameters = {"sweep_id": sweep_id} if ":sweep_id" in query else {}
        db.execute(text(f"CREATE TEMP {'VIEW' if scratch.view else 'TABLE'} {scratch.name} AS {query}"), parameters)
        for number, columns in enumerate(scratch.indexes):
            db.execute(text(f"CREATE INDEX ix_{scratch.name}_{number} ON {scratch.name} ({columns})"))
        if db.dialect.name == "postgresql" and not scratch.view:
            db.execute(text(f"ANALYZE {scratch.name}"))
