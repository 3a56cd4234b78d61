"""Columns to bytes and back: the only place that knows how a batch is written.

A frame is one Arrow IPC stream holding one record batch of one record kind; column names, order and types are
those of `names.RECORD_COLUMNS`. A batch is a tuple of frames with one checksum over their payloads.

Types are exact on both sides. Integers travel as int64 and are never made from floats. NaN in a nullable
float column means "no value" and becomes NULL; NaN anywhere else is an error, because one database would
store it as NULL and the other as NaN. Decoding gives plain Python values, since NumPy scalars end up in
SQLite as blobs.
"""

from __future__ import annotations

import math
import numbers
import zlib
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from tradesweep.errors import RecordingError
from tradesweep.names import EPISODE_STEP_BITS, RECORD_COLUMNS, Batch, Column, Frame, ProducerKey, Record

if TYPE_CHECKING:
    from tradesweep.store import ColumnRows

MAX_BATCH_ROWS = 16_384
"""Rows in one batch: the size at which a row costs the recorder least (measured)."""

Columns = Mapping[str, "np.ndarray[Any, Any] | Sequence[Any]"]
"""One array or list per column of a record kind, all of one length."""

_ARROW_TYPES = {"int": pa.int64(), "float": pa.float64(), "text": pa.string(), "blob": pa.binary()}
_SCHEMAS = {
    kind: pa.schema([pa.field(c.name, _ARROW_TYPES[c.kind], nullable=c.nullable) for c in columns])
    for kind, columns in RECORD_COLUMNS.items()
}
_PARENT_FIRST = tuple(Record)
"""Frames of a batch follow the enum: an episode is opened before its steps and closed after them."""


def encode_frame(kind: Record, columns: Columns) -> Frame:
    """Write the columns of one record kind as an Arrow IPC stream.

    Raises RecordingError when a column is missing, unknown, of another length, of another type, or holds NaN
    or NULL where the record kind allows none.
    """
    return _to_frame(kind, _to_arrow(kind, columns))


def decode_frame(frame: Frame) -> ColumnRows:
    """Read a frame back as plain Python values in the order of `names.RECORD_COLUMNS`."""
    from tradesweep.store import ColumnRows

    table = _read_stream(frame)
    if table.schema != _SCHEMAS[frame.kind] or table.num_rows != frame.rows:
        raise RecordingError(
            f"batch frame {frame.kind} must hold {frame.rows} rows of {_SCHEMAS[frame.kind].names}, held"
            f" {table.num_rows} rows of {table.schema.names}; producer and recorder are different versions"
        )
    return ColumnRows([column.to_pylist() for column in table.columns])


def build_batch(producer: ProducerKey, epoch: int, seq: int, frames: Sequence[Frame], *, dropped: int = 0) -> Batch:
    """Put frames into one message with its checksum."""
    return Batch(producer, epoch, seq, tuple(frames), _checksum(frames), dropped)


def decode_batch(batch: Batch) -> dict[Record, ColumnRows]:
    """Check the checksum and give the rows of each record kind, as the store applies them.

    Raises RecordingError when the bytes are not those that were sent.
    """
    checksum = _checksum(batch.frames)
    if checksum != batch.checksum:
        raise RecordingError(
            f"batch {batch.seq} of {batch.producer} must have checksum {batch.checksum:#010x},"
            f" had {checksum:#010x}; its bytes were damaged on the way"
        )
    rows = {frame.kind: decode_frame(frame) for frame in batch.frames}
    if len(rows) != len(batch.frames):
        raise RecordingError(
            f"batch {batch.seq} of {batch.producer} must have one frame of a kind,"
            f" had {[str(frame.kind) for frame in batch.frames]}"
        )
    return rows


def cut_into_batches(
    records: Mapping[Record, Columns], *, max_rows: int = MAX_BATCH_ROWS
) -> Iterator[tuple[Frame, ...]]:
    """Encode the records and cut them so that no batch holds more than `max_rows` rows.

    Every batch makes sense alone: a step travels with its fills, with the trades it ended, and with the
    opening and the closing of its episode. So a producer that dies between two batches leaves a shorter
    episode, never a step without its fill. Records that belong to no step (iterations, evaluations,
    checkpoints) go last.
    """
    tables = {kind: _to_arrow(kind, records[kind]) for kind in _PARENT_FIRST if kind in records}
    tables = {kind: table for kind, table in tables.items() if table.num_rows}
    if sum(table.num_rows for table in tables.values()) <= max_rows or Record.STEPS not in tables:
        if tables:
            yield _to_frames(tables)
        return
    yield from _cut_by_step(tables, max_rows)


def _cut_by_step(tables: dict[Record, pa.RecordBatch], max_rows: int) -> Iterator[tuple[Frame, ...]]:
    anchors = _anchor_rows(tables)
    steps = tables[Record.STEPS].num_rows
    rows_per_step = np.sum([np.bincount(rows, minlength=steps) for rows in anchors.values()], axis=0)
    # A batch may overhang by all but one of the rows that its first step brings. All are of about one size: a last
    # one of few rows would cost as much to commit.
    most, total = max(1, max_rows - int(rows_per_step.max()) + 1), int(rows_per_step.sum())
    batch_of_step = (np.cumsum(rows_per_step) - 1) // -(-total // -(-total // most))
    for number in np.unique(batch_of_step):
        chosen = {
            kind: table.filter(pa.array(batch_of_step[anchors[kind]] == number)) for kind, table in tables.items()
        }
        yield _to_frames({kind: table for kind, table in chosen.items() if table.num_rows})


def _anchor_rows(tables: dict[Record, pa.RecordBatch]) -> dict[Record, np.ndarray[Any, Any]]:
    """For every row of every table: the row of `steps` it travels with."""
    step_ids = _ints(tables[Record.STEPS], "step_id")
    order = np.argsort(step_ids, kind="stable")
    ordered = step_ids[order]

    def row_of(wanted: np.ndarray[Any, Any], side: int) -> np.ndarray[Any, Any]:
        return order[np.clip(np.searchsorted(ordered, wanted) - side, 0, len(order) - 1)]

    anchors = {kind: np.full(table.num_rows, len(step_ids) - 1) for kind, table in tables.items()}
    anchors[Record.STEPS] = np.arange(len(step_ids))
    for kind, column in ((Record.FILLS, "step_id"), (Record.TRADES, "exit_step_id")):
        if kind in tables:
            anchors[kind] = row_of(_ints(tables[kind], column), 0)
    # The first step at or after an episode's first possible id, and the last one before the next episode's.
    if Record.EPISODES_OPENED in tables:
        anchors[Record.EPISODES_OPENED] = row_of(_first_ids(tables[Record.EPISODES_OPENED]), 0)
    if Record.EPISODES_CLOSED in tables:
        anchors[Record.EPISODES_CLOSED] = row_of(_first_ids(tables[Record.EPISODES_CLOSED], 1), 1)
    return anchors


def _first_ids(table: pa.RecordBatch, offset: int = 0) -> np.ndarray[Any, Any]:
    return (_ints(table, "episode_no") + offset) << EPISODE_STEP_BITS


def _ints(table: pa.RecordBatch, column: str) -> np.ndarray[Any, Any]:
    values: np.ndarray[Any, Any] = table.column(column).to_numpy()
    return values


def _to_frames(tables: Mapping[Record, pa.RecordBatch]) -> tuple[Frame, ...]:
    return tuple(_to_frame(kind, table) for kind, table in tables.items())


def _to_frame(kind: Record, table: pa.RecordBatch) -> Frame:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_batch(table)
    return Frame(kind, table.num_rows, sink.getvalue().to_pybytes())


def _read_stream(frame: Frame) -> pa.Table:
    try:
        return pa.ipc.open_stream(frame.payload).read_all()
    except (pa.ArrowInvalid, OSError) as error:
        raise RecordingError(f"batch frame {frame.kind} is not an Arrow IPC stream: {error}") from error


def _checksum(frames: Sequence[Frame]) -> int:
    checksum = 0
    for frame in frames:
        checksum = zlib.crc32(frame.payload, checksum)
    return checksum


def _to_arrow(kind: Record, columns: Columns) -> pa.RecordBatch:
    _check_names(kind, columns)
    arrays = [_BUILDERS[column.kind](kind, column, columns[column.name]) for column in RECORD_COLUMNS[kind]]
    lengths = {column.name: len(array) for column, array in zip(RECORD_COLUMNS[kind], arrays, strict=True)}
    if len(set(lengths.values())) > 1:
        raise RecordingError(f"columns of record {kind} must have one length, had {lengths}")
    return pa.RecordBatch.from_arrays(arrays, schema=_SCHEMAS[kind])


def _check_names(kind: Record, columns: Columns) -> None:
    expected = {column.name for column in RECORD_COLUMNS[kind]}
    missing, unknown = expected - set(columns), set(columns) - expected
    if missing or unknown:
        raise RecordingError(
            f"record {kind} must have the columns of names.RECORD_COLUMNS,"
            f" missed {sorted(missing)}, had unknown {sorted(unknown)}"
        )


def _build_ints(kind: Record, column: Column, values: Any) -> pa.Array:
    if isinstance(values, np.ndarray) and values.dtype.kind in "iub" and values.ndim == 1:
        if values.dtype.kind == "u" and values.size and int(values.max()) > np.iinfo(np.int64).max:
            raise _wrong(kind, column, f"be below 2**63, was {int(values.max())}")
        return pa.array(values.astype(np.int64, copy=False))
    return _build_list(kind, column, [_plain_int(kind, column, value) for value in values])


def _plain_int(kind: Record, column: Column, value: Any) -> int | None:
    if value is None:
        return None
    if isinstance(value, np.timedelta64) or not isinstance(value, (int, np.integer, np.bool_)):
        raise _wrong(kind, column, f"be an integer, was {value!r} ({type(value).__name__})")
    return int(value)


def _build_floats(kind: Record, column: Column, values: Any) -> pa.Array:
    if not (isinstance(values, np.ndarray) and values.dtype.kind == "f" and values.ndim == 1):
        values = [_plain_float(kind, column, value) for value in values]
    floats = np.asarray(values, dtype=np.float64)
    array = pa.array(floats, from_pandas=True)
    if array.null_count and not column.nullable:
        row = int(np.flatnonzero(np.isnan(floats))[0])
        raise _wrong(kind, column, f"be a number, was NaN or None in row {row} of {len(floats)}")
    return array


_EXACT = 2**53
"""Integers up to here are float64 numbers."""


def _plain_float(kind: Record, column: Column, value: Any) -> float:
    """NumPy alone would take a text, a date or a complex number for one."""
    if value is None:
        return math.nan
    if isinstance(value, np.timedelta64) or not isinstance(value, (numbers.Real, np.bool_, Decimal)):
        raise _wrong(kind, column, f"be a number, was {value!r} ({type(value).__name__})")
    if isinstance(value, numbers.Integral) and abs(int(value)) > _EXACT:
        raise _wrong(kind, column, f"be a number that a float64 holds, was {value}")
    return float(value)


def _build_objects(kind: Record, column: Column, values: Any) -> pa.Array:
    return _build_list(kind, column, values.tolist() if isinstance(values, np.ndarray) else list(values))


def _build_list(kind: Record, column: Column, values: list[Any]) -> pa.Array:
    if column.kind == "text":
        _check_texts(kind, column, values)
    try:
        array = pa.array(values, type=_ARROW_TYPES[column.kind])
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise _wrong(kind, column, f"be {column.kind}: {error}") from error
    if array.null_count and not column.nullable:
        raise _wrong(kind, column, f"not be NULL, was in row {values.index(None)} of {len(values)}")
    return array


def _check_texts(kind: Record, column: Column, values: list[Any]) -> None:
    """Arrow takes bytes for text, and PostgreSQL has no NUL."""
    for value in values:
        if isinstance(value, bytes) or (isinstance(value, str) and "\0" in value):
            raise _wrong(kind, column, f"be text without NUL, was {value!r}")


def _wrong(kind: Record, column: Column, rule: str) -> RecordingError:
    return RecordingError(f"record {kind}, column {column.name} must {rule}")


_BUILDERS = {"int": _build_ints, "float": _build_floats, "text": _build_objects, "blob": _build_objects}
