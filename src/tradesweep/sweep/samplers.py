"""Who draws new points: models over the trials of a study, and rows of numbers in [0, 1) that know nothing of them.

Both are made anew for each point from the seed, the trial's number and how often it was drawn again. So a search that
was interrupted goes on as if it had not been: what it draws depends on the trials it knows, and on no generator that
was lost with the process.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, CmaEsSampler, GPSampler, TPESampler

from tradesweep.spec import SweepSpec

Row = npt.NDArray[np.float64]


def draw_seed(spec: SweepSpec, trial_no: int, redraw: int) -> int:
    """The seed of one draw."""
    return int(np.random.SeedSequence([spec.seed, trial_no, redraw]).generate_state(1)[0])


def _tpe(spec: SweepSpec, seed: int) -> BaseSampler:
    return TPESampler(seed=seed, n_startup_trials=spec.searcher.startup_trials, constant_liar=True, multivariate=True)


def _cmaes(spec: SweepSpec, seed: int) -> BaseSampler:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return CmaEsSampler(
            seed=seed,
            n_startup_trials=spec.searcher.startup_trials,
            independent_sampler=_tpe(spec, seed),
            warn_independent_sampling=False,
            # Where most trials are pruned at a rung, a generation of finished ones would never come together.
            consider_pruned_trials=spec.pruner.kind in ("successive_halving", "hyperband"),
        )


def _gp(spec: SweepSpec, seed: int) -> BaseSampler:
    return GPSampler(
        seed=seed,
        n_startup_trials=spec.searcher.startup_trials,
        independent_sampler=_tpe(spec, seed),
        warn_independent_sampling=False,
    )


MODELS: dict[str, Callable[[SweepSpec, int], BaseSampler]] = {"tpe": _tpe, "cmaes": _cmaes, "gp": _gp}
"""What CMA-ES and the Gaussian process cannot model, options and conditional parameters, TPE draws for them."""


def _random_rows(spec: SweepSpec, trial_no: int, width: int) -> Iterator[Row]:
    generator = np.random.default_rng([spec.seed, trial_no])
    while True:
        yield generator.random(width)


def _sobol_rows(spec: SweepSpec, trial_no: int, width: int) -> Iterator[Row]:
    """From the trial's own place in one scrambled sequence on."""
    from scipy.stats.qmc import Sobol

    engine = Sobol(width, scramble=True, rng=spec.seed)
    if trial_no:
        engine.fast_forward(trial_no)
    while True:
        yield engine.random(1)[0]


ROWS: dict[str, Callable[[SweepSpec, int, int], Iterator[Row]]] = {"random": _random_rows, "qmc": _sobol_rows}
"""Places in the unit cube, without an end. A model that keeps drawing what was tried gives way to random ones."""


def rows(spec: SweepSpec, trial_no: int) -> Iterator[Row]:
    """Places for one trial's point, one after the other until one is new."""
    return ROWS.get(spec.searcher.kind, _random_rows)(spec, trial_no, len(spec.search))
