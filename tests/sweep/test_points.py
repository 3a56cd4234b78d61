"""Points of a space: counted, listed, and found at every place in the unit cube."""

from __future__ import annotations

from collections import Counter

import pytest

from tradesweep.spec import Choice, LogUniform, QUniform, RandInt, Uniform, order_by_condition
from tradesweep.sweep.points import count_points, count_warnings, list_points, point_at, value_at

CHAIN = """
algorithm: ppo
search:
  use_kl_loss: {choice: [true, false]}
  num_epochs: {grid: [2, 3], when: {use_kl_loss: true}}
  kl_coeff: {choice: [0.1, 0.2], when: {num_epochs: 3}}
"""

BOUND = """
algorithm: ppo
search:
  minibatch_size: {choice: [64, 128, 256]}
  train_batch_size_per_learner: {choice: [100, 200]}
"""


def test_a_condition_holds_only_where_its_own_parameter_is_drawn(load) -> None:
    points = list(list_points(load(sweep=CHAIN)))
    assert points == [
        {"use_kl_loss": True, "num_epochs": 2},
        {"use_kl_loss": True, "num_epochs": 3, "kl_coeff": 0.1},
        {"use_kl_loss": True, "num_epochs": 3, "kl_coeff": 0.2},
        {"use_kl_loss": False},
    ]


@pytest.mark.parametrize("kind", ["grid", "random"])
def test_combinations_that_break_a_bound_are_left_out_and_not_counted(load, kind: str) -> None:
    spec = load(f"searcher.kind={kind}", "budget.trials=50", sweep=BOUND)
    assert count_points(spec) == 3
    assert all(point["minibatch_size"] <= point["train_batch_size_per_learner"] for point in list_points(spec))


def test_a_sweep_has_no_more_points_than_its_space_and_says_so(load) -> None:
    small = load("budget.trials=5", "search.lr={choice: [0.001, 0.002]}")
    assert count_points(small) == 2
    assert count_warnings(small, 2) == ["the search space has only 2 points; budget.trials, 5, is not used up"]
    assert count_points(load("budget.trials=5")) == 5
    assert (
        count_points(load("budget.trials=500", "search={n_step: {randint: [1, 49]}, tau: {quniform: [0.1, 1, 0.1]}}"))
        == 490
    )
    grid = load("budget.trials=5", "searcher.kind=grid", "search.lr={choice: [0.001, 0.002]}")
    assert count_warnings(grid, 2) == ["searcher grid tries all of its 2 points; budget.trials, 5, is not used"]
    assert count_warnings(load("budget.trials=5"), 5) == []


def test_equal_shares_of_the_unit_have_equal_chances() -> None:
    units = [(place + 0.5) / 120 for place in range(120)]
    for domain, values in (
        (RandInt(low=-1, high=2), [-1, 0, 1, 2]),
        (QUniform(low=0.1, high=0.4, q=0.1), [0.1, 0.2, 0.3, 0.4]),
        (Choice(options=("a", "b", [1])), ["a", "b", [1]]),
    ):
        drawn = Counter(map(repr, (value_at(domain, unit) for unit in units)))
        assert drawn == {repr(value): 120 // len(values) for value in values}


def test_the_ends_of_the_unit_are_the_ends_of_a_range() -> None:
    last = 1 - 2**-53
    for domain in (Uniform(low=0.1, high=0.3), LogUniform(low=1e-4, high=1e-2)):
        assert value_at(domain, 0.0) == pytest.approx(domain.low, rel=1e-14)
        assert value_at(domain, last) == pytest.approx(domain.high, rel=1e-14)
        assert all(domain.low <= value_at(domain, unit) <= domain.high for unit in (0.0, last))
    assert value_at(LogUniform(low=1e-4, high=1e-2), 0.5) == pytest.approx(1e-3)


def test_what_is_given_decides_conditions_too(load) -> None:
    ordered = order_by_condition(load(sweep=CHAIN).search)
    assert point_at(ordered, [0.0, 0.9, 0.0], {}) == {"use_kl_loss": True, "num_epochs": 3, "kl_coeff": 0.1}
    assert point_at(ordered, [0.0, 0.9, 0.0], {"num_epochs": 2}) == {"use_kl_loss": True, "num_epochs": 2}
    assert point_at(ordered, [0.0, 0.9, 0.0], {"use_kl_loss": False}) == {"use_kl_loss": False}
