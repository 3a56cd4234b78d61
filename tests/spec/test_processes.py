"""What only a fresh process shows: imports, and locales that are not UTF-8."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

THIRD_PARTY = {
    "pydantic",
    "pydantic_core",
    "annotated_types",
    "typing_extensions",
    "typing_inspection",
    "yaml",
    "_yaml",
}


BUILD = ("_sysconfigdata", "_cython", "cython_runtime", "_distutils", "__editable__")
"""What compiled packages and installers bring along."""


def run(code: str, *arguments: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        check=True,
    )
    return done.stdout.decode("utf-8")


def test_reading_specs_imports_pydantic_and_yaml_and_nothing_else_from_outside() -> None:
    code = (
        "import sys; before = set(sys.modules); import tradesweep.spec; import json;"
        "print(json.dumps(sorted({name.split('.')[0] for name in set(sys.modules) - before}"
        " - set(sys.stdlib_module_names))))"
    )
    imported = {name for name in json.loads(run(code)) if not name.startswith(BUILD)}
    assert imported - {"tradesweep"} <= THIRD_PARTY
    assert not imported & {"numpy", "pandas", "ray", "torch", "scipy"}


LOAD = """
import json, sys
from pathlib import Path
from tradesweep.spec import load_spec, list_experiments
from tradesweep.errors import SpecError
root = Path(sys.argv[1])
spec = load_spec("tiny", root=root)
try:
    load_spec("tiny", root=root, overrides=["env.reward_scale=gro\\u00df"])
except SpecError as error:
    refused = str(error)
facts = {"data_sha256": "0", "lanes": 4, "env_runners": 0}
print(json.dumps([list_experiments(root)["tiny"], spec.to_json(), spec.sweep_id(**facts), refused]))
"""


def test_a_locale_that_is_not_utf_8_changes_nothing(root: Path, experiments: str) -> None:
    told = experiments.replace("a tiny one", "größer als ΑΒΓ ☃")
    folder = root / "with space"
    folder.mkdir()
    (folder / "experiments.yaml").write_text(told, encoding="utf-8")
    (root / "sweeps").rename(folder / "sweeps")
    plain = run(LOAD, str(folder), LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0", PYTHONHASHSEED="1")
    usual = run(LOAD, str(folder), LC_ALL="C.UTF-8", PYTHONUTF8="1", PYTHONHASHSEED="2")
    described, _, sweep_id, _ = json.loads(usual)
    assert described == "größer als ΑΒΓ ☃"
    assert sweep_id.startswith("tiny-")
    assert json.loads(plain) == json.loads(usual)
