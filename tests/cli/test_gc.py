"""What nobody needs goes, and nothing else."""

from __future__ import annotations

import os
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tradesweep.names import SweepStatus
from tradesweep.sweep.driver import be_driver

NOBODY = 2**22 + 1


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A temporary folder that nobody else uses."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def make(folder: Path, text: str = "x") -> Path:
    folder.mkdir(parents=True)
    (folder / "file").write_text(text)
    return folder


def paths(said: Any) -> set[str]:
    return {item["path"] for item in said.json["removed"]}


def everything(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


def test_before_the_first_sweep_there_is_nothing_to_remove(command: Any, home: Any, temporary: Path) -> None:
    said = command("gc")
    assert (said.code, said.out) == (0, "removed 0 things, 0 B\n")
    assert not home.path.exists()


def test_a_finished_sweep_loses_what_no_row_names_and_nothing_else(command: Any, swept: Any, temporary: Path) -> None:
    sweep = swept.home.sweep(swept.sweep_id)
    before = everything(swept.home.path)
    checkpoints = sweep / "trials" / "0001" / "checkpoints"
    garbage = {
        make(checkpoints / "000777"),
        make(sweep / "trials" / "0009" / "checkpoints" / "000001"),
        make(sweep / "tune" / "trial_0000"),
        make(swept.home.sweep("small-never") / "logs"),
        make(temporary / f"ts-{NOBODY}-abc"),
        make(temporary / f"tradesweep-smoke-{NOBODY}-abc"),
    }
    kept = {
        make(temporary / f"tradesweep-smoke-{os.getpid()}-abc"),
        make(temporary / "tradesweep-smoke-abc"),
        make(temporary / "ts-abc"),
        make(sweep / "logs"),
    }
    tops = {path.parent if path.name in ("trial_0000", "logs") else path for path in garbage}
    would = command("gc", "--dry-run", "--json")
    assert paths(would) == {str(path) for path in tops}
    assert all(path.exists() for path in garbage | kept), "a dry run removes nothing"
    assert paths(command("gc", "--json")) == paths(would)
    assert not any(path.exists() for path in tops)
    assert all(path.exists() for path in kept)
    assert set(before) <= set(everything(swept.home.path))
    assert command("verify").code == 0
    assert command("gc").out == "removed 0 things, 0 B\n"


def test_a_living_driver_keeps_its_sweeps_whole(command: Any, swept: Any, temporary: Path) -> None:
    half = make(swept.home.sweep(swept.sweep_id) / "trials" / "0001" / "checkpoints" / "000777")
    with be_driver(swept.home, swept.sweep_id, "small"):
        said = command("gc")
        assert f"left alone {swept.home.sweep(swept.sweep_id)}: in use by process {os.getpid()}" in said.out
        assert half.exists()
    command("gc")
    assert not half.exists()


def test_a_sweep_that_another_machine_runs_is_left_alone(command: Any, world: Any, temporary: Path) -> None:
    world.write_sweep({0: 1.0}, status=SweepStatus.FINISHED)
    with closing(sqlite3.connect(str(world.home.database))) as db, db:
        db.execute("UPDATE sweeps SET status = 'RUNNING', driver_host = 'elsewhere'")
    half = make(world.home.sweep(world.sweep_id) / "trials" / "0001" / "checkpoints" / "000777")
    assert "elsewhere" in command("gc").out
    assert half.exists()


def test_a_folder_with_checkpoints_that_this_database_does_not_know_is_left_alone(
    command: Any, swept: Any, temporary: Path
) -> None:
    foreign = swept.home.sweep("other-12345678") / "trials" / "0000" / "checkpoints" / "000001"
    make(foreign)
    (foreign / "MANIFEST.json").write_text("{}")
    said = command("gc", "--json").json
    assert [item["path"] for item in said["left_alone"]] == [str(swept.home.sweep("other-12345678"))]
    assert foreign.exists()


def test_without_its_database_no_sweep_is_touched(command: Any, swept: Any, temporary: Path) -> None:
    before = everything(swept.home.path / "sweeps")
    swept.home.path.joinpath("tradesweep.db").unlink()
    assert command("gc").code == 0
    assert everything(swept.home.path / "sweeps") == before
