"""The leaderboard as text: 80 columns, two lines a trial."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tradesweep.cli.output import (
    cut,
    format_count,
    format_number,
    format_params,
    format_percent,
    format_table,
    three_numbers,
)

if TYPE_CHECKING:
    from tradesweep.selection import Leaderboard, LeaderboardRow

HEADERS = ("trial", "state", "Sharpe", "hurdle", "deflated", "it", "trades", "max DD", "pnl", "score", "steps")
INDENT = " " * 6


def board_lines(board: Leaderboard) -> list[str]:
    """The winner with its three numbers, what to compare it with, and every trial."""
    lines = [f"{board.sweep_id}  {board.status.value}", *winner_lines(board), comparison_line(board)]
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
    if best.deflated is not None and best.deflated <= 0.0:
        lines.append("not above what luck alone would show: nothing was found")
    return lines


def comparison_line(board: Leaderboard) -> str:
    """Buy-and-hold, flat, and what the hurdle counts."""
    holding = "no Sharpe ratio" if board.buy_hold_sharpe is None else f"{board.buy_hold_sharpe:.2f}"
    return f"buy-and-hold {holding} | flat: no Sharpe ratio | {board.counted} trials on {board.validation_bars:,} bars"


def trial_lines(board: Leaderboard) -> list[str]:
    """A table of trials, each with its hyperparameters below it."""
    header, *rows = format_table(HEADERS, [_cells(row, counted=board.counted) for row in board.rows], left=(1,))
    lines = [header]
    for line, row in zip(rows, board.rows, strict=True):
        lines += [line, INDENT + cut(format_params(row.params), 80 - len(INDENT))]
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
