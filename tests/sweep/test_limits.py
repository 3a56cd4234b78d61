"""What ends a sweep early, and when that is over."""

from __future__ import annotations

import itertools
import time
from typing import Any

import pytest

from tradesweep.names import SweepEnd
from tradesweep.spec import BudgetSpec
from tradesweep.sweep.limits import WORDS, find_limit, is_in_force
from tradesweep.sweep.tuning import SweepStopper
from tradesweep.sweep.signals import Interruption


def budget(**values: Any) -> BudgetSpec:
    return BudgetSpec(trials=9, env_steps_per_trial=100, **values)


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
    assert find_limit(budget(), trials(1.0, 0.5, 0.5, 0.5)) is None


def test_patience_counts_from_the_last_better_best_and_not_before_its_minimum(trials) -> None:
    rows = trials(1.0, 0.5, 2.0, 1.5, 2.0)
    patient = {"patience_trials": 2, "min_trials": 1}
    found = [find_limit(budget(**patient), rows[:count]) for count in range(1, 6)]
    assert found == [None, None, None, None, SweepEnd.PATIENCE], "an equal best is none better"
    assert find_limit(budget(patience_trials=2, min_trials=6), rows) is None


def test_env_steps_are_those_of_all_trials(trials) -> None:
    rows = trials(1.0, 1.0)
    assert find_limit(budget(env_steps=2048), rows) is SweepEnd.ENV_STEPS
    assert find_limit(budget(env_steps=2049), rows) is None


def test_a_limit_holds_until_it_grows_or_is_taken_away() -> None:
    then = budget(env_steps=100)
    assert is_in_force(SweepEnd.ENV_STEPS, then, then)
    assert is_in_force(SweepEnd.ENV_STEPS, then, budget(env_steps=50))
    assert not is_in_force(SweepEnd.ENV_STEPS, then, budget(env_steps=101))
    assert not is_in_force(SweepEnd.ENV_STEPS, then, budget())
    assert not is_in_force(None, then, then)


def test_every_end_has_words() -> None:
    assert set(WORDS) == set(SweepEnd)


def test_wall_time_stops_all_trials_and_is_remembered() -> None:
    endless, spent = SweepStopper(Interruption(), None), SweepStopper(Interruption(), 1e-6)
    time.sleep(1e-3)
    assert (endless.stop_all(), endless.out_of_time) == (False, False)
    assert (spent.stop_all(), spent.out_of_time) == (True, True)
