"""A resume marks what ran past the checkpoint; the effective views count each thing once."""

from __future__ import annotations

from typing import Any

from sqlalchemy import text

from tradesweep.names import TrialStatus
from tradesweep.store import verify

BACKENDS = ("sqlite", "postgresql")


def query(world: Any, sql: str) -> list[tuple[Any, ...]]:
    with world.store.connect() as db:
        return [tuple(row) for row in db.execute(text(sql))]


def effective(world: Any) -> dict[int, int | None]:
    return dict(query(world, "SELECT episode_no, effective_steps FROM episodes WHERE role = 'train'"))


def counted_steps(world: Any, trial_id: int) -> int:
    sql = f"SELECT count(*) FROM effective_steps WHERE trial_id = {trial_id} AND role = 'train'"
    return int(query(world, sql)[0][0])


def resume(world: Any, run: Any, iteration: int | None, env_steps: int) -> Any:
    return world.TrialRun(world.writer, run.trial_id, resumed_from=iteration, env_steps=env_steps)


def test_episodes_are_cut_where_their_lane_stood_at_the_checkpoint(world: Any) -> None:
    run = world.begin()
    run.train(13)
    run.evaluate()
    lanes = [position for runner in run.runners for position in runner.positions]
    run.train(5)
    resume(world, run, 1, 52)
    assert effective(world) == dict(lanes)
    assert counted_steps(world, run.trial_id) == 52


def test_episodes_that_were_over_count_whole_and_later_ones_not_at_all(world: Any) -> None:
    run = world.begin()
    run.train(20, 8)
    run.evaluate()
    over = [row.episode_no for row in world.store.list_episodes(run.trial_id, role="train") if row.status != "OPEN"]
    running = dict(position for runner in run.runners for position in runner.positions)
    run.train(12, 6)
    resume(world, run, 1, 112)
    found = effective(world)
    later = set(found) - set(over) - set(running)
    assert len(over) == len(running) == len(later) == 4
    assert {found[number] for number in over} == {None}
    assert {number: found[number] for number in running} == running
    assert {found[number] for number in later} == {0}
    assert counted_steps(world, run.trial_id) == 112


def test_episodes_of_a_runner_that_came_after_the_checkpoint_do_not_count(world: Any) -> None:
    run = world.begin()
    run.train(9)
    run.evaluate()
    replacement = run.runner(1)
    replacement.sample(6)
    resume(world, run, 1, 36)
    of_replacement = [
        row for row in world.store.list_episodes(run.trial_id) if row.producer_no == replacement.grant.producer_no
    ]
    assert [row.effective_steps for row in of_replacement] == [0, 0]


def test_episodes_of_a_runner_that_was_lost_before_the_checkpoint_count_whole(world: Any) -> None:
    run = world.begin()
    run.train(9)
    lost = run.runners[0].grant.producer_no
    run.runners[0] = run.runner(1)
    run.train(4)
    run.evaluate()
    run.train(3)
    resume(world, run, 1, run.env_steps)
    of_lost = [row for row in world.store.list_episodes(run.trial_id) if row.producer_no == lost]
    assert [row.effective_steps for row in of_lost] == [None, None]


def test_each_iteration_counts_once_after_any_number_of_resumes(world: Any) -> None:
    run = world.begin()
    for _ in range(3):
        run.train(6)
        run.evaluate()
    second = resume(world, run, 2, 48)
    second.train(4)
    second.evaluate()
    third = resume(world, run, 1, 24)
    for _ in range(2):
        third.train(8)
        third.evaluate()
    world.writer.close_trial(run.trial_id, TrialStatus.FINISHED)
    found = query(world, "SELECT iteration, attempt, env_steps FROM effective_iterations ORDER BY iteration")
    assert found == [(1, 1, 24), (2, 3, 56), (3, 3, 88)]
    assert [row.attempt for row in world.store.list_evaluations(run.trial_id)] == [1, 3, 3]
    assert [row.attempt for row in world.store.list_checkpoints(run.trial_id)] == [1, 3, 3]
    assert len(world.store.list_iterations(run.trial_id, superseded=True)) == 6
    assert counted_steps(world, run.trial_id) == 88
    assert [result.rule for result in verify(world.store) if not result.passed] == []


def test_a_start_from_nothing_supersedes_everything(world: Any) -> None:
    run = world.begin()
    run.train(6)
    run.evaluate()
    resume(world, run, None, 0)
    assert world.store.list_iterations(run.trial_id) == []
    assert counted_steps(world, run.trial_id) == 0
    assert query(world, "SELECT count(*) FROM effective_episodes") == [(0,)]
    trial = world.store.get_trial(run.trial_id)
    assert (trial.env_steps, trial.iterations, trial.best_iteration) == (0, 0, None)


def test_an_evaluation_counts_whole_or_not_at_all(world: Any) -> None:
    run = world.begin()
    for _ in range(2):
        run.train(6)
        run.evaluate()
    resume(world, run, 1, 24)
    found = query(world, "SELECT effective_steps FROM episodes WHERE role = 'validation' ORDER BY episode_no")
    assert found == [(None,), (0,)]


def test_no_step_row_is_changed_by_a_resume(world: Any) -> None:
    run = world.begin()
    run.train(9)
    run.evaluate()
    run.train(4)
    before = query(world, "SELECT * FROM steps ORDER BY step_id")
    resume(world, run, 1, 36)
    assert query(world, "SELECT * FROM steps ORDER BY step_id") == before


def test_the_attempt_remembers_where_it_came_from(world: Any) -> None:
    run = world.begin()
    run.train(9)
    run.evaluate()
    resume(world, run, 1, 36)
    first, second = world.store.list_attempts(run.trial_id)
    assert (first.status, second.status) == (TrialStatus.CRASHED, TrialStatus.RUNNING)
    assert (second.resumed_from_attempt, second.resumed_from_iteration, second.resumed_env_steps) == (1, 1, 36)
