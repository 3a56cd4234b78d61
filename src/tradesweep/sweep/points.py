"""Points of a search space: their identity, their values, and all of them where they can be counted.

Needs neither Optuna nor Ray.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from tradesweep.spec import (
    MOST_COMBINATIONS,
    Choice,
    Distribution,
    Grid,
    LogUniform,
    QUniform,
    RandInt,
    SweepSpec,
    Uniform,
    broken_bounds,
    drop_inactive,
    order_by_condition,
)

Point = dict[str, Any]


def point_hash(point: Mapping[str, Any]) -> str:
    """Hash of a point's content, the same for equal points in any order."""
    return hashlib.sha256(json.dumps(point, sort_keys=True).encode()).hexdigest()[:16]


def count_values(domain: Distribution) -> int | None:
    """How many values a parameter can have; None when nobody can count them."""
    match domain:
        case Choice() | Grid():
            return len(domain.options)
        case RandInt():
            return domain.high - domain.low + 1
        case QUniform():
            return round((domain.high - domain.low) / domain.q) + 1
    return None


def nth_value(domain: Distribution, index: int) -> Any:
    """A countable parameter's value; steps of a range have the digits that a person would write."""
    match domain:
        case Choice() | Grid():
            return domain.options[index]
        case RandInt():
            return domain.low + index
        case QUniform():
            return max(min(float(f"{domain.low + index * domain.q:.15g}"), domain.high), domain.low)
    raise AssertionError(f"its values cannot be counted: {domain}")


def value_at(domain: Distribution, unit: float) -> Any:
    """A parameter's value at a place in [0, 1); equal shares of it have equal chances."""
    match domain:
        case LogUniform():
            low, high = math.log(domain.low), math.log(domain.high)
            return min(max(math.exp(low + unit * (high - low)), domain.low), domain.high)
        case Uniform():
            return min(domain.low + unit * (domain.high - domain.low), domain.high)
    count = count_values(domain)
    assert count is not None
    return nth_value(domain, min(int(unit * count), count - 1))


def snap(domain: Distribution, value: Any) -> Any:
    """A value of a quantised range as `nth_value` writes it, so that equal values make equal points."""
    if not isinstance(domain, QUniform):
        return value
    return nth_value(domain, round((value - domain.low) / domain.q))


def point_at(ordered: Mapping[str, Distribution], units: Sequence[float], given: Mapping[str, Any]) -> Point:
    """The point at a place in the unit cube, with what is given in place of its own."""
    own = {name: value_at(domain, float(unit)) for (name, domain), unit in zip(ordered.items(), units, strict=True)}
    return drop_inactive(ordered, own | dict(given))


def is_countable(spec: SweepSpec) -> bool:
    """Whether all points of a space can be listed."""
    counts = [count_values(domain) for domain in spec.search.values()]
    return None not in counts and math.prod(count or 0 for count in counts) <= MOST_COMBINATIONS


def list_points(spec: SweepSpec) -> Iterator[Point]:
    """Every point of a countable space that may be trained, once."""
    ordered = order_by_condition(spec.search)
    counts = [range(count_values(domain) or 0) for domain in ordered.values()]
    seen = set()
    for indices in itertools.product(*counts):
        places = zip(ordered.items(), indices, strict=True)
        point = drop_inactive(ordered, {name: nth_value(domain, index) for (name, domain), index in places})
        if (key := point_hash(point)) not in seen and not broken_bounds(spec, point):
            seen.add(key)
            yield point


def count_points(spec: SweepSpec) -> int:
    """Points a sweep will try: the whole grid, or as many as the budget says and the space has."""
    if spec.searcher.kind == "grid":
        return sum(1 for _ in list_points(spec))
    trials = spec.budget.trials
    return sum(1 for _ in islice(list_points(spec), trials)) if is_countable(spec) else trials


def count_warnings(spec: SweepSpec, points: int) -> list[str]:
    """Where a sweep tries another number of points than its budget says; `points` is what it tries."""
    if (trials := spec.budget.trials) == points:
        return []
    if spec.searcher.kind == "grid":
        return [f"searcher grid tries all of its {points} points; budget.trials, {trials}, is not used"]
    return [f"the search space has only {points} points; budget.trials, {trials}, is not used up"]
