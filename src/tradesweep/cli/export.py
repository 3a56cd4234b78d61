"""`tradesweep export`: a sweep as files for other tools."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tradesweep.cli.options import JsonOption, RootOption, SweepArgument, check_sweep_name, find_home
from tradesweep.cli.output import format_bytes, format_count, format_table, print_json, print_lines

if TYPE_CHECKING:
    from tradesweep.store import ExportedFile

ParquetOption = Annotated[
    Path, typer.Option("--parquet", metavar="DIR", help="Write a Parquet file a table into this folder.")
]
ForceOption = Annotated[bool, typer.Option("--force", help="Replace the files of an earlier export.")]


def export(
    name: SweepArgument,
    parquet: ParquetOption,
    force: ForceOption = False,
    root: RootOption = Path(),
    json_: JsonOption = False,
) -> None:
    """Write a sweep's tables to files."""
    from tradesweep.store import export_parquet, open_store

    store = open_store(find_home(root).database)
    files = export_parquet(store, check_sweep_name(name), parquet, force=force)
    if json_:
        print_json({"folder": str(parquet.absolute()), "files": [asdict(file) for file in files]})
    else:
        print_lines([str(parquet.absolute()), *file_lines(files)])


def file_lines(files: list[ExportedFile]) -> list[str]:
    """A line a file."""
    rows = [(file.name, format_count(file.rows), format_bytes(file.bytes)) for file in files]
    return format_table(("file", "rows", "size"), rows, left=(0,))
