"""Keys that bound each other, such as a minibatch and its batch: what a point must keep, and whether one can."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tradesweep.spec.distributions import (
    AnyDistribution,
    Choice,
    Grid,
    RandInt,
    as_options,
    contains,
    drop_inactive,
    order_by_condition,
)
from tradesweep.spec.keys import keys_of
from tradesweep.spec.models import SweepSpec
from tradesweep.spec.problems import is_a

BATCH, CAPACITY = "train_batch_size_per_learner", "replay_buffer_config.capacity"
WARM_UP = "num_steps_sampled_before_learning_starts"

Point = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Bound:
    """`smaller` is at most `larger`, another key, or is below it, a number of the experiment."""

    smaller: str
    larger: str
    number: int | None = None
    """What `larger` is, where it is no key."""

    def most(self, spec: SweepSpec, point: Point) -> int:
        """The largest value that `smaller` may have at a point."""
        return int(value_at(spec, point, self.larger)) if self.number is None else self.number - 1

    def excess(self, spec: SweepSpec, point: Point) -> int:
        """By how much a point breaks it; 0 and less where it is kept."""
        return int(value_at(spec, point, self.smaller)) - self.most(spec, point)


def bounds_of(spec: SweepSpec) -> list[Bound]:
    """Every bound between keys of this algorithm."""
    bounds = [
        Bound(smaller="minibatch_size", larger=BATCH),
        Bound(smaller=BATCH, larger=CAPACITY),
        Bound(smaller=WARM_UP, larger=CAPACITY),
        Bound(smaller="n_step", larger="env.episode_bars", number=spec.env.episode_bars),
        Bound(smaller=WARM_UP, larger="budget.env_steps_per_trial", number=spec.budget.env_steps_per_trial),
    ]
    keys = keys_of(spec.algorithm)
    return [bound for bound in bounds if bound.smaller in keys and (bound.number is not None or bound.larger in keys)]


def value_at(spec: SweepSpec, point: Point, name: str) -> Any:
    """What a trial of this point is given for a key."""
    return point[name] if name in point else spec.fixed.get(name, keys_of(spec.algorithm)[name].default)


def broken_bounds(spec: SweepSpec, point: Point) -> list[Bound]:
    """Bounds that a point does not keep; one that breaks none may be trained."""
    return [bound for bound in bounds_of(spec) if bound.excess(spec, point) > 0]


def find_conflicts(spec: SweepSpec, given: Point | None = None) -> list[tuple[Bound, Point]]:
    """Bounds that no point keeps, or none of those with `given`, each with the point that comes nearest."""
    conflicts = []
    for group in {_linked(spec, bound.smaller): None for bound in bounds_of(spec)}:
        bounds = [bound for bound in bounds_of(spec) if bound.smaller in group]
        nearest = _nearest(spec, bounds, telling_points(spec, group, given=given or {}))
        conflicts += [(bound, nearest) for bound in bounds if bound.excess(spec, nearest) > 0]
    return conflicts


def _nearest(spec: SweepSpec, bounds: list[Bound], points: Iterable[Point]) -> Point:
    """The first point that keeps all bounds, or the one that breaks fewest and by least."""
    best: tuple[int, int] | None = None
    nearest: Point = {}
    for point in points:
        broken = [excess for bound in bounds if (excess := bound.excess(spec, point)) > 0]
        if not broken:
            return point
        if best is None or (len(broken), sum(broken)) < best:
            best, nearest = (len(broken), sum(broken)), point
    return nearest


def possible_values(spec: SweepSpec, name: str) -> list[Any]:
    """Values of a key among which are its extremes over all points that keep the bounds.

    The default is one of them where a condition can switch the key off.
    """
    group = _linked(spec, name)
    bounds = [bound for bound in bounds_of(spec) if bound.smaller in group]
    points = telling_points(spec, group, whole=name)
    allowed = (point for point in points if all(bound.excess(spec, point) <= 0 for bound in bounds))
    values = {repr(value): value for value in (value_at(spec, point, name) for point in allowed)}
    return list(values.values())


def telling_points(
    spec: SweepSpec, group: Iterable[str], *, given: Point | None = None, whole: str | None = None
) -> Iterator[Point]:
    """Combinations of the searched keys of a group that decide what its bounds allow; of `whole` every option."""
    given, group = given or {}, set(group)
    ordered = order_by_condition({name: domain for name, domain in spec.search.items() if name in group})
    values = [[given[name]] if name in given else _telling_values(spec, name, whole=name == whole) for name in ordered]
    for combination in itertools.product(*values):
        yield drop_inactive(ordered, dict(zip(ordered, combination, strict=True)))


def _linked(spec: SweepSpec, name: str) -> frozenset[str]:
    """A key with all that are bound to it, and all that their conditions ask for."""
    linked, before = {name}, 0
    while len(linked) > before:
        before = len(linked)
        for bound in bounds_of(spec):
            if bound.number is None and {bound.smaller, bound.larger} & linked:
                linked |= {bound.smaller, bound.larger}
        for key in linked & spec.search.keys():
            linked |= (spec.search[key].when or {}).keys()
    return frozenset(linked)


def _telling_values(spec: SweepSpec, name: str, *, whole: bool) -> list[Any]:
    """Values that conditions name, and the extremes of the others: bounds are monotone."""
    options = _options(spec, name)
    if whole:
        return options
    named = [option for option in options if option in _named(spec, name)]
    rest = [option for option in options if option not in named]
    if len(rest) > 1:
        are_numbers = all(is_a(value, int) or is_a(value, float) for value in rest)
        rest = [min(rest), max(rest)] if are_numbers else rest[:1]
    return [*named, *rest]


def _options(spec: SweepSpec, name: str) -> list[Any]:
    """All options; of a range its ends, and inside it what conditions or bounds single out."""
    domain = spec.search[name]
    if isinstance(domain, (Choice, Grid)):
        return list(domain.options)
    if not isinstance(domain, RandInt):
        return [domain.low, domain.high]
    named = [near for value in _named(spec, name) for near in (value - 1, value, value + 1)]
    singled = {domain.low, domain.high, *named, *_bounding_values(spec, name)}
    return sorted(value for value in singled if contains(domain, value))


def _named(spec: SweepSpec, name: str) -> list[Any]:
    """Values of a key that conditions of others ask for."""
    conditions = [domain.when for domain in spec.search.values() if domain.when and name in domain.when]
    return [value for when in conditions for value in as_options(when[name])]


def _bounding_values(spec: SweepSpec, name: str) -> list[int]:
    """What the other sides of its bounds may be."""
    values = []
    for bound in bounds_of(spec):
        if bound.smaller == name and bound.number is not None:
            values.append(bound.number - 1)
        elif name in (bound.smaller, bound.larger):
            values += _ends(spec, bound.larger if name == bound.smaller else bound.smaller)
    return values


def _ends(spec: SweepSpec, name: str) -> list[int]:
    domain: AnyDistribution | None = spec.search.get(name)
    ends = [value_at(spec, {}, name)]
    if isinstance(domain, (Choice, Grid)):
        return [*ends, *domain.options]
    return [*ends, domain.low, domain.high] if isinstance(domain, RandInt) else ends
