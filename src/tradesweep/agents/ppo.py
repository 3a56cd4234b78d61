"""PPO over columns: RLlib's Algorithm, module and schedules, with whole-row sampling and a learner without episodes.

One `training_step` takes a batch of rows from every lane, values and judges them at once, and learns from minibatches
that are picked by index.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Self

import numpy as np
import torch
from ray.rllib.algorithms.ppo import PPO, PPOConfig
from ray.rllib.algorithms.ppo.ppo import (
    LEARNER_RESULTS_KL_KEY,
    LEARNER_RESULTS_VF_EXPLAINED_VAR_KEY,
    LEARNER_RESULTS_VF_LOSS_UNCLIPPED_KEY,
)
from ray.rllib.algorithms.ppo.torch.ppo_torch_learner import PPOTorchLearner
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns
from ray.rllib.core.learner.learner import ENTROPY_KEY, POLICY_LOSS_KEY, VF_LOSS_KEY, Learner
from ray.rllib.evaluation.postprocessing import Postprocessing
from ray.rllib.utils.annotations import override
from ray.rllib.utils.metrics import (
    ALL_MODULES,
    LEARNER_RESULTS,
    LEARNER_UPDATE_TIMER,
    NUM_ENV_STEPS_SAMPLED_LIFETIME,
    NUM_MODULE_STEPS_TRAINED_LIFETIME,
    TIMERS,
)
from ray.rllib.utils.torch_utils import explained_variance

from tradesweep.agents.advantages import Floats, build_rollout, minibatches
from tradesweep.agents.base import QuietAlgorithm
from tradesweep.agents.fragment import Fragment
from tradesweep.agents.learner import Columnar, DirectLearner
from tradesweep.names import Draw


class ColumnarPPOConfig(PPOConfig):
    """RLlib's PPO config and the setting that is ours."""

    def __init__(self, algo_class: type | None = None) -> None:
        super().__init__(algo_class=algo_class or ColumnarPPO)
        self.kl_stop: float | None = None

    def training(self, *, kl_stop: float | None = None, **kwargs: Any) -> Self:
        """As RLlib's. An update ends with the first minibatch whose mean KL divergence, from the policy that acted to
        the one that learns, is above `kl_stop`."""
        super().training(**kwargs)
        if kl_stop is not None:
            self.kl_stop = kl_stop
        return self

    @override(PPOConfig)
    def get_default_learner_class(self) -> type[Learner]:
        """The learner that takes columns."""
        return ColumnarPPOLearner


class ColumnarPPO(QuietAlgorithm, PPO):
    """PPO whose training step works on columns; checkpoints, callbacks and evaluation are RLlib's."""

    @classmethod
    @override(PPO)
    def get_default_config(cls) -> PPOConfig:
        """The config this class is built from."""
        return ColumnarPPOConfig()

    @override(PPO)
    def training_step(self) -> None:
        """Sample a batch, learn from it, push the weights once."""
        fragments = self.sample_fragments(env_steps=self.config.total_train_batch_size)
        with self.metrics.log_time((TIMERS, LEARNER_UPDATE_TIMER)):
            learner = self.learner_group._learner
            learner.update_from_fragments(fragments, env_steps=self.env_steps_sampled)
            self.metrics.aggregate([learner.metrics.reduce()], key=LEARNER_RESULTS)
        self.push_weights()


class ColumnarPPOLearner(DirectLearner, PPOTorchLearner):
    """RLlib's PPO learner, fed with columns."""

    @override(PPOTorchLearner)
    def build(self) -> None:
        """As RLlib's, with a generator that shuffles."""
        super().build()
        self._last_values: tuple[torch.Tensor, torch.Tensor] | None = None
        self._shuffler = np.random.default_rng([self.config.seed or 0, Draw.MINIBATCHES])

    def update_from_fragments(self, fragments: list[Fragment], *, env_steps: int) -> None:
        """All epochs over all minibatches. `env_steps` drives the schedules."""
        timesteps = {NUM_ENV_STEPS_SAMPLED_LIFETIME: env_steps}
        self.before_gradient_based_update(timesteps=timesteps)
        self._weights_seq_no += 1
        config = self._own_config
        trained = 0
        rollout = build_rollout(fragments, self._value, gamma=config.gamma, lambda_=config.lambda_)
        for batch in self._minibatches(rollout):
            self.learn_from(batch)
            trained += len(batch[Columns.ACTIONS])
            if config.kl_stop is not None and self._last[LEARNER_RESULTS_KL_KEY] > config.kl_stop:
                break
        self._log(trained)
        self.after_gradient_based_update(timesteps=timesteps)

    @torch.no_grad()
    def _value(self, obs: Floats) -> Floats:
        batch = {Columns.OBS: torch.from_numpy(np.require(obs, requirements="W")).to(self._device)}
        values: Floats = self._own_module.compute_values(batch).cpu().numpy()
        return values

    def _minibatches(self, rollout: Columnar) -> Iterator[Columnar]:
        config = self._own_config
        picked = minibatches(
            len(rollout[Columns.ACTIONS]),
            size=config.minibatch_size,
            epochs=config.num_epochs,
            shuffle=config.shuffle_batch_per_epoch,
            generator=self._shuffler,
        )
        rollout = {name: column.to(self._device) for name, column in rollout.items()}
        return ({name: column[rows] for name, column in rollout.items()} for rows in picked)

    @override(PPOTorchLearner)
    def compute_loss_for_module(
        self, *, module_id: str, config: PPOConfig, batch: dict[str, Any], fwd_out: dict[str, Any]
    ) -> torch.Tensor:
        """RLlib's loss for discrete actions, without distribution objects and per-step logging."""
        log_p_NA = fwd_out[Columns.ACTION_DIST_INPUTS].log_softmax(1)
        log_p_N = log_p_NA.gather(1, batch[Columns.ACTIONS].view(-1, 1)).squeeze(1)
        ratio_N = (log_p_N - batch[Columns.ACTION_LOGP]).exp()
        advantages_N = batch[Postprocessing.ADVANTAGES]
        clipped_N = ratio_N.clamp(1 - config.clip_param, 1 + config.clip_param)
        policy_loss = -torch.min(advantages_N * ratio_N, advantages_N * clipped_N).mean()
        entropy = -(log_p_NA.exp() * log_p_NA).sum(1).mean()
        entropy_coeff = self.entropy_coeff_schedulers_per_module[module_id].get_current_value()
        loss: torch.Tensor = policy_loss - entropy_coeff * entropy
        self._last = {POLICY_LOSS_KEY: policy_loss, ENTROPY_KEY: entropy}
        if config.use_critic:
            loss = loss + config.vf_loss_coeff * self._value_loss(config, batch, fwd_out)
        if config.use_kl_loss or config.kl_stop is not None:
            kl = self._kl(batch, log_p_NA)
            loss = loss + self.curr_kl_coeffs_per_module[module_id] * kl if config.use_kl_loss else loss
        self._last[self.TOTAL_LOSS_KEY] = loss
        return loss

    def _value_loss(self, config: PPOConfig, batch: Columnar, fwd_out: dict[str, Any]) -> torch.Tensor:
        values_N = self._own_module.compute_values(batch, embeddings=fwd_out.get(Columns.EMBEDDINGS))
        misses_N = (values_N - batch[Postprocessing.VALUE_TARGETS]) ** 2
        value_loss: torch.Tensor = misses_N.clamp(0, config.vf_clip_param).mean()
        self._last |= {VF_LOSS_KEY: value_loss, LEARNER_RESULTS_VF_LOSS_UNCLIPPED_KEY: misses_N.mean()}
        self._last_values = (batch[Postprocessing.VALUE_TARGETS], values_N)
        return value_loss

    def _kl(self, batch: Columnar, log_p_NA: torch.Tensor) -> torch.Tensor:
        """Infinite, as RLlib's, where an action that was possible has become impossible: that trial has diverged."""
        acted_log_p_NA = batch[Columns.ACTION_DIST_INPUTS].log_softmax(1)
        acted_p_NA = acted_log_p_NA.exp()
        terms_NA = acted_p_NA * (acted_log_p_NA - log_p_NA)
        terms_NA = terms_NA.masked_fill((log_p_NA.exp() == 0.0) & (acted_p_NA > 0.0), torch.inf)
        kl: torch.Tensor = terms_NA.sum(1).mean()
        self._last[LEARNER_RESULTS_KL_KEY] = kl
        return kl

    def _log(self, trained: int) -> None:
        """Once per update: the last minibatch's losses, as RLlib's, and the transitions learned from."""
        self.log_last()
        if self._last_values is not None:
            explained = explained_variance(*self._last_values)
            self.metrics.log_value((DEFAULT_MODULE_ID, LEARNER_RESULTS_VF_EXPLAINED_VAR_KEY), explained, window=1)
        for module in (DEFAULT_MODULE_ID, ALL_MODULES):
            self.metrics.log_value((module, NUM_MODULE_STEPS_TRAINED_LIFETIME), trained, reduce="lifetime_sum")
