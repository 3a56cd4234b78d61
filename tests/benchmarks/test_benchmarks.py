"""Benchmarks run, and say what they measured. How fast anything is, no test asserts."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from benchmarks.__main__ import BENCHMARKS
from benchmarks.build_database import build_database
from benchmarks.common import Report, Row, alternate, take_turns
from benchmarks.kernel import draw_actions

from tradesweep.names import Record
from tradesweep.store import open_store, verify

ROOT = Path(__file__).parent.parent.parent


def run_quickly(*names: str) -> list[dict[str, Any]]:
    command = [sys.executable, "-m", "benchmarks", *names, "--quick", "--json"]
    done = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    reports: list[dict[str, Any]] = json.loads(done.stdout)
    return reports


def check_shape(report: dict[str, Any], name: str) -> None:
    assert report["name"] == name
    assert {"cpus", "cpu", "load", "commit", "python", "sqlite", "ray"} <= report["machine"].keys()
    assert len(report["rows"]) >= 2
    for row in report["rows"]:
        assert row["what"]
        assert row["unit"]
        assert row["values"] or row["note"], "what was not measured says why"
        assert all(math.isfinite(value) for value in row["values"])
    assert any(row["goal"] for row in report["rows"]) or name == "verify"


def test_the_benchmark_of_verify_runs() -> None:
    [report] = run_quickly("verify")
    check_shape(report, "verify")


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.parametrize("name", sorted(set(BENCHMARKS) - {"verify"}))
def test_every_benchmark_runs(name: str) -> None:
    [report] = run_quickly(name)
    check_shape(report, name)


def test_an_unknown_benchmark_is_refused_with_the_known_ones() -> None:
    command = [sys.executable, "-m", "benchmarks", "nonsense"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "nonsense: benchmarks are recording" in done.stderr


@pytest.mark.parametrize(("activity", "traded"), [(0.0, False), (0.56, True)])
def test_a_database_that_was_built_keeps_every_rule(tmp_path: Path, activity: float, traded: bool) -> None:
    made = build_database(tmp_path / "built.db", steps=6_000, trials=2, iterations=2, lanes=8, activity=activity)
    store = open_store(tmp_path / "built.db")
    assert [result for result in verify(store) if not result.passed] == []
    with store.connect() as db:
        trained = "SELECT count(*) FROM effective_steps WHERE role = 'train'"
        assert made == db.exec_driver_sql(trained).scalar_one() >= 6_000
        assert bool(db.exec_driver_sql(f"SELECT count(*) FROM {Record.FILLS}").scalar_one()) == traded


def test_pairs_alternate_and_name_which_is_which() -> None:
    calls: list[str] = []

    def measure(name: str) -> str:
        calls.append(name)
        return name

    pairs = alternate(lambda: measure("a"), lambda: measure("b"), 3)
    assert pairs == [("a", "b")] * 3
    assert calls == ["a", "b", "b", "a", "a", "b"]


def test_turns_go_forth_and_back_and_results_stand_in_their_places() -> None:
    calls: list[int] = []
    rounds = take_turns([lambda number=number: calls.append(number) or number for number in range(3)], 2)
    assert rounds == [[0, 1, 2]] * 2
    assert calls == [0, 1, 2, 2, 1, 0]


def test_decisions_are_kept_between_new_ones() -> None:
    actions_TE = draw_actions(2_000, 8)
    assert set(np.unique(actions_TE)) == {0, 1, 2}
    changed = (actions_TE[1:] != actions_TE[:-1]).mean()
    assert 0.34 < changed < 0.41, "56 of 100 are new, a third of those draws the same again"


def test_a_table_has_median_best_and_worst_and_says_what_was_not_measured() -> None:
    fast = Row(what="fast", unit="rows/s", values=[1_000.0, 3_000.0, 2_000.0], goal=2_500)
    small = Row(what="small", unit="MB", values=[1.25, 0.5, 3.0], goal=2.0, better="less", digits=1)
    report = Report(name="n", title="t", rows=[fast, small, Row(what="none", unit="s", note="skipped")], machine={})
    lines = report.to_markdown().splitlines()
    assert [cell.strip() for cell in lines[4].split("|")[1:-2]] == [
        *("fast", "2,000", "3,000", "1,000", "rows/s", "at least 2,500")
    ]
    assert [cell.strip() for cell in lines[5].split("|")[1:-2]] == ["small", "1.2", "0.5", "3.0", "MB", "at most 2.0"]
    assert [row["reached"] for row in report.to_dict()["rows"]] == [False, True, None]
    assert "skipped" in lines[6]
