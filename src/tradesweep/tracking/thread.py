"""The projection as a thread of the driver, which never disturbs the sweep."""

from __future__ import annotations

import logging
import threading
import time
from typing import Protocol

logger = logging.getLogger(__name__)

_POLL_S = 1.0
_LONGEST_PAUSE_S = 30.0


class Projects(Protocol):
    """What the thread needs of a projector."""

    def project(self) -> int:
        """Deal with some rows; how many."""
        ...


class ProjectorThread(threading.Thread):
    """Projects the outbox until it is stopped, then what is left of it, up to a deadline.

    Whatever goes wrong stays here: it is logged, kept in `last_error`, and tried again after a pause that doubles
    up to half a minute. What is not projected in the end stays in the outbox for the next command.
    """
