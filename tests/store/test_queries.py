"""What the read side gives."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest
from sqlalchemy import text

from tradesweep.errors import NotFound
from tradesweep.names import EpisodeRole, EvaluationStatus, SweepStatus, TrialStatus
from tradesweep.store import models, open_store, rows
from tradesweep.store.rows import SweepCounts

BACKENDS = ("sqlite", "postgresql")

MODEL_OF_ROW = {
    rows.SweepRow: models.Sweep,
    rows.TrialRow: models.Trial,
    rows.AttemptRow: models.Attempt,
    rows.IterationRow: models.Iteration,
    rows.EvaluationRow: models.Evaluation,
    rows.CheckpointRow: models.Checkpoint,
    rows.EpisodeRow: models.Episode,
    rows.CurveRow: models.EvaluationCurve,
    rows.PromotionRow: models.Promotion,
    rows.ReadingRow: models.HoldoutReading,
}
INTERNAL = {"last_producer_no", "steps_dropped"}


@pytest.mark.parametrize("row_type", MODEL_OF_ROW)
def test_a_row_type_has_the_columns_of_its_table(row_type: Any) -> None:
    columns = {column.name for column in MODEL_OF_ROW[row_type].table().columns}
    assert {field.name for field in fields(row_type)} == columns - INTERNAL


def test_a_sweep_is_found_by_its_id_or_as_the_newest_of_its_experiment(world: Any) -> None:
    world.writer.open_sweep(world.new_sweep(sweep_id="small-12345678-2"))
    store = world.store
    assert store.get_sweep("small-12345678").sweep_id == "small-12345678"
    assert store.get_sweep("small").sweep_id == "small-12345678-2"
    assert [sweep.sweep_id for sweep in store.list_sweeps()] == ["small-12345678-2", "small-12345678"]
    assert store.find_sweep("smal") is None


def test_a_clock_that_was_set_back_makes_no_sweep_older(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does going on with one make it newer; times are those that the clock said."""
    monkeypatch.setattr(world.writer, "_clock_us", lambda: 1)
    for number in (2, 10, 9):
        world.writer.open_sweep(world.new_sweep(sweep_id=f"small-12345678-{number}"))
    world.writer.open_sweep(world.new_sweep(sweep_id="other-1", experiment="other"))
    monkeypatch.setattr(world.writer, "_clock_us", lambda: 10**15)
    world.writer.close_sweep(world.sweep_id, SweepStatus.INTERRUPTED)
    world.writer.open_sweep(world.new_sweep(driver_pid=77))
    store = world.store
    newest_first = ["small-12345678-9", "small-12345678-10", "small-12345678-2", "small-12345678"]
    assert [sweep.sweep_id for sweep in store.list_sweeps("small")] == newest_first
    assert [sweep.sweep_id for sweep in store.list_sweeps()] == ["other-1", *newest_first]
    assert store.get_sweep("small").sweep_id == newest_first[0]
    assert store.get_sweep("small").created_at == 1


def test_closings_of_trials_are_read_in_their_order_and_read_on(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(3):
        world.open_trial(number)
    clock = iter(range(9, 0, -1))
    monkeypatch.setattr(world.writer, "_clock_us", lambda: next(clock))
    for trial_id, status in ((3, "INTERRUPTED"), (1, "FINISHED"), (2, "FAILED"), (3, "FINISHED")):
        world.writer.close_trial(trial_id, TrialStatus(status), None)
    found = world.store.closings_after(0, world.sweep_id)
    assert [trial_id for _, trial_id in found] == [3, 1, 2, 3]
    assert found == sorted(found)
    assert world.store.closings_after(found[1][0], world.sweep_id) == found[2:]
    assert world.store.closings_after(0, "other-1") == []


def test_what_is_not_there_is_named(world: Any) -> None:
    with pytest.raises(NotFound, match="there is no trial 77; `tradesweep status` lists them"):
        world.store.get_trial(77)
    with pytest.raises(NotFound, match="there is no episode 5"):
        world.store.equity_of_episode(5)
    assert world.store.find_trial(77) is None


def test_counts_of_a_finished_sweep(green: Any) -> None:
    assert open_store(green).counts("small-12345678") == SweepCounts(
        trials=3,
        trials_by_status={TrialStatus.FINISHED: 1, TrialStatus.STOPPED: 1, TrialStatus.FAILED: 1},
        attempts=4,
        iterations=7,
        episodes=count(green, "episodes"),
        open_episodes=0,
        steps=count(green, "steps"),
        steps_dropped=0,
        trades=count(green, "trades"),
        evaluations=8,
    )


def count(path: Any, table: str) -> int:
    with open_store(path).connect() as db:
        return int(db.execute(text(f"SELECT count(*) FROM {table}")).scalar_one())


def test_statuses_come_back_as_enums(green: Any) -> None:
    store = open_store(green)
    (evaluation,) = store.list_evaluations(3)
    assert isinstance(store.get_sweep("small").status, SweepStatus)
    assert isinstance(store.get_trial(1).status, TrialStatus)
    assert evaluation.status is EvaluationStatus.FLAT
    assert store.list_episodes(3)[0].role is EpisodeRole.TRAIN


def test_a_trials_best_checkpoint(green: Any) -> None:
    store = open_store(green)
    best = store.get_trial(1)
    checkpoint = store.find_best_checkpoint(best.trial_id)
    assert checkpoint is not None
    assert (checkpoint.iteration, checkpoint.sharpe) == (best.best_iteration, best.best_sharpe)
    assert store.find_best_checkpoint(3) is None


def test_a_resume_goes_on_from_the_last_kept_checkpoint(world: Any) -> None:
    run = world.begin()
    assert world.store.find_last_checkpoint(run.trial_id) is None
    for _ in range(3):
        run.train(2)
        run.evaluate()
    world.writer.mark_checkpoint_deleted(run.trial_id, 3)
    last = world.store.find_last_checkpoint(run.trial_id)
    assert last is not None
    assert last.iteration == 2


def test_equity_of_an_episode_begins_with_its_start(world: Any) -> None:
    run = world.begin()
    episode = run.evaluate()
    assert world.store.equity_of_episode(episode.number).tolist() == episode.equities


def test_the_ledger_gives_every_curve_whose_bars_overlap(green: Any) -> None:
    store, day = open_store(green), 86_400_000_000
    assert len(store.list_curves("sp500", first_time=0, last_time=15 * day)) == 8
    assert store.list_curves("sp500", first_time=56 * day, last_time=99 * day) == []
    assert store.list_curves("nasdaq", first_time=0, last_time=99 * day) == []


def test_every_step_without_a_fill_is_one_hold_and_every_fill_one_operation(green: Any) -> None:
    with open_store(green).connect() as db:
        operations = db.execute(text("SELECT count(*), count(DISTINCT operation_id) FROM trading_operations")).one()
        held = db.execute(text("SELECT count(*) FROM trading_operations WHERE operation_type = 'HOLD'")).scalar()
        unfilled = db.execute(text("SELECT count(*) FROM steps WHERE fill_price IS NULL")).scalar()
        least = db.execute(text("SELECT min(size) FROM trading_operations WHERE operation_type <> 'HOLD'")).scalar_one()
    assert tuple(operations) == (count(green, "fills") + unfilled,) * 2
    assert held == unfilled
    assert least > 0.0


def test_training_runs_keep_the_final_metrics(green: Any) -> None:
    with open_store(green).connect() as db:
        found = db.execute(text("SELECT run_id, status, final_metrics, notes FROM training_runs ORDER BY run_id")).all()
    assert [row.status for row in found] == ["FINISHED", "STOPPED", "FAILED"]
    assert all(row.final_metrics for row in found)
    assert found[2].notes == "Traceback: boom"
