"""A load like that of env runners, without a network: random actions in the real environment, all of it recorded.

Every step, fill and trade comes from the real kernel, so the money adds up and every rule of `verify` applies. What a
seed makes can be made again, so a test knows each row that must have arrived.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tradesweep.env import Costs, EnvConfig, Tape, TradingVectorEnv
from tradesweep.market import Bars, Market, Scaler, Split
from tradesweep.names import PRODUCER_EPISODE_BITS, ProducerKey, Record
from tradesweep.recording import Producer, ProducerCounts, connect_recorder
from tradesweep.store import NewSweep

Records = dict[Record, dict[str, Any]]

ENOUGH = "enough"
"""A file of this name beside the log of acknowledgements ends the work."""
DAY_US = 86_400_000_000
COSTS = Costs(fee_bps=10, slippage_bps=5, borrow_bps_per_year=252)
CONFIG = EnvConfig(fill="next_open", costs=COSTS, periods_per_year=252.0, episode_bars=60)


def make_sweep(sweep_id: str) -> NewSweep:
    return NewSweep(
        sweep_id=sweep_id,
        experiment="faults",
        spec_json="{}",
        identity="0" * 64,
        data_sha256="0" * 64,
        instrument="random walk",
        git_revision=None,
        versions_json="{}",
        resources_json="{}",
        seed=0,
        driver_pid=os.getpid(),
        driver_host="here",
        driver_started_at=1_700_000_000_000_000,
        buy_hold_sharpe=None,
        validation_bars=252,
        periods_per_year=252.0,
    )


def make_market(n_bars: int = 2000) -> Market:
    """A wild random walk with gaps between close and open, in which a short position can be ruined."""
    random = np.random.default_rng(3)
    moves = random.standard_normal((n_bars, 2)) * 0.02
    moves[random.random(n_bars) < 0.01, 0] += 0.6
    path = 100.0 * np.exp(np.cumsum(moves - moves.mean(), axis=None)).reshape(n_bars, 2)
    opens, closes = np.ascontiguousarray(path[:, 0]), np.ascontiguousarray(path[:, 1])
    bars = Bars(
        time_us=np.arange(n_bars) * DAY_US + 946_684_800_000_000,
        open=opens,
        high=np.maximum(opens, closes),
        low=np.minimum(opens, closes),
        close=closes,
        volume=np.ones(n_bars),
        tradable=np.ones(n_bars, bool),
        segment=np.zeros(n_bars, np.int32),
    )
    return Market(
        bars=bars,
        feature_names=("nothing",),
        features_NF=np.zeros((n_bars, 1), np.float32),
        first_valid=0,
        splits={"train": Split(name="train", start=0, stop=n_bars)},
        scaler=Scaler(mean_F=np.zeros(1), std_F=np.ones(1)),
        instrument="random walk",
        source="made here",
        periods_per_year=252.0,
        sha256="0" * 64,
        reward_scale_auto=50.0,
    )


def sample(next_episode_no: Callable[[], int], seed: int, *, lanes: int = 4, rows: int = 25) -> Iterator[Records]:
    """Fragment after fragment, for ever."""
    tape = Tape(next_episode_no=next_episode_no)
    env = TradingVectorEnv(make_market(), CONFIG, lanes=lanes, tape=tape)
    random = np.random.default_rng(seed)
    env.reset(seed=seed)
    for version in range(2**31):
        for _ in range(rows):
            env.step(random.integers(len(CONFIG.positions), size=lanes))
        yield tape.drain(weights_version=version)


def make_again(producer_no: int, seed: int, fragments: int, **sizes: int) -> list[Records]:
    """What the producer of that number sampled."""
    numbers = iter(range(producer_no << PRODUCER_EPISODE_BITS, (producer_no + 1) << PRODUCER_EPISODE_BITS))
    stream = sample(numbers.__next__, seed, **sizes)
    return [next(stream) for _ in range(fragments)]


class Sampler:
    """A producer in a process of its own (a Ray actor). It writes down what it was told is committed."""

    def __init__(self, recorder: str, key: ProducerKey, acks: Path, *, seed: int, timeout_s: float, **sizes: int):
        self.producer = Producer(lambda: connect_recorder(recorder), key, timeout_s=timeout_s)
        self._stream = sample(self.producer.next_episode_no, seed, **sizes)
        self._seq = 0
        self._pending: dict[str, Any] | None = None
        self._enough = acks.with_name(ENOUGH)
        self._log = os.open(acks, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def identify(self) -> tuple[int, int]:
        """Process and number."""
        return os.getpid(), self.producer.grant.producer_no

    def work(self, fragments: int, pause_s: float = 0.0) -> ProducerCounts:
        """Sample and send, until the folder says that it is enough; returns when all of it is committed."""
        for _ in range(fragments):
            if self._enough.exists():
                break
            records = next(self._stream)
            self.producer.send(records)  # returns when the batch before is committed
            self._write_down()
            self._seq += 1
            self._pending = describe(self.producer.grant.producer_no, self._seq, records)
            time.sleep(pause_s)
        self.producer.flush()
        self._write_down()
        return self.producer.counts

    def _write_down(self) -> None:
        pending, self._pending = self._pending, None
        if pending is not None:
            os.write(self._log, json.dumps(pending).encode() + b"\n")


def describe(producer_no: int, seq: int, records: Records) -> dict[str, Any]:
    """The batch as the log of acknowledgements has it."""
    step_ids = np.sort(records[Record.STEPS]["step_id"])
    cuts = np.flatnonzero(np.diff(step_ids) != 1) + 1
    return {
        "producer_no": producer_no,
        "seq": seq,
        "spans": [[int(run[0]), int(run[-1])] for run in np.split(step_ids, cuts) if len(run)],
        "fills": len(records[Record.FILLS]["step_id"]),
        "trades": len(records[Record.TRADES]["episode_no"]),
    }
