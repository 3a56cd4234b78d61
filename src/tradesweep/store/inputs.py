"""What the Writer is given."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, overload

from tradesweep.names import ProducerKey, Record, TrialPhase

Row = tuple[Any, ...]


class ColumnRows(Sequence[Row]):
    """Rows that lie as columns, as a batch brings them; a tuple is made only for who asks for one.

    A batch has ten thousands of rows, and what writes them needs their values one after the other, not the tuples.
    """

    def __init__(self, columns: Sequence[Sequence[Any]]) -> None:
        self.columns = columns

    def __len__(self) -> int:
        return len(self.columns[0])

    def __iter__(self) -> Iterator[Row]:
        return zip(*self.columns, strict=True)

    @overload
    def __getitem__(self, place: int) -> Row: ...

    @overload
    def __getitem__(self, place: slice) -> ColumnRows: ...

    def __getitem__(self, place: int | slice) -> Row | ColumnRows:
        values = [column[place] for column in self.columns]
        return ColumnRows(values) if isinstance(place, slice) else tuple(values)


@dataclass(frozen=True, kw_only=True, slots=True)
class DecodedBatch:
    """A batch whose checksum was checked and whose frames were read."""

    producer: ProducerKey
    """Who sends it."""
    epoch: int
    """The incarnation, as `hello` granted it."""
    seq: int
    """1 for the first batch of an incarnation, then one more each."""
    rows: Mapping[Record, Sequence[Row]]
    """Plain Python values, columns in the order of `names.RECORD_COLUMNS`."""
    dropped: int = 0
    """Steps sampled since the previous batch that will never be recorded."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NewSweep:
    """A sweep's run record. Opening a sweep that exists goes on with it."""

    sweep_id: str
    """`<experiment>-<first 8 of the identity>`, perhaps with a number."""
    experiment: str
    """The entry of experiments.yaml."""
    spec_json: str
    """The whole spec, as SweepSpec.to_json writes it."""
    identity: str
    """sha256 over the fields that make it this sweep and no other."""
    data_sha256: str
    """sha256 of the market's arrays."""
    instrument: str
    """What was traded; the test-set ledger counts by it."""
    git_revision: str | None
    """Commit of the folder the spec stands in."""
    versions_json: str
    """Versions of the libraries, a JSON object."""
    resources_json: str
    """What `auto` was resolved to, a JSON object."""
    seed: int
    """Root seed."""
    driver_pid: int
    """Process that runs the sweep."""
    driver_host: str
    """Its host."""
    driver_started_at: int
    """Its start, microseconds UTC; with pid and host it tells one driver from the next."""
    buy_hold_sharpe: float | None
    """Validation Sharpe of buy-and-hold."""
    validation_bars: int
    """Returns of one validation run, for the luck hurdle."""
    periods_per_year: float
    """Annualisation of every Sharpe ratio of this sweep."""
    notes: str | None = None
    """Free text."""
    env_steps_per_trial: int | None = None
    """To which budget it was extended; None: as its spec says, or as it was extended before."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NewTrial:
    """A trial's place in its sweep, and what it trains. Opening one that exists gives its id again."""

    trial_no: int
    """Its number within the sweep."""
    params_json: str
    """All hyperparameters, a JSON object."""
    seed: int
    """What it draws from."""
    point_hash: str
    """Hash of the sampled hyperparameters."""
    point_json: str
    """The sampled hyperparameters, a JSON object."""
    point_no: int
    """Number of the point within the sweep."""
    seed_no: int = 0
    """Which of the point's seeds; those of confirmations come behind those of the search."""
    phase: TrialPhase = TrialPhase.SEARCH
    """What it is for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NewPromotion:
    """A registry alias was moved, or the gate refused."""

    experiment: str
    """The entry of experiments.yaml."""
    sweep_id: str
    """Where the checkpoint comes from."""
    trial_id: int
    """Its trial."""
    iteration: int
    """Its iteration."""
    manifest_sha256: str
    """Hash of its manifest."""
    model: str
    """Registered model."""
    version: str | None
    """Model version; None when none was made."""
    alias: str
    """The alias in question."""
    previous_version: str | None
    """What the alias named before."""
    verdict: str
    """PASSED, FORCED, REFUSED or ROLLED_BACK."""
    reason: str | None = None
    """What the person gave as reason."""
    details: dict[str, Any] = field(default_factory=dict)
    """The gate's verdict table and whatever else explains the verdict."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NewTestReading:
    """The test split was read."""

    experiment: str
    """The entry of experiments.yaml."""
    sweep_id: str
    """Where the checkpoint comes from."""
    trial_id: int
    """Its trial."""
    iteration: int
    """Its iteration."""
    market_sha256: str
    """Hash of the market that was read."""
    instrument: str
    """What was traded."""
    first_time: int
    """End of the first bar read, microseconds UTC."""
    last_time: int
    """End of the last bar read."""
    sharpe: float | None
    """What it gave; None when undefined."""
    reason: str
    """Why it was read."""
