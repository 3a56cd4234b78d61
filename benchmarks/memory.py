"""Does the memory of recorder and producer stay flat, also while nobody takes the batches?

After a warm-up, in which caches fill, the growth of each process is the largest memory seen less the memory at its
end. Then the recorder is stopped (SIGSTOP) while its producer goes on sending, for a while, and let go.

Memory is what a process alone holds (unique set size): pages of Ray's shared store are nobody's.
"""

from __future__ import annotations

import os
import signal
import tempfile
import threading
import time
from dataclasses import dataclass, field

import psutil

from benchmarks.build_database import TrialRun
from benchmarks.common import Options, Row
from benchmarks.recording import LOADS, opened_run, recorder
from tradesweep.recording import RecorderClient

TITLE = "growth of memory after the warm-up, while rows are recorded and while the recorder stands still"
GOAL_MB = 50.0


def run(options: Options) -> list[Row]:
    from tradesweep.sweep.cluster import ray_session

    rows = options.size(quick=60_000, usual=5_000_000, full=20_000_000)
    warm_up = options.size(quick=30_000, usual=2_000_000)
    stop_s = options.size(quick=1, usual=10, full=30)
    with (
        ray_session(cpus=1, gpus=0),
        tempfile.TemporaryDirectory(prefix="ts-bench-") as folder,
        recorder(f"{folder}/memory.db") as client,
        opened_run(client, LOADS[0]) as trial,
    ):
        watch = Watch(producer=os.getpid(), recorder=client.stats().pid)
        send_rows(trial, warm_up, watch)
        watch.begin()
        send_rows(trial, rows, watch)
        flat = watch.to_rows(f"{rows / 1e6:,.2g} million rows")
        watch.begin()
        stand_still(client, trial, stop_s, watch)
        return flat + watch.to_rows(f"recorder stopped for {stop_s} s")


@dataclass
class Watch:
    """The most memory of the two processes since `begin`."""

    producer: int
    recorder: int
    before: dict[str, float] = field(default_factory=dict)
    most: dict[str, float] = field(default_factory=dict)

    def begin(self) -> None:
        self.before = self.most = self.read()

    def read(self) -> dict[str, float]:
        pids = {"producer": self.producer, "recorder": self.recorder}
        return {name: psutil.Process(pid).memory_full_info().uss / 2**20 for name, pid in pids.items()}

    def look(self) -> None:
        self.most = {name: max(now, self.most.get(name, 0.0)) for name, now in self.read().items()}

    def to_rows(self, when: str) -> list[Row]:
        return [
            Row(
                what=f"{name}, {when}",
                unit="MB",
                values=[self.most[name] - self.before[name]],
                goal=GOAL_MB,
                better="less",
                digits=1,
                note=f"{self.before[name]:,.0f} MB before",
            )
            for name in self.before
        ]


def send_rows(trial: TrialRun, rows: int, watch: Watch) -> None:
    wanted = trial.sampling.counts.rows_acknowledged + rows
    while trial.sampling.counts.rows_acknowledged < wanted:
        for _ in range(20):
            trial.sampling.send(trial.running.sample(trial.rows))
        watch.look()


def stand_still(client: RecorderClient, trial: TrialRun, seconds: float, watch: Watch) -> None:
    """The producer waits in `send` meanwhile; a thread watches, and lets the recorder go in the end."""
    pid = client.stats().pid

    def let_go() -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            watch.look()
            time.sleep(0.5)
        os.kill(pid, signal.SIGCONT)

    os.kill(pid, signal.SIGSTOP)
    thread = threading.Thread(target=let_go)
    thread.start()
    for _ in range(20):
        trial.sampling.send(trial.running.sample(trial.rows))
    thread.join()
    trial.sampling.flush()
    watch.look()
