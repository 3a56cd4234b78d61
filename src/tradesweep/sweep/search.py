"""Points to try: Optuna behind ask, report and tell. Knows nothing of Ray.

The study lives in memory and is rebuilt from the store on resume; pruned trials are told as pruned, with their
intermediate scores, so that the sampler does not take a low rung for a result.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState, create_trial

from tradesweep.spec import Choice, Distribution, Grid, LogUniform, QUniform, RandInt, SweepSpec, Uniform
from tradesweep.sweep.points import Point, grid_points, is_active, order_by_condition, point_hash

REDRAWS = 20
"""How often a duplicate point is drawn again before it is accepted: a small space is exhausted at some time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PastTrial:
    """What the store knows of an ended trial."""

    trial_no: int
    point: Point
    scores: tuple[float, ...]
    """The score after each evaluation."""
    pruned: bool
    failed: bool


class PointSearch:
    """Asks Optuna for points and tells it how they did."""

    def __init__(self, spec: SweepSpec, past: Sequence[PastTrial] = ()) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._space = order_by_condition(spec.search)
        self._is_grid = spec.searcher.kind == "grid"
        self._study = optuna.create_study(
            direction="maximize",
            sampler=build_sampler(spec),
            pruner=build_pruner(spec),
            study_name=spec.experiment,
        )
        self._trials: dict[int, optuna.Trial] = {}
        self._seen: set[str] = set()
        for trial in past:
            self._add_past(trial)
        given = [*spec.searcher.points, *(grid_points(spec.search) if self._is_grid else ())]
        self._given = [point for point in given if point_hash(point) not in self._seen]

    def ask(self, trial_no: int) -> Point | None:
        """A point that was not tried yet, or None when a grid is exhausted."""
        if self._given:
            self._study.enqueue_trial(encode_point(self._space, self._given.pop(0)))
        elif self._is_grid:
            return None
        trial = self._study.ask()
        point = suggest_point(trial, self._space)
        for _ in range(REDRAWS):
            if point_hash(point) not in self._seen:
                break
            self._study.tell(trial, state=TrialState.FAIL)
            trial = self._study.ask()
            point = suggest_point(trial, self._space)
        self._seen.add(point_hash(point))
        self._trials[trial_no] = trial
        return point

    def adopt(self, trial_no: int, point: Point, scores: Sequence[float]) -> None:
        """Go on with an unfinished trial of an earlier run: the study sees it as running, with its scores."""
        self._study.enqueue_trial(encode_point(self._space, point))
        trial = self._study.ask()
        suggest_point(trial, self._space)
        for step, score in enumerate(scores, start=1):
            trial.report(score, step)
        self._seen.add(point_hash(point))
        self._trials[trial_no] = trial

    def report(self, trial_no: int, evaluation: int, score: float) -> bool:
        """Report a score; True when the trial should be pruned."""
        trial = self._trials[trial_no]
        trial.report(score, evaluation)
        return trial.should_prune()

    def tell_finished(self, trial_no: int, score: float) -> None:
        """The trial ran to its end, or stopped on its own patience."""
        self._study.tell(self._trials.pop(trial_no), score)

    def tell_pruned(self, trial_no: int) -> None:
        """The pruner ended it: its last report is what counts."""
        self._study.tell(self._trials.pop(trial_no), state=TrialState.PRUNED)

    def tell_failed(self, trial_no: int) -> None:
        """It failed, diverged or was lost."""
        self._study.tell(self._trials.pop(trial_no), state=TrialState.FAIL)

    def _add_past(self, past: PastTrial) -> None:
        self._seen.add(point_hash(past.point))
        failed = past.failed or not past.scores
        state = TrialState.FAIL if failed else TrialState.PRUNED if past.pruned else TrialState.COMPLETE
        encoded = encode_point(self._space, past.point)
        self._study.add_trial(
            create_trial(
                state=state,
                params=encoded,
                distributions={name: to_optuna(self._space[name]) for name in encoded},
                value=None if failed else past.scores[-1],
                intermediate_values=dict(enumerate(past.scores, start=1)),
            )
        )


def build_sampler(spec: SweepSpec) -> optuna.samplers.BaseSampler:
    """The sampler a spec names, seeded."""
    return SAMPLERS[spec.searcher.kind](spec)


def _tpe(spec: SweepSpec) -> optuna.samplers.BaseSampler:
    return optuna.samplers.TPESampler(
        seed=spec.seed, n_startup_trials=spec.searcher.startup_trials, constant_liar=True, multivariate=True
    )


def _random(spec: SweepSpec) -> optuna.samplers.BaseSampler:
    return optuna.samplers.RandomSampler(seed=spec.seed)


SAMPLERS = {"tpe": _tpe, "random": _random, "grid": _random}
"""A grid is enumerated and enqueued; its sampler is never asked."""


def build_pruner(spec: SweepSpec) -> optuna.pruners.BasePruner:
    """The pruner a spec names."""
    pruner = spec.pruner
    if pruner.kind == "none":
        return optuna.pruners.NopPruner()
    return optuna.pruners.SuccessiveHalvingPruner(
        min_resource=pruner.min_evaluations, reduction_factor=pruner.reduction_factor
    )


def suggest_point(trial: optuna.Trial, space: Mapping[str, Distribution]) -> Point:
    """Draw every parameter whose condition holds."""
    point: Point = {}
    for name, domain in space.items():
        if is_active(domain, point):
            point[name] = decode(domain, suggest(trial, name, domain))
    return point


def suggest(trial: optuna.Trial, name: str, domain: Distribution) -> Any:
    """Draw one parameter."""
    match to_optuna(domain):
        case FloatDistribution() as real:
            return trial.suggest_float(name, real.low, real.high, step=real.step, log=real.log)
        case IntDistribution() as whole:
            return trial.suggest_int(name, whole.low, whole.high)
        case CategoricalDistribution() as categories:
            return trial.suggest_categorical(name, categories.choices)
    raise AssertionError(f"no such distribution: {domain}")


def to_optuna(domain: Distribution) -> BaseDistribution:
    """A distribution of the spec as Optuna's; lists among options are written as JSON text."""
    match domain:
        case LogUniform():
            return FloatDistribution(domain.low, domain.high, log=True)
        case QUniform():
            return FloatDistribution(domain.low, domain.high, step=domain.q)
        case Uniform():
            return FloatDistribution(domain.low, domain.high)
        case RandInt():
            return IntDistribution(domain.low, domain.high)
        case Choice() | Grid():
            return CategoricalDistribution([_encode(option) for option in domain.options])
    raise AssertionError(f"no such distribution: {domain}")


def _encode(option: Any) -> Any:
    return json.dumps(option) if isinstance(option, (list, tuple)) else option


def decode(domain: Distribution, value: Any) -> Any:
    """Back from Optuna's value to the option it stands for."""
    if isinstance(domain, (Choice, Grid)):
        return next(option for option in domain.options if _encode(option) == value)
    return value


def encode_point(space: Mapping[str, Distribution], point: Mapping[str, Any]) -> dict[str, Any]:
    """A point as Optuna's parameters."""
    return {name: _encode(value) if isinstance(space[name], (Choice, Grid)) else value for name, value in point.items()}


logging.getLogger("optuna").setLevel(logging.ERROR)
