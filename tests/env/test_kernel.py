"""The accounting kernel against the fixture, against a slow scalar reference, and against its laws."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tradesweep.env import Costs

OPENS, CLOSES = [100, 101, 103, 99, 98, 104], [100, 102, 100, 97, 105, 103]
FIXTURE = {
    "next_open": ([10083.879040, 9886.155922, 9954.161164, 9164.602087, 9247.786258], -752.213742),
    "next_close": ([9985.017481, 9789.232825, 9467.121306, 8685.303004, 8879.496110], -1120.503890),
}
FILLS = ("next_open", "next_close")
POSITIONS = (-1.0, -0.5, 0.0, 0.4, 1.0)
seeds = st.integers(0, 2**32 - 1)


def run_kernel(kernel, targets_TE):
    """All rows of a run as copied columns (T, E); quantities are (T, 2, E)."""
    names = ("equity", "units", "target", "reward", "cost", "borrow", "quantity", "terminated", "truncated", "active")
    rows = [
        {name: getattr(row, name).copy() for name in names} | {"fill_price": row.fill_price}
        for row in (kernel.step(targets_E) for targets_E in targets_TE)
    ]
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def run_one(box, bars, config, targets, start=0, stop=None):
    kernel = box.kernel(bars, config)
    box.start(kernel, [start], [len(bars) if stop is None else stop])
    return run_kernel(kernel, np.array(targets, float)[:, None])


@pytest.mark.parametrize("fill", FILLS)
def test_kernel_reproduces_the_fixture(box, fill):
    equity, _ = FIXTURE[fill]
    run = run_one(box, box.bars(OPENS, CLOSES), box.config(fill=fill), [1, 1, -1, -1, 0])
    np.testing.assert_allclose(run["equity"][:, 0], equity, rtol=0, atol=1e-6)
    assert run["truncated"][:, 0].tolist() == [False] * 4 + [True]
    assert not run["terminated"].any()


def test_ruin_fixture_terminates_at_the_second_step(box):
    run = run_one(box, box.bars([100, 100, 190, 100], [100, 100, 195, 100]), box.config(), [-1, -1, -1])
    np.testing.assert_allclose(run["equity"][:2, 0], [9984.028949, 969.037428], rtol=0, atol=1e-6)
    assert run["terminated"][:, 0].tolist() == [False, True, False]
    assert run["active"][:, 0].tolist() == [True, True, False]


def test_an_order_at_the_last_close_is_dropped(box):
    run = run_one(box, box.bars(OPENS, CLOSES), box.config(fill="next_close"), [1, 1, -1, -1, 0])
    assert run["target"][-1, 0] == -1.0
    assert (run["quantity"][-1] == 0).all()


def assert_equal_to_slow(run, lane, episode, initial_equity):
    steps = episode.steps
    column = {name: [getattr(step, name) for step in steps] for name in ("equity", "units", "target", "reward", "cost")}
    for name in ("equity", "cost"):
        np.testing.assert_allclose(run[name][: len(steps), lane], column[name], rtol=0, atol=1e-9 * initial_equity)
    for name in ("units", "target", "reward"):
        np.testing.assert_allclose(run[name][: len(steps), lane], column[name], rtol=1e-9, atol=1e-9)
    assert run["terminated"][: len(steps), lane].tolist() == [step.terminated for step in steps]
    assert run["truncated"][: len(steps), lane].tolist() == [step.truncated for step in steps]
    assert not run["active"][len(steps) :, lane].any()
    for k, step in enumerate(steps):
        filled = run["quantity"][k, :, lane]
        np.testing.assert_allclose(filled[filled != 0], [leg.quantity for leg in step.legs], rtol=1e-9)


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("delay", [0, 2])
def test_kernel_equals_the_slow_reference_over_many_random_episodes(box, fill, delay):
    lanes, length = 80, 40
    bars = box.random_bars(7, n_bars=200, dead=12)
    config = box.config(fill=fill, extra_delay_bars=delay)
    rng = np.random.default_rng(3)
    targets_TE = rng.choice(POSITIONS, (length, lanes))
    targets_TE[1:][rng.random((length - 1, lanes)) < 0.4] = 0.4  # some targets are held
    starts = rng.integers(0, len(bars) - length - 1, lanes)
    stops = starts + rng.integers(2, length + 2, lanes)
    kernel = box.kernel(bars, config, lanes=lanes)
    box.start(kernel, starts, stops)
    run = run_kernel(kernel, targets_TE)
    episodes = [box.slow(bars, config, starts[i], stops[i]).run(targets_TE[:, i]) for i in range(lanes)]
    for lane, episode in enumerate(episodes):
        assert_equal_to_slow(run, lane, episode, config.initial_equity)
    assert any(episode.steps[-1].terminated for episode in episodes), "the market must ruin somebody"


@given(seed=seeds, fill=st.sampled_from(FILLS), fee=st.floats(0, 200), slip=st.floats(0, 200))
@settings(deadline=None, max_examples=60)
def test_kernel_equals_the_slow_reference_for_any_costs(box, seed, fill, fee, slip):
    bars = box.random_bars(seed, n_bars=25)
    config = box.config(fill=fill, costs=Costs(fee_bps=fee, slippage_bps=slip, borrow_bps_per_year=900))
    targets = np.random.default_rng(seed).choice(POSITIONS, 24)
    run = run_one(box, bars, config, targets)
    assert_equal_to_slow(run, 0, box.slow(bars, config, 0, 25).run(targets), config.initial_equity)


# --- laws -------------------------------------------------------------------------------------------------------


@given(seed=seeds, fill=st.sampled_from(FILLS), target=st.sampled_from([-1.0, -0.3, 0.25, 1.0]))
@settings(deadline=None, max_examples=60)
def test_exposure_right_after_a_fill_is_the_target(box, seed, fill, target):
    bars = box.random_bars(seed, n_bars=4, sigma=0.01)
    config = box.config(fill=fill)
    kernel = box.kernel(bars, config)
    box.start(kernel, [0], [4])
    kernel.step(np.array([-target]))
    row = kernel.step(np.array([target]))
    price = row.price[0]
    cash_after_fill = kernel.cash_E + (row.borrow if fill == "next_open" else 0.0)
    exposure = row.units * price / (cash_after_fill + row.units * price)
    assume(row.leg_mask.all())  # a gap may have ruined the first position
    assert exposure[0] == pytest.approx(target, abs=1e-12)


def test_units_are_held_while_the_target_stays(box):
    bars = box.random_bars(1, sigma=0.01)
    run = run_one(box, bars, box.config(ruin_fraction=0.0), [0.5] * 10)
    assert (run["units"][:, 0] == run["units"][0, 0]).all()
    assert (run["quantity"][1:] == 0).all()


def test_a_reversal_pays_for_both_legs(box):
    config = box.config(costs=Costs(fee_bps=10, slippage_bps=0, borrow_bps_per_year=0))
    run = run_one(box, box.bars([100] * 4, [100] * 4), config, [1, -1, -1])
    held = run["units"][0, 0]
    sold = -run["units"][1, 0]
    assert run["cost"][1, 0] == pytest.approx(0.001 * 100 * (held + sold), rel=1e-12)


def test_equity_stays_negative_after_a_short_gap(box):
    run = run_one(box, box.bars([100, 100, 250, 100], [100, 100, 250, 100]), box.config(), [-1, -1, -1])
    assert run["equity"][1, 0] < 0
    assert run["terminated"][1, 0]
    assert run["reward"][1, 0] == pytest.approx(np.log(1e-3 * 10_000 / run["equity"][0, 0]), rel=1e-12)


def test_a_lane_below_the_ruin_line_at_the_open_is_closed_by_force(box):
    run = run_one(box, box.bars([100, 100, 185, 100], [100, 100, 100, 100]), box.config(), [-1, -1, -1])
    assert run["target"][1, 0] == 0.0
    assert run["units"][1, 0] == 0.0
    assert run["quantity"][1, 0, 0] > 0


@pytest.mark.parametrize("fill", FILLS)
def test_an_untradable_bar_changes_nothing(box, fill):
    bars = box.bars([100, 101, 102, 103], [100, 101, 102, 103], dead=[2])
    run = run_one(box, bars, box.config(fill=fill), [1, -1, -1])
    assert run["target"][:, 0].tolist()[:2] == [1.0, 1.0]
    assert run["units"][1, 0] == run["units"][0, 0]


def test_costs_are_per_lane_and_the_multiplier_scales_all(box):
    bars, config = box.random_bars(5), box.config()
    doubled = Costs(fee_bps=20, slippage_bps=10, borrow_bps_per_year=504)
    multiplied = Costs(fee_bps=10, slippage_bps=5, borrow_bps_per_year=252, multiplier=2.0)
    kernel = box.kernel(bars, config, lanes=3, costs=[config.costs, doubled, multiplied])
    box.start(kernel, [0] * 3, [30] * 3)
    targets_TE = np.random.default_rng(0).choice(POSITIONS, (29, 1)).repeat(3, axis=1)
    run = run_kernel(kernel, targets_TE)
    np.testing.assert_allclose(run["equity"][:, 1], run["equity"][:, 2], rtol=1e-12)
    assert (run["equity"][-1, 0] != run["equity"][-1, 1]).all()


def test_a_delay_uses_the_target_of_so_many_bars_ago_and_starts_flat(box):
    run = run_one(box, box.bars(OPENS, CLOSES), box.config(extra_delay_bars=2), [1, -1, 1, 1, 1])
    assert run["target"][:, 0].tolist() == [0.0, 0.0, 1.0, -1.0, 1.0]


# --- lanes ------------------------------------------------------------------------------------------------------


def test_idle_lanes_stand_still_and_lanes_do_not_touch_each_other(box):
    bars, config = box.random_bars(11, sigma=0.01), box.config(extra_delay_bars=1)
    rng = np.random.default_rng(0)
    targets_TE = rng.choice(POSITIONS, (60, 2))
    together, alone = box.kernel(bars, config, lanes=2), box.kernel(bars, config)
    box.start(together, [0, 5], [50, 50])
    box.start(alone, [0], [50])
    for k in range(60):
        active = np.array([k % 3 != 0, True])
        before = together.equity_E.copy()
        row = together.step(targets_TE[k], active)
        if k % 3:
            assert row.equity[0] == alone.step(targets_TE[k, :1]).equity[0]
        else:
            assert row.equity[0] == before[0]
            assert not row.active[0]
            assert row.reward[0] == row.cost[0] == 0.0


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("target", [-0.5, 0.0, 1.0])
def test_a_step_in_which_nobody_trades_has_the_bits_of_one_in_which_others_do(box, fill, target):
    bars, config = box.random_bars(3, sigma=0.01), box.config(fill=fill)
    alone, beside = box.kernel(bars, config), box.kernel(bars, config, lanes=2)
    box.start(alone, [0], [50])
    box.start(beside, [0, 5], [50, 55])
    for k in range(49):
        one, two = alone.step(np.array([target])), beside.step(np.array([target, float(k % 2)]))
        for name in ("units", "equity", "reward", "cost", "borrow", "price"):
            assert getattr(one, name)[0] == getattr(two, name)[0], name
        assert (one.quantity[:, 0] == two.quantity[:, 0]).all()
        assert two.quantity[:, 1].any() or k == 0 or k == 48
    assert alone.done_E[0]
    assert beside.done_E[0]


def test_a_lane_that_was_never_reset_is_done(box):
    kernel = box.kernel(box.random_bars(0), box.config(), lanes=2)
    kernel.reset(np.array([True, False]), np.array([3, 0]), np.array([9, 0]))
    row = kernel.step(np.array([1.0, 1.0]))
    assert row.active.tolist() == [True, False]
    assert kernel.done_E.tolist() == [False, True]
    assert kernel.step_E.tolist()[0] == 1


def test_observed_trade_state_begins_at_the_opening_leg(box):
    kernel = box.kernel(box.bars(OPENS, CLOSES), box.config())
    box.start(kernel, [0], [6])
    kernel.step(np.array([1.0]))
    assert kernel.trade_equity_E[0] == 10_000.0
    kernel.step(np.array([1.0]))
    assert kernel.bars_in_trade_E[0] == 1
    kernel.step(np.array([-1.0]))
    assert kernel.bars_in_trade_E[0] == 0
    assert kernel.trade_equity_E[0] == pytest.approx(98.86155922048869 * 99 * (1 - 0.0005) * (1 - 0.001), rel=1e-12)


# --- traps: each is planted into the slow reference, which must then part from the kernel ------------------------

SQUEEZE = ([100, 100, 104, 250, 100, 100], [100, 103, 104, 240, 100, 100])
DRIFTING = (OPENS, CLOSES)
TRAPS = {
    "fill_at_close_t": ("next_open", DRIFTING, [1, 1, -1, -1, 0]),
    "fee_once": ("next_open", DRIFTING, [1, 1, -1, -1, 0]),
    "fee_on_mid": ("next_open", DRIFTING, [1, 1, -1, -1, 0]),
    "sized_before_closing": ("next_close", DRIFTING, [1, 1, -1, -1, 0]),
    "borrow_on_proceeds": ("next_open", DRIFTING, [-1, -1, -1, -1, -1]),
    "borrow_by_days": ("next_open", DRIFTING, [-1, -1, -1, -1, -1]),
    "units_recomputed": ("next_open", DRIFTING, [-0.5, -0.5, -0.5, -0.5, -0.5]),
    "fill_beyond_split": ("next_close", DRIFTING, [1, 1, -1, -1, 0]),
    "equity_clipped": ("next_open", SQUEEZE, [-1, -1, -1, -1, -1]),
    "log_unguarded": ("next_open", SQUEEZE, [-1, -1, -1, -1, -1]),
    "ruin_escapes": ("next_open", SQUEEZE, [-1, -1, -1, -1, -1]),
    "marked_at_open": ("next_open", DRIFTING, [1, 1, -1, -1, 0]),
}


@pytest.mark.parametrize("trap", TRAPS)
def test_a_planted_trap_is_told_from_the_kernel(box, trap):
    fill, (opens, closes), targets = TRAPS[trap]
    bars, config = box.bars(opens, closes), box.config(fill=fill)
    run = run_one(box, bars, config, targets)
    right, wrong = (box.slow(bars, config, 0, len(opens), planted).run(targets) for planted in ("", trap))
    assert_equal_to_slow(run, 0, right, config.initial_equity)
    with pytest.raises(AssertionError):
        assert_equal_to_slow(run, 0, wrong, config.initial_equity)
