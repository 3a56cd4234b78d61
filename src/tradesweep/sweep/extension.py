"""More env steps for the trials of a sweep that exists: those that spent their budget go on, in the same sweep."""

from __future__ import annotations

from dataclasses import replace

from tradesweep.errors import BadInput
from tradesweep.home import Home
from tradesweep.store import database_exists, open_store
from tradesweep.sweep.plan import Plan


def extend_plan(plan: Plan, home: Home, steps: int | None) -> Plan:
    """The plan with the budget that its sweep is extended to now, or was before.

    Raises BadInput when there is no such sweep, or its trials have a larger budget already.
    """
    sweep = open_store(home.database).find_sweep(plan.sweep_id) if database_exists(home.database) else None
    if steps is None:
        return plan if sweep is None else replace(plan, extended_env_steps=sweep.env_steps_per_trial)
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
    return replace(plan, extended_env_steps=steps)
