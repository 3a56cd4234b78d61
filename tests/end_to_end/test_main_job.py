"""The main job: what a person finds after `tradesweep sweep`."""

from __future__ import annotations

import json
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]


def query(database: Path, sql: str, *values: Any) -> list[sqlite3.Row]:
    connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True)
    connection.row_factory = sqlite3.Row
    try:
        return connection.execute(sql, values).fetchall()
    finally:
        connection.close()


def best_trial(database: Path) -> sqlite3.Row:
    return query(database, "select * from trials where best_sharpe is not null order by best_sharpe desc")[0]


def test_every_trial_finished_with_all_its_evaluations(swept) -> None:
    trials = query(swept.database, "select * from trials")
    assert len(trials) == 5
    assert {trial["status"] for trial in trials} == {"FINISHED"}
    assert {trial["iterations"] for trial in trials} == {8}
    assert all(trial["env_steps"] >= 2000 for trial in trials)


def test_the_database_verifies(swept) -> None:
    done = swept.run("verify", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    rules = json.loads(done.stdout)["rules"]
    assert len(rules) >= 20
    assert all(rule["passed"] for rule in rules)


def test_trials_in_the_store_are_child_runs_in_mlflow(swept) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{swept.home / 'mlflow.db'}")
    sweeps = query(swept.database, "select * from sweeps")
    for sweep in sweeps:
        experiment = client.get_experiment_by_name(sweep["experiment"])
        assert experiment is not None
        runs = client.search_runs([experiment.experiment_id])
        children = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
        trials = query(swept.database, "select * from trials where sweep_id = ?", sweep["sweep_id"])
        by_id = {int(run.data.tags["tradesweep.trial_id"]): run for run in children}
        assert by_id.keys() == {trial["trial_id"] for trial in trials}
        assert len(runs) == len(children) + 1, "one parent"
        for trial in trials:
            run = by_id[trial["trial_id"]]
            assert run.info.status == "FINISHED"
            assert float(run.data.params["lr"]) == pytest.approx(json.loads(trial["point_json"])["lr"])
            assert run.data.metrics["validation/best_sharpe"] == pytest.approx(trial["best_sharpe"])
            history = client.get_metric_history(run.info.run_id, "validation/score")
            assert len(history) == trial["iterations"], "each evaluation once"
            assert any(item.path == "best_checkpoint" for item in client.list_artifacts(run.info.run_id))


def test_the_best_sharpe_is_what_its_steps_rows_say(swept) -> None:
    trial = best_trial(swept.database)
    row = query(
        swept.database,
        "select e.episode_no, e.sharpe, p.initial_equity from evaluations e join episodes p using (episode_no)"
        " where e.trial_id = ? and e.iteration = ? and e.split = 'validation'",
        trial["trial_id"],
        trial["best_iteration"],
    )[0]
    low = row["episode_no"] << 24
    steps = query(
        swept.database,
        "select equity from steps where step_id >= ? and step_id < ? order by step_id",
        low,
        low + (1 << 24),
    )
    equity = np.array([row["initial_equity"], *(step["equity"] for step in steps)])
    returns = equity[1:] / equity[:-1] - 1
    sharpe = np.sqrt(252) * returns.mean() / returns.std(ddof=1)
    assert abs(sharpe - trial["best_sharpe"]) < 1e-9
    assert row["sharpe"] == trial["best_sharpe"]


def test_the_plain_policy_gives_the_same_number_in_a_new_process(swept) -> None:
    trial = best_trial(swept.database)
    path = query(
        swept.database,
        "select path from checkpoints where trial_id = ? and iteration = ?",
        trial["trial_id"],
        trial["best_iteration"],
    )[0]["path"]
    spec = query(swept.database, "select spec_json from sweeps where sweep_id = ?", trial["sweep_id"])[0][0]
    code = (
        "import sys\nfrom pathlib import Path\nfrom tradesweep.env import compile_env, compile_market\n"
        "from tradesweep.policy import PlainPolicy, evaluate\nfrom tradesweep.spec import SweepSpec\n"
        "spec = SweepSpec.from_json(sys.stdin.read())\nmarket = compile_market(spec)\n"
        f"policy = PlainPolicy.load(Path({str(swept.home / path)!r}))\n"
        "print(repr(evaluate(policy, market, compile_env(spec, market), split='validation').sharpe))\n"
        "assert not {'ray', 'torch'} & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], input=spec, capture_output=True, text=True, timeout=60, check=True
    )
    assert float(done.stdout) == trial["best_sharpe"]


def test_the_best_and_the_newest_checkpoints_are_kept_and_no_other(swept) -> None:
    best_before = """
        select iteration from evaluations where trial_id = ? and iteration < ? and eligible and split = 'validation'
        order by sharpe desc, iteration limit 1
    """
    for trial in query(swept.database, "select * from trials"):
        folder = swept.home / "sweeps" / trial["sweep_id"] / "trials" / f"{trial['trial_no']:04d}" / "checkpoints"
        kept = {int(path.name) for path in folder.iterdir()}
        last, led = trial["iterations"], query(swept.database, best_before, trial["trial_id"], trial["iterations"])
        assert kept == {trial["best_iteration"], last, last - 1, *(row["iteration"] for row in led)}
        undeleted = query(
            swept.database,
            "select iteration from checkpoints where trial_id = ? and deleted_at is null",
            trial["trial_id"],
        )
        assert {row["iteration"] for row in undeleted} == kept


def test_each_slot_is_one_warm_process_that_serves_trial_after_trial(swept) -> None:
    pids = query(
        swept.database, "select distinct pid from attempts join trials using (trial_id) where sweep_id like 'tiny_dqn%'"
    )
    assert len(pids) == 2, "three trials, two slots"


def test_remote_runners_record_like_local_ones(swept) -> None:
    workers = query(
        swept.database,
        "select distinct role, worker from producers where sweep_id like 'tiny_ppo%' order by role, worker",
    )
    assert [tuple(row) for row in workers] == [("runner", 1), ("runner", 2), ("trial", 0)]


def test_the_same_command_again_shows_the_finished_sweep(swept) -> None:
    before = query(swept.database, "select count(*) from trials")[0][0]
    done = swept.run("sweep", "tiny_dqn", timeout_s=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert query(swept.database, "select count(*) from trials")[0][0] == before


def test_every_place_that_prints_the_best_prints_three_numbers(swept) -> None:
    done = swept.run("status", "tiny_dqn")
    assert done.returncode == 0, done.stderr
    for words in ("luck hurdle", "deflated"):
        assert words in done.stdout
    assert max(len(line) for line in done.stdout.splitlines()) <= 80


def test_results_are_their_owner_s_alone(swept) -> None:
    for path in (swept.database, swept.home / "mlflow.db"):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


def test_the_winner_is_candidate_and_becomes_champion_by_promote(swept) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{swept.home / 'mlflow.db'}")
    candidate = client.get_model_version_by_alias("tiny_dqn", "candidate")
    assert swept.run("promote", "tiny_dqn", "--dry-run").returncode == 0
    assert not query(swept.database, "select * from test_readings")
    first = swept.run("promote", "tiny_dqn")
    assert first.returncode == 0, first.stdout + first.stderr
    champion = client.get_model_version_by_alias("tiny_dqn", "champion")
    assert champion.version == candidate.version
    assert swept.run("promote", "tiny_dqn").returncode == 0
    assert len(query(swept.database, "select * from test_readings")) == 1, "the test split is read once"
    assert len(client.search_model_versions("name = 'tiny_dqn'")) == 1


def test_more_trials_extend_the_same_sweep(swept) -> None:
    done = swept.run("sweep", "tiny_dqn", "--set", "budget.trials=4")
    assert done.returncode == 0, done.stdout + done.stderr
    trials = query(swept.database, "select * from trials where sweep_id like 'tiny_dqn%'")
    assert len(trials) == 4
    assert len({trial["sweep_id"] for trial in trials}) == 1
