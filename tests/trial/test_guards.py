"""Numbers that ran away, and iterations that bring nothing, end a trial with a word that says why."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tradesweep.errors import TradesweepError, TrialDiverged
from tradesweep.names import Record
from tradesweep.trial.guards import WEIGHT_LIMIT, ProgressGuard, check_evaluation, check_weights, digest_weights


def weights(value: float) -> dict[str, np.ndarray[Any, Any]]:
    return {"trunk.0.weight": np.zeros((2, 2), np.float32), "trunk.0.bias": np.array([0.0, value], np.float32)}


@pytest.mark.parametrize("value", [0.0, -100.0, WEIGHT_LIMIT, -WEIGHT_LIMIT])
def test_weights_within_the_limit_pass(value: float) -> None:
    check_weights(weights(value))


@pytest.mark.parametrize("value", [1.1 * WEIGHT_LIMIT, -1e30, np.inf, -np.inf, np.nan])
def test_weights_that_ran_away_are_named(value: float) -> None:
    with pytest.raises(TrialDiverged, match=r"within 1e\+06, trunk.0.bias reached .*; lower lr or set grad_clip"):
        check_weights(weights(value))


def evaluation(*, reward: float = 1.0, sharpe: float | None = 1.0, score: float = 1.0) -> Any:
    records = {Record.EPISODES_CLOSED: {"total_reward": np.array([reward])}}
    return SimpleNamespace(records=records, sharpe=sharpe, score=score, split="validation")


def test_a_finite_evaluation_passes_and_so_does_one_without_a_sharpe_ratio() -> None:
    check_evaluation(evaluation())
    check_evaluation(evaluation(sharpe=None))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(("name", "word"), [("reward", "reward"), ("sharpe", "Sharpe ratio"), ("score", "score")])
def test_an_evaluation_that_is_not_finite_is_refused(name: str, word: str, value: float) -> None:
    with pytest.raises(TrialDiverged, match=f"evaluation: {word} must be finite on validation, was {value}"):
        check_evaluation(evaluation(**{name: value}))


def test_digests_tell_weights_apart() -> None:
    assert digest_weights(weights(1.0)) == digest_weights(weights(1.0))
    assert digest_weights(weights(1.0)) != digest_weights(weights(np.nextafter(np.float32(1.0), np.float32(2.0))))


def play(*iterations: dict[str, Any]) -> int:
    """How many iterations pass."""
    guard = ProgressGuard()
    for number, due in enumerate(iterations):
        try:
            guard.check(due)
        except TradesweepError:
            return number
    return len(iterations)


def test_what_moves_or_rests_for_one_iteration_goes_on() -> None:
    assert play(*({"updates": number // 2} for number in range(20))) == 20


def test_what_rests_for_two_iterations_ends() -> None:
    assert play(*({"updates": min(number, 3)} for number in range(20))) == 5


def test_each_fact_is_watched_by_itself() -> None:
    assert play(*({"env steps": number, "weights": "same"} for number in range(20))) == 2


def test_iterations_in_which_nothing_was_due_do_not_count() -> None:
    assert play(*({"updates": 0} if number % 2 else {} for number in range(20))) == 20


@pytest.mark.parametrize("name", ["env steps", "updates", "weights"])
def test_the_message_says_what_stands_still_and_what_to_do(name: str) -> None:
    guard = ProgressGuard()
    guard.check({name: 1})
    guard.check({name: 1})
    with pytest.raises(TradesweepError, match=f"trial: {name} must make progress, made none in 2 iterations; .+"):
        guard.check({name: 1})
