"""The environment of the package gym-trading-env on a market of ours.

Its fills come at the close of the decision, without slippage; fees, borrowing, positions and the length of episodes are
as configured. It needs nothing that is not here anyway, so it is installed without what it asks for.
"""

from __future__ import annotations

import warnings
from typing import Any

import gymnasium as gym
import numpy as np
import pandas as pd

from tradesweep.env import EnvConfig
from tradesweep.market import Market

INSTALL = "skipped: gym-trading-env is not installed; pip install --no-deps gym-trading-env"
BPS = 1e-4


def build_gym_trading(market: Market, config: EnvConfig, *, window_bars: int) -> gym.Env[Any, Any]:
    """A row of a window is the features and two numbers of the account."""
    with warnings.catch_warnings():  # the module turns all warnings into errors
        from gym_trading_env.environments import TradingEnv

    return TradingEnv(
        make_frame(market),
        positions=list(config.positions),
        windows=window_bars,
        trading_fees=(config.costs.fee_bps + config.costs.slippage_bps) * BPS,
        borrow_interest_rate=config.costs.borrow_bps_per_year * BPS / config.periods_per_year,
        portfolio_initial_value=config.initial_equity,
        initial_position=0.0,
        max_episode_duration=config.episode_bars + 1,
        verbose=0,
    )


def make_frame(market: Market) -> pd.DataFrame:
    """Bars with all features, in the form the package wants."""
    bars, usable_N = market.bars, market.valid_N
    columns = {name: getattr(bars, name)[usable_N] for name in ("open", "high", "low", "close")}
    features = np.asarray(market.features_NF)[usable_N].T
    columns |= {f"feature_{number}": column for number, column in enumerate(features)}
    return pd.DataFrame(columns, index=pd.to_datetime(bars.time_us[usable_N], unit="us"))
