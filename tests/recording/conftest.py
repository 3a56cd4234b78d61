"""Records as an environment would hand them over, and a recorder whose answers are scripted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tradesweep.errors import RecorderUnavailable
from tradesweep.names import EPISODE_STEP_BITS, Answer, Batch, Grant, ProducerKey, ProducerRole, Record
from tradesweep.recording import RecorderClient, RecorderStats
from tradesweep.store import NewSweep

Records = dict[Record, dict[str, Any]]


def make_episode(episode_no: int, steps: int, *, closed: bool = True, traded: bool = True) -> Records:
    """One episode of `steps` steps in which each even step fills a leg and each odd one ends a trade."""
    step_ids = (episode_no << EPISODE_STEP_BITS) + np.arange(steps)
    exits = step_ids[1::2] if traded else step_ids[:0]
    records: Records = {
        Record.EPISODES_OPENED: {
            "episode_no": [episode_no],
            "role": ["train"],
            "lane": [0],
            "rllib_episode_id": [None],
            "seed": [7],
            "started_at": [1_700_000_000_000_000],
            "start_bar": [0],
            "start_time": [946_900_800_000_000],
            "initial_equity": [10_000.0],
        },
        Record.STEPS: {
            "step_id": step_ids,
            "bar": np.arange(steps),
            "decision_time": 946_900_800_000_000 + np.arange(steps),
            "mark_time": 946_900_800_000_001 + np.arange(steps),
            "action": np.arange(steps, dtype=np.int32) % 3,
            "target": np.where(np.arange(steps) % 2 == 0, 1.0, 0.0),
            "units": np.where(np.arange(steps) % 2 == 0, 2.0, 0.0),
            "fill_price": np.where(np.isin(step_ids, exits) | (np.arange(steps) % 2 == 0), 100.0, np.nan),
            "mark_price": np.full(steps, 100.0),
            "equity": np.full(steps, 10_000.0),
            "reward": np.zeros(steps),
            "cost": np.zeros(steps),
            "weights_version": np.full(steps, 3),
        },
        Record.FILLS: {
            "step_id": step_ids if traded else step_ids[:0],
            "leg": np.zeros(steps if traded else 0, dtype=np.int64),
            "trade_no": np.arange(steps if traded else 0) // 2,
            "operation": ["ENTRY_LONG" if t % 2 == 0 else "EXIT_LONG" for t in range(steps if traded else 0)],
            "quantity": np.full(steps if traded else 0, 2.0),
            "price": np.full(steps if traded else 0, 100.0),
            "fee": np.zeros(steps if traded else 0),
            "slippage": np.zeros(steps if traded else 0),
        },
        Record.TRADES: {
            "episode_no": np.full(len(exits), episode_no),
            "trade_no": np.arange(len(exits)),
            "direction": ["LONG"] * len(exits),
            "status": ["CLOSED"] * len(exits),
            "entry_step_id": exits - 1,
            "exit_step_id": exits,
            "entry_time": np.full(len(exits), 946_900_800_000_000),
            "exit_time": np.full(len(exits), 946_900_800_000_001),
            "entry_price": np.full(len(exits), 100.0),
            "exit_price": np.full(len(exits), 100.0),
            "quantity": np.full(len(exits), 2.0),
            "pnl": np.zeros(len(exits)),
            "fees": np.zeros(len(exits)),
            "slippage": np.zeros(len(exits)),
            "borrow": np.zeros(len(exits)),
        },
    }
    if closed:
        records[Record.EPISODES_CLOSED] = {
            "episode_no": [episode_no],
            "status": ["COMPLETED"],
            "end_reason": ["LAST_BAR"],
            "ended_at": [1_700_000_001_000_000],
            "final_equity": [10_000.0],
            "pnl": [0.0],
            "total_reward": [0.0],
            "total_steps": [steps],
            "sharpe": [None],
            "max_drawdown": [0.0],
            "trades": [len(exits)],
            "win_rate": [None],
            "ruined": [0],
        }
    return records


class ScriptedReply:
    """An answer, or an exception in its place."""

    def __init__(self, answer: Answer | Exception) -> None:
        self.answer = answer

    def result(self, timeout_s: float) -> Answer:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


class ScriptedRecorder(RecorderClient):
    """Keeps every batch it is given and answers as told; when the script is over it answers `then`."""

    def __init__(self, *script: Answer | Exception, then: Answer | Exception = Answer.OK) -> None:
        self.script, self.then = list(script), then
        self.batches: list[Batch] = []
        self.unanswered = 0

    def write(self, batch: Batch) -> ScriptedReply:
        self.batches.append(batch)
        return ScriptedReply(self.script.pop(0) if self.script else self.then)

    def control(self, method: str, *args: Any, **kwargs: Any) -> Any:
        assert method == "hello"
        return Grant(epoch=1, producer_no=5)

    def drain(self, timeout_s: float) -> RecorderStats:
        raise NotImplementedError

    def close(self, timeout_s: float) -> None:
        raise NotImplementedError


@pytest.fixture(scope="session")
def new_sweep() -> NewSweep:
    return NewSweep(
        sweep_id="s-12345678",
        experiment="s",
        spec_json="{}",
        identity="12345678" * 8,
        data_sha256="ab" * 32,
        instrument="sp500",
        git_revision=None,
        versions_json="{}",
        resources_json="{}",
        seed=0,
        driver_pid=1,
        driver_host="here",
        driver_started_at=1_700_000_000_000_000,
        buy_hold_sharpe=None,
        validation_bars=252,
        periods_per_year=252.0,
    )


@pytest.fixture(scope="session")
def key() -> ProducerKey:
    return ProducerKey("s-12345678", 1, 1, ProducerRole.RUNNER, 0)


@pytest.fixture(scope="session")
def episode() -> Callable[..., Records]:
    return make_episode


@pytest.fixture(scope="session")
def scripted() -> type[ScriptedRecorder]:
    return ScriptedRecorder


@pytest.fixture(scope="session")
def lost() -> RecorderUnavailable:
    return RecorderUnavailable("the recorder is gone or restarting")
