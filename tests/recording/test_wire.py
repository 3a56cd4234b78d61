from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tradesweep.errors import RecordingError
from tradesweep.names import EPISODE_STEP_BITS, RECORD_COLUMNS, Column, ProducerKey, Record
from tradesweep.recording import build_batch, cut_into_batches, decode_batch, decode_frame, encode_frame

VALUES: dict[str, st.SearchStrategy[Any]] = {
    "int": st.integers(-(2**63), 2**63 - 1),
    "float": st.floats(allow_nan=False),
    "text": st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")),
    "blob": st.binary(max_size=64),
}


def values_of(column: Column) -> st.SearchStrategy[Any]:
    return st.none() | VALUES[column.kind] if column.nullable else VALUES[column.kind]


@st.composite
def rows_of_a_kind(draw: st.DrawFn) -> tuple[Record, list[tuple[Any, ...]]]:
    kind = draw(st.sampled_from(list(Record)))
    row = st.tuples(*(values_of(column) for column in RECORD_COLUMNS[kind]))
    return kind, draw(st.lists(row, max_size=5))


def columns_of(kind: Record, rows: list[tuple[Any, ...]]) -> dict[str, list[Any]]:
    return {c.name: [row[i] for row in rows] for i, c in enumerate(RECORD_COLUMNS[kind])}


@settings(deadline=None, max_examples=60)
@given(rows_of_a_kind())
def test_rows_come_back_exactly_as_they_were_sent(
    kind_and_rows: tuple[Record, list[tuple[Any, ...]]],
) -> None:
    kind, rows = kind_and_rows
    frame = encode_frame(kind, columns_of(kind, rows))
    assert frame.rows == len(rows)
    assert list(decode_frame(frame)) == rows
    assert all(type(value) in (int, float, str, bytes, type(None)) for row in decode_frame(frame) for value in row)


@pytest.mark.parametrize("dtype", [np.int8, np.int32, np.int64, np.uint32, np.uint64, np.bool_])
def test_every_integer_array_becomes_plain_integers(episode: Callable[..., Any], dtype: Any) -> None:
    steps = episode(1, 4)[Record.STEPS] | {"action": np.array([0, 1, 1, 0], dtype=dtype)}
    decoded = [row[4] for row in decode_frame(encode_frame(Record.STEPS, steps))]
    assert decoded == [0, 1, 1, 0]
    assert {type(value) for value in decoded} == {int}


def test_lists_of_numpy_scalars_become_plain_values(episode: Callable[..., Any]) -> None:
    steps = episode(1, 2)[Record.STEPS] | {
        "action": [np.int32(2), np.bool_(True)],
        "reward": [np.float32(0.5), 1],
    }
    rows = decode_frame(encode_frame(Record.STEPS, steps))
    assert [row[4] for row in rows] == [2, 1]
    assert [(row[10], type(row[10])) for row in rows] == [(0.5, float), (1.0, float)]


def test_nan_means_null_where_a_column_may_be_null(episode: Callable[..., Any]) -> None:
    steps = episode(1, 2)[Record.STEPS] | {"fill_price": np.array([np.nan, 101.5])}
    assert [row[7] for row in decode_frame(encode_frame(Record.STEPS, steps))] == [None, 101.5]


def test_infinity_is_a_value(episode: Callable[..., Any]) -> None:
    steps = episode(1, 2)[Record.STEPS] | {"reward": np.array([math.inf, -math.inf])}
    assert [row[10] for row in decode_frame(encode_frame(Record.STEPS, steps))] == [math.inf, -math.inf]


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("reward", np.array([0.0, np.nan]), "column reward must be a number, was NaN or None in row 1 of 2"),
        ("reward", ["much", "more"], "column reward must be a number"),
        ("action", np.array([0.0, 1.0]), "column action must be an integer, was .*0.0"),
        ("action", [1, None], "column action must not be NULL, was in row 1 of 2"),
        ("action", [1, 2**63], "column action must be int"),
        ("action", np.array([1, 2**63], dtype=np.uint64), "column action must be below"),
        ("action", [1], "must have one length"),
    ],
)
def test_a_value_the_column_cannot_hold_is_refused(
    episode: Callable[..., Any], column: str, value: Any, message: str
) -> None:
    with pytest.raises(RecordingError, match=message):
        encode_frame(Record.STEPS, episode(1, 2)[Record.STEPS] | {column: value})


def test_a_lone_surrogate_is_refused(episode: Callable[..., Any]) -> None:
    opened = episode(1, 2)[Record.EPISODES_OPENED] | {"rllib_episode_id": ["\ud800"]}
    with pytest.raises(RecordingError, match="column rllib_episode_id"):
        encode_frame(Record.EPISODES_OPENED, opened)


def test_missing_and_unknown_columns_are_named(episode: Callable[..., Any]) -> None:
    steps = episode(1, 2)[Record.STEPS]
    steps["rewards"] = steps.pop("reward")
    with pytest.raises(RecordingError, match=r"missed \['reward'\], had unknown \['rewards'\]"):
        encode_frame(Record.STEPS, steps)


def test_a_damaged_byte_is_noticed(key: ProducerKey, episode: Callable[..., Any]) -> None:
    frame = encode_frame(Record.STEPS, episode(1, 4)[Record.STEPS])
    batch = build_batch(key, 1, 1, [frame])
    broken = bytes([frame.payload[0] ^ 1]) + frame.payload[1:]
    damaged = dataclasses.replace(batch, frames=(dataclasses.replace(frame, payload=broken),))
    assert list(decode_batch(batch)[Record.STEPS]) == list(decode_frame(frame))
    with pytest.raises(RecordingError, match="checksum"):
        decode_batch(damaged)


def test_two_frames_of_a_kind_are_refused(key: ProducerKey, episode: Callable[..., Any]) -> None:
    frames = [encode_frame(Record.STEPS, episode(number, 4)[Record.STEPS]) for number in (1, 2)]
    with pytest.raises(RecordingError, match=r"one frame of a kind, had \['steps', 'steps'\]"):
        decode_batch(build_batch(key, 1, 1, frames))


def test_a_frame_of_another_version_is_refused(episode: Callable[..., Any]) -> None:
    frame = encode_frame(Record.STEPS, episode(1, 4)[Record.STEPS])
    with pytest.raises(RecordingError, match="different versions"):
        decode_frame(dataclasses.replace(frame, kind=Record.FILLS))
    with pytest.raises(RecordingError, match="not an Arrow IPC stream"):
        decode_frame(dataclasses.replace(frame, payload=b"nonsense"))


def test_what_fits_travels_in_one_batch_in_the_order_of_the_tables(episode: Callable[..., Any]) -> None:
    [frames] = cut_into_batches(dict(reversed(episode(1, 10).items())))
    assert [frame.kind for frame in frames] == list(Record)[:5]


def test_empty_records_make_no_batch(episode: Callable[..., Any]) -> None:
    assert list(cut_into_batches({})) == []
    assert list(cut_into_batches({Record.STEPS: episode(1, 0)[Record.STEPS]})) == []


def merge(parts: list[dict[Record, dict[str, Any]]]) -> dict[Record, dict[str, Any]]:
    return {
        kind: {name: [v for part in parts for v in part[kind][name]] for name in parts[0][kind]} for kind in parts[0]
    }


def column(rows: dict[Record, list[tuple[Any, ...]]], kind: Record, name: str) -> list[Any]:
    place = [c.name for c in RECORD_COLUMNS[kind]].index(name)
    return [row[place] for row in rows[kind]]


@settings(deadline=None, max_examples=60)
@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=4),
    numbers=st.permutations([3, 11, 12, 40]),
    max_rows=st.integers(8, 60),
)
def test_a_producer_that_dies_between_two_batches_leaves_whole_steps_only(
    episode: Callable[..., Any], lengths: list[int], numbers: list[int], max_rows: int
) -> None:
    records = merge([episode(number, length) for number, length in zip(numbers, lengths, strict=False)])
    length_of = dict(zip(numbers, lengths, strict=False))
    seen: dict[Record, list[tuple[Any, ...]]] = {kind: [] for kind in Record}
    for frames in cut_into_batches(records, max_rows=max_rows):
        assert sum(frame.rows for frame in frames) <= max_rows
        for frame in frames:
            seen[frame.kind] += decode_frame(frame)
        steps = column(seen, Record.STEPS, "step_id")
        assert column(seen, Record.FILLS, "step_id") == steps
        assert column(seen, Record.TRADES, "exit_step_id") == [step for step in steps if step % 2 == 1]
        assert set(column(seen, Record.EPISODES_OPENED, "episode_no")) == {i >> EPISODE_STEP_BITS for i in steps}
        ended = {
            i >> EPISODE_STEP_BITS
            for i in steps
            if i % (1 << EPISODE_STEP_BITS) == length_of[i >> EPISODE_STEP_BITS] - 1
        }
        assert set(column(seen, Record.EPISODES_CLOSED, "episode_no")) == ended
    assert {kind: len(rows) for kind, rows in seen.items() if rows} == {
        kind: len(columns[RECORD_COLUMNS[kind][0].name])
        for kind, columns in records.items()
        if columns[RECORD_COLUMNS[kind][0].name]
    }


@pytest.mark.parametrize(("steps", "batches"), [(41, 2), (300, 11)])
def test_what_does_not_fit_is_cut_into_batches_of_about_one_size(
    episode: Callable[..., Any], steps: int, batches: int
) -> None:
    parts = list(cut_into_batches(episode(1, steps, closed=False), max_rows=72))
    sizes = [sum(frame.rows for frame in frames) for frames in parts]
    assert len(sizes) == batches
    assert max(sizes) - min(sizes) <= 10, "no batch has only what was left over"
    assert max(sizes) <= 72


def test_an_episode_opened_before_its_first_step_travels_anyway(episode: Callable[..., Any]) -> None:
    waiting = episode(50, 0, closed=False)
    records = merge([episode(9, 30, closed=False), waiting])
    opened = [
        row[0]
        for frames in cut_into_batches(records, max_rows=20)
        for frame in frames
        if frame.kind is Record.EPISODES_OPENED
        for row in decode_frame(frame)
    ]
    assert opened == [9, 50]
