"""The committed allowlist against RLlib itself."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import pytest

from tradesweep.spec import keys as keys_module
from tradesweep.spec import keys_of

COMMITTED = json.loads((Path(keys_module.__file__).parent / "rllib_keys.json").read_text(encoding="utf-8"))


def rllib_config(algorithm: str) -> Any:
    from ray.rllib.algorithms.dqn import DQNConfig
    from ray.rllib.algorithms.ppo import PPOConfig

    return {"dqn": DQNConfig, "ppo": PPOConfig}[algorithm]()


def default_of(config: Any, name: str) -> Any:
    """From RLlib's table, where `lambda_` is spelt `lambda`; a few are properties of the config."""
    table = config.to_dict()
    spelt = "lambda" if name == "lambda_" else name
    value = table[spelt] if spelt in table else getattr(config, name)
    return json.loads(json.dumps(value))


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["dqn", "ppo"])
def test_every_key_is_one_of_rllib_with_the_same_default(algorithm: str) -> None:
    config = rllib_config(algorithm)
    assert {name: default_of(config, name) for name in COMMITTED[algorithm]} == {
        name: fields["default"] for name, fields in COMMITTED[algorithm].items()
    }


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["dqn", "ppo"])
def test_training_of_rllib_takes_every_key_by_name(algorithm: str) -> None:
    config = type(rllib_config(algorithm))
    taken = {
        name
        for kind in config.__mro__
        if "training" in vars(kind)
        for name in inspect.signature(kind.training).parameters
    }
    assert set(COMMITTED[algorithm]) <= taken


@pytest.mark.parametrize("algorithm", ["dqn", "ppo"])
def test_every_default_is_allowed_by_its_own_rule(algorithm: str) -> None:
    assert {
        name: key.problem(key.default) for name, key in keys_of(algorithm).items() if key.problem(key.default)
    } == {}


def test_the_allowlist_says_nothing_that_the_code_does_not_read() -> None:
    for fields in (fields for keys in COMMITTED.values() for fields in keys.values()):
        assert set(fields) <= {"type", "default", "least", "above", "most", "options", "nullable"}
        assert fields["type"] in keys_module.TYPES
