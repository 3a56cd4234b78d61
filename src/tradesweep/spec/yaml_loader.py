"""A safe YAML loader that knows where everything stands and refuses what would surprise.

Stock PyYAML reads `1e-4` as text, `010` as 8, `1:30` as 90, `on` as true, dates as dates, and lets the last of two
equal keys win. Here numbers are numbers, words are text, and duplicates, anchors, tags and several documents are
errors with file and line. Values are built from the parser's events, so nothing is built before it is refused.
"""

from __future__ import annotations

import math
import re
import stat
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tradesweep.errors import SpecError

MAX_BYTES = 100_000
"""Read in about a second; a spec holds no data."""
MAX_DEPTH = 20
MAX_KEY_LENGTH = 100
MAX_DIGITS = 18
"""More would not fit into the database's integers."""

NULLS = frozenset({"", "~", "null", "Null", "NULL"})
BOOLS = {
    "true": True, "True": True, "TRUE": True,
    "false": False, "False": False, "FALSE": False,
}  # fmt: skip
INT = re.compile(r"[-+]?[0-9]+")
FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
NOT_FINITE = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")

KeyPath = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a value was written: a file, or a `--set` argument (line 0)."""

    source: str
    line: int = 0

    @property
    def is_setting(self) -> bool:
        """Written on the command line."""
        return self.line == 0

    def __str__(self) -> str:
        return self.source if self.is_setting else f"{self.source}:{self.line}"


@dataclass(slots=True)
class Document:
    """Parsed values and the place of each key, by its path."""

    value: Any
    places: dict[KeyPath, Place] = field(default_factory=dict)


def load_file(path: Path) -> Document:
    """Parse one file. Raises SpecError naming file and line for anything that is not one plain document."""
    return parse(_read(path), path.name if path.parent.name != "sweeps" else f"sweeps/{path.name}")


def parse(text: str, source: str, *, lines: bool = True) -> Document:
    """Parse YAML text. `source` names it in messages, with the line unless `lines` is false."""
    return _Reader(text, source, lines).document()


def _read(path: Path) -> str:
    raw = _read_bytes(path)
    if len(raw) > MAX_BYTES:
        raise SpecError(f"{path}: must be at most {MAX_BYTES} bytes, is larger; a spec holds no data")
    if raw.startswith(b"\xef\xbb\xbf"):
        raise SpecError(f"{path}:1 must not begin with a byte-order mark, does; save it as UTF-8 without BOM")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise SpecError(f"{path}:{line} must be UTF-8, has the byte {raw[error.start]:#x}; save it as UTF-8") from error


def _read_bytes(path: Path) -> bytes:
    """At most one byte more than is allowed. A pipe or a device is never opened: reading it might not end."""
    try:
        mode = path.stat().st_mode
        if stat.S_ISREG(mode):
            with path.open("rb") as file:
                return file.read(MAX_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise SpecError(f"{path}: must exist, is missing") from error
    except OSError as error:
        raise SpecError(f"{path}: must be readable, is not ({error.strerror}); check its permissions") from error
    except ValueError as error:  # a null byte in the name
        raise SpecError(f"{str(path)!r}: must be the name of a file, is not ({error})") from error
    what = "a folder" if stat.S_ISDIR(mode) else "a pipe, socket or device"
    raise SpecError(f"{path}: must be a file, is {what}; write the spec there")


class _Reader:
    """Turns events into plain values, noting where each key stands."""

    def __init__(self, text: str, source: str, lines: bool) -> None:
        self._text, self._source, self._lines = text, source, lines
        self._line = 1
        self._places: dict[KeyPath, Place] = {}
        self._events = self._checked_events()

    def document(self) -> Document:
        """The only document. Raises SpecError when there is none, or another one after it."""
        next(self._events)  # the stream begins
        if isinstance(next(self._events), yaml.StreamEndEvent):
            raise self._error("must hold a value, is empty", ())
        value = self._value(next(self._events), (), 0)
        next(self._events)  # the document ends
        if not isinstance(next(self._events), yaml.StreamEndEvent):
            raise self._error("must be one document, has another one here; remove it", ())
        return Document(value, self._places)

    def _checked_events(self) -> Iterator[yaml.Event]:
        """Events without anchors, aliases and tags; what the parser cannot read becomes a SpecError."""
        try:
            for event in yaml.parse(self._text, Loader=yaml.SafeLoader):
                self._line = event.start_mark.line + 1  # type: ignore[union-attr]
                if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
                    raise self._error("must not use an anchor or alias, does; write the value out", ())
                if (tag := getattr(event, "tag", None)) is not None:
                    raise self._error(f"must not have a tag, has {tag[:80]!r}; remove it", ())
                yield event
        except yaml.reader.ReaderError as error:
            self._line = self._text.count("\n", 0, error.position) + 1
            code = error.character if isinstance(error.character, int) else ord(error.character)
            raise self._error(f"must not hold control characters, has U+{code:04X}; remove it", ()) from error
        except yaml.MarkedYAMLError as error:
            self._line = error.problem_mark.line + 1 if error.problem_mark else self._line
            problem = " ".join(str(error.problem or error.context).split())
            raise self._error(f"must be YAML, is not: {problem[:200]}; check indentation and quotes", ()) from error
        except (yaml.YAMLError, ValueError, OverflowError) as error:
            if isinstance(error, SpecError):
                raise
            # PyYAML lets a few slip: the escape "\UFFFFFFFF", or a %YAML version of thousands of digits.
            raise self._error("must be YAML, is not: bad escape or directive after here; mend it", ()) from error

    def _value(self, event: yaml.Event, path: KeyPath, depth: int) -> Any:
        self._places.setdefault(path, self._place())
        if depth > MAX_DEPTH:
            raise self._error(f"must be nested at most {MAX_DEPTH} deep, is deeper; flatten it", ())
        if isinstance(event, yaml.MappingStartEvent):
            return self._mapping(path, depth)
        if isinstance(event, yaml.SequenceStartEvent):
            return self._sequence(path, depth)
        return self._scalar(event, path)

    def _sequence(self, path: KeyPath, depth: int) -> list[Any]:
        found: list[Any] = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            found.append(self._value(event, (*path, str(len(found))), depth + 1))
        return found

    def _mapping(self, path: KeyPath, depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            key = self._key(event, path)
            below = (*path, key)
            if key in found:
                first = f", first on line {self._places[below].line}" if self._lines else ""
                raise self._error(f"must stand once, stands twice{first}; remove one", below)
            self._places[below] = self._place()
            found[key] = self._value(next(self._events), below, depth + 1)
        return found

    def _key(self, event: yaml.Event, path: KeyPath) -> str:
        if not isinstance(event, yaml.ScalarEvent):
            raise self._error("must have words as keys, has a list or a mapping as one", path)
        key = str(event.value)
        if not key.strip() or not key.isprintable() or len(key) > MAX_KEY_LENGTH:
            rule = f"must have keys of 1 to {MAX_KEY_LENGTH} printable characters"
            raise self._error(f"{rule}, was {key[:MAX_KEY_LENGTH]!r}", path)
        return key

    def _scalar(self, event: Any, path: KeyPath) -> Any:
        text = event.value
        if event.style is not None:
            return self._word(text, path)
        if text in NULLS:
            return None
        if text in BOOLS:
            return BOOLS[text]
        if INT.fullmatch(text):
            return self._whole_number(text, path)
        if FLOAT.fullmatch(text) or NOT_FINITE.fullmatch(text):
            return self._number(text, path)
        return self._word(text, path)

    def _whole_number(self, text: str, path: KeyPath) -> int:
        if len(text.lstrip("+-0")) > MAX_DIGITS:
            raise self._error(f"must have at most {MAX_DIGITS} digits, was {text[:30]}", path)
        return int(text)

    def _number(self, text: str, path: KeyPath) -> float:
        value = float(text) if FLOAT.fullmatch(text) else math.inf
        if not math.isfinite(value):
            raise self._error(f"must be a finite number, was {text[:30]}", path)
        return value

    def _word(self, text: str, path: KeyPath) -> str:
        for character in text:
            if unicodedata.category(character) in ("Cc", "Cs") and character not in "\n\t":
                rule = "must not hold control characters"
                raise self._error(f"{rule}, has U+{ord(character):04X}; remove it", path)
        return text

    def _place(self) -> Place:
        return Place(self._source, self._line if self._lines else 0)

    def _error(self, what: str, path: KeyPath) -> SpecError:
        words = [str(self._place()), ".".join(path), what]
        return SpecError(" ".join(word for word in words if word))
