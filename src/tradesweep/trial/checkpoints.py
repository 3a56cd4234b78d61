"""Publishing checkpoints, keeping the best and the last two, and finding the one to go on from.

A checkpoint is a folder: `rllib/` (RLlib's state for going on), `policy.safetensors` and `policy.json` (the plain
policy, for everything else), `trial.json` (where the trial stood), `MANIFEST.json` written last. A folder without a
manifest is not a checkpoint. Retention is our own: Tune's deletes the best checkpoint when its score is nested. Two
are kept as the last, so that a damaged one costs an iteration and not the trial.
"""

from __future__ import annotations

import json
import logging
import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ray.rllib.algorithms.algorithm import Algorithm

from tradesweep.errors import CheckpointError
from tradesweep.policy import PlainPolicy, verify_manifest, write_manifest
from tradesweep.trial.assignment import ResumePoint

RLLIB, STATE = "rllib", "trial.json"
LAST_KEPT = 2
"""The last checkpoint, and the one to fall back to."""

logger = logging.getLogger(__name__)


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
    leaders: list[tuple[int, float]] = field(default_factory=list)
    """Iteration and Sharpe of the best policies, best first: so many as their checkpoints are kept."""

    def __post_init__(self) -> None:
        self.leaders = [(iteration, sharpe) for iteration, sharpe in self.leaders]  # JSON has no tuples
        if self.best_iteration is not None and self.best_sharpe is not None and not self.leaders:
            self.leaders = [(self.best_iteration, self.best_sharpe)]  # written before there were several

    def rank(self, sharpe: float | None, *, eligible: bool, most: int) -> None:
        """Take in this iteration's policy. Best is the highest Sharpe of an eligible one; ties go to the earlier."""
        if not eligible or sharpe is None or not math.isfinite(sharpe):
            return
        ranked = sorted([*self.leaders, (self.iteration, sharpe)], key=lambda leader: (-leader[1], leader[0]))
        self.leaders = ranked[:most]
        self.best_iteration, self.best_sharpe = self.leaders[0]

    @property
    def leading(self) -> set[int]:
        """Iterations of the best policies."""
        return {iteration for iteration, _ in self.leaders}

    @property
    def newest(self) -> set[int]:
        """The iterations to go on from: the last, and the one before it."""
        return set(range(self.iteration - LAST_KEPT + 1, self.iteration + 1))


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


def find_intact(resume: ResumePoint | None) -> ResumePoint | None:
    """The newest checkpoint whose files are those that were published; None: the trial begins anew.

    Only hashes are read; nothing is loaded.
    """
    for point in (resume, *resume.older) if resume else ():
        try:
            verify_manifest(Path(point.path), point.manifest_sha256)
        except CheckpointError as error:
            logger.warning("checkpoint of %s cannot be used, an older one is looked for: %s", point, error)
        else:
            return point
    return None


def restore(folder: Path, *, manifest_sha256: str, algorithm: Algorithm) -> TrialState:
    """Verify the hashes, then load RLlib's state into `algorithm`. Raises CheckpointError before unpickling."""
    verify_manifest(folder, manifest_sha256)
    algorithm.restore_from_path((folder / RLLIB).absolute())
    return TrialState(**json.loads((folder / STATE).read_text(encoding="utf-8")))


def retain(checkpoints: Path, *, keep: set[int], forget: Callable[[int], None]) -> list[Path]:
    """Call `forget` with every checkpoint but those iterations, and return their folders, for `remove`."""
    published = {int(folder.name): folder for folder in checkpoints.iterdir() if folder.name.isdigit()}
    gone = sorted(set(published) - keep)
    for iteration in gone:
        forget(iteration)
    return [published[iteration] for iteration in gone]


def remove(folders: Sequence[Path]) -> None:
    """Delete checkpoints that were forgotten; what cannot be deleted is left to `tradesweep gc`."""
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
