"""A value that goes through encoding, the database and back is equal, or was refused with its column named."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from sqlalchemy import text

from tradesweep.errors import RecordingError
from tradesweep.names import RECORD_COLUMNS, ProducerKey, ProducerRole, Record
from tradesweep.recording import LocalRecorder, Producer
from tradesweep.store import NewSweep, Store, Writer, open_store

VALUES: dict[str, Any] = {
    "zero": 0,
    "negative": -7,
    "large integer": 2**53,
    "smallest integer": -(2**63),
    "integer too large": 2**63,
    "np.int64": np.int64(2**62 + 1),
    "np.int32": np.int32(-5),
    "np.uint8": np.uint8(200),
    "np.uint64": np.uint64(2**64 - 1),
    "float": 0.1,
    "smallest float": 5e-324,
    "largest float": 1.7976931348623157e308,
    "np.float32": np.float32(0.1),
    "np.float64": np.float64(1 / 3),
    "np.float16": np.float16(0.5),
    "longdouble": np.longdouble(1.5),
    "infinite": math.inf,
    "minus infinite": -math.inf,
    "np.inf": np.float64(np.inf),
    "nan": math.nan,
    "np.nan": np.float32(np.nan),
    "none": None,
    "true": True,
    "np.bool_": np.bool_(True),
    "decimal": Decimal("12.5"),
    "fraction": Fraction(1, 4),
    "datetime": datetime(2020, 1, 2, tzinfo=UTC),
    "text": "abc",
    "np.str_": np.str_("abc"),
    "unicode": "ΑΒΓ ☃ 𝄞",
    "lone surrogate": "\ud800",
    "nul": "a\0b",
    "bytes": b"\x00\xff",
    "ascii bytes": b"abc",
    "number as text": "12",
    "complex": 1 + 2j,
    "duration": np.timedelta64(5, "s"),
    "np.datetime64": np.datetime64("2020-01-02"),
    "nested list": [1, 2],
    "integer beyond float64": 2**53 + 1,
}
TYPES = {
    "int": ("integer", "null", "bigint"),
    "float": ("real", "null", "double precision"),
    "text": ("text", "null"),
}
TARGETS = {
    "int": (Record.STEPS, "bar"),
    "int?": (Record.EPISODES_OPENED, "seed"),
    "float": (Record.STEPS, "reward"),
    "float?": (Record.STEPS, "fill_price"),
    "text?": (Record.EPISODES_OPENED, "rllib_episode_id"),
}
TABLES = {Record.EPISODES_OPENED: "episodes"}


@dataclass(frozen=True)
class Line:
    """From a producer through encoding and a real Writer into a database."""

    producer: Producer
    store: Store
    type_of: str

    def send(self, records: Any) -> None:
        self.producer.send(records)
        self.producer.flush()

    def read(self, table: str, column: str, where: str) -> list[tuple[Any, ...]]:
        """The values of a column and the database's word for their types."""
        sql = f"SELECT DISTINCT {column}, {self.type_of.format(column)} FROM {table} WHERE {where}"
        with self.store.connect() as db:
            return [tuple(row) for row in db.execute(text(sql))]


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def line(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, new_sweep: NewSweep
) -> Iterator[Line]:
    if request.param == "sqlite":
        database, type_of = str(tmp_path_factory.mktemp("fidelity") / "tradesweep.db"), "typeof({})"
    else:
        database, type_of = request.getfixturevalue("postgres").new_database(), "CAST(pg_typeof({}) AS text)"
    recorder = LocalRecorder(Writer(database))
    recorder.open_sweep(new_sweep)
    trial_id = recorder.open_trial(new_sweep.sweep_id, 0, {}, {}, 7, "hash")
    attempt = recorder.start_attempt(trial_id, 1)
    key = ProducerKey(new_sweep.sweep_id, trial_id, attempt, ProducerRole.RUNNER, 0)
    yield Line(Producer(lambda: recorder, key, timeout_s=5.0), open_store(database), type_of)
    recorder.close()


@pytest.mark.parametrize("given_as", [list, np.array], ids=["list", "array"])
@pytest.mark.parametrize("target", sorted(TARGETS))
@pytest.mark.parametrize("name", sorted(VALUES))
def test_a_value_comes_back_equal_or_is_refused_by_the_name_of_its_column(
    line: Line, episode: Callable[..., Any], name: str, target: str, given_as: Any
) -> None:
    value, (kind, column) = VALUES[name], TARGETS[target]
    number = line.producer.next_episode_no()
    records = episode(number, 2)
    records[kind][column] = given_as([value] * len(records[kind][column]))
    if not is_at_home(value, target):
        try:
            line.send(records)
        except RecordingError as error:
            assert f"record {kind}, column {column} must" in str(error)  # noqa: PT017 - equal would do as well
            return
    else:
        line.send(records)
    where = f"episode_no = {number}" if kind == Record.EPISODES_OPENED else f"step_id >> 24 = {number}"
    found = line.read(TABLES.get(kind, kind), column, where)
    assert len(found) == 1
    kind_of_column = next(each.kind for each in RECORD_COLUMNS[kind] if each.name == column)
    assert found[0][1] in TYPES[kind_of_column]
    assert same(found[0][0], value), f"{value!r} came back as {found[0][0]!r}"


def same(stored: Any, value: Any) -> bool:
    """Equal; "no value" is None or NaN."""
    if stored is None:
        return value is None or value != value
    return bool(stored == value)


def is_at_home(value: Any, target: str) -> bool:
    """The values that a column is there for."""
    if value is None:
        return target.endswith("?")
    if target.startswith("int"):
        is_integer = isinstance(value, int | np.integer) and not isinstance(value, np.timedelta64)
        return is_integer and -(2**63) <= int(value) < 2**63
    if target.startswith("float"):
        is_number = isinstance(value, float | np.floating)
        return is_number and (value == value or target.endswith("?"))
    return isinstance(value, str) and value.isprintable()
