"""Generalised advantage estimation over whole columns, and the training batch of PPO.

Legend: T rows, E lanes, N transitions, D observation width, A actions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch
from ray.rllib.core.columns import Columns
from ray.rllib.evaluation.postprocessing import Postprocessing

from tradesweep.agents.fragment import DISTRIBUTION_INPUTS, LOG_PROBABILITY, Fragment
from tradesweep.agents.learner import Columnar

Floats = npt.NDArray[np.float32]
LEAST_SPREAD = 1e-4
"""Advantages are divided by their standard deviation, but never by less than this."""


def estimate_advantages(fragment: Fragment, values: Floats, *, gamma: float, lambda_: float) -> Floats:
    """(T, E) generalised advantages (Schulman et al. 2016, eq. 16) from (T + 1, E) values of every observation.

    delta_t = r_t + gamma V(s_t+1) - V(s_t), without V(s_t+1) after a terminal state; the recursion A_t = delta_t +
    gamma lambda A_t+1 stops where an episode ends and where the fragment does. Rows in which a lane resets hold no
    transition; what stands there has no meaning.
    """
    continuing = 1.0 - fragment.terminated
    linked = gamma * lambda_ * (continuing * (1.0 - fragment.truncated))
    deltas = fragment.rewards + gamma * continuing * values[1:] - values[:-1]
    advantages = np.empty_like(values[1:])
    carried = np.zeros_like(values[0])
    for row in range(len(deltas) - 1, -1, -1):
        carried = deltas[row] + linked[row] * carried
        advantages[row] = carried
    return advantages


def build_rollout(
    fragments: Sequence[Fragment], value_of: Callable[[Floats], Floats], *, gamma: float, lambda_: float
) -> Columnar:
    """Value every observation, estimate advantages, and put all N transitions side by side.

    `value_of` takes (N, D) observations and gives (N,) values. Advantages have mean 0 and standard deviation 1.
    """
    advantages, targets = [], []
    for fragment in fragments:
        rows, lanes, width = fragment.obs.shape
        values = value_of(fragment.obs.reshape(-1, width)).reshape(rows, lanes)
        found = estimate_advantages(fragment, values, gamma=gamma, lambda_=lambda_)
        advantages.append(found[fragment.valid])
        targets.append((found + values[:-1])[fragment.valid])
    return {
        Columns.OBS: _side_by_side([fragment.obs[:-1][fragment.valid] for fragment in fragments]),
        Columns.ACTIONS: _side_by_side([fragment.actions[fragment.valid] for fragment in fragments]),
        **{
            name: _side_by_side([fragment.extras[name][fragment.valid] for fragment in fragments])
            for name in (LOG_PROBABILITY, DISTRIBUTION_INPUTS)
        },
        Postprocessing.ADVANTAGES: torch.from_numpy(_standardise(np.concatenate(advantages))),
        Postprocessing.VALUE_TARGETS: _side_by_side(targets),
    }


def _side_by_side(columns: Sequence[npt.NDArray[np.generic]]) -> torch.Tensor:
    return torch.from_numpy(np.concatenate(columns))


def _standardise(advantages: Floats) -> Floats:
    centred = advantages - advantages.mean()
    scaled: Floats = centred / np.float32(max(LEAST_SPREAD, float(advantages.std())))
    return scaled


def minibatches(
    count: int, *, size: int | None, epochs: int, shuffle: bool, generator: np.random.Generator
) -> Iterator[torch.Tensor]:
    """Rows of each minibatch: all of `size`, which runs on from one epoch into the next, as RLlib's do.

    Without a size an epoch is one batch of all rows, in their order.
    """
    if size is None:
        yield from (torch.arange(count) for _ in range(epochs))
        return
    needed = -(-epochs * count // size)
    rounds = -(-needed * size // count)
    order = np.concatenate([generator.permutation(count) if shuffle else np.arange(count) for _ in range(rounds)])
    yield from torch.from_numpy(order[: needed * size].reshape(needed, size))
