"""PlainPolicy: an MLP in float64 NumPy, the one policy that is evaluated, promoted, replayed and exported.

Each row of a batch is computed by itself, with sums that NumPy does without BLAS. So the bits of a score depend on
neither the batch size, nor the row's place in it, nor the number of threads: a Ray worker (one thread) and a command
(all of them) agree. Legend: E rows, D observation width, A actions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
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


class PlainPolicy:
    """Scores (E, A) from observations (E, D): logits, or Q values; acts on the highest, ties to the lowest index."""

    def __init__(self, spec: PolicySpec, weights: Mapping[str, ArrayLike]) -> None:
        self.spec = spec
        self._weights: Weights = {name: np.ascontiguousarray(values) for name, values in weights.items()}
        _check_architecture(spec, self._weights)
        self._trunk = self._stack(spec.layers)
        self._heads = {name: self._stack(head) for name, head in spec.heads.items()}

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
        _check_finite(rows_ED, "observations")
        scores_EA = np.empty((len(rows_ED), len(self.spec.env.positions)))
        for row_D, scores_A in zip(rows_ED, scores_EA, strict=True):
            scores_A[:] = self._score(row_D)
        _check_finite(scores_EA, "scores")
        return scores_EA

    def act(self, observations_ED: ArrayLike) -> NDArray[np.int64]:
        """(E,) the action of the highest score, ties to the lowest index."""
        return np.asarray(np.argmax(self.scores(observations_ED), axis=1), dtype=np.int64)

    def sample(self, observations_ED: ArrayLike, generator: np.random.Generator) -> NDArray[np.int64]:
        """(E,) actions drawn from the softmax of the logits, one uniform number a row."""
        if "logits" not in self.spec.heads:
            raise ValueError(f"policy: only logits can be sampled from, {self.spec.algorithm} has Q values")
        scores_EA = self.scores(observations_ED)
        weights_EA = np.exp(scores_EA - scores_EA.max(axis=1, keepdims=True))
        below_EA = np.cumsum(weights_EA, axis=1)
        drawn_E1 = generator.random((len(scores_EA), 1)) * below_EA[:, -1:]
        return np.asarray(np.argmax(drawn_E1 < below_EA, axis=1), dtype=np.int64)

    def _stack(self, layers: tuple[Layer, ...]) -> list[tuple[Floats, Floats, Callable[[Floats], Floats]]]:
        """Weight, bias and activation of each layer, in float64."""
        return [(self._wide(layer.weight), self._wide(layer.bias), _FUNCTIONS[layer.activation]) for layer in layers]

    def _wide(self, name: str) -> Floats:
        return self._weights[name].astype(np.float64)

    def _score(self, row_D: Floats) -> Floats:
        trunk = _forward(self._trunk, row_D)
        if "logits" in self._heads:
            return _forward(self._heads["logits"], trunk)
        advantage_A = _forward(self._heads["advantage"], trunk)
        if "value" not in self._heads:
            return advantage_A
        return np.asarray(_forward(self._heads["value"], trunk) + (advantage_A - advantage_A.mean()))


def _forward(stack: list[tuple[Floats, Floats, Callable[[Floats], Floats]]], row: Floats) -> Floats:
    for weight, bias, activate in stack:
        row = np.einsum("hd,d->h", weight, row)
        row += bias
        row = activate(row)
    return row


def _check_finite(values: Floats, name: str) -> None:
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
