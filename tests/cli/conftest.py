"""The command line in this process, over the small sweep that tests/selection writes."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tradesweep.cli.main import app
from tradesweep.home import Home


def _load_worlds() -> Any:
    """Test folders are no packages; the helper they share is loaded by its path."""
    if "selection_world" not in sys.modules:
        path = Path(__file__).parents[1] / "selection" / "world.py"
        found = importlib.util.spec_from_file_location("selection_world", path)
        assert found is not None
        assert found.loader is not None
        sys.modules["selection_world"] = module = importlib.util.module_from_spec(found)
        found.loader.exec_module(module)
    return sys.modules["selection_world"]


worlds = _load_worlds()


@dataclass
class Said:
    """What a command said."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def run(*words: str, answer: str | None = None) -> Said:
    result = CliRunner().invoke(app, list(words), input=answer)
    return Said(result.exit_code, result.stdout, result.stderr)


@pytest.fixture(scope="session")
def command() -> Any:
    return run


@pytest.fixture(scope="session")
def written_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return worlds.write_root(tmp_path_factory.mktemp("root"))


@pytest.fixture(scope="session")
def runtime(written_root: Path) -> Any:
    return worlds.Runtime.load(written_root)


@pytest.fixture(scope="session")
def mlflow_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        return worlds.make_mlflow(tmp_path_factory.mktemp("mlflow"))


@pytest.fixture
def home(tmp_path: Path, written_root: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A home that does not exist yet, in the environment of every command."""
    monkeypatch.setenv("TRADESWEEP_ROOT", str(written_root))
    monkeypatch.setenv("TRADESWEEP_HOME", str(tmp_path / "runs"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return Home(tmp_path / "runs")


@pytest.fixture
def world(home: Home, written_root: Path, runtime: Any, mlflow_template: Path) -> Any:
    """A home without a sweep."""
    worlds.copy_mlflow(mlflow_template, home)
    return worlds.World(written_root, home, runtime)


@pytest.fixture(scope="session")
def swept_home(
    tmp_path_factory: pytest.TempPathFactory, written_root: Path, runtime: Any, mlflow_template: Path
) -> Path:
    """A finished sweep: trial 0 never trades, trial 1 follows the signal, trial 2 does the opposite."""
    home = Home(tmp_path_factory.mktemp("swept"))
    worlds.copy_mlflow(mlflow_template, home)
    worlds.World(written_root, home, runtime).write_sweep({0: 0.0, 1: 3.0, 2: -3.0})
    return home.path


@pytest.fixture
def swept(world: Any, swept_home: Path) -> Any:
    """A copy of it for each test."""
    shutil.copytree(swept_home, world.home.path, dirs_exist_ok=True)
    return world
