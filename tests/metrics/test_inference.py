import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ndtr, ndtri

from tradesweep.metrics import (
    deflated,
    deflated_sharpe,
    expected_max_normal,
    expected_max_sharpe,
    iqm,
    probabilistic_sharpe,
)

few = settings(deadline=None, max_examples=50)


def standardised(n: int, ratio: float) -> np.ndarray:
    """Returns whose mean / std (ddof 1) is exactly `ratio`, skewness 0, kurtosis 1."""
    path = np.tile([1.0, -1.0], n // 2)
    return path / path.std(ddof=1) + ratio


@pytest.mark.parametrize(
    ("trials", "expected"),
    [
        (1, 0.0),
        (2, 1 / math.sqrt(math.pi)),
        (3, 1.5 / math.sqrt(math.pi)),
        (4, 1.0293753730),
        (5, 1.1629644736),
        (10, 1.5387527308),
        (100, 2.5075936364),
    ],
)
def test_expected_maximum_of_normals_as_tabulated(trials, expected):
    # Closed forms for 2 and 3; the rest from the tables of normal order statistics (Harter 1961).
    assert expected_max_normal(trials) == pytest.approx(expected, abs=1e-10)


def test_expected_maximum_agrees_with_a_simulation():
    draws = np.random.default_rng(0).standard_normal((20_000, 50)).max(axis=1)
    assert expected_max_normal(50) == pytest.approx(draws.mean(), abs=4 * draws.std() / math.sqrt(20_000))


@pytest.mark.parametrize("trials", [50, 100, 200, 1000, 10**6])
def test_expected_maximum_is_near_the_approximation_by_two_quantiles(trials):
    gamma = 0.5772156649
    near = (1 - gamma) * ndtri(1 - 1 / trials) + gamma * ndtri(1 - 1 / (trials * math.e))
    assert expected_max_normal(trials) == pytest.approx(near, rel=0.015)


@few
@given(st.integers(1, 10**6))
def test_expected_maximum_grows_with_the_trials(trials):
    assert expected_max_normal(trials + 1) > expected_max_normal(trials)


@few
@given(st.integers(2, 10_000), st.integers(30, 10_000), st.sampled_from([12.0, 252.0, 8760.0]))
def test_hurdle_falls_with_the_root_of_time(trials, bars, periods):
    assert expected_max_sharpe(trials, 4 * bars, periods) == pytest.approx(
        expected_max_sharpe(trials, bars, periods) / 2, rel=1e-12
    )
    assert expected_max_sharpe(trials, bars, periods) == pytest.approx(
        expected_max_normal(trials) / math.sqrt(bars / periods), rel=1e-12
    )


def test_one_trial_has_no_luck():
    assert expected_max_sharpe(1, 252, 252) == 0.0


def test_hurdle_of_a_hundred_trials_over_four_years():
    assert expected_max_sharpe(100, 1008, 252) == pytest.approx(2.5076 / 2, abs=1e-4)
    assert deflated(2.41, 1.22) == pytest.approx(1.19)


@pytest.mark.parametrize(("trials", "bars", "word"), [(0, 252, "n_trials"), (-1, 252, "n_trials"), (5, 0, "n_bars")])
def test_hurdle_needs_a_trial_and_a_bar(trials, bars, word):
    with pytest.raises(ValueError, match=f"{word} must be >= 1"):
        expected_max_sharpe(trials, bars, 252)


def test_probability_by_hand():
    # Two-point returns: skewness 0, kurtosis 1, so the variance in the root is 1.
    path = standardised(100, 0.1)
    assert probabilistic_sharpe(path) == pytest.approx(float(ndtr(0.1 * math.sqrt(99))), abs=1e-12)
    assert probabilistic_sharpe(path, 0.1) == pytest.approx(0.5, abs=1e-12)


def with_ratio(path: np.ndarray, ratio: float) -> np.ndarray:
    return (path - path.mean()) / path.std(ddof=1) + ratio


def test_a_negative_skew_lowers_the_probability():
    lean = np.abs(np.random.default_rng(1).standard_normal(500)) ** 1.5
    assert probabilistic_sharpe(with_ratio(-lean, 0.1)) < probabilistic_sharpe(with_ratio(lean, 0.1))


def test_fat_tails_lower_the_probability():
    even = np.random.default_rng(1).standard_normal(250)
    mirrored, fat = np.append(even, -even), np.append(even**3, -(even**3))
    assert probabilistic_sharpe(with_ratio(fat, 0.1)) < probabilistic_sharpe(with_ratio(mirrored, 0.1))


def test_deflated_probability_is_half_where_the_best_equals_the_luck():
    bars = 400
    luck = expected_max_normal(50) / math.sqrt(bars - 1)
    assert deflated_sharpe(standardised(bars, luck), 50) == pytest.approx(0.5, abs=1e-12)


def test_deflated_probability_falls_with_the_trials():
    path = standardised(400, 0.15)
    found = [deflated_sharpe(path, trials) for trials in (1, 10, 100, 1000)]
    assert found == sorted(found, reverse=True)
    assert found[0] == probabilistic_sharpe(path)


@pytest.mark.parametrize("path", [np.zeros(100), np.full(29, 0.1), []], ids=["flat", "short", "empty"])
def test_probability_is_undefined_where_the_sharpe_ratio_is(path):
    assert probabilistic_sharpe(path) is None
    assert deflated_sharpe(path, 10) is None


def test_probability_refuses_nan():
    with pytest.raises(ValueError, match="finite"):
        deflated_sharpe(np.append(standardised(40, 0.1), np.nan), 10)


@pytest.mark.parametrize(
    ("values", "expected"),
    [([3.0], 3.0), ([1, 2, 3], 2.0), ([0, 1, 2, 100], 1.5), ([1, 2, 3, 4, 100], 3.0), ([8, 7, 6, 5, 4, 3, 2, 1], 4.5)],
)
def test_interquartile_mean_leaves_out_a_quarter_at_each_end(values, expected):
    assert iqm(values) == expected


@pytest.mark.parametrize("values", [[], [1.0, np.nan]])
def test_interquartile_mean_refuses_nothing_and_nan(values):
    with pytest.raises(ValueError, match="finite and one or more"):
        iqm(values)


def test_metrics_do_not_import_scipy_stats():
    code = "import sys, tradesweep.metrics; sys.exit('scipy.stats' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
