"""The real command in this process, over folders that hold whatever a person may have written."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from hypothesis import HealthCheck, settings
from typer.testing import CliRunner

from tradesweep.cli.main import app

EXAMPLES = "TRADESWEEP_FUZZ_EXAMPLES"
"""Multiplies the examples of each law; 1 unless set."""

PLACE = re.compile(r"--set |[^ ]*(experiments\.yaml|sweeps/[^ ]*\.yaml|bars\.csv)(:\d+)?[: ]|/[^ ]+ must be a ")
OTHER = re.compile(r"and \d+ more|experiment \S+ is not in experiments\.yaml; .*")


def fuzz(examples: int) -> settings:
    """Settings of a law; no example has a deadline, since machines differ."""
    return settings(
        max_examples=examples * int(os.environ.get(EXAMPLES, "1")),
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


@dataclass(frozen=True)
class Bench:
    """A folder with a spec, and the command that plans it."""

    root: Path

    def write(self, name: str, content: bytes | str) -> None:
        raw = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
        (self.root / name).write_bytes(raw)

    def accepts(self, experiment: str, *words: str) -> bool:
        """Whether `plan` takes it."""
        return self.refusal(experiment, *words) is None

    def refusal(self, experiment: str, *words: str) -> str | None:
        """Why `plan` does not take it, if so: as bad input, at a place. Either way nothing is written."""
        before = set(self.root.parent.rglob("*"))
        said = CliRunner().invoke(app, ["plan", "--root", str(self.root), *words, "--", experiment])
        assert set(self.root.parent.rglob("*")) == before
        assert said.exit_code in (0, 2), said.output
        assert "Traceback" not in said.output
        if said.exit_code == 0:
            return None
        check_message(said.stderr)
        return said.stderr


def check_message(text: str) -> None:
    """One printable line a problem, each with the file it is in."""
    lines = text.removesuffix("\n").split("\n")
    assert lines
    for line in lines:
        assert line.isprintable(), repr(line)
        assert PLACE.match(line) or OTHER.fullmatch(line), line
