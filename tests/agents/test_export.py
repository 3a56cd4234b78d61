"""The plain policy acts as the RLModule it was read from, and gives the same bits in another process."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.rl_module import RLModule

from tradesweep.agents import plain_layers
from tradesweep.agents.runner import VectorEnvRunner
from tradesweep.env import compile_env
from tradesweep.errors import TrialDiverged
from tradesweep.policy import PlainPolicy, build_policy_spec, evaluate

Make = Callable[..., Any]


def build_module(setting: Any) -> RLModule:
    module = VectorEnvRunner(config=setting.config()).module
    # RLlib initialises the policy's last layer near zero: spread the scores, or every gap would be tiny.
    with torch.no_grad():
        for weight in module.parameters():
            weight.mul_(3.0).add_(0.2 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)))
    return module


def build_policy(setting: Any, module: RLModule) -> PlainPolicy:
    layers, weights = plain_layers(setting.agent.algorithm, module)
    env = compile_env(setting.spec, setting.market)
    return PlainPolicy.from_arrays(build_policy_spec(setting.spec, setting.market, env, layers=layers), weights)


SHAPES = [
    ("ppo", {"model__activation": "relu", "model__hiddens": [32]}),
    ("ppo", {"model__activation": "tanh", "model__hiddens": [16, 24]}),
    ("dqn", {"model__activation": "relu", "model__hiddens": [16, 24], "dueling": True}),
    ("dqn", {"model__activation": "tanh", "model__hiddens": [32], "dueling": True}),
    ("dqn", {"model__activation": "relu", "model__hiddens": [32], "dueling": False}),
    ("dqn", {"model__activation": "tanh", "model__hiddens": [16, 24], "dueling": False}),
]


@pytest.mark.parametrize(("algorithm", "params"), SHAPES)
def test_module_and_plain_policy_choose_the_same_actions(
    make_setting: Make, algorithm: str, params: dict[str, Any]
) -> None:
    setting = make_setting(algorithm, **params)
    module = build_module(setting)
    policy = build_policy(setting, module)
    obs = np.random.default_rng(0).normal(size=(10_000, policy.spec.width)).astype(np.float32)
    scores = policy.scores(obs)
    with torch.no_grad():
        out = module.forward_inference({Columns.OBS: torch.from_numpy(obs)})
    chosen = out[Columns.ACTIONS] if Columns.ACTIONS in out else out[Columns.ACTION_DIST_INPUTS].argmax(1)
    ordered = np.sort(scores, axis=1)
    clear = ordered[:, -1] - ordered[:, -2] > 1e-6
    assert clear.mean() > 0.99
    np.testing.assert_array_equal(policy.act(obs)[clear], chosen.numpy()[clear])
    assert len(set(chosen.tolist())) == 3, "all actions occur"


READ_AGAIN = """
import sys
from pathlib import Path
from tradesweep.env import compile_env, compile_market
from tradesweep.policy import PlainPolicy, evaluate
from tradesweep.spec import SweepSpec
folder = Path(sys.argv[1])
spec = SweepSpec.from_json((folder / "spec.json").read_text())
market = compile_market(spec)
evaluation = evaluate(PlainPolicy.load(folder), market, compile_env(spec, market), split="validation")
print(evaluation.sharpe.hex(), evaluation.trades, "torch" in sys.modules, "ray" in sys.modules)
"""


@pytest.mark.parametrize("algorithm", ["ppo", "dqn"])
def test_a_saved_policy_gives_the_same_sharpe_in_another_process(
    make_setting: Make, tmp_path: Path, algorithm: str
) -> None:
    setting = make_setting(algorithm)
    policy = build_policy(setting, build_module(setting))
    env = compile_env(setting.spec, setting.market)
    here = evaluate(policy, setting.market, env, split="validation")
    policy.save(tmp_path)
    (tmp_path / "spec.json").write_text(setting.spec.to_json())
    there = subprocess.run(
        [sys.executable, "-c", READ_AGAIN, str(tmp_path)], capture_output=True, text=True, check=True
    ).stdout.split()
    assert here.sharpe is not None
    assert there == [here.sharpe.hex(), str(here.trades), "False", "False"]


def test_weights_that_are_not_finite_are_refused(make_setting: Make) -> None:
    module = build_module(make_setting("dqn"))
    with torch.no_grad():
        next(iter(module.parameters())).view(-1)[3] = float("inf")
    with pytest.raises(TrialDiverged, match="must be finite"):
        plain_layers("dqn", module)


def test_a_layer_that_a_plain_policy_cannot_have_is_noticed(make_setting: Make) -> None:
    module = build_module(make_setting("ppo"))
    module.pi = torch.nn.Sequential(module.pi, torch.nn.LayerNorm(3))
    with pytest.raises(AssertionError, match="LayerNorm"):
        plain_layers("ppo", module)
