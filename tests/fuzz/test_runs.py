"""What `plan` takes can be run: a trial of it trains, is judged, and ends with numbers or with a word of ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from ray.rllib.core import DEFAULT_MODULE_ID
from tests.fuzz.bench import Bench, fuzz
from tests.fuzz.test_bars import GOOD, SPEC, SWEEP, spoil, spoils, to_text
from tests.fuzz.test_specs import EXPERIMENTS, OWN_PLACES, SHIPPED, SWEEPS, TOP, paths_of, spoiled, write

from tradesweep.agents import AgentConfig, RunnerContext, build_algorithm, plain_layers
from tradesweep.env import compile_env, compile_market
from tradesweep.errors import BadInput, TradesweepError
from tradesweep.policy import PlainPolicy, build_policy_spec, evaluate
from tradesweep.spec import SweepSpec, load_spec
from tradesweep.sweep.plan import make_plan

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(900)]
MOST_WORK = 20_000
"""Env steps, rows of a batch, weights of a layer: what is larger is as right, and takes longer."""


def plan_or_none(bench: Bench, experiment: str) -> Any:
    try:
        return make_plan(load_spec(experiment, root=bench.root))
    except BadInput:
        return None


def draw_point(spec: SweepSpec) -> dict[str, Any]:
    """Some point of the search space."""
    drawn = {
        name: domain.options[0] if hasattr(domain, "options") else domain.low for name, domain in spec.search.items()
    }
    return {**spec.fixed, **drawn}


def is_small(params: dict[str, Any], lanes: int) -> bool:
    sizes = [value for value in params.values() if isinstance(value, int) and not isinstance(value, bool)]
    hiddens = params.get("model.hiddens", [64])
    return max([lanes * 16, *sizes, *hiddens, *(a * b for a in hiddens for b in hiddens)]) <= MOST_WORK


def build_agent(plan: Any, market: Any) -> Any:
    """What trains some point of the plan."""
    params = draw_point(plan.spec)
    agent = AgentConfig(algorithm=plan.spec.algorithm, params=params, seed=1, lanes=plan.resources.lanes, env_runners=0)
    context = RunnerContext(spec_json=plan.spec.to_json(), market_sha256=market.sha256)
    return build_algorithm(agent, context, market)


def run_a_trial(plan: Any) -> None:
    spec = plan.spec
    assume(is_small(draw_point(spec), plan.resources.lanes))
    market = compile_market(spec)
    config = compile_env(spec, market)
    algorithm = build_agent(plan, market)
    with closing_agent(algorithm), suppress(TradesweepError):  # an end with a word of ours is one, too
        algorithm.train()
        layers, weights = plain_layers(spec.algorithm, algorithm.get_module(DEFAULT_MODULE_ID))
        policy = PlainPolicy.from_arrays(build_policy_spec(spec, market, config, layers=layers), weights)
        found = evaluate(policy, market, config, split="validation")
        assert np.isfinite([found.score, found.total_return, found.max_drawdown]).all()
        assert found.sharpe is None or np.isfinite(found.sharpe)


@contextmanager
def closing_agent(algorithm: Any) -> Iterator[None]:
    try:
        yield
    finally:
        algorithm.cleanup()


@pytest.fixture(scope="module", autouse=True)
def small_ray() -> Iterator[None]:
    """RLlib would start a large one, and leave it to the tests that come after these."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    ray.init(num_cpus=1, include_dashboard=False, object_store_memory=100 * 2**20, log_to_driver=False)
    yield
    ray.shutdown()
    torch.set_num_threads(before)


def test_learning_from_the_first_step_on_trains_and_goes_on_with_an_empty_replay(bench: Bench, tmp_path: Path) -> None:
    for name, sweep in SWEEPS.items():
        bench.write(f"sweeps/{name}.yaml", write(sweep))
    bench.write("experiments.yaml", (SHIPPED / "experiments.yaml").read_bytes())
    settings = ("fixed.num_steps_sampled_before_learning_starts=0", "fixed.train_batch_size_per_learner=32")
    plan = make_plan(load_spec("smoke_dqn", root=bench.root, overrides=settings))
    first, second = (build_agent(plan, plan.market) for _ in range(2))
    with closing_agent(first), closing_agent(second):
        first.train()
        assert first.updates_made > 0
        first.save_to_path(tmp_path / "rllib")
        assert not list(tmp_path.rglob("replay.npz"))
        second.restore_from_path(tmp_path / "rllib")
        second.train()
        assert second.updates_made > 0
        _, weights = plain_layers("dqn", second.get_module(DEFAULT_MODULE_ID))
        assert all(np.isfinite(values).all() for values in weights.values())


@given(st.data(), st.sampled_from(EXPERIMENTS))
@fuzz(25)
def test_a_spoiled_spec_that_is_planned_can_be_run(bench: Bench, data: st.DataObject, experiment: str) -> None:
    for name, sweep in SWEEPS.items():
        bench.write(f"sweeps/{name}.yaml", write(sweep))
    bench.write("experiments.yaml", (SHIPPED / "experiments.yaml").read_bytes())
    if data.draw(st.booleans()):
        bench.write("experiments.yaml", write(data.draw(spoiled(TOP, OWN_PLACES))))
    else:
        sweep = data.draw(spoiled(SWEEPS[experiment], paths_of(SWEEPS[experiment])))
        bench.write(f"sweeps/{experiment}.yaml", write(sweep))
    plan = plan_or_none(bench, experiment)
    assume(plan is not None)
    run_a_trial(plan)


@given(spoils)
@fuzz(15)
def test_a_spoiled_market_that_is_planned_can_be_run(bench: Bench, edits: list[tuple[str, int, int, str]]) -> None:
    bench.write("experiments.yaml", SPEC)
    bench.write("sweeps/mine.yaml", SWEEP)
    rows = GOOD
    for edit in edits:
        rows = spoil(rows, *edit)
    bench.write("bars.csv", to_text(rows).encode("utf-8", "surrogatepass"))
    plan = plan_or_none(bench, "mine")
    assume(plan is not None)
    run_a_trial(plan)
