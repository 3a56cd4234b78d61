"""StepRow: what one step of all lanes left behind, and the arrays it is written into.

Legend: T steps, E lanes, leg 0 closes a position, leg 1 opens or resizes one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

CELL = np.dtype(
    [
        *((name, np.float64) for name in ("target", "units", "equity", "reward", "cost", "borrow", "price")),
        ("quantity", np.float64, (2,)),
        *((name, np.int64) for name in ("bar", "action")),
        *((name, np.bool_) for name in ("active", "terminated", "truncated")),
    ],
    align=True,
)
"""What one lane leaves in one step: the fields of `StepRow`."""


@dataclass(kw_only=True, slots=True)
class StepRow:
    """One step of E lanes: views that the next steps overwrite, so copy what you keep.

    A lane that did not run (`active` False) repeats its state, with zeros for reward, cost and quantities.
    """

    cells_E: NDArray[Any]
    """(E,) the same as records of `CELL`."""
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


class StepBlock:
    """T steps of E lanes, one record of `CELL` each: to be seen by column, or step by step."""

    def __init__(self, steps: int, lanes: int) -> None:
        self.cells_TE: NDArray[Any] = np.zeros((steps, lanes), CELL)
        self.columns = view_columns(self.cells_TE)
        """Column name to (T, E) view; `quantity` is (T, 2, E)."""
        self._rows: list[StepRow | None] = [None] * steps

    def row(self, t: int) -> StepRow:
        """Step t: always the same object."""
        row = self._rows[t]
        if row is None:
            cells_E = self.cells_TE[t]
            row = self._rows[t] = StepRow(cells_E=cells_E, **view_columns(cells_E))
        return row


def view_columns(cells: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """Column name to view (..., E) of cells (..., E); `quantity` is (..., 2, E)."""
    columns = {name: cells[name] for name in CELL.names or ()}
    return columns | {"quantity": np.moveaxis(columns["quantity"], -1, -2)}


def read_only(values: NDArray[Any], dtype: Any) -> NDArray[Any]:
    """A view that nobody can write through: to compiled code, arrays that can be written are of another type."""
    view = np.ascontiguousarray(values, dtype=dtype).view()
    view.flags.writeable = False
    return view
