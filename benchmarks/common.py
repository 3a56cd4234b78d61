"""What every benchmark shares: options, repeats, pairs, the machine's facts, and one table.

A benchmark is a module with `TITLE` and `run(options) -> list[Row]`. Another one is another file and a line in
`__main__`.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal, TypeVar

Found = TypeVar("Found")

RESULTS = Path(__file__).parent / "results"
LIBRARIES = ("tradesweep", "ray", "torch", "numpy", "pyarrow", "sqlalchemy")
PEERS = ("stable-baselines3",)
"""Libraries that need not be there."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a person asks for."""

    quick: bool = False
    """Tiny sizes: does it run at all?"""
    full: bool = False
    """The sizes of the goals, where they are more than some minutes' work."""
    repeats: int | None = None
    """How often each thing is measured; None is the benchmark's own."""
    db_url: str | None = None
    """A PostgreSQL database to write to, beside SQLite."""

    def size(self, *, quick: int, usual: int, full: int | None = None) -> int:
        """A size by the flags."""
        if self.quick:
            return quick
        return full if self.full and full is not None else usual


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table: something measured several times, or why it was not."""

    what: str
    unit: str
    values: Sequence[float] = ()
    goal: float | None = None
    better: Literal["more", "less"] = "more"
    note: str = ""
    digits: int = 0

    @property
    def median(self) -> float | None:
        return statistics.median(self.values) if self.values else None

    @property
    def best(self) -> float | None:
        return (max if self.better == "more" else min)(self.values, default=None)

    @property
    def worst(self) -> float | None:
        return (min if self.better == "more" else max)(self.values, default=None)

    @property
    def reached(self) -> bool | None:
        """Is the median as good as the goal?"""
        if self.goal is None or self.median is None:
            return None
        return self.median >= self.goal if self.better == "more" else self.median <= self.goal

    def to_dict(self) -> dict[str, Any]:
        numbers = {"median": self.median, "best": self.best, "worst": self.worst, "values": list(self.values)}
        goal = {"goal": self.goal, "better": self.better, "reached": self.reached}
        return {"what": self.what, "unit": self.unit, **numbers, **goal, "note": self.note}

    def cells(self) -> list[str]:
        sign = {"more": "at least ", "less": "at most "}[self.better]
        goal = "" if self.goal is None else sign + self._show(self.goal)
        return [self.what, *map(self._show, (self.median, self.best, self.worst)), self.unit, goal, self.note]

    def _show(self, value: float | None) -> str:
        return "" if value is None else f"{value:,.{self.digits}f}"


@dataclass(frozen=True, kw_only=True)
class Report:
    """What one benchmark found."""

    name: str
    title: str
    rows: Sequence[Row]
    machine: dict[str, Any] = field(default_factory=lambda: machine_facts())

    def to_dict(self) -> dict[str, Any]:
        rows = [row.to_dict() for row in self.rows]
        return {"name": self.name, "title": self.title, "rows": rows, "machine": self.machine}

    def to_markdown(self) -> str:
        heads = ["what", "median", "best", "worst", "unit", "goal", "note"]
        cells = [row.cells() for row in self.rows]
        kept = [i for i, head in enumerate(heads) if head == "what" or any(line[i] for line in cells)]
        lines = [[line[i] for i in kept] for line in [heads, *cells]]
        widths = [max(len(line[i]) for line in lines) for i in range(len(kept))]
        table = [_line(line, widths) for line in lines]
        rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
        facts = ", ".join(f"{name} {value}" for name, value in self.machine.items())
        return "\n".join([f"## {self.name}: {self.title}", "", table[0], rule, *table[1:], "", f"({facts})", ""])

    def save(self) -> None:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{self.name}.json").write_text(json.dumps(self.to_dict(), indent=1) + "\n", encoding="utf-8")
        (RESULTS / f"{self.name}.md").write_text(self.to_markdown(), encoding="utf-8")


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)) + " |"


def alternate(one: Callable[[], Found], other: Callable[[], Found], pairs: int) -> list[tuple[Found, Found]]:
    """Measure both, pair by pair."""
    return [(first, second) for first, second in take_turns([one, other], pairs)]


def take_turns(measures: Sequence[Callable[[], Found]], rounds: int) -> list[list[Found]]:
    """Measure all, round by round, in turns from the first to the last and from the last to the first: a machine that
    grows slower or faster meanwhile favours none."""
    found = []
    for number in range(rounds):
        order = range(len(measures))
        results = {place: measures[place]() for place in (reversed(order) if number % 2 else order)}
        found.append([results[place] for place in order])
    return found


def machine_facts() -> dict[str, Any]:
    """What a number means nothing without."""
    import sqlite3

    return {
        "cpus": len(os.sched_getaffinity(0)),
        "cpu": _cpu_model(),
        "load": round(os.getloadavg()[0], 1),
        "commit": _commit(),
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        **{name: version(name) for name in LIBRARIES},
        **dict(_installed(PEERS)),
    }


def _installed(names: Sequence[str]) -> Iterator[tuple[str, str]]:
    for name in names:
        with suppress(PackageNotFoundError):
            yield name, version(name)


def _cpu_model() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty"]
    done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"
