"""The tape: its rows against the slow reference, its laws, and what it does at edges of fragments and episodes."""

from __future__ import annotations

import math
from itertools import count

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tradesweep.env import Kernel, Tape, TradingVectorEnv
from tradesweep.names import EPISODE_STEP_BITS, RECORD_COLUMNS, EpisodeRole, Record

POSITIONS = (-1.0, -0.5, 0.0, 0.4, 1.0)
FILLS = ("next_open", "next_close")
TAPED = (Record.EPISODES_OPENED, Record.STEPS, Record.FILLS, Record.TRADES, Record.EPISODES_CLOSED)


def rows_of(columns) -> list[dict]:
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def merge(drains) -> dict[Record, list[dict]]:
    return {kind: [row for drain in drains for row in rows_of(drain[kind])] for kind in TAPED}


def record_lanes(box, bars, config, targets_TE, starts, stops, *, drain_every: int, rows: int = 512):
    """Run every lane through one episode and give all taped rows."""
    kernel = box.kernel(bars, config, lanes=len(starts))
    tape = box.tape(rows=rows)
    kernel.record_to(tape)
    box.start(kernel, starts, stops)
    drains = []
    for k, targets_E in enumerate(targets_TE):
        kernel.step(targets_E)
        if (k + 1) % drain_every == 0:
            drains.append(tape.drain(k))
    return merge([*drains, tape.drain(len(targets_TE))])


def slow_sharpe(equity, periods_per_year):
    returns = np.diff(equity) / equity[:-1]
    if len(returns) < 30 or returns.std(ddof=1) < 1e-12:
        return math.nan
    return math.sqrt(periods_per_year) * returns.mean() / returns.std(ddof=1)


def assert_steps_match(rows, episode, bars):
    assert [row["step_id"] & 0xFFFFFF for row in rows] == list(range(len(episode.steps)))
    for row, step in zip(rows, episode.steps, strict=True):
        assert row["bar"] == step.bar
        assert row["decision_time"] == bars.time_us[step.bar]
        assert row["mark_time"] == bars.time_us[step.bar + 1]
        assert row["mark_price"] == bars.close[step.bar + 1]
        assert row["target"] == step.target
        expected = math.nan if step.fill_price is None else step.fill_price
        assert row["fill_price"] == pytest.approx(expected, rel=1e-12, nan_ok=True)
        for name in ("units", "equity", "reward", "cost"):
            assert row[name] == pytest.approx(getattr(step, name), rel=1e-9, abs=1e-8)


def assert_fills_match(rows, episode):
    legs = [(step.t, leg_no, leg) for step in episode.steps for leg_no, leg in enumerate(step.legs)]
    assert [(row["step_id"] & 0xFFFFFF, row["leg"]) for row in rows] == [(t, leg_no) for t, leg_no, _ in legs]
    for row, (_, _, leg) in zip(rows, legs, strict=True):
        assert (row["operation"], row["trade_no"]) == (leg.operation, leg.trade_no)
        for name in ("quantity", "price", "fee", "slippage"):
            assert row[name] == pytest.approx(getattr(leg, name), rel=1e-9, abs=1e-12)


def assert_trades_match(rows, episode, bars):
    ended = [(no, trade) for no, trade in enumerate(episode.trades) if trade.status != "OPEN"]
    assert [row["trade_no"] for row in rows] == [no for no, _ in ended]
    for row, (_, trade) in zip(rows, ended, strict=True):
        entered = sum(abs(leg.quantity) for leg in trade.entries)
        left = abs(sum(leg.quantity for leg in trade.entries + trade.exits)) if trade.status == "MARKED" else 0.0
        exited = sum(abs(leg.quantity) for leg in trade.exits) + left
        paid_in = sum(abs(leg.quantity) * leg.price for leg in trade.entries)
        paid_out = sum(abs(leg.quantity) * leg.price for leg in trade.exits) + abs(trade.rest)
        expected = {
            "direction": trade.direction,
            "status": trade.status,
            "entry_time": bars.time_us[episode.start + trade.entry_t + 1],
            "exit_time": bars.time_us[episode.start + trade.exit_t + 1],
            "entry_price": pytest.approx(paid_in / entered, rel=1e-9),
            "exit_price": pytest.approx(paid_out / exited, rel=1e-9),
            "quantity": pytest.approx(entered, rel=1e-9),
            "pnl": pytest.approx(trade.pnl, rel=1e-7, abs=1e-5),
            "fees": pytest.approx(sum(leg.fee for leg in trade.entries + trade.exits), rel=1e-9),
            "slippage": pytest.approx(sum(leg.slippage for leg in trade.entries + trade.exits), rel=1e-9),
            "borrow": pytest.approx(trade.borrow, rel=1e-9, abs=1e-12),
        }
        assert {name: row[name] for name in expected} == expected
        assert (row["entry_step_id"] & 0xFFFFFF, row["exit_step_id"] & 0xFFFFFF) == (trade.entry_t, trade.exit_t)


def assert_closing_matches(row, episode, config):
    equity = np.array([config.initial_equity, *(step.equity for step in episode.steps)])
    closed = [trade for trade in episode.trades if trade.status == "CLOSED"]
    ruined = episode.steps[-1].terminated
    drawdown = 1 - (equity / np.maximum.accumulate(equity)).min()
    expected = {
        "status": "COMPLETED",
        "end_reason": "RUINED" if ruined else "LAST_BAR",
        "final_equity": pytest.approx(equity[-1], abs=1e-5),
        "pnl": pytest.approx(equity[-1] - equity[0], abs=1e-5),
        "total_reward": pytest.approx(sum(step.reward for step in episode.steps), rel=1e-9, abs=1e-9),
        "total_steps": len(episode.steps),
        "sharpe": pytest.approx(slow_sharpe(equity, config.periods_per_year), rel=1e-9, abs=1e-9, nan_ok=True),
        "max_drawdown": pytest.approx(drawdown, rel=1e-9, abs=1e-12),
        "trades": len(closed),
        "win_rate": pytest.approx(np.mean([trade.pnl > 0 for trade in closed]) if closed else math.nan, nan_ok=True),
        "ruined": int(ruined),
    }
    assert {name: row[name] for name in expected} == expected


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize(("drain_every", "rows"), [(1000, 512), (7, 512), (1, 2), (13, 4)])
def test_every_row_equals_the_slow_reference_wherever_fragments_are_cut(box, fill, drain_every, rows):
    lanes, length = 24, 45
    bars, config = box.random_bars(4, n_bars=200, dead=10), box.config(fill=fill)
    rng = np.random.default_rng(9)
    targets_TE = rng.choice(POSITIONS, (length, lanes))
    targets_TE[:, :8] = np.repeat(targets_TE[::9, :8], 9, axis=0)[:length]  # long trades
    starts = rng.integers(0, 200 - length - 1, lanes)
    stops = starts + rng.integers(2, length + 2, lanes)
    stops[:12] = starts[:12] + length
    taped = record_lanes(box, bars, config, targets_TE, starts, stops, drain_every=drain_every, rows=rows)
    assert sorted(row["episode_no"] for row in taped[Record.EPISODES_CLOSED]) == list(range(1, lanes + 1))
    for lane in range(lanes):
        episode = box.slow(bars, config, starts[lane], stops[lane]).run(targets_TE[:, lane])
        number = lane + 1
        mine = {
            kind: [row for row in taped[kind] if (row.get("episode_no") or row["step_id"] >> 24) == number]
            for kind in TAPED
        }
        assert mine[Record.EPISODES_OPENED][0]["start_bar"] == starts[lane]
        assert_steps_match(mine[Record.STEPS], episode, bars)
        assert_fills_match(mine[Record.FILLS], episode)
        assert_trades_match(mine[Record.TRADES], episode, bars)
        assert_closing_matches(mine[Record.EPISODES_CLOSED][0], episode, config)


@given(
    seed=st.integers(0, 2**32 - 1),
    fill=st.sampled_from(FILLS),
    fragment=st.integers(1, 40),
    sigma=st.sampled_from([0.003, 0.02, 0.1]),
)
@settings(deadline=None, max_examples=60)
def test_equity_moves_by_the_pnl_of_trades(box, seed, fill, fragment, sigma):
    bars, config = box.random_bars(seed, n_bars=60, sigma=sigma), box.config(fill=fill)
    targets = np.random.default_rng(seed).choice(POSITIONS, (59, 1))
    taped = record_lanes(box, bars, config, targets, [0], [60], drain_every=fragment)
    pnl = sum(row["pnl"] for row in taped[Record.TRADES])
    closing = taped[Record.EPISODES_CLOSED][0]
    assert closing["final_equity"] - config.initial_equity == pytest.approx(pnl, abs=1e-9 * config.initial_equity)
    assert sum(row["fee"] for row in taped[Record.FILLS]) == pytest.approx(
        sum(row["fees"] for row in taped[Record.TRADES]), rel=1e-9, abs=1e-9
    )


@pytest.mark.parametrize("fill", FILLS)
def test_costs_of_steps_are_those_of_fills_and_borrow(box, fill):
    bars, config = box.random_bars(8, sigma=0.01), box.config(fill=fill)
    targets = np.random.default_rng(8).choice(POSITIONS, (59, 1))
    taped = record_lanes(box, bars, config, targets, [0], [60], drain_every=100)
    paid = sum(row["fee"] + row["slippage"] for row in taped[Record.FILLS])
    borrow = sum(row["borrow"] for row in taped[Record.TRADES])
    assert sum(row["cost"] for row in taped[Record.STEPS]) == pytest.approx(paid + borrow, rel=1e-10)


def test_fee_is_charged_once_per_leg(box):
    taped = record_lanes(
        box, box.bars([100] * 5, [100] * 5), box.config(), np.array([[1], [1], [-1], [0]]), [0], [5], drain_every=9
    )
    assert [row["operation"] for row in taped[Record.FILLS]] == [
        "ENTRY_LONG",
        "EXIT_LONG",
        "ENTRY_SHORT",
        "EXIT_SHORT",
    ]
    assert [row["leg"] for row in taped[Record.FILLS]] == [0, 0, 1, 0]
    for row in taped[Record.FILLS]:
        assert row["fee"] == pytest.approx(0.001 * abs(row["quantity"]) * row["price"], rel=1e-12)


def test_growing_is_an_entry_and_shrinking_an_exit_of_one_trade(box):
    taped = record_lanes(
        box,
        box.bars([100] * 6, [100] * 6),
        box.config(),
        np.array([[0.5], [1], [0.25], [-0.5], [-0.25]]),
        [0],
        [6],
        drain_every=2,
    )
    fills = taped[Record.FILLS]
    assert [(row["operation"], row["trade_no"]) for row in fills] == [
        ("ENTRY_LONG", 0),
        ("ENTRY_LONG", 0),
        ("EXIT_LONG", 0),
        ("EXIT_LONG", 0),
        ("ENTRY_SHORT", 1),
        ("EXIT_SHORT", 1),
    ]
    assert [row["status"] for row in taped[Record.TRADES]] == ["CLOSED", "MARKED"]


# --- shape of what is drained -------------------------------------------------------------------------------------


def random_env(box, *, lanes=5, tape=None, **changes):
    market = box.market(box.random_bars(2, n_bars=200), first_valid=6)
    return TradingVectorEnv(market, box.config(**changes), lanes=lanes, tape=tape)


def test_drained_columns_are_those_of_the_record_kinds(box):
    tape = box.tape()
    env = random_env(box, tape=tape)
    for steps in (0, 1, 60):
        env.reset(seed=0)
        for _ in range(steps):
            env.step(np.random.default_rng(steps).integers(0, 3, 5))
        drained = tape.drain(3)
        assert tuple(drained) == TAPED
        for kind, columns in drained.items():
            assert set(columns) == {column.name for column in RECORD_COLUMNS[kind]}
            assert len({len(values) for values in columns.values()}) == 1
            for column in RECORD_COLUMNS[kind]:
                values = columns[column.name]
                if column.kind == "int" and isinstance(values, np.ndarray):
                    assert values.dtype.kind == "i", column.name
                if column.kind == "float" and not column.nullable:
                    assert np.isfinite(np.array(values, float)).all(), column.name
                if column.kind == "text":
                    assert all(type(value) is str or value is None for value in values), column.name


def test_steps_are_lane_major_and_carry_weights_version_and_action(box):
    tape = box.tape()
    env = random_env(box, tape=tape)
    env.reset(seed=0)
    actions_TE = np.random.default_rng(1).integers(0, 3, (30, 5))
    active_TE = []
    for actions_E in actions_TE:
        env.step(actions_E)
        active_TE.append(~env.reset_rows_E)
    steps = tape.drain(41)[Record.STEPS]
    np.testing.assert_array_equal(steps["action"], actions_TE.T[np.array(active_TE).T])
    assert (steps["weights_version"] == 41).all()


def test_reset_rows_are_not_recorded(box):
    tape = box.tape()
    env = random_env(box, tape=tape, episode_bars=4)
    env.reset(seed=0)
    for _ in range(10):  # 4 steps, a reset row, 4 steps, a reset row
        env.step(np.full(5, 1))
    drained = tape.drain(0)
    assert len(drained[Record.STEPS]["step_id"]) == 5 * 8
    assert drained[Record.EPISODES_CLOSED]["total_steps"].tolist() == [4] * 10
    assert len(drained[Record.EPISODES_OPENED]["lane"]) == 15


@pytest.mark.parametrize(("rows", "drain_every"), [(512, 100), (5, 100), (512, 3)])
def test_step_ids_count_from_zero_in_every_episode_wherever_fragments_are_cut(box, rows, drain_every):
    tape = box.tape(rows=rows)
    env = random_env(box, tape=tape, lanes=3, episode_bars=4)
    env.reset(seed=0)
    found = []
    for k in range(14):  # 4 steps and a reset row, twice, and 4 steps
        env.step(np.full(3, 1))
        if k % drain_every == drain_every - 1:
            found += tape.drain(0)[Record.STEPS]["step_id"].tolist()
    found += tape.drain(0)[Record.STEPS]["step_id"].tolist()
    assert sorted(found) == [number << EPISODE_STEP_BITS | t for number in range(1, 10) for t in range(4)]
    assert env.positions_of_lanes() == [(number, 4) for number in (7, 8, 9)]


def test_openings_say_lane_seed_role_and_start(box):
    tape = box.tape(role=EpisodeRole.TRAIN, clock_us=lambda: 77)
    env = random_env(box, tape=tape, lanes=2)
    env.reset(seed=5)
    opened = tape.drain(0)[Record.EPISODES_OPENED]
    assert opened["role"] == ["train", "train"]
    assert opened["lane"] == [0, 1]
    assert opened["seed"] == [5, 6]
    assert opened["started_at"] == [77, 77]
    assert opened["start_bar"] == env.kernel.bar_E.tolist()
    assert opened["start_time"] == env.kernel.bars.time_us[env.kernel.bar_E].tolist()
    assert opened["initial_equity"] == [10_000.0] * 2


def test_episode_numbers_come_from_the_owner(box):
    tape = Tape(next_episode_no=count(500).__next__)
    env = random_env(box, tape=tape, lanes=3)
    env.reset(seed=0)
    env.step(np.zeros(3, int))
    assert env.positions_of_lanes() == [(500, 1), (501, 1), (502, 1)]
    assert tape.drain(0)[Record.STEPS]["step_id"].tolist() == [n << EPISODE_STEP_BITS for n in (500, 501, 502)]


@pytest.mark.parametrize("steps", [0, 1, 7])
@pytest.mark.parametrize("drained_before", [False, True])
def test_a_reset_in_mid_episode_closes_it_as_truncated(box, steps, drained_before):
    tape = box.tape()
    env = random_env(box, tape=tape, lanes=1)
    env.reset(seed=0)
    for _ in range(steps):
        env.step(np.array([2]))
    early = [tape.drain(0)] if drained_before else []
    equity = float(env.kernel.equity_E[0])
    env.reset()
    taped = merge([*early, tape.drain(0)])
    closing = taped[Record.EPISODES_CLOSED][0]
    assert (closing["status"], closing["end_reason"], closing["total_steps"]) == ("TRUNCATED", "RESET", steps)
    assert closing["final_equity"] == equity
    assert closing["pnl"] == pytest.approx(sum(row["pnl"] for row in taped[Record.TRADES]), abs=1e-8)
    assert [row["status"] for row in taped[Record.TRADES]] == ["MARKED"] * bool(steps)
    assert len(taped[Record.EPISODES_OPENED]) == 2


def test_an_episode_that_begins_after_a_reset_starts_from_nothing(box):
    tape = box.tape()
    env = random_env(box, tape=tape, lanes=1, episode_bars=40)
    env.reset(seed=0)
    for _ in range(9):
        env.step(np.array([2]))
    env.reset()
    for k in range(40):
        env.step(np.array([k // 5 % 3]))
    closing = rows_of(tape.drain(0)[Record.EPISODES_CLOSED])[1]
    assert closing["total_steps"] == 40
    assert closing["pnl"] == closing["final_equity"] - 10_000.0


def test_drained_arrays_are_never_written_again(box):
    tape = box.tape(rows=8)
    env = random_env(box, tape=tape, lanes=1)
    env.reset(seed=0)
    for _ in range(5):
        env.step(np.array([2]))
    drained = tape.drain(0)
    kept = {name: np.array(values) for name, values in drained[Record.STEPS].items()}
    for _ in range(20):
        env.step(np.array([0]))
    for name, values in drained[Record.STEPS].items():
        np.testing.assert_array_equal(values, kept[name])


def test_roles_may_differ_by_lane_and_idle_lanes_leave_nothing(box):
    bars, config = box.random_bars(0), box.config()
    roles = [EpisodeRole.VALIDATION, EpisodeRole.STRESS, EpisodeRole.TRAIN]
    tape = box.tape(role=roles)
    kernel: Kernel = box.kernel(bars, config, lanes=3)
    kernel.record_to(tape)
    kernel.reset(np.array([True, True, False]), np.array([0, 0, 0]), np.array([6, 9, 0]))
    for _ in range(8):
        kernel.step(np.ones(3))
    drained = tape.drain(0)
    assert drained[Record.EPISODES_OPENED]["role"] == ["validation", "stress"]
    assert drained[Record.EPISODES_CLOSED]["total_steps"].tolist() == [5, 8]


def test_a_step_belongs_to_one_tape_or_to_none(box):
    first, second = box.tape(), box.tape()
    env = random_env(box, tape=first, lanes=2)
    env.reset(seed=0)
    env.step(np.array([2, 2]))
    env.record_to(second)
    env.reset(seed=0)
    env.step(np.array([2, 2]))
    assert first.drain(0)[Record.EPISODES_CLOSED]["end_reason"].tolist() == ["RESET", "RESET"]
    assert len(second.drain(0)[Record.STEPS]["step_id"]) == 2


def test_a_ruined_episode_says_so_with_its_true_equity(box):
    bars = box.bars([100, 100, 250, 100], [100, 100, 250, 100])
    taped = record_lanes(box, bars, box.config(), -np.ones((3, 1)), [0], [4], drain_every=5)
    closing = taped[Record.EPISODES_CLOSED][0]
    assert (closing["ruined"], closing["end_reason"], closing["total_steps"]) == (1, "RUINED", 2)
    assert closing["final_equity"] < 0
    assert closing["max_drawdown"] > 1.0
