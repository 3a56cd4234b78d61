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
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.stopper import Stopper

from tradesweep.errors import StoreError, TradesweepError
from tradesweep.home import Home
from tradesweep.names import BAD_ENDS, LOG_FORMAT, SweepEnd, SweepStatus
from tradesweep.policy import evaluate_constant
from tradesweep.recording import RecorderClient, connect_recorder, create_recorder
from tradesweep.selection import choose_best_trial, register_candidate
from tradesweep.store import NewSweep, find_database, open_store
from tradesweep.sweep.bridge import PruningScheduler, SearcherBridge, TrialCloser
from tradesweep.sweep.cluster import ray_session
from tradesweep.sweep.disk import check_room, watch_room
from tradesweep.sweep.driver import unwritable
from tradesweep.sweep.history import History
from tradesweep.sweep.ledger import Ledger
from tradesweep.sweep.outcome import Outcome, count_outcome
from tradesweep.sweep.plan import Plan
from tradesweep.sweep.provenance import git_revision, library_versions
from tradesweep.sweep.search import PointSearch
from tradesweep.sweep.signals import Interruption, catch_signals
from tradesweep.tracking import ProjectorThread, prepare_backend
from tradesweep.trial import SweepContext, TrialTrainable

DRAIN_S = 60.0
"""How long the end of a sweep waits for the recorder, and for MLflow."""

logger = logging.getLogger(__name__)


def run_sweep(plan: Plan, *, home: Home, root: Path, on_started: Callable[[str], None] | None = None) -> Outcome:
    """Run what is left of the sweep of `plan`. Blocks; SIGINT and SIGTERM drain.

    Raises StoreLocked when another process runs a sweep on this database, SpecError when that is larger than
    `recording.max_gb` already, and StoreError when it cannot be written, or, after an orderly stop, when room ran out.
    """
    database = find_database(home.database)
    check_room(database, plan.spec)
    prepare_folders(plan, home)
    interruption = Interruption()
    with ExitStack() as stack:
        stack.enter_context(catch_signals(interruption))
        stack.enter_context(_driver_log(home.logs(plan.sweep_id)))
        # MLflow takes seconds to import and to make its tables, and Ray to start: both at once.
        beside = stack.enter_context(ThreadPoolExecutor(max_workers=1))
        tracking_uri = beside.submit(prepare_backend, home.mlflow_database, home.artifacts)
        resources = plan.resources
        gpus = resources.gpus_per_trial * resources.concurrent_trials
        stack.enter_context(ray_session(cpus=resources.cpus, gpus=gpus))
        recorder = stack.enter_context(_recorder(plan, home))
        mlflow = tracking_uri.result()
        open_sweep(plan, recorder, root)
        projector = stack.enter_context(_projector(plan, home, recorder, mlflow))
        if on_started is not None:
            on_started(plan.sweep_id)
        with watch_room(database, plan.spec, interruption):
            left, reason = run_trials(plan, home, recorder, interruption)
        status = close_sweep(plan, home, recorder, reason, unfinished=left > 0 or interruption.is_requested)
        if projector.stop(DRAIN_S, hurry=lambda: interruption.signal is not None):
            register_winner(plan, home)
    if interruption.reason is not None and interruption.signal is None:
        raise StoreError(interruption.reason)
    return count_outcome(plan, home, status, signal_code=interruption.exit_code)


def prepare_folders(plan: Plan, home: Home) -> None:
    """Everything a sweep writes is the user's alone."""
    os.umask(0o077)
    try:
        home.logs(plan.sweep_id).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(home, error) from error
    (home.sweep(plan.sweep_id) / "spec.json").write_text(plan.spec.to_json(), encoding="utf-8")


@contextmanager
def _driver_log(folder: Path) -> Iterator[None]:
    handler = logging.FileHandler(folder / "driver.log", encoding="utf-8")
    handler.setFormatter(logging.Formatter(LOG_FORMAT))
    root = logging.getLogger("tradesweep")
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
        handler.close()


def name_recorder(home: Home, sweep_id: str) -> str:
    """One name a database and sweep: drivers that share a cluster must not reach each other's recorders."""
    return f"recorder-{sweep_id}-{hashlib.sha256(str(home.database).encode()).hexdigest()[:12]}"


@contextmanager
def _recorder(plan: Plan, home: Home) -> Iterator[RecorderClient]:
    """The one writer, created by the driver: a trial's placement group would capture it."""
    name = name_recorder(home, plan.sweep_id)
    create_recorder(home.database, name=name)
    client = connect_recorder(name, timeout_s=plan.spec.recording.db_timeout_s)
    try:
        yield client
    finally:
        client.close(DRAIN_S)


@contextmanager
def _projector(plan: Plan, home: Home, recorder: RecorderClient, tracking_uri: str) -> Iterator[ProjectorThread]:
    """The only writer of MLflow, or where sweeps share a database, the only one of this sweep's runs."""
    store = open_store(home.database)
    thread = ProjectorThread(
        store,
        acknowledge=recorder.mark_outbox,
        tracking_uri=tracking_uri,
        home=home,
        note_run=recorder.note_mlflow_run,
        sweep_id=plan.sweep_id if store.database.many_writers else None,
    )
    thread.start()
    try:
        yield thread
    finally:
        thread.stop(DRAIN_S)


def open_sweep(plan: Plan, recorder: RecorderClient, root: Path) -> None:
    """Write the run record: spec, data, code, libraries, machine, and what to compare with."""
    market = plan.market
    buy_and_hold = evaluate_constant(max(plan.spec.env.positions), market, plan.env, split="validation")
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


class SweepStopper(Stopper):
    """Stops all trials when the sweep was asked to stop, or has spent the wall time of this run."""

    def __init__(self, interruption: Interruption, wall_time_s: float | None) -> None:
        self._interruption = interruption
        self._deadline = float("inf") if wall_time_s is None else time.monotonic() + wall_time_s
        self.out_of_time = False

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """No single trial is stopped here."""
        del trial_id, result
        return False

    def stop_all(self) -> bool:
        """Asked once per event of Tune's loop."""
        self.out_of_time = self.out_of_time or time.monotonic() > self._deadline
        return self.out_of_time or self._interruption.is_requested


def run_trials(
    plan: Plan, home: Home, recorder: RecorderClient, interruption: Interruption
) -> tuple[int, SweepEnd | None]:
    """Hand the trials to Tune and come back when all have ended, or something stopped them.

    How many trials are left to do, and which limit of the spec stands against them.
    """
    history = History(open_store(home.database), home, plan.sweep_id, plan.spec)
    search = PointSearch(plan.spec, history.read_past(), journal=home.sweep(plan.sweep_id) / "optuna.journal")
    ledger = Ledger(plan.spec, history, points=plan.points, search=search, recorder=recorder)
    stopper = SweepStopper(interruption, plan.spec.budget.wall_time_s)
    if ledger.left > 0 and not interruption.is_requested:
        closer = TrialCloser(ledger)
        build_tuner(plan, home, ledger, closer, stopper).fit()
        if closer.error is not None:
            raise closer.error
    ledger.end_all()
    if stopper.out_of_time and (ledger.left or history.read_unfinished()) and not interruption.is_requested:
        return 0, SweepEnd.WALL_TIME
    return ledger.left, ledger.limit


def build_tuner(plan: Plan, home: Home, ledger: Ledger, closer: TrialCloser, stopper: SweepStopper) -> tune.Tuner:
    """Tune with our searcher, scheduler, callback and trainable; it keeps no checkpoint and retries nothing."""
    context = SweepContext(
        sweep_id=plan.sweep_id,
        spec_json=plan.spec.to_json(),
        home=home.path,
        recorder=name_recorder(home, plan.sweep_id),
        market=ray.put(plan.market),
        concurrent_trials=min(plan.resources.concurrent_trials, ledger.at_once),
        env_runners=plan.resources.env_runners,
        lanes=plan.resources.lanes,
        cpus_per_bundle=plan.resources.cpus_per_bundle,
        gpus_per_trial=plan.resources.gpus_per_trial,
        env_steps_per_trial=plan.env_steps_per_trial,
    )
    trainable = tune.with_resources(
        tune.with_parameters(TrialTrainable, context=context),
        tune.PlacementGroupFactory(plan.resources.bundles()),
    )
    return tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            search_alg=SearcherBridge(ledger),
            scheduler=PruningScheduler(ledger),
            num_samples=ledger.most_starts,
            max_concurrent_trials=min(plan.resources.concurrent_trials, ledger.left),
            reuse_actors=True,
            trial_name_creator=name_trial,
            trial_dirname_creator=name_trial,
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(home.sweep(plan.sweep_id)),
            stop=stopper,
            callbacks=[closer],
            checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=0, checkpoint_at_end=False),
            failure_config=tune.FailureConfig(max_failures=0),
            verbose=0,
        ),
    )


def name_trial(trial: Any) -> str:
    """Tune's folder for a trial; its default holds all params and may be longer than a file system allows."""
    return f"trial_{trial.config['trial_no']:04d}_{trial.trial_id[:8]}"


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
    return status


def register_winner(plan: Plan, home: Home) -> None:
    """Make the best checkpoint the candidate. A registry that is away does not undo a sweep: promote does it later."""
    try:
        register_candidate(open_store(home.database), home, plan.sweep_id)
    except TradesweepError as error:
        logger.warning("the best checkpoint could not be registered as candidate: %s", error)
