"""What both losses pull at: their derivatives by what the networks say, row by row, compiled.

In torch this is twenty small operations over a few hundred numbers, each of which costs more to call than to compute.
Numbers of a GPU come to the CPU for it, a few kilobytes.

Legend: N transitions, B rows of a replay's batch, A actions.
"""

from __future__ import annotations

from math import exp, log
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tradesweep.env.compiled import compiled

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


def as_array(column: torch.Tensor) -> NDArray[Any]:
    """The numbers of a tensor that no graph hangs on, themselves where they are in the CPU's memory."""
    array: NDArray[Any] = column.cpu().numpy()
    return array


@compiled
def policy_slopes(
    logits_NA: Floats,
    acted_NA: Floats,
    acted_log_p_N: Floats,
    actions_N: Ints,
    advantages_N: Floats,
    clip: float,
    entropy_coeff: float,
    kl_coeff: float,
) -> Floats:
    """(N, A) of `ppo_loss.PPOLoss` by the logits; `acted_NA` are the logits that acted."""
    slopes_NA, surprises_A = np.empty_like(logits_NA), np.empty(logits_NA.shape[1])
    p_A, acted_p_A = np.empty(logits_NA.shape[1]), np.zeros(logits_NA.shape[1])
    for row in range(len(logits_NA)):
        log_total = softmax(logits_NA[row], p_A)
        if kl_coeff:
            softmax(acted_NA[row], acted_p_A)
        entropy = 0.0
        for action in range(len(p_A)):
            surprises_A[action] = log_total - logits_NA[row, action]
            entropy += p_A[action] * surprises_A[action]
        taken = actions_N[row]
        pull = find_pull(exp(-surprises_A[taken] - acted_log_p_N[row]), advantages_N[row], clip)
        for action in range(len(p_A)):
            # d log p_taken / d logits = onehot - p
            slope = pull * (p_A[action] - (action == taken))
            slope += entropy_coeff * p_A[action] * (entropy - surprises_A[action])
            slope += kl_coeff * (p_A[action] - acted_p_A[action])
            slopes_NA[row, action] = slope / len(logits_NA)
    return slopes_NA


@compiled
def softmax(logits_A: Floats, p_A: NDArray[np.float64]) -> float:
    """Into `p_A`; the logarithm of the sum of all exponentials."""
    top, total = float(logits_A.max()), 0.0
    for action in range(len(logits_A)):
        p_A[action] = exp(logits_A[action] - top)
        total += p_A[action]
    for action in range(len(logits_A)):
        p_A[action] /= total
    return top + log(total)


@compiled
def find_pull(ratio: float, advantage: float, clip: float) -> float:
    """Of the surrogate by log p of the action taken, where the ratio's own derivative is the ratio; none if clipped."""
    gain = advantage * ratio
    return 0.0 if gain > advantage * min(max(ratio, 1.0 - clip), 1.0 + clip) else gain


@compiled
def value_slopes(
    values_BA: Floats,
    best_of_BA: Floats,
    target_BA: Floats,
    actions_B: Ints,
    rewards_B: Floats,
    discounts_B: Floats,
    shares_B: Floats,
    huber: bool,
) -> tuple[Floats, Floats, Floats]:
    """(B, A) of DQN's loss by the Q values; (B,) by how much those of the actions taken miss; (B,) those themselves.

    What is missed is the reward and the discounted value, by the target network, of what is best in the next state:
    best by `best_of_BA`, which is the online network's in double Q-learning.
    """
    slopes_BA = np.zeros_like(target_BA)
    misses_B, selected_B = np.empty_like(rewards_B), np.empty_like(rewards_B)
    for row in range(len(target_BA)):
        wanted = rewards_B[row] + discounts_B[row] * target_BA[row, best_of_BA[row].argmax()]
        selected_B[row] = values_BA[row, actions_B[row]]
        misses_B[row] = miss = selected_B[row] - wanted
        slopes_BA[row, actions_B[row]] = shares_B[row] * (min(max(miss, -1.0), 1.0) if huber else 2.0 * miss)
    return slopes_BA, misses_B, selected_B
