"""The search space: what may be drawn."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tradesweep.spec import Choice, Grid, LogUniform, QUniform, RandInt, Uniform
from tradesweep.spec.distributions import contains, read_distribution


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ({"uniform": [0, 1]}, Uniform(low=0.0, high=1.0)),
        ({"loguniform": [1e-4, 1]}, LogUniform(low=1e-4, high=1.0)),
        ({"quniform": [0.8, 1, 0.05]}, QUniform(low=0.8, high=1.0, q=0.05)),
        ({"randint": [1, 5]}, RandInt(low=1, high=5)),
        ({"choice": [1, "a", [2]]}, Choice(options=(1, "a", [2]))),
        ({"grid": [1]}, Grid(options=(1,))),
        ({"randint": [1, 5], "when": {"a": [1, 2]}}, RandInt(low=1, high=5, when={"a": [1, 2]})),
    ],
)
def test_a_distribution_is_read_as_written(written, read) -> None:
    assert read_distribution(written) == read


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("{uniform: [2, 1]}", "search.tau.low must be below high (1), was 2.0"),
        ("{uniform: [1, 1]}", "search.tau.low must be below high (1), was 1.0"),
        ("{loguniform: [1, 1]}", "search.tau.low must be below high (1), was 1.0"),
        ("{loguniform: [0, 1]}", "search.tau.low must be > 0 on a log scale, was 0.0"),
        ("{loguniform: [-1e-4, 1]}", "search.tau.low must be > 0 on a log scale, was -0.0001"),
        ("{uniform: [.nan, 1]}", "must be a finite number, was .nan"),
        ("{uniform: [0, .inf]}", "must be a finite number, was .inf"),
        ("{uniform: [-1e308, 1.7e308]}", "search.tau.high must be a finite distance above low, was 1.7e+308"),
        ("{quniform: [0, 1, 0.3]}", "search.tau.q must divide high - low = 1, was 0.3"),
        ("{quniform: [0, 1, 0]}", "search.tau.q must be > 0, was 0.0"),
        ("{quniform: [0, 1, -0.5]}", "search.tau.q must be > 0, was -0.5"),
        (
            "{quniform: [0, 1e300, 1e-300]}",
            "search.tau.q must divide high - low into at most 1000000 steps, was 1e-300",
        ),
        ("{uniform: [0, 1, 2]}", "search.tau uniform must be [low, high] in numbers, was [0, 1, 2]"),
        ("{uniform: [0, x]}", "search.tau uniform must be [low, high] in numbers, was [0, 'x']"),
        ("{uniform: [0, true]}", "search.tau uniform must be [low, high] in numbers, was [0, True]"),
        ("{uniform: 5}", "search.tau uniform must be [low, high] in numbers, was 5"),
        ("{uniform:}", "search.tau uniform must be [low, high] in numbers, was null"),
        ("{quniform: [0, 1]}", "search.tau quniform must be [low, high, q] in numbers, was [0, 1]"),
        ("{randint: [0, 1.5]}", "search.tau randint must be [low, high] in whole numbers, was [0, 1.5]"),
        ("{choice: []}", "search.tau must offer at least one option, was []"),
        ("{grid: []}", "search.tau must offer at least one option, was []"),
        ("{choice: 0.5}", "search.tau choice must be a list of options, was 0.5"),
        ("{choice: [1, 1.0]}", "search.tau must offer different options, was [1.0, 1.0]"),
        ("{choice: [0.5, x]}", "search.tau must be a number, was x"),
        ("{choice: [0.5, 2]}", "search.tau must be <= 1, was 2.0"),
        ("{uniform: [0, 1]}", "search.tau must be > 0, was 0.0"),
        ("{uniform: [0.1, 2]}", "search.tau must be <= 1, was 2.0"),
        ("{}", "search.tau must be exactly one of uniform, loguniform, quniform, randint, choice, grid (and perhaps"),
        ("{normal: [0, 1]}", "search.tau must be exactly one of uniform, loguniform, quniform, randint, choice, grid"),
        ("{uniform: [0, 1], choice: [1]}", "search.tau must be exactly one of uniform, loguniform, quniform, randint"),
        ("{uniform: [0, 1], whn: {a: 1}}", "search.tau must be exactly one of uniform, loguniform, quniform, randint"),
        (
            "{kind: uniform, low: 0, high: 1}",
            "search.tau must be exactly one of uniform, loguniform, quniform, randint",
        ),
        ("0.5", "search.tau must be one of uniform, loguniform, quniform, randint, choice, grid, as in {uniform: [0"),
        ("kind", "search.tau must be one of uniform, loguniform, quniform, randint, choice, grid, as in"),
        ("[0.1, 0.5]", "search.tau must be one of uniform, loguniform, quniform, randint, choice, grid, as in"),
        ("", "search.tau must be one of uniform, loguniform, quniform, randint, choice, grid, as in"),
        ("{uniform: [0.1, 1], when: 5}", "search.tau.when must be other parameters and their values"),
        ("{uniform: [0.1, 1], when: {}}", "search.tau.when must be other parameters and their values"),
        ("{uniform: [0.1, 1], when:}", "search.tau.when must be other parameters and their values"),
    ],
)
def test_a_wrong_distribution_is_refused_with_its_line(refuse, dqn: str, written: str, message: str) -> None:
    [line] = refuse(sweep=f"{dqn}  tau: {written}\n")
    assert line.startswith(f"sweeps/tiny.yaml:7 {message}") or f" {message}" in line


@pytest.mark.parametrize(
    ("key", "written", "message"),
    [
        ("n_step", "{uniform: [1, 5]}", "must be drawn by randint, choice or grid: it is a whole number, was uniform"),
        (
            "n_step",
            "{quniform: [1, 5, 1]}",
            "must be drawn by randint, choice or grid: it is a whole number, was quniform",
        ),
        ("double_q", "{randint: [0, 1]}", "must be drawn by choice or grid: it is true or false, was randint"),
        ("model.hiddens", "{randint: [8, 64]}", "must be drawn by choice or grid: it is a list of layer widths"),
        ("grad_clip_by", "{choice: [norm, max]}", "must be one of value, norm, global_norm, was max"),
    ],
)
def test_a_distribution_must_suit_its_key(refuse, dqn: str, key: str, written: str, message: str) -> None:
    lines = refuse(f"search.{key}={written}")
    assert f" search.{key} {message}" in lines[0]


def test_options_may_be_lists_words_and_null(load) -> None:
    spec = load(
        "search.grad_clip={choice: [null, 10, 0.5]}",
        "search.model.hiddens={choice: [[8], [8, 8]]}",
        "search.grad_clip_by={grid: [norm, value]}",
        "search.double_q={choice: [true, false]}",
    )
    assert spec.search["grad_clip"].options == (None, 10.0, 0.5)
    assert spec.search["model.hiddens"].options == ([8], [8, 8])
    assert type(spec).from_json(spec.to_json()) == spec


bounds = st.tuples(st.floats(1e-6, 1e3), st.floats(1e-6, 1e3)).filter(lambda pair: pair[0] < pair[1])


@given(bounds=bounds, share=st.floats(0, 1), kind=st.sampled_from([Uniform, LogUniform]))
@settings(max_examples=100, deadline=None)
def test_a_range_contains_what_lies_between_its_ends_and_nothing_else(bounds, share: float, kind) -> None:
    low, high = bounds
    domain = kind(low=low, high=high)
    assert contains(domain, min(low + share * (high - low), high))
    assert not contains(domain, low * 0.99 - 1e-9)
    assert not contains(domain, high * 1.01)
    assert not contains(domain, True)
    assert not contains(domain, "1")


@given(
    low=st.integers(-50, 50), steps=st.integers(1, 1000), q=st.sampled_from([0.05, 0.1, 0.25, 1.0, 3.0]), data=st.data()
)
@settings(max_examples=100, deadline=None)
def test_a_quantised_range_contains_its_steps(low: int, steps: int, q: float, data) -> None:
    domain = QUniform(low=float(low), high=low + steps * q, q=q)
    assert contains(domain, low + data.draw(st.integers(0, steps)) * q)
    assert not contains(domain, low + data.draw(st.integers(0, steps - 1)) * q + q / 2)


def test_whole_numbers_and_options_are_told_apart() -> None:
    assert contains(RandInt(low=1, high=3), 3)
    assert not contains(RandInt(low=1, high=3), 2.0)
    assert not contains(RandInt(low=1, high=3), 4)
    assert contains(Choice(options=([8], None)), [8])
    assert not contains(Choice(options=(1, 0)), True)
