"""From spec to runtime: a market, an environment, and errors that name file and line."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tradesweep.env import TradingVectorEnv, check_causal, compile_env, compile_market
from tradesweep.errors import BadInput, MarketError, SpecError
from tradesweep.spec import SweepSpec, load_spec

EXPERIMENTS = """\
version: 1
experiments:
  tiny:
    sweep: tiny
    market:
      source: synthetic
      name: planted
      params: {rho: 0.3, q: 0.1, seed: 1}
      periods_per_year: 252
    features:
      - csv_columns: {names: [signal]}
      - log_returns: {lags: [1, 5]}
    splits: {train: 400, validation: 200, test: 200}
    env: {fill: next_open, window_bars: 3, episode_bars: 50, fee_bps: 5}
    budget: {trials: 1, env_steps_per_trial: 1000}
"""
SWEEP = """\
algorithm: ppo
search:
  lr: {loguniform: [1e-4, 1e-2]}
"""


@pytest.fixture
def load(tmp_path: Path):
    """Load the tiny experiment with `--set` overrides."""

    def load_with(*overrides: str) -> SweepSpec:
        (tmp_path / "sweeps").mkdir(exist_ok=True)
        (tmp_path / "sweeps" / "tiny.yaml").write_text(SWEEP)
        (tmp_path / "experiments.yaml").write_text(EXPERIMENTS)
        return load_spec("tiny", root=tmp_path, overrides=overrides)

    return load_with


def test_a_spec_becomes_a_market(load):
    market = compile_market(load())
    assert market.feature_names == ("signal", "log_return_1", "log_return_5")
    assert [len(market.splits[name]) for name in ("train", "validation", "test")] == [400, 200, 200]
    assert (market.instrument, market.source) == ("planted", "synthetic planted")
    assert market.sha256 == compile_market(load()).sha256


def test_a_csv_column_that_a_feature_names_is_read_from_the_file(load, tmp_path):
    days = np.arange("2000-01-03", "2003-02-01", dtype="datetime64[D]")
    days = days[np.is_busday(days)]
    close = 100 * np.exp(np.cumsum(np.random.default_rng(0).standard_normal(len(days)) * 0.01))
    lines = [
        f"{day},{c},{c * 1.01},{c * 0.98},{c * 0.999},100,{i % 7}"
        for i, (day, c) in enumerate(zip(days, close, strict=True))
    ]
    (tmp_path / "bars.csv").write_text("\n".join(["date,open,high,low,close,volume,mood", *lines]))
    market = compile_market(
        load(
            "market={source: csv, path: bars.csv, periods_per_year: 252, timezone: UTC, bar_label: end}",
            "features=[csv_columns: {names: [mood]}]",
        )
    )
    assert market.feature_names == ("mood",)
    assert market.instrument == "bars"


def test_a_spec_becomes_environment_settings(load):
    spec = load()
    market = compile_market(spec)
    config = compile_env(spec, market)
    assert (config.fill, config.window_bars, config.episode_bars, config.costs.fee_bps) == ("next_open", 3, 50, 5.0)
    assert config.positions == (-1.0, 0.0, 1.0)
    assert config.reward_scale == market.reward_scale_auto
    assert config.reward_scale == pytest.approx(100, rel=0.2)  # sigma is 0.01
    assert compile_env(load("env.reward_scale=3"), market).reward_scale == 3.0
    env = TradingVectorEnv(market, config, lanes=2)
    assert env.reset(seed=0)[0].shape == (2, 3 * 3 + 6)


def test_the_features_of_a_spec_pass_the_look_ahead_proof(load):
    spec = load("splits={train: 80, validation: 40, test: 40}")
    assert check_causal(spec).problems == ()
    assert check_causal(spec, compile_market(spec)).problems == ()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("features=[rsii]", r"features\.0 must be one of .*rsi.*, was rsii"),
        ("features=[csv_columns]", r"features\.0 must say names"),
        ("features=[csv_columns: {names: 5}]", r"features\.0 must say names: \[...\], a list of words, was 5"),
        ("env.reward=profit", r"env\.reward must be one of log_return, .*, was profit"),
        ("env.reward_params={eta: 0.1}", r"env\.reward_params must suit log_return, was .*eta"),
        ("env.episode_bars=500", r"env\.episode_bars must be at most 392, .* was 500"),
    ],
)
def test_what_only_the_runtime_knows_is_refused_with_its_place(load, override, message):
    spec = load(override)
    with pytest.raises(SpecError, match=message) as caught:
        compile_env(spec, compile_market(spec))
    assert "--set" in str(caught.value) or "experiments.yaml" in str(caught.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("market.params.bars=1e9", r"--set market.params.bars=1e9 market.params.bars must be a whole number"),
        ("market.timezone=Mars/Olympus", r"--set market.timezone=Mars/Olympus market.timezone must be an IANA name"),
        ("market.max_gap=soon", r"--set market.max_gap=soon market.max_gap must be a number with s, m, h or d"),
        ("features=[rsi: {period: 0}]", r"--set features=.* features.rsi.period must be a whole number"),
        ("splits.train=100000", r"--set splits.train=100000 splits must not need more bars"),
        ("plugins=[nowhere.py]", r"--set plugins=.* plugin .*nowhere.py must be a python file"),
    ],
)
def test_what_the_market_finds_wrong_is_refused_with_its_place(load, override, message):
    with pytest.raises(BadInput, match=message):
        compile_market(load(override))


def test_what_is_wrong_in_a_data_file_names_that_file_first(load, tmp_path):
    (tmp_path / "bars.csv").write_text("Date,Open\n")
    spec = load(f"market={{source: csv, path: {tmp_path}/bars.csv, periods_per_year: 252}}")
    with pytest.raises(MarketError, match=rf"^{tmp_path}/bars.csv:1 must have a column high"):
        compile_market(spec)


def test_a_split_without_a_full_window_is_refused_with_its_place(load):
    spec = load("splits.validation=2")
    market = compile_market(spec)
    features = market.features_NF.copy()
    features[401] = np.nan
    with pytest.raises(
        SpecError, match=r"--set splits.validation=2 splits\.validation must hold two bars .* was bars 400 to 401"
    ):
        compile_env(spec, replace(market, features_NF=features))


REWARD_PLUGIN = """\
from tradesweep.env import LogReturn


class Doubled(LogReturn):
    def __init__(self, factor=2.0):
        self.factor = factor

    def __call__(self, row, kernel):
        return self.factor * row.reward


rewards = {"doubled": Doubled}
"""


def first_rewards(spec: SweepSpec) -> np.ndarray:
    market = compile_market(spec)
    env = TradingVectorEnv(market, compile_env(spec, market), lanes=4)
    env.reset(seed=0)
    return np.array([env.step(np.full(4, 2))[1] for _ in range(20)])


def test_a_reward_of_one_s_own_is_used_by_its_name(load, tmp_path):
    (tmp_path / "mine.py").write_text(REWARD_PLUGIN)
    built_in = first_rewards(load("plugins=[mine.py]"))
    doubled = first_rewards(load("plugins=[mine.py]", "env.reward=doubled"))
    tripled = first_rewards(load("plugins=[mine.py]", "env.reward=doubled", "env.reward_params={factor: 3}"))
    assert np.abs(built_in).max() > 0
    np.testing.assert_allclose(doubled, 2 * built_in)
    np.testing.assert_allclose(tripled, 3 * built_in)


def test_a_reward_of_one_s_own_may_not_take_a_built_in_name(load, tmp_path):
    (tmp_path / "mine.py").write_text(REWARD_PLUGIN.replace('"doubled"', '"log_return"'))
    spec = load("plugins=[mine.py]")
    with pytest.raises(MarketError, match="must not take the name 'log_return'"):
        compile_env(spec, compile_market(spec))


def test_an_unknown_reward_lists_those_that_exist(load):
    spec = load("env.reward=doubld")
    with pytest.raises(SpecError, match=r"env\.reward must be one of log_return, differential_sharpe"):
        compile_env(spec, compile_market(spec))


def test_an_unknown_market_names_the_line_and_those_that_exist(load):
    with pytest.raises(SpecError, match=r"market\.name must be one of beta, .* for source synthetic, was plantd"):
        compile_market(load("market.name=plantd"))
