"""`tradesweep sweep`: run a sweep, or go on with it, and show who won."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tradesweep.cli.board import board_lines
from tradesweep.cli.changes import change_lines
from tradesweep.cli.options import (
    JsonOption,
    RootOption,
    RunArgument,
    SetOption,
    check_root,
    check_sweep_name,
    find_home,
    split_settings,
)
from tradesweep.cli.output import cut, print_json, print_lines
from tradesweep.cli.plan import heading, load_plan, row, summary_lines
from tradesweep.cli.progress import Progress, choose_view

if TYPE_CHECKING:
    from tradesweep.home import Home
    from tradesweep.selection import Leaderboard
    from tradesweep.sweep.outcome import Outcome
    from tradesweep.sweep.plan import Plan

INTERRUPTED = (129, 130, 143)
"""Exit codes of a sweep that a signal ended: a hang-up, Ctrl-C, SIGTERM."""

FreshOption = Annotated[bool, typer.Option("--fresh", help="Begin another sweep instead of going on with one.")]
ExtendOption = Annotated[
    int | None,
    typer.Option("--extend-steps", min=1, help="Go on with its finished trials, to so many env steps each."),
]


def sweep(
    name: RunArgument,
    settings: SetOption = None,
    fresh: FreshOption = False,
    extend_steps: ExtendOption = None,
    root: RootOption = Path(),
    json_: JsonOption = False,
) -> None:
    """Run a sweep, go on with it, or show its result."""
    home = find_home(root)
    experiment, sweep_id = find_named(name, home, root)
    plan = load_plan(experiment, split_settings(settings), root)
    from tradesweep.sweep.differences import find_changes

    changed = None if fresh or sweep_id is not None else find_changes(plan, home)
    print_lines([] if json_ else change_lines(changed))
    how = {"fresh": fresh, "extend_steps": extend_steps, "sweep_id": sweep_id}
    outcome, board = run_plan(plan, home, root.absolute(), quiet=json_, **how)
    if json_:
        told = {**asdict(outcome), "changed_since": changed and changed.to_dict()}
        print_json({**told, "leaderboard": board.to_dict()})
    else:
        again = same_command(name, split_settings(settings), root)
        print_lines(["", *outcome_lines(outcome, again), *board_lines(board), "", *next_lines(name, board)])
    raise typer.Exit(outcome.exit_code)


def find_named(name: str, home: Home, root: Path) -> tuple[str, str | None]:
    """The experiment that a name means, and the sweep's id when it is the name of a sweep."""
    check_sweep_name(name)
    folder = check_root(root)
    from tradesweep.spec import list_experiments
    from tradesweep.sweep.start import find_experiment

    return find_experiment(name, list_experiments(folder), home)


def run_plan(plan: Plan, home: Home, root: Path, *, quiet: bool, **how: Any) -> tuple[Outcome, Leaderboard]:
    """Run the sweep in this thread, its progress shown by another; how it ended, and the leaderboard.

    `how` says which sweep of the plan is meant, as in `settle_plan`.
    """
    from tradesweep.sweep.start import settle_plan, start_sweep

    plan = settle_plan(plan, home, **how)
    if not quiet:
        print_lines([heading(plan), *summary_lines(plan), *(f"warning: {text}" for text in plan.warnings)])
        print_lines(extension_lines(plan))
    view, steps = choose_view(quiet=quiet), plan.env_steps_per_trial
    with Progress(home.database, view, trials=plan.trials, env_steps_per_trial=steps) as progress:
        outcome = start_sweep(plan, home=home, root=root, on_started=progress.watch)
    from tradesweep.selection import build_leaderboard
    from tradesweep.store import open_store

    return outcome, build_leaderboard(open_store(home.database), outcome.sweep_id)


def extension_lines(plan: Plan) -> list[str]:
    """What its trials were or are extended to; nothing where they have what the spec says."""
    if plan.extended_env_steps is None:
        return []
    return [row("extended", f"to {plan.extended_env_steps:,} env steps a trial")]


def same_command(experiment: str, settings: list[str], root: Path) -> str:
    """What goes on with the sweep, to be copied: without --fresh, which would begin another one."""
    words = [word for setting in settings for word in ("--set", setting)]
    return shlex.join(["tradesweep", "sweep", experiment, *words, *(["--root", str(root)] if root != Path() else [])])


def outcome_lines(outcome: Outcome, again: str) -> list[str]:
    """What is worth saying about how it ended."""
    lines = already_lines(outcome)
    if outcome.failed:
        why = f"`tradesweep status {outcome.sweep_id}` says why"
        lines.append(f"warning: {outcome.failed} of {outcome.trials} trials failed; {why}")
    if outcome.status == "FAILED":
        lines.append("no trial has an objective; none is trained again that failed or diverged")
        lines += [cut(f"  trial {number}: {error}") for number, error in outcome.errors.items()]
    if outcome.undelivered:
        rows = f"{outcome.undelivered:,} rows"
        lines.append(f"warning: MLflow did not take {rows}; the next `sweep` or `promote` delivers them")
    if outcome.exit_code in INTERRUPTED:
        lines.append(f"interrupted; the same command goes on: {again}")
    return lines


def already_lines(outcome: Outcome) -> list[str]:
    """That there was nothing to do, and what would be more to do."""
    if not outcome.already_finished:
        return []
    if outcome.status == "FAILED":
        more = (
            "more budget.trials, or budget.max_retries for trials that crashed, go on with it, --fresh begins another"
        )
        return ["this sweep has failed already", more]
    more = "more budget.trials or --extend-steps go on with it, --fresh begins another"
    return ["this sweep has finished already", more]


def next_lines(experiment: str, board: Leaderboard) -> list[str]:
    """What a person would do now."""
    lines = [f"next: tradesweep status {experiment}", "      tradesweep ui"]
    return [*lines, f"      tradesweep promote {experiment} --dry-run"] if board.best is not None else lines
