"""The environment page's equations, one lane after the other: what `Kernel.step` runs, and an evaluation's loop.

`account` is a lane's record of `ACCOUNT` (kernel.py), `cell` what it leaves in one step, a record of `CELL` (rows.py).

Legend: E lanes, N bars, d bars of delay; t is the bar of the decision, j = t + 1 the bar of the mark.
"""

from __future__ import annotations

from math import log
from typing import Any

from tradesweep.env.compiled import compiled
from tradesweep.env.rows import Bools, Floats


@compiled
def step_lanes(
    accounts_E: Any,
    opens_N: Floats,
    closes_N: Floats,
    tradable_N: Bools,
    delayed_dE: Floats,
    at_close: bool,
    cells_E: Any,
) -> int:
    """Run all lanes that are neither done nor inactive; returns how many are done then.

    The cells come with `active`, `action` and the decision as `target`, and go with all that the step did.
    """
    done = 0
    for lane in range(len(accounts_E)):
        account, cell = accounts_E[lane], cells_E[lane]
        cell.bar = account.bar
        cell.quantity[0] = cell.quantity[1] = cell.cost = 0.0
        cell.active = cell.active and not account.done
        if cell.active:
            want, j = delay(delayed_dE, lane, cell.target), account.bar + 1
            run_bar(account, cell, opens_N[j], closes_N[j], tradable_N[j], at_close, want)
        else:
            stand_still(account, cell, closes_N[account.bar])
        done += account.done
    return done


@compiled
def delay(delayed_dE: Floats, lane: int, decided: float) -> float:
    """The target decided d steps ago, 0 for the first d steps."""
    used = decided
    for row in range(len(delayed_dE) - 1, -1, -1):
        used, delayed_dE[row, lane] = delayed_dE[row, lane], used
    return used


@compiled
def run_bar(account: Any, cell: Any, opened: float, close: float, tradable: bool, at_close: bool, want: float) -> None:
    """One step: go on to bar j, fill, mark."""
    account.bar += 1
    cell.price = close if at_close else opened
    if at_close:
        charge_borrow(account, cell, close)
        if tradable and account.bar < account.last_bar and account.cash + account.units * close > account.ruin:
            trade(account, cell, close, want)
    else:
        if tradable:
            trade(account, cell, opened, want)
        charge_borrow(account, cell, close)
    mark(account, cell, close)


@compiled
def trade(account: Any, cell: Any, price: float, want: float) -> None:
    """trade(p, k): bring the position to target k at reference price p; below the ruin line to 0."""
    if account.cash + account.units * price <= account.ruin:
        want = 0.0
    if want == account.target:
        return
    if account.units != 0.0 and want * account.units <= 0.0:
        close_position(account, cell, price)
    if want != 0.0:
        resize(account, cell, price, want)
    account.target = want


@compiled
def close_position(account: Any, cell: Any, price: float) -> None:
    """Leg 0: sell or cover everything."""
    held = account.units * price
    cost = abs(held) * (account.sell_cost if account.units > 0.0 else account.buy_cost)
    account.cash += held - cost
    cell.cost += cost
    cell.quantity[0] = -account.units
    account.units = 0.0


@compiled
def resize(account: Any, cell: Any, price: float, want: float) -> None:
    """Leg 1: x = k V - u p, D = x / (1 + k sign(x) c), sized after its own costs."""
    held = account.units * price
    value = account.cash + held
    if account.units == 0.0:
        account.trade_equity, account.open_bar = value, account.bar
    wanted = want * value - held
    rate = account.buy_cost if wanted > 0.0 else -account.sell_cost
    traded = wanted / (1.0 + want * rate)
    account.cash -= traded + traded * rate
    cell.cost += traded * rate
    cell.quantity[1] = traded / price
    account.units += cell.quantity[1]


@compiled
def charge_borrow(account: Any, cell: Any, close: float) -> None:
    """M -= B max(-u, 0) C_j."""
    cell.borrow = account.borrow * max(-account.units, 0.0) * close
    cell.cost += cell.borrow
    account.cash -= cell.borrow


@compiled
def mark(account: Any, cell: Any, close: float) -> None:
    """E_j = M + u C_j, the log reward, and whether the episode ends here."""
    account.equity_before = account.equity
    account.equity = account.cash + account.units * close
    cell.reward = log(max(account.equity, account.floor) / account.equity_before)
    cell.terminated = account.equity <= account.ruin
    cell.truncated = account.bar == account.last_bar and not cell.terminated
    account.done = cell.terminated or cell.truncated
    note_state(account, cell)


@compiled
def stand_still(account: Any, cell: Any, close: float) -> None:
    """A step in which the lane does not run: its state once more, and nothing that moved."""
    account.equity_before = account.equity
    cell.price = close
    cell.reward = cell.borrow = 0.0
    cell.terminated = cell.truncated = False
    note_state(account, cell)


@compiled
def note_state(account: Any, cell: Any) -> None:
    """Target, units and equity after the step."""
    cell.target, cell.units, cell.equity = account.target, account.units, account.equity
