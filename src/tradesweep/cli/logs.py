"""`tradesweep logs`: what a sweep's driver or one of its trials wrote down."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tradesweep.cli.options import JsonOption, RootOption, SweepArgument, check_sweep_name, find_home
from tradesweep.cli.output import print_json, print_lines
from tradesweep.errors import NotFound

TrialArgument = Annotated[
    int | None, typer.Argument(metavar="[TRIAL]", help="Number of a trial; default: the driver's log.", min=0)
]
LinesOption = Annotated[int, typer.Option("--lines", "-n", help="Only the last lines; 0: all of them.", min=0)]


def logs(
    name: SweepArgument,
    trial: TrialArgument = None,
    lines: LinesOption = 0,
    root: RootOption = Path(),
    json_: JsonOption = False,
) -> None:
    """Show the log of a sweep's driver, or of one trial."""
    path = find_log(check_sweep_name(name), trial, root)
    text = path.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:]
    if json_:
        print_json({"path": str(path), "lines": text})
    else:
        print_lines([str(path), *text])


def find_log(name: str, trial: int | None, root: Path) -> Path:
    """The file. Raises NotFound, naming the logs there are."""
    from tradesweep.store import database_exists, open_store

    home = find_home(root)
    if not database_exists(home.database):
        raise NotFound(f"there is no sweep or experiment {name!r}; there is no sweep yet in {home.path}")
    folder = home.logs(open_store(home.database).get_sweep(name).sweep_id)
    path = folder / ("driver.log" if trial is None else f"trial-{trial:04d}.log")
    if not path.is_file():
        known = ", ".join(sorted(file.name for file in folder.glob("*.log"))) or "none"
        raise NotFound(f"{path}: there is no such log; there are: {known}")
    return path
