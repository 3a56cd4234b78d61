"""Points on several seeds, leaders on fresh ones, a kill in between, more env steps for all: one sweep, four runs."""

from __future__ import annotations

import json
import statistics
from typing import Any

import pytest
from tests.faults.sweeps import query, running, wait_until

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.fault, pytest.mark.timeout(900)]

STEPS, LONGER = 6000, 9000
SETTINGS = (
    *("--set", "budget.trials=2"),
    *("--set", f"budget.env_steps_per_trial={STEPS}"),
    *("--set", "seeds=2"),
    *("--set", "aggregate=median"),
    *("--set", "confirm={top: 1, seeds: 2}"),
)
PLACES = "SELECT point_no, seed_no, phase, status FROM trials ORDER BY trial_no"
CONFIRMING = "SELECT 1 FROM trials WHERE phase = 'confirm' AND status = 'RUNNING' AND iterations > 0"


@pytest.fixture(scope="module")
def swept(make_workplace: Any) -> Any:
    """Killed while it confirmed, then gone on with, then extended."""
    workplace = make_workplace()
    with running(workplace, "sweep", "tiny_dqn", *SETTINGS) as process:
        wait_until(lambda: query(workplace.database, CONFIRMING), process)
        process.kill()
    done = workplace.run("sweep", "tiny_dqn", *SETTINGS, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    workplace.__dict__["confirmed"] = json.loads(done.stdout)
    workplace.__dict__["places"] = query(workplace.database, PLACES)
    done = workplace.run("sweep", "tiny_dqn", *SETTINGS, "--extend-steps", str(LONGER), "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    workplace.__dict__["extended"] = json.loads(done.stdout)
    return workplace


def test_every_seed_is_a_trial_of_its_own_and_was_trained_once(swept: Any) -> None:
    leader = swept.confirmed["leaderboard"]["points"][0]["point_no"]
    searched = [(point, seed, "search", "FINISHED") for point in (0, 1) for seed in (0, 1)]
    assert swept.places == [*searched, *((leader, seed, "confirm", "FINISHED") for seed in (2, 3))]
    ((trials, seeds, points),) = query(
        swept.database, "SELECT count(*), count(DISTINCT seed), count(DISTINCT point_hash) FROM trials"
    )
    assert (seeds, points) == (trials, 2)


def test_what_was_killed_went_on_from_its_checkpoint(swept: Any) -> None:
    sql = """
        SELECT count(*) FROM attempts JOIN trials USING (trial_id)
        WHERE phase = 'confirm' AND resumed_from_iteration BETWEEN 1 AND 7
    """
    assert query(swept.database, sql)[0][0] >= 1
    assert not query(swept.database, "SELECT * FROM attempts WHERE status = 'CRASHED'"), "no two processes had a trial"


def test_the_leader_stands_by_the_median_of_its_fresh_seeds(swept: Any) -> None:
    board = swept.confirmed["leaderboard"]
    first, second = board["points"]
    fresh = [row["sharpe"] for row in board["rows"] if row["phase"] == "confirm"]
    assert (first["confirmed"], first["confirmations"]) == (statistics.median(fresh), 2)
    assert (second["confirmed"], second["confirmations"], second["seeds"]) == (None, 0, 2)
    assert board["rows"][0]["point_no"] == first["point_no"]
    assert board["rows"][0]["trial_no"] == first["best_trial_no"]
    assert board["counted"] == 6


def test_extended_trials_go_on_to_the_larger_budget_in_the_same_sweep(swept: Any) -> None:
    """What leads by then is confirmed too, where it was not before."""
    assert swept.extended["sweep_id"] == swept.confirmed["sweep_id"]
    trials = query(swept.database, "SELECT status, env_steps >= ?, iterations FROM trials", LONGER)
    assert set(trials) == {("FINISHED", 1, 12)}
    assert len(trials) in (6, 8)
    assert query(swept.database, "SELECT env_steps_per_trial, status FROM sweeps") == [(LONGER, "FINISHED")]
    steps = query(
        swept.database, "SELECT max(env_steps) FROM effective_iterations WHERE iteration = 8 GROUP BY trial_id"
    )
    assert all(STEPS <= made < LONGER for (made,) in steps)
    resumed = query(swept.database, "SELECT count(*) FROM attempts WHERE resumed_from_iteration = 8")
    assert resumed == [(6,)], "each from its last checkpoint"


def test_the_extended_sweep_is_finished_for_the_plain_command_too(swept: Any) -> None:
    done = swept.run("sweep", "tiny_dqn", *SETTINGS, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["already_finished"]
    refused = swept.run("sweep", "tiny_dqn", *SETTINGS, "--extend-steps", str(STEPS))
    assert refused.returncode == 2
    assert f"must be at least {LONGER}" in refused.stderr


def test_every_rule_holds_and_status_says_it_all_in_80_columns(swept: Any) -> None:
    assert swept.run("verify").returncode == 0
    said = swept.run("status", "tiny_dqn").stdout
    assert max(map(len, said.splitlines())) <= 80, said
    for words in ("fresh seed 3", "median", f"extended to {LONGER:,} env steps a trial"):
        assert words in said
