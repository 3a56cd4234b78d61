from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tradesweep.cli.sweep import outcome_lines, same_command
from tradesweep.names import SweepStatus, TrialStatus
from tradesweep.sweep.outcome import Outcome

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


# --- a sweep by its id ----------------------------------------------------------------------------------------


def test_a_sweep_is_named_by_its_id_where_there_are_several(command: Any, swept: Any) -> None:
    """The newer one is interrupted, and would go on with Ray."""
    again = f"{swept.sweep_id}-2"
    with swept.writer() as writer:
        swept.open_sweep(writer, sweep_id=again)
        writer.close_sweep(again, SweepStatus.INTERRUPTED)
    said = command("sweep", swept.sweep_id)
    assert (said.code, said.err) == (0, "")
    assert said.out.splitlines()[0].startswith(f"{swept.sweep_id}: ppo on ")
    assert f"next: tradesweep status {swept.sweep_id}\n" in said.out
    assert command("sweep", swept.sweep_id, "--json").json["sweep_id"] == swept.sweep_id


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("--set", "env.fee_bps=2"),
            "the spec and its bars must be what this sweep began with, are not; give what it h",
        ),
        (("--set", "env.fee_bps=2"), "\n  env.fee_bps: 1.0 -> 2.0"),
        (("--fresh",), "--fresh begins another sweep of an experiment"),
        (("--extend-steps", "99999999999999999999999"), "--extend-steps: must be at most 1,000,000,000,000 env steps"),
        (("--extend-steps", "900"), "--extend-steps: must be at least 1000"),
    ],
)
def test_a_sweep_that_cannot_go_on_like_that_is_refused_before_anything_starts(
    command: Any, swept: Any, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], message: str
) -> None:
    monkeypatch.setitem(sys.modules, "tradesweep.sweep.run", None)
    said = command("sweep", swept.sweep_id, *words)
    assert (said.code, said.out) == (2, "")
    assert message in said.err


def test_a_name_that_nobody_knows_is_an_experiments(command: Any, swept: Any) -> None:
    assert "experiment nosuch is not in experiments.yaml" in command("sweep", "nosuch").err
    assert command("sweep", "../x").code == 2


# --- what it prints -------------------------------------------------------------------------------------------


def test_an_extended_sweep_is_printed_with_its_longer_trials(
    command: Any, swept: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tradesweep.sweep.run", None)
    said = command("sweep", "small", "--extend-steps", "2000")
    assert "env steps    6,000 (2,000 a trial)" in said.out
    assert "evaluations  20 a trial" in said.out
    assert "extended     to 2,000 env steps a trial" in said.out


def test_a_failed_sweep_is_shown_with_what_its_trials_raised(command: Any, world: Any) -> None:
    error = "Traceback (most recent call last):\n  File x\nTrialDiverged: loss must be finite, was nan\n"
    with world.writer() as writer:
        world.open_sweep(writer)
        for number in range(3):
            trial_id = world.open_trial(writer, number)
            writer.start_attempt(trial_id, 1)
            writer.close_trial(trial_id, TrialStatus.DIVERGED, error)
        writer.close_sweep(world.sweep_id, SweepStatus.FAILED)
    said = command("sweep", "small")
    assert said.code == 1
    for line in (
        "this sweep has failed already",
        "more budget.trials, or budget.max_retries for trials that crashed, go on with it, --fresh begins another",
        f"warning: 3 of 3 trials failed; `tradesweep status {world.sweep_id}` says why",
        "no trial has an objective; none is trained again that failed or diverged",
        *(f"  trial {number}: DIVERGED: TrialDiverged: loss must be finite, was nan" for number in range(3)),
    ):
        assert f"\n{line}\n" in said.out
    told = command("sweep", "small", "--json")
    assert (told.code, told.json["status"], told.json["already_finished"]) == (1, "FAILED", True)
    assert told.json["errors"]["2"] == "DIVERGED: TrialDiverged: loss must be finite, was nan"


@pytest.mark.parametrize("code", [129, 130, 143])
def test_an_interrupted_sweep_says_which_command_goes_on(code: int) -> None:
    values = {"trials": 1, "failed": 0, "errors": {}, "ended_by": None, "undelivered": 0, "already_finished": False}
    outcome = Outcome(sweep_id="x-1", status=SweepStatus.INTERRUPTED, exit_code=code, **values)
    again = same_command("x-1", ["budget.trials=4"], Path())
    assert outcome_lines(outcome, again) == [f"interrupted; the same command goes on: {again}"]
    assert again == "tradesweep sweep x-1 --set budget.trials=4"


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
