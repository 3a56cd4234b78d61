"""Whatever stands in the spec: `plan` takes it, or refuses it with exit code 2 and a place. Never a traceback."""

from __future__ import annotations

import copy
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st
from tests.fuzz.bench import Bench, fuzz

SHIPPED = Path(__file__).parents[2]
TOP = yaml.safe_load((SHIPPED / "experiments.yaml").read_text(encoding="utf-8"))
EXPERIMENTS = ("smoke_dqn", "smoke_ppo")
SWEEPS = {name: yaml.safe_load((SHIPPED / "sweeps" / f"{name}.yaml").read_text("utf-8")) for name in EXPERIMENTS}

HOSTILE_NAMES = [
    "../x", "/etc/passwd", "a/b", ".", "..", "`id`", "$(id)", "a\nb", "a\0b", "\u202egnp.exe", "x" * 300,
    "'; DROP TABLE trials;--", "<script>alert(1)</script>", "CON", "🚀", "é", "e\u0301", "a b", "-x", "~", "%2e%2e",
]  # fmt: skip
NUMBERS = [
    0, 1, -1, 2, 3, 7, 10**6, 10**12, 10**18, 10**30, 0.5, -0.0, 1e-300, 1e300, -1e300, 1e-4, 0.999999999999,
    float("nan"), float("inf"), float("-inf"),
]  # fmt: skip
SHAPES: list[Any] = [
    None, True, False, [], {}, [None], [[]], [[[1]]], {"a": None}, {"": 1}, ["a", "a"], [-1, 0, 1], [0, 1, 2, 3],
    {"uniform": [0, 1]}, {"loguniform": [1e-4, 1e-2]}, {"choice": [1, 2]}, {"choice": []}, {"grid": [[1], [2]]},
    {"randint": [0, 3]}, {"quniform": [0, 1, 0.1]}, {"uniform": [1, 0]}, {"loguniform": [0, 1]}, {"choice": 1},
    {"choice": [1, 2], "when": {"lr": 1}}, {"kind": "uniform", "low": 0, "high": 1}, {"name": "x"},
    "auto", "null", "1e-4", "1:30", "2020-01-01", ["2020-01-01", "2021-01-01"], ["2021-01-01", "2020-01-01"],
    "dqn", "ppo", "grid", "random", "tpe", "synthetic", "csv", "planted", "next_open", "yes", "\t", " ", "\ufeff",
    [{"log_returns": {"lags": [0]}}], [{"rsi": {"period": 10**9}}], [{"csv_columns": {"names": []}}], ["rsi", "rsi"],
]  # fmt: skip
values = st.one_of(
    st.sampled_from(NUMBERS),
    st.sampled_from(SHAPES),
    st.sampled_from(HOSTILE_NAMES),
    st.integers(-5, 5000),
    st.floats(),
    st.text(max_size=6),
)
KeyPath = tuple[str | int, ...]


def paths_of(value: Any, above: KeyPath = ()) -> list[KeyPath]:
    """Every place of a document, the whole of it first."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [above, *(path for key, deeper in items for path in paths_of(deeper, (*above, key)))]


def spoil(document: Any, path: KeyPath, kind: str, value: Any) -> Any:
    """A copy with one place of it dropped, renamed, replaced, wrapped, or with something new beside it."""
    if not path:
        return value if kind == "replace" else document
    spoiled = copy.deepcopy(document)
    parent = spoiled
    for key in path[:-1]:
        parent = parent[key]
    key = path[-1]
    if kind == "drop":
        del parent[key]
    elif kind == "replace":
        parent[key] = value
    elif kind == "wrap":
        parent[key] = [parent[key]] if isinstance(value, int) else {str(value): parent[key]}
    elif isinstance(parent, list):
        parent.append(value)
    else:
        parent[str(value) if kind == "add" else f"{key}_"] = parent.pop(key) if kind == "rename" else value
    return spoiled


class Plain(yaml.SafeDumper):
    """No anchors: the reader refuses them at once."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def write(value: Any) -> str:
    return yaml.dump(value, Dumper=Plain, sort_keys=False, allow_unicode=True, width=10**6)


def spoiled(document: Any, places: list[KeyPath]) -> st.SearchStrategy[Any]:
    """The document after one edit, or two."""
    kinds = st.sampled_from(["drop", "replace", "replace", "replace", "wrap", "rename", "add"])
    edits = st.lists(st.tuples(st.sampled_from(places), kinds, values), min_size=1, max_size=2)
    return edits.map(lambda drawn: spoil_all(document, drawn))


def spoil_all(document: Any, edits: list[tuple[KeyPath, str, Any]]) -> Any:
    for path, kind, value in edits:
        with suppress(LookupError, TypeError):  # an earlier edit took the place away
            document = spoil(document, path, kind, value)
    return document


OWN_PLACES = [
    path for path in paths_of(TOP) if path[:1] != ("experiments",) or len(path) == 1 or path[1] in EXPERIMENTS
]


@given(spoiled(TOP, OWN_PLACES), st.sampled_from(EXPERIMENTS))
@fuzz(70)
def test_a_spoiled_experiment_is_planned_or_refused(bench: Bench, top: Any, experiment: str) -> None:
    bench.write("experiments.yaml", write(top))
    for name, sweep in SWEEPS.items():
        bench.write(f"sweeps/{name}.yaml", write(sweep))
    bench.accepts(experiment)


@given(st.data(), st.sampled_from(EXPERIMENTS))
@fuzz(50)
def test_a_spoiled_sweep_is_planned_or_refused(bench: Bench, data: st.DataObject, experiment: str) -> None:
    sweep = SWEEPS[experiment]
    bench.write("experiments.yaml", (SHIPPED / "experiments.yaml").read_bytes())
    bench.write(f"sweeps/{experiment}.yaml", write(data.draw(spoiled(sweep, paths_of(sweep)))))
    bench.accepts(experiment)


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)
FILES = {
    "empty": b"",
    "blank": b"\n \n",
    "comment": b"# nothing\n",
    "byte-order mark": b"\xef\xbb\xbfversion: 1\n",
    "UTF-16": "version: 1\n".encode("utf-16"),
    "latin-1": "version: 1\nexperiments: {é: {}}\n".encode("latin-1"),
    "NUL": b"version: 1\nexperiments: {a\0: {}}\n",
    "binary": bytes(range(256)),
    "tabs": b"version: 1\nexperiments:\n\tx: {}\n",
    "several documents": b"version: 1\n---\nversion: 1\n",
    "alias bomb": BOMB.encode(),
    "circle": b"version: 1\nexperiments: &a [*a]\n",
    "python object": b"version: 1\nexperiments: !!python/object/apply:os.system [id]\n",
    "merge key": b"version: 1\nexperiments: {<<: {x: {}}}\n",
    "deep": b"version: 1\nexperiments: " + b"[" * 3000 + b"]" * 3000,
    "deep mapping": b"version: 1\nexperiments: " + b"{a: " * 3000 + b"1" + b"}" * 3000,
    "huge": b"version: 1\n" + b"# x\n" * 3_000_000,
    "one long line": b"version: " + b"1" * 90_000,
    "one long word": b"version: 1\nexperiments: {smoke_dqn: " + b"x" * 90_000 + b"}\n",
    "list": b"- 1\n- 2\n",
    "word": b"version\n",
    "no version": b"experiments: {smoke_dqn: {sweep: smoke_dqn}}\n",
    "odd version": b"version: 2\nexperiments: {}\n",
    "same key twice": b"version: 1\nversion: 1\n",
    "carriage returns": b"version: 1\rexperiments: {x: {}}\r",
    "bad escape": b'version: "\\UFFFFFFFF"\n',
    "odd directive": b"%YAML 1." + b"9" * 5000 + b"\n---\nversion: 1\n",
    "not closed": b"version: 1\nexperiments: {smoke_dqn: [1, 2\n",
}


@pytest.mark.parametrize("raw", FILES.values(), ids=FILES)
def test_a_file_that_is_no_spec_is_refused_with_its_name(bench: Bench, raw: bytes) -> None:
    bench.write("experiments.yaml", raw)
    assert not bench.accepts("smoke_dqn")


@given(st.binary(max_size=80))
@example(b"\xff\xfe\x00")
@fuzz(35)
def test_any_bytes_as_a_sweep_file_are_refused(bench: Bench, raw: bytes) -> None:
    bench.write("experiments.yaml", (SHIPPED / "experiments.yaml").read_bytes())
    bench.write("sweeps/smoke_dqn.yaml", raw)
    assert not bench.accepts("smoke_dqn")


TEXT_EDITS = st.lists(
    st.tuples(
        st.integers(0, 10_000),
        st.integers(0, 8),
        st.sampled_from(["", " ", "\t", "\n", ":", "- ", "{", "'", "#", "🚀", "0", "&a ", "*a", "!!int "]),
    ),
    min_size=1,
    max_size=3,
)


@given(TEXT_EDITS)
@fuzz(35)
def test_slips_of_the_keyboard_are_planned_or_refused(bench: Bench, edits: list[tuple[int, int, str]]) -> None:
    text = write({**TOP, "experiments": {"smoke_dqn": TOP["experiments"]["smoke_dqn"]}})
    for at, removed, inserted in edits:
        at %= len(text) + 1
        text = text[:at] + inserted + text[at + removed :]
    bench.write("experiments.yaml", text)
    bench.write("sweeps/smoke_dqn.yaml", write(SWEEPS["smoke_dqn"]))
    bench.accepts("smoke_dqn")


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_a_hostile_name_is_data_or_is_refused(bench: Bench, name: str) -> None:
    """As a name of something that becomes a path it is refused; as the name of what is traded it is text."""
    for key in ("sweep", "promotion.model"):
        top = copy.deepcopy(TOP)
        entry = top["experiments"]["smoke_dqn"]
        if key == "sweep":
            entry["sweep"] = name
        else:
            entry["promotion"] = {"model": name}
        bench.write("experiments.yaml", write(top))
        assert bench.accepts("smoke_dqn") == (name == "CON" and key != "sweep")
    top = copy.deepcopy(TOP)
    top["experiments"]["smoke_dqn"]["market"]["instrument"] = name
    bench.write("experiments.yaml", write(top))
    bench.accepts("smoke_dqn")
    top = {**TOP, "experiments": {name: TOP["experiments"]["smoke_dqn"]}}
    bench.write("experiments.yaml", write(top))
    bench.accepts("smoke_dqn")


SETTINGS = st.builds(
    "{}={}".format,
    st.sampled_from([".".join(map(str, path)) for path in paths_of(TOP["experiments"]["smoke_dqn"])[1:]])
    | st.text(max_size=8),
    values.map(lambda value: write(value).removesuffix("...\n").strip()) | st.text(max_size=8),
)


@given(SETTINGS)
@fuzz(35)
def test_any_setting_is_planned_or_refused(bench: Bench, setting: str) -> None:
    for name in ("experiments.yaml", "sweeps/smoke_dqn.yaml"):
        bench.write(name, (SHIPPED / name).read_bytes())
    bench.accepts("smoke_dqn", "--set", setting)


GEOMETRY = {
    "n_step must be below env.episode_bars": "fixed.n_step=100",
    "train_batch_size_per_learner must be at most replay_buffer_config.capacity": (
        "fixed.replay_buffer_config.capacity=8"
    ),
    "num_steps_sampled_before_learning_starts must be at most replay_buffer_config.capacity": (
        "fixed.num_steps_sampled_before_learning_starts=1500 fixed.replay_buffer_config.capacity=1000"
    ),
    "num_steps_sampled_before_learning_starts must be below budget.env_steps_per_trial": (
        "fixed.num_steps_sampled_before_learning_starts=2000"
    ),
}


@pytest.mark.parametrize(("rule", "settings"), GEOMETRY.items())
def test_a_replay_that_could_never_be_learned_from_is_refused(bench: Bench, rule: str, settings: str) -> None:
    for name in ("experiments.yaml", "sweeps/smoke_dqn.yaml"):
        bench.write(name, (SHIPPED / name).read_bytes())
    assert rule in bench.refusal("smoke_dqn", "--set", settings)


def test_learning_may_start_with_the_first_step(bench: Bench) -> None:
    for name in ("experiments.yaml", "sweeps/smoke_dqn.yaml"):
        bench.write(name, (SHIPPED / name).read_bytes())
    assert bench.accepts("smoke_dqn", "--set", "fixed.num_steps_sampled_before_learning_starts=0")
