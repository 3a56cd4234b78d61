"""Dividing a machine into trials and runners; a division that can never be scheduled is refused at once."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from tradesweep.spec import STEPS_PER_TRAINING_STEP, SweepSpec, possible_values
from tradesweep.sweep.machine import Machine
from tradesweep.sweep.points import count_points

AUTO_LANES = {"dqn": 8, "ppo": 16}
"""Lanes of a trial when the spec says auto: sampling then takes about a fifth of its training."""

BYTES_PER_PROCESS = 450_000_000
"""Measured (unique set size): a trial's own process; a remote runner takes less. Nearly all of it is libraries."""
BYTES_OF_DRIVER = 1_000_000_000
"""Measured: the driver, the recorder, Ray's own processes, and its object store when it is filled."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Resources:
    """What a sweep uses, resolved once, stored, and used again on resume."""

    cpus: int
    """CPUs of the machine."""
    concurrent_trials: int
    env_runners: int
    """Remote runners of a trial; 0: it samples in its own process."""
    lanes: int
    """Lanes of a trial, through all its runners."""
    cpus_per_trial: float
    gpus_per_trial: float
    memory_bytes: int
    """What the whole sweep is expected to take."""
    why: str
    """The reason for this division."""

    @property
    def cpus_per_bundle(self) -> float:
        """Share of each process of a trial; Ray counts in ten-thousandths."""
        return math.floor(self.cpus_per_trial / (1 + self.env_runners) * 10_000) / 10_000

    @property
    def cpus_of_ray(self) -> int:
        """CPUs that all trials at a time take. Ray starts a process for each at once, which fills its memory."""
        return max(math.ceil(self.cpus_per_trial * self.concurrent_trials), 1)

    @property
    def gpus_of_ray(self) -> int:
        """Whole GPUs that hold all trials at a time; two shares of one trial each are never put together."""
        wanted = self.gpus_per_trial
        if wanted == 0:
            return 0
        trials = self.concurrent_trials
        return math.ceil(trials / math.floor(1 / wanted)) if wanted <= 1 else int(wanted) * trials

    def bundles(self) -> list[dict[str, float]]:
        """The trial's own process first, then one bundle a runner."""
        own = {"CPU": self.cpus_per_bundle} | ({"GPU": self.gpus_per_trial} if self.gpus_per_trial else {})
        return [own] + [{"CPU": self.cpus_per_bundle}] * self.env_runners

    def to_dict(self) -> dict[str, Any]:
        """For the store and `--json`."""
        return asdict(self)


def resolve_resources(spec: SweepSpec, machine: Machine, *, replay_bytes: int = 0) -> Resources:
    """Resolve every `auto`. Raises SpecError when a trial cannot fit, or lanes fit neither runners nor batches.

    `replay_bytes` is what a trial keeps beside its libraries.
    """
    wanted = spec.resources
    _check_gpus(spec, machine.gpus)
    env_runners = _env_runners(spec, machine.cpus)
    lanes = _lanes(spec, env_runners)
    per_trial = _cpus_per_trial(spec, env_runners, machine.cpus)
    trial_bytes = BYTES_PER_PROCESS * (1 + env_runners) + replay_bytes
    concurrent, why = _concurrent_trials(spec, machine, per_trial, trial_bytes)
    return Resources(
        cpus=machine.cpus,
        concurrent_trials=concurrent,
        env_runners=env_runners,
        lanes=lanes,
        cpus_per_trial=per_trial,
        gpus_per_trial=wanted.gpus_per_trial,
        memory_bytes=BYTES_OF_DRIVER + concurrent * trial_bytes,
        why=f"{why}; {_why_runners(spec)}",
    )


def _env_runners(spec: SweepSpec, cpus: int) -> int:
    """None by default, on every machine: the number is part of what a sweep is, and its learner is what takes time."""
    wanted = spec.resources.env_runners
    if wanted == "auto":
        return 0
    if wanted > cpus:
        raise spec.error_at(
            "resources.env_runners",
            f"must be at most the {cpus} CPUs of this machine: runners sample at the same time",
            wanted,
            f"write {cpus}, or auto",
        )
    return wanted


def _why_runners(spec: SweepSpec) -> str:
    if spec.resources.env_runners != "auto":
        return "sampling as the spec says"
    return "sampling in process, since it takes about a fifth of a trial's time and remote runners would wait"


def _lanes(spec: SweepSpec, env_runners: int) -> int:
    wanted, each = spec.resources.lanes, max(env_runners, 1)
    limit, meaning = _most_lanes(spec)
    most = max(limit // each, 1) * each
    if wanted == "auto":
        return min(-(-AUTO_LANES[spec.algorithm] // each) * each, most)
    if wanted % each:
        rule = f"must be a multiple of resources.env_runners ({env_runners})"
        nearest = min(max(round(wanted / each), 1) * each, most)
        raise spec.error_at("resources.lanes", rule, wanted, f"write {nearest}", beside=["resources.env_runners"])
    if wanted > most:
        rule = f"must be at most {meaning} ({limit}): each of its rows is a step of every lane"
        beside = [f"{part}.train_batch_size_per_learner" for part in ("fixed", "search")]
        raise spec.error_at("resources.lanes", rule, wanted, f"write {most}", beside=beside)
    return wanted


def _most_lanes(spec: SweepSpec) -> tuple[int, str]:
    """Env steps of the smallest training step, and what they are called."""
    if spec.algorithm == "dqn":
        return STEPS_PER_TRAINING_STEP, "the env steps of a training step of dqn"
    return int(min(possible_values(spec, "train_batch_size_per_learner"))), "train_batch_size_per_learner"


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
            f"write auto, or at most {cpus}",
        )
    return float(wanted)


def _check_gpus(spec: SweepSpec, gpus: int | None) -> None:
    """A trial would wait for ever for GPUs that there are not; Ray hands out whole ones, or shares of one."""
    wanted = spec.resources.gpus_per_trial
    if gpus is not None and wanted > gpus:
        raise spec.error_at(
            "resources.gpus_per_trial",
            f"must be at most the {gpus} GPU{'' if gpus == 1 else 's'} of this machine, or no trial can ever start",
            wanted,
            "write 0" if gpus == 0 else f"write at most {gpus}",
        )
    if wanted > 1 and not wanted.is_integer():
        rule = "must be a share of one GPU or a whole number of them"
        remedy = f"write {math.floor(wanted)} or {math.ceil(wanted)}"
        raise spec.error_at("resources.gpus_per_trial", rule, wanted, remedy)


def _fit_on_gpus(spec: SweepSpec, gpus: int | None) -> int | None:
    """Trials that have a place on the GPUs at a time; None where they need none, or nobody knows how many there are."""
    wanted = spec.resources.gpus_per_trial
    if gpus is None or wanted == 0:
        return None
    return gpus * math.floor(1 / wanted) if wanted <= 1 else math.floor(gpus / wanted)


def _concurrent_trials(spec: SweepSpec, machine: Machine, per_trial: float, trial_bytes: int) -> tuple[int, str]:
    """How many, and why not more."""
    wanted, fitting = spec.resources.concurrent_trials, max(int(machine.cpus / per_trial), 1)
    if wanted == "auto":
        return min(_limits(spec, machine, fitting, per_trial, trial_bytes))
    if wanted * per_trial > machine.cpus:
        raise spec.error_at(
            "resources.concurrent_trials",
            f"must leave {per_trial:g} CPUs to each trial on a machine of {machine.cpus}",
            wanted,
            f"write auto, or at most {fitting}",
            beside=["resources.cpus_per_trial", "resources.env_runners"],
        )
    on_gpus = _fit_on_gpus(spec, machine.gpus)
    if on_gpus is not None and wanted > on_gpus:
        raise spec.error_at(
            "resources.concurrent_trials",
            f"must leave {spec.resources.gpus_per_trial:g} GPUs to each trial on a machine of {machine.gpus}",
            wanted,
            f"write auto, or at most {on_gpus}",
            beside=["resources.gpus_per_trial"],
        )
    return min(wanted, count_points(spec)), "trials at a time as the spec says"


def _limits(
    spec: SweepSpec, machine: Machine, fitting: int, per_trial: float, trial_bytes: int
) -> list[tuple[int, str]]:
    """What bounds the trials at a time: CPUs, points, GPUs and memory, each with its word."""
    limits = [
        (fitting, f"{per_trial:g} of {machine.cpus} CPUs for each trial"),
        (count_points(spec), "no more trials than that"),
    ]
    on_gpus = _fit_on_gpus(spec, machine.gpus)
    if on_gpus is not None:
        limits.append((on_gpus, f"{spec.resources.gpus_per_trial:g} of {machine.gpus} GPUs for each trial"))
    if machine.free_bytes is not None:
        room = max((machine.free_bytes - BYTES_OF_DRIVER) // trial_bytes, 1)
        words = f"{machine.free_bytes / 1e9:.3g} GB of memory are free, a trial takes {trial_bytes / 1e9:.2g} GB"
        limits.append((room, words))
    return limits
