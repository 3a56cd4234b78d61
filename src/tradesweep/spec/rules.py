"""Rules over several keys: what is right by itself and wrong together."""

from __future__ import annotations

import math
from typing import Any

from tradesweep.errors import SpecError
from tradesweep.spec.bounds import Bound, Point, find_conflicts, value_at
from tradesweep.spec.distributions import (
    MOST_STEPS,
    AnyDistribution,
    Choice,
    Grid,
    RandInt,
    as_options,
    contains,
)
from tradesweep.spec.keys import keys_of, suggest
from tradesweep.spec.models import SweepSpec
from tradesweep.spec.problems import raise_all

MOST_COMBINATIONS = 100_000
"""Of a grid, as many as a budget may hold."""


def check_together(spec: SweepSpec) -> None:
    """Rules over several keys. Raises SpecError with all that are broken."""
    problems = [
        *_value_problems(spec),
        *_condition_problems(spec),
        *_grid_problems(spec),
        *_model_problems(spec),
        *_point_problems(spec),
        *_count_problems(spec),
    ]
    # Bounds between keys can be compared once each key holds what it may.
    raise_all([str(problem) for problem in problems or _bound_problems(spec)])


def _value_problems(spec: SweepSpec) -> list[SpecError]:
    """Everything that can be drawn must be allowed for its key."""
    problems = []
    for name, domain in spec.search.items():
        key = keys_of(spec.algorithm)[name]
        broken = ((rule, value) for value in _extremes(domain) if (rule := key.problem(value)))
        if first := next(broken, None):
            problems.append(spec.error_at(f"search.{name}", *first))
    return problems


def _extremes(domain: AnyDistribution) -> tuple[Any, ...]:
    return domain.options if isinstance(domain, (Choice, Grid)) else (domain.low, domain.high)


def _condition_problems(spec: SweepSpec) -> list[SpecError]:
    problems = []
    for name, domain in spec.search.items():
        for other, wanted in (domain.when or {}).items():
            problems += _one_condition(spec, f"search.{name}.when.{other}", other, wanted)
    if not problems and (circle := _find_circle(spec)):
        rule = "must not have conditions that go round in a circle"
        problems.append(spec.error_at(f"search.{circle[0]}.when", rule, " and ".join(circle)))
    return problems


def _one_condition(spec: SweepSpec, path: str, other: str, wanted: Any) -> list[SpecError]:
    if other not in spec.search:
        remedy = "what is fixed decides nothing" if other in spec.fixed else suggest(other, spec.search)
        return [spec.error_at(path, "must name another searched parameter", other, remedy)]
    domain = spec.search[other]
    if not isinstance(domain, (Choice, Grid, RandInt)):
        rule = "must name a parameter drawn by choice, grid or randint"
        return [spec.error_at(path, rule, domain.kind, beside=[f"search.{other}"])]
    values = as_options(wanted)
    clean = keys_of(spec.algorithm)[other].clean
    rule = f"must be a value that {other} can have, or a list of them"
    if not values:
        return [spec.error_at(path, rule, wanted)]
    strange = [value for value in values if not contains(domain, clean(value))]
    return [spec.error_at(path, rule, value, beside=[f"search.{other}"]) for value in strange]


def _find_circle(spec: SweepSpec) -> list[str]:
    """Parameters that wait for each other, sorted; none when all can be drawn in some order."""
    waiting = {name: set(domain.when or {}) for name, domain in spec.search.items()}
    while ready := {name for name, needs in waiting.items() if not needs & waiting.keys()}:
        waiting = {name: needs for name, needs in waiting.items() if name not in ready}
    return sorted(waiting)


def _grid_problems(spec: SweepSpec) -> list[SpecError]:
    if spec.searcher.kind != "grid":
        return []
    chosen = ["searcher.kind"]
    problems = [
        spec.error_at(f"search.{name}", "must be grid or choice under the grid searcher", domain.kind, beside=chosen)
        for name, domain in spec.search.items()
        if not isinstance(domain, (Grid, Choice))
    ]
    if spec.searcher.points:
        rule = "must be left out under the grid searcher, which tries every combination"
        problems.append(spec.error_at("searcher.points", rule, list(spec.searcher.points), beside=chosen))
    size = math.prod(len(domain.options) for domain in spec.search.values() if isinstance(domain, (Grid, Choice)))
    if size > MOST_COMBINATIONS:
        remedy = "offer fewer options, or choose searcher random"
        rule = f"must be at most {MOST_COMBINATIONS:,} combinations"
        problems.append(spec.error_at("search", rule, size, remedy, beside=chosen))
    return problems


def _point_problems(spec: SweepSpec) -> list[SpecError]:
    """Points to try first must lie in the search space."""
    problems = []
    for index, point in enumerate(spec.searcher.points):
        for name, value in point.items():
            path = f"searcher.points.{index}.{name}"
            if name not in spec.search:
                remedy, rule = suggest(name, spec.search), "must be a searched key"
                problems.append(spec.error_at(path, rule, value, remedy, beside=[f"fixed.{name}"]))
            elif not contains(spec.search[name], value):
                rule = f"must be within {_in_words(spec.search[name])}"
                problems.append(spec.error_at(path, rule, value, beside=[f"search.{name}"]))
    return problems


def _in_words(domain: AnyDistribution) -> str:
    return f"{domain.kind} [{', '.join(map(str, _extremes(domain)))}]"


def _model_problems(spec: SweepSpec) -> list[SpecError]:
    """A model that has nothing to learn from, or too much, would draw at random, and nobody would know."""
    kind = spec.searcher.kind
    always = [domain for domain in spec.search.values() if domain.when is None]
    ranges = [domain for domain in always if not isinstance(domain, (Choice, Grid))]
    choices = [domain for domain in always if isinstance(domain, (Choice, Grid)) and len(domain.options) > 1]
    if kind == "cmaes" and not ranges:
        rule = "must not be cmaes where no parameter without when is drawn from a range: it learns numbers only"
    elif kind == "gp" and not ranges and not choices:
        rule = "must not be gp where no parameter without when has more than one value"
    else:
        return _list_problems(spec) if kind == "gp" else []
    return [spec.error_at("searcher.kind", rule, kind, "choose tpe or random", beside=["search"])]


def _list_problems(spec: SweepSpec) -> list[SpecError]:
    """A Gaussian process holds all values of a range of whole numbers in memory."""
    rule, remedy = f"must have at most {MOST_STEPS:,} values under searcher gp", "draw from fewer, or choose tpe"
    wide = {name: domain for name, domain in spec.search.items() if isinstance(domain, RandInt)}
    return [
        spec.error_at(f"search.{name}", rule, f"{values:,}", remedy, beside=["searcher.kind"])
        for name, domain in wide.items()
        if (values := domain.high - domain.low + 1) > MOST_STEPS
    ]


def _count_problems(spec: SweepSpec) -> list[SpecError]:
    """Numbers that count parts of each other."""
    problems, count, beside = [], spec.evaluation.count, ["evaluation.count"]
    if spec.budget.env_steps_per_trial < count:
        rule = f"must be at least evaluation.count ({count})"
        steps = spec.budget.env_steps_per_trial
        problems.append(spec.error_at("budget.env_steps_per_trial", rule, steps, beside=beside))
    if (least := spec.pruner.min_evaluations) > count:
        rule = f"must be at most evaluation.count ({count})"
        remedy = f"write at most {count}"
        problems.append(spec.error_at("pruner.min_evaluations", rule, least, remedy, beside=beside))
    return problems


def _bound_problems(spec: SweepSpec) -> list[SpecError]:
    """A spec is refused where no point keeps the bounds, and a point to try first that cannot; others are redrawn."""
    if conflicts := find_conflicts(spec):
        return [_bound_error(spec, bound, nearest) for bound, nearest in conflicts]
    return [
        _point_error(spec, f"searcher.points.{index}", given, bound, nearest)
        for index, given in enumerate(spec.searcher.points)
        for bound, nearest in find_conflicts(spec, given)
    ]


def _bound_error(spec: SweepSpec, bound: Bound, nearest: Point) -> SpecError:
    """At the place where the value was decided; a default that is too large has none."""
    name, most = bound.smaller, bound.most(spec, nearest)
    part = "search" if name in spec.search else "fixed"
    is_written = name in (*spec.search, *spec.fixed)
    remedy = f"write at most {most}" if is_written else f"this is its default; set fixed.{name} to {most}"
    beside = [bound.larger, f"fixed.{bound.larger}", f"search.{bound.larger}"]
    value = value_at(spec, nearest, name)
    return spec.error_at(f"{part}.{name}", _in_rule(spec, bound, nearest), value, remedy, beside=beside)


def _point_error(spec: SweepSpec, path: str, given: Point, bound: Bound, nearest: Point) -> SpecError:
    name, most = bound.smaller, bound.most(spec, nearest)
    value = value_at(spec, nearest, name)
    if name in given:
        return spec.error_at(f"{path}.{name}", _in_rule(spec, bound, nearest), value, f"write at most {most}")
    place = f"{path}.{bound.larger}" if bound.larger in given else path
    return spec.error_at(place, f"must leave room for {name} ({value})", most, f"write at least {value}")


def _in_rule(spec: SweepSpec, bound: Bound, nearest: Point) -> str:
    if bound.number is not None:
        return f"must be below {bound.larger} ({bound.number})"
    return f"must be at most {bound.larger} ({bound.most(spec, nearest)})"
