"""`tradesweep sweep`: run a sweep, or go on with it, and show who won."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tradesweep.cli.board import board_lines
from tradesweep.cli.changes import change_lines
from tradesweep.cli.options import (
    ExperimentArgument,
    JsonOption,
    RootOption,
    SetOption,
    find_home,
    split_settings,
)
from tradesweep.cli.output import print_json, print_lines
from tradesweep.cli.plan import heading, load_plan, row, summary_lines
from tradesweep.cli.progress import Progress, choose_view

if TYPE_CHECKING:
    from tradesweep.home import Home
    from tradesweep.selection import Leaderboard
    from tradesweep.sweep.outcome import Outcome
    from tradesweep.sweep.plan import Plan

FreshOption = Annotated[bool, typer.Option("--fresh", help="Begin another sweep instead of going on with one.")]
ExtendOption = Annotated[
    int | None,
    typer.Option("--extend-steps", min=1, help="Go on with its finished trials, to so many env steps each."),
]


def sweep(
    experiment: ExperimentArgument,
    settings: SetOption = None,
    fresh: FreshOption = False,
    extend_steps: ExtendOption = None,
    root: RootOption = Path(),
    json_: JsonOption = False,
) -> None:
    """Run a sweep, go on with it, or show its result."""
    plan = load_plan(experiment, split_settings(settings), root)
    from tradesweep.sweep.differences import find_changes

    home = find_home(root)
    changed = None if fresh else find_changes(plan, home)
    print_lines([] if json_ else change_lines(changed))
    outcome, board = run_plan(plan, home, root.absolute(), fresh=fresh, quiet=json_, extend_steps=extend_steps)
    if json_:
        told = {**asdict(outcome), "changed_since": changed and changed.to_dict()}
        print_json({**told, "leaderboard": board.to_dict()})
    else:
        again = same_command(experiment, split_settings(settings), root)
        print_lines(["", *outcome_lines(outcome, again), *board_lines(board), "", *next_lines(experiment, board)])
    raise typer.Exit(outcome.exit_code)


def run_plan(
    plan: Plan, home: Home, root: Path, *, fresh: bool, quiet: bool, extend_steps: int | None = None
) -> tuple[Outcome, Leaderboard]:
    """Run the sweep in this thread, its progress shown by another; how it ended, and the leaderboard."""
    if not quiet:
        print_lines([heading(plan), *summary_lines(plan), *(f"warning: {text}" for text in plan.warnings)])
        print_lines([] if extend_steps is None else [row("extended", f"to {extend_steps:,} env steps a trial")])
    from tradesweep.sweep.start import start_sweep

    view = choose_view(quiet=quiet)
    steps = plan.spec.budget.env_steps_per_trial
    with Progress(home.database, view, trials=plan.trials, env_steps_per_trial=steps) as progress:
        outcome = start_sweep(
            plan, home=home, root=root, fresh=fresh, extend_steps=extend_steps, on_started=progress.watch
        )
    from tradesweep.selection import build_leaderboard
    from tradesweep.store import open_store

    return outcome, build_leaderboard(open_store(home.database), outcome.sweep_id)


def same_command(experiment: str, settings: list[str], root: Path) -> str:
    """What goes on with the sweep, to be copied: without --fresh, which would begin another one."""
    words = [word for setting in settings for word in ("--set", setting)]
    return shlex.join(["tradesweep", "sweep", experiment, *words, *(["--root", str(root)] if root != Path() else [])])


def outcome_lines(outcome: Outcome, again: str) -> list[str]:
    """What is worth saying about how it ended."""
    lines = []
    if outcome.already_finished:
        lines += [
            "this sweep has finished already",
            "more budget.trials or --extend-steps go on with it, --fresh begins another",
        ]
    if outcome.failed:
        lines.append(f"warning: {outcome.failed} of {outcome.trials} trials failed; `tradesweep status` says why")
    if outcome.undelivered:
        rows = f"{outcome.undelivered:,} rows"
        lines.append(f"warning: MLflow did not take {rows}; the next `sweep` or `promote` delivers them")
    if outcome.exit_code in (130, 143):
        lines.append(f"interrupted; the same command goes on: {again}")
    return lines


def next_lines(experiment: str, board: Leaderboard) -> list[str]:
    """What a person would do now."""
    lines = [f"next: tradesweep status {experiment}", "      tradesweep ui"]
    return [*lines, f"      tradesweep promote {experiment} --dry-run"] if board.best is not None else lines
