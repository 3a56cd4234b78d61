"""`tradesweep promote`: the gate, the test split once, the alias `champion`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tradesweep.cli.options import JsonOption, RootOption, SweepArgument, check_sweep_name, find_home
from tradesweep.cli.output import (
    format_number,
    format_percent,
    format_time,
    print_json,
    print_lines,
    three_numbers,
)
from tradesweep.errors import BadInput, NotFound

if TYPE_CHECKING:
    from tradesweep.home import Home
    from tradesweep.selection import Check, Promotion, TestReading

DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Show the gate's table; read and write nothing.")]
ForceOption = Annotated[bool, typer.Option("--force", help="Pass a failed check; needs --reason, and is recorded.")]
ReasonOption = Annotated[str | None, typer.Option("--reason", metavar="TEXT", help="Why it is forced.")]


def promote(
    name: SweepArgument,
    dry_run: DryRunOption = False,
    force: ForceOption = False,
    reason: ReasonOption = None,
    root: RootOption = Path(),
    json_: JsonOption = False,
) -> None:
    """Read test once; make the best checkpoint champion."""
    check_sweep_name(name)
    check_force(force=force, reason=reason)
    from tradesweep.selection import GateRefused, describe_refusal

    home = find_home(root)
    try:
        promotion = run(home, name, reason, dry_run=dry_run)
        if promotion.verdict == "REFUSED":
            raise GateRefused(describe_refusal(promotion.sweep_id, promotion.checks), promotion.checks)
    except GateRefused as error:
        if not json_:
            print_lines(check_lines(error.checks))
            raise
        table = [asdict(check) for check in error.checks]
        said = {"type": "GateRefused", "message": str(error), "exit_code": error.exit_code, "checks": table}
        typer.echo(json.dumps({"error": said}))
        raise typer.Exit(error.exit_code) from error
    if json_:
        print_json(promotion.to_dict())
    else:
        print_lines(promotion_lines(promotion))


def check_force(*, force: bool, reason: str | None) -> None:
    """A forced promotion says why. Raises BadInput."""
    if force and not (reason or "").strip():
        raise BadInput('--force must say why: --reason "..."; it is kept with the promotion')
    if reason is not None and not force:
        raise BadInput("--reason must come with --force, came alone")


def run(home: Home, name: str, reason: str | None, *, dry_run: bool) -> Promotion:
    """Rehearse or promote."""
    from tradesweep.selection import Force, rehearse_promotion
    from tradesweep.selection import promote as promote_best
    from tradesweep.store import database_exists

    if not database_exists(home.database):
        raise NotFound(f"there is no sweep yet in {home.path}; run `tradesweep sweep {name}`")
    if dry_run:
        return rehearse_promotion(home, name)
    return promote_best(home, name, force=None if reason is None else Force(reason=reason))


def promotion_lines(promotion: Promotion) -> list[str]:
    """The table, the three numbers, the test split, and what the registry says now."""
    lines = [
        f"{promotion.sweep_id}: trial {promotion.trial_no}, iteration {promotion.iteration}",
        three_numbers(promotion.sharpe, promotion.hurdle),
        *check_lines(promotion.checks),
    ]
    if promotion.reading is None:
        return [*lines, "would be promoted; the test split was not read and nothing was written"]
    return [*lines, *reading_lines(promotion.reading), version_line(promotion)]


def check_lines(checks: tuple[Check, ...]) -> list[str]:
    """A line a check."""
    return [
        f"{'pass' if check.passed else 'FAIL'}  {check.name:<9} {_text(check.value)} ({check.limit}): "
        f"{check.explanation}"
        for check in checks
    ]


def _text(value: float | str | None) -> str:
    if value is None or isinstance(value, str):
        return value or "-"
    return f"{value:,}" if float(value).is_integer() else f"{value:.6f}"


def reading_lines(reading: TestReading) -> list[str]:
    """What the test split said, and how often its bars were read."""
    details = reading.details
    sharpe = "flat" if reading.sharpe is None else format_number(reading.sharpe)
    line = f"test Sharpe {sharpe}"
    if details:
        drawdown = format_percent(100.0 * details["max_drawdown"])
        line += f" | pnl {format_percent(details['pnl_pct'])} | max drawdown {drawdown} | {details['trades']} trades"
    if reading.sharpe is None or reading.sharpe <= 0.0:
        line += "\nthe test split does not confirm what validation showed"
    if reading.earlier:
        return [line, f"read by an earlier promotion at {format_time(reading.at)}; it was not read again"]
    return [line, f"reading {reading.number} of these test bars; it was written down"]


def version_line(promotion: Promotion) -> str:
    """The champion now."""
    text = f"model {promotion.model} version {promotion.version}"
    if promotion.already_champion:
        return f"{text} was champion already; nothing changed"
    before = "" if promotion.previous_version is None else f", after version {promotion.previous_version}"
    forced = " (FORCED)" if promotion.verdict == "FORCED" else ""
    return f"{text} is champion now{before}{forced}"
