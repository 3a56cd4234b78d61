"""A tiny spec in a folder of its own, to be broken in one place at a time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tradesweep.errors import SpecError
from tradesweep.spec import SweepSpec, load_spec

EXPERIMENTS = """\
version: 1
plugins: []
defaults:
  market: {periods_per_year: 252}
  env: {fill: next_open, fee_bps: 2}
experiments:
  tiny:
    description: a tiny one
    sweep: tiny
    market:
      source: synthetic
      name: planted
      params: {bars: 1200, rho: 0.5}
    features:
      - log_returns: {lags: [1, 2]}
      - rsi
    splits: {train: 600, validation: 300, test: 300}
    env:
      episode_bars: 50
    budget: {trials: 3, env_steps_per_trial: 4000}
    resources: {lanes: 4}
"""

DQN = """\
algorithm: dqn
fixed:
  gamma: 0.9
  model: {hiddens: [32, 32]}
search:
  lr: {loguniform: [1e-3, 3e-3]}
"""

PPO = """\
algorithm: ppo
fixed:
  train_batch_size_per_learner: 512
search:
  lr: {loguniform: [1e-3, 3e-3]}
"""

Load = Callable[..., SweepSpec]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with experiments.yaml and sweeps/tiny.yaml."""
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "experiments.yaml").write_text(EXPERIMENTS, encoding="utf-8")
    (tmp_path / "sweeps" / "tiny.yaml").write_text(DQN, encoding="utf-8")
    return tmp_path


@pytest.fixture
def experiments() -> str:
    return EXPERIMENTS


@pytest.fixture
def dqn() -> str:
    return DQN


@pytest.fixture
def ppo() -> str:
    return PPO


@pytest.fixture
def load(root: Path) -> Load:
    """`load("a.b=1", sweep="...", experiments="...")`: the tiny spec with overrides, or from other texts."""

    def load_tiny(*overrides: str, sweep: str | None = None, experiments: str | None = None) -> SweepSpec:
        if sweep is not None:
            (root / "sweeps" / "tiny.yaml").write_text(sweep, encoding="utf-8")
        if experiments is not None:
            (root / "experiments.yaml").write_text(experiments, encoding="utf-8")
        return load_spec("tiny", root=root, overrides=overrides)

    return load_tiny


@pytest.fixture
def refuse(load: Load) -> Callable[..., list[str]]:
    """The lines of the SpecError that `load` raises."""

    def refuse_it(*overrides: str, **texts: Any) -> list[str]:
        with pytest.raises(SpecError) as caught:
            load(*overrides, **texts)
        return str(caught.value).split("\n")

    return refuse_it
