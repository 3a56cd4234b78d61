"""Each market is compared with its formulas by plain vectorised profit and loss, without the kernel."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tradesweep.errors import MarketError
from tradesweep.market.rules import BarRules, check_bars
from tradesweep.market.synthetic import SYNTHETIC_MARKETS, make_synthetic, oracle_targets, planted_best_sharpe

COST = 5e-4
"""5 bps a leg."""


def sharpe(returns_T, periods_per_year=252):
    return np.sqrt(periods_per_year) * returns_T.mean() / returns_T.std(ddof=1)


def earn(bars, targets_N, cost=COST, *, at="open"):
    """(N-1,) returns of targets decided at each close and filled at the next open (or at that same close)."""
    start = bars.open[1:] if at == "open" else bars.close[:-1]
    legs = np.abs(np.diff(targets_N[:-1], prepend=0.0))
    return targets_N[:-1] * (bars.close[1:] / start - 1.0) - cost * legs


@pytest.mark.parametrize(("rho", "expected"), [(0.1, 1.44), (0.25, 3.93)])
def test_the_formula_gives_the_stated_sharpe_of_planted(rho, expected):
    assert planted_best_sharpe(rho=rho, q=0.1, cost_per_leg=COST) == pytest.approx(expected, abs=0.006)


@pytest.mark.parametrize(("rho", "q"), [(0.1, 0.1), (0.25, 0.1), (0.5, 0.3)])
def test_the_oracle_of_planted_earns_the_formula(rho, q):
    bars = make_synthetic("planted", seed=7, bars=400_000, rho=rho, q=q)
    earned = sharpe(earn(bars, oracle_targets(bars, "planted")))
    assert earned == pytest.approx(planted_best_sharpe(rho=rho, q=q, cost_per_leg=COST), rel=0.04)


def test_planted_has_no_gaps_and_its_signal_is_binary_and_sticky():
    bars = make_synthetic("planted", seed=1, bars=50_000, q=0.2)
    signal = bars.extra["signal"]
    assert (bars.open[1:] == bars.close[:-1]).all()
    assert set(signal.tolist()) == {-1.0, 1.0}
    assert (signal[1:] != signal[:-1]).mean() == pytest.approx(0.2, abs=0.01)


def test_planted_has_five_distractors_that_tell_nothing():
    bars = make_synthetic("planted", seed=1, bars=50_000)
    names = [name for name in bars.extra if name.startswith("noise_")]
    assert len(names) == 5
    for name in names:
        noise = bars.extra[name]
        assert noise.std() == pytest.approx(1.0, abs=0.02)
        assert abs(np.corrcoef(noise[:-1], bars.close[1:] / bars.open[1:])[0, 1]) < 0.02


def test_the_hamilton_filter_earns_what_the_page_says():
    bars = make_synthetic("regime", seed=3, bars=400_000)
    assert sharpe(earn(bars, oracle_targets(bars, "regime"))) == pytest.approx(2.59, abs=0.1)


def test_the_filter_reads_only_the_past():
    bars = make_synthetic("regime", seed=3, bars=500)
    full = oracle_targets(bars, "regime")
    for cut in (1, 50, 499):
        assert oracle_targets(bars[:cut], "regime").tolist() == full[:cut].tolist()


def test_a_fill_at_the_same_close_falls_into_the_gap_trap_and_the_next_open_does_not():
    bars = make_synthetic("gap_trap", seed=5, bars=10_000)
    signal = bars.extra["signal"]
    assert sharpe(earn(bars, signal, 0.0, at="close")) == pytest.approx(15.9, abs=0.6)
    assert abs(sharpe(earn(bars, signal, 0.0))) < 0.5


def test_brownian_returns_are_normal_with_the_stated_sigma():
    bars = make_synthetic("brownian", seed=2, bars=200_000, sigma=0.02)
    returns = bars.close / bars.open - 1
    assert returns.std() == pytest.approx(0.02, rel=0.01)
    assert abs(returns.mean()) < 4 * 0.02 / np.sqrt(200_000)
    assert abs(np.corrcoef(returns[1:], returns[:-1])[0, 1]) < 0.01


def test_beta_drifts_at_a_sharpe_of_six_tenths():
    bars = make_synthetic("beta", seed=2, bars=400_000)
    assert sharpe(bars.close / bars.open - 1) == pytest.approx(0.6, abs=4 * np.sqrt(252 / 400_000))


@settings(deadline=None, max_examples=25)
@given(
    name=st.sampled_from(sorted(SYNTHETIC_MARKETS)),
    seed=st.integers(0, 2**32),
    bars=st.integers(2, 3000),
    periods=st.sampled_from([52.0, 252.0, 365.25, 8766.0, 525_960.0]),
    sigma=st.floats(1e-4, 0.1),
)
def test_every_synthetic_market_keeps_every_rule(name, seed, bars, periods, sigma):
    made = make_synthetic(name, seed=seed, periods_per_year=periods, bars=bars, sigma=sigma)
    calendar = "sessions" if periods <= 260 else "24x7"
    check_bars(made, BarRules(periods_per_year=periods, fill="next_close", calendar=calendar), name)
    assert len(made) == bars
    assert made.tradable.all()


@pytest.mark.parametrize("name", sorted(SYNTHETIC_MARKETS))
def test_the_same_seed_gives_the_same_bits_and_another_seed_does_not(name):
    one, same, other = (make_synthetic(name, seed=seed, bars=300).sha256() for seed in (4, 4, 5))
    assert one == same
    assert one != other


def test_many_bars_are_spaced_evenly_and_keep_the_rules():
    made = make_synthetic("brownian", seed=0, bars=30_000)
    rules = BarRules(periods_per_year=252, fill="next_close")
    check_bars(made[:5000], rules, "brownian")
    assert np.ptp(np.diff(made.time_us)) == 0


REFUSED = {
    "unknown market": ("heston", {}, "must be one of beta, brownian, gap_trap, planted, regime, was 'heston'"),
    "unknown parameter": ("planted", {"rhoo": 0.1}, "planted has no parameter 'rhoo'; it has bars, q, rho, sigma"),
    "parameter of another": ("brownian", {"rho": 0.1}, "brownian has no parameter 'rho'"),
    "q too small": ("planted", {"q": 0.05}, "market.params.q must be a number from 0.1 to 1, was 0.05"),
    "rho above one": ("planted", {"rho": 1.5}, "rho must be a number from -1 to 1, was 1.5"),
    "text": ("planted", {"sigma": "0.01"}, "sigma must be a number .* was '0.01'"),
    "not a number": ("planted", {"sigma": float("nan")}, "sigma must be a number .* was nan"),
    "half a bar": ("planted", {"bars": 10.5}, "bars must be a whole number .* was 10.5"),
    "a truth value": ("planted", {"bars": True}, "bars must be a whole number"),
    "one bar": ("planted", {"bars": 1}, "bars must be a whole number from 2"),
    "negative seed": ("planted", {"seed": -1}, "seed must be a whole number from 0"),
    "out of numbers": ("brownian", {"bars": 200_000, "sigma": 0.1}, "prices must stay within"),
}


@pytest.mark.parametrize(("name", "params", "message"), REFUSED.values(), ids=REFUSED)
def test_a_wrong_market_or_parameter_is_refused(name, params, message):
    with pytest.raises(MarketError, match=message):
        make_synthetic(name, **params)


def test_a_market_without_reference_policy_says_so():
    with pytest.raises(MarketError, match="no reference policy; there is one for planted, regime"):
        oracle_targets(make_synthetic("brownian", bars=10), "brownian")
