"""Accounts: fills, trades and episode totals, told from the step rows of one fragment at a time.

The rows hold what the kernel computed (quantities, reference prices, equity, borrow). Here they are only put in
groups and summed, for all lanes and steps at once. What is open when a fragment ends (a trade, an episode) is
carried in one column per lane.

Legend: T steps, E lanes; n active steps, lane-major (lane 0's steps in order, then lane 1's ...), m fills, g trades,
r runs. A run is the part of one episode that lies in this fragment. Each lane begins with one group of its own, for
the trade it carries in; every opening fill begins another.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tradesweep.env.kernel import Kernel
from tradesweep.env.rows import Bools, Floats, Ints
from tradesweep.names import EPISODE_STEP_BITS, Direction, EpisodeEnd, EpisodeStatus, Operation, Record, TradeStatus

Columns = dict[str, NDArray[Any]]
STEP_MASK = (1 << EPISODE_STEP_BITS) - 1
LEAST_RETURNS = 30
"""Fewer returns have no Sharpe ratio (selection page)."""
LEAST_STD = 1e-12
"""Returns that spread less have no Sharpe ratio (selection page)."""


def _words(*members: StrEnum) -> NDArray[Any]:
    """Plain text, so that nobody downstream meets an enum member in a column."""
    return np.array([member.value for member in members], dtype=object)


OPERATIONS = _words(Operation.ENTRY_LONG, Operation.EXIT_LONG, Operation.ENTRY_SHORT, Operation.EXIT_SHORT)
DIRECTIONS = _words(Direction.LONG, Direction.SHORT)
TRADE_STATES = _words(TradeStatus.CLOSED, TradeStatus.MARKED)
ENV_ENDS = _words(EpisodeEnd.LAST_BAR, EpisodeEnd.RUINED)


@dataclass(kw_only=True, slots=True)
class Steps:
    """The active steps of one fragment, lane-major, and how they fall into runs and trades."""

    lane: Ints
    """(n,) lane."""
    columns: Columns
    """(n,) columns of `StepRow`, but for `quantity`."""
    quantity_n2: Floats
    """(n, 2) signed units filled."""
    leg_n2: Bools
    """(n, 2) True where a leg filled: leg 0 closed a trade, leg 1 opened or resized one."""
    lane_steps: Ints
    """(E,) active steps of each lane."""
    first: Bools
    """(n,) t = 0."""
    ended: Bools
    """(n,) the episode's last step."""
    opened: Bools
    """(n,) leg 1 opened a trade."""
    run: Ints
    """(n,) run."""
    run_start: Ints
    """(r,) first step of each run."""
    group_after: Ints
    """(n,) group of the trade that is open after the step, or was the last."""
    first_group: Ints
    """(E,) group of the trade that each lane carried in."""
    last_group: Ints
    """(E,) group of the trade that each lane carries out."""

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self.columns[name]

    @property
    def closed(self) -> Bools:
        """(n,) leg 0 closed a trade."""
        return self.leg_n2[:, 0]

    @property
    def filled(self) -> Bools:
        """(n,) any leg filled."""
        return self.leg_n2[:, 0] | self.leg_n2[:, 1]

    @property
    def group_count(self) -> int:
        """g: trades opened in this fragment plus one group per lane."""
        return int(self.last_group[-1]) + 1

    @property
    def group_before(self) -> Ints:
        """(n,) group before the step's opening leg."""
        return self.group_after - self.opened

    @property
    def run_lane(self) -> Ints:
        """(r,) lane of each run."""
        return self.lane[self.run_start]

    @property
    def run_end(self) -> Ints:
        """(r,) last step of each run."""
        return np.append(self.run_start[1:], len(self.lane)) - 1


def read_steps(columns_TE: Columns, lanes: int) -> Steps:
    """Gather the steps that ran from (T, E) rows into lane-major columns: copies, for the tape reuses its rows."""
    lane, t = _list_steps(columns_TE["active"])
    cell = t * lanes + lane
    columns = {name: column.reshape(-1).take(cell) for name, column in columns_TE.items() if name != "quantity"}
    quantity_n2 = columns_TE["quantity"].transpose(0, 2, 1).reshape(-1, 2).take(cell, axis=0)
    leg_n2 = quantity_n2 != 0.0
    opened = leg_n2[:, 1] & (columns["units"] == quantity_n2[:, 1])
    first = (columns["step_id"] & STEP_MASK) == 0
    lane_steps, lane_opened = np.bincount(lane, minlength=lanes), np.bincount(lane.compress(opened), minlength=lanes)
    begins = first.copy()
    begins[(np.cumsum(lane_steps) - lane_steps)[lane_steps > 0]] = True
    return Steps(
        lane=lane,
        columns=columns,
        quantity_n2=quantity_n2,
        leg_n2=leg_n2,
        lane_steps=lane_steps,
        first=first,
        ended=columns["terminated"] | columns["truncated"],
        opened=opened,
        run=np.cumsum(begins) - 1,
        run_start=np.flatnonzero(begins),
        group_after=np.cumsum(opened) + lane,
        last_group=np.cumsum(lane_opened) + np.arange(lanes),
        first_group=np.cumsum(lane_opened) - lane_opened + np.arange(lanes),
    )


def _list_steps(active_TE: Bools) -> tuple[Ints, Ints]:
    """((n,) lane, (n,) row) of the steps that ran, lane-major; mostly they all did."""
    rows, lanes = active_TE.shape
    if active_TE.all():
        return np.repeat(np.arange(lanes), rows), np.tile(np.arange(rows), lanes)
    lane, row = np.nonzero(active_TE.T)
    return lane, row


@dataclass(kw_only=True, slots=True)
class Trades:
    """Sums and facts of g trades, open or closed."""

    entered: Floats
    """(g,) units entered, unsigned."""
    entry_notional: Floats
    """(g,) units entered times fill price."""
    exited: Floats
    """(g,) units exited, unsigned."""
    exit_notional: Floats
    """(g,) units exited times fill price."""
    slippage: Floats
    """(g,) slippage paid."""
    borrow: Floats
    """(g,) borrow paid."""
    entry_step_id: Ints
    """(g,) step of the opening fill."""
    entry_time: Ints
    """(g,) end of the bar in which it filled."""
    trade_no: Ints
    """(g,) number within the episode, from 0."""
    side: Ints
    """(g,) +1 long, -1 short."""

    @classmethod
    def empty(cls, count: int) -> Trades:
        """`count` trades without fills."""
        columns: dict[str, Any] = {name: np.zeros(count) for name in _SUMS}
        return cls(**columns, **_no_facts(count))

    def take(self, index: Ints) -> Trades:
        """These trades, copied."""
        return Trades(**{name: getattr(self, name).take(index) for name in (*_SUMS, *_FACTS)})


_SUMS = ("entered", "entry_notional", "exited", "exit_notional", "slippage", "borrow")
_FACTS = ("entry_step_id", "entry_time", "trade_no", "side")


def _no_facts(count: int) -> dict[str, Any]:
    return {name: np.zeros(count, np.int64) for name in _FACTS}


@dataclass(kw_only=True, slots=True)
class Totals:
    """Running totals of r episodes."""

    steps: Ints
    """(r,) steps so far."""
    reward: Floats
    """(r,) sum of rewards."""
    mean: Floats
    """(r,) mean of the simple returns."""
    squares: Floats
    """(r,) sum of squared deviations from that mean."""
    opened: Ints
    """(r,) trades opened."""
    closed: Ints
    """(r,) trades closed."""
    won: Ints
    """(r,) trades closed with a profit."""
    equity: Floats
    """(r,) equity after the last step."""

    @classmethod
    def empty(cls, count: int, initial_equity: float) -> Totals:
        """Totals of episodes without steps."""
        columns: dict[str, Any] = {name: np.zeros(count) for name in ("reward", "mean", "squares")}
        columns |= {name: np.zeros(count, np.int64) for name in ("steps", "opened", "closed", "won")}
        return cls(**columns, equity=np.full(count, initial_equity))

    def take(self, index: Ints) -> Totals:
        """These totals, copied."""
        return Totals(**{name: getattr(self, name).take(index) for name in _TOTALS})

    def sharpe(self, periods_per_year: float) -> Floats:
        """(r,) sqrt(P) mean / std (ddof 1) of the simple returns; NaN below 30 of them or a std of 1e-12."""
        with np.errstate(divide="ignore", invalid="ignore"):
            std = np.sqrt(self.squares / (self.steps - 1))
            ratio = np.sqrt(periods_per_year) * self.mean / std
        return np.where((self.steps >= LEAST_RETURNS) & (std >= LEAST_STD), ratio, np.nan)

    def win_rate(self) -> Floats:
        """(r,) share of closed trades with a profit; NaN without one."""
        return np.where(self.closed > 0, self.won / np.maximum(self.closed, 1), np.nan)


_TOTALS = ("steps", "reward", "mean", "squares", "opened", "closed", "won", "equity")


class Accounts:
    """What E lanes carry from fragment to fragment, and the rows that a fragment gives."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._trades_E = Trades.empty(kernel.lanes)
        self._totals_E = Totals.empty(kernel.lanes, kernel.initial_equity)
        self._peak_E = np.full(kernel.lanes, kernel.initial_equity)
        self._low_E = np.ones(kernel.lanes)
        self._last_E = np.zeros((2, kernel.lanes), np.int64)  # step_id and mark bar of the last step
        self._units_E = np.zeros(kernel.lanes)

    def digest(self, columns_TE: Columns, ended_at: int) -> dict[Record, Columns]:
        """The rows of one fragment, but for its openings; `ended_at` is now, microseconds since 1970 UTC."""
        steps = read_steps(columns_TE, self._kernel.lanes)
        if not len(steps.lane):
            return {}
        trades, fills = self._group_fills(steps)
        ended, trade_rows = self._end_trades(steps, trades)
        totals_r = self._sum_runs(steps, ended)
        low_TE = self._track_drawdown(columns_TE)
        closings = self._close_runs(steps, totals_r, low_TE, columns_TE, ended_at)
        self._carry(steps, trades, totals_r)
        return {
            Record.STEPS: self._step_rows(steps),
            Record.FILLS: fills,
            Record.TRADES: trade_rows,
            Record.EPISODES_CLOSED: closings,
        }

    def close(
        self, lanes: Ints, episode_no: Ints, begun: Bools, ended_at: int, reason: EpisodeEnd
    ) -> dict[Record, Columns]:
        """End these lanes' episodes where they stand. `begun` (E',) says which have taken a step."""
        fresh = Totals.empty(len(lanes), self._kernel.initial_equity)
        totals = self._totals_E.take(lanes)
        for name in _TOTALS:
            setattr(totals, name, np.where(begun, getattr(totals, name), getattr(fresh, name)))
        low = np.where(begun, self._low_E[lanes], 1.0)
        ruined = np.zeros(len(lanes), np.bool_)
        rows = self._closing_rows(episode_no, totals, low, ruined, ended_at)
        rows["status"] = _words(EpisodeStatus.TRUNCATED).repeat(len(lanes))
        rows["end_reason"] = _words(reason).repeat(len(lanes))
        marked = lanes[begun & (self._units_E[lanes] != 0.0)]
        step_id, mark_bar = self._last_E[:, marked]
        trade_rows = self._trade_rows(
            self._trades_E.take(marked),
            step_id,
            mark_bar,
            self._units_E[marked],
            np.ones(len(marked), np.bool_),
            marked,
        )
        return {Record.TRADES: trade_rows, Record.EPISODES_CLOSED: rows}

    # --- steps and fills --------------------------------------------------------------------------------------

    def _step_rows(self, steps: Steps) -> Columns:
        time_us, close = self._kernel.bars.time_us, self._kernel.bars.close
        bar = steps["bar"]
        return {
            "step_id": steps["step_id"],
            "bar": bar,
            "decision_time": time_us.take(bar),
            "mark_time": time_us.take(bar + 1),
            "action": steps["action"],
            "target": steps["target"],
            "units": steps["units"],
            "fill_price": np.where(steps.filled, steps["price"], np.nan),
            "mark_price": close.take(bar + 1),
            "equity": steps["equity"],
            "reward": steps["reward"],
            "cost": steps["cost"],
        }

    def _group_fills(self, steps: Steps) -> tuple[Trades, Columns]:
        """Every fill, and the sums of every trade with what it carried in."""
        cell = np.flatnonzero(steps.leg_n2)
        step, slot = cell >> 1, cell & 1
        quantity, lane = steps.quantity_n2.reshape(-1).take(cell), steps.lane.take(step)
        size, reference = np.abs(quantity), steps["price"].take(step)
        rate = self._kernel.slippage_E.take(lane)
        price = reference * (1.0 + np.copysign(rate, quantity))
        notional = size * price
        slippage = rate * size * reference
        grows = (slot == 1) & (quantity * steps["units"].take(step) > 0.0)
        short = (quantity > 0.0) != grows
        group = np.where(slot == 1, steps.group_after.take(step), steps.group_before.take(step))
        trades = self._sum_trades(steps, group, ~grows, size, notional, slippage)
        fills = {
            "step_id": steps["step_id"].take(step),
            "leg": slot & steps.closed.take(step),
            "trade_no": trades.trade_no.take(group),
            "operation": OPERATIONS.take(2 * short + ~grows),
            "quantity": quantity,
            "price": price,
            "fee": self._kernel.fee_E.take(lane) * notional,
            "slippage": slippage,
        }
        return trades, fills

    def _sum_trades(
        self, steps: Steps, group: Ints, exits: Bools, size: Floats, notional: Floats, slippage: Floats
    ) -> Trades:
        count = steps.group_count
        sized = _sum_by(2 * group + exits, size, 2 * count)
        paid = _sum_by(2 * group + exits, notional, 2 * count)
        owner = steps.group_after if self._kernel.fill == "next_open" else steps.group_before
        trades = Trades(
            entered=sized[0::2].copy(),
            exited=sized[1::2].copy(),
            entry_notional=paid[0::2].copy(),
            exit_notional=paid[1::2].copy(),
            slippage=_sum_by(group, slippage, count),
            borrow=_sum_by(owner, steps["borrow"], count),
            **_no_facts(count),
        )
        self._add_carried(steps, trades)
        self._describe_opened(steps, trades)
        return trades

    def _add_carried(self, steps: Steps, trades: Trades) -> None:
        first = steps.first_group
        for name in _SUMS:
            getattr(trades, name)[first] += getattr(self._trades_E, name)
        for name in _FACTS:
            getattr(trades, name)[first] = getattr(self._trades_E, name)

    def _describe_opened(self, steps: Steps, trades: Trades) -> None:
        at = np.flatnonzero(steps.opened)
        group, run = steps.group_after.take(at), steps.run.take(at)
        carried_r = np.where(steps.first[steps.run_start], 0, self._totals_E.opened[steps.run_lane])
        trades.entry_step_id[group] = steps["step_id"].take(at)
        trades.entry_time[group] = self._kernel.bars.time_us.take(steps["bar"].take(at) + 1)
        trades.side[group] = np.where(steps.quantity_n2[at, 1] > 0.0, 1, -1)
        trades.trade_no[group] = np.arange(len(at)) - np.searchsorted(at, steps.run_start)[run] + carried_r[run]

    # --- trades that end --------------------------------------------------------------------------------------

    def _end_trades(self, steps: Steps, trades: Trades) -> tuple[tuple[Ints, Bools], Columns]:
        """((steps at which trades closed, won), rows of all trades that closed or were marked)."""
        closed, marked = np.flatnonzero(steps.closed), np.flatnonzero(steps.ended & (steps["units"] != 0.0))
        group = np.concatenate([steps.group_before[closed], steps.group_after[marked]])
        order = np.argsort(group, kind="stable")
        at, group = np.concatenate([closed, marked])[order], group[order]
        is_marked = (np.arange(len(order)) >= len(closed))[order]
        units = np.where(is_marked, steps["units"][at], 0.0)
        rows = self._trade_rows(
            trades.take(group), steps["step_id"][at], steps["bar"][at] + 1, units, is_marked, steps.lane[at]
        )
        return (at[~is_marked], rows["pnl"][~is_marked] > 0.0), rows

    def _trade_rows(
        self, trades: Trades, exit_step_id: Ints, mark_bar: Ints, units: Floats, is_marked: Bools, lane: Ints
    ) -> Columns:
        """Trades as rows; `units` still open count as left at the close of `mark_bar`, at no cost."""
        rest = np.abs(units)
        exited = trades.exited + rest
        exit_notional = trades.exit_notional + rest * self._kernel.bars.close[mark_bar]
        fees = self._kernel.fee_E[lane] * (trades.entry_notional + trades.exit_notional)
        return {
            "episode_no": trades.entry_step_id >> EPISODE_STEP_BITS,
            "trade_no": trades.trade_no,
            "direction": DIRECTIONS.take(trades.side < 0),
            "status": TRADE_STATES.take(is_marked),
            "entry_step_id": trades.entry_step_id,
            "exit_step_id": exit_step_id,
            "entry_time": trades.entry_time,
            "exit_time": self._kernel.bars.time_us[mark_bar],
            "entry_price": trades.entry_notional / trades.entered,
            "exit_price": exit_notional / exited,
            "quantity": trades.entered,
            "pnl": trades.side * (exit_notional - trades.entry_notional) - fees - trades.borrow,
            "fees": fees,
            "slippage": trades.slippage,
            "borrow": trades.borrow,
        }

    # --- episode totals ---------------------------------------------------------------------------------------

    def _sum_runs(self, steps: Steps, ended: tuple[Ints, Bools]) -> Totals:
        """Totals of each run's episode up to the run's last step."""
        start, run, runs = steps.run_start, steps.run, len(steps.run_start)
        before = self._totals_E.take(steps.run_lane)
        fresh = steps.first[start]
        for name in _TOTALS[:-1]:
            setattr(before, name, np.where(fresh, 0, getattr(before, name)))
        closed_at, won = ended
        count = np.diff(np.append(start, len(run)))
        mean, squares = self._moments(steps, before, count)
        return Totals(
            steps=before.steps + count,
            reward=before.reward + np.add.reduceat(steps["reward"], start),
            mean=mean,
            squares=squares,
            opened=before.opened + np.bincount(run.compress(steps.opened), minlength=runs),
            closed=before.closed + np.bincount(run.take(closed_at), minlength=runs),
            won=before.won + np.bincount(run.take(closed_at.compress(won)), minlength=runs),
            equity=steps["equity"][steps.run_end],
        )

    def _moments(self, steps: Steps, before: Totals, count: Ints) -> tuple[Floats, Floats]:
        """Mean and squared deviations of the returns, joined with those before (Chan, Golub and LeVeque 1979)."""
        equity, start = steps["equity"], steps.run_start
        previous = np.empty_like(equity)
        previous[1:] = equity[:-1]
        previous[start] = np.where(steps.first[start], self._kernel.initial_equity, before.equity)
        returns = equity / previous - 1.0
        mean = np.add.reduceat(returns, start) / count
        squares = np.add.reduceat((returns - mean.take(steps.run)) ** 2, start)
        total, delta = before.steps + count, mean - before.mean
        return (
            before.mean + delta * count / total,
            before.squares + squares + delta**2 * before.steps * count / total,
        )

    def _track_drawdown(self, columns_TE: Columns) -> Floats:
        """(T, E) the lowest equity / peak of each episode so far; the start counts as a peak."""
        first_TE = columns_TE["active"] & ((columns_TE["step_id"] & STEP_MASK) == 0)
        equity_TE, low_TE = columns_TE["equity"], np.empty_like(columns_TE["equity"])
        begins = np.flatnonzero(first_TE.any(axis=1)).tolist()
        for start, stop in pairwise(dict.fromkeys([0, *begins, len(equity_TE)])):
            self._peak_E[first_TE[start]], self._low_E[first_TE[start]] = self._kernel.initial_equity, 1.0
            peak_TE = np.maximum.accumulate(np.vstack([self._peak_E, equity_TE[start:stop]]))
            low_TE[start:stop] = equity_TE[start:stop] / peak_TE[1:]
            np.minimum(self._low_E, low_TE[start], out=low_TE[start])
            np.minimum.accumulate(low_TE[start:stop], out=low_TE[start:stop])
            self._peak_E, self._low_E = peak_TE[-1], low_TE[stop - 1].copy()
        return low_TE

    def _close_runs(
        self, steps: Steps, totals_r: Totals, low_TE: Floats, columns_TE: Columns, ended_at: int
    ) -> Columns:
        at = np.flatnonzero(steps.ended)
        ended_ET = ((columns_TE["terminated"] | columns_TE["truncated"]) & columns_TE["active"]).T
        ruined = steps["terminated"][at]
        episode_no = steps["step_id"][at] >> EPISODE_STEP_BITS
        rows = self._closing_rows(episode_no, totals_r.take(steps.run[at]), low_TE.T[ended_ET], ruined, ended_at)
        rows["status"] = _words(EpisodeStatus.COMPLETED).repeat(len(at))
        rows["end_reason"] = ENV_ENDS[ruined.astype(np.intp)]
        return rows

    def _closing_rows(self, episode_no: Ints, totals: Totals, low: Floats, ruined: Bools, ended_at: int) -> Columns:
        return {
            "episode_no": episode_no,
            "ended_at": np.full(len(episode_no), ended_at, np.int64),
            "final_equity": totals.equity,
            "pnl": totals.equity - self._kernel.initial_equity,
            "total_reward": totals.reward,
            "total_steps": totals.steps,
            "sharpe": totals.sharpe(self._kernel.periods_per_year),
            "max_drawdown": 1.0 - low,
            "trades": totals.closed,
            "win_rate": totals.win_rate(),
            "ruined": ruined.astype(np.int64),
        }

    def _carry(self, steps: Steps, trades: Trades, totals_r: Totals) -> None:
        self._trades_E = trades.take(steps.last_group)
        ran = np.flatnonzero(steps.lane_steps)
        last = np.cumsum(steps.lane_steps)[ran] - 1
        for name in _TOTALS:
            getattr(self._totals_E, name)[ran] = getattr(totals_r, name)[steps.run[last]]
        self._last_E[:, ran] = steps["step_id"][last], steps["bar"][last] + 1
        self._units_E[ran] = steps["units"][last]


def _sum_by(group: Ints, values: Floats, count: int) -> Floats:
    """(count,) sums of the values of each group; of no values, bincount would give integers."""
    return np.bincount(group, weights=values, minlength=count).astype(np.float64, copy=False)
