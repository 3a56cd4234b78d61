"""`tradesweep gc`: remove what runs that are gone have left."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tradesweep.cli.options import JsonOption, RootOption, find_home
from tradesweep.cli.output import format_bytes, print_json, print_lines

if TYPE_CHECKING:
    from tradesweep.sweep.garbage import Garbage, Spared

DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")]


def gc(dry_run: DryRunOption = False, root: RootOption = Path(), json_: JsonOption = False) -> None:
    """Remove what runs that are gone have left: Ray's sessions, unfinished checkpoints, folders without a sweep."""
    from tradesweep.sweep.garbage import collect

    gone, spared = collect(find_home(root), dry_run=dry_run)
    if json_:
        print_json(describe(gone, spared, dry_run=dry_run))
    else:
        print_lines(garbage_lines(gone, spared, dry_run=dry_run))


def garbage_lines(gone: list[Garbage], spared: list[Spared], *, dry_run: bool) -> list[str]:
    """A line a thing, and the sum."""
    lines = []
    for garbage in gone:
        ended = f", {garbage.processes} processes" if garbage.processes else ""
        lines.append(f"{garbage.kind:<10} {garbage.path} ({format_bytes(garbage.bytes)}{ended})")
    lines += [f"left alone {thing.path}: {thing.why}" for thing in spared]
    total = format_bytes(sum(garbage.bytes for garbage in gone))
    return [*lines, f"{'would remove' if dry_run else 'removed'} {len(gone)} things, {total}"]


def describe(gone: list[Garbage], spared: list[Spared], *, dry_run: bool) -> dict[str, object]:
    """For `--json`."""
    return {
        "dry_run": dry_run,
        "removed": [
            {
                "kind": garbage.kind,
                "path": str(garbage.path),
                "bytes": garbage.bytes,
                "processes": garbage.processes,
            }
            for garbage in gone
        ],
        "left_alone": [{"path": str(thing.path), "why": thing.why} for thing in spared],
        "bytes": sum(garbage.bytes for garbage in gone),
    }
