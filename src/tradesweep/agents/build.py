"""From a point of the search space to an RLlib algorithm. The algorithm is chosen by the spec alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig
from ray.rllib.utils.annotations import override
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from tradesweep.agents.dqn import ColumnarDQNConfig
from tradesweep.agents.eager import keep_compiler_out
from tradesweep.agents.envs import ENV_NAME, RunnerContext, register
from tradesweep.agents.feed import install_market
from tradesweep.agents.ppo import ColumnarPPOConfig
from tradesweep.agents.replay import ReplayConfig
from tradesweep.agents.runner import VectorEnvRunner
from tradesweep.market import Market

MODEL, REPLAY = "model.", "replay_buffer_config."


@dataclass(frozen=True, kw_only=True, slots=True)
class AgentConfig:
    """One point of the search space, made concrete."""

    algorithm: str
    """`dqn` or `ppo`."""
    params: Mapping[str, Any]
    """Fixed and sampled keys together, flat: `lr`, `model.hiddens`, `replay_buffer_config.capacity`, ..."""
    seed: int
    """Decides initial weights, exploration and episode starts."""
    lanes: int
    """Lanes of the trial, through all its runners."""
    env_runners: int
    """Remote runners; 0 samples in process."""
    gpus: float = 0.0
    """Share of a GPU for the learner."""
    steps_per_result: int = 0
    """Env steps of one `train()` at least; 0: one training step."""


def build_config(agent: AgentConfig, context: RunnerContext) -> AlgorithmConfig:
    """Build the RLlib config. Remote runners are not RLlib's to create: see `start_runners`."""
    register()
    config = CONFIGS[agent.algorithm](agent.params)
    lanes = agent.lanes // max(agent.env_runners, 1)
    return (
        config.environment(ENV_NAME, env_config=context.to_dict())
        .env_runners(
            env_runner_cls=VectorEnvRunner,
            num_env_runners=0,
            num_envs_per_env_runner=lanes,
            gym_env_vectorize_mode="vector_entry_point",
            validate_env_runners_after_construction=False,
            # RLlib drops what a slow runner sampled. A runner that cannot record raises by itself, a lost one too.
            sample_timeout_s=None,
        )
        .learners(num_learners=0, num_gpus_per_learner=agent.gpus)
        .rl_module(model_config=_model_config(agent.params))
        .fault_tolerance(restart_failed_env_runners=False)
        .reporting(min_time_s_per_iteration=0, min_sample_timesteps_per_iteration=agent.steps_per_result)
        .debugging(seed=agent.seed, log_level="ERROR")
    )


def build_algorithm(agent: AgentConfig, context: RunnerContext, market: Market) -> Algorithm:
    """Build the algorithm around `market`; it samples in process until runners are attached."""
    keep_compiler_out()
    install_market(context.spec_json, market)
    return build_config(agent, context).build_algo()


def count_updates(algorithm: Algorithm) -> int:
    """Gradient steps made since the algorithm was built."""
    return int(algorithm.updates_made)


def _dqn_config(params: Mapping[str, Any]) -> AlgorithmConfig:
    training = _training_keys(params)
    replay = {key.removeprefix(REPLAY): value for key, value in params.items() if key.startswith(REPLAY)}
    prioritized = replay.pop("type", "uniform") == "prioritized"
    config = ColumnarDQNConfig().training(**training)
    # The replay sums rewards over the algorithm's own n steps and discount.
    return config.training(
        replay=ReplayConfig(prioritized=prioritized, n_step=config.n_step, gamma=config.gamma, **replay)
    )


def _ppo_config(params: Mapping[str, Any]) -> AlgorithmConfig:
    return ColumnarPPOConfig().training(**_training_keys(params))


CONFIGS: dict[str, Callable[[Mapping[str, Any]], AlgorithmConfig]] = {"dqn": _dqn_config, "ppo": _ppo_config}
"""Algorithms by the name that stands in a sweep file."""


def _training_keys(params: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in params.items() if not key.startswith((MODEL, REPLAY))}


def _model_config(params: Mapping[str, Any]) -> DefaultModelConfig:
    """Actor and critic (or the Q network) as plain MLPs; the plain policy reads exactly this shape."""
    return DefaultModelConfig(
        fcnet_hiddens=list(params.get("model.hiddens", (64, 64))),
        fcnet_activation=params.get("model.activation", "tanh"),
        head_fcnet_hiddens=[],
        vf_share_layers=False,
    )


class RemoteRunner(VectorEnvRunner):
    """A runner in a process of its own, which gets the market through the object store at its start."""

    def __init__(self, *, config: AlgorithmConfig, market: Market, **kwargs: Any) -> None:
        keep_compiler_out()
        register()
        install_market(RunnerContext.from_dict(config.env_config).spec_json, market)
        super().__init__(config=config, **kwargs)

    @override(VectorEnvRunner)
    def apply(self, func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call `func` with this runner. RLlib's own version ends the process when it raises, and its reason is lost."""
        return func(self, *args, **kwargs)

    def restart(self, config: AlgorithmConfig) -> None:
        """Begin another trial as a new runner would; the market of the sweep stays installed, nothing else stays."""
        self.stop()
        arguments = self._ctor_kwargs
        self.__dict__.clear()
        VectorEnvRunner.__init__(self, config=config, **arguments)


def runner_config(agent: AgentConfig, context: RunnerContext) -> AlgorithmConfig:
    """The config remote runners are built with: as the algorithm's, but counting them."""
    config = build_config(agent, context).env_runners(num_env_runners=agent.env_runners)
    config.freeze()
    return config


def start_runners(
    agent: AgentConfig,
    context: RunnerContext,
    market: ray.ObjectRef[Market],
    *,
    num_cpus: float,
    workers: Sequence[int] | None = None,
    bundle_offset: int = 1,
) -> list[ActorHandle[Any]]:
    """Start the trial's remote runners, or those `workers` of them, each in its bundle of the trial's placement group.

    `max_restarts=0`: a runner that Ray restarts would come back with the first trial's arguments.
    """
    config = runner_config(agent, context)
    group = ray.util.get_current_placement_group()
    actor = ray.remote(num_cpus=num_cpus, max_restarts=0, max_task_retries=0)(RemoteRunner)
    handles = []
    for worker in range(1, agent.env_runners + 1) if workers is None else workers:
        options: dict[str, Any] = {}
        if group is not None:
            options["scheduling_strategy"] = PlacementGroupSchedulingStrategy(
                group, placement_group_bundle_index=worker - 1 + bundle_offset
            )
        handles.append(
            actor.options(**options).remote(
                config=config, market=market, worker_index=worker, num_workers=agent.env_runners
            )
        )
    return handles


def restart_runners(handles: list[ActorHandle[Any]], agent: AgentConfig, context: RunnerContext) -> None:
    """Begin the next trial in living runners; raises RayActorError when one of them is dead."""
    config = runner_config(agent, context)
    ray.get([handle.restart.remote(config) for handle in handles])
