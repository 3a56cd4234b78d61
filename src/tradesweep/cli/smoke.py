"""`tradesweep smoke`: both algorithms end to end, then every rule of the database."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tradesweep.cli.options import JsonOption, RootOption
from tradesweep.cli.output import print_json, print_lines, three_numbers
from tradesweep.cli.plan import load_plan
from tradesweep.cli.sweep import run_plan
from tradesweep.cli.verify import BROKEN, check_rules, rule_lines

if TYPE_CHECKING:
    from tradesweep.selection import Leaderboard
    from tradesweep.store import RuleResult
    from tradesweep.sweep.outcome import Outcome

EXPERIMENTS = ("smoke_dqn", "smoke_ppo")
KeepOption = Annotated[bool, typer.Option("--keep", help="Keep the results also when all is well.")]


def smoke(keep: KeepOption = False, root: RootOption = Path(), json_: JsonOption = False) -> None:
    """Run both smoke sweeps, then verify.

    In a folder of their own, which goes away when all is well.
    """
    from tradesweep.home import Home
    from tradesweep.sweep.garbage import SMOKE

    plans = [load_plan(name, [], root) for name in EXPERIMENTS]
    os.environ["MLFLOW_TRACKING_URI"] = ""  # these runs are nobody's results: they stay in the folder
    home = Home(Path(tempfile.mkdtemp(prefix=f"{SMOKE}-{os.getpid()}-")))
    runs = [run_plan(plan, home, root.absolute(), quiet=json_) for plan in plans]
    results = check_rules(home, None)
    passed = all(outcome.exit_code == 0 for outcome, _ in runs) and all(result.passed for result in results)
    kept = keep or not passed
    if not kept:
        shutil.rmtree(home.path, ignore_errors=True)
    if json_:
        print_json(describe(runs, results, passed=passed, kept=str(home.path) if kept else None))
    else:
        print_lines(["", *smoke_lines(runs), *rule_lines(results)])
        print_lines([f"results: {home.path}"] if kept else [])
    raise typer.Exit(0 if passed else BROKEN)


def smoke_lines(runs: list[tuple[Outcome, Leaderboard]]) -> list[str]:
    """A line a sweep."""
    lines = []
    for outcome, board in runs:
        best = board.best
        said = "no eligible policy" if best is None else three_numbers(best.sharpe or 0.0, board.hurdle)
        lines.append(f"{outcome.sweep_id} {outcome.status.value}: {said}")
    return lines


def describe(
    runs: list[tuple[Outcome, Leaderboard]], results: list[RuleResult], *, passed: bool, kept: str | None
) -> dict[str, object]:
    """For `--json`."""
    return {
        "passed": passed,
        "sweeps": [{"status": outcome.status.value, **board.to_dict()} for outcome, board in runs],
        "broken_rules": [result.rule for result in results if not result.passed],
        "results": kept,
    }
