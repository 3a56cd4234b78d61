"""Stock RLlib and stock Tune, as their documentation writes them: new API stack, in-process sampling, one learner.

Network, hyperparameters, observations and rewards are those of an experiment of ours; everything else is RLlib's.
"""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import ray
import torch
from ray import tune
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.algorithms.dqn import DQNConfig
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig
from ray.rllib.core.rl_module.rl_module import RLModule
from ray.rllib.utils.metrics import NUM_ENV_STEPS_SAMPLED_LIFETIME
from ray.tune.registry import register_env

from benchmarks.peers.env import Observation, PlainTradingEnv
from benchmarks.peers.work import EVALUATIONS, Span, Task, Work, make_env, ratio, run_greedily, serve
from tradesweep.env import EnvConfig
from tradesweep.market import Market

ENV_NAME = "plain-trading"
LANES = {"ppo": 8, "dqn": 1}
ALGORITHM_NAMES = {"ppo": "PPO", "dqn": "DQN"}
MODEL, REPLAY = "model.", "replay_buffer_config."
STEPS_PER_RESULT = {"ppo": "train_batch_size_per_learner", "dqn": "min_sample_timesteps_per_iteration"}
"""The key that says how many env steps one `train()` makes."""


def build_stock(config: AlgorithmConfig) -> Algorithm:
    """The algorithm of `stock_config`."""
    built = config.build_algo()
    shutil.rmtree(built.logdir, ignore_errors=True)  # RLlib makes an empty folder for each below the home directory
    return built


def stock_config(
    algorithm: str,
    market: Market,
    env_config: EnvConfig,
    *,
    params: Mapping[str, Any],
    seed: int,
    runners: int = 0,
    lanes: int | None = None,
) -> AlgorithmConfig:
    """The algorithm as it comes, on the plain environment.

    `params` are keys of a sweep file, flat; `lanes` are those of all runners together.
    """
    register_env(ENV_NAME, partial(_create_env, market, env_config))
    return (
        CONFIGS[algorithm](params)
        .environment(ENV_NAME)
        .env_runners(num_env_runners=runners, num_envs_per_env_runner=(lanes or LANES[algorithm]) // max(runners, 1))
        .rl_module(model_config=_model_config(params))
        .debugging(seed=seed, log_level="ERROR")
    )


def _create_env(market: Market, config: EnvConfig, env_context: Mapping[str, Any]) -> PlainTradingEnv:
    return make_env(market, config, env_context.get("split", "train"))


def _ppo_config(params: Mapping[str, Any]) -> AlgorithmConfig:
    return PPOConfig().training(**_training_keys(params))


def _dqn_config(params: Mapping[str, Any]) -> AlgorithmConfig:
    """One update a fragment, so the fragment's length is the number of env steps an update costs."""
    keys = _training_keys(params)
    fragment = round(1 / keys.pop("updates_per_env_step", 0.25))
    replay = {"type": "EpisodeReplayBuffer", "capacity": params.get(f"{REPLAY}capacity", 50_000)}
    return DQNConfig().training(**keys, replay_buffer_config=replay).env_runners(rollout_fragment_length=fragment)


CONFIGS: dict[str, Callable[[Mapping[str, Any]], AlgorithmConfig]] = {"ppo": _ppo_config, "dqn": _dqn_config}


def _training_keys(params: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in params.items() if not key.startswith((MODEL, REPLAY))}


def _model_config(params: Mapping[str, Any]) -> DefaultModelConfig:
    """As `tradesweep.agents` has it."""
    return DefaultModelConfig(
        fcnet_hiddens=list(params.get(f"{MODEL}hiddens", (64, 64))),
        fcnet_activation=params.get(f"{MODEL}activation", "tanh"),
        head_fcnet_hiddens=[],
        vf_share_layers=False,
    )


# --- a whole sweep --------------------------------------------------------------------------------------------


def run_sweep(work: Work) -> Span:
    """Tune's own sweep of RLlib's own trainable, with random search."""
    with tempfile.TemporaryDirectory(prefix="st-") as folder:
        ray.init(num_cpus=work.at_a_time, include_dashboard=False, _temp_dir=folder, log_to_driver=False)
        try:
            return _read_span(_build_tuner(work, Task(work.experiment), folder).fit())
        finally:
            ray.shutdown()


def _build_tuner(work: Work, task: Task, folder: str) -> tune.Tuner:
    return tune.Tuner(
        ALGORITHM_NAMES[task.algorithm],
        param_space=sweep_config(work, task),
        tune_config=tune.TuneConfig(num_samples=work.trials, max_concurrent_trials=work.at_a_time),
        run_config=tune.RunConfig(
            stop={NUM_ENV_STEPS_SAMPLED_LIFETIME: work.env_steps}, storage_path=f"{folder}/results", verbose=0
        ),
    )


def sweep_config(work: Work, task: Task) -> AlgorithmConfig:
    """The learning rate is searched; a trial is evaluated after so many whole results, at most `EVALUATIONS` times."""
    config = stock_config(task.algorithm, task.market, task.config, params=task.params, seed=task.spec.seed)
    results = work.env_steps // getattr(config, STEPS_PER_RESULT[task.algorithm])
    return config.training(lr=tune.loguniform(*task.learning_rates)).evaluation(
        evaluation_interval=math.ceil(results / EVALUATIONS), custom_evaluation_function=_evaluate
    )


def _evaluate(algorithm: Algorithm, _runners: Any) -> tuple[dict[str, Any], int, int]:
    """One greedy pass over validation, by hand: RLlib's own evaluation takes about 1 ms a bar."""
    rewards = run_greedily(algorithm.env_creator({"split": "validation"}), partial(_act, algorithm.get_module()))
    return {"sharpe": ratio(rewards)}, len(rewards), len(rewards)


@torch.no_grad()
def _act(module: RLModule, obs: Observation) -> int:
    out = module.forward_inference({Columns.OBS: torch.from_numpy(obs[None])})
    chosen = out[Columns.ACTIONS] if Columns.ACTIONS in out else out[Columns.ACTION_DIST_INPUTS].argmax(1)
    return int(chosen)


def _read_span(results: tune.ResultGrid) -> Span:
    assert not results.errors, results.errors[0]
    metrics = [result.metrics for result in results]
    return Span(
        env_steps=sum(int(last[NUM_ENV_STEPS_SAMPLED_LIFETIME]) for last in metrics),
        began=min(last["timestamp"] - last["time_total_s"] for last in metrics),
        ended=max(last["timestamp"] for last in metrics),
    )


if __name__ == "__main__":
    serve(run_sweep)
