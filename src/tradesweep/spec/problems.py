"""Problems of a spec in one shape: `file:line key.path rule, was value; remedy`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tradesweep.errors import SpecError
from tradesweep.spec.yaml_loader import Place

MOST_SHOWN = 20
"""Problems listed in one error; a broken file can have thousands."""
VALUE_LENGTH = 120
"""Characters of a value that a message shows."""


class RuleBroken(ValueError):
    """A value breaks a rule. `field` is relative to what was being read; who knows the file adds the place."""

    def __init__(self, field: str, rule: str, value: object, remedy: str = "") -> None:
        super().__init__(describe(field, rule, value, remedy))
        self.field, self.rule, self.value, self.remedy = field, rule, value, remedy


def describe(path: str, rule: str, value: object, remedy: str = "") -> str:
    """`path rule, was value; remedy` on one line."""
    text = f"{path} {rule}, was {show(value)}" if path else f"{rule}, was {show(value)}"
    return f"{text}; {remedy}" if remedy else text


def show(value: object) -> str:
    """A value as a message shows it: words bare, nothing that breaks a line or a terminal, cut when long."""
    if value is None:
        return "null"
    text = value if isinstance(value, str) and value and value.isprintable() else repr(value)
    return text if len(text) <= VALUE_LENGTH else f"{text[:VALUE_LENGTH]}..."


def message_at(places: Mapping[str, Place], path: str, rule: str, value: object, remedy: str = "") -> str:
    """A problem with the place of `path`, or of the nearest ancestor that was written."""
    place, text = find_place(places, path), describe(path, rule, value, remedy)
    return f"{place} {text}" if place else text


def find_place(places: Mapping[str, Place], path: str) -> Place | None:
    """Where `path`, or its nearest ancestor, was written."""
    while path and path not in places:
        path = path.rpartition(".")[0]
    return places.get(path)


def raise_all(problems: Sequence[str]) -> None:
    """Raise one SpecError with a line a problem, each once; nothing when there are none."""
    lines = list(dict.fromkeys(problems))
    if len(lines) > MOST_SHOWN:
        lines = [*lines[:MOST_SHOWN], f"and {len(lines) - MOST_SHOWN} more"]
    if lines:
        raise SpecError("\n".join(lines))


def is_a(value: Any, kind: type) -> bool:
    """isinstance, but true and false are not numbers."""
    return isinstance(value, kind) and not isinstance(value, bool)
