"""Rules over several keys."""

from __future__ import annotations

import pytest

from tradesweep.spec import possible_values


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["fixed.minibatch_size=513"],
            "fixed.minibatch_size must be at most train_batch_size_per_learner (512), was 513; write at most 512",
        ),
        (
            ["search.minibatch_size={choice: [700, 600]}"],
            "search.minibatch_size must be at most train_batch_size_per_learner (512), was 600; write at most 512",
        ),
        (
            ["search.minibatch_size={randint: [513, 900]}"],
            "search.minibatch_size must be at most train_batch_size_per_learner (512), was 513; write at most 512",
        ),
        (
            ["fixed.minibatch_size=600", "search.train_batch_size_per_learner={choice: [256, 512]}"],
            "fixed.minibatch_size must be at most train_batch_size_per_learner (512), was 600; write at most 512",
        ),
        (
            ["search.minibatch_size={choice: [513, 600]}", "search.train_batch_size_per_learner={randint: [200, 512]}"],
            "search.minibatch_size must be at most train_batch_size_per_learner (512), was 513; write at most 512",
        ),
        (
            ["fixed.train_batch_size_per_learner=100"],
            "fixed.minibatch_size must be at most train_batch_size_per_learner (100), was 128; this is its default; se",
        ),
        (
            ["fixed.train_batch_size_per_learner=100", "search.use_gae={choice: [true, false]}",
             "search.minibatch_size={choice: [101, 900], when: {use_gae: true}}"],
            "search.minibatch_size must be at most train_batch_size_per_learner (100), was 101; write at most 100",
        ),
    ],
)  # fmt: skip
def test_a_spec_is_refused_where_no_minibatch_fits_into_any_batch(refuse, ppo: str, overrides, message: str) -> None:
    [line] = refuse(*overrides, sweep=ppo)
    assert f" {message}" in line


@pytest.mark.parametrize(
    "overrides",
    [
        ["search.minibatch_size={choice: [64, 600]}"],
        ["search.minibatch_size={randint: [512, 900]}"],
        ["fixed.minibatch_size=300", "search.train_batch_size_per_learner={choice: [256, 512]}"],
        ["search.minibatch_size={choice: [500, 900]}", "search.train_batch_size_per_learner={randint: [200, 512]}"],
        ["fixed.train_batch_size_per_learner=100", "search.use_gae={choice: [true, false]}",
         "search.minibatch_size={choice: [32, 64], when: {use_gae: true}}"],
    ],
)  # fmt: skip
def test_a_spec_passes_where_some_minibatch_fits_into_some_batch(load, ppo: str, overrides) -> None:
    assert load(*overrides, sweep=ppo)


def test_what_never_comes_together_is_refused_though_each_for_itself_could(refuse) -> None:
    """With a critic the minibatch is too large for the batch, and without one the batch too small for it."""
    search = (
        "{use_critic: {choice: [true, false]}, minibatch_size: {choice: [4001, 5000], when: {use_critic: true}},"
        " train_batch_size_per_learner: {choice: [100, 90], when: {use_critic: false}}}"
    )
    [line] = refuse(sweep=f"algorithm: ppo\nsearch: {search}\n")
    assert " search.minibatch_size must be at most train_batch_size_per_learner (4000), was 4001; write at mos" in line


def test_what_just_fits_passes(load, ppo: str, dqn: str) -> None:
    assert load("fixed.minibatch_size=512", sweep=ppo).fixed["minibatch_size"] == 512
    assert load(sweep=dqn)
    assert load("fixed.n_step=49").fixed["n_step"] == 49
    small = "fixed={replay_buffer_config: {capacity: 32}, num_steps_sampled_before_learning_starts: 32}"
    assert load(small).fixed["replay_buffer_config.capacity"] == 32


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("fixed.n_step=50", "fixed.n_step must be below env.episode_bars (50), was 50; write at most 49"),
        ("search.n_step={randint: [50, 60]}", "search.n_step must be below env.episode_bars (50), was 50; write at mo"),
        ("search.n_step={choice: [51, 50]}", "search.n_step must be below env.episode_bars (50), was 50"),
        (
            "fixed={replay_buffer_config: {capacity: 31}, num_steps_sampled_before_learning_starts: 9}",
            "fixed.train_batch_size_per_learner must be at most replay_buffer_config.capacity (31), was 32; this is it",
        ),
        (
            "search={lr: {uniform: [0.1, 0.2]}, replay_buffer_config.capacity: {choice: [31, 30]},"
            " num_steps_sampled_before_learning_starts: {choice: [9, 31]}}",
            "fixed.train_batch_size_per_learner must be at most replay_buffer_config.capacity (31), was 32",
        ),
        (
            "fixed.replay_buffer_config={capacity: 999}",
            "fixed.num_steps_sampled_before_learning_starts must be at most replay_buffer_config.capacity (999), was "
            "1000; this is its default; set fixed.num_steps_sampled_before_learning_starts to 999",
        ),
        (
            "search={num_steps_sampled_before_learning_starts: {choice: [3001, 3000]},"
            " replay_buffer_config.capacity: {choice: [2000, 1000]}}",
            "search.num_steps_sampled_before_learning_starts must be at most replay_buffer_config.capacity (2000), was "
            "3000; write at most 2000",
        ),
        (
            "fixed.num_steps_sampled_before_learning_starts=4000",
            "fixed.num_steps_sampled_before_learning_starts must be below budget.env_steps_per_trial (4000), was 4000",
        ),
    ],
)
def test_replay_fits_the_episodes_and_the_budget(refuse, override: str, message: str) -> None:
    [line] = refuse(override)
    assert f" {message}" in line


@pytest.mark.parametrize(
    ("search", "name", "least", "most"),
    [
        ({"train_batch_size_per_learner": "choice: [64, 256, 512, 2048]"}, "train_batch_size_per_learner", 256, 2048),
        ({"train_batch_size_per_learner": "randint: [64, 2048]"}, "train_batch_size_per_learner", 128, 2048),
        ({"minibatch_size": "randint: [64, 2048]"}, "minibatch_size", 64, 512),
        ({"minibatch_size": "choice: [64, 100, 700, 2048]"}, "minibatch_size", 64, 100),
        (
            {"minibatch_size": "randint: [300, 900]", "train_batch_size_per_learner": "choice: [200, 400, 800]"},
            "train_batch_size_per_learner", 400, 800,
        ),
        (
            {"minibatch_size": "randint: [300, 900]", "train_batch_size_per_learner": "choice: [200, 400, 800]"},
            "minibatch_size", 300, 800,
        ),
        (
            {"use_gae": "choice: [true, false]", "minibatch_size": "choice: [8, 512], when: {use_gae: true}"},
            "minibatch_size", 8, 512,
        ),
        ({"use_gae": "choice: [true]", "num_epochs": "choice: [2], when: {use_gae: true}"}, "num_epochs", 2, 2),
        ({"num_epochs": "randint: [2, 9]"}, "num_epochs", 2, 9),
    ],
)  # fmt: skip
def test_the_worst_case_is_the_worst_that_can_be_drawn(load, ppo: str, search, name, least, most) -> None:
    fixed = "" if "train_batch_size_per_learner" in search else "fixed:\n  train_batch_size_per_learner: 512\n"
    lines = "".join(f"  {key}: {{{domain}}}\n" for key, domain in search.items())
    values = possible_values(load(sweep=f"algorithm: ppo\n{fixed}search:\n{lines}"), name)
    assert (min(values), max(values)) == (least, most)


@pytest.mark.parametrize(
    ("points", "message"),
    [
        ("[{minibatch_size: 300}, {minibatch_size: 300, train_batch_size_per_learner: 200}]",
         "searcher.points.1.minibatch_size must be at most train_batch_size_per_learner (200), was 300; write at mos"),
        ("[{minibatch_size: 600}]",
         "searcher.points.0.minibatch_size must be at most train_batch_size_per_learner (500), was 600; write at mos"),
        ("[{train_batch_size_per_learner: 64}]",
         "searcher.points.0.train_batch_size_per_learner must leave room for minibatch_size (100), was 64; write at "),
    ],
)  # fmt: skip
def test_a_point_to_try_first_that_nothing_can_complete_is_refused(refuse, points: str, message: str) -> None:
    search = "{minibatch_size: {randint: [100, 600]}, train_batch_size_per_learner: {randint: [64, 500]}}"
    [line] = refuse(f"searcher.points={points}", sweep=f"algorithm: ppo\nsearch: {search}\n")
    assert f" {message}" in line


@pytest.mark.parametrize(
    ("kind", "search", "message"),
    [
        ("cmaes", "{n_step: {choice: [1, 5]}}", "must not be cmaes where no parameter without when is drawn from a ra"),
        (
            "cmaes",
            "{double_q: {choice: [true, false]}, tau: {uniform: [0.5, 1.0], when: {double_q: true}}}",
            "must not be cmaes where no parameter without when is drawn from a range: it learns numbers only, was cmae",
        ),
        ("gp", "{n_step: {choice: [3]}}", "must not be gp where no parameter without when has more than one value, wa"),
        ("gp", "{}", "must not be gp where no parameter without when has more than one value, was gp; choose tpe or r"),
    ],
)
def test_a_model_that_could_only_draw_at_random_is_refused(refuse, kind: str, search: str, message: str) -> None:
    [line] = refuse(f"searcher.kind={kind}", sweep=f"algorithm: dqn\nsearch: {search}\n")
    assert line.startswith(f"--set searcher.kind={kind} searcher.kind {message}")


@pytest.mark.parametrize("kind", ["cmaes", "gp"])
def test_a_model_takes_a_space_of_which_it_can_learn_a_part(load, kind: str) -> None:
    search = "{double_q: {choice: [true, false]}, tau: {quniform: [0.5, 1.0, 0.25]}}"
    assert load(f"searcher.kind={kind}", sweep=f"algorithm: dqn\nsearch: {search}\n").searcher.kind == kind


def test_a_gaussian_process_is_not_given_more_whole_numbers_than_it_can_list(refuse, load) -> None:
    sweep = "algorithm: dqn\nsearch: {lr: {uniform: [0.1, 1]}, replay_buffer_config.capacity: {randint: [1000, %s]}}\n"
    [line] = refuse("searcher.kind=gp", sweep=sweep % 1_001_000)
    told = "search.replay_buffer_config.capacity must have at most 1,000,000 values under searcher gp, was 1,000,001"
    assert line == f"--set searcher.kind=gp {told}; draw from fewer, or choose tpe"
    assert load("searcher.kind=gp", sweep=sweep % 1_000_999).searcher.kind == "gp"
    assert load("searcher.kind=tpe", sweep=sweep % 10**15).searcher.kind == "tpe"


def test_nothing_is_pruned_after_the_last_evaluation(refuse, load) -> None:
    [line] = refuse("pruner={kind: hyperband, min_evaluations: 11}")
    assert " pruner.min_evaluations must be at most evaluation.count (10), was 11; write at most 10" in line
    assert load("pruner={kind: median, min_evaluations: 10}").pruner.startup_trials == 5


def test_every_evaluation_has_a_step_of_its_own(refuse, ppo: str) -> None:
    [line] = refuse("evaluation.count=5000", sweep=ppo)
    told = "budget.env_steps_per_trial must be at least evaluation.count (5000), was 4000"
    assert line == f"--set evaluation.count=5000 {told}"


@pytest.mark.parametrize(
    ("points", "message"),
    [
        ("[{lr: 0.1}]", "searcher.points.0.lr must be within loguniform [0.001, 0.003], was 0.1"),
        ("[{lr: 0.002}, {lr: 1e-4}]", "searcher.points.1.lr must be within loguniform [0.001, 0.003], was 0.0001"),
        ("[{lr: high}]", "searcher.points.0.lr must be within loguniform [0.001, 0.003], was high"),
        ("[{gamma: 0.9}]", "searcher.points.0.gamma must be a searched key, was 0.9; known are lr, n_step, tau"),
        ("[{n_step: 3}]", "searcher.points.0.n_step must be within choice [1, 5], was 3"),
        ("[{n_step: 1.0}]", "searcher.points.0.n_step must be within choice [1, 5], was 1.0"),
        ("[{tau: 0.6}]", "searcher.points.0.tau must be within quniform [0.5, 1.0], was 0.6"),
        ("[5]", "searcher.points.0 must be a mapping, was 5"),
        ("5", "searcher.points must be a list of values, was 5"),
    ],
)
def test_points_lie_in_the_search_space(refuse, dqn: str, points: str, message: str) -> None:
    wider = f"{dqn}  n_step: {{choice: [1, 5]}}\n  tau: {{quniform: [0.5, 1, 0.25]}}\n"
    [line] = refuse(f"searcher.points={points}", sweep=wider)
    assert f" {message}" in line


def test_points_are_read_like_the_search_space(load, dqn: str) -> None:
    wider = f"{dqn}  tau: {{choice: [1, 0.5]}}\n".replace("  model: {hiddens: [32, 32]}\n", "")
    spec = load(
        "searcher.points=[{tau: 1, model: {hiddens: [8]}}]", "search.model.hiddens={choice: [[8], [16]]}", sweep=wider
    )
    assert spec.searcher.points == ({"tau": 1.0, "model.hiddens": [8]},)
    assert isinstance(spec.searcher.points[0]["tau"], float)


@pytest.mark.parametrize(
    ("when", "message"),
    [
        ("{n_stp: 1}", "search.tau.when.n_stp must name another searched parameter, was n_stp; did you mean n_step?"),
        (
            "{gamma: 0.9}",
            "search.tau.when.gamma must name another searched parameter, was gamma; what is fixed decides",
        ),
        ("{lr: 0.002}", "search.tau.when.lr must name a parameter drawn by choice, grid or randint, was loguniform"),
        ("{n_step: 3}", "search.tau.when.n_step must be a value that n_step can have, or a list of them, was 3"),
        ("{n_step: [1, 3]}", "search.tau.when.n_step must be a value that n_step can have, or a list of them, was 3"),
        ("{n_step: []}", "search.tau.when.n_step must be a value that n_step can have, or a list of them, was []"),
        ("{tau: 0.5}", "search.tau.when must not have conditions that go round in a circle, was tau"),
        (
            "{double_q: true}",
            "search.double_q.when must not have conditions that go round in a circle, was double_q and tau",
        ),
    ],
)
def test_a_condition_must_be_able_to_hold(refuse, dqn: str, when: str, message: str) -> None:
    search = "  n_step: {choice: [1, 5]}\n  double_q: {choice: [true, false], when: {tau: 0.5}}\n"
    if "double_q" not in when:
        search = "  n_step: {choice: [1, 5]}\n"
    [line] = refuse(sweep=f"{dqn}{search}  tau: {{choice: [0.5, 1], when: {when}}}\n")
    assert line.startswith("sweeps/tiny.yaml:")
    assert f" {message}" in line


def test_conditions_in_a_row_pass(load, dqn: str) -> None:
    spec = load(
        sweep=f"{dqn}  tau: {{choice: [0.5, 1.0], when: {{n_step: [1, 2]}}}}\n"
        "  n_step: {randint: [1, 4], when: {double_q: true}}\n"
        "  double_q: {choice: [true, false]}\n"
    )
    assert spec.search["tau"].when == {"n_step": [1, 2]}


def test_a_grid_takes_no_ranges_no_points_and_no_end_of_combinations(refuse) -> None:
    [line] = refuse("searcher.kind=grid")
    told = "search.lr must be grid or choice under the grid searcher, was loguniform"
    assert line == f"--set searcher.kind=grid {told}"
    [line] = refuse("searcher={kind: grid, points: [{lr: 1e-3}]}", "search={lr: {grid: [1e-3, 1e-2]}}")
    assert " searcher.points must be left out under the grid searcher" in line
    many = ", ".join(str(number) for number in range(1, 49))
    [line] = refuse(
        "searcher.kind=grid",
        f"search={{n_step: {{grid: [{many}]}}, target_network_update_freq: {{grid: [{many}]}},"
        f" train_batch_size_per_learner: {{choice: [{many}]}}}}",
    )
    assert " search must be at most 100,000 combinations, was 110592" in line


def test_a_grid_counts_its_combinations_whatever_the_budget_says(load) -> None:
    for trials in (1, 100_000):
        spec = load("searcher.kind=grid", "search={lr: {grid: [1e-3, 1e-2]}}", f"budget.trials={trials}")
        assert spec.budget.trials == trials
