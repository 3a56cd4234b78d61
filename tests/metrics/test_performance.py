import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tradesweep.metrics import (
    annual_return,
    average_blocks,
    calmar,
    compound_blocks,
    equity_returns,
    max_drawdown,
    max_drawdown_batch,
    sharpe,
    sharpe_batch,
    sortino,
    turnover,
)

few = settings(deadline=None, max_examples=50)
returns = arrays(float, st.integers(30, 200), elements=st.floats(-0.2, 0.2)).filter(lambda r: r.std() > 1e-6)
equities = arrays(float, st.integers(1, 100), elements=st.floats(0.01, 1e6))


def walk(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0.001, 0.01, n)


# --- Sharpe ---------------------------------------------------------------------------------------------------


def test_sharpe_of_a_hand_computed_path():
    # 20 times +2 %, 20 times 0: mean 0.01, squared deviations 40 * 0.01^2 = 0.004, over 39.
    assert sharpe([0.02, 0.0] * 20, 252) == pytest.approx(math.sqrt(252) * 0.01 / math.sqrt(0.004 / 39), rel=1e-14)


def test_flat_bars_count_as_zero_returns():
    path = walk(100)
    assert sharpe(np.append(path, np.zeros(100)), 252) < sharpe(path, 252)


@pytest.mark.parametrize(
    "path", [np.zeros(50), np.full(50, 0.01), [1e-13, -1e-13] * 20], ids=["flat", "steady", "tiny"]
)
def test_sharpe_is_undefined_where_nothing_moves(path):
    assert sharpe(path, 252) is None


def test_sharpe_needs_thirty_returns():
    assert sharpe(walk(29), 252) is None
    assert sharpe(walk(30), 252) is not None
    assert sharpe([], 252) is None


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("metric", [lambda r: sharpe(r, 252), lambda r: sortino(r, 252), max_drawdown, compound_blocks])
def test_non_finite_input_is_refused_with_its_place(metric, wrong):
    path = 1.0 + walk(40)
    path[7] = wrong
    with pytest.raises(ValueError, match=r"must be finite, was -?(nan|inf) at 7"):
        metric(path)


@few
@given(returns, st.floats(0.01, 100))
def test_sharpe_does_not_change_with_scale_and_turns_with_sign(path, scale):
    assert sharpe(scale * path, 252) == pytest.approx(sharpe(path, 252), rel=1e-9, abs=1e-12)
    assert sharpe(-path, 252) == pytest.approx(-sharpe(path, 252), rel=1e-9, abs=1e-12)


@few
@given(returns)
def test_sharpe_grows_with_the_root_of_the_periods_per_year(path):
    assert sharpe(path, 4 * 252) == pytest.approx(2 * sharpe(path, 252), rel=1e-12)


def test_batched_sharpe_equals_one_by_one():
    paths_TE = np.stack([walk(300, seed) for seed in range(5)] + [np.zeros(300)], axis=1)
    found = sharpe_batch(paths_TE, 252)
    assert np.allclose(found[:5], [sharpe(paths_TE[:, e], 252) for e in range(5)], rtol=1e-12, atol=0)
    assert math.isnan(found[5])
    assert np.isnan(sharpe_batch(paths_TE[:29], 252)).all()


# --- the others -----------------------------------------------------------------------------------------------


def test_sortino_divides_by_the_downside_over_all_bars():
    # mean 0.005; downside: 10 of 40 bars at -0.01, so sqrt(10 * 0.0001 / 40) = 0.005.
    assert sortino([0.01, 0.01, 0.01, -0.01] * 10, 252) == pytest.approx(math.sqrt(252), rel=1e-12)


def test_sortino_is_undefined_without_a_loss():
    assert sortino([0.01, 0.0] * 20, 252) is None
    assert sortino([-0.01] * 29, 252) is None


@pytest.mark.parametrize(
    ("equity", "expected"),
    [
        ([100], 0.0),
        ([100, 110, 120], 0.0),
        ([100, 90, 120, 60, 130], 0.5),
        ([100, 99], 0.01),
        ([100, 50, -20], 1.2),
    ],
)
def test_drawdown_is_the_largest_fall_from_an_earlier_peak(equity, expected):
    assert max_drawdown(equity) == pytest.approx(expected, abs=1e-15)


@few
@given(equities)
def test_drawdown_of_positive_equity_is_between_0_and_1(equity):
    assert 0.0 <= max_drawdown(equity) < 1.0


@few
@given(equities, st.floats(-1e6, -0.01))
def test_drawdown_is_above_1_once_equity_is_negative(equity, debt):
    assert max_drawdown(np.append(equity, debt)) > 1.0


@few
@given(equities, st.floats(0.01, 1e6))
def test_drawdown_never_shrinks_when_a_bar_is_added(equity, last):
    assert max_drawdown(np.append(equity, last)) >= max_drawdown(equity)


def test_batched_drawdown_equals_one_by_one():
    equity = 100 * np.cumprod(1 + np.stack([walk(100, s) for s in range(4)], axis=1), axis=0)
    assert max_drawdown_batch(equity).tolist() == [max_drawdown(equity[:, e]) for e in range(4)]


@pytest.mark.parametrize("equity", [[], [0.0, 1.0], [-5.0, 1.0]])
def test_equity_must_start_above_zero(equity):
    with pytest.raises(ValueError, match="must start above 0"):
        max_drawdown(equity)


def test_annual_return_compounds():
    assert annual_return([100, 150, 121], 1) == pytest.approx(0.1, rel=1e-14)
    assert annual_return([100, 110], 2) == pytest.approx(0.21, rel=1e-14)
    assert annual_return([100, 50, -1], 252) == -1.0
    with pytest.raises(ValueError, match="one bar or more"):
        annual_return([100], 252)


def test_calmar_divides_the_annual_return_by_the_drawdown():
    assert calmar([100, 150, 121], 1) == pytest.approx(0.1 / (29 / 150), rel=1e-12)
    assert calmar([100, 110, 121], 1) is None


def test_turnover_is_traded_value_over_equity_a_year():
    # 50 of 100, then 220 of 110: 0.5 + 2 in two bars of a year of four.
    assert turnover([50, 220], [100, 110, 120], 4) == pytest.approx(5.0)
    assert turnover([], [100], 4) == 0.0
    assert turnover([50, 10], [100, -5, -5], 2) == pytest.approx(0.5)


def test_equity_returns_are_the_ratios_with_the_start_in_front():
    assert equity_returns([100, 110, 99]).tolist() == pytest.approx([0.1, -0.1])
    assert equity_returns([100, 0, 0, -0.0]).tolist() == [-1.0, 0.0, 0.0]
    assert equity_returns([100, -20, -20]).tolist() == [-1.2, 0.0]


# --- blocks ---------------------------------------------------------------------------------------------------


def test_blocks_are_of_equal_length_and_the_last_may_be_shorter():
    assert compound_blocks([0.1, 0.1, -0.5, 1.0, 0.3], 3).tolist() == pytest.approx([0.21, 0.0, 0.3])
    assert average_blocks([1, 3, 5, 7, 9], 3).tolist() == [2.0, 6.0, 9.0]
    assert compound_blocks([], 3).shape == average_blocks([], 3).shape == (0,)


@few
@given(arrays(float, st.integers(1, 300), elements=st.floats(-0.2, 0.2)), st.integers(1, 50))
def test_blocks_compound_to_the_whole_and_are_not_too_many(path, max_blocks):
    blocks = compound_blocks(path, max_blocks)
    assert len(blocks) == len(average_blocks(path, max_blocks)) <= max_blocks
    assert np.prod(1 + blocks) == pytest.approx(np.prod(1 + path), rel=1e-9)


def test_few_bars_are_their_own_blocks():
    path = walk(1258)
    assert np.allclose(compound_blocks(path), path, rtol=0, atol=1e-15)
    assert np.array_equal(average_blocks(path), path)
