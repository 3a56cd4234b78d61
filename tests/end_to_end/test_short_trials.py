"""Many trials that each last a moment: every slot works to the end, in one warm process."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import Any

import pytest

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]

TRIALS = 24


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
    done = workplace.run("sweep", "tiny_ppo", *(f"--set={key}={value}" for key, value in settings.items()))
    assert done.returncode == 0, done.stdout + done.stderr
    sql = "SELECT pid, trial_no FROM attempts JOIN trials USING (trial_id) WHERE trials.status = 'FINISHED' ORDER BY 2"
    with closing(sqlite3.connect(workplace.database)) as connection:
        served = connection.execute(sql).fetchall()
    assert [number for _, number in served] == list(range(TRIALS))
    first, second = {pid for pid, _ in served}
    by_slot = [[number for pid, number in served if pid == slot] for slot in (first, second)]
    assert min(map(len, by_slot)) >= TRIALS // 3, by_slot
    assert min(map(max, by_slot)) >= TRIALS - 4, "neither slot fell idle before the end"
