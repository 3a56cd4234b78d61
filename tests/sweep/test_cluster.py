"""The processes of a sweep, as they are started."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.ray

LOOK = """
import ray
from tradesweep.sweep.cluster import ray_session

@ray.remote(num_cpus=2)
def look():
    import torch
    return torch.get_num_threads()

with ray_session(cpus=2, gpus=0):
    print(ray.get(look.remote()))
"""


def threads_of_a_worker(**environment: str) -> int:
    """torch's threads in a process that Ray gives two CPUs."""
    hidden = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAY_ADDRESS")
    clean = {name: value for name, value in os.environ.items() if name not in hidden}
    done = subprocess.run(
        [sys.executable, "-c", LOOK], env=clean | environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def test_every_process_computes_in_one_thread() -> None:
    assert threads_of_a_worker() == 1


@pytest.mark.slow
def test_a_person_may_want_more_threads() -> None:
    assert threads_of_a_worker(OMP_NUM_THREADS="2") == 2
