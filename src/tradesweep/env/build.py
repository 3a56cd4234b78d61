"""From settings to parts: the kernel and the observation builder that an environment or an evaluation runs on.

Legend: E lanes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from tradesweep.env.config import EnvConfig
from tradesweep.env.kernel import Kernel
from tradesweep.env.observation import ObservationBuilder

if TYPE_CHECKING:
    from tradesweep.market import Bars, Market


def build_kernel(
    bars: Bars, config: EnvConfig, *, lanes: int, cost_multipliers: Sequence[float] | None = None
) -> Kernel:
    """The kernel of `lanes` lanes over these bars; `cost_multipliers` (E,) scale the costs lane by lane."""
    multipliers = [1.0] * lanes if cost_multipliers is None else cost_multipliers
    return Kernel(
        bars,
        costs=[replace(config.costs, multiplier=config.costs.multiplier * factor) for factor in multipliers],
        fill=config.fill,
        lanes=lanes,
        initial_equity=config.initial_equity,
        ruin_fraction=config.ruin_fraction,
        periods_per_year=config.periods_per_year,
        extra_delay_bars=config.extra_delay_bars,
    )


def build_observer(market: Market, config: EnvConfig, *, lanes: int, reward_state_size: int = 0) -> ObservationBuilder:
    """The observation builder of `lanes` lanes over the market's features."""
    return ObservationBuilder(
        market.features_NF,
        positions=config.positions,
        window_bars=config.window_bars,
        lanes=lanes,
        reward_state_size=reward_state_size,
    )
