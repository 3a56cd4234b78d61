import json
import math
import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from tradesweep.errors import CheckpointError, TrialDiverged
from tradesweep.policy import PlainPolicy, PolicySpec

KINDS = ["ppo", "dqn", "plain_dqn"]
few = settings(deadline=None, max_examples=25)


def observations(policy: PlainPolicy, n: int = 50, seed: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, policy.spec.width)).astype(np.float32)


def weights_of(policy: PlainPolicy, folder) -> dict[str, np.ndarray]:
    policy.save(folder)
    return load_file(folder / "policy.safetensors")


def textbook_scores(policy: PlainPolicy, weights: dict[str, np.ndarray], rows: np.ndarray) -> np.ndarray:
    """The forward pass once more, as matrices."""
    functions = {"relu": lambda x: np.maximum(x, 0), "tanh": np.tanh, "linear": lambda x: x}

    def run(layers, x):
        for layer in layers:
            x = functions[layer.activation](
                x @ weights[layer.weight].astype(float).T + weights[layer.bias].astype(float)
            )
        return x

    x = run(policy.spec.layers, rows.astype(float))
    out = {name: run(head, x) for name, head in policy.spec.heads.items()}
    if "logits" in out:
        return out["logits"]
    if "value" not in out:
        return out["advantage"]
    return out["value"] + out["advantage"] - out["advantage"].mean(axis=1, keepdims=True)


# --- scores and actions ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", ["relu", "tanh", "linear"])
@pytest.mark.parametrize("hiddens", [(), (8,), (16, 8)])
@pytest.mark.parametrize("kind", KINDS)
def test_scores_are_the_textbook_forward_pass(box, market, config, tmp_path, kind, hiddens, activation):
    policy = box.policy(market, config, kind=kind, hiddens=hiddens, activation=activation)
    rows = observations(policy)
    expected = textbook_scores(policy, weights_of(policy, tmp_path), rows)
    assert policy.scores(rows).dtype == np.float64
    assert np.allclose(policy.scores(rows), expected, rtol=0, atol=1e-13)


def test_scores_of_a_hand_computed_network(box, market, config):
    policy = box.policy(market, config, hiddens=(2,), activation="relu")
    width = policy.spec.width
    weights = {
        "trunk.0.weight": np.vstack([np.ones(width), -np.ones(width)]),
        "trunk.0.bias": np.array([0.5, 0.5]),
        "logits.0.weight": np.array([[1.0, 0.0], [0.0, 1.0], [2.0, 2.0]]),
        "logits.0.bias": np.array([0.0, 1.0, -3.0]),
    }
    row = np.zeros((1, width))
    row[0, 0] = 2.0
    # Hidden: relu(2.5) and relu(-1.5).
    assert PlainPolicy.from_arrays(policy.spec, weights).scores(row).tolist() == [[2.5, 1.0, 2.0]]


@pytest.mark.parametrize("kind", KINDS)
def test_actions_are_the_highest_scores(box, market, config, kind):
    policy = box.policy(market, config, kind=kind)
    rows = observations(policy)
    actions = policy.act(rows)
    assert actions.dtype == np.int64
    assert len(set(actions.tolist())) > 1
    assert np.array_equal(actions, policy.scores(rows).argmax(axis=1))


def test_ties_go_to_the_lowest_index(box, market, config):
    policy = box.policy(market, config, hiddens=())
    zeros = {"logits.0.weight": np.zeros((3, policy.spec.width)), "logits.0.bias": np.array([-1.0, 2.0, 2.0])}
    assert PlainPolicy.from_arrays(policy.spec, zeros).act(observations(policy, 4)).tolist() == [1, 1, 1, 1]


@few
@given(st.integers(1, 40), st.integers(0, 39), st.sampled_from(KINDS))
def test_a_row_scores_the_same_bits_in_every_batch(box, market, config, n, at, kind):
    policy = box.policy(market, config, kind=kind, hiddens=(64, 33))
    rows = observations(policy, 40)
    alone = policy.scores(rows[at : at + 1])[0]
    batch = np.roll(rows, -at, axis=0)[:n]
    assert np.array_equal(policy.scores(batch)[0], alone)
    assert np.array_equal(policy.scores(batch[::-1])[-1], alone)


@pytest.mark.parametrize("hiddens", [(), (16, 8)])
@pytest.mark.parametrize("kind", KINDS)
def test_scores_begun_with_many_features_at_once_have_the_same_bits(box, market, config, kind, hiddens):
    policy = box.policy(market, config, kind=kind, hiddens=hiddens)
    rows = observations(policy).astype(np.float64)
    width = dict(policy.spec.observation)["features"]
    begun = policy.begin(rows[:, :width])
    for at in range(0, 48, 4):
        part = tuple(numbers[at : at + 4] for numbers in begun)
        found = policy.finish(part, rows[at : at + 4, width:])
        assert np.array_equal(found, policy.scores(rows[at : at + 4]))


def test_a_value_does_not_change_what_is_best(box, market, config, tmp_path):
    policy = box.policy(market, config, kind="dqn")
    weights = weights_of(policy, tmp_path)
    heads = {"advantage": policy.spec.heads["advantage"]}
    kept = {name: values for name, values in weights.items() if not name.startswith("value")}
    single = PlainPolicy.from_arrays(replace(policy.spec, heads=heads), kept)
    rows = observations(policy)
    assert np.array_equal(policy.act(rows), single.act(rows))


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_an_observation_that_is_not_finite_diverges_and_is_named(box, market, config, wrong):
    policy = box.policy(market, config)
    rows = observations(policy, 5)
    rows[3, 2] = wrong
    with pytest.raises(TrialDiverged, match=r"observations must be finite, was (nan|inf) in row 3, column 2"):
        policy.act(rows)


def test_a_score_that_is_not_finite_diverges(box, market, config):
    policy = box.policy(market, config, hiddens=())
    huge = {"logits.0.weight": np.full((3, policy.spec.width), 1e308), "logits.0.bias": np.zeros(3)}
    with pytest.raises(TrialDiverged, match="scores must be finite"):
        PlainPolicy.from_arrays(policy.spec, huge).act(np.full((1, policy.spec.width), 10.0))


@pytest.mark.parametrize("wrong", [math.nan, -math.inf])
def test_weights_that_are_not_finite_diverge(box, market, config, tmp_path, wrong):
    policy = box.policy(market, config)
    weights = weights_of(policy, tmp_path)
    weights["trunk.1.bias"][0] = wrong
    with pytest.raises(TrialDiverged, match=r"trunk\.1\.bias is not"):
        PlainPolicy.from_arrays(policy.spec, weights)


# --- sampling -------------------------------------------------------------------------------------------------


def test_samples_follow_the_softmax_of_the_logits(box, market, config):
    policy = box.policy(market, config, hiddens=())
    weights = {"logits.0.weight": np.zeros((3, policy.spec.width)), "logits.0.bias": np.log([0.5, 0.2, 0.3])}
    sampled = PlainPolicy.from_arrays(policy.spec, weights).sample(
        observations(policy, 20_000), np.random.default_rng(0)
    )
    shares = [Counter(sampled.tolist())[action] / 20_000 for action in range(3)]
    assert shares == pytest.approx([0.5, 0.2, 0.3], abs=0.015)


def test_samples_repeat_with_the_seed_and_survive_large_logits(box, market, config):
    policy = box.policy(market, config, hiddens=())
    weights = {"logits.0.weight": np.zeros((3, policy.spec.width)), "logits.0.bias": np.array([0.0, 5000.0, -5000.0])}
    sure = PlainPolicy.from_arrays(policy.spec, weights)
    assert set(sure.sample(observations(policy), np.random.default_rng(0)).tolist()) == {1}
    one, other = (policy.sample(observations(policy), np.random.default_rng(7)) for _ in range(2))
    assert np.array_equal(one, other)


def test_q_values_cannot_be_sampled_from(box, market, config):
    policy = box.policy(market, config, kind="dqn")
    with pytest.raises(ValueError, match="only logits"):
        policy.sample(observations(policy), np.random.default_rng(0))


# --- on disk --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_loaded_policy_scores_the_same_bits(box, market, config, tmp_path, kind):
    policy = box.policy(market, config, kind=kind)
    policy.save(tmp_path)
    loaded = PlainPolicy.load(tmp_path)
    assert loaded.spec == policy.spec
    assert np.array_equal(loaded.scores(observations(policy)), policy.scores(observations(policy)))


def test_a_new_process_with_more_threads_scores_the_same_bits(box, market, config, tmp_path):
    policy = box.policy(market, config, hiddens=(256, 256))
    policy.save(tmp_path)
    rows = observations(policy)
    np.save(tmp_path / "rows.npy", rows)
    code = (
        "import sys, numpy as np; from pathlib import Path; from tradesweep.policy import PlainPolicy;"
        "folder = Path(sys.argv[1]);"
        "np.save(folder / 'scores.npy', PlainPolicy.load(folder).scores(np.load(folder / 'rows.npy')));"
        "sys.exit(any(name in sys.modules for name in ('torch', 'ray', 'gymnasium', 'pandas')))"
    )
    for threads in ("1", "8"):
        env = os.environ | {"OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads}
        subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, env=env)
        assert np.array_equal(np.load(tmp_path / "scores.npy"), policy.scores(rows))


def test_saving_twice_gives_the_same_bytes(box, market, config, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        box.policy(market, config).save(tmp_path / name)
    for file in ("policy.json", "policy.safetensors"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_policy_json_says_what_a_signal_needs(box, market, config, tmp_path):
    box.policy(market, config, kind="dqn").save(tmp_path)
    document = json.loads((tmp_path / "policy.json").read_text())
    assert document["algorithm"] == "dqn"
    assert document["actions"] == {"0": -1.0, "1": 0.0, "2": 1.0}
    assert document["env"]["window_bars"] == 2
    assert document["env"]["fill"] == "next_open"
    assert document["env"]["costs"]["fee_bps"] == 1
    assert document["features"] == [{"name": "csv_columns", "params": {"names": ["f0", "f1", "f2"]}}]
    assert document["scaling"][2] == {"feature": "f2", "mean": 1 / 3, "std": 0.7}
    assert document["observation"][0] == {"part": "features", "width": 6}
    assert document["heads"]["value"] == [{"weight": "value.0.weight", "bias": "value.0.bias", "activation": "linear"}]
    assert document["market"]["sha256"] == "ab" * 32
    assert document["market"]["source"] == "csv"
    assert document["market"]["rules"]["timezone"] == "UTC"
    assert document["market"]["rules"]["calendar"] == "sessions"
    assert document["plugins"] == ["mine.py"]
    assert "/somewhere" not in (tmp_path / "policy.json").read_text()


def test_the_environment_comes_back_as_it_was(box, market, config):
    changed = box.config(
        reward="differential_sharpe", reward_params={"eta": 0.1 + 0.2}, positions=(0.0, 1 / 3, 1.0), fill="next_close"
    )
    spec = box.spec(market, changed, {})
    assert PolicySpec.from_json(spec.to_json()) == spec
    assert spec.env == changed
    assert dict(spec.observation)["reward_state"] == 2


# --- what is refused ------------------------------------------------------------------------------------------


def drop_weight(weights):
    del weights["trunk.1.weight"]


def add_weight(weights):
    weights["secret"] = np.zeros(3, np.float32)


def narrow(weights):
    weights["trunk.0.weight"] = weights["trunk.0.weight"][:, 1:]


def fewer_actions(weights):
    weights["logits.0.weight"], weights["logits.0.bias"] = weights["logits.0.weight"][:2], weights["logits.0.bias"][:2]


def wrong_bias(weights):
    weights["trunk.0.bias"] = weights["trunk.0.bias"][:-1]


def make_nan(weights):
    weights["logits.0.bias"][1] = np.nan


def make_int(weights):
    weights["trunk.0.weight"] = np.ones(weights["trunk.0.weight"].shape, np.int32)


@pytest.mark.parametrize(
    ("corrupt", "rule"),
    [
        (drop_weight, r"layers\[1\] must have its weights, \['trunk.1.weight'\] are missing"),
        (add_weight, "every weight must belong to a layer"),
        (narrow, r"layers\[0\] must have weight \(out, 12\)"),
        (fewer_actions, "head logits must give 3 numbers, gives 2"),
        (wrong_bias, r"layers\[0\] must have weight"),
        (make_nan, r"weights must be finite, logits\.0\.bias is not"),
        (make_int, "floating-point"),
    ],
)
def test_weights_that_do_not_fit_are_refused(box, market, config, tmp_path, corrupt, rule):
    weights = {name: values.copy() for name, values in weights_of(box.policy(market, config), tmp_path).items()}
    corrupt(weights)
    save_file({name: np.ascontiguousarray(values) for name, values in weights.items()}, tmp_path / "policy.safetensors")
    with pytest.raises(CheckpointError, match=rule):
        PlainPolicy.load(tmp_path)


def edit(key, value):
    def change(document):
        document[key] = value

    return change


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (edit("heads", {}), "heads must be one of"),
        (edit("heads", {"value": []}), "heads must be one of"),
        (edit("heads", {"logits": []}), "head logits must give 3 numbers"),
        (edit("format_version", 99), "format_version 1, was 99"),
        (edit("layers", [{"weight": "a"}]), "damaged"),
        (edit("env", {}), "damaged"),
        (edit("scaling", None), "damaged"),
        (lambda document: document["layers"][0].update(activation="swish"), "activation must be one of"),
        (lambda document: document.pop("features"), "damaged: KeyError"),
    ],
)
def test_an_edited_policy_json_is_refused(box, market, config, tmp_path, change, rule):
    box.policy(market, config).save(tmp_path)
    document = json.loads((tmp_path / "policy.json").read_text())
    change(document)
    (tmp_path / "policy.json").write_text(json.dumps(document))
    with pytest.raises(CheckpointError, match=rule):
        PlainPolicy.load(tmp_path)


@pytest.mark.parametrize("file", ["policy.json", "policy.safetensors"])
@pytest.mark.parametrize("content", [None, b"", b"\xff\xfenonsense", b"{}"])
def test_missing_and_damaged_files_are_refused(box, market, config, tmp_path, file, content):
    box.policy(market, config).save(tmp_path)
    (tmp_path / file).unlink()
    if content is not None:
        (tmp_path / file).write_bytes(content)
    with pytest.raises(CheckpointError, match=file):
        PlainPolicy.load(tmp_path)
