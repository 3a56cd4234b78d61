"""The Writer: producers, batches, sweeps, trials, attempts."""

from __future__ import annotations

import json
import random
import threading
from contextlib import closing, suppress
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from tradesweep.errors import NotFound, StoreError
from tradesweep.names import (
    RECORD_COLUMNS,
    Answer,
    EpisodeStatus,
    Grant,
    ProducerKey,
    ProducerRole,
    Record,
    SweepEnd,
    SweepStatus,
    TrialPhase,
    TrialStatus,
)
from tradesweep.store import NewPromotion, NewTestReading, Writer, open_store, verify
from tradesweep.store.models import MODEL_OF_RECORD
from tradesweep.store.statements import BULK, EXTRA_COLUMNS

BACKENDS = ("sqlite", "postgresql")


def rows_of(address: Any, query: str, **values: Any) -> list[tuple[Any, ...]]:
    with open_store(address).connect() as db:
        return [tuple(row) for row in db.execute(text(query), values)]


def red_rules(world: Any) -> list[str]:
    return [result.rule for result in verify(world.store) if not result.passed]


# --- producers and batches ------------------------------------------------------------------------------------


def test_each_hello_begins_a_new_epoch_with_a_new_number(world: Any) -> None:
    run = world.begin()
    key = ProducerKey(world.sweep_id, run.trial_id, run.attempt, ProducerRole.RUNNER, 9)
    assert [world.writer.hello(key, pid=1, host="here").epoch for _ in range(3)] == [1, 2, 3]
    other = replace(key, worker=10)
    assert world.writer.hello(other, pid=1, host="here") == Grant(epoch=1, producer_no=7)


def test_hello_before_start_attempt_is_refused(world: Any) -> None:
    trial_id = world.open_trial(0)
    key = ProducerKey(world.sweep_id, trial_id, 1, ProducerRole.RUNNER, 0)
    with pytest.raises(StoreError, match="trial 1 has no attempt 1; call start_attempt before hello"):
        world.writer.hello(key, pid=1, host="here")


def test_a_batch_from_a_stranger_is_refused(world: Any) -> None:
    runner = world.begin().runners[0]
    batch = replace(runner.batch({}), producer=replace(runner.key, worker=77))
    with pytest.raises(StoreError, match="never said hello"):
        world.writer.apply(batch)


def test_a_batch_sent_again_is_a_duplicate_and_changes_nothing(world: Any) -> None:
    runner = world.begin().runners[0]
    batch = runner.batch(runner.lanes[0][0].between(0, 5))
    assert [world.writer.apply(batch) for _ in range(3)] == [Answer.OK, Answer.DUP, Answer.DUP]
    assert rows_of(world.path, "SELECT count(*) FROM steps") == [(5,)]


def test_a_batch_behind_a_lost_one_is_a_gap_until_the_lost_one_came(world: Any) -> None:
    runner = world.begin().runners[0]
    episode = runner.lanes[0][0]
    first, second = runner.batch(episode.between(0, 5)), runner.batch(episode.between(5, 9))
    answers = [world.writer.apply(batch) for batch in (second, first, second)]
    assert answers == [Answer.GAP, Answer.OK, Answer.OK]


def test_an_older_incarnation_is_fenced(world: Any) -> None:
    run = world.begin()
    old = run.runners[0]
    old.sample(5)
    batch = old.batch(old.lanes[0][0].between(5, 6))
    run.runner(1)
    assert world.writer.apply(batch) == Answer.FENCED
    assert world.writer.apply(replace(batch, epoch=3)) == Answer.FENCED


def test_batches_after_the_end_of_a_trial_are_fenced_but_applied_ones_stay_duplicates(world: Any) -> None:
    run = world.begin()
    runner = run.runners[0]
    applied = runner.batch(runner.lanes[0][0].between(0, 5))
    world.writer.apply(applied)
    world.writer.close_trial(run.trial_id, TrialStatus.PRUNED)
    late = runner.batch(runner.lanes[0][0].between(5, 6))
    assert (world.writer.apply(applied), world.writer.apply(late)) == (Answer.DUP, Answer.FENCED)


def test_a_batch_with_a_bad_row_leaves_nothing_and_can_be_mended(world: Any) -> None:
    runner = world.begin().runners[0]
    good = runner.batch(runner.lanes[0][0].between(0, 9))
    bad = replace(good, rows={**good.rows, Record.FILLS: [(1, 0, 0, "BUY", 1.0, 1.0, 0.0, 0.0)]})
    with pytest.raises(StoreError, match=r"(?i)check constraint"):
        world.writer.apply(bad)
    assert rows_of(world.path, "SELECT count(*) FROM steps") == [(0,)]
    assert world.writer.apply(good) == Answer.OK


@pytest.mark.parametrize("value", ["1.0x", b"1", [1.0]])
def test_a_value_of_another_type_is_refused(world: Any, value: Any) -> None:
    runner = world.begin().runners[0]
    with pytest.raises(StoreError):
        world.writer.apply(runner.batch(rows_with(runner, 5, value)))
    assert rows_of(world.path, "SELECT count(*) FROM episodes") == [(0,)]
    runner.seq = 0
    runner.sample(3)


@pytest.mark.parametrize("value", [np.float32(1.5), np.int64(1), np.bool_(True)])
def test_a_scalar_of_numpy_is_refused_or_stored_as_the_number_it_is(world: Any, value: Any) -> None:
    runner = world.begin().runners[0]
    with suppress(StoreError):
        world.writer.apply(runner.batch(rows_with(runner, 9, value)))
    assert rows_of(world.path, "SELECT equity FROM steps") in ([], [(float(value),)])


def rows_with(runner: Any, place: int, value: Any) -> Any:
    """One step with that value at that place."""
    rows = runner.lanes[0][0].between(0, 1)
    step = rows[Record.STEPS][0]
    return {**rows, Record.STEPS: [(*step[:place], value, *step[place + 1 :])]}


def test_not_a_number_is_refused_where_a_number_is_due(world: Any) -> None:
    runner = world.begin().runners[0]
    rows = runner.lanes[0][0].between(0, 1)
    step = rows[Record.STEPS][0]
    rows[Record.STEPS] = [(*step[:9], float("nan"), *step[10:])]
    with pytest.raises(StoreError, match=r"steps\.equity"):
        world.writer.apply(runner.batch(rows))


def test_an_episode_with_a_number_of_another_producer_is_refused(world: Any) -> None:
    first, second = world.begin().runners
    with pytest.raises(StoreError, match="must number its episodes 2 <<"):
        world.writer.apply(second.batch(first.lanes[0][0].between(0, 3)))


def test_closing_an_episode_that_was_never_opened_is_refused(world: Any) -> None:
    runner = world.begin().runners[0]
    rows = runner.lanes[0][0].between(0, 20)
    del rows[Record.EPISODES_OPENED]
    with pytest.raises(StoreError, match="must close episodes that are open, closed 1 of which 0 were"):
        world.writer.apply(runner.batch(rows))


def test_columns_of_every_record_kind_are_columns_of_its_table_in_order() -> None:
    for kind, columns in RECORD_COLUMNS.items():
        names = [column.name for column in columns]
        table = [column.name for column in MODEL_OF_RECORD[kind].table().columns]
        if kind == Record.EPISODES_CLOSED:
            assert set(names) < set(table)
        else:
            assert table[: len(names)] == names
            assert set(EXTRA_COLUMNS.get(kind, ())) <= set(table[len(names) :])


def test_columns_that_may_be_null_agree_with_their_record_kind() -> None:
    for kind, columns in RECORD_COLUMNS.items():
        for column in columns:
            stored = MODEL_OF_RECORD[kind].table().c[column.name]
            assert stored.nullable == column.nullable or kind == Record.EPISODES_CLOSED, (kind, column.name)


def test_inserted_rows_go_to_the_driver_as_they_are() -> None:
    assert {kind for kind, statement in BULK.items() if statement.order is not None} == {Record.EPISODES_CLOSED}


@settings(deadline=None, max_examples=12)
@given(seed=st.integers(0, 2**32 - 1))
def test_whatever_is_resent_lost_or_repeated_each_batch_is_applied_once(
    seed: int, backend: Any, world_type: Any
) -> None:
    """A producer that resends at random, skips ahead and repeats ends with exactly the rows it meant to send."""
    with closing(world_type(backend.empty())) as world:
        chance = random.Random(seed)
        runner = world.begin().runners[0]
        episode = runner.lanes[0][0]
        batches = [runner.batch(episode.between(t, t + 4)) for t in range(0, 20, 4)]
        done = 0
        while done < len(batches):
            place = chance.randrange(len(batches))
            answer = world.writer.apply(batches[place])
            assert answer == (Answer.DUP if place < done else Answer.OK if place == done else Answer.GAP)
            done += answer == Answer.OK
        stored = rows_of(world.path, "SELECT * FROM steps ORDER BY step_id")
        assert stored == [row for _, row in episode.cut[Record.STEPS]]


def test_threads_take_turns(world: Any) -> None:
    run = world.begin()
    runners = [run.runner(worker) for worker in range(10, 14)]

    def send(runner: Any) -> None:
        episode = runner.lanes[0][0]
        for t in range(20):
            runner.send(episode.between(t, t + 1))

    threads = [threading.Thread(target=send, args=(runner,)) for runner in runners]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert rows_of(world.path, "SELECT count(*), count(DISTINCT step_id >> 24) FROM steps") == [(80, 4)]


# --- sweeps ---------------------------------------------------------------------------------------------------


def test_opening_a_sweep_twice_by_one_driver_is_opening_it_once(world: Any) -> None:
    run = world.begin()
    world.writer.open_sweep(world.new_sweep())
    assert rows_of(world.path, "SELECT count(*) FROM outbox WHERE kind = 'sweep_opened'") == [(1,)]
    assert world.store.get_trial(run.trial_id).status == TrialStatus.RUNNING


def test_another_driver_interrupts_what_the_lost_one_left(world: Any) -> None:
    run = world.begin()
    run.train(5)
    world.writer.open_sweep(world.new_sweep(driver_pid=2))
    assert world.store.get_trial(run.trial_id).status == TrialStatus.INTERRUPTED
    assert {episode.status for episode in world.store.list_episodes(run.trial_id)} == {EpisodeStatus.ABANDONED}
    assert world.store.get_sweep(world.sweep_id).driver_pid == 2
    assert red_rules(world) == []


def test_a_sweep_with_another_identity_is_refused(world: Any) -> None:
    with pytest.raises(StoreError, match="a changed spec is another sweep: run it with --fresh"):
        world.writer.open_sweep(world.new_sweep(identity="f" * 64))


def test_a_finished_sweep_goes_on_with_more_trials(world: Any) -> None:
    world.writer.close_sweep(world.sweep_id, SweepStatus.FINISHED)
    world.writer.open_sweep(world.new_sweep(spec_json='{"trials": 9}', driver_pid=3))
    sweep = world.store.get_sweep(world.sweep_id)
    assert (sweep.status, sweep.ended_at, sweep.spec_json) == (SweepStatus.RUNNING, None, '{"trials": 9}')


def test_closing_a_sweep_interrupts_its_trials_and_works_twice(world: Any) -> None:
    run = world.begin()
    for _ in range(2):
        world.writer.close_sweep(world.sweep_id, SweepStatus.INTERRUPTED)
    assert world.store.get_trial(run.trial_id).status == TrialStatus.INTERRUPTED
    assert rows_of(world.path, "SELECT count(*) FROM outbox WHERE kind = 'sweep_closed'") == [(1,)]


def test_closing_an_unknown_sweep_is_refused(world: Any) -> None:
    with pytest.raises(NotFound, match="sweeps: there is no row with sweep_id nope"):
        world.writer.close_sweep("nope", SweepStatus.FINISHED)


# --- trials and attempts --------------------------------------------------------------------------------------


def test_opening_a_trial_twice_gives_its_id_again(world: Any) -> None:
    assert world.open_trial(0) == world.open_trial(0) == 1
    assert rows_of(world.path, "SELECT count(*) FROM outbox WHERE kind = 'trial_opened'") == [(1,)]


def test_a_trial_number_with_another_point_is_refused(world: Any) -> None:
    world.open_trial(0)
    with pytest.raises(StoreError, match="trial 0 has point hash0 and seed 7, was opened with other and 7"):
        world.writer.open_trial(world.sweep_id, 0, "{}", 7, "other")


def test_starting_an_attempt_twice_is_starting_it_once_until_somebody_produces(world: Any) -> None:
    trial_id = world.open_trial(0)
    assert world.writer.start_attempt(trial_id, 4242) == world.writer.start_attempt(trial_id, 4242) == 1
    world.writer.hello(ProducerKey(world.sweep_id, trial_id, 1, ProducerRole.TRIAL, 0), pid=1, host="here")
    assert world.writer.start_attempt(trial_id, 4242) == 2


def test_the_first_end_of_a_trial_stands(world: Any) -> None:
    run = world.begin()
    world.writer.close_trial(run.trial_id, TrialStatus.CRASHED, "worker process lost")
    world.writer.close_trial(run.trial_id, TrialStatus.FINISHED)
    trial = world.store.get_trial(run.trial_id)
    assert (trial.status, trial.error) == (TrialStatus.CRASHED, "worker process lost")
    assert rows_of(world.path, "SELECT count(*) FROM outbox WHERE kind = 'trial_closed'") == [(1,)]


def test_a_trial_that_ended_well_cannot_start_again(world: Any) -> None:
    run = world.begin()
    world.writer.close_trial(run.trial_id, TrialStatus.FINISHED)
    with pytest.raises(StoreError, match="trial 1 ended FINISHED; it cannot be started again"):
        world.writer.start_attempt(run.trial_id, 1)


def test_a_trial_cannot_be_closed_as_running(world: Any) -> None:
    run = world.begin()
    with pytest.raises(StoreError, match="must be closed with an end, was RUNNING"):
        world.writer.close_trial(run.trial_id, TrialStatus.RUNNING)


def test_an_interrupted_trial_goes_on_and_ends(world: Any) -> None:
    run = world.begin()
    run.train(7)
    run.evaluate()
    world.writer.close_trial(run.trial_id, TrialStatus.INTERRUPTED)
    again = world.TrialRun(world.writer, run.trial_id, resumed_from=1, env_steps=run.env_steps)
    again.train(9)
    again.evaluate()
    world.writer.close_trial(run.trial_id, TrialStatus.FINISHED)
    trial = world.store.get_trial(run.trial_id)
    assert (trial.status, trial.attempts, trial.iterations, trial.env_steps) == (TrialStatus.FINISHED, 2, 2, 64)
    assert red_rules(world) == []


def test_a_resume_from_a_checkpoint_that_is_not_there_changes_nothing(world: Any) -> None:
    run = world.begin()
    run.train(7)
    run.evaluate()
    with pytest.raises(StoreError, match="trial 1 has no checkpoint of iteration 5; start it anew"):
        world.writer.start_attempt(run.trial_id, 1, 5)
    assert world.store.get_trial(run.trial_id).attempts == 1
    run.train(3)


def test_the_summary_follows_the_best_eligible_validation_and_ties_go_to_the_earlier(world: Any) -> None:
    run = world.begin()
    up = [1.0 if world.rises(bar) else 0.0 for bar in range(15, 55)]
    worse = [float(target > 0.0 and t % 3 == 0) for t, target in enumerate(up)]
    flat = [0.0] * 40
    for targets, eligible in ((worse, True), (up, True), (up, True), (flat, True), (up, False)):
        run.train(2)
        episode = run.evaluate(targets=targets, eligible=eligible)
    trial = world.store.get_trial(run.trial_id)
    assert (trial.best_iteration, trial.iterations) == (2, 5)
    assert trial.best_sharpe == pytest.approx(episode.sharpe, rel=1e-15)
    assert trial.best_pnl == pytest.approx(episode.equity - 10_000.0, rel=1e-15)
    assert trial.last_score == pytest.approx(episode.sharpe, rel=1e-15)


def test_stress_runs_never_win(world: Any) -> None:
    run = world.begin()
    run.train(2)
    run.evaluate()
    before = world.store.get_trial(run.trial_id).best_sharpe
    number = next(run.trial.numbers)
    episode = world.Episode(number, [0.0, 1.0] * 20, role="stress", start_bar=15)
    row = (number, 1, "validation", 2.0, "OK", 9.0, 9.0, 40, len(episode.won), 0.0, 0.0, 0.5, 3.0, 1, 5)
    run.trial.send(world.merge(episode.between(0, 40), {Record.EVALUATIONS: [row]}))
    assert world.store.get_trial(run.trial_id).best_sharpe == before


def test_best_falls_back_when_the_better_iteration_is_superseded(world: Any) -> None:
    run = world.begin()
    up = [1.0 if world.rises(bar) else 0.0 for bar in range(15, 55)]
    run.train(2)
    run.evaluate(targets=[0.0, 1.0] * 20)
    run.train(2)
    run.evaluate(targets=up)
    assert world.store.get_trial(run.trial_id).best_iteration == 2
    world.writer.start_attempt(run.trial_id, 5, 1)
    trial = world.store.get_trial(run.trial_id)
    assert (trial.best_iteration, trial.iterations) == (1, 1)


# --- outbox ---------------------------------------------------------------------------------------------------


def outbox(world: Any) -> list[Any]:
    return world.store.outbox_after(0, 1000)


def test_the_outbox_tells_the_whole_story_in_order(world: Any) -> None:
    run = world.begin()
    run.train(7)
    run.evaluate()
    world.writer.close_trial(run.trial_id, TrialStatus.FINISHED)
    world.writer.close_sweep(world.sweep_id, SweepStatus.FINISHED)
    kinds = [row.kind for row in outbox(world)]
    assert kinds == ["sweep_opened", "trial_opened", "iteration", "checkpoint", "trial_closed", "sweep_closed"]


def test_payloads_hold_all_that_mlflow_needs(world: Any) -> None:
    run = world.begin()
    run.train(7)
    sharpe = run.evaluate().sharpe
    world.writer.close_trial(run.trial_id, TrialStatus.FINISHED)
    world.writer.close_sweep(world.sweep_id, SweepStatus.FINISHED)
    sweep, trial, iteration, checkpoint, trial_end, sweep_end = (row.payload for row in outbox(world))
    assert sweep["tags"]["data_sha256"] == "cd" * 32
    assert sweep["versions"] == {"ray": "2.60"}
    assert json.loads(sweep["spec_json"]) == {"experiment": "small"}
    assert trial["params"] == {"lr": 0.001, "gamma": 0.99}
    assert trial["sampled"] == {"lr": 0.001}
    assert (trial["trial_no"], trial["seed"], trial["experiment"]) == (0, 7, "small")
    assert iteration["metrics"]["validation/sharpe"] == sharpe
    assert (iteration["env_steps"], iteration["at"]) == (28, 1_000_000)
    assert (checkpoint["path"], checkpoint["is_best"]) == ("sweeps/small-12345678/000001", True)
    assert (trial_end["status"], trial_end["best"]["path"]) == ("FINISHED", checkpoint["path"])
    assert sweep_end["best"] == {"trial_id": 1, "trial_no": 0, "best_iteration": 1, "best_sharpe": sharpe}


def test_event_times_of_iterations_are_those_of_the_producer(world: Any) -> None:
    run = world.begin()
    run.train(7)
    run.evaluate()
    assert [row.at for row in outbox(world) if row.kind == "iteration"] == [1_000_000]


def test_a_checkpoint_that_is_not_better_is_not_announced_as_best(world: Any) -> None:
    run = world.begin()
    up = [1.0 if world.rises(bar) else 0.0 for bar in range(15, 55)]
    run.evaluate(targets=up)
    run.evaluate(targets=[0.0] * 40, eligible=False)
    assert [row.payload["is_best"] for row in outbox(world) if row.kind == "checkpoint"] == [True, False]


def test_delivered_rows_are_not_given_again(world: Any) -> None:
    world.begin()
    first, second = outbox(world)
    world.writer.mark_outbox([first.id])
    assert outbox(world) == [second]
    assert world.store.count_outbox() == 1
    assert world.store.outbox_after(second.id, 10) == []


# --- the rest -------------------------------------------------------------------------------------------------


def test_a_deleted_checkpoint_is_no_longer_listed(world: Any) -> None:
    run = world.begin()
    for _ in range(3):
        run.train(2)
        run.evaluate()
    world.writer.mark_checkpoint_deleted(run.trial_id, 2)
    assert [row.iteration for row in world.store.list_checkpoints(run.trial_id)] == [1, 3]


def test_promotions_and_test_readings_are_written_down(world: Any) -> None:
    run = world.begin()
    subject = {"experiment": "small", "sweep_id": world.sweep_id, "trial_id": run.trial_id, "iteration": 1}
    move = {
        "manifest_sha256": "ab" * 32,
        "model": "small",
        "version": "2",
        "alias": "champion",
        "previous_version": "1",
    }
    number = world.writer.record_promotion(NewPromotion(**subject, **move, verdict="PASSED", details={"dsr": 0.97}))
    bars = {"market_sha256": "cd" * 32, "instrument": "sp500", "first_time": 10, "last_time": 20}
    world.writer.record_test_reading(NewTestReading(**subject, **bars, sharpe=None, reason="promote"))
    assert [row.promotion_id for row in world.store.list_promotions(model="small")] == [number]
    assert [row.payload["details"] for row in outbox(world) if row.kind == "promotion"] == [{"dsr": 0.97}]
    assert len(world.store.list_test_readings("sp500", first_time=20, last_time=99)) == 1
    assert world.store.list_test_readings("sp500", first_time=21, last_time=99) == []


def test_mlflow_runs_are_noted(world: Any) -> None:
    run = world.begin()
    world.writer.set_sweep_mlflow_run(world.sweep_id, "parent")
    world.writer.set_trial_mlflow_run(run.trial_id, "child")
    assert world.store.get_sweep(world.sweep_id).mlflow_run_id == "parent"
    assert world.store.get_trial(run.trial_id).mlflow_run_id == "child"


def test_a_closed_writer_says_so(world: Any) -> None:
    world.writer.close()
    world.writer.close()
    with pytest.raises(StoreError, match="this Writer was closed"):
        world.open_trial(0)


def test_rows_survive_the_writer(world: Any) -> None:
    run = world.begin()
    run.train(7)
    world.writer.close()
    world.writer = Writer(world.path)
    runner = run.runners[0]
    runner.writer = world.writer
    runner.sample(3)
    assert rows_of(
        world.path, "SELECT last_seq FROM producers WHERE producer_no = :number", number=runner.grant.producer_no
    ) == [(2,)]


# --- points, ends, extensions ---------------------------------------------------------------------------------


def test_a_trial_alone_is_a_point_of_its_own_and_seeds_share_one(world: Any) -> None:
    world.open_trial(0)
    for number, seed_no, phase in ((1, 1, TrialPhase.SEARCH), (2, 2, TrialPhase.CONFIRM)):
        place = {"point_no": 0, "seed_no": seed_no, "phase": phase}
        world.writer.open_trial(world.sweep_id, number, "{}", 70 + number, "hash0", **place)
    world.open_trial(3)
    places = rows_of(world.path, "SELECT point_no, seed_no, phase FROM training_runs ORDER BY trial_no")
    assert places == [(0, 0, "search"), (0, 1, "search"), (0, 2, "confirm"), (3, 0, "search")]
    told = [row.payload for row in outbox(world) if row.kind == "trial_opened"]
    assert [(row["point_no"], row["seed_no"], row["phase"]) for row in told] == places


def test_a_seed_of_a_point_is_trained_once(world: Any) -> None:
    world.open_trial(0)
    with pytest.raises(StoreError):
        world.writer.open_trial(world.sweep_id, 1, "{}", 8, "hash0", point_no=0, seed_no=0)


def test_a_producer_that_comes_when_its_attempt_is_over_is_fenced_at_once(world: Any) -> None:
    run = world.begin()
    run.evaluate()
    world.writer.close_trial(run.trial_id, TrialStatus.FINISHED)
    late = world.Source(world.writer, run.key(ProducerRole.RUNNER, 3))
    assert world.writer.apply(late.batch({})) == Answer.FENCED
    assert "nothing_runs_after_the_end" not in red_rules(world)


def test_mlflow_hears_of_the_trial_that_won_and_not_of_the_highest(world: Any) -> None:
    runs = [world.begin(number) for number in (0, 1)]
    for run in runs:
        run.evaluate()
        world.writer.close_trial(run.trial_id, TrialStatus.FINISHED)
    world.writer.close_sweep(world.sweep_id, SweepStatus.FINISHED, None, runs[1].trial_id)
    assert outbox(world)[-1].payload["best"]["trial_no"] == 1


def test_a_sweep_says_what_ended_it_until_it_goes_on(world: Any) -> None:
    world.writer.close_sweep(world.sweep_id, SweepStatus.FINISHED, SweepEnd.PATIENCE)
    assert world.store.get_sweep(world.sweep_id).end_reason is SweepEnd.PATIENCE
    world.writer.open_sweep(world.new_sweep(driver_started_at=6))
    assert world.store.get_sweep(world.sweep_id).end_reason is None


def test_an_extended_trial_goes_on_as_another_attempt_and_every_rule_holds(world: Any) -> None:
    run = world.begin(0)
    run.train(7, 9)
    run.evaluate()
    world.writer.close_trial(run.trial_id, TrialStatus.FINISHED)
    world.writer.close_sweep(world.sweep_id, SweepStatus.FINISHED)
    with pytest.raises(StoreError, match="ended FINISHED"):
        world.writer.start_attempt(run.trial_id, 9, 1)
    for started_at, steps in ((6, run.env_steps), (7, run.env_steps + 1)):
        world.writer.open_sweep(world.new_sweep(driver_started_at=started_at, env_steps_per_trial=steps))
        reopened = world.store.get_trial(run.trial_id).status == TrialStatus.INTERRUPTED
        assert reopened == (steps > run.env_steps)
    more = world.TrialRun(world.writer, run.trial_id, resumed_from=1, env_steps=run.env_steps)
    more.train(7, 9)
    more.evaluate()
    world.writer.close_trial(run.trial_id, TrialStatus.FINISHED)
    world.writer.close_sweep(world.sweep_id, SweepStatus.FINISHED)
    assert red_rules(world) == []
    counted = rows_of(world.path, "SELECT iteration, attempt, env_steps FROM effective_iterations ORDER BY 1")
    assert counted == [(1, 1, run.env_steps), (2, 2, more.env_steps)]
