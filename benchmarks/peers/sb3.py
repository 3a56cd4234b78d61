"""Stable-Baselines3 and Optuna: the same network and hyperparameters, as far as they have them.

Its DQN is neither double nor dueling and its PPO has no KL term, so it computes less per update. Two processes share
one study, which is how its trials run side by side.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import optuna
import torch
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback, EveryNTimesteps
from stable_baselines3.common.vec_env import DummyVecEnv

from benchmarks.peers.env import Observation
from benchmarks.peers.work import EVALUATIONS, Span, Task, Work, make_env, ratio, run_greedily, serve
from tradesweep.env import EnvConfig
from tradesweep.market import Market

LANES = {"ppo": 8, "dqn": 4}
"""DQN's are those with which it is fastest at one update in 4 env steps: one row of lanes, one update."""
STUDY = "sb3"


def build_sb3(
    algorithm: str, market: Market, env_config: EnvConfig, *, params: Mapping[str, Any], seed: int, env_steps: int
) -> BaseAlgorithm:
    """The algorithm on the plain environment; `env_steps` is all that it will train, which its schedules follow."""
    envs = DummyVecEnv([partial(make_env, market, env_config, "train")] * LANES[algorithm])
    keys = {
        "gamma": params["gamma"],
        "learning_rate": params["lr"],
        "max_grad_norm": params["grad_clip"],
        "policy_kwargs": _policy_settings(params),
        "device": "cpu",
        "seed": seed,
    }
    return BUILDERS[algorithm](envs, params, env_steps, keys)


def _policy_settings(params: Mapping[str, Any]) -> dict[str, Any]:
    activations = {"tanh": torch.nn.Tanh, "relu": torch.nn.ReLU}
    activation = activations[params.get("model.activation", "tanh")]
    return {"net_arch": list(params.get("model.hiddens", (64, 64))), "activation_fn": activation}


def _build_ppo(envs: DummyVecEnv, params: Mapping[str, Any], _env_steps: int, keys: dict[str, Any]) -> PPO:
    return PPO(
        "MlpPolicy",
        envs,
        n_steps=params["train_batch_size_per_learner"] // envs.num_envs,
        batch_size=params["minibatch_size"],
        n_epochs=params["num_epochs"],
        gae_lambda=params["lambda_"],
        ent_coef=params["entropy_coeff"],
        vf_coef=params.get("vf_loss_coeff", 1.0),
        clip_range=params.get("clip_param", 0.3),
        **keys,
    )


def _build_dqn(envs: DummyVecEnv, params: Mapping[str, Any], env_steps: int, keys: dict[str, Any]) -> DQN:
    (_, first), (last_step, last) = params["epsilon"]
    return DQN(
        "MlpPolicy",
        envs,
        buffer_size=params.get("replay_buffer_config.capacity", 50_000),
        learning_starts=params["num_steps_sampled_before_learning_starts"],
        batch_size=params["train_batch_size_per_learner"],
        train_freq=1,
        gradient_steps=round(envs.num_envs * params["updates_per_env_step"]),
        target_update_interval=params["target_network_update_freq"],
        exploration_initial_eps=first,
        exploration_final_eps=last,
        exploration_fraction=min(last_step / env_steps, 1.0),
        **keys,
    )


BUILDERS: dict[str, Callable[[DummyVecEnv, Mapping[str, Any], int, dict[str, Any]], BaseAlgorithm]] = {
    "ppo": _build_ppo,
    "dqn": _build_dqn,
}


# --- a whole sweep --------------------------------------------------------------------------------------------


def run_sweep(work: Work) -> Span:
    """Several processes, one study in a file, each with its share of the trials."""
    shares = [len(range(number, work.trials, work.at_a_time)) for number in range(work.at_a_time)]
    with tempfile.TemporaryDirectory(prefix="sb-") as folder, ProcessPoolExecutor(len(shares)) as pool:
        _open_study(folder)
        spans = list(pool.map(partial(_work_through, work, folder), range(len(shares)), shares))
    return Span(
        env_steps=sum(span.env_steps for span in spans),
        began=min(span.began for span in spans),
        ended=max(span.ended for span in spans),
    )


def _open_study(folder: str) -> optuna.Study:
    storage = JournalStorage(JournalFileBackend(f"{folder}/study.log"))
    return optuna.create_study(storage=storage, study_name=STUDY, direction="maximize", load_if_exists=True)


def _work_through(work: Work, folder: str, seed: int, trials: int) -> Span:
    torch.set_num_threads(1)
    task, done = Task(work.experiment), []
    began = time.time()

    def run_trial(trial: optuna.Trial) -> float:
        params = {**task.params, "lr": trial.suggest_float("lr", *task.learning_rates, log=True)}
        sharpe, env_steps = _train(task, params, work.env_steps, seed)
        done.append(env_steps)
        return sharpe

    _open_study(folder).optimize(run_trial, n_trials=trials)
    return Span(env_steps=sum(done), began=began, ended=time.time())


def _train(task: Task, params: Mapping[str, Any], env_steps: int, seed: int) -> tuple[float, int]:
    """The best validation of a trial, and the env steps it took."""
    model = build_sb3(task.algorithm, task.market, task.config, params=params, seed=seed, env_steps=env_steps)
    judge = Judge(task)
    model.learn(env_steps, callback=EveryNTimesteps(env_steps // EVALUATIONS, judge))
    return max(judge.found), model.num_timesteps


class Judge(BaseCallback):
    """One greedy pass over validation, by hand: `evaluate_policy` takes longer."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.env = make_env(task.market, task.config, "validation")
        self.found: list[float] = []

    def _on_step(self) -> bool:
        self.model.policy.set_training_mode(False)
        self.found.append(ratio(run_greedily(self.env, self._act)))
        return True

    @torch.no_grad()
    def _act(self, obs: Observation) -> int:
        return int(self.model.policy._predict(torch.from_numpy(obs[np.newaxis]), deterministic=True))


if __name__ == "__main__":
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    serve(run_sweep)
