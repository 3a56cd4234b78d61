"""A policy's way through bars, compiled: what each lane sees, its scores, its action, and one step of the kernel.

Legend: B bars, E lanes, N bars of the market, S state, H outputs of the layers that read observations, A actions, U
different stretches, R numbers of reward state.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tradesweep.env.compiled import compiled
from tradesweep.env.equations import step_lanes
from tradesweep.env.observing import write_state
from tradesweep.env.rows import Bools, Floats, Ints
from tradesweep.policy.forward import fill_strip, make_strips, read_scores, run_layers
from tradesweep.policy.network import Network


class Sight(NamedTuple):
    """What `write_state` needs beside an account."""

    positions_A: Floats
    window_bars: int
    initial_equity: float
    reward_state_ER: Floats


@compiled
def follow_policy(
    accounts_E: Any,
    opens_N: Floats,
    closes_N: Floats,
    tradable_N: Bools,
    delayed_dE: Floats,
    at_close: bool,
    cells_BE: Any,
    sight: Sight,
    network: Network,
    begun_BUH: Floats,
    stretch_E: Ints,
    noise_BEA: Floats,
    sums_EX: Floats,
) -> int:
    """Decide and step until all lanes are done, B bars at most; returns how many.

    `begun_BUH[:, stretch_E]` is what the features of each lane's bars gave, `noise_BEA` is added to the scores (no
    bars: nothing is). Every state and every score is added to `sums_EX` (E, S + A), so that one that is not finite
    shows there.
    """
    strips_4Z, scores_A = make_strips(network), np.empty(network.actions)
    seen_S = np.empty(sums_EX.shape[1] - network.actions, np.float32)
    for bar in range(len(cells_BE)):
        look(accounts_E, sight, network, begun_BUH[bar], stretch_E, strips_4Z, seen_S, sums_EX)
        run_layers(network, strips_4Z)
        for lane in range(len(accounts_E)):
            cell = cells_BE[bar, lane]
            cell.active, cell.action = True, -1
            if not accounts_E[lane].done:
                read_scores(network, strips_4Z[lane], scores_A)
                add_to(sums_EX[lane, len(seen_S) :], scores_A)
                if len(noise_BEA):
                    add_to(scores_A, noise_BEA[bar, lane])
                cell.action = find_best(scores_A)
                cell.target = sight.positions_A[cell.action]
        done = step_lanes(accounts_E, opens_N, closes_N, tradable_N, delayed_dE, at_close, cells_BE[bar])
        if done == len(accounts_E):
            return bar + 1
    return len(cells_BE)


@compiled
def look(
    accounts_E: Any,
    sight: Sight,
    network: Network,
    begun_UH: Floats,
    stretch_E: Ints,
    strips_4Z: Floats,
    seen_S: NDArray[np.float32],
    sums_EX: Floats,
) -> None:
    """Fill the strips of the lanes that run with what they see; the state in float32, as a runner sees it."""
    for lane in range(len(accounts_E)):
        account, reward_state_R = accounts_E[lane], sight.reward_state_ER[lane]
        if not account.done:
            write_state(account, sight.positions_A, sight.window_bars, sight.initial_equity, reward_state_R, seen_S)
            fill_strip(network, strips_4Z[lane], begun_UH[stretch_E[lane]], seen_S)
            add_to(sums_EX[lane], seen_S)


@compiled
def add_to(sums: Floats, values: NDArray[Any]) -> None:
    """Add to the first sums."""
    for index in range(len(values)):
        sums[index] += values[index]


@compiled
def find_best(scores_A: Floats) -> int:
    """The action of the highest score, ties to the lowest index."""
    best = 0
    for action in range(1, len(scores_A)):
        if scores_A[action] > scores_A[best]:
            best = action
    return best
