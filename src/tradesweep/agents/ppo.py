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
from ray.rllib.algorithms.ppo.torch.default_ppo_torch_rl_module import DefaultPPOTorchRLModule
from ray.rllib.algorithms.ppo.torch.ppo_torch_learner import PPOTorchLearner
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns
from ray.rllib.core.learner.learner import ENTROPY_KEY, POLICY_LOSS_KEY, VF_LOSS_KEY, Learner
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.evaluation.postprocessing import Postprocessing
from ray.rllib.utils.annotations import override
from ray.rllib.utils.metrics import (
    ALL_MODULES,
    LEARNER_UPDATE_TIMER,
    NUM_ENV_STEPS_SAMPLED_LIFETIME,
    NUM_MODULE_STEPS_TRAINED_LIFETIME,
    TIMERS,
)
from ray.rllib.utils.torch_utils import explained_variance

from tradesweep.agents.advantages import Floats, build_rollout, minibatches
from tradesweep.agents.base import QuietAlgorithm
from tradesweep.agents.dense import DenseStack
from tradesweep.agents.fragment import Fragment
from tradesweep.agents.learner import Columnar, DirectLearner
from tradesweep.agents.ppo_loss import PPOLoss, divergence
from tradesweep.names import Draw

GATHERED_AT_ONCE = 8
"""Minibatches of one gather."""


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
    def get_default_rl_module_spec(self) -> RLModuleSpec:
        """RLlib's network in our module."""
        return RLModuleSpec(module_class=ColumnarPPOModule, model_config=self.model_config)

    @override(PPOConfig)
    def get_default_learner_class(self) -> type[Learner]:
        """The learner that takes columns."""
        return ColumnarPPOLearner


class ColumnarPPOModule(DefaultPPOTorchRLModule):
    """RLlib's actor and critic: same weights, same values. Where torch keeps no graph, the actor runs without one."""

    @override(DefaultPPOTorchRLModule)
    def setup(self) -> None:
        """As RLlib's; the actor's layers are looked up once."""
        super().setup()
        self._actor_stack = DenseStack(self.encoder.actor_encoder, self.pi)

    @override(DefaultPPOTorchRLModule)
    def _forward(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        if torch.is_grad_enabled():
            out: dict[str, Any] = super()._forward(batch, **kwargs)
            return out
        return {Columns.ACTION_DIST_INPUTS: self._actor_stack.forward(batch[Columns.OBS])[-1]}


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
        so_far, batch_size = self.env_steps_sampled, self.config.total_train_batch_size
        fragments = self.sample_fragments(env_steps=batch_size, so_far=so_far)
        now = so_far + sum(fragment.steps for fragment in fragments)
        with self.metrics.log_time((TIMERS, LEARNER_UPDATE_TIMER)):
            self.learner_group._learner.update_from_fragments(fragments, env_steps=now)
        self.push_weights()
        self.take_metrics()


class ColumnarPPOLearner(DirectLearner, PPOTorchLearner):
    """RLlib's PPO learner, fed with columns."""

    @override(PPOTorchLearner)
    def build(self) -> None:
        """As RLlib's, with a generator that shuffles."""
        super().build()
        module = self._own_module
        self._actor = DenseStack(module.encoder.actor_encoder, module.pi)
        self._critic = DenseStack(module.encoder.critic_encoder, module.vf)
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
            if config.kl_stop is not None and divergence(*self._last).mean() > config.kl_stop:
                break
        self._log(trained)
        self.after_gradient_based_update(timesteps=timesteps)

    @torch.no_grad()
    def _value(self, obs: Floats) -> Floats:
        rows = torch.from_numpy(np.require(obs, requirements="W")).to(self._device)
        values: Floats = self._critic.forward(rows)[-1].squeeze(1).cpu().numpy()
        return values

    def _minibatches(self, rollout: Columnar) -> Iterator[Columnar]:
        """Some are gathered at once: an index costs what it does for a few rows and for many."""
        config = self._own_config
        picked = list(
            minibatches(
                len(rollout[Columns.ACTIONS]),
                size=config.minibatch_size,
                epochs=config.num_epochs,
                shuffle=config.shuffle_batch_per_epoch,
                generator=self._shuffler,
            )
        )
        columns = {name: column.to(self._device) for name, column in rollout.items()}
        for at in range(0, len(picked), GATHERED_AT_ONCE):
            group = picked[at : at + GATHERED_AT_ONCE]
            rows, size = torch.cat(group).to(self._device), len(group[0])
            drawn = [torch.split(column[rows], size) for column in columns.values()]
            yield from (dict(zip(columns, parts, strict=True)) for parts in zip(*drawn, strict=True))

    @property
    def _loss(self) -> PPOLoss:
        """With the coefficients of now."""
        config = self._own_config
        return PPOLoss(
            clip=config.clip_param,
            entropy_coeff=float(self.entropy_coeff_schedulers_per_module[DEFAULT_MODULE_ID].get_current_value()),
            kl_coeff=float(self.curr_kl_coeffs_per_module[DEFAULT_MODULE_ID]) if config.use_kl_loss else 0.0,
            value_coeff=config.vf_loss_coeff if config.use_critic else 0.0,
            value_clip=config.vf_clip_param,
        )

    @override(DirectLearner)
    def find_gradients(self, batch: Columnar) -> None:
        """Of actor and critic, which share no weight."""
        loss, between = self._loss, self._actor.forward(batch[Columns.OBS])
        self._last = (between[-1], batch)
        self._actor.backward(between, loss.policy_gradient(between[-1], batch))
        if self._own_config.use_critic:
            between = self._critic.forward(batch[Columns.OBS])
            self._last_values = between[-1].squeeze(1)
            self._critic.backward(between, loss.value_gradient(self._last_values, batch).unsqueeze(1))

    @override(DirectLearner)
    def last_losses(self) -> dict[str, torch.Tensor]:
        """Of the last minibatch, under RLlib's names."""
        config, loss, (logits, batch) = self._own_config, self._loss, self._last
        policy_loss, entropy = (column.mean() for column in loss.policy_terms(logits, batch))
        total = policy_loss - loss.entropy_coeff * entropy
        found = {POLICY_LOSS_KEY: policy_loss, ENTROPY_KEY: entropy}
        if config.use_critic:
            misses = (self._last_values - batch[Postprocessing.VALUE_TARGETS]).square()
            found[LEARNER_RESULTS_VF_LOSS_UNCLIPPED_KEY] = misses.mean()
            found[VF_LOSS_KEY] = misses.clamp(0, loss.value_clip).mean()
            total = total + loss.value_coeff * found[VF_LOSS_KEY]
        if config.use_kl_loss or config.kl_stop is not None:
            found[LEARNER_RESULTS_KL_KEY] = divergence(logits, batch).mean()
            total = total + loss.kl_coeff * found[LEARNER_RESULTS_KL_KEY] if loss.kl_coeff else total
        return {**found, self.TOTAL_LOSS_KEY: total}

    def _log(self, trained: int) -> None:
        """Once per update: the last minibatch's losses, as RLlib's, and the transitions learned from."""
        self.log_last()
        if self._own_config.use_critic:
            explained = explained_variance(self._last[1][Postprocessing.VALUE_TARGETS], self._last_values)
            self.metrics.log_value((DEFAULT_MODULE_ID, LEARNER_RESULTS_VF_EXPLAINED_VAR_KEY), explained, window=1)
        for module in (DEFAULT_MODULE_ID, ALL_MODULES):
            self.metrics.log_value((module, NUM_MODULE_STEPS_TRAINED_LIFETIME), trained, reduce="lifetime_sum")
