"""Market data: bars and their rules, sources, splits, causal features, scaling and the look-ahead proof."""

from tradesweep.market.bars import Bars
from tradesweep.market.dataset import Market, build_market
from tradesweep.market.facts import SplitFacts, plan_warnings, split_facts
from tradesweep.market.features import FEATURES, FeatureBuilder, FeatureTable, compute_features
from tradesweep.market.lookahead import LookaheadVerdict, prove_causal
from tradesweep.market.plugins import load_plugins, load_registry
from tradesweep.market.rules import BarRules, check_bars
from tradesweep.market.scaling import Scaler
from tradesweep.market.sources import SAMPLES, load_bars, load_csv, load_parquet, load_sample
from tradesweep.market.splits import Split, split_by_count, split_by_date
from tradesweep.market.synthetic import (
    SYNTHETIC_MARKETS,
    make_synthetic,
    oracle_targets,
    planted_best_sharpe,
)

__all__ = [
    "FEATURES",
    "SAMPLES",
    "SYNTHETIC_MARKETS",
    "BarRules",
    "Bars",
    "FeatureBuilder",
    "FeatureTable",
    "LookaheadVerdict",
    "Market",
    "Scaler",
    "Split",
    "SplitFacts",
    "build_market",
    "check_bars",
    "compute_features",
    "load_bars",
    "load_csv",
    "load_parquet",
    "load_plugins",
    "load_registry",
    "load_sample",
    "make_synthetic",
    "oracle_targets",
    "plan_warnings",
    "planted_best_sharpe",
    "prove_causal",
    "split_by_count",
    "split_by_date",
    "split_facts",
]
