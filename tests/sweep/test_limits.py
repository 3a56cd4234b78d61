"""What ends a sweep early, and when that is over."""

from __future__ import annotations

import itertools
import sqlite3
from contextlib import closing
from typing import Any

import pytest

from tradesweep.names import SweepEnd, TrialStatus
from tradesweep.spec import BudgetSpec
from tradesweep.sweep.limits import WORDS, count_stale, find_limit, is_in_force


def budget(**values: Any) -> BudgetSpec:
    return BudgetSpec(trials=9, env_steps_per_trial=100, **values)


@pytest.fixture
def closings(store) -> Any:
    """Of all trials, as `find_limit` wants them."""
    return lambda: {trial_id: number for number, trial_id in store.closings_after(0, "tiny-1")}


@pytest.fixture
def trials(make_ledger, finish, store) -> Any:
    """Rows of trials that ended one after the other with these scores."""

    def trials(*scores: float) -> Any:
        ledger, names = make_ledger("budget.trials=50"), itertools.count()
        for score in scores:
            name = str(next(names))
            ledger.next_assignment(name)
            finish(ledger, name, score)
        return store.list_trials("tiny-1")

    return trials


def test_without_a_limit_nothing_ends_a_sweep(trials) -> None:
    assert find_limit(budget(), trials(1.0, 0.5, 0.5, 0.5), {}) is None


def test_patience_counts_from_the_last_better_best_and_not_before_its_minimum(trials, closings) -> None:
    rows = trials(1.0, 0.5, 2.0, 1.5, 2.0)
    patient = {"patience_trials": 2, "min_trials": 1}
    found = [find_limit(budget(**patient), rows[:count], closings()) for count in range(1, 6)]
    assert found == [None, None, None, None, SweepEnd.PATIENCE], "an equal best is none better"
    assert find_limit(budget(patience_trials=2, min_trials=6), rows, closings()) is None


def test_patience_counts_trials_as_they_were_closed_whatever_the_clock_said(make_history, recorder, store) -> None:
    """Trial 0 trains longest and becomes the best when the others have ended; meanwhile the clock was set back."""
    ledger_order, scores = [1, 2, 0], [9.0, 1.0, 0.5]
    history = make_history("budget={trials: 9, env_steps_per_trial: 1024, patience_trials: 2, min_trials: 1}")
    for number in range(3):
        recorder.open_trial("tiny-1", number, {}, {"lr": number}, number, f"hash {number}")
        recorder.start_attempt(number + 1, 1)
    for number in ledger_order:
        recorder.close_trial(number + 1, TrialStatus.FINISHED, None)
        with closing(sqlite3.connect(store.database.path, isolation_level=None)) as db:
            db.execute("UPDATE trials SET best_sharpe = ? WHERE trial_no = ?", [scores[number], number])
            db.execute("UPDATE trials SET ended_at = 100 - ? WHERE trial_no = ?", [ledger_order.index(number), number])
        assert history.find_limit() is None
    assert count_stale(store.list_trials("tiny-1"), {1: 3, 2: 1, 3: 2}) == (3, 0)
    assert count_stale(store.list_trials("tiny-1"), {1: 1, 2: 2, 3: 3}) == (3, 2)


def test_a_trial_that_went_on_counts_by_its_last_closing(make_history, recorder, reopen, store) -> None:
    for number in range(2):
        recorder.open_trial("tiny-1", number, {}, {"lr": number}, number, f"hash {number}")
        recorder.start_attempt(number + 1, 1)
    for trial_id, status in ((1, TrialStatus.INTERRUPTED), (2, TrialStatus.FINISHED), (1, TrialStatus.FINISHED)):
        recorder.close_trial(trial_id, status, None)
    closed = store.closings_after(0, "tiny-1")
    assert [trial_id for _, trial_id in closed] == [1, 2, 1]
    assert closed == sorted(closed)
    assert store.closings_after(closed[1][0], "tiny-1") == closed[2:]
    assert store.closings_after(0, "another") == []


def test_env_steps_are_those_of_all_trials(trials) -> None:
    rows = trials(1.0, 1.0)
    assert find_limit(budget(env_steps=2048), rows, {}) is SweepEnd.ENV_STEPS
    assert find_limit(budget(env_steps=2049), rows, {}) is None


def test_a_limit_holds_until_it_grows_or_is_taken_away() -> None:
    then = budget(env_steps=100)
    assert is_in_force(SweepEnd.ENV_STEPS, then, then)
    assert is_in_force(SweepEnd.ENV_STEPS, then, budget(env_steps=50))
    assert not is_in_force(SweepEnd.ENV_STEPS, then, budget(env_steps=101))
    assert not is_in_force(SweepEnd.ENV_STEPS, then, budget())
    assert not is_in_force(None, then, then)


def test_every_end_has_words() -> None:
    assert set(WORDS) == set(SweepEnd)
