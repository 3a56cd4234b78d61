"""What several commands take: the root, names, settings."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from tradesweep.errors import BadInput
from tradesweep.home import Home

NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
SWEEP = r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
"""A sweep's id is its experiment's name with a hash and perhaps a number behind it."""
NEXT_SETTING = re.compile(r"\s+(?=[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z0-9_]+)*=)")

LOOSE_KEY = re.compile(r"\s+(?P<key>(?P<part>[a-z_]+)(?:\.[A-Za-z0-9_]+)+)$")
"""A dotted word at the end of a value, which may have lost its `=`."""
WHOLE = ("[", "{", "'", '"')
"""What a value begins with that ends with its own sign."""

ExperimentArgument = Annotated[str, typer.Argument(metavar="EXPERIMENT", help="An entry of experiments.yaml.")]
RunArgument = Annotated[
    str, typer.Argument(metavar="NAME", help="An entry of experiments.yaml, or one sweep of it by its id.")
]
SweepArgument = Annotated[str, typer.Argument(metavar="NAME", help="An experiment (its newest sweep), or a sweep.")]
OptionalSweepArgument = Annotated[
    str | None, typer.Argument(metavar="[NAME]", help="An experiment (its newest sweep), or a sweep; default: all.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Set a value of the spec, as in budget.trials=4; may be given repeatedly."
    ),
]
RootOption = Annotated[
    Path,
    typer.Option(
        "--root", envvar="TRADESWEEP_ROOT", metavar="DIR", help="The folder of experiments.yaml; default: this one."
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]


def find_home(root: Path) -> Home:
    """Where results live. Nothing is created."""
    return Home.from_environment(root.absolute())


def check_root(root: Path) -> Path:
    """The root, absolute; raises BadInput where there is no experiments.yaml."""
    if not (root / "experiments.yaml").is_file():
        raise BadInput(
            f"{root.absolute()}: there is no experiments.yaml; run from the folder that holds it, or give --root"
        )
    return root.absolute()


def check_experiment_name(name: str) -> str:
    """A name that may become part of a path; raises BadInput."""
    return _check(name, NAME, "an experiment's name", 64)


def check_sweep_name(name: str) -> str:
    """The name of an experiment or a sweep; raises BadInput."""
    return _check(name, SWEEP, "the name of an experiment or a sweep", 96)


def _check(name: str, pattern: str, what: str, longest: int) -> str:
    if not re.fullmatch(pattern, name):
        raise BadInput(
            f"{what} must be letters, digits, '.', '_' and '-', beginning with a letter or digit, at most {longest},"
            f" was {name[:80]!r}"
        )
    return name


def split_settings(given: Sequence[str] | None) -> list[str]:
    """Settings, one each: `a.b=1 c=2` in one word are two, but blanks inside a value stay.

    A new setting begins where a blank is followed by `key=`. Raises BadInput where one has no value.
    """
    settings = [setting for word in given or () for setting in NEXT_SETTING.split(word.strip()) if setting]
    for setting in settings:
        check_setting(setting)
    return settings


def check_setting(setting: str) -> None:
    """Raise BadInput when the value ends with another key: its own value was forgotten."""
    key, _, value = setting.partition("=")
    loose = LOOSE_KEY.search(value)
    if loose is None or key.strip() == "description" or value.lstrip().startswith(WHOLE):
        return
    from tradesweep.spec import SweepSpec

    if loose["part"] in SweepSpec.model_fields:
        key = loose["key"]
        raise BadInput(f"--set {setting}: every key must have a value, {key} has none; write {key}=...")
