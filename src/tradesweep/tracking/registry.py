"""Versions of registered models and their aliases: `candidate` after a sweep, `champion` if promoted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tradesweep.errors import NotFound

if TYPE_CHECKING:
    from mlflow import MlflowClient

CANDIDATE = "candidate"
CHAMPION = "champion"

TAG_SWEEP = "tradesweep.sweep_id"
TAG_TRIAL = "tradesweep.trial_id"
TAG_ITERATION = "tradesweep.iteration"
TAG_MANIFEST = "tradesweep.manifest_sha256"
TAG_PREVIOUS = "tradesweep.previous_champion"

_NOTHING_THERE = frozenset({"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE", "NOT_FOUND"})
"""Error codes for an unknown model and for an unknown alias of a known model."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A checkpoint that is to become a model version."""

    run_id: str
    """MLflow run of the trial."""
    source: str
    """Folder or URI of the checkpoint."""
    sweep_id: str
    trial_id: int
    iteration: int
    manifest_sha256: str
    """Hash of the checkpoint's manifest; with sweep, trial and iteration it makes the version unique."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelVersion:
    """A version of a registered model."""

    model: str
    version: int
    run_id: str | None
    source: str
    tags: dict[str, str]


def register_candidate(
    client: MlflowClient, model: str, candidate: Candidate, tags: Mapping[str, object] | None = None
) -> ModelVersion:
    """Make the checkpoint a version of the model and move alias `candidate` to it.

    The same checkpoint registered again gives the same version: it is found by its tags.
    """
    identity = _identity(candidate)
    version = _find_by_tags(client, model, identity)
    if version is None:
        _ensure_model(client, model)
        text_tags = {key: str(value) for key, value in (tags or {}).items()} | identity
        version = _to_version(client.create_model_version(model, candidate.source, candidate.run_id, tags=text_tags))
    client.set_registered_model_alias(model, CANDIDATE, str(version.version))
    return version


def set_champion(client: MlflowClient, model: str, version: int) -> int | None:
    """Move alias `champion` to the version; gives the version that had it before, None for the first.

    The new champion's tag `tradesweep.previous_champion` keeps it, for a later rollback.
    """
    previous = find_alias(client, model, CHAMPION)
    if previous is not None and previous.version != version:
        client.set_model_version_tag(model, str(version), TAG_PREVIOUS, str(previous.version))
    client.set_registered_model_alias(model, CHAMPION, str(version))
    return None if previous is None else previous.version


def find_alias(client: MlflowClient, model: str, alias: str) -> ModelVersion | None:
    """The version that has the alias, or None when there is no such alias or no such model."""
    from mlflow.exceptions import MlflowException

    try:
        return _to_version(client.get_model_version_by_alias(model, alias))
    except MlflowException as error:
        if error.error_code in _NOTHING_THERE:
            return None
        raise


def get_alias(client: MlflowClient, model: str, alias: str) -> ModelVersion:
    """The version that has the alias. Raises NotFound, naming the models that exist."""
    found = find_alias(client, model, alias)
    if found is None:
        names = sorted(each.name for each in client.search_registered_models())
        raise NotFound(f"model {model!r} must have a version with alias {alias!r}, has none; models: {names}")
    return found


def list_versions(client: MlflowClient, model: str) -> list[ModelVersion]:
    """All versions of the model, oldest first."""
    found = client.search_model_versions(f"name = '{_quoted(model)}'")
    return sorted((_to_version(each) for each in found), key=lambda each: each.version)


def _identity(candidate: Candidate) -> dict[str, str]:
    return {
        TAG_SWEEP: candidate.sweep_id,
        TAG_TRIAL: str(candidate.trial_id),
        TAG_ITERATION: str(candidate.iteration),
        TAG_MANIFEST: candidate.manifest_sha256,
    }


def _find_by_tags(client: MlflowClient, model: str, identity: Mapping[str, str]) -> ModelVersion | None:
    same = (v for v in list_versions(client, model) if identity.items() <= v.tags.items())
    return next(same, None)


def _ensure_model(client: MlflowClient, model: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(model)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _to_version(found: Any) -> ModelVersion:
    return ModelVersion(
        model=found.name,
        version=int(found.version),
        run_id=found.run_id or None,
        source=found.source,
        tags=dict(found.tags),
    )


def _quoted(text: str) -> str:
    return text.replace("'", "''")
