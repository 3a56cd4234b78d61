"""One sweep that each limit of a whole sweep ends in turn, and that goes on when the limit is taken away."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from tests.faults.sweeps import query

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]

STEPS, ENOUGH, POINTS = 2000, 5000, 40
WALL_S, START_S = 5.0, 60.0
"""The wall time of a run, and longer than it takes to start and to end one."""
SETTINGS = ("--set", f"budget.trials={POINTS}", "--set", f"budget.env_steps_per_trial={STEPS}")
LIMITS = {
    "budget.env_steps": (f"budget.env_steps={ENOUGH}",),
    "budget.patience_trials": ("budget.patience_trials=1", "budget.min_trials=5"),
    "budget.wall_time_s": (f"budget.wall_time_s={WALL_S:g}",),
}


def sweep(workplace: Any, *settings: str) -> dict[str, Any]:
    words = [word for setting in settings for word in ("--set", setting)]
    began_s = time.monotonic()
    done = workplace.run("sweep", "tiny_dqn", *SETTINGS, *words, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout) | {"took_s": time.monotonic() - began_s}


def trials(workplace: Any) -> list[tuple[str, int]]:
    return query(workplace.database, "SELECT status, env_steps FROM trials ORDER BY trial_no")


@pytest.fixture(scope="module")
def ended(make_workplace: Any) -> Any:
    """Run under each limit, twice: what the first run said, what the second did, and the trials behind them."""
    workplace, told = make_workplace(), {}
    for limit, settings in LIMITS.items():
        first = sweep(workplace, *settings)
        told[limit] = (first, trials(workplace), sweep(workplace, *settings))
    workplace.__dict__["told"] = told
    return workplace


@pytest.mark.parametrize("limit", LIMITS)
def test_a_limit_ends_a_sweep_before_it_has_all_its_points_and_holds(ended: Any, limit: str) -> None:
    first, made, again = ended.told[limit]
    assert (first["status"], first["ended_by"], first["already_finished"]) == ("FINISHED", limit, False)
    assert len(made) < POINTS
    assert (again["status"], again["ended_by"], again["already_finished"]) == ("FINISHED", limit, True)
    assert again["sweep_id"] == first["sweep_id"] == ended.told["budget.env_steps"][0]["sweep_id"]


def test_no_trial_begins_once_the_env_steps_are_made(ended: Any) -> None:
    _, made, _ = ended.told["budget.env_steps"]
    steps = [env_steps for _, env_steps in made]
    assert sum(steps) >= ENOUGH
    assert sum(steps[:-2]) < ENOUGH, "two run at a time: the last two were begun before"
    assert {status for status, _ in made} <= {"FINISHED", "STOPPED"}


def test_patience_goes_on_with_the_sweep_until_its_best_is_stale(ended: Any) -> None:
    before, after = ended.told["budget.env_steps"][1], ended.told["budget.patience_trials"][1]
    assert 5 <= len(after) < POINTS
    assert after[: len(before)] == before
    assert {status for status, _ in after} <= {"FINISHED", "STOPPED"}


def test_wall_time_is_that_of_one_run(ended: Any) -> None:
    first, made, _ = ended.told["budget.wall_time_s"]
    assert len(made) > len(ended.told["budget.patience_trials"][1])
    assert WALL_S < first["took_s"] < WALL_S + START_S


def test_a_smaller_budget_finishes_what_was_begun_and_begins_nothing(ended: Any) -> None:
    """What the wall time left unfinished is the last thing to do."""
    _, made, _ = ended.told["budget.wall_time_s"]
    last = sweep(ended, "budget.trials=1")
    assert (last["status"], last["ended_by"], last["trials"]) == ("FINISHED", None, len(made))
    assert {status for status, _ in trials(ended)} <= {"FINISHED", "STOPPED"}
    assert sweep(ended, "budget.trials=1")["already_finished"]
    assert ended.run("verify").returncode == 0
