"""Begin, go on, or show: what a command does with a plan. Needs Ray only when there is something to run."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psutil

from tradesweep.errors import StoreLocked
from tradesweep.home import Home
from tradesweep.names import TRIAL_ENDS, SweepStatus
from tradesweep.store import SweepRow, database_exists, open_store
from tradesweep.sweep.outcome import Outcome, count_outcome
from tradesweep.sweep.plan import Plan
from tradesweep.tracking import deliver_outbox


def start_sweep(
    plan: Plan, *, home: Home, root: Path, fresh: bool = False, on_started: Callable[[str], None] | None = None
) -> Outcome:
    """Run the sweep of `plan`, go on with it, or say that it is finished.

    `fresh` begins another sweep of the same identity. Raises StoreLocked when another process runs a sweep on this
    database.
    """
    plan = choose_sweep(plan, home, fresh=fresh)
    if is_finished(plan, home):
        deliver_outbox(home)
        return count_outcome(plan, home, SweepStatus.FINISHED, already_finished=True)
    check_free(plan.sweep_id, home)
    from tradesweep.sweep.run import run_sweep  # Ray takes seconds to import

    return run_sweep(plan, home=home, root=root, on_started=on_started)


def check_free(sweep_id: str, home: Home) -> None:
    """Raise StoreLocked at once when a living driver on this machine is in the way, before Ray is started.

    Where a database has one writer that is every sweep, elsewhere only the same one. The recorder of a driver that was
    killed holds the lock for some seconds more; a new recorder waits for it.
    """
    if not database_exists(home.database):
        return
    store = open_store(home.database)
    for sweep in store.list_sweeps():
        in_the_way = sweep.sweep_id == sweep_id or not store.database.many_writers
        if in_the_way and sweep.status == SweepStatus.RUNNING and is_driver_alive(sweep):
            raise StoreLocked(
                f"{home.database}: {sweep.sweep_id} is being run by process {sweep.driver_pid}; wait for it to end, or"
                " stop it with Ctrl-C"
            )


def is_driver_alive(sweep: SweepRow) -> bool:
    """Is the process that opened the sweep still there? A pid counts only with a start before the sweep's."""
    if sweep.driver_host != socket.gethostname() or sweep.driver_pid == os.getpid():
        return False
    try:
        started_s = psutil.Process(sweep.driver_pid).create_time()
    except psutil.Error:
        return False
    return started_s * 1e6 <= sweep.driver_started_at


def choose_sweep(plan: Plan, home: Home, *, fresh: bool) -> Plan:
    """The newest sweep of the plan's identity, or with `fresh` a new one beside those that exist."""
    if not database_exists(home.database):
        return plan
    known = [sweep for sweep in open_store(home.database).list_sweeps() if sweep.identity == plan.identity]
    if fresh and known:
        return replace(plan, sweep_id=f"{plan.sweep_id}-{len(known) + 1}")
    newest = max(known, key=lambda sweep: sweep.created_at, default=None)
    return plan if newest is None else replace(plan, sweep_id=newest.sweep_id)


def is_finished(plan: Plan, home: Home) -> bool:
    """True when the sweep has all its trials already."""
    if not database_exists(home.database):
        return False
    store = open_store(home.database)
    sweep = store.find_sweep(plan.sweep_id)
    if sweep is None or sweep.status != SweepStatus.FINISHED:
        return False
    return sum(trial.status in TRIAL_ENDS for trial in store.list_trials(plan.sweep_id)) >= plan.trials
