"""A small sweep for every test, written through the real Writer."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from tradesweep.home import Home


def _load_world() -> Any:
    """Test folders are no packages; the helper they share is loaded by its path."""
    if "selection_world" not in sys.modules:
        path = Path(__file__).with_name("world.py")
        found = importlib.util.spec_from_file_location("selection_world", path)
        assert found is not None
        assert found.loader is not None
        sys.modules["selection_world"] = module = importlib.util.module_from_spec(found)
        found.loader.exec_module(module)
    return sys.modules["selection_world"]


worlds = _load_world()


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return worlds.write_root(tmp_path_factory.mktemp("root"))


@pytest.fixture(scope="session")
def runtime(root: Path) -> Any:
    return worlds.Runtime.load(root)


@pytest.fixture(scope="session")
def mlflow_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        return worlds.make_mlflow(tmp_path_factory.mktemp("mlflow"))


@pytest.fixture
def world(tmp_path: Path, root: Path, runtime: Any, mlflow_template: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A home without a sweep."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    home = Home(tmp_path / "runs")
    worlds.copy_mlflow(mlflow_template, home)
    return worlds.World(root, home, runtime)


@pytest.fixture(scope="session")
def swept_home(tmp_path_factory: pytest.TempPathFactory, root: Path, runtime: Any, mlflow_template: Path) -> Path:
    """A finished sweep: trial 0 never trades, trial 1 follows the signal, trial 2 does the opposite."""
    home = Home(tmp_path_factory.mktemp("swept"))
    worlds.copy_mlflow(mlflow_template, home)
    worlds.World(root, home, runtime).write_sweep({0: 0.0, 1: 3.0, 2: -3.0})
    return home.path


@pytest.fixture
def swept(world: Any, swept_home: Path) -> Any:
    """A copy of it for each test."""
    shutil.copytree(swept_home, world.home.path, dirs_exist_ok=True)
    return world
