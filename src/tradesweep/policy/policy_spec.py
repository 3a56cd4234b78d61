"""PolicySpec: what `policy.json` says, which is all that one needs to use a policy besides its weights.

Legend: A actions, D observation width, F features.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tradesweep import __version__
from tradesweep.env import Costs, EnvConfig, build_observer, build_reward
from tradesweep.errors import CheckpointError

if TYPE_CHECKING:
    from tradesweep.market import Market
    from tradesweep.spec import SweepSpec

FORMAT_VERSION = 1
TRUNK = "trunk"
ACTIVATIONS = ("linear", "relu", "tanh")
HEADS: tuple[frozenset[str], ...] = (
    frozenset({"logits"}),
    frozenset({"advantage"}),
    frozenset({"advantage", "value"}),
)
"""Sets of heads that are scores: PPO's logits; DQN's advantages (alone they are Q), with a value when dueling."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Layer:
    """One dense layer, y = activation(W x + b)."""

    weight: str
    """Name of W, (out, in), among the weights."""
    bias: str
    """Name of b, (out,)."""
    activation: str
    """linear, relu or tanh."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Feature:
    """A feature as the experiment asked for it; one gives one or several columns."""

    name: str
    """Name in the market room's or a plugin's registry."""
    params: Mapping[str, Any]
    """Its arguments."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PolicySpec:
    """Architecture, scaling, features, action map and environment of one policy."""

    algorithm: str
    """dqn or ppo."""
    layers: tuple[Layer, ...]
    """The trunk, from the observation on; may be empty."""
    heads: Mapping[str, tuple[Layer, ...]]
    """Stacks on top of the trunk: logits, or advantage with or without value."""
    observation: tuple[tuple[str, int], ...]
    """Parts of an observation in order, with their widths."""
    features: tuple[Feature, ...]
    """What the feature columns are computed from, in order."""
    feature_names: tuple[str, ...]
    """(F,) names of the feature columns."""
    scaler_mean: tuple[float, ...]
    """(F,) subtracted from the columns."""
    scaler_std: tuple[float, ...]
    """(F,) then divided by; the result is clipped to +-10 and rounded to float32."""
    env: EnvConfig
    """The environment it was trained in: positions (the action map), window, costs, fill, reward."""
    market: Mapping[str, Any]
    """Instrument, source, sha256 of the data, periods per year, and the rules that bars must keep."""
    plugins: tuple[str, ...]
    """File or module names of plugins that the features or the reward may come from."""
    versions: Mapping[str, str]
    """Library versions that wrote the policy."""

    @property
    def width(self) -> int:
        """D: numbers in an observation."""
        return sum(size for _, size in self.observation)

    def to_json(self) -> str:
        """Text for people and programs; `from_json` gives the same spec back, floats to the last bit."""
        scaling = zip(self.feature_names, self.scaler_mean, self.scaler_std, strict=True)
        document = {
            "format_version": FORMAT_VERSION,
            "algorithm": self.algorithm,
            "actions": dict(enumerate(self.env.positions)),
            "observation": [{"part": part, "width": width} for part, width in self.observation],
            "layers": [asdict(layer) for layer in self.layers],
            "heads": {name: [asdict(layer) for layer in head] for name, head in self.heads.items()},
            "features": [{"name": f.name, "params": dict(f.params)} for f in self.features],
            "scaling": [{"feature": name, "mean": mean, "std": std} for name, mean, std in scaling],
            "env": asdict(self.env),
            "market": dict(self.market),
            "plugins": list(self.plugins),
            "versions": dict(self.versions),
        }
        return _write_document(document)

    @classmethod
    def from_json(cls, text: str, *, source: str = "policy.json") -> PolicySpec:
        """Read what `to_json` wrote; raises CheckpointError for anything else."""
        try:
            document = json.loads(text)
            version = document["format_version"]
            return cls._from_document(document) if version == FORMAT_VERSION else _refuse_version(source, version)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as e:
            raise CheckpointError(f"{source} is damaged: {type(e).__name__}: {e}") from e

    @classmethod
    def _from_document(cls, document: Mapping[str, Any]) -> PolicySpec:
        scaling = document["scaling"]
        return cls(
            algorithm=document["algorithm"],
            layers=_read_layers(document["layers"]),
            heads={name: _read_layers(head) for name, head in document["heads"].items()},
            observation=tuple((part["part"], int(part["width"])) for part in document["observation"]),
            features=tuple(Feature(**feature) for feature in document["features"]),
            feature_names=tuple(column["feature"] for column in scaling),
            scaler_mean=tuple(float(column["mean"]) for column in scaling),
            scaler_std=tuple(float(column["std"]) for column in scaling),
            env=_read_env(document["env"]),
            market=document["market"],
            plugins=tuple(document["plugins"]),
            versions=document["versions"],
        )


def build_policy_spec(
    spec: SweepSpec, market: Market, config: EnvConfig, *, layers: Mapping[str, Sequence[Mapping[str, str]]]
) -> PolicySpec:
    """What travels with the weights. `layers` maps `trunk` and each head to layers: weight, bias, activation."""
    reward = build_reward(config.reward, config.reward_params)
    observer = build_observer(market, config, lanes=1, reward_state_size=reward.state_size)
    stacks = {name: _read_layers(stack) for name, stack in layers.items()}
    return PolicySpec(
        algorithm=spec.algorithm,
        layers=stacks.pop(TRUNK, ()),
        heads=stacks,
        observation=tuple(observer.layout()),
        features=tuple(Feature(name=feature.name, params=dict(feature.params)) for feature in spec.features),
        feature_names=tuple(market.feature_names),
        scaler_mean=tuple(market.scaler.mean_F.tolist()),
        scaler_std=tuple(market.scaler.std_F.tolist()),
        env=replace(config, reward_params=dict(config.reward_params)),
        market=_describe_market(spec, market),
        plugins=tuple(Path(plugin).name for plugin in spec.plugins),
        versions={"tradesweep": __version__, "numpy": np.__version__},
    )


def _write_document(document: Mapping[str, Any]) -> str:
    """JSON with one line per key, and one per element of a list."""
    lines = []
    for key, value in document.items():
        text = json.dumps(value, allow_nan=False)
        if isinstance(value, list) and value:
            text = "[\n" + ",\n".join(f"  {json.dumps(element, allow_nan=False)}" for element in value) + "\n ]"
        lines.append(f" {json.dumps(key)}: {text}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _describe_market(spec: SweepSpec, market: Market) -> dict[str, Any]:
    """The market for whoever brings new bars: what they must look like, without a path of this machine."""
    return {
        "instrument": market.instrument,
        "source": spec.market.source,
        "sha256": market.sha256,
        "periods_per_year": market.periods_per_year,
        "rules": spec.market.model_dump(mode="json", exclude={"path"}),
    }


def _read_layers(stack: Sequence[Mapping[str, str]]) -> tuple[Layer, ...]:
    return tuple(Layer(**layer) for layer in stack)


def _read_env(values: Mapping[str, Any]) -> EnvConfig:
    plain = dict(values)
    return EnvConfig(**plain | {"costs": Costs(**plain["costs"]), "positions": tuple(plain["positions"])})


def _refuse_version(source: str, version: object) -> PolicySpec:
    raise CheckpointError(
        f"{source} must have format_version {FORMAT_VERSION}, was {version!r}; use the tradesweep that wrote it"
    )
