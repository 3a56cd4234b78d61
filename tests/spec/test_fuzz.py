"""Whatever people write, they get a SweepSpec or a BadInput, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tradesweep.errors import BadInput
from tradesweep.spec import SweepSpec, load_spec

SCRAPS = [
    "null", "[]", "{}", "5", "-1", "1e-4", "1e400", ".nan", "true", "text", "''", "[[1, 2], [3]]", "{a: 1}",
    "{kind: 1}", "{choice: [1, 2]}", "{uniform: [0, 1]}", "{loguniform: 5}", "{grid: [[1], [2]], when: {lr: 1}}",
    "{quniform: [0, 1, 0]}", "auto", "&a 1", "*a", "!!int x", "'\\0'", '"\\ud800"', "2020-01-01",
    "[2020-01-01, 2020-02-01]", "---", "?", "- -", "\t",
]  # fmt: skip
WORDS = [
    "version", "plugins", "defaults", "experiments", "tiny", "sweep", "market", "source", "name", "path",
    "params", "rho", "features", "0", "splits", "train", "test", "env", "fill", "positions", "reward_params",
    "reward_scale", "evaluation", "count", "budget", "trials", "env_steps_per_trial", "searcher", "kind",
    "points", "pruner", "seeds", "seed", "confirm", "top", "recording", "resources", "lanes", "promotion",
    "model", "hiddens", "algorithm", "fixed", "search", "lr", "n_step", "gamma", "epsilon",
    "replay_buffer_config", "capacity", "when", "description", "experiment", "format_version", "bogus",
]  # fmt: skip

scraps = st.one_of(st.sampled_from(SCRAPS), st.text(max_size=8), st.integers().map(str), st.floats().map(repr))
edits = st.lists(
    st.tuples(
        st.sampled_from(["delete", "duplicate", "replace", "value", "indent", "swap", "insert", "cut"]),
        st.integers(0, 10_000),
        st.integers(0, 10_000),
        scraps,
    ),
    min_size=1,
    max_size=4,
)
overrides = st.lists(
    st.one_of(
        st.builds("{}={}".format, st.lists(st.sampled_from(WORDS), min_size=1, max_size=4).map(".".join), scraps),
        st.text(max_size=12),
    ),
    max_size=3,
)


def mutate(text: str, kind: str, at: int, other: int, scrap: str) -> str:
    lines = text.split("\n")
    row, place = at % len(lines), at % (len(text) + 1)
    line = lines[row]
    if kind == "delete":
        del lines[row]
    elif kind == "duplicate":
        lines.insert(other % (len(lines) + 1), line)
    elif kind == "replace":
        lines[row] = scrap
    elif kind == "value":
        lines[row] = f"{line.partition(':')[0]}: {scrap}"
    elif kind == "indent":
        lines[row] = " " * (other % 7) + line.lstrip()
    elif kind == "swap":
        back = other % len(lines)
        lines[row], lines[back] = lines[back], line
    elif kind == "insert":
        return text[:place] + scrap + text[place:]
    else:
        return text[:place] + text[place + other % 9 :]
    return "\n".join(lines)


def load_or_refuse(root: Path, overrides: list[str]) -> None:
    try:
        spec = load_spec("tiny", root=root, overrides=overrides)
    except BadInput as error:
        refused: BadInput | None = error
    else:
        refused = None
    if refused is not None:
        assert all(line and line.isprintable() for line in str(refused).split("\n"))
        return
    assert SweepSpec.from_json(spec.to_json()) == spec
    spec.sweep_id(data_sha256="0", lanes=1, env_runners=0)


def fuzz(examples: int) -> settings:
    return settings(max_examples=examples, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.mark.parametrize("which", ["experiments.yaml", "sweeps/tiny.yaml"])
@given(edits=edits)
@fuzz(200)
def test_a_mutated_file_is_read_or_refused(root: Path, experiments: str, dqn: str, which: str, edits) -> None:
    text = experiments if which == "experiments.yaml" else dqn
    for edit in edits:
        text = mutate(text, *edit)
    (root / which).write_bytes(text.encode("utf-8", "surrogatepass"))
    load_or_refuse(root, [])


@given(overrides=overrides)
@fuzz(250)
def test_any_override_is_read_or_refused(root: Path, overrides: list[str]) -> None:
    load_or_refuse(root, overrides)


@given(raw=st.binary(max_size=60))
@fuzz(100)
def test_any_bytes_are_read_or_refused(root: Path, raw: bytes) -> None:
    (root / "experiments.yaml").write_bytes(raw)
    load_or_refuse(root, [])
