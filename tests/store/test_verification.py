"""Every rule is green on a sound database and turns red for a planted corruption, on every kind of database."""

from __future__ import annotations

import re
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import text

from tradesweep.errors import CheckpointError, NotFound, StoreError
from tradesweep.names import SweepStatus, TrialStatus
from tradesweep.store import Writer, open_store, verify
from tradesweep.store.rules import RULES
from tradesweep.store.verification import check_rules

BACKENDS = ("sqlite", "postgresql")
ROOT = Path(__file__).parents[2]

TRAIN = "(SELECT episode_no FROM episodes WHERE role = 'train' AND status = 'COMPLETED' ORDER BY 1 LIMIT 1)"
VALIDATION = "(SELECT episode_no FROM evaluations WHERE status = 'OK' ORDER BY 1 LIMIT 1)"
STEP = f"(SELECT max(step_id) - 5 FROM steps WHERE step_id >> 24 = {TRAIN})"
FILL = "(SELECT step_id FROM fills WHERE leg = 0 ORDER BY 1 LIMIT 1 OFFSET 3)"
NEXT_FILL = f"(SELECT min(step_id) FROM fills WHERE step_id > {FILL})"
FLIP = "(SELECT step_id FROM fills WHERE leg = 1 ORDER BY 1 LIMIT 1)"
TRADE = f"episode_no = {TRAIN} AND trade_no = 1"

CORRUPTIONS: list[tuple[str, str]] = [
    ("foreign_keys", "UPDATE evaluation_curves SET episode_no = 999 WHERE episode_no = " + VALIDATION),
    ("foreign_keys", "UPDATE producers SET attempt = 7 WHERE producer_no = 1"),
    ("foreign_keys", "UPDATE outbox SET sweep_id = 'gone' WHERE id = 1"),
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
    ("nothing_runs_after_the_end", "UPDATE producers SET ended_at = NULL, end_reason = NULL WHERE trial_id = 1"),
    ("points", "UPDATE trials SET point_no = 0, seed_no = 1 WHERE trial_id = 2"),
    ("points", "UPDATE trials SET point_no = 0, seed_no = 1, point_hash = 'hash0', seed = 7 WHERE trial_id = 2"),
    ("points", "UPDATE trials SET phase = 'confirm' WHERE trial_id = 2"),
    ("trial_columns", "UPDATE trials SET error = NULL WHERE status = 'FAILED'"),
    ("trial_columns", "UPDATE trials SET final_metrics = NULL WHERE trial_id = 1"),
    ("trial_columns", "UPDATE trials SET ended_at = NULL WHERE trial_id = 1"),
    ("trial_columns", "UPDATE trials SET started_at = NULL WHERE trial_id = 1"),
    ("trial_columns", "UPDATE trials SET best_pnl = NULL WHERE trial_id = 1"),
    ("trial_columns", "UPDATE sweeps SET ended_at = NULL"),
    ("trial_columns", "UPDATE attempts SET ended_at = NULL WHERE trial_id = 1"),
    ("trial_columns", "UPDATE attempts SET error = NULL WHERE status = 'CRASHED'"),
    ("trial_columns", "UPDATE attempts SET resumed_from_attempt = NULL"),
    ("trial_columns", "UPDATE producers SET end_reason = NULL WHERE producer_no = 1"),
    ("trial_columns", "UPDATE producers SET last_batch_at = NULL WHERE producer_no = 1"),
    ("no_open_episodes", "UPDATE episodes SET status = 'OPEN' WHERE episode_no = " + TRAIN),
    ("episode_columns", "UPDATE episodes SET total_reward = NULL WHERE episode_no = " + TRAIN),
    ("episode_columns", "UPDATE episodes SET win_rate = NULL WHERE episode_no = " + TRAIN),
    ("episode_columns", "UPDATE episodes SET end_reason = NULL WHERE episode_no = " + TRAIN),
    ("episode_producers", "UPDATE episodes SET producer_no = 2 WHERE episode_no = " + TRAIN),
    ("episode_producers", "DELETE FROM producers WHERE producer_no = 1"),
    ("step_count", "DELETE FROM steps WHERE step_id = " + STEP),
    ("step_count", "UPDATE episodes SET total_steps = total_steps + 1 WHERE episode_no = " + TRAIN),
    ("step_count", "DELETE FROM steps WHERE step_id >> 24 = " + TRAIN),
    ("step_count", "UPDATE producers SET steps_pruned = steps_recorded WHERE producer_no = 1"),
    ("step_bars", "UPDATE steps SET bar = bar + 1 WHERE step_id = " + STEP),
    ("step_bars", "UPDATE episodes SET start_bar = start_bar + 1 WHERE episode_no = " + TRAIN),
    ("step_domain", "UPDATE steps SET mark_time = decision_time WHERE step_id = " + STEP),
    ("step_domain", "UPDATE steps SET mark_price = -1.0 WHERE step_id = " + STEP),
    ("reward_sum", "UPDATE steps SET reward = reward + 1e-7 WHERE step_id = " + STEP),
    ("first_equity", "UPDATE episodes SET initial_equity = 9999.0 WHERE episode_no = " + TRAIN),
    ("first_equity", f"UPDATE steps SET cost = cost + 0.01 WHERE step_id = {TRAIN} << 24"),
    ("last_equity", "UPDATE episodes SET final_equity = final_equity + 0.01 WHERE episode_no = " + TRAIN),
    ("step_money", "UPDATE steps SET equity = equity + 0.01 WHERE step_id = " + STEP),
    ("step_money", "UPDATE steps SET cost = cost + 0.01 WHERE step_id = " + STEP),
    ("step_units", "UPDATE steps SET units = units + 0.001 WHERE step_id = " + STEP),
    ("step_units", "UPDATE fills SET quantity = quantity * 1.001 WHERE step_id = " + FLIP),
    ("episode_pnl", "UPDATE episodes SET pnl = pnl + 0.01 WHERE episode_no = " + TRAIN),
    ("episode_pnl", "UPDATE trades SET pnl = pnl + 0.01 WHERE " + TRADE),
    ("episode_trades", "UPDATE episodes SET trades = trades + 1 WHERE episode_no = " + TRAIN),
    ("episode_trades", "UPDATE episodes SET win_rate = win_rate + 0.1 WHERE episode_no = " + TRAIN),
    ("hold_where_no_fill", "DELETE FROM fills WHERE step_id = " + FILL),
    ("hold_where_no_fill", "UPDATE steps SET fill_price = NULL WHERE step_id = " + FILL),
    ("hold_where_no_fill", f"UPDATE steps SET fill_price = 1.0 WHERE step_id > {FILL} AND step_id < {NEXT_FILL}"),
    ("fill_domain", "UPDATE fills SET quantity = -quantity WHERE step_id = " + FILL),
    ("fill_domain", "UPDATE fills SET price = 0.0 WHERE step_id = " + FILL),
    ("fill_domain", "UPDATE fills SET operation = 'BUY' WHERE step_id = " + FILL),
    ("fill_domain", "UPDATE fills SET quantity = 0.0 WHERE step_id = " + FILL),
    ("fill_domain", "UPDATE fills SET fee = -fee WHERE step_id = " + FILL),
    ("fill_domain", "UPDATE fills SET leg = 2 WHERE leg = 1 AND step_id = " + FLIP),
    ("fill_domain", "DELETE FROM fills WHERE leg = 0 AND step_id = " + FLIP),
    ("trade_domain", "UPDATE trades SET quantity = 0.0 WHERE " + TRADE),
    ("trade_domain", "UPDATE trades SET direction = 'UP' WHERE " + TRADE),
    ("trade_domain", "UPDATE trades SET exit_time = entry_time - 1 WHERE " + TRADE),
    ("trade_domain", "UPDATE trades SET entry_price = -entry_price WHERE " + TRADE),
    ("fills_have_trades", "DELETE FROM trades WHERE " + TRADE),
    ("fills_have_trades", "UPDATE trades SET direction = 'LONG' WHERE direction = 'SHORT'"),
    ("fills_have_trades", "UPDATE trades SET exit_step_id = exit_step_id - 1 WHERE " + TRADE),
    ("trade_sums", "UPDATE trades SET exit_step_id = exit_step_id + 1 WHERE " + TRADE),
    ("trade_sums", "UPDATE trades SET entry_step_id = entry_step_id - 1 WHERE " + TRADE),
    ("trade_sums", "UPDATE trades SET entry_price = entry_price * 1.001 WHERE " + TRADE),
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
    ("rows_received", "UPDATE producers SET steps_pruned = 1 WHERE producer_no = 1"),
    ("pruned_episodes", "UPDATE producers SET steps_pruned = 1 WHERE producer_no = 1"),
    ("pruned_episodes", "UPDATE producers SET steps_pruned = steps_recorded WHERE producer_no = 1"),
    ("pruned_episodes", "UPDATE producers SET steps_pruned = steps_recorded WHERE role = 'trial'"),
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


NO_GUARDS = """
    DO $$ DECLARE c record; BEGIN
        FOR c IN
            SELECT conrelid::regclass AS of, conname FROM pg_constraint
            WHERE contype = 'c' AND connamespace = 'public'::regnamespace LOOP
            EXECUTE format('ALTER TABLE %s DROP CONSTRAINT %I', c.of, c.conname);
        END LOOP;
    END $$
"""
"""Drops every CHECK: on a server nobody can break one, not even a test."""


def corrupt(path: Path, statement: str) -> int:
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("PRAGMA foreign_keys = OFF")
        db.execute("PRAGMA ignore_check_constraints = ON")
        return db.execute(statement).rowcount


def broken(results: list[Any]) -> set[str]:
    return {result.rule for result in results if not result.passed}


def red_rules(address: Any, sweep_id: str | None = None) -> set[str]:
    return broken(verify(open_store(address), sweep_id))


def results_after(address: Any, *statements: str) -> list[Any]:
    """What verification says when these were done; on a server they are undone again."""
    if isinstance(address, Path):
        copy = Path(shutil.copy(address, address.with_name("corrupt.db")))
        assert all(corrupt(copy, statement) > 0 for statement in statements)
        return verify(open_store(copy))
    with open_store(address).scratch() as db:
        db.exec_driver_sql("SET LOCAL session_replication_role = replica")
        assert all(db.execute(text(statement)).rowcount > 0 for statement in statements)
        return check_rules(db)


@pytest.fixture(scope="module")
def sqlite_sound(sqlite_backend: Any) -> Any:
    """A finished, sound database, which tests leave as it is."""
    return sqlite_backend.green()


@pytest.fixture(scope="module")
def postgresql_sound(postgresql_backend: Any) -> Any:
    """The same on a server, which was told to believe everything."""
    made = postgresql_backend.green()
    with psycopg.connect(made) as db:
        db.execute(NO_GUARDS)
    return made


@pytest.fixture(params=BACKENDS)
def sound(request: pytest.FixtureRequest) -> Any:
    """Either of them."""
    return request.getfixturevalue(f"{request.param}_sound")


def test_a_sound_database_is_green(sound: Any) -> None:
    results = verify(open_store(sound))
    assert [result for result in results if not result.passed] == []
    assert [result.rule for result in results] == [rule.name for rule in RULES]


def one_of_each_rule() -> list[Any]:
    """The first corruption of a rule is always tried, the others when there is time."""
    firsts = dict(reversed(CORRUPTIONS))
    return [
        pytest.param(rule, statement, marks=[] if firsts[rule] == statement else pytest.mark.slow)
        for rule, statement in CORRUPTIONS
    ]


@pytest.mark.parametrize(("rule", "statement"), CORRUPTIONS)
def test_a_planted_corruption_turns_its_rule_red(sqlite_sound: Path, rule: str, statement: str) -> None:
    assert rule in broken(results_after(sqlite_sound, statement))


@pytest.mark.parametrize(("rule", "statement"), one_of_each_rule())
def test_a_planted_corruption_turns_its_rule_red_on_a_server(postgresql_sound: str, rule: str, statement: str) -> None:
    assert rule in broken(results_after(postgresql_sound, statement))


def test_every_rule_has_a_corruption_that_proves_it() -> None:
    assert {rule for rule, _ in CORRUPTIONS} | {"integrity"} == {rule.name for rule in RULES}


def test_the_document_names_every_rule() -> None:
    section = (ROOT / "docs" / "schema.md").read_text().split("## What `verify` holds")[1].split("\n- ")[0]
    named = [name for line in section.splitlines() if line[:1] == "|" for name in re.findall(r"`(\w+)`", line)]
    assert sorted(named) == sorted([rule.name for rule in RULES] + ["checkpoint_files"])


def test_a_red_result_counts_its_rows_and_shows_the_first(sound: Any) -> None:
    found = results_after(sound, "UPDATE trades SET quantity = -quantity")
    result = next(result for result in found if result.rule == "trade_domain")
    assert result.violations > 5
    assert len(result.examples) == 5
    assert "direction=" in result.examples[0]


def test_every_step_without_a_fill_is_one_hold_among_the_operations(sound: Any) -> None:
    with open_store(sound).connect() as db:
        episodes = db.execute(
            text("""
                SELECT s.episode_no, s.steps, o.operations, o.holds, s.steps - o.filled AS expected_holds
                FROM (SELECT step_id >> 24 AS episode_no, count(*) AS steps FROM steps GROUP BY 1) s
                JOIN (SELECT episode_no, count(*) AS operations,
                             count(*) FILTER (WHERE operation_type = 'HOLD') AS holds,
                             count(DISTINCT CASE WHEN operation_type <> 'HOLD' THEN step_id END) AS filled
                      FROM trading_operations GROUP BY episode_no) o ON o.episode_no = s.episode_no
            """)
        ).all()
    assert len(episodes) > 20
    assert all(row.operations >= row.steps and row.holds == row.expected_holds > 0 for row in episodes)


@pytest.mark.parametrize(("off", "red"), [(1e-4, False), (100.0, True)])
def test_an_account_that_grew_is_held_to_what_it_moved(sound: Any, off: float, red: bool) -> None:
    said = results_after(
        sound,
        f"UPDATE trades SET pnl = 0.0 WHERE episode_no = {TRAIN}",
        f"UPDATE trades SET pnl = 8e9 + {off} WHERE {TRADE}",
        f"UPDATE episodes SET pnl = 8e9, final_equity = initial_equity + 8e9 WHERE episode_no = {TRAIN}",
    )
    assert ("episode_pnl" in broken(said)) is red


# --- integrity ------------------------------------------------------------------------------------------------


def test_a_value_that_its_column_forbids_is_red(sqlite_backend: Any) -> None:
    green = sqlite_backend.green()
    with closing(sqlite3.connect(green)) as db, db:
        db.execute("PRAGMA writable_schema = ON")
        db.execute("UPDATE sqlite_master SET sql = replace(sql, 'notes TEXT', 'notes TEXT NOT NULL')")
    assert red_rules(green) == {"integrity"}


def test_a_damaged_file_is_named_with_its_remedy(sqlite_backend: Any) -> None:
    green = sqlite_backend.green()
    with green.open("r+b") as file:
        file.seek(20 * 4096)
        file.write(b"\xff" * 40 * 4096)
    with pytest.raises(StoreError, match="damaged; restore a backup"):
        verify(open_store(green))


@pytest.mark.parametrize(
    "statement",
    [
        "ALTER TABLE episodes ADD CONSTRAINT in_lanes CHECK (lane < 0) NOT VALID",
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'ix_episodes_open'::regclass",
    ],
)
def test_what_a_server_has_not_made_sure_of_is_red(postgresql_sound: str, statement: str) -> None:
    with open_store(postgresql_sound).scratch() as db:
        db.exec_driver_sql(statement)
        assert broken(check_rules(db)) == {"integrity"}


# --- pruning --------------------------------------------------------------------------------------------------


@pytest.fixture
def pruned(green: Any) -> Any:
    """A sound database whose training steps were all pruned."""
    with open_store(green).connect() as db:
        runners = db.execute(text("SELECT producer_no FROM producers WHERE role = 'runner'")).scalars().all()
    with Writer(green, alone=True) as writer:
        assert sum(writer.prune_producer(number) for number in runners) > 100
    return green


def test_a_pruned_database_is_green(pruned: Any) -> None:
    assert red_rules(pruned) == set()


def test_a_pruned_trial_still_accounts_for_its_steps(pruned: Any) -> None:
    said = results_after(pruned, "UPDATE checkpoints SET env_steps = env_steps + 1 WHERE trial_id = 1")
    assert broken(said) == {"steps_accounted_for"}


def test_a_pruned_episode_keeps_its_totals(pruned: Any) -> None:
    for column in ("pnl", "total_steps", "final_equity"):
        said = results_after(pruned, f"UPDATE episodes SET {column} = NULL WHERE episode_no = {TRAIN}")
        assert "episode_columns" in broken(said)


def test_a_pruned_episode_keeps_its_trades(pruned: Any) -> None:
    assert "episode_trades" in broken(results_after(pruned, f"DELETE FROM trades WHERE {TRADE}"))


def test_fills_that_outlive_their_steps_are_red(pruned: Any) -> None:
    left = f"INSERT INTO fills VALUES ({TRAIN} << 24, 0, 0, 'ENTRY_LONG', 1.0, 1.0, 0.0, 0.0)"
    assert "fills_have_steps" in broken(results_after(pruned, left))


@pytest.mark.parametrize("gone", [f"step_id >> 24 = {TRAIN}", f"step_id >> 24 = {TRAIN} AND step_id < {STEP}"])
def test_a_producer_that_was_pruned_in_part_is_red(sound: Any, gone: str) -> None:
    owner = f"producer_no = {TRAIN} >> 20"
    said = results_after(
        sound,
        f"UPDATE producers SET steps_pruned = (SELECT count(*) FROM steps WHERE {gone}) WHERE {owner}",
        f"DELETE FROM fills WHERE {gone}",
        f"DELETE FROM steps WHERE {gone}",
    )
    assert {"step_count", "pruned_episodes"} <= broken(said)
    assert "rows_received" not in broken(said)


def test_evaluations_are_never_pruned(sound: Any) -> None:
    said = results_after(
        sound,
        "UPDATE producers SET steps_pruned = steps_recorded WHERE role = 'trial'",
        "DELETE FROM fills WHERE step_id >> 24 IN (SELECT episode_no FROM episodes WHERE role = 'validation')",
        "DELETE FROM steps WHERE step_id >> 24 IN (SELECT episode_no FROM episodes WHERE role = 'validation')",
    )
    assert {"pruned_episodes", "step_count"} <= broken(said)


# --- what is verified, and when -------------------------------------------------------------------------------


def test_one_sweep_can_be_verified_alone(world: Any) -> None:
    world.begin(0)
    world.writer.open_sweep(world.new_sweep(sweep_id="other-12345678", experiment="other"))
    world.writer.close_sweep("other-12345678", SweepStatus.FINISHED)
    other = world.writer.open_trial("other-12345678", 0, "{}", 7, "hash")
    world.writer.close_trial(other, TrialStatus.FINISHED)
    assert red_rules(world.path, world.sweep_id) == set()
    assert {"finished_trials_have_rows", "trial_columns"} <= red_rules(world.path, "other")


def test_an_unknown_sweep_is_refused(sound: Any) -> None:
    with pytest.raises(NotFound, match="there is no sweep or experiment 'nope'; there are: small-12345678"):
        verify(open_store(sound), "nope")


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


def test_checkpoint_files_are_checked_with_a_manifest_reader(sound: Any) -> None:
    seen = []

    def check(path: str, sha256: str) -> None:
        seen.append((path, sha256))
        if path.endswith("000002"):
            raise CheckpointError(f"{path} has another hash")

    results = verify(open_store(sound), check_checkpoint=check)
    assert results[-1].rule == "checkpoint_files"
    assert not results[-1].passed
    assert "has another hash" in results[-1].examples[0]
    assert ("sweeps/small-12345678/000001", "ab" * 32) in seen


def test_who_waits_is_told_what_is_read_and_which_rule_is_checked(sound: Any) -> None:
    told: list[str] = []
    verify(open_store(sound), tell=told.append)
    assert {"reading steps", "reading fills", "reading trades"} <= set(told)
    assert [what for what in told if what.startswith("checking")] == [f"checking {rule.name}" for rule in RULES]


def test_verification_writes_nothing(green: Any) -> None:
    before = contents(green)
    verify(open_store(green))
    assert contents(green) == before


def contents(address: Any) -> Any:
    """The bytes of a file; on a server, all relations there are."""
    if isinstance(address, Path):
        return address.read_bytes()
    with open_store(address).connect() as db:
        return db.execute(text("SELECT oid, relname FROM pg_class ORDER BY oid")).all()
