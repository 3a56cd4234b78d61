"""The floor: the same minibatches in plain torch. The network, the loss and Adam, and nothing around them.

Nothing is sampled and no advantage estimated; minibatches are drawn from numbers that lie ready. So a framework at the
floor would do all its other work in no time.

Legend: B batch, D observation width, A actions.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

Params = Mapping[str, Any]
ACTIVATIONS: dict[str, type[nn.Module]] = {"tanh": nn.Tanh, "relu": nn.ReLU}
TRANSITIONS = 10_000
CLIP, VALUE_CLIP, KL_COEFFICIENT = 0.3, 10.0, 0.2
"""RLlib's defaults."""


def build_floor(algorithm: str, *, width: int, actions: int, params: Params) -> Callable[[], int]:
    """A call makes the updates of so many env steps as it returns: PPO's of a batch, DQN's of a thousand."""
    torch.manual_seed(0)
    return FLOORS[algorithm](width, actions, params)


class PPOFloor:
    """Clipped surrogate, value, entropy and KL, as RLlib has them."""

    def __init__(self, width: int, actions: int, params: Params) -> None:
        self._params = params
        self._steps = params["train_batch_size_per_learner"]
        self._actor = build_network(width, actions, params)
        self._critic = build_network(width, 1, params)
        self._weights = [*self._actor.parameters(), *self._critic.parameters()]
        self._adam = torch.optim.Adam(self._weights, lr=params["lr"], fused=True)
        self._columns = draw_rollout(self._steps, width, actions)

    def __call__(self) -> int:
        for _ in range(self._params["num_epochs"]):
            for rows in torch.randperm(self._steps).split(self._params["minibatch_size"]):
                loss = self._loss({name: column[rows] for name, column in self._columns.items()})
                descend(loss, self._adam, self._weights, self._params["grad_clip"])
        return int(self._steps)

    def _loss(self, batch: dict[str, Tensor]) -> Tensor:
        log_p_BA, old_log_p_BA = self._actor(batch["obs"]).log_softmax(1), batch["logits"].log_softmax(1)
        log_p_B = log_p_BA.gather(1, batch["actions"]).squeeze(1)
        ratio_B = (log_p_B - batch["log_p"]).exp()
        clipped_B = ratio_B.clamp(1 - CLIP, 1 + CLIP)
        gain = torch.min(batch["advantages"] * ratio_B, batch["advantages"] * clipped_B).mean()
        entropy = -(log_p_BA.exp() * log_p_BA).sum(1).mean()
        kl = (old_log_p_BA.exp() * (old_log_p_BA - log_p_BA)).sum(1).mean()
        misses = ((self._critic(batch["obs"]).squeeze(1) - batch["targets"]) ** 2).clamp(0, VALUE_CLIP).mean()
        return -gain - self._params["entropy_coeff"] * entropy + misses + KL_COEFFICIENT * kl


def draw_rollout(count: int, width: int, actions: int) -> dict[str, Tensor]:
    logits, chosen = torch.randn(count, actions), torch.randint(actions, (count, 1))
    return {
        "obs": torch.randn(count, width),
        "actions": chosen,
        "logits": logits,
        "log_p": logits.log_softmax(1).gather(1, chosen).squeeze(1),
        "advantages": torch.randn(count),
        "targets": torch.randn(count),
    }


class DQNFloor:
    """Huber loss of a double, dueling network against its target network."""

    UPDATES = 250

    def __init__(self, width: int, actions: int, params: Params) -> None:
        self._params = params
        self._online = Dueling(width, actions, params)
        self._target = copy.deepcopy(self._online)
        self._weights = list(self._online.parameters())
        self._adam = torch.optim.Adam(self._weights, lr=params["lr"], fused=True)
        self._replay = {
            "obs": torch.randn(TRANSITIONS, width),
            "next_obs": torch.randn(TRANSITIONS, width),
            "actions": torch.randint(actions, (TRANSITIONS, 1)),
            "rewards": torch.randn(TRANSITIONS),
            "alive": torch.ones(TRANSITIONS),
        }

    def __call__(self) -> int:
        for _ in range(self.UPDATES):
            rows = torch.randint(TRANSITIONS, (self._params["train_batch_size_per_learner"],))
            loss = self._loss({name: column[rows] for name, column in self._replay.items()})
            descend(loss, self._adam, self._weights, self._params["grad_clip"])
        return round(self.UPDATES / self._params["updates_per_env_step"])

    def _loss(self, batch: dict[str, Tensor]) -> Tensor:
        with torch.no_grad():
            best_B1 = self._online(batch["next_obs"]).argmax(1, keepdim=True)
            next_B = self._target(batch["next_obs"]).gather(1, best_B1).squeeze(1)
            wanted_B = batch["rewards"] + self._params["gamma"] * batch["alive"] * next_B
        selected_B = self._online(batch["obs"]).gather(1, batch["actions"]).squeeze(1)
        return nn.functional.huber_loss(selected_B, wanted_B)


class Dueling(nn.Module):
    """One trunk, an advantage and a value."""

    def __init__(self, width: int, actions: int, params: Params) -> None:
        super().__init__()
        layers = build_layers(width, params)
        last = params.get("model.hiddens", (64, 64))[-1]
        self.trunk, self.advantage, self.value = nn.Sequential(*layers), nn.Linear(last, actions), nn.Linear(last, 1)

    def forward(self, obs_BD: Tensor) -> Tensor:
        trunk = self.trunk(obs_BD)
        advantage_BA = self.advantage(trunk)
        scores: Tensor = self.value(trunk) + advantage_BA - advantage_BA.mean(1, keepdim=True)
        return scores


FLOORS: dict[str, Callable[[int, int, Params], Callable[[], int]]] = {"ppo": PPOFloor, "dqn": DQNFloor}


def build_network(width: int, outputs: int, params: Params) -> nn.Sequential:
    last = params.get("model.hiddens", (64, 64))[-1]
    return nn.Sequential(*build_layers(width, params), nn.Linear(last, outputs))


def build_layers(width: int, params: Params) -> list[nn.Module]:
    activation = ACTIVATIONS[params.get("model.activation", "tanh")]
    layers: list[nn.Module] = []
    for hidden in params.get("model.hiddens", (64, 64)):
        layers += [nn.Linear(width, hidden), activation()]
        width = hidden
    return layers


def descend(loss: Tensor, adam: torch.optim.Optimizer, weights: list[nn.Parameter], clip: float) -> None:
    adam.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(weights, clip)
    adam.step()
