"""How the two sides of the benchmark of learning are told apart."""

from __future__ import annotations

import numpy as np
import pytest
from benchmarks.learning import CONFIDENCE, GOAL, compare_means, describe
from scipy.stats import ttest_ind


@pytest.mark.parametrize(("spread", "seeds"), [(0.05, (10, 10)), (0.3, (4, 9)), (0.001, (2, 2))])
def test_the_interval_is_welchs(spread: float, seeds: tuple[int, int]) -> None:
    generator = np.random.default_rng(seeds)
    ours, theirs = generator.normal(0.9, 0.05, seeds[0]), generator.normal(0.8, spread, seeds[1])
    interval = ttest_ind(ours, theirs, equal_var=False).confidence_interval(CONFIDENCE)
    found = compare_means(ours.tolist(), theirs.tolist())
    assert found.difference == pytest.approx(np.mean(ours) - np.mean(theirs))
    assert found.difference - found.margin == pytest.approx(interval.low)
    assert found.difference + found.margin == pytest.approx(interval.high)
    assert found.farthest == pytest.approx(max(-interval.low, interval.high))


def test_sides_that_never_vary_are_exactly_as_far_apart_as_they_are() -> None:
    assert compare_means([1.0, 1.0], [1.0, 1.0]).farthest == 0.0
    assert compare_means([0.5, 0.5], [1.0, 1.0]).farthest == 0.5


@pytest.mark.parametrize(("theirs", "reached"), [([0.90, 0.92, 0.91], True), ([0.7, 0.72, 0.71], False)])
@pytest.mark.parametrize("swapped", [False, True])
def test_learning_more_than_stock_misses_the_goal_as_learning_less_does(
    theirs: list[float], reached: bool, swapped: bool
) -> None:
    sides = ([0.9, 0.91, 0.92], theirs)
    *_, apart = describe("PPO", *(reversed(sides) if swapped else sides))
    assert apart.goal == GOAL
    assert apart.reached is reached
