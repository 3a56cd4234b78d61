"""MLflow: a projection of the store, and the model registry. Importing this does not import mlflow."""

from tradesweep.tracking.backend import (
    describe_failure,
    ensure_experiment,
    find_tracking_uri,
    open_client,
    prepare_backend,
    shown_uri,
)
from tradesweep.tracking.delivery import build_projector, deliver_outbox
from tradesweep.tracking.projection import BEST_CHECKPOINT, Projector
from tradesweep.tracking.registry import (
    CANDIDATE,
    CHAMPION,
    Candidate,
    ModelVersion,
    find_alias,
    get_alias,
    list_versions,
    register_candidate,
    set_champion,
)
from tradesweep.tracking.runs import RunBook, RunKey
from tradesweep.tracking.thread import ProjectorThread

__all__ = [
    "BEST_CHECKPOINT",
    "CANDIDATE",
    "CHAMPION",
    "Candidate",
    "ModelVersion",
    "Projector",
    "ProjectorThread",
    "RunBook",
    "RunKey",
    "build_projector",
    "deliver_outbox",
    "describe_failure",
    "ensure_experiment",
    "find_alias",
    "find_tracking_uri",
    "get_alias",
    "list_versions",
    "open_client",
    "prepare_backend",
    "register_candidate",
    "set_champion",
    "shown_uri",
]
