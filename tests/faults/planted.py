"""A reward that goes wrong in the way its trial's discount names. Copied beside a spec, as its plugin."""

from __future__ import annotations

import os
import pickle
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tradesweep.env.rewards import LogReturn

STRIKES_AFTER = 3
"""Iterations that are published before anything goes wrong."""
SLOW_STEP_S = 0.2
"""Of the 64 that an iteration of these trials has at 8 lanes."""


class Planted(LogReturn):
    """As its parent, until a trial's time has come."""

    state_size = 1

    def allocate(self, kernel: Any) -> None:
        """Sampling and evaluation each have one of these."""
        super().allocate(kernel)
        self._state_E = np.zeros((kernel.lanes, 1))
        self._session = find_session()
        self._samples = self._session is not None and kernel.lanes == self._session.context.lanes

    def __call__(self, row: Any, kernel: Any) -> Any:
        """The step's reward, or what this trial gets instead."""
        reward_E = super().__call__(row, kernel)
        state = getattr(self._session, "state", None)
        if state is None or state.iteration < STRIKES_AFTER:
            return reward_E
        wrongs = WRONGS_IN_SAMPLING if self._samples else WRONGS_IN_EVALUATION
        wrong = wrongs.get(self._session.assignment.params["gamma"])
        return reward_E if wrong is None else wrong(self, reward_E.copy())

    def state_E(self) -> Any:
        """One number a lane."""
        return self._state_E


def find_session() -> Any:
    """The trial that is building this reward; none when a plan does."""
    frame: Any = sys._getframe()
    while frame is not None:
        owner = frame.f_locals.get("self")
        if getattr(owner, "assignment", None) is not None:
            return owner
        frame = frame.f_back
    return None


# --- what goes wrong ------------------------------------------------------------------------------------------


def raise_error(reward: Planted, reward_E: Any) -> Any:
    raise RuntimeError("the exchange is closed")


def give(value: float) -> Callable[[Planted, Any], Any]:
    def give_it(reward: Planted, reward_E: Any) -> Any:
        reward_E[0] = value
        return reward_E

    return give_it


def spoil_state(reward: Planted, reward_E: Any) -> Any:
    reward._state_E[0] = np.nan
    return reward_E


def run_out_of_memory(reward: Planted, reward_E: Any) -> Any:
    return np.ones(2**50)


def die(reward: Planted, reward_E: Any) -> Any:
    os.kill(os.getpid(), signal.SIGKILL)


def take_long(reward: Planted, reward_E: Any) -> Any:
    """One iteration that lasts longer than Ray Tune waits for a process that should end; the others are quick."""
    if reward._session.state.iteration == STRIKES_AFTER:
        time.sleep(SLOW_STEP_S)
    return reward_E


def damage_and_die(damage: Callable[[list[Path]], None]) -> Callable[[Planted, Any], Any]:
    """Harm the checkpoints of the first attempt, given newest first, and die; a second attempt does well."""

    def strike(reward: Planted, reward_E: Any) -> Any:
        session = reward._session
        if session.assignment.resume is not None:
            return reward_E
        folder = session.context.folders.checkpoint(session.context.sweep_id, session.assignment.trial_no, 0).parent
        damage(sorted(folder.iterdir(), reverse=True))
        return die(reward, reward_E)

    return strike


def flip_a_byte(newest_first: list[Path]) -> None:
    path = max((newest_first[0] / "rllib").rglob("*.pkl"), key=lambda path: path.stat().st_size)
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)


def truncate(newest_first: list[Path]) -> None:
    with (newest_first[0] / "policy.safetensors").open("r+b") as file:
        file.truncate(100)


def take_the_wrong_manifest(newest_first: list[Path]) -> None:
    shutil.copy(newest_first[1] / "MANIFEST.json", newest_first[0])


class Canary:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.file,)


def plant_canaries(newest_first: list[Path]) -> None:
    """Every checkpoint would run code of ours where it is loaded before its hashes are checked."""
    for folder in newest_first:
        for path in folder.rglob("*.pkl"):
            path.write_bytes(pickle.dumps(Canary(folder.parent / "unpickled")))


WRONGS_IN_SAMPLING: dict[float, Callable[[Planted, Any], Any]] = {
    0.91: raise_error,
    0.92: give(np.nan),
    0.93: give(-np.inf),
    0.94: spoil_state,
    0.95: run_out_of_memory,
    0.97: die,
    0.98: take_long,
    0.81: damage_and_die(flip_a_byte),
    0.82: damage_and_die(truncate),
    0.83: damage_and_die(take_the_wrong_manifest),
    0.84: damage_and_die(plant_canaries),
}
WRONGS_IN_EVALUATION: dict[float, Callable[[Planted, Any], Any]] = {0.96: give(np.nan)}

rewards = {"planted": Planted}
