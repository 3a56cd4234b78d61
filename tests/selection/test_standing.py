"""How points are ranked: by what was confirmed, then by the aggregate of their seeds."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest

from tradesweep.names import SCORE_FLOOR, SweepStatus, TrialPhase, TrialStatus
from tradesweep.selection import build_leaderboard, find_best
from tradesweep.selection.standing import Seeding, rank_points, value_of
from tradesweep.store import TrialRow


def trial(number: int, point_no: int, sharpe: float | None, seed_no: int = 0, **changes: Any) -> TrialRow:
    values: dict[str, Any] = dict.fromkeys((field.name for field in fields(TrialRow)), None)
    values |= {"trial_id": number + 1, "trial_no": number, "point_no": point_no, "seed_no": seed_no}
    values |= {"status": TrialStatus.FINISHED, "phase": TrialPhase.SEARCH, "best_sharpe": sharpe, "last_score": sharpe}
    return TrialRow(**(values | changes))


def fresh(number: int, point_no: int, sharpe: float | None, **changes: Any) -> TrialRow:
    return trial(number, point_no, sharpe, number, phase=TrialPhase.CONFIRM, **changes)


def ranked(trials: list[TrialRow], **seeding: Any) -> list[int]:
    return [standing.point_no for standing in rank_points(trials, Seeding(**seeding))]


def test_one_seed_a_point_stands_as_its_trial() -> None:
    trials = [trial(0, 0, 1.0), trial(1, 1, None, last_score=0.0), trial(2, 2, 2.0), trial(3, 3, 1.0)]
    assert ranked(trials) == [2, 0, 3, 1]


@pytest.mark.parametrize(("how", "first"), [("mean", 0), ("median", 1)])
def test_seeds_are_aggregated_as_the_spec_says(how: str, first: int) -> None:
    lucky = [trial(number, 0, sharpe, number) for number, sharpe in enumerate([9.0, 0.1, 0.2])]
    steady = [trial(number + 3, 1, sharpe, number) for number, sharpe in enumerate([1.0, 1.1, 0.9])]
    assert ranked([*lucky, *steady], seeds=3, aggregate=how)[0] == first


def test_a_seed_without_a_sharpe_ratio_is_no_way_to_win() -> None:
    assert value_of(trial(0, 0, None, last_score=0.5)) == 0.0
    assert value_of(trial(0, 0, None, last_score=-2.0)) == -2.0
    assert value_of(trial(0, 0, None, status=TrialStatus.CRASHED)) == SCORE_FLOOR
    half_dead = [trial(0, 0, 3.0), trial(1, 0, None, 1, status=TrialStatus.DIVERGED)]
    assert ranked([*half_dead, trial(2, 1, 0.5), trial(3, 1, 0.5, 1)], seeds=2)[0] == 1


def test_with_several_seeds_a_point_that_was_pruned_comes_behind_those_that_were_not() -> None:
    trials = [trial(0, 0, 3.0, status=TrialStatus.PRUNED), trial(1, 1, 1.0), trial(2, 1, 1.0, 1)]
    assert ranked(trials, seeds=2) == [1, 0]
    assert ranked(trials[:2], seeds=1) == [0, 1]


def test_what_was_confirmed_stands_before_the_rest_by_its_median() -> None:
    searched = [trial(0, 0, 5.0), trial(1, 1, 4.0), trial(2, 2, 3.0)]
    confirmed = [fresh(3, 0, 0.1), fresh(4, 0, 0.2), fresh(5, 0, 9.0), fresh(6, 1, 1.0), fresh(7, 1, 1.0)]
    assert ranked([*searched, *confirmed], confirmations=2) == [1, 0, 2]


def test_a_point_is_confirmed_when_all_its_fresh_seeds_have_ended() -> None:
    searched = [trial(0, 0, 5.0), trial(1, 1, 4.0)]
    one, two = fresh(2, 1, 9.0), fresh(3, 1, 9.0)
    running = fresh(3, 1, 9.0, status=TrialStatus.RUNNING)
    assert ranked([*searched, one], confirmations=2) == [0, 1]
    assert ranked([*searched, one, running], confirmations=1) == [0, 1]
    assert ranked([*searched, one, two], confirmations=2) == [1, 0]


def test_the_candidate_is_the_best_trial_of_the_point_that_stands_first(world: Any) -> None:
    spec = world.runtime.spec.model_copy(update={"aggregate": "mean", "seeds": 2})
    world.runtime = type(world.runtime)(spec, world.runtime.market, world.runtime.config)
    weights = {0: 5.0, 1: 0.0, 2: 3.0, 3: 2.0}
    with world.writer() as writer:
        world.open_sweep(writer)
        for number, weight in weights.items():
            world.write_trial(writer, number, weight, point_no=number // 2, seed_no=number % 2)
        writer.close_sweep(world.sweep_id, SweepStatus.FINISHED)
    board = build_leaderboard(world.store, "small")
    sharpes = {row.trial_no: row.sharpe for row in board.rows}
    assert sharpes[1] is None
    assert [point.point_no for point in board.points] == [1, 0]
    assert board.best is not None
    assert board.best.sharpe == max(sharpes[2], sharpes[3])
    found = find_best(world.store, "small")
    assert found is not None
    assert found.trial.trial_no == board.best.trial_no == board.points[0].best_trial_no
    assert board.counted == 4, "each seed is a draw of luck"
