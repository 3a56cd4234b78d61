"""Every searcher and every pruner, in real sweeps of tiny trials on the planted market."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]

SPACE = "search={lr: {loguniform: [1e-9, 1e-2]}, n_step: {randint: [1, 3]}, double_q: {choice: [true, false]}}"
GRID = "search={lr: {grid: [3e-3, 1e-8]}, train_batch_size_per_learner: {choice: [16, 32, 900]}}"
"""The largest batch does not fit into the replay."""

MEDIAN = "pruner={kind: median, min_evaluations: 1, startup_trials: 1}"
HALVING = "pruner={kind: successive_halving, min_evaluations: 1, reduction_factor: 2}"
HYPERBAND = "pruner={kind: hyperband, min_evaluations: 1, reduction_factor: 2}"

PAIRS = {
    "grid": (GRID, "pruner.kind=none", 4),
    "random": (SPACE, MEDIAN, 6),
    "qmc": (SPACE, HALVING, 6),
    "tpe": (SPACE, HYPERBAND, 6),
    "cmaes": (SPACE, MEDIAN, 9),
    "gp": (SPACE, HYPERBAND, 6),
}
"""Search space, pruner and points of each searcher's sweep."""

TINY = {
    "budget.env_steps_per_trial": 512,
    "searcher.startup_trials": 2,
    "fixed": "{gamma: 0.9, num_steps_sampled_before_learning_starts: 100, replay_buffer_config: {capacity: 512}}",
    "resources.concurrent_trials": 1,
    "recording.steps": "evaluation",
}

ONE_PROCESS = """
import json, sys
from tradesweep.cli.main import app
for words in json.loads(sys.argv[1]):
    try:
        app(words)
    except SystemExit as end:
        if end.code:
            raise
"""
"""Sweeps one after the other: what takes longest is to import Ray, RLlib and MLflow."""


@dataclass(frozen=True)
class Searched:
    """What the sweep of one searcher left."""

    sweep: sqlite3.Row
    trials: list[sqlite3.Row]
    study: optuna.Study

    def count(self, status: str) -> int:
        return sum(trial["status"] == status for trial in self.trials)


def spec_of(sweep: sqlite3.Row) -> dict[str, Any]:
    return json.loads(sweep["spec_json"])["spec"]


def words_of(kind: str) -> list[str]:
    space, pruner, points = PAIRS[kind]
    settings = [f"{key}={value}" for key, value in TINY.items()]
    settings += [f"searcher.kind={kind}", f"budget.trials={points}", space, pruner]
    return ["sweep", "tiny_dqn", *(f"--set={setting}" for setting in settings)]


@pytest.fixture(scope="module")
def workplace(make_workplace: Callable[[], Any]) -> Any:
    place = make_workplace()
    sweeps = json.dumps([words_of(kind) for kind in PAIRS])
    done = subprocess.run(
        [sys.executable, "-c", ONE_PROCESS, sweeps],
        cwd=place.root, env=place.environment, capture_output=True, text=True, timeout=840, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return place


@pytest.fixture(params=PAIRS)
def searched(workplace: Any, request: pytest.FixtureRequest) -> Searched:
    with closing(sqlite3.connect(f"file:{workplace.database}?mode=ro", uri=True)) as connection:
        connection.row_factory = sqlite3.Row
        sweeps = connection.execute("select * from sweeps").fetchall()
        [sweep] = [row for row in sweeps if spec_of(row)["searcher"]["kind"] == request.param]
        trials = connection.execute(
            "select * from trials where sweep_id = ? order by trial_no", [sweep["sweep_id"]]
        ).fetchall()
    journal = workplace.home / "sweeps" / sweep["sweep_id"] / "optuna.journal"
    study = optuna.load_study(study_name=sweep["sweep_id"], storage=JournalStorage(JournalFileBackend(str(journal))))
    return Searched(sweep, trials, study)


def test_each_searcher_runs_to_its_end_with_every_point_once(searched: Searched, request: Any) -> None:
    assert searched.sweep["status"] == "FINISHED"
    assert len(searched.trials) == PAIRS[request.node.callspec.params["searched"]][2]
    assert {trial["status"] for trial in searched.trials} <= {"FINISHED", "PRUNED"}
    assert len({trial["point_hash"] for trial in searched.trials}) == len(searched.trials)
    assert searched.count("FINISHED") >= 1


def test_each_pruner_stops_some_trials_before_their_last_evaluation(searched: Searched) -> None:
    pruner = spec_of(searched.sweep)["pruner"]["kind"]
    assert (searched.count("PRUNED") > 0) == (pruner != "none")
    assert all((trial["iterations"] < 8) == (trial["status"] == "PRUNED") for trial in searched.trials)


def test_optuna_s_journal_says_what_the_store_says(searched: Searched) -> None:
    states = {"FINISHED": "COMPLETE", "PRUNED": "PRUNED"}
    assert [trial.state.name for trial in searched.study.trials] == [states[row["status"]] for row in searched.trials]
    for shown, row in zip(searched.study.trials, searched.trials, strict=True):
        assert shown.user_attrs == {"point_no": row["trial_no"]}
        assert shown.params == json.loads(row["point_json"])
        assert len(shown.intermediate_values) == row["iterations"]
        assert shown.value == row["last_score"]


def test_the_database_of_all_of_them_verifies(workplace: Any) -> None:
    done = workplace.run("verify")
    assert done.returncode == 0, done.stdout + done.stderr
