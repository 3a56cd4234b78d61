"""What a trial must not go on with: numbers that ran away, and iterations that bring nothing.

A trial that RLlib would train on to its end, and Tune would call finished, ends here with a word that says why.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np

from tradesweep.errors import TradesweepError, TrialDiverged
from tradesweep.names import Record
from tradesweep.policy import Evaluation

WEIGHT_LIMIT = 1e6
"""Features are scaled to tens: no weight that was learned comes near it, and one step with lr 1e6 does."""

MOST_STILL = 2
"""Iterations in a row that may bring nothing before the trial ends."""

REMEDIES = {
    "env steps": "see the trial's log",
    "updates": "see updates_per_env_step, n_step and the replay's settings",
    "weights": "lr is too small to matter, or so large that the network is saturated",
}
"""What should grow or change from iteration to iteration, and what to do where it does not."""


def check_weights(weights: Mapping[str, np.ndarray[Any, Any]]) -> None:
    """Raise TrialDiverged for a weight beyond the limit: bounded losses stay finite however large weights are."""
    for name, values in weights.items():
        largest = float(np.abs(values).max(initial=0.0))
        if not largest <= WEIGHT_LIMIT:
            raise TrialDiverged(
                f"learner: weights must be finite and within {WEIGHT_LIMIT:g}, {name} reached {largest:g}; lower lr or"
                " set grad_clip"
            )


def check_evaluation(evaluation: Evaluation) -> None:
    """Raise TrialDiverged where a number that is recorded, or that decides which policy is best, is not finite."""
    assert evaluation.records is not None
    reward = evaluation.records[Record.EPISODES_CLOSED]["total_reward"][0]
    for name, value in {"reward": reward, "Sharpe ratio": evaluation.sharpe, "score": evaluation.score}.items():
        if value is not None and not math.isfinite(value):
            raise TrialDiverged(
                f"evaluation: {name} must be finite on {evaluation.split}, was {value}; check env.reward and the"
                " features of the experiment"
            )


def digest_weights(weights: Mapping[str, np.ndarray[Any, Any]]) -> str:
    """The same for the same weights, and for no others."""
    digest = hashlib.sha256()
    for values in weights.values():
        digest.update(values.tobytes())
    return digest.hexdigest()


class ProgressGuard:
    """Ends a trial when iterations in a row brought nothing of what they should."""

    def __init__(self) -> None:
        self._still: Counter[str] = Counter()
        self._before: dict[str, Hashable] = {}

    def check(self, due: Mapping[str, Hashable]) -> None:
        """`due` is where things stand that this iteration should have moved, by their names in `REMEDIES`.

        Raises TradesweepError when one of them has not moved for `MOST_STILL` iterations in which it was due.
        """
        for name, value in due.items():
            self._still[name] = self._still[name] + 1 if self._before.get(name) == value else 0
            if self._still[name] >= MOST_STILL:
                raise TradesweepError(
                    f"trial: {name} must make progress, made none in {MOST_STILL} iterations; {REMEDIES[name]}"
                )
        self._before = dict(due)
