"""Small planted markets, and the RLlib configs that the builders make of them."""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig

from tradesweep.agents import AgentConfig, RecordingContext, RunnerContext, build_config, install_market
from tradesweep.env import compile_market
from tradesweep.market import Market
from tradesweep.recording import RecorderClient, create_recorder
from tradesweep.spec import SweepSpec, load_spec
from tradesweep.store import NewSweep

EXPERIMENTS = """
version: 1
experiments:
  tiny:
    description: a planted signal, short episodes
    sweep: {algorithm}
    market:
      source: synthetic
      name: planted
      periods_per_year: 252
      params: {{bars: 900, rho: 0.5, q: 0.2, seed: 3}}
    features:
      - csv_columns: {{names: [signal, noise_1]}}
    splits: {{train: 500, validation: 200, test: 200, embargo_bars: 0}}
    env: {{fill: next_open, episode_bars: 7, fee_bps: 3, slippage_bps: 2}}
    evaluation: {{count: 8, min_trades: 1}}
    budget: {{trials: 1, env_steps_per_trial: 8000}}
"""

RAY_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_TRAIN_V2_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}


torch.set_num_threads(
    1
)  # as in the processes of a sweep: two threads in each of several processes only wait for each other


@dataclass(frozen=True)
class Setting:
    """A spec, its market, and what builders are called with."""

    spec: SweepSpec
    market: Market
    agent: AgentConfig

    def context(self, *, env_runners: int = 0, recording: RecordingContext | None = None) -> RunnerContext:
        return RunnerContext(
            spec_json=self.spec.to_json(),
            market_sha256=self.market.sha256,
            env_runners=env_runners,
            recording=recording,
        )

    def config(self, **context: Any) -> AlgorithmConfig:
        install_market(self.spec.to_json(), self.market)
        return build_config(self.agent, self.context(**context))


@pytest.fixture(scope="session")
def make_setting(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Setting]:
    """Setting of one algorithm; keyword arguments are the agent's params, with `__` for a dot."""

    @cache
    def load(algorithm: str, overrides: tuple[str, ...]) -> tuple[SweepSpec, Market]:
        root = tmp_path_factory.mktemp("specs")
        (root / "sweeps").mkdir()
        (root / "experiments.yaml").write_text(EXPERIMENTS.format(algorithm=algorithm))
        (root / "sweeps" / f"{algorithm}.yaml").write_text(
            f"algorithm: {algorithm}\nsearch:\n  lr: {{loguniform: [1e-4, 1e-2]}}\n"
        )
        spec = load_spec("tiny", root=root, overrides=list(overrides))
        return spec, compile_market(spec)

    def make(
        algorithm: str,
        *,
        lanes: int = 3,
        env_runners: int = 0,
        seed: int = 11,
        overrides: tuple[str, ...] = (),
        **params: Any,
    ) -> Setting:
        spec, market = load(algorithm, overrides)
        flat = {key.replace("__", "."): value for key, value in params.items()}
        agent = AgentConfig(algorithm=algorithm, params=flat, seed=seed, lanes=lanes, env_runners=env_runners)
        return Setting(spec, market, agent)

    return make


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """One small Ray for the module."""
    saved = {name: os.environ.get(name) for name in RAY_ENVIRONMENT}
    os.environ.update(RAY_ENVIRONMENT)
    folder = Path(tempfile.mkdtemp(prefix="ts-", dir="/tmp"))
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        object_store_memory=10**8,
        _temp_dir=str(folder),
        log_to_driver=False,
        logging_level="ERROR",
        namespace="tradesweep",
    )
    yield
    ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)
    for name, value in saved.items():
        os.environ.pop(name) if value is None else os.environ.update({name: value})


@dataclass(frozen=True)
class Recording:
    """A real database behind a real recorder, and the rows it ends up with."""

    recorder: RecorderClient
    database: Path
    name: str

    def open(self, trial_no: int) -> RecordingContext:
        """A trial and its first attempt, as runners are told of it."""
        trial_id = self.recorder.open_trial(SWEEP, trial_no, {}, {}, 0, f"point-{trial_no}")
        attempt = self.recorder.start_attempt(trial_id, os.getpid())
        return RecordingContext(
            recorder=self.name, sweep_id=SWEEP, trial_id=trial_id, attempt=attempt, steps=True, timeout_s=30.0
        )

    def read(self, query: str) -> list[dict[str, Any]]:
        """Rows of the database, by column name."""
        with closing(sqlite3.connect(self.database)) as connection:
            connection.row_factory = sqlite3.Row
            return [dict(row) for row in connection.execute(query)]


SWEEP = "tiny-00000000"


@pytest.fixture(scope="module")
def recording(cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recording]:
    """A sweep is open; each test opens its trials."""
    database = tmp_path_factory.mktemp("store") / "tradesweep.db"
    recorder = create_recorder(str(database), name="recorder")
    recorder.open_sweep(
        NewSweep(
            sweep_id=SWEEP,
            experiment="tiny",
            spec_json="{}",
            identity="0" * 64,
            data_sha256="0" * 64,
            instrument="planted",
            git_revision=None,
            versions_json="{}",
            resources_json="{}",
            seed=0,
            driver_pid=os.getpid(),
            driver_host="here",
            driver_started_at=1,
            buy_hold_sharpe=None,
            validation_bars=200,
            periods_per_year=252.0,
        )
    )
    yield Recording(recorder, database, "recorder")
    recorder.close(30.0)
