"""Handing the trials to Ray Tune. Tune takes a second to import: the driver does so while Ray starts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import ray
from ray import tune
from ray.tune.execution import tune_controller
from ray.tune.stopper import Stopper

from tradesweep.home import Home
from tradesweep.names import SweepEnd
from tradesweep.recording import RemoteRecorder
from tradesweep.store import open_store
from tradesweep.sweep.bridge import PruningScheduler, SearcherBridge, TrialCloser
from tradesweep.sweep.cluster import joins_cluster, replaced
from tradesweep.sweep.history import History
from tradesweep.sweep.ledger import Ledger
from tradesweep.sweep.plan import Plan
from tradesweep.sweep.search import PointSearch
from tradesweep.sweep.signals import Drain, Interruption
from tradesweep.trial import SweepContext, TrialTrainable


class SweepStopper(Stopper):
    """Ends trials as the drain says."""

    def __init__(self, drain: Drain) -> None:
        self._drain = drain

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Asked with each result: this one is the trial's last for now."""
        del trial_id, result
        return self._drain.is_due()

    def stop_all(self) -> bool:
        """Asked once per event of Tune's loop."""
        return self._drain.is_over()


def run_trials(
    plan: Plan, home: Home, recorder: RemoteRecorder, interruption: Interruption
) -> tuple[int, SweepEnd | None]:
    """Hand the trials to Tune and come back when all have ended, or something stopped them.

    How many trials are left to do, and which limit of the spec stands against them.
    """
    store = open_store(home.database)
    history = History(store, home, plan.sweep_id, plan.spec)
    search = PointSearch(plan.spec, history.read_past(), journal=home.sweep(plan.sweep_id) / "optuna.journal")
    ledger = Ledger(plan.spec, history, points=plan.points, search=search, recorder=recorder)
    drain = Drain(interruption, plan.spec.budget.wall_time_s)
    if ledger.left > 0 and not drain.is_due():
        closer = TrialCloser(ledger, drain, store)
        with any_process_of_ours():
            build_tuner(plan, home, recorder.name, ledger, closer, drain).fit()
        if closer.error is not None:
            raise closer.error
    ledger.end_all()
    if drain.out_of_time and (ledger.left or history.read_unfinished()) and not interruption.is_requested:
        return 0, SweepEnd.WALL_TIME
    return ledger.left, ledger.limit


class PlainActors:
    """In the place of Tune's cache of actor classes, which gives every actor an environment of its own.

    Ray starts a new process for that, and the warm ones (`warm`) stay idle. Ours have the driver's environment already.
    Tune's would hold the keys of cloud services too, and Ray writes environments to its logs.
    """

    def __init__(self) -> None:
        self._known: dict[type, Any] = {}

    def get(self, trainable: type) -> Any:
        """The actor class of a trainable."""
        return self._known.setdefault(trainable, ray.remote(trainable))


@contextmanager
def any_process_of_ours() -> Iterator[None]:
    """Let trials run in whatever process of this Ray is free; those of a cluster that was joined are not ours."""
    with nullcontext() if joins_cluster() else replaced(tune_controller, "_ActorClassCache", PlainActors):
        yield


def build_tuner(plan: Plan, home: Home, recorder: str, ledger: Ledger, closer: TrialCloser, drain: Drain) -> tune.Tuner:
    """Tune with our searcher, scheduler, callback and trainable; it keeps no checkpoint and retries nothing."""
    context = SweepContext(
        sweep_id=plan.sweep_id,
        spec_json=plan.spec.to_json(),
        home=home.path,
        recorder=recorder,
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
            search_alg=SearcherBridge(ledger, drain),
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
            stop=SweepStopper(drain),
            callbacks=[closer],
            checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=0, checkpoint_at_end=False),
            failure_config=tune.FailureConfig(max_failures=0),
            verbose=0,
        ),
    )


def name_trial(trial: Any) -> str:
    """Tune's folder for a trial; its default holds all params and may be longer than a file system allows."""
    return f"trial_{trial.config['trial_no']:04d}_{trial.trial_id[:8]}"
