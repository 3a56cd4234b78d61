"""Specs for the tests of this room, written to a folder of their own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tradesweep.spec import SweepSpec, load_spec

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
