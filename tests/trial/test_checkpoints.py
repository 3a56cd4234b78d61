"""A checkpoint that was touched is refused before anything in it is unpickled; the best and the newest are kept."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tradesweep.errors import CheckpointError
from tradesweep.policy.manifest import MANIFEST
from tradesweep.trial import Assignment, ResumePoint
from tradesweep.trial.checkpoints import TrialState, find_intact, publish, remove, restore, retain


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

    remove(retain(tmp_path, keep={2, 6}, forget=forget))
    assert forgotten == [1, 3, 4, 5]
    assert sorted(folder.name for folder in tmp_path.iterdir()) == ["000002", "000006"]
    assert retain(tmp_path, keep={2, 6}, forget=forget) == []
    assert forgotten == [1, 3, 4, 5]


def rank_all(sharpes: list[float | None], eligible: list[bool], *, most: int) -> TrialState:
    state = TrialState()
    for iteration, (sharpe, able) in enumerate(zip(sharpes, eligible, strict=True), start=1):
        state.iteration = iteration
        state.rank(sharpe, eligible=able, most=most)
    return state


@pytest.mark.parametrize("most", [1, 3, 100])
@pytest.mark.parametrize("seed", range(5))
def test_the_best_are_the_highest_eligible_sharpes_and_of_equals_the_earlier(seed: int, most: int) -> None:
    generator = np.random.default_rng(seed)
    odd: list[float | None] = [None, np.nan, np.inf, -np.inf]
    sharpes = [generator.choice(odd) if generator.random() < 0.3 else float(generator.integers(4)) for _ in range(30)]
    eligible = (generator.random(30) < 0.7).tolist()
    state = rank_all(sharpes, eligible, most=most)
    able_ones = [
        (-sharpe, iteration)
        for iteration, (sharpe, able) in enumerate(zip(sharpes, eligible, strict=True), start=1)
        if able and sharpe is not None and np.isfinite(sharpe)
    ]
    best = sorted(able_ones)[:most]
    assert state.leaders == [(iteration, -minus) for minus, iteration in best]
    assert (state.best_iteration, state.best_sharpe) == state.leaders[0]
    assert state.leading == {iteration for _, iteration in best}
    assert state.newest == {29, 30}


@pytest.mark.parametrize("between", [None, np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_never_the_best(between: float | None) -> None:
    state = rank_all([3.0, between, 1.0, between, 2.0], [True] * 5, most=1)
    assert (state.best_iteration, state.best_sharpe) == (1, 3.0)
    assert rank_all([between], [True], most=1).best_iteration is None


def test_a_state_of_before_there_were_several_best_goes_on() -> None:
    state = TrialState(iteration=4, best_iteration=2, best_sharpe=1.5)
    state.rank(1.0, eligible=True, most=1)
    assert (state.leading, state.best_sharpe) == ({2}, 1.5)


# --- which one a trial goes on from -----------------------------------------------------------------------------


@pytest.fixture
def published(tmp_path: Path) -> ResumePoint:
    """Checkpoints of the iterations 5, 4 and 2, newest first."""
    points = []
    for iteration in (5, 4, 2):
        folder = tmp_path / f"{iteration:06d}"
        state = TrialState(iteration=iteration)
        sha256 = publish(folder, state=state, algorithm=PickledAlgorithm(), policy=OneFilePolicy(), facts={})
        points.append(ResumePoint(iteration=iteration, path=str(folder), manifest_sha256=sha256))
    return replace(points[0], older=tuple(points[1:]))


def damage(point: ResumePoint) -> None:
    (Path(point.path) / "policy.json").write_text("[]")


def test_the_newest_checkpoint_that_is_whole_is_the_one_to_go_on_from(
    published: ResumePoint, caplog: pytest.LogCaptureFixture
) -> None:
    for point in (published, *published.older):
        assert find_intact(published) == point
        damage(point)
    assert find_intact(published) is None
    assert "checkpoint of iteration 5 cannot be used, an older one is looked for" in caplog.text
    assert not was_unpickled(Path(published.path))


def test_a_trial_without_checkpoints_begins_anew() -> None:
    assert find_intact(None) is None


def test_what_an_assignment_says_of_checkpoints_survives_tune(published: ResumePoint) -> None:
    resume = replace(published, promoted=(2,))
    assignment = Assignment(trial_id=1, trial_no=0, params={"lr": 1e-3}, seed=7, resume=resume)
    assert Assignment.from_config(json.loads(json.dumps(assignment.to_config()))) == assignment
