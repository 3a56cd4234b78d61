"""StepRow: what one step of all lanes left behind, and the arrays it is written into.

Legend: T steps, E lanes, leg 0 closes a position, leg 1 opens or resizes one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

FLOAT_COLUMNS = ("target", "units", "equity", "reward", "cost", "borrow", "price")
INT_COLUMNS = ("bar", "action")
BOOL_COLUMNS = ("active", "terminated", "truncated")


@dataclass(kw_only=True, slots=True)
class StepRow:
    """One step of E lanes: views that the next steps overwrite, so copy what you keep.

    A lane that did not run (`active` False) repeats its state, with zeros for reward, cost and quantities.
    """

    active: Bools
    """(E,) the lanes that ran."""
    bar: Ints
    """(E,) bar t of the decision; the mark is at the close of t + 1."""
    action: Ints
    """(E,) index of the decision, -1 where the caller gave targets alone."""
    target: Floats
    """(E,) target g after the step."""
    units: Floats
    """(E,) units u after the step."""
    equity: Floats
    """(E,) equity E_j at the close of t + 1."""
    reward: Floats
    """(E,) log reward, or what the reward part put in its place; unscaled."""
    cost: Floats
    """(E,) fees, slippage and borrow of the step."""
    borrow: Floats
    """(E,) borrow charge of the step, contained in `cost`."""
    price: Floats
    """(E,) reference price at which a trade of this step fills, also where nothing fills."""
    quantity: Floats
    """(2, E) signed units filled: leg 0 closes, leg 1 opens or resizes; 0.0 where there is no leg."""
    terminated: Bools
    """(E,) ruined by this step."""
    truncated: Bools
    """(E,) this step was marked at the last bar."""

    @property
    def mark_bar(self) -> Ints:
        """(E,) bar j = t + 1 at whose close the step is marked."""
        return self.bar + 1

    @property
    def leg_mask(self) -> Bools:
        """(2, E) True where a leg filled."""
        return np.asarray(self.quantity != 0.0)

    @property
    def fill_price(self) -> Floats:
        """(E,) reference price of the step's fills, NaN where nothing filled."""
        return np.where(self.leg_mask.any(axis=0), self.price, np.nan)


@dataclass(kw_only=True, slots=True)
class StepBlock:
    """(T, E) columns of T steps, with one ready `StepRow` of views per step."""

    columns: dict[str, NDArray[np.generic]]
    """Column name to (T, E) array; `quantity` is (T, 2, E)."""
    rows: list[StepRow]
    """T rows of views into the columns."""


def build_block(steps: int, lanes: int) -> StepBlock:
    """Allocate the columns of `steps` steps of `lanes` lanes."""
    kinds = ((FLOAT_COLUMNS, np.float64), (INT_COLUMNS, np.int64), (BOOL_COLUMNS, np.bool_))
    columns: dict[str, NDArray[np.generic]] = {
        name: np.zeros((steps, lanes), dtype) for names, dtype in kinds for name in names
    }
    columns["quantity"] = np.zeros((steps, 2, lanes))
    rows = [StepRow(**dict(zip(columns, views, strict=True))) for views in zip(*columns.values(), strict=True)]
    return StepBlock(columns=columns, rows=rows)
