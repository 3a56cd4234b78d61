"""How the points of a sweep stand: what their seeds add up to, and what fresh seeds say of the leaders.

A point whose fresh seeds have all ended stands by their median, before every point that was not confirmed. The others
stand by the aggregate over the seeds of the search; where a point has several, one that was pruned comes behind those
that were trained to their end. A seed without a Sharpe ratio counts as 0, as less where its score is less, and as the
floor of scores where it failed. A point of which no seed has one comes last, by score.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Self

from tradesweep.metrics import aggregate
from tradesweep.names import BAD_ENDS, SCORE_FLOOR, TRIAL_ENDS, TrialPhase, TrialStatus
from tradesweep.store import SweepRow, TrialRow


@dataclass(frozen=True, kw_only=True, slots=True)
class Seeding:
    """What a sweep's spec says about seeds."""

    seeds: int = 1
    """Of each point."""
    aggregate: str = "mean"
    """How they become one number."""
    confirmations: int = 1
    """Fresh seeds that make a point confirmed."""

    @classmethod
    def of(cls, sweep: SweepRow) -> Self:
        """As the sweep was run last."""
        spec = json.loads(sweep.spec_json).get("spec", {})
        confirm = spec.get("confirm") or {}
        return cls(
            seeds=spec.get("seeds", 1),
            aggregate=spec.get("aggregate", "mean"),
            confirmations=confirm.get("seeds", 1),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class PointStanding:
    """Where one point stands."""

    point_no: int
    """Number of the point within its sweep."""
    sharpe: float | None
    """Aggregate over its seeds of the best annualised validation Sharpe ratio; None when no trial of it has one."""
    seeds: int
    """Seeds of the search in it."""
    confirmed: float | None
    """Median of the best validation Sharpe ratio over fresh seeds; None until all of them have ended."""
    confirmations: int
    """Fresh seeds that have ended."""
    pruned: bool
    """It lost the race of its first seed."""
    best_trial_no: int | None
    """Its trial with the highest validation Sharpe ratio, of all seeds; ties to the earlier."""
    last_score: float | None
    """The highest last score of its trials."""


def rank_points(trials: Iterable[TrialRow], seeding: Seeding) -> list[PointStanding]:
    """All points, best first; ties to the earlier."""
    by_point = groupby(sorted(trials, key=lambda trial: (trial.point_no, trial.trial_no)), lambda trial: trial.point_no)
    standings = [_stand(point_no, list(found), seeding) for point_no, found in by_point]
    return sorted(standings, key=lambda standing: _rank(standing, seeding))


def choose_best_trial(sweep: SweepRow, trials: Sequence[TrialRow]) -> TrialRow | None:
    """The best trial of the point that stands first; None when no policy may be chosen."""
    standings = rank_points(trials, Seeding.of(sweep))
    wanted = next((found.best_trial_no for found in standings if found.best_trial_no is not None), None)
    return next((trial for trial in trials if trial.trial_no == wanted), None)


def _stand(point_no: int, trials: list[TrialRow], seeding: Seeding) -> PointStanding:
    searched = [trial for trial in trials if trial.phase == TrialPhase.SEARCH]
    fresh = [trial for trial in trials if trial.phase == TrialPhase.CONFIRM]
    ended = [trial for trial in fresh if trial.status in TRIAL_ENDS]
    confirmed = ended and len(ended) == len(fresh) and len(ended) >= seeding.confirmations
    values = [value_of(trial) for trial in searched if _counts(trial)]
    best = max((trial for trial in trials if trial.best_sharpe is not None), key=_by_sharpe, default=None)
    scores = [trial.last_score for trial in trials if trial.last_score is not None]
    return PointStanding(
        point_no=point_no,
        sharpe=aggregate(values, seeding.aggregate) if values and best is not None else None,
        seeds=len(values),
        confirmed=statistics.median(map(value_of, ended)) if confirmed else None,
        confirmations=len(ended),
        pruned=any(trial.status == TrialStatus.PRUNED for trial in searched),
        best_trial_no=None if best is None else best.trial_no,
        last_score=max(scores, default=None),
    )


def value_of(trial: TrialRow) -> float:
    """What a trial brings into its point's number."""
    if trial.best_sharpe is not None:
        return trial.best_sharpe
    if trial.status in BAD_ENDS or trial.last_score is None:
        return SCORE_FLOOR
    return min(trial.last_score, 0.0)


def _counts(trial: TrialRow) -> bool:
    return trial.last_score is not None or trial.status in BAD_ENDS


def _by_sharpe(trial: TrialRow) -> tuple[float, int]:
    assert trial.best_sharpe is not None
    return trial.best_sharpe, -trial.trial_no


def _rank(standing: PointStanding, seeding: Seeding) -> tuple[int, float, int]:
    if standing.sharpe is None:
        tier, value = 3, standing.last_score
    elif standing.confirmed is not None:
        tier, value = 0, standing.confirmed
    else:
        tier, value = 2 if standing.pruned and seeding.seeds > 1 else 1, standing.sharpe
    return tier, float("inf") if value is None else -value, standing.point_no
