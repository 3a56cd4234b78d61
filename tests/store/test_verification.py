"""Every rule is green on a sound database and turns red for a planted corruption."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tradesweep.errors import CheckpointError, NotFound, StoreError
from tradesweep.names import SweepStatus, TrialStatus
from tradesweep.store import open_store, verify
from tradesweep.store.rules import RULES

TRAIN = "(SELECT episode_no FROM episodes WHERE role = 'train' AND status = 'COMPLETED' ORDER BY 1 LIMIT 1)"
VALIDATION = "(SELECT episode_no FROM evaluations WHERE status = 'OK' ORDER BY 1 LIMIT 1)"
STEP = f"(SELECT max(step_id) - 5 FROM steps WHERE step_id >> 24 = {TRAIN})"
FILL = "(SELECT step_id FROM fills WHERE leg = 0 ORDER BY 1 LIMIT 1 OFFSET 3)"
FLIP = "(SELECT step_id FROM fills WHERE leg = 1 ORDER BY 1 LIMIT 1)"
TRADE = f"episode_no = {TRAIN} AND trade_no = 1"

CORRUPTIONS: list[tuple[str, str]] = [
    ("foreign_keys", "UPDATE evaluation_curves SET episode_no = 999 WHERE episode_no = " + VALIDATION),
    ("steps_have_episodes", "DELETE FROM episodes WHERE episode_no = " + TRAIN),
    ("steps_have_episodes", "UPDATE steps SET step_id = 5 WHERE step_id = " + STEP),
    ("fills_have_steps", "UPDATE fills SET step_id = 99 WHERE step_id = " + FILL),
    ("trades_have_episodes", "UPDATE trades SET episode_no = 99 WHERE " + TRADE),
    ("trades_have_episodes", "UPDATE trades SET entry_step_id = 99 WHERE " + TRADE),
    ("trades_have_episodes", "UPDATE trades SET exit_step_id = exit_step_id + 1000 WHERE " + TRADE),
    ("finished_trials_have_rows", "DELETE FROM iterations WHERE trial_id = 1"),
    ("finished_trials_have_rows", "DELETE FROM checkpoints WHERE trial_id = 1"),
    ("finished_trials_have_rows", "DELETE FROM evaluation_curves"),
    ("finished_trials_have_rows", "DELETE FROM fills"),
    ("finished_trials_have_rows", "DELETE FROM trades"),
    ("finished_trials_have_rows", "DELETE FROM steps"),
    ("nothing_runs_after_the_end", "UPDATE trials SET status = 'RUNNING' WHERE trial_id = 1"),
    ("nothing_runs_after_the_end", "UPDATE attempts SET status = 'RUNNING' WHERE trial_id = 1"),
    ("trial_columns", "UPDATE trials SET error = NULL WHERE status = 'FAILED'"),
    ("trial_columns", "UPDATE trials SET final_metrics = NULL WHERE trial_id = 1"),
    ("trial_columns", "UPDATE trials SET ended_at = NULL WHERE trial_id = 1"),
    ("trial_columns", "UPDATE sweeps SET ended_at = NULL"),
    ("no_open_episodes", "UPDATE episodes SET status = 'OPEN' WHERE episode_no = " + TRAIN),
    ("episode_columns", "UPDATE episodes SET total_reward = NULL WHERE episode_no = " + TRAIN),
    ("episode_columns", "UPDATE episodes SET win_rate = NULL WHERE episode_no = " + TRAIN),
    ("episode_columns", "UPDATE episodes SET end_reason = NULL WHERE episode_no = " + TRAIN),
    ("episode_producers", "UPDATE episodes SET producer_no = 2 WHERE episode_no = " + TRAIN),
    ("episode_producers", "DELETE FROM producers WHERE producer_no = 1"),
    ("step_count", "DELETE FROM steps WHERE step_id = " + STEP),
    ("step_count", "UPDATE episodes SET total_steps = total_steps + 1 WHERE episode_no = " + TRAIN),
    ("step_count", "UPDATE steps SET bar = bar + 1 WHERE step_id = " + STEP),
    ("step_domain", "UPDATE steps SET mark_time = decision_time WHERE step_id = " + STEP),
    ("step_domain", "UPDATE steps SET mark_price = -1.0 WHERE step_id = " + STEP),
    ("reward_sum", "UPDATE steps SET reward = reward + 1e-7 WHERE step_id = " + STEP),
    ("first_equity", "UPDATE episodes SET initial_equity = 9999.0 WHERE episode_no = " + TRAIN),
    ("last_equity", "UPDATE episodes SET final_equity = final_equity + 0.01 WHERE episode_no = " + TRAIN),
    ("step_money", "UPDATE steps SET equity = equity + 0.01 WHERE step_id = " + STEP),
    ("step_money", "UPDATE steps SET cost = cost + 0.01 WHERE step_id = " + STEP),
    ("step_units", "UPDATE fills SET quantity = quantity * 1.001 WHERE step_id = " + FLIP),
    ("episode_pnl", "UPDATE episodes SET pnl = pnl + 0.01 WHERE episode_no = " + TRAIN),
    ("episode_pnl", "UPDATE trades SET pnl = pnl + 0.01 WHERE " + TRADE),
    ("episode_trades", "UPDATE episodes SET trades = trades + 1 WHERE episode_no = " + TRAIN),
    ("episode_trades", "UPDATE episodes SET win_rate = win_rate + 0.1 WHERE episode_no = " + TRAIN),
    ("hold_where_no_fill", "DELETE FROM fills WHERE step_id = " + FILL),
    ("hold_where_no_fill", "UPDATE steps SET fill_price = NULL WHERE step_id = " + FILL),
    ("fill_domain", "UPDATE fills SET quantity = -quantity WHERE step_id = " + FILL),
    ("fill_domain", "UPDATE fills SET price = 0.0 WHERE step_id = " + FILL),
    ("fill_domain", "UPDATE fills SET operation = 'BUY' WHERE step_id = " + FILL),
    ("fill_domain", "DELETE FROM fills WHERE leg = 0 AND step_id = " + FLIP),
    ("trade_domain", "UPDATE trades SET quantity = 0.0 WHERE " + TRADE),
    ("trade_domain", "UPDATE trades SET direction = 'UP' WHERE " + TRADE),
    ("trade_domain", "UPDATE trades SET exit_time = entry_time - 1 WHERE " + TRADE),
    ("trade_domain", "UPDATE trades SET entry_price = -entry_price WHERE " + TRADE),
    ("fills_have_trades", "DELETE FROM trades WHERE " + TRADE),
    ("fills_have_trades", "UPDATE trades SET direction = 'LONG' WHERE direction = 'SHORT'"),
    ("fills_have_trades", "UPDATE trades SET exit_step_id = exit_step_id - 1 WHERE " + TRADE),
    ("trade_sums", "UPDATE trades SET quantity = quantity * 1.001 WHERE " + TRADE),
    ("trade_sums", "UPDATE trades SET fees = fees + 0.01 WHERE " + TRADE),
    ("trade_sums", "UPDATE trades SET borrow = borrow + 0.01 WHERE status = 'MARKED'"),
    ("trade_sums", "UPDATE trades SET pnl = pnl + 0.01 WHERE status = 'MARKED'"),
    ("trade_sums", "UPDATE fills SET price = price * 1.001 WHERE step_id = " + FILL),
    ("episode_costs", "UPDATE trades SET borrow = borrow + 0.01, pnl = pnl - 0.01 WHERE " + TRADE),
    ("episode_costs", "UPDATE trades SET slippage = slippage + 0.01 WHERE " + TRADE),
    ("batches_without_gap", "UPDATE producers SET last_seq = last_seq + 1 WHERE producer_no = 1"),
    ("incarnations", "UPDATE producers SET epoch = 3 WHERE epoch = 2"),
    ("incarnations", "UPDATE producers SET ended_at = NULL WHERE end_reason = 'FENCED'"),
    ("rows_received", "DELETE FROM steps WHERE step_id = " + STEP),
    ("rows_received", "UPDATE producers SET steps_recorded = steps_recorded + 1 WHERE producer_no = 1"),
    ("steps_accounted_for", "UPDATE checkpoints SET env_steps = env_steps + 1 WHERE trial_id = 1"),
    ("steps_accounted_for", "UPDATE checkpoints SET env_steps = env_steps - 1 WHERE trial_id = 1"),
    ("steps_accounted_for", "DELETE FROM steps WHERE step_id = " + STEP),
    ("outbox_complete", "DELETE FROM outbox WHERE kind = 'iteration' AND trial_id = 2"),
    ("outbox_complete", "DELETE FROM outbox WHERE kind = 'trial_opened' AND trial_id = 2"),
    ("iterations_once", "UPDATE iterations SET superseded_by_attempt = NULL"),
    ("iterations_once", "DELETE FROM iterations WHERE trial_id = 1 AND iteration = 2"),
    ("iterations_once", "UPDATE iterations SET env_steps = 1 WHERE trial_id = 1 AND iteration = 2"),
    ("evaluations_match", "UPDATE evaluations SET bars = bars + 1 WHERE episode_no = " + VALIDATION),
    ("evaluations_match", "UPDATE evaluations SET trades = trades + 1 WHERE episode_no = " + VALIDATION),
    ("evaluations_match", "UPDATE evaluations SET iteration = 77 WHERE episode_no = " + VALIDATION),
    ("evaluations_match", "DELETE FROM evaluation_curves WHERE episode_no = " + VALIDATION),
    ("evaluation_sharpe", "UPDATE evaluations SET sharpe = sharpe + 1e-7 WHERE episode_no = " + VALIDATION),
    ("evaluation_sharpe", "UPDATE evaluations SET sharpe = NULL WHERE episode_no = " + VALIDATION),
    ("evaluation_sharpe", "UPDATE evaluations SET sharpe = 0.5 WHERE status = 'FLAT'"),
    ("evaluation_sharpe", "UPDATE evaluations SET status = 'FLAT', sharpe = NULL WHERE episode_no = " + VALIDATION),
    ("evaluated_weights", "UPDATE steps SET weights_version = 0 WHERE step_id >> 24 = " + VALIDATION),
    ("best_is_best", "UPDATE trials SET best_iteration = best_iteration % 3 + 1 WHERE trial_id = 1"),
    ("best_is_best", "UPDATE trials SET best_sharpe = 9.0 WHERE trial_id = 1"),
    ("best_is_best", "UPDATE checkpoints SET deleted_at = 1 WHERE trial_id = 1"),
]


def corrupt(path: Path, statement: str) -> int:
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("PRAGMA foreign_keys = OFF")
        db.execute("PRAGMA ignore_check_constraints = ON")
        return db.execute(statement).rowcount


def red_rules(path: Path, sweep_id: str | None = None) -> set[str]:
    return {result.rule for result in verify(open_store(path), sweep_id) if not result.passed}


def test_a_sound_database_is_green(green: Path) -> None:
    results = verify(open_store(green))
    assert [result for result in results if not result.passed] == []
    assert [result.rule for result in results] == [rule.name for rule in RULES]


@pytest.mark.parametrize(("rule", "statement"), CORRUPTIONS)
def test_a_planted_corruption_turns_its_rule_red(green: Path, rule: str, statement: str) -> None:
    assert corrupt(green, statement) > 0
    assert rule in red_rules(green)


def test_a_value_that_its_column_forbids_is_red(green: Path) -> None:
    with closing(sqlite3.connect(green)) as db, db:
        db.execute("PRAGMA writable_schema = ON")
        db.execute("UPDATE sqlite_master SET sql = replace(sql, 'notes TEXT', 'notes TEXT NOT NULL')")
    assert red_rules(green) == {"integrity"}


def test_a_damaged_file_is_named_with_its_remedy(green: Path) -> None:
    with green.open("r+b") as file:
        file.seek(20 * 4096)
        file.write(b"\xff" * 40 * 4096)
    with pytest.raises(StoreError, match="damaged; restore a backup"):
        verify(open_store(green))


def test_every_rule_has_a_corruption_that_proves_it() -> None:
    assert {rule for rule, _ in CORRUPTIONS} | {"integrity"} == {rule.name for rule in RULES}


def test_a_red_result_counts_its_rows_and_shows_the_first(green: Path) -> None:
    corrupt(green, "UPDATE trades SET quantity = -quantity")
    result = next(result for result in verify(open_store(green)) if result.rule == "trade_domain")
    assert result.violations > 5
    assert len(result.examples) == 5
    assert "direction=" in result.examples[0]


def test_one_sweep_can_be_verified_alone(world: Any) -> None:
    world.begin(0)
    world.writer.open_sweep(world.new_sweep(sweep_id="other-12345678", experiment="other"))
    world.writer.close_sweep("other-12345678", SweepStatus.FAILED)
    world.writer.close()
    corrupt(world.path, "UPDATE sweeps SET ended_at = NULL WHERE experiment = 'other'")
    assert red_rules(world.path, "other") == {"trial_columns"}
    assert red_rules(world.path, world.sweep_id) == set()


def test_an_unknown_sweep_is_refused(green: Path) -> None:
    with pytest.raises(NotFound, match="there is no sweep or experiment 'nope'; there are: small-12345678"):
        verify(open_store(green), "nope")


def test_a_running_sweep_is_green_while_it_runs(world: Any) -> None:
    run = world.begin(0)
    run.train(7, 9)
    run.evaluate()
    run.train(3)
    assert red_rules(world.path) == set()


def test_training_episodes_without_steps_are_green_when_the_spec_leaves_them_out(world: Any) -> None:
    run = world.begin(0, steps_sent=False)
    run.train(11, 9, 5)
    run.evaluate()
    world.writer.close_trial(run.trial_id, TrialStatus.FINISHED)
    assert red_rules(world.path) == set()
    counts = world.store.counts(world.sweep_id)
    assert (counts.steps, counts.steps_dropped) == (40, 100)


def test_checkpoint_files_are_checked_with_a_manifest_reader(green: Path) -> None:
    seen = []

    def check(path: str, sha256: str) -> None:
        seen.append((path, sha256))
        if path.endswith("000002"):
            raise CheckpointError(f"{path} has another hash")

    results = verify(open_store(green), check_checkpoint=check)
    assert results[-1].rule == "checkpoint_files"
    assert not results[-1].passed
    assert "has another hash" in results[-1].examples[0]
    assert ("sweeps/small-12345678/000001", "ab" * 32) in seen


def test_verification_writes_nothing(green: Path, tmp_path: Path) -> None:
    before = Path(shutil.copy(green, tmp_path / "before.db")).read_bytes()
    verify(open_store(green))
    assert green.read_bytes() == before
