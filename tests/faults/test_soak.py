"""Minutes of load with a kill every few seconds. `TRADESWEEP_SOAK_S=600` makes it ten minutes."""

from __future__ import annotations

import os
import random
import time
from typing import Any

import psutil
import pytest

SOAK_S = float(os.environ.get("TRADESWEEP_SOAK_S", "60"))
BETWEEN_KILLS_S = min(10.0, SOAK_S / 12)
WORKERS = 4
MOST_GROWTH = 50 * 2**20
PAGE_CACHE = 64 * 2**20
"""What SQLite keeps by order of the store."""

pytestmark = [pytest.mark.fault, pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(SOAK_S + 300)]


class Crew:
    """Producers that sample without end. Worker 0 is spared, so that its memory can be watched."""

    def __init__(self, arena: Any, chance: random.Random) -> None:
        self.arena, self.chance = arena, chance
        self.kills = {"recorder": 0, "producer": 0}
        self.hands = {worker: self._hire(worker) for worker in range(WORKERS)}

    def _hire(self, worker: int) -> Any:
        hand = self.arena.hire(worker, seed=self.chance.randrange(2**31))
        hand.start(10**9, pause_s=0.02)
        return hand

    def kill_one(self) -> None:
        """The recorder, or a producer, which is replaced at once."""
        if self.chance.random() < 0.4:
            self.arena.kill_recorder()
            self.kills["recorder"] += 1
            return
        worker = self.chance.randrange(1, WORKERS)
        self.hands[worker].kill()
        self.hands[worker] = self._hire(worker)
        self.kills["producer"] += 1

    def weigh(self) -> tuple[int, int]:
        """Bytes of the recorder's and of the spared producer's own memory."""
        return own_memory(self.arena.recorder_pid()), own_memory(self.hands[0].mark.pid)


def own_memory(pid: int) -> int:
    """Without the pages of Ray's object store, which all processes share."""
    memory = psutil.Process(pid).memory_info()
    return int(memory.rss - memory.shared)


def test_minutes_of_kills_leave_every_row_once_and_no_memory_behind(arena: Any) -> None:
    crew = Crew(arena, random.Random(17))
    arena.wait_for(WORKERS * 20)
    weights = [crew.weigh()]
    until = time.monotonic() + SOAK_S
    while time.monotonic() < until:
        count = arena.acknowledged()
        crew.kill_one()
        time.sleep(BETWEEN_KILLS_S * crew.chance.uniform(0.5, 1.5))
        weights.append(crew.weigh())
        arena.wait_for(count + 1)
    arena.say_enough()
    for hand in crew.hands.values():
        counts = hand.result()
        assert (counts.rows_acknowledged, counts.steps_unsent) == (counts.rows_sent, 0)
    steps = arena.rows("SELECT count(*) FROM steps")[0][0]
    print(f"{steps:,} steps, kills {crew.kills}, MB {[tuple(x // 2**20 for x in pair) for pair in weights]}")
    arena.finish()
    assert min(crew.kills.values()) > 0
    fresh, late = weights[0], weights[-(len(weights) // 3 + 1) :]
    assert max(recorder for recorder, _ in late) - fresh[0] < PAGE_CACHE + MOST_GROWTH
    assert max(producer for _, producer in late) - fresh[1] < MOST_GROWTH
