"""PPO: RLlib's, sampled by the vector env runner."""

from __future__ import annotations

from ray.rllib.algorithms.ppo import PPO, PPOConfig
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.utils.annotations import override
from ray.rllib.utils.metrics import LEARNER_RESULTS, NUM_MODULE_STEPS_TRAINED_LIFETIME

from tradesweep.agents.base import QuietAlgorithm


class VectorPPOConfig(PPOConfig):
    """RLlib's PPO config."""

    def __init__(self, algo_class: type | None = None) -> None:
        super().__init__(algo_class=algo_class or VectorPPO)


class VectorPPO(QuietAlgorithm, PPO):
    """PPO over whole rows of lanes."""

    @classmethod
    @override(PPO)
    def get_default_config(cls) -> PPOConfig:
        """The config this class is built from."""
        return VectorPPOConfig()

    @property
    def updates_made(self) -> int:
        """Gradient steps: RLlib counts the rows they were made on."""
        key = (LEARNER_RESULTS, DEFAULT_MODULE_ID, NUM_MODULE_STEPS_TRAINED_LIFETIME)
        rows = int(self.metrics.peek(key, default=0))
        return rows // int(self.config.minibatch_size or self.config.total_train_batch_size)
