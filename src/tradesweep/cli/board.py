"""The leaderboard as text: 80 columns, two lines a trial."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tradesweep.cli.output import (
    cut,
    format_count,
    format_number,
    format_params,
    format_percent,
    format_seed,
    format_table,
    three_numbers,
)

if TYPE_CHECKING:
    from tradesweep.selection import Leaderboard, LeaderboardRow, PointStanding

HEADERS = ("trial", "state", "Sharpe", "hurdle", "deflated", "it", "trades", "max DD", "pnl", "score", "steps")
INDENT = " " * 6


def board_lines(board: Leaderboard) -> list[str]:
    """The winner with its three numbers, what to compare it with, and every trial."""
    lines = [f"{board.sweep_id}  {board.status.value}", *winner_lines(board), comparison_line(board)]
    if board.ended_by is not None:
        from tradesweep.sweep.limits import WORDS

        lines.insert(1, f"ended early: {WORDS[board.ended_by]}")
    if board.has_seeds:
        lines += ["", *point_lines(board)]
    return [*lines, "", *trial_lines(board)] if board.rows else lines


def winner_lines(board: Leaderboard) -> list[str]:
    """The three numbers, and a word where they say that nothing was found."""
    best = board.best
    if best is None:
        return ["no trial has a policy that may be chosen yet"]
    lines = [
        f"best: trial {best.trial_no}, iteration {best.iteration}",
        three_numbers(best.sharpe or 0.0, board.hurdle),
    ]
    if board.has_seeds:
        (point,) = (point for point in board.points if point.point_no == best.point_no)
        lines.append(describe_point(point, board.aggregate))
    if best.deflated is not None and best.deflated <= 0.0:
        lines.append("not above what luck alone would show: nothing was found")
    return lines


def describe_point(point: PointStanding, aggregate: str) -> str:
    """What all seeds of the winner's point say, which is less than its best one does."""
    found = f"its point {point.point_no}: {aggregate} {format_number(point.sharpe)} of {point.seeds} searched"
    if point.confirmed is None:
        return found
    return f"{found}, median {point.confirmed:.2f} of {point.confirmations} fresh seeds"


def point_lines(board: Leaderboard) -> list[str]:
    """A table of points, as they are ranked."""
    headers = ("point", "seeds", board.aggregate, "fresh", "median", "trial", "")
    rows = [
        (
            str(point.point_no),
            str(point.seeds),
            format_number(point.sharpe),
            format_count(point.confirmations or None),
            format_number(point.confirmed),
            format_count(point.best_trial_no),
            "pruned" if point.pruned else "",
        )
        for point in board.points
    ]
    return format_table(headers, rows, left=(6,))


def comparison_line(board: Leaderboard) -> str:
    """Buy-and-hold, flat, and what the hurdle counts."""
    holding = "no Sharpe ratio" if board.buy_hold_sharpe is None else f"{board.buy_hold_sharpe:.2f}"
    return f"buy-and-hold {holding} | flat: no Sharpe ratio | {board.counted} trials on {board.validation_bars:,} bars"


def trial_lines(board: Leaderboard) -> list[str]:
    """A table of trials, each with its hyperparameters below it."""
    header, *rows = format_table(HEADERS, [_cells(row, counted=board.counted) for row in board.rows], left=(1,))
    lines = [header]
    for line, row in zip(rows, board.rows, strict=True):
        params = format_params(row.params)
        if board.has_seeds:
            params = f"{format_seed(row.point_no, row.seed_no, fresh=row.phase == 'confirm')}: {params}"
        lines += [line, INDENT + cut(params, 80 - len(INDENT))]
    return lines


def _cells(row: LeaderboardRow, *, counted: int) -> tuple[str, ...]:
    drawdown = None if row.max_drawdown is None else 100.0 * row.max_drawdown
    return (
        str(row.trial_no),
        SHORT.get(row.status.value, row.status.value),
        format_number(row.sharpe) if row.sharpe is not None else WHY.get(row.why_none or "", "-"),
        format_number(row.hurdle if counted else None),
        format_number(row.deflated),
        format_count(row.iteration),
        format_count(row.trades),
        format_percent(drawdown, 0),
        format_percent(row.pnl_pct, 0),
        format_number(row.last_score),
        format_count(row.env_steps),
    )


SHORT = {"INTERRUPTED": "INTERRUPT"}
"""What would not fit."""
WHY = {"too few trades": "few", "too short": "short", "not evaluated": "-", "flat": "flat", "ruined": "ruined"}
"""Why there is no Sharpe ratio, in a word."""
