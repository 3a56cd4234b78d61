"""`tradesweep version`."""

from __future__ import annotations

import platform

import typer

from tradesweep import __version__
from tradesweep.cli.options import JsonOption
from tradesweep.cli.output import print_json


def version(json_: JsonOption = False) -> None:
    """Show the version."""
    if json_:
        print_json({"tradesweep": __version__, "python": platform.python_version()})
    else:
        typer.echo(f"tradesweep {__version__} on Python {platform.python_version()}")
