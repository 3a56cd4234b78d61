"""The remote runners of a warm process: begun for each trial, and replaced when one is lost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayActorError, RayError

from tradesweep.agents import AgentConfig, RunnerContext, restart_runners, start_runners
from tradesweep.market import Market


class RunnerPool:
    """The runners of one slot, in the order of their workers 1, 2, 3 ...; they live on from trial to trial."""

    def __init__(self, market: ray.ObjectRef[Market], *, num_cpus: float) -> None:
        self._market, self._num_cpus = market, num_cpus
        self.handles: list[ActorHandle[Any]] = []

    def begin(self, agent: AgentConfig, context: RunnerContext) -> None:
        """Begin a trial: living runners begin anew; where one is dead, all are replaced."""
        if self.handles:
            try:
                restart_runners(self.handles, agent, context)
            except RayError:
                self.discard()
        if not self.handles:
            self.handles = self._start(agent, context, None)

    def replace_lost(self, agent: AgentConfig, context: RunnerContext) -> list[int]:
        """Put a new process in the place of each runner that does not answer; which workers those were."""
        lost = [worker for worker, handle in enumerate(self.handles, start=1) if not _is_alive(handle)]
        for worker in lost:
            ray.kill(self.handles[worker - 1], no_restart=True)
        for worker, handle in zip(lost, self._start(agent, context, lost), strict=True):
            self.handles[worker - 1] = handle
        return lost

    def recorded_before(self, worker: int) -> int:
        """Steps that the runner's predecessors in this attempt brought to the recorder, or reported as dropped."""
        handle = self.handles[worker - 1]
        return int(ray.get(handle.apply.remote(lambda runner: runner.producer.grant.steps_before)))

    def discard(self) -> None:
        """End all runners."""
        for handle in self.handles:
            ray.kill(handle, no_restart=True)
        self.handles = []

    def _start(
        self, agent: AgentConfig, context: RunnerContext, workers: Sequence[int] | None
    ) -> list[ActorHandle[Any]]:
        return start_runners(agent, context, self._market, num_cpus=self._num_cpus, workers=workers)


def _is_alive(handle: ActorHandle[Any]) -> bool:
    try:
        ray.get(handle.ping.remote())
    except RayActorError:
        return False
    return True
