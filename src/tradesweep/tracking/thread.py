"""The projection as a thread of the driver, which never disturbs the sweep."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from tradesweep.home import Home
from tradesweep.tracking.backend import hide_secrets, shown_uri
from tradesweep.tracking.projection import Projector
from tradesweep.tracking.runs import NoteRun, note_nothing

if TYPE_CHECKING:
    from tradesweep.store import Store

logger = logging.getLogger(__name__)

_LONGEST_PAUSE_S = 30.0
_LAST_CHANCE_S = 5.0
"""How long the end of a sweep waits for an MLflow that failed when it was last asked, and for any after a signal."""
_LOOK_S = 0.2
"""How soon a signal is noticed meanwhile."""


class ProjectorThread(threading.Thread):
    """Projects the outbox until it is stopped, then what is left of it, up to a deadline.

    Whatever goes wrong stays here: it is logged, kept in `last_error`, and tried again after a pause that
    doubles up to half a minute. What is not projected in the end stays in the outbox for the next command.
    `prepare` comes before the first pass: importing mlflow and making its tables takes seconds that nobody waits for.
    """

    def __init__(
        self,
        store: Store,
        *,
        acknowledge: Callable[[Sequence[int]], None],
        tracking_uri: str,
        home: Home,
        prepare: Callable[[], object] = lambda: None,
        note_run: NoteRun = note_nothing,
        sweep_id: str | None = None,
        poll_s: float = 1.0,
    ) -> None:
        super().__init__(name="mlflow-projector", daemon=True)
        self._projector = Projector(
            store,
            acknowledge=acknowledge,
            tracking_uri=tracking_uri,
            home=home,
            note_run=note_run,
            sweep_id=sweep_id,
        )
        self._store, self._sweep_id, self._uri, self._poll_s = store, sweep_id, tracking_uri, poll_s
        self._prepare: Callable[[], object] | None = prepare
        self._stop_asked = threading.Event()
        self._deadline = float("inf")
        self.last_error: str | None = None
        """What the last pass failed with, without secrets; None when it succeeded."""

    @property
    def pending(self) -> int:
        """Rows that MLflow does not have yet."""
        return self._store.count_outbox(self._sweep_id)

    def run(self) -> None:
        """Pass after pass; the last one begins after `stop` was called."""
        pause_s = self._poll_s
        while time.monotonic() < self._deadline:
            last_pass = self._stop_asked.is_set()
            if self._pass():
                pause_s = self._poll_s
                continue
            if last_pass:
                return
            self._stop_asked.wait(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S) if self.last_error else self._poll_s

    def stop(self, deadline_s: float, *, hurry: Callable[[], bool] = lambda: False) -> bool:
        """Project what is left, for up to `deadline_s`, and end; whether everything was projected.

        An MLflow that failed when it was last asked is asked once more and not waited for, and so is any when somebody
        is in a `hurry`. A second call does not wait longer than the first.
        """
        if not self._stop_asked.is_set():
            patience_s = deadline_s if self.last_error is None else min(deadline_s, _LAST_CHANCE_S)
            self._deadline = time.monotonic() + patience_s
            self._stop_asked.set()
        while self.is_alive() and time.monotonic() < self._deadline:
            if hurry():
                self._deadline = min(self._deadline, time.monotonic() + _LAST_CHANCE_S)
            self.join(min(max(self._deadline - time.monotonic(), 0.0), _LOOK_S))
        if self.is_alive() or self.last_error is not None:
            logger.warning("MLflow at %s did not get everything; the next command goes on", shown_uri(self._uri))
            return False
        return True

    def _pass(self) -> int:
        """Project some rows; how many, 0 when there was nothing to do or it failed."""
        try:
            if self._prepare is not None:
                self._prepare()
                self._prepare = None
            dealt_with = self._projector.project()
        except Exception as error:  # a projection must never end a sweep, whatever mlflow raises
            said = hide_secrets(f"{type(error).__name__}: {error}", self._uri)
            if self.last_error is None:
                logger.warning("MLflow at %s takes nothing, trying again: %s", shown_uri(self._uri), said)
            self.last_error = said
            return 0
        self.last_error = None
        return dealt_with
