"""The vector env runner: whole rows of lanes, one module call a row, episodes built once per fragment.

RLlib's own runner spends about 1 ms a row on connectors, per-lane episode objects and per-lane Python. This one keeps
(T, E) columns, and hands them out as columns (`sample_fragment`) or as RLlib episodes (`sample`), so that every RLlib
algorithm, callback and `Algorithm.evaluate` can stand on it. It is also a producer: what it samples is recorded from
the kernel's own tape, one batch stream per runner.
"""

from __future__ import annotations

import time
import uuid
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.callbacks.utils import make_callback
from ray.rllib.core.columns import Columns
from ray.rllib.env.env_runner import EnvRunner
from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner
from ray.rllib.env.single_agent_episode import SingleAgentEpisode
from ray.rllib.utils.annotations import override
from ray.rllib.utils.metrics import SAMPLE_TIMER, WEIGHTS_SEQ_NO

from tradesweep.agents.envs import RunnerContext, build_vector_env
from tradesweep.agents.fragment import (
    DISTRIBUTION_INPUTS,
    Fragment,
    FragmentBuilder,
    build_episodes,
    name_episode,
    with_log_probability,
)
from tradesweep.agents.live import EPISODE_HOOKS, LiveEpisodes, is_overridden
from tradesweep.env import Tape
from tradesweep.errors import TrialDiverged
from tradesweep.names import Draw, ProducerKey, ProducerRole, Record
from tradesweep.recording import Producer, connect_recorder

EVALUATION_SEED_OFFSET = 1_000_000

STEP_RECORDS = (Record.STEPS, Record.FILLS)
"""What `recording.steps: evaluation` leaves out of training episodes; totals and trades stay."""


STEPS_HANDED_OVER = "steps_handed_over"
"""Metric of RLlib's results: env steps by runner, over its whole attempt."""


def name_worker(attempt: int, worker: int) -> str:
    """The name of a runner in `STEPS_HANDED_OVER`; earlier attempts keep theirs."""
    return f"{attempt}.{worker}"


class VectorEnvRunner(SingleAgentEnvRunner):
    """Samples a TradingVectorEnv in whole rows. Same constructor and state as RLlib's single-agent runner."""

    def __init__(self, *, config: AlgorithmConfig, **kwargs: Any) -> None:
        self._ctor_kwargs = dict(kwargs)
        self.producer: Producer | None = None
        self._tape: Tape | None = None
        self._copies_from: torch.nn.Module | None = None
        super().__init__(config=config, **kwargs)
        seed = 0 if self.config.seed is None else int(self.config.seed)
        self._generator = np.random.default_rng(
            [seed, Draw.ACTIONS, self.worker_index or 0, int(self.config.in_evaluation)]
        )
        self._live = LiveEpisodes(self, self._callbacks) if any(map(self._hears, EPISODE_HOOKS)) else None

    def _hears(self, hook: str) -> bool:
        return is_overridden(hook, self._callbacks, self.config)

    @property
    def context(self) -> RunnerContext:
        """What the trial told this runner beside RLlib's own settings."""
        return RunnerContext.from_dict(self.config.env_config)

    @override(SingleAgentEnvRunner)
    def make_module(self) -> None:
        """As RLlib's, put into evaluation mode once: its `forward_*` walk all submodules twice a row to do so."""
        super().make_module()
        if self.module is not None:
            self.module.eval()

    def copy_weights(self, module: torch.nn.Module, version: int) -> None:
        """Take over the weights of a module in this process, as `set_state` does from arrays."""
        if self._copies_from is not module:
            theirs, own = dict(module.named_parameters()), dict(self.module.named_parameters())
            self._own: list[torch.Tensor] = list(own.values())
            self._copies_from, self._theirs = module, [theirs[name].data for name in own]
        with torch.no_grad():
            torch._foreach_copy_(self._own, self._theirs)
        self._weights_seq_no = version

    # --- environment and recording -------------------------------------------------------------------------------

    @override(SingleAgentEnvRunner)
    def make_env(self) -> None:
        """Build the lanes of this runner, and the tape when a recorder listens."""
        context = self.context
        lanes = self.config.num_envs_per_env_runner
        self._connect(context)
        self.env = build_vector_env(context, lanes=lanes, tape=self._tape)
        self.num_envs = lanes
        self._sampling_runners = max(context.env_runners, 1)
        self._actions = len(self.env.config.positions)
        self._begin_lanes()
        make_callback(
            "on_environment_created",
            callbacks_objects=self._callbacks,
            callbacks_functions=self.config.callbacks_on_environment_created,
            kwargs={
                "env_runner": self,
                "metrics_logger": self.metrics,
                "env": self.env.unwrapped,
                "env_context": self.config.env_config,
            },
        )

    def _connect(self, context: RunnerContext) -> None:
        recording = context.recording
        idle = context.env_runners > 0 and not self.worker_index
        if recording is None or self.config.in_evaluation or idle:
            return
        key = ProducerKey(
            recording.sweep_id,
            recording.trial_id,
            recording.attempt,
            ProducerRole.RUNNER,
            self.worker_index or 0,
        )
        self.producer = Producer(
            lambda: connect_recorder(recording.recorder, timeout_s=recording.timeout_s),
            key,
            timeout_s=recording.timeout_s,
        )
        self._tape = Tape(next_episode_no=self.producer.next_episode_no)

    def _begin_lanes(self) -> None:
        self._needs_initial_reset = True
        self._done_E = np.zeros(self.num_envs, np.bool_)
        self._return_E = np.zeros(self.num_envs)
        self._length_E = np.zeros(self.num_envs, np.int64)
        self._started_E = np.full(self.num_envs, time.perf_counter())
        self._runner_id = uuid.uuid4().hex
        self._episode_count_E = np.zeros(self.num_envs, np.int64)
        self._recorded_E = np.zeros(self.num_envs, np.int64)

    def hand_over(self) -> None:
        """Send what was sampled and waits for a fuller batch; do not wait for its commit."""
        if self.producer is not None:
            self.producer.send({})

    def flush(self) -> None:
        """Wait until everything this runner sampled is committed."""
        if self.producer is not None:
            self.producer.flush()

    def lane_positions(self) -> list[tuple[int, int]]:
        """(episode number, steps done) of every lane; empty when nothing is recorded.

        A runner that has not sampled yet begins its episodes now: a checkpoint must know where each lane stands.
        """
        if self.env is None or self.producer is None:
            return []
        if self._needs_initial_reset:
            self._reset_lanes()
        return self.env.positions_of_lanes()

    # --- sampling ------------------------------------------------------------------------------------------------

    @override(SingleAgentEnvRunner)
    def _sample(
        self,
        *,
        num_timesteps: int | None = None,
        num_episodes: int | None = None,
        explore: bool,
        random_actions: bool = False,
        force_reset: bool = False,
    ) -> list[SingleAgentEpisode]:
        fragment = self._collect(
            num_timesteps=num_timesteps,
            num_episodes=num_episodes,
            explore=explore,
            random_actions=random_actions,
            force_reset=force_reset,
        )
        chunks = self._chunks(fragment, cut=num_episodes is None)
        return chunks if num_episodes is None else chunks[:num_episodes]

    def _chunks(self, fragment: Fragment, *, cut: bool) -> list[SingleAgentEpisode]:
        """RLlib's episodes of a fragment; without `cut` only those that ended."""
        if self._live is not None:
            return self._live.take(cut=cut)
        return [chunk for chunk in build_episodes(fragment) if cut or chunk.is_done]

    def sample_fragment(self, *, timesteps: int, env_steps: int) -> Fragment:
        """Sample whole rows, at least `timesteps` transitions, and return columns.

        Metrics and callbacks are those of `sample`.

        `env_steps` is the trial's count so far, through all its runners: exploration follows it.
        """
        self.num_env_steps_sampled_lifetime = env_steps
        self.metrics.log_value(WEIGHTS_SEQ_NO, self._weights_seq_no, window=1)
        with self.metrics.log_time(SAMPLE_TIMER):
            fragment = self._collect(num_timesteps=timesteps, explore=self.config.explore)
        if self._live is not None or self._hears("on_sample_end"):
            self._call_sample_end(self._chunks(fragment, cut=True))
        return fragment

    def _call_sample_end(self, samples: list[SingleAgentEpisode]) -> None:
        make_callback(
            "on_sample_end",
            callbacks_objects=self._callbacks,
            callbacks_functions=self.config.callbacks_on_sample_end,
            kwargs={"env_runner": self, "metrics_logger": self.metrics, "samples": samples},
        )

    def _collect(
        self,
        *,
        num_timesteps: int | None = None,
        num_episodes: int | None = None,
        explore: bool,
        random_actions: bool = False,
        force_reset: bool = False,
    ) -> Fragment:
        """Step all lanes until there are enough transitions, or finished episodes."""
        if force_reset or num_episodes is not None or self._needs_initial_reset:
            self._reset_lanes()
        wanted = num_timesteps if num_timesteps is not None else cast(int, num_episodes)
        rows = -(-wanted // self.num_envs) if num_timesteps is not None else 256
        builder = FragmentBuilder(self._obs_ED, rows=max(rows, 1))
        start_t, reached, steps = self._length_E.copy(), 0, 0
        ended = 0
        while reached < wanted:
            room = None if num_episodes is None else num_episodes - ended
            valid_E, ended_E = self._step_row(builder, explore, random_actions, steps, room)
            steps += int(valid_E.sum())
            ended += int(ended_E.sum())
            reached = steps if num_timesteps is not None else ended
        fragment = builder.build(
            runner_id=self._runner_id,
            episode_count=self._episode_count_E,
            episode_t=start_t,
            weights_version=self._weights_seq_no,
        )
        self._end_fragment(fragment, ended, exhausted=num_episodes is not None)
        return fragment

    def _reset_lanes(self) -> None:
        seed = self._lane_seed() if self._needs_initial_reset else None
        self._begin_lanes()
        if self._live is not None:
            self._live.create(self._runner_id)
        obs_ED, _ = self.env.reset(seed=seed)
        self._needs_initial_reset = False
        _check_observations(obs_ED)
        self._obs_ED = obs_ED
        if self._live is not None:
            self._live.start(obs_ED)

    def _lane_seed(self) -> int | None:
        """Seed of the first lane; evaluation draws other episodes than training, by RLlib's offset."""
        if self.config.seed is None:
            return None
        offset = EVALUATION_SEED_OFFSET if self.config.in_evaluation else 0
        return int(self.config.seed) + self.context.lane_offset(self) + offset

    def _step_row(
        self, builder: FragmentBuilder, explore: bool, random_actions: bool, steps: int, room: int | None
    ) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
        """Step all lanes; which of them made a transition, and which episodes ended (no more than `room`)."""
        actions_E, extras = self._act(builder.last_obs_ED, explore, random_actions, steps)
        obs_ED, rewards_E, terminated_E, truncated_E, _ = self.env.step(actions_E)
        valid_E = ~self._done_E
        row: dict[str, Any] = {
            "actions_E": actions_E,
            "obs_ED": obs_ED,
            "rewards_E": rewards_E.astype(np.float32),
            "terminated_E": terminated_E,
            "truncated_E": truncated_E,
            "valid_E": valid_E,
            "extras": extras,
        }
        builder.add(**row)
        done_E = (terminated_E | truncated_E) & valid_E
        ended_E = done_E if room is None else done_E & (np.cumsum(done_E) <= room)
        if self._live is not None:
            row["extras"] = with_log_probability(extras, actions_E)
            self._live.add(**row, ended_E=ended_E, weights_version=self._weights_seq_no)
        self._account(valid_E, ended_E, rewards_E)
        self._done_E = done_E
        return valid_E, ended_E

    def _account(
        self, valid_E: npt.NDArray[np.bool_], ended_E: npt.NDArray[np.bool_], rewards_E: npt.NDArray[Any]
    ) -> None:
        """Keep each lane's return and length; log those of episodes that just ended."""
        self._return_E += np.where(valid_E, rewards_E, 0.0)
        self._length_E += valid_E
        if not ended_E.any():
            return
        now = time.perf_counter()
        for lane in np.flatnonzero(ended_E):
            self._log_episode_metrics(
                int(self._length_E[lane]), float(self._return_E[lane]), float(now - self._started_E[lane])
            )
        self._return_E[ended_E], self._length_E[ended_E], self._started_E[ended_E] = 0.0, 0, now

    def _act(
        self, obs_ED: npt.NDArray[np.float32], explore: bool, random_actions: bool, steps: int
    ) -> tuple[npt.NDArray[np.int64], dict[str, npt.NDArray[np.float32]]]:
        if random_actions:
            return self._generator.integers(self._actions, size=self.num_envs), {}
        batch = {Columns.OBS: torch.from_numpy(obs_ED).to(self._device)}
        with torch.no_grad():
            if explore:
                lifetime = self.num_env_steps_sampled_lifetime + steps * self._sampling_runners
                out = self.module._forward_exploration(batch, t=lifetime)
            else:
                out = self.module._forward_inference(batch)
        if Columns.ACTIONS in out:
            return out[Columns.ACTIONS].cpu().numpy().astype(np.int64), {}
        return self._choose(out[DISTRIBUTION_INPUTS].cpu().numpy(), explore)

    def _choose(
        self, logits_EA: npt.NDArray[np.float32], explore: bool
    ) -> tuple[npt.NDArray[np.int64], dict[str, npt.NDArray[np.float32]]]:
        """Sample by Gumbel noise (Gumbel-max trick: argmax(logits + g) is distributed as softmax(logits))."""
        scores = logits_EA + self._generator.gumbel(size=logits_EA.shape) if explore else logits_EA
        return np.argmax(scores, axis=1), {DISTRIBUTION_INPUTS: logits_EA}

    def _end_fragment(self, fragment: Fragment, ended: int, *, exhausted: bool) -> None:
        check_fragment(fragment)
        self._obs_ED = fragment.obs[-1].copy()
        self._episode_count_E = self._episode_count_E + (~fragment.valid).sum(axis=0)
        self._needs_initial_reset = exhausted
        self._record(fragment.weights_version)
        self._log_env_steps(metric=self._metrics_num_env_steps_sampled, num_steps=fragment.steps)
        self._increase_sampled_metrics(fragment.steps, ended)
        self._count_handed_over(fragment.steps)

    def _count_handed_over(self, steps: int) -> None:
        """Travels with the samples: what was lost with a runner is what training got and the recorder did not."""
        if self.producer is not None:
            key = (STEPS_HANDED_OVER, name_worker(self.producer.key.attempt, self.producer.key.worker))
            self.metrics.log_value(key, steps, reduce="lifetime_sum")

    def _record(self, weights_version: int) -> None:
        """Hand the tape to the producer; when that sends, it returns when the previous batch is committed."""
        if self._tape is None or self.producer is None:
            return
        records = self._tape.drain(weights_version=weights_version)
        self._name_opened(records[Record.EPISODES_OPENED])
        recording = self.context.recording
        dropped = 0
        if recording is not None and not recording.steps:
            dropped = len(records[Record.STEPS]["step_id"])
            records = {kind: rows for kind, rows in records.items() if kind not in STEP_RECORDS}
        self.producer.gather(records, dropped=dropped)

    def _name_opened(self, opened: dict[str, Any]) -> None:
        """Say which RLlib episode each recorded one is: a lane opens its episodes in the order of their numbers."""
        for row, lane in enumerate(opened["lane"]):
            opened["rllib_episode_id"][row] = name_episode(self._runner_id, lane, int(self._recorded_E[lane]))
            self._recorded_E[lane] += 1

    @override(EnvRunner)
    def stop(self) -> None:
        """Close the lanes. Open episodes are closed in the store, by whoever ends the trial."""
        if self.env is not None:
            self.env.close()


def check_fragment(fragment: Fragment) -> None:
    """Raise TrialDiverged for a reward or an observation that is not: nothing learns from it, nothing records it."""
    finite_TE = np.isfinite(fragment.rewards)
    if not finite_TE.all() and (wrong_N := fragment.rewards[fragment.valid & ~finite_TE]).size:
        raise TrialDiverged(f"env: rewards must be finite, was {wrong_N[0]}; check env.reward and env.reward_scale")
    _check_observations(fragment.obs)


def _check_observations(obs: npt.NDArray[np.float32]) -> None:
    if not np.isfinite(obs).all():
        column = int(np.argwhere(~np.isfinite(obs))[0][-1])
        raise TrialDiverged(
            f"env: observations must be finite, column {column} was not; check the features of the experiment and the"
            " state of env.reward"
        )
