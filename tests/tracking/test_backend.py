from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tradesweep.errors import BadInput
from tradesweep.home import Home
from tradesweep.tracking import ensure_experiment, find_tracking_uri, open_client, prepare_backend, shown_uri


def test_the_backend_is_a_private_sqlite_file_of_the_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    home = Home(tmp_path / "fresh")
    uri = prepare_backend(home.mlflow_database, home.artifacts)
    assert uri == f"sqlite:///{tmp_path}/fresh/mlflow.db"
    assert stat.S_IMODE(home.mlflow_database.stat().st_mode) == 0o600
    assert home.artifacts.is_dir()
    assert [experiment.name for experiment in open_client(uri).search_experiments()] == ["Default"]


def test_preparing_twice_keeps_what_is_there(home: Home, client: Any) -> None:
    number = ensure_experiment(client, "dqn_lr", artifacts=home.artifacts)
    again = open_client(prepare_backend(home.mlflow_database, home.artifacts))
    assert ensure_experiment(again, "dqn_lr", artifacts=home.artifacts) == number


def test_a_database_that_was_half_made_when_its_process_was_killed_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    home = Home(tmp_path / "fresh")

    def end_half_way(uri: str) -> None:
        with closing(sqlite3.connect(uri.removeprefix("sqlite:///"))) as db, db:
            db.execute("CREATE TABLE metrics (step INTEGER)")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("tradesweep.tracking.backend.open_client", end_half_way)
        with pytest.raises(KeyboardInterrupt):
            prepare_backend(home.mlflow_database, home.artifacts)
    client = open_client(prepare_backend(home.mlflow_database, home.artifacts))
    assert [experiment.name for experiment in client.search_experiments()] == ["Default"]
    assert [path.name for path in home.path.glob("mlflow.db*")] == ["mlflow.db"]


def test_artifacts_of_an_experiment_lie_under_the_home(home: Home, client: Any) -> None:
    experiment = client.get_experiment(ensure_experiment(client, "dqn_lr", artifacts=home.artifacts))
    assert experiment.artifact_location == (home.artifacts / "dqn_lr").as_uri()


def test_an_experiment_deleted_by_hand_is_restored(home: Home, client: Any) -> None:
    number = ensure_experiment(client, "dqn_lr", artifacts=home.artifacts)
    client.delete_experiment(number)
    assert ensure_experiment(client, "dqn_lr", artifacts=home.artifacts) == number
    assert client.get_experiment(number).lifecycle_stage == "active"


def test_the_environment_names_another_backend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = "https://me:pw@mlflow.example:5000/base"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert prepare_backend(tmp_path / "mlflow.db", tmp_path / "artifacts") == uri
    assert list(tmp_path.iterdir()) == []


def test_a_uri_is_shown_without_its_secrets() -> None:
    assert shown_uri("https://me:pw@mlflow.example:5000/base?token=x") == "https://mlflow.example:5000/base"
    assert shown_uri("sqlite:////data/mlflow.db") == "sqlite:////data/mlflow.db"


@pytest.mark.parametrize("uri", ["./mlruns", "file:///tmp/mlruns", "/tmp/mlruns"])
def test_a_file_store_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uri: str) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(BadInput, match="MLFLOW_TRACKING_URI must be a database or a server"):
        find_tracking_uri(tmp_path / "mlflow.db")


def test_nothing_is_left_in_the_working_directory(
    tmp_path: Path, tracking_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    open_client(tracking_uri).search_experiments()
    assert list(work.iterdir()) == []


def test_telemetry_is_off_whatever_the_environment_says(tracking_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "false")
    open_client(tracking_uri)
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"


def test_importing_the_package_imports_nothing_heavy() -> None:
    heavy = {"mlflow", "ray", "torch", "pandas", "sqlalchemy"}
    code = f"import sys, tradesweep.tracking; print(sorted({heavy} & set(sys.modules)))"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "[]"
