"""The columnar DQN learner against RLlib's own, and the pace of updates and target networks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from ray.rllib.algorithms.dqn.dqn_learner import QF_LOSS_KEY
from ray.rllib.algorithms.dqn.torch.default_dqn_torch_rl_module import DefaultDQNTorchRLModule
from ray.rllib.algorithms.dqn.torch.dqn_torch_learner import DQNTorchLearner
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns
from ray.rllib.core.learner.learner import Learner
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.utils.metrics import NUM_ENV_STEPS_SAMPLED_LIFETIME, TD_ERROR_KEY
from scipy.stats import chisquare

from tradesweep.agents.dqn import ColumnarDQNLearner, ColumnarDQNModule
from tradesweep.agents.replay import ReplayBatch
from tradesweep.agents.runner import VectorEnvRunner

Make = Callable[..., Any]


def random_batch(width: int, *, count: int = 64, n_step: int = 1, seed: int = 0) -> ReplayBatch:
    generator = np.random.default_rng(seed)
    return ReplayBatch(
        obs=generator.normal(size=(count, width)).astype(np.float32),
        next_obs=generator.normal(size=(count, width)).astype(np.float32),
        actions=generator.integers(3, size=count),
        rewards=(3 * generator.normal(size=count)).astype(np.float32),  # beyond 1: the huber loss has two branches
        terminated=generator.random(count) < 0.2,
        n_step=generator.integers(1, n_step + 1, size=count).astype(np.float32),
        weights=generator.random(count).astype(np.float32),
        rows=np.arange(count),
    )


def build_learner(learner_class: type[Learner], make_setting: Make, **params: Any) -> Any:
    """Ours, or RLlib's own with its own module."""
    config = make_setting("dqn", **params).config()
    if learner_class is DQNTorchLearner:
        config.rl_module(rl_module_spec=RLModuleSpec(module_class=DefaultDQNTorchRLModule))
    runner = VectorEnvRunner(config=config)
    learner = learner_class(config=config, module_spec=config.get_multi_rl_module_spec(env=runner.env))
    learner.build()
    return learner


def columns_for(batch: ReplayBatch) -> dict[str, torch.Tensor]:
    """A batch as RLlib's learner takes it."""
    columns = {
        Columns.OBS: batch.obs,
        Columns.NEXT_OBS: batch.next_obs,
        Columns.ACTIONS: batch.actions,
        Columns.REWARDS: batch.rewards,
        Columns.TERMINATEDS: batch.terminated,
        "n_step": batch.n_step,
        "weights": batch.weights,
    }
    return {name: torch.from_numpy(column) for name, column in columns.items()}


Found = tuple[float, dict[str, torch.Tensor], torch.Tensor]
"""Loss, gradients by the names of the weights, TD errors."""


def direct_gradients_of(learner: Any, batch: ReplayBatch) -> Found:
    """As a gradient step of ours finds them, without torch's graph."""
    weights = dict(learner.module[DEFAULT_MODULE_ID].named_parameters())
    for weight in weights.values():
        weight.grad = None
    with torch.no_grad():
        learner.find_gradients(learner._tensors(batch))
        loss = learner.last_losses()[QF_LOSS_KEY]
    found = {name: weight.grad for name, weight in weights.items() if weight.grad is not None}
    return float(loss), found, torch.from_numpy(learner.td_errors)


def gradients_of(learner: Any, batch: ReplayBatch) -> Found:
    """As RLlib finds them."""
    logged: dict[Any, Any] = {}
    learner.metrics.log_value = lambda key, value, **rest: logged.update({key: value})
    columns = {DEFAULT_MODULE_ID: columns_for(batch)}
    fwd_out = learner.module.forward_train(columns)
    loss = learner.compute_losses(fwd_out=fwd_out, batch=columns)[DEFAULT_MODULE_ID]
    gradients = learner.compute_gradients({DEFAULT_MODULE_ID: loss})
    names = {
        learner.get_param_ref(weight): name for name, weight in learner.module[DEFAULT_MODULE_ID].named_parameters()
    }
    errors = logged[DEFAULT_MODULE_ID, TD_ERROR_KEY].detach()
    return float(loss.detach()), {names[key]: value.clone() for key, value in gradients.items()}, errors


@pytest.mark.parametrize("find", [direct_gradients_of, gradients_of])
@pytest.mark.parametrize("double_q", [True, False])
@pytest.mark.parametrize("dueling", [True, False])
@pytest.mark.parametrize(("loss", "n_step"), [("huber", 1), ("mse", 5)])
def test_loss_gradients_and_td_errors_equal_rllibs_learner(
    make_setting: Make, double_q: bool, dueling: bool, loss: str, n_step: int, find: Callable[..., Found]
) -> None:
    """Ours, and those that RLlib's own way finds on our learner."""
    params = {"double_q": double_q, "dueling": dueling, "td_error_loss_fn": loss, "n_step": n_step, "gamma": 0.9}
    ours = build_learner(ColumnarDQNLearner, make_setting, **params)
    stock = build_learner(DQNTorchLearner, make_setting, **params)
    # Another target network than the online one, or double Q-learning could not be told from the plain kind.
    with torch.no_grad():
        for name, weight in ours.module[DEFAULT_MODULE_ID].named_parameters():
            if "target" in name:
                weight.add_(0.3 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)))
    stock.module.set_state(ours.module.get_state())
    batch = random_batch(ours.module[DEFAULT_MODULE_ID].observation_space.shape[0], n_step=n_step)
    my_loss, my_gradients, my_errors = find(ours, batch)
    its_loss, its_gradients, its_errors = gradients_of(stock, batch)
    assert type(stock.module[DEFAULT_MODULE_ID]) is DefaultDQNTorchRLModule
    assert my_loss == pytest.approx(its_loss, rel=1e-5)
    np.testing.assert_allclose(my_errors.numpy(), its_errors.numpy(), rtol=1e-5, atol=1e-5)
    assert my_gradients.keys() == its_gradients.keys()
    for name, gradient in its_gradients.items():
        torch.testing.assert_close(my_gradients[name], gradient, rtol=1e-5, atol=1e-6, msg=name)
    assert any(float(gradient.abs().max()) > 1e-3 for gradient in its_gradients.values())


@pytest.mark.parametrize(
    "clip", [{"grad_clip": None}, {"grad_clip": 0.05}, {"grad_clip": 0.01, "grad_clip_by": "value"}]
)
def test_some_updates_lead_to_the_weights_that_rllibs_learner_reaches(make_setting: Make, clip: dict[str, Any]) -> None:
    params = {"lr": 1e-2, "gamma": 0.9, "target_network_update_freq": 8, "tau": 0.3, **clip}
    ours = build_learner(ColumnarDQNLearner, make_setting, **params)
    stock = build_learner(DQNTorchLearner, make_setting, **params)
    stock.module.set_state(ours.module.get_state())
    before = {name: weight.clone() for name, weight in ours.module[DEFAULT_MODULE_ID].named_parameters()}
    width = ours.module[DEFAULT_MODULE_ID].observation_space.shape[0]
    for step in range(5):
        batch = random_batch(width, seed=step)
        ours.update_from_columns(batch, env_steps=4 * step)
        columns = {DEFAULT_MODULE_ID: columns_for(batch)}
        losses = stock.compute_losses(fwd_out=stock.module.forward_train(columns), batch=columns)
        stock.apply_gradients(stock.postprocess_gradients(stock.compute_gradients(losses)))
        stock.after_gradient_based_update(timesteps={NUM_ENV_STEPS_SAMPLED_LIFETIME: 4 * step})
    mine = dict(ours.module[DEFAULT_MODULE_ID].named_parameters())
    for name, weight in stock.module[DEFAULT_MODULE_ID].named_parameters():
        torch.testing.assert_close(mine[name], weight, rtol=1e-4, atol=1e-5, msg=name)
        assert not torch.equal(weight, before[name]), f"{name} moved in neither"


def test_exploration_is_epsilon_greedy_over_all_actions(make_setting: Make) -> None:
    learner = build_learner(ColumnarDQNLearner, make_setting, epsilon=[[0, 0.6], [100, 0.3]])
    module = learner.module[DEFAULT_MODULE_ID]
    assert type(module) is ColumnarDQNModule
    obs = {Columns.OBS: torch.randn(1, module.observation_space.shape[0]).repeat(30_000, 1)}
    best = int(module.forward_inference(obs)[Columns.ACTIONS][0])
    for now, epsilon in ((0, 0.6), (50, 0.45), (200, 0.3)):
        drawn = np.bincount(module.forward_exploration(obs, t=now)[Columns.ACTIONS].numpy(), minlength=3)
        expected = np.full(3, epsilon / 3) + (1 - epsilon) * (np.arange(3) == best)
        assert chisquare(drawn, expected * 30_000).pvalue > 1e-3


def test_a_restored_learner_knows_when_its_target_networks_last_followed(make_setting: Make) -> None:
    def target_of(learner: Any) -> torch.Tensor:
        pairs = learner.module[DEFAULT_MODULE_ID].get_target_network_pairs()
        return torch.cat([weight.detach().ravel() for _, target in pairs for weight in target.parameters()])

    first, second = (build_learner(ColumnarDQNLearner, make_setting, target_network_update_freq=100) for _ in range(2))
    batch = random_batch(first.module[DEFAULT_MODULE_ID].observation_space.shape[0])
    first.update_from_columns(batch, env_steps=1000)
    second.set_state(first.get_state())
    for env_steps, follows in ((1040, False), (1100, True)):
        before = target_of(second)
        second.update_from_columns(batch, env_steps=env_steps)
        assert torch.equal(target_of(second), before) != follows


def test_target_networks_follow_the_env_steps(make_setting: Make) -> None:
    learner = build_learner(ColumnarDQNLearner, make_setting, target_network_update_freq=100, lr=1e-2, tau=1.0)
    module = learner.module[DEFAULT_MODULE_ID]
    batch = random_batch(module.observation_space.shape[0])
    updated, before = [], None
    for env_steps in range(10, 500, 15):
        learner.update_from_columns(batch, env_steps=env_steps)
        (online, target), *_ = module.get_target_network_pairs()
        weights = torch.cat([weight.detach().ravel() for weight in target.parameters()])
        if before is not None and not torch.equal(weights, before):
            updated.append(env_steps)
            assert torch.equal(weights, torch.cat([weight.detach().ravel() for weight in online.parameters()]))
        before = weights.clone()
    # The first update at which 100 steps have passed since the last one.
    expected, last = [], 0
    for env_steps in range(10, 500, 15):
        if env_steps - last >= 100:
            expected.append(env_steps)
            last = env_steps
    assert updated == expected
    assert len(expected) == 4


def test_a_weight_of_zero_takes_a_transition_out_of_the_loss(make_setting: Make) -> None:
    learner = build_learner(ColumnarDQNLearner, make_setting)
    batch = random_batch(learner.module[DEFAULT_MODULE_ID].observation_space.shape[0])
    batch.weights[:32] = 0.0
    loss, gradients, _ = direct_gradients_of(learner, batch)
    batch.rewards[:32] += 100.0
    changed_loss, changed_gradients, errors = direct_gradients_of(learner, batch)
    assert changed_loss == loss
    assert all(torch.equal(changed_gradients[name], gradient) for name, gradient in gradients.items())
    assert float(errors[:32].min()) > 50
