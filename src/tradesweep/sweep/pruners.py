"""Who stops trials that fall behind: Optuna's pruners over evaluations."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import optuna
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner, SuccessiveHalvingPruner

from tradesweep.spec import SweepSpec

NUMBER = "point_no"
"""Of Optuna's attributes of a trial: the number that the sweep has for its point."""


class SteadyHyperband(HyperbandPruner):
    """Hyperband whose brackets hold through a resume.

    Optuna's goes by a trial's number in the study. Points that were drawn again count there, and are forgotten when a
    study is rebuilt.
    """

    def _get_bracket_id(self, study: optuna.Study, trial: Any) -> int:
        numbered: Any = SimpleNamespace(number=trial.user_attrs[NUMBER])
        return int(super()._get_bracket_id(study, numbered))


def build_pruner(spec: SweepSpec) -> BasePruner:
    """The pruner a spec names; its steps are evaluations, counted from 1."""
    return PRUNERS[spec.pruner.kind](spec)


def _none(spec: SweepSpec) -> BasePruner:
    del spec
    return NopPruner()


def _successive_halving(spec: SweepSpec) -> BasePruner:
    return SuccessiveHalvingPruner(
        min_resource=spec.pruner.min_evaluations, reduction_factor=spec.pruner.reduction_factor
    )


def _median(spec: SweepSpec) -> BasePruner:
    return MedianPruner(n_startup_trials=spec.pruner.startup_trials, n_warmup_steps=spec.pruner.min_evaluations)


def _hyperband(spec: SweepSpec) -> BasePruner:
    return SteadyHyperband(
        min_resource=spec.pruner.min_evaluations,
        max_resource=spec.evaluation.count,
        reduction_factor=spec.pruner.reduction_factor,
    )


PRUNERS = {"none": _none, "successive_halving": _successive_halving, "median": _median, "hyperband": _hyperband}
