"""The driver's side of trials: opened, reported and closed exactly once, with the true status."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tradesweep.home import Home
from tradesweep.names import Metric, TrialStatus
from tradesweep.recording import LocalRecorder
from tradesweep.store import NewSweep, Store, Writer, open_store
from tradesweep.sweep.bridge import Ledger, SearcherBridge, TrialCloser, UnfinishedTrial, trial_seed
from tradesweep.sweep.history import read_past, read_trial, read_unfinished
from tradesweep.sweep.search import PointSearch


@pytest.fixture
def recorder(tmp_path: Path) -> Iterator[LocalRecorder]:
    recorder = LocalRecorder(Writer(tmp_path / "tradesweep.db"))
    recorder.open_sweep(
        NewSweep(
            sweep_id="tiny-1",
            experiment="tiny",
            spec_json="{}",
            identity="i",
            data_sha256="d",
            instrument="planted",
            git_revision=None,
            versions_json="{}",
            resources_json="{}",
            seed=0,
            driver_pid=1,
            driver_host="here",
            driver_started_at=1,
            buy_hold_sharpe=None,
            validation_bars=299,
            periods_per_year=252.0,
        )
    )
    yield recorder
    recorder.close()


@pytest.fixture
def store(recorder: LocalRecorder, tmp_path: Path) -> Store:
    return open_store(tmp_path / "tradesweep.db")


def make_ledger(load: Any, recorder: LocalRecorder, *overrides: str, **settings: Any) -> Ledger:
    spec = load(*overrides)
    defaults = {"budget": spec.budget.trials, "search": PointSearch(spec), "seed": 5, "fixed": dict(spec.fixed)}
    return Ledger(sweep_id="tiny-1", recorder=recorder, **{**defaults, **settings})


def result(evaluation: int, score: float, status: TrialStatus = TrialStatus.RUNNING, **more: Any) -> dict[str, Any]:
    done = status != TrialStatus.RUNNING
    return {
        "evaluation": evaluation,
        Metric.VALIDATION_SCORE.value: score,
        "status": status.value,
        "error": None,
        "done": done,
        **more,
    }


def test_trials_are_opened_with_all_their_parameters_until_the_budget_is_spent(load, recorder, store) -> None:
    bridge = SearcherBridge(make_ledger(load, recorder))
    configs = [bridge.suggest(f"t{number}") for number in range(3)]
    assert bridge.suggest("t3") == SearcherBridge.FINISHED
    trials = store.list_trials("tiny-1")
    assert [trial.trial_no for trial in trials] == [0, 1, 2]
    for config, trial in zip(configs, trials, strict=True):
        assert config["trial_id"] == trial.trial_id
        assert json.loads(trial.params_json) == config["params"]
        assert json.loads(trial.point_json) == {"lr": config["params"]["lr"]}
        assert config["params"]["gamma"] == 0.9
    assert len({config["seed"] for config in configs}) == 3


@pytest.mark.parametrize(
    "status", [TrialStatus.FINISHED, TrialStatus.STOPPED, TrialStatus.FAILED, TrialStatus.DIVERGED]
)
def test_a_trial_ends_as_it_says(load, recorder, store, status: TrialStatus) -> None:
    ledger = make_ledger(load, recorder)
    ledger.next_assignment("a")
    ledger.report("a", result(1, 0.5, status, error="because" if status in ("FAILED", "DIVERGED") else None))
    ledger.end("a")
    trial = store.list_trials("tiny-1")[0]
    assert trial.status == status
    assert ledger.failed == (status in ("FAILED", "DIVERGED"))
    assert (trial.error == "because") == (status in ("FAILED", "DIVERGED"))


def test_a_lost_process_is_crashed_and_says_why(load, recorder, store) -> None:
    ledger = make_ledger(load, recorder)
    ledger.next_assignment("a")
    ledger.report("a", result(1, 0.5))
    ledger.end("a", lost="worker process lost: killed")
    trial = store.list_trials("tiny-1")[0]
    assert trial.status == TrialStatus.CRASHED
    assert "killed" in str(trial.error)


def test_a_pruned_trial_is_closed_as_pruned_and_told_so(load, recorder, store) -> None:
    pruner = "pruner={kind: successive_halving, min_evaluations: 1, reduction_factor: 2}"
    ledger = make_ledger(load, recorder, pruner, "budget.trials=4")
    verdicts = []
    for number, score in enumerate([3.0, 2.0, 1.0, 0.0]):
        ledger.next_assignment(str(number))
        verdicts.append(ledger.report(str(number), result(1, score)))
        ledger.end(str(number))
    assert verdicts[-1]
    assert store.list_trials("tiny-1")[-1].status == TrialStatus.PRUNED
    states = [trial.state.name for trial in ledger._search._study.trials]
    assert states[-1] == "PRUNED"


def test_a_trial_that_finishes_while_it_would_be_pruned_is_finished(load, recorder, store) -> None:
    pruner = "pruner={kind: successive_halving, min_evaluations: 1, reduction_factor: 2}"
    ledger = make_ledger(load, recorder, pruner, "budget.trials=4")
    for number, score in enumerate([3.0, 2.0, 1.0, 0.0]):
        ledger.next_assignment(str(number))
        assert not ledger.report(str(number), result(1, score, TrialStatus.FINISHED))
        ledger.end(str(number))
    assert {trial.status for trial in store.list_trials("tiny-1")} == {TrialStatus.FINISHED}


def test_a_trial_is_closed_once_however_often_tune_says_so(load, recorder, store) -> None:
    ledger = make_ledger(load, recorder)
    ledger.next_assignment("a")
    ledger.report("a", result(1, 0.5, TrialStatus.FINISHED))
    ledger.end("a")
    ledger.end("a", lost="said again")
    assert store.list_trials("tiny-1")[0].status == TrialStatus.FINISHED


def test_what_still_runs_at_the_end_is_interrupted_and_goes_on_next_time(load, recorder, store, tmp_path) -> None:
    first = make_ledger(load, recorder)
    first.next_assignment("a")
    first.next_assignment("b")
    first.report("a", result(1, 0.5, TrialStatus.FINISHED))
    first.end("a")
    first.end_all()
    assert [trial.status for trial in store.list_trials("tiny-1")] == [TrialStatus.FINISHED, TrialStatus.INTERRUPTED]

    unfinished = read_unfinished(store, Home(tmp_path), "tiny-1")
    assert [(trial.trial_no, trial.resume) for trial in unfinished] == [(1, None)]
    search = PointSearch(load(), read_past(store, "tiny-1"))
    second = make_ledger(load, recorder, search=search, unfinished=unfinished, next_trial_no=2)
    assert second.left == 2
    numbers = [second.next_assignment(str(number)).trial_no for number in range(2)]
    assert numbers == [1, 2]
    assert second.next_assignment("z") is None


def test_an_unfinished_trial_keeps_its_point_seed_and_number(load, recorder) -> None:
    unfinished = UnfinishedTrial(trial_id=1, trial_no=7, point={"lr": 0.002}, seed=99, scores=(0.1,), resume=None)
    recorder.open_trial("tiny-1", 7, {"lr": 0.002}, {"lr": 0.002}, 99, "h")
    ledger = make_ledger(load, recorder, unfinished=[unfinished], next_trial_no=3)
    assignment = ledger.next_assignment("a")
    assert (assignment.trial_no, assignment.seed, assignment.params["lr"]) == (7, 99, 0.002)


def make_retrying(load: Any, recorder: LocalRecorder, store: Store, home: Home, **settings: Any) -> Ledger:
    def read_crashed(trial_id: int) -> UnfinishedTrial:
        return read_trial(store, home, trial_id)

    return make_ledger(load, recorder, **{"max_retries": 1, "budget": 1, "read_crashed": read_crashed, **settings})


def crash(ledger: Ledger, recorder: LocalRecorder, tune_id: str) -> int:
    """Hand out a trial, and lose its process after it began."""
    assignment = ledger.next_assignment(tune_id)
    assert assignment is not None
    recorder.start_attempt(assignment.trial_id, 1)
    ledger.end(tune_id, lost="worker process lost: killed")
    return assignment.trial_no


def test_a_trial_that_crashed_is_handed_out_again_until_its_retries_are_spent(load, recorder, store, tmp_path) -> None:
    ledger = make_retrying(load, recorder, store, Home(tmp_path), max_retries=2)
    bridge = SearcherBridge(ledger)
    assert ledger.most_starts == 3
    assert [crash(ledger, recorder, str(number)) for number in range(3)] == [0, 0, 0]
    assert bridge.suggest("z") == SearcherBridge.FINISHED
    trial = store.list_trials("tiny-1")[0]
    assert (trial.status, trial.attempts) == (TrialStatus.CRASHED, 3)


def test_tune_is_asked_to_wait_while_a_trial_may_come_back(load, recorder, store, tmp_path) -> None:
    ledger = make_retrying(load, recorder, store, Home(tmp_path))
    bridge = SearcherBridge(ledger)
    bridge.suggest("a")
    assert bridge.suggest("b") is None
    ledger.report("a", result(1, 0.5, TrialStatus.FINISHED))
    ledger.end("a")
    assert bridge.suggest("b") == SearcherBridge.FINISHED


@pytest.mark.parametrize("status", [TrialStatus.FAILED, TrialStatus.DIVERGED, TrialStatus.FINISHED])
def test_only_a_crash_is_tried_again(load, recorder, store, tmp_path, status: TrialStatus) -> None:
    ledger = make_retrying(load, recorder, store, Home(tmp_path))
    ledger.next_assignment("a")
    ledger.report("a", result(1, 0.5, status))
    ledger.end("a")
    assert ledger.next_assignment("b") is None


def test_a_retry_is_the_same_trial_before_the_search_and_ends_once(load, recorder, store, tmp_path) -> None:
    ledger = make_retrying(load, recorder, store, Home(tmp_path))
    first = ledger.next_assignment("a")
    ledger.report("a", result(1, 0.5, TrialStatus.CRASHED, error="the recorder is gone"))
    ledger.end("a")
    again = ledger.next_assignment("b")
    assert (again.trial_id, again.seed, again.params) == (first.trial_id, first.seed, first.params)
    recorder.start_attempt(again.trial_id, 1)
    ledger.report("b", result(1, 0.7, TrialStatus.FINISHED))
    ledger.end("b")
    assert store.list_trials("tiny-1")[0].status == TrialStatus.FINISHED
    states = [trial.state.name for trial in ledger._search._study.trials]
    assert states == ["FAIL", "COMPLETE"]


def test_a_later_run_of_the_driver_counts_the_crashes_before_it(load, recorder, store, tmp_path) -> None:
    home = Home(tmp_path)
    first = make_retrying(load, recorder, store, home, max_retries=2)
    crash(first, recorder, "a")
    assert [trial.retries for trial in read_unfinished(store, home, "tiny-1", max_retries=2)] == [1]
    assert read_past(store, "tiny-1", max_retries=2) == []
    assert read_unfinished(store, home, "tiny-1", max_retries=0) == []
    assert [trial.failed for trial in read_past(store, "tiny-1", max_retries=0)] == [True]
    crash(first, recorder, "b")
    crash(first, recorder, "c")
    assert read_unfinished(store, home, "tiny-1", max_retries=2) == []


def test_what_tune_keeps_of_a_ledger_holds_nothing_of_the_database(load, recorder, store, tmp_path) -> None:
    ledger = make_retrying(load, recorder, store, Home(tmp_path))
    assert pickle.loads(pickle.dumps(ledger)).__dict__ == {}


def test_every_seed_is_one_that_numpy_and_torch_accept() -> None:
    seeds = {trial_seed(sweep, trial) for sweep in (0, 1, 5000, 2**31 - 1) for trial in (0, 1, 99_999)}
    assert len(seeds) == 12
    assert all(0 <= seed < 2**31 for seed in seeds)


def test_a_callback_that_fails_is_kept_for_the_driver_and_never_raised_into_tune(load, recorder) -> None:
    class Tuned:
        trial_id = "a"

    ledger = make_ledger(load, recorder)
    ledger.next_assignment("a")
    recorder.close()
    closer = TrialCloser(ledger)
    closer.on_trial_complete(1, [], Tuned())
    assert closer.error is not None
