"""What both learners share: a gradient step straight on the weights, and metrics that are reduced once per update.

RLlib's own step walks dictionaries of modules, optimizers and parameters and checks each gradient by itself, which
costs as much as the step: here all weights are one tensor (`flat`), with one step, one norm, one check. Gradients come
from the layers' own derivatives (`dense`), not from torch's graph. RLlib's way, `update`, stays as it is for who asks
for it.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.learner.torch.torch_learner import TorchLearner
from ray.rllib.utils.annotations import override

from tradesweep.agents.flat import FlatWeights
from tradesweep.errors import TrialDiverged

Columnar = dict[str, torch.Tensor]
"""Rows side by side, under RLlib's names of columns."""


class DirectLearner(TorchLearner):
    """One module, one fused Adam, no per-parameter Python."""

    @override(TorchLearner)
    def build(self) -> None:
        """As RLlib's; what a step needs is looked up once."""
        super().build()
        self.updates_lifetime = 0
        self._own_module = self.module[DEFAULT_MODULE_ID].unwrapped()
        self._own_config = self.config.get_config_for_module(DEFAULT_MODULE_ID)
        self._optimizer: torch.optim.Adam = self.get_optimizer(DEFAULT_MODULE_ID)
        own_weights = [weight for weight in self._own_module.parameters() if weight.requires_grad]
        self._flat = FlatWeights(own_weights, self._optimizer)
        self._last_norm = 0.0

    @override(TorchLearner)
    def configure_optimizers_for_module(self, module_id: str, config: Any = None) -> None:
        """Adam as RLlib's, fused."""
        weights = self.get_parameters(self._module[module_id])
        optimizer = torch.optim.Adam(weights, fused=True)
        self.register_optimizer(module_id=module_id, optimizer=optimizer, params=weights, lr_or_lr_schedule=config.lr)

    @override(TorchLearner)
    def _set_optimizer_state(self, state: dict[str, Any]) -> None:
        super()._set_optimizer_state(state)
        self._flat.hold_state()

    @torch.no_grad()
    def learn_from(self, batch: Columnar) -> None:
        """One gradient step on ready columns. Raises TrialDiverged where a gradient is not finite."""
        self._flat.lend_gradients()
        self.find_gradients(batch)
        self._descend()

    @abstractmethod
    def find_gradients(self, batch: Columnar) -> None:
        """Set the gradient of every weight that the loss of these columns depends on; torch keeps no graph here."""

    def _descend(self) -> None:
        norm = self._flat.norm()
        if not math.isfinite(norm):
            raise TrialDiverged("learner: gradients must be finite, were not; lower lr or set grad_clip")
        if self._own_config.grad_clip:
            CLIPPERS[self._own_config.grad_clip_by](self._flat, self._own_config.grad_clip, norm)
        self._flat.step()
        self.updates_lifetime += 1
        self._last_norm = norm

    @abstractmethod
    def last_losses(self) -> dict[str, torch.Tensor]:
        """What the last gradient step left, under RLlib's names; a column stands for its mean."""

    def log_last(self) -> None:
        """Log it, once for all the steps of an update."""
        values = {name: value.mean().item() for name, value in self.last_losses().items()}
        for name, value in {**values, "gradients_default_optimizer_global_norm": self._last_norm}.items():
            self.metrics.log_value((DEFAULT_MODULE_ID, name), value, window=1)


def _clip_values(flat: FlatWeights, limit: float, norm: float) -> None:  # noqa: ARG001 - one signature for all
    flat.gradients_P.clamp_(-limit, limit)


def _clip_each_norm(flat: FlatWeights, limit: float, norm: float) -> None:  # noqa: ARG001 - one signature for all
    for weight in flat.weights:
        torch.nn.utils.clip_grad_norm_([weight], limit)


def _clip_norm(flat: FlatWeights, limit: float, norm: float) -> None:
    """As torch's `clip_grads_with_norm_`, which multiplies by one where the norm is within the limit."""
    if norm + 1e-6 > limit:
        flat.gradients_P.mul_(limit / (norm + 1e-6))


CLIPPERS: dict[str, Callable[[FlatWeights, float, float], None]] = {
    "value": _clip_values,
    "norm": _clip_each_norm,
    "global_norm": _clip_norm,
}
"""RLlib's ways to clip gradients, by the value of `grad_clip_by`."""
