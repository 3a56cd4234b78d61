"""`tradesweep db`: upgrade the database, or delete all results."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tradesweep.cli.options import JsonOption, RootOption, find_home
from tradesweep.cli.output import print_json
from tradesweep.errors import BadInput

if TYPE_CHECKING:
    from tradesweep.home import Home

app = typer.Typer(help="Upgrade the database, or delete all results.", no_args_is_help=True, rich_markup_mode=None)
YesOption = Annotated[bool, typer.Option("--yes", help="Do not ask.")]


@app.command()
def upgrade(root: RootOption = Path(), json_: JsonOption = False) -> None:
    """Bring the database to the schema of this version."""
    from tradesweep.store import upgrade_database
    from tradesweep.store.engine import read_revision
    from tradesweep.store.lock import FileLock

    database = find_home(root).database
    read_revision(database)
    lock = FileLock(database.with_name(f"{database.name}.lock"))
    try:
        before = upgrade_database(database)
    finally:
        lock.release()
    if json_:
        print_json({"database": str(database), "upgraded_from": before})
    else:
        typer.echo(f"{database}: up to date" if before is None else f"{database}: upgraded from schema {before}")


@app.command()
def reset(yes: YesOption = False, root: RootOption = Path(), json_: JsonOption = False) -> None:
    """Delete all results: database, MLflow runs, checkpoints, logs. Asks first."""
    home = find_home(root)
    doomed = list_results(home)
    if doomed:
        if not yes:
            confirm(home)
        delete_results(home)
    if json_:
        print_json({"home": str(home.path), "deleted": [path.name for path in doomed]})
    else:
        typer.echo(f"{home.path}: deleted {', '.join(path.name for path in doomed) or 'nothing, there was nothing'}")


def list_results(home: Home) -> list[Path]:
    """What a reset deletes, as far as it exists; nothing else in the folder is touched."""
    databases = (home.database, home.mlflow_database)
    files = [path.with_name(path.name + end) for path in databases for end in ("", "-wal", "-shm")]
    return [path for path in (*files, home.artifacts, home.path / "sweeps") if path.exists()]


def confirm(home: Home) -> None:
    """Ask on a terminal. Raises BadInput where nobody can answer, Abort on a no."""
    if not is_interactive():
        raise BadInput("db reset must be confirmed with --yes where nobody can be asked; nothing was deleted")
    count = count_sweeps(home)
    typer.confirm(f"Delete all results in {home.path} ({count})? They cannot be brought back.", abort=True)


def is_interactive() -> bool:
    """Can somebody answer."""
    return sys.stdin.isatty()


def count_sweeps(home: Home) -> str:
    """How much would be lost."""
    from tradesweep.store import open_store

    if not home.database.exists():
        return "no sweeps"
    return f"{len(open_store(home.database).list_sweeps())} sweeps"


def delete_results(home: Home) -> None:
    """Delete under the database's lock: nothing may be running. A database that is not ours is refused."""
    from tradesweep.store.engine import read_revision
    from tradesweep.store.lock import FileLock

    if home.database.exists():
        read_revision(home.database)
    lock = FileLock(home.database.with_name(f"{home.database.name}.lock"))
    try:
        for path in list_results(home):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
        lock.path.unlink(missing_ok=True)
    finally:
        lock.release()
