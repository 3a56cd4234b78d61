"""Both algorithms on a small Ray: updates, evaluation, callbacks, checkpoints, and what remote runners record."""

from __future__ import annotations

import gc
import os
import signal
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import ray
import torch
from ray.exceptions import RayActorError
from ray.rllib.core import DEFAULT_MODULE_ID

from tradesweep.agents import build_algorithm, build_config, install_market, restart_runners, start_runners
from tradesweep.agents.runner import VectorEnvRunner
from tradesweep.errors import CheckpointError, TradesweepError
from tradesweep.policy import verify_manifest
from tradesweep.trial.checkpoints import TrialState, publish, restore

Make = Callable[..., Any]
SMALL = {"train_batch_size_per_learner": 128, "minibatch_size": 32, "num_epochs": 2}

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("cluster")]


@pytest.mark.parametrize("minibatch_size", [32, 50, None])
def test_updates_made_are_the_optimizers_steps(make_setting: Make, minibatch_size: int | None) -> None:
    setting = make_setting("ppo", **{**SMALL, "minibatch_size": minibatch_size})
    algorithm = setting.config().build_algo()
    optimizer = algorithm.learner_group._learner.get_optimizer(DEFAULT_MODULE_ID)
    algorithm.train()
    algorithm.train()
    assert {float(state["step"]) for state in optimizer.state.values()} == {algorithm.updates_made}
    assert algorithm.updates_made > 0
    algorithm.cleanup()


@pytest.mark.parametrize("algorithm_name", ["ppo", "dqn"])
def test_rllibs_evaluation_works_and_leaves_training_alone(make_setting: Make, algorithm_name: str) -> None:
    params = SMALL if algorithm_name == "ppo" else {}
    config = make_setting(algorithm_name, **params).config()
    config.evaluation(evaluation_interval=1, evaluation_duration=5, evaluation_duration_unit="episodes")
    algorithm = config.build_algo()
    results = algorithm.train()
    evaluated = results["evaluation"]["env_runners"]
    assert evaluated["num_episodes"] == 5
    assert evaluated["episode_len_mean"] == 7
    sampled = results["env_runners"]["num_env_steps_sampled_lifetime"]
    again = algorithm.evaluate()["env_runners"]
    assert again["episode_len_mean"] == 7
    assert algorithm.env_steps_sampled == sampled
    algorithm.cleanup()


@pytest.mark.parametrize("algorithm_name", ["ppo", "dqn"])
def test_callbacks_are_called_through_training(make_setting: Make, algorithm_name: str) -> None:
    calls = Counter[str]()
    hooks = (
        *("on_algorithm_init", "on_environment_created", "on_episode_created", "on_episode_start", "on_episode_step"),
        *("on_episode_end", "on_sample_end", "on_train_result"),
    )
    config = make_setting(algorithm_name, **(SMALL if algorithm_name == "ppo" else {})).config()
    config.callbacks(**{hook: lambda _hook=hook, **rest: calls.update([_hook]) for hook in hooks})
    algorithm = config.build_algo()
    results = algorithm.train()
    assert calls.keys() == set(hooks)
    assert calls["on_episode_step"] == algorithm.env_steps_sampled
    assert calls["on_episode_end"] == results["env_runners"]["num_episodes"]
    assert (calls["on_train_result"], calls["on_sample_end"]) == (1, 1)
    algorithm.cleanup()


@pytest.mark.parametrize(("n_step", "lanes", "per_step"), [(1, 4, 0.25), (3, 6, 0.37), (1, 5, 1.5)])
def test_updates_are_updates_per_env_step_after_the_warm_up(
    make_setting: Make, n_step: int, lanes: int, per_step: float
) -> None:
    warm_up = 150
    setting = make_setting(
        "dqn",
        lanes=lanes,
        n_step=n_step,
        updates_per_env_step=per_step,
        num_steps_sampled_before_learning_starts=warm_up,
        train_batch_size_per_learner=8,
    )
    algorithm = setting.config().build_algo()
    for _ in range(6):
        algorithm.train()
    due = per_step * (algorithm.env_steps_sampled - warm_up)
    assert due > 20
    assert abs(algorithm.updates_made - due) <= 1
    algorithm.cleanup()


def test_priorities_follow_the_td_errors_of_the_last_update(make_setting: Make) -> None:
    setting = make_setting(
        "dqn",
        replay_buffer_config__type="prioritized",
        replay_buffer_config__alpha=1.0,
        replay_buffer_config__capacity=300,
        num_steps_sampled_before_learning_starts=100,
        updates_per_env_step=1.0,
        train_batch_size_per_learner=8,
    )
    algorithm = setting.config().build_algo()
    for _ in range(4):
        algorithm.train()
    replay = algorithm.columnar_replay
    learner = algorithm.learner_group._learner
    batch = replay.sample(8)
    learner.update_from_columns(batch, env_steps=algorithm.env_steps_sampled)
    replay.update_priorities(batch.rows, learner.td_errors)
    last = {int(row): float(error) for row, error in zip(batch.rows, learner.td_errors, strict=True)}
    rows = np.array(list(last))
    np.testing.assert_allclose(replay._tree.get(rows), np.array(list(last.values())) + 1e-6, rtol=1e-5)
    algorithm.cleanup()


def test_exploration_and_weights_go_on_after_a_checkpoint(make_setting: Make, tmp_path: Any) -> None:
    params: dict[str, Any] = {
        "epsilon": [[0, 1.0], [300, 0.0]],
        "num_steps_sampled_before_learning_starts": 100,
        "train_batch_size_per_learner": 8,
    }
    setting = make_setting("dqn", **params)
    first = setting.config().build_algo()
    for _ in range(6):
        first.train()
    first.save_to_path(tmp_path / "rllib")
    second = setting.config().build_algo()
    second.restore_from_path(tmp_path / "rllib")
    assert second.env_steps_sampled == first.env_steps_sampled >= 300
    runner = second.env_runner
    fragment = second.sample_fragments(env_steps=64, so_far=second.env_steps_sampled)[0]
    obs = torch.from_numpy(fragment.obs[:-1].reshape(-1, fragment.obs.shape[-1]))
    with torch.no_grad():
        best = runner.module.forward_inference({"obs": obs})["actions"].numpy()
    assert (fragment.actions.reshape(-1) == best).all(), "no random action after the schedule's end"
    for left, right in zip(first.env_runner.module.parameters(), runner.module.parameters(), strict=True):
        assert torch.equal(left, right)
    first.cleanup()
    second.cleanup()


REPLAYED = {
    "replay_buffer_config__checkpoint": True,
    "replay_buffer_config__capacity": 400,
    "num_steps_sampled_before_learning_starts": 100,
    "target_network_update_freq": 60,
    "train_batch_size_per_learner": 8,
    "updates_per_env_step": 0.37,
}


@pytest.mark.parametrize("kind", ["uniform", "prioritized"])
def test_with_its_replay_in_the_checkpoint_a_trial_learns_on_as_if_it_had_never_stopped(
    make_setting: Make, tmp_path: Any, kind: str
) -> None:
    setting = make_setting("dqn", replay_buffer_config__type=kind, **REPLAYED)
    first, second = (setting.config().build_algo() for _ in range(2))
    for _ in range(7):
        first.train()
    first.save_to_path(tmp_path / "rllib")
    second.restore_from_path(tmp_path / "rllib")
    learners = [algorithm.learner_group._learner for algorithm in (first, second)]
    made_before = learners[0].updates_lifetime
    for _ in range(3):
        # Lanes begin fresh episodes after a restart, so both are given the same fragment, sampled by the first.
        fragment = first.env_runner.sample_fragment(timesteps=64, env_steps=first.env_steps_sampled)
        first.env_runner.get_metrics()  # neither counts these env steps
        for algorithm in (first, second):
            algorithm.sample_fragments = lambda env_steps, so_far, fragment=fragment: [fragment]
            algorithm.training_step()
    assert learners[1].updates_lifetime == learners[0].updates_lifetime - made_before > 60
    assert (second._steps_stored, second._updates_due) == (first._steps_stored, first._updates_due)
    for name, column in first.columnar_replay._columns.items():
        np.testing.assert_array_equal(column, second.columnar_replay._columns[name], err_msg=name)
    if kind == "prioritized":
        rows = np.arange(400)
        np.testing.assert_array_equal(*(one.columnar_replay._tree.get(rows) for one in (first, second)))
    for left, right in zip(*(learner.module[DEFAULT_MODULE_ID].parameters() for learner in learners), strict=True):
        assert torch.equal(left, right)
    first.cleanup()
    second.cleanup()


def test_a_replay_in_a_checkpoint_is_sealed_by_its_manifest(make_setting: Make, tmp_path: Any) -> None:
    algorithm = make_setting("dqn", **REPLAYED).config().build_algo()
    algorithm.train()
    folder, policy = tmp_path / "1", SimpleNamespace(save=lambda folder: None)
    sealed = publish(folder, algorithm=algorithm, policy=policy, state=TrialState(), facts={})
    replay = folder / "rllib" / "replay.npz"
    assert "rllib/replay.npz" in verify_manifest(folder, sealed)["files"]
    restore(folder, manifest_sha256=sealed, algorithm=algorithm)
    replay.write_bytes(replay.read_bytes()[:-1] + b"x")
    with pytest.raises(CheckpointError, match=r"replay\.npz must have sha256"):
        restore(folder, manifest_sha256=sealed, algorithm=algorithm)
    algorithm.cleanup()


def test_without_it_a_restored_trial_fills_its_replay_before_it_learns_on(make_setting: Make, tmp_path: Any) -> None:
    setting = make_setting("dqn", **{**REPLAYED, "replay_buffer_config__checkpoint": False})
    first, second = (setting.config().build_algo() for _ in range(2))
    for _ in range(4):
        first.train()
    first.save_to_path(tmp_path / "rllib")
    assert not list(tmp_path.rglob("replay.npz"))
    second.restore_from_path(tmp_path / "rllib")
    second.train()
    assert second.updates_made == 0
    second.train()
    assert second.updates_made > 0
    first.cleanup()
    second.cleanup()


@pytest.mark.parametrize("algorithm_name", ["ppo", "dqn"])
def test_metrics_go_on_after_a_checkpoint(make_setting: Make, algorithm_name: str, tmp_path: Any) -> None:
    setting = make_setting(algorithm_name, **(SMALL if algorithm_name == "ppo" else REPLAYED))
    first, second = (setting.config().build_algo() for _ in range(2))
    for _ in range(4):
        before = first.train()
    first.save_to_path(tmp_path / "rllib")
    second.restore_from_path(tmp_path / "rllib")
    after = second.train()
    assert after["training_iteration"] == before["training_iteration"] + 1
    for part, names in LIFETIME[algorithm_name].items():
        for name in names:
            was, now = (results[part].get(DEFAULT_MODULE_ID, {}) | results[part] for results in (before, after))
            assert now[name] > was[name] > 0, name
    first.cleanup()
    second.cleanup()


LIFETIME = {
    "ppo": {
        "env_runners": ["num_env_steps_sampled_lifetime", "num_episodes_lifetime"],
        "learners": ["num_module_steps_trained_lifetime"],
    },
    "dqn": {
        "env_runners": ["num_env_steps_sampled_lifetime", "num_episodes_lifetime"],
        "learners": ["num_target_updates", "last_target_update_ts"],
    },
}
"""RLlib's counters over a whole trial."""


# --- recording and remote runners ---------------------------------------------------------------------------------

NUMBERED = """
WITH numbered AS (
    SELECT episode_no, seed, row_number() OVER (PARTITION BY seed ORDER BY episode_no) AS nth
    FROM episodes WHERE trial_id = {trial_id}
)
"""
TABLES = {
    "episodes": "SELECT t.*, n.seed AS lane_seed, n.nth FROM numbered n JOIN episodes t USING (episode_no)",
    "steps": "SELECT t.*, n.seed AS lane_seed, n.nth FROM numbered n JOIN steps t ON t.step_id >> 24 = n.episode_no",
    "fills": "SELECT t.*, n.seed AS lane_seed, n.nth FROM numbered n JOIN fills t ON t.step_id >> 24 = n.episode_no",
    "trades": "SELECT t.*, n.seed AS lane_seed, n.nth FROM numbered n JOIN trades t USING (episode_no)",
}
NUMBERS = {"episode_no", "producer_no", "trial_id", "attempt", "lane", "rllib_episode_id", "started_at", "ended_at"}
"""Numbers that a producer was given, its own lane numbers, and clocks; a lane is known by its seed instead."""


def read_rows(recording: Any, trial_id: int) -> dict[str, list[dict[str, Any]]]:
    found = {}
    for table, query in TABLES.items():
        rows = recording.read(NUMBERED.format(trial_id=trial_id) + query)
        for row in rows:
            row.update({name: row[name] & 0xFFFFFF for name in row if name.endswith("step_id")})
        plain = [{name: value for name, value in row.items() if name not in NUMBERS} for row in rows]
        found[table] = sorted(plain, key=repr)
    return found


def test_two_remote_runners_record_what_one_in_process_records(make_setting: Make, recording: Any) -> None:
    recorded = {}
    for trial_no, env_runners in enumerate((0, 2)):
        setting = make_setting("ppo", lanes=4, env_runners=env_runners, seed=5)
        context = setting.context(env_runners=env_runners, recording=recording.open(trial_no))
        algorithm = build_algorithm(setting.agent, context, setting.market)
        if env_runners:
            algorithm.attach_runners(start_runners(setting.agent, context, ray.put(setting.market), num_cpus=0.5))
        local = env_runners == 0
        for rows in (10, 3, 17):
            algorithm.env_runner_group.foreach_env_runner(
                lambda runner, rows=rows: runner.sample(num_timesteps=runner.num_envs * rows, explore=False) and None,
                local_env_runner=local,
            )
        algorithm.env_runner_group.foreach_env_runner(lambda runner: runner.flush(), local_env_runner=local)
        recorded[env_runners] = read_rows(recording, context.recording.trial_id)
        algorithm.cleanup()
    assert recorded[0].keys() == recorded[2].keys()
    for table, rows in recorded[0].items():
        assert rows == recorded[2][table], table
    assert len(recorded[0]["steps"]) > 100
    assert len(recorded[0]["trades"]) > 5


def test_recorded_episodes_name_the_rllib_episodes_that_were_sampled(make_setting: Make, recording: Any) -> None:
    setting = make_setting("ppo", lanes=3)
    context = setting.context(recording=recording.open(10))
    install_market(context.spec_json, setting.market)
    runner = VectorEnvRunner(config=build_config(setting.agent, context))
    sampled: dict[str, int] = Counter()
    for arguments in ({"num_timesteps": 30}, {"num_timesteps": 9, "force_reset": True}, {"num_timesteps": 30}):
        for chunk in runner.sample(**arguments):
            sampled[chunk.id_] += len(chunk)
    runner.flush()
    rows = recording.read(
        "SELECT e.rllib_episode_id AS name, count(s.step_id) AS steps FROM episodes e LEFT JOIN steps s"
        f" ON s.step_id >> 24 = e.episode_no WHERE e.trial_id = {context.recording.trial_id} GROUP BY e.episode_no"
    )
    recorded = {row["name"]: row["steps"] for row in rows if row["steps"]}
    assert recorded == sampled
    assert len({row["name"] for row in rows}) == len(rows)


def test_rows_that_were_handed_over_are_on_their_way(make_setting: Make, recording: Any) -> None:
    setting = make_setting("ppo")
    runner = VectorEnvRunner(config=setting.config(recording=recording.open(41)))
    runner.sample_fragment(timesteps=64, env_steps=0)
    assert runner.producer.counts.rows_sent == 0, "so few wait for more"
    runner.hand_over()
    assert runner.producer.counts.rows_sent > 64
    runner.flush()
    assert runner.producer.counts.rows_acknowledged == runner.producer.counts.rows_sent


def test_evaluation_runners_record_nothing(make_setting: Make, recording: Any) -> None:
    setting = make_setting("ppo", **SMALL)
    context = setting.context(recording=recording.open(11))
    install_market(context.spec_json, setting.market)
    config = build_config(setting.agent, context).evaluation(evaluation_interval=1, evaluation_duration=3)
    algorithm = config.build_algo()
    algorithm.train()
    algorithm.evaluate()
    algorithm.env_runner.flush()
    assert algorithm.eval_env_runner.producer is None
    trial = context.recording.trial_id
    steps = recording.read(
        "SELECT count(*) AS n FROM steps s JOIN episodes e ON s.step_id >> 24 = e.episode_no"
        f" WHERE e.trial_id = {trial}"
    )
    assert steps[0]["n"] == algorithm.env_steps_sampled
    assert recording.read(f"SELECT count(*) AS n FROM producers WHERE trial_id = {trial}")[0]["n"] == 1
    algorithm.cleanup()


def test_totals_without_steps_count_the_steps_as_dropped(make_setting: Make, recording: Any) -> None:
    setting = make_setting("ppo", lanes=3)
    context = setting.context(recording=replace(recording.open(12), steps=False))
    install_market(context.spec_json, setting.market)
    runner = VectorEnvRunner(config=build_config(setting.agent, context))
    steps = sum(len(chunk) for chunk in runner.sample(num_timesteps=60))
    runner.flush()
    trial = context.recording.trial_id
    producer = recording.read(f"SELECT * FROM producers WHERE trial_id = {trial}")[0]
    assert (producer["steps_recorded"], producer["steps_dropped"]) == (0, steps)
    closed = recording.read(f"SELECT * FROM episodes WHERE trial_id = {trial} AND status = 'COMPLETED'")
    assert len(closed) == 6
    assert all(row["total_steps"] == 7 for row in closed)
    traded = recording.read(
        "SELECT count(*) AS n FROM trades t JOIN episodes e USING (episode_no)"
        f" WHERE e.trial_id = {trial} AND e.status = 'COMPLETED' AND t.status = 'CLOSED'"
    )
    assert traded[0]["n"] == sum(row["trades"] for row in closed) > 0


def test_a_restarted_runner_is_as_a_new_one_and_keeps_nothing_until_it_is_lost(
    make_setting: Make, recording: Any
) -> None:
    def begin(seed: int, trial_no: int) -> tuple[Any, Any]:
        setting = make_setting("ppo", lanes=2, env_runners=1, seed=seed)
        return setting, setting.context(env_runners=1, recording=recording.open(trial_no))

    def sample(handle: Any) -> list[float]:
        chunks = ray.get(handle.sample.remote(num_timesteps=40))
        return [float(reward) for chunk in chunks for reward in chunk.get_rewards()]

    def census(runner: Any) -> Counter[str]:
        gc.collect()
        kinds = ("VectorEnvRunner", "RemoteRunner", "Producer", "TradingVectorEnv", "Tape", "ColumnarPPOModule")
        return Counter(type(one).__name__ for one in gc.get_objects() if type(one).__name__ in kinds)

    setting, context = begin(1, 20)
    handles = start_runners(setting.agent, context, ray.put(setting.market), num_cpus=0.5)
    first = sample(handles[0])
    alive = ray.get(handles[0].apply.remote(census))
    for trial_no, seed in ((21, 2), (22, 3), (23, 1)):
        setting, context = begin(seed, trial_no)
        restart_runners(handles, setting.agent, context)
        sampled = sample(handles[0])
        assert (sampled == first) == (seed == 1)
    assert ray.get(handles[0].apply.remote(census)) == alive
    assert alive["Producer"] == alive["TradingVectorEnv"] == alive["ColumnarPPOModule"] == 1
    pid = ray.get(handles[0].apply.remote(lambda runner: os.getpid()))
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(RayActorError):
        restart_runners(handles, setting.agent, context)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", ["ppo", "dqn"])
def test_a_training_step_without_env_steps_is_an_error_and_no_loop(make_setting: Make, name: str) -> None:
    setting = make_setting(name, **(SMALL if name == "ppo" else {}))
    algorithm = setting.config().reporting(min_sample_timesteps_per_iteration=64).build_algo()
    sample = algorithm.env_runner.sample_fragment

    def sample_nothing(**wanted: Any) -> Any:
        fragment = sample(**wanted)
        return replace(fragment, valid=np.zeros_like(fragment.valid))

    algorithm.env_runner.sample_fragment = sample_nothing
    with pytest.raises(TradesweepError, match="must make env steps, made none"):
        algorithm.train()
    algorithm.cleanup()
