"""Weights in one piece: the same steps as torch's, whoever makes them, from whatever state."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch

from tradesweep.agents.flat import FlatWeights

SHAPES = ((4, 5), (5,), (2, 3))


def make_weights() -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(1)
    return [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]


def make_adam(weights: list[torch.nn.Parameter]) -> torch.optim.Adam:
    return torch.optim.Adam(weights, lr=0.1, fused=True)


def draw_gradients(number: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(number)
    return [torch.randn(shape, generator=generator) for shape in SHAPES]


def step_as_torch(weights: list[torch.nn.Parameter], optimizer: torch.optim.Adam, number: int) -> None:
    for weight, gradient in zip(weights, draw_gradients(number), strict=True):
        weight.grad = gradient
    optimizer.step()


@torch.no_grad()
def step_at_once(flat: FlatWeights, number: int) -> None:
    flat.lend_gradients()
    for weight, gradient in zip(flat.weights, draw_gradients(number), strict=True):
        assert weight.grad is not None
        weight.grad.copy_(gradient)
    flat.step()


def check_equal(weights: list[torch.nn.Parameter], others: list[torch.nn.Parameter]) -> None:
    for weight, other in zip(weights, others, strict=True):
        torch.testing.assert_close(weight, other, rtol=1e-6, atol=1e-7)


def test_steps_at_once_and_torch_s_own_may_take_turns() -> None:
    mine, its = make_weights(), make_weights()
    optimizer, reference = make_adam(mine), make_adam(its)
    flat = FlatWeights(mine, optimizer)
    check_equal(mine, its)
    turns: list[Callable[[int], None]] = [
        lambda number: step_at_once(flat, number),
        lambda number: step_as_torch(mine, optimizer, number),
    ]
    for number in range(6):
        turns[number % 2](number)
        step_as_torch(its, reference, number)
        check_equal(mine, its)


def test_a_state_that_is_loaded_is_gone_on_from() -> None:
    its = make_weights()
    reference = make_adam(its)
    for number in range(3):
        step_as_torch(its, reference, number)
    mine = copy.deepcopy(its)
    optimizer = make_adam(mine)
    flat = FlatWeights(mine, optimizer)
    optimizer.load_state_dict(reference.state_dict())
    flat.hold_state()
    for number in range(3, 6):
        step_at_once(flat, number)
        step_as_torch(its, reference, number)
        check_equal(mine, its)


def test_what_is_stepped_at_once_is_in_the_optimizer_s_state() -> None:
    mine, its = make_weights(), make_weights()
    optimizer, reference = make_adam(mine), make_adam(its)
    flat = FlatWeights(mine, optimizer)
    step_at_once(flat, 0)
    step_as_torch(its, reference, 0)
    saved, expected = optimizer.state_dict()["state"], reference.state_dict()["state"]
    assert saved.keys() == expected.keys()
    for place, state in expected.items():
        for name, value in state.items():
            torch.testing.assert_close(saved[place][name], value)


def test_the_norm_is_of_all_gradients() -> None:
    flat = FlatWeights(weights := make_weights(), make_adam(weights))
    step_at_once(flat, 3)
    whole = torch.cat([gradient.reshape(-1) for gradient in draw_gradients(3)])
    torch.testing.assert_close(torch.tensor(flat.norm()), whole.norm())
