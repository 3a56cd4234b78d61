"""A trial in a process that served others equals one in a new process, bit for bit, whatever came before it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import ray

from tradesweep.env import TradingVectorEnv
from tradesweep.trial import Assignment, SweepContext, TrialTrainable

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("cluster")]

EXPLOSIVE: dict[str, dict[str, Any]] = {
    "ppo": {"lr": 1e6},
    "dqn": {"lr": 1e6, "td_error_loss_fn": "mse", "model.hiddens": [32, 32], "model.activation": "relu"},
}
RUNNERS = {"in process": 0, "remote runners": 2}


def run_all(trainable: TrialTrainable) -> str:
    """Step until done, as Tune does; the status of the end."""
    for _ in range(50):
        result = trainable.step()
        if result["done"]:
            return str(result["status"])
    raise AssertionError("no end in sight")


def run_in_new_process(context: SweepContext, assignment: Assignment) -> tuple[str, int]:
    """The status of its end, and the process that ran it and nothing before."""

    class Bound(TrialTrainable):
        def setup(self, config: dict[str, Any]) -> None:
            super().setup(config, context)

        def _setup_logdir(self) -> None:
            self._logdir = str(context.home)

    trainable = Bound(assignment.to_config())
    status = run_all(trainable)
    trainable.cleanup()
    return status, os.getpid()


def left_behind(sweep: Any, assignment: Assignment) -> dict[str, Any]:
    """Everything a trial leaves that decides anything: steps, scores, and the weights of its checkpoints."""
    folder = sweep.context.folders.checkpoint(sweep.context.sweep_id, assignment.trial_no, 0).parent
    return {
        "steps": sweep.steps_of(assignment),
        "validation": sweep.steps_of(assignment, role="validation"),
        "scores": sweep.scores_of(assignment),
        "weights": {path.parent.name: path.read_bytes() for path in folder.glob("*/policy.safetensors")},
    }


@pytest.fixture(scope="module", params=RUNNERS.values(), ids=RUNNERS)
def env_runners(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture(scope="module", params=["ppo", "dqn"])
def sweep(request: pytest.FixtureRequest, open_sweep: Callable[[str], Any]) -> Any:
    return open_sweep(request.param)


@pytest.fixture(scope="module")
def fresh(sweep: Any, env_runners: int) -> dict[str, Any]:
    """What seed 1 leaves behind in a process that ran nothing before it."""
    assignment = sweep.open(seed=1)
    run = ray.remote(num_cpus=0, max_calls=1)(run_in_new_process)
    status, pid = ray.get(run.remote(replace(sweep.context, env_runners=env_runners), assignment))
    assert status == "FINISHED"
    assert pid != os.getpid()
    return left_behind(sweep, assignment)


@pytest.fixture(scope="module")
def warm(sweep: Any, env_runners: int) -> Iterator[TrialTrainable]:
    """One process that serves one trial after the other."""
    trainable = sweep.trainable(sweep.open(seed=9), env_runners=env_runners)
    yield trainable
    trainable.cleanup()


def half_done(sweep: Any, trainable: TrialTrainable) -> None:
    """Stopped on its way, as a pruned trial is; another network, another seed."""
    trainable.reset_config(sweep.open(seed=2, **{"model.hiddens": [8, 8], "gamma": 0.5}).to_config())
    assert trainable.step()["status"] == "RUNNING"


def failed(sweep: Any, trainable: TrialTrainable) -> None:
    """Its environment raised, in the middle of an iteration."""
    trainable.reset_config(sweep.open(seed=3).to_config())
    trainable.step()
    with broken_env(trainable):
        assert run_all(trainable) == "FAILED"


def diverged(sweep: Any, trainable: TrialTrainable) -> None:
    trainable.reset_config(sweep.open(seed=4, **EXPLOSIVE[sweep.spec.algorithm]).to_config())
    assert run_all(trainable) == "DIVERGED"


def refused(sweep: Any, trainable: TrialTrainable) -> None:
    """It could not even be built."""
    trainable.reset_config(sweep.open(seed=5, no_such_key=1).to_config())
    assert run_all(trainable) == "FAILED"


@contextlib.contextmanager
def broken_env(trainable: TrialTrainable) -> Iterator[None]:
    for runner in trainable._runners.handles:
        ray.get(runner.apply.remote(break_env))
    with pytest.MonkeyPatch.context() as patch:
        if not trainable._runners.handles:
            patch.setattr(TradingVectorEnv, "step", refuse)
        yield


def break_env(runner: Any) -> None:
    runner.env.step = refuse


def refuse(*_: Any, **__: Any) -> Any:
    raise RuntimeError("the exchange is closed")


@pytest.mark.parametrize("predecessor", [half_done, failed, diverged, refused])
def test_a_reused_trial_equals_one_in_a_new_process(
    sweep: Any,
    env_runners: int,
    fresh: dict[str, Any],
    warm: TrialTrainable,
    predecessor: Callable[[Any, TrialTrainable], None],
) -> None:
    predecessor(sweep, warm)
    assignment = sweep.open(seed=1)
    warm.reset_config(assignment.to_config())
    assert run_all(warm) == "FINISHED"
    found = left_behind(sweep, assignment)
    assert found["scores"] == fresh["scores"]
    assert len(found["steps"]) >= 1024
    assert found["steps"] == fresh["steps"]
    assert found["validation"] == fresh["validation"]
    assert found["weights"] == fresh["weights"]


def test_another_seed_is_another_trial(sweep: Any, fresh: dict[str, Any], warm: TrialTrainable) -> None:
    """Else the law above would hold for anything."""
    assignment = sweep.open(seed=6)
    warm.reset_config(assignment.to_config())
    assert run_all(warm) == "FINISHED"
    found = left_behind(sweep, assignment)
    assert all(found[name] != fresh[name] for name in fresh)
