"""What a worker process is told: once for the sweep, and once for each trial."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import ray

from tradesweep.home import Home
from tradesweep.market import Market


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepContext:
    """What all trials of a sweep share."""

    sweep_id: str
    spec_json: str
    """The frozen spec, the same text in every process."""
    home: Path
    recorder: str
    """Name of the recorder actor."""
    market: ray.ObjectRef[Market]
    """The market in the object store; every process reads the same pages."""
    concurrent_trials: int
    env_runners: int
    lanes: int
    cpus_per_bundle: float
    """CPU share of the trial's own process, and of each of its runners."""
    gpus_per_trial: float
    env_steps_per_trial: int | None = None
    """Where a sweep was extended, more than the spec says; evaluations go on at the spec's interval."""

    @property
    def folders(self) -> Home:
        """The folder of all results."""
        return Home(self.home)


@dataclass(frozen=True, kw_only=True, slots=True)
class ResumePoint:
    """The checkpoint an attempt goes on from, and what to do where it cannot."""

    iteration: int
    path: str
    """Absolute folder of the checkpoint."""
    manifest_sha256: str
    older: tuple[ResumePoint, ...] = ()
    """Checkpoints to fall back to where this one is damaged, newest first."""
    promoted: tuple[int, ...] = ()
    """Iterations of the trial whose checkpoints were promoted: their files stay."""

    def __str__(self) -> str:
        return f"iteration {self.iteration}"

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Back from Tune's config."""
        older = tuple(cls.from_config(point) for point in config["older"])
        return cls(**{**config, "older": older, "promoted": tuple(config["promoted"])})


@dataclass(frozen=True, kw_only=True, slots=True)
class Assignment:
    """One trial, as Tune's config carries it."""

    trial_id: int
    trial_no: int
    params: Mapping[str, Any]
    """Fixed and sampled keys together, flat."""
    seed: int
    resume: ResumePoint | None = None

    def to_config(self) -> dict[str, Any]:
        """Plain values for Tune."""
        return asdict(self)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Back from Tune's config."""
        resume = config.get("resume")
        return cls(
            trial_id=config["trial_id"],
            trial_no=config["trial_no"],
            params=config["params"],
            seed=config["seed"],
            resume=ResumePoint.from_config(resume) if resume else None,
        )


def derive_seed(*numbers: int) -> int:
    """A seed below 2**31 for what these numbers name: other numbers, another seed; zeros at their end add nothing.

    NumPy's legacy generator, which RLlib seeds, refuses 2**32 and above; lanes and runners add to the seed.
    """
    return int(np.random.SeedSequence(numbers).generate_state(1)[0]) >> 1
