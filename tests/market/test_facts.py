import numpy as np
import pytest

from tradesweep.errors import NotFound, Refused
from tradesweep.market.dataset import build_market
from tradesweep.market.facts import plan_warnings, split_facts
from tradesweep.market.rules import BarRules
from tradesweep.market.synthetic import make_synthetic


def market_of(bars, **counts):
    return build_market(
        bars,
        features=[("log_returns", {"lags": [1]})],
        splits=counts,
        rules=BarRules(periods_per_year=252, fill="next_close"),
        instrument="x",
        source="synthetic",
    )


@pytest.fixture
def market():
    return market_of(make_synthetic("beta", seed=1, bars=3000, sharpe=2.0), train=1501, validation=700, test=400)


def test_facts_follow_from_the_closes(market):
    facts = split_facts(market, "train", cost_per_leg=5e-4)
    returns = np.diff(market.bars.close[:1501]) / market.bars.close[:1500]
    assert (facts.bars, facts.years) == (1501, pytest.approx(1500 / 252))
    assert facts.buy_and_hold_sharpe == pytest.approx(np.sqrt(252) * returns.mean() / returns.std(ddof=1))
    assert facts.cost_free_turnover == pytest.approx(252 * returns.mean() / 5e-4)


def test_without_costs_turnover_has_no_limit_and_a_loss_pays_for_none(market):
    assert split_facts(market, "train", cost_per_leg=0.0).cost_free_turnover is None
    losing = market_of(make_synthetic("beta", seed=1, bars=3000, sharpe=-3.0), train=3000)
    assert split_facts(losing, "train", cost_per_leg=5e-4).cost_free_turnover == 0.0


def test_the_test_split_is_never_told(market):
    with pytest.raises(Refused, match="read once, by promote"):
        split_facts(market, "test", cost_per_leg=5e-4)
    with pytest.raises(NotFound, match="one of train, validation, test, was 'all'"):
        split_facts(market, "all", cost_per_leg=5e-4)


def test_a_sharpe_without_movement_or_with_few_returns_is_none(make_bars):
    still = market_of(make_bars(np.full(100, 5.0)), train=60, validation=20)
    assert split_facts(still, "train", cost_per_leg=1e-4).buy_and_hold_sharpe is None
    moving = market_of(make_synthetic("beta", bars=100), train=60, validation=30)
    assert split_facts(moving, "validation", cost_per_leg=1e-4).buy_and_hold_sharpe is None
    assert split_facts(moving, "train", cost_per_leg=1e-4).buy_and_hold_sharpe is not None


def test_short_splits_are_warned_of(market):
    assert plan_warnings(market) == [
        "split test has 400 bars, fewer than 500",
        "split test: one standard error of its annualised Sharpe is 0.79, more than 0.7",
    ]
