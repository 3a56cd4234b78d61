"""The trading environment: accounting kernel, tape, observations, rewards, vector and single environment.

The Gymnasium classes and the compilers are imported when they are first used: an evaluator needs neither
Gymnasium nor the market room's libraries.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from tradesweep.env.build import build_kernel, build_observer
from tradesweep.env.config import EnvConfig
from tradesweep.env.kernel import Costs, Fill, Kernel
from tradesweep.env.observation import ObservationBuilder
from tradesweep.env.rewards import (
    REWARDS,
    DifferentialSharpe,
    LogReturn,
    PenalisedLogReturn,
    Reward,
    build_reward,
)
from tradesweep.env.rows import StepRow
from tradesweep.env.tape import Tape
from tradesweep.env.windows import list_runs, list_starts

if TYPE_CHECKING:
    from tradesweep.env.compile import check_causal, compile_env, compile_market
    from tradesweep.env.single_env import TradingEnv
    from tradesweep.env.vector_env import TradingVectorEnv

__all__ = [
    "REWARDS",
    "Costs",
    "DifferentialSharpe",
    "EnvConfig",
    "Fill",
    "Kernel",
    "LogReturn",
    "ObservationBuilder",
    "PenalisedLogReturn",
    "Reward",
    "StepRow",
    "Tape",
    "TradingEnv",
    "TradingVectorEnv",
    "build_kernel",
    "build_observer",
    "build_reward",
    "check_causal",
    "compile_env",
    "compile_market",
    "list_runs",
    "list_starts",
]

_LATE = {
    "TradingEnv": "single_env",
    "TradingVectorEnv": "vector_env",
    "check_causal": "compile",
    "compile_env": "compile",
    "compile_market": "compile",
}


def __getattr__(name: str) -> Any:
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LATE[name]}"), name)
