"""From an RLModule to plain weights: what the plain policy needs, read off the torch layers themselves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from ray.rllib.core.rl_module.rl_module import RLModule

from tradesweep.agents.dense import list_layers
from tradesweep.errors import TrialDiverged

Weights = dict[str, npt.NDArray[np.float32]]
Layer = dict[str, str]


def plain_layers(algorithm: str, module: RLModule) -> tuple[dict[str, list[Layer]], Weights]:
    """Return `{part: layers}` and the weights by name. A layer names its weight, bias and activation.

    Parts: `trunk`, then `logits` (PPO), or `advantage` and, when dueling, `value` (DQN).
    Raises TrialDiverged when a weight is not finite.
    """
    parts = {name: list_layers(part) for name, part in PARTS[algorithm](module).items()}
    layers: dict[str, list[Layer]] = {}
    weights: Weights = {}
    for part, stack in parts.items():
        layers[part] = []
        for index, (linear, activation) in enumerate(stack):
            name = f"{part}.{index}"
            weights[f"{name}.weight"] = _array(linear.weight)
            weights[f"{name}.bias"] = _array(linear.bias)
            layers[part].append({"weight": f"{name}.weight", "bias": f"{name}.bias", "activation": activation})
    _check_finite(weights)
    return layers, weights


def _ppo_parts(module: Any) -> Mapping[str, torch.nn.Module]:
    return {"trunk": module.encoder.actor_encoder, "logits": module.pi}


def _dqn_parts(module: Any) -> Mapping[str, torch.nn.Module]:
    value = {"value": module.vf} if module.uses_dueling else {}
    return {"trunk": module.encoder, "advantage": module.af, **value}


PARTS = {"ppo": _ppo_parts, "dqn": _dqn_parts}


def _array(tensor: torch.Tensor) -> npt.NDArray[np.float32]:
    return np.array(tensor.detach().cpu().numpy(), dtype=np.float32, order="C")


def _check_finite(weights: Weights) -> None:
    for name, values in weights.items():
        if not np.isfinite(values).all():
            raise TrialDiverged(f"learner: weights must be finite, {name} is not; lower lr or set grad_clip")
