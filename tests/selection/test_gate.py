from __future__ import annotations

import dataclasses
import sqlite3
from typing import Any

import pytest

from tradesweep.names import TrialStatus
from tradesweep.selection import CHECKS, Case, Check, get_best, run_gate


def case_of(world: Any) -> Case:
    return Case(world.store, world.home, get_best(world.store, "small"))


def gate(world: Any) -> dict[str, Check]:
    return {check.name: check for check in run_gate(case_of(world))}


def tamper(world: Any, statement: str, *values: Any) -> None:
    with sqlite3.connect(str(world.home.database)) as db:
        db.execute(statement, values)


def test_a_good_sweep_passes_every_check(swept: Any) -> None:
    checks = gate(swept)
    assert len(checks) == len(CHECKS)
    assert all(check.passed for check in checks.values())


def test_a_trial_must_have_ended_in_order(world: Any) -> None:
    with world.writer() as writer:
        world.open_sweep(writer)
        world.write_trial(writer, 0, 3.0, status=TrialStatus.CRASHED, error="gone")
    check = gate(world)["trials"]
    assert (check.passed, check.value, check.forcible) == (False, 0, True)


def test_a_broken_rule_of_the_database_is_named(swept: Any) -> None:
    tamper(swept, "UPDATE episodes SET pnl = pnl + 1 WHERE role = 'validation'")
    check = gate(swept)["database"]
    assert not check.passed
    assert "episode_pnl" in check.explanation


def test_changed_files_end_the_gate_before_anything_is_loaded(swept: Any) -> None:
    (swept.folder(1) / "policy.json").write_text("{}")
    checks = gate(swept)
    assert list(checks)[-1] == "manifest"
    assert (checks["manifest"].passed, checks["manifest"].forcible) == (False, False)
    assert "policy.json must have bytes" in checks["manifest"].explanation


def test_a_manifest_rewritten_with_the_files_is_noticed(swept: Any) -> None:
    from tradesweep.policy import write_manifest

    swept.runtime.policy(-3.0, 5).save(swept.folder(1))
    write_manifest(swept.folder(1), {})
    assert not gate(swept)["manifest"].passed


def test_other_data_end_the_gate(swept: Any) -> None:
    tamper(swept, "UPDATE sweeps SET data_sha256 = ?", "00" * 32)
    checks = gate(swept)
    assert list(checks)[-1] == "data"
    assert (checks["data"].passed, checks["data"].limit) == (False, "0" * 12)


@pytest.mark.parametrize(("off_by", "passed"), [(1e-10, True), (1e-8, False)])
def test_the_replay_must_give_the_recorded_number(swept: Any, off_by: float, passed: bool) -> None:
    tamper(swept, "UPDATE trials SET best_sharpe = best_sharpe + ? WHERE trial_no = 1", off_by)
    check = gate(swept)["replay"]
    assert (check.passed, check.forcible) == (passed, False)


def test_too_few_trades_on_the_replay_are_not_eligible(swept: Any) -> None:
    best = get_best(swept.store, "small")
    trades = swept.runtime.evaluate(swept.runtime.policy(3.0, 1)).trades
    strict = best.spec.evaluation.model_copy(update={"min_trades": trades + 1})
    best = dataclasses.replace(best, spec=best.spec.model_copy(update={"evaluation": strict}))
    checks = {check.name: check for check in run_gate(Case(swept.store, swept.home, best))}
    assert (checks["eligible"].passed, checks["eligible"].value) == (False, trades)
    assert checks["eligible"].limit == f">= {trades + 1} trades"
