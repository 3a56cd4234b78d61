"""What a runner is told, the environments it builds from that, and the market they share."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from tradesweep.agents import RecordingContext, RunnerContext, feed, install_market
from tradesweep.agents.envs import build_vector_env, create_env
from tradesweep.env import TradingEnv, TradingVectorEnv
from tradesweep.errors import MarketError

Make = Callable[..., Any]


def test_a_context_survives_json(make_setting: Make) -> None:
    recording = RecordingContext(recorder="r", sweep_id="s", trial_id=3, attempt=2, steps=False, timeout_s=5.0)
    for context in (
        make_setting("ppo").context(),
        make_setting("ppo").context(env_runners=2, recording=recording),
    ):
        assert RunnerContext.from_dict(json.loads(json.dumps(context.to_dict()))) == context


def test_lanes_are_numbered_through_all_runners(make_setting: Make) -> None:
    class Runner:
        num_envs = 4
        worker_index: int | None = None

    context = make_setting("ppo").context()
    offsets = []
    for worker_index in (None, 0, 1, 2, 3):
        runner = Runner()
        runner.worker_index = worker_index
        offsets.append(context.lane_offset(runner))
    assert offsets == [0, 0, 0, 4, 8]


def test_rllib_gets_a_vector_env_where_it_says_how_many_and_a_single_one_else(make_setting: Make) -> None:
    setting = make_setting("ppo")
    install_market(setting.spec.to_json(), setting.market)
    values = setting.context().to_dict()
    vector = create_env({**values, "num_envs": 5})
    assert isinstance(vector, TradingVectorEnv)
    assert vector.num_envs == 5
    assert isinstance(create_env(values), TradingEnv)


def test_an_installed_market_is_shared_and_not_compiled_again(
    make_setting: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    setting = make_setting("ppo")
    install_market(setting.spec.to_json(), setting.market)
    monkeypatch.setattr(feed, "compile_market", lambda spec: pytest.fail("compiled"))
    envs = [build_vector_env(setting.context(), lanes=2) for _ in range(2)]
    assert all(env.kernel.bars is setting.market.bars for env in envs)
    assert not setting.market.features_NF.flags.writeable


def test_a_market_that_nobody_installed_is_rebuilt_from_the_spec(make_setting: Make) -> None:
    setting = make_setting("ppo")
    feed._markets.clear()
    env = build_vector_env(setting.context(), lanes=2)
    assert env.kernel.bars.sha256() == setting.market.bars.sha256()


def test_data_that_changed_since_the_sweep_began_is_refused(make_setting: Make) -> None:
    setting = make_setting("ppo")
    install_market(setting.spec.to_json(), setting.market)
    with pytest.raises(MarketError, match="the data must be what the sweep began with"):
        build_vector_env(replace(setting.context(), market_sha256="0" * 64), lanes=2)
