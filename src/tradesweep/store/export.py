"""One sweep as Parquet files, a file a table, for pandas and everything else that reads Parquet.

Rows are streamed in groups from one state of the database, so that memory does not grow with the sweep and a sweep may
go on meanwhile. The files are written to a folder beside the one that was named and moved when all of them are whole.

Columns are those of the tables; times become timestamps. Steps and fills also say what is packed in their keys, whose
they are, and whether they count. What made the sweep is in the metadata of every file.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import LargeBinary, Select, Table, Text, select
from sqlalchemy.engine import Connection

from tradesweep.errors import BadInput, StoreError
from tradesweep.names import EPISODE_STEP_BITS, PRODUCER_EPISODE_BITS
from tradesweep.store.models import (
    Attempt,
    Base,
    Checkpoint,
    Episode,
    Evaluation,
    EvaluationCurve,
    Fill,
    Iteration,
    Producer,
    Step,
    Sweep,
    Trade,
    Trial,
)
from tradesweep.store.pruning import step_ids
from tradesweep.store.queries import Store

if TYPE_CHECKING:
    import pyarrow as pa

TABLES: tuple[type[Base], ...] = (
    Sweep,
    Trial,
    Attempt,
    Producer,
    Iteration,
    Episode,
    Evaluation,
    EvaluationCurve,
    Checkpoint,
    Trade,
    Fill,
    Step,
)
"""What is exported, small tables first."""

GROUP_ROWS = 65_536
"""Rows of a row group, and rows in memory at once."""

METADATA = ("sweep_id", "experiment", "spec_json", "identity", "data_sha256", "instrument", "git_revision")
"""What of a sweep every file carries, besides the versions of the libraries."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportedFile:
    """One table in one file."""

    name: str
    rows: int
    bytes: int


def export_parquet(store: Store, name: str, folder: Path, *, force: bool = False) -> list[ExportedFile]:
    """Write the sweep of that name, or the newest of that experiment, to Parquet files in `folder`.

    Raises NotFound for an unknown name, BadInput for a folder with something in it unless `force`, which replaces the
    files of an earlier export and touches nothing else, and StoreError when it cannot be read or written; the folder
    is as it was then.
    """
    sweep_id, folder = store.get_sweep(name).sweep_id, folder.absolute()
    try:
        check_folder(folder, force=force)
        with _draft(folder.with_name(f"{folder.name}.part")) as part:
            files = write_tables(store, sweep_id, part)
            _move(part, folder)
    except OSError as error:
        raise StoreError(
            f"{error.filename or folder}: nothing was exported ({error.strerror or error}); free some space, or name"
            " another folder"
        ) from error
    return files


def check_folder(folder: Path, *, force: bool) -> None:
    """Raise BadInput when the files may not be written."""
    if not folder.parent.is_dir():
        raise BadInput(f"{folder}: the folder must lie in one that exists; create {folder.parent}")
    if folder.exists() and not folder.is_dir():
        raise BadInput(f"{folder}: must be a folder, is a file; name another one")
    if folder.is_dir() and any(folder.iterdir()) and not force:
        raise BadInput(
            f"{folder}: the folder must be empty, is not; give --force to replace the files of an earlier export in it,"
            " or name another one"
        )


def file_name(model: type[Base]) -> str:
    """The file of a table."""
    return f"{model.__tablename__}.parquet"


@contextmanager
def _draft(part: Path) -> Iterator[Path]:
    """A new folder, which does not outlive this."""
    _clear(part)
    part.mkdir(mode=0o700)
    try:
        yield part
    finally:
        _clear(part)


def _clear(folder: Path) -> None:
    """Delete an export that was broken off; nothing but our own names."""
    for model in TABLES:
        (folder / file_name(model)).unlink(missing_ok=True)
    with suppress(FileNotFoundError):
        folder.rmdir()


def _move(part: Path, folder: Path) -> None:
    if not folder.exists() or not any(folder.iterdir()):
        part.rename(folder)
        return
    for model in TABLES:
        (part / file_name(model)).replace(folder / file_name(model))


# --- tables ---------------------------------------------------------------------------------------------------


def write_tables(store: Store, sweep_id: str, folder: Path) -> list[ExportedFile]:
    """All tables of a sweep as they stood at one moment."""
    with store.connect() as db:
        sweep = db.execute(select(Sweep.table()).where(Sweep.table().c.sweep_id == sweep_id)).one()
        metadata = describe_sweep(dict(sweep._mapping))
        return [write_table(db, sweep_id, model, folder / file_name(model), metadata) for model in TABLES]


def describe_sweep(sweep: Mapping[str, Any]) -> dict[str, str]:
    """What made the sweep, as metadata of a file."""
    known = {f"tradesweep.{name}": str(sweep[name]) for name in METADATA if sweep[name] is not None}
    versions: dict[str, Any] = json.loads(sweep["versions_json"])
    return known | {f"tradesweep.version.{library}": str(version) for library, version in versions.items()}


def write_table(
    db: Connection, sweep_id: str, model: type[Base], path: Path, metadata: Mapping[str, str]
) -> ExportedFile:
    """One file, on the disk when this returns."""
    import pyarrow.parquet as pq

    schema, rows = schema_of(model, metadata), 0
    with os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as file:
        with pq.ParquetWriter(file, schema, compression="zstd") as writer:
            for group in read_groups(db, sweep_id, model, schema):
                writer.write_batch(group, row_group_size=GROUP_ROWS)
                rows += group.num_rows
        file.flush()
        os.fsync(file.fileno())
    return ExportedFile(name=path.name, rows=rows, bytes=path.stat().st_size)


def schema_of(model: type[Base], metadata: Mapping[str, str]) -> pa.Schema:
    """The columns of a table as Arrow has them, and those that are added to it."""
    import pyarrow as pa

    columns = [(column.name, _arrow_type(column)) for column in model.table().columns]
    added = zip(ADDED, (pa.int64(), pa.int64(), pa.int64(), pa.int64(), pa.string(), pa.bool_()), strict=True)
    return pa.schema([*columns, *(added if model in KEYED_BY_STEP else ())], metadata=dict(metadata))


def _arrow_type(column: Any) -> pa.DataType:
    import pyarrow as pa

    if column.name == "at" or column.name.endswith(("_at", "_time")):
        return pa.timestamp("us", tz="UTC")
    if isinstance(column.type, Text):
        return pa.string()
    if isinstance(column.type, LargeBinary):
        return pa.binary()
    return pa.int64() if column.type.python_type is int else pa.float64()


# --- rows -----------------------------------------------------------------------------------------------------


def read_groups(db: Connection, sweep_id: str, model: type[Base], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """The rows of a table in groups."""
    if model in KEYED_BY_STEP or model is Trade:
        for producer_no in _producers(db, sweep_id):
            yield from read_producer(db, producer_no, model, schema)
    else:
        yield from _stream(db, select_small(model, sweep_id), schema)


def select_small(model: type[Base], sweep_id: str) -> Select[Any]:
    """The sweep's rows of a table that is not the bulk of it, by key."""
    table, trial, evaluation = model.table(), Trial.table(), Evaluation.table()
    trials = select(trial.c.trial_id).where(trial.c.sweep_id == sweep_id)
    if "sweep_id" in table.c:
        mine = table.c.sweep_id == sweep_id
    elif "trial_id" in table.c:
        mine = table.c.trial_id.in_(trials)
    else:
        mine = table.c.episode_no.in_(select(evaluation.c.episode_no).where(evaluation.c.trial_id.in_(trials)))
    return select(table).where(mine).order_by(*table.primary_key.columns)


def _producers(db: Connection, sweep_id: str) -> list[int]:
    table = Producer.table()
    query = select(table.c.producer_no).where(table.c.sweep_id == sweep_id).order_by(table.c.producer_no)
    return list(db.execute(query).scalars())


def read_producer(db: Connection, producer_no: int, model: type[Base], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """A producer's rows by ranges of the key: its episodes, and so their steps, lie side by side."""
    table: Table = model.table()
    if model is Trade:
        first = producer_no << PRODUCER_EPISODE_BITS
        within = table.c.episode_no.between(first, first + (1 << PRODUCER_EPISODE_BITS) - 1)
        yield from _stream(db, select(table).where(within).order_by(*table.primary_key.columns), schema)
    else:
        episodes = Episodes.read(db, producer_no)
        query = select(table).where(table.c.step_id.between(*step_ids(producer_no)))
        yield from _stream(db, query.order_by(*table.primary_key.columns), schema, episodes)


def _stream(
    db: Connection, query: Select[Any], schema: pa.Schema, episodes: Episodes | None = None
) -> Iterator[pa.RecordBatch]:
    import pyarrow as pa

    with db.execute(query, execution_options={"stream_results": True, "max_row_buffer": GROUP_ROWS}) as result:
        while rows := result.fetchmany(GROUP_ROWS):
            arrays = [
                pa.array(values, type=schema.field(place).type) for place, values in enumerate(zip(*rows, strict=True))
            ]
            if episodes is not None:
                arrays += episodes.columns_of(np.asarray(arrays[0]))
            yield pa.record_batch(arrays, schema=schema)


# --- what steps and fills are told about their episode --------------------------------------------------------

KEYED_BY_STEP: tuple[type[Base], ...] = (Fill, Step)
ADDED = ("episode_no", "t", "trial_id", "attempt", "role", "effective")
"""The columns that the rows of these tables get, behind their own."""

_ALL = 1 << EPISODE_STEP_BITS


@dataclass(frozen=True, slots=True)
class Episodes:
    """The episodes of a producer, sorted by number."""

    numbers: NDArray[np.int64]
    trials: NDArray[np.int64]
    attempts: NDArray[np.int64]
    roles: NDArray[np.object_]
    counted: NDArray[np.int64]
    """So many of their steps count."""

    @classmethod
    def read(cls, db: Connection, producer_no: int) -> Episodes:
        """All of them; they take a few dozen bytes each."""
        table = Episode.table()
        wanted = (table.c.episode_no, table.c.trial_id, table.c.attempt, table.c.role, table.c.effective_steps)
        rows = db.execute(select(*wanted).where(table.c.producer_no == producer_no).order_by(table.c.episode_no)).all()
        return cls(
            numbers=np.array([row.episode_no for row in rows], dtype=np.int64),
            trials=np.array([row.trial_id for row in rows], dtype=np.int64),
            attempts=np.array([row.attempt for row in rows], dtype=np.int64),
            roles=np.array([row.role for row in rows], dtype=np.object_),
            counted=np.array(
                [_ALL if row.effective_steps is None else row.effective_steps for row in rows], dtype=np.int64
            ),
        )

    def columns_of(self, step_ids: NDArray[np.int64]) -> list[pa.Array]:
        """The added columns of rows with these step ids."""
        import pyarrow as pa

        episodes, t = step_ids >> EPISODE_STEP_BITS, step_ids & (_ALL - 1)
        places = np.searchsorted(self.numbers, episodes)
        columns = (episodes, t, self.trials[places], self.attempts[places], self.roles[places])
        return [*map(pa.array, columns), pa.array(t < self.counted[places])]
