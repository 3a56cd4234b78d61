"""The vector env runner against RLlib's own runner on the same lanes, and its action distribution against torch's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ray.rllib.callbacks.callbacks import RLlibCallback
from ray.rllib.core.columns import Columns
from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner
from ray.rllib.env.single_agent_episode import SingleAgentEpisode
from scipy.stats import chisquare

from tradesweep.agents.fragment import Fragment, with_log_probability
from tradesweep.agents.runner import VectorEnvRunner, check_fragment
from tradesweep.errors import TrialDiverged

Make = Callable[..., Any]
pytestmark = pytest.mark.filterwarnings("ignore:.*Overriding environment")


@pytest.fixture
def both(make_setting: Make) -> Callable[..., tuple[VectorEnvRunner, SingleAgentEnvRunner]]:
    """Our runner and RLlib's, with the same seed and the same weights."""

    def build(
        algorithm: str, lanes: int, overrides: tuple[str, ...] = (), **config: Any
    ) -> tuple[VectorEnvRunner, SingleAgentEnvRunner]:
        setting = make_setting(algorithm, lanes=lanes, overrides=overrides)
        ours = VectorEnvRunner(config=setting.config().callbacks(**config))
        stock = SingleAgentEnvRunner(
            config=setting.config().env_runners(env_runner_cls=SingleAgentEnvRunner).callbacks(**config)
        )
        stock.module.set_state(ours.module.get_state())
        return ours, stock

    return build


def assert_same_chunk(ours: SingleAgentEpisode, stock: SingleAgentEpisode) -> None:
    assert len(ours) == len(stock)
    assert ours.t_started == stock.t_started
    assert ours.t == stock.t
    assert (ours.is_terminated, ours.is_truncated) == (stock.is_terminated, stock.is_truncated)
    everything = slice(0, None)  # RLlib's chunks carry lookback rows in front
    np.testing.assert_array_equal(ours.get_observations(everything), stock.get_observations(everything))
    np.testing.assert_array_equal(ours.get_actions(everything), stock.get_actions(everything))
    np.testing.assert_array_equal(ours.get_rewards(everything), np.float32(stock.get_rewards(everything)))
    assert ours.is_numpy == stock.is_numpy


# 7 steps an episode and its reset row: ends fall inside fragments (10), on their last row (7), into every place (1).
@pytest.mark.parametrize("algorithm", ["ppo", "dqn"])
@pytest.mark.parametrize("rows", [(7, 7, 7, 1), (10, 3, 1, 1, 20), (1,) * 17, (6, 1, 1, 6, 2)])
def test_chunks_are_those_of_rllibs_own_runner(both: Make, algorithm: str, rows: tuple[int, ...]) -> None:
    ours, stock = both(algorithm, 3)
    seen = 0
    for count in rows:
        mine = ours.sample(num_timesteps=3 * count, explore=False)
        theirs = stock.sample(num_timesteps=3 * count, explore=False)
        assert len(mine) == len(theirs)
        for left, right in zip(mine, theirs, strict=True):
            assert_same_chunk(left, right)
        seen += sum(chunk.is_done for chunk in mine)
    assert seen >= 3, "episodes end in this test"


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lanes=st.integers(1, 5),
    episode_bars=st.sampled_from([2, 3, 7, 11]),
    cuts=st.lists(st.integers(1, 12), min_size=1, max_size=5),
)
def test_chunks_are_rllibs_whatever_the_lanes_the_fragments_and_the_length_of_episodes(
    both: Make, lanes: int, episode_bars: int, cuts: list[int]
) -> None:
    ours, stock = both("dqn", lanes, overrides=(f"env.episode_bars={episode_bars}",))
    for rows in cuts:
        mine = ours.sample(num_timesteps=lanes * rows, explore=False)
        theirs = stock.sample(num_timesteps=lanes * rows, explore=False)
        assert len(mine) == len(theirs)
        for left, right in zip(mine, theirs, strict=True):
            assert_same_chunk(left, right)
            assert left.t <= episode_bars
            assert left.is_done == (left.t == episode_bars)


def test_chunks_of_one_episode_share_its_id_and_no_other_episode_has_it(both: Make) -> None:
    ours, stock = both("ppo", 3)
    names: dict[str, str] = {}
    for _ in range(12):
        chunks = zip(
            ours.sample(num_timesteps=9, explore=False), stock.sample(num_timesteps=9, explore=False), strict=True
        )
        for mine, theirs in chunks:
            assert names.setdefault(theirs.id_, mine.id_) == mine.id_
    assert len(set(names.values())) == len(names) > 9


@pytest.mark.parametrize("wanted", [1, 3, 5])
def test_whole_episodes_are_sampled_by_number_as_by_rllib(both: Make, wanted: int) -> None:
    ours, stock = both("ppo", 3)
    for _ in range(2):
        mine = ours.sample(num_episodes=wanted, explore=False)
        theirs = stock.sample(num_episodes=wanted, explore=False)
        assert len(mine) == len(theirs) == wanted
        for left, right in zip(mine, theirs, strict=True):
            assert_same_chunk(left, right)
            assert left.is_done
    # Sampling by steps after sampling by episodes begins anew.
    assert [chunk.t_started for chunk in ours.sample(num_timesteps=3, explore=False)] == [0, 0, 0]


def test_forced_reset_begins_new_episodes_from_the_lanes_generators(both: Make) -> None:
    ours, stock = both("dqn", 2)
    for force_reset in (False, True, False, True):
        mine = ours.sample(num_timesteps=6, explore=False, force_reset=force_reset)
        theirs = stock.sample(num_timesteps=6, explore=False, force_reset=force_reset)
        for left, right in zip(mine, theirs, strict=True):
            assert_same_chunk(left, right)
        assert all(chunk.t_started == 0 for chunk in mine) or not force_reset


def test_metrics_are_those_of_rllibs_own_runner(both: Make) -> None:
    ours, stock = both("ppo", 3)
    for arguments in ({"num_timesteps": 30}, {"num_timesteps": 30}, {"num_episodes": 4}):
        ours.sample(**arguments, explore=False)
        stock.sample(**arguments, explore=False)
        mine, theirs = ours.get_metrics(), stock.get_metrics()
        for name in (
            "episode_return_mean",
            "episode_return_min",
            "episode_return_max",
            "episode_len_mean",
            "num_env_steps_sampled",
            "num_env_steps_sampled_lifetime",
            "num_episodes",
            "num_episodes_lifetime",
        ):
            assert mine[name].peek() == pytest.approx(theirs[name].peek(), rel=1e-6), name


def test_nothing_that_was_handed_out_changes_later(both: Make) -> None:
    ours, _ = both("ppo", 3)
    chunks = ours.sample(num_timesteps=30)
    before = [(np.copy(chunk.get_observations()), np.copy(chunk.get_rewards())) for chunk in chunks]
    ours.sample(num_timesteps=60)
    for chunk, (obs, rewards) in zip(chunks, before, strict=True):
        np.testing.assert_array_equal(chunk.get_observations(), obs)
        np.testing.assert_array_equal(chunk.get_rewards(), rewards)


# --- the action distribution --------------------------------------------------------------------------------------


@pytest.mark.parametrize("explore", [True, False])
def test_distribution_inputs_and_log_probability_equal_torch(both: Make, explore: bool) -> None:
    ours, _ = both("ppo", 8)
    for chunk in ours.sample(num_timesteps=200, explore=explore):
        obs = torch.from_numpy(np.array(chunk.get_observations()[:-1]))
        with torch.no_grad():
            logits = ours.module.forward_exploration({Columns.OBS: obs}, t=0)[Columns.ACTION_DIST_INPUTS]
        expected = torch.distributions.Categorical(logits=logits)
        actions = torch.from_numpy(np.array(chunk.get_actions()))
        stored = chunk.get_extra_model_outputs(Columns.ACTION_DIST_INPUTS)
        np.testing.assert_allclose(stored, logits.numpy(), atol=1e-5)
        np.testing.assert_allclose(
            chunk.get_extra_model_outputs(Columns.ACTION_LOGP), expected.log_prob(actions).numpy(), atol=1e-5
        )
        if not explore:
            assert (actions == logits.argmax(1)).all()


@pytest.mark.parametrize("logits", [(0.0, 0.0, 0.0), (2.0, 0.0, -1.0), (-80.0, 0.0, 1.0), (1000.0, 999.0, 0.0)])
def test_sampled_actions_are_distributed_as_the_softmax(both: Make, logits: tuple[float, ...]) -> None:
    ours, _ = both("ppo", 3)
    count = 30_000
    rows = np.tile(np.float32(logits), (count, 1))
    actions, extras = ours._choose(rows, True)
    extras = with_log_probability(extras, actions)
    expected = torch.softmax(torch.tensor(logits, dtype=torch.float64), 0).numpy()
    drawn = np.bincount(actions, minlength=3)
    likely = expected * count > 5
    assert drawn[~likely].sum() <= 5
    scaled = expected[likely] * drawn[likely].sum() / expected[likely].sum()
    assert chisquare(drawn[likely], scaled).pvalue > 1e-3
    np.testing.assert_allclose(extras[Columns.ACTION_LOGP], np.log(expected[actions]), atol=1e-4)


def test_random_actions_are_uniform_and_carry_no_distribution(both: Make) -> None:
    ours, _ = both("ppo", 4)
    chunks = ours.sample(num_timesteps=3000, random_actions=True)
    actions = np.concatenate([chunk.get_actions() for chunk in chunks])
    assert chisquare(np.bincount(actions, minlength=3)).pvalue > 1e-3
    assert all(Columns.ACTION_LOGP not in chunk.extra_model_outputs for chunk in chunks)


def test_same_seed_gives_the_same_samples_and_another_seed_others(make_setting: Make) -> None:
    def actions(algorithm: str, seed: int) -> list[int]:
        runner = VectorEnvRunner(config=make_setting(algorithm, seed=seed).config())
        return [int(a) for _ in range(3) for chunk in runner.sample(num_timesteps=60) for a in chunk.get_actions()]

    for algorithm in ("ppo", "dqn"):
        assert actions(algorithm, 1) == actions(algorithm, 1)
        assert actions(algorithm, 1) != actions(algorithm, 2)


def test_exploration_follows_the_trials_env_steps(make_setting: Make) -> None:
    schedule = [[0, 1.0], [1000, 0.0]]
    runner = VectorEnvRunner(config=make_setting("dqn", lanes=4, epsilon=schedule).config())
    greedy = runner.sample_fragment(timesteps=600, env_steps=1000)
    obs = torch.from_numpy(greedy.obs[:-1].reshape(-1, greedy.obs.shape[-1]))
    with torch.no_grad():
        best = runner.module.forward_inference({Columns.OBS: obs})[Columns.ACTIONS].numpy()
    assert (greedy.actions.reshape(-1) == best).all()
    random = runner.sample_fragment(timesteps=600, env_steps=0)
    assert len(set(random.actions[:20].reshape(-1).tolist())) == 3
    assert 600 <= random.steps < 604


def test_evaluation_draws_other_episodes_than_training(make_setting: Make) -> None:
    config = make_setting("ppo").config()
    training = VectorEnvRunner(config=config)
    evaluation = VectorEnvRunner(config=config.copy(copy_frozen=False).evaluation(evaluation_interval=1))
    evaluation.config.in_evaluation = True
    first = [runner.sample(num_timesteps=3, explore=False)[0] for runner in (training, evaluation)]
    assert not np.array_equal(first[0].get_observations(0), first[1].get_observations(0))


# --- callbacks ----------------------------------------------------------------------------------------------------


class Witness(RLlibCallback):
    """Notes every call with what the episode looked like."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def on_episode_created(self, *, episode: Any, env_index: int, **rest: Any) -> None:
        self.calls.append(("created", env_index, episode.is_reset, sorted(rest)))

    def on_episode_start(self, *, episode: Any, env_index: int, **rest: Any) -> None:
        self.calls.append(("start", env_index, len(episode), episode.get_observations(-1).tolist(), sorted(rest)))

    def on_episode_step(self, *, episode: Any, env_index: int, **rest: Any) -> None:
        newest = (episode.get_observations(-1).tolist(), int(episode.get_actions(-1)), episode.get_rewards(-1))
        self.calls.append(("step", env_index, episode.t, newest[:2], np.float32(newest[2]), sorted(rest)))

    def on_episode_end(self, *, episode: Any, env_index: int, prev_episode_chunks: Any, **rest: Any) -> None:
        lengths = [len(chunk) for chunk in prev_episode_chunks]
        assert {chunk.id_ for chunk in prev_episode_chunks} <= {episode.id_}
        self.calls.append(("end", env_index, episode.is_done, len(episode), lengths, sorted(rest)))

    def on_sample_end(self, *, samples: Any, **rest: Any) -> None:
        self.calls.append(("sample_end", [len(chunk) for chunk in samples], sorted(rest)))


def test_overridden_callbacks_are_called_as_by_rllibs_own_runner(both: Make) -> None:
    ours, stock = both("ppo", 2, callbacks_class=Witness)
    for arguments in ({"num_timesteps": 12}, {"num_timesteps": 22}, {"num_timesteps": 2, "force_reset": True}):
        mine = ours.sample(**arguments, explore=False)
        theirs = stock.sample(**arguments, explore=False)
        for left, right in zip(mine, theirs, strict=True):
            assert_same_chunk(left, right)
    assert ours._callbacks[0].calls == stock._callbacks[0].calls
    assert Counter(call[0] for call in ours._callbacks[0].calls)["end"] >= 4


def test_what_a_callback_notes_in_an_episode_reaches_the_sample(both: Make) -> None:
    def note(*, episode: SingleAgentEpisode, **rest: Any) -> None:
        episode.custom_data["length"] = len(episode)

    ours, _ = both("dqn", 2, on_episode_end=note)
    chunks = ours.sample(num_timesteps=30)
    assert [chunk.custom_data.get("length") for chunk in chunks if chunk.is_done] == [7, 7, 7, 7]


def test_callbacks_are_called_when_columns_are_sampled(both: Make) -> None:
    ours, _ = both("dqn", 2, callbacks_class=Witness)
    fragment = ours.sample_fragment(timesteps=16, env_steps=0)
    calls = Counter(call[0] for call in ours._callbacks[0].calls)
    assert calls["step"] == fragment.steps
    assert calls["end"] == int((fragment.terminated | fragment.truncated).sum()) == 2
    assert calls["sample_end"] == 1


def test_only_sample_end_overridden_keeps_no_live_episodes(both: Make) -> None:
    seen: list[int] = []
    ours, _ = both("dqn", 2, on_sample_end=lambda *, samples, **rest: seen.append(len(samples)))
    ours.sample_fragment(timesteps=16, env_steps=0)
    assert ours._live is None
    assert seen == [4]


def test_without_callbacks_no_episode_object_is_built_for_columns(both: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, _ = both("dqn", 2)
    monkeypatch.setattr("tradesweep.agents.runner.build_episodes", lambda fragment: pytest.fail("built"))
    assert ours._live is None
    assert ours.sample_fragment(timesteps=16, env_steps=0).steps > 0


def fragment_of(*, reward: float = 1.0, obs: float = 1.0, is_reset_row: bool = False) -> Fragment:
    """Two rows of two lanes; the first reward and the last observation are given."""
    shape = (2, 2)
    rewards, valid = np.ones(shape, np.float32), np.ones(shape, np.bool_)
    rewards[0, 0], valid[0, 0] = reward, not is_reset_row
    rows = np.ones((3, 2, 4), np.float32)
    rows[2, 1, 3] = obs
    done = np.zeros(shape, np.bool_)
    return Fragment(
        obs=rows, actions=np.zeros(shape, np.int64), rewards=rewards, terminated=done, truncated=done, valid=valid
    )


def test_finite_fragments_pass_and_so_does_what_stands_in_a_reset_row() -> None:
    check_fragment(fragment_of())
    check_fragment(fragment_of(reward=np.nan, is_reset_row=True))


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
def test_a_reward_or_an_observation_that_is_not_finite_is_named(odd: float) -> None:
    with pytest.raises(TrialDiverged, match=f"env: rewards must be finite, was {odd}"):
        check_fragment(fragment_of(reward=odd))
    with pytest.raises(TrialDiverged, match="env: observations must be finite, column 3 was not"):
        check_fragment(fragment_of(obs=odd))
