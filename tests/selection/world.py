"""A small sweep as a real one leaves it: a spec on disk, rows through the Writer, plain policies in checkpoints.

The market is synthetic and tiny; policies are random linear ones, evaluated by the one evaluator. Loaded by path from
the conftest of each folder that needs it.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from tradesweep.env import EnvConfig, compile_env, compile_market
from tradesweep.home import Home
from tradesweep.market import Market
from tradesweep.metrics import average_blocks, compound_blocks
from tradesweep.names import (
    PRODUCER_EPISODE_BITS,
    RECORD_COLUMNS,
    EpisodeRole,
    ProducerKey,
    ProducerRole,
    Record,
    SweepStatus,
    TrialStatus,
)
from tradesweep.policy import (
    Evaluation,
    PlainPolicy,
    build_policy_spec,
    evaluate,
    evaluate_constant,
    write_manifest,
)
from tradesweep.spec import SweepSpec, load_spec
from tradesweep.store import DecodedBatch, NewSweep, Store, Writer, open_store
from tradesweep.tracking import prepare_backend

EXPERIMENTS = """
version: 1
experiments:
  small:
    description: a small planted market
    sweep: small
    market: {source: synthetic, name: planted, periods_per_year: 252, params: {bars: 700, rho: 0.5, q: 0.2, seed: 3}}
    features:
      - csv_columns: {names: [signal, noise_1]}
    splits: {train: 300, validation: 200, test: 200}
    env: {fill: next_open, episode_bars: 50}
    evaluation: {min_trades: 5, patience: null}
    budget: {trials: 3, env_steps_per_trial: 1000}
  broken:
    sweep: small
    market: {source: csv, path: bars.csv, periods_per_year: 252}
    features: [rsi]
    splits: {train: [2000-01-03, 2000-06-30], validation: [2000-07-03, 2000-09-29], test: [2000-10-02, 2000-12-29]}
    env: {fill: next_open}
    budget: {trials: 1, env_steps_per_trial: 1000}
"""
SWEEP = """
algorithm: ppo
fixed:
  train_batch_size_per_learner: 100
  minibatch_size: 50
  model: {hiddens: [8]}
search:
  lr: {loguniform: [1e-4, 1e-2]}
"""


def write_root(root: Path) -> Path:
    """A folder with a spec."""
    (root / "sweeps").mkdir(parents=True)
    (root / "experiments.yaml").write_text(EXPERIMENTS, encoding="utf-8")
    (root / "sweeps" / "small.yaml").write_text(SWEEP, encoding="utf-8")
    (root / "bars.csv").write_text("time,open,high,low,close,volume\n2000-01-03,1,2,1\n", encoding="utf-8")
    return root


@dataclass
class Runtime:
    """A spec compiled once."""

    spec: SweepSpec
    market: Market
    config: EnvConfig

    @classmethod
    def load(cls, root: Path) -> Runtime:
        spec = load_spec("small", root=root)
        market = compile_market(spec)
        return cls(spec, market, compile_env(spec, market))

    @property
    def identity(self) -> str:
        """What `make_plan` gives the spec too: 16 lanes are what auto means for PPO."""
        return self.spec.identity(data_sha256=self.market.sha256, lanes=16, env_runners=0)

    @property
    def sweep_id(self) -> str:
        return f"small-{self.identity[:8]}"

    def policy(self, signal_weight: float, seed: int = 0) -> PlainPolicy:
        """Linear logits: short, flat and long by the signal, with some noise; weight 0 never trades."""
        layers = {"logits": [{"weight": "w", "bias": "b", "activation": "linear"}]}
        spec = build_policy_spec(self.spec, self.market, self.config, layers=layers)
        weight = 0.01 * np.random.default_rng(seed).standard_normal((3, spec.width)) * (signal_weight != 0.0)
        weight[:, 0] += signal_weight * np.array([-1.0, 0.0, 1.0])
        return PlainPolicy.from_arrays(spec, {"w": weight.astype(np.float32), "b": np.array([0.0, 0.1, 0.0], "f4")})

    def evaluate(self, policy: PlainPolicy, split: str = "validation", **named: Any) -> Evaluation:
        return evaluate(policy, self.market, self.config, split=split, **named)


class World:
    """A home with one sweep, written step by step."""

    Runtime = Runtime

    def __init__(self, root: Path, home: Home, runtime: Runtime) -> None:
        self.root, self.home, self.runtime = root, home, runtime
        home.path.mkdir(parents=True, exist_ok=True)
        self.sweep_id = runtime.sweep_id

    @property
    def store(self) -> Store:
        return open_store(self.home.database)

    def writer(self) -> Writer:
        return Writer(self.home.database)

    def write_sweep(self, weights: Mapping[int, float], *, status: SweepStatus = SweepStatus.FINISHED) -> None:
        """One trial for each entry, by its number: the weight its policy gives the signal."""
        with self.writer() as writer:
            self.open_sweep(writer)
            for trial_no, weight in weights.items():
                self.write_trial(writer, trial_no, weight)
            writer.close_sweep(self.sweep_id, status)

    def open_sweep(self, writer: Writer, **changes: Any) -> None:
        runtime = self.runtime
        holding = evaluate_constant(1.0, runtime.market, runtime.config, split="validation")
        values: dict[str, Any] = {
            "sweep_id": self.sweep_id,
            "experiment": "small",
            "spec_json": runtime.spec.to_json(),
            "identity": runtime.identity,
            "data_sha256": runtime.market.sha256,
            "instrument": runtime.market.instrument,
            "git_revision": None,
            "versions_json": "{}",
            "resources_json": "{}",
            "seed": 0,
            "driver_pid": 2**22 + 1,
            "driver_host": "elsewhere",
            "driver_started_at": 1,
            "buy_hold_sharpe": holding.sharpe,
            "validation_bars": holding.bars,
            "periods_per_year": runtime.market.periods_per_year,
        }
        writer.open_sweep(NewSweep(**(values | changes)))

    def open_trial(self, writer: Writer, trial_no: int, point_no: int | None = None, **place: Any) -> int:
        number = trial_no if point_no is None else point_no
        point = json.dumps({"lr": 1e-3 * (number + 1)})
        words = (point, trial_no, f"hash {number}", point)
        return writer.open_trial(self.sweep_id, trial_no, *words, point_no=point_no, **place)

    def write_trial(
        self,
        writer: Writer,
        trial_no: int,
        weight: float,
        *,
        status: TrialStatus = TrialStatus.FINISHED,
        error: str | None = None,
        **place: Any,
    ) -> int:
        """Train once, evaluate once, publish, end."""
        trial_id = self.open_trial(writer, trial_no, **place)
        attempt = writer.start_attempt(trial_id, 1)
        policy = self.runtime.policy(weight, trial_no)
        sampled = _Source(writer, ProducerKey(self.sweep_id, trial_id, attempt, ProducerRole.RUNNER, 1))
        training = self.runtime.evaluate(policy, "train", record=sampled.next_episode_no, role=EpisodeRole.TRAIN)
        trained = to_rows(training.records or {})
        env_steps = len(trained[Record.STEPS])
        sampled.send(trained)
        lanes = [[sampled.last_episode_no, env_steps]]
        source = _Source(writer, ProducerKey(self.sweep_id, trial_id, attempt, ProducerRole.TRIAL, 0))
        found = self.runtime.evaluate(policy, record=source.next_episode_no, weights_version=1)
        rows = to_rows(found.records or {})
        rows |= self.summary_rows(trial_no, policy, found, source.last_episode_no, env_steps, lanes)
        source.send(rows)
        writer.close_trial(trial_id, status, error)
        return trial_id

    def summary_rows(
        self, trial_no: int, policy: PlainPolicy, found: Evaluation, episode_no: int, env_steps: int, lanes: Any
    ) -> dict[Record, list[tuple[Any, ...]]]:
        """Iteration, evaluation, curve and checkpoint."""
        eligible = int(found.is_eligible(self.runtime.spec.evaluation.min_trades))
        folder = self.home.checkpoint(self.sweep_id, trial_no, 1)
        folder.mkdir(parents=True)
        policy.save(folder)
        manifest = write_manifest(folder, {"trial_no": trial_no})
        at, path = 1_000, str(folder.relative_to(self.home.path))
        metrics = json.dumps({"validation/score": found.score})
        split, times = self.runtime.market.splits["validation"], self.runtime.market.bars.time_us
        span = (int(times[split.start]), int(times[split.stop - 1]))
        returns, exposures = compound_blocks(found.returns_T), average_blocks(found.exposures_T)
        facts = (found.status.value, found.sharpe, found.score, found.bars, found.trades, found.total_return)
        more = (found.max_drawdown, found.mean_exposure, found.turnover, eligible, at)
        curve = (len(returns), returns.astype("<f8").tobytes(), exposures.astype("<f8").tobytes())
        market = (self.runtime.market.instrument, self.runtime.market.sha256)
        return {
            Record.ITERATIONS: [(1, at, env_steps, 10, 1, 2.0, metrics)],
            Record.EVALUATIONS: [(episode_no, 1, "validation", 1.0, *facts, *more)],
            Record.EVALUATION_CURVES: [(episode_no, *market, *span, *curve)],
            Record.CHECKPOINTS: [
                (1, at, env_steps, 1, path, manifest, found.sharpe, found.score, eligible, json.dumps(lanes))
            ],
        }

    def folder(self, trial_no: int) -> Path:
        """A trial's checkpoint."""
        return self.home.checkpoint(self.sweep_id, trial_no, 1)


class _Source:
    """One producer."""

    def __init__(self, writer: Writer, key: ProducerKey) -> None:
        self._writer, self._key = writer, key
        self._grant = writer.hello(key, pid=1, host="here")
        self._numbers = count(self._grant.producer_no << PRODUCER_EPISODE_BITS)
        self.last_episode_no = 0

    def next_episode_no(self) -> int:
        self.last_episode_no = next(self._numbers)
        return self.last_episode_no

    def send(self, rows: dict[Record, list[tuple[Any, ...]]]) -> None:
        self._writer.apply(DecodedBatch(producer=self._key, epoch=self._grant.epoch, seq=1, rows=rows))


def to_rows(records: Mapping[Record, Mapping[str, Any]]) -> dict[Record, list[tuple[Any, ...]]]:
    """Columns as rows of plain values."""
    rows = {}
    for kind, columns in records.items():
        wanted = [_plain(columns[column.name]) for column in RECORD_COLUMNS[kind]]
        rows[kind] = list(zip(*wanted, strict=True))
    return {kind: found for kind, found in rows.items() if found}


def _plain(column: Any) -> list[Any]:
    values = column.tolist() if isinstance(column, np.ndarray) else list(column)
    return [None if isinstance(value, float) and math.isnan(value) else value for value in values]


def make_mlflow(folder: Path) -> Path:
    """An empty MLflow database; creating its schema takes seconds, so tests copy it."""
    home = Home(folder)
    prepare_backend(home.mlflow_database, home.artifacts)
    return home.mlflow_database


def copy_mlflow(template: Path, home: Home) -> None:
    """Give the home a copy of it."""
    home.path.mkdir(parents=True, exist_ok=True)
    shutil.copy(template, home.mlflow_database)
