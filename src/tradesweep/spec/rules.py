"""Rules over several keys: what is right by itself and wrong together."""

from __future__ import annotations

import math
from typing import Any

from tradesweep.errors import SpecError
from tradesweep.spec.distributions import AnyDistribution, Choice, Grid, RandInt, contains
from tradesweep.spec.keys import keys_of, suggest
from tradesweep.spec.models import SweepSpec
from tradesweep.spec.problems import raise_all

BATCH, CAPACITY = "train_batch_size_per_learner", "replay_buffer_config.capacity"
WARM_UP = "num_steps_sampled_before_learning_starts"
MOST_COMBINATIONS = 100_000
"""Of a grid, as many as a budget may hold."""


def check_together(spec: SweepSpec) -> None:
    """Rules over several keys. Raises SpecError with all that are broken."""
    problems = [*_value_problems(spec), *_condition_problems(spec), *_grid_problems(spec), *_point_problems(spec)]
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
        return [spec.error_at(path, "must name a parameter drawn by choice, grid or randint", domain.kind)]
    values = wanted if isinstance(wanted, (list, tuple)) else [wanted]
    clean = keys_of(spec.algorithm)[other].clean
    rule = f"must be a value that {other} can have, or a list of them"
    if not values:
        return [spec.error_at(path, rule, wanted)]
    return [spec.error_at(path, rule, value) for value in values if not contains(domain, clean(value))]


def _find_circle(spec: SweepSpec) -> list[str]:
    """Parameters that wait for each other, sorted; none when all can be drawn in some order."""
    waiting = {name: set(domain.when or {}) for name, domain in spec.search.items()}
    while ready := {name for name, needs in waiting.items() if not needs & waiting.keys()}:
        waiting = {name: needs for name, needs in waiting.items() if name not in ready}
    return sorted(waiting)


def _grid_problems(spec: SweepSpec) -> list[SpecError]:
    if spec.searcher.kind != "grid":
        return []
    problems = [
        spec.error_at(f"search.{name}", "must be grid or choice under the grid searcher", domain.kind)
        for name, domain in spec.search.items()
        if not isinstance(domain, (Grid, Choice))
    ]
    if spec.searcher.points:
        rule = "must be left out under the grid searcher, which tries every combination"
        problems.append(spec.error_at("searcher.points", rule, list(spec.searcher.points)))
    size = math.prod(len(domain.options) for domain in spec.search.values() if isinstance(domain, (Grid, Choice)))
    if size > MOST_COMBINATIONS:
        remedy = "offer fewer options, or choose searcher random"
        problems.append(spec.error_at("search", f"must be at most {MOST_COMBINATIONS:,} combinations", size, remedy))
    return problems


def _point_problems(spec: SweepSpec) -> list[SpecError]:
    """Points to try first must lie in the search space."""
    problems = []
    for index, point in enumerate(spec.searcher.points):
        for name, value in point.items():
            path = f"searcher.points.{index}.{name}"
            if name not in spec.search:
                remedy = suggest(name, spec.search)
                problems.append(spec.error_at(path, "must be a searched key", value, remedy))
            elif not contains(spec.search[name], value):
                problems.append(spec.error_at(path, f"must be within {_in_words(spec.search[name])}", value))
    return problems


def _in_words(domain: AnyDistribution) -> str:
    return f"{domain.kind} [{', '.join(map(str, _extremes(domain)))}]"


def _bound_problems(spec: SweepSpec) -> list[SpecError]:
    """What is compared with each other, in the worst case of all that can be drawn."""
    problems = []
    if spec.budget.env_steps_per_trial < spec.evaluation.count:
        rule = f"must be at least evaluation.count ({spec.evaluation.count})"
        problems.append(spec.error_at("budget.env_steps_per_trial", rule, spec.budget.env_steps_per_trial))
    problems += _at_most(spec, "minibatch_size", BATCH)
    problems += _at_most(spec, BATCH, CAPACITY)
    problems += _at_most(spec, WARM_UP, CAPACITY)
    problems += _below(spec, "n_step", "env.episode_bars", spec.env.episode_bars)
    problems += _below(spec, WARM_UP, "budget.env_steps_per_trial", spec.budget.env_steps_per_trial)
    return problems


def _at_most(spec: SweepSpec, smaller: str, larger: str) -> list[SpecError]:
    """`smaller` may never exceed `larger`, whatever is drawn."""
    if not {smaller, larger} <= keys_of(spec.algorithm).keys():
        return []
    most, least = max(possible_values(spec, smaller)), min(possible_values(spec, larger))
    if most <= least:
        return []
    return [_bound_error(spec, smaller, f"must be at most {larger} ({int(least)})", most, least)]


def _below(spec: SweepSpec, name: str, limit_name: str, limit: int) -> list[SpecError]:
    if name not in keys_of(spec.algorithm) or max(possible_values(spec, name)) < limit:
        return []
    rule = f"must be below {limit_name} ({limit})"
    return [_bound_error(spec, name, rule, max(possible_values(spec, name)), limit - 1)]


def _bound_error(spec: SweepSpec, name: str, rule: str, value: float, nearest: float) -> SpecError:
    """At the place where the value was decided; a default that is too large has none."""
    part = "search" if name in spec.search else "fixed"
    is_written = name in (*spec.search, *spec.fixed)
    remedy = (
        f"write at most {int(nearest)}" if is_written else f"this is its default; set fixed.{name} to {int(nearest)}"
    )
    return spec.error_at(f"{part}.{name}", rule, int(value), remedy)


def possible_values(spec: SweepSpec, name: str) -> list[float]:
    """The extremes of a numeric key; its default too where a condition can switch it off."""
    default = keys_of(spec.algorithm)[name].default
    if name not in spec.search:
        return [spec.fixed.get(name, default)]
    domain = spec.search[name]
    return [*_extremes(domain), *([default] if domain.when else [])]
