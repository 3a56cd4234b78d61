"""Every trade leads to the checkpoint whose training it continues."""

from __future__ import annotations

from typing import Any

from sqlalchemy import text

BACKENDS = ("sqlite", "postgresql")


def lineage(world: Any, role: str) -> set[tuple[Any, ...]]:
    sql = (
        "SELECT attempt, weights_version, checkpoint_attempt, checkpoint_iteration FROM trade_lineage"
        f" WHERE role = '{role}'"
    )
    with world.store.connect() as db:
        return {tuple(row) for row in db.execute(text(sql))}


def act_with(run: Any, weights_version: int) -> None:
    """Begin episodes whose steps carry that version."""
    for runner in run.runners:
        runner.weights_version = weights_version
        runner.lanes = [runner.begin(), runner.begin()]


def test_trades_of_an_untrained_policy_lead_to_no_checkpoint(world: Any) -> None:
    run = world.begin()
    act_with(run, 3)
    run.train(20)
    assert {row[2:] for row in lineage(world, "train")} == {(None, None)}


def test_trades_of_an_evaluation_lead_to_the_checkpoint_it_judges(world: Any) -> None:
    run = world.begin()
    for _ in range(2):
        run.train(20)
        run.evaluate()
    assert lineage(world, "validation") == {(1, 10, 1, 1), (1, 20, 1, 2)}


def test_trades_between_two_checkpoints_lead_to_the_earlier_one(world: Any) -> None:
    run = world.begin()
    run.train(20)
    run.evaluate()
    act_with(run, 13)
    run.train(20)
    run.evaluate()
    assert (1, 13, 1, 1) in lineage(world, "train")


def test_trades_after_a_resume_lead_to_the_checkpoint_it_went_on_from(world: Any) -> None:
    run = world.begin()
    run.train(20)
    run.evaluate()
    again = world.TrialRun(world.writer, run.trial_id, resumed_from=1, env_steps=80)
    act_with(again, 12)
    again.train(20)
    again.evaluate()
    assert (2, 12, 1, 1) in lineage(world, "train")
    assert (2, 20, 2, 2) in lineage(world, "validation")


def test_every_trade_whose_steps_are_there_has_a_lineage(world: Any) -> None:
    run = world.begin()
    run.train(20, 8)
    run.evaluate()
    with world.store.connect() as db:
        counts = db.execute(text("SELECT (SELECT count(*) FROM trades), (SELECT count(*) FROM trade_lineage)")).one()
    assert counts[0] == counts[1] > 0
