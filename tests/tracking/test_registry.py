from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from tradesweep.errors import NotFound
from tradesweep.home import Home
from tradesweep.tracking import (
    Candidate,
    ensure_experiment,
    find_alias,
    get_alias,
    list_versions,
    register_candidate,
    set_champion,
)


@pytest.fixture
def candidate(client: Any, home: Home) -> Candidate:
    run = client.create_run(ensure_experiment(client, "dqn_lr", artifacts=home.artifacts))
    return Candidate(
        run_id=run.info.run_id,
        source=f"{run.info.artifact_uri}/best_checkpoint",
        sweep_id="dqn_lr-12345678",
        trial_id=3,
        iteration=7,
        manifest_sha256="ab" * 32,
    )


def test_a_candidate_is_a_version_with_its_lineage(client: Any, candidate: Candidate) -> None:
    version = register_candidate(client, "dqn_lr", candidate, {"validation/sharpe": 1.25})
    assert get_alias(client, "dqn_lr", "candidate") == version
    assert (version.version, version.run_id, version.source) == (1, candidate.run_id, candidate.source)
    assert version.tags == {
        "validation/sharpe": "1.25",
        "tradesweep.sweep_id": "dqn_lr-12345678",
        "tradesweep.trial_id": "3",
        "tradesweep.iteration": "7",
        "tradesweep.manifest_sha256": "ab" * 32,
    }


def test_the_same_checkpoint_is_registered_once(client: Any, candidate: Candidate) -> None:
    first = register_candidate(client, "dqn_lr", candidate)
    assert register_candidate(client, "dqn_lr", candidate) == first
    assert len(list_versions(client, "dqn_lr")) == 1


@pytest.mark.parametrize(
    "change", [{"trial_id": 4}, {"iteration": 8}, {"manifest_sha256": "cd" * 32}, {"sweep_id": "dqn_lr-x"}]
)
def test_another_checkpoint_is_another_version(client: Any, candidate: Candidate, change: Any) -> None:
    register_candidate(client, "dqn_lr", candidate)
    other = register_candidate(client, "dqn_lr", dataclasses.replace(candidate, **change))
    assert other.version == 2
    assert get_alias(client, "dqn_lr", "candidate").version == 2


def test_the_alias_goes_back_to_a_checkpoint_that_wins_again(client: Any, candidate: Candidate) -> None:
    first = register_candidate(client, "dqn_lr", candidate)
    register_candidate(client, "dqn_lr", dataclasses.replace(candidate, iteration=8))
    register_candidate(client, "dqn_lr", candidate)
    assert get_alias(client, "dqn_lr", "candidate") == first


def test_a_new_champion_remembers_the_one_before(client: Any, candidate: Candidate) -> None:
    register_candidate(client, "dqn_lr", candidate)
    register_candidate(client, "dqn_lr", dataclasses.replace(candidate, iteration=8))
    assert set_champion(client, "dqn_lr", 1) is None
    assert set_champion(client, "dqn_lr", 2) == 1
    champion = get_alias(client, "dqn_lr", "champion")
    assert (champion.version, champion.tags["tradesweep.previous_champion"]) == (2, "1")


def test_promoting_the_champion_again_changes_nothing(client: Any, candidate: Candidate) -> None:
    register_candidate(client, "dqn_lr", candidate)
    set_champion(client, "dqn_lr", 1)
    assert set_champion(client, "dqn_lr", 1) == 1
    assert "tradesweep.previous_champion" not in get_alias(client, "dqn_lr", "champion").tags


def test_what_is_not_there_is_none_to_find_and_an_error_to_get(client: Any, candidate: Candidate) -> None:
    assert find_alias(client, "nothing", "champion") is None
    register_candidate(client, "dqn_lr", candidate)
    assert find_alias(client, "dqn_lr", "champion") is None
    with pytest.raises(NotFound, match=r"alias 'champion', has none; models: \['dqn_lr'\]"):
        get_alias(client, "dqn_lr", "champion")
