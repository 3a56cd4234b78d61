"""`tradesweep sweep`: run a sweep, or go on with it, and show who won."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tradesweep.cli.board import board_lines
from tradesweep.cli.options import (
    ExperimentArgument,
    JsonOption,
    RootOption,
    SetOption,
    find_home,
    split_settings,
)
from tradesweep.cli.output import print_json, print_lines
from tradesweep.cli.plan import heading, load_plan, summary_lines
from tradesweep.cli.progress import Progress, choose_view

if TYPE_CHECKING:
    from tradesweep.home import Home
    from tradesweep.selection import Leaderboard
    from tradesweep.sweep.outcome import Outcome
    from tradesweep.sweep.plan import Plan

FreshOption = Annotated[bool, typer.Option("--fresh", help="Begin another sweep instead of going on with one.")]


def sweep(
    experiment: ExperimentArgument,
    settings: SetOption = None,
    fresh: FreshOption = False,
    root: RootOption = Path(),
    json_: JsonOption = False,
) -> None:
    """Run a sweep, go on with it, or show its result."""
    plan = load_plan(experiment, split_settings(settings), root)
    outcome, board = run_plan(plan, find_home(root), root.absolute(), fresh=fresh, quiet=json_)
    if json_:
        print_json({**asdict(outcome), "leaderboard": board.to_dict()})
    else:
        print_lines(["", *outcome_lines(outcome), *board_lines(board), "", *next_lines(experiment, board)])
    raise typer.Exit(outcome.exit_code)


def run_plan(plan: Plan, home: Home, root: Path, *, fresh: bool, quiet: bool) -> tuple[Outcome, Leaderboard]:
    """Run the sweep in this thread, its progress shown by another; how it ended, and the leaderboard."""
    if not quiet:
        print_lines([heading(plan), *summary_lines(plan), *(f"warning: {text}" for text in plan.warnings)])
    from tradesweep.sweep.start import start_sweep

    view = choose_view(quiet=quiet)
    steps = plan.spec.budget.env_steps_per_trial
    with Progress(home.database, view, trials=plan.trials, env_steps_per_trial=steps) as progress:
        outcome = start_sweep(plan, home=home, root=root, fresh=fresh, on_started=progress.watch)
    from tradesweep.selection import build_leaderboard
    from tradesweep.store import open_store

    return outcome, build_leaderboard(open_store(home.database), outcome.sweep_id)


def outcome_lines(outcome: Outcome) -> list[str]:
    """What is worth saying about how it ended."""
    lines = []
    if outcome.already_finished:
        lines += ["this sweep has finished already", "more budget.trials go on with it, --fresh begins another"]
    if outcome.failed:
        lines.append(f"warning: {outcome.failed} of {outcome.trials} trials failed; `tradesweep status` says why")
    if outcome.undelivered:
        rows = f"{outcome.undelivered:,} rows"
        lines.append(f"warning: MLflow did not take {rows}; the next `sweep` or `promote` delivers them")
    if outcome.exit_code in (130, 143):
        lines.append("interrupted; the same command goes on")
    return lines


def next_lines(experiment: str, board: Leaderboard) -> list[str]:
    """What a person would do now."""
    lines = [f"next: tradesweep status {experiment}", "      tradesweep ui"]
    return [*lines, f"      tradesweep promote {experiment} --dry-run"] if board.best is not None else lines
