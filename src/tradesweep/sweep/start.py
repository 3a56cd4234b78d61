"""Begin, go on, or show: what a command does with a plan. Needs Ray only when there is something to run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from tradesweep.home import Home
from tradesweep.names import SweepStatus
from tradesweep.store import database_exists, find_database, open_store
from tradesweep.sweep.agenda import is_complete
from tradesweep.sweep.driver import be_driver
from tradesweep.sweep.extension import extend_plan
from tradesweep.sweep.outcome import Outcome, count_outcome
from tradesweep.sweep.plan import Plan
from tradesweep.tracking import deliver_outbox


def start_sweep(
    plan: Plan,
    *,
    home: Home,
    root: Path,
    fresh: bool = False,
    extend_steps: int | None = None,
    on_started: Callable[[str], None] | None = None,
) -> Outcome:
    """Run the sweep of `plan`, go on with it, or say that it is finished.

    `fresh` begins another sweep of the same identity, `extend_steps` gives each trial of the one there is that budget.
    Raises BadInput when there is none to extend, or it has a larger budget already, and StoreLocked when another
    process runs a sweep on this database.
    """
    plan = extend_plan(choose_sweep(plan, home, fresh=fresh), home, extend_steps)
    if is_finished(plan, home):
        deliver_outbox(home)
        return count_outcome(plan, home, SweepStatus.FINISHED, already_finished=True)
    check_writable(home)
    with be_driver(home, plan.sweep_id, plan.spec.experiment):
        from tradesweep.sweep.run import run_sweep  # Ray takes seconds to import

        return run_sweep(plan, home=home, root=root, on_started=on_started)


def check_writable(home: Home) -> None:
    """Raise StoreError when there is a database that cannot be written; nothing was touched then."""
    database = find_database(home.database)
    if database.exists():
        database.check_writable()


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
    """True when the sweep has everything that the plan asks of it."""
    if not database_exists(home.database):
        return False
    store = open_store(home.database)
    sweep = store.find_sweep(plan.sweep_id)
    steps = plan.env_steps_per_trial
    return sweep is not None and is_complete(store, sweep, plan.spec, points=plan.points, env_steps_per_trial=steps)
