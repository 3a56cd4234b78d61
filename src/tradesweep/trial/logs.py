"""One log file a trial, under the sweep's folder: what happened, and the traceback when it went wrong."""

from __future__ import annotations

import logging
from pathlib import Path

from tradesweep.names import LOG_FORMAT


class TrialLog:
    """Sends this process's `tradesweep` log to the file of the current trial; trials of a process come in turn."""

    def __init__(self) -> None:
        self._handler: logging.FileHandler | None = None

    def begin(self, folder: Path, trial_no: int) -> None:
        """From here on, log into `trial-<number>.log`; a resumed trial appends."""
        self.end()
        folder.mkdir(parents=True, exist_ok=True)
        self._handler = logging.FileHandler(folder / f"trial-{trial_no:04d}.log", encoding="utf-8")
        self._handler.setFormatter(logging.Formatter(LOG_FORMAT))
        logger = logging.getLogger("tradesweep")
        logger.setLevel(logging.INFO)
        logger.addHandler(self._handler)

    def end(self) -> None:
        """Close the file."""
        if self._handler is not None:
            logging.getLogger("tradesweep").removeHandler(self._handler)
            self._handler.close()
            self._handler = None
