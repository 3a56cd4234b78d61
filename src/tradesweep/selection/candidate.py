"""The best checkpoint of a sweep, and its place in the model registry under the alias `candidate`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from tradesweep.errors import Refused, TradesweepError
from tradesweep.home import Home
from tradesweep.names import Metric
from tradesweep.policy import verify_manifest
from tradesweep.selection.leaderboard import luck_of
from tradesweep.selection.standing import choose_best_trial
from tradesweep.spec import SweepSpec
from tradesweep.store import CheckpointRow, Store, SweepRow, TrialRow
from tradesweep.tracking import (
    BEST_CHECKPOINT,
    Candidate,
    ModelVersion,
    RunBook,
    RunKey,
    describe_failure,
    open_client,
    prepare_backend,
    shown_uri,
)
from tradesweep.tracking import register_candidate as register_version

if TYPE_CHECKING:
    from mlflow import MlflowClient


@dataclass(frozen=True, kw_only=True, slots=True)
class BestCheckpoint:
    """The best checkpoint of the point that stands first, with what it must be read with."""

    sweep: SweepRow
    """Its sweep."""
    trial: TrialRow
    """Its trial."""
    checkpoint: CheckpointRow
    """Its row."""
    spec: SweepSpec
    """The sweep's spec as it was run."""
    sharpe: float
    """Annualised validation Sharpe ratio, as recorded."""
    hurdle: float
    """Annualised luck hurdle of the sweep."""
    counted: int
    """Trials the hurdle counts."""

    @property
    def model(self) -> str:
        """Name of the registered model."""
        return self.spec.promotion.model or self.spec.experiment

    @property
    def deflated(self) -> float:
        """`sharpe` less `hurdle`."""
        return self.sharpe - self.hurdle


def find_best(store: Store, sweep_id: str) -> BestCheckpoint | None:
    """The best checkpoint of a sweep, or of an experiment's newest one; None when no policy may be chosen.

    Raises NotFound for an unknown sweep.
    """
    sweep = store.get_sweep(sweep_id)
    trials = store.list_trials(sweep.sweep_id)
    trial = choose_best_trial(sweep, trials)
    checkpoint = None if trial is None else store.find_best_checkpoint(trial.trial_id)
    if trial is None or checkpoint is None or trial.best_sharpe is None:
        return None
    counted, hurdle = luck_of(sweep, trials)
    return BestCheckpoint(
        sweep=sweep,
        trial=trial,
        checkpoint=checkpoint,
        spec=SweepSpec.from_json(sweep.spec_json),
        sharpe=trial.best_sharpe,
        hurdle=hurdle,
        counted=counted,
    )


def get_best(store: Store, sweep_id: str) -> BestCheckpoint:
    """As `find_best`; raises Refused when the sweep has no checkpoint that may be chosen."""
    best = find_best(store, sweep_id)
    if best is None:
        raise Refused(
            f"{store.get_sweep(sweep_id).sweep_id}: no checkpoint may be chosen: no evaluated policy had a Sharpe"
            " ratio, evaluation.min_trades closed trades and no ruin; `tradesweep status` shows each trial"
        )
    return best


def register_candidate(store: Store, home: Home, sweep_id: str) -> ModelVersion | None:
    """Make the best checkpoint of the sweep a version of its model and move alias `candidate` to it.

    None when no policy may be chosen. The same checkpoint again gives the same version. The sweep's rows must have
    reached MLflow. Raises TradesweepError when MLflow does not have the trial's run or cannot be reached, and
    CheckpointError when its copy of the checkpoint is not the one that was published.
    """
    best = find_best(store, sweep_id)
    if best is None:
        return None
    uri = prepare_backend(home.mlflow_database, home.artifacts)
    with mlflow_errors(uri):
        return register_best(open_client(uri), best, home, uri)


def register_best(client: MlflowClient, best: BestCheckpoint, home: Home, uri: str) -> ModelVersion:
    """Register this checkpoint and move alias `candidate` to it. Raises as `register_candidate`."""
    run_id = _get_run(best, home, uri)
    source = f"{client.get_run(run_id).info.artifact_uri}/{BEST_CHECKPOINT}"
    _check_copy(source, best)
    candidate = Candidate(
        run_id=run_id,
        source=source,
        sweep_id=best.sweep.sweep_id,
        trial_id=best.trial.trial_id,
        iteration=best.checkpoint.iteration,
        manifest_sha256=best.checkpoint.manifest_sha256,
    )
    return register_version(client, best.model, candidate, _describe(best))


@contextmanager
def mlflow_errors(uri: str) -> Iterator[None]:
    """Turn what MLflow raises into one line without secrets."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        raise TradesweepError(describe_failure(error, uri)) from error


def _get_run(best: BestCheckpoint, home: Home, uri: str) -> str:
    key = RunKey(best.sweep.experiment, best.sweep.sweep_id, best.trial.trial_id)
    run_id = RunBook(uri, artifacts=home.artifacts).find(key)
    if run_id is None:
        raise TradesweepError(
            f"MLflow at {shown_uri(uri)} must have a run of {best.sweep.sweep_id} trial {best.trial.trial_no}, has"
            " none; its run was deleted, or the sweep ended before MLflow was told"
        )
    return run_id


def _check_copy(source: str, best: BestCheckpoint) -> None:
    """A copy on this machine must be what was published; elsewhere the version's tag keeps the hash."""
    parts = urlsplit(source)
    if parts.scheme in ("", "file"):
        verify_manifest(Path(unquote(parts.path)), best.checkpoint.manifest_sha256)


def _describe(best: BestCheckpoint) -> dict[str, object]:
    return {
        "tradesweep.experiment": best.sweep.experiment,
        "tradesweep.trial_no": best.trial.trial_no,
        "tradesweep.data_sha256": best.sweep.data_sha256,
        Metric.VALIDATION_SHARPE.value: best.sharpe,
        "validation/luck_hurdle": best.hurdle,
        "validation/deflated": best.deflated,
    }
