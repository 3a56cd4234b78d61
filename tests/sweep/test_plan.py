"""A plan says what a sweep will be and spends nothing."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tradesweep.errors import SpecError
from tradesweep.home import Home
from tradesweep.spec import list_experiments, load_spec
from tradesweep.sweep.machine import Machine
from tradesweep.sweep.plan import Plan, in_gb, look_at_disk, make_plan
from tradesweep.sweep.resources import BYTES_OF_DRIVER, BYTES_PER_PROCESS

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


def test_a_training_step_of_dqn_may_not_span_two_evaluations(load) -> None:
    with pytest.raises(SpecError) as refused:
        make_plan(load("budget.env_steps_per_trial=600", "resources.lanes=40"))
    assert "budget.env_steps_per_trial must give each of 8 evaluations at least one training step of 80" in str(
        refused.value
    )
    assert str(refused.value).endswith(", was 600; write at least 640")
    assert make_plan(load("budget.env_steps_per_trial=640", "resources.lanes=40")).env_steps == 3 * 640


def test_a_replay_in_checkpoints_counts_on_disk_and_every_replay_in_memory(load) -> None:
    plain, kept = make_plan(load()), make_plan(load("fixed.replay_buffer_config.checkpoint=true"))
    width = 2 + 1 + 3 + 1 + 1  # two features, exposure, one of three positions, unrealised return, bars in trade
    replay = 1024 * (8 * width + 25)
    assert (
        kept.disk_bytes - plain.disk_bytes == 3 * 3 * replay
    )  # three trials, each with its best checkpoint and the last two
    assert plain.resources.memory_bytes == BYTES_OF_DRIVER + plain.resources.concurrent_trials * (
        BYTES_PER_PROCESS + replay
    )


def test_updates_are_counted_for_the_largest_values_that_can_be_drawn(load) -> None:
    dqn = "algorithm: dqn\nfixed: {num_steps_sampled_before_learning_starts: 9}\n"
    searched = make_plan(load(sweep=f"{dqn}search: {{updates_per_env_step: {{uniform: [0.5, 2.0]}}}}"))
    assert searched.updates == 3 * 2 * 1024
    ppo = "algorithm: ppo\nfixed: {train_batch_size_per_learner: 128, minibatch_size: 64}\n"
    assert make_plan(load(sweep=f"{ppo}search: {{num_epochs: {{choice: [2, 3, 5]}}}}")).updates == 3 * 8 * 5 * 2


def test_every_seed_and_every_confirmation_is_a_trial_that_costs(load) -> None:
    plain, plan = make_plan(load()), make_plan(load("seeds=2", "confirm={top: 5, seeds: 4}"))
    assert (plan.points, plan.trials, plan.confirmations) == (3, 3 * 2 + 3 * 4, 3 * 4)
    assert plan.env_steps == 6 * plain.env_steps
    assert (plan.updates, plan.rows) == (6 * plain.updates, 6 * plain.rows)
    assert plan.hurdle == make_plan(load("budget.trials=18")).hurdle
    assert plan.to_dict()["points"] == 3


def test_a_plan_says_what_may_end_the_sweep_early(load) -> None:
    settings = ("budget.env_steps=5000", "budget.wall_time_s=60", "budget.patience_trials=4")
    assert make_plan(load(*settings)).to_dict()["limits"] == [
        "5,000 env steps over all trials",
        "60 s a run",
        "4 trials without a better best, after 10",
    ]
    assert make_plan(load()).to_dict()["limits"] == []


def test_limits_and_confirmations_go_on_with_the_sweep_and_seeds_make_another(load) -> None:
    plain = make_plan(load()).identity
    for settings in ("budget.env_steps=5000", "budget.patience_trials=4", "confirm={top: 1, seeds: 2}"):
        assert make_plan(load(settings)).identity == plain
    assert make_plan(load("aggregate=median")).identity == plain, "one seed is what it is"
    identities = {make_plan(load("seeds=2", f"aggregate={how}")).identity for how in ("mean", "median", "iqm")}
    assert len({plain, *identities}) == 4


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


def test_more_memory_than_there_is_is_a_warning(load, monkeypatch: pytest.MonkeyPatch) -> None:
    def plan_with(free_bytes: int | None) -> Plan:
        monkeypatch.setattr("tradesweep.sweep.plan.look_at_machine", lambda: Machine(cpus=2, free_bytes=free_bytes))
        return make_plan(load("resources.concurrent_trials=2"))

    tight, roomy, unknown = plan_with(1_500_000_000), plan_with(8_000_000_000), plan_with(None)
    (said,) = set(tight.warnings) - set(roomy.warnings)
    assert said == "about 1.9 GB of memory are needed, 1.5 GB are free; choose fewer resources.concurrent_trials"
    assert unknown.warnings == roomy.warnings
    assert (tight.to_dict()["free_bytes"], unknown.to_dict()["free_bytes"]) == (1_500_000_000, None)


def test_less_free_disk_than_is_needed_is_a_warning(load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, home = make_plan(load()), Home(tmp_path / "not" / "there" / "yet")
    real = look_at_disk(plan, home)
    assert 0 < real.free_disk_bytes < 10**15
    assert real.warnings == plan.warnings
    assert not (tmp_path / "not").exists(), "asking writes nothing"
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1_000_000))
    tight = look_at_disk(plan, home)
    assert tight.free_disk_bytes == 1_000_000
    (said,) = set(tight.warnings) - set(plan.warnings)
    assert said.startswith(
        f"{home.path}: about 5.2 MB are needed on disk, 1.0 MB are free; free some space, set TRADESW"
    )
    told = json.loads(json.dumps(tight.to_dict()))
    assert told["free_disk_bytes"] == 1_000_000
    assert said in told["warnings"]


def test_a_database_elsewhere_says_nothing_of_the_disk(load, tmp_path: Path) -> None:
    home = Home(tmp_path, "postgresql://somebody@127.0.0.1:1/db")
    assert look_at_disk(make_plan(load()), home).free_disk_bytes == pytest.approx(
        shutil.disk_usage(tmp_path).free, rel=0.1
    )


@pytest.mark.parametrize(
    ("size", "text"), [(5.2e6, "0.0052 GB"), (1.7e10, "17 GB"), (1.7e11, "170 GB"), (1.9e13, "19,000 GB")]
)
def test_gigabytes_are_never_written_in_powers_of_ten(size: float, text: str) -> None:
    assert in_gb(size) == text
