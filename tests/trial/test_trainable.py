"""Whole trials through the Tune trainable, in this process: repeatable, resumable, and never an exception."""

from __future__ import annotations

import gc
import json
import os
import pickle
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import ray

from tradesweep.env import Tape, TradingVectorEnv, compile_env
from tradesweep.names import EvaluationStatus, Metric, TrialStatus
from tradesweep.policy import PlainPolicy, Run, evaluate, evaluate_many, verify_manifest
from tradesweep.selection.candidate import find_best
from tradesweep.store import verify
from tradesweep.trial import TrialTrainable
from tradesweep.trial.runners import RunnerPool
from tradesweep.trial.session import TrialSession
from tradesweep.trial.stopping import SCORE_FLOOR

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("cluster")]
Open = Callable[[str], Any]
SCORE = Metric.VALIDATION_SCORE.value
EXPLOSIVE: dict[str, dict[str, Any]] = {
    "ppo": {"lr": 1e6},
    "dqn": {"lr": 1e6, "td_error_loss_fn": "mse", "model.hiddens": [32, 32], "model.activation": "relu"},
}
"""Under the huber loss and bounded activations DQN's numbers stay finite whatever the learning rate."""


def run_all(trainable: TrialTrainable) -> list[dict[str, Any]]:
    """Step until done, as Tune does."""
    results = []
    while not results or not results[-1]["done"]:
        results.append(trainable.step())
        assert len(results) < 50
    return results


def checkpoints_of(sweep: Any, assignment: Any) -> list[dict[str, Any]]:
    """Every checkpoint that was published, also those that were deleted since."""
    return sweep.read(f"SELECT * FROM checkpoints WHERE trial_id = {assignment.trial_id} ORDER BY iteration")


def best_of(rows: list[dict[str, Any]]) -> int:
    """The iteration of the highest Sharpe ratio."""
    eligible = [row for row in rows if row["eligible"] and row["sharpe"] is not None]
    return max(eligible, key=lambda row: (row["sharpe"], -row["iteration"]))["iteration"]


def failing_step(self: Any, actions: Any, **rest: Any) -> Any:
    raise RuntimeError("the exchange is closed")


@pytest.fixture(scope="module")
def finished(open_sweep: Open) -> dict[str, tuple[Any, list[dict[str, Any]]]]:
    """One whole trial of each algorithm, seed 1."""
    found = {}
    for algorithm in ("ppo", "dqn"):
        sweep = open_sweep(algorithm)
        assignment = sweep.open(seed=1)
        trainable = sweep.trainable(assignment)
        found[algorithm] = (assignment, run_all(trainable))
        trainable.cleanup()
        sweep.recorder.close_trial(assignment.trial_id, TrialStatus.FINISHED)
    return found


@pytest.mark.parametrize("algorithm", ["ppo", "dqn"])
class TestWholeTrial:
    def test_every_interval_is_a_result_and_the_last_one_ends_it(
        self, finished: Any, open_sweep: Open, algorithm: str
    ) -> None:
        assignment, results = finished[algorithm]
        assert [result["evaluation"] for result in results] == list(range(1, 9))
        assert [result["status"] for result in results] == ["RUNNING"] * 7 + ["FINISHED"]
        steps = [result[Metric.TRAIN_ENV_STEPS.value] for result in results]
        assert all(step >= 128 * count for count, step in enumerate(steps, start=1))
        trial = open_sweep(algorithm).store.get_trial(assignment.trial_id)
        assert (trial.status, trial.iterations, trial.env_steps) == (TrialStatus.FINISHED, 8, steps[-1])
        assert trial.last_score == results[-1][SCORE]

    def test_every_step_that_training_counted_is_a_row(self, finished: Any, open_sweep: Open, algorithm: str) -> None:
        assignment, results = finished[algorithm]
        sweep = open_sweep(algorithm)
        assert len(sweep.steps_of(assignment)) == results[-1][Metric.TRAIN_ENV_STEPS.value]
        assert len(sweep.steps_of(assignment, role="validation")) == 8 * 199

    def test_the_best_and_the_newest_checkpoints_stay_and_say_what_was_recorded(
        self, finished: Any, open_sweep: Open, algorithm: str
    ) -> None:
        assignment, _ = finished[algorithm]
        sweep = open_sweep(algorithm)
        rows = checkpoints_of(sweep, assignment)
        assert [row["iteration"] for row in rows] == list(range(1, 9))
        kept = {row["iteration"] for row in rows if row["deleted_at"] is None}
        assert kept == {best_of(rows), best_of(rows[:-1]), 7, 8}, "7 and the best as of then: to go back by one"
        env = compile_env(sweep.spec, sweep.market)
        for row in rows:
            folder = sweep.context.home / row["path"]
            assert folder.exists() == (row["iteration"] in kept)
            if row["iteration"] in kept:
                facts = verify_manifest(folder, row["manifest_sha256"])["facts"]
                assert facts["env_steps"] == row["env_steps"]
                assert facts["weights_version"] == row["weights_version"]
                again = evaluate(PlainPolicy.load(folder), sweep.market, env, split="validation")
                assert again.sharpe == row["sharpe"]

    def test_the_steps_carry_the_weights_that_acted(self, finished: Any, open_sweep: Open, algorithm: str) -> None:
        assignment, _ = finished[algorithm]
        sweep = open_sweep(algorithm)
        versions = {row[-1] for row in sweep.steps_of(assignment)}
        checkpoints = [row["weights_version"] for row in checkpoints_of(sweep, assignment)]
        assert checkpoints == sorted(checkpoints)
        assert len(versions) > 5
        assert max(versions) <= checkpoints[-1]
        validation = sweep.read(
            "SELECT DISTINCT v.iteration, s.weights_version FROM evaluations v"
            f" JOIN steps s ON s.step_id >> 24 = v.episode_no WHERE v.trial_id = {assignment.trial_id} ORDER BY 1"
        )
        assert [row["weights_version"] for row in validation] == checkpoints

    def test_every_iteration_says_how_the_recorder_does(self, finished: Any, open_sweep: Open, algorithm: str) -> None:
        assignment, _ = finished[algorithm]
        rows = open_sweep(algorithm).store.list_iterations(assignment.trial_id)
        metrics = [json.loads(row.metrics) for row in rows]
        assert all(told[Metric.RECORDER_ROWS_PER_S] > 0.0 for told in metrics)
        assert all(0.0 < told[Metric.RECORDER_LAG] < 60.0 for told in metrics)

    def test_metrics_are_finite_and_learning_is_measured(self, finished: Any, open_sweep: Open, algorithm: str) -> None:
        assignment, _ = finished[algorithm]
        iterations = open_sweep(algorithm).store.list_iterations(assignment.trial_id)
        metrics = [json.loads(row.metrics) for row in iterations]
        assert all(value == value for one in metrics for value in one.values())
        last = metrics[-1]
        assert {"train/loss", "train/learning_rate", "rollout/return_mean", "validation/score"} <= last.keys()
        assert last["train/learning_rate"] == pytest.approx(1e-3)
        assert last["rollout/length_mean"] == pytest.approx(20)
        assert last["train/updates"] == iterations[-1].updates > 0
        assert ("validation/sharpe_sampled" in last) == (algorithm == "ppo")

    def test_what_runs_beside_validation_becomes_a_metric_and_no_row(
        self, finished: Any, open_sweep: Open, algorithm: str
    ) -> None:
        assignment, _ = finished[algorithm]
        sweep = open_sweep(algorithm)
        rows = sweep.store.list_iterations(assignment.trial_id)
        wanted = {"validation/sharpe", "validation/sharpe_double_cost", "train/sharpe_greedy"}
        assert all(wanted <= json.loads(row.metrics).keys() for row in rows if row.iteration == len(rows))
        tables = {"evaluations": "TRUE", "episodes": "role <> 'train'"}
        for table, condition in tables.items():
            query = f"SELECT count(*) AS n FROM {table} WHERE trial_id = {assignment.trial_id} AND {condition}"
            assert sweep.read(query) == [{"n": len(rows)}]
        last = checkpoints_of(sweep, assignment)[-1]
        policy = PlainPolicy.load(sweep.context.home / last["path"])
        env = compile_env(sweep.spec, sweep.market)
        twice = Run(split="validation", cost_multiplier=2.0)
        train = Run(split="train", bars=len(sweep.market.splits["validation"]))
        found = [one.sharpe for one in evaluate_many(policy, sweep.market, env, [twice, train])]
        told = json.loads(rows[-1].metrics)
        assert found == [told["validation/sharpe_double_cost"], told["train/sharpe_greedy"]]

    def test_a_reused_trial_equals_a_fresh_one(self, finished: Any, open_sweep: Open, algorithm: str) -> None:
        """Same seed, same evaluations, same steps, whatever ran in the process before; and nothing of it is left."""
        fresh, _ = finished[algorithm]
        sweep = open_sweep(algorithm)
        other = sweep.open(seed=2)
        trainable = sweep.trainable(other)
        trainable.step()
        reused = sweep.open(seed=1)
        assert trainable.reset_config(reused.to_config()) is True
        run_all(trainable)
        assert sweep.scores_of(reused) == sweep.scores_of(fresh)
        assert sweep.steps_of(reused) == sweep.steps_of(fresh)
        assert sweep.scores_of(other)[0] != sweep.scores_of(fresh)[0]
        gc.collect()
        alive = Counter(type(one).__name__ for one in gc.get_objects() if type(one) in (TrialSession, Tape))
        assert alive == {"TrialSession": 1, "Tape": 2}, "its runner's and its evaluator's"
        trainable.cleanup()

    def test_a_resumed_trial_goes_on_where_its_checkpoint_stood(
        self, finished: Any, open_sweep: Open, algorithm: str
    ) -> None:
        del finished
        sweep = open_sweep(algorithm)
        assignment = sweep.open(seed=3)
        trainable = sweep.trainable(assignment)
        before = [trainable.step() for _ in range(3)][-1]
        version = trainable._session.weights_version
        trainable.reset_config(sweep.resume(assignment).to_config())
        session = trainable._session
        assert session.state.iteration == 3
        assert session.state.env_steps == before[Metric.TRAIN_ENV_STEPS.value]
        assert session.weights_version == version
        assert len(session.state.raw_scores) == 3
        after = run_all(trainable)
        assert [result["evaluation"] for result in after] == [4, 5, 6, 7, 8]
        assert after[0][Metric.TRAIN_ENV_STEPS.value] > before[Metric.TRAIN_ENV_STEPS.value]
        iterations = sweep.store.list_iterations(assignment.trial_id)
        for name in ("env_steps", "updates", "weights_version", "elapsed_s"):
            values = [getattr(row, name) for row in iterations]
            assert values == sorted(values), name
        assert [row.iteration for row in iterations] == list(range(1, 9))
        assert iterations[-1].env_steps < 1024 + 128
        trainable.cleanup()

    def test_a_learning_rate_that_explodes_ends_as_diverged(
        self, finished: Any, open_sweep: Open, algorithm: str
    ) -> None:
        del finished
        sweep = open_sweep(algorithm)
        trainable = sweep.trainable(sweep.open(**EXPLOSIVE[algorithm]))
        last = run_all(trainable)[-1]
        assert last["status"] == "DIVERGED"
        assert last[SCORE] == SCORE_FLOOR
        assert "must be finite" in last["error"]
        assert "lower lr" in last["error"]
        trainable.cleanup()

    def test_an_environment_that_raises_ends_as_failed_and_the_next_trial_is_unharmed(
        self, finished: Any, open_sweep: Open, algorithm: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        fresh, _ = finished[algorithm]
        sweep = open_sweep(algorithm)
        trainable = sweep.trainable(sweep.open())
        first = trainable.step()
        with monkeypatch.context() as patch:
            patch.setattr(TradingVectorEnv, "step", failing_step)
            failed = trainable.step()
        assert (failed["status"], failed["done"], failed[SCORE]) == ("FAILED", True, SCORE_FLOOR)
        assert failed["evaluation"] == 2
        assert failed[Metric.TRAIN_ENV_STEPS.value] == first[Metric.TRAIN_ENV_STEPS.value]
        assert "failing_step" in failed["error"]
        assert "the exchange is closed" in failed["error"]
        log = sweep.context.folders.logs(sweep.context.sweep_id) / f"trial-{sweep.trials - 1:04d}.log"
        assert "the exchange is closed" in log.read_text()
        again = sweep.open()
        trainable.reset_config(again.to_config())
        trainable.step()
        assert sweep.scores_of(again) == sweep.scores_of(fresh)[:1]
        trainable.cleanup()


def test_the_steps_that_led_to_an_error_are_recorded(open_sweep: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = open_sweep("dqn")
    assignment = sweep.open()
    trainable = sweep.trainable(assignment)
    first = trainable.step()
    step, calls = TradingVectorEnv.step, count()

    def fail_later(self: Any, actions: Any, **rest: Any) -> Any:
        return failing_step(self, actions) if next(calls) == 25 else step(self, actions, **rest)

    with monkeypatch.context() as patch:
        patch.setattr(TradingVectorEnv, "step", fail_later)
        assert trainable.step()["status"] == "FAILED"
    assert len(sweep.steps_of(assignment)) > first[Metric.TRAIN_ENV_STEPS.value]
    trainable.cleanup()


def test_a_trial_whose_checkpoints_were_all_touched_begins_anew_and_unpickles_nothing(
    open_sweep: Open, tmp_path: Path
) -> None:
    sweep = open_sweep("ppo")
    assignment = sweep.open()
    trainable = sweep.trainable(assignment)
    trainable.step()
    resumed = sweep.resume(assignment)
    canary = tmp_path / "unpickled"

    class Canary:
        def __reduce__(self) -> Any:
            return Path.touch, (canary,)

    pickles = list(Path(resumed.resume.path).rglob("*.pkl"))
    assert pickles
    for path in pickles:
        path.write_bytes(pickle.dumps(Canary()))
    trainable.reset_config(resumed.to_config())
    first = trainable.step()
    assert (first["status"], first["evaluation"]) == ("RUNNING", 1)
    attempts = [(row.attempt, row.resumed_from_iteration) for row in sweep.store.list_attempts(assignment.trial_id)]
    assert attempts == [(1, None), (2, None)]
    assert [row.attempt for row in sweep.store.list_iterations(assignment.trial_id)] == [2]
    log = sweep.context.folders.logs(sweep.context.sweep_id) / f"trial-{assignment.trial_no:04d}.log"
    assert "checkpoint of iteration 1 cannot be used" in log.read_text()
    assert not canary.exists()
    trainable.cleanup()


def script_sharpes(monkeypatch: pytest.MonkeyPatch, sharpes: list[float | None]) -> None:
    """Every evaluation of a trial gives what stands here for its iteration."""
    evaluate = TrialSession._evaluate

    def give(session: TrialSession, policy: PlainPolicy) -> Any:
        found = evaluate(session, policy)
        sharpe = sharpes[session.state.iteration - 1]
        status = EvaluationStatus.FLAT if sharpe is None else EvaluationStatus.OK
        scripted = replace(found[Metric.VALIDATION_SHARPE], sharpe=sharpe, status=status, trades=100)
        return {**found, Metric.VALIDATION_SHARPE: scripted}

    monkeypatch.setattr(TrialSession, "_evaluate", give)


def folders_of(sweep: Any, assignment: Any) -> list[str]:
    folder = sweep.context.folders.checkpoint(sweep.context.sweep_id, assignment.trial_no, 0).parent
    return sorted(path.name for path in folder.iterdir())


def test_a_promoted_checkpoint_stays_whatever_comes_after_it(open_sweep: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = open_sweep("ppo")
    script_sharpes(monkeypatch, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0])
    assignment = sweep.open()
    trainable = sweep.trainable(assignment)
    for _ in range(3):
        trainable.step()
    trainable._session._removal.result()
    assert folders_of(sweep, assignment) == ["000002", "000003"]
    resumed = sweep.resume(assignment)
    trainable.reset_config(replace(resumed, resume=replace(resumed.resume, promoted=(2,))).to_config())
    run_all(trainable)
    assert folders_of(sweep, assignment) == ["000002", "000007", "000008"]
    trainable.cleanup()


def test_the_highest_sharpe_is_kept_and_chosen_whatever_comes_between(
    open_sweep: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = open_sweep("ppo")
    script_sharpes(monkeypatch, [30.0, 10.0, None, 20.0, None, 10.0, 25.0, None])
    assignment = sweep.open()
    trainable = sweep.trainable(assignment)
    run_all(trainable)
    assert folders_of(sweep, assignment) == ["000001", "000007", "000008"]
    best = find_best(sweep.store, sweep.context.sweep_id)
    assert (best.trial.trial_id, best.checkpoint.iteration, best.sharpe) == (assignment.trial_id, 1, 30.0)
    verify_manifest(sweep.context.home / best.checkpoint.path, best.checkpoint.manifest_sha256)
    trainable.cleanup()


@pytest.mark.parametrize("odd", [float("nan"), float("inf"), float("-inf")])
def test_a_sharpe_that_is_no_number_ends_the_trial_and_the_best_before_it_stays(
    open_sweep: Open, monkeypatch: pytest.MonkeyPatch, odd: float
) -> None:
    sweep = open_sweep("ppo")
    script_sharpes(monkeypatch, [3.0, odd])
    assignment = sweep.open()
    trainable = sweep.trainable(assignment)
    last = run_all(trainable)[-1]
    assert (last["status"], last["evaluation"]) == ("DIVERGED", 2)
    assert f"Sharpe ratio must be finite on validation, was {odd}" in last["error"]
    assert folders_of(sweep, assignment) == ["000001"]
    trial = sweep.store.get_trial(assignment.trial_id)
    assert (trial.best_iteration, trial.best_sharpe) == (1, 3.0)
    trainable.cleanup()


def test_a_trial_without_any_sharpe_has_no_best(open_sweep: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = open_sweep("ppo")
    script_sharpes(monkeypatch, [None] * 8)
    assignment = sweep.open()
    trainable = sweep.trainable(assignment)
    assert run_all(trainable)[-1]["status"] == "FINISHED"
    assert sweep.store.get_trial(assignment.trial_id).best_iteration is None
    assert folders_of(sweep, assignment) == ["000007", "000008"]
    trainable.cleanup()


@pytest.mark.parametrize("algorithm", ["ppo", "dqn"])
def test_weights_that_do_not_move_fail_the_trial(open_sweep: Open, algorithm: str) -> None:
    sweep = open_sweep(algorithm)
    trainable = sweep.trainable(sweep.open(lr=1e-30))
    last = run_all(trainable)[-1]
    assert (last["status"], last["evaluation"]) == ("FAILED", 3 if algorithm == "ppo" else 4)
    assert "weights must make progress, made none in 2 iterations; lr is too small to matter" in last["error"]
    trainable.cleanup()


def test_weights_that_ran_away_end_the_trial_though_every_loss_is_finite(open_sweep: Open) -> None:
    sweep = open_sweep("dqn")
    trainable = sweep.trainable(sweep.open(**{"lr": 1e6, "model.activation": "tanh"}))
    last = run_all(trainable)[-1]
    assert (last["status"], last["evaluation"]) == ("DIVERGED", 2), "the iteration of the first updates"
    assert "must be finite" in last["error"]
    trainable.cleanup()


def test_learning_that_never_begins_fails_the_trial(open_sweep: Open) -> None:
    sweep = open_sweep("dqn")
    trainable = sweep.trainable(sweep.open(updates_per_env_step=1e-6))
    last = run_all(trainable)[-1]
    assert last["status"] == "FAILED"
    assert "updates must make progress, made none in 2 iterations; see updates_per_env_step" in last["error"]
    trainable.cleanup()


def test_params_that_rllib_refuses_fail_the_trial(open_sweep: Open) -> None:
    sweep = open_sweep("ppo")
    trainable = sweep.trainable(sweep.open(minibatch_size=100_000))
    failed = trainable.step()
    assert (failed["status"], failed["done"], failed["evaluation"]) == ("FAILED", True, 1)
    assert "minibatch_size" in failed["error"]
    trainable.cleanup()


def test_a_process_that_starts_for_a_trial_leaves_it_alone_until_its_first_step(open_sweep: Open) -> None:
    """Tune may have given the trial to another process by then."""
    sweep = open_sweep("ppo")
    assignment = sweep.open()
    trainable = sweep.trainable(assignment)
    assert sweep.store.list_attempts(assignment.trial_id) == []
    trainable.step()
    assert len(sweep.store.list_attempts(assignment.trial_id)) == 1
    trainable.cleanup()


def test_a_trial_stops_when_its_patience_is_over(open_sweep: Open) -> None:
    sweep = open_sweep("ppo")
    trainable = sweep.trainable(sweep.open(lr=0.0))  # nothing is learned: the first score stays the best
    trainable.step()
    trainable._session._history.patience = 2
    last = run_all(trainable)[-1]
    assert (last["status"], last["evaluation"]) == ("STOPPED", 3)
    trainable.cleanup()


def test_the_first_trial_waits_for_the_other_slots_but_not_for_ever(
    open_sweep: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = open_sweep("ppo")
    trainable = sweep.trainable(sweep.open())
    trainable.context = replace(trainable.context, concurrent_trials=2)
    monkeypatch.setattr("tradesweep.trial.trainable.BARRIER_S", 30.0)
    late = threading.Timer(0.3, sweep.recorder.register_worker, args=["another process"])
    late.start()
    began = time.monotonic()
    trainable._await_all_slots()
    assert 0.2 < time.monotonic() - began < 20
    late.join()
    trainable.context = replace(trainable.context, concurrent_trials=9)
    monkeypatch.setattr("tradesweep.trial.trainable.BARRIER_S", 0.2)
    trainable._await_all_slots()
    trainable.cleanup()


def test_remote_runners_live_on_from_trial_to_trial(open_sweep: Open) -> None:
    sweep = open_sweep("dqn")
    fresh = sweep.open(seed=1)
    trainable = sweep.trainable(fresh, env_runners=2)
    assert trainable.step()["status"] == "RUNNING"
    pids = runner_pids(trainable)
    reused = sweep.open(seed=1)
    trainable.reset_config(reused.to_config())
    trainable.step()
    assert runner_pids(trainable) == pids
    assert sweep.scores_of(reused) == sweep.scores_of(fresh)
    assert sweep.steps_of(reused) == sweep.steps_of(fresh)
    assert {row[0] for row in sweep.steps_of(fresh)} == {1, 2, 3, 4}, "seeds: lanes are numbered through"
    trainable.cleanup()


@pytest.mark.fault
def test_a_remote_runner_that_raises_or_gives_no_number_ends_the_trial_and_serves_the_next(open_sweep: Open) -> None:
    sweep = open_sweep("ppo")
    first = sweep.open(seed=1)
    trainable = sweep.trainable(first, env_runners=1)
    assert trainable.step()["status"] == "RUNNING"
    pids = runner_pids(trainable)

    ray.get(trainable._runners.handles[0].apply.remote(break_env))
    failed = trainable.step()
    assert (failed["status"], failed["done"]) == ("FAILED", True)
    assert "the exchange is closed" in failed["error"]

    second = sweep.open(seed=1)
    trainable.reset_config(second.to_config())
    assert trainable.step()["status"] == "RUNNING"
    assert runner_pids(trainable) == pids, "it lives, and nothing of the failure is left in it"
    assert sweep.scores_of(second) == sweep.scores_of(first)

    ray.get(trainable._runners.handles[0].apply.remote(spoil_rewards))
    diverged = trainable.step()
    assert (diverged["status"], diverged["done"]) == ("DIVERGED", True)
    assert "rewards must be finite, was nan" in diverged["error"]
    assert "Traceback" in diverged["error"]
    assert runner_pids(trainable) == pids
    trainable.cleanup()


@pytest.mark.fault
@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["ppo", "dqn"])
def test_a_runner_that_is_lost_is_replaced_by_one_that_draws_anew(open_sweep: Open, algorithm: str) -> None:
    sweep = open_sweep(algorithm)
    assignment = sweep.open(seed=1)
    trainable = sweep.trainable(assignment, env_runners=2)
    trainable.step()
    pids = runner_pids(trainable)
    os.kill(pids[1], signal.SIGKILL)
    assert trainable.step()["status"] == "RUNNING"
    after = runner_pids(trainable)
    assert (after[0], after[1] != pids[1]) == (pids[0], True), "the other one stays"
    rows = sweep.read(
        "SELECT p.worker, p.epoch, e.seed, e.lane FROM episodes e JOIN producers p USING (producer_no)"
        f" WHERE e.trial_id = {assignment.trial_id} AND e.role = 'train' AND e.episode_no & 0xFFFFF < 2"
    )
    seeds = {(row["worker"], row["epoch"]): set() for row in rows}
    for row in rows:
        seeds[row["worker"], row["epoch"]].add(row["seed"])
    assert set(seeds) == {(1, 1), (2, 1), (2, 2)}
    assert not seeds[2, 1] & seeds[2, 2], "fresh episodes, not those of its predecessor again"
    trainable.cleanup()


@pytest.mark.fault
@pytest.mark.slow
def test_runners_that_are_lost_again_and_again_crash_the_trial(
    open_sweep: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = open_sweep("ppo")
    trainable = sweep.trainable(sweep.open(seed=1), env_runners=1)
    trainable.step()
    replace_lost = RunnerPool.replace_lost

    def replace_and_kill(pool: RunnerPool, *arguments: Any) -> list[int]:
        lost = replace_lost(pool, *arguments)
        os.kill(runner_pids(trainable)[0], signal.SIGKILL)
        return lost

    monkeypatch.setattr(RunnerPool, "replace_lost", replace_and_kill)
    os.kill(runner_pids(trainable)[0], signal.SIGKILL)
    crashed = trainable.step()
    assert (crashed["status"], crashed["done"], crashed[SCORE]) == ("CRASHED", True, SCORE_FLOOR)
    trainable.cleanup()


@pytest.mark.fault
@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["ppo", "dqn"])
def test_steps_that_died_with_their_runner_are_counted_as_dropped(
    open_sweep: Open, monkeypatch: pytest.MonkeyPatch, algorithm: str
) -> None:
    sweep = open_sweep(algorithm)
    assignment = sweep.open(seed=1)
    trainable = sweep.trainable(assignment, env_runners=2)
    trainable.step()
    runner = trainable._runners.handles[1]
    ray.get(runner.apply.remote(lose_what_is_sent))
    before = trainable._session.algorithm.steps_handed_over(1, 2)
    trainable._session.algorithm.train()
    lost = trainable._session.algorithm.steps_handed_over(1, 2) - before
    assert lost > 0, "training had them"
    os.kill(runner_pids(trainable)[1], signal.SIGKILL)
    assert run_all(trainable)[-1]["status"] == "FINISHED"
    sweep.recorder.close_trial(assignment.trial_id, TrialStatus.FINISHED)
    dropped = f"SELECT sum(steps_dropped) AS n FROM producers WHERE trial_id = {assignment.trial_id}"
    assert sweep.read(dropped) == [{"n": lost}]
    broken = [rule for rule in verify(sweep.store) if rule.rule == "steps_accounted_for" and not rule.passed]
    assert not broken, broken
    trainable.cleanup()


def lose_what_is_sent(runner: Any) -> None:
    """As if the process died with its last batches: training gets the steps, the recorder does not."""
    runner.producer.send = lambda *_, **__: None


@pytest.mark.fault
@pytest.mark.slow
def test_a_runner_that_is_lost_between_two_trials_is_replaced(open_sweep: Open) -> None:
    sweep = open_sweep("ppo")
    first = sweep.open(seed=1)
    trainable = sweep.trainable(first, env_runners=2)
    trainable.step()
    pids = runner_pids(trainable)
    os.kill(pids[0], signal.SIGKILL)
    second = sweep.open(seed=1)
    trainable.reset_config(second.to_config())
    assert trainable.step()["status"] == "RUNNING"
    assert not set(runner_pids(trainable)) & set(pids), "all of them: the other one may have begun the trial already"
    assert sweep.scores_of(second) == sweep.scores_of(first)
    trainable.cleanup()


def break_env(runner: Any) -> None:
    def step(actions: Any) -> Any:
        raise RuntimeError("the exchange is closed")

    runner.env.step = step


def spoil_rewards(runner: Any) -> None:
    step = runner.env.step

    def spoiled(actions: Any) -> Any:
        obs, rewards, *rest = step(actions)
        rewards[0] = float("nan")
        return obs, rewards, *rest

    runner.env.step = spoiled


def runner_pids(trainable: TrialTrainable) -> list[int]:
    return ray.get([runner.apply.remote(lambda _: os.getpid()) for runner in trainable._runners.handles])
