"""Closing episodes from the rows they left, when nobody is there any more who could close them.

Totals are those that the environment would have computed; an open position is marked at the last price, at no
cost. A trade's pnl is the cash of its fills less its borrow charges, plus the marked units.

Legend: T steps of an episode.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import func, select
from sqlalchemy.engine import Connection, Row

from tradesweep.names import (
    EPISODE_STEP_BITS,
    RECORD_COLUMNS,
    Direction,
    EpisodeEnd,
    EpisodeStatus,
    Operation,
    Record,
    TradeStatus,
)
from tradesweep.store.models import Episode, Fill, Producer, Step, Sweep, Trade
from tradesweep.store.statements import write_rows

Floats = NDArray[np.float64]

_ENTRIES = frozenset({Operation.ENTRY_LONG.value, Operation.ENTRY_SHORT.value})
_TOTALS = ("final_equity", "pnl", "total_reward", "total_steps", "sharpe", "max_drawdown", "trades", "win_rate")


def close_open_episodes(db: Connection, which: Any, status: EpisodeStatus, reason: EpisodeEnd, *, at: int) -> int:
    """Close every open episode that `which` selects; how many there were."""
    episode, producer, sweep = Episode.table(), Producer.table(), Sweep.table()
    found = db.execute(
        select(episode, sweep.c.periods_per_year, producer.c.steps_recorded, producer.c.steps_dropped)
        .join_from(episode, producer, episode.c.producer_no == producer.c.producer_no)
        .join(sweep, sweep.c.sweep_id == producer.c.sweep_id)
        .where(which, episode.c.status == EpisodeStatus.OPEN.value)
    ).all()
    for row in found:
        known = {"episode_no": row.episode_no, "status": status.value, "end_reason": reason.value, "ended_at": at}
        _run_one(db, Record.EPISODES_CLOSED, known | _finish(db, row))
    return len(found)


def _finish(db: Connection, episode: Row[Any]) -> dict[str, Any]:
    """Mark the open trade and sum up; all unknown when the producer recorded no steps by order of the spec."""
    if episode.steps_dropped and not episode.steps_recorded:
        return dict.fromkeys((*_TOTALS, "ruined"))
    steps = _read_steps(db, episode.episode_no)
    trade = _mark_open_trade(db, episode.episode_no, steps)
    if trade is not None:
        _run_one(db, Record.TRADES, trade)
    return _sum_up(db, episode, steps)


def _run_one(db: Connection, kind: Record, values: dict[str, Any]) -> None:
    write_rows(db, kind, [tuple(values[column.name] for column in RECORD_COLUMNS[kind])])


def step_range(episode_no: int) -> tuple[int, int]:
    """First and last step id that an episode can have."""
    first = episode_no << EPISODE_STEP_BITS
    return first, first + (1 << EPISODE_STEP_BITS) - 1


def _read_steps(db: Connection, episode_no: int) -> list[Row[Any]]:
    table = Step.table()
    columns = (table.c.step_id, table.c.mark_time, table.c.mark_price, table.c.units, table.c.cost)
    query = select(*columns, table.c.equity, table.c.reward).where(table.c.step_id.between(*step_range(episode_no)))
    return list(db.execute(query.order_by(table.c.step_id)))


# --- totals ---------------------------------------------------------------------------------------------------


def _sum_up(db: Connection, episode: Row[Any], steps: Sequence[Row[Any]]) -> dict[str, Any]:
    from tradesweep.metrics import equity_returns, max_drawdown, sharpe

    equity_T1 = np.array([episode.initial_equity, *(step.equity for step in steps)])
    closed, won = _count_trades(db, episode.episode_no)
    return {
        "final_equity": float(equity_T1[-1]),
        "pnl": float(equity_T1[-1] - equity_T1[0]),
        "total_reward": float(np.sum([step.reward for step in steps])),
        "total_steps": len(steps),
        "sharpe": sharpe(equity_returns(equity_T1), episode.periods_per_year),
        "max_drawdown": max_drawdown(equity_T1),
        "trades": closed,
        "win_rate": won / closed if closed else None,
        "ruined": 0,
    }


def _count_trades(db: Connection, episode_no: int) -> tuple[int, int]:
    """Trades that a fill closed, and how many of them won."""
    table = Trade.table()
    closed, won = db.execute(
        select(func.count(), func.count().filter(table.c.pnl > 0.0)).where(
            table.c.episode_no == episode_no, table.c.status == TradeStatus.CLOSED.value
        )
    ).one()
    return int(closed), int(won)


# --- the open trade -------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Legs:
    """What the fills of one trade add up to."""

    entered: float
    """Units entered, unsigned."""
    entry_notional: float
    """Units entered times their prices."""
    exited: float
    """Units exited, unsigned."""
    exit_notional: float
    """Units exited times their prices."""
    fees: float
    """Fees paid."""
    slippage: float
    """Slippage paid; the prices contain it."""


def _mark_open_trade(db: Connection, episode_no: int, steps: Sequence[Row[Any]]) -> dict[str, Any] | None:
    """The row of the trade that was open at the last step; None when there was none."""
    if not steps or steps[-1].units == 0.0:
        return None
    fills = _read_fills(db, episode_no)
    if not fills:  # damaged rows: close what can be closed, and leave the rest to `verify`
        return None
    trade_no = fills[-1].trade_no
    own = [fill for fill in fills if fill.trade_no == trade_no]
    entered_at, last = own[0].step_id, steps[-1]
    since = [step for step in steps if step.step_id >= entered_at]
    side = 1.0 if last.units > 0.0 else -1.0
    paid = [fill for fill in fills if fill.step_id >= entered_at]
    borrow = _borrow(side, since, paid)
    return {
        "episode_no": episode_no,
        "trade_no": trade_no,
        "direction": (Direction.LONG if side > 0.0 else Direction.SHORT).value,
        "status": TradeStatus.MARKED.value,
        "entry_step_id": entered_at,
        "exit_step_id": last.step_id,
        "entry_time": since[0].mark_time,
        "exit_time": last.mark_time,
        "borrow": borrow,
        **_settle(_add_legs(own), side, borrow, units=abs(last.units), price=last.mark_price),
    }


def _read_fills(db: Connection, episode_no: int) -> list[Row[Any]]:
    table = Fill.table()
    where = table.c.step_id.between(*step_range(episode_no))
    return list(db.execute(select(table).where(where).order_by(table.c.step_id, table.c.leg)))


def _borrow(side: float, since: Sequence[Row[Any]], paid: Sequence[Row[Any]]) -> float:
    """Only short positions pay it: what the steps cost beyond their legs' fees and slippage."""
    if side > 0.0:
        return 0.0
    cost = sum(step.cost for step in since)
    return float(max(cost - sum(fill.fee + fill.slippage for fill in paid), 0.0))


def _add_legs(fills: Sequence[Row[Any]]) -> Legs:
    entries = [fill for fill in fills if fill.operation in _ENTRIES]
    exits = [fill for fill in fills if fill.operation not in _ENTRIES]
    return Legs(
        entered=sum(abs(fill.quantity) for fill in entries),
        entry_notional=sum(abs(fill.quantity) * fill.price for fill in entries),
        exited=sum(abs(fill.quantity) for fill in exits),
        exit_notional=sum(abs(fill.quantity) * fill.price for fill in exits),
        fees=sum(fill.fee for fill in fills),
        slippage=sum(fill.slippage for fill in fills),
    )


def _settle(legs: Legs, side: float, borrow: float, *, units: float, price: float) -> dict[str, Any]:
    """Prices, quantity and pnl of a trade whose last `units` are marked at `price`."""
    exit_notional = legs.exit_notional + units * price
    return {
        "entry_price": legs.entry_notional / legs.entered,
        "exit_price": exit_notional / (legs.exited + units),
        "quantity": legs.entered,
        "pnl": side * (exit_notional - legs.entry_notional) - legs.fees - borrow,
        "fees": legs.fees,
        "slippage": legs.slippage,
    }
