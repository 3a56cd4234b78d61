"""EnvConfig: what a person decides about an environment, ready for the run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from tradesweep.env.kernel import Costs, Fill


@dataclass(frozen=True, kw_only=True, slots=True)
class EnvConfig:
    """Settings of the environment page: plain values, which a policy file stores."""

    fill: Fill
    """Where an order fills: at the open or at the close of the next bar."""
    positions: tuple[float, ...] = (-1.0, 0.0, 1.0)
    """Target exposure of each action, as a fraction of equity; |p| <= 1."""
    window_bars: int = 1
    """Bars of features in an observation."""
    episode_bars: int = 252
    """Steps of a training episode."""
    costs: Costs
    """Fee, slippage and borrow."""
    initial_equity: float = 10_000.0
    """Equity at the start of an episode, in the currency of the prices."""
    ruin_fraction: float = 0.2
    """An episode ends when equity is at most this fraction of `initial_equity`."""
    extra_delay_bars: int = 0
    """Bars by which every decision comes later; a robustness test, 0 otherwise."""
    reward: str = "log_return"
    """Name in `REWARDS`."""
    reward_params: Mapping[str, float] = field(default_factory=dict)
    """Arguments of the reward."""
    reward_scale: float = 1.0
    """Factor on what the learner sees; stored rewards are unscaled."""
    periods_per_year: float
    """Bars per year."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; `from_dict` gives an equal config back."""
        return asdict(self) | {"positions": list(self.positions), "reward_params": dict(self.reward_params)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> EnvConfig:
        """The config that `to_dict` wrote. Raises TypeError for unknown or missing keys."""
        settled = {"positions": tuple(values["positions"]), "costs": Costs(**values["costs"])}
        return cls(**{**values, **settled})
