"""What both algorithms share: no folder in the home directory, and remote runners that are handed in from outside."""

from __future__ import annotations

import tempfile
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.core import COMPONENT_LEARNER, COMPONENT_RL_MODULE
from ray.rllib.utils.metrics import (
    ENV_RUNNER_RESULTS,
    ENV_RUNNER_SAMPLING_TIMER,
    NUM_ENV_STEPS_SAMPLED_LIFETIME,
    SYNCH_WORKER_WEIGHTS_TIMER,
    TIMERS,
)

from tradesweep.agents.fragment import Fragment
from tradesweep.agents.runner import STEPS_HANDED_OVER, name_worker
from tradesweep.errors import TradesweepError


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

    @property
    def updates_made(self) -> int:
        """Gradient steps made since this algorithm was built."""
        return int(self.learner_group._learner.updates_lifetime)

    def sample_fragments(self, *, env_steps: int) -> list[Fragment]:
        """Columns from every runner, at least `env_steps` transitions in all.

        Raises TradesweepError when there is none: RLlib repeats a training step until it has made env steps.
        """
        group = self.env_runner_group
        so_far, share = self.env_steps_sampled, -(-env_steps // max(group.num_remote_workers(), 1))
        with self.metrics.log_time((TIMERS, ENV_RUNNER_SAMPLING_TIMER)):
            results = group.foreach_env_runner(
                lambda runner: (runner.sample_fragment(timesteps=share, env_steps=so_far), runner.get_metrics()),
                local_env_runner=group.num_remote_workers() == 0,
            )
        self.metrics.aggregate([metrics for _, metrics in results], key=ENV_RUNNER_RESULTS)
        fragments = [fragment for fragment, _ in results]
        if not any(fragment.steps for fragment in fragments):
            raise TradesweepError("trial: its runners must make env steps, made none; see its log")
        return fragments

    def push_weights(self) -> None:
        """Give every runner the learner's weights. RLlib's own way goes through the object store even in process."""
        with self.metrics.log_time((TIMERS, SYNCH_WORKER_WEIGHTS_TIMER)):
            weights = self._read_weights()
            self.env_runner.set_state(weights)
            if self.env_runner_group.num_remote_workers():
                state = {"state": ray.put(weights)}
                self.env_runner_group.foreach_env_runner("set_state", kwargs=state, local_env_runner=False)

    def _read_weights(self) -> dict[str, Any]:
        module = f"{COMPONENT_LEARNER}/{COMPONENT_RL_MODULE}"
        state = self.learner_group.get_state(components=[module], inference_only=True)
        weights: dict[str, Any] = state[COMPONENT_LEARNER]
        return weights

    def attach_runners(self, runners: list[ActorHandle[Any]]) -> None:
        """Sample with these remote runners from now on; on return they have the current weights and step count.

        RLlib's own way sends two requests that must not overlap, and drops the second where they do.
        """
        self.detach_runners()  # else RLlib kills those that it has, among them some that are attached again
        self.env_runner_group.reset(runners)
        state = ray.put({**self._read_weights(), NUM_ENV_STEPS_SAMPLED_LIFETIME: self.env_steps_sampled})
        ray.get([runner.set_state.remote(state) for runner in runners])

    def detach_runners(self) -> None:
        """Let go of the remote runners without stopping them, so that another trial can use them."""
        manager = self.env_runner_group._worker_manager
        for actor_id in list(manager.actor_ids()):
            manager.remove_actor(actor_id)
