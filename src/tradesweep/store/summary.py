"""The summary columns of `trials`, computed anew from the rows whenever these change."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Select, select, update
from sqlalchemy.engine import Connection

from tradesweep.names import EpisodeRole
from tradesweep.store.models import Episode, Evaluation, Iteration, Trial


def refresh_trial(db: Connection, trial_id: int) -> None:
    """Where the trial stands and which of its iterations is best; superseded rows do not count."""
    values = _progress(db, trial_id) | _best(db, trial_id)
    table = Trial.table()
    db.execute(update(table).where(table.c.trial_id == trial_id).values(values))


def _progress(db: Connection, trial_id: int) -> dict[str, Any]:
    iteration, evaluation = Iteration.table(), Evaluation.table()
    last = db.execute(
        select(iteration)
        .where(iteration.c.trial_id == trial_id, iteration.c.superseded_by_attempt.is_(None))
        .order_by(iteration.c.iteration.desc())
        .limit(1)
    ).first()
    score = db.execute(
        _validations(trial_id).with_only_columns(evaluation.c.score).order_by(evaluation.c.iteration.desc()).limit(1)
    ).scalar()
    if last is None:
        return {
            "env_steps": 0,
            "updates": 0,
            "iterations": 0,
            "elapsed_s": 0.0,
            "final_metrics": None,
            "last_score": score,
        }
    return {
        "env_steps": last.env_steps,
        "updates": last.updates,
        "iterations": last.iteration,
        "elapsed_s": last.elapsed_s,
        "final_metrics": last.metrics,
        "last_score": score,
    }


def _best(db: Connection, trial_id: int) -> dict[str, Any]:
    """Best is the highest Sharpe of a policy that may be chosen; ties go to the earlier iteration."""
    evaluation, episode = Evaluation.table(), Episode.table()
    best = db.execute(
        _validations(trial_id)
        .add_columns(episode.c.pnl, episode.c.win_rate)
        .join_from(evaluation, episode, evaluation.c.episode_no == episode.c.episode_no)
        .where(evaluation.c.eligible == 1, evaluation.c.sharpe.is_not(None))
        .order_by(evaluation.c.sharpe.desc(), evaluation.c.iteration)
        .limit(1)
    ).first()
    return {
        "best_iteration": best.iteration if best else None,
        "best_attempt": best.attempt if best else None,
        "best_sharpe": best.sharpe if best else None,
        "best_total_return": best.total_return if best else None,
        "best_pnl": best.pnl if best else None,
        "best_max_drawdown": best.max_drawdown if best else None,
        "best_trades": best.trades if best else None,
        "best_win_rate": best.win_rate if best else None,
    }


def _validations(trial_id: int) -> Select[Any]:
    """The trial's validation runs at plain costs that no later attempt superseded."""
    table = Evaluation.table()
    return select(table).where(
        table.c.trial_id == trial_id,
        table.c.split == EpisodeRole.VALIDATION.value,
        table.c.cost_multiplier == 1.0,
        table.c.superseded_by_attempt.is_(None),
    )
