"""The compiled forward pass: tanh against a better one, and networks of every shape against matrices."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tradesweep.policy import PlainPolicy
from tradesweep.policy.forward import activate, tanh
from tradesweep.policy.policy_spec import ACTIVATIONS

TANH = ACTIVATIONS.index("tanh")
MOST_UNITS = 5.0


def tanh_of(values) -> np.ndarray:
    found = np.array(values, float)
    activate(found, TANH)
    return found


def test_tanh_is_within_five_units_in_the_last_place_everywhere():
    rng = np.random.default_rng(0)
    spreads = [1e-310, 1e-200, 1e-20, 1e-8, 1e-3, 0.1, 0.5, 1.0, 3.0, 10.0]
    values = np.concatenate(
        [*(rng.standard_normal(100_000) * spread for spread in spreads), np.linspace(-21, 21, 500_000)]
    )
    exact = np.tanh(values.astype(np.longdouble))
    units = np.abs(tanh_of(values) - exact) / np.spacing(np.abs(exact.astype(float)))
    assert float(units.max()) < MOST_UNITS


def test_tanh_never_leaves_its_range():
    values = np.linspace(15, 25, 1_000_000)
    assert tanh_of(values).max() == 1.0
    assert tanh_of(-values).min() == -1.0


def test_tanh_of_what_is_no_common_number():
    values = [0.0, -0.0, np.inf, -np.inf, np.nan, 5e-324, -5e-324, 1e308, -1e308]
    found, expected = tanh_of(values), np.tanh(values)
    np.testing.assert_array_equal(found, expected)
    assert np.signbit(found[:2]).tolist() == [False, True]


@given(st.floats(allow_nan=False))
@settings(deadline=None)
def test_tanh_is_odd_and_has_the_same_bits_alone_and_beside_others(value):
    alone = tanh(value)
    assert tanh(-value) == -alone
    assert (tanh_of(np.full(13, value)) == alone).all()


def build_stack(part: str, sizes, activations, rng):
    layers, weights = [], {}
    for i, ((n_in, n_out), activation) in enumerate(zip(pairwise(sizes), activations, strict=True)):
        layers.append({"weight": f"{part}.{i}.w", "bias": f"{part}.{i}.b", "activation": activation})
        weights[f"{part}.{i}.w"] = rng.standard_normal((n_out, n_in)).astype(np.float32)
        weights[f"{part}.{i}.b"] = rng.standard_normal(n_out).astype(np.float32)
    return layers, weights


def run_stack(layers, weights, x):
    functions = {"relu": lambda x: np.maximum(x, 0), "tanh": np.tanh, "linear": lambda x: x}
    for layer in layers:
        weight, bias = weights[layer["weight"]].astype(float), weights[layer["bias"]].astype(float)
        x = functions[layer["activation"]](x @ weight.T + bias)
    return x


@pytest.mark.parametrize("trunk", [(), (7,), (5, 1, 9)])
@pytest.mark.parametrize("heads", [{"logits": (6,)}, {"advantage": (3, 8)}, {"advantage": (), "value": (17, 2)}])
def test_stacks_of_any_depth_and_width_are_packed(box, market, config, trunk, heads):
    rng = np.random.default_rng(7)
    width = box.spec(market, config, {}).width
    kinds = ("tanh", "relu", "linear")
    layers, weights = {}, {}
    for part, hiddens in {"trunk": trunk, **heads}.items():
        start = (width, *trunk)[-1] if part != "trunk" else width
        ends = () if part == "trunk" else (1 if part == "value" else 3,)
        sizes = (start, *hiddens, *ends)
        layers[part], found = build_stack(part, sizes, [kinds[i % 3] for i in range(len(sizes) - 1)], rng)
        weights |= found
    spec = box.spec(market, config, layers, algorithm="ppo" if "logits" in heads else "dqn")
    rows = rng.standard_normal((11, width))
    out = {name: run_stack(layers[name], weights, run_stack(layers["trunk"], weights, rows)) for name in heads}
    expected = out.get("logits", out.get("advantage"))
    if "value" in out:
        expected = out["value"] + expected - expected.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(PlainPolicy.from_arrays(spec, weights).scores(rows), expected, rtol=1e-12, atol=1e-12)


def test_no_rows_are_no_scores(box, market, config):
    policy = box.policy(market, config)
    assert policy.scores(np.zeros((0, policy.spec.width))).shape == (0, 3)


def test_nan_goes_through_every_activation():
    for activation in range(len(ACTIVATIONS)):
        values = np.array([np.nan, 1.0])
        activate(values, activation)
        assert np.isnan(values).tolist() == [True, False]
