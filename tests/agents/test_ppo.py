"""The columnar PPO learner against RLlib's own: advantages, loss, gradients, clipping, schedules."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ray.rllib.algorithms.ppo.torch.ppo_torch_learner import PPOTorchLearner
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns
from ray.rllib.core.learner.learner import Learner
from ray.rllib.evaluation.postprocessing import Postprocessing
from ray.rllib.utils.postprocessing.value_predictions import compute_value_targets
from ray.rllib.utils.torch_utils import clip_gradients

from tradesweep.agents.advantages import build_rollout, estimate_advantages, minibatches
from tradesweep.agents.flat import FlatWeights
from tradesweep.agents.fragment import DISTRIBUTION_INPUTS, LOG_PROBABILITY, Fragment, segments
from tradesweep.agents.learner import CLIPPERS
from tradesweep.agents.ppo import ColumnarPPOLearner
from tradesweep.agents.runner import VectorEnvRunner
from tradesweep.errors import TrialDiverged
from tradesweep.names import Draw

Make = Callable[..., Any]


def build_learner(learner_class: type[Learner], make_setting: Make, **params: Any) -> Any:
    config = make_setting("ppo", **params).config()
    runner = VectorEnvRunner(config=config)
    learner = learner_class(config=config, module_spec=config.get_multi_rl_module_spec(env=runner.env))
    learner.build()
    return learner


def random_rollout(learner: Any, *, count: int = 96, seed: int = 0) -> dict[str, torch.Tensor]:
    """Transitions of other weights than the learner's: ratios on both sides of the clip, values beyond theirs."""
    generator = torch.Generator().manual_seed(seed)
    width = learner.module[DEFAULT_MODULE_ID].observation_space.shape[0]
    logits, actions = torch.randn((count, 3), generator=generator), torch.randint(3, (count,), generator=generator)
    return {
        Columns.OBS: torch.randn((count, width), generator=generator),
        Columns.ACTIONS: actions,
        Columns.ACTION_DIST_INPUTS: logits,
        Columns.ACTION_LOGP: logits.log_softmax(1).gather(1, actions.view(-1, 1)).squeeze(1),
        Postprocessing.ADVANTAGES: torch.randn(count, generator=generator),
        Postprocessing.VALUE_TARGETS: 5 * torch.randn(count, generator=generator),
    }


def direct_gradients_of(learner: Any, batch: dict[str, torch.Tensor]) -> tuple[float, dict[str, torch.Tensor]]:
    """As a gradient step of ours finds them, without torch's graph."""
    weights = dict(learner.module[DEFAULT_MODULE_ID].named_parameters())
    for weight in weights.values():
        weight.grad = None
    with torch.no_grad():
        learner.find_gradients(batch)
        loss = learner.last_losses()[learner.TOTAL_LOSS_KEY]
    return float(loss), {name: weight.grad for name, weight in weights.items() if weight.grad is not None}


def gradients_of(learner: Any, batch: dict[str, torch.Tensor]) -> tuple[float, dict[str, torch.Tensor]]:
    """As RLlib finds them."""
    columns = {DEFAULT_MODULE_ID: batch}
    fwd_out = learner.module.forward_train(columns)
    loss = learner.compute_losses(fwd_out=fwd_out, batch=columns)[DEFAULT_MODULE_ID]
    gradients = learner.compute_gradients({DEFAULT_MODULE_ID: loss})
    names = {
        learner.get_param_ref(weight): name for name, weight in learner.module[DEFAULT_MODULE_ID].named_parameters()
    }
    return float(loss.detach()), {names[key]: value.clone() for key, value in gradients.items() if value is not None}


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"use_kl_loss": False},
        {"use_critic": False},
        {"clip_param": 0.05, "vf_clip_param": 1.0, "vf_loss_coeff": 0.3, "entropy_coeff": 0.02, "kl_coeff": 0.7},
        {"entropy_coeff": [[0, 0.5], [1000, 0.1]]},
    ],
)
@pytest.mark.parametrize(
    ("find", "spread"), [(direct_gradients_of, 1.0), (direct_gradients_of, 30.0), (gradients_of, 1.0)]
)
def test_loss_and_gradients_equal_rllibs_learner(
    make_setting: Make, params: dict[str, Any], find: Callable[..., Any], spread: float
) -> None:
    """Ours, and those that RLlib's own way finds on our learner; also where the policy is nearly certain."""
    ours = build_learner(ColumnarPPOLearner, make_setting, **params)
    stock = build_learner(PPOTorchLearner, make_setting, **params)
    with torch.no_grad():
        for name, weight in ours.module[DEFAULT_MODULE_ID].named_parameters():
            weight.mul_(spread if name.startswith("pi") else 1.0)
    stock.module.set_state(ours.module.get_state())
    batch = random_rollout(ours)
    my_loss, my_gradients = find(ours, batch)
    its_loss, its_gradients = gradients_of(stock, batch)
    assert my_loss == pytest.approx(its_loss, rel=1e-5)
    assert my_gradients.keys() == its_gradients.keys()
    for name, gradient in its_gradients.items():
        torch.testing.assert_close(my_gradients[name], gradient, rtol=1e-5, atol=1e-6, msg=name)
    assert any(float(gradient.abs().max()) > 1e-3 for gradient in its_gradients.values())


def test_a_gradient_step_is_rllibs_step(make_setting: Make) -> None:
    params = {"lr": 3e-3, "grad_clip": 0.05, "grad_clip_by": "global_norm"}
    ours = build_learner(ColumnarPPOLearner, make_setting, **params)
    stock = build_learner(PPOTorchLearner, make_setting, **params)
    stock.module.set_state(ours.module.get_state())
    for seed in range(3):
        batch = random_rollout(ours, seed=seed)
        ours.learn_from(batch)
        stock._update({DEFAULT_MODULE_ID: batch})
    mine, its = ours.module[DEFAULT_MODULE_ID].state_dict(), stock.module[DEFAULT_MODULE_ID].state_dict()
    for name, weight in its.items():
        torch.testing.assert_close(mine[name], weight, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("kind", list(CLIPPERS))
@pytest.mark.parametrize("limit", [0.01, 1e6])
def test_gradients_are_clipped_as_rllibs(kind: str, limit: float) -> None:
    generator = torch.Generator().manual_seed(3)
    weights = [torch.nn.Parameter(torch.zeros(shape)) for shape in ((4, 5), (5,), (2, 3))]
    gradients = [torch.randn(weight.shape, generator=generator) for weight in weights]
    flat = FlatWeights(weights, torch.optim.Adam(weights, fused=True))
    flat.lend_gradients()
    for weight, gradient in zip(weights, gradients, strict=True):
        weight.grad.copy_(gradient)
    expected = {number: gradient.clone() for number, gradient in enumerate(gradients)}
    clip_gradients(expected, grad_clip=limit, grad_clip_by=kind)
    CLIPPERS[kind](flat, limit, torch.nn.utils.get_total_norm(gradients))
    for number, weight in enumerate(weights):
        torch.testing.assert_close(weight.grad, expected[number], rtol=1e-4, atol=1e-7)


def test_gradients_that_are_not_finite_end_the_trial_and_change_nothing(make_setting: Make) -> None:
    learner = build_learner(ColumnarPPOLearner, make_setting)
    batch = random_rollout(learner)
    batch[Postprocessing.ADVANTAGES][5] = float("nan")
    before = {name: weight.clone() for name, weight in learner.module[DEFAULT_MODULE_ID].state_dict().items()}
    with pytest.raises(TrialDiverged, match="gradients must be finite"):
        learner.learn_from(batch)
    assert learner.updates_lifetime == 0
    for name, weight in learner.module[DEFAULT_MODULE_ID].state_dict().items():
        assert torch.equal(weight, before[name]), name


# --- advantages -----------------------------------------------------------------------------------------------


def random_fragment(*, rows: int, lanes: int, ends: float, seed: int) -> Fragment:
    """Lanes that end at random; the row after an end is a reset, as under NEXT_STEP autoreset."""
    generator = np.random.default_rng(seed)
    terminated = generator.random((rows, lanes)) < ends / 2
    truncated = ~terminated & (generator.random((rows, lanes)) < ends)
    valid = np.ones((rows, lanes), np.bool_)
    for row in range(1, rows):
        valid[row] = ~((terminated | truncated)[row - 1] & valid[row - 1])
        terminated[row] &= valid[row]
        truncated[row] &= valid[row]
    return Fragment(
        obs=generator.normal(size=(rows + 1, lanes, 4)).astype(np.float32),
        actions=generator.integers(3, size=(rows, lanes)),
        rewards=generator.normal(size=(rows, lanes)).astype(np.float32),
        terminated=terminated,
        truncated=truncated,
        valid=valid,
        extras={
            DISTRIBUTION_INPUTS: generator.normal(size=(rows, lanes, 3)).astype(np.float32),
            LOG_PROBABILITY: -generator.random((rows, lanes)).astype(np.float32),
        },
    )


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 40),
    lanes=st.integers(1, 5),
    ends=st.sampled_from([0.0, 0.1, 0.6]),
    gamma=st.sampled_from([0.0, 0.9, 1.0]),
    lambda_=st.sampled_from([0.0, 0.95, 1.0]),
    seed=st.integers(0, 2**16),
)
def test_advantages_are_those_of_rllib(
    rows: int, lanes: int, ends: float, gamma: float, lambda_: float, seed: int
) -> None:
    fragment = random_fragment(rows=rows, lanes=lanes, ends=ends, seed=seed)
    values = np.random.default_rng(seed + 1).normal(size=(rows + 1, lanes)).astype(np.float32)
    advantages = estimate_advantages(fragment, values, gamma=gamma, lambda_=lambda_)
    seen = 0
    for segment in segments(fragment):
        part, lane, length = slice(segment.start, segment.stop), segment.lane, segment.stop - segment.start
        # RLlib lengthens each chunk by one step, so that it knows the value behind the last one.
        value = np.append(values[part, lane], values[segment.stop, lane])
        truncated = np.append(fragment.truncated[part, lane], True)
        truncated[length - 1] |= not fragment.terminated[segment.stop - 1, lane]
        targets = compute_value_targets(
            values=value,
            rewards=np.append(fragment.rewards[part, lane], 0.0),
            terminateds=np.append(fragment.terminated[part, lane], False),
            truncateds=truncated,
            gamma=gamma,
            lambda_=lambda_,
        )
        expected = (targets - value)[:length]
        np.testing.assert_allclose(advantages[part, lane], expected, rtol=1e-4, atol=1e-5)
        seen += length
    assert seen == fragment.steps


def test_a_rollout_holds_every_transition_once_and_no_reset() -> None:
    fragments = [random_fragment(rows=30, lanes=3, ends=0.2, seed=seed) for seed in (1, 2)]
    rollout = build_rollout(fragments, lambda obs: obs.sum(axis=1), gamma=0.9, lambda_=0.95)
    steps = sum(fragment.steps for fragment in fragments)
    assert {len(column) for column in rollout.values()} == {steps}
    assert steps < 2 * 30 * 3
    wanted = np.concatenate([fragment.obs[:-1][fragment.valid] for fragment in fragments])
    np.testing.assert_array_equal(rollout[Columns.OBS].numpy(), wanted)
    advantages = rollout[Postprocessing.ADVANTAGES].numpy()
    assert abs(advantages.mean()) < 1e-5
    assert advantages.std() == pytest.approx(1.0, abs=1e-4)
    raw = (rollout[Postprocessing.VALUE_TARGETS] - rollout[Columns.OBS].sum(1)).numpy()
    np.testing.assert_allclose((raw - raw.mean()) / raw.std(), advantages, rtol=1e-3, atol=1e-4)


# --- minibatches and schedules ----------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(count=st.integers(1, 300), size=st.integers(1, 400), epochs=st.integers(1, 5), shuffle=st.booleans())
def test_each_epoch_sees_every_row_once_in_minibatches_of_one_size(
    count: int, size: int, epochs: int, shuffle: bool
) -> None:
    found = list(minibatches(count, size=size, epochs=epochs, shuffle=shuffle, generator=np.random.default_rng(7)))
    assert {len(rows) for rows in found} == {size}
    rows = torch.cat(found).tolist()
    assert epochs * count <= len(rows) < epochs * count + size
    for epoch in range(epochs):
        assert Counter(rows[epoch * count : (epoch + 1) * count]) == Counter(range(count))


def test_without_a_size_an_epoch_is_one_batch_in_order() -> None:
    found = list(minibatches(5, size=None, epochs=2, shuffle=True, generator=np.random.default_rng(7)))
    assert [rows.tolist() for rows in found] == [[0, 1, 2, 3, 4]] * 2


@pytest.mark.parametrize("size", [32, None])
def test_minibatches_that_are_gathered_together_hold_the_rows_that_were_picked(
    make_setting: Make, size: int | None
) -> None:
    learner = build_learner(ColumnarPPOLearner, make_setting, minibatch_size=size, num_epochs=8)
    rollout = random_rollout(learner, count=80)
    generator = np.random.default_rng([learner.config.seed or 0, Draw.MINIBATCHES])
    picked = list(minibatches(80, size=size, epochs=8, shuffle=True, generator=generator))
    found = list(learner._minibatches(rollout))
    assert len(found) == len(picked) == (20 if size else 8)
    for batch, rows in zip(found, picked, strict=True):
        assert batch.keys() == rollout.keys()
        assert all(torch.equal(batch[name], column[rows]) for name, column in rollout.items())


def test_schedules_and_the_kl_coefficient_follow_the_training(make_setting: Make) -> None:
    params = {"lr": [[0, 1e-2], [1000, 1e-3]], "entropy_coeff": [[0, 0.5], [1000, 0.1]], "kl_coeff": 0.2}
    learner = build_learner(ColumnarPPOLearner, make_setting, minibatch_size=32, num_epochs=8, **params)
    wide = wide_fragment(learner)
    coefficients = [float(learner.curr_kl_coeffs_per_module[DEFAULT_MODULE_ID])]
    for env_steps in (0, 500, 1000):
        learner.update_from_fragments([wide], env_steps=env_steps)
        coefficients.append(float(learner.curr_kl_coeffs_per_module[DEFAULT_MODULE_ID]))
    assert learner.entropy_coeff_schedulers_per_module[DEFAULT_MODULE_ID].get_current_value() == pytest.approx(0.1)
    assert learner.get_optimizer(DEFAULT_MODULE_ID).param_groups[0]["lr"] == pytest.approx(1e-3)
    assert coefficients[-1] > coefficients[0], "these transitions are far from the policy: KL is above its target"


def wide_fragment(learner: Any, *, rows: int = 40) -> Fragment:
    """Transitions of another policy, as wide as the learner wants them."""
    width = learner.module[DEFAULT_MODULE_ID].observation_space.shape[0]
    fragment = random_fragment(rows=rows, lanes=2, ends=0.1, seed=5)
    obs = np.random.default_rng(0).normal(size=(rows + 1, 2, width)).astype(np.float32)
    return Fragment(**{**{name: getattr(fragment, name) for name in fragment.__slots__}, "obs": obs})


@pytest.mark.parametrize(("kl_stop", "updates"), [(None, None), (1e9, None), (1e-9, 1)])
@pytest.mark.parametrize("use_kl_loss", [True, False])
def test_an_update_ends_where_the_policy_has_gone_too_far(
    make_setting: Make, kl_stop: float | None, updates: int | None, use_kl_loss: bool
) -> None:
    params = {"kl_stop": kl_stop, "use_kl_loss": use_kl_loss, "minibatch_size": 32, "num_epochs": 8}
    learner = build_learner(ColumnarPPOLearner, make_setting, **params)
    fragment = wide_fragment(learner)
    learner.update_from_fragments([fragment], env_steps=0)
    assert learner.updates_lifetime == (updates or -(-8 * int(fragment.valid.sum()) // 32))


def test_a_limit_that_is_never_reached_changes_no_weight(make_setting: Make) -> None:
    found = []
    for kl_stop in (None, 1e9):
        learner = build_learner(ColumnarPPOLearner, make_setting, kl_stop=kl_stop, use_kl_loss=False, minibatch_size=32)
        torch.manual_seed(0)
        for weight in learner._flat.weights:
            torch.nn.init.normal_(weight, std=0.1)
        learner.update_from_fragments([wide_fragment(learner)], env_steps=0)
        found.append([weight.detach().clone() for weight in learner._flat.weights])
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)
