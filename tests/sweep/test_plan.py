"""A plan says what a sweep will be and spends nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tradesweep.errors import SpecError
from tradesweep.spec import list_experiments, load_spec
from tradesweep.sweep.plan import make_plan

REPOSITORY = Path(__file__).parents[2]


def test_rows_steps_and_updates_are_counted(load) -> None:
    plan = make_plan(load())
    assert plan.trials == 3
    assert plan.env_steps == 3 * 1024
    assert plan.updates == 3 * 256
    assert plan.rows == 3 * (1024 + 8 * 299)
    assert plan.validation_bars == 299
    assert plan.lookahead.passed
    assert json.loads(json.dumps(plan.to_dict()))["trials"] == 3


def test_recording_only_evaluations_leaves_training_rows_out(load) -> None:
    assert make_plan(load("recording.steps=evaluation")).rows == 3 * 8 * 299


def test_the_hurdle_rises_with_the_number_of_trials(load) -> None:
    assert make_plan(load("budget.trials=30")).hurdle > make_plan(load("budget.trials=3")).hurdle > 0
    assert make_plan(load("budget.trials=1")).hurdle == 0


def test_the_test_split_is_not_described(load) -> None:
    assert [facts.name for facts in make_plan(load()).splits] == ["train", "validation"]


def test_a_ppo_batch_may_not_span_two_evaluations(load) -> None:
    fixed = "fixed: {train_batch_size_per_learner: 512, minibatch_size: 64}"
    sweep = f"algorithm: ppo\n{fixed}\nsearch: {{lr: {{uniform: [0.1, 0.2]}}}}"
    with pytest.raises(SpecError, match=r"budget.env_steps_per_trial must give each of 8 evaluations"):
        make_plan(load(sweep=sweep))


@pytest.mark.parametrize("override", ["seeds=2", "confirm={top: 1, seeds: 2}"])
def test_what_is_not_built_yet_is_refused_instead_of_ignored(load, override: str) -> None:
    with pytest.raises(SpecError, match="not built yet"):
        make_plan(load(override))


@pytest.mark.parametrize("experiment", sorted(list_experiments(REPOSITORY)))
def test_every_shipped_experiment_can_be_planned(experiment: str) -> None:
    plan = make_plan(load_spec(experiment, root=REPOSITORY))
    assert plan.lookahead.passed
    assert plan.trials >= 2


def test_planning_imports_neither_ray_nor_torch() -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom tradesweep.spec import load_spec\n"
        "from tradesweep.sweep.plan import make_plan\n"
        f"make_plan(load_spec('dqn_lr', root=Path({str(REPOSITORY)!r})))\n"
        "assert not {'ray', 'torch', 'optuna', 'mlflow'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_sweep_over_its_own_disk_limit_is_refused(load) -> None:
    with pytest.raises(SpecError, match=r"recording\.max_gb must hold the estimated .* GB of this sweep, was 1e-06"):
        make_plan(load("recording.max_gb=1e-6"))
