"""What a sweep left in the outbox, delivered by the next command that holds the database."""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import TYPE_CHECKING

from tradesweep.errors import StoreLocked
from tradesweep.home import Home
from tradesweep.tracking.backend import describe_failure, prepare_backend
from tradesweep.tracking.projection import Projector

if TYPE_CHECKING:
    from tradesweep.store import Store, Writer

logger = logging.getLogger(__name__)


def build_projector(store: Store, writer: Writer, home: Home, sweep_id: str, *, tracking_uri: str) -> Projector:
    """A projector of one sweep for a command that writes the database itself. Raises StoreLocked while it runs."""
    writer.claim(sweep_id)

    def note_run(sweep_id: str, trial_id: int | None, run_id: str) -> None:
        if trial_id is None:
            writer.set_sweep_mlflow_run(sweep_id, run_id)
        else:
            writer.set_trial_mlflow_run(trial_id, run_id)

    return Projector(
        store,
        acknowledge=writer.mark_outbox,
        tracking_uri=tracking_uri,
        home=home,
        note_run=note_run,
        sweep_id=sweep_id,
    )


def deliver_outbox(home: Home) -> None:
    """Tell MLflow what it does not know yet. An MLflow that is away is worth a warning, and the rows wait on.

    A sweep that another process holds is left to it: a sweep that runs delivers by itself.
    """
    from tradesweep.store import Writer, open_store

    store = open_store(home.database)
    sweeps = store.list_undelivered()
    if not sweeps:
        return
    uri = prepare_backend(home.mlflow_database, home.artifacts)
    try:
        with Writer(home.database) as writer:
            for sweep_id in sweeps:
                with suppress(StoreLocked):
                    build_projector(store, writer, home, sweep_id, tracking_uri=uri).project_all()
    except StoreLocked:
        return
    except Exception as error:  # whoever asks for a result gets it, whatever mlflow raises
        logger.warning("the outbox is not delivered: %s", describe_failure(error, uri))
