from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import pytest

from tradesweep.errors import NotFound
from tradesweep.metrics import expected_max_sharpe
from tradesweep.names import SweepStatus, TrialStatus
from tradesweep.selection import build_leaderboard


def test_trials_stand_by_their_best_sharpe_and_flat_ones_last(swept: Any) -> None:
    board = build_leaderboard(swept.store, "small")
    assert [row.trial_no for row in board.rows] == [1, 2, 0]
    assert board.best is not None
    assert board.best.trial_no == 1
    assert [row.why_none for row in board.rows] == [None, None, "flat"]


def test_a_row_is_what_the_evaluation_gave(swept: Any) -> None:
    again = swept.runtime.evaluate(swept.runtime.policy(3.0, 1))
    best = build_leaderboard(swept.store, "small").best
    assert best is not None
    assert (best.sharpe, best.trades, best.max_drawdown) == (again.sharpe, again.trades, again.max_drawdown)
    assert best.pnl_pct == pytest.approx(100.0 * again.total_return)
    assert (best.iteration, best.status, best.params) == (1, TrialStatus.FINISHED, {"lr": 0.002})


def test_three_numbers_belong_together(swept: Any) -> None:
    board = build_leaderboard(swept.store, "small")
    assert board.hurdle == expected_max_sharpe(3, 199, 252.0)
    for row in board.rows:
        assert row.hurdle == board.hurdle
        assert row.deflated == (None if row.sharpe is None else row.sharpe - board.hurdle)


def test_buy_and_hold_stands_beside_it_and_flat_has_no_ratio(swept: Any) -> None:
    board = build_leaderboard(swept.store, "small")
    returns = swept.runtime.market.bars.close[300:500]
    assert board.buy_hold_sharpe is not None
    assert math.copysign(1.0, board.buy_hold_sharpe) == math.copysign(1.0, returns[-1] - returns[0])
    assert board.flat_sharpe is None


def test_the_hurdle_counts_failed_and_pruned_trials_that_were_evaluated(world: Any) -> None:
    with world.writer() as writer:
        world.open_sweep(writer)
        world.write_trial(writer, 0, 3.0)
        world.write_trial(writer, 1, 2.0, status=TrialStatus.PRUNED)
        world.write_trial(writer, 2, 1.0, status=TrialStatus.CRASHED, error="gone")
        writer.close_trial(world.open_trial(writer, 3), TrialStatus.FAILED, "never began")
        writer.close_sweep(world.sweep_id, SweepStatus.FINISHED)
    board = build_leaderboard(world.store, "small")
    assert board.counted == 3
    assert board.hurdle == expected_max_sharpe(3, 199, 252.0)
    assert {row.trial_no: row.why_none for row in board.rows}[3] == "not evaluated"


def test_a_sweep_without_evaluations_has_no_hurdle_and_no_best(world: Any) -> None:
    with world.writer() as writer:
        world.open_sweep(writer)
        world.open_trial(writer, 0)
    board = build_leaderboard(world.store, world.sweep_id)
    assert (board.counted, board.hurdle, board.best) == (0, 0.0, None)


def test_equal_sharpes_go_to_the_earlier_trial(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    same = world.runtime.policy(3.0, 7)
    monkeypatch.setattr(type(world.runtime), "policy", lambda *_: same)
    world.write_sweep({0: 3.0, 1: 3.0})
    board = build_leaderboard(world.store, "small")
    assert [row.trial_no for row in board.rows] == [0, 1]
    assert board.rows[0].sharpe == board.rows[1].sharpe


def test_too_few_trades_never_win(world: Any) -> None:
    spec = world.runtime.spec.model_copy(
        update={"evaluation": world.runtime.spec.evaluation.model_copy(update={"min_trades": 1000})}
    )
    world.runtime = dataclasses.replace(world.runtime, spec=spec)
    world.write_sweep({0: 3.0})
    board = build_leaderboard(world.store, "small")
    assert board.best is None
    assert board.rows[0].why_none == "too few trades"


def test_it_is_json(swept: Any) -> None:
    told = json.loads(json.dumps(build_leaderboard(swept.store, "small").to_dict(), allow_nan=False))
    assert [row["trial_no"] for row in told["rows"]] == [1, 2, 0]
    assert told["hurdle"] > 0.0


def test_an_unknown_sweep_is_not_found(swept: Any) -> None:
    with pytest.raises(NotFound, match="there is no sweep or experiment 'other'"):
        build_leaderboard(swept.store, "other")
