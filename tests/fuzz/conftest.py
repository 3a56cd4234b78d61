"""The shipped spec, in a folder that tests may spoil."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.fuzz.bench import Bench

SHIPPED = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """A copy of the shipped spec; results would stand beside it."""
    root = tmp_path_factory.mktemp("fuzz") / "root"
    root.mkdir()
    shutil.copytree(SHIPPED / "sweeps", root / "sweeps")
    shutil.copy(SHIPPED / "experiments.yaml", root)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRADESWEEP_HOME", str(root.parent / "runs"))
        patch.delenv("TRADESWEEP_DB_URL", raising=False)
        yield Bench(root)
