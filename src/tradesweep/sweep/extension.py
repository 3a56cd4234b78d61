"""More env steps for the trials of a sweep that exists: those that spent their budget go on, in the same sweep."""

from __future__ import annotations

from tradesweep.errors import BadInput
from tradesweep.home import Home
from tradesweep.spec.models import MOST_ENV_STEPS
from tradesweep.store import database_exists, open_store
from tradesweep.sweep.plan import Plan, check_disk, lengthen


def extend_plan(plan: Plan, home: Home, steps: int | None) -> Plan:
    """The plan with the budget that its sweep is extended to now, or was before.

    Raises BadInput when there is no such sweep, or its trials have a larger budget already, or no trial may have such
    a one; SpecError when the rows of all of them are more than the sweep may keep.
    """
    check_steps(steps)
    sweep = open_store(home.database).find_sweep(plan.sweep_id) if database_exists(home.database) else None
    if steps is None:
        extended = None if sweep is None else sweep.env_steps_per_trial
        return plan if extended is None else lengthen(plan, extended)
    if sweep is None:
        raise BadInput(
            f"--extend-steps: {plan.sweep_id} must exist, does not; write budget.env_steps_per_trial: {steps} into"
            " experiments.yaml"
        )
    reached = sweep.env_steps_per_trial or plan.spec.budget.env_steps_per_trial
    if steps < reached:
        raise BadInput(
            f"--extend-steps: must be at least {reached}, the env steps a trial of {plan.sweep_id} has already, was"
            f" {steps}; what is trained stays trained"
        )
    longer = lengthen(plan, steps)
    check_disk(plan.spec, longer.disk_bytes)
    return longer


def check_steps(steps: int | None) -> None:
    """A trial's budget is bounded, whoever says it. Raises BadInput."""
    if steps is not None and steps > MOST_ENV_STEPS:
        raise BadInput(f"--extend-steps: must be at most {MOST_ENV_STEPS:,} env steps a trial, was {steps}")
