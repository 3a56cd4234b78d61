"""Ray for one sweep: started quietly on loopback, or joined by RAY_ADDRESS."""

from __future__ import annotations

import logging
import os
import secrets
import select
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import ray

from tradesweep.home import DB_URL
from tradesweep.names import LOG_FORMAT
from tradesweep.sweep.leftovers import Session, find_leftovers, processes_of, remove_leftover
from tradesweep.sweep.signals import leave

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
    "RAY_preload_python_modules": "tradesweep.sweep.warm",
    # A second by default: as soon as Tune has reserved the CPUs, Ray would end the warm processes that trials are for.
    "RAY_idle_worker_killing_time_threshold_ms": "60000",
}
"""Set before Ray starts and inherited by every process: no telemetry, and nothing logged twice."""

THREADS = "OMP_NUM_THREADS"
"""Threads of a process, torch's and MKL's: 1, since trials share the cores already. Read once, when torch is loaded."""

RAY_LOGGERS = ("ray", "ray.data", "ray.rllib")
"""Those that write to the terminal by themselves."""
SERVERS = ("gcs_server", "raylet")
NOT_STARTED = ("start_api_server", "start_monitor", "start_log_monitor")
"""Servers of a Ray node that a sweep has no use for: the dashboard's head, the autoscaler, who copies logs."""

TOKEN = secrets.token_hex(32)
"""By which Ray's processes know each other: one for all sessions of this process, since Ray remembers it."""

SECRETS = (DB_URL,)
"""Leave the environment before Ray starts: workers inherit it, and runtime environments are written to a log."""

logger = logging.getLogger(__name__)


@contextmanager
def ray_session(*, cpus: int, gpus: int) -> Iterator[None]:
    """Start Ray (or join RAY_ADDRESS) for the length of the block, and leave nothing of it behind.

    What drivers that were killed left behind goes away first: their processes would share the machine with the new
    ones. Every process computes in one thread, or in as many as OMP_NUM_THREADS says. What Ray has to say goes to this
    process's log, and when one of Ray's own servers ends, this process does.
    """
    prepare_environment()
    for left in find_leftovers():
        remove_leftover(left)
    session = None if joins_cluster() else Session()
    with ExitStack() as stack:
        if session is not None:
            stack.callback(session.remove)
            _keep_token(session.folder)
        stack.enter_context(keep_quiet())
        stack.callback(ray.shutdown)
        with keep_handlers():
            _start(session.folder if session else None, cpus, gpus)
        if session is not None:
            stack.enter_context(watch_servers(session.folder))
        yield


def joins_cluster() -> bool:
    """Does RAY_ADDRESS name a Ray that runs already."""
    return bool(os.environ.get("RAY_ADDRESS"))


@contextmanager
def keep_handlers() -> Iterator[None]:
    """Leave SIGINT and SIGTERM to whoever handles them; Ray takes SIGTERM twice when it starts.

    Its first handler would end the process while Ray starts, the second, set below Python, prints a stack.
    """
    with replaced(ray._private.utils, "set_sigterm_handler", lambda _: None):
        yield
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.getsignal(number))


@contextmanager
def keep_quiet() -> Iterator[None]:
    """Send what Ray says in this process to where tradesweep logs: stdout may be JSON, stderr a table."""
    ours = logging.getLogger("tradesweep").handlers or [logging.NullHandler()]
    before = {name: logging.getLogger(name).handlers for name in RAY_LOGGERS}
    for name in RAY_LOGGERS:
        logging.getLogger(name).handlers = list(ours)
    try:
        with replaced(ray._private.worker, "print_to_stdstream", _log_lines):
            yield
    finally:
        for name, handlers in before.items():
            logging.getLogger(name).handlers = handlers


def _log_lines(data: dict[str, Any], *_: Any, **__: Any) -> None:
    for line in data["lines"]:
        logger.warning("Ray says: %s", line)


@contextmanager
def few_servers() -> Iterator[None]:
    """Start only what a sweep needs: the others take two seconds to start and one to end, and 150 MB."""
    with ExitStack() as stack:
        for name in NOT_STARTED:
            stack.enter_context(replaced(ray._private.node.Node, name, lambda *_, **__: None))
        yield


@contextmanager
def apart_from_terminals() -> Iterator[None]:
    """Start Ray's servers in a process group of their own.

    A signal to the group of the command (a terminal's, a supervisor's, `timeout`'s) is the driver's to handle: Ray's
    servers would end by it at once, and the sweep with them. Ray ends them with the driver all the same.
    """
    start = partial(ray._private.services.ConsolePopen, process_group=0)
    with replaced(ray._private.services, "ConsolePopen", start):
        yield


@contextmanager
def replaced(module: Any, name: str, value: Any) -> Iterator[None]:
    """Another value for an attribute of Ray's that has no setting."""
    theirs = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, theirs)


@contextmanager
def watch_servers(folder: Path) -> Iterator[None]:
    """End this process when one of Ray's own servers ends within the block.

    Without them nothing answers any more, for minutes, and trials that only lost their Ray would be taken for crashed.
    What was committed stays, and the same command goes on.
    """
    servers = [process for process in processes_of([folder])[folder] if process.name() in SERVERS]
    ended, end = os.pipe()
    thread = threading.Thread(target=_watch, args=(servers, ended), name="ray-servers", daemon=True)
    thread.start()
    try:
        yield
    finally:
        os.close(end)
        thread.join()
        os.close(ended)


def _watch(servers: Sequence[psutil.Process], ended: int) -> None:
    waiting, names = select.poll(), {}
    waiting.register(ended, select.POLLHUP)
    for server in servers:
        with suppress(ProcessLookupError):
            descriptor = os.pidfd_open(server.pid)
            names[descriptor] = server.name()
            waiting.register(descriptor, select.POLLIN)
    found = [descriptor for descriptor, _ in waiting.poll()]
    if ended not in found:
        lost = names[found[0]]
        logger.error("%s has ended", lost)
        leave(1, f"Ray's {lost} has ended, and the sweep with it; what was recorded stays, the same command goes on")
    for descriptor in names:
        os.close(descriptor)


def prepare_environment() -> None:
    """What Ray and Tune read from the environment, set before they do; what they must not read, gone."""
    for name, value in (RAY_SETTINGS | {THREADS: "1"}).items():
        os.environ.setdefault(name, value)
    for name in SECRETS:
        os.environ.pop(name, None)


def _keep_token(folder: Path) -> None:
    """Ray keeps its token in the user's home; where there is none that can be written, in the session's folder."""
    home = Path.home()
    if os.access(home / ".ray", os.W_OK) or os.access(home, os.W_OK):
        return
    token = folder / "auth_token"
    token.touch(mode=0o600)
    token.write_text(TOKEN, encoding="utf-8")
    os.environ["RAY_AUTH_TOKEN_PATH"] = str(token)


def _start(folder: Path | None, cpus: int, gpus: int) -> None:
    logs = {"log_to_driver": False, "logging_level": logging.WARNING, "logging_format": LOG_FORMAT}
    quiet = logs | {"namespace": NAMESPACE}
    if folder is None:
        # Its workers are children of the cluster's processes: this environment does not reach them by itself.
        ray.init(address=os.environ["RAY_ADDRESS"], runtime_env={"env_vars": {THREADS: os.environ[THREADS]}}, **quiet)
        return
    with few_servers(), apart_from_terminals():
        ray.init(
            num_cpus=cpus,
            num_gpus=gpus or None,
            include_dashboard=False,
            object_store_memory=min(OBJECT_STORE_BYTES, psutil.virtual_memory().available // 4),
            _temp_dir=str(folder),
            **quiet,
        )
    token = Path.home() / ".ray" / "auth_token"
    with suppress(OSError):
        token.chmod(0o600)
