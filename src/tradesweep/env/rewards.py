"""Rewards: parts that turn a step row into one number per lane, and say what of their state an agent must see.

A reward with memory is not Markov unless its memory is observed, so each reward declares its state. Rewards are
unscaled; the environment multiplies what the learner sees by `reward_scale`.

Legend: E lanes.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Protocol

import numpy as np

from tradesweep.env.kernel import Kernel
from tradesweep.env.rows import Bools, Floats, StepRow
from tradesweep.errors import BadInput

LEAST_VARIANCE = 1e-8
"""Below a standard deviation of 1 basis point a bar, the differential Sharpe ratio divides by that much."""
PERCENT = 100.0


class Reward(Protocol):
    """A reward part. It belongs to one environment: it remembers E lanes."""

    state_size: int
    """Numbers of state per lane that an observation shows."""

    def allocate(self, kernel: Kernel) -> None:
        """Get ready for this kernel's lanes; called once."""

    def reset(self, lanes_E: Bools) -> None:
        """These lanes begin an episode."""

    def __call__(self, row: StepRow, kernel: Kernel) -> Floats:
        """(E,) unscaled reward of the step, 0 for a lane that did not run. May be an array of the row."""

    def state_E(self) -> Floats:
        """(E, state_size) state after the step; valid until the next one."""


class LogReturn:
    """log(max(E_j, 1e-3 E_start) / E_t): the kernel's own reward, without state."""

    state_size = 0

    def allocate(self, kernel: Kernel) -> None:
        """Remember how many lanes there are."""
        self._state_E = np.zeros((kernel.lanes, 0))

    def reset(self, lanes_E: Bools) -> None:
        """Nothing to forget."""

    def __call__(self, row: StepRow, kernel: Kernel) -> Floats:  # noqa: ARG002 - the interface
        """(E,) the log reward of the row."""
        return row.reward

    def state_E(self) -> Floats:
        """(E, 0)."""
        return self._state_E


class DifferentialSharpe:
    """The differential Sharpe ratio (Moody and Saffell 2001, equation 8), with rate `eta`.

    With R the simple return and A, B exponential averages of R and R^2, both 0 at the start:
    D = (B dA - A dB / 2) / max(B - A^2, 1e-8)^1.5, dA = R - A, dB = R^2 - B, then A += eta dA and B += eta dB.
    Not annualised. The observed state is A and sqrt(B), in percent.
    """

    state_size = 2

    def __init__(self, eta: float = 0.01) -> None:
        if not 0.0 < eta <= 1.0:
            raise BadInput(f"reward_params.eta must be in (0, 1], was {eta}")
        self._eta = eta

    def allocate(self, kernel: Kernel) -> None:
        """Averages of every lane."""
        self._mean_E, self._square_E = np.zeros((2, kernel.lanes))

    def reset(self, lanes_E: Bools) -> None:
        """Both averages begin at 0."""
        self._mean_E[lanes_E] = self._square_E[lanes_E] = 0.0

    def __call__(self, row: StepRow, kernel: Kernel) -> Floats:
        """(E,) the differential Sharpe ratio of the step."""
        returns_E = row.equity / kernel.equity_before_E - 1.0
        mean_step_E, square_step_E = returns_E - self._mean_E, returns_E**2 - self._square_E
        spread_E = np.maximum(self._square_E - self._mean_E**2, LEAST_VARIANCE) ** 1.5
        ratio_E = (self._square_E * mean_step_E - 0.5 * self._mean_E * square_step_E) / spread_E
        self._mean_E += self._eta * mean_step_E * row.active
        self._square_E += self._eta * square_step_E * row.active
        return np.asarray(ratio_E * row.active)

    def state_E(self) -> Floats:
        """(E, 2) A and sqrt(B), in percent."""
        return PERCENT * np.stack([self._mean_E, np.sqrt(self._square_E)], axis=1)


class PenalisedLogReturn:
    """The log reward less penalties on new drawdown and on turnover.

    r - drawdown_penalty max(0, d_j - d_t) - turnover_penalty (sum of |quantity| times reference price) / E_t,
    with d = 1 - E / peak, the peak counted from E_start. The observed state is d.
    """

    state_size = 1

    def __init__(self, drawdown_penalty: float = 0.0, turnover_penalty: float = 0.0) -> None:
        for name, value in (("drawdown_penalty", drawdown_penalty), ("turnover_penalty", turnover_penalty)):
            if not value >= 0.0:
                raise BadInput(f"reward_params.{name} must be >= 0, was {value}")
        self._drawdown_penalty, self._turnover_penalty = drawdown_penalty, turnover_penalty

    def allocate(self, kernel: Kernel) -> None:
        """Peaks of every lane."""
        self._initial_equity = kernel.initial_equity
        self._peak_E = np.full(kernel.lanes, kernel.initial_equity)
        self._drawdown_E = np.zeros(kernel.lanes)

    def reset(self, lanes_E: Bools) -> None:
        """The peak is the starting equity."""
        self._peak_E[lanes_E], self._drawdown_E[lanes_E] = self._initial_equity, 0.0

    def __call__(self, row: StepRow, kernel: Kernel) -> Floats:
        """(E,) the penalised log reward of the step."""
        np.maximum(self._peak_E, row.equity, out=self._peak_E)
        drawdown_E = 1.0 - row.equity / self._peak_E
        fresh_E = np.maximum(drawdown_E - self._drawdown_E, 0.0)
        turnover_E = np.abs(row.quantity).sum(axis=0) * row.price / kernel.equity_before_E
        self._drawdown_E = drawdown_E
        penalty_E = self._drawdown_penalty * fresh_E + self._turnover_penalty * turnover_E
        return np.asarray(row.reward - penalty_E)

    def state_E(self) -> Floats:
        """(E, 1) drawdown."""
        return self._drawdown_E[:, None]


REWARDS: dict[str, Callable[..., Reward]] = {
    "log_return": LogReturn,
    "differential_sharpe": DifferentialSharpe,
    "penalised_log_return": PenalisedLogReturn,
}
"""Rewards by the name that a spec gives them."""
BUILT_IN = frozenset(REWARDS)


def register_rewards(rewards: Mapping[str, Callable[..., Reward]]) -> None:
    """Make a person's own rewards known in this process. A built-in name cannot be taken."""
    REWARDS.update({name: build for name, build in rewards.items() if name not in BUILT_IN})


def build_reward(name: str, params: Mapping[str, float]) -> Reward:
    """Build a reward by name. Raises BadInput for an unknown name, an unknown argument or a value out of range."""
    if name not in REWARDS:
        raise BadInput(f"reward must be one of {', '.join(REWARDS)}, was {name!r}")
    known = list(inspect.signature(REWARDS[name]).parameters)
    unknown = sorted(set(params) - set(known))
    if unknown:
        raise BadInput(f"reward_params of {name} must be among {known}, had {unknown}")
    return REWARDS[name](**params)
