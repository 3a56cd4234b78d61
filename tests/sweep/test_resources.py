"""A machine is divided so that every trial can start, or the spec is refused."""

from __future__ import annotations

import pytest

from tradesweep.errors import SpecError
from tradesweep.sweep import machine
from tradesweep.sweep.machine import Machine
from tradesweep.sweep.resources import BYTES_OF_DRIVER, BYTES_PER_PROCESS, Resources, resolve_resources

PPO = """
algorithm: ppo
fixed: {minibatch_size: 8}
search: {train_batch_size_per_learner: {choice: [%s]}}
"""


def test_by_default_each_core_has_a_trial(load) -> None:
    resources = resolve_resources(load(), Machine(cpus=2))
    assert (resources.concurrent_trials, resources.env_runners, resources.cpus_per_trial) == (2, 0, 1.0)
    assert resources.bundles() == [{"CPU": 1.0}]


def test_ray_has_the_cpus_of_all_trials_at_a_time_and_no_more(load) -> None:
    few = resolve_resources(load("budget.trials=2"), Machine(cpus=64))
    assert (few.cpus, few.concurrent_trials, few.cpus_of_ray) == (64, 2, 2), "it starts a process for each"
    shared = resolve_resources(load("resources.cpus_per_trial=0.5", "resources.concurrent_trials=3"), Machine(cpus=2))
    assert shared.cpus_of_ray == 2


@pytest.mark.parametrize(
    ("share", "trials", "whole"), [(0, 3, 0), (0.4, 2, 1), (0.4, 3, 2), (0.6, 3, 3), (0.5, 4, 2), (1, 2, 2), (2, 2, 4)]
)
def test_ray_is_asked_for_whole_gpus_that_hold_all_trials(load, share: float, trials: int, whole: int) -> None:
    settings = (f"resources.gpus_per_trial={share}", f"resources.concurrent_trials={trials}", "budget.trials=9")
    found = resolve_resources(load(*settings), Machine(cpus=8, gpus=8))
    assert (found.gpus_of_ray, type(found.gpus_of_ray)) == (whole, int), "Ray refuses shares when it starts"


def test_two_runners_and_their_trial_share_two_cores(load) -> None:
    resources = resolve_resources(load("resources.env_runners=2"), Machine(cpus=2))
    assert resources.concurrent_trials == 1
    assert len(resources.bundles()) == 3
    assert sum(bundle["CPU"] for bundle in resources.bundles()) <= 2


def test_never_more_trials_at_once_than_there_are(load) -> None:
    assert resolve_resources(load("budget.trials=1"), Machine(cpus=64)).concurrent_trials == 1


def test_the_plan_says_what_bounds_the_trials_at_a_time(load) -> None:
    spec = load("resources.cpus_per_trial=2")
    gigabytes = 5 * 10**9
    assert resolve_resources(spec, Machine(cpus=4)).why.startswith("2 of 4 CPUs for each trial; sampling in process")
    assert resolve_resources(spec, Machine(cpus=64, free_bytes=gigabytes)).why.startswith("no more trials than that")
    tight = Machine(cpus=4, free_bytes=BYTES_OF_DRIVER + 2 * BYTES_PER_PROCESS - 1)
    bound = resolve_resources(spec, tight)
    assert bound.concurrent_trials == 1
    assert bound.why.startswith("1.9 GB of memory are free, a trial takes 0.45 GB; ")
    assert resolve_resources(load("resources.concurrent_trials=2"), tight).why.startswith("trials at a time as the sp")


@pytest.mark.parametrize(("trials", "room"), [(3, 10.0), (2, 2.5), (1, 0.2)])
def test_memory_bounds_the_trials_at_a_time_but_one_always_runs(load, trials: int, room: float) -> None:
    each = 2 * BYTES_PER_PROCESS + 10**8
    machine = Machine(cpus=8, free_bytes=BYTES_OF_DRIVER + int(room * each))
    resources = resolve_resources(load("resources.env_runners=1"), machine, replay_bytes=10**8)
    assert resources.concurrent_trials == trials
    assert resources.memory_bytes == BYTES_OF_DRIVER + trials * each


def test_what_a_sweep_is_does_not_depend_on_the_machine_or_on_its_trials(load) -> None:
    for cpus in (1, 2, 64):
        for trials in (1, 100):
            resources = resolve_resources(load(f"budget.trials={trials}", "resources.lanes=auto"), Machine(cpus=cpus))
            assert (resources.env_runners, resources.lanes) == (0, 8)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["cpus_per_trial=8"],
            "resources.cpus_per_trial must be at most the 2 CPUs of this machine, or no trial can e",
        ),
        (["concurrent_trials=3"], "resources.concurrent_trials must leave 1 CPUs to each trial on a machine of 2, was"),
        (
            ["env_runners=3"],
            "resources.env_runners must be at most the 2 CPUs of this machine: runners sample at the s",
        ),
        (["env_runners=3"], "same time, was 3; write 2, or auto"),
        (["env_runners=2", "lanes=5"], "resources.lanes must be a multiple of resources.env_runners (2), was 5; writ"),
        (["env_runners=2", "lanes=7"], "was 7; write 8"),
        (["env_runners=2", "lanes=1"], "was 1; write 2"),
        (["env_runners=2", "lanes=999"], "was 999; write 64"),
        (["lanes=65"], "resources.lanes must be at most the env steps of a training step of dqn (64): each of its row"),
        (["lanes=65"], "was 65; write 64"),
    ],
)
def test_what_can_never_be_scheduled_is_refused_with_its_place(load, overrides: list[str], message: str) -> None:
    with pytest.raises(SpecError, match=r"--set|experiments\.yaml") as refused:
        resolve_resources(load(*(f"resources.{override}" for override in overrides)), Machine(cpus=2))
    assert message in str(refused.value)


def test_gpus_that_are_not_there_are_refused_and_shares_of_one_are_divided(load) -> None:
    def resolve(*settings: str, gpus: int | None) -> Resources:
        return resolve_resources(load(*(f"resources.{setting}" for setting in settings)), Machine(cpus=8, gpus=gpus))

    refused = [
        (
            ("gpus_per_trial=1",),
            0,
            "gpus_per_trial must be at most the 0 GPUs of this machine, or no trial can ever start",
        ),
        (("gpus_per_trial=0.5",), 0, "gpus_per_trial must be at most the 0 GPUs of this machine, or"),
        (("gpus_per_trial=2",), 1, "gpus_per_trial must be at most the 1 GPU of this machine, or"),
        (("gpus_per_trial=1.5",), 2, "gpus_per_trial must be a share of one GPU or a whole number of them, was 1.5"),
        (
            ("gpus_per_trial=1", "concurrent_trials=3"),
            2,
            "concurrent_trials must leave 1 GPUs to each trial on a machine",
        ),
        (
            ("gpus_per_trial=0.6", "concurrent_trials=2"),
            1,
            "concurrent_trials must leave 0.6 GPUs to each trial on a m",
        ),
    ]
    for settings, gpus, message in refused:
        with pytest.raises(SpecError, match=r"^--set resources\.") as error:
            resolve(*settings, gpus=gpus)
        assert f"resources.{message}" in str(error.value)
    for settings, gpus, concurrent in [
        (("gpus_per_trial=1",), 2, 2),
        (("gpus_per_trial=0.4",), 1, 2),
        (("gpus_per_trial=0.6",), 2, 2),
        (("gpus_per_trial=2",), 3, 1),
        (("gpus_per_trial=9",), None, 3),
        (("gpus_per_trial=0",), 0, 3),
        (("gpus_per_trial=0.5", "concurrent_trials=2"), 1, 2),
    ]:
        assert resolve(*settings, gpus=gpus).concurrent_trials == concurrent, settings
    assert resolve("gpus_per_trial=1", gpus=2).why.startswith("1 of 2 GPUs for each trial")


TOOL = "#!/bin/sh\necho 'GPU 0: NVIDIA X (UUID: GPU-1)'\necho '  MIG 1g.5gb Device 0: (UUID: MIG-2)'\n"


@pytest.mark.parametrize(
    ("driver", "tool", "visible", "expected"),
    [
        (2, None, None, 2),
        (2, None, "1", 1),
        (2, None, "0,1,2", 2),
        (2, None, "", 0),
        (2, None, "NoDevFiles", 0),
        (0, TOOL, None, 0),
        (None, TOOL, None, 1),
        (None, "#!/bin/sh\nexit 9\n", None, 0),
        (None, None, None, 0),
    ],
)
def test_gpus_are_counted_as_ray_finds_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path, driver: int | None, tool: str | None, visible: str | None, expected: int
) -> None:
    folder = tmp_path / "gpus"
    for number in range(driver or 0):
        (folder / f"0000:0{number}:00.0").mkdir(parents=True)
    if driver == 0:
        folder.mkdir()
    monkeypatch.setattr(machine, "NVIDIA_GPUS", folder)
    monkeypatch.setattr(machine, "AMD_GPUS", tmp_path / "none")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if tool is not None:
        (tmp_path / "nvidia-smi").write_text(tool.replace("echo", "/bin/echo"))
        (tmp_path / "nvidia-smi").chmod(0o755)
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert machine.count_gpus() == machine.look_at_machine().gpus == expected
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert machine.look_at_machine().gpus is None, "those of a cluster are not here"


def test_where_gpus_of_another_maker_may_be_nothing_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path, load) -> None:
    monkeypatch.setattr(machine, "NVIDIA_GPUS", tmp_path / "none")
    monkeypatch.setattr(machine, "AMD_GPUS", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert machine.count_gpus() is None


def test_a_row_of_all_lanes_fits_into_the_smallest_batch_that_can_be_drawn(load) -> None:
    sweep = PPO % "512, 21"
    with pytest.raises(SpecError) as refused:
        resolve_resources(load("resources={lanes: 24, env_runners: 2}", sweep=sweep), Machine(cpus=2))
    assert "resources.lanes must be at most train_batch_size_per_learner (21): each of its ro" in str(refused.value)
    assert str(refused.value).endswith(", was 24; write 20")
    assert resolve_resources(load("resources.lanes=21", sweep=sweep), Machine(cpus=2)).lanes == 21
    assert resolve_resources(load("resources.lanes=auto", sweep=PPO % "10, 512"), Machine(cpus=2)).lanes == 10


def test_lanes_chosen_by_themselves_divide_among_the_runners(load) -> None:
    spec = load("resources={lanes: auto, env_runners: 3}", sweep=PPO % "512")
    assert resolve_resources(spec, Machine(cpus=4)).lanes == 18


def test_cpus_are_capped_by_the_cgroup(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    quota = tmp_path / "cpu.max"
    monkeypatch.setattr(machine, "CGROUP_V2", quota)
    quota.write_text("100000 100000\n")
    assert machine.count_cpus() == 1
    quota.write_text("max 100000\n")
    unlimited = machine.count_cpus()
    assert unlimited >= 1
    quota.write_text(f"{unlimited * 400000} 100000\n")
    assert machine.count_cpus() == unlimited


MEMINFO = "MemTotal: 9000000 kB\nMemAvailable: 2000000 kB\n"


@pytest.mark.parametrize(
    ("limit", "used", "expected"),
    [
        ("max", "1", 2_000_000 * 1024),
        ("9000000000", "1000", 2_000_000 * 1024),
        ("1000000000", "300000000", 700_000_000),
        ("100", "300", 0),
        (None, None, 2_000_000 * 1024),
    ],
)
def test_free_memory_is_capped_by_the_cgroup(
    monkeypatch: pytest.MonkeyPatch, tmp_path, limit: str | None, used: str | None, expected: int
) -> None:
    facts, files = tmp_path / "meminfo", (tmp_path / "memory.max", tmp_path / "memory.current")
    facts.write_text(MEMINFO)
    for file, text in zip(files, (limit, used), strict=True):
        if text is not None:
            file.write_text(f"{text}\n")
    monkeypatch.setattr(machine, "MEMORY_FACTS", facts)
    monkeypatch.setattr(machine, "CGROUP_V2_MEMORY", files)
    assert machine.free_memory() == expected


def test_where_nobody_says_how_much_memory_is_free_it_bounds_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path, load
) -> None:
    monkeypatch.setattr(machine, "MEMORY_FACTS", tmp_path / "none")
    monkeypatch.setattr(machine, "CGROUP_V2_MEMORY", (tmp_path / "none", tmp_path / "none"))
    assert machine.free_memory() is None
    assert resolve_resources(load(), Machine(cpus=64, free_bytes=None)).concurrent_trials == 3
