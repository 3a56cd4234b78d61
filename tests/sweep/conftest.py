"""Specs for the tests of this room, written to a folder of their own."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from tradesweep.home import Home
from tradesweep.names import BAD_ENDS, Metric, TrialStatus
from tradesweep.recording import LocalRecorder
from tradesweep.spec import SweepSpec, load_spec
from tradesweep.store import NewSweep, Store, Writer, open_store
from tradesweep.sweep.history import History
from tradesweep.sweep.ledger import Ledger
from tradesweep.sweep.search import PointSearch

EXPERIMENTS = """
version: 1
experiments:
  tiny:
    sweep: tiny
    market:
      source: synthetic
      name: planted
      periods_per_year: 252
      params: {bars: 1200, rho: 0.5, q: 0.2, seed: 7}
    features:
      - csv_columns: {names: [signal, noise_1]}
    splits: {train: 600, validation: 300, test: 300}
    env: {fill: next_open, episode_bars: 50, fee_bps: 3, slippage_bps: 2}
    evaluation: {count: 8, min_trades: 5}
    budget: {trials: 3, env_steps_per_trial: 1024}
    resources: {lanes: 4}
"""

SWEEP = """
algorithm: dqn
fixed:
  gamma: 0.9
  num_steps_sampled_before_learning_starts: 100
  train_batch_size_per_learner: 32
search:
  lr: {loguniform: [1e-3, 3e-3]}
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "experiments.yaml").write_text(EXPERIMENTS)
    (tmp_path / "sweeps" / "tiny.yaml").write_text(SWEEP)
    return tmp_path


@pytest.fixture
def load(root: Path) -> Callable[..., SweepSpec]:
    """`load("a.b=1", search="...")`: the tiny spec with overrides, and another text for the sweep file."""

    def load_tiny(*overrides: str, sweep: str | None = None) -> SweepSpec:
        if sweep is not None:
            (root / "sweeps" / "tiny.yaml").write_text(sweep)
        return load_spec("tiny", root=root, overrides=overrides)

    return load_tiny


@pytest.fixture
def recorder(tmp_path: Path) -> Iterator[LocalRecorder]:
    """An open sweep `tiny-1` in a database of its own."""
    recorder = LocalRecorder(Writer(tmp_path / "tradesweep.db"))
    recorder.open_sweep(new_sweep())
    yield recorder
    recorder.close()


def new_sweep(**changes: Any) -> NewSweep:
    values: dict[str, Any] = {
        "sweep_id": "tiny-1",
        "experiment": "tiny",
        "spec_json": "{}",
        "identity": "i",
        "data_sha256": "d",
        "instrument": "planted",
        "git_revision": None,
        "versions_json": "{}",
        "resources_json": "{}",
        "seed": 0,
        "driver_pid": 1,
        "driver_host": "here",
        "driver_started_at": 1,
        "buy_hold_sharpe": None,
        "validation_bars": 299,
        "periods_per_year": 252.0,
    }
    return NewSweep(**(values | changes))


@pytest.fixture
def reopen(recorder: LocalRecorder) -> Callable[..., None]:
    """As a later run of the driver does: `reopen(env_steps_per_trial=2048)`."""
    numbers = count(2)

    def reopen(**changes: Any) -> None:
        recorder.open_sweep(new_sweep(driver_started_at=next(numbers), **changes))

    return reopen


@pytest.fixture
def store(recorder: LocalRecorder, tmp_path: Path) -> Store:
    return open_store(tmp_path / "tradesweep.db")


@pytest.fixture
def make_history(load: Any, store: Store, tmp_path: Path) -> Callable[..., History]:
    def make_history(*overrides: str) -> History:
        return History(store, Home(tmp_path), "tiny-1", load(*overrides))

    return make_history


@pytest.fixture
def make_ledger(load: Any, recorder: LocalRecorder, make_history: Any) -> Callable[..., Ledger]:
    """A ledger of the tiny spec with overrides, rebuilt from the store as the driver does."""

    def make_ledger(*overrides: str) -> Ledger:
        spec, history = load(*overrides), make_history(*overrides)
        search = PointSearch(spec, history.read_past())
        return Ledger(spec, history, points=spec.budget.trials, search=search, recorder=recorder)

    return make_ledger


@pytest.fixture
def result() -> Callable[..., dict[str, Any]]:
    """What a trial says to Tune."""

    def result(evaluation: int, score: float, status: TrialStatus = TrialStatus.RUNNING, **more: Any) -> dict[str, Any]:
        return {
            "evaluation": evaluation,
            Metric.VALIDATION_SCORE.value: score,
            "status": status.value,
            "error": None,
            "done": status != TrialStatus.RUNNING,
            **more,
        }

    return result


@pytest.fixture
def finish(result: Any, tmp_path: Path) -> Callable[..., None]:
    """End a trial with a score, which is its best Sharpe ratio too; the rows say so as an evaluation would."""

    def finish(
        ledger: Ledger, tune_id: str, score: float, status: TrialStatus = TrialStatus.FINISHED, env_steps: int = 1024
    ) -> None:
        trial_id = ledger.running[tune_id].trial_id
        sharpe = None if status in BAD_ENDS else score
        with closing(sqlite3.connect(tmp_path / "tradesweep.db", isolation_level=None)) as db:
            values = (sharpe, sharpe, env_steps, trial_id)
            db.execute("UPDATE trials SET last_score = ?, best_sharpe = ?, env_steps = ? WHERE trial_id = ?", values)
        ledger.report(tune_id, result(1, score, status, error="boom" if status in BAD_ENDS else None))
        ledger.end(tune_id)

    return finish
