"""Points to try: Optuna behind ask, report and tell. Knows nothing of Ray.

The study lives in memory and is rebuilt from the store on resume, by the same steps that made it. Pruned trials are
told as pruned, with their intermediate scores, so that the sampler does not take a low rung for a result.
"""

from __future__ import annotations

import json
import logging
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState

from tradesweep.spec import (
    Choice,
    Distribution,
    Grid,
    LogUniform,
    QUniform,
    RandInt,
    SweepSpec,
    Uniform,
    broken_bounds,
    is_active,
    order_by_condition,
)
from tradesweep.sweep.journal import Journal
from tradesweep.sweep.points import Point, is_countable, list_points, point_at, point_hash, snap
from tradesweep.sweep.pruners import NUMBER, build_pruner
from tradesweep.sweep.samplers import MODELS, draw_seed, rows

REDRAWS = {"tpe": 20, "cmaes": 20, "gp": 2}
"""How often a model is asked before a point is drawn without it. A Gaussian process repeats itself, and is slow."""
MOST_ROWS, MOST_ROWS_IF_LISTED = 10_000, 100
"""Places that are looked at for one new point; where points can be listed, the rest of the list is looked through."""

LONGEST_WHY = 200
"""Characters of a model's error that a line shows."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class PastTrial:
    """What the store knows of an ended trial."""

    trial_no: int
    point: Point
    scores: tuple[float, ...]
    """The score after each evaluation."""
    pruned: bool
    failed: bool
    value: float | None = None
    """What was told at its end; None: its last score."""


class PointSearch:
    """Asks Optuna for points and tells it how they did; `journal` is a file that shows it to optuna-dashboard."""

    def __init__(self, spec: SweepSpec, past: Sequence[PastTrial] = (), journal: Path | None = None) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._spec, self._space = spec, order_by_condition(spec.search)
        self._model = MODELS.get(spec.searcher.kind)
        self._study = optuna.create_study(
            direction="maximize",
            sampler=optuna.samplers.RandomSampler(seed=spec.seed),
            pruner=build_pruner(spec),
            study_name=spec.experiment,
        )
        self._running: dict[int, optuna.Trial] = {}
        self._places: dict[int, int] = {}
        """Of the sweep's trials in the study, which also has points that were drawn again."""
        self._tried: dict[str, Point] = {}
        self._given = deque(self._snap(point) for point in spec.searcher.points)
        self._listed = list_points(spec) if is_countable(spec) else None
        self._is_exhausted = False
        self._journal: Journal | None = None
        for trial in past:
            self._add_past(trial)
        if journal is not None:
            self._journal = Journal(journal)
            self._journal.rewrite(self._kept_trials())

    def ask(self, trial_no: int) -> Point | None:
        """A point that was not tried yet and keeps all bounds, or None when there are no more."""
        while self._given:
            given = self._given.popleft()
            if not self._was_tried(given) and (point := self._draw(trial_no, given)) is not None:
                return point
        if self._is_exhausted:
            return None
        if (point := self._draw(trial_no, {})) is None:
            self._is_exhausted = True
            logger.warning("no point is left that was not tried: the search ends after %s", len(self._tried))
        return point

    def adopt(self, trial_no: int, point: Point, scores: Sequence[float]) -> None:
        """Go on with an unfinished trial of an earlier run: the study sees it as running, with its scores."""
        self._keep(trial_no, self._begin(trial_no, point))
        for evaluation, score in enumerate(scores, start=1):
            # The pruner learns what the trial reached. It went on then, so what the pruner says now is not heard.
            self.report(trial_no, evaluation, score)

    def report(self, trial_no: int, evaluation: int, score: float) -> bool:
        """Report a score; True when the trial should be pruned."""
        trial = self._running[trial_no]
        trial.report(score, evaluation)
        if self._journal is not None:
            self._journal.report(trial_no, evaluation, score)
        return trial.should_prune()

    def tell_finished(self, trial_no: int, score: float) -> None:
        """The trial ran to its end, or stopped on its own patience."""
        self._tell(trial_no, TrialState.COMPLETE, score)

    def tell_pruned(self, trial_no: int) -> None:
        """The pruner ended it: its last report is what counts."""
        self._tell(trial_no, TrialState.PRUNED)

    def tell_failed(self, trial_no: int) -> None:
        """It failed, diverged or was lost."""
        self._tell(trial_no, TrialState.FAIL)

    def _tell(self, trial_no: int, state: TrialState, score: float | None = None) -> None:
        told = self._study.tell(self._running.pop(trial_no), score, state=state)
        if self._journal is not None:
            self._journal.end(trial_no, state, told.value)

    def _add_past(self, past: PastTrial) -> None:
        self.adopt(past.trial_no, past.point, past.scores)
        if past.failed or not (past.scores or past.value is not None):
            self.tell_failed(past.trial_no)
        elif past.pruned:
            self.tell_pruned(past.trial_no)
        else:
            self.tell_finished(past.trial_no, past.scores[-1] if past.value is None else past.value)

    def _snap(self, point: Mapping[str, Any]) -> Point:
        return {name: snap(self._space[name], value) for name, value in point.items()}

    def _was_tried(self, given: Point) -> bool:
        return any(given.items() <= tried.items() for tried in self._tried.values())

    def _is_new(self, point: Point) -> bool:
        return point_hash(point) not in self._tried and not broken_bounds(self._spec, point)

    def _draw(self, trial_no: int, given: Point) -> Point | None:
        """A new point with what is given; it runs from here on."""
        trial = self._draw_by_model(trial_no, given) or self._draw_by_rows(trial_no, given)
        return None if trial is None else self._keep(trial_no, trial)

    def _draw_by_model(self, trial_no: int, given: Point) -> optuna.Trial | None:
        for redraw in range(REDRAWS.get(self._spec.searcher.kind, 0)):
            try:
                trial = self._begin(trial_no, given, redraw)
                point = suggest_point(trial, self._space)
            except Exception as error:  # here it would end every trial, for the numbers of a model
                why = " ".join(f"{type(error).__name__}: {error}".split())
                logger.warning("the model fails, and point %s is drawn without it (%s)", trial_no, why[:LONGEST_WHY])
                return None
            if self._is_new(point):
                return trial
            self._study.tell(trial, state=TrialState.FAIL)
            if broken := {bound.smaller for bound in broken_bounds(self._spec, point)} - given.keys():
                kept = {name: value for name, value in point.items() if name not in broken}
                return self._draw_by_rows(trial_no, kept | given)
        return None

    def _draw_by_rows(self, trial_no: int, given: Point) -> optuna.Trial | None:
        new = (point for point in self._unmodelled(trial_no, given) if self._is_new(point))
        point = next(new, None)
        return None if point is None else self._begin(trial_no, point)

    def _unmodelled(self, trial_no: int, given: Point) -> Iterator[Point]:
        """Points that no result has led to. Where they can be listed, each is among them."""
        if self._listed is None:
            return self._places_of(trial_no, given, MOST_ROWS)
        if self._spec.searcher.kind == "grid":
            return self._listed
        places = self._places_of(trial_no, given, MOST_ROWS_IF_LISTED)
        return places if given else chain(places, self._listed)

    def _places_of(self, trial_no: int, given: Point, most: int) -> Iterator[Point]:
        for row in islice(rows(self._spec, trial_no), most):
            yield point_at(self._space, row.tolist(), given)

    def _begin(self, trial_no: int, point: Point, redraw: int = 0) -> optuna.Trial:
        """A trial of the study with this point, or with what the model adds to it."""
        if self._model is not None:
            self._study.sampler = self._model(self._spec, draw_seed(self._spec, trial_no, redraw))
        self._study.enqueue_trial(encode_point(self._space, point), user_attrs={NUMBER: trial_no})
        trial = self._study.ask()
        if self._spec.searcher.kind == "cmaes":
            # CMA-ES counts the trials of a generation where it is asked, and Optuna does not ask for a known point.
            assert trial.relative_params is not None
        return trial

    def _keep(self, trial_no: int, trial: optuna.Trial) -> Point:
        point = suggest_point(trial, self._space)
        self._tried[point_hash(point)] = point
        is_again = trial_no in self._places
        self._running[trial_no], self._places[trial_no] = trial, trial.number
        if self._journal is not None and is_again:
            self._journal.rewrite(self._kept_trials())
        elif self._journal is not None:
            self._journal.begin(self._kept_trials()[-1])
        return point

    def _kept_trials(self) -> list[FrozenTrial]:
        """The sweep's trials as the study has them, each once."""
        trials = self._study.get_trials(deepcopy=False)
        return [trials[place] for place in self._places.values()]


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
    return snap(domain, value)


def encode_point(space: Mapping[str, Distribution], point: Mapping[str, Any]) -> dict[str, Any]:
    """A point as Optuna's parameters."""
    return {name: _encode(value) if isinstance(space[name], (Choice, Grid)) else value for name, value in point.items()}


logging.getLogger("optuna").setLevel(logging.ERROR)
