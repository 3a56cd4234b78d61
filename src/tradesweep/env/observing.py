"""Observations, one lane after the other: what `ObservationBuilder` writes, and what an evaluation's loop shows.

`account` is a lane's record of `ACCOUNT` (kernel.py).

Legend: E lanes, N bars, F features, W window bars, A positions, R numbers of reward state, S = A + 3 + R, D = W F + S.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tradesweep.env.compiled import compiled
from tradesweep.env.rows import Floats

EXPOSURE_LIMIT = 5.0
LEAST_EQUITY = 1e-12
"""The exposure of a lane without equity (it just ended) is taken at this fraction of the starting equity."""


@compiled
def write_rows(
    accounts_E: Any,
    features_NF: NDArray[np.float32],
    positions_A: Floats,
    window_bars: int,
    initial_equity: float,
    reward_state_ER: Floats,
    out_ED: NDArray[np.float32],
) -> None:
    """Whole rows at the bars where the lanes stand."""
    features, width = features_NF.reshape(-1), window_bars * features_NF.shape[1]
    for lane in range(len(accounts_E)):
        account, row_D = accounts_E[lane], out_ED[lane]
        first = (account.bar - (window_bars - 1)) * features_NF.shape[1]
        copy_numbers(features[first : first + width], row_D)
        write_state(account, positions_A, window_bars, initial_equity, reward_state_ER[lane], row_D[width:])


@compiled
def write_state(
    account: Any,
    positions_A: Floats,
    window_bars: int,
    initial_equity: float,
    reward_state_R: Floats,
    out_S: NDArray[np.float32],
) -> None:
    """The state of the position and of the reward."""
    held, positions = account.units != 0.0, len(positions_A)
    out_S[0] = find_exposure(account, initial_equity)
    for action in range(positions):
        out_S[1 + action] = account.target == positions_A[action]
    bars = account.bar - account.open_bar
    out_S[1 + positions] = account.equity / account.trade_equity - 1.0 if held else 0.0
    out_S[2 + positions] = bars / (bars + window_bars) if held else 0.0
    copy_numbers(reward_state_R, out_S[3 + positions :])


@compiled
def find_exposure(account: Any, initial_equity: float) -> float:
    """u C / E = (E - M) / E, clipped."""
    exposure: float = (account.equity - account.cash) / max(account.equity, LEAST_EQUITY * initial_equity)
    return max(min(exposure, EXPOSURE_LIMIT), -EXPOSURE_LIMIT)


@compiled
def copy_numbers(values: NDArray[Any], out: NDArray[Any]) -> None:
    """Into the first elements of `out`: a plain loop is faster than an assignment, which asks for overlap first."""
    for index in range(len(values)):
        out[index] = values[index]
