"""`tradesweep verify` over a large database that keeps every rule."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from benchmarks.build_database import build_database
from benchmarks.common import Options, Row
from tradesweep.store import open_store, verify

TITLE = "checking every rule of a database"
GOAL_S = 60.0
GOAL_STEPS = 10_000_000


def run(options: Options) -> list[Row]:
    steps = options.size(quick=20_000, usual=2_000_000, full=GOAL_STEPS)
    repeats = options.repeats or 1
    with tempfile.TemporaryDirectory(prefix="ts-bench-") as folder:
        database = Path(folder) / "verify.db"
        begun = time.perf_counter()
        made = build_database(database, steps=steps)
        built_s = time.perf_counter() - begun
        found = [check(database) for _ in range(repeats)]
        size_mb = database.stat().st_size / 1e6
    return [
        Row(what=f"building {made:,} steps", unit="s", values=[built_s], better="less", note=f"{size_mb:,.0f} MB"),
        Row(
            what=f"verify {made:,} steps",
            unit="s",
            values=found,
            goal=GOAL_S * made / GOAL_STEPS if options.full else None,
            better="less",
            digits=1,
            note="" if options.full else f"the goal, {GOAL_S:g} s, is for {GOAL_STEPS:,}: --full",
        ),
    ]


def check(database: Path) -> float:
    """Seconds of one verification. Raises AssertionError when the database breaks a rule."""
    begun = time.perf_counter()
    results = verify(open_store(database))
    seconds = time.perf_counter() - begun
    broken = [result.rule for result in results if not result.passed]
    assert not broken, f"the database must keep every rule, breaks {broken}"
    return seconds
