"""A market of random walks, networks with random weights, and the one environment of these tests."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest

from tradesweep.env import Costs, EnvConfig
from tradesweep.market import Bars, Market, Scaler, Split
from tradesweep.policy import Evaluation, PlainPolicy, PolicySpec, build_policy_spec, evaluate_targets
from tradesweep.spec import SweepSpec

DAY_US = 86_400_000_000
N_FEATURES = 3
LAYOUTS = {"ppo": ("logits",), "dqn": ("advantage", "value"), "plain_dqn": ("advantage",)}


def make_market(*, n_bars: int = 300, seed: int = 0, sigma: float = 0.02, gap: int | None = None, opens=None) -> Market:
    rng = np.random.default_rng(seed)
    path = 100.0 * np.exp(np.cumsum(rng.standard_normal((n_bars, 2)) * sigma)).reshape(n_bars, 2)
    opens, closes = path.T if opens is None else np.array(opens, float)
    segment = np.zeros(n_bars, np.int32)
    if gap is not None:
        segment[gap:] = 1
    bars = Bars(
        time_us=np.arange(n_bars) * DAY_US + 946_684_800_000_000,
        open=opens,
        high=np.maximum(opens, closes),
        low=np.minimum(opens, closes),
        close=closes,
        volume=np.ones(n_bars),
        tradable=np.ones(n_bars, bool),
        segment=segment,
    )
    features = rng.standard_normal((n_bars, N_FEATURES)).astype(np.float32)
    features[:5] = np.nan
    cuts = [0, n_bars // 3, 3 * n_bars // 4, n_bars]
    names = ("train", "validation", "test")
    return Market(
        bars=bars,
        feature_names=("f0", "f1", "f2"),
        features_NF=features,
        first_valid=5,
        splits={name: Split(name=name, start=cuts[i], stop=cuts[i + 1]) for i, name in enumerate(names)},
        scaler=Scaler(mean_F=np.array([0.1, -0.2, 1 / 3]), std_F=np.array([1.0, 2.0, 0.7])),
        instrument="walk",
        source="test",
        periods_per_year=252.0,
        sha256="ab" * 32,
        reward_scale_auto=50.0,
    )


def make_config(**changes) -> EnvConfig:
    costs = Costs(fee_bps=1, slippage_bps=1, borrow_bps_per_year=50)
    settings = {"fill": "next_open", "costs": costs, "periods_per_year": 252.0, "window_bars": 2}
    return EnvConfig(**(settings | changes))


def make_layers(kind: str, hiddens, n_actions: int, width: int, activation: str, rng):
    layers, weights = {}, {}

    def stack(part: str, sizes, last: str) -> None:
        layers[part] = []
        for i, (n_in, n_out) in enumerate(pairwise(sizes)):
            names = {"weight": f"{part}.{i}.weight", "bias": f"{part}.{i}.bias"}
            weights[names["weight"]] = (rng.standard_normal((n_out, n_in)) / np.sqrt(n_in)).astype(np.float32)
            weights[names["bias"]] = (0.3 * rng.standard_normal(n_out)).astype(np.float32)
            layers[part].append(names | {"activation": last if i == len(sizes) - 2 else activation})

    stack("trunk", [width, *hiddens], activation)
    for head in LAYOUTS[kind]:
        stack(head, [[width, *hiddens][-1], 1 if head == "value" else n_actions], "linear")
    return layers, weights


def make_experiment(algorithm: str = "ppo") -> SweepSpec:
    return SweepSpec(
        experiment="walk",
        sweep="walk",
        algorithm=algorithm,
        plugins=("/somewhere/mine.py",),
        market={"source": "csv", "path": "/somewhere/walk.csv", "periods_per_year": 252, "timezone": "UTC"},
        features=({"name": "csv_columns", "params": {"names": ["f0", "f1", "f2"]}},),
        splits={"train": 100, "validation": 125, "test": 75},
        env={"fill": "next_open"},
        budget={"trials": 1, "env_steps_per_trial": 1000},
    )


def make_spec(market: Market, config: EnvConfig, layers, algorithm: str = "ppo") -> PolicySpec:
    return build_policy_spec(make_experiment(algorithm), market, config, layers=layers)


def make_policy(
    market: Market, config: EnvConfig, *, kind: str = "ppo", hiddens=(8, 8), activation: str = "tanh", seed: int = 1
) -> PlainPolicy:
    width = make_spec(market, config, {}).width
    rng = np.random.default_rng(seed)
    layers, weights = make_layers(kind, hiddens, len(config.positions), width, activation, rng)
    spec = make_spec(market, config, layers, algorithm="ppo" if kind == "ppo" else "dqn")
    return PlainPolicy.from_arrays(spec, weights)


def assert_equal_evaluations(one: Evaluation, other: Evaluation, *, ignore=("records",)) -> None:
    """Bit for bit."""
    for name in Evaluation.__slots__:
        if name not in ignore:
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)


@dataclass(frozen=True)
class Toolbox:
    """What the tests of this room share."""

    market = staticmethod(make_market)
    config = staticmethod(make_config)
    spec = staticmethod(make_spec)
    policy = staticmethod(make_policy)
    layers = staticmethod(make_layers)
    assert_equal = staticmethod(assert_equal_evaluations)

    @staticmethod
    def follow(targets, market: Market, config: EnvConfig, split: str = "validation", **changes) -> Evaluation:
        """Evaluate a script given from the split's first bar on."""
        targets_N = np.zeros(len(market.bars))
        start = market.splits[split].start
        targets_N[start : start + len(targets)] = targets
        return evaluate_targets(targets_N, market, config, split, **changes)


@pytest.fixture(scope="session")
def box() -> Toolbox:
    return Toolbox()


@pytest.fixture(scope="session")
def market() -> Market:
    return make_market()


@pytest.fixture(scope="session")
def config() -> EnvConfig:
    return make_config()
