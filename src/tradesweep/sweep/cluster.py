"""Ray for one sweep: started quietly on loopback, or joined by RAY_ADDRESS."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import ray

from tradesweep.home import DB_URL

NAMESPACE = "tradesweep"
OBJECT_STORE_BYTES = 256 * 2**20
"""Weights, fragments and one market fit many times over; Ray's own default takes a third of the memory."""

RAY_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_DEDUP_LOGS": "1",
    "RAY_TRAIN_V2_ENABLED": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",
}
"""Set before Ray starts and inherited by every process: no telemetry, and nothing logged twice."""

THREADS = "OMP_NUM_THREADS"
"""Threads of a process, torch's and MKL's: 1, since trials share the cores already. Read once, when torch is loaded."""

FOLDER = "ts"
"""Name of Ray's session folder in the temporary folder, before the driver's pid: socket paths may have 107 bytes."""
REMOVAL_S = 3.0
"""How long the end of a sweep tries to remove it; the next sweep removes what is left."""

SECRETS = (DB_URL,)
"""Leave the environment before Ray starts: workers inherit it, and runtime environments are written to a log."""


@contextmanager
def ray_session(*, cpus: int, gpus: float) -> Iterator[None]:
    """Start Ray (or join RAY_ADDRESS) for the length of the block, and leave nothing of it behind.

    Every process computes in one thread, or in as many as OMP_NUM_THREADS says.
    """
    _prepare_environment()
    address = os.environ.get("RAY_ADDRESS")
    folder = None if address else _make_folder()
    try:
        _start(address, folder, cpus, gpus)
        yield
    finally:
        ray.shutdown()
        if folder is not None:
            _remove_when_quiet(folder)


def _prepare_environment() -> None:
    for name, value in (RAY_SETTINGS | {THREADS: "1"}).items():
        os.environ.setdefault(name, value)
    for name in SECRETS:
        os.environ.pop(name, None)


def _start(address: str | None, folder: Path | None, cpus: int, gpus: float) -> None:
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR, "namespace": NAMESPACE}
    if address:
        # Its workers are children of the cluster's processes: this environment does not reach them by itself.
        ray.init(address=address, runtime_env={"env_vars": {THREADS: os.environ[THREADS]}}, **quiet)
        return
    ray.init(
        num_cpus=cpus,
        num_gpus=gpus or None,
        include_dashboard=False,
        object_store_memory=min(OBJECT_STORE_BYTES, psutil.virtual_memory().available // 4),
        _temp_dir=str(folder),
        **quiet,
    )
    token = Path.home() / ".ray" / "auth_token"
    if token.exists():
        token.chmod(0o600)


def _make_folder() -> Path:
    """A short path for Ray's sockets; what killed drivers left behind goes away now."""
    parent = Path(tempfile.gettempdir())
    for left in parent.glob(f"{FOLDER}-*-*"):
        owner = left.name.split("-")[1]
        if owner.isdigit() and not psutil.pid_exists(int(owner)):
            shutil.rmtree(left, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"{FOLDER}-{os.getpid()}-"))


def _remove_when_quiet(folder: Path) -> None:
    """Ray never removes its session folder, and its last processes still write into it for a moment."""
    deadline = time.monotonic() + REMOVAL_S
    shutil.rmtree(folder, ignore_errors=True)
    while folder.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
        shutil.rmtree(folder, ignore_errors=True)
