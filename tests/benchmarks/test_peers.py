"""What peers are measured on is the same environment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from benchmarks.peers.env import PlainTradingEnv

from tradesweep.env import TradingEnv, compile_env, compile_market
from tradesweep.spec import load_spec

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.parametrize("experiment", ["planted_ppo", "regime"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_plain_environment_equals_the_kernel_step_by_step(experiment: str, seed: int) -> None:
    overrides = ["env.borrow_bps_per_year=300", "env.positions=[-1, -0.5, 0, 1]"]
    spec = load_spec(experiment, root=ROOT, overrides=overrides)
    market = compile_market(spec)
    config = compile_env(spec, market)
    plain, ours = PlainTradingEnv(market, config), TradingEnv(market, config)
    generator = np.random.default_rng(seed)
    for episode in range(3):
        first: Any = {"seed": seed} if episode == 0 else {}
        ended = False
        np.testing.assert_allclose(plain.reset(**first)[0], ours.reset(**first)[0], rtol=1e-6, atol=1e-6)
        while not ended:
            action = int(generator.integers(4))
            theirs, own = plain.step(action), ours.step(action)
            np.testing.assert_allclose(theirs[0], own[0], rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(theirs[1], own[1], rtol=1e-9, atol=1e-12)
            assert theirs[2:4] == own[2:4]
            ended = theirs[2] or theirs[3]
