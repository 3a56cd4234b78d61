"""Whatever goes wrong in a trial ends that trial, loudly; the process, the searcher and the sweep go on."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from typing import Any

import pytest
from tests.faults.invariants import check_invariants
from tests.faults.planted import STRIKES_AFTER
from tests.faults.planting import INSTRUMENT, plant
from tests.faults.sweeps import query

pytestmark = [pytest.mark.fault, pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]

LEARNS, EXPLODES, FREEZES, CRAWLS = 1e-3, 1e6, 1e-30, 1e-9
TRIALS: list[tuple[float, float, str, str]] = [
    (0.90, LEARNS, "FINISHED", ""),
    (0.91, LEARNS, "FAILED", "RuntimeError: the exchange is closed"),
    (0.92, LEARNS, "DIVERGED", "env: rewards must be finite, was nan"),
    (0.93, LEARNS, "DIVERGED", "env: rewards must be finite, was -inf"),
    (0.94, LEARNS, "DIVERGED", "env: observations must be finite"),
    (0.95, LEARNS, "FAILED", "Unable to allocate"),
    (0.96, LEARNS, "DIVERGED", "evaluation: reward must be finite on validation, was nan"),
    (0.90, EXPLODES, "DIVERGED", "learner: weights must be finite and within 1e+06"),
    (0.90, FREEZES, "FAILED", "trial: weights must make progress, made none in 2 iterations"),
    (0.97, LEARNS, "CRASHED", "worker process lost: The actor died unexpectedly"),
    (0.90, LEARNS, "FINISHED", ""),
]
"""Discount and learning rate of each trial, its end, and a word of its error."""
BAD = [trial for trial in TRIALS if trial[2] != "FINISHED"]


@pytest.fixture(scope="module")
def swept(make_workplace: Any) -> tuple[Any, dict[str, Any]]:
    """One sweep of all of them, and what it said."""
    workplace = make_workplace()
    plant(workplace, "planted", [{"gamma": gamma, "lr": lr} for gamma, lr, _, _ in TRIALS])
    done = workplace.run("sweep", "planted", "--json", timeout_s=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return workplace, json.loads(done.stdout)


def test_every_trial_ends_as_it_should_and_says_why(swept: Any) -> None:
    workplace, _ = swept
    rows = query(workplace.database, "select status, error from trials order by trial_no")
    assert [status for status, _ in rows] == [status for _, _, status, _ in TRIALS]
    for (_, error), (_, _, _, word) in zip(rows, TRIALS, strict=True):
        assert (error is None) == (word == "")
        assert word in (error or "")
    raised = rows[1][1]
    assert "Traceback" in raised
    assert 'planted.py"' in raised, "the original traceback"


def test_a_trial_ends_within_two_iterations_of_what_went_wrong(swept: Any) -> None:
    workplace, _ = swept
    iterations = dict(query(workplace.database, "select trial_no, iterations from trials"))
    assert {iterations[0], iterations[10]} == {8}
    assert all(iterations[number] in (STRIKES_AFTER - 1, STRIKES_AFTER) for number in (1, 2, 3, 4, 5, 6, 9))
    assert iterations[7] == 0, "the first updates made its weights explode"
    assert iterations[8] <= 2


def test_the_warm_process_serves_on_until_it_is_killed(swept: Any) -> None:
    workplace, _ = swept
    pids = [pid for (pid,) in query(workplace.database, "select pid from attempts order by trial_id")]
    assert len(pids) == len(TRIALS)
    assert len(set(pids[:10])) == 1
    assert pids[10] != pids[9]


def test_summary_exit_code_and_store_agree(swept: Any) -> None:
    workplace, said = swept
    assert (said["status"], said["trials"], said["failed"]) == ("FINISHED", len(TRIALS), len(BAD))
    check_invariants(workplace.database)


def test_a_hostile_name_is_data_and_leads_nowhere(swept: Any) -> None:
    workplace, _ = swept
    assert query(workplace.database, "select instrument from sweeps limit 1") == [(INSTRUMENT,)]
    made = {path.name for path in workplace.root.iterdir()}
    assert made - {"__pycache__"} == {"experiments.yaml", "sweeps", "planted.py", "runs"}
    assert not [path for path in workplace.root.parent.rglob("*") if "DROP TABLE" in path.name]


def test_mlflow_has_the_status_and_the_traceback_of_each(swept: Any) -> None:
    workplace, _ = swept
    with closing(sqlite3.connect(workplace.home / "mlflow.db")) as mlflow:
        tags = mlflow.execute("select run_uuid, key, value from tags where key like 'tradesweep.%'").fetchall()
        runs = dict(mlflow.execute("select run_uuid, status from runs").fetchall())
    tag_of: dict[str, dict[str, str]] = {run: {} for run in runs}
    for run, key, value in tags:
        tag_of[run][key] = value
    trials = {tag["tradesweep.trial_id"]: run for run, tag in tag_of.items() if "tradesweep.trial_id" in tag}
    for number, (_, _, status, word) in enumerate(TRIALS, start=1):
        run = trials[str(number)]
        assert tag_of[run]["tradesweep.status"] == status
        assert (runs[run] == "FAILED") == (word != "")
        texts = [path.read_text() for path in workplace.home.glob(f"artifacts/**/{run}/artifacts/error.txt")]
        assert [word in text for text in texts] == [True] * (word != "")


def test_a_sweep_without_any_objective_has_failed(swept: Any) -> None:
    workplace, _ = swept
    points = json.dumps([{"gamma": 0.91, "lr": EXPLODES}])
    done = workplace.run("sweep", "planted", "--json", "--set", f"budget.trials=1 searcher.points={points}")
    said = json.loads(done.stdout)
    assert (done.returncode, said["status"], said["trials"], said["failed"]) == (1, "FAILED", 1, 1)
    done = workplace.run("promote", said["sweep_id"])
    assert done.returncode == 3
    assert "no checkpoint may be chosen" in done.stderr


def test_a_searcher_that_learns_and_a_pruner_go_on_past_what_goes_wrong(make_workplace: Any) -> None:
    workplace = make_workplace()
    searched = [
        (0.90, LEARNS, "FINISHED"),
        (0.92, LEARNS, "DIVERGED"),
        (0.90, EXPLODES, "DIVERGED"),
        (0.91, LEARNS, "FAILED"),
        (0.90, CRAWLS, "PRUNED"),
    ]
    plant(workplace, "planted", [{"gamma": gamma, "lr": lr} for gamma, lr, _ in searched])
    # The pruner looks for the first time after the iteration in which things go wrong.
    halving = f"pruner={{kind: successive_halving, min_evaluations: {STRIKES_AFTER + 1}, reduction_factor: 2}}"
    drawn = 2
    settings = f"searcher.kind=tpe searcher.startup_trials=2 budget.trials={len(searched) + drawn}"
    done = workplace.run("sweep", "planted", "--json", "--set", settings, "--set", halving)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = query(workplace.database, "select status, point_json from trials order by trial_no")
    assert [status for status, _ in rows[: len(searched)]] == [status for _, _, status in searched]
    assert {status for status, _ in rows[len(searched) :]} <= {"FINISHED", "PRUNED", "FAILED", "DIVERGED", "STOPPED"}
    assert len(rows) == len({point for _, point in rows}) == len(searched) + drawn
    said = json.loads(done.stdout)
    failed = sum(status in ("FAILED", "DIVERGED") for status, _ in rows)
    assert (said["status"], said["trials"], said["failed"]) == ("FINISHED", len(rows), failed)
    check_invariants(workplace.database)
