"""Episodes that nobody closed are closed from the rows they left."""

from __future__ import annotations

import itertools
import math
import statistics
from contextlib import closing
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tradesweep.names import EpisodeEnd, EpisodeStatus, Record, TrialStatus
from tradesweep.store import Store, verify
from tradesweep.store.models import Trade

BACKENDS = ("sqlite", "postgresql")


def close_after(world: Any, episode: Any, stop: int, status: TrialStatus) -> Any:
    """Record the first `stop` steps of an episode, end its trial, give the episode's row."""
    run = world.begin()
    episode = world.Episode(run.runners[0].lanes[0][0].number, *episode)
    run.runners[0].send(episode.between(0, stop))
    world.writer.close_trial(run.trial_id, status, "lost" if status == TrialStatus.CRASHED else None)
    row = world.store.find_episode(episode.number)
    assert row is not None
    return episode, row


def trades_of(store: Store, episode_no: int) -> list[Any]:
    table = Trade.table()
    with store.connect() as db:
        return list(db.execute(table.select().where(table.c.episode_no == episode_no).order_by(table.c.trade_no)))


def red_rules(world: Any) -> set[str]:
    return {result.rule for result in verify(world.store) if not result.passed}


@pytest.mark.parametrize(
    ("end", "status", "reason"),
    [
        (TrialStatus.FINISHED, EpisodeStatus.TRUNCATED, EpisodeEnd.TRIAL_ENDED),
        (TrialStatus.PRUNED, EpisodeStatus.TRUNCATED, EpisodeEnd.TRIAL_ENDED),
        (TrialStatus.INTERRUPTED, EpisodeStatus.TRUNCATED, EpisodeEnd.TRIAL_ENDED),
        (TrialStatus.FAILED, EpisodeStatus.TRUNCATED, EpisodeEnd.TRIAL_ENDED),
        (TrialStatus.CRASHED, EpisodeStatus.ABANDONED, EpisodeEnd.PRODUCER_LOST),
    ],
)
def test_the_end_of_a_trial_says_how_its_open_episodes_ended(world: Any, end: Any, status: Any, reason: Any) -> None:
    _, row = close_after(world, ([1.0] * 20,), 7, end)
    assert (row.status, row.end_reason, row.total_steps) == (status, reason, 7)


def test_totals_are_those_of_the_steps_that_came(world: Any) -> None:
    targets = [(0.0, 1.0, -1.0, 0.5)[t // 3 % 4] for t in range(50)]
    episode, row = close_after(world, (targets,), 41, TrialStatus.PRUNED)
    equities = episode.equities[:42]
    returns = [after / before - 1.0 for before, after in itertools.pairwise(equities)]
    peaks = itertools.accumulate(equities, max)
    assert row.final_equity == equities[-1]
    assert row.pnl == equities[-1] - 10_000.0
    assert row.total_reward == pytest.approx(sum(episode.rewards[:41]), abs=1e-12)
    assert row.sharpe == pytest.approx(
        math.sqrt(252.0) * statistics.fmean(returns) / statistics.stdev(returns), rel=1e-12
    )
    assert row.max_drawdown == pytest.approx(
        max(1.0 - equity / peak for equity, peak in zip(equities, peaks, strict=True)), rel=1e-12
    )
    closed = [trade[11] for t, trade in episode.cut[Record.TRADES] if t < 41]
    assert (row.trades, row.win_rate) == (len(closed), sum(pnl > 0 for pnl in closed) / len(closed))


def test_an_episode_without_steps_stays_where_it_started(world: Any) -> None:
    _, row = close_after(world, ([1.0] * 20,), 1, TrialStatus.FINISHED)
    assert row.total_steps == 1
    run = world.begin(1)
    opening = {Record.EPISODES_OPENED: run.runners[0].lanes[0][0].cut[Record.EPISODES_OPENED][0][1:]}
    run.runners[0].send(opening)
    world.writer.close_trial(run.trial_id, TrialStatus.INTERRUPTED)
    (empty,) = world.store.list_episodes(run.trial_id)
    assert (empty.total_steps, empty.final_equity, empty.pnl, empty.sharpe) == (0, 10_000.0, 0.0, None)
    assert (empty.trades, empty.win_rate, empty.max_drawdown) == (0, None, 0.0)


def test_a_flat_episode_has_no_marked_trade(world: Any) -> None:
    episode, _ = close_after(world, ([1.0, 1.0, 0.0, 0.0, 1.0],), 4, TrialStatus.FINISHED)
    assert [trade.status for trade in trades_of(world.store, episode.number)] == ["CLOSED"]


def test_an_open_trade_is_marked_as_the_environment_would_mark_it(world: Any) -> None:
    """The simulator ends the same episode at the same step; its own mark is the reference."""
    targets = [0.0, -1.0, -0.5, -1.0, -1.0, 1.0, 0.5, -1.0, -1.0]
    run = world.begin()
    number = run.runners[0].lanes[0][0].number
    whole = world.Episode(number, targets)
    run.runners[0].send(whole.between(0, 5))
    world.writer.close_trial(run.trial_id, TrialStatus.CRASHED, "lost")
    reference = world.Episode(number, targets[:5]).cut[Record.TRADES][-1][1]
    (marked,) = trades_of(world.store, number)
    for stored, expected in zip(marked, reference, strict=True):
        assert stored == (pytest.approx(expected, rel=1e-9) if isinstance(expected, float) else expected)
    assert marked.status == "MARKED"
    assert marked.borrow > 0.0


targets = st.lists(st.sampled_from([-1.0, -0.5, 0.0, 0.5, 1.0]), min_size=1, max_size=50)


@settings(deadline=None, max_examples=15)
@given(episodes=st.lists(st.tuples(targets, st.sampled_from(["next_open", "next_close"])), min_size=1, max_size=6))
def test_wherever_an_episode_is_cut_its_money_adds_up(
    episodes: list[Any], sqlite_backend: Any, world_type: Any
) -> None:
    """Both fills, any targets, every cut: the database is green and each episode's pnl is its trades' pnl."""
    with closing(world_type(sqlite_backend.empty())) as world:
        run = world.begin()
        runner = run.runners[0]
        for targets, fill in episodes:
            episode = world.Episode(next(runner.numbers), targets, fill=fill)
            for stop in {len(targets), (len(targets) + 1) // 2}:
                cut = world.Episode(next(runner.numbers), targets, fill=fill) if stop < len(targets) else episode
                runner.send(cut.between(0, stop))
        run.runner(1)
        world.writer.close_trial(run.trial_id, TrialStatus.FAILED, "boom")
        assert red_rules(world) == set()


def test_a_new_incarnation_closes_what_the_lost_one_left_and_nothing_else(world: Any) -> None:
    run = world.begin()
    run.train(7)
    lost, other = run.runners
    run.runner(1)
    statuses = {row.producer_no: row.status for row in world.store.list_episodes(run.trial_id)}
    assert statuses == {lost.grant.producer_no: EpisodeStatus.ABANDONED, other.grant.producer_no: EpisodeStatus.OPEN}
    assert red_rules(world) == set()


def test_episodes_whose_steps_were_not_recorded_are_closed_with_unknown_totals(world: Any) -> None:
    run = world.begin(0, steps_sent=False)
    run.train(7)
    world.writer.close_trial(run.trial_id, TrialStatus.CRASHED, "lost")
    row = world.store.list_episodes(run.trial_id)[0]
    assert (row.status, row.total_steps, row.final_equity, row.pnl) == (EpisodeStatus.ABANDONED, None, None, None)
    assert red_rules(world) == set()


def test_units_without_fills_do_not_keep_a_trial_from_ending(world: Any) -> None:
    run = world.begin()
    rows = run.runners[0].lanes[0][0].between(0, 7)
    del rows[Record.FILLS]
    run.runners[0].send(rows)
    world.writer.close_trial(run.trial_id, TrialStatus.CRASHED, "lost")
    assert world.store.get_trial(run.trial_id).status == TrialStatus.CRASHED
    assert "hold_where_no_fill" in red_rules(world)
