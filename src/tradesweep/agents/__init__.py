"""RLlib agents over trading lanes: builders, the vector env runner, columnar DQN, weights for the plain policy."""

from tradesweep.agents.build import (
    AgentConfig,
    build_algorithm,
    build_config,
    count_updates,
    restart_runners,
    start_runners,
)
from tradesweep.agents.envs import RecordingContext, RunnerContext
from tradesweep.agents.export import plain_layers
from tradesweep.agents.feed import install_market

__all__ = [
    "AgentConfig",
    "RecordingContext",
    "RunnerContext",
    "build_algorithm",
    "build_config",
    "count_updates",
    "install_market",
    "plain_layers",
    "restart_runners",
    "start_runners",
]
