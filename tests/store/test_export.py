"""A sweep as Parquet files, read back with pandas and compared with the database."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest

from tradesweep.errors import BadInput, NotFound, StoreError
from tradesweep.names import SweepStatus
from tradesweep.store import export, export_parquet, open_store
from tradesweep.store.export import ADDED, TABLES

BACKENDS = ("sqlite", "postgresql")
NAMES = {f"{model.__tablename__}.parquet" for model in TABLES}


def read_table(address: Any, sql: str) -> pd.DataFrame:
    with open_store(address).connect() as db:
        result = db.exec_driver_sql(sql)
        return pd.DataFrame(result.fetchall(), columns=list(result.keys()), dtype=object)


def plain(frame: pd.DataFrame) -> list[tuple[Any, ...]]:
    """Rows as SQLite has them: times are microseconds, nothing is None."""
    columns = []
    for name in frame.columns:
        column = frame[name]
        if isinstance(column.dtype, pd.DatetimeTZDtype):
            assert str(column.dtype) == "datetime64[us, UTC]"
            column = column.astype("int64").where(column.notna())
        columns.append([None if pd.isna(value) else value for value in column])
    return list(zip(*columns, strict=True))


@pytest.fixture
def exported(green: Any, tmp_path: Path) -> Path:
    export_parquet(open_store(green), "small", tmp_path / "out")
    return tmp_path / "out"


@pytest.mark.parametrize("model", TABLES, ids=lambda model: model.__tablename__)
def test_a_file_holds_the_rows_of_its_table(exported: Path, green: Any, model: Any) -> None:
    table = model.table()
    frame = pd.read_parquet(exported / f"{table.name}.parquet")
    columns = [column.name for column in table.columns]
    keys = ", ".join(column.name for column in table.primary_key.columns)
    expected = read_table(green, f"SELECT {', '.join(columns)} FROM {table.name} ORDER BY {keys}")
    assert list(frame.columns[: len(columns)]) == columns
    assert plain(frame[columns]) == plain(expected)
    assert len(frame) > 0


def test_types_are_exact(exported: Path) -> None:
    types = {field.name: str(field.type) for field in pq.read_schema(exported / "steps.parquet")}
    assert types["step_id"] == "int64"
    assert types["equity"] == types["fill_price"] == "double"
    assert types["mark_time"] == "timestamp[us, tz=UTC]"
    assert types["effective"] == "bool"
    assert str(pq.read_schema(exported / "evaluation_curves.parquet").field("returns").type) == "binary"
    assert str(pq.read_schema(exported / "trials.parquet").field("best_iteration").type) == "int64"


def test_a_step_says_whose_it_is_and_whether_it_counts(exported: Path, green: Any) -> None:
    frame = pd.read_parquet(exported / "steps.parquet")
    counted = read_table(green, f"SELECT step_id, {', '.join(ADDED[:-1])} FROM effective_steps ORDER BY step_id")
    assert 0 < len(counted) < len(frame)
    found = frame[frame["effective"]][["step_id", *ADDED[:-1]]]
    assert plain(found) == plain(counted)


def test_a_fill_says_the_same_as_its_step(exported: Path) -> None:
    fills, steps = (pd.read_parquet(exported / f"{name}.parquet") for name in ("fills", "steps"))
    joined = fills.merge(steps, on="step_id", suffixes=("", "_of_step"))
    assert len(joined) == len(fills) > 0
    for name in ADDED:
        assert (joined[name] == joined[f"{name}_of_step"]).all()


def test_every_file_says_what_made_the_sweep(exported: Path) -> None:
    for name in NAMES:
        metadata = pq.read_schema(exported / name).metadata
        assert metadata[b"tradesweep.sweep_id"] == b"small-12345678"
        assert metadata[b"tradesweep.spec_json"] == b'{"experiment": "small"}'
        assert metadata[b"tradesweep.data_sha256"] == b"cd" * 32
        assert metadata[b"tradesweep.git_revision"] == b"abc"
        assert metadata[b"tradesweep.version.ray"] == b"2.60"


def test_rows_are_read_and_written_in_groups(green: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "GROUP_ROWS", 10)
    files = {file.name: file for file in export_parquet(open_store(green), "small", tmp_path / "out")}
    written = pq.ParquetFile(tmp_path / "out" / "steps.parquet").metadata
    assert written.num_rows == files["steps.parquet"].rows
    assert max(written.row_group(group).num_rows for group in range(written.num_row_groups)) == 10


def test_only_the_named_sweep_is_exported(world: Any, tmp_path: Path) -> None:
    for sweep_id in ("first-1", "second-2"):
        world.writer.open_sweep(world.new_sweep(sweep_id=sweep_id, experiment=sweep_id))
        run = world.TrialRun(world.writer, world.open_trial(0, sweep_id), sweep_id=sweep_id)
        run.train(7, 9)
        run.evaluate()
    files = {file.name: file.rows for file in export_parquet(world.store, "second-2", tmp_path / "out")}
    assert files["sweeps.parquet"] == files["trials.parquet"] == files["evaluation_curves.parquet"] == 1
    assert files["steps.parquet"] == 4 * 16 + 40
    assert set(pd.read_parquet(tmp_path / "out" / "steps.parquet")["trial_id"]) == {run.trial_id}


def test_a_sweep_that_runs_and_one_without_rows_are_exported(world: Any, tmp_path: Path) -> None:
    files = export_parquet(world.store, world.sweep_id, tmp_path / "empty")
    assert {file.name: file.rows for file in files if file.rows} == {"sweeps.parquet": 1}
    world.begin().train(7)
    files = export_parquet(world.store, world.sweep_id, tmp_path / "running")
    assert {file.name: file.rows for file in files}["steps.parquet"] == 28


def test_a_pruned_sweep_is_exported(world: Any, tmp_path: Path) -> None:
    run = world.begin()
    run.train(7)
    run.evaluate()
    world.writer.close_sweep(world.sweep_id, SweepStatus.FINISHED)
    world.writer.prune_producer(run.runners[0].grant.producer_no)
    files = export_parquet(world.store, world.sweep_id, tmp_path / "out")
    assert {file.name: file.rows for file in files}["steps.parquet"] == 14 + 40


def test_files_are_for_their_owner_alone_and_nothing_else_is_left(exported: Path, tmp_path: Path) -> None:
    assert {path.name for path in exported.iterdir()} == NAMES
    assert {stat.S_IMODE(path.stat().st_mode) for path in exported.iterdir()} == {0o600}
    assert stat.S_IMODE(exported.stat().st_mode) == 0o700
    assert not (tmp_path / "out.part").exists()


def test_a_folder_with_something_in_it_needs_force_and_keeps_what_is_not_ours(exported: Path, green: Any) -> None:
    (exported / "mine.txt").write_text("keep me")
    (exported / "steps.parquet").write_text("old")
    with pytest.raises(BadInput, match="the folder must be empty, is not; give --force"):
        export_parquet(open_store(green), "small", exported)
    assert (exported / "steps.parquet").read_text() == "old"
    export_parquet(open_store(green), "small", exported, force=True)
    assert len(pd.read_parquet(exported / "steps.parquet")) > 0
    assert (exported / "mine.txt").read_text() == "keep me"


def test_a_place_that_cannot_hold_an_export_is_refused(green: Any, tmp_path: Path) -> None:
    store = open_store(green)
    with pytest.raises(BadInput, match=f"must lie in one that exists; create {tmp_path}/none"):
        export_parquet(store, "small", tmp_path / "none" / "out")
    (tmp_path / "file").touch()
    with pytest.raises(BadInput, match="must be a folder, is a file"):
        export_parquet(store, "small", tmp_path / "file")
    with pytest.raises(NotFound, match="no sweep or experiment 'other'"):
        export_parquet(store, "other", tmp_path / "out")
    with pytest.raises(StoreError, match=r"nothing was exported \(File name too long\)"):
        export_parquet(store, "small", tmp_path / ("x" * 300))
    assert not (tmp_path / "out").exists()


def test_an_export_that_fails_leaves_nothing(green: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Any, *arguments: Any, **named: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq.ParquetWriter, "write_batch", fail)
    with pytest.raises(StoreError, match=r"No space left on device.*free some space") as caught:
        export_parquet(open_store(green), "small", tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_export_left_is_cleared_away(green: Any, tmp_path: Path) -> None:
    (tmp_path / "out.part").mkdir()
    (tmp_path / "out.part" / "steps.parquet").write_text("half")
    export_parquet(open_store(green), "small", tmp_path / "out")
    assert not (tmp_path / "out.part").exists()


def test_a_folder_that_is_in_the_way_is_named_and_left_alone(green: Any, tmp_path: Path) -> None:
    (tmp_path / "out.part").mkdir()
    (tmp_path / "out.part" / "mine.txt").write_text("keep me")
    with pytest.raises(StoreError, match=r"out\.part: nothing was exported \(Directory not empty\)"):
        export_parquet(open_store(green), "small", tmp_path / "out")
    assert (tmp_path / "out.part" / "mine.txt").read_text() == "keep me"
    assert not (tmp_path / "out").exists()
