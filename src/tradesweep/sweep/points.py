"""Points of a search space: their identity, their conditions, and the grid. Needs neither Optuna nor Ray."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Mapping
from typing import Any

from tradesweep.spec import Choice, Distribution, Grid, SweepSpec

Point = dict[str, Any]


def point_hash(point: Mapping[str, Any]) -> str:
    """Hash of a point's content, the same for equal points in any order."""
    return hashlib.sha256(json.dumps(point, sort_keys=True).encode()).hexdigest()[:16]


def order_by_condition(space: Mapping[str, Distribution]) -> dict[str, Distribution]:
    """Parameters others depend on come first."""
    ordered: dict[str, Distribution] = {}
    waiting = dict(space)
    while waiting:
        ready = {
            name: domain
            for name, domain in waiting.items()
            if all(key in ordered or key not in space for key in (domain.when or {}))
        }
        assert ready, "the spec refuses conditions that go round in a circle"
        ordered |= ready
        waiting = {name: domain for name, domain in waiting.items() if name not in ready}
    return ordered


def is_active(domain: Distribution, point: Mapping[str, Any]) -> bool:
    """Does the `when:` of a parameter hold at this point?"""
    for key, wanted in (domain.when or {}).items():
        options = wanted if isinstance(wanted, (list, tuple)) else (wanted,)
        if point.get(key) not in options:
            return False
    return True


def grid_points(space: Mapping[str, Distribution]) -> list[Point]:
    """Every combination of the options."""
    ordered = order_by_condition(space)
    names = list(ordered)
    points = []
    for values in itertools.product(*(_options(ordered[name]) for name in names)):
        full = dict(zip(names, values, strict=True))
        points.append({name: value for name, value in full.items() if is_active(ordered[name], full)})
    return list({point_hash(point): point for point in points}.values())


def _options(domain: Distribution) -> tuple[Any, ...]:
    assert isinstance(domain, (Choice, Grid)), "the spec refuses ranges under a grid searcher"
    return domain.options


def count_points(spec: SweepSpec) -> int:
    """Points a sweep will try: the whole grid, or as many as the budget says."""
    return len(grid_points(spec.search)) if spec.searcher.kind == "grid" else spec.budget.trials
