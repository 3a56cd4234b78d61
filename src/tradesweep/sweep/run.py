"""Run or resume a sweep: the driver. Reads like a table of contents; the parts live in their own modules."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path
from types import ModuleType

from tradesweep.errors import StoreError, TradesweepError
from tradesweep.garbage import collect_as_usual
from tradesweep.home import Home
from tradesweep.names import BAD_ENDS, LOG_FORMAT, TRIAL_ENDS, SweepEnd, SweepStatus
from tradesweep.policy import Evaluation, evaluate_constant
from tradesweep.recording import RecorderClient, RemoteRecorder, connect_recorder, create_recorder
from tradesweep.selection import choose_best_trial, register_candidate
from tradesweep.store import NewSweep, find_database, open_store
from tradesweep.sweep.cluster import prepare_environment, ray_session
from tradesweep.sweep.disk import check_room, watch_room
from tradesweep.sweep.driver import unwritable
from tradesweep.sweep.outcome import Outcome, count_outcome
from tradesweep.sweep.plan import Plan
from tradesweep.sweep.provenance import git_revision, library_versions
from tradesweep.sweep.signals import Interruption, catch_signals
from tradesweep.tracking import ProjectorThread, find_tracking_uri, prepare_backend

DRAIN_S = 60.0
"""How long the end of a sweep waits for the recorder, and for MLflow."""
NOISE = ("ray._private.authentication", "ray.tune.analysis")
"""They warn of what is so by design: a token, and results of which Tune keeps no copies."""

logger = logging.getLogger(__name__)


def run_sweep(plan: Plan, *, home: Home, root: Path, on_started: Callable[[str], None] | None = None) -> Outcome:
    """Run what is left of the sweep of `plan`. Blocks; SIGINT and SIGTERM drain.

    Raises StoreLocked when another process runs a sweep on this database, SpecError when that is larger than
    `recording.max_gb` already, BadInput when MLFLOW_TRACKING_URI cannot be one, and StoreError when the database cannot
    be written, or, after an orderly stop, when room ran out.
    """
    database = find_database(home.database)
    check_room(database, plan.spec)
    find_tracking_uri(home.mlflow_database)
    prepare_folders(plan, home)
    interruption = Interruption()
    with ExitStack() as stack:
        stack.enter_context(catch_signals(interruption))
        stack.enter_context(_driver_log(plan, home))
        beside = stack.enter_context(ThreadPoolExecutor(max_workers=1))
        tuning = beside.submit(import_tuning)
        buy_and_hold = beside.submit(hold_all, plan)
        stack.enter_context(ray_session(cpus=plan.resources.cpus_of_ray, gpus=plan.resources.gpus_of_ray))
        recorder = stack.enter_context(_recorder(plan, home))
        open_sweep(plan, recorder, root, buy_and_hold.result())
        projector = stack.enter_context(_projector(plan, home, recorder))
        if on_started is not None:
            on_started(plan.sweep_id)
        run_trials = tuning.result().run_trials
        collect_as_usual()
        with watch_room(database, plan.spec, interruption):
            left, reason = run_trials(plan, home, recorder, interruption)
        status = close_sweep(plan, home, recorder, reason, unfinished=left > 0 or interruption.is_requested)
        if projector.stop(DRAIN_S, hurry=lambda: interruption.signal is not None):
            register_winner(plan, home)
    if interruption.reason is not None and interruption.signal is None:
        raise StoreError(interruption.reason)
    return count_outcome(plan, home, status, signal_code=interruption.exit_code)


def import_tuning() -> ModuleType:
    """Tune takes a second to import, while Ray starts."""
    prepare_environment()
    return import_module("tradesweep.sweep.tuning")


def hold_all(plan: Plan) -> Evaluation:
    """What every policy is compared with: the largest position over the whole validation split."""
    return evaluate_constant(max(plan.spec.env.positions), plan.market, plan.env, split="validation")


def prepare_folders(plan: Plan, home: Home) -> None:
    """Everything a sweep writes is the user's alone."""
    os.umask(0o077)
    try:
        home.logs(plan.sweep_id).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(home, error) from error
    (home.sweep(plan.sweep_id) / "spec.json").write_text(plan.spec.to_json(), encoding="utf-8")


@contextmanager
def _driver_log(plan: Plan, home: Home) -> Iterator[None]:
    """What this process does for the sweep, from beginning to end; of Ray and other libraries only what is wrong."""
    handler = logging.FileHandler(home.logs(plan.sweep_id) / "driver.log", encoding="utf-8")
    handler.setFormatter(logging.Formatter(LOG_FORMAT))
    handler.addFilter(lambda record: not record.name.startswith(NOISE) or record.levelno > logging.WARNING)
    ours = logging.getLogger("tradesweep")
    level = ours.level
    ours.addHandler(handler)
    ours.setLevel(logging.INFO)
    logger.info("sweep %s begins: process %s, %s", plan.sweep_id, os.getpid(), describe_size(plan))
    try:
        yield
    except BaseException as error:
        logger.error("sweep %s ends: %s: %s", plan.sweep_id, type(error).__name__, error)
        raise
    finally:
        ours.setLevel(level)
        ours.removeHandler(handler)
        handler.close()


def describe_size(plan: Plan) -> str:
    """What the sweep may take of the machine."""
    has = plan.resources
    return (
        f"{plan.trials} trials, {has.concurrent_trials} at a time, {has.cpus} CPUs; each {has.gpus_per_trial:g} GPUs,"
        f" {has.env_runners} runners, {has.lanes} lanes"
    )


def name_recorder(home: Home, sweep_id: str) -> str:
    """One name a database and sweep: drivers that share a cluster must not reach each other's recorders."""
    return f"recorder-{sweep_id}-{hashlib.sha256(str(home.database).encode()).hexdigest()[:12]}"


@contextmanager
def _recorder(plan: Plan, home: Home) -> Iterator[RemoteRecorder]:
    """The one writer, created by the driver: a trial's placement group would capture it."""
    name = name_recorder(home, plan.sweep_id)
    create_recorder(home.database, name=name)
    client = connect_recorder(name, timeout_s=plan.spec.recording.db_timeout_s)
    try:
        yield client
    finally:
        client.close(DRAIN_S)


@contextmanager
def _projector(plan: Plan, home: Home, recorder: RecorderClient) -> Iterator[ProjectorThread]:
    """The only writer of MLflow, or where sweeps share a database, the only one of this sweep's runs."""
    store = open_store(home.database)
    thread = ProjectorThread(
        store,
        acknowledge=recorder.mark_outbox,
        tracking_uri=find_tracking_uri(home.mlflow_database),
        prepare=partial(prepare_backend, home.mlflow_database, home.artifacts),
        home=home,
        note_run=recorder.note_mlflow_run,
        sweep_id=plan.sweep_id if store.database.many_writers else None,
    )
    thread.start()
    try:
        yield thread
    finally:
        thread.stop(DRAIN_S)


def open_sweep(plan: Plan, recorder: RecorderClient, root: Path, buy_and_hold: Evaluation) -> None:
    """Write the run record: spec, data, code, libraries, machine, and what to compare with."""
    market = plan.market
    recorder.open_sweep(
        NewSweep(
            sweep_id=plan.sweep_id,
            experiment=plan.spec.experiment,
            spec_json=plan.spec.to_json(),
            identity=plan.identity,
            data_sha256=market.sha256,
            instrument=market.instrument,
            git_revision=git_revision(root),
            versions_json=json.dumps(library_versions()),
            resources_json=json.dumps(plan.resources.to_dict()),
            seed=plan.spec.seed,
            driver_pid=os.getpid(),
            driver_host=socket.gethostname(),
            driver_started_at=time.time_ns() // 1000,
            buy_hold_sharpe=buy_and_hold.sharpe,
            validation_bars=plan.validation_bars,
            periods_per_year=market.periods_per_year,
            env_steps_per_trial=plan.extended_env_steps,
        )
    )


def close_sweep(
    plan: Plan, home: Home, recorder: RecorderClient, reason: SweepEnd | None, *, unfinished: bool
) -> SweepStatus:
    """Say how it ended. A sweep that a limit of its spec ended is finished, whatever it left."""
    store = open_store(home.database)
    trials = store.list_trials(plan.sweep_id)
    if unfinished:
        status, reason = SweepStatus.INTERRUPTED, None
    elif any(trial.status not in BAD_ENDS and trial.last_score is not None for trial in trials):
        status = SweepStatus.FINISHED
    else:
        status = SweepStatus.FAILED
    best = choose_best_trial(store.get_sweep(plan.sweep_id), trials)
    recorder.close_sweep(plan.sweep_id, status, reason, None if best is None else best.trial_id)
    ended = sum(trial.status in TRIAL_ENDS for trial in trials)
    won = "none" if best is None else f"trial {best.trial_no}, validation Sharpe {best.best_sharpe:.3f}"
    how = status if reason is None else f"{status} by {reason}"
    logger.info("sweep %s ends %s: %s trials have an end, best: %s", plan.sweep_id, how, ended, won)
    return status


def register_winner(plan: Plan, home: Home) -> None:
    """Make the best checkpoint the candidate. A registry that is away does not undo a sweep: promote does it later."""
    try:
        register_candidate(open_store(home.database), home, plan.sweep_id)
    except TradesweepError as error:
        logger.warning("the best checkpoint could not be registered as candidate: %s", error)
