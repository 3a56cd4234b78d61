"""What a trial reports: picked from RLlib's results, and from an evaluation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.utils.metrics import ENV_RUNNER_RESULTS, LEARNER_RESULTS

from tradesweep.errors import TrialDiverged
from tradesweep.names import Metric
from tradesweep.policy import Evaluation, Run

LEARNER_METRICS: dict[str, Metric] = {
    "total_loss": Metric.TRAIN_LOSS,
    "qf_loss": Metric.TRAIN_LOSS,
    "qf_mean": Metric.TRAIN_Q_MEAN,
    "entropy": Metric.TRAIN_ENTROPY,
    "mean_kl_loss": Metric.TRAIN_KL,
    "gradients_default_optimizer_global_norm": Metric.TRAIN_GRAD_NORM,
    "default_optimizer_learning_rate": Metric.TRAIN_LEARNING_RATE,
}
"""RLlib's names for what a learner reports, and ours."""


def rollout_metrics(results: Mapping[str, Any], reward_scale: float) -> dict[Metric, float | None]:
    """Mean return and length of the episodes that ended, if any did; returns as unscaled log returns."""
    runners = results.get(ENV_RUNNER_RESULTS, {})
    mean_return = runners.get("episode_return_mean")
    if mean_return is None or not math.isfinite(mean_return):
        return {}
    return {
        Metric.ROLLOUT_RETURN_MEAN: float(mean_return) / reward_scale,
        Metric.ROLLOUT_LENGTH_MEAN: float(runners["episode_len_mean"]),
    }


def learner_metrics(results: Mapping[str, Any]) -> dict[Metric, float | None]:
    """What the learner reports. Raises TrialDiverged when any of it is not finite: RLlib itself trains on."""
    learner = results.get(LEARNER_RESULTS, {}).get(DEFAULT_MODULE_ID, {})
    picked: dict[Metric, float | None] = {}
    for name, metric in LEARNER_METRICS.items():
        if name not in learner:
            continue
        value = float(learner[name])
        if not math.isfinite(value):
            raise TrialDiverged(f"learner: {name} must be finite, was {value}; lower lr or set grad_clip")
        picked[metric] = value
    return picked


def evaluation_runs(algorithm: str, *, validation_bars: int, seed: int) -> dict[Metric, Run]:
    """What every evaluation runs, by the metric that its Sharpe ratio becomes.

    Only the first one is recorded: steps of the others would multiply the rows of a sweep, and curves of theirs are no
    further attempts at the validation split. Train is run over as many bars as validation, the newest: the two ratios
    are then equally certain, and the pass takes no longer.
    """
    runs = {
        Metric.VALIDATION_SHARPE: Run(split="validation"),
        Metric.VALIDATION_SHARPE_DOUBLE_COST: Run(split="validation", cost_multiplier=2.0, recorded=False),
        Metric.TRAIN_SHARPE_GREEDY: Run(split="train", bars=validation_bars, recorded=False),
    }
    if algorithm == "ppo":
        runs[Metric.VALIDATION_SHARPE_SAMPLED] = Run(split="validation", seed=seed, recorded=False)
    return runs


def evaluation_metrics(evaluations: Mapping[Metric, Evaluation]) -> dict[Metric, float | None]:
    """All runs in numbers; the score is not among them, since it averages over evaluations."""
    validation = evaluations[Metric.VALIDATION_SHARPE]
    return {
        **{metric: evaluation.sharpe for metric, evaluation in evaluations.items()},
        Metric.VALIDATION_PNL: validation.pnl,
        Metric.VALIDATION_PNL_PCT: 100.0 * validation.total_return,
        Metric.VALIDATION_FINAL_WORTH: validation.final_equity,
        Metric.VALIDATION_TRADES: validation.trades,
        Metric.VALIDATION_WIN_RATE: validation.win_rate,
        Metric.VALIDATION_MAX_DRAWDOWN: validation.max_drawdown,
        Metric.VALIDATION_MEAN_EXPOSURE: validation.mean_exposure,
    }
