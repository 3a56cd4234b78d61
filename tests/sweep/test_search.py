"""Points come from the space, once each, and the study hears the truth about them."""

from __future__ import annotations

import json
import math
import random
from statistics import median

import optuna
import pytest

from tradesweep.sweep.points import count_points, list_points, point_hash
from tradesweep.sweep.samplers import MODELS
from tradesweep.sweep.search import PastTrial, PointSearch

MANY = """
algorithm: ppo
fixed: {gamma: 0.9}
search:
  lr: {loguniform: [1e-4, 1e-2]}
  clip_param: {uniform: [0.1, 0.3]}
  entropy_coeff: {quniform: [0.0, 0.1, 0.025]}
  num_epochs: {randint: [2, 4]}
  model.hiddens: {choice: [[32, 32], [64, 64]]}
  use_kl_loss: {choice: [true, false]}
  kl_coeff: {uniform: [0.1, 0.5], when: {use_kl_loss: true}}
"""

GRID = """
algorithm: dqn
fixed: {gamma: 0.9}
search:
  n_step: {grid: [1, 3]}
  model.hiddens: {grid: [[32], [64]]}
  tau: {grid: [0.5, 1.0], when: {n_step: 3}}
"""


SMOOTH = """
algorithm: ppo
search:
  lr: {loguniform: [1e-5, 1e-1]}
  gamma: {uniform: [0.8, 1.0]}
"""

BOUND = """
algorithm: ppo
fixed: {use_kl_loss: true}
search:
  lr: {loguniform: [1e-4, 1e-2]}
  minibatch_size: {randint: [32, 512]}
  train_batch_size_per_learner: {randint: [32, 512]}
"""

DRAWN = ["random", "qmc", "tpe", "cmaes", pytest.param("gp", marks=pytest.mark.slow)]


def score(point: dict) -> float:
    """Best at lr 5e-4; of the rest a little matters too."""
    return -abs(math.log10(point["lr"]) + 3.3) - abs(point.get("gamma", 0.9) - 0.9)


def draw(search: PointSearch, count: int, first: int = 0) -> list[dict]:
    points = []
    for number in range(first, first + count):
        point = search.ask(number)
        assert point is not None
        points.append(point)
        search.tell_finished(number, score(point) if "lr" in point else float(number % 3))
    return points


def past(points: list[dict]) -> list[PastTrial]:
    return [
        PastTrial(
            trial_no=number, point=json.loads(json.dumps(point)), scores=(score(point),), pruned=False, failed=False
        )
        for number, point in enumerate(points)
    ]


@pytest.mark.parametrize("kind", DRAWN)
def test_every_point_lies_in_the_space_and_is_new(load, kind: str) -> None:
    spec = load(f"searcher.kind={kind}", "searcher.startup_trials=3", sweep=MANY)
    points = draw(PointSearch(spec), 15)
    assert len({point_hash(point) for point in points}) == 15
    for point in points:
        assert 1e-4 <= point["lr"] <= 1e-2
        assert 0.1 <= point["clip_param"] <= 0.3
        assert point["entropy_coeff"] in (0, 0.025, 0.05, 0.075, 0.1)
        assert point["num_epochs"] in (2, 3, 4)
        assert point["model.hiddens"] in ([32, 32], [64, 64])
        assert ("kl_coeff" in point) == point["use_kl_loss"]


@pytest.mark.parametrize("kind", DRAWN)
def test_the_same_seed_draws_the_same_points_and_another_seed_others(load, kind: str) -> None:
    texts = f"searcher.kind={kind}", "searcher.startup_trials=3"
    first, again = (draw(PointSearch(load("seed=3", *texts, sweep=MANY)), 6) for _ in range(2))
    other = draw(PointSearch(load("seed=4", *texts, sweep=MANY)), 6)
    assert first == again
    assert not any(point in first for point in other)


@pytest.mark.parametrize("kind", DRAWN)
@pytest.mark.parametrize("done", [2, 9])
def test_a_search_that_was_interrupted_goes_on_as_if_it_had_not_been(load, kind: str, done: int) -> None:
    """Before and after its model begins; CMA-ES has a generation behind it by then."""
    spec = load(f"searcher.kind={kind}", "searcher.startup_trials=3", "searcher.points=[{lr: 0.01}]", sweep=SMOOTH)
    whole = draw(PointSearch(spec), 12)
    assert draw(PointSearch(spec, past(whole[:done])), 12 - done, first=done) == whole[done:]


@pytest.mark.parametrize("kind", DRAWN)
def test_what_still_runs_is_not_proposed_again_after_a_resume(load, kind: str) -> None:
    spec = load(f"searcher.kind={kind}", "searcher.startup_trials=2", sweep=SMOOTH)
    first = draw(PointSearch(spec), 6)
    search = PointSearch(spec, past(first)[:3])
    for number in (3, 4, 5):
        search.adopt(number, first[number], ())
    points = [search.ask(number) for number in range(6, 12)]
    assert len({point_hash(point) for point in [*first, *points]}) == 12


@pytest.mark.parametrize("kind", DRAWN)
def test_what_is_drawn_keeps_the_bounds_between_keys(load, kind: str) -> None:
    spec = load(f"searcher.kind={kind}", "searcher.startup_trials=3", "env.episode_bars=100", sweep=BOUND)
    points = draw(PointSearch(spec), 12)
    assert all(point["minibatch_size"] <= point["train_batch_size_per_learner"] for point in points)


def test_a_grid_is_every_combination_once_and_then_nothing(load) -> None:
    spec = load("searcher.kind=grid", sweep=GRID)
    search = PointSearch(spec)
    points = draw(search, count_points(spec))
    assert len(points) == 6, "tau counts only where n_step is 3"
    assert {point_hash(point) for point in points} == {point_hash(point) for point in list_points(spec)}
    assert search.ask(99) is None


def test_an_interrupted_grid_goes_on_with_what_is_left(load) -> None:
    spec = load("searcher.kind=grid", sweep=GRID)
    whole = draw(PointSearch(spec), 6)
    gone = [PastTrial(trial_no=0, point=whole[0], scores=(), pruned=False, failed=True)]
    search = PointSearch(spec, gone)
    search.adopt(1, whole[1], (0.5,))
    assert draw(search, 4, first=2) == whole[2:]
    assert search.ask(6) is None


def test_given_points_come_first_and_once(load) -> None:
    spec = load("searcher.points=[{lr: 0.002}, {lr: 0.0015}, {lr: 0.002}]")
    points = draw(PointSearch(spec), 3)
    assert [point["lr"] for point in points[:2]] == [0.002, 0.0015]
    assert points[2]["lr"] not in (0.002, 0.0015)
    assert [point["lr"] for point in draw(PointSearch(spec, past(points[:1])), 1, first=1)] == [0.0015]


@pytest.mark.parametrize("kind", DRAWN)
def test_what_a_given_point_leaves_out_is_drawn_within_the_bounds(load, kind: str) -> None:
    spec = load(f"searcher.kind={kind}", "searcher.points=[{minibatch_size: 500}]", sweep=BOUND)
    [point] = draw(PointSearch(spec), 1)
    assert point["minibatch_size"] == 500
    assert 500 <= point["train_batch_size_per_learner"] <= 512


@pytest.mark.parametrize("kind", ["random", "qmc", "tpe"])
def test_a_small_space_is_tried_whole_and_then_the_search_ends(load, caplog, kind: str) -> None:
    spec = load("search.lr={choice: [0.001, 0.002, 0.003]}", f"searcher.kind={kind}", "searcher.startup_trials=1")
    search = PointSearch(spec)
    assert sorted(point["lr"] for point in draw(search, 3)) == [0.001, 0.002, 0.003]
    assert [search.ask(3), search.ask(3)] == [None, None]
    assert [record.getMessage() for record in caplog.records] == [
        "no point is left that was not tried: the search ends after 3"
    ]


def test_the_steps_of_a_range_are_written_as_a_person_writes_them(load) -> None:
    spec = load("search={tau: {quniform: [0.1, 1, 0.1]}}", "searcher.points=[{tau: 0.3}]", "budget.trials=10")
    points = draw(PointSearch(spec), 10)
    assert sorted(point["tau"] for point in points) == [step / 10 for step in range(1, 11)]


def test_the_study_hears_finished_pruned_and_failed_as_such(load) -> None:
    search = PointSearch(load())
    for number in range(3):
        search.ask(number)
        search.report(number, 1, 0.5 * number)
    search.tell_finished(0, 0.7)
    search.tell_pruned(1)
    search.tell_failed(2)
    states = [trial.state.name for trial in search._study.trials]
    assert states == ["COMPLETE", "PRUNED", "FAIL"]
    assert search._study.trials[0].value == 0.7
    assert search._study.trials[1].intermediate_values == {1: 0.5}


def test_a_rebuilt_search_knows_the_past_and_goes_on_with_the_unfinished(load) -> None:
    spec = load()
    past = [
        PastTrial(trial_no=0, point={"lr": 0.002}, scores=(0.1, 0.9), pruned=False, failed=False),
        PastTrial(trial_no=1, point={"lr": 0.0011}, scores=(0.1,), pruned=True, failed=False),
        PastTrial(trial_no=2, point={"lr": 0.0012}, scores=(), pruned=False, failed=True),
    ]
    search = PointSearch(spec, past)
    search.adopt(3, {"lr": 0.0025}, (0.4, 0.5))
    search.tell_finished(3, 0.6)
    trials = search._study.trials
    assert [trial.state.name for trial in trials] == ["COMPLETE", "PRUNED", "FAIL", "COMPLETE"]
    assert trials[0].value == 0.9
    assert trials[3].params["lr"] == pytest.approx(0.0025)
    assert trials[3].intermediate_values == {1: 0.4, 2: 0.5}


def test_successive_halving_prunes_the_worst(load) -> None:
    kind = "{kind: successive_halving, min_evaluations: 1, reduction_factor: 2}"
    search = PointSearch(load(f"pruner={kind}"))
    verdicts = []
    for number, score in enumerate([3.0, 2.0, 1.0, 0.0]):
        search.ask(number)
        verdicts.append(search.report(number, 1, score))
    assert verdicts[-1], "the worst of four at the first rung"
    assert not verdicts[0]


def test_without_a_pruner_nothing_is_pruned(load) -> None:
    search = PointSearch(load())
    for number in range(4):
        search.ask(number)
        assert not any(search.report(number, step, -float(number)) for step in range(1, 8))


def race(search: PointSearch, numbers: range, curves: list[list[float]]) -> list[PastTrial]:
    """Trials with these scores, one after the other, each until the pruner stops it."""
    ended = []
    for number in numbers:
        point, curve = search.ask(number), curves[number]
        assert point is not None
        last = next((step for step, reached in enumerate(curve, 1) if search.report(number, step, reached)), None)
        if last is None:
            search.tell_finished(number, curve[-1])
        else:
            search.tell_pruned(number)
        scores = tuple(curve[:last])
        ended.append(PastTrial(trial_no=number, point=point, scores=scores, pruned=last is not None, failed=False))
    return ended


PRUNING = ["successive_halving", "median", "hyperband"]


COUNTED = "{algorithm: dqn, search: {n_step: {randint: [1, 30]}}}"
"""So small that a model draws the same point again, which a rebuilt study does not know of."""


@pytest.mark.parametrize(
    ("kind", "sweep"), [("random", SMOOTH), ("tpe", SMOOTH), ("cmaes", SMOOTH), ("tpe", COUNTED)],
    ids=["random", "tpe", "cmaes", "tpe with redraws"],
)  # fmt: skip
@pytest.mark.parametrize("pruner", PRUNING)
def test_a_search_goes_on_with_every_pruner_as_if_nothing_had_happened(
    load, pruner: str, kind: str, sweep: str
) -> None:
    """Points and verdicts hang on what earlier trials reached, and a rebuilt study has all of it."""
    settings = f"pruner={{kind: {pruner}, min_evaluations: 1, reduction_factor: 2, startup_trials: 2}}"
    spec = load(settings, f"searcher={{kind: {kind}, startup_trials: 2}}", "budget.trials=20", sweep=sweep)
    chance = random.Random(5)
    curves = [[chance.random() for _ in range(8)] for _ in range(20)]
    whole = race(PointSearch(spec), range(20), curves)
    assert 3 < sum(trial.pruned for trial in whole) < 20
    assert race(PointSearch(spec, whole[:10]), range(10, 20), curves) == whole[10:]


@pytest.mark.parametrize("pruner", PRUNING)
def test_a_trial_that_goes_on_is_judged_by_all_that_it_reached(load, pruner: str) -> None:
    spec = load(f"pruner={{kind: {pruner}, min_evaluations: 1, reduction_factor: 2, startup_trials: 2}}")
    chance = random.Random(5)
    curves = [[chance.random() for _ in range(8)] for _ in range(24)]
    whole = race(PointSearch(spec), range(24), curves)
    for number, trial in enumerate(whole):
        reached = len(trial.scores) - 1
        search = PointSearch(spec, whole[:number])
        search.adopt(number, trial.point, trial.scores[:reached])
        assert search.report(number, reached + 1, trial.scores[reached]) == trial.pruned


def test_hyperband_gives_some_trials_longer_before_it_judges(load) -> None:
    spec = load("pruner={kind: hyperband, min_evaluations: 1, reduction_factor: 2}", "evaluation.count=8")
    search = PointSearch(spec)
    judged = set()
    for number in range(40):
        search.ask(number)
        steps = (step for step in range(1, 9) if search.report(number, step, -float(number)))
        judged.add(next(steps, None))
    assert {1, 2, 4} <= judged


def test_the_median_waits_for_its_startup_trials_and_evaluations(load) -> None:
    search = PointSearch(load("pruner={kind: median, min_evaluations: 3, startup_trials: 2}"))
    verdicts = []
    for number in range(4):
        search.ask(number)
        verdicts.append([search.report(number, step, -float(number)) for step in range(1, 5)])
        search.tell_finished(number, -float(number))
    assert verdicts == [[False] * 4, [False] * 4, [False, False, True, True], [False, False, True, True]]


CONDITIONAL = """
algorithm: ppo
search:
  lr: {loguniform: [1e-6, 1.0]}
  use_kl_loss: {choice: [true, false]}
  kl_coeff: {loguniform: [1e-4, 10.0], when: {use_kl_loss: true}}
"""


@pytest.mark.parametrize(
    ("kind", "sweep", "seeds"),
    [
        pytest.param("tpe", SMOOTH, 12, id="tpe"),
        pytest.param("tpe", CONDITIONAL, 12, id="tpe with a condition"),
        pytest.param("cmaes", SMOOTH, 12, id="cmaes"),
        pytest.param("gp", SMOOTH, 2, id="gp", marks=pytest.mark.slow),
    ],
)
def test_a_model_finds_a_better_point_than_random_at_equal_budget(load, kind: str, sweep: str, seeds: int) -> None:
    """Several seeds, so that one lucky draw does not decide; a Gaussian process takes long for one."""
    budget = 30 if seeds > 2 else 14

    def reward(point: dict) -> float:
        distance = abs(math.log10(point["lr"]) + 3.3)
        if "use_kl_loss" in point:
            distance += abs(math.log10(point["kl_coeff"]) + 1.0) if point["use_kl_loss"] else 1.5
        return -distance - abs(point.get("gamma", 0.9) - 0.9)

    def best(kind: str, seed: int) -> float:
        search = PointSearch(load(f"searcher.kind={kind}", f"seed={seed}", sweep=sweep))
        rewards = []
        for number in range(budget):
            point = search.ask(number)
            assert point is not None
            rewards.append(reward(point))
            search.tell_finished(number, rewards[-1])
        return max(rewards)

    modelled = [best(kind, seed) for seed in range(seeds)]
    at_random = [best("random", seed) for seed in range(12)]
    assert median(modelled) > median(at_random)


def test_a_model_that_fails_ends_no_sweep_and_is_logged(load, monkeypatch, caplog) -> None:
    class Singular(optuna.samplers.RandomSampler):
        def sample_independent(self, *arguments: object) -> float:
            raise ArithmeticError("matrix is singular")

    monkeypatch.setitem(MODELS, "gp", lambda spec, seed: Singular(seed))
    search = PointSearch(load("searcher.kind=gp"))
    assert len({point["lr"] for point in draw(search, 2)}) == 2
    assert [record.getMessage() for record in caplog.records] == [
        "the model fails, and point 0 is drawn without it (ArithmeticError: matrix is singular)",
        "the model fails, and point 1 is drawn without it (ArithmeticError: matrix is singular)",
    ]
    assert not any(record.exc_info for record in caplog.records), "a line a point, no traceback"
    assert "matrix is singular" in caplog.text


def test_optuna_says_nothing_on_the_terminal(load, capsys) -> None:
    draw(PointSearch(load()), 3)
    assert capsys.readouterr() == ("", "")
    assert optuna.logging.get_verbosity() == optuna.logging.ERROR
