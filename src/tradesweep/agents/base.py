"""What both algorithms share: no folder in the home directory, and remote runners that are handed in from outside."""

from __future__ import annotations

import tempfile
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.core import COMPONENT_LEARNER, COMPONENT_RL_MODULE, DEFAULT_MODULE_ID
from ray.rllib.utils.metrics import (
    ENV_RUNNER_RESULTS,
    ENV_RUNNER_SAMPLING_TIMER,
    LEARNER_RESULTS,
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

    def sample_fragments(self, *, env_steps: int, so_far: int) -> list[Fragment]:
        """Columns from every runner, at least `env_steps` transitions in all; `so_far` were sampled before.

        Remote runners send their metrics along; those of the runner in process are for `take_metrics`. Raises
        TradesweepError when there is no transition: RLlib repeats a training step until it has made env steps.
        """
        with self.metrics.log_time((TIMERS, ENV_RUNNER_SAMPLING_TIMER)):
            fragments = self._sample(env_steps, so_far)
        if not any(fragment.steps for fragment in fragments):
            raise TradesweepError("trial: its runners must make env steps, made none; see its log")
        return fragments

    def _sample(self, env_steps: int, so_far: int) -> list[Fragment]:
        group = self.env_runner_group
        if not group.num_remote_workers():
            return [self.env_runner.sample_fragment(timesteps=env_steps, env_steps=so_far)]
        share = -(-env_steps // group.num_remote_workers())
        results = group.foreach_env_runner(
            lambda runner: (runner.sample_fragment(timesteps=share, env_steps=so_far), runner.get_metrics()),
            local_env_runner=False,
        )
        self.metrics.aggregate([metrics for _, metrics in results], key=ENV_RUNNER_RESULTS)
        return [fragment for fragment, _ in results]

    def take_metrics(self) -> None:
        """Once a training step: what the runner in process logged, and what the learner did."""
        if not self.env_runner_group.num_remote_workers():
            self.metrics.aggregate([self.env_runner.get_metrics()], key=ENV_RUNNER_RESULTS)
        self.metrics.aggregate([self.learner_group._learner.metrics.reduce()], key=LEARNER_RESULTS)

    def push_weights(self) -> None:
        """Give every runner the learner's weights. RLlib's own way goes through the object store even in process."""
        learner = self.learner_group._learner
        with self.metrics.log_time((TIMERS, SYNCH_WORKER_WEIGHTS_TIMER)):
            self.env_runner.copy_weights(learner.module[DEFAULT_MODULE_ID], learner._weights_seq_no)
            if self.env_runner_group.num_remote_workers():
                state = {"state": ray.put(self._read_weights())}
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
