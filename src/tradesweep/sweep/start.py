"""Begin, go on, or show: which sweep a command means, and what it does with it.

Needs Ray only when there is something to run.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path

from tradesweep.errors import BadInput
from tradesweep.home import Home
from tradesweep.names import SweepStatus
from tradesweep.store import SweepRow, database_exists, find_database, open_store
from tradesweep.sweep.agenda import is_complete
from tradesweep.sweep.differences import check_same
from tradesweep.sweep.driver import be_driver
from tradesweep.sweep.extension import extend_plan
from tradesweep.sweep.outcome import Outcome, count_outcome
from tradesweep.sweep.plan import Plan, look_at_disk
from tradesweep.tracking import deliver_outbox


def start_sweep(plan: Plan, *, home: Home, root: Path, on_started: Callable[[str], None] | None = None) -> Outcome:
    """Run the sweep of a settled plan, go on with it, or say how it ended when there is nothing left to do.

    Raises StoreLocked when another process runs a sweep on this database.
    """
    ended = find_end(plan, home)
    if ended is not None:
        deliver_outbox(home)
        return count_outcome(plan, home, ended, already_finished=True)
    check_writable(home)
    with be_driver(home, plan.sweep_id, plan.spec.experiment):
        from tradesweep.sweep.run import run_sweep  # Ray takes seconds to import

        return run_sweep(plan, home=home, root=root, on_started=on_started)


def settle_plan(
    plan: Plan, home: Home, *, fresh: bool = False, extend_steps: int | None = None, sweep_id: str | None = None
) -> Plan:
    """The plan of the very sweep that a command means: the newest of its identity, or the one of that id.

    `fresh` begins another sweep of the same identity, `extend_steps` gives each trial of the one there is that budget.
    Raises BadInput when the sweep of that id is not what the plan says, when there is none to extend, or when it has a
    larger budget already.
    """
    if sweep_id is None:
        chosen = choose_sweep(plan, home, fresh=fresh)
    elif fresh:
        raise BadInput(
            f"--fresh begins another sweep of an experiment, {sweep_id} is one that there is; write `tradesweep sweep"
            f" {plan.spec.experiment} --fresh`"
        )
    else:
        check_same(plan, open_store(home.database).get_sweep(sweep_id))
        chosen = replace(plan, sweep_id=sweep_id)
    return look_at_disk(extend_plan(chosen, home, extend_steps), home)


def find_experiment(name: str, experiments: Collection[str], home: Home) -> tuple[str, str | None]:
    """The experiment that a name means, and the sweep's id when it is the name of a sweep."""
    if name in experiments or not database_exists(home.database):
        return name, None
    sweep = open_store(home.database).find_sweep(name)
    return (name, None) if sweep is None else (sweep.experiment, sweep.sweep_id)


def check_writable(home: Home) -> None:
    """Raise StoreError when there is a database that cannot be written; nothing was touched then."""
    database = find_database(home.database)
    if database.exists():
        database.check_writable()


def choose_sweep(plan: Plan, home: Home, *, fresh: bool) -> Plan:
    """The newest sweep of the plan's identity, or with `fresh` a new one beside those that exist."""
    if not database_exists(home.database):
        return plan
    sweeps = open_store(home.database).list_sweeps(plan.spec.experiment)
    numbers = [number_of(sweep, plan) for sweep in sweeps if sweep.identity == plan.identity]
    number = max(numbers, default=0) + fresh
    return plan if number <= 1 else replace(plan, sweep_id=f"{plan.sweep_id}-{number}")


def number_of(sweep: SweepRow, plan: Plan) -> int:
    """Which one of its identity it is: the number behind its id. No clock is asked, which may have been set back."""
    behind = sweep.sweep_id.removeprefix(f"{plan.sweep_id}-")
    return int(behind) if behind.isdecimal() else 1


def find_end(plan: Plan, home: Home) -> SweepStatus | None:
    """How the sweep ended, when it has everything that the plan asks of it; None when there is something to do."""
    if not database_exists(home.database):
        return None
    store = open_store(home.database)
    sweep = store.find_sweep(plan.sweep_id)
    if sweep is None:
        return None
    steps = plan.env_steps_per_trial
    complete = is_complete(store, sweep, plan.spec, points=plan.points, env_steps_per_trial=steps)
    return sweep.status if complete else None
