"""The search space, independent of Ray and Optuna: what a point may be drawn from."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

Condition = dict[str, Any]


class _Distribution(BaseModel):
    """Fields all distributions share."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    when: Condition | None = None
    """Drawn only where these other parameters have these values (a value, or a list of them)."""


class _Range(_Distribution):
    low: float
    high: float

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.low < self.high:
            raise ValueError(f"low must be below high, was [{self.low:g}, {self.high:g}]")
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
            raise ValueError(f"low must be > 0 on a log scale, was {self.low:g}")
        return self


class QUniform(_Range):
    """low, low + q, ... up to high."""

    kind: Literal["quniform"] = "quniform"
    q: float

    @model_validator(mode="after")
    def _divides(self) -> Self:
        steps = (self.high - self.low) / self.q if self.q > 0 else 0.0
        if self.q <= 0 or abs(steps - round(steps)) > 1e-9:
            raise ValueError(f"q must be > 0 and divide high - low = {self.high - self.low:g}, was {self.q:g}")
        return self


class RandInt(_Distribution):
    """A whole number in [low, high], both included."""

    kind: Literal["randint"] = "randint"
    low: int
    high: int

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.low < self.high:
            raise ValueError(f"low must be below high, was [{self.low}, {self.high}]")
        return self


class _Options(_Distribution):
    options: Annotated[
        tuple[Any, ...], BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value)
    ]

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        if not self.options:
            raise ValueError("must offer at least one option, was empty")
        texts = [repr(option) for option in self.options]
        if len(set(texts)) < len(texts):
            raise ValueError(f"options must differ, were {', '.join(texts)}")
        return self


class Choice(_Options):
    """One of the options."""

    kind: Literal["choice"] = "choice"


class Grid(_Options):
    """Each of the options, crossed with every other grid under the grid searcher."""

    kind: Literal["grid"] = "grid"


Distribution = Annotated[Uniform | LogUniform | QUniform | RandInt | Choice | Grid, Field(discriminator="kind")]

ARGUMENTS: dict[str, tuple[str, ...] | None] = {
    "uniform": ("low", "high"),
    "loguniform": ("low", "high"),
    "quniform": ("low", "high", "q"),
    "randint": ("low", "high"),
    "choice": None,
    "grid": None,
}
"""YAML words of the distributions and what their list holds; None: options."""


def normalise(written: Any) -> dict[str, Any]:
    """`{loguniform: [1e-4, 1e-2], when: ...}` as fields of the model. Raises ValueError with rule and value."""
    if not isinstance(written, dict):
        raise ValueError(f"must be one of {', '.join(ARGUMENTS)}, as in {{uniform: [0, 1]}}, was {written!r}")
    kinds = [key for key in written if key in ARGUMENTS]
    unknown = [key for key in written if key not in ARGUMENTS and key != "when"]
    if len(kinds) != 1 or unknown:
        named = ", ".join(map(str, unknown or kinds)) or "nothing"
        raise ValueError(f"must be exactly one of {', '.join(ARGUMENTS)} (and perhaps when), was {named}")
    kind = kinds[0]
    return {"kind": kind, "when": written.get("when"), **_arguments(kind, written[kind])}


def _arguments(kind: str, values: Any) -> dict[str, Any]:
    names = ARGUMENTS[kind]
    if not isinstance(values, list):
        raise ValueError(f"{kind} must be a list, was {values!r}")
    if names is None:
        return {"options": tuple(values)}
    if len(values) != len(names) or not all(
        isinstance(value, (int, float)) and not isinstance(value, bool) for value in values
    ):
        raise ValueError(f"{kind} must be [{', '.join(names)}] in numbers, was {values!r}")
    if kind != "randint":
        values = [float(value) for value in values]
    return dict(zip(names, values, strict=True))
