"""Metrics: pure functions of returns and equity, and the inference that says what they are worth."""

from tradesweep.metrics.inference import (
    aggregate,
    deflated,
    deflated_sharpe,
    expected_max_normal,
    expected_max_sharpe,
    iqm,
    probabilistic_sharpe,
)
from tradesweep.metrics.performance import (
    LEAST_RETURNS,
    LEAST_STD,
    annual_return,
    average_blocks,
    calmar,
    compound_blocks,
    equity_returns,
    max_drawdown,
    max_drawdown_batch,
    sharpe,
    sharpe_batch,
    sortino,
    turnover,
)

__all__ = [
    "LEAST_RETURNS",
    "LEAST_STD",
    "aggregate",
    "annual_return",
    "average_blocks",
    "calmar",
    "compound_blocks",
    "deflated",
    "deflated_sharpe",
    "equity_returns",
    "expected_max_normal",
    "expected_max_sharpe",
    "iqm",
    "max_drawdown",
    "max_drawdown_batch",
    "probabilistic_sharpe",
    "sharpe",
    "sharpe_batch",
    "sortino",
    "turnover",
]
