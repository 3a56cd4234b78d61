"""How many CPUs this process may really use."""

from __future__ import annotations

import os
from pathlib import Path

CGROUP_V2 = Path("/sys/fs/cgroup/cpu.max")
CGROUP_V1_QUOTA = Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us")
CGROUP_V1_PERIOD = Path("/sys/fs/cgroup/cpu/cpu.cfs_period_us")


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
