"""A module's weights in one piece of memory, and beside it their gradients and Adam's two averages.

What an optimizer's step over a small network costs is not its arithmetic but its dozen tensors: each is looked up,
grouped, normed and stepped by itself. Laid out behind each other they are one tensor, and a step is three calls. The
parameters, gradients and states that torch and RLlib know are views of it, so that whoever uses them sees the same.

Legend: P all weights of the module together.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

Weights = Sequence[torch.nn.Parameter]


class FlatWeights:
    """The weights that `optimizer`, a fused Adam of one group, trains."""

    def __init__(self, weights: Weights, optimizer: torch.optim.Adam) -> None:
        self.weights, self._optimizer = list(weights), optimizer
        count, device = sum(weight.numel() for weight in weights), weights[0].device
        self._values_P, self.gradients_P, self._mean_P, self._square_P = torch.zeros((4, count), device=device)
        self._steps = torch.zeros(len(weights), device=device)
        self._slots = self._cut(self.gradients_P)
        self._hold_values()
        self.hold_state()

    def _cut(self, flat_P: torch.Tensor) -> list[torch.Tensor]:
        """A view in the shape of each weight."""
        parts = torch.split(flat_P, [weight.numel() for weight in self.weights])
        return [part.view_as(weight) for part, weight in zip(parts, self.weights, strict=True)]

    def _hold_values(self) -> None:
        for weight, place in zip(self.weights, self._cut(self._values_P), strict=True):
            weight.data = place.copy_(weight.data)

    def hold_state(self) -> None:
        """Take in the optimizer's state as it is now: to be called whenever another one was loaded into it."""
        places = zip(self.weights, self._cut(self._mean_P), self._cut(self._square_P), self._steps, strict=True)
        for weight, mean, square, step in places:
            state = self._optimizer.state[weight]
            for name, place in (("exp_avg", mean), ("exp_avg_sq", square), ("step", step)):
                place.copy_(torch.as_tensor(state.get(name, 0.0)))
                state[name] = place
        self._steps.fill_(self._steps.max())

    def lend_gradients(self) -> None:
        """Give each weight the place where its gradient is to be written; RLlib's own way puts others there."""
        for weight, slot in zip(self.weights, self._slots, strict=True):
            weight.grad = slot

    def norm(self) -> float:
        """Of all gradients together."""
        return float(torch.linalg.vector_norm(self.gradients_P))

    def step(self) -> None:
        """One step of Adam with the gradients that were written: what `optimizer.step` does, tensor by tensor."""
        group = self._optimizer.param_groups[0]
        self._steps.add_(1.0)
        torch._fused_adam_(
            [self._values_P],
            [self.gradients_P],
            [self._mean_P],
            [self._square_P],
            [],
            [self._steps[0]],
            lr=group["lr"],
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            amsgrad=False,
            maximize=False,
        )
