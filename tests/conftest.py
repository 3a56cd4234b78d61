"""A small experiment, run once by the real command in a process of its own; many tests look at what it left."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

EXPERIMENTS = """
version: 1
defaults:
  market:
    source: synthetic
    name: planted
    periods_per_year: 252
    params: {bars: 2400, rho: 0.5, q: 0.2, seed: 7}
  features:
    - csv_columns: {names: [signal, noise_1, noise_2]}
  splits: {train: 1200, validation: 600, test: 600}
  env: {fill: next_open, episode_bars: 60, fee_bps: 3, slippage_bps: 2}
  evaluation: {count: 8, min_trades: 5, patience: null}
experiments:
  tiny_dqn:
    description: three short DQN trials
    sweep: tiny_dqn
    budget: {trials: 3, env_steps_per_trial: 2000}
    resources: {lanes: 4}
  tiny_ppo:
    description: two short PPO trials with two remote runners each
    sweep: tiny_ppo
    budget: {trials: 2, env_steps_per_trial: 4096}
    resources: {lanes: 4, env_runners: 2}
"""

SWEEPS = {
    "tiny_dqn": """
algorithm: dqn
fixed:
  gamma: 0.9
  train_batch_size_per_learner: 32
  num_steps_sampled_before_learning_starts: 200
  epsilon: [[0, 1.0], [1000, 0.05]]
search:
  lr: {loguniform: [1e-3, 3e-3]}
""",
    "tiny_ppo": """
algorithm: ppo
fixed:
  gamma: 0.9
  train_batch_size_per_learner: 512
  minibatch_size: 128
  num_epochs: 4
search:
  lr: {loguniform: [1e-3, 3e-3]}
""",
}


@dataclass(frozen=True)
class Workplace:
    """A folder with a spec, and the results beside it."""

    root: Path

    @property
    def home(self) -> Path:
        return self.root / "runs"

    @property
    def database(self) -> Path:
        return self.home / "tradesweep.db"

    @property
    def environment(self) -> dict[str, str]:
        hidden = {"TRADESWEEP_HOME", "TRADESWEEP_DB_URL", "MLFLOW_TRACKING_URI", "RAY_ADDRESS"}
        return {name: value for name, value in os.environ.items() if name not in hidden}

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "tradesweep", *arguments]

    def run(self, *arguments: str, timeout_s: float = 240, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments),
            cwd=self.root,
            env=self.environment | environment,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )


@pytest.fixture(scope="session")
def make_workplace(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Workplace]:
    def make() -> Workplace:
        root = tmp_path_factory.mktemp("work")
        (root / "sweeps").mkdir()
        (root / "experiments.yaml").write_text(EXPERIMENTS)
        for name, text in SWEEPS.items():
            (root / "sweeps" / f"{name}.yaml").write_text(text)
        return Workplace(root)

    return make


@pytest.fixture(scope="session")
def swept(make_workplace: Callable[[], Workplace]) -> Workplace:
    """Both experiments, finished."""
    workplace = make_workplace()
    for experiment in ("tiny_dqn", "tiny_ppo"):
        done = workplace.run("sweep", experiment)
        assert done.returncode == 0, done.stdout + done.stderr
    return workplace


def _load_postgres() -> Any:
    """Test folders are no packages; what they share is loaded by its path."""
    if "tests_postgres" not in sys.modules:
        found = importlib.util.spec_from_file_location("tests_postgres", Path(__file__).with_name("postgres.py"))
        assert found is not None
        assert found.loader is not None
        sys.modules["tests_postgres"] = module = importlib.util.module_from_spec(found)
        found.loader.exec_module(module)
    return sys.modules["tests_postgres"]


@pytest.fixture(scope="session")
def postgres_programs() -> Path:
    """The folder of PostgreSQL's programs; a continuous integration that has none is misconfigured."""
    programs = _load_postgres().find_programs()
    if programs is None:
        assert "CI" not in os.environ, "neither PostgreSQL nor the package pgserver is installed"
        pytest.skip("neither PostgreSQL nor the package pgserver is installed")
    return Path(programs)


@pytest.fixture(scope="session")
def postgres(postgres_programs: Path) -> Iterator[Any]:
    """One private server for all tests; each takes a database of its own from it (`new_database`)."""
    with _load_postgres().PostgresServer(postgres_programs) as server:
        yield server


@pytest.fixture
def own_postgres(postgres_programs: Path) -> Iterator[Any]:
    """A private server that one test may stop."""
    with _load_postgres().PostgresServer(postgres_programs) as server:
        yield server
