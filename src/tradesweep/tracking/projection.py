"""MLflow as a projection of the store: one outbox row after the other, each safe to project again.

Every row of the outbox was committed together with what it announces, so nothing is announced that did not
happen. A row is acknowledged after MLflow has it. If the process dies in between, the row is projected a second
time and changes nothing: runs are found by tag before they are created, metrics carry the time of their event
and MLflow takes an equal metric once, params and tags are the same, artifacts replace themselves.

A row that MLflow refuses for its content is set aside with a warning: the rows behind it go on, and since it was
not acknowledged, the next command tries it again. Any other failure (no server, locked database) stops the pass
at that row.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from tradesweep.home import Home
from tradesweep.names import Metric, TrialStatus
from tradesweep.tracking.runs import NoteRun, RunBook, RunKey, flatten, note_nothing

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput

    from tradesweep.spec import SweepSpec
    from tradesweep.store import OutboxRow, Store, SweepRow

Payload = Mapping[str, Any]
"""What an outbox row says, complete in itself: `store.outbox` lists the keys of each kind."""

BEST_CHECKPOINT = "best_checkpoint"
"""Artifact folder of a trial's run that holds its best checkpoint."""

TAG_STATUS = "tradesweep.status"
TAG_ERROR = "tradesweep.error"
TAG_DATA = "tradesweep.data_sha256"
TAG_GIT = "tradesweep.git_revision"
TAG_POINT = "tradesweep.point_hash"
TAGS_OF_PLACE = ("point_no", "seed_no", "phase")
"""Where a trial stands in its sweep; rows of older versions do not say it."""
TAG_BEST = "tradesweep.best"
TAG_BEST_TRIAL = "tradesweep.best.trial_no"
TAG_SPEC = "tradesweep.spec"

RUN_STATUS: Mapping[str, str] = {
    TrialStatus.PENDING: "SCHEDULED",
    TrialStatus.RUNNING: "RUNNING",
    TrialStatus.FINISHED: "FINISHED",
    TrialStatus.STOPPED: "FINISHED",
    TrialStatus.PRUNED: "KILLED",
    TrialStatus.INTERRUPTED: "KILLED",
    TrialStatus.FAILED: "FAILED",
    TrialStatus.DIVERGED: "FAILED",
    TrialStatus.CRASHED: "FAILED",
}
"""MLflow knows fewer ends than trials and sweeps have; the tag `tradesweep.status` keeps ours."""

_DECIDED = (
    "algorithm",
    "market",
    "splits",
    "env",
    "evaluation",
    "budget",
    "searcher",
    "pruner",
    "seeds",
    "aggregate",
    "confirm",
    "seed",
)
"""Parts of the spec that become params of the sweep's run."""

_DIGEST_LENGTH = 16
_ROWS_PER_PASS = 200
_REFUSED_FOR_CONTENT = frozenset({"INVALID_PARAMETER_VALUE", "BAD_REQUEST"})

logger = logging.getLogger(__name__)


class Projector:
    """Writes the outbox of a store to MLflow, in order; of one sweep where others are written by other processes.

    `acknowledge` gets the ids of the rows that MLflow has, `note_run` the sweep, the trial (or None) and the id of
    each run; both run in the thread that calls `project`.
    """

    def __init__(
        self,
        store: Store,
        *,
        acknowledge: Callable[[Sequence[int]], None],
        tracking_uri: str,
        home: Home,
        note_run: NoteRun = note_nothing,
        sweep_id: str | None = None,
    ) -> None:
        self._store, self._acknowledge, self._home, self._sweep_id = store, acknowledge, home, sweep_id
        self._runs = RunBook(tracking_uri, artifacts=home.artifacts, note_run=note_run)
        self._cursor = 0
        self.set_aside: set[int] = set()
        """Ids of rows that MLflow refused; they stay undelivered."""

    def project(self, limit: int = _ROWS_PER_PASS) -> int:
        """Project up to `limit` undelivered rows; how many were dealt with. Raises what MLflow raised.

        What was projected before an error is acknowledged all the same.
        """
        delivered: list[int] = []
        cursor, dealt_with = self._cursor, 0
        try:
            for row in self._store.outbox_after(cursor, limit, sweep_id=self._sweep_id):
                if self._project_or_set_aside(row):
                    delivered.append(row.id)
                cursor, dealt_with = row.id, dealt_with + 1
        finally:
            if delivered:
                self._acknowledge(delivered)
            self._cursor = cursor  # only now: rows whose acknowledgement failed are projected again
        return dealt_with

    def project_all(self) -> None:
        """Project everything that is not delivered; stops at the first error, which it raises."""
        while self.project():
            pass

    def _project_or_set_aside(self, row: OutboxRow) -> bool:
        from mlflow.exceptions import MlflowException

        try:
            self._project_row(row)
        except MlflowException as error:
            if error.error_code not in _REFUSED_FOR_CONTENT:
                raise
            self.set_aside.add(row.id)
            logger.warning("MLflow refused outbox row %d (%s), set aside: %s", row.id, row.kind, error)
            return False
        return True

    def _project_row(self, row: OutboxRow) -> None:
        handler = self._HANDLERS.get(row.kind)
        if handler is None:
            logger.warning("outbox row %d has the unknown kind %r; nothing to project", row.id, row.kind)
            return
        handler(self, row.payload, row.at)

    def _sweep_opened(self, payload: Payload, at_us: int) -> None:
        sweep = self._store.get_sweep(payload["sweep_id"])
        spec = _spec_of(sweep)
        run = self._sweep_run(payload, at_us)
        self._runs.set_running(run)
        self._runs.log_params(run, sweep_params(spec))
        self._runs.log_tags(run, _provenance(sweep) | {TAG_SPEC: spec.model_dump_json(), TAG_STATUS: "RUNNING"})
        self._runs.log_text(run, spec.model_dump_json(indent=2), "spec.json")
        self._runs.log_dataset(run, _dataset(sweep, spec))

    def _trial_opened(self, payload: Payload, at_us: int) -> None:
        sweep = self._store.get_sweep(payload["sweep_id"])
        run = self._trial_run(payload, at_us)
        self._runs.set_running(run)
        self._runs.log_params(run, dict(flatten(payload["params"])) | {"seed": payload["seed"]})
        place = {f"tradesweep.{name}": payload.get(name) for name in TAGS_OF_PLACE}
        tags = _provenance(sweep) | place | {TAG_STATUS: "RUNNING", TAG_POINT: payload["point_hash"]}
        self._runs.log_tags(run, tags)
        self._runs.log_dataset(run, _dataset(sweep, _spec_of(sweep)))

    def _iteration(self, payload: Payload, at_us: int) -> None:
        run = self._trial_run(payload, at_us)
        self._runs.set_running(run)
        self._runs.log_metrics(run, payload["metrics"], at_us=at_us, step=payload["env_steps"])

    def _trial_closed(self, payload: Payload, at_us: int) -> None:
        run = self._trial_run(payload, at_us)
        self._log_last_metrics(run, payload, at_us)
        self._log_best_checkpoint(run, payload)
        if payload["error"]:
            self._runs.log_text(run, payload["error"], "error.txt")
        else:
            self._runs.drop_tag(run, TAG_ERROR)  # of an earlier attempt
        self._runs.log_tags(run, {TAG_STATUS: payload["status"], TAG_ERROR: payload["error"]})
        self._runs.set_ended(run, RUN_STATUS[payload["status"]], at_us=at_us)

    def _sweep_closed(self, payload: Payload, at_us: int) -> None:
        run, best = self._sweep_run(payload, at_us), payload["best"]
        if best is not None:
            self._runs.log_metrics(run, {Metric.VALIDATION_BEST_SHARPE: best["best_sharpe"]}, at_us=at_us, step=0)
            self._runs.log_tags(run, {TAG_BEST_TRIAL: str(best["trial_no"])})
        self._runs.log_tags(run, {TAG_STATUS: payload["status"]})
        self._runs.set_ended(run, RUN_STATUS[payload["status"]], at_us=at_us)

    def _nothing(self, payload: Payload, at_us: int) -> None:
        """Checkpoints reach MLflow when their trial closes, promotions through the registry itself."""

    def _log_last_metrics(self, run: str, payload: Payload, at_us: int) -> None:
        """Where an earlier attempt had come further, say the last metrics again at the step it had reached.

        MLflow shows the value of the highest step as a run's metric and takes no value back; of two values at one
        step it shows the later.
        """
        iterations = self._store.list_iterations(payload["trial_id"], superseded=True)
        reached = max((row.env_steps for row in iterations if row.at <= at_us), default=0)
        if reached > payload["env_steps"]:
            self._runs.log_metrics(run, payload["metrics"], at_us=at_us, step=reached)

    def _log_best_checkpoint(self, run: str, payload: Payload) -> None:
        best = payload["best"]
        if best is None:
            return
        tags = {"sharpe": best["sharpe"], "iteration": best["iteration"], "sha256": best["manifest_sha256"]}
        self._runs.log_tags(run, {f"{TAG_BEST}.{name}": value for name, value in tags.items()})
        folder = self._home.path / best["path"]
        if folder.is_dir():
            self._runs.log_folder(run, folder, BEST_CHECKPOINT)
        else:
            logger.warning("best checkpoint %s of trial %s is gone", folder, payload["trial_no"])

    def _sweep_run(self, payload: Payload, at_us: int) -> str:
        key = RunKey(payload["experiment"], payload["sweep_id"])
        return self._runs.ensure(key, name=payload["sweep_id"], started_at_us=at_us)

    def _trial_run(self, payload: Payload, at_us: int) -> str:
        key = RunKey(payload["experiment"], payload["sweep_id"], payload["trial_id"])
        name = f"{payload['sweep_id']}/{payload['trial_no']:04d}"
        parent = self._sweep_run(payload, at_us)
        return self._runs.ensure(key, name=name, started_at_us=at_us, parent=parent)

    _HANDLERS: ClassVar[Mapping[str, Callable[[Projector, Payload, int], None]]] = {
        "sweep_opened": _sweep_opened,
        "trial_opened": _trial_opened,
        "iteration": _iteration,
        "checkpoint": _nothing,
        "trial_closed": _trial_closed,
        "sweep_closed": _sweep_closed,
        "promotion": _nothing,
    }


def _spec_of(sweep: SweepRow) -> SweepSpec:
    from tradesweep.spec import SweepSpec

    return SweepSpec.from_json(sweep.spec_json)


def sweep_params(spec: SweepSpec) -> dict[str, Any]:
    """What a person decided about the sweep as a whole, as dotted keys."""
    decided = spec.model_dump(mode="json", include=set(_DECIDED), exclude_none=True)
    return dict(flatten(decided)) | {f"fixed.{key}": value for key, value in spec.fixed.items()}


def _provenance(sweep: SweepRow) -> dict[str, Any]:
    versions = json.loads(sweep.versions_json)
    return {
        TAG_DATA: sweep.data_sha256,
        TAG_GIT: sweep.git_revision,
        "tradesweep.identity": sweep.identity,
        **{f"tradesweep.version.{name}": version for name, version in versions.items()},
    }


def _dataset(sweep: SweepRow, spec: SweepSpec) -> DatasetInput:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    market = Dataset(
        name=sweep.instrument,
        digest=sweep.data_sha256[:_DIGEST_LENGTH],
        source_type="tradesweep",
        source=spec.market.model_dump_json(exclude_none=True),
    )
    return DatasetInput(market, tags=[InputTag("mlflow.data.context", "training")])
