"""The accounting kernel: the environment page's equations, batched over lanes, in float64.

Every step runs the same few dozen array operations for all lanes; nothing loops over lanes. Three identities keep
it short. c_buy = m + h and c_sell = m - h with m = s + f and h = s f, so a leg of notional D costs
D (sign(D) m + h), which is |D| c. The closing leg of a lane that closes nothing is a leg of zero. After the
closing leg V is the old V less that leg's cost.

At a few lanes a step costs what its calls cost, whatever they compute. So operations are called `op(a, b, into)`,
constants are arrays (NumPy converts a Python number each time), and steps in which no target changes trade nothing.

Legend: E lanes, N bars; t is the bar of the decision, j = t + 1 the bar of the mark; a lane runs bars [start, stop).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from numpy import (
    add,
    copysign,
    copyto,
    count_nonzero,
    divide,
    equal,
    greater,
    less_equal,
    log,
    logical_and,
    maximum,
    minimum,
    multiply,
    negative,
    not_equal,
    putmask,
    subtract,
)
from numpy.typing import NDArray

from tradesweep.env.rows import Bools, Floats, Ints, StepRow, build_block

if TYPE_CHECKING:
    from tradesweep.market import Bars

Fill = Literal["next_open", "next_close"]
BPS = 1e-4
REWARD_FLOOR = 1e-3
"""The log reward sees at least this fraction of the starting equity: it is finite after any gap."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Costs:
    """What trading costs; `multiplier` scales all three (a stress run has 2.0)."""

    fee_bps: float
    """Fee of each leg, basis points of its slipped notional."""
    slippage_bps: float
    """Slippage of each leg, basis points of the reference price."""
    borrow_bps_per_year: float
    """Charge on the value of a short position, basis points a year."""
    multiplier: float = 1.0
    """Factor on all of them."""

    @property
    def fee(self) -> float:
        """f: fee as a fraction."""
        return self.fee_bps * BPS * self.multiplier

    @property
    def slippage(self) -> float:
        """s: slippage as a fraction."""
        return self.slippage_bps * BPS * self.multiplier

    def borrow(self, periods_per_year: float) -> float:
        """B: borrow charge of one bar as a fraction."""
        return self.borrow_bps_per_year * BPS * self.multiplier / periods_per_year


class StepLog(Protocol):
    """Where a kernel writes its rows: the tape."""

    def bind(self, kernel: Kernel) -> None:
        """Get ready for the rows of this kernel."""

    def next_row(self) -> StepRow:
        """The row that the coming step is written into."""

    def commit(self) -> None:
        """The row is written."""

    def open_episodes(self, lanes: Ints, start_bar: Ints) -> None:
        """These lanes begin an episode."""

    def close_episodes(self, lanes: Ints) -> None:
        """These lanes' running episodes end where they stand."""


class Kernel:
    """Cash, units and equity of E lanes.

    State arrays (`cash_E`, `units_E`, `target_E`, `equity_E`, `trade_equity_E`, `bar_E`, `done_E`) are valid until
    the next `step` or `reset`; read them, never write them. A lane that was never reset, or that ended, is done:
    it stands still until its next reset.
    """

    equity_E: Floats
    units_E: Floats
    target_E: Floats
    done_E: Bools
    equity_before_E: Floats

    def __init__(
        self,
        bars: Bars,
        *,
        costs: Costs | Sequence[Costs],
        fill: Fill,
        lanes: int,
        initial_equity: float,
        ruin_fraction: float,
        periods_per_year: float,
        extra_delay_bars: int = 0,
    ) -> None:
        self.bars = bars
        self.fill = fill
        self.lanes = lanes
        self.initial_equity = initial_equity
        self.ruin_equity = ruin_fraction * initial_equity
        self.periods_per_year = periods_per_year
        self.costs = (costs,) * lanes if isinstance(costs, Costs) else tuple(costs)
        assert len(self.costs) == lanes, f"one Costs per lane: {lanes} lanes, {len(self.costs)} costs"
        self._advance = {"next_open": self._advance_next_open, "next_close": self._advance_next_close}[fill]
        self._set_costs()
        self._prices_2N = np.ascontiguousarray(np.stack([bars.open, bars.close]))
        self._all_tradable = bool(np.all(bars.tradable))
        self._log: StepLog | None = None
        self._spare_rows = build_block(2, lanes).rows
        self._delayed_dE = np.zeros((extra_delay_bars, lanes))
        self._allocate_state()
        self._allocate_scratch()

    # --- what a caller does -----------------------------------------------------------------------------------

    def record_to(self, log: StepLog | None) -> None:
        """Write into `log` from now on. All lanes stop until their next reset: an episode has one log, or none."""
        self._close_running(~self.done_E)
        self.done_E = np.ones(self.lanes, np.bool_)
        self.any_done = True
        self._log = log
        if log is not None:
            log.bind(self)

    def reset(self, lanes_E: Bools, start_E: Ints, stop_E: Ints) -> None:
        """Lanes where `lanes_E` is True begin an episode over the bars [start, stop): flat, at `initial_equity`.

        Shapes (E,); start and stop elsewhere are not read. `stop - start` is at least 2: one decision, one mark.
        """
        lanes = np.flatnonzero(lanes_E)
        self._close_running(lanes_E & ~self.done_E)
        for array, value in ((self.cash_E, self.initial_equity), (self.trade_equity_E, self.initial_equity)):
            array[lanes] = value
        self.bar_E[lanes] = self.start_E[lanes] = start_E[lanes]
        self._last_bar_E[lanes] = np.asarray(stop_E)[lanes] - 1
        self.open_bar_E[lanes] = 0
        self._delayed_dE[:, lanes] = 0.0
        self.equity_E = _replaced(self.equity_E, lanes, self.initial_equity)
        self.units_E = _replaced(self.units_E, lanes, 0.0)
        self.target_E = _replaced(self.target_E, lanes, 0.0)
        self.done_E = _replaced(self.done_E, lanes, False)
        self.any_done = bool(self.done_E.any())
        self._rows_left = int(np.min(self._last_bar_E - self.bar_E, where=~self.done_E, initial=np.iinfo(int).max))
        if self._log is not None:
            self._log.open_episodes(lanes, self.bar_E[lanes])

    def step(self, targets_E: Floats, active_E: Bools | None = None, *, actions_E: Ints | None = None) -> StepRow:
        """Decide `targets_E` (E,) after the close of `bar_E` and run every lane that is active and not done.

        `actions_E` are the indices that stand for the targets in the rows. The row is valid until the next step.
        """
        row = self._next_row()
        row.bar[:] = self.bar_E
        row.action[:] = -1 if actions_E is None else actions_E
        idle_E = self._idle(active_E)
        if idle_E is None:
            self._run_all(row, targets_E)
        else:
            self._run_some(row, targets_E, idle_E)
        if self._log is not None:
            self._log.commit()
        return row

    @property
    def step_E(self) -> Ints:
        """(E,) t of the next step, counted from 0 in each episode."""
        return self.bar_E - self.start_E

    @property
    def bars_in_trade_E(self) -> Ints:
        """(E,) bars since the bar in which the open trade filled, 0 where flat."""
        return np.asarray((self.bar_E - self.open_bar_E) * (self.units_E != 0.0))

    # --- set-up -----------------------------------------------------------------------------------------------

    def _set_costs(self) -> None:
        self.fee_E = np.array([costs.fee for costs in self.costs])
        self.slippage_E = np.array([costs.slippage for costs in self.costs])
        self.borrow_E = np.array([costs.borrow(self.periods_per_year) for costs in self.costs])
        self._mean_cost_E = self.slippage_E + self.fee_E
        self._half_spread_E = self.slippage_E * self.fee_E
        self._minus_borrow_E = -self.borrow_E
        self._ruin_E = np.full(self.lanes, self.ruin_equity)
        self._floor_E = np.full(self.lanes, REWARD_FLOOR * self.initial_equity)

    def _allocate_state(self) -> None:
        lanes = self.lanes
        self.cash_E: Floats = np.full(lanes, self.initial_equity)
        self.equity_E = np.full(lanes, self.initial_equity)
        self.equity_before_E = self.equity_E
        self.units_E = np.zeros(lanes)
        self.target_E = np.zeros(lanes)
        self.trade_equity_E: Floats = np.full(lanes, self.initial_equity)
        self.bar_E: Ints = np.zeros(lanes, np.int64)
        self.start_E: Ints = np.zeros(lanes, np.int64)
        self.done_E = np.ones(lanes, np.bool_)
        self.any_done = True
        self._last_bar_E: Ints = np.ones(lanes, np.int64)
        self.open_bar_E: Ints = np.zeros(lanes, np.int64)
        self._rows_left = 0  # until some lane is at its last bar; 0 and less: look
        self._spare = 0

    def _allocate_scratch(self) -> None:
        lanes = self.lanes
        self._prices_2E: Floats = np.zeros((2, lanes))
        self._fill_E, self._mark_E = self._prices_2E
        self._value_E, self._held_E, self._leg_E, self._paid_E = np.zeros((4, lanes))
        self._rate_E, self._denominator_E = np.zeros((2, lanes))
        self._crosses_E, self._same_E, self._mask_E, self._last_E = np.zeros((4, lanes), np.bool_)
        self._zero_E, self._one_E, self._next_E = np.zeros(lanes), np.ones(lanes), np.ones(lanes, np.int64)

    def _next_row(self) -> StepRow:
        if self._log is not None:
            return self._log.next_row()
        self._spare ^= 1
        return self._spare_rows[self._spare]

    def _close_running(self, lanes_E: Bools) -> None:
        if self._log is not None and lanes_E.any():
            self._log.close_episodes(np.flatnonzero(lanes_E))

    # --- which lanes run --------------------------------------------------------------------------------------

    def _idle(self, active_E: Bools | None) -> Bools | None:
        """The lanes that stand still; None when all run."""
        if active_E is None:
            return self.done_E.copy() if self.any_done else None
        idle_E = ~np.asarray(active_E) | self.done_E
        return idle_E if idle_E.any() else None

    def _run_all(self, row: StepRow, targets_E: Floats) -> None:
        row.target[:] = targets_E
        if len(self._delayed_dE):
            self._delay(row.target)
        row.active.fill(True)
        row.truncated.fill(False)
        self._rows_left -= 1
        self._advance(row)
        self._finish(row)
        if self._rows_left <= 0 or count_nonzero(row.terminated):
            self._end(row)

    def _run_some(self, row: StepRow, targets_E: Floats, idle_E: Bools) -> None:
        """Run all lanes, then put the idle ones back: simpler and faster than to gather the others."""
        kept = (self.cash_E, self.trade_equity_E, self.open_bar_E, self.bar_E, self._delayed_dE)
        copies = [array.copy() for array in kept]
        units_E, target_E, equity_E, done_E = self.units_E, self.target_E, self.equity_E, self.done_E
        self._rows_left = 0
        with np.errstate(divide="ignore", invalid="ignore"):
            self._run_all(row, np.where(idle_E, target_E, targets_E))
        for array, copy in zip(kept, copies, strict=True):
            np.copyto(array, copy, where=idle_E)
        for into, before in ((row.units, units_E), (row.target, target_E), (row.equity, equity_E)):
            np.copyto(into, before, where=idle_E)
        for zeroed in (row.reward, row.cost, row.borrow, row.quantity, row.terminated, row.truncated):
            np.copyto(zeroed, False, where=idle_E)
        np.logical_not(idle_E, out=row.active)
        self.done_E = row.terminated | row.truncated | (idle_E & done_E)
        self.any_done = bool(self.done_E.any())

    def _delay(self, want_E: Floats) -> None:
        """extra_delay_bars d: use the target decided d steps ago, 0 for the first d steps."""
        decided_E = want_E.copy()
        want_E[:] = self._delayed_dE[0]
        self._delayed_dE[:-1] = self._delayed_dE[1:]
        self._delayed_dE[-1] = decided_E

    # --- one step ---------------------------------------------------------------------------------------------

    def _advance_next_open(self, row: StepRow) -> None:
        self._take_prices()
        row.price[:] = self._fill_E
        self._value_lanes(self._fill_E)
        if count_nonzero(self._mask_E):
            putmask(row.target, self._mask_E, self._zero_E)
        self._keep_where_untradable(row.target)
        self._trade(row, self._fill_E)
        self._charge_borrow(row, row.units)

    def _advance_next_close(self, row: StepRow) -> None:
        self._take_prices()
        row.price[:] = self._mark_E
        self._charge_borrow(row, self.units_E)
        self._value_lanes(self._mark_E)
        if self._rows_left <= 0:
            equal(self.bar_E, self._last_bar_E, self._last_E)
            np.logical_or(self._mask_E, self._last_E, self._mask_E)
        if count_nonzero(self._mask_E):
            putmask(row.target, self._mask_E, self.target_E)
        self._keep_where_untradable(row.target)
        self._trade(row, self._mark_E)

    def _take_prices(self) -> None:
        """Go on to bar j and read its open and close. A lane that is done may stand at the end: hence clip."""
        add(self.bar_E, self._next_E, self.bar_E)
        self._prices_2N.take(self.bar_E, 1, self._prices_2E, "clip")

    def _value_lanes(self, price_E: Floats) -> None:
        """`_held_E` becomes u p, `_value_E` V = M + u p, `_mask_E` V <= R."""
        multiply(self.units_E, price_E, self._held_E)
        add(self.cash_E, self._held_E, self._value_E)
        less_equal(self._value_E, self._ruin_E, self._mask_E)

    def _keep_where_untradable(self, want_E: Floats) -> None:
        if not self._all_tradable:
            tradable_E = self.bars.tradable.take(self.bar_E, mode="clip")
            copyto(want_E, self.target_E, where=~tradable_E)

    def _charge_borrow(self, row: StepRow, units_E: Floats) -> None:
        """M -= B max(-u, 0) C_j."""
        minimum(units_E, self._zero_E, out=row.borrow)
        multiply(row.borrow, self._mark_E, row.borrow)
        multiply(row.borrow, self._minus_borrow_E, row.borrow)
        subtract(self.cash_E, row.borrow, self.cash_E)

    def _trade(self, row: StepRow, price_E: Floats) -> None:
        """trade(p, k) for all lanes, with k in `row.target`; `_held_E` is u p and `_value_E` is V = M + u p."""
        equal(row.target, self.target_E, self._same_E)
        if count_nonzero(self._same_E) == self.lanes:
            self._hold(row)
            return
        closing_E, opening_E = row.quantity
        self._find_crossings(row.target)
        self._close(closing_E)
        self._note_opening(row.target)
        self._resize(row.target)
        divide(self._leg_E, price_E, opening_E)
        add(self.units_E, closing_E, row.units)
        add(row.units, opening_E, row.units)

    def _hold(self, row: StepRow) -> None:
        """No lane has another target: nobody trades."""
        row.quantity.fill(0.0)
        row.units[:] = self.units_E
        self._paid_E.fill(0.0)

    def _find_crossings(self, want_E: Floats) -> None:
        """Where the target changes and k u <= 0: whatever is open closes first."""
        multiply(want_E, self.units_E, self._rate_E)
        less_equal(self._rate_E, self._zero_E, self._crosses_E)
        greater(self._crosses_E, self._same_E, self._crosses_E)

    def _close(self, closing_E: Floats) -> None:
        """Leg 0, where k u <= 0: sell or cover everything. Afterwards `_held_E` is 0 there and V has paid."""
        leg_E, rate_E = self._leg_E, self._rate_E
        rate_E[:] = self._crosses_E
        negative(rate_E, rate_E)
        multiply(self.units_E, rate_E, closing_E)
        multiply(self._held_E, rate_E, leg_E)
        add(self._held_E, leg_E, self._held_E)
        subtract(self.cash_E, leg_E, self.cash_E)
        copysign(self._mean_cost_E, leg_E, rate_E)
        add(rate_E, self._half_spread_E, rate_E)
        multiply(leg_E, rate_E, self._paid_E)
        subtract(self._value_E, self._paid_E, self._value_E)

    def _note_opening(self, want_E: Floats) -> None:
        """Where flat lanes open a position: V just before that leg, and the bar of the fill."""
        not_equal(want_E, self._zero_E, self._mask_E)
        logical_and(self._mask_E, self._crosses_E, self._mask_E)
        putmask(self.trade_equity_E, self._mask_E, self._value_E)
        putmask(self.open_bar_E, self._mask_E, self.bar_E)

    def _resize(self, want_E: Floats) -> None:
        """Leg 1: x = k V - u p, D = x / (1 + k sign(x) c), sized after its own costs; `_leg_E` becomes D."""
        leg_E, rate_E = self._leg_E, self._rate_E
        multiply(want_E, self._value_E, leg_E)
        subtract(leg_E, self._held_E, leg_E)
        putmask(leg_E, self._same_E, self._zero_E)
        copysign(self._mean_cost_E, leg_E, rate_E)
        add(rate_E, self._half_spread_E, rate_E)
        multiply(want_E, rate_E, self._denominator_E)
        add(self._denominator_E, self._one_E, self._denominator_E)
        divide(leg_E, self._denominator_E, leg_E)
        multiply(leg_E, rate_E, rate_E)
        add(self._paid_E, rate_E, self._paid_E)
        subtract(self.cash_E, leg_E, self.cash_E)
        subtract(self.cash_E, self._paid_E, self.cash_E)

    def _finish(self, row: StepRow) -> None:
        """Mark at the close of j: equity, cost, log reward, ruin."""
        add(self._paid_E, row.borrow, row.cost)
        multiply(row.units, self._mark_E, self._held_E)
        add(self.cash_E, self._held_E, row.equity)
        maximum(row.equity, self._floor_E, out=row.reward)
        divide(row.reward, self.equity_E, row.reward)
        log(row.reward, row.reward)
        less_equal(row.equity, self._ruin_E, row.terminated)
        self.equity_before_E = self.equity_E
        self.equity_E, self.units_E, self.target_E = row.equity, row.units, row.target

    def _end(self, row: StepRow) -> None:
        """Some lanes are ruined or at their last bar."""
        equal(self.bar_E, self._last_bar_E, row.truncated)
        greater(row.truncated, row.terminated, row.truncated)
        self.done_E = np.logical_or(row.terminated, row.truncated)
        self.any_done = bool(count_nonzero(self.done_E))


def _replaced(array: NDArray[Any], lanes: Ints, value: float) -> NDArray[Any]:
    """A copy with new values in some lanes: the array itself may be a row that is recorded."""
    copy = array.copy()
    copy[lanes] = value
    return copy
