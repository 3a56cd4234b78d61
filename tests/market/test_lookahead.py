import numpy as np
import pytest

from tradesweep.errors import MarketError
from tradesweep.market.lookahead import choose_cuts, noise_after, prove_causal
from tradesweep.market.rules import BarRules, check_prices
from tradesweep.market.scaling import Scaler
from tradesweep.market.sources import load_sample
from tradesweep.market.splits import Split, split_by_count
from tradesweep.market.synthetic import make_synthetic
from tradesweep.market.where import Where


@pytest.fixture(scope="module")
def bars():
    return make_synthetic("planted", seed=1, bars=1000)


@pytest.fixture(scope="module")
def splits(bars):
    return split_by_count(bars, {"train": 600, "validation": 200, "test": 200})


def tomorrow(bars):
    """The next bar's return: the plainest look-ahead."""
    return ["tomorrow"], np.append(bars.close[1:] / bars.close[:-1] - 1, np.nan)


def whole_sample(bars):
    """Scaled by the whole history's deviation."""
    moves = np.diff(np.log(bars.close), prepend=np.log(bars.close[0]))
    return ["whole_sample"], moves / (moves.std() + 1e-9)


def filled_back(bars):
    """A head that is filled with the first known value."""
    moves = np.log(bars.close[20:] / bars.close[:-20])
    return ["filled_back"], np.concatenate((np.full(min(20, len(bars)), moves[0] if len(moves) else 0.0), moves))


def centred(bars):
    """A moving mean around each bar."""
    return ["centred"], np.convolve(bars.close, np.ones(5) / 5)[2:-2] / bars.close


def rare(bars):
    """Peeks one bar ahead, and only on every seventh bar."""
    peek = np.append(bars.close[1:], bars.close[-1]) / bars.close - 1
    return ["rare"], np.where(np.arange(len(bars)) % 7 == 0, peek, 0.0)


def steady(bars):
    return ["steady"], bars.close / bars.open - 1


@pytest.mark.parametrize("peeking", [tomorrow, whole_sample, filled_back, centred, rare])
def test_a_feature_that_sees_the_future_is_caught_by_name(bars, splits, peeking):
    name = peeking.__name__
    plugins = {name: peeking, "steady": steady}
    verdict = prove_causal(bars, [("steady", {}), (name, {})], splits=splits, plugins=plugins)
    assert not verdict.passed
    assert all(message.startswith(f"feature {name} must not see the future") for message in verdict.problems[:1])
    with pytest.raises(MarketError, match=f"feature {name} must not see the future: at row .* use only bars up to t"):
        verdict.check()


def test_every_shipped_feature_passes_on_the_samples(features):
    for name in ("sp500", "nasdaq"):
        sample = load_sample(name, BarRules(periods_per_year=252, fill="next_close"))
        verdict = prove_causal(
            sample, features, splits=split_by_count(sample, {"train": 3000, "validation": 1000, "test": 1000})
        )
        assert verdict.problems == ()
        assert (verdict.cuts >= 256, verdict.columns) == (True, 10)


def test_signal_and_indicators_pass_together(bars, splits, features):
    requests = [*features, ("csv_columns", {"names": ["signal", "noise_1"]})]
    prove_causal(bars, requests, splits=splits).check()


def test_a_scaler_fitted_on_all_bars_is_caught(bars, splits, features):
    def fit_on_all(values_NF, train):
        return Scaler.fit(values_NF, Split(name="train", start=0, stop=len(values_NF)))

    verdict = prove_causal(bars, features, splits=splits, fit=fit_on_all)
    assert len(verdict.problems) == 1
    assert "scaling must be fitted on train only, but that of log_return_1" in verdict.problems[0]
    assert prove_causal(bars, features, splits=splits).passed


def test_a_feature_fitted_on_all_bars_shows_in_the_scaler_too(bars, splits):
    verdict = prove_causal(bars, [("whole_sample", {})], splits=splits, plugins={"whole_sample": whole_sample})
    assert any("whole_sample changes when the bars from row 600" in message for message in verdict.problems)


def test_few_bars_are_cut_everywhere_and_many_in_every_stretch():
    assert choose_cuts(100, 256) == list(range(1, 100))
    cuts = choose_cuts(10_000, 256, [3000, 0, 10_000])
    assert 3000 in cuts
    assert len(cuts) in (256, 257)
    assert max(np.diff(cuts)) < 2 * 10_000 / 256 + 2
    assert (cuts[0] >= 1, cuts[-1] < 10_000) == (True, True)


def test_noise_keeps_the_past_and_the_rules(bars):
    noisy = noise_after(bars, 600)
    check_prices(noisy, Where(source="noise"))
    assert noisy[:600].sha256() == bars[:600].sha256()
    for name in ("open", "high", "low", "close", "volume"):
        assert (getattr(noisy, name)[600:] != getattr(bars, name)[600:]).all()
    assert (noisy.extra["signal"][600:] != bars.extra["signal"][600:]).all()
