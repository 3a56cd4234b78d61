"""Dense layers forward and backward, without a graph and with NumPy's tanh.

A minibatch of a small network costs a CPU less in its sums than in what surrounds them: every node of torch's graph,
and torch's tanh, which takes many times as long as NumPy's. Who knows the derivative of each layer needs no graph.

Legend: B rows, D width before a layer, H width after it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

ACTIVATIONS: dict[type[torch.nn.Module], str] = {torch.nn.ReLU: "relu", torch.nn.Tanh: "tanh"}


def list_layers(part: torch.nn.Module) -> list[tuple[torch.nn.Linear, str]]:
    """The linear layers of an MLP in order, each with the name of the activation that follows it."""
    found: list[tuple[torch.nn.Linear, str]] = []
    for layer in part.modules():
        if isinstance(layer, torch.nn.Linear):
            found.append((layer, "linear"))
        elif type(layer) in ACTIVATIONS:
            linear, _ = found[-1]
            found[-1] = (linear, ACTIVATIONS[type(layer)])
        else:
            # Anything else with weights of its own would be left out silently.
            assert next(iter(layer.parameters(recurse=False)), None) is None, f"unknown layer {type(layer).__name__}"
    return found


class DenseStack:
    """Some MLPs behind each other, computed as one. Call it where torch keeps no graph."""

    def __init__(self, *parts: torch.nn.Module) -> None:
        layers = [layer for part in parts for layer in list_layers(part)]
        self._layers = [(linear.weight, linear.bias, activation) for linear, activation in layers]

    def forward(self, rows_BD: torch.Tensor) -> list[torch.Tensor]:
        """(B, D) what goes into each layer, and last (B, H) what comes out of the stack."""
        between = [rows_BD]
        for weight, bias, activation in self._layers:
            between.append(FUNCTIONS[activation](torch.nn.functional.linear(between[-1], weight, bias)))
        return between

    def backward(
        self, between: Sequence[torch.Tensor], gradient_BH: torch.Tensor, *, to_rows: bool = False
    ) -> torch.Tensor:
        """Set the gradient of every weight, in place where there is one already.

        `gradient_BH` is the gradient of a number by what came out of `forward`.
        Return the gradient by what went into the first layer, or without `to_rows` by what came out of it.
        """
        for place in range(len(self._layers) - 1, -1, -1):
            weight, bias, activation = self._layers[place]
            gradient_BH = DERIVATIVES[activation](gradient_BH, between[place + 1])
            weight.grad = torch.mm(gradient_BH.t(), between[place], out=weight.grad)
            bias.grad = torch.sum(gradient_BH, 0, out=bias.grad)
            if place or to_rows:
                gradient_BH = gradient_BH @ weight
        return gradient_BH


def _tanh(sums: torch.Tensor) -> torch.Tensor:
    """In place: nobody else has seen the sums."""
    if sums.device.type != "cpu":
        return sums.tanh_()
    array = sums.numpy()
    np.tanh(array, out=array)
    return sums


FUNCTIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "linear": lambda sums: sums,
    "relu": torch.relu_,
    "tanh": _tanh,
}
DERIVATIVES: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "linear": lambda gradient, _: gradient,
    "relu": lambda gradient, out: torch.ops.aten.threshold_backward(gradient, out, 0),
    "tanh": torch.ops.aten.tanh_backward,
}
"""The gradient before an activation from that behind it and the activation's output: nothing else is needed."""
