"""DQN over columns: RLlib's Algorithm, modules and learner, with whole-row sampling and columnar replay.

One `training_step` takes a fragment of rows from every lane, then as many updates as `updates_per_env_step` makes due.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from ray.rllib.algorithms.dqn.dqn import DQN, DQNConfig
from ray.rllib.algorithms.dqn.dqn_learner import (
    QF_LOSS_KEY,
    QF_MEAN_KEY,
    QF_PREDS,
)
from ray.rllib.algorithms.dqn.torch.default_dqn_torch_rl_module import DefaultDQNTorchRLModule
from ray.rllib.algorithms.dqn.torch.dqn_torch_learner import DQNTorchLearner
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns
from ray.rllib.core.learner.learner import DEFAULT_OPTIMIZER, LR_KEY, Learner
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.utils.annotations import override
from ray.rllib.utils.metrics import (
    ALL_MODULES,
    LAST_TARGET_UPDATE_TS,
    LEARNER_UPDATE_TIMER,
    NUM_ENV_STEPS_SAMPLED_LIFETIME,
    NUM_TARGET_UPDATES,
    TIMERS,
)

from tradesweep.agents.base import QuietAlgorithm
from tradesweep.agents.dense import DenseStack
from tradesweep.agents.fragment import Fragment
from tradesweep.agents.learner import Columnar, DirectLearner
from tradesweep.agents.replay import ColumnarReplay, ReplayBatch, ReplayConfig
from tradesweep.agents.slopes import as_array, value_slopes
from tradesweep.names import Draw
from tradesweep.spec import STEPS_PER_TRAINING_STEP

DISCOUNTS, SHARES = "discounts", "shares"
"""Columns of a training batch: what the bootstrap value is multiplied by, and each row's part of the loss."""
Between = tuple[list[torch.Tensor], list[torch.Tensor], list[torch.Tensor]]
"""What went through trunk, advantage head and value head."""
REPLAY_FILE = "replay.npz"
"""The replay's contents in a checkpoint."""


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

    @override(DQNConfig)
    def get_default_rl_module_spec(self) -> RLModuleSpec:
        """RLlib's network in our module."""
        return RLModuleSpec(module_class=ColumnarDQNModule, model_config=self.model_config)


class QNetwork:
    """Q values of an MLP: advantages, or dueling Q = V + A - mean A (Wang et al. 2016, eq. 9); without a graph."""

    def __init__(self, trunk: torch.nn.Module, advantage: torch.nn.Module, value: torch.nn.Module | None) -> None:
        self._trunk, self._advantage = DenseStack(trunk), DenseStack(advantage)
        self._value = None if value is None else DenseStack(value)

    def forward(self, rows_BD: torch.Tensor) -> tuple[torch.Tensor, Between]:
        """(B, A) Q values, and what `backward` needs."""
        trunk = self._trunk.forward(rows_BD)
        advantage = self._advantage.forward(trunk[-1])
        if self._value is None:
            return advantage[-1], (trunk, advantage, [])
        value = self._value.forward(trunk[-1])
        return advantage[-1] - advantage[-1].mean(1, keepdim=True) + value[-1], (trunk, advantage, value)

    def backward(self, between: Between, gradient_BA: torch.Tensor) -> None:
        """Set the gradient of every weight from that by the Q values of the first B rows."""
        count = len(gradient_BA)
        trunk, advantage, value = ([rows[:count] for rows in stack] for stack in between)
        if self._value is None:
            gradient_BH = self._advantage.backward(advantage, gradient_BA, to_rows=True)
        else:
            centred_BA = gradient_BA - gradient_BA.mean(1, keepdim=True)
            gradient_BH = self._advantage.backward(advantage, centred_BA, to_rows=True)
            gradient_BH = gradient_BH + self._value.backward(value, gradient_BA.sum(1, keepdim=True), to_rows=True)
        self._trunk.backward(trunk, gradient_BH)


class ColumnarDQNModule(DefaultDQNTorchRLModule):
    """RLlib's Q network: same weights, same values. Where torch keeps no graph, it runs without one."""

    @override(DefaultDQNTorchRLModule)
    def setup(self) -> None:
        """As RLlib's; the layers are looked up once."""
        super().setup()
        self.online = QNetwork(self.encoder, self.af, self.vf if self.uses_dueling else None)

    @override(DefaultDQNTorchRLModule)
    def make_target_networks(self) -> None:
        """As RLlib's; the layers are looked up once."""
        super().make_target_networks()
        self.target = QNetwork(self._target_encoder, self._target_af, self._target_vf if self.uses_dueling else None)

    @override(DefaultDQNTorchRLModule)
    def compute_q_values(self, batch: dict[str, Any]) -> dict[str, torch.Tensor]:
        """(B, A) under RLlib's name."""
        if torch.is_grad_enabled():
            found: dict[str, torch.Tensor] = super().compute_q_values(batch)
            return found
        return {QF_PREDS: self.online.forward(batch[Columns.OBS])[0]}

    @override(DefaultDQNTorchRLModule)
    def _forward_exploration(self, batch: dict[str, Any], t: int) -> dict[str, torch.Tensor]:
        """Epsilon-greedy at env step `t`, as RLlib's."""
        values_BA = self.compute_q_values(batch)[QF_PREDS]
        self.epsilon_schedule.update(t)
        count, actions = values_BA.shape
        explores_B = torch.rand(count, device=values_BA.device) < self.epsilon_schedule.get_current_value()
        random_B = torch.randint(actions, (count,), device=values_BA.device)
        return {Columns.ACTIONS: torch.where(explores_B, random_B, values_BA.argmax(1))}


class ColumnarDQN(QuietAlgorithm, DQN):
    """DQN whose training step works on columns; checkpoints, callbacks and evaluation are RLlib's."""

    @classmethod
    @override(DQN)
    def get_default_config(cls) -> DQNConfig:
        """The config this class is built from."""
        return ColumnarDQNConfig()

    @override(DQN)
    def setup(self, config: DQNConfig) -> None:
        """Build as RLlib does, then the replay, empty."""
        super().setup(config)
        self.columnar_replay = ColumnarReplay(
            self.config.replay,
            obs_width=self.env_runner.env.single_observation_space.shape[0],
            generator=np.random.default_rng([self.config.seed or 0, Draw.REPLAY]),
        )
        self._steps_stored = 0
        self._updates_due = 0.0

    @override(DQN)
    def save_to_path(self, path: str | Path | None = None, **kwargs: Any) -> str:
        """As RLlib's; with `checkpoint` in the replay's settings its contents lie beside the state."""
        folder: str = super().save_to_path(path, **kwargs)
        if self.config.replay.checkpoint:
            self.columnar_replay.save(Path(folder) / REPLAY_FILE, pace=(self._steps_stored, self._updates_due))
        return folder

    @override(DQN)
    def restore_from_path(self, path: str | Path, **kwargs: Any) -> None:
        """As RLlib's, and the replay where its contents were kept; else it is filled anew before learning goes on."""
        super().restore_from_path(path, **kwargs)
        replay = Path(path) / REPLAY_FILE
        if self.config.replay.checkpoint and replay.is_file():
            self._steps_stored, self._updates_due = self.columnar_replay.load(replay)

    def _create_local_replay_buffer_if_necessary(self, config: DQNConfig) -> None:  # noqa: ARG002
        """RLlib's episode buffer is not used."""
        return

    @override(DQN)
    def training_step(self) -> None:
        """Sample rows, store them, make the updates that are due, push the weights; and again, until there are as many
        env steps as a result wants. Metrics are reduced once: that costs as much as some updates."""
        begun = now = self.env_steps_sampled
        while now == begun or now - begun < (self.config.min_sample_timesteps_per_iteration or 0):
            fragments = self.sample_fragments(env_steps=STEPS_PER_TRAINING_STEP, so_far=now)
            sampled = sum(map(self._store, fragments))
            if updates := self._take_due(sampled):
                self._learn(updates, now, sampled)
            now += sampled
        self.learner_group._learner.log_metrics()
        self.take_metrics()

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
        """Env steps before learning starts. Counted from when the replay was empty: one that is not restored fills."""
        return int(self.config.num_steps_sampled_before_learning_starts)

    def _store(self, fragment: Fragment) -> int:
        self.columnar_replay.add(fragment)
        return fragment.steps

    def _learn(self, updates: int, before: int, sampled: int) -> None:
        """Make `updates` updates, spread over the env steps just sampled (target networks follow those)."""
        learner = self.learner_group._learner
        size = self.config.total_train_batch_size
        with self.metrics.log_time((TIMERS, LEARNER_UPDATE_TIMER)):
            for update, batch in enumerate(self.columnar_replay.minibatches(updates, size)):
                step = before + (update + 1) * sampled // updates
                learner.update_from_columns(batch, env_steps=step)
                if self.config.replay.prioritized:
                    self.columnar_replay.update_priorities(batch.rows, learner.td_errors)
        self.push_weights()


class ColumnarDQNLearner(DirectLearner, DQNTorchLearner):
    """RLlib's DQN learner, fed with ready columns; per-update metrics are kept as tensors and reduced once."""

    @override(DQNTorchLearner)
    def build(self) -> None:
        """As RLlib's, with room for what the last update left."""
        super().build()
        self._misses = torch.zeros(0)
        pairs = self._own_module.get_target_network_pairs()
        self._online_weights = [weight for online, _ in pairs for weight in online.parameters()]
        self._target_weights = [weight for _, target in pairs for weight in target.parameters()]
        self._targets_followed = self._updates_logged = 0

    @property
    def td_errors(self) -> np.ndarray[Any, np.dtype[np.float32]]:
        """(B,) absolute TD errors of the last update."""
        return self._misses.abs().cpu().numpy()

    def update_from_columns(self, batch: ReplayBatch, *, env_steps: int) -> None:
        """One gradient step on ready columns. `env_steps` drives schedules and the target network."""
        timesteps = {NUM_ENV_STEPS_SAMPLED_LIFETIME: env_steps}
        self.before_gradient_based_update(timesteps=timesteps)
        self._weights_seq_no += 1
        self.learn_from(self._tensors(batch))
        self.after_gradient_based_update(timesteps=timesteps)

    def _tensors(self, batch: ReplayBatch) -> Columnar:
        columns = {
            Columns.OBS: batch.obs,
            Columns.NEXT_OBS: batch.next_obs,
            Columns.ACTIONS: batch.actions,
            Columns.REWARDS: batch.rewards,
            DISCOUNTS: np.float32(self._own_config.gamma) ** batch.n_step * ~batch.terminated,
            SHARES: batch.weights / np.float32(len(batch.weights)),
        }
        return {name: torch.from_numpy(column).to(self._device) for name, column in columns.items()}

    @override(DQNTorchLearner)
    def after_gradient_based_update(self, *, timesteps: dict[str, Any]) -> None:
        """As RLlib's, target networks and learning rate, but logged once for all updates: see `log_metrics`."""
        now = timesteps[NUM_ENV_STEPS_SAMPLED_LIFETIME]
        if now - self.last_update_ts_by_mid[DEFAULT_MODULE_ID] >= self._own_config.target_network_update_freq:
            with torch.no_grad():
                torch._foreach_lerp_(self._target_weights, self._online_weights, self._own_config.tau)
            self.last_update_ts_by_mid[DEFAULT_MODULE_ID] = now
            self._targets_followed += 1
        self._set_optimizer_lr(self._optimizer, lr=self._optimizer_lr_schedules[self._optimizer].update(timestep=now))

    @override(DirectLearner)
    def find_gradients(self, batch: Columnar) -> None:
        """Of the online network, by its misses of the rewards and what the target network says of the next states."""
        config, module, obs_BD, next_BD = (
            self._own_config,
            self._own_module,
            batch[Columns.OBS],
            batch[Columns.NEXT_OBS],
        )
        target_BA, _ = module.target.forward(next_BD)
        # The online network reads both at once: half as many calls.
        values, between = module.online.forward(torch.cat([obs_BD, next_BD]) if config.double_q else obs_BD)
        best_of = values[len(obs_BD) :] if config.double_q else target_BA
        slopes_BA, misses_B, selected_B = value_slopes(
            as_array(values),
            as_array(best_of),
            as_array(target_BA),
            as_array(batch[Columns.ACTIONS]),
            as_array(batch[Columns.REWARDS]),
            as_array(batch[DISCOUNTS]),
            as_array(batch[SHARES]),
            config.td_error_loss_fn == "huber",
        )
        self._misses, self._selected = torch.from_numpy(misses_B), torch.from_numpy(selected_B)
        self._shares = batch[SHARES]
        gradient_BA = torch.from_numpy(slopes_BA).to(self._device)
        module.online.backward(between, gradient_BA)

    @override(DirectLearner)
    def last_losses(self) -> dict[str, torch.Tensor]:
        """RLlib's loss for expected Q-values (no atoms), and the mean Q value of the actions taken."""
        loss_of = (
            torch.nn.functional.huber_loss
            if self._own_config.td_error_loss_fn == "huber"
            else torch.nn.functional.mse_loss
        )
        losses_B = loss_of(self._misses, torch.zeros_like(self._misses), reduction="none")
        return {QF_LOSS_KEY: torch.dot(self._shares.cpu(), losses_B), QF_MEAN_KEY: self._selected}

    def log_metrics(self) -> None:
        """What the last update left, if there was one, for all updates since the last call."""
        if self.updates_lifetime == self._updates_logged:
            return
        self.log_last()
        rate = self._get_optimizer_lr(self._optimizer)
        for name, value, reduce in (
            (f"{DEFAULT_OPTIMIZER}_{LR_KEY}", rate, "mean"),
            (LAST_TARGET_UPDATE_TS, self.last_update_ts_by_mid[DEFAULT_MODULE_ID], "max"),
            (NUM_TARGET_UPDATES, self._targets_followed, "lifetime_sum"),
        ):
            self.metrics.log_value((DEFAULT_MODULE_ID, name), value, reduce=reduce)
        self._targets_followed, self._updates_logged = 0, self.updates_lifetime
        self.metrics.log_value((ALL_MODULES, "num_updates_lifetime"), self.updates_lifetime, reduce="max")

    @override(DQNTorchLearner)
    def get_state(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """As RLlib's, and when the target networks last followed."""
        state: dict[str, Any] = super().get_state(*args, **kwargs)
        state[LAST_TARGET_UPDATE_TS] = self.last_update_ts_by_mid[DEFAULT_MODULE_ID]
        return state

    @override(DQNTorchLearner)
    def set_state(self, state: dict[str, Any]) -> None:
        """As RLlib's; without the time of the last target update they would follow at the first one."""
        super().set_state(state)
        if LAST_TARGET_UPDATE_TS in state:
            self.last_update_ts_by_mid[DEFAULT_MODULE_ID] = state[LAST_TARGET_UPDATE_TS]
