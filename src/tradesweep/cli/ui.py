"""`tradesweep ui`: MLflow's pages over the runs, on this machine alone."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tradesweep.cli.options import JsonOption, RootOption, find_home
from tradesweep.cli.output import print_json
from tradesweep.errors import BadInput, NotFound
from tradesweep.home import DB_URL

if TYPE_CHECKING:
    from tradesweep.home import Home

HOST = "127.0.0.1"
PAGE = "/#/experiments?workflowType=machine_learning"
"""Training runs; without it MLflow opens on its pages for language models, which have nothing to show."""
ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
}
"""Nothing phones home, and the server runs no jobs for whoever can reach it."""
PortOption = Annotated[int, typer.Option("--port", help="Port on 127.0.0.1.", min=1, max=65535)]


def ui(port: PortOption = 5000, root: RootOption = Path(), json_: JsonOption = False) -> None:
    """Show the runs in MLflow's pages, until Ctrl-C."""
    home = find_home(root)
    uri = find_backend(home)
    served = uri.startswith("http")
    if not served:
        check_port(port)
    tell(uri if served else f"http://{HOST}:{port}{PAGE}", as_json=json_)
    if not served:
        os.execve(sys.executable, server_command(uri, home, port), server_environment())


def tell(url: str, *, as_json: bool) -> None:
    """Where the pages are, said before this process becomes the server."""
    if as_json:
        print_json({"url": url})
    else:
        typer.echo(f"MLflow: {url}")
    sys.stdout.flush()


def find_backend(home: Home) -> str:
    """Where MLflow's runs are. Raises NotFound before the first sweep."""
    from tradesweep.tracking import find_tracking_uri

    uri = find_tracking_uri(home.mlflow_database)
    if uri == f"sqlite:///{home.mlflow_database}" and not home.mlflow_database.exists():
        raise NotFound(f"{home.mlflow_database}: there are no runs yet; run `tradesweep sweep EXPERIMENT` first")
    return uri


def check_port(port: int) -> None:
    """Raise BadInput when somebody listens there already."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise BadInput(f"--port must be free, {port} is not ({error.strerror}); give another one") from error


def server_environment() -> dict[str, str]:
    """Ours, with MLflow's settings, and without the URL of a database that is none of its business."""
    return {name: value for name, value in os.environ.items() if name != DB_URL} | ENVIRONMENT


def server_command(uri: str, home: Home, port: int) -> list[str]:
    """MLflow's server over our backend. Runs name their artifacts by folder, so it needs no store of its own."""
    words = {
        "--backend-store-uri": uri,
        "--default-artifact-root": home.artifacts.as_uri(),
        "--host": HOST,
        "--port": str(port),
        "--workers": "1",
    }
    return [sys.executable, "-m", "mlflow", "server", *(part for pair in words.items() for part in pair)]
