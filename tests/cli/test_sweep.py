from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tradesweep.names import SweepStatus

PROJECT = Path(__file__).parents[2]


def test_a_finished_sweep_shows_its_result_again(command: Any, swept: Any) -> None:
    said = command("sweep", "small")
    assert said.code == 0
    assert "this sweep has finished already" in said.out
    best = swept.runtime.evaluate(swept.runtime.policy(3.0, 1)).sharpe
    assert f"\nbest: trial 1, iteration 1\nvalidation Sharpe {best:.2f} | luck hurdle 0.95 | deflated" in said.out
    for following in ("tradesweep status small", "tradesweep ui", "tradesweep promote small"):
        assert following in said.out


def test_json_is_one_object_and_nothing_else(command: Any, swept: Any) -> None:
    said = command("sweep", "small", "--json")
    assert (said.code, said.err) == (0, "")
    assert (said.json["sweep_id"], said.json["already_finished"]) == (swept.sweep_id, True)
    assert said.json["leaderboard"]["rows"][0]["trial_no"] == 1


def test_what_is_not_identity_finds_the_same_sweep(command: Any, swept: Any) -> None:
    said = command("sweep", "small", "--set", "recording.max_gb=1 resources.concurrent_trials=1", "--json")
    assert said.json["sweep_id"] == swept.sweep_id


def test_a_sweep_without_an_eligible_policy_offers_no_promotion(command: Any, world: Any) -> None:
    world.write_sweep({0: 0.0, 1: 0.0, 2: 0.0}, status=SweepStatus.FINISHED)
    said = command("sweep", "small")
    assert "no trial has a policy that may be chosen yet" in said.out
    assert "tradesweep promote" not in said.out


def test_the_leaderboard_fits_eighty_columns(command: Any, swept: Any) -> None:
    _, result = command("sweep", "small").out.split("\n\n", 1)
    assert "lr=0.002" in result
    assert max(map(len, result.splitlines())) <= 80


@pytest.mark.slow
@pytest.mark.ray
def test_smoke_runs_both_algorithms_and_every_rule_holds() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tradesweep", "smoke", "--json", "--root", str(PROJECT)],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["passed"], told["broken_rules"], told["results"]) == (True, [], None)
    assert [sweep["status"] for sweep in told["sweeps"]] == ["FINISHED", "FINISHED"]
