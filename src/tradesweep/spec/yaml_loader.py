"""A safe YAML loader that knows where everything stands and refuses what would surprise.

Stock PyYAML reads `1e-4` as text, `010` as 8, `1:30` as 90, `on` as true, dates as dates, and lets the last of two
equal keys win. Here numbers are numbers, words are text, and duplicates, anchors, tags and several documents are
errors with file and line.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tradesweep.errors import SpecError

MAX_BYTES = 1_000_000
MAX_DEPTH = 20


@dataclass(frozen=True, slots=True)
class Place:
    """Where a value was written: a file, or a `--set` argument (line 0)."""

    source: str
    line: int = 0

    def __str__(self) -> str:
        return f"{self.source}:{self.line}" if self.line else self.source


@dataclass(slots=True)
class Document:
    """Parsed values and the place of each key, by its path."""

    value: Any
    places: dict[tuple[str, ...], Place] = field(default_factory=dict)


class _Loader(yaml.SafeLoader):
    """SafeLoader with the resolvers of YAML 1.2's core schema."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012


_Loader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"^(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""])
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"^[-+]?[0-9]+$"), list("-+0123456789"))
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"^[-+]?(?:(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|\.(?:inf|Inf|INF))$|^\.(?:nan|NaN|NAN)$"
    ),
    list("-+.0123456789"),
)


def load_file(path: Path) -> Document:
    """Parse one file. Raises SpecError naming file and line for anything that is not one plain document."""
    return parse(_read(path), path.name if path.parent.name != "sweeps" else f"sweeps/{path.name}")


def _read(path: Path) -> str:
    if not path.is_file():
        raise SpecError(f"{path}: must be a readable file, is {'a folder' if path.is_dir() else 'missing'}")
    try:
        raw = path.read_bytes() if path.stat().st_size <= MAX_BYTES else None
    except OSError as error:
        raise SpecError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error
    if raw is None:
        raise SpecError(f"{path}: must be at most {MAX_BYTES} bytes, has {path.stat().st_size}; a spec holds no data")
    if raw.startswith(b"\xef\xbb\xbf"):
        raise SpecError(f"{path}:1 begins with a byte-order mark; save it as UTF-8 without BOM")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise SpecError(f"{path}:{line} is not UTF-8; save it as UTF-8") from error


def parse(text: str, source: str) -> Document:
    """Parse YAML text. `source` names it in messages."""
    try:
        nodes = list(yaml.compose_all(text, Loader=_Loader))
    except RecursionError:
        raise SpecError(f"{source}: is nested more than {MAX_DEPTH} deep; flatten it") from None
    except yaml.MarkedYAMLError as error:
        line = _line(error.problem_mark)
        raise SpecError(
            f"{source}:{line} is not YAML: {error.problem or error.context}; check indentation and quotes"
        ) from error
    except yaml.YAMLError as error:
        raise SpecError(f"{source}: is not YAML: {' '.join(str(error).split())}") from error
    if len(nodes) != 1 or nodes[0] is None:
        raise SpecError(f"{source}: must be one document, has {len([n for n in nodes if n is not None])}")
    _refuse_anchors(text, source)
    document = Document(None)
    document.value = _Builder(source, document.places).build(nodes[0], (), 0)
    return document


def _line(mark: Any) -> int:
    return mark.line + 1 if mark is not None else 1


def _refuse_anchors(text: str, source: str) -> None:
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise SpecError(f"{source}:{_line(event.start_mark)} uses an anchor or alias; write the value out")


class _Builder:
    """Turns nodes into plain values, noting where each key stands."""

    def __init__(self, source: str, places: dict[tuple[str, ...], Place]) -> None:
        self._source, self._places = source, places
        self._constructor = _Loader("")

    def build(self, node: yaml.Node, path: tuple[str, ...], depth: int) -> Any:
        place = Place(self._source, node.start_mark.line + 1)
        self._places.setdefault(path, place)
        if depth > MAX_DEPTH:
            raise SpecError(f"{place} is nested more than {MAX_DEPTH} deep; flatten it")
        if not node.tag.startswith("tag:yaml.org,2002:"):
            raise SpecError(f"{place} {'.'.join(path)} has the tag {node.tag}; tags are not allowed")
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path, depth)
        if isinstance(node, yaml.SequenceNode):
            return [self.build(child, (*path, str(index)), depth + 1) for index, child in enumerate(node.value)]
        return self._scalar(node, path, place)

    def _mapping(self, node: yaml.MappingNode, path: tuple[str, ...], depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key_node, value_node in node.value:
            place = Place(self._source, key_node.start_mark.line + 1)
            key = key_node.value
            if not isinstance(key, str):
                raise SpecError(f"{place} {'.'.join(path)} has a key that is not a word")
            if key in found:
                first = self._places[(*path, key)]
                raise SpecError(
                    f"{place} {'.'.join((*path, key))} stands twice, first on line {first.line}; remove one"
                )
            self._places[(*path, key)] = place
            found[key] = self.build(value_node, (*path, key), depth + 1)
        return found

    def _scalar(self, node: yaml.Node, path: tuple[str, ...], place: Place) -> Any:
        kind = node.tag.rsplit(":", 1)[-1]
        text = node.value
        if kind == "null":
            return None
        if kind == "bool":
            return text.lower() == "true"
        if kind == "int":
            if len(text) > 18:
                raise SpecError(f"{place} {'.'.join(path)} must have at most 18 digits, was {text[:30]}")
            return int(text)
        if kind == "float":
            value = float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
            if not math.isfinite(value):
                raise SpecError(f"{place} {'.'.join(path)} must be a finite number, was {text}")
            return value
        if kind != "str":
            raise SpecError(f"{place} {'.'.join(path)} has the tag {node.tag}; tags are not allowed")
        if any(ord(character) < 32 and character not in "\n\t" for character in text):
            raise SpecError(f"{place} {'.'.join(path)} has a control character; remove it")
        return text
