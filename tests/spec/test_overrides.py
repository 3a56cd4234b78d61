"""`--set a.b=value`."""

from __future__ import annotations

import pytest

from tradesweep.errors import BadInput
from tradesweep.spec import Choice, ConfirmSpec, Uniform


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("budget.trials=7", "budget.trials", 7),
        (" budget.trials = 7 ", "budget.trials", 7),
        ("budget={trials: 1, env_steps_per_trial: 9000}", "budget.env_steps_per_trial", 9000),
        ("market.params.rho=0.25", "market.params.rho", 0.25),
        ("market.params.new=a=b", "market.params.new", "a=b"),
        ("splits.train=500", "splits.train", 500),
        ("env.fee_bps=1e-1", "env.fee_bps", 0.1),
        ("env.positions=[0, 1]", "env.positions", (0.0, 1.0)),
        ("env.reward_params.eta=0.01", "env.reward_params", {"eta": 0.01}),
        ("evaluation.patience=null", "evaluation.patience", None),
        ("evaluation.patience=", "evaluation.patience", None),
        ("resources.lanes=auto", "resources.lanes", "auto"),
        ("confirm={top: 2, seeds: 3}", "confirm", ConfirmSpec(top=2, seeds=3)),
        ("description=yes", "description", "yes"),
        ("description='a: b ☃'", "description", "a: b ☃"),
        ("algorithm=dqn", "algorithm", "dqn"),
        ("seed=5", "seed", 5),
    ],
)
def test_a_value_is_read_as_in_a_file(load, override: str, path: str, value: object) -> None:
    found = load(override)
    for word in path.split("."):
        found = found[word] if isinstance(found, dict) else getattr(found, word)
    assert found == value
    assert type(found) is type(value)


def test_training_keys_are_set_with_their_dots_or_nested(load) -> None:
    assert load("fixed.model.hiddens=[8]").fixed["model.hiddens"] == [8]
    assert load("fixed.model={hiddens: [8]}").fixed["model.hiddens"] == [8]
    assert load("fixed={model: {hiddens: [8]}}").fixed == {"model.hiddens": [8]}
    assert load("fixed.replay_buffer_config.capacity=1900").fixed["replay_buffer_config.capacity"] == 1900


def test_a_key_set_under_search_leaves_fixed_and_the_other_way_round(load) -> None:
    searched = load("search.gamma={uniform: [0.8, 0.9]}")
    assert searched.search["gamma"] == Uniform(low=0.8, high=0.9)
    assert "gamma" not in searched.fixed
    pinned = load("fixed.lr=1e-3")
    assert pinned.fixed["lr"] == 1e-3
    assert pinned.search == {}
    assert load("search.model.hiddens={choice: [[8], [16]]}").search["model.hiddens"] == Choice(options=([8], [16]))


def test_the_last_of_two_overrides_wins(load) -> None:
    assert load("seed=1", "seed=2").seed == 2


def test_overrides_of_one_mapping_add_up(load) -> None:
    assert load("confirm.top=1", "confirm.seeds=2").confirm == ConfirmSpec(top=1, seeds=2)


def test_another_sweep_file_can_be_chosen_and_changed(load, root, ppo: str) -> None:
    (root / "sweeps" / "other.yaml").write_text(ppo, encoding="utf-8")
    spec = load("fixed.gamma=0.5", "sweep=other")
    assert (spec.algorithm, spec.sweep, spec.fixed["gamma"]) == ("ppo", "other", 0.5)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("budget.trials", "must look like a.b=value"),
        ("=1", "must look like a.b=value"),
        ("", "must look like a.b=value"),
        ("a..b=1", "must look like a.b=value"),
        (".a=1", "must look like a.b=value"),
        ("a. b=1", "must look like a.b=value"),
        ("features.0=rsi", "features must be set as a whole, was set below; it is a list"),
        ("env.fill.x=1", "env.fill must be set as a whole, was set below; it is a single value"),
        ("search.lr.loguniform=[1, 2]", "search.lr.loguniform must be set as a whole, was [1, 2]; set lr"),
        ("experiment=x", "experiment must not be set; the name of an experiment is chosen in experiments.yaml"),
        ("format_version=1", "format_version must not be set"),
        ("seed=[1", "must be YAML, is not"),
        ("seed=@x", "must be YAML, is not"),
        ("seed=#1", "must hold a value, is empty"),
        ("seed=.nan", "must be a finite number, was .nan"),
        ("seed=!!int 1", "must not have a tag"),
        ("seed=&a 1", "must not use an anchor or alias"),
        ("env={fill: x, fill: y}", "fill must stand once, stands twice; remove one"),
        ("budgt.trials=1", "budgt is not known here, was {'trials': 1}; did you mean budget?"),
        ("budget.trial=1", "budget.trial is not known here, was 1; did you mean trials?"),
        ("defaults.env.fill=next_open", "defaults is not known here"),
        ("seed=1_000", "seed must be a whole number >= 0 and < 2,147,483,648, was 1_000"),
        ("env.fill=next", "env.fill must be next_open or next_close, was next"),
        ("env.positions=[0]", "env.positions must be at least two different targets, was [0.0]"),
        ("env.positions=[0, x]", "env.positions.1 must be a number, was x"),
        ("env.positions=[0, 2]", "env.positions must lie within -1 and 1, was [0.0, 2.0]"),
        ("env.reward_params={eta: x}", "env.reward_params.eta must be a number, was x"),
        ("env.reward_scale=aut", "env.reward_scale must be a number > 0 or auto, was aut"),
        ("evaluation.count=7", "evaluation.count must be a whole number >= 8, was 7"),
        ("evaluation.min_evaluations=11", "evaluation.min_evaluations must be at most count (10), was 11"),
        ("aggregate=max", "aggregate must be one of mean, median, iqm, was max"),
        ("resources.lanes=aut", "resources.lanes must be a whole number >= 1 and <= 65,536 or auto, was aut"),
        ("resources.lanes=0", "resources.lanes must be a whole number >= 1 and <= 65,536 or auto, was 0"),
        ("splits.train=x", "splits.train must be [first day, last day] or a number of bars > 0, was x"),
        ("features=[]", "features must be a list of at least one feature, was []"),
        ("features=rsi", "features must be a list of at least one feature, was rsi"),
        ("confirm.top=1", "confirm.seeds must be given (a whole number >= 1), is missing"),
        ("fixed=3", "fixed must be a mapping, was 3"),
        ("search=[lr]", "search must be a mapping, was ['lr']"),
        ("fixed.fee_bps=0", "fixed.fee_bps must not stand under fixed: costs, splits, data and objective are never"),
    ],
)
def test_a_wrong_override_is_refused_in_one_line_that_names_it(refuse, override: str, message: str) -> None:
    [line] = refuse(override)
    assert line.startswith(f"--set {override} {message}" if override else "--set '' must look")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("splits.train=[2000-01-01, 2001-01-01]", "splits must be all dates or all bar counts"),
        ("evaluation.count=5000", "budget.env_steps_per_trial must be at least evaluation.count (5000), was 4000"),
        ("evaluation={count: 5000}", "budget.env_steps_per_trial must be at least evaluation.count (5000), was 4000"),
        ("market.source=sample", "market.params must not be given for source sample, was"),
        ("market.source=csv", "market.path must be given for source csv, was null"),
        ("searcher.kind=grid", "search.lr must be grid or choice under the grid searcher, was loguniform"),
        ("env.episode_bars=9", "fixed.n_step must be below env.episode_bars (9), was 20; write at most 8"),
    ],
)
def test_what_an_override_makes_wrong_elsewhere_is_blamed_on_it(refuse, dqn: str, override: str, message: str) -> None:
    [line] = refuse(override, sweep=dqn.replace("gamma: 0.9", "n_step: 20"))
    assert line.startswith(f"--set {override} {message}")


def test_what_a_file_says_wrong_is_never_blamed_on_another_override(refuse, experiments: str, dqn: str) -> None:
    for override in ("env.fee_bps=1", "budget.trials=2", "market.params.q=0.3", "seed=1", "splits.test=200"):
        short = experiments.replace("episode_bars: 50", "episode_bars: 1")
        [line] = refuse(override, experiments=short, sweep=dqn)
        assert line.startswith("experiments.yaml:19 env.episode_bars must be")
        [line] = refuse(override, experiments=experiments, sweep=dqn.replace("gamma: 0.9", "gamma: high"))
        assert line.startswith("sweeps/tiny.yaml:3 fixed.gamma must be a number")


@pytest.mark.parametrize(
    ("message", "overrides", "place"),
    [
        ("market.params.bars must be less", ("market.params.bars=9", "splits.train=5"), "--set market.params.bars=9"),
        ("market.params.rho must be less", ("market.params.bars=9", "splits.train=5"), "experiments.yaml:13"),
        ("splits must not need more bars", ("market.params.bars=9",), "--set market.params.bars=9"),
        ("splits.validation must hold bars", ("splits.embargo_bars=9",), "--set splits.embargo_bars=9"),
        ("features must be known", ("splits.train=5",), "--set splits.train=5"),
        ("features.rsi.period must be whole", ("splits.train=5",), "experiments.yaml:14"),
        ("prices must be bars", ("env.fee_bps=5",), "experiments.yaml:10"),
    ],
)
def test_what_the_data_says_wrong_is_blamed_on_the_override_that_it_needs(
    load, message: str, overrides: tuple[str, ...], place: str
) -> None:
    with pytest.raises(BadInput) as refused, load(*overrides).placing("market"):
        raise BadInput(message)
    assert str(refused.value) == f"{place} {message}"


def test_an_override_that_would_break_the_terminal_is_shown_escaped(refuse) -> None:
    for text in (
        "a.b\n=1",
        "a\x1b[31m=1",
        "seed=x\ny: 1",
        "seed=\x00",
        "seed=\udcff",
        "x" * 5000,
        f"seed={'y' * 5000}",
    ):
        [line] = refuse(text)
        assert line.isprintable()
        assert len(line) < 600
