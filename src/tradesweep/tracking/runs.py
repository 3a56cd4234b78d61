"""The runs of MLflow: found by tag before they are created, written in portions that MLflow takes."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tradesweep.tracking.backend import ensure_experiment, open_client

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import DatasetInput, Run

TAG_KIND = "tradesweep.kind"
TAG_SWEEP = "tradesweep.sweep_id"
TAG_TRIAL = "tradesweep.trial_id"
TAG_PARENT = "mlflow.parentRunId"

LONGEST_PARAM = 6000
LONGEST_TAG = 8000
_ENTRIES_PER_CALL = 100
"""MLflow takes at most a hundred params or tags, and a thousand entries in all, per call."""


NoteRun = Callable[[str, int | None, str], None]


def note_nothing(sweep_id: str, trial_id: int | None, run_id: str) -> None:
    """Nobody wants to know."""


@dataclass(frozen=True, slots=True)
class RunKey:
    """Which run: of a sweep, or of one of its trials."""

    experiment: str
    sweep_id: str
    trial_id: int | None = None

    def tags(self) -> dict[str, str]:
        """The tags by which the run is found."""
        if self.trial_id is None:
            return {TAG_KIND: "sweep", TAG_SWEEP: self.sweep_id}
        return {TAG_KIND: "trial", TAG_SWEEP: self.sweep_id, TAG_TRIAL: str(self.trial_id)}


class RunBook:
    """Finds, creates and writes runs. It remembers the ids it found; MLflow's tags are the truth.

    `note_run` is told each run's sweep, trial (None for the sweep's own run) and id when it is first met.
    """

    def __init__(self, tracking_uri: str, *, artifacts: Path, note_run: NoteRun = note_nothing) -> None:
        self._tracking_uri, self._artifacts, self._note_run = tracking_uri, artifacts, note_run
        self._client: MlflowClient | None = None
        self._experiments: dict[str, str] = {}
        self._runs: dict[RunKey, str] = {}
        self._statuses: dict[str, str] = {}

    @property
    def client(self) -> MlflowClient:
        """The client, made when first needed: making this object must not depend on MLflow."""
        if self._client is None:
            self._client = open_client(self._tracking_uri)
        return self._client

    def find(self, key: RunKey) -> str | None:
        """The run's id, or None when MLflow has no such run."""
        if key not in self._runs:
            wanted = " and ".join(f"tags.`{name}` = '{value}'" for name, value in key.tags().items())
            found = self.client.search_runs([self._experiment(key.experiment)], wanted, max_results=1)
            if not found:
                return None
            self._remember(key, found[0])
        return self._runs[key]

    def ensure(self, key: RunKey, *, name: str, started_at_us: int, parent: str | None = None) -> str:
        """The run's id; created with the tags of its key when MLflow has none."""
        found = self.find(key)
        if found is not None:
            return found
        tags = key.tags() | ({TAG_PARENT: parent} if parent else {})
        run = self.client.create_run(
            self._experiment(key.experiment), start_time=started_at_us // 1000, tags=tags, run_name=name
        )
        return self._remember(key, run)

    def set_running(self, run_id: str) -> None:
        """Mark the run as running, also when it had ended: a resumed trial goes on in its run."""
        if self._statuses.get(run_id) != "RUNNING":
            self.client.update_run(run_id, status="RUNNING")
            self._statuses[run_id] = "RUNNING"

    def set_ended(self, run_id: str, status: str, *, at_us: int) -> None:
        """Give the run its end: FINISHED, FAILED or KILLED."""
        self.client.set_terminated(run_id, status, end_time=at_us // 1000)
        self._statuses[run_id] = status

    def log_params(self, run_id: str, params: Mapping[str, Any]) -> None:
        """Log the params the run does not have yet: MLflow never lets one change."""
        from mlflow.entities import Param

        known = self.client.get_run(run_id).data.params
        new = [Param(key, as_text(value, LONGEST_PARAM)) for key, value in params.items() if key not in known]
        for portion in _portions(new):
            self.client.log_batch(run_id, params=portion)

    def log_tags(self, run_id: str, tags: Mapping[str, Any]) -> None:
        """Set tags; those without a value are left out."""
        from mlflow.entities import RunTag

        given = [RunTag(key, as_text(value, LONGEST_TAG)) for key, value in tags.items() if value is not None]
        for portion in _portions(given):
            self.client.log_batch(run_id, tags=portion)

    def drop_tag(self, run_id: str, tag: str) -> None:
        """Remove a tag where there is one."""
        if tag in self.client.get_run(run_id).data.tags:
            self.client.delete_tag(run_id, tag)

    def log_metrics(self, run_id: str, metrics: Mapping[str, Any], *, at_us: int, step: int) -> None:
        """Log finite numbers at the time and step of their event.

        MLflow takes the same metric at the same time and step once, so a replay adds nothing. It would store
        an infinity as a large number, so what is undefined or not finite stays out.
        """
        from mlflow.entities import Metric

        entries = [
            Metric(name, float(value), at_us // 1000, step)
            for name, value in metrics.items()
            if isinstance(value, int | float) and math.isfinite(value)
        ]
        for portion in _portions(entries):
            self.client.log_batch(run_id, metrics=portion)

    def log_dataset(self, run_id: str, dataset: DatasetInput) -> None:
        """Log what the run was trained on; the same dataset again adds nothing."""
        self.client.log_inputs(run_id, datasets=[dataset])

    def log_text(self, run_id: str, text: str, file: str) -> None:
        """Write an artifact; the same file again replaces it."""
        self.client.log_text(run_id, text, file)

    def log_folder(self, run_id: str, folder: Path, name: str) -> None:
        """Copy a folder into the run's artifacts under `name`; the same files again replace themselves."""
        self.client.log_artifacts(run_id, str(folder), artifact_path=name)

    def _remember(self, key: RunKey, run: Run) -> str:
        self._note_run(key.sweep_id, key.trial_id, run.info.run_id)
        self._runs[key] = run.info.run_id
        self._statuses[run.info.run_id] = run.info.status
        return self._runs[key]

    def _experiment(self, name: str) -> str:
        if name not in self._experiments:
            self._experiments[name] = ensure_experiment(self.client, name, artifacts=self._artifacts)
        return self._experiments[name]


def flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested mappings as dotted keys, in order."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def as_text(value: object, longest: int) -> str:
    """Text as is, anything else as JSON; what MLflow would not store is cut, and ends in dots."""
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return text if len(text) <= longest else text[: longest - 3] + "..."


def _portions(entries: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for start in range(0, len(entries), _ENTRIES_PER_CALL):
        yield entries[start : start + _ENTRIES_PER_CALL]
