"""A real MLflow backend for every test, copied from one template: creating the schema takes two seconds."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tradesweep.home import Home
from tradesweep.tracking import open_client, prepare_backend

if TYPE_CHECKING:
    from mlflow import MlflowClient


@pytest.fixture(scope="session")
def mlflow_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = Home(tmp_path_factory.mktemp("mlflow-template"))
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        prepare_backend(home.mlflow_database, home.artifacts)
    return home.mlflow_database


@pytest.fixture
def home(tmp_path: Path, mlflow_template: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    home = Home(tmp_path / "runs")
    home.path.mkdir()
    shutil.copy(mlflow_template, home.mlflow_database)
    return home


@pytest.fixture
def tracking_uri(home: Home) -> str:
    return prepare_backend(home.mlflow_database, home.artifacts)


@pytest.fixture
def client(tracking_uri: str) -> MlflowClient:
    return open_client(tracking_uri)
