"""How many CPUs, GPUs and how much memory this process may really use."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

CGROUP_V2 = Path("/sys/fs/cgroup/cpu.max")
CGROUP_V1_QUOTA = Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us")
CGROUP_V1_PERIOD = Path("/sys/fs/cgroup/cpu/cpu.cfs_period_us")
CGROUP_V2_MEMORY = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current"))
MEMORY_FACTS = Path("/proc/meminfo")
NVIDIA_GPUS = Path("/proc/driver/nvidia/gpus")
AMD_GPUS = Path("/dev/kfd")
"""There where a driver for AMD's GPUs is, whose cards are not counted here."""
NVIDIA_TOOL, TOOL_TIMEOUT_S = "nvidia-smi", 10.0
VISIBLE_GPUS = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """What a sweep may divide."""

    cpus: int
    free_bytes: int | None = None
    """Memory that is free; None: unknown."""
    gpus: int | None = None
    """GPUs that Ray would find; None: unknown, or those of a cluster that is joined."""


def look_at_machine() -> Machine:
    """This machine, now."""
    gpus = None if os.environ.get("RAY_ADDRESS") else count_gpus()
    return Machine(cpus=count_cpus(), free_bytes=free_memory(), gpus=gpus)


def count_cpus() -> int:
    """CPUs by affinity, capped by the cgroup's quota; at least 1. A container often sees more than it may use."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _cgroup_quota()
    return max(1, min(affinity, int(quota)) if quota is not None else affinity)


def _cgroup_quota() -> float | None:
    """CPUs the cgroup may use, None without a limit."""
    try:
        if CGROUP_V2.exists():
            quota, period = CGROUP_V2.read_text().split()
            return None if quota == "max" else int(quota) / int(period)
        limit, span = int(CGROUP_V1_QUOTA.read_text()), int(CGROUP_V1_PERIOD.read_text())
    except (OSError, ValueError):
        return None
    return limit / span if limit > 0 else None


def free_memory() -> int | None:
    """Bytes that new processes may take, capped by the cgroup's limit; None where nobody says."""
    known = [free for free in (_free_of_machine(), _free_of_cgroup()) if free is not None]
    return min(known, default=None)


def _free_of_machine() -> int | None:
    try:
        lines = MEMORY_FACTS.read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, ValueError, StopIteration):
        return None


def _free_of_cgroup() -> int | None:
    """What its limit leaves, None without a limit."""
    try:
        limit, used = (path.read_text().strip() for path in CGROUP_V2_MEMORY)
        return None if limit == "max" else max(int(limit) - int(used), 0)
    except (OSError, ValueError):
        return None


def count_gpus() -> int | None:
    """Those of NVIDIA that there are, at most as many as CUDA_VISIBLE_DEVICES names; None where others may be."""
    found = _gpus_of_driver()
    if found is None:
        found = _gpus_of_tool()
    if found is None:
        return None if AMD_GPUS.exists() else 0
    return min(found, visible) if (visible := _visible_gpus()) is not None else found


def _gpus_of_driver() -> int | None:
    try:
        return len(list(NVIDIA_GPUS.iterdir()))
    except OSError:
        return None


def _gpus_of_tool() -> int | None:
    """Where the driver shows no files, as below Windows."""
    tool = shutil.which(NVIDIA_TOOL)
    if tool is None:
        return None
    try:
        done = subprocess.run([tool, "-L"], capture_output=True, text=True, timeout=TOOL_TIMEOUT_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return sum(line.startswith("GPU ") for line in done.stdout.splitlines())


def _visible_gpus() -> int | None:
    """How many the environment leaves, None where it says nothing."""
    named = os.environ.get(VISIBLE_GPUS)
    if named is None:
        return None
    return 0 if named in ("", "NoDevFiles", "-1") else len(named.split(","))
