"""A checkpoint that was touched is refused before anything in it is unpickled; the best and the last are kept."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tradesweep.errors import CheckpointError
from tradesweep.policy.manifest import MANIFEST
from tradesweep.trial.checkpoints import TrialState, publish, restore, retain


class Canary:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return Path.touch, (self.file,)


class PickledAlgorithm:
    """Saves and loads by pickle, as RLlib does."""

    def save_to_path(self, path: Path) -> None:
        path.mkdir()
        (path / "state.pkl").write_bytes(pickle.dumps(Canary(path.parents[1] / "unpickled")))

    def restore_from_path(self, path: Path) -> None:
        pickle.loads((path / "state.pkl").read_bytes())


class OneFilePolicy:
    def save(self, folder: Path) -> None:
        (folder / "policy.json").write_text("{}")


def was_unpickled(folder: Path) -> bool:
    return (folder.parent / "unpickled").exists()


@pytest.fixture
def checkpoint(tmp_path: Path) -> tuple[Path, str]:
    folder = tmp_path / "000003"
    state = TrialState(iteration=3, env_steps=300, raw_scores=[0.1, 0.2, -0.3], best_iteration=2, best_sharpe=1.5)
    arguments: dict[str, Any] = {"algorithm": PickledAlgorithm(), "policy": OneFilePolicy(), "facts": {"trial_id": 1}}
    return folder, publish(folder, state=state, **arguments)


def test_what_was_published_is_restored(checkpoint: tuple[Path, str]) -> None:
    folder, sha256 = checkpoint
    state = restore(folder, manifest_sha256=sha256, algorithm=PickledAlgorithm())
    assert was_unpickled(folder)
    assert state == TrialState(
        iteration=3, env_steps=300, raw_scores=[0.1, 0.2, -0.3], best_iteration=2, best_sharpe=1.5
    )
    assert json.loads((folder / MANIFEST).read_text())["facts"] == {"trial_id": 1}


@pytest.mark.parametrize("name", ["rllib/state.pkl", "policy.json", "trial.json", MANIFEST])
def test_a_flipped_byte_is_refused_before_unpickling(checkpoint: tuple[Path, str], name: str) -> None:
    folder, sha256 = checkpoint
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(data)
    with pytest.raises(CheckpointError):
        restore(folder, manifest_sha256=sha256, algorithm=PickledAlgorithm())
    assert not was_unpickled(folder)


@pytest.mark.parametrize("name", ["rllib/state.pkl", "policy.json", "trial.json", MANIFEST])
def test_a_missing_file_is_refused_before_unpickling(checkpoint: tuple[Path, str], name: str) -> None:
    folder, sha256 = checkpoint
    (folder / name).unlink()
    with pytest.raises(CheckpointError):
        restore(folder, manifest_sha256=sha256, algorithm=PickledAlgorithm())
    assert not was_unpickled(folder)


def test_another_checkpoint_in_its_place_is_refused_before_unpickling(checkpoint: tuple[Path, str]) -> None:
    folder, sha256 = checkpoint
    other = publish(
        folder, state=TrialState(iteration=4), algorithm=PickledAlgorithm(), policy=OneFilePolicy(), facts={}
    )
    assert other != sha256
    with pytest.raises(CheckpointError):
        restore(folder, manifest_sha256=sha256, algorithm=PickledAlgorithm())
    assert not was_unpickled(folder)


def test_publishing_replaces_what_stood_half_written(tmp_path: Path) -> None:
    folder = tmp_path / "000001"
    folder.mkdir()
    (folder / "left_over.bin").write_bytes(b"x")
    sha256 = publish(folder, state=TrialState(), algorithm=PickledAlgorithm(), policy=OneFilePolicy(), facts={})
    assert not (folder / "left_over.bin").exists()
    assert restore(folder, manifest_sha256=sha256, algorithm=PickledAlgorithm()) == TrialState()


def test_only_the_named_checkpoints_are_kept(tmp_path: Path) -> None:
    for iteration in range(1, 7):
        (tmp_path / f"{iteration:06d}").mkdir()
        (tmp_path / f"{iteration:06d}" / "policy.json").write_text("{}")
    forgotten: list[int] = []

    def forget(iteration: int) -> None:
        assert (tmp_path / f"{iteration:06d}").exists(), "the store forgets before the files go"
        forgotten.append(iteration)

    retain(tmp_path, keep={2, 6}, forget=forget)
    assert forgotten == [1, 3, 4, 5]
    assert sorted(folder.name for folder in tmp_path.iterdir()) == ["000002", "000006"]
    retain(tmp_path, keep={2, 6}, forget=forget)
    assert forgotten == [1, 3, 4, 5]


@pytest.mark.parametrize("seed", range(5))
def test_best_is_the_highest_eligible_sharpe_and_the_earlier_of_equals(seed: int) -> None:
    generator = np.random.default_rng(seed)
    sharpes = [None if generator.random() < 0.2 else float(generator.integers(4)) for _ in range(30)]
    eligible = (generator.random(30) < 0.7).tolist()
    state = TrialState()
    for iteration, (sharpe, able) in enumerate(zip(sharpes, eligible, strict=True), start=1):
        if state.is_better(sharpe, eligible=able):
            state.best_iteration, state.best_sharpe = iteration, sharpe
    able_ones = [
        (s, -i) for i, (s, e) in enumerate(zip(sharpes, eligible, strict=True), start=1) if e and s is not None
    ]
    best, minus_iteration = max(able_ones)
    assert (state.best_sharpe, state.best_iteration) == (best, -minus_iteration)
