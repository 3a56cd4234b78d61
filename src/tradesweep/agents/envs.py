"""From an RLlib `env_config` to lanes: what a runner is told, and the environments it builds from that."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import gymnasium as gym
from ray.tune.registry import register_env

from tradesweep.agents.feed import get_market
from tradesweep.env import Tape, TradingEnv, TradingVectorEnv, compile_env
from tradesweep.spec import SweepSpec

ENV_NAME = "tradesweep-trading"


@dataclass(frozen=True, kw_only=True, slots=True)
class RecordingContext:
    """Where a runner sends its rows."""

    recorder: str
    """Name of the recorder actor."""
    sweep_id: str
    trial_id: int
    attempt: int
    steps: bool
    """False: episode totals and trades only."""
    timeout_s: float
    """How long an answer may take before the trial fails."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunnerContext:
    """What a trial tells its runners beside RLlib's own settings; plain values, safe in any checkpoint."""

    spec_json: str
    market_sha256: str
    split: str = "train"
    env_runners: int = 0
    """Remote runners of the trial; 0: it samples in process."""
    recording: RecordingContext | None = None

    def to_dict(self) -> dict[str, Any]:
        """As RLlib's env_config."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RunnerContext:
        """From RLlib's env_config."""
        recording = values.get("recording")
        return cls(
            spec_json=values["spec_json"],
            market_sha256=values["market_sha256"],
            split=values["split"],
            env_runners=values["env_runners"],
            recording=RecordingContext(**recording) if recording else None,
        )

    def lane_offset(self, runner: _HasLanes) -> int:
        """Lanes are numbered through all runners, so N runners draw the same episodes as one."""
        return max((runner.worker_index or 0) - 1, 0) * runner.num_envs


class _HasLanes(Protocol):
    worker_index: int | None
    num_envs: int


def build_vector_env(context: RunnerContext, *, lanes: int, tape: Tape | None = None) -> TradingVectorEnv:
    """Build `lanes` lanes over the market of the context's spec."""
    spec = SweepSpec.from_json(context.spec_json)
    market = get_market(spec, context.spec_json, context.market_sha256)
    return TradingVectorEnv(market, compile_env(spec, market), lanes=lanes, split=context.split, tape=tape)


def create_env(env_config: Mapping[str, Any]) -> gym.Env[Any, Any] | gym.vector.VectorEnv[Any, Any, Any]:
    """RLlib's env creator: `num_envs` is present when a native vector env is wanted."""
    context = RunnerContext.from_dict(env_config)
    if "num_envs" in env_config:
        return build_vector_env(context, lanes=env_config["num_envs"])
    spec = SweepSpec.from_json(context.spec_json)
    market = get_market(spec, context.spec_json, context.market_sha256)
    return TradingEnv(market, compile_env(spec, market), split=context.split)


def register() -> None:
    """Make ENV_NAME known to RLlib in this process."""
    register_env(ENV_NAME, create_env)
