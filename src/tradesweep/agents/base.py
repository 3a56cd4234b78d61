"""What both algorithms share: no folder in the home directory, and remote runners that are handed in from outside."""

from __future__ import annotations

import tempfile
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.core import COMPONENT_LEARNER, COMPONENT_RL_MODULE
from ray.rllib.utils.metrics import ENV_RUNNER_RESULTS, NUM_ENV_STEPS_SAMPLED_LIFETIME

from tradesweep.agents.runner import STEPS_HANDED_OVER, name_worker


class QuietAlgorithm(Algorithm):
    """An Algorithm that writes nothing outside the folders it is given."""

    def _setup_logdir(self) -> None:
        # RLlib would make an empty folder under ~/ray_results for each algorithm.
        self._logdir = tempfile.gettempdir()

    @property
    def env_steps_sampled(self) -> int:
        """Env steps of all runners since the trial began, those before its checkpoint included."""
        return int(self.metrics.peek((ENV_RUNNER_RESULTS, NUM_ENV_STEPS_SAMPLED_LIFETIME), default=0))

    def steps_handed_over(self, attempt: int, worker: int) -> int:
        """Env steps of one runner, all its incarnations in this attempt together, that reached training."""
        return int(self.metrics.peek((ENV_RUNNER_RESULTS, STEPS_HANDED_OVER, name_worker(attempt, worker)), default=0))

    def attach_runners(self, runners: list[ActorHandle[Any]]) -> None:
        """Sample with these remote runners from now on; on return they have the current weights and step count.

        RLlib's own way sends two requests that must not overlap, and drops the second where they do.
        """
        self.detach_runners()  # else RLlib kills those that it has, among them some that are attached again
        self.env_runner_group.reset(runners)
        module = f"{COMPONENT_LEARNER}/{COMPONENT_RL_MODULE}"
        learner = self.learner_group.get_state(components=[module], inference_only=True)[COMPONENT_LEARNER]
        state = ray.put({**learner, NUM_ENV_STEPS_SAMPLED_LIFETIME: self.env_steps_sampled})
        ray.get([runner.set_state.remote(state) for runner in runners])

    def detach_runners(self) -> None:
        """Let go of the remote runners without stopping them, so that another trial can use them."""
        manager = self.env_runner_group._worker_manager
        for actor_id in list(manager.actor_ids()):
            manager.remove_actor(actor_id)
