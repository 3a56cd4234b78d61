"""The project's own files agree: pins with ranges, versions with each other, floors with folders."""

from __future__ import annotations

import re
import tomllib
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import tradesweep

ROOT = Path(__file__).parent.parent
PACKAGE = Path(tradesweep.__file__).parent
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
REQUIREMENTS = [
    Requirement(text)
    for text in [
        *PROJECT["project"]["dependencies"],
        *(text for extra in PROJECT["project"]["optional-dependencies"].values() for text in extra),
    ]
]
PIN = re.compile(r"^([A-Za-z0-9._-]+)==([A-Za-z0-9.!]+)$")


def constraint_lines() -> list[str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def pins() -> dict[str, Version]:
    found = [PIN.match(line) for line in constraint_lines()]
    return {canonicalize_name(match[1]): Version(match[2]) for match in found if match is not None}


@pytest.mark.parametrize("line", constraint_lines())
def test_every_constraint_is_one_exact_public_version(line: str) -> None:
    assert PIN.match(line), "neither a range, nor a local version, nor a path"


def test_no_package_is_pinned_twice() -> None:
    assert len(pins()) == len(constraint_lines())


@pytest.mark.parametrize("requirement", REQUIREMENTS, ids=str)
def test_constraints_satisfy_the_ranges_of_the_project(requirement: Requirement) -> None:
    pin = pins()[canonicalize_name(requirement.name)]
    assert requirement.specifier.contains(pin)


def test_the_project_has_one_version() -> None:
    version = PROJECT["project"]["version"]
    newest = re.search(r"^## \[([^\]]+)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert newest is not None
    assert tradesweep.__version__ == version == newest[1]


def test_the_console_script_exists() -> None:
    module, _, function = PROJECT["project"]["scripts"]["tradesweep"].partition(":")
    assert callable(getattr(import_module(module), function))


def layers() -> set[str]:
    contract = next(one for one in PROJECT["tool"]["importlinter"]["contracts"] if one["type"] == "layers")
    return {name.strip(" ()") for layer in contract["layers"] for name in layer.split("|")}


def rooms() -> set[str]:
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    modules = {path.stem for path in PACKAGE.glob("*.py") if path.stem != "__init__"}
    return folders | modules


def test_the_floors_list_every_package_and_module() -> None:
    assert rooms() - layers() == set()


def test_every_package_is_in_the_table_of_floors() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    table = page.partition("\n## Floors\n")[2].partition("\n## ")[0]
    named = {name for row in table.splitlines() if row.startswith("| ") for name in re.findall(r"`(\w+)`", row)}
    assert rooms() - {"__main__"} == named


def test_tests_mirror_the_packages() -> None:
    folders = {path.name for path in (ROOT / "tests").iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders - {"benchmarks", "end_to_end", "faults", "fuzz"} <= rooms()


def test_continuous_integration_calls_targets_that_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):.*## ", makefile, re.MULTILINE))
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    called = re.findall(r"^ *- run: make (\S+)$", workflow, re.MULTILINE) + re.findall(
        r"^stage make (\S+)$", script, re.MULTILINE
    )
    assert len(called) >= 10
    assert set(called) <= targets
