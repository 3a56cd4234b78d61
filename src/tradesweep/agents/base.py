"""What both algorithms share: no folder in the home directory, and remote runners that are handed in from outside."""

from __future__ import annotations

import tempfile
from typing import Any

from ray.actor import ActorHandle
from ray.rllib.algorithms.algorithm import Algorithm


class QuietAlgorithm(Algorithm):
    """An Algorithm that writes nothing outside the folders it is given."""

    def _setup_logdir(self) -> None:
        # RLlib would make an empty folder under ~/ray_results for each algorithm.
        self._logdir = tempfile.gettempdir()

    def attach_runners(self, runners: list[ActorHandle[Any]]) -> None:
        """Sample with these remote runners from now on; they get the current weights."""
        self.env_runner_group.reset(runners)
        self.env_runner_group.sync_weights(from_worker_or_learner_group=self.learner_group, inference_only=True)

    def detach_runners(self) -> None:
        """Let go of the remote runners without stopping them, so that another trial can use them."""
        manager = self.env_runner_group._worker_manager
        for actor_id in list(manager.actor_ids()):
            manager.remove_actor(actor_id)
