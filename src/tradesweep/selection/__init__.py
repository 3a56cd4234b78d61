"""Selection: the leaderboard, the candidate after a sweep, and promotion through the gate."""

from tradesweep.selection.candidate import BestCheckpoint, find_best, get_best, register_candidate
from tradesweep.selection.gate import CHECKS, Case, Check, GateRefused, run_gate
from tradesweep.selection.leaderboard import Leaderboard, LeaderboardRow, build_leaderboard
from tradesweep.selection.promote import (
    Force,
    Promotion,
    TestReading,
    describe_refusal,
    promote,
    rehearse_promotion,
)
from tradesweep.selection.standing import PointStanding, choose_best_trial

__all__ = [
    "CHECKS",
    "BestCheckpoint",
    "Case",
    "Check",
    "Force",
    "GateRefused",
    "Leaderboard",
    "LeaderboardRow",
    "PointStanding",
    "Promotion",
    "TestReading",
    "build_leaderboard",
    "choose_best_trial",
    "describe_refusal",
    "find_best",
    "get_best",
    "promote",
    "register_candidate",
    "rehearse_promotion",
    "run_gate",
]
