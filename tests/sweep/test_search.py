"""Points come from the space, once each, and the study hears the truth about them."""

from __future__ import annotations

import math

import optuna
import pytest

from tradesweep.sweep.points import count_points, grid_points, point_hash
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


def draw(search: PointSearch, count: int) -> list[dict]:
    points = []
    for number in range(count):
        point = search.ask(number)
        assert point is not None
        points.append(point)
        search.tell_finished(number, float(number % 3))
    return points


@pytest.mark.parametrize("kind", ["tpe", "random"])
def test_every_point_lies_in_the_space(load, kind: str) -> None:
    spec = load(f"searcher.kind={kind}", "searcher.startup_trials=3", sweep=MANY)
    for point in draw(PointSearch(spec), 25):
        assert 1e-4 <= point["lr"] <= 1e-2
        assert 0.1 <= point["clip_param"] <= 0.3
        assert min(abs(point["entropy_coeff"] - step) for step in (0, 0.025, 0.05, 0.075, 0.1)) < 1e-12
        assert point["num_epochs"] in (2, 3, 4)
        assert point["model.hiddens"] in ([32, 32], [64, 64])
        assert ("kl_coeff" in point) == point["use_kl_loss"]


def test_the_same_seed_draws_the_same_points_and_another_seed_others(load) -> None:
    first, again = (draw(PointSearch(load("seed=3", sweep=MANY)), 8) for _ in range(2))
    other = draw(PointSearch(load("seed=4", sweep=MANY)), 8)
    assert first == again
    assert first != other


def test_a_grid_is_every_combination_once_and_then_nothing(load) -> None:
    spec = load("searcher.kind=grid", sweep=GRID)
    search = PointSearch(spec)
    points = draw(search, count_points(spec))
    assert len(points) == 6, "tau counts only where n_step is 3"
    assert {point_hash(point) for point in points} == {point_hash(point) for point in grid_points(spec.search)}
    assert search.ask(99) is None


def test_given_points_come_first(load) -> None:
    spec = load("searcher.points=[{lr: 0.002}, {lr: 0.0015}]")
    assert [point["lr"] for point in draw(PointSearch(spec), 2)] == [0.002, 0.0015]


def test_a_duplicate_is_drawn_again_while_the_space_has_others(load) -> None:
    spec = load("search.lr={choice: [0.001, 0.002, 0.003]}", "searcher.kind=random")
    points = draw(PointSearch(spec), 3)
    assert sorted(point["lr"] for point in points) == [0.001, 0.002, 0.003]
    assert PointSearch(spec).ask(0) is not None


def test_an_exhausted_space_repeats_instead_of_hanging(load) -> None:
    spec = load("search.lr={choice: [0.001, 0.002]}", "searcher.kind=random")
    assert len(draw(PointSearch(spec), 5)) == 5


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


def test_tpe_finds_a_better_point_than_random_at_equal_budget(load) -> None:
    """Several seeds, so that one lucky draw does not decide."""

    def best(kind: str, seed: int) -> float:
        spec = load(f"searcher.kind={kind}", f"seed={seed}", "search.lr={loguniform: [1e-6, 1.0]}")
        search = PointSearch(spec)
        scores = []
        for number in range(25):
            point = search.ask(number)
            assert point is not None
            scores.append(-abs(math.log10(point["lr"]) + 3.3))
            search.tell_finished(number, scores[-1])
        return max(scores)

    tpe = sorted(best("tpe", seed) for seed in range(7))
    random = sorted(best("random", seed) for seed in range(7))
    assert tpe[3] > random[3]


def test_optuna_says_nothing_on_the_terminal(load, capsys) -> None:
    draw(PointSearch(load()), 3)
    assert capsys.readouterr() == ("", "")
    assert optuna.logging.get_verbosity() == optuna.logging.ERROR
