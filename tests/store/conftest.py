"""A small sweep, written through the Writer as a real one is: episodes that obey the money law, lost runners,
a resume. The episodes come from a scalar simulator written from the environment page, independent of `env/`."""

from __future__ import annotations

import itertools
import json
import math
import shutil
import statistics
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tradesweep.names import (
    EPISODE_STEP_BITS,
    PRODUCER_EPISODE_BITS,
    Answer,
    ProducerKey,
    ProducerRole,
    Record,
    SweepStatus,
    TrialStatus,
)
from tradesweep.store import DecodedBatch, NewSweep, Store, Writer, open_store

SWEEP = "small-12345678"
BARS = 60
EQUITY = 10_000.0
FEE, SLIPPAGE, BORROW = 10e-4, 5e-4, 252e-4 / 252
DAY_US = 86_400_000_000
CLOSES = [100.0 + 8.0 * math.sin(0.7 * i) + 3.0 * math.sin(2.1 * i) for i in range(BARS)]
OPENS = [close * (1.0 + 0.01 * math.cos(1.3 * i)) for i, close in enumerate(CLOSES)]

Rows = dict[Record, list[tuple[Any, ...]]]


@dataclass
class Trade:
    """One trade as it builds up."""

    trade_no: int
    side: int
    entry: int
    entered: float = 0.0
    entry_notional: float = 0.0
    exited: float = 0.0
    exit_notional: float = 0.0
    fees: float = 0.0
    slippage: float = 0.0
    borrow: float = 0.0

    def row(self, episode_no: int, status: str, exit_id: int, exit_time: int, entry_time: int) -> tuple[Any, ...]:
        pnl = self.side * (self.exit_notional - self.entry_notional) - self.fees - self.borrow
        prices = (self.entry_notional / self.entered, self.exit_notional / self.exited)
        return (
            *(episode_no, self.trade_no, "LONG" if self.side > 0 else "SHORT", status, self.entry, exit_id),
            *(entry_time, exit_time, *prices, self.entered, pnl, self.fees, self.slippage, self.borrow),
        )


@dataclass
class Episode:
    """A whole episode, simulated at once; `between` gives the rows that steps [a, b) bring."""

    number: int
    targets: list[float]
    role: str = "train"
    start_bar: int = 0
    fill: str = "next_open"
    weights_version: int = 1
    cut: dict[Record, list[tuple[int, tuple[Any, ...]]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.cut = {kind: [] for kind in Record}
        self.cash, self.units, self.target, self.equity = EQUITY, 0.0, 0.0, EQUITY
        self.trade: Trade | None = None
        self.trade_numbers = itertools.count()
        self.equities, self.rewards, self.won = [EQUITY], [], []
        opening = (self.number, self.role, 0, None, 7, 1, self.start_bar, self.start_bar * DAY_US, EQUITY)
        self.cut[Record.EPISODES_OPENED].append((0, opening))
        for t, target in enumerate(self.targets):
            self.step(t, target)
        self.finish()

    @property
    def steps(self) -> int:
        return len(self.targets)

    def step(self, t: int, target: float) -> None:
        j, step_id = self.start_bar + t + 1, self.number << EPISODE_STEP_BITS | t
        self.legs: list[tuple[float, float]] = []
        self.cost = 0.0
        if self.fill == "next_close":
            self.charge(CLOSES[j])
        price = OPENS[j] if self.fill == "next_open" else CLOSES[j]
        last = self.fill == "next_close" and t == self.steps - 1
        if not last and target != self.target:
            self.move(t, target, price)
        if self.fill == "next_open":
            self.charge(CLOSES[j])
        before, self.equity = self.equity, self.cash + self.units * CLOSES[j]
        reward = math.log(self.equity / before)
        self.equities.append(self.equity)
        self.rewards.append(reward)
        times = ((j - 1) * DAY_US, j * DAY_US)
        row = (step_id, j - 1, *times, 0, self.target, self.units, price if self.legs else None, CLOSES[j])
        self.cut[Record.STEPS].append((t, (*row, self.equity, reward, self.cost, self.weights_version)))

    def charge(self, close: float) -> None:
        borrow = BORROW * max(-self.units, 0.0) * close
        self.cash -= borrow
        self.cost += borrow
        if self.trade is not None:
            self.trade.borrow += borrow

    def move(self, t: int, target: float, price: float) -> None:
        if self.units != 0.0 and target * self.units <= 0.0:
            self.leg(t, -self.units, price, entry=False)
            self.end_trade(t, "CLOSED", 0.0)
            self.units = 0.0
        if target != 0.0:
            held = self.units * price
            wanted = target * (self.cash + held) - held
            buy, sell = (1 + SLIPPAGE) * (1 + FEE) - 1, 1 - (1 - SLIPPAGE) * (1 - FEE)
            notional = wanted / (1 + target * math.copysign(1, wanted) * (buy if wanted > 0 else sell))
            if self.trade is None:
                step_id = self.number << EPISODE_STEP_BITS | t
                self.trade = Trade(next(self.trade_numbers), 1 if target > 0 else -1, step_id)
            self.leg(t, notional / price, price, entry=notional * self.trade.side > 0)
        self.target = target

    def leg(self, t: int, quantity: float, price: float, *, entry: bool) -> None:
        trade = self.trade
        assert trade is not None
        paid = price * (1 + math.copysign(SLIPPAGE, quantity))
        size = abs(quantity)
        fee, slippage = FEE * size * paid, SLIPPAGE * size * price
        self.cash -= quantity * price + fee + slippage
        self.cost += fee + slippage
        self.units += quantity
        trade.fees += fee
        trade.slippage += slippage
        if entry:
            trade.entered += size
            trade.entry_notional += size * paid
        else:
            trade.exited += size
            trade.exit_notional += size * paid
        operation = f"{'ENTRY' if entry else 'EXIT'}_{'LONG' if trade.side > 0 else 'SHORT'}"
        row = (self.number << EPISODE_STEP_BITS | t, len(self.legs), trade.trade_no, operation)
        self.cut[Record.FILLS].append((t, (*row, quantity, paid, fee, slippage)))
        self.legs.append((quantity, paid))

    def end_trade(self, t: int, status: str, units: float) -> None:
        trade = self.trade
        assert trade is not None
        exit_time = (self.start_bar + t + 1) * DAY_US
        trade.exited += abs(units)
        trade.exit_notional += abs(units) * CLOSES[self.start_bar + t + 1]
        entry_time = (self.start_bar + (trade.entry & 0xFFFFFF) + 1) * DAY_US
        row = trade.row(self.number, status, self.number << EPISODE_STEP_BITS | t, exit_time, entry_time)
        self.cut[Record.TRADES].append((t, row))
        if status == "CLOSED":
            self.won.append(row[11] > 0.0)
        self.trade = None

    def finish(self) -> None:
        t = self.steps - 1
        if self.trade is not None:
            self.end_trade(t, "MARKED", self.units)
        self.cut[Record.EPISODES_CLOSED].append((t, self.closing()))

    def closing(self, status: str = "COMPLETED", reason: str = "LAST_BAR") -> tuple[Any, ...]:
        totals = (sum(self.rewards), self.steps, self.sharpe, self.drawdown, len(self.won))
        win_rate = sum(self.won) / len(self.won) if self.won else None
        return (self.number, status, reason, 2, self.equity, self.equity - EQUITY, *totals, win_rate, 0)

    @property
    def returns(self) -> list[float]:
        return [after / before - 1.0 for before, after in itertools.pairwise(self.equities)]

    @property
    def sharpe(self) -> float | None:
        if self.steps < 30 or (spread := statistics.stdev(self.returns)) < 1e-12:
            return None
        return math.sqrt(252.0) * statistics.fmean(self.returns) / spread

    @property
    def drawdown(self) -> float:
        peaks = itertools.accumulate(self.equities, max)
        return max(1.0 - equity / peak for equity, peak in zip(self.equities, peaks, strict=True))

    def between(self, first: int, stop: int) -> Rows:
        return {kind: [row for t, row in rows if first <= t < stop] for kind, rows in self.cut.items() if rows}


def merge(*parts: Rows) -> Rows:
    merged: Rows = {}
    for part in parts:
        for kind, rows in part.items():
            merged.setdefault(kind, []).extend(rows)
    return merged


@dataclass
class Source:
    """A producer in the hands of a test."""

    writer: Writer
    key: ProducerKey

    def __post_init__(self) -> None:
        self.grant = self.writer.hello(self.key, pid=100 + self.key.worker, host="here")
        self.seq = 0
        self.numbers = itertools.count(self.grant.producer_no << PRODUCER_EPISODE_BITS)

    def batch(self, rows: Rows, *, dropped: int = 0) -> DecodedBatch:
        self.seq += 1
        kept = {kind: found for kind, found in rows.items() if found}
        return DecodedBatch(producer=self.key, epoch=self.grant.epoch, seq=self.seq, rows=kept, dropped=dropped)

    def send(self, rows: Rows, *, dropped: int = 0) -> None:
        assert self.writer.apply(self.batch(rows, dropped=dropped)) == Answer.OK


TARGETS = ((1.0, 1.0, -1.0, -1.0, 0.0, 0.5, 1.0), (0.0, -1.0, -0.5, -1.0, 1.0), (1.0, -1.0))
EPISODE_STEPS = 20


class Runner(Source):
    """Two lanes that sample episodes of 20 steps, one fragment at a time."""

    steps_sent = True
    weights_version = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        self.lanes = [self.begin(), self.begin()]

    def begin(self) -> list[Any]:
        number = next(self.numbers)
        pattern = TARGETS[number % 3]
        fill = "next_open" if number % 2 else "next_close"
        targets = [pattern[(t // 2) % len(pattern)] for t in range(EPISODE_STEPS)]
        start_bar, version = number % 7, self.weights_version
        return [Episode(number, targets, start_bar=start_bar, fill=fill, weights_version=version), 0]

    def sample(self, steps: int) -> int:
        """Advance each lane by up to `steps` steps within its episode; how many steps that were."""
        parts, made = [], 0
        for place, (episode, t) in enumerate(self.lanes):
            stop = min(t + steps, episode.steps)
            parts.append(episode.between(t, stop))
            made += stop - t
            self.lanes[place] = [episode, stop]
        rows = merge(*parts)
        if self.steps_sent:
            self.send(rows)
        else:
            self.send(
                {kind: found for kind, found in rows.items() if kind not in (Record.STEPS, Record.FILLS)}, dropped=made
            )
        return made

    def renew(self) -> None:
        """Lanes whose episode ended begin another, as the next fragment will."""
        self.lanes = [self.begin() if t == episode.steps else [episode, t] for episode, t in self.lanes]

    @property
    def positions(self) -> list[tuple[int, int]]:
        return [(episode.number, t) for episode, t in self.lanes]


@dataclass
class TrialRun:
    """One attempt of a trial: two runners and the trial itself."""

    writer: Writer
    trial_id: int
    resumed_from: int | None = None
    env_steps: int = 0
    sweep_id: str = SWEEP
    steps_sent: bool = True

    def __post_init__(self) -> None:
        self.iteration = self.resumed_from or 0
        self.attempt = self.writer.start_attempt(self.trial_id, 4242, self.resumed_from)
        self.runners = [self.runner(worker) for worker in (1, 2)]
        self.trial = Source(self.writer, self.key(ProducerRole.TRIAL, 0))

    def key(self, role: ProducerRole, worker: int) -> ProducerKey:
        return ProducerKey(self.sweep_id, self.trial_id, self.attempt, role, worker)

    def runner(self, worker: int) -> Runner:
        runner = Runner(self.writer, self.key(ProducerRole.RUNNER, worker))
        runner.steps_sent = self.steps_sent
        return runner

    def train(self, *fragments: int) -> None:
        for steps in fragments:
            for runner in self.runners:
                runner.renew()
                self.env_steps += runner.sample(steps)

    def evaluate(self, *, eligible: bool = True, targets: list[float] | None = None) -> Episode:
        """Finish the iteration: evaluation, curve, iteration, checkpoint."""
        self.iteration += 1
        pattern = targets or [TARGETS[self.iteration % 3][(t // 3) % 2] for t in range(40)]
        version = 10 * self.iteration
        run = Episode(next(self.trial.numbers), pattern, role="validation", start_bar=15, weights_version=version)
        score, status = (run.sharpe, "OK") if run.sharpe is not None else (0.0, "FLAT")
        facts = (status, run.sharpe, score, run.steps, len(run.won), run.equity / EQUITY - 1.0, run.drawdown)
        at = 1_000_000 * self.iteration
        number, iteration = run.number, self.iteration
        metrics = json.dumps({"validation/sharpe": run.sharpe, "validation/score": score})
        lanes = json.dumps([position for runner in self.runners for position in runner.positions])
        checkpoint = (iteration, at, self.env_steps, version, f"sweeps/{SWEEP}/{iteration:06d}", "ab" * 32)
        self.trial.send(
            merge(
                run.between(0, run.steps),
                {
                    Record.ITERATIONS: [(iteration, at, self.env_steps, 5, version, 1.5 * iteration, metrics)],
                    Record.EVALUATIONS: [(number, iteration, "validation", 1.0, *facts, 0.5, 3.0, int(eligible), at)],
                    Record.EVALUATION_CURVES: [
                        (number, "sp500", "cd" * 32, 15 * DAY_US, 55 * DAY_US, 40, b"\0" * 320, b"\0" * 320)
                    ],
                    Record.CHECKPOINTS: [(*checkpoint, run.sharpe, score, int(eligible), lanes)],
                },
            )
        )
        return run


def new_sweep(**changes: Any) -> NewSweep:
    values: dict[str, Any] = {
        "sweep_id": SWEEP,
        "experiment": "small",
        "spec_json": '{"experiment": "small"}',
        "identity": "12345678" * 8,
        "data_sha256": "cd" * 32,
        "instrument": "sp500",
        "git_revision": "abc",
        "versions_json": '{"ray": "2.60"}',
        "resources_json": '{"lanes": 2}',
        "seed": 3,
        "driver_pid": 1,
        "driver_host": "here",
        "driver_started_at": 5,
        "buy_hold_sharpe": 0.4,
        "validation_bars": 40,
        "periods_per_year": 252.0,
    }
    return NewSweep(**(values | changes))


class World:
    """A database with one open sweep, and what tests do to it."""

    Episode = Episode
    Runner = Runner
    Source = Source
    TrialRun = TrialRun
    merge = staticmethod(merge)
    new_sweep = staticmethod(new_sweep)
    sweep_id = SWEEP

    def __init__(self, path: Any) -> None:
        self.path = path
        self.writer = Writer(path, clock_us=itertools.count(1_000).__next__)
        self.writer.open_sweep(new_sweep())

    def close(self) -> None:
        self.writer.close()

    @property
    def store(self) -> Store:
        return open_store(self.path)

    @staticmethod
    def rises(bar: int) -> bool:
        """Whether a position opened at the next bar's open earns something by its close."""
        return CLOSES[bar + 1] > OPENS[bar + 1]

    def open_trial(self, number: int, sweep_id: str = SWEEP) -> int:
        point = json.dumps({"lr": 0.001 * (number + 1)})
        params = json.dumps({"lr": 0.001 * (number + 1), "gamma": 0.99})
        return self.writer.open_trial(sweep_id, number, params, 7 + number, f"hash{number}", point)

    def begin(self, number: int = 0, **arguments: Any) -> TrialRun:
        return TrialRun(self.writer, self.open_trial(number), **arguments)


def write_small_sweep(world: World) -> None:
    """Three trials: one in order, one that crashed and went on, one that failed with a lost runner."""
    run = world.begin(0)
    for _ in range(3):
        run.train(7, 9, 8)
        run.evaluate()
    world.writer.close_trial(run.trial_id, TrialStatus.FINISHED)

    run = world.begin(1)
    for _ in range(2):
        run.train(7, 9)
        run.evaluate()
    run.train(5)
    resumed = TrialRun(world.writer, run.trial_id, resumed_from=1, env_steps=4 * 16)
    for _ in range(2):
        resumed.train(11, 6)
        resumed.evaluate()
    world.writer.close_trial(run.trial_id, TrialStatus.STOPPED)

    run = world.begin(2)
    run.train(7, 9)
    run.runners[0] = run.runner(1)
    run.train(7)
    run.evaluate(targets=[0.0] * 40, eligible=False)
    run.train(6)
    world.writer.close_trial(run.trial_id, TrialStatus.FAILED, "Traceback: boom")
    world.writer.close_sweep(SWEEP, SweepStatus.FINISHED)


class Backend:
    """A kind of database: where a test gets one of its own. Templates are made once."""

    def __init__(self) -> None:
        self._templates: dict[str, Any] = {}

    def template(self, name: str, fill: Callable[[Any], None]) -> Any:
        if name not in self._templates:
            address = self.place()
            fill(address)
            self._templates[name] = address
        return self._templates[name]

    def empty(self) -> Any:
        """A database without a row."""
        return self.copy(self.template("empty", lambda address: Writer(address).close()))

    def green(self) -> Any:
        """A copy of a finished, sound database."""
        return self.copy(self.template("green", self._write_green))

    def _write_green(self, address: Any) -> None:
        made = World(address)
        write_small_sweep(made)
        made.writer.close()


class Sqlite(Backend):
    def __init__(self, folders: pytest.TempPathFactory) -> None:
        super().__init__()
        self.folders = folders

    def place(self) -> Path:
        return self.folders.mktemp("db") / "small.db"

    def copy(self, template: Path) -> Path:
        return Path(shutil.copy(template, self.place()))

    def drop(self, address: Path) -> None:
        """pytest clears its folders away."""


class Postgres(Backend):
    def __init__(self, server: Any) -> None:
        super().__init__()
        self.server = server

    def place(self) -> str:
        return self.server.new_database()

    def copy(self, template: str) -> str:
        return self.server.new_database(template)

    def drop(self, address: str) -> None:
        self.server.drop_database(address)


@pytest.fixture(scope="session")
def sqlite_backend(tmp_path_factory: pytest.TempPathFactory) -> Sqlite:
    return Sqlite(tmp_path_factory)


@pytest.fixture(scope="session")
def postgresql_backend(postgres: Any) -> Postgres:
    return Postgres(postgres)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    kinds = getattr(metafunc.module, "BACKENDS", None)
    if kinds is not None and "backend" in metafunc.fixturenames:
        metafunc.parametrize("backend", kinds, indirect=True, scope="session")


@pytest.fixture(scope="session")
def backend(request: pytest.FixtureRequest) -> Backend:
    """SQLite, or both kinds in turn where a module says so (`BACKENDS`)."""
    return request.getfixturevalue(f"{getattr(request, 'param', 'sqlite')}_backend")


@pytest.fixture
def make_world(backend: Backend) -> Iterator[Callable[[], World]]:
    """A database with an open sweep, as often as it is asked for."""
    with ExitStack() as stack:

        def make() -> World:
            made = World(backend.empty())
            stack.callback(backend.drop, made.path)
            stack.callback(made.close)
            return made

        yield make


@pytest.fixture
def world(make_world: Callable[[], World]) -> World:
    return make_world()


@pytest.fixture(scope="session")
def world_type() -> type[World]:
    return World


@pytest.fixture
def green(backend: Backend) -> Iterator[Any]:
    """A copy of a finished, sound database."""
    address = backend.green()
    yield address
    backend.drop(address)
