"""Many trials that each last a moment: every slot works to the end, in one warm process."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from typing import Any

import pytest

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]

TRIALS = 24
LATE = """
import os, time
import tradesweep.sweep.warm
from tradesweep.recording import LIGHT

if LIGHT not in os.environ:
    from tradesweep.trial.trainable import TrialTrainable

    set_up = TrialTrainable.setup

    def set_up_late(self, config, context=None):
        try:
            os.close(os.open(os.environ["FIRST"], os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            time.sleep(8)
        set_up(self, config, context)

    TrialTrainable.setup = set_up_late
"""
"""Imported by Ray's workers as they start: the first process is there long before the second, and could take it all."""


def test_both_slots_stay_in_use_to_the_end_of_a_sweep_of_short_trials(make_workplace: Any) -> None:
    workplace = make_workplace()
    settings = {
        "budget.trials": TRIALS,
        "budget.env_steps_per_trial": 1024,
        "fixed.train_batch_size_per_learner": 128,
        "fixed.minibatch_size": 128,
        "resources.concurrent_trials": 2,
        "resources.env_runners": 0,
    }
    (workplace.root / "late.py").write_text(LATE)
    late = {
        "RAY_preload_python_modules": "late",
        "PYTHONPATH": os.pathsep.join([str(workplace.root), os.environ.get("PYTHONPATH", "")]),
        "FIRST": str(workplace.root / "first"),
    }
    done = workplace.run("sweep", "tiny_ppo", *(f"--set={key}={value}" for key, value in settings.items()), **late)
    assert done.returncode == 0, done.stdout + done.stderr
    sql = "SELECT pid, trial_no FROM attempts JOIN trials USING (trial_id) WHERE trials.status = 'FINISHED' ORDER BY 2"
    with closing(sqlite3.connect(workplace.database)) as connection:
        served = connection.execute(sql).fetchall()
    assert [number for _, number in served] == list(range(TRIALS))
    assert (workplace.root / "first").exists(), "one was there before the other"
    first, second = {pid for pid, _ in served}
    by_slot = [[number for pid, number in served if pid == slot] for slot in (first, second)]
    assert min(map(len, by_slot)) >= TRIALS // 3, by_slot
    assert min(map(max, by_slot)) >= TRIALS - 4, "neither slot fell idle before the end"
