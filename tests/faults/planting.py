"""Adds an experiment whose trials go wrong, each in a way of its own, to a workplace."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

EXPERIMENT = """
  {name}:
    sweep: {name}
    plugins: [planted.py]
    market: {{instrument: {instrument}}}
    env: {{reward: planted}}
    budget: {{trials: {trials}, env_steps_per_trial: 4000, max_retries: {retries}}}
    searcher: {{kind: random, points: {points}}}
    resources: {{lanes: 8, concurrent_trials: {concurrent}}}
"""
INSTRUMENT = "../é e\u0301 \u202e🚀'; DROP TABLE trials;-- <script>alert(1)</script>"
"""A name is data, whatever it looks like."""
SWEEP = """
algorithm: dqn
fixed:
  train_batch_size_per_learner: 32
  num_steps_sampled_before_learning_starts: 200
search:
  lr: {loguniform: [1e-30, 1e6]}
  gamma: {uniform: [0.5, 0.999]}
"""


def plant(workplace: Any, name: str, points: list[dict[str, float]], *, retries: int = 0, concurrent: int = 1) -> None:
    """Add an experiment whose trials are these points, in this order."""
    root: Path = workplace.root
    shutil.copy(Path(__file__).with_name("planted.py"), root)
    (root / "sweeps" / f"{name}.yaml").write_text(SWEEP)
    with (root / "experiments.yaml").open("a", encoding="utf-8") as file:
        file.write(
            EXPERIMENT.format(
                name=name,
                instrument=json.dumps(INSTRUMENT, ensure_ascii=False),
                trials=len(points),
                points=json.dumps(points),
                retries=retries,
                concurrent=concurrent,
            )
        )
