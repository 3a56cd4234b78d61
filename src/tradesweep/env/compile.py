"""From spec to runtime: the market and the environment settings of an experiment.

What only this room and the market room know (names of features and rewards, where episodes fit) is checked here,
through `spec.error_at`, so that the message still names file and line.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from tradesweep.env.config import EnvConfig
from tradesweep.env.kernel import Costs
from tradesweep.env.rewards import BUILT_IN, REWARDS, build_reward, register_rewards
from tradesweep.env.windows import list_runs, list_starts
from tradesweep.errors import BadInput
from tradesweep.market import (
    FEATURES,
    SAMPLES,
    SYNTHETIC_MARKETS,
    BarRules,
    FeatureBuilder,
    LookaheadVerdict,
    Market,
    build_market,
    load_bars,
    load_plugins,
    load_registry,
    prove_causal,
)
from tradesweep.spec import SweepSpec

SPLITS = ("train", "validation", "test")
MARKET_NAMES: dict[str, Collection[str]] = {"sample": SAMPLES, "synthetic": SYNTHETIC_MARKETS}
"""Names that a market of a source may have."""


def compile_market(spec: SweepSpec) -> Market:
    """Load, check and scale the market of a spec.

    Raises SpecError for a feature that nobody knows, MarketError for data, splits or features that break a rule.
    """
    with spec.placing("plugins"):
        plugins = load_plugins(spec.plugins)
    _check_features(spec, plugins)
    _check_market_name(spec)
    with spec.placing("market"):
        rules = _compile_rules(spec)
        bars = load_bars(
            spec.market.source, rules, name=spec.market.name, path=spec.market.path, params=spec.market.params
        )
    with spec.placing("features"):
        return build_market(
            bars,
            features=_requests(spec),
            splits=spec.splits.ranges(),
            rules=rules,
            instrument=_name_instrument(spec),
            source=_describe_source(spec),
            embargo_bars=spec.splits.embargo_bars,
            plugins=plugins,
        )


def compile_env(spec: SweepSpec, market: Market) -> EnvConfig:
    """Settle the environment of a spec on its market; `reward_scale: auto` becomes a number.

    Raises SpecError for an unknown reward, for arguments that do not suit it, and for episodes that do not fit.
    """
    env = spec.env
    with spec.placing("plugins"):
        register_rewards(load_registry("rewards", spec.plugins, taken=BUILT_IN))
    config = EnvConfig(
        fill=env.fill,
        positions=tuple(env.positions),
        window_bars=env.window_bars,
        episode_bars=env.episode_bars,
        costs=Costs(
            fee_bps=env.fee_bps,
            slippage_bps=env.slippage_bps,
            borrow_bps_per_year=env.borrow_bps_per_year,
        ),
        initial_equity=env.initial_equity,
        ruin_fraction=env.ruin_fraction,
        extra_delay_bars=env.extra_delay_bars,
        reward=env.reward,
        reward_params=dict(env.reward_params),
        reward_scale=market.reward_scale_auto if env.reward_scale == "auto" else float(env.reward_scale),
        periods_per_year=market.periods_per_year,
    )
    _check_reward(spec)
    _check_room(spec, market, config)
    return config


def check_causal(spec: SweepSpec, market: Market | None = None) -> LookaheadVerdict:
    """The look-ahead proof of the spec's features on its market (compiled here when not given)."""
    market = compile_market(spec) if market is None else market
    with spec.placing("features"):
        return prove_causal(market.bars, _requests(spec), splits=market.splits, plugins=load_plugins(spec.plugins))


def _requests(spec: SweepSpec) -> list[tuple[str, Mapping[str, Any]]]:
    return [(feature.name, feature.params) for feature in spec.features]


def _compile_rules(spec: SweepSpec) -> BarRules:
    market = spec.market
    wanted = [name for feature in spec.features if feature.name == "csv_columns" for name in feature.params["names"]]
    return BarRules(
        periods_per_year=market.periods_per_year,
        fill=spec.env.fill,
        timezone=market.timezone,
        bar_label=market.bar_label,
        calendar=market.calendar,
        max_gap=market.max_gap,
        gaps=market.gaps,
        adjustment=market.adjustment,
        allow_jumps=market.allow_jumps,
        columns=market.columns,
        csv_columns=() if market.source == "synthetic" else tuple(dict.fromkeys(wanted)),
    )


def _name_instrument(spec: SweepSpec) -> str:
    market = spec.market
    return market.instrument or market.name or Path(market.path or market.source).stem


def _describe_source(spec: SweepSpec) -> str:
    return f"{spec.market.source} {spec.market.path or spec.market.name}"


def _check_market_name(spec: SweepSpec) -> None:
    known = MARKET_NAMES.get(spec.market.source)
    if known is not None and spec.market.name not in known:
        rule = f"must be one of {', '.join(sorted(known))} for source {spec.market.source}"
        raise spec.error_at("market.name", rule, spec.market.name)


def _check_features(spec: SweepSpec, plugins: Mapping[str, FeatureBuilder]) -> None:
    known = [*FEATURES, *plugins]
    for i, feature in enumerate(spec.features):
        if feature.name not in known:
            raise spec.error_at(f"features.{i}", f"must be one of {', '.join(known)}", feature.name)
        if feature.name == "csv_columns" and not _are_words(names := feature.params.get("names")):
            raise spec.error_at(f"features.{i}", "must say names: [...], a list of words", names)


def _are_words(names: object) -> bool:
    return isinstance(names, list) and bool(names) and all(isinstance(name, str) for name in names)


def _check_reward(spec: SweepSpec) -> None:
    if spec.env.reward not in REWARDS:
        raise spec.error_at("env.reward", f"must be one of {', '.join(REWARDS)}", spec.env.reward)
    try:
        build_reward(spec.env.reward, spec.env.reward_params)
    except BadInput as error:
        params = dict(spec.env.reward_params)
        raise spec.error_at("env.reward_params", f"must suit {spec.env.reward}", params, str(error)) from error


def _check_room(spec: SweepSpec, market: Market, config: EnvConfig) -> None:
    """Training episodes must fit into train, and the other splits must have something to decide on."""
    if not len(list_starts(market, "train", config.window_bars, config.episode_bars)):
        runs = list_runs(market, "train", config.window_bars)
        longest = max((stop - start - 1 for start, stop in runs), default=0)
        raise spec.error_at(
            "env.episode_bars",
            f"must be at most {longest}, the longest run of bars with a full window in train",
            config.episode_bars,
        )
    for name in SPLITS[1:]:
        if not list_runs(market, name, config.window_bars):
            split = market.splits[name]
            raise spec.error_at(
                f"splits.{name}",
                f"must hold two bars with a full window of {config.window_bars} bars",
                f"bars {split.start} to {split.stop - 1}",
                "widen it, or shorten the features' periods",
            )
