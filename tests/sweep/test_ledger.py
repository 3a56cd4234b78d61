"""The driver's side of trials: opened, reported and closed exactly once, with the true status; points and seeds."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tradesweep.names import SCORE_FLOOR, SweepEnd, SweepStatus, TrialPhase, TrialStatus
from tradesweep.recording import LocalRecorder
from tradesweep.sweep.agenda import is_complete
from tradesweep.sweep.ledger import Ledger
from tradesweep.trial import derive_seed

HALVING = "pruner={kind: successive_halving, min_evaluations: 1, reduction_factor: 2}"


def statuses(store: Any) -> list[str]:
    return [trial.status.value for trial in store.list_trials("tiny-1")]


def states(ledger: Ledger) -> list[str]:
    return [trial.state.name for trial in ledger._search._study.trials]


def values(ledger: Ledger) -> list[float | None]:
    return [trial.value for trial in ledger._search._study.trials]


# --- one trial ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "status", [TrialStatus.FINISHED, TrialStatus.STOPPED, TrialStatus.FAILED, TrialStatus.DIVERGED]
)
def test_a_trial_ends_as_it_says(make_ledger, result, store, status: TrialStatus) -> None:
    ledger = make_ledger()
    ledger.next_assignment("a")
    ledger.report("a", result(1, 0.5, status, error="because" if status in ("FAILED", "DIVERGED") else None))
    ledger.end("a")
    trial = store.list_trials("tiny-1")[0]
    assert trial.status == status
    assert (trial.error == "because") == (status in ("FAILED", "DIVERGED"))


def test_a_lost_process_is_crashed_and_says_why(make_ledger, result, store) -> None:
    ledger = make_ledger()
    ledger.next_assignment("a")
    ledger.report("a", result(1, 0.5))
    ledger.end("a", lost="worker process lost: killed")
    trial = store.list_trials("tiny-1")[0]
    assert trial.status == TrialStatus.CRASHED
    assert "killed" in str(trial.error)


def test_a_pruned_trial_is_closed_as_pruned_and_told_so(make_ledger, result, store) -> None:
    ledger = make_ledger(HALVING, "budget.trials=4")
    verdicts = []
    for number, score in enumerate([3.0, 2.0, 1.0, 0.0]):
        ledger.next_assignment(str(number))
        verdicts.append(ledger.report(str(number), result(1, score)))
        ledger.end(str(number))
    assert verdicts[-1]
    assert statuses(store)[-1] == "PRUNED"
    assert states(ledger)[-1] == "PRUNED"


def test_a_trial_that_finishes_while_it_would_be_pruned_is_finished(make_ledger, result, store) -> None:
    ledger = make_ledger(HALVING, "budget.trials=4")
    for number, score in enumerate([3.0, 2.0, 1.0, 0.0]):
        ledger.next_assignment(str(number))
        assert not ledger.report(str(number), result(1, score, TrialStatus.FINISHED))
        ledger.end(str(number))
    assert set(statuses(store)) == {"FINISHED"}


def test_a_trial_is_closed_once_however_often_tune_says_so(make_ledger, result, store) -> None:
    ledger = make_ledger()
    ledger.next_assignment("a")
    ledger.report("a", result(1, 0.5, TrialStatus.FINISHED))
    ledger.end("a")
    ledger.end("a", lost="said again")
    assert statuses(store) == ["FINISHED"]


# --- the next run ---------------------------------------------------------------------------------------------


def test_what_still_runs_at_the_end_is_interrupted_and_goes_on_next_time(make_ledger, finish, store) -> None:
    first = make_ledger()
    begun = [first.next_assignment(name) for name in "ab"]
    finish(first, "a", 0.5)
    first.end_all()
    assert statuses(store) == ["FINISHED", "INTERRUPTED"]
    second = make_ledger()
    assert second.left == 2
    again = second.next_assignment("a")
    assert (again.trial_no, again.seed, again.params) == (1, begun[1].seed, begun[1].params)
    assert second.next_assignment("b").trial_no == 2
    assert second.next_assignment("z") is None


def test_a_smaller_budget_finishes_what_was_begun_and_begins_no_point(
    make_ledger, finish, store, recorder, load
) -> None:
    first = make_ledger("budget.trials=6", "seeds=2")
    for number in range(5):
        first.next_assignment(str(number))
    first.end_all()
    assert first.left == 12, "what was interrupted is left to do"
    second = make_ledger("budget.trials=1", "seeds=2")
    assert (second.left, second.at_once, second.most_starts) == (6, 6, 6)
    for number in range(6):
        assert second.next_assignment(str(number)) is not None
        assert second.left == 5 - number
        finish(second, str(number), 1.0)
    assert second.next_assignment("z") is None
    trials = store.list_trials("tiny-1")
    assert [(trial.point_no, trial.seed_no) for trial in trials] == [(p, s) for p in range(3) for s in range(2)]
    recorder.close_sweep("tiny-1", SweepStatus.FINISHED)
    assert complete(load, store, "budget.trials=1", "seeds=2")


@pytest.mark.parametrize("begun", [0, 4])
def test_a_smaller_budget_never_makes_the_work_that_is_left_negative(make_ledger, finish, begun: int) -> None:
    first = make_ledger("budget.trials=6")
    for number in range(4):
        first.next_assignment(str(number))
    for number in range(4 - begun):
        finish(first, str(number), 1.0)
    first.end_all()
    second = make_ledger("budget.trials=1")
    assert (second.left, second.most_starts) == (begun, begun)


def crash(ledger: Ledger, recorder: LocalRecorder, tune_id: str) -> int:
    """Hand out a trial, and lose its process after it began."""
    assignment = ledger.next_assignment(tune_id)
    assert assignment is not None
    recorder.start_attempt(assignment.trial_id, 1)
    ledger.end(tune_id, lost="worker process lost: killed")
    return assignment.trial_no


def test_a_trial_that_crashed_is_handed_out_again_until_its_retries_are_spent(make_ledger, recorder, store) -> None:
    ledger = make_ledger("budget={env_steps_per_trial: 1024, trials: 1, max_retries: 2}")
    assert ledger.most_starts == 3
    assert [crash(ledger, recorder, str(number)) for number in range(3)] == [0, 0, 0]
    assert (ledger.next_assignment("z"), ledger.may_go_on) == (None, False)
    trial = store.list_trials("tiny-1")[0]
    assert (trial.status, trial.attempts) == (TrialStatus.CRASHED, 3)


@pytest.mark.parametrize("status", [TrialStatus.FAILED, TrialStatus.DIVERGED, TrialStatus.FINISHED])
def test_only_a_crash_is_tried_again(make_ledger, result, status: TrialStatus) -> None:
    ledger = make_ledger("budget={env_steps_per_trial: 1024, trials: 1, max_retries: 1}")
    ledger.next_assignment("a")
    ledger.report("a", result(1, 0.5, status))
    ledger.end("a")
    assert ledger.next_assignment("b") is None


def test_a_retry_is_the_same_trial_before_the_search_and_ends_once(make_ledger, recorder, result, store) -> None:
    ledger = make_ledger("budget={env_steps_per_trial: 1024, trials: 1, max_retries: 1}")
    first = ledger.next_assignment("a")
    ledger.report("a", result(1, 0.5, TrialStatus.CRASHED, error="the recorder is gone"))
    ledger.end("a")
    again = ledger.next_assignment("b")
    assert (again.trial_id, again.seed, again.params) == (first.trial_id, first.seed, first.params)
    recorder.start_attempt(again.trial_id, 1)
    ledger.report("b", result(1, 0.7, TrialStatus.FINISHED))
    ledger.end("b")
    assert statuses(store) == ["FINISHED"]
    assert states(ledger) == ["FAIL", "COMPLETE"]


def test_a_later_run_of_the_driver_counts_the_crashes_before_it(make_ledger, make_history, recorder) -> None:
    retried, alone = (
        "budget={env_steps_per_trial: 1024, trials: 1, max_retries: 2}",
        "budget={env_steps_per_trial: 1024, trials: 1, max_retries: 0}",
    )
    first = make_ledger(retried)
    crash(first, recorder, "a")
    assert [trial.retries for trial in make_history(retried).read_unfinished()] == [1]
    assert make_history(retried).read_past() == []
    assert make_history(alone).read_unfinished() == []
    assert [trial.failed for trial in make_history(alone).read_past()] == [True]
    crash(first, recorder, "b")
    crash(first, recorder, "c")
    assert make_history(retried).read_unfinished() == []


# --- seeds ----------------------------------------------------------------------------------------------------


def test_a_point_is_asked_for_once_and_trained_on_each_of_its_seeds(make_ledger, store) -> None:
    ledger = make_ledger("budget.trials=2", "seeds=3")
    assert (ledger.left, ledger.at_once) == (6, 6)
    seeds = [ledger.next_assignment(str(number)).seed for number in range(6)]
    assert ledger.next_assignment("z") is None
    trials = store.list_trials("tiny-1")
    assert [(trial.point_no, trial.seed_no) for trial in trials] == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]
    assert len(set(seeds)) == 6
    assert [len({trial.point_hash for trial in trials if trial.point_no == number}) for number in (0, 1)] == [1, 1]
    assert trials[0].point_hash != trials[3].point_hash


@pytest.mark.parametrize(("how", "told"), [("mean", 2.75), ("median", 2.5), ("iqm", 2.5)])
def test_the_search_hears_of_a_point_once_when_all_its_seeds_have_ended(make_ledger, finish, how, told) -> None:
    ledger = make_ledger("budget.trials=1", "seeds=4", f"aggregate={how}")
    for number in range(4):
        ledger.next_assignment(str(number))
    for number, score in enumerate([6.0, 2.0, 0.0, 3.0]):
        assert states(ledger) == ["RUNNING"]
        finish(ledger, str(number), score)
    assert (states(ledger), values(ledger)) == (["COMPLETE"], [told])


def test_a_seed_that_failed_counts_as_the_floor_and_a_point_of_which_all_failed_as_failed(make_ledger, finish) -> None:
    ledger = make_ledger("budget.trials=2", "seeds=2")
    for number in range(4):
        ledger.next_assignment(str(number))
    finish(ledger, "0", 4.0)
    for number in (1, 2, 3):
        finish(ledger, str(number), 0.0, TrialStatus.DIVERGED)
    assert states(ledger) == ["COMPLETE", "FAIL"]
    assert values(ledger)[0] == (4.0 + SCORE_FLOOR) / 2
    again = make_ledger("budget.trials=2", "seeds=2")
    assert (states(again), values(again)[0]) == (states(ledger), values(ledger)[0])


def test_the_first_seed_races_for_all_and_takes_them_with_it(make_ledger, finish, result, store) -> None:
    ledger = make_ledger(HALVING, "budget.trials=3", "seeds=2")
    for number in range(5):
        ledger.next_assignment(str(number))
    for name, score in (("0", 3.0), ("2", 2.0)):
        ledger.report(name, result(1, score))
    assert not ledger.report("1", result(1, -9.0)), "only the first seed races"
    assert ledger.report("4", result(1, -9.0))
    ledger.end("4")
    assert ledger.left == 0, "the other seed of a pruned point is not trained"
    assert (statuses(store)[4], states(ledger)[2]) == ("PRUNED", "PRUNED")


def test_seeds_that_run_when_their_point_is_pruned_end_at_their_next_result(make_ledger, result, store) -> None:
    ledger = make_ledger(HALVING, "budget.trials=3", "seeds=2")
    for number in range(6):
        ledger.next_assignment(str(number))
    for name, score in (("0", 3.0), ("2", 2.0), ("4", -9.0)):
        pruned = ledger.report(name, result(1, score))
    assert pruned
    ledger.end("4")
    assert ledger.report("5", result(1, 9.0))
    ledger.end("5")
    assert statuses(store)[4:] == ["PRUNED", "PRUNED"]
    assert states(ledger) == ["RUNNING", "RUNNING", "PRUNED"], "told once"


def test_a_later_run_completes_the_points_that_were_begun_and_tells_each_once(make_ledger, finish, store) -> None:
    settings = ("budget.trials=2", "seeds=2")
    first = make_ledger(*settings)
    for number in range(2):
        first.next_assignment(str(number))
    finish(first, "0", 1.0)
    first.end_all()
    second = make_ledger(*settings)
    assert (second.left, states(second)) == (3, ["RUNNING"])
    assert second.next_assignment("b").trial_no == 1
    finish(second, "b", 3.0)
    assert values(second) == [2.0]
    second.next_assignment("c")
    assert [(trial.point_no, trial.seed_no) for trial in store.list_trials("tiny-1")] == [(0, 0), (0, 1), (1, 0)]


def test_every_seed_is_one_that_numpy_and_torch_accept_and_the_first_is_that_of_its_number() -> None:
    drawn = [(sweep, point, seed) for sweep in (0, 1, 2**31 - 1) for point in (0, 99_999) for seed in (0, 1, 7)]
    seeds = {derive_seed(*numbers) for numbers in drawn}
    assert len(seeds) == len(drawn)
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert derive_seed(5, 3) == derive_seed(5, 3, 0) == 363584473


# --- confirmations --------------------------------------------------------------------------------------------

CONFIRMED = ("budget.trials=3", "confirm={top: 2, seeds: 2}")


def search_three(ledger: Ledger, finish: Any) -> None:
    for number, score in enumerate([1.0, 3.0, 2.0]):
        ledger.next_assignment(str(number))
        finish(ledger, str(number), score)


def test_leaders_are_trained_on_fresh_seeds_when_the_search_is_over(make_ledger, finish, store) -> None:
    ledger = make_ledger(*CONFIRMED)
    search_three(ledger, finish)
    told = values(ledger)
    assert (ledger.left, ledger.at_once) == (4, 4)
    for number in range(4):
        ledger.next_assignment(f"c{number}")
        finish(ledger, f"c{number}", 9.0 if number else -9.0)
    assert ledger.next_assignment("z") is None
    trials = store.list_trials("tiny-1")
    fresh = [(trial.point_no, trial.seed_no) for trial in trials if trial.phase == TrialPhase.CONFIRM]
    assert fresh == [(1, 1), (1, 2), (2, 1), (2, 2)]
    assert len({trial.seed for trial in trials}) == 7
    assert values(ledger) == told, "the search hears nothing of them"


def test_a_later_run_trains_the_fresh_seeds_that_are_left(make_ledger, finish, store) -> None:
    first = make_ledger(*CONFIRMED)
    search_three(first, finish)
    for name in "abc":
        first.next_assignment(name)
    finish(first, "a", -9.0)
    first.end_all()
    second = make_ledger(*CONFIRMED)
    assert second.left == 3
    assert [second.next_assignment(name).trial_no for name in "abc"] == [4, 5, 6]
    assert second.next_assignment("d") is None
    fresh = [(trial.point_no, trial.seed_no) for trial in store.list_trials("tiny-1")[3:]]
    assert fresh == [(1, 1), (1, 2), (2, 1), (2, 2)], "what was confirmed does not change who is"


def test_what_is_confirmed_is_never_pruned(make_ledger, finish, result) -> None:
    ledger = make_ledger(HALVING, *CONFIRMED)
    search_three(ledger, finish)
    ledger.next_assignment("c")
    assert not ledger.report("c", result(1, SCORE_FLOOR))


def test_a_sweep_without_a_sharpe_ratio_has_no_leader(make_ledger, finish) -> None:
    ledger = make_ledger("budget.trials=1", "confirm={top: 1, seeds: 1}")
    ledger.next_assignment("a")
    finish(ledger, "a", 0.0, TrialStatus.FAILED)
    assert (ledger.next_assignment("b"), ledger.left, ledger.may_go_on) == (None, 0, False)


# --- limits ---------------------------------------------------------------------------------------------------


def test_no_trial_is_begun_once_the_env_steps_of_the_sweep_are_made_and_those_that_run_go_on(
    make_ledger, finish
) -> None:
    ledger = make_ledger("budget={env_steps_per_trial: 1024, trials: 9, env_steps: 2000}", "confirm={top: 1, seeds: 1}")
    for name in "abc":
        ledger.next_assignment(name)
    finish(ledger, "a", 1.0)
    finish(ledger, "b", 1.0)
    assert (ledger.next_assignment("d"), ledger.limit) == (None, SweepEnd.ENV_STEPS)
    assert set(ledger.running) == {"c"}
    assert (ledger.left, ledger.may_go_on) == (0, False)


def test_the_search_stops_when_no_better_best_came_and_its_leaders_are_confirmed(make_ledger, finish) -> None:
    ledger = make_ledger(
        "budget={env_steps_per_trial: 1024, trials: 9, patience_trials: 2, min_trials: 4}", "confirm={top: 1, seeds: 1}"
    )
    for number, score in enumerate([2.0, 1.0, 0.5, 3.0, 1.0, 1.0]):
        assert ledger.next_assignment(str(number)) is not None
        assert ledger.limit is None
        finish(ledger, str(number), score)
    assert ledger.next_assignment("c") is not None
    assert (ledger.limit, ledger.running["c"].phase, ledger.running["c"].point_no) == (
        "budget.patience_trials",
        "confirm",
        3,
    )


def test_a_space_that_is_exhausted_ends_the_search(make_ledger, finish, load) -> None:
    load(sweep="algorithm: dqn\nsearch: {lr: {choice: [1.0e-3, 2.0e-3]}}\n")
    ledger = make_ledger("searcher={kind: random}", "budget.trials=5")
    for name in "ab":
        ledger.next_assignment(name)
    assert (ledger.next_assignment("c"), ledger.limit, ledger.left) == (None, SweepEnd.SPACE, 0)


# --- what is complete -----------------------------------------------------------------------------------------


def complete(load: Any, store: Any, *overrides: str, env_steps: int = 1024) -> bool:
    spec = load(*overrides)
    sweep = store.get_sweep("tiny-1")
    return is_complete(store, sweep, spec, points=spec.budget.trials, env_steps_per_trial=env_steps)


def test_a_sweep_is_complete_until_more_is_asked_of_it(make_ledger, finish, recorder, store, load) -> None:
    search_three(make_ledger("budget.trials=3"), finish)
    recorder.close_sweep("tiny-1", SweepStatus.FINISHED)
    assert complete(load, store, "budget.trials=3")
    assert not complete(load, store, "budget.trials=4")
    assert not complete(load, store, "budget.trials=3", "confirm={top: 1, seeds: 1}")
    assert not complete(load, store, "budget.trials=3", env_steps=2048)


def test_a_failed_sweep_is_complete_when_every_trial_has_its_end(make_ledger, finish, recorder, store, load) -> None:
    ledger = make_ledger("budget.trials=2")
    for name in "ab":
        ledger.next_assignment(name)
        finish(ledger, name, 0.0, TrialStatus.FAILED)
    recorder.close_sweep("tiny-1", SweepStatus.FAILED)
    assert complete(load, store, "budget.trials=2")
    assert not complete(load, store, "budget.trials=3")
    recorder.close_sweep("tiny-1", SweepStatus.INTERRUPTED)
    assert not complete(load, store, "budget.trials=2"), "its end was not written"


@pytest.mark.parametrize(
    ("end", "same", "more"),
    [
        (SweepEnd.ENV_STEPS, "env_steps: 2000", "env_steps: 9000"),
        (SweepEnd.WALL_TIME, "wall_time_s: 5", "max_retries: 0"),
        (SweepEnd.PATIENCE, "patience_trials: 2", "patience_trials: 3"),
        (SweepEnd.SPACE, "max_retries: 0", None),
    ],
)
def test_a_sweep_that_a_limit_ended_goes_on_when_the_limit_grows(
    make_ledger, finish, recorder, reopen, store, load, end, same, more
) -> None:
    ledger = make_ledger()
    reopen(spec_json=load(f"budget={{trials: 9, env_steps_per_trial: 1024, {same}}}").to_json())
    search_three(ledger, finish)
    recorder.close_sweep("tiny-1", SweepStatus.FINISHED, end)
    assert complete(load, store, f"budget={{trials: 9, env_steps_per_trial: 1024, {same}}}")
    if more is not None:
        assert not complete(load, store, f"budget={{trials: 9, env_steps_per_trial: 1024, {more}}}")


# --- extension ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("evaluation", "pruned"), [(8, True), (9, False)])
def test_what_goes_on_beyond_the_evaluations_of_the_spec_has_won_its_race(
    make_ledger, result, evaluation: int, pruned: bool
) -> None:
    ledger, verdicts = make_ledger(HALVING, "budget.trials=4"), []
    for number, score in enumerate([3.0, 2.0, 1.0, 0.0]):
        ledger.next_assignment(str(number))
        verdicts.append(ledger.report(str(number), result(evaluation, score)))
        ledger.end(str(number))
    assert any(verdicts) == pruned


def test_finished_trials_go_on_when_the_sweep_is_extended_and_other_ends_stay(
    make_ledger, finish, reopen, recorder, store
) -> None:
    ledger = make_ledger("budget.trials=4")
    ends = [TrialStatus.FINISHED, TrialStatus.STOPPED, TrialStatus.FAILED, TrialStatus.FINISHED]
    for number, status in enumerate(ends):
        ledger.next_assignment(str(number))
        finish(ledger, str(number), 1.0, status, env_steps=3000 if number == 3 else 1024)
    recorder.close_sweep("tiny-1", SweepStatus.FINISHED)
    reopen(env_steps_per_trial=2048)
    assert statuses(store) == ["INTERRUPTED", "STOPPED", "FAILED", "FINISHED"]
    reopen()
    assert store.get_sweep("tiny-1").env_steps_per_trial == 2048, "a later run keeps it"
    again = make_ledger("budget.trials=4")
    assert again.left == 1
    assert again.next_assignment("a").trial_no == 0
    finish(again, "a", 5.0)
    assert values(again)[-1] == 5.0


def test_a_point_keeps_its_place_in_the_store(make_ledger, store) -> None:
    make_ledger("seeds=2").next_assignment("a")
    trial = store.list_trials("tiny-1")[0]
    assert (trial.phase, json.loads(trial.point_json).keys()) == (TrialPhase.SEARCH, {"lr"})
