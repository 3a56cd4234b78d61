import dataclasses
from dataclasses import replace
from itertools import count

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tradesweep.env import Costs, Kernel, ObservationBuilder, build_reward
from tradesweep.env.rewards import REWARDS as KNOWN_REWARDS
from tradesweep.errors import BadInput, CheckpointError, NotFound, TrialDiverged
from tradesweep.market import Scaler, Split
from tradesweep.metrics import max_drawdown, sharpe
from tradesweep.names import RECORD_COLUMNS, EpisodeRole, EvaluationStatus, Record
from tradesweep.policy import (
    EVALUATION_LANES,
    Evaluator,
    PlainPolicy,
    Run,
    check_evaluable,
    evaluate,
    evaluate_constant,
    evaluate_many,
    evaluate_targets,
    raw_score,
)
from tradesweep.policy.evaluator import BLOCK_BARS

FILLS = ["next_open", "next_close"]
REWARDS = [
    ("log_return", {}),
    ("differential_sharpe", {"eta": 0.05}),
    ("penalised_log_return", {"drawdown_penalty": 0.5, "turnover_penalty": 0.001}),
]
WALL_CLOCK = ("started_at", "ended_at")
few = settings(deadline=None, max_examples=8)


@pytest.fixture(scope="module")
def policy(box, market, config):
    return box.policy(market, config)


def same_rows(one, other, *, shift: int = 0) -> None:
    """Equal records, but for the wall clock; `other`'s episode number is `shift` higher."""
    for kind, columns in one.items():
        for name, column in columns.items():
            expected = np.asarray(other[kind][name], dtype=np.asarray(column).dtype)
            if name == "episode_no":
                expected = expected - shift
            elif name in ("step_id", "entry_step_id", "exit_step_id"):
                expected = expected - (shift << 24)
            if name not in (*WALL_CLOCK, "lane"):
                np.testing.assert_array_equal(column, expected, err_msg=f"{kind}.{name}")


def slow_run(policy, market, config, split: str) -> tuple[list[float], list[float]]:
    """The environment page's loop with one lane: observe, act, step. Equities and rewards."""
    bounds = market.splits[split]
    kernel = Kernel(
        market.bars,
        costs=config.costs,
        fill=config.fill,
        lanes=1,
        initial_equity=config.initial_equity,
        ruin_fraction=config.ruin_fraction,
        periods_per_year=config.periods_per_year,
    )
    reward = build_reward(config.reward, config.reward_params)
    reward.allocate(kernel)
    observer = ObservationBuilder(
        market.features_NF,
        positions=config.positions,
        window_bars=config.window_bars,
        lanes=1,
        reward_state_size=reward.state_size,
    )
    kernel.reset(np.array([True]), np.array([bounds.start]), np.array([bounds.stop]))
    reward.reset(np.array([True]))
    equity, rewards = [], []
    while not kernel.done_E[0]:
        action = policy.act(observer.build(kernel, reward.state_E()))[0]
        row = kernel.step(np.array([config.positions[action]]))
        rewards.append(float(reward(row, kernel)[0]))
        equity.append(float(row.equity[0]))
    return equity, rewards


# --- the numbers ----------------------------------------------------------------------------------------------


PAGE = {"opens": ([100, 101, 103, 99, 98, 104], [100, 102, 100, 97, 105, 103])}


@pytest.mark.parametrize(
    ("fill", "closed", "expected"),
    [
        ("next_open", 2, [10083.879040, 9886.155922, 9954.161164, 9164.602087, 9247.786258]),
        ("next_close", 1, [9985.017481, 9789.232825, 9467.121306, 8685.303004, 8879.496110]),
    ],
)
def test_script_reproduces_the_fixture_of_the_environment_page(box, fill, closed, expected):
    market = box.market(n_bars=6, **PAGE)
    market.splits["validation"] = Split(name="validation", start=0, stop=6)
    config = box.config(fill=fill, costs=Costs(fee_bps=10, slippage_bps=5, borrow_bps_per_year=252))
    found = box.follow([1, 1, -1, -1, 0], market, config)
    assert found.equity_T.tolist() == pytest.approx(expected, abs=5e-7)
    assert (found.trades, found.win_rate) == (closed, 0.0)
    assert found.pnl == pytest.approx(expected[-1] - 10_000, abs=5e-7)
    assert found.total_return == pytest.approx(found.pnl / 10_000)


def ruin_market(box):
    opens, closes = [100, 100, 190, 100] + [100] * 60, [100, 100, 195, 100] + [100] * 60
    market = box.market(n_bars=64, opens=(opens, closes))
    market.splits["validation"] = Split(name="validation", start=0, stop=64)
    return market, box.config(costs=Costs(fee_bps=10, slippage_bps=5, borrow_bps_per_year=252))


def test_after_ruin_the_rest_of_the_split_returns_zero(box):
    market, config = ruin_market(box)
    found = box.follow([-1] * 63, market, config)
    assert found.equity_T[:2].tolist() == pytest.approx([9984.028949, 969.037428], abs=5e-7)
    assert found.bars == len(found.equity_T) == len(found.returns_T) == len(found.exposures_T) == 63
    assert set(found.equity_T[2:]) == {found.equity_T[1]}
    assert not found.returns_T[2:].any()
    assert not found.exposures_T[2:].any()
    assert (found.status, found.score, found.ruined) == (EvaluationStatus.RUINED, -10.0, True)
    assert found.sharpe == sharpe(found.returns_T, 252)
    assert not found.is_eligible(0)


@pytest.mark.parametrize(("reward", "params"), REWARDS)
@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("kind", ["ppo", "dqn"])
def test_evaluation_is_the_loop_of_the_environment_page(box, market, fill, reward, params, kind):
    config = box.config(fill=fill, reward=reward, reward_params=params)
    policy = box.policy(market, config, kind=kind)
    found = evaluate(policy, market, config, split="validation", record=count(1).__next__)
    equity, rewards = slow_run(policy, market, config, "validation")
    assert found.equity_T.tolist() == equity
    assert found.records[Record.STEPS]["reward"].tolist() == rewards
    assert found.trades > 5


@pytest.mark.parametrize("reward", ["log_return", "differential_sharpe"])
def test_evaluation_is_that_loop_over_many_blocks(box, reward):
    market, config = box.market(n_bars=1_500), box.config(reward=reward)
    policy = box.policy(market, config, hiddens=(16, 5))
    found = evaluate(policy, market, config, split="validation", record=count(1).__next__)
    equity, rewards = slow_run(policy, market, config, "validation")
    assert len(equity) > 2 * BLOCK_BARS
    assert found.equity_T.tolist() == equity
    assert found.records[Record.STEPS]["reward"].tolist() == rewards


@pytest.mark.parametrize("kind", ["ppo", "dqn"])
@pytest.mark.parametrize("fill", FILLS)
def test_blocks_of_bars_give_the_bits_of_one_bar_at_a_time(box, fill, kind, monkeypatch):
    class InPython(KNOWN_REWARDS["log_return"]):
        """The same numbers; but a part that an evaluation must ask after each bar."""

    market, config = box.market(n_bars=1_500), box.config(fill=fill, extra_delay_bars=1)
    policy = box.policy(market, config, kind=kind)
    seed = 4 if kind == "ppo" else None
    runs = [*many_runs([0, 1, 4]), Run(split="train", bars=300, seed=seed)]
    at_once = evaluate_many(policy, market, config, runs, record=count(1).__next__)
    monkeypatch.setitem(KNOWN_REWARDS, "log_return", InPython)
    one_by_one = evaluate_many(policy, market, config, runs, record=count(1).__next__)
    for one, other in zip(at_once, one_by_one, strict=True):
        box.assert_equal(one, other)
        same_rows(one.records, other.records)
    assert at_once[2].ruined


@pytest.mark.parametrize("fill", FILLS)
def test_exposure_right_after_a_fill_is_its_target(box, market, fill):
    targets = np.resize([1, 1, -1, 0.5, 0, -0.3], 124)
    config = box.config(fill=fill)
    found = box.follow(targets, market, config)
    last = -1 if fill == "next_close" else None
    filled = np.flatnonzero(np.diff(targets, prepend=0) != 0)
    filled = filled[filled < len(found.exposures_T[:last])]
    assert found.exposures_T[filled] == pytest.approx(targets[filled], abs=1e-12)
    assert found.mean_exposure == pytest.approx(found.exposures_T.mean())


def test_exposure_drifts_between_fills(box, market, config):
    found = evaluate_constant(0.5, market, config, split="validation")
    opens = market.bars.open[market.splits["validation"].start + 1 : market.splits["validation"].stop]
    growth = opens / opens[0]
    assert found.exposures_T == pytest.approx(growth / (1 + growth), abs=1e-3)


@pytest.mark.parametrize("fill", FILLS)
def test_buy_and_hold_is_bought_once_and_never_sold(box, market, fill):
    config = box.config(fill=fill, costs=Costs(fee_bps=0, slippage_bps=0, borrow_bps_per_year=0))
    found = evaluate_constant(max(config.positions), market, config, split="validation")
    bars, bounds = market.bars, market.splits["validation"]
    entry = bars.open[bounds.start + 1] if fill == "next_open" else bars.close[bounds.start + 1]
    assert found.final_equity == pytest.approx(10_000 * bars.close[bounds.stop - 1] / entry, rel=1e-12)
    assert (found.trades, found.win_rate) == (0, None)
    assert found.turnover == pytest.approx(252 / found.bars)


def test_turnover_counts_what_the_fills_traded(box, policy, market, config):
    found = evaluate(policy, market, config, split="validation", record=count(1).__next__)
    fills, steps = found.records[Record.FILLS], found.records[Record.STEPS]
    before = dict(zip(steps["step_id"], np.append(10_000.0, steps["equity"][:-1]), strict=True))
    signs = np.sign(fills["quantity"])
    reference = fills["price"] / (1 + signs * config.costs.slippage)
    shares = [abs(q) * p / before[i] for q, p, i in zip(fills["quantity"], reference, fills["step_id"], strict=True)]
    assert found.turnover == pytest.approx(252 * sum(shares) / found.bars, rel=1e-12)


def test_double_costs_cost_more_and_are_the_same_as_doubled_settings(box, policy, market, config):
    once = evaluate(policy, market, config, split="validation")
    twice = evaluate(policy, market, config, split="validation", cost_multiplier=2.0)
    doubled = replace(config, costs=Costs(fee_bps=2, slippage_bps=2, borrow_bps_per_year=100))
    box.assert_equal(
        twice, evaluate(policy, market, doubled, split="validation"), ignore=("records", "cost_multiplier")
    )
    assert twice.cost_multiplier == 2.0
    assert twice.final_equity < once.final_equity


# --- states and scores ----------------------------------------------------------------------------------------


def test_flat_is_a_result(market, config):
    found = evaluate_constant(0.0, market, config, split="validation")
    assert (found.status, found.sharpe, found.score) == (EvaluationStatus.FLAT, None, 0.0)
    assert (found.trades, found.turnover, found.mean_exposure, found.max_drawdown) == (0, 0.0, 0.0, 0.0)
    assert not found.is_eligible(0)


def test_a_short_split_is_a_result(box, config):
    market = box.market(n_bars=70)
    market.splits["validation"] = Split(name="validation", start=10, stop=40)
    found = evaluate_constant(1.0, market, config, split="validation")
    assert (found.bars, found.status, found.sharpe, found.score) == (29, EvaluationStatus.TOO_SHORT, None, 0.0)
    market.splits["validation"] = Split(name="validation", start=10, stop=41)
    assert evaluate_constant(1.0, market, config, split="validation").status == EvaluationStatus.OK


@pytest.mark.parametrize(
    ("status", "ratio", "score"),
    [
        (EvaluationStatus.OK, 1.25, 1.25),
        (EvaluationStatus.OK, 37.0, 10.0),
        (EvaluationStatus.OK, -37.0, -10.0),
        (EvaluationStatus.FLAT, None, 0.0),
        (EvaluationStatus.TOO_SHORT, None, 0.0),
        (EvaluationStatus.RUINED, 2.0, -10.0),
        (EvaluationStatus.RUINED, None, -10.0),
    ],
)
def test_score_is_always_finite(status, ratio, score):
    assert raw_score(status, ratio) == score


def test_a_policy_is_eligible_when_it_traded_enough(policy, market, config):
    found = evaluate(policy, market, config, split="validation")
    assert found.status == EvaluationStatus.OK
    assert found.is_eligible(found.trades)
    assert not found.is_eligible(found.trades + 1)


# --- records --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("reward", "params"), REWARDS)
@pytest.mark.parametrize("fill", FILLS)
def test_records_tell_the_same_story(box, market, fill, reward, params):
    config = box.config(fill=fill, reward=reward, reward_params=params)
    policy = box.policy(market, config)
    found = evaluate(
        policy,
        market,
        config,
        split="validation",
        record=count(7).__next__,
        weights_version=42,
        role=EpisodeRole.STRESS,
    )
    opened, steps, fills, trades, closed = (
        found.records[kind]
        for kind in (Record.EPISODES_OPENED, Record.STEPS, Record.FILLS, Record.TRADES, Record.EPISODES_CLOSED)
    )
    path = np.append(opened["initial_equity"], steps["equity"])
    assert sharpe(path[1:] / path[:-1] - 1, 252) == pytest.approx(found.sharpe, abs=1e-12)
    assert closed["sharpe"][0] == pytest.approx(found.sharpe, abs=1e-10)
    assert closed["max_drawdown"][0] == pytest.approx(max_drawdown(path), abs=1e-12)
    assert closed["final_equity"][0] == found.final_equity == steps["equity"][-1]
    assert closed["win_rate"][0] == found.win_rate
    assert closed["total_reward"][0] == pytest.approx(steps["reward"].sum())
    assert trades["pnl"].sum() == pytest.approx(found.pnl, abs=1e-5)
    assert found.trades == closed["trades"][0] == sum(status == "CLOSED" for status in trades["status"])
    assert steps["step_id"].tolist() == [7 << 24 | t for t in range(found.bars)]
    assert steps["bar"].tolist() == list(range(market.splits["validation"].start, market.splits["validation"].stop - 1))
    assert [config.positions[a] for a in steps["action"][:-1]] == steps["target"][:-1].tolist()
    assert set(steps["weights_version"].tolist()) == {42}
    assert set(fills["step_id"].tolist()) <= set(steps["step_id"].tolist())
    assert (opened["episode_no"], opened["role"]) == ([7], ["stress"])


def test_records_have_the_columns_of_the_names(policy, market, config):
    found = evaluate(policy, market, config, split="validation", record=count(1).__next__)
    for kind, columns in found.records.items():
        assert sorted(columns) == sorted(column.name for column in RECORD_COLUMNS[kind])
        assert len({len(column) for column in columns.values()}) == 1


def test_nothing_is_recorded_unasked(policy, market, config):
    assert evaluate(policy, market, config, split="validation").records is None


# --- lanes ----------------------------------------------------------------------------------------------------


def many_runs(order) -> list[Run]:
    splits = ("validation", "test", "validation", "test", "validation", "validation")
    roles = (EpisodeRole.VALIDATION, EpisodeRole.TEST, *[EpisodeRole.STRESS] * 4)
    factors = (1.0, 1.0, 2.0, 0.0, 500.0, 1.5)
    runs = [Run(split=s, cost_multiplier=f, role=r) for s, f, r in zip(splits, factors, roles, strict=True)]
    return [runs[i] for i in order]


@pytest.mark.parametrize("reward", REWARDS, ids=[name for name, _ in REWARDS])
@few
@given(order=st.permutations(range(6)), used=st.integers(1, 6))
def test_a_run_gives_the_same_bits_alone_and_beside_others(box, market, reward, order, used):
    config = box.config(reward=reward[0], reward_params=reward[1])
    policy = box.policy(market, config)
    runs = many_runs(order)[:used]
    found = evaluate_many(policy, market, config, runs, record=count(1).__next__, weights_version=3)
    for at, run in enumerate(runs):
        alone = evaluate(
            policy,
            market,
            config,
            split=run.split,
            cost_multiplier=run.cost_multiplier,
            role=run.role,
            record=count(1).__next__,
            weights_version=3,
        )
        box.assert_equal(alone, found[at])
        same_rows(alone.records, found[at].records, shift=at)
    assert len(found) == used


def test_one_of_the_runs_is_ruined_and_the_others_go_on(policy, market, config):
    found = evaluate_many(policy, market, config, many_runs(range(6)))
    assert [evaluation.ruined for evaluation in found] == [False, False, False, False, True, False]
    assert {evaluation.bars for evaluation in found} == {124, 74}


def test_no_runs_are_no_evaluations(policy, market, config):
    assert evaluate_many(policy, market, config, []) == []
    assert EVALUATION_LANES == 4


def test_sampled_runs_repeat_with_their_seed_wherever_they_run(box, policy, market, config):
    def run(seed: int) -> Run:
        return Run(split="validation", seed=seed)

    alone = evaluate(policy, market, config, split="validation", seed=5)
    other, again, greedy = evaluate_many(policy, market, config, [run(6), run(5), Run(split="validation")])
    box.assert_equal(alone, again)
    box.assert_equal(greedy, evaluate(policy, market, config, split="validation"))
    assert len({alone.final_equity, other.final_equity, greedy.final_equity}) == 3


def test_one_evaluator_gives_every_policy_the_bits_of_an_evaluation_of_its_own(box, market):
    config = box.config(reward="differential_sharpe")
    runs = many_runs(range(4))
    evaluator = Evaluator(market, config, runs)
    for seed in (1, 2, 1):
        policy = box.policy(market, config, seed=seed)
        found = evaluator.run(policy, record=count(1).__next__, weights_version=seed)
        fresh = evaluate_many(policy, market, config, runs, record=count(1).__next__, weights_version=seed)
        for one, other in zip(found, fresh, strict=True):
            box.assert_equal(one, other)
            same_rows(one.records, other.records)


def test_an_evaluator_goes_on_after_a_pass_that_broke_off(box, market, monkeypatch):
    config = box.config(reward="penalised_log_return")
    policy = box.policy(market, config)
    evaluator = Evaluator(market, config, [Run(split="validation")])
    calls = count()
    with monkeypatch.context() as patch:
        patch.setattr(
            KNOWN_REWARDS["penalised_log_return"],
            "__call__",
            lambda self, row, kernel: row.reward * (1 // (9 - next(calls))),
        )
        with pytest.raises(ZeroDivisionError):
            evaluator.run(policy, record=count(1).__next__)
    again = evaluator.run(policy, record=count(1).__next__)[0]
    fresh = evaluate(policy, market, config, split="validation", record=count(1).__next__)
    box.assert_equal(again, fresh)
    same_rows(again.records, fresh.records)


def test_a_run_that_is_not_recorded_takes_no_episode_number_and_changes_no_other(box, policy, market, config):
    beside = Run(split="validation", cost_multiplier=2.0, recorded=False)
    numbers = count(7)
    first, middle, last = evaluate_many(
        policy, market, config, [Run(split="validation"), beside, Run(split="test")], record=numbers.__next__
    )
    assert [first.records[Record.EPISODES_OPENED]["episode_no"], middle.records] == [[7], None]
    assert last.records[Record.EPISODES_OPENED]["episode_no"] == [8]
    assert next(numbers) == 9
    box.assert_equal(middle, evaluate(policy, market, config, split="validation", cost_multiplier=2.0))


def test_a_run_over_so_many_bars_takes_the_newest_of_its_split(box, policy, market, config):
    (found,) = evaluate_many(policy, market, config, [Run(split="train", bars=40)])
    train = market.splits["train"]
    newest = {**market.splits, "train": Split(name="train", start=train.stop - 40, stop=train.stop)}
    other = dataclasses.replace(market, splits=newest)
    box.assert_equal(found, evaluate(policy, other, config, split="train"))
    assert found.bars == 39


def test_a_run_over_more_bars_than_there_are_takes_all_after_the_last_gap(box, config):
    market = box.market(gap=60)
    policy = box.policy(market, config)
    (found,) = evaluate_many(policy, market, config, [Run(split="train", bars=1000)])
    window_from = 60 + config.window_bars - 1
    assert found.bars == market.splits["train"].stop - 1 - window_from


def test_a_split_without_two_bars_to_run_over_is_refused(box, config):
    market = box.market(n_bars=12)
    market.splits["train"] = Split(name="train", start=0, stop=4)
    with pytest.raises(BadInput, match=r"splits.train must have two bars in a row with all features"):
        evaluate_many(box.policy(market, config), market, config, [Run(split="train", bars=3)])


def test_sampled_runs_draw_anew_for_each_number_and_the_same_for_the_same(policy, market, config):
    evaluator = Evaluator(market, config, [Run(split="validation", seed=3)])
    first, second, again = (evaluator.run(policy, number=number)[0].final_equity for number in (1, 2, 1))
    assert first == again != second


def test_q_values_cannot_be_evaluated_sampled(box, market, config):
    with pytest.raises(ValueError, match="only logits"):
        evaluate(box.policy(market, config, kind="dqn"), market, config, split="validation", seed=1)


def test_a_score_that_is_not_finite_diverges(box, market, config):
    policy = box.policy(market, config, hiddens=(4,), activation="relu")
    shapes = {"trunk.0": (4, policy.spec.width), "logits.0": (3, 4)}
    huge = {f"{layer}.weight": np.full(shape, 1e200) for layer, shape in shapes.items()}
    huge |= {f"{layer}.bias": np.zeros(shape[0]) for layer, shape in shapes.items()}
    with pytest.raises(TrialDiverged, match="scores must be finite"):
        evaluate(PlainPolicy.from_arrays(policy.spec, huge), market, config, split="validation")


def test_a_state_that_is_not_finite_diverges_also_where_the_network_hides_it(box, market, monkeypatch):
    class Endless(KNOWN_REWARDS["penalised_log_return"]):
        def state_E(self):
            return np.full((EVALUATION_LANES, 1), np.inf)

    config = box.config(reward="penalised_log_return")
    policy = box.policy(market, config, activation="tanh")
    monkeypatch.setitem(KNOWN_REWARDS, "penalised_log_return", Endless)
    with pytest.raises(TrialDiverged, match="observations must be finite, was inf"):
        evaluate(policy, market, config, split="validation")


def test_what_a_reward_shows_of_a_ruined_lane_is_nobodys_business(box, market, monkeypatch):
    class Mute(KNOWN_REWARDS["penalised_log_return"]):
        def allocate(self, kernel):
            super().allocate(kernel)
            self._kernel = kernel

        def state_E(self):
            return np.where(self._kernel.done_E, np.nan, 0.0)[:, None]

    config = box.config(reward="penalised_log_return")
    policy = box.policy(market, config)
    monkeypatch.setitem(KNOWN_REWARDS, "penalised_log_return", Mute)
    found = evaluate_many(policy, market, config, many_runs([4, 0]))
    assert [evaluation.ruined for evaluation in found] == [True, False]


def test_a_policy_from_disk_evaluates_to_the_same_bits(box, policy, market, config, tmp_path):
    policy.save(tmp_path)
    before, after = (evaluate(p, market, config, split="validation") for p in (policy, PlainPolicy.load(tmp_path)))
    box.assert_equal(before, after)


# --- time -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fill", FILLS)
def test_nothing_after_the_split_changes_its_evaluation(box, market, fill):
    config = box.config(fill=fill)
    policy = box.policy(market, config)
    stop = market.splits["validation"].stop
    noise = np.random.default_rng(9).uniform(0.5, 2.0, len(market.bars) - stop)
    prices = {name: getattr(market.bars, name).copy() for name in ("open", "high", "low", "close")}
    for column in prices.values():
        column[stop:] *= noise
    features = market.features_NF.copy()
    features[stop:] = 9.0
    other = dataclasses.replace(market, bars=dataclasses.replace(market.bars, **prices), features_NF=features)
    before, after = (evaluate(policy, m, config, split="validation") for m in (market, other))
    box.assert_equal(before, after)


def test_an_extra_delay_stays_flat_first(box, market):
    config = box.config(extra_delay_bars=3)
    found = evaluate_constant(1.0, market, config, split="validation")
    assert not found.exposures_T[:3].any()
    assert found.exposures_T[3] == pytest.approx(1.0)


# --- what is refused ------------------------------------------------------------------------------------------


def test_an_unknown_split_is_named_with_those_that_exist(policy, market, config):
    with pytest.raises(NotFound, match="one of train, validation, test, was 'valid'"):
        evaluate(policy, market, config, split="valid")


def test_no_evaluation_crosses_a_gap(box, config):
    market = box.market(gap=150)
    policy = box.policy(market, config)
    for call in (
        lambda: evaluate(policy, market, config, split="validation"),
        lambda: evaluate_constant(1.0, market, config, split="validation"),
        lambda: check_evaluable(market, 1, "validation"),
    ):
        with pytest.raises(BadInput, match=r"splits.validation must lie between two gaps.* before bar 150"):
            call()
    check_evaluable(market, config.window_bars, "test")


def test_a_split_whose_window_lacks_features_is_refused(policy, market, config):
    with pytest.raises(BadInput, match=r"splits.train must have a window of 2 bars with all features"):
        evaluate(policy, market, config, split="train")


@pytest.mark.parametrize("wrong", [1.5, -1.01, np.nan, np.inf])
def test_targets_beyond_one_are_refused_with_their_bar(market, config, wrong):
    targets = np.zeros(len(market.bars))
    targets[120] = wrong
    with pytest.raises(BadInput, match=r"targets must be in \[-1, 1\].* at bar 120"):
        evaluate_targets(targets, market, config, "validation")


def test_only_targets_of_the_split_are_read(market, config):
    targets = np.full(len(market.bars), np.nan)
    bounds = market.splits["validation"]
    targets[bounds.start : bounds.stop - 1] = 0.0
    assert evaluate_targets(targets, market, config, "validation").status == EvaluationStatus.FLAT


def test_a_policy_sees_only_what_it_was_trained_on(box, policy, market, config):
    other_scaler = Scaler(mean_F=np.zeros(3), std_F=np.ones(3))
    cases = {
        "positions": (market, replace(config, positions=(0.0, 0.5, 1.0))),
        "window_bars": (market, replace(config, window_bars=3)),
        "features": (dataclasses.replace(market, feature_names=("a", "b", "c")), config),
        "observation": (market, replace(config, reward="differential_sharpe")),
        "scaler mean": (dataclasses.replace(market, scaler=other_scaler), config),
    }
    for word, (other_market, other_config) in cases.items():
        with pytest.raises(CheckpointError, match=f"policy: {word} must be those it was trained with"):
            evaluate(policy, other_market, other_config, split="validation")
