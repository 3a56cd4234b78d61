"""Dividing a machine into trials and runners; a division that can never be scheduled is refused at once."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from tradesweep.spec import SweepSpec
from tradesweep.sweep.points import count_points

AUTO_LANES = {"dqn": 8, "ppo": 16}
"""Lanes of a trial when the spec says auto: sampling is then a small part of either algorithm's time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Resources:
    """What a sweep uses, resolved once, stored, and used again on resume."""

    cpus: int
    """CPUs Ray may use."""
    concurrent_trials: int
    env_runners: int
    """Remote runners of a trial; 0: it samples in its own process."""
    lanes: int
    """Lanes of a trial, through all its runners."""
    cpus_per_trial: float
    gpus_per_trial: float

    @property
    def cpus_per_bundle(self) -> float:
        """Share of each process of a trial; Ray counts in ten-thousandths."""
        return math.floor(self.cpus_per_trial / (1 + self.env_runners) * 10_000) / 10_000

    def bundles(self) -> list[dict[str, float]]:
        """The trial's own process first, then one bundle a runner."""
        own = {"CPU": self.cpus_per_bundle} | ({"GPU": self.gpus_per_trial} if self.gpus_per_trial else {})
        return [own] + [{"CPU": self.cpus_per_bundle}] * self.env_runners

    def to_dict(self) -> dict[str, Any]:
        """For the store and `--json`."""
        return asdict(self)


def resolve_resources(spec: SweepSpec, cpus: int) -> Resources:
    """Resolve every `auto`. Raises SpecError when a trial cannot fit, or lanes do not divide among the runners."""
    wanted = spec.resources
    env_runners = 0 if wanted.env_runners == "auto" else int(wanted.env_runners)
    per_trial = _cpus_per_trial(spec, env_runners, cpus)
    concurrent = _concurrent_trials(spec, per_trial, cpus)
    lanes = AUTO_LANES[spec.algorithm] if wanted.lanes == "auto" else int(wanted.lanes)
    if env_runners and lanes % env_runners:
        raise spec.error_at(
            "resources.lanes",
            f"must be a multiple of resources.env_runners ({env_runners})",
            lanes,
            f"write {env_runners * max(lanes // env_runners, 1)}",
        )
    return Resources(
        cpus=cpus,
        concurrent_trials=concurrent,
        env_runners=env_runners,
        lanes=lanes,
        cpus_per_trial=per_trial,
        gpus_per_trial=wanted.gpus_per_trial,
    )


def _cpus_per_trial(spec: SweepSpec, env_runners: int, cpus: int) -> float:
    """One CPU a process, or all there are: a learner waits while its runners sample, and they while it learns."""
    wanted = spec.resources.cpus_per_trial
    if wanted == "auto":
        return float(min(1 + env_runners, cpus))
    if wanted > cpus:
        raise spec.error_at(
            "resources.cpus_per_trial",
            f"must be at most the {cpus} CPUs of this machine, or no trial can ever start",
            wanted,
            "write auto",
        )
    return float(wanted)


def _concurrent_trials(spec: SweepSpec, per_trial: float, cpus: int) -> int:
    wanted = spec.resources.concurrent_trials
    fitting = max(int(cpus / per_trial), 1)
    trials = count_points(spec)
    if wanted == "auto":
        return min(fitting, trials)
    if wanted * per_trial > cpus:
        raise spec.error_at(
            "resources.concurrent_trials",
            f"must leave {per_trial:g} CPUs to each trial on a machine of {cpus}",
            wanted,
            f"write auto, or at most {fitting}",
        )
    return min(int(wanted), trials)
