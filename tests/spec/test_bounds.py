"""Bounds between keys against brute force: what some point may have, and whether there is one."""

from __future__ import annotations

import itertools
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tradesweep.spec import (
    Choice,
    RandInt,
    SweepSpec,
    broken_bounds,
    drop_inactive,
    order_by_condition,
    possible_values,
)
from tradesweep.spec.bounds import find_conflicts, value_at
from tradesweep.spec.distributions import read_distribution

BOUND = (
    "train_batch_size_per_learner",
    "num_steps_sampled_before_learning_starts",
    "replay_buffer_config.capacity",
)
OTHERS = {
    "double_q": {"choice": [True, False]},
    "n_step": {"randint": [1, 3]},
    "target_network_update_freq": {"choice": [7, 8], "when": {"double_q": False}},
}
CONDITIONS = [None, {"double_q": True}, {"n_step": 2}, {"n_step": [1, 3]}, {"target_network_update_freq": 7}]

numbers = st.integers(25, 37)
domains = st.one_of(
    st.lists(numbers, min_size=1, max_size=3, unique=True).map(lambda options: {"choice": options}),
    st.tuples(numbers, st.integers(1, 6)).map(lambda ends: {"randint": [ends[0], ends[0] + ends[1]]}),
)
searches = st.fixed_dictionaries({}, optional={key: st.tuples(domains, st.sampled_from(CONDITIONS)) for key in BOUND})


def build(base: SweepSpec, search: dict[str, Any]) -> SweepSpec:
    """What is not searched has a value near those that are; a default is far away from them."""
    written = OTHERS | {key: domain | ({"when": when} if when else {}) for key, (domain, when) in search.items()}
    return base.model_copy(
        update={
            "fixed": {key: 31 for key in BOUND if key not in search},
            "search": {key: read_distribution(domain) for key, domain in written.items()},
        }
    )


def every_point(spec: SweepSpec) -> list[dict[str, Any]]:
    ordered = order_by_condition(spec.search)
    options: list[Any] = []
    for domain in ordered.values():
        assert isinstance(domain, (Choice, RandInt))
        options.append(domain.options if isinstance(domain, Choice) else range(domain.low, domain.high + 1))
    return [drop_inactive(ordered, dict(zip(ordered, values, strict=True))) for values in itertools.product(*options)]


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(search=searches, number=numbers)
def test_a_few_telling_points_say_what_every_single_point_says(load, search: dict[str, Any], number: int) -> None:
    spec = build(load(), search)
    allowed = [point for point in every_point(spec) if not broken_bounds(spec, point)]
    assert bool(find_conflicts(spec)) == (not allowed)
    for name in BOUND if allowed else ():
        values, possible = {value_at(spec, point, name) for point in allowed}, possible_values(spec, name)
        assert (min(possible), max(possible)) == (min(values), max(values))
    for name in search:
        given_number = {name: number}
        completed = [point for point in allowed if point.get(name) == number]
        if number in {point.get(name) for point in every_point(spec)} and search[name][1] is None:
            assert bool(find_conflicts(spec, given_number)) == (not completed)
