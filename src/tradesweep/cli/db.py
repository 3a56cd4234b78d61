"""`tradesweep db`: upgrade, copy, thin out or delete what was recorded."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tradesweep.cli.options import JsonOption, RootOption, check_sweep_name, find_home
from tradesweep.cli.output import format_bytes, format_count, format_table, print_json, print_lines
from tradesweep.errors import BadInput

if TYPE_CHECKING:
    from tradesweep.home import Home
    from tradesweep.store import Database, Prunable, Pruned

app = typer.Typer(help="Upgrade, copy, thin out or delete the database.", no_args_is_help=True, rich_markup_mode=None)
YesOption = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
FileArgument = Annotated[
    Path | None, typer.Argument(metavar="[FILE]", help="Default: a file in runs/backups, named by the time.")
]
ForceOption = Annotated[bool, typer.Option("--force", help="Replace a file that is there.")]
SweepsArgument = Annotated[
    list[str] | None, typer.Argument(metavar="[NAME ...]", help="Experiments (their newest sweep), or sweeps.")
]
OlderOption = Annotated[
    float | None, typer.Option("--older-than", metavar="DAYS", min=0.0, help="Sweeps that ended so long ago.")
]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Say what would be deleted; delete nothing.")]


@app.command()
def upgrade(root: RootOption = Path(), json_: JsonOption = False) -> None:
    """Bring the database to the schema of this version."""
    from tradesweep.store import upgrade_database

    database = find_home(root).database
    before = upgrade_database(database)
    if json_:
        print_json({"database": str(database), "upgraded_from": before})
    else:
        typer.echo(f"{database}: up to date" if before is None else f"{database}: upgraded from schema {before}")


@app.command()
def backup(
    file: FileArgument = None, force: ForceOption = False, root: RootOption = Path(), json_: JsonOption = False
) -> None:
    """Copy the database to a file, also while a sweep writes to it."""
    from tradesweep.store import back_up, find_database

    home = find_home(root)
    database = find_database(home.database)
    target = file.absolute() if file is not None else choose_backup(home, database)
    size = back_up(home.database, target, force=force)
    restore = database.describe_restore(target)
    if json_:
        print_json({"database": str(database), "backup": str(target), "bytes": size, "restore": restore})
    else:
        print_lines([f"{target}: {format_bytes(size)}, checked", f"to restore it, while no sweep runs: {restore}"])


def choose_backup(home: Home, database: Database) -> Path:
    """A new name in a folder of the home, which is made where there is something to copy."""
    database.read_revision()
    folder = home.path / "backups"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder / database.name_backup(f"tradesweep-{datetime.now(UTC):%Y%m%dT%H%M%SZ}")


@app.command()
def prune(
    names: SweepsArgument = None,
    older_than: OlderOption = None,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    root: RootOption = Path(),
    json_: JsonOption = False,
) -> None:
    """Delete the training steps and fills of ended sweeps; results and evaluations stay. Asks first."""
    home = find_home(root)
    found = find_rows(home, [check_sweep_name(name) for name in names or ()], older_than)
    if not json_:
        print_lines(prunable_lines(found))
    pruned = None if dry_run else prune_rows(home, found, yes=yes)
    if json_:
        print_json({"sweeps": [describe_prunable(row) for row in found], "pruned": pruned and asdict(pruned)})
    elif pruned is not None:
        typer.echo(
            f"{home.database}: deleted {pruned.steps:,} steps; {format_bytes(pruned.bytes_after)} now,"
            f" was {format_bytes(pruned.bytes_before)}"
        )


def find_rows(home: Home, names: Sequence[str], older_than_days: float | None) -> list[Prunable]:
    """What can be deleted."""
    from tradesweep.store import choose_sweeps, list_prunable, open_store

    store = open_store(home.database)
    return list_prunable(store, choose_sweeps(store, names, older_than_days=older_than_days))


def prunable_lines(found: Sequence[Prunable]) -> list[str]:
    """A line a sweep, and what is kept."""
    if not found:
        return ["there are no training steps to delete"]
    rows = [
        (row.sweep_id, format_count(row.steps), format_count(row.fills), f"about {format_bytes(row.bytes)}")
        for row in found
    ]
    table = format_table(("sweep", "steps", "fills", "frees"), rows, left=(0,))
    return [*table, "kept: episode totals, trades, evaluations with their steps, checkpoints"]


def describe_prunable(row: Prunable) -> dict[str, Any]:
    """JSON-ready."""
    return {"sweep_id": row.sweep_id, "steps": row.steps, "fills": row.fills, "bytes": row.bytes}


def prune_rows(home: Home, found: Sequence[Prunable], *, yes: bool) -> Pruned:
    """Delete what was found, after asking where something was."""
    from tradesweep.store import prune as prune_store

    if found and not yes:
        confirm("db prune", f"Delete them from {home.database}?")
    return prune_store(home.database, found)


@app.command()
def reset(yes: YesOption = False, root: RootOption = Path(), json_: JsonOption = False) -> None:
    """Delete all results: database, MLflow runs, checkpoints, logs; backups stay. Asks first."""
    home = find_home(root)
    doomed = list_results(home)
    if doomed:
        if not yes:
            confirm("db reset", f"Delete all results in {describe_place(home)} ({count_sweeps(home)})?")
        delete_results(home)
    if json_:
        print_json({"home": str(home.path), "deleted": doomed})
    else:
        typer.echo(f"{home.path}: deleted {', '.join(doomed) or 'nothing, there was nothing'}")


def list_results(home: Home) -> list[str]:
    """What a reset deletes, as far as it exists: names in the folder, and the database where that is elsewhere."""
    from tradesweep.store import database_exists

    database = [Path(str(home.database)).name if home.db_url is None else str(home.database)]
    return [*(database if database_exists(home.database) else []), *(path.name for path in list_files(home))]


def list_files(home: Home) -> list[Path]:
    """What a reset deletes beside the database; nothing else in the folder is touched."""
    mlflow = home.mlflow_database
    files = [mlflow.with_name(mlflow.name + end) for end in ("", "-wal", "-shm")]
    return [path for path in (*files, home.artifacts, home.path / "sweeps") if path.exists()]


def confirm(command: str, question: str) -> None:
    """Ask on a terminal. Raises BadInput where nobody can answer, Abort on a no."""
    if not is_interactive():
        raise BadInput(f"{command} must be confirmed with --yes where nobody can be asked; nothing was deleted")
    typer.confirm(f"{question} This cannot be undone.", abort=True)


def is_interactive() -> bool:
    """Can somebody answer."""
    return sys.stdin.isatty()


def describe_place(home: Home) -> str:
    """The folder, and the database where that is elsewhere."""
    return str(home.path) if home.db_url is None else f"{home.path} and all of {home.database}"


def count_sweeps(home: Home) -> str:
    """How much would be lost."""
    from tradesweep.store import database_exists, open_store

    if not database_exists(home.database):
        return "no sweeps"
    return f"{len(open_store(home.database).list_sweeps())} sweeps"


def delete_results(home: Home) -> None:
    """Delete under the database's lock: nothing may be running. A database that is not ours is refused."""
    from tradesweep.store import delete_database

    with delete_database(home.database):
        for path in list_files(home):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
