"""Rows of one iteration, by record kind: columns of one value each."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tradesweep.market import Market
from tradesweep.metrics import average_blocks, compound_blocks
from tradesweep.names import Metric, Record
from tradesweep.policy import Evaluation

Row = dict[str, list[Any]]


@dataclass(frozen=True, kw_only=True, slots=True)
class IterationFacts:
    """What all rows of an iteration share."""

    iteration: int
    at: int
    """Microseconds UTC."""
    env_steps: int
    updates: int
    weights_version: int
    elapsed_s: float
    score: float
    """Mean of the last raw scores: what searcher, pruner and stopping read."""
    eligible: bool
    """May the evaluated policy be the best."""


def iteration_row(facts: IterationFacts, metrics: Mapping[Metric, float | None]) -> Row:
    """The iteration with its metrics; what is undefined is left out."""
    known = {str(name): value for name, value in metrics.items() if value is not None}
    return {
        "iteration": [facts.iteration],
        "at": [facts.at],
        "env_steps": [facts.env_steps],
        "updates": [facts.updates],
        "weights_version": [facts.weights_version],
        "elapsed_s": [facts.elapsed_s],
        "metrics": [json.dumps(known)],
    }


def evaluation_row(facts: IterationFacts, evaluation: Evaluation) -> Row:
    """The evaluation, keyed by its recorded episode."""
    return {
        "episode_no": [episode_of(evaluation)],
        "iteration": [facts.iteration],
        "split": [evaluation.split],
        "cost_multiplier": [evaluation.cost_multiplier],
        "status": [evaluation.status],
        "sharpe": [evaluation.sharpe],
        "score": [facts.score],
        "bars": [evaluation.bars],
        "trades": [evaluation.trades],
        "total_return": [evaluation.total_return],
        "max_drawdown": [evaluation.max_drawdown],
        "mean_exposure": [evaluation.mean_exposure],
        "turnover": [evaluation.turnover],
        "eligible": [int(facts.eligible)],
        "at": [facts.at],
    }


def curve_row(evaluation: Evaluation, market: Market) -> Row:
    """Its line in the ledger: net returns and exposures in at most 2,000 blocks, little-endian float64."""
    split, times = market.splits[evaluation.split], market.bars.time_us
    returns_B = compound_blocks(evaluation.returns_T)
    return {
        "episode_no": [episode_of(evaluation)],
        "instrument": [market.instrument],
        "market_sha256": [market.sha256],
        "first_time": [int(times[split.start])],
        "last_time": [int(times[split.stop - 1])],
        "blocks": [len(returns_B)],
        "returns": [returns_B.astype("<f8").tobytes()],
        "exposures": [average_blocks(evaluation.exposures_T).astype("<f8").tobytes()],
    }


def checkpoint_row(
    facts: IterationFacts,
    *,
    path: str,
    manifest_sha256: str,
    sharpe: float | None,
    lanes: Sequence[tuple[int, int]],
) -> Row:
    """The checkpoint; `lanes` is (episode, t) of every lane at its moment, from which a resume cuts episodes."""
    return {
        "iteration": [facts.iteration],
        "at": [facts.at],
        "env_steps": [facts.env_steps],
        "weights_version": [facts.weights_version],
        "path": [path],
        "manifest_sha256": [manifest_sha256],
        "sharpe": [sharpe],
        "score": [facts.score],
        "eligible": [int(facts.eligible)],
        "lanes": [json.dumps(lanes)],
    }


def episode_of(evaluation: Evaluation) -> int:
    """Number of the episode that was recorded with the evaluation."""
    assert evaluation.records is not None
    return int(evaluation.records[Record.EPISODES_OPENED]["episode_no"][0])
