"""A machine is divided so that every trial can start, or the spec is refused."""

from __future__ import annotations

import pytest

from tradesweep.errors import SpecError
from tradesweep.sweep import machine
from tradesweep.sweep.resources import resolve_resources


def test_by_default_each_core_has_a_trial(load) -> None:
    resources = resolve_resources(load(), cpus=2)
    assert (resources.concurrent_trials, resources.env_runners, resources.cpus_per_trial) == (2, 0, 1.0)
    assert resources.bundles() == [{"CPU": 1.0}]


def test_two_runners_and_their_trial_share_two_cores(load) -> None:
    resources = resolve_resources(load("resources.env_runners=2"), cpus=2)
    assert resources.concurrent_trials == 1
    assert len(resources.bundles()) == 3
    assert sum(bundle["CPU"] for bundle in resources.bundles()) <= 2


def test_never_more_trials_at_once_than_there_are(load) -> None:
    assert resolve_resources(load("budget.trials=1"), cpus=64).concurrent_trials == 1


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("resources.cpus_per_trial=8", "resources.cpus_per_trial must be at most the 2 CPUs"),
        ("resources.concurrent_trials=3", "resources.concurrent_trials must leave 1 CPUs to each trial"),
        ("resources.env_runners=3", "resources.lanes must be a multiple of resources.env_runners (3), was 4"),
    ],
)
def test_what_can_never_be_scheduled_is_refused_with_its_place(load, override: str, message: str) -> None:
    with pytest.raises(SpecError, match=r"--set|experiments\.yaml") as refused:
        resolve_resources(load(override), cpus=2)
    assert message in str(refused.value)


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
