"""Which training keys a sweep file may set, and what values they take.

RLlib accepts any key silently, so a misspelt one would be swept without effect. `rllib_keys.json` is the committed
allowlist of RLlib's own keys; a test compares it with the real configs.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from itertools import pairwise
from typing import Any

from tradesweep.spec.problems import is_a

ALGORITHMS = ("dqn", "ppo")
STEPS_PER_TRAINING_STEP = 64
"""Env steps of a training step of DQN at least, through all lanes: enough to spread the cost of a weight push, few
enough that the acting weights are hardly older than that."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Key:
    """One training key."""

    type: str
    """float, int, bool, text, hiddens or schedule."""
    default: Any = None
    least: float | None = None
    """Smallest value allowed."""
    above: float | None = None
    """Every value must be above this."""
    most: float | None = None
    """Largest value allowed."""
    options: tuple[str, ...] | None = None
    nullable: bool = False

    def problem(self, value: Any) -> str | None:
        """The rule that `value` breaks, or None."""
        if value is None and self.nullable:
            return None
        if not TYPES[self.type](value):
            return f"must be {WORDS[self.type]}"
        if self.options is not None and value not in self.options:
            return f"must be one of {', '.join(self.options)}"
        return next((rule for number in self._numbers(value) if (rule := self._out_of_bounds(number))), None)

    def clean(self, value: Any) -> Any:
        """`value` in the form of the key, so that `1` and `1.0` are one value; what does not fit stays as it is."""
        if self.type == "float" and is_a(value, int):
            return float(value)
        if self.type == "schedule" and _is_schedule(value):
            return [[step, float(height)] for step, height in value] if isinstance(value, list) else float(value)
        return value

    def _numbers(self, value: Any) -> list[float]:
        """What the bounds hold for."""
        if self.type not in ("float", "int", "schedule"):
            return []
        return [height for _, height in value] if isinstance(value, list) else [value]

    def _out_of_bounds(self, value: float) -> str | None:
        if self.least is not None and value < self.least:
            return f"must be >= {self.least:g}"
        if self.above is not None and value <= self.above:
            return f"must be > {self.above:g}"
        if self.most is not None and value > self.most:
            return f"must be <= {self.most:g}"
        return None


def _is_number(value: Any) -> bool:
    return is_a(value, int) or is_a(value, float)


def _is_schedule(value: Any) -> bool:
    """A number, or [[step, value], ...] from step 0 on, at least two, as RLlib's schedulers want it."""
    if not isinstance(value, list):
        return _is_number(value)
    if len(value) < 2 or not all(isinstance(pair, list) and len(pair) == 2 for pair in value):
        return False
    if not all(is_a(step, int) and _is_number(height) for step, height in value):
        return False
    return bool(value[0][0] == 0 and all(a[0] < b[0] for a, b in pairwise(value)))


def _is_hiddens(value: Any) -> bool:
    return (
        isinstance(value, (list, tuple))
        and bool(value)
        and all(is_a(width, int) and 0 < width <= 8192 for width in value)
    )


TYPES = {
    "float": _is_number,
    "int": lambda value: is_a(value, int),
    "bool": lambda value: isinstance(value, bool),
    "text": lambda value: isinstance(value, str),
    "hiddens": _is_hiddens,
    "schedule": _is_schedule,
}
WORDS = {
    "float": "a number",
    "int": "a whole number",
    "bool": "true or false",
    "text": "a word",
    "hiddens": "a list of layer widths from 1 to 8192, as [64, 64]",
    "schedule": "a number or two and more [step, value] pairs, steps rising from 0",
}

MODEL_KEYS = {
    "model.hiddens": Key(type="hiddens", default=[64, 64]),
    "model.activation": Key(type="text", default="tanh", options=("relu", "tanh")),
}
DQN_KEYS = {
    "updates_per_env_step": Key(type="float", default=0.25, above=0, most=64),
    "replay_buffer_config.type": Key(type="text", default="uniform", options=("uniform", "prioritized")),
    "replay_buffer_config.capacity": Key(type="int", default=50_000, least=1),
    "replay_buffer_config.alpha": Key(type="float", default=0.6, least=0),
    "replay_buffer_config.beta": Key(type="float", default=0.4, least=0),
    "replay_buffer_config.checkpoint": Key(type="bool", default=False),
}

PPO_KEYS = {"kl_stop": Key(type="float", default=None, above=0, nullable=True)}
OWN_KEYS = {"dqn": DQN_KEYS, "ppo": PPO_KEYS}
"""Keys that RLlib does not have."""

OWNED = {
    "num_env_runners": "resources.env_runners",
    "num_workers": "resources.env_runners",
    "num_rollout_workers": "resources.env_runners",
    "num_envs_per_env_runner": "resources.lanes",
    "num_cpus_per_env_runner": "resources.cpus_per_trial",
    "num_gpus": "resources.gpus_per_trial",
    "num_gpus_per_learner": "resources.gpus_per_trial",
    "num_learners": "resources",
    "training_intensity": "updates_per_env_step",
    "replay_buffer_config": "replay_buffer_config.capacity, .type, .alpha, .beta or .checkpoint",
    "model": "model.hiddens or model.activation",
    "model_config": "model.hiddens or model.activation",
    "fcnet_hiddens": "model.hiddens",
    "fcnet_activation": "model.activation",
    "rollout_fragment_length": "nothing: it follows from the batch and the lanes",
    "seed": "seed of the experiment",
    "env": "env of the experiment",
    "env_config": "env of the experiment",
    "evaluation_interval": "evaluation.count",
    "evaluation_duration": "evaluation",
    "train_batch_size": "train_batch_size_per_learner",
    "sgd_minibatch_size": "minibatch_size",
    "num_sgd_iter": "num_epochs",
    "lambda": "lambda_",
    "lr_schedule": "lr",
    "stop": "budget",
    "target_kl": "kl_stop, or kl_target for RLlib's adaptive penalty",
}
"""Keys that belong elsewhere, and where."""

OWNED_PREFIXES = {
    "num_gpus_per_": "resources.gpus_per_trial",
    "num_cpus_per_": "resources.cpus_per_trial",
    "evaluation_": "evaluation",
    "replay_buffer_": "replay_buffer_config.capacity, .type, .alpha, .beta or .checkpoint",
}
"""Families of such keys."""

NEVER_TUNED = frozenset(
    {
        "market", "features", "splits", "env", "evaluation", "budget", "searcher", "pruner",
        "fee_bps", "slippage_bps", "borrow_bps_per_year", "fees", "commission", "costs",
        "reward", "reward_scale", "reward_params", "positions", "fill", "initial_equity", "ruin_fraction",
        "episode_bars", "window_bars", "train", "validation", "test", "min_trades",
    }
)  # fmt: skip
"""Costs, limits, splits, data and objective: a search that may choose them chooses the easiest question."""


FLATTENED = ("model", "replay_buffer_config")
"""Written nested or with a dot: `model: {hiddens: ...}` is `model.hiddens`."""


def flatten_keys(written: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Keys with their dots, and values, in the order written."""
    flat: list[tuple[str, Any]] = []
    for key, value in written.items():
        nested = key in FLATTENED and isinstance(value, dict)
        flat += [(f"{key}.{below}", deeper) for below, deeper in value.items()] if nested else [(key, value)]
    return flat


@cache
def keys_of(algorithm: str) -> Mapping[str, Key]:
    """Every key a sweep file of `algorithm` may hold."""
    committed = json.loads(files("tradesweep.spec").joinpath("rllib_keys.json").read_text(encoding="utf-8"))
    rllib = {
        name: Key(**{**fields, "options": tuple(fields["options"]) if "options" in fields else None})
        for name, fields in committed[algorithm].items()
    }
    return {**rllib, **MODEL_KEYS, **OWN_KEYS[algorithm]}


MOST_LISTED = 40
"""Known names that a message lists."""


def suggest(word: str, known: Iterable[str]) -> str:
    """`did you mean lr?`, or the list of what is known."""
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    if close:
        return f"did you mean {close[0]}?"
    listed = ", ".join(names[:MOST_LISTED]) + (", ..." if len(names) > MOST_LISTED else "")
    return f"known are {listed}" if names else ""


def place_of(algorithm: str, name: str, *, searched: bool) -> tuple[str, str]:
    """Why `name` is refused, and what to do: (rule, remedy)."""
    first, _, rest = name.partition(".")
    if first in NEVER_TUNED:
        where = "search" if searched else "fixed"
        rule = f"must not stand under {where}: costs, splits, data and objective are never tuned"
        return rule, "set it in experiments.yaml"
    others = [other for other in ALGORITHMS if other != algorithm and name in keys_of(other)]
    if others:
        return f"must be a training key of {algorithm}", f"it is one of {others[0]}"
    if owner := OWNED.get(name) or OWNED.get(rest) or _owner_by_prefix(name):
        return f"must not stand here: it is no key of {algorithm}", f"it is {owner}"
    known = keys_of(algorithm)
    if first in known:
        return "must be set as a whole", f"set {first}"
    return f"must be a training key of {algorithm}", suggest(name, known)


def _owner_by_prefix(name: str) -> str | None:
    return next((place for prefix, place in OWNED_PREFIXES.items() if name.startswith(prefix)), None)
