"""DQN over columns: RLlib's Algorithm, modules and learner, with whole-row sampling and columnar replay.

One `training_step` takes a fragment of rows from every lane, then as many updates as `updates_per_env_step` makes due.
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import torch
from ray.rllib.algorithms.dqn.dqn import DQN, DQNConfig
from ray.rllib.algorithms.dqn.dqn_learner import (
    QF_LOSS_KEY,
    QF_MEAN_KEY,
    QF_NEXT_PREDS,
    QF_PREDS,
    QF_TARGET_NEXT_PREDS,
)
from ray.rllib.algorithms.dqn.torch.dqn_torch_learner import DQNTorchLearner
from ray.rllib.core.columns import Columns
from ray.rllib.core.learner.learner import Learner
from ray.rllib.utils.annotations import override
from ray.rllib.utils.metrics import (
    ALL_MODULES,
    LEARNER_RESULTS,
    LEARNER_UPDATE_TIMER,
    NUM_ENV_STEPS_SAMPLED_LIFETIME,
    TIMERS,
)

from tradesweep.agents.base import QuietAlgorithm
from tradesweep.agents.fragment import Fragment
from tradesweep.agents.learner import DirectLearner
from tradesweep.agents.replay import ColumnarReplay, ReplayBatch, ReplayConfig

STEPS_PER_TRAINING_STEP = 64
"""Env steps of one `training_step` at least, through all lanes: enough to spread the cost of a weight push, few
enough that the acting weights are hardly older than that."""


class ColumnarDQNConfig(DQNConfig):
    """RLlib's DQN config and the two settings that are ours."""

    def __init__(self, algo_class: type | None = None) -> None:
        super().__init__(algo_class=algo_class or ColumnarDQN)
        self.updates_per_env_step = 0.25
        self.replay = ReplayConfig()

    def training(
        self, *, updates_per_env_step: float | None = None, replay: ReplayConfig | None = None, **kwargs: Any
    ) -> Self:
        """As RLlib's, with `updates_per_env_step` and the replay's settings."""
        super().training(**kwargs)
        if updates_per_env_step is not None:
            self.updates_per_env_step = updates_per_env_step
        if replay is not None:
            self.replay = replay
        return self

    @override(DQNConfig)
    def get_default_learner_class(self) -> type[Learner]:
        """The learner that takes columns."""
        return ColumnarDQNLearner


class ColumnarDQN(QuietAlgorithm, DQN):
    """DQN whose training step works on columns; checkpoints, callbacks and evaluation are RLlib's."""

    @classmethod
    @override(DQN)
    def get_default_config(cls) -> DQNConfig:
        """The config this class is built from."""
        return ColumnarDQNConfig()

    @override(DQN)
    def setup(self, config: DQNConfig) -> None:
        """Build as RLlib does, then the replay, filled from nothing: its contents are not in checkpoints."""
        super().setup(config)
        self.columnar_replay = ColumnarReplay(
            self.config.replay,
            obs_width=self.env_runner.env.single_observation_space.shape[0],
            generator=np.random.default_rng([self.config.seed or 0, 1]),
        )
        self._steps_stored = 0
        self._updates_due = 0.0

    def _create_local_replay_buffer_if_necessary(self, config: DQNConfig) -> None:  # noqa: ARG002
        """RLlib's episode buffer is not used."""
        return

    @override(DQN)
    def training_step(self) -> None:
        """Sample rows, store them, make the updates that are due, push the weights once."""
        before = self.env_steps_sampled
        sampled = sum(map(self._store, self.sample_fragments(env_steps=STEPS_PER_TRAINING_STEP)))
        updates = self._take_due(sampled)
        if updates:
            self._learn(updates, before, sampled)

    def _take_due(self, sampled: int) -> int:
        """Updates to make now: every env step beyond the warm-up earns its share."""
        earning = max(self._steps_stored + sampled - max(self._steps_stored, self._warm_up_steps), 0)
        self._steps_stored += sampled
        self._updates_due += earning * self.config.updates_per_env_step
        if not len(self.columnar_replay):  # no n-step sum is complete yet
            return 0
        updates = int(self._updates_due)
        self._updates_due -= updates
        return updates

    @property
    def _warm_up_steps(self) -> int:
        """Env steps before learning starts. Counted from the build, so that a restored trial refills its replay."""
        return int(self.config.num_steps_sampled_before_learning_starts)

    def _store(self, fragment: Fragment) -> int:
        self.columnar_replay.add(fragment)
        return fragment.steps

    def _learn(self, updates: int, before: int, sampled: int) -> None:
        """Make `updates` updates, spread over the env steps just sampled (target networks follow those)."""
        learner = self.learner_group._learner
        size = self.config.total_train_batch_size
        with self.metrics.log_time((TIMERS, LEARNER_UPDATE_TIMER)):
            for update in range(updates):
                batch = self.columnar_replay.sample(size)
                step = before + (update + 1) * sampled // updates
                learner.update_from_columns(batch, env_steps=step)
                self.columnar_replay.update_priorities(batch.rows, learner.td_errors)
            self.metrics.aggregate([learner.reduce_metrics()], key=LEARNER_RESULTS)
        self.push_weights()


class ColumnarDQNLearner(DirectLearner, DQNTorchLearner):
    """RLlib's DQN learner, fed with ready columns; per-update metrics are kept as tensors and reduced once."""

    @override(DQNTorchLearner)
    def build(self) -> None:
        """As RLlib's, with room for what the last update left."""
        super().build()
        self._td_errors = torch.zeros(0)

    @property
    def td_errors(self) -> np.ndarray[Any, np.dtype[np.float32]]:
        """(B,) absolute TD errors of the last update."""
        return self._td_errors.numpy()

    def update_from_columns(self, batch: ReplayBatch, *, env_steps: int) -> None:
        """One gradient step on ready columns. `env_steps` drives schedules and the target network."""
        timesteps = {NUM_ENV_STEPS_SAMPLED_LIFETIME: env_steps}
        self.before_gradient_based_update(timesteps=timesteps)
        self._weights_seq_no += 1
        self.learn_from(self._tensors(batch))
        self.after_gradient_based_update(timesteps=timesteps)

    def _tensors(self, batch: ReplayBatch) -> dict[str, torch.Tensor]:
        columns = {
            Columns.OBS: batch.obs,
            Columns.NEXT_OBS: batch.next_obs,
            Columns.ACTIONS: batch.actions,
            Columns.REWARDS: batch.rewards,
            Columns.TERMINATEDS: batch.terminated,
            "n_step": batch.n_step,
            "weights": batch.weights,
        }
        return {name: torch.from_numpy(column).to(self._device) for name, column in columns.items()}

    @override(DQNTorchLearner)
    def compute_loss_for_module(
        self, *, module_id: str, config: DQNConfig, batch: dict[str, Any], fwd_out: dict[str, Any]
    ) -> torch.Tensor:
        """RLlib's loss for expected Q-values (no atoms), without its per-update logging."""
        selected_B = fwd_out[QF_PREDS].gather(1, batch[Columns.ACTIONS].view(-1, 1)).squeeze(1)
        target_BA = fwd_out[QF_TARGET_NEXT_PREDS]
        best_of = fwd_out[QF_NEXT_PREDS] if config.double_q else target_BA
        next_B = target_BA.gather(1, best_of.argmax(1, keepdim=True)).squeeze(1)
        alive_B = 1.0 - batch[Columns.TERMINATEDS].float()
        wanted_B = (batch[Columns.REWARDS] + config.gamma ** batch["n_step"] * alive_B * next_B).detach()
        loss_of = torch.nn.functional.huber_loss if config.td_error_loss_fn == "huber" else torch.nn.functional.mse_loss
        loss: torch.Tensor = (batch["weights"] * loss_of(selected_B, wanted_B, reduction="none")).mean()
        self._td_errors = (selected_B - wanted_B).detach().abs().cpu()
        self._last = {QF_LOSS_KEY: loss, QF_MEAN_KEY: selected_B.mean()}
        del module_id
        return loss

    def reduce_metrics(self) -> dict[str, Any]:
        """Log what the last update left and reduce everything once."""
        self.log_last()
        self.metrics.log_value((ALL_MODULES, "num_updates_lifetime"), self.updates_lifetime, reduce="max")
        return dict(self.metrics.reduce())
