"""The gate: what must hold before a checkpoint may become champion. Each rule is one function of `CHECKS`.

A check looks at a `Case`, whose parts are made when first asked for; it says what it measured, against which
limit, and what that means. Rules of integrity cannot be passed by force: what they protect is the number itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from tradesweep.env import EnvConfig, compile_env, compile_market
from tradesweep.errors import CheckpointError, Refused
from tradesweep.home import Home
from tradesweep.market import Market
from tradesweep.names import GOOD_ENDS
from tradesweep.policy import Evaluation, PlainPolicy, evaluate, verify_manifest
from tradesweep.selection.candidate import BestCheckpoint
from tradesweep.store import Store, verify

REPLAY_TOLERANCE = 1e-9
"""How far the replayed validation Sharpe may be from the recorded one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """What one rule of the gate found."""

    name: str
    """Name of the rule."""
    passed: bool
    """Whether it holds."""
    value: float | str | None
    """What was measured."""
    limit: float | str
    """What it is held against."""
    explanation: str
    """What the rule protects, or why it failed, in one sentence."""
    forcible: bool = True
    """May `--force` pass it."""


class GateRefused(Refused):
    """The gate said no; `checks` is its table."""

    def __init__(self, message: str, checks: tuple[Check, ...]) -> None:
        super().__init__(message)
        self.checks = checks


class Case:
    """The best checkpoint of a sweep, and everything a check may look at."""

    def __init__(self, store: Store, home: Home, best: BestCheckpoint) -> None:
        self.store, self.home, self.best = store, home, best

    @property
    def folder(self) -> Path:
        """The checkpoint's folder."""
        return self.home.path / self.best.checkpoint.path

    @cached_property
    def market(self) -> Market:
        """Compiled from the sweep's stored spec. Raises SpecError or MarketError when the data is gone or broken."""
        return compile_market(self.best.spec)

    @cached_property
    def config(self) -> EnvConfig:
        """The sweep's environment."""
        return compile_env(self.best.spec, self.market)

    @cached_property
    def policy(self) -> PlainPolicy:
        """Loaded after its hashes were checked; raises CheckpointError before."""
        verify_manifest(self.folder, self.best.checkpoint.manifest_sha256)
        return PlainPolicy.load(self.folder)

    @cached_property
    def replay(self) -> Evaluation:
        """The policy over the validation split, now."""
        return evaluate(self.policy, self.market, self.config, split="validation")


def run_gate(case: Case) -> tuple[Check, ...]:
    """All checks in order; a rule of integrity that fails is the last, since the others would measure nothing."""
    found: list[Check] = []
    for check in CHECKS:
        found.append(check(case))
        if not found[-1].passed and not found[-1].forcible:
            break
    return tuple(found)


def check_trials(case: Case) -> Check:
    """At least one trial ended in order."""
    ended = sum(trial.status in GOOD_ENDS for trial in case.store.list_trials(case.best.sweep.sweep_id))
    return Check(
        name="trials",
        passed=ended >= 1,
        value=ended,
        limit=">= 1",
        explanation="trials that ended in order; a sweep that was cut short has chosen among too few",
    )


def check_database(case: Case) -> Check:
    """Every rule of `tradesweep verify` holds for the sweep."""
    results = verify(
        case.store,
        case.best.sweep.sweep_id,
        check_checkpoint=lambda path, sha256: verify_manifest(case.home.path / path, sha256),
    )
    broken = [result.rule for result in results if not result.passed]
    return Check(
        name="database",
        passed=not broken,
        value=len(broken),
        limit="0 broken",
        explanation=f"broken: {', '.join(broken)}" if broken else f"all {len(results)} rules of verify hold",
    )


def check_manifest(case: Case) -> Check:
    """The checkpoint's files are those that were published."""
    try:
        manifest = verify_manifest(case.folder, case.best.checkpoint.manifest_sha256)
    except CheckpointError as error:
        return Check(
            name="manifest", passed=False, value="differs", limit="equal", explanation=str(error), forcible=False
        )
    return Check(
        name="manifest",
        passed=True,
        value="equal",
        limit="equal",
        explanation=f"{len(manifest['files'])} files have the hashes kept in the store",
        forcible=False,
    )


def check_data(case: Case) -> Check:
    """The market is the one the sweep ran on."""
    trained, now = case.best.sweep.data_sha256, case.market.sha256
    same = trained == now
    return Check(
        name="data",
        passed=same,
        value=now[:12],
        limit=trained[:12],
        explanation="the market's bars are those of the sweep"
        if same
        else "the market's bars changed since the sweep: its numbers say nothing about them; run the sweep again",
        forcible=False,
    )


def check_replay(case: Case) -> Check:
    """The policy from disk gives the recorded validation Sharpe again."""
    now, recorded = case.replay.sharpe, case.best.sharpe
    same = now is not None and abs(now - recorded) <= REPLAY_TOLERANCE
    return Check(
        name="replay",
        passed=same,
        value=now,
        limit=f"{recorded:.6f}",
        explanation="the policy from disk gives the recorded validation Sharpe"
        if same
        else f"must be within {REPLAY_TOLERANCE:g} of the recorded {recorded!r}, was {now!r}: another code or machine"
        " decides differently; run the sweep again",
        forcible=False,
    )


def check_eligible(case: Case) -> Check:
    """It traded enough and was not ruined."""
    least = case.best.spec.evaluation.min_trades
    return Check(
        name="eligible",
        passed=case.replay.is_eligible(least),
        value=case.replay.trades,
        limit=f">= {least} trades",
        explanation="closed trades on validation; ruined" if case.replay.ruined else "closed trades on validation",
    )


CHECKS: tuple[Callable[[Case], Check], ...] = (
    check_trials,
    check_database,
    check_manifest,
    check_data,
    check_replay,
    check_eligible,
)
"""The rules, in the order they are asked: cheap before dear, integrity before what is computed from it."""
