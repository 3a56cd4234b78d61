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
    """A value breaks a rule. `field` is relative to what was being read; who knows the file adds the place.

    So is `beside`: the fields that the rule compares it with.
    """

    def __init__(self, field: str, rule: str, value: object, remedy: str = "", *, beside: tuple[str, ...] = ()) -> None:
        super().__init__(describe(field, rule, value, remedy))
        self.field, self.rule, self.value, self.remedy, self.beside = field, rule, value, remedy, beside


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


def message_at(
    places: Mapping[str, Place],
    path: str,
    rule: str,
    value: object,
    remedy: str = "",
    *,
    beside: Sequence[str] = (),
) -> str:
    """A problem of `path` with its place; `beside` are the keys that the rule compares it with."""
    place, text = find_place(places, path, beside), describe(path, rule, value, remedy)
    return f"{place} {text}" if place else text


def find_place(places: Mapping[str, Place], path: str, beside: Sequence[str] = ()) -> Place | None:
    """Where `path`, or its nearest ancestor, was written.

    A file that says so is not to blame for what a setting made of it: where a `--set` wrote something below `path`, or
    a key `beside` it, it is the place.
    """
    own = _find_nearest(places, path)
    if own is not None and own.is_setting:
        return own
    settings = [place for name in (path, *beside) for place in _places_of(places, name) if place.is_setting]
    return settings[-1] if settings else own


def _find_nearest(places: Mapping[str, Place], path: str) -> Place | None:
    while path and path not in places:
        path = path.rpartition(".")[0]
    return places.get(path)


def _places_of(places: Mapping[str, Place], path: str) -> list[Place]:
    """Of the key or its nearest ancestor, and of everything below it."""
    nearest = _find_nearest(places, path)
    below = [place for name, place in places.items() if name.startswith(f"{path}.")]
    return below if nearest is None else [nearest, *below]


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
