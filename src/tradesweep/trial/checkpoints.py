"""Publishing checkpoints, and keeping the best and the last.

A checkpoint is a folder: `rllib/` (RLlib's state for going on), `policy.safetensors` and `policy.json` (the plain
policy, for everything else), `trial.json` (where the trial stood), `MANIFEST.json` written last. A folder without a
manifest is not a checkpoint. Retention is our own: Tune's deletes the best checkpoint when its score is nested.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ray.rllib.algorithms.algorithm import Algorithm

from tradesweep.policy import PlainPolicy, verify_manifest, write_manifest

RLLIB, STATE = "rllib", "trial.json"


@dataclass(kw_only=True, slots=True)
class TrialState:
    """Where a trial stands after an iteration; everything a later attempt needs beside RLlib's own state."""

    iteration: int = 0
    env_steps: int = 0
    updates: int = 0
    elapsed_s: float = 0.0
    raw_scores: list[float] = field(default_factory=list)
    best_iteration: int | None = None
    best_sharpe: float | None = None

    def is_better(self, sharpe: float | None, *, eligible: bool) -> bool:
        """Best is the highest Sharpe of an eligible policy; ties go to the earlier."""
        return eligible and sharpe is not None and (self.best_sharpe is None or sharpe > self.best_sharpe)


def publish(
    folder: Path, *, algorithm: Algorithm, policy: PlainPolicy, state: TrialState, facts: dict[str, Any]
) -> str:
    """Write a checkpoint; return the sha256 of its manifest. What stood half-written there before is removed."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    algorithm.save_to_path((folder / RLLIB).absolute())
    policy.save(folder)
    (folder / STATE).write_text(json.dumps(asdict(state), indent=1), encoding="utf-8")
    return write_manifest(folder, facts)


def restore(folder: Path, *, manifest_sha256: str, algorithm: Algorithm) -> TrialState:
    """Verify the hashes, then load RLlib's state into `algorithm`. Raises CheckpointError before unpickling."""
    verify_manifest(folder, manifest_sha256)
    algorithm.restore_from_path((folder / RLLIB).absolute())
    return TrialState(**json.loads((folder / STATE).read_text(encoding="utf-8")))


def retain(checkpoints: Path, *, keep: set[int], forget: Callable[[int], None]) -> None:
    """Delete every checkpoint but those iterations; `forget` is called with each before its files go."""
    published = {int(folder.name): folder for folder in checkpoints.iterdir() if folder.name.isdigit()}
    for iteration in sorted(set(published) - keep):
        forget(iteration)
        shutil.rmtree(published[iteration], ignore_errors=True)
