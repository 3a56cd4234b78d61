"""What a trial reports: picked from RLlib's results, and from an evaluation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.utils.metrics import ENV_RUNNER_RESULTS, LEARNER_RESULTS

from tradesweep.errors import TrialDiverged
from tradesweep.names import Metric
from tradesweep.policy import Evaluation

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


def validation_metrics(evaluation: Evaluation) -> dict[Metric, float | None]:
    """The evaluation in numbers; the score is not among them, since it averages over evaluations."""
    return {
        Metric.VALIDATION_SHARPE: evaluation.sharpe,
        Metric.VALIDATION_PNL: evaluation.pnl,
        Metric.VALIDATION_PNL_PCT: 100.0 * evaluation.total_return,
        Metric.VALIDATION_FINAL_WORTH: evaluation.final_equity,
        Metric.VALIDATION_TRADES: evaluation.trades,
        Metric.VALIDATION_WIN_RATE: evaluation.win_rate,
        Metric.VALIDATION_MAX_DRAWDOWN: evaluation.max_drawdown,
        Metric.VALIDATION_MEAN_EXPOSURE: evaluation.mean_exposure,
    }
