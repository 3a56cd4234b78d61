"""PlainPolicy: an MLP in float64 NumPy, the one policy that is evaluated, promoted, replayed and exported.

Sums are NumPy's own, without BLAS, over one row at a time. So the bits of a score depend on neither the batch size,
nor the row's place in it, nor the number of threads: a Ray worker (one thread) and a command (all of them) agree.

Of what the first layer adds up, most comes from the features, which are known for a whole split before its first
step. So a score is always computed in two parts: `begin` with the features, `finish` with the state.

Legend: E rows, D = F + S observation width, F of it features and S state, H width of a first layer, A actions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from tradesweep.errors import CheckpointError, TrialDiverged
from tradesweep.policy.policy_spec import ACTIVATIONS, HEADS, Layer, PolicySpec

Floats = NDArray[np.float64]
Weights = dict[str, NDArray[Any]]
POLICY_JSON, POLICY_WEIGHTS = "policy.json", "policy.safetensors"


def _relu(values: Floats) -> Floats:
    return cast(Floats, np.maximum(values, 0.0, out=values))


def _tanh(values: Floats) -> Floats:
    return cast(Floats, np.tanh(values, out=values))


_FUNCTIONS: dict[str, Callable[[Floats], Floats]] = {"relu": _relu, "tanh": _tanh, "linear": lambda values: values}


@dataclass(frozen=True, slots=True)
class _Dense:
    """One layer: activate(weight x + bias)."""

    weight: Floats
    bias: Floats
    activate: Callable[[Floats], Floats]

    def __call__(self, rows: Floats, bias: Floats | None = None) -> Floats:
        """(E, H) from (E, D); `bias` (E, H) takes the place of the layer's own."""
        sums = np.einsum("ed,hd->eh", rows, self.weight)
        sums += self.bias if bias is None else bias
        return self.activate(sums)


Begun = tuple[Floats, ...]
"""(E, H) of each stack that reads observations: the trunk, or without one each head."""


class PlainPolicy:
    """Scores (E, A) from observations (E, D): logits, or Q values; acts on the highest, ties to the lowest index."""

    def __init__(self, spec: PolicySpec, weights: Mapping[str, ArrayLike]) -> None:
        self.spec = spec
        self._weights: Weights = {name: np.ascontiguousarray(values) for name, values in weights.items()}
        _check_architecture(spec, self._weights)
        self._features = dict(spec.observation)["features"]
        trunk = self._stack(spec.layers)
        heads = {name: self._stack(head) for name, head in spec.heads.items()}
        self._split_readers([trunk] if trunk else list(heads.values()))
        self._trunk, self._heads = trunk, heads

    @classmethod
    def from_arrays(cls, spec: PolicySpec, weights: Mapping[str, ArrayLike]) -> PlainPolicy:
        """A policy of these weights, which are kept as they are and computed with in float64.

        Raises TrialDiverged for a weight that is not finite, CheckpointError where names or shapes do not fit.
        """
        for name, values in weights.items():
            if not np.isfinite(values).all():
                raise TrialDiverged(f"policy: weights must be finite, {name} is not; lower lr or set grad_clip")
        return cls(spec, weights)

    @classmethod
    def load(cls, folder: Path) -> PlainPolicy:
        """Read what `save` wrote; raises CheckpointError. Hashes are `verify_manifest`'s, to be asked before."""
        weights = _read_weights(folder / POLICY_WEIGHTS)
        for name, values in weights.items():
            if not np.isfinite(values).all():
                raise CheckpointError(f"{folder / POLICY_WEIGHTS}: weights must be finite, {name} is not")
        try:
            text = (folder / POLICY_JSON).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as e:
            raise CheckpointError(f"{folder / POLICY_JSON} cannot be read: {e}") from e
        return cls(PolicySpec.from_json(text, source=str(folder / POLICY_JSON)), weights)

    def save(self, folder: Path) -> None:
        """Write `policy.safetensors` and `policy.json` into an existing folder; equal policies give equal bytes."""
        save_file(self._weights, folder / POLICY_WEIGHTS)
        (folder / POLICY_JSON).write_text(self.spec.to_json(), encoding="utf-8")

    def scores(self, observations_ED: ArrayLike) -> Floats:
        """(E, A) float64 logits or Q values. Raises TrialDiverged when an observation or a score is not finite."""
        rows_ED = np.asarray(observations_ED, dtype=np.float64)
        assert rows_ED.ndim == 2, f"observations must have shape (E, {self.spec.width}), was {rows_ED.shape}"
        assert rows_ED.shape[1] == self.spec.width, f"observations must be {self.spec.width} wide, was {rows_ED.shape}"
        check_finite(rows_ED, "observations")
        scores_EA = self.finish(self.begin(rows_ED[:, : self._features]), rows_ED[:, self._features :])
        check_finite(scores_EA, "scores")
        return scores_EA

    def begin(self, features_EF: ArrayLike) -> Begun:
        """What the features add to the first layers. Raises TrialDiverged when one of them is not finite."""
        rows_EF = np.ascontiguousarray(features_EF, dtype=np.float64)
        check_finite(rows_EF, "observations")
        return tuple(np.einsum("ed,hd->eh", rows_EF, weight) + bias for weight, bias in self._feature_layers)

    def finish(self, begun: Begun, states_ES: ArrayLike) -> Floats:
        """(E, A) scores from what `begin` gave and the rest of the observations; nothing is checked."""
        rows = np.ascontiguousarray(states_ES, dtype=np.float64)
        if self._trunk:
            trunk = _run(self._trunk, rows, begun[0])
            return self._combine({name: _run(head, trunk) for name, head in self._heads.items()})
        heads = zip(self._heads.items(), begun, strict=True)
        return self._combine({name: _run(head, rows, part) for (name, head), part in heads})

    def act(self, observations_ED: ArrayLike) -> NDArray[np.int64]:
        """(E,) the action of the highest score, ties to the lowest index."""
        return np.asarray(np.argmax(self.scores(observations_ED), axis=1), dtype=np.int64)

    def sample(self, observations_ED: ArrayLike, generator: np.random.Generator) -> NDArray[np.int64]:
        """(E,) actions drawn from the softmax of the logits: argmax(logits + g), g one Gumbel number an action."""
        self.check_samples()
        scores_EA = self.scores(observations_ED)
        return np.asarray(np.argmax(scores_EA + generator.gumbel(size=scores_EA.shape), axis=1), dtype=np.int64)

    def check_samples(self) -> None:
        """Raise ValueError for Q values: they are no logits."""
        if "logits" not in self.spec.heads:
            raise ValueError(f"policy: only logits can be sampled from, {self.spec.algorithm} has Q values")

    def _stack(self, layers: tuple[Layer, ...]) -> list[_Dense]:
        """Weight, bias and activation of each layer, in float64."""
        return [
            _Dense(self._wide(layer.weight), self._wide(layer.bias), _FUNCTIONS[layer.activation]) for layer in layers
        ]

    def _split_readers(self, readers: list[list[_Dense]]) -> None:
        """Part the weights of the layers that read observations into those of the features and those of the state."""
        self._feature_layers = []
        for stack in readers:
            first, width = stack[0], self._features
            self._feature_layers.append((np.ascontiguousarray(first.weight[:, :width]), first.bias))
            stack[0] = replace(first, weight=np.ascontiguousarray(first.weight[:, width:]))

    def _wide(self, name: str) -> Floats:
        return self._weights[name].astype(np.float64)

    def _combine(self, parts: Mapping[str, Floats]) -> Floats:
        """Logits as they are; Q values as value + advantage - mean advantage."""
        if "logits" in parts:
            return parts["logits"]
        advantage_EA = parts["advantage"]
        if "value" not in parts:
            return advantage_EA
        mean_E1 = np.add.reduce(advantage_EA, axis=1, keepdims=True) / advantage_EA.shape[1]
        return np.asarray(parts["value"] + (advantage_EA - mean_E1))


def _run(stack: list[_Dense], rows: Floats, begun: Floats | None = None) -> Floats:
    for layer in stack:
        rows, begun = layer(rows, begun), None
    return rows


def check_finite(values: Floats, name: str) -> None:
    """Raise TrialDiverged for the first number that is not finite, with its place."""
    if not np.isfinite(values).all():
        row, column = np.argwhere(~np.isfinite(values))[0]
        raise TrialDiverged(
            f"policy: {name} must be finite, was {values[row, column]} in row {row}, column {column};"
            " check the features, lower lr or set grad_clip"
        )


def _read_weights(path: Path) -> Weights:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as e:
        raise CheckpointError(f"{path} cannot be read: {e}") from e


def _check_architecture(spec: PolicySpec, weights: Weights) -> None:
    """Heads that make scores, layers that fit each other, the observation and the actions; no weight left over."""
    if frozenset(spec.heads) not in HEADS:
        raise CheckpointError(f"policy: heads must be one of {[sorted(h) for h in HEADS]}, were {sorted(spec.heads)}")
    width = _check_stack("layers", spec.layers, spec.width, weights)
    for name, head in spec.heads.items():
        wanted = 1 if name == "value" else len(spec.env.positions)
        if (found := _check_stack(name, head, width, weights)) != wanted or not head:
            raise CheckpointError(f"policy: head {name} must give {wanted} numbers, gives {found}")
    stacks = (spec.layers, *spec.heads.values())
    unused = set(weights) - {name for stack in stacks for layer in stack for name in (layer.weight, layer.bias)}
    if unused:
        raise CheckpointError(f"policy: every weight must belong to a layer, {sorted(unused)} do not")


def _check_stack(where: str, stack: tuple[Layer, ...], width: int, weights: Weights) -> int:
    """Width of the stack's output, `width` numbers going in."""
    for index, layer in enumerate(stack):
        place = f"policy: {where}[{index}]"
        if layer.activation not in ACTIVATIONS:
            raise CheckpointError(f"{place}.activation must be one of {ACTIVATIONS}, was {layer.activation!r}")
        missing = {layer.weight, layer.bias} - set(weights)
        if missing:
            raise CheckpointError(f"{place} must have its weights, {sorted(missing)} are missing")
        weight, bias = weights[layer.weight], weights[layer.bias]
        if weight.ndim != 2 or weight.shape[1] != width or bias.shape != weight.shape[:1]:
            raise CheckpointError(
                f"{place} must have weight (out, {width}) and bias (out,), were {weight.shape} and {bias.shape}"
            )
        if {weight.dtype.kind, bias.dtype.kind} != {"f"}:
            raise CheckpointError(f"{place} must have floating-point weights, were {weight.dtype} and {bias.dtype}")
        width = weight.shape[0]
    return width
