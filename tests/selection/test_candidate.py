from __future__ import annotations

from typing import Any

import pytest

from tradesweep.errors import CheckpointError, Refused, TradesweepError
from tradesweep.names import SweepStatus, TrialStatus
from tradesweep.selection import find_best, get_best, register_candidate
from tradesweep.tracking import CANDIDATE, Projector, find_alias, list_versions, open_client, prepare_backend


def project(world: Any) -> Any:
    """What the driver's thread does during a sweep; a client for the test."""
    uri = prepare_backend(world.home.mlflow_database, world.home.artifacts)
    with world.writer() as writer:
        projector = Projector(world.store, acknowledge=writer.mark_outbox, tracking_uri=uri, home=world.home)
        while projector.project():
            pass
    return open_client(uri)


def test_the_best_checkpoint_is_that_of_the_best_trial(swept: Any) -> None:
    best = find_best(swept.store, "small")
    assert best is not None
    assert (best.trial.trial_no, best.checkpoint.iteration, best.model) == (1, 1, "small")
    assert best.sharpe == best.checkpoint.sharpe
    assert best.deflated == best.sharpe - best.hurdle


def test_a_sweep_that_never_traded_has_no_best(world: Any) -> None:
    world.write_sweep({0: 0.0})
    assert find_best(world.store, "small") is None
    assert register_candidate(world.store, world.home, world.sweep_id) is None
    with pytest.raises(Refused, match="no checkpoint may be chosen"):
        get_best(world.store, "small")


def test_the_candidate_leads_back_to_its_checkpoint(swept: Any) -> None:
    client = project(swept)
    version = register_candidate(swept.store, swept.home, swept.sweep_id)
    assert version is not None
    assert find_alias(client, "small", CANDIDATE) == version
    best = get_best(swept.store, "small")
    assert version.tags["tradesweep.manifest_sha256"] == best.checkpoint.manifest_sha256
    assert version.tags["validation/sharpe"] == str(best.sharpe)
    run = client.get_run(version.run_id)
    assert run.data.tags["tradesweep.trial_id"] == str(best.trial.trial_id)
    assert version.source == f"{run.info.artifact_uri}/best_checkpoint"


def test_the_same_checkpoint_is_one_version(swept: Any) -> None:
    client = project(swept)
    first = register_candidate(swept.store, swept.home, swept.sweep_id)
    assert register_candidate(swept.store, swept.home, swept.sweep_id) == first
    assert len(list_versions(client, "small")) == 1


def test_a_better_trial_of_the_same_sweep_becomes_the_candidate(world: Any) -> None:
    world.write_sweep({0: -3.0}, status=SweepStatus.INTERRUPTED)
    client = project(world)
    register_candidate(world.store, world.home, world.sweep_id)
    with world.writer() as writer:
        world.open_sweep(writer, driver_started_at=2)
        world.write_trial(writer, 1, 3.0, status=TrialStatus.FINISHED)
        writer.close_sweep(world.sweep_id, SweepStatus.FINISHED)
    project(world)
    second = register_candidate(world.store, world.home, world.sweep_id)
    assert second is not None
    assert (second.version, find_alias(client, "small", CANDIDATE)) == (2, second)


def test_mlflow_must_have_been_told_of_the_trial(swept: Any) -> None:
    with pytest.raises(TradesweepError, match=r"must have a run of small-\w+ trial 1, has none"):
        register_candidate(swept.store, swept.home, swept.sweep_id)


def test_a_copy_that_was_changed_is_not_registered(swept: Any) -> None:
    client = project(swept)
    published = (swept.folder(1) / "MANIFEST.json").read_bytes()
    copies = swept.home.artifacts.glob("small/*/artifacts/best_checkpoint")
    (copied,) = (copy for copy in copies if (copy / "MANIFEST.json").read_bytes() == published)
    (copied / "policy.safetensors").write_bytes(b"other")
    with pytest.raises(CheckpointError, match=r"policy\.safetensors must have bytes"):
        register_candidate(swept.store, swept.home, swept.sweep_id)
    assert list_versions(client, "small") == []
