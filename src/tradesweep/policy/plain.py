"""PlainPolicy: an MLP in float64, the one policy that is evaluated, promoted, replayed and exported.

Its forward pass is compiled (`forward.py`), without BLAS, one row at a time. So the bits of a score depend on neither
the batch size, nor the row's place in it, nor the number of threads, nor the processor: a Ray worker and a command
agree, on whichever machine.

Of what the first layer adds up, most comes from the features, which are known for a whole split before its first
step. So a score is always computed in two parts: `begin` with the features, `finish` with the state.

Legend: E rows, D = F + S observation width, F of it features and S state, H width of a first layer, A actions.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from tradesweep.errors import CheckpointError, TrialDiverged
from tradesweep.policy.network import Network, pack_network
from tradesweep.policy.policy_spec import ACTIVATIONS, HEADS, Layer, PolicySpec

Floats = NDArray[np.float64]
Weights = dict[str, NDArray[Any]]
POLICY_JSON, POLICY_WEIGHTS = "policy.json", "policy.safetensors"


Begun = tuple[Floats, ...]
"""(E, H) of each stack that reads observations: the trunk, or without one each head."""


class PlainPolicy:
    """Scores (E, A) from observations (E, D): logits, or Q values; acts on the highest, ties to the lowest index."""

    network: Network
    """What `finish` computes with, for compiled code that goes on from `begin` by itself."""

    def __init__(self, spec: PolicySpec, weights: Mapping[str, ArrayLike]) -> None:
        from tradesweep.policy.forward import fill_up, score_rows

        self.spec = spec
        self._weights: Weights = {name: np.ascontiguousarray(values) for name, values in weights.items()}
        _check_architecture(spec, self._weights)
        self._features = dict(spec.observation)["features"]
        self._begin, self.network, self._edges = pack_network(spec, self._weights)
        self._fill_up, self._score_rows = fill_up, score_rows

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
        rows_EF = np.asarray(features_EF)
        assert rows_EF.shape[1:] == (self._features,), f"features must be {self._features} wide, was {rows_EF.shape}"
        check_finite(rows_EF, "observations")
        filled_EF = self._fill_up(rows_EF)
        begun_EH = self._score_rows(self._begin, np.zeros((len(filled_EF), 0)), filled_EF)
        return tuple(np.split(begun_EH[: len(rows_EF)], self._edges, axis=1))

    def finish(self, begun: Begun, states_ES: ArrayLike) -> Floats:
        """(E, A) scores from what `begin` gave and the rest of the observations; nothing is checked."""
        begun_EH, rows_ES = np.concatenate(begun, axis=1), np.asarray(states_ES)
        shape = (len(begun_EH), self.spec.width - self._features)
        assert rows_ES.shape == shape, f"states must have shape {shape}, had {rows_ES.shape}"
        return self._score_rows(self.network, self._fill_up(begun_EH), self._fill_up(rows_ES))[: len(rows_ES)]

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
