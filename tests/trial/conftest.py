"""Small trials on a small Ray, with a real recorder in front of a real database."""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import ray
import torch

from tradesweep.env import compile_market
from tradesweep.market import Market
from tradesweep.names import TrialStatus
from tradesweep.recording import RecorderClient, create_recorder
from tradesweep.spec import SweepSpec, load_spec
from tradesweep.store import NewSweep, Store, open_store
from tradesweep.trial import Assignment, ResumePoint, SweepContext, TrialTrainable

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
    env: {{fill: next_open, episode_bars: 20, fee_bps: 3, slippage_bps: 2}}
    evaluation: {{count: 8, min_trades: 1, patience: null}}
    budget: {{trials: 1, env_steps_per_trial: 1024}}
"""

PARAMS: dict[str, dict[str, Any]] = {
    "ppo": {"lr": 1e-3, "train_batch_size_per_learner": 128, "minibatch_size": 64, "num_epochs": 2},
    "dqn": {"lr": 1e-3, "num_steps_sampled_before_learning_starts": 200, "train_batch_size_per_learner": 16},
}
for _params in PARAMS.values():
    _params["model.hiddens"] = [16]

RAY_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_TRAIN_V2_ENABLED": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}

torch.set_num_threads(1)  # as in the processes of a sweep


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


@dataclass
class Sweep:
    """An open sweep of one algorithm: hands out trials, and reads what they left behind."""

    spec: SweepSpec
    market: Market
    context: SweepContext
    recorder: RecorderClient
    database: Path
    trials: int = 0

    @property
    def store(self) -> Store:
        return open_store(self.database)

    def open(self, *, seed: int = 1, **params: Any) -> Assignment:
        """The next trial; keyword arguments change its params."""
        number, self.trials = self.trials, self.trials + 1
        point = {**PARAMS[self.spec.algorithm], **params}
        trial_id = self.recorder.open_trial(self.context.sweep_id, number, point, point, seed, f"point-{number}")
        return Assignment(trial_id=trial_id, trial_no=number, params=point, seed=seed)

    def resume(self, assignment: Assignment) -> Assignment:
        """The same trial, to go on from its last checkpoint."""
        self.recorder.close_trial(assignment.trial_id, TrialStatus.INTERRUPTED)
        last = self.store.find_last_checkpoint(assignment.trial_id)
        path = str(self.context.home / last.path)
        point = ResumePoint(iteration=last.iteration, path=path, manifest_sha256=last.manifest_sha256)
        return replace(assignment, resume=point)

    def trainable(self, assignment: Assignment, *, env_runners: int = 0) -> TrialTrainable:
        """The Tune trainable, in this process."""
        context = replace(self.context, env_runners=env_runners)

        class Bound(TrialTrainable):
            def setup(self, config: dict[str, Any]) -> None:
                super().setup(config, context)

            def _setup_logdir(self) -> None:
                self._logdir = str(context.home)  # Tune's default is a folder under the home directory

        return Bound(assignment.to_config())

    def read(self, query: str) -> list[dict[str, Any]]:
        """Rows of the database, by column name."""
        with closing(sqlite3.connect(self.database)) as connection:
            connection.row_factory = sqlite3.Row
            return [dict(row) for row in connection.execute(query)]

    def steps_of(self, assignment: Assignment, *, role: str = "train") -> list[tuple[Any, ...]]:
        """What a trial's lanes did, without the numbers its producers were given."""
        rows = self.read(
            "SELECT e.seed, e.lane, s.step_id & 0xFFFFFF AS t, s.bar, s.action, s.target, s.units, s.equity, s.reward,"
            " s.weights_version FROM steps s JOIN episodes e ON s.step_id >> 24 = e.episode_no"
            f" WHERE e.trial_id = {assignment.trial_id} AND e.role = '{role}' ORDER BY e.seed, s.step_id"
        )
        return [tuple(row.values()) for row in rows]

    def scores_of(self, assignment: Assignment) -> list[tuple[float | None, float, float, int]]:
        """Sharpe, score, return and trades of each evaluation."""
        evaluations = self.store.list_evaluations(assignment.trial_id)
        return [(row.sharpe, row.score, row.total_return, row.trades) for row in evaluations]


@pytest.fixture(scope="module")
def open_sweep(cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Sweep]]:
    """Opens the sweep of an algorithm, each with its own database and recorder."""
    opened: dict[str, Sweep] = {}

    def build(algorithm: str) -> Sweep:
        root = tmp_path_factory.mktemp(algorithm)
        (root / "sweeps").mkdir()
        (root / "experiments.yaml").write_text(EXPERIMENTS.format(algorithm=algorithm))
        (root / "sweeps" / f"{algorithm}.yaml").write_text(
            f"algorithm: {algorithm}\nsearch:\n  lr: {{loguniform: [1e-4, 1e-2]}}\n"
            + ("fixed:\n  num_steps_sampled_before_learning_starts: 200\n" if algorithm == "dqn" else "")
        )
        spec = load_spec("tiny", root=root)
        market = compile_market(spec)
        home = root / "runs"
        home.mkdir()
        recorder = create_recorder(str(home / "tradesweep.db"), name=f"recorder-{algorithm}")
        recorder.open_sweep(new_sweep(spec, market))
        context = SweepContext(
            sweep_id=f"tiny-{algorithm}",
            spec_json=spec.to_json(),
            home=home,
            recorder=f"recorder-{algorithm}",
            market=ray.put(market),
            concurrent_trials=1,
            env_runners=0,
            lanes=4,
            cpus_per_bundle=0.5,
            gpus_per_trial=0.0,
        )
        return Sweep(spec, market, context, recorder, home / "tradesweep.db")

    yield lambda algorithm: opened.setdefault(algorithm, opened.get(algorithm) or build(algorithm))
    for sweep in opened.values():
        sweep.recorder.close(30.0)


def new_sweep(spec: SweepSpec, market: Market) -> NewSweep:
    return NewSweep(
        sweep_id=f"tiny-{spec.algorithm}",
        experiment="tiny",
        spec_json=spec.to_json(),
        identity="0" * 64,
        data_sha256=market.sha256,
        instrument=market.instrument,
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
