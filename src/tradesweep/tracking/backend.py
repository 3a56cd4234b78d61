"""Where MLflow keeps its things, and how to reach it.

Without MLFLOW_TRACKING_URI that is one SQLite file, `<home>/mlflow.db`, with artifacts under
`<home>/artifacts`. Its schema is created once, before any worker starts: two processes that create it at the
same time break it. The client's retries are kept small, since a projection that fails now is simply made
again later.

Importing mlflow takes over a second, so nothing here imports it before it is needed, and never before the
environment says that it must not phone home.
"""

from __future__ import annotations

import logging
import os
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from tradesweep.errors import BadInput
from tradesweep.garbage import not_collecting

if TYPE_CHECKING:
    from mlflow import MlflowClient

_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_ENABLE_ASYNC_LOGGING": "false",
}
"""Set before the import; what a person set themselves is kept, except for telemetry."""

_DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
_SERVERS = ("http", "https")


def find_tracking_uri(database: Path) -> str:
    """Where MLflow is: MLFLOW_TRACKING_URI, or the SQLite file `database`. Nothing is touched.

    Raises BadInput when MLFLOW_TRACKING_URI names a folder: MLflow's file store is out of service.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI", "").strip()
    if not uri:
        return f"sqlite:///{database.absolute()}"
    if _scheme(uri) not in _DATABASES + _SERVERS:
        raise BadInput(
            f"MLFLOW_TRACKING_URI must be a database or a server ({', '.join(_DATABASES + _SERVERS)}), was"
            f" {uri!r}; unset it to use {database.absolute()}"
        )
    return uri


def prepare_backend(database: Path, artifacts: Path) -> str:
    """The tracking URI; when it is our own file, folders and schema exist afterwards.

    Call it before any worker starts: two processes that create the schema at the same time break it.
    """
    uri = find_tracking_uri(database)
    if uri == f"sqlite:///{database.absolute()}":
        database.parent.mkdir(parents=True, exist_ok=True)
        artifacts.mkdir(parents=True, exist_ok=True)
        if not database.exists():
            _create_whole(database)
        open_client(uri).search_experiments(max_results=1)
    return uri


def open_client(tracking_uri: str) -> MlflowClient:
    """A client for runs and registry. The first one in a process imports mlflow, which takes over a second."""
    _prepare_environment()
    return _import_client()(tracking_uri=tracking_uri, registry_uri=tracking_uri)


@cache
def _import_client() -> type[MlflowClient]:
    with not_collecting():
        from mlflow import MlflowClient
    return MlflowClient


EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}
"""Opens an experiment on its training runs instead of on MLflow's pages for language models."""


def ensure_experiment(client: MlflowClient, name: str, *, artifacts: Path) -> str:
    """The id of the experiment; a new one has its artifacts under `artifacts`, or where its server decides.

    An experiment that was deleted in the user interface is restored: its name cannot be used again.
    """
    found = client.get_experiment_by_name(name)
    if found is None:
        ours = _scheme(client.tracking_uri) in _DATABASES
        location = (artifacts.absolute() / name).as_uri() if ours else None
        return str(client.create_experiment(name, artifact_location=location, tags=EXPERIMENT_TAGS))
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    return str(found.experiment_id)


def shown_uri(uri: str) -> str:
    """The URI without user, password and query: what may be printed and logged."""
    parts = urlsplit(uri)
    host = f"{parts.hostname or ''}{f':{parts.port}' if parts.port else ''}"
    return f"{parts.scheme}://{host}{parts.path}"


def hide_secrets(text: str, uri: str) -> str:
    """The text without what `shown_uri` leaves out: mlflow quotes the whole URI in its errors."""
    parts = urlsplit(uri)
    for secret in (parts.netloc.rpartition("@")[0], parts.password, parts.query):
        if secret:
            text = text.replace(secret, "***")
    return text


def describe_failure(error: Exception, uri: str) -> str:
    """What MLflow refused, or why nobody answered: one line without secrets."""
    first = hide_secrets(str(error).splitlines()[0], uri)
    if "failed with exception" not in first:
        return f"MLflow at {shown_uri(uri)} refused ({getattr(error, 'error_code', 'ERROR')}): {first[:200]}"
    innermost = re.search(r"[^(:'\"]+(?=[\"')]*$)", first)
    reason = innermost.group().strip() if innermost else first[:200]
    return f"MLflow at {shown_uri(uri)} cannot be reached ({reason}); start it and run the same command again"


def _scheme(uri: str) -> str:
    return urlsplit(uri).scheme.split("+")[0]


def _prepare_environment() -> None:
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)
    logging.getLogger("alembic").setLevel(logging.WARNING)


def _create_whole(database: Path) -> None:
    """Make it under another name first: MLflow can neither use nor mend what a killed process has half made."""
    draft = database.with_name(f"{database.name}.new")
    draft.unlink(missing_ok=True)
    _create_private(draft)
    open_client(f"sqlite:///{draft.absolute()}").search_experiments(max_results=1)
    draft.replace(database)


def _create_private(path: Path) -> None:
    """Create the file readable by its owner alone; SQLite takes an empty file for an empty database."""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
