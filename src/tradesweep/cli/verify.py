"""`tradesweep verify`: every rule of the database, and the files it names."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from tradesweep.cli.options import JsonOption, OptionalSweepArgument, RootOption, check_sweep_name, find_home
from tradesweep.cli.output import print_json, print_lines

if TYPE_CHECKING:
    from tradesweep.home import Home
    from tradesweep.store import RuleResult

BROKEN = 1


def verify(name: OptionalSweepArgument = None, root: RootOption = Path(), json_: JsonOption = False) -> None:
    """Check every rule of the database.

    Exit code 1 when one is broken.
    """
    if name is not None:
        check_sweep_name(name)
    with show_progress() as tell:
        results = check_rules(find_home(root), name, tell)
    passed = all(result.passed for result in results)
    if json_:
        print_json({"passed": passed, "rules": [asdict(result) for result in results]})
    else:
        print_lines(rule_lines(results))
    raise typer.Exit(0 if passed else BROKEN)


@contextmanager
def show_progress() -> Iterator[Callable[[str], None]]:
    """On a terminal, what is being checked, as long as it lasts; a large database takes half a minute."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console

    with Console(stderr=True).status("opening the database") as status:
        yield status.update


def check_rules(home: Home, name: str | None, tell: Callable[[str], None] = lambda _: None) -> list[RuleResult]:
    """All rules, for a sweep or for all of them, the hashes of checkpoint files included."""
    from tradesweep.policy import verify_manifest
    from tradesweep.store import open_store
    from tradesweep.store import verify as verify_store

    return verify_store(
        open_store(home.database),
        name,
        check_checkpoint=lambda path, sha256: verify_manifest(home.path / path, sha256),
        tell=tell,
    )


def rule_lines(results: list[RuleResult]) -> list[str]:
    """A line a rule; a broken one with its first rows."""
    lines: list[str] = []
    for result in results:
        lines.append(f"{'pass' if result.passed else 'FAIL'}  {result.rule}: {result.description}")
        lines += [f"      {example}" for example in result.examples]
        if result.violations > len(result.examples):
            lines.append(f"      ... {result.violations} in all")
    broken = sum(not result.passed for result in results)
    return [*lines, f"{broken} of {len(results)} rules are broken" if broken else f"all {len(results)} rules hold"]
