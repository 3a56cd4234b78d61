"""Less of a database: the steps of training go, results stay, and every rule holds all the while."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import Any

import pytest

from tradesweep.errors import BadInput, NotFound, Refused, StoreError, StoreLocked
from tradesweep.names import SweepStatus
from tradesweep.store import Writer, choose_sweeps, find_database, list_prunable, open_store, prune, verify
from tradesweep.store.writer import now_us

BACKENDS = ("sqlite", "postgresql")
DAY_US = 86_400_000_000


def rows(address: Any, sql: str) -> list[tuple[Any, ...]]:
    with open_store(address).connect() as db:
        return [tuple(row) for row in db.exec_driver_sql(sql)]


def broken(address: Any) -> list[str]:
    return [result.rule for result in verify(open_store(address)) if not result.passed]


OF_EVALUATIONS = "NOT (step_id >> 24) IN (SELECT episode_no FROM episodes WHERE role = 'train')"
KEPT = {
    "steps": f"SELECT * FROM steps WHERE {OF_EVALUATIONS}",
    "fills": f"SELECT * FROM fills WHERE {OF_EVALUATIONS}",
    **{
        table: f"SELECT * FROM {table}"
        for table in ("trades", "episodes", "evaluations", "evaluation_curves", "checkpoints", "iterations", "trials")
    },
}


def prune_all(address: Any) -> Any:
    store = open_store(address)
    return prune(address, list_prunable(store, store.list_sweeps()))


def test_pruning_deletes_the_steps_of_training_and_nothing_else(green: Any) -> None:
    before = {table: rows(green, sql) for table, sql in KEPT.items()}
    (said,) = list_prunable(open_store(green), open_store(green).list_sweeps())
    (steps,) = rows(green, "SELECT count(*) FROM effective_steps WHERE role = 'train'")[0]
    pruned = prune_all(green)
    assert pruned.steps == said.steps >= steps > 0
    assert {table: rows(green, sql) for table, sql in KEPT.items()} == before
    assert rows(green, "SELECT count(*) FROM steps") == [(len(before["steps"]),)]
    assert rows(green, "SELECT count(*) FROM fills") == [(len(before["fills"]),)]
    assert before["steps"]
    assert before["fills"]


def test_a_producer_says_how_many_of_its_steps_are_gone(green: Any) -> None:
    prune_all(green)
    said = rows(green, "SELECT role, steps_recorded, steps_pruned FROM producers")
    assert {(role, recorded == pruned, pruned == 0) for role, recorded, pruned in said} == {
        ("runner", True, False),
        ("trial", False, True),
    }


def test_a_pruned_database_keeps_every_rule_and_is_smaller(green: Any) -> None:
    assert broken(green) == []
    pruned = prune_all(green)
    assert broken(green) == []
    assert pruned.bytes_after == find_database(green).size_bytes() < pruned.bytes_before
    assert prune_all(green).steps == 0


def test_a_pruning_that_got_through_some_producers_leaves_every_rule_green(green: Any) -> None:
    (said,) = list_prunable(open_store(green), open_store(green).list_sweeps())
    assert len(said.producers) > 2
    with Writer(green) as writer:
        for producer_no in said.producers[::2]:
            assert writer.prune_producer(producer_no) > 0
    assert broken(green) == []
    (left,) = list_prunable(open_store(green), open_store(green).list_sweeps())
    assert left.producers == said.producers[1::2]


DIE = """
import os, signal, sys
from sqlalchemy import Engine, event
from tradesweep.store import list_prunable, open_store, prune

updates = []

@event.listens_for(Engine, "before_cursor_execute")
def die(connection, cursor, statement, parameters, context, many):
    updates.extend([statement] if statement.startswith("UPDATE producers") else [])
    if len(updates) == 2:
        os.kill(os.getpid(), signal.SIGKILL)

store = open_store(sys.argv[1])
prune(sys.argv[1], list_prunable(store, store.list_sweeps()))
"""


def test_a_pruning_killed_between_deleting_and_noting_it_deleted_nothing_unnoted(green: Any) -> None:
    done = subprocess.run([sys.executable, "-c", DIE, str(green)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert broken(green) == []
    assert rows(green, "SELECT count(*) FROM producers WHERE steps_pruned > 0") == [(1,)]
    assert prune_all(green).steps > 0
    assert broken(green) == []


def test_a_pruned_sweep_goes_on_and_stays_green(world: Any) -> None:
    run = world.begin()
    run.train(7, 9)
    run.evaluate()
    world.writer.close_sweep(world.sweep_id, SweepStatus.INTERRUPTED)
    world.writer.close()
    prune_all(world.path)
    world.writer = Writer(world.path)
    world.writer.open_sweep(world.new_sweep(driver_pid=2))
    resumed = world.TrialRun(world.writer, run.trial_id, resumed_from=1, env_steps=run.env_steps)
    resumed.train(5)
    resumed.evaluate()
    world.writer.close_sweep(world.sweep_id, SweepStatus.INTERRUPTED)
    assert broken(world.path) == []


def test_a_running_sweep_is_not_pruned(world: Any) -> None:
    run = world.begin()
    run.train(7)
    with pytest.raises(Refused, match=f"{world.sweep_id} must have ended to be pruned, is RUNNING"):
        choose_sweeps(world.store, [world.sweep_id], older_than_days=None)
    assert choose_sweeps(world.store, [], older_than_days=0) == []
    with pytest.raises(StoreError, match="must have ended to be pruned, is RUNNING"):
        world.writer.prune_producer(run.runners[0].grant.producer_no)
    assert rows(world.path, "SELECT count(*) FROM steps") == [(28,)]


def test_a_database_in_use_is_not_pruned(green: Any) -> None:
    with Writer(green), pytest.raises(StoreLocked, match=f"in use by process {os.getpid()}"):
        prune_all(green)
    assert rows(green, "SELECT sum(steps_pruned) FROM producers") == [(0,)]


def test_sweeps_are_chosen_by_name_and_by_age(world: Any) -> None:
    now = now_us()
    world.writer.close_sweep(world.sweep_id, SweepStatus.FINISHED)
    for number, days in enumerate((10, 1)):
        writer = world.writer
        writer._clock_us = lambda days=days: now - days * DAY_US
        writer.open_sweep(world.new_sweep(sweep_id=f"other-{number}", experiment="other"))
        writer.close_sweep(f"other-{number}", SweepStatus.FAILED)

    def chosen(*names: str, older: float | None = None) -> set[str]:
        return {sweep.sweep_id for sweep in choose_sweeps(world.store, names, older_than_days=older)}

    assert chosen(older=5) == {world.sweep_id, "other-0"}
    assert chosen("other-0", "other-1", older=5) == {"other-0"}
    assert chosen("other", "other-1", "small") == {"other-1", world.sweep_id}
    with pytest.raises(BadInput, match="must be given sweeps, or --older-than DAYS"):
        chosen()
    with pytest.raises(NotFound, match="no sweep or experiment 'none'"):
        chosen("none")


def test_room_that_cannot_be_given_back_is_said_and_tried_again(green: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Any) -> None:
        raise StoreError(f"{self}: the disk is full")

    size = find_database(green).size_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(type(find_database(green)), "reclaim", refuse)
        with pytest.raises(
            StoreError, match=r"steps were deleted, but their room could not be given back: .*disk is full"
        ):
            prune_all(green)
    assert prune_all(green).bytes_after < size
