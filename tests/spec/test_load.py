"""Files as people write them, and what they are told."""

from __future__ import annotations

from pathlib import Path

import pytest

from tradesweep.errors import SpecError
from tradesweep.spec import SweepSpec, keys_of, list_experiments
from tradesweep.spec.keys import NEVER_TUNED, OWNED


def edit(text: str, old: str, new: str) -> str:
    assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times"
    return text.replace(old, new)


def test_an_experiment_is_merged_over_the_defaults(load) -> None:
    spec = load()
    assert spec.market.periods_per_year == 252
    assert (spec.env.fill, spec.env.fee_bps, spec.env.episode_bars) == ("next_open", 2, 50)
    assert [(feature.name, feature.params) for feature in spec.features] == [
        ("log_returns", {"lags": [1, 2]}),
        ("rsi", {}),
    ]
    assert spec.fixed == {"gamma": 0.9, "model.hiddens": [32, 32]}


def test_params_are_replaced_and_never_mixed_with_those_of_the_defaults(load, experiments: str) -> None:
    with_default = edit(
        experiments, "market: {periods_per_year: 252}", "market: {periods_per_year: 252, params: {q: 1}}"
    )
    assert load(experiments=with_default).market.params == {"bars": 1200, "rho": 0.5}


def test_descriptions_are_listed_and_a_sweep_file_may_have_one(load, root: Path, experiments: str, dqn: str) -> None:
    assert list_experiments(root) == {"tiny": "a tiny one"}
    silent = edit(experiments, "    description: a tiny one\n", "")
    assert load(experiments=silent, sweep=f"{dqn}description: of the sweep ☃\n").description == "of the sweep ☃"


def test_files_and_plugins_are_found_from_any_folder(load, root: Path) -> None:
    spec = load("market={source: csv, path: data/b.csv, periods_per_year: 252}", "plugins=[mine.py, a.module:name]")
    assert spec.market.path == str(root / "data" / "b.csv")
    assert spec.plugins == (str(root / "mine.py"), "a.module:name")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("version: 1\n", "", "experiments.yaml:1 version must be 1, was null"),
        ("version: 1", "version: 2", "experiments.yaml:1 version must be 1, was 2"),
        ("version: 1", "version: true", "experiments.yaml:1 version must be 1, was True"),
        ("defaults:", "default:", "experiments.yaml:3 default is not known here, was"),
        ("plugins: []", "plugins: x", "experiments.yaml:2 plugins must be a list of words, was x"),
        ("    sweep: tiny\n", "", "experiments.yaml:7 sweep must name a file of sweeps/ without its ending, was null"),
        ("    sweep: tiny", "    sweep: 5", "experiments.yaml:9 sweep must name a file of sweeps/"),
        ("    sweep: tiny", "    swep: tiny", "experiments.yaml:9 swep is not known here, was tiny; did you mean swee"),
        ("      name: planted", "      nam: planted", "experiments.yaml:12 market.nam is not known here, was planted; "
         "did you mean name?"),
        ("{periods_per_year: 252}", "{periods_per_year: 252, periods_per_yer: 1}",
         "experiments.yaml:4 market.periods_per_yer is not known here, was 1; did you mean periods_per_year?"),
        ("{fill: next_open, fee_bps: 2}", "{fill: next_open, fee_bp: 2}", "experiments.yaml:5 env.fee_bp is not known "
         "here, was 2; did you mean fee_bps?"),
        ("      - rsi", "      - rsi: {period: 3}\n        atr: {}", "experiments.yaml:16 features.1 must be a name,"),
        ("      - rsi", "      - [rsi]", "experiments.yaml:16 features.1 must be a name, or a name with its parameter"),
        ("      - rsi", "      - rsi: 14", "experiments.yaml:16 features.1 must be a name, or a name with its paramet"),
        ("trials: 3, ", "", "experiments.yaml:20 budget.trials must be given (a whole number >= 1 and <= 100,000), is"),
        ("trials: 3", "trials: three", "experiments.yaml:20 budget.trials must be a whole number >= 1 and <= 100,000, "
         "was three"),
        ("trials: 3", "trials: 0", "experiments.yaml:20 budget.trials must be a whole number >= 1"),
        ("trials: 3", "trials: -1", "experiments.yaml:20 budget.trials must be a whole number >= 1"),
        ("trials: 3", "trials: 1000000000", "experiments.yaml:20 budget.trials must be a whole number >= 1"),
        ("trials: 3", "trials: 1_000", "experiments.yaml:20 budget.trials must be a whole number >= 1"),
        ("trials: 3", "trials: true", "experiments.yaml:20 budget.trials must be a whole number >= 1"),
        ("trials: 3", "trials: 3.0", "experiments.yaml:20 budget.trials must be a whole number >= 1"),
        ("trials: 3", "trials: '3'", "experiments.yaml:20 budget.trials must be a whole number >= 1"),
        ("    resources: {lanes: 4}", "    fixed: {lr: 1}", "experiments.yaml:21 fixed must not stand in experiments."),
        ("    resources: {lanes: 4}", "    search: {}", "experiments.yaml:21 search must not stand in experiments.yam"),
        ("    resources: {lanes: 4}", "    algorithm: ppo", "experiments.yaml:21 algorithm must not stand in"),
        ("    resources: {lanes: 4}", "    format_version: 1", "experiments.yaml:21 format_version is not known here"),
        ("    resources: {lanes: 4}", "    experiment: x", "experiments.yaml:21 experiment is not known here"),
        ("    resources: {lanes: 4}", "    confirm: {top: 1}", "experiments.yaml:21 confirm.seeds must be given"),
        ("    resources: {lanes: 4}", "    market: {}", "experiments.yaml:21 experiments.tiny.market must stand once"),
        ("    resources: {lanes: 4}", "    searcher: {points: [{lrr: 1}]}", "experiments.yaml:21 searcher.points.0.lrr "
         "must be a searched key, was 1; did you mean lr?"),
    ],
)  # fmt: skip
def test_experiments_yaml_is_refused_with_line_key_rule_and_value(
    refuse, experiments: str, old: str, new: str, message: str
) -> None:
    lines = refuse(experiments=edit(experiments, old, new))
    assert lines[0].startswith(message)
    assert len(lines) == 1


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("algorithm: dqn\n", "", "sweeps/tiny.yaml:1 algorithm must be dqn or ppo, was null"),
        ("algorithm: dqn", "algorithm: sac", "sweeps/tiny.yaml:1 algorithm must be dqn or ppo, was sac; its actions a"),
        ("algorithm: dqn", "algorithm: DQN", "sweeps/tiny.yaml:1 algorithm must be dqn or ppo, was DQN"),
        ("algorithm: dqn", "algorithm: [dqn]", "sweeps/tiny.yaml:1 algorithm must be dqn or ppo, was ['dqn']"),
        ("algorithm: dqn", "algorithms: dqn", "sweeps/tiny.yaml:1 algorithms is not known here, was dqn; did you mean"),
        ("gamma: 0.9", "gama: 0.9", "sweeps/tiny.yaml:3 fixed.gama must be a training key of dqn, was 0.9; did you me"),
        ("gamma: 0.9", "gamma: high", "sweeps/tiny.yaml:3 fixed.gamma must be a number, was high"),
        ("gamma: 0.9", "gamma: 1.5", "sweeps/tiny.yaml:3 fixed.gamma must be <= 1, was 1.5"),
        ("gamma: 0.9", "gamma:", "sweeps/tiny.yaml:3 fixed.gamma must be a number, was null"),
        ("gamma: 0.9", "n_step: 0", "sweeps/tiny.yaml:3 fixed.n_step must be >= 1, was 0"),
        ("gamma: 0.9", "n_step: 2.0", "sweeps/tiny.yaml:3 fixed.n_step must be a whole number, was 2.0"),
        ("gamma: 0.9", "double_q: on", "sweeps/tiny.yaml:3 fixed.double_q must be true or false, was on"),
        ("gamma: 0.9", "double_q: 1", "sweeps/tiny.yaml:3 fixed.double_q must be true or false, was 1"),
        ("gamma: 0.9", "grad_clip_by: max", "sweeps/tiny.yaml:3 fixed.grad_clip_by must be one of value, norm, global"),
        ("gamma: 0.9", "epsilon: [[0, 1.0]]", "sweeps/tiny.yaml:3 fixed.epsilon must be a number or two and more"),
        ("gamma: 0.9", "epsilon: [[1, 1], [2, 0]]", "sweeps/tiny.yaml:3 fixed.epsilon must be a number or two and mor"),
        ("gamma: 0.9", "epsilon: [[0, 1], [5, 2]]", "sweeps/tiny.yaml:3 fixed.epsilon must be <= 1"),
        ("gamma: 0.9", "lambda_: 0.9", "sweeps/tiny.yaml:3 fixed.lambda_ must be a training key of dqn, was 0.9; it i"),
        ("gamma: 0.9", "gamma: {uniform: [0, 1]}", "sweeps/tiny.yaml:3 fixed.gamma must be a number, was"),
        ("[32, 32]", "[]", "sweeps/tiny.yaml:4 fixed.model.hiddens must be a list of layer widths"),
        ("[32, 32]", "[32, 0]", "sweeps/tiny.yaml:4 fixed.model.hiddens must be a list of layer widths"),
        ("{hiddens: [32, 32]}", "{hidden: [32]}", "sweeps/tiny.yaml:4 fixed.model.hidden must be a training key of dq"),
        ("{hiddens: [32, 32]}", "[32, 32]", "sweeps/tiny.yaml:4 fixed.model must not stand here"),
        ("search:", "  model.hiddens: [8]\nsearch:", "sweeps/tiny.yaml:5 fixed.model.hiddens must stand once, nested"),
        ("search:", "  lr: 1e-3\nsearch:", "sweeps/tiny.yaml:7 search.lr must not stand under fixed too"),
        ("search:", "seach:", "sweeps/tiny.yaml:5 seach is not known here, was {'lr': {'loguniform': [0.001, 0.003]}}"),
        ("[1e-3, 3e-3]", "[0, 3e-3]", "sweeps/tiny.yaml:6 search.lr.low must be > 0 on a log scale, was 0.0"),
        ("[1e-3, 3e-3]", "[-1e-4, 3e-3]", "sweeps/tiny.yaml:6 search.lr.low must be > 0 on a log scale, was -0.0001"),
    ],
)  # fmt: skip
def test_a_sweep_file_is_refused_with_line_key_rule_and_value(
    refuse, dqn: str, old: str, new: str, message: str
) -> None:
    lines = refuse(sweep=edit(dqn, old, new))
    assert lines[0].startswith(message)
    assert len(lines) == 1


@pytest.mark.parametrize("part", ["fixed", "search"])
@pytest.mark.parametrize("name", sorted(NEVER_TUNED))
def test_costs_splits_data_and_objective_are_refused_in_a_sweep_file(refuse, part: str, name: str) -> None:
    lines = refuse(sweep=f"algorithm: dqn\n{part}:\n  {name}: {{choice: [1, 2]}}\n")
    assert lines[0].startswith(f"sweeps/tiny.yaml:3 {part}.{name} must not stand under {part}: costs, splits, data and")
    assert len(lines) == 1


@pytest.mark.parametrize("algorithm", ["dqn", "ppo"])
@pytest.mark.parametrize("name", sorted({*OWNED, "num_gpus_per_env_runner", "evaluation_num_env_runners"}))
def test_keys_that_tradesweep_owns_are_refused_with_their_place(refuse, algorithm: str, name: str) -> None:
    [line] = refuse(sweep=f"algorithm: {algorithm}\nfixed:\n  {name}: 1\n")
    assert line.startswith(f"sweeps/tiny.yaml:3 fixed.{name} must not stand")
    assert "; it is " in line or "set it in experiments.yaml" in line


def test_the_place_of_an_owned_key_exists() -> None:
    for place in OWNED.values():
        first = place.split(" ")[0].rstrip(",:").split(".")
        known = {*SweepSpec.model_fields, *keys_of("dqn"), *keys_of("ppo"), "model", "replay_buffer_config", "nothing"}
        assert first[0] in known or ".".join(first) in known, place
        if first[0] == "resources" and len(first) > 1:
            assert first[1] in type(SweepSpec.model_fields["resources"].default).model_fields


def test_all_problems_are_told_at_once_each_in_a_line(refuse, dqn: str, experiments: str) -> None:
    lines = refuse(
        sweep=dqn.replace("gamma: 0.9", "gama: 0.9").replace("[1e-3, 3e-3]", "[3, 1]"),
        experiments=experiments.replace("trials: 3", "trials: 0").replace("lanes: 4", "lane: 4"),
    )
    assert [line.split(" ")[1] for line in lines] == ["fixed.gama", "search.lr.low", "budget.trials", "resources.lane"]


def test_other_rooms_raise_with_the_same_places(load) -> None:
    error = load("env.reward=foo").error_at("features.1.params.period", "must be odd", "a\nb", "write 13")
    assert isinstance(error, SpecError)
    assert str(error) == "experiments.yaml:16 features.1.params.period must be odd, was 'a\\nb'; write 13"
    assert str(load("env.reward=foo").error_at("env.reward", "must be x", "foo")) == (
        "--set env.reward=foo env.reward must be x, was foo"
    )


@pytest.mark.parametrize(
    ("market", "message"),
    [
        ("{source: csv, periods_per_year: 252}", "market.path must be given for source csv, was null"),
        ("{source: sample, periods_per_year: 252}", "market.name must be given for source sample, was null"),
        (
            "{source: sample, name: sp500, path: x.csv, periods_per_year: 252}",
            "market.path must not be given for source",
        ),
        (
            "{source: csv, path: x.csv, name: sp500, periods_per_year: 252}",
            "market.name must not be given for source csv",
        ),
        ("{source: sample, name: sp500, params: {a: 1}, periods_per_year: 252}", "market.params must not be given for"),
        (
            "{source: synthetic, name: beta, params: {a: [1]}, periods_per_year: 252}",
            "market.params.a must be a number or",
        ),
        ("{source: synthetic, name: beta, periods_per_year: 0}", "market.periods_per_year must be a number > 0, was 0"),
        ("{source: kafka, periods_per_year: 252}", "market.source must be one of csv, parquet, sample, synthetic, was"),
        ("{source: synthetic, name: beta}", "market.periods_per_year must be given (a number > 0), is missing"),
        ("5", "market must be a mapping, was 5"),
    ],
)
def test_a_market_must_fit_its_source(refuse, market: str, message: str) -> None:
    [line] = refuse(f"market={market}")
    assert line.startswith(f"--set market={market} {message}")


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        ("{train: 5, validation: [2010-01-01, 2011-01-01], test: 5}", "splits must be all dates or all bar counts, wa"),
        ("{train: 0, validation: 5, test: 5}", "splits.train must be [first day, last day] or a number of bars > 0, w"),
        ("{train: [2010-01-01], validation: 5, test: 5}", "splits.train must be [first day, last day] or a number of"),
        ("{train: [1, 2], validation: 5, test: 5}", "splits.train must be [first day, last day] or a number of bars >"),
        ("{train: five, validation: 5, test: 5}", "splits.train must be [first day, last day] or a number of bars > 0"),
        ("{validation: 5, test: 5}", "splits.train must be given ([first day, last day] or a number of bars > 0), is"),
        ("{train: [2010-01-01, 2010-13-01], validation: [2012-01-01, 2012-02-01], test: [2013-01-01, 2013-02-01]}",
         "splits.train must be two days such as 2009-12-31, was 2010-13-01"),
        ("{train: [20100101, 2010-12-01], validation: [2012-01-01, 2012-02-01], test: [2013-01-01, 2013-02-01]}",
         "splits.train must be [first day, last day]"),
        ("{train: [2010-02-01, 2010-01-01], validation: [2012-01-01, 2012-02-01], test: [2013-01-01, 2013-02-01]}",
         "splits.train must end on or after its first day (2010-02-01), was 2010-01-01"),
        ("{train: [2010-01-01, 2012-01-01], validation: [2012-01-01, 2012-02-01], test: [2013-01-01, 2013-02-01]}",
         "splits.validation must begin after train ends (2012-01-01), was 2012-01-01"),
        ("{train: [2010-01-01, 2011-01-01], validation: [2012-01-01, 2012-02-01], test: [2009-01-01, 2009-02-01]}",
         "splits.test must begin after validation ends (2012-02-01), was 2009-01-01"),
    ],
)  # fmt: skip
def test_splits_come_one_after_the_other(refuse, splits: str, message: str) -> None:
    [line] = refuse(f"splits={splits}")
    assert f" {message}" in line


def test_a_split_may_be_a_single_day(load) -> None:
    one_day = "{train: [2010-01-01, 2010-01-01], validation: [2010-01-02, 2010-01-02], test: [2010-01-03, 2010-01-03]}"
    assert load(f"splits={one_day}").splits.validation == ("2010-01-02", "2010-01-02")
