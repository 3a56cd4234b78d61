"""The leaderboard: trials by best validation Sharpe, beside what luck, holding and doing nothing would show.

Where points have several seeds or were confirmed, the points are ranked (`standing` says how), and the trials stand by
their points. The winner is the best trial of the first point: its checkpoint is the one that is promoted.

Best means best, never last. The best of many looks good by luck, so three numbers belong together wherever it is
shown: the Sharpe ratio, the luck hurdle, and the difference.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from tradesweep.metrics import deflated, expected_max_sharpe
from tradesweep.names import EvaluationStatus, SweepEnd, SweepStatus, TrialPhase, TrialStatus
from tradesweep.selection.standing import PointStanding, Seeding, rank_points
from tradesweep.store import Store, SweepRow, TrialRow


@dataclass(frozen=True, kw_only=True, slots=True)
class LeaderboardRow:
    """One trial at its best evaluation."""

    trial_no: int
    """Number of the trial within its sweep."""
    point_no: int
    """Number of its point."""
    seed_no: int
    """Which of the point's seeds."""
    phase: TrialPhase
    """Search, or confirm for a fresh seed of a leader."""
    status: TrialStatus
    """Where the trial stands."""
    params: dict[str, Any]
    """The sampled hyperparameters."""
    env_steps: int
    """Environment steps it was trained for."""
    sharpe: float | None
    """Best annualised validation Sharpe ratio of a policy that may be chosen; None when there is none."""
    hurdle: float
    """Annualised luck hurdle of the whole sweep."""
    deflated: float | None
    """`sharpe` less `hurdle`."""
    iteration: int | None
    """Iteration of the best checkpoint."""
    trades: int | None
    """Trades it closed on validation."""
    max_drawdown: float | None
    """Largest loss from a peak, as a fraction."""
    pnl_pct: float | None
    """Total return on validation in percent."""
    last_score: float | None
    """What the searcher saw last; None before the first evaluation."""
    why_none: str | None
    """Why there is no Sharpe ratio: flat, ruined, too few trades, too short, not evaluated."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Leaderboard:
    """A sweep's trials, best first."""

    sweep_id: str
    """The sweep."""
    experiment: str
    """Its experiment."""
    status: SweepStatus
    """Where the sweep stands."""
    validation_bars: int
    """Returns of one validation run."""
    counted: int
    """Trials that the luck hurdle counts: all that were evaluated, also pruned and failed ones."""
    hurdle: float
    """Annualised Sharpe ratio the best of `counted` trials without skill is expected to show; 0 without trials."""
    buy_hold_sharpe: float | None
    """Annualised, on validation; None when undefined."""
    flat_sharpe: float | None
    """Of never trading: undefined by definition, so None."""
    rows: tuple[LeaderboardRow, ...]
    """By point; in a point best Sharpe first, ties to the earlier trial; then those without one, by last score."""
    points: tuple[PointStanding, ...]
    """Best first. Where each has one seed and none was confirmed, they stand as their trials do."""
    aggregate: str
    """How the seeds of a point become one number."""
    ended_by: SweepEnd | None
    """The limit that ended the sweep before it had all its trials."""

    @property
    def best(self) -> LeaderboardRow | None:
        """The winner; None when no policy may be chosen."""
        return next((row for row in self.rows if row.sharpe is not None), None)

    @property
    def has_seeds(self) -> bool:
        """Are there more trials than points?"""
        return len(self.rows) > len(self.points)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def build_leaderboard(store: Store, sweep_id: str) -> Leaderboard:
    """The leaderboard of a sweep, or of an experiment's newest one. Raises NotFound."""
    sweep = store.get_sweep(sweep_id)
    trials = store.list_trials(sweep.sweep_id)
    counted, hurdle = luck_of(sweep, trials)
    seeding = Seeding.of(sweep)
    points = rank_points(trials, seeding)
    places = {standing.point_no: place for place, standing in enumerate(points)}
    rows = (_row(store, trial, hurdle) for trial in trials)
    return Leaderboard(
        sweep_id=sweep.sweep_id,
        experiment=sweep.experiment,
        status=sweep.status,
        validation_bars=sweep.validation_bars,
        counted=counted,
        hurdle=hurdle,
        buy_hold_sharpe=sweep.buy_hold_sharpe,
        flat_sharpe=None,
        rows=tuple(sorted(rows, key=lambda row: (places[row.point_no], *_rank(row)))),
        points=tuple(points),
        aggregate=seeding.aggregate,
        ended_by=sweep.end_reason,
    )


def luck_of(sweep: SweepRow, trials: list[TrialRow]) -> tuple[int, float]:
    """How many trials count, and the annualised luck hurdle of that many; 0.0 when none was evaluated."""
    counted = sum(trial.last_score is not None for trial in trials)
    if not counted:
        return 0, 0.0
    return counted, expected_max_sharpe(counted, sweep.validation_bars, sweep.periods_per_year)


def _row(store: Store, trial: TrialRow, hurdle: float) -> LeaderboardRow:
    sharpe = trial.best_sharpe
    return LeaderboardRow(
        trial_no=trial.trial_no,
        point_no=trial.point_no,
        seed_no=trial.seed_no,
        phase=trial.phase,
        status=trial.status,
        params=json.loads(trial.point_json),
        env_steps=trial.env_steps,
        sharpe=sharpe,
        hurdle=hurdle,
        deflated=None if sharpe is None else deflated(sharpe, hurdle),
        iteration=trial.best_iteration,
        trades=trial.best_trades,
        max_drawdown=trial.best_max_drawdown,
        pnl_pct=None if trial.best_total_return is None else 100.0 * trial.best_total_return,
        last_score=trial.last_score,
        why_none=_why_none(store, trial) if sharpe is None else None,
    )


_REASONS: tuple[tuple[EvaluationStatus, str], ...] = (
    (EvaluationStatus.OK, "too few trades"),
    (EvaluationStatus.RUINED, "ruined"),
    (EvaluationStatus.FLAT, "flat"),
    (EvaluationStatus.TOO_SHORT, "too short"),
)
"""The nearest miss names the reason."""


def _why_none(store: Store, trial: TrialRow) -> str:
    seen = {evaluation.status for evaluation in store.list_evaluations(trial.trial_id)}
    return next((words for status, words in _REASONS if status in seen), "not evaluated")


def _rank(row: LeaderboardRow) -> tuple[bool, float, int]:
    by = row.last_score if row.sharpe is None else row.sharpe
    return row.sharpe is None, float("inf") if by is None else -by, row.trial_no
