"""A real MLflow backend and a real store for every test.

The backend is copied from one template: creating its schema takes two seconds.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tradesweep.home import Home
from tradesweep.names import EPISODE_STEP_BITS, ProducerKey, ProducerRole, Record, SweepStatus, TrialStatus
from tradesweep.spec import SweepSpec
from tradesweep.store import DecodedBatch, NewSweep, Store, Writer, open_store
from tradesweep.tracking import open_client, prepare_backend

if TYPE_CHECKING:
    from mlflow import MlflowClient

SWEEP = "dqn_lr-12345678"
START_US = 1_700_000_000_000_000


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


class Clock:
    """Each look is a second later."""

    def __init__(self) -> None:
        self.now_us = START_US

    def __call__(self) -> int:
        self.now_us += 1_000_000
        return self.now_us


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def writer(home: Home, clock: Clock) -> Iterator[Writer]:
    with Writer(home.database, clock_us=clock) as made:
        yield made


@pytest.fixture
def store(writer: Writer) -> Store:
    return open_store(str(writer.database))


@pytest.fixture(scope="session")
def spec() -> SweepSpec:
    return SweepSpec.model_validate(
        {
            "experiment": "dqn_lr",
            "sweep": "dqn_lr",
            "algorithm": "dqn",
            "fixed": {"gamma": 0.99, "model.hiddens": [64, 64]},
            "market": {"source": "sample", "name": "sp500", "periods_per_year": 252.0},
            "features": [{"name": "rsi"}],
            "splits": {
                "train": ["1999-01-04", "2012-12-31"],
                "validation": ["2013-01-02", "2015-12-31"],
                "test": ["2016-01-04", "2018-12-31"],
            },
            "env": {"fill": "next_close"},
            "budget": {"trials": 2, "env_steps_per_trial": 1000},
        }
    )


class Story:
    """Writes what the recorder writes in the course of a sweep."""

    sweep_id = SWEEP
    start_us = START_US

    def __init__(self, writer: Writer, clock: Clock, spec: SweepSpec, home: Home) -> None:
        self.writer, self._clock, self.home = writer, clock, home
        self._spec = spec
        self._seqs: dict[int, int] = {}
        self._keys: dict[int, tuple[ProducerKey, int, int]] = {}

    def open_sweep(self, driver_started_at: int = START_US) -> None:
        self.writer.open_sweep(
            NewSweep(
                sweep_id=SWEEP,
                experiment="dqn_lr",
                spec_json=self._spec.to_json(),
                identity="12345678" * 8,
                data_sha256="ab" * 32,
                instrument="sp500",
                git_revision="c0ffee",
                versions_json=json.dumps({"ray": "2.60.0"}),
                resources_json="{}",
                seed=0,
                driver_pid=1,
                driver_host="here",
                driver_started_at=driver_started_at,
                buy_hold_sharpe=0.8,
                validation_bars=755,
                periods_per_year=252.0,
            )
        )

    def open_trial(self, trial_no: int = 0) -> int:
        params = {"lr": 1e-4 * (trial_no + 1), "gamma": 0.99, "model.hiddens": [64, 64]}
        point = {"lr": params["lr"]}
        return self.writer.open_trial(
            SWEEP, trial_no, json.dumps(params), trial_no, f"hash {trial_no}", json.dumps(point)
        )

    def start(self, trial_id: int, resumed_from: int | None = None) -> None:
        attempt = self.writer.start_attempt(trial_id, 1, resumed_from)
        key = ProducerKey(SWEEP, trial_id, attempt, ProducerRole.TRIAL, 0)
        grant = self.writer.hello(key, pid=1, host="here")
        self._keys[trial_id], self._seqs[trial_id] = (key, grant.epoch, grant.producer_no), 0

    def iterate(self, trial_id: int, iteration: int, sharpe: float | None, **metrics: Any) -> Path:
        """One evaluation with its checkpoint, whose folder it gives."""
        key, epoch, producer_no = self._keys[trial_id]
        self._seqs[trial_id] = seq = self._seqs[trial_id] + 1
        number = producer_no << 20 | iteration
        at = self._advance(60_000_000 * iteration + 3_600_000_000 * (key.attempt - 1))
        folder = self.home.checkpoint(SWEEP, trial_id, iteration)
        (folder / "policy").mkdir(parents=True, exist_ok=True)
        (folder / "policy" / "policy.json").write_text(f'{{"iteration": {iteration}}}')
        told = {"validation/sharpe": sharpe, "train/env_steps": 100 * iteration, **metrics}
        metrics_json = json.dumps({name: value for name, value in told.items() if value is not None})
        rows: dict[Record, list[tuple[Any, ...]]] = {
            Record.EPISODES_OPENED: [(number, "validation", 0, None, None, at, 0, at, 1e4)],
            Record.STEPS: [(number << EPISODE_STEP_BITS, 0, at, at, 0, 0.0, 0.0, None, 1.0, 1e4, 0.0, 0.0, iteration)],
            Record.EPISODES_CLOSED: [(number, "COMPLETED", "LAST_BAR", at, 1e4, 0.0, 0.0, 1, sharpe, 0.0, 25, 0.5, 0)],
            Record.ITERATIONS: [(iteration, at, 100 * iteration, 10, iteration, 1.0, metrics_json)],
            Record.EVALUATIONS: [
                (number, iteration, "validation", 1.0, "OK", sharpe, sharpe or 0.0, 1, 25, 0.0, 0.0, 0.0, 0.0, 1, at)
            ],
            Record.CHECKPOINTS: [
                (
                    iteration,
                    at,
                    100 * iteration,
                    iteration,
                    str(folder.relative_to(self.home.path)),
                    f"sha {iteration}",
                    sharpe,
                    sharpe or 0.0,
                    1,
                    "[]",
                )
            ],
        }
        self.writer.apply(DecodedBatch(producer=key, epoch=epoch, seq=seq, rows=rows))
        return folder

    def _advance(self, since_start_us: int) -> int:
        """The time of an event; the clock is never behind what happened."""
        self._clock.now_us = max(self._clock.now_us, START_US + since_start_us)
        return START_US + since_start_us

    def close_trial(self, trial_id: int, status: TrialStatus, error: str | None = None) -> None:
        self.writer.close_trial(trial_id, status, error)

    def close_sweep(self, status: SweepStatus = SweepStatus.FINISHED) -> None:
        self.writer.close_sweep(SWEEP, status)

    def tell_whole_sweep(self) -> None:
        """Two trials with three evaluations each; the first one's second is the best."""
        self.open_sweep()
        for trial_no, sharpes in enumerate([(0.5, 1.5, 1.0), (0.2, None, 0.1)]):
            trial_id = self.open_trial(trial_no)
            self.start(trial_id)
            for iteration, sharpe in enumerate(sharpes, start=1):
                self.iterate(trial_id, iteration, sharpe)
            self.close_trial(trial_id, TrialStatus.FINISHED)
        self.close_sweep()


@pytest.fixture
def story(writer: Writer, clock: Clock, spec: SweepSpec, home: Home) -> Story:
    return Story(writer, clock, spec, home)
