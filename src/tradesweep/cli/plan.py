"""`tradesweep plan`: what a sweep would do and need; nothing is started and nothing is written."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tradesweep.cli.changes import change_lines
from tradesweep.cli.options import (
    ExperimentArgument,
    JsonOption,
    RootOption,
    SetOption,
    check_experiment_name,
    check_root,
    find_home,
    split_settings,
)
from tradesweep.cli.output import format_bytes, format_number, print_json, print_lines

if TYPE_CHECKING:
    from tradesweep.sweep.plan import Plan


def plan(
    experiment: ExperimentArgument,
    settings: SetOption = None,
    root: RootOption = Path(),
    json_: JsonOption = False,
) -> None:
    """Show what a sweep would do and need; start nothing."""
    home = find_home(root)
    made = load_plan(experiment, split_settings(settings), root)
    from tradesweep.sweep.differences import find_changes
    from tradesweep.sweep.plan import look_at_disk

    made, changed = look_at_disk(made, home), find_changes(made, home)
    if json_:
        print_json({**made.to_dict(), "changed_since": changed and changed.to_dict()})
    else:
        print_lines([*plan_lines(made), *change_lines(changed)])


def load_plan(experiment: str, settings: list[str], root: Path) -> Plan:
    """The checked plan of an experiment. Raises BadInput."""
    check_experiment_name(experiment)
    folder = check_root(root)
    from tradesweep.spec import load_spec

    spec = load_spec(experiment, root=folder, overrides=settings)
    from tradesweep.sweep.plan import make_plan

    return make_plan(spec)


def plan_lines(made: Plan) -> list[str]:
    """A plan for people."""
    lines = [heading(made), *summary_lines(made)]
    proof = "passed" if made.lookahead.passed else "FAILED"
    lines.append(row("look-ahead", f"{proof}: both proofs, {made.lookahead.cuts} cuts"))
    for facts in made.splits:
        holding = format_number(facts.buy_and_hold_sharpe)
        lines.append(row(facts.name, f"{facts.bars:,} bars, {facts.years:.1f} years, buy-and-hold Sharpe {holding}"))
    test = made.market.splits["test"]
    lines.append(row("test", f"{len(test):,} bars; read by promote alone"))
    return [*lines, *(f"warning: {warning}" for warning in made.warnings)]


def heading(made: Plan) -> str:
    """Which sweep."""
    return f"{made.sweep_id}: {made.spec.algorithm} on {made.market.instrument}, {made.spec.searcher.kind} search"


def summary_lines(made: Plan) -> list[str]:
    """What it will cost, and what luck alone would show."""
    from tradesweep.sweep.plan import describe_limits

    have = made.resources
    remote = f"{have.env_runners} remote env runner{'s' if have.env_runners > 1 else ''}"
    runners = remote if have.env_runners else "sampling in process"
    free = "" if made.free_bytes is None else f", {format_bytes(made.free_bytes)} are free"
    left = "" if made.free_disk_bytes is None else f", {format_bytes(made.free_disk_bytes)} are free"
    return [
        row("trials", f"{describe_trials(made)}, {have.concurrent_trials} at a time on {have.cpus} CPUs"),
        *(row("limits", "; ".join(limits)) for limits in [describe_limits(made.spec)] if limits),
        row("each", f"{have.cpus_per_trial:g} of the CPUs, {runners}, {have.lanes} lanes"),
        row("because", have.why),
        row("memory", f"about {format_bytes(have.memory_bytes)} for all processes{free}"),
        row("env steps", f"{made.env_steps:,} ({made.env_steps_per_trial:,} a trial), {made.updates:,} updates"),
        row("evaluations", f"{made.evaluations} a trial, {made.validation_bars:,} bars each"),
        row("rows", f"about {made.rows:,} steps, {format_bytes(made.disk_bytes)} on disk{left}"),
        row("luck hurdle", f"{made.hurdle:.2f}: the Sharpe the best of {made.trials} skill-less trials would show"),
    ]


def describe_trials(made: Plan) -> str:
    """How many, and what they are made of where a point has more than one."""
    confirm, text = made.spec.confirm, ""
    if made.spec.seeds > 1:
        text = f"{made.points} points x {made.spec.seeds} seeds = "
    text += str(made.trials - made.confirmations)
    if confirm is None:
        return text
    return f"{text}, then the best {confirm.top} on {confirm.seeds} fresh seeds = {made.trials}"


def row(label: str, text: str) -> str:
    """A label and what it says."""
    return f"  {label:<12} {text}"
