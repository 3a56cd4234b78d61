"""A policy's network as arrays that one compiled forward pass reads, whatever its layers are.

All numbers of one row lie side by side in a strip: the state, then what each layer gives, layers that read observations
first. A layer is a row of integers: where in the strip it reads and writes, and where in the weights it finds its own.

Legend: F features, S state, D inputs of a layer, H outputs of the layers that read observations, A actions, L layers, P
weights, Z numbers of a strip.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tradesweep.policy.policy_spec import ACTIVATIONS, Layer, PolicySpec

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

READS, INPUTS, WRITES, OUTPUTS, WEIGHTS, ACTIVATION = range(6)
"""Columns of `Network.layers_L6`."""


class Network(NamedTuple):
    """Weights, and what is done with them."""

    weights_P: Floats
    """Of each layer (inputs, outputs); of one that reads observations those of the state, or of the features, alone."""
    layers_L6: Ints
    """One row a layer, in the order in which they run."""
    blank_Z: Floats
    """A strip before anything is known: each layer's bias where it writes, 0 for the state."""
    scores: int
    """Where in the strip the scores begin: logits, advantages, or sums to go on from."""
    value: int
    """Where in the strip the value is; -1 without one."""
    actions: int
    """A, the number of scores."""


class Halves(NamedTuple):
    """The two parts of a forward pass."""

    begin: Network
    """From features to the sums, so far, of the layers that read observations: their biases and what features add."""
    finish: Network
    """From the state and those sums to scores."""
    edges: tuple[int, ...]
    """Where in H one of those layers ends and the next begins."""


Place = tuple[int, int]
"""A layer: its stack (the trunk, if there is one, then the heads) and its number there."""


def pack_network(spec: PolicySpec, weights: Mapping[str, NDArray[Any]]) -> Halves:
    """The network of a specification, whose weights fit."""
    stacks = [stack for stack in (spec.layers, *spec.heads.values()) if stack]
    readers = [(stack, 0) for stack in range(1 if spec.layers else len(stacks))]
    layers = _order(stacks, readers)
    matrices = {place: weights[layer.weight].T.astype(np.float64, order="C") for place, layer in layers.items()}
    biases = {place: weights[layer.bias].astype(np.float64) for place, layer in layers.items()}
    features = dict(spec.observation)["features"]
    begin = _read_features([matrices[place][:features] for place in readers], [biases[place] for place in readers])
    matrices |= {place: matrices[place][features:] for place in readers}
    writes = _place(biases, spec.width - features)
    ends = {name: writes[stack, len(stacks[stack]) - 1] for stack, name in enumerate(spec.heads, bool(spec.layers))}
    finish = Network(
        weights_P=np.concatenate([matrix.ravel() for matrix in matrices.values()]),
        layers_L6=_describe(layers, matrices, writes, readers, len(spec.layers)),
        blank_Z=np.concatenate([np.zeros(spec.width - features), *biases.values()]),
        scores=ends["logits"] if "logits" in ends else ends["advantage"],
        value=ends.get("value", -1),
        actions=len(spec.env.positions),
    )
    edges = np.cumsum([len(biases[place]) for place in readers[:-1]], dtype=np.int64)
    return Halves(begin=begin, finish=finish, edges=tuple(edges.tolist()))


def _read_features(matrices: Sequence[Floats], biases: Sequence[Floats]) -> Network:
    """One layer, side by side what all layers that read observations do with the features."""
    weights_FH, bias_H = np.hstack(matrices), np.hstack(biases)
    features, outputs = weights_FH.shape
    layer = (0, features, features, outputs, 0, ACTIVATIONS.index("linear"))
    return Network(
        weights_P=weights_FH.ravel(),
        layers_L6=np.array([layer], np.int64),
        blank_Z=np.concatenate([np.zeros(features), bias_H]),
        scores=features,
        value=-1,
        actions=outputs,
    )


def _order(stacks: Sequence[Sequence[Layer]], readers: Sequence[Place]) -> dict[Place, Layer]:
    """All layers as they run: those that read observations, then each stack's others."""
    places = [(stack, index) for stack, layers in enumerate(stacks) for index in range(len(layers))]
    return {(stack, index): stacks[stack][index] for stack, index in dict.fromkeys([*readers, *places])}


def _place(biases: Mapping[Place, Floats], state: int) -> dict[Place, int]:
    """Where in the strip each layer writes."""
    starts = state + np.cumsum([0, *(len(bias) for bias in biases.values())])
    return dict(zip(biases, starts[:-1].tolist(), strict=True))


def _describe(
    layers: Mapping[Place, Layer],
    matrices: Mapping[Place, Floats],
    writes: Mapping[Place, int],
    readers: Sequence[Place],
    trunk: int,
) -> Ints:
    """`Network.layers_L6`: a layer reads the one before, the first of a head the last of the trunk."""
    rows, at = [], 0
    for (stack, index), layer in layers.items():
        before = (stack, index - 1) if index else (0, trunk - 1)
        reads = 0 if (stack, index) in readers else writes[before]
        inputs, outputs = matrices[stack, index].shape
        rows.append((reads, inputs, writes[stack, index], outputs, at, ACTIVATIONS.index(layer.activation)))
        at += inputs * outputs
    return np.array(rows, np.int64)
