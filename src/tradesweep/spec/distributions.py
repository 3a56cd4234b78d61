"""The search space, independent of Ray and Optuna: what a point may be drawn from."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from tradesweep.spec.problems import RuleBroken, is_a

Condition = dict[str, Any]

MOST_STEPS = 1_000_000
"""Of a quantised range; of whole numbers where a Gaussian process draws, which lists them."""


class _Distribution(BaseModel):
    """Fields all distributions share."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    when: Condition | None = None
    """Drawn only where these other parameters have these values (a value, or a list of them)."""


class _Range(_Distribution):
    low: float
    high: float

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        _check_order(self.low, self.high)
        return self


class Uniform(_Range):
    """A real number in [low, high]."""

    kind: Literal["uniform"] = "uniform"


class LogUniform(_Range):
    """A real number in [low, high], uniform in its logarithm."""

    kind: Literal["loguniform"] = "loguniform"

    @model_validator(mode="after")
    def _positive(self) -> Self:
        if self.low <= 0:
            raise RuleBroken("low", "must be > 0 on a log scale", self.low)
        return self


class QUniform(_Range):
    """low, low + q, ... up to high."""

    kind: Literal["quniform"] = "quniform"
    q: float

    @model_validator(mode="after")
    def _divides(self) -> Self:
        if self.q <= 0:
            raise RuleBroken("q", "must be > 0", self.q)
        steps = (self.high - self.low) / self.q
        if not steps <= MOST_STEPS:
            raise RuleBroken("q", f"must divide high - low into at most {MOST_STEPS} steps", self.q)
        if abs(steps - round(steps)) > 1e-9:
            raise RuleBroken("q", f"must divide high - low = {self.high - self.low:g}", self.q)
        return self


class RandInt(_Distribution):
    """A whole number in [low, high], both included."""

    kind: Literal["randint"] = "randint"
    low: int
    high: int

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        _check_order(self.low, self.high)
        return self


class _Options(_Distribution):
    options: Annotated[
        tuple[Any, ...], BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value)
    ]

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        if not self.options:
            raise RuleBroken("", "must offer at least one option", [])
        if len({repr(option) for option in self.options}) < len(self.options):
            raise RuleBroken("", "must offer different options", list(self.options))
        return self


class Choice(_Options):
    """One of the options."""

    kind: Literal["choice"] = "choice"


class Grid(_Options):
    """Each of the options, crossed with every other grid under the grid searcher."""

    kind: Literal["grid"] = "grid"


AnyDistribution = Uniform | LogUniform | QUniform | RandInt | Choice | Grid
Distribution = Annotated[AnyDistribution, Field(discriminator="kind")]

KINDS: dict[str, type[AnyDistribution]] = {
    "uniform": Uniform,
    "loguniform": LogUniform,
    "quniform": QUniform,
    "randint": RandInt,
    "choice": Choice,
    "grid": Grid,
}
"""Distributions by the word that stands in a sweep file."""

Clean = Callable[[Any], Any]


def read_distribution(written: Any, clean: Clean = lambda value: value) -> AnyDistribution:
    """Read `{loguniform: [1e-4, 1e-2], when: ...}`; `clean` brings options into the form of their key.

    Raises RuleBroken.
    """
    kind, values = _kind_of(written)
    try:
        return KINDS[kind](when=_condition_of(written), **_arguments(kind, values, clean))
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        broken = problem.get("ctx", {}).get("error")
        if isinstance(broken, RuleBroken):
            raise broken from None
        raise RuleBroken(".".join(map(str, problem["loc"])), "must be a number", problem["input"]) from None


def contains(domain: AnyDistribution, value: Any) -> bool:
    """Whether `value` can be drawn from `domain`."""
    if isinstance(domain, (Choice, Grid)):
        return repr(value) in {repr(option) for option in domain.options}
    if not is_a(value, int) and not (is_a(value, float) and not isinstance(domain, RandInt)):
        return False
    inside = bool(domain.low <= value <= domain.high)
    if not isinstance(domain, QUniform):
        return inside
    steps = (value - domain.low) / domain.q
    return inside and abs(steps - round(steps)) <= 1e-9


def order_by_condition(space: Mapping[str, AnyDistribution]) -> dict[str, AnyDistribution]:
    """Parameters others depend on come first."""
    ordered: dict[str, AnyDistribution] = {}
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


def is_active(domain: AnyDistribution, point: Mapping[str, Any]) -> bool:
    """Whether the `when:` of a parameter holds at a point that has all parameters before it."""
    return all(key in point and point[key] in as_options(wanted) for key, wanted in (domain.when or {}).items())


def as_options(wanted: Any) -> tuple[Any, ...]:
    """What a condition names: a value or a list of them."""
    return tuple(wanted) if isinstance(wanted, (list, tuple)) else (wanted,)


def drop_inactive(ordered: Mapping[str, AnyDistribution], full: Mapping[str, Any]) -> dict[str, Any]:
    """The point of a value for every parameter: only what its conditions leave; `ordered` by condition."""
    point: dict[str, Any] = {}
    for name, domain in ordered.items():
        if is_active(domain, point):
            point[name] = full[name]
    return point


def _kind_of(written: Any) -> tuple[str, Any]:
    words = ", ".join(KINDS)
    if not isinstance(written, dict):
        remedy = "a constant stands under fixed, one of several values is {choice: [...]}"
        raise RuleBroken("", f"must be one of {words}, as in {{uniform: [0, 1]}}", written, remedy)
    kinds = [key for key in written if key in KINDS]
    unknown = [key for key in written if key not in KINDS and key != "when"]
    if len(kinds) != 1 or unknown:
        named = ", ".join(map(str, unknown or kinds)) or "nothing"
        raise RuleBroken("", f"must be exactly one of {words} (and perhaps when)", named)
    return kinds[0], written[kinds[0]]


def _condition_of(written: dict[str, Any]) -> Condition | None:
    when = written.get("when")
    if "when" in written and (not isinstance(when, dict) or not when):
        raise RuleBroken("when", "must be other parameters and their values, as in {double_q: true}", when)
    return when


def _arguments(kind: str, values: Any, clean: Clean) -> dict[str, Any]:
    if kind in ("choice", "grid"):
        if not isinstance(values, list):
            raise RuleBroken("", f"{kind} must be a list of options", values)
        return {"options": tuple(clean(value) for value in values)}
    names = ("low", "high", "q") if kind == "quniform" else ("low", "high")
    number, form = (int, "whole numbers") if kind == "randint" else (float, "numbers")
    if (
        not isinstance(values, list)
        or len(values) != len(names)
        or not all(is_a(value, int) or is_a(value, number) for value in values)
    ):
        raise RuleBroken("", f"{kind} must be [{', '.join(names)}] in {form}", values)
    return {name: number(value) for name, value in zip(names, values, strict=True)}


def _check_order(low: float, high: float) -> None:
    if not low < high:
        raise RuleBroken("low", f"must be below high ({high:g})", low)
    if not math.isfinite(high - low):
        raise RuleBroken("high", "must be a finite distance above low", high)
