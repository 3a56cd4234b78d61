"""A trial outlives its runners: one that is killed is replaced, and what it left behind is closed and counted."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest
from tests.faults.invariants import check_invariants
from tests.faults.sweeps import finish, query, running, wait_until

pytestmark = [pytest.mark.fault, pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]

SETTINGS = {
    "tiny_ppo": ("--set", "budget.trials=1 budget.env_steps_per_trial=32768 env.episode_bars=400"),
    "tiny_dqn": (
        "--set",
        "budget.trials=1 budget.env_steps_per_trial=16000 env.episode_bars=400 resources.env_runners=2",
    ),
}
"""Long episodes: a kill at any time hits one in the middle."""


@pytest.mark.parametrize("experiment", ["tiny_ppo", "tiny_dqn"])
def test_a_killed_runner_is_replaced_and_its_trial_goes_on(make_workplace, experiment: str) -> None:
    workplace = make_workplace()
    with running(workplace, "sweep", experiment, *SETTINGS[experiment]) as process:
        wait_until(lambda: query(workplace.database, "select 1 from iterations where iteration = 2"), process)
        killed, worker = kill_a_runner(workplace)
        printed = finish(process)
        assert process.returncode == 0, printed
    assert query(workplace.database, "select status, attempts, iterations from trials") == [("FINISHED", 1, 8)]
    check_incarnations(workplace, killed, worker)
    check_what_it_left(workplace, killed)
    check_invariants(workplace.database)


def kill_a_runner(workplace: Any) -> tuple[int, int]:
    """Kill a runner that is in the middle of an episode; its producer number and its worker."""
    sql = """
        select p.producer_no, p.pid, p.worker from producers p join episodes e on e.producer_no = p.producer_no
        where p.role = 'runner' and e.status = 'OPEN' and p.steps_recorded > 0 order by p.worker desc limit 1
    """
    ((producer_no, pid, worker),) = query(workplace.database, sql)
    os.kill(pid, signal.SIGKILL)
    return producer_no, worker


def check_incarnations(workplace: Any, killed: int, worker: int) -> None:
    """The dead one is shut out, a second one took over, and the other runner noticed nothing."""
    sql = "select worker, epoch, end_reason, steps_recorded > 0 from producers where role = 'runner' order by 1, 2"
    other = 1 if worker == 2 else 2
    assert query(workplace.database, sql) == sorted(
        [(other, 1, "DONE", 1), (worker, 1, "FENCED", 1), (worker, 2, "DONE", 1)]
    )
    ((reason,),) = query(workplace.database, "select end_reason from producers where producer_no = ?", killed)
    assert reason == "FENCED"


def check_what_it_left(workplace: Any, killed: int) -> None:
    """Its open episodes are abandoned, with their numbers, and what they held is marked at the last price."""
    sql = (
        "select count(*) from episodes where producer_no = ? and status = 'ABANDONED' and end_reason = 'PRODUCER_LOST'"
    )
    ((abandoned,),) = query(workplace.database, sql, killed)
    assert abandoned == 2, "both of its lanes"
    unsummed = "select 1 from episodes where producer_no = ? and (final_equity is null or total_steps is null)"
    assert not query(workplace.database, unsummed, killed)
    held = """
        select count(*) from episodes e join steps s on s.step_id = (e.episode_no << 24) + e.total_steps - 1
        where e.producer_no = ? and e.status = 'ABANDONED' and s.units <> 0
    """
    marked = """
        select count(*) from trades t join episodes e on e.episode_no = t.episode_no
        where e.producer_no = ? and e.status = 'ABANDONED' and t.status = 'MARKED'
    """
    assert query(workplace.database, held, killed) == query(workplace.database, marked, killed)
