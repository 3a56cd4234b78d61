"""One log file a trial, though trials share a process."""

from __future__ import annotations

import logging
from pathlib import Path

from tradesweep.trial.logs import TrialLog


def test_each_trial_has_its_own_file_and_a_resumed_one_goes_on_in_it(tmp_path: Path) -> None:
    log, logger = TrialLog(), logging.getLogger("tradesweep.somewhere")
    for trial_no, text in ((0, "first"), (1, "second"), (0, "first again")):
        log.begin(tmp_path / "logs", trial_no)
        logger.info(text)
    log.end()
    logger.info("after the last")
    lines = {path.name: path.read_text().splitlines() for path in (tmp_path / "logs").iterdir()}
    assert [line.split(" tradesweep.somewhere ")[1] for line in lines["trial-0000.log"]] == ["first", "first again"]
    assert [line.split(" tradesweep.somewhere ")[1] for line in lines["trial-0001.log"]] == ["second"]
    assert set(lines) == {"trial-0000.log", "trial-0001.log"}


def test_a_traceback_stands_in_the_log(tmp_path: Path) -> None:
    log = TrialLog()
    log.begin(tmp_path, 7)
    try:
        raise RuntimeError("the exchange is closed")
    except RuntimeError as error:
        logging.getLogger("tradesweep.trial").error("trial 7 FAILED", exc_info=error)
    log.end()
    log.end()  # twice is once
    assert "RuntimeError: the exchange is closed" in (tmp_path / "trial-0007.log").read_text()
