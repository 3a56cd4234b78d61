"""The accounting kernel: E lanes that run the environment page's equations, in float64.

What a step does is in `equations.py`, compiled, lane by lane. Here is who runs, from where to where, and what is known
of a lane afterwards.

Legend: E lanes, N bars; t is the bar of the decision, j = t + 1 the bar of the mark; a lane runs bars [start, stop).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from tradesweep.env.rows import Bools, Floats, Ints, StepBlock, StepRow, read_only

if TYPE_CHECKING:
    from tradesweep.market import Bars

Fill = Literal["next_open", "next_close"]
BPS = 1e-4
REWARD_FLOOR = 1e-3
"""The log reward sees at least this fraction of the starting equity: it is finite after any gap."""


ACCOUNT = np.dtype(
    [
        *((name, np.float64) for name in ("cash", "units", "target", "equity", "equity_before", "trade_equity")),
        *((name, np.int64) for name in ("bar", "start", "last_bar", "open_bar")),
        *((name, np.float64) for name in ("buy_cost", "sell_cost", "borrow", "ruin", "floor")),
        ("done", np.bool_),
    ],
    align=True,
)
"""What a kernel knows of one lane: M, u, g, E_j, E_t and V; where it stands, began, ends, and its open trade filled;
c_buy, c_sell, B, R and what the log reward sees at least; and whether it is done."""


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

    def next_cells(self, count: int) -> NDArray[Any]:
        """(T, E) the cells that the coming `count` steps are written into."""

    def commit(self, count: int = 1) -> None:
        """So many rows are written."""

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
        from tradesweep.env.equations import step_lanes

        self.bars = bars
        self.fill = fill
        self.lanes = lanes
        self.initial_equity = initial_equity
        self.ruin_equity = ruin_fraction * initial_equity
        self.periods_per_year = periods_per_year
        self.costs = (costs,) * lanes if isinstance(costs, Costs) else tuple(costs)
        assert len(self.costs) == lanes, f"one Costs per lane: {lanes} lanes, {len(self.costs)} costs"
        self._step_lanes: Any = step_lanes
        self._log: StepLog | None = None
        self._spare_row = StepBlock(1, lanes).row(0)
        self._delayed_dE = np.zeros((extra_delay_bars, lanes))
        self._open_accounts()
        self._set_costs()
        self._world: tuple[Any, ...] = (
            self.accounts_E,
            *(read_only(prices_N, np.float64) for prices_N in (bars.open, bars.close)),
            read_only(bars.tradable, np.bool_),
            self._delayed_dE,
            fill == "next_close",
        )

    # --- what a caller does -----------------------------------------------------------------------------------

    def record_to(self, log: StepLog | None) -> None:
        """Write into `log` from now on. All lanes stop until their next reset: an episode has one log, or none."""
        self._close_running(~self.done_E)
        self.done_E[:] = self.any_done = True
        self._log = log
        if log is not None:
            log.bind(self)

    def reset(self, lanes_E: Bools, start_E: Ints, stop_E: Ints) -> None:
        """Lanes where `lanes_E` is True begin an episode over the bars [start, stop): flat, at `initial_equity`.

        Shapes (E,); start and stop elsewhere are not read. `stop - start` is at least 2: one decision, one mark.
        """
        lanes = np.flatnonzero(lanes_E)
        first, last = start_E[lanes], stop_E[lanes] - 1
        assert np.all((first >= 0) & (first < last) & (last < len(self.bars))), "an episode runs over bars there are"
        self._close_running(lanes_E & ~self.done_E)
        self.cash_E[lanes] = self.equity_E[lanes] = self.trade_equity_E[lanes] = self.initial_equity
        self.units_E[lanes] = self.target_E[lanes] = self._delayed_dE[:, lanes] = 0.0
        self.bar_E[lanes] = self.start_E[lanes] = first
        self.accounts_E["last_bar"][lanes] = last
        self.open_bar_E[lanes] = 0
        self.done_E[lanes] = False
        self.any_done = bool(self.done_E.any())
        if self._log is not None:
            self._log.open_episodes(lanes, self.bar_E[lanes])

    def step(self, targets_E: Floats, active_E: Bools | None = None, *, actions_E: Ints | None = None) -> StepRow:
        """Decide `targets_E` (E,) after the close of `bar_E` and run every lane that is active and not done.

        `actions_E` are the indices that stand for the targets in the rows. The row is valid until the next step.
        """
        row = self._spare_row if self._log is None else self._log.next_row()
        row.target[:] = targets_E
        row.action[:] = -1 if actions_E is None else actions_E
        row.active[:] = True if active_E is None else active_E
        self.any_done = self._step_lanes(*self._world, row.cells_E) > 0
        if self._log is not None:
            self._log.commit()
        return row

    def run(self, loop: Callable[..., int], bars: int, *rest: Any) -> int:
        """Let a compiled loop decide and step, for so many bars at most; returns how many it went through.

        It is called with what `step_lanes` gets, but cells (bars, E) of all those bars, and the rest; it has to run
        `step_lanes` once for each row. There must be a log.
        """
        assert self._log is not None, "a loop writes into a log"
        ran = loop(*self._world, self._log.next_cells(bars), *rest)
        self.any_done = bool(self.done_E.any())
        self._log.commit(ran)
        return ran

    @property
    def step_E(self) -> Ints:
        """(E,) t of the next step, counted from 0 in each episode."""
        return self.bar_E - self.start_E

    @property
    def bars_in_trade_E(self) -> Ints:
        """(E,) bars since the bar in which the open trade filled, 0 where flat."""
        return np.asarray((self.bar_E - self.open_bar_E) * (self.units_E != 0.0))

    # --- set-up -----------------------------------------------------------------------------------------------

    def _open_accounts(self) -> None:
        """One record a lane; what a caller reads are its fields."""
        accounts_E: NDArray[Any] = np.zeros(self.lanes, ACCOUNT)
        for name in ("cash", "equity", "equity_before", "trade_equity"):
            accounts_E[name] = self.initial_equity
        accounts_E["last_bar"], accounts_E["done"] = 1, True
        self.accounts_E, self.any_done = accounts_E, True
        self.cash_E: Floats = accounts_E["cash"]
        self.units_E: Floats = accounts_E["units"]
        self.target_E: Floats = accounts_E["target"]
        self.equity_E: Floats = accounts_E["equity"]
        self.equity_before_E: Floats = accounts_E["equity_before"]
        self.trade_equity_E: Floats = accounts_E["trade_equity"]
        self.bar_E: Ints = accounts_E["bar"]
        self.start_E: Ints = accounts_E["start"]
        self.open_bar_E: Ints = accounts_E["open_bar"]
        self.done_E: Bools = accounts_E["done"]

    def _set_costs(self) -> None:
        self.fee_E = np.array([costs.fee for costs in self.costs])
        self.slippage_E = np.array([costs.slippage for costs in self.costs])
        self.borrow_E = np.array([costs.borrow(self.periods_per_year) for costs in self.costs])
        accounts_E = self.accounts_E
        accounts_E["buy_cost"] = self.slippage_E + self.fee_E + self.slippage_E * self.fee_E
        accounts_E["sell_cost"] = self.slippage_E + self.fee_E - self.slippage_E * self.fee_E
        accounts_E["borrow"] = self.borrow_E
        accounts_E["ruin"], accounts_E["floor"] = self.ruin_equity, REWARD_FLOOR * self.initial_equity

    def _close_running(self, lanes_E: Bools) -> None:
        if self._log is not None and lanes_E.any():
            self._log.close_episodes(np.flatnonzero(lanes_E))
