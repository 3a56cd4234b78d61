"""What a sweep wrote to its store, seen in a real MLflow."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tradesweep.home import Home
from tradesweep.names import SweepStatus, TrialStatus
from tradesweep.spec import SweepSpec
from tradesweep.store import Store, Writer
from tradesweep.tracking import Projector, RunBook, RunKey


@pytest.fixture
def make_projector(writer: Writer, store: Store, home: Home, tracking_uri: str) -> Callable[..., Projector]:
    def make(acknowledge: Callable[[Sequence[int]], None] = writer.mark_outbox, **more: Any) -> Projector:
        return Projector(store, acknowledge=acknowledge, tracking_uri=tracking_uri, home=home, **more)

    return make


class Seen:
    """MLflow as a person sees it: runs of the experiment by kind."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def runs(self) -> list[Any]:
        experiment = self._client.get_experiment_by_name("dqn_lr")
        return list(self._client.search_runs([experiment.experiment_id], order_by=["attributes.start_time"]))

    def parent(self) -> Any:
        [run] = [run for run in self.runs() if run.data.tags["tradesweep.kind"] == "sweep"]
        return run

    def children(self) -> list[Any]:
        return [run for run in self.runs() if run.data.tags["tradesweep.kind"] == "trial"]

    def history(self, run: Any, metric: str) -> list[tuple[int, int, float]]:
        found = self._client.get_metric_history(run.info.run_id, metric)
        return [(each.step, each.timestamp, each.value) for each in found]

    def files(self, run: Any, folder: str | None = None) -> list[str]:
        return sorted(each.path for each in self._client.list_artifacts(run.info.run_id, folder))


@pytest.fixture
def seen(client: Any) -> Seen:
    return Seen(client)


def test_a_sweep_is_a_parent_run_and_each_trial_its_child(
    story: Any, make_projector: Callable[..., Projector], seen: Seen, store: Store
) -> None:
    story.tell_whole_sweep()
    make_projector().project()
    parent, children = seen.parent(), seen.children()
    assert len(children) == len(store.list_trials(story.sweep_id)) == 2
    assert {child.data.tags["mlflow.parentRunId"] for child in children} == {parent.info.run_id}
    assert {child.data.tags["tradesweep.sweep_id"] for child in children} == {story.sweep_id}
    assert sorted(child.data.tags["tradesweep.trial_id"] for child in children) == ["1", "2"]
    assert {run.info.status for run in seen.runs()} == {"FINISHED"}
    assert store.count_outbox() == 0


def test_a_trial_shows_sampled_and_fixed_hyperparameters(
    story: Any, make_projector: Callable[..., Projector], seen: Seen
) -> None:
    story.tell_whole_sweep()
    make_projector().project()
    assert seen.children()[0].data.params == {
        "lr": "0.0001",
        "gamma": "0.99",
        "model.hiddens": "[64, 64]",
        "seed": "0",
    }
    assert seen.parent().data.params["env.fill"] == "next_close"
    assert seen.parent().data.params["fixed.gamma"] == "0.99"


def test_metrics_have_the_step_and_time_of_their_event(
    story: Any, make_projector: Callable[..., Projector], seen: Seen
) -> None:
    story.tell_whole_sweep()
    make_projector().project()
    first, second = seen.children()
    start_ms = story.start_us // 1000
    assert seen.history(first, "validation/sharpe") == [
        (100, start_ms + 60_000, 0.5),
        (200, start_ms + 120_000, 1.5),
        (300, start_ms + 180_000, 1.0),
    ]
    assert [step for step, _, _ in seen.history(second, "validation/sharpe")] == [100, 300]
    assert seen.parent().data.metrics["validation/best_sharpe"] == 1.5


def test_runs_say_where_they_come_from(
    story: Any, make_projector: Callable[..., Projector], seen: Seen, spec: SweepSpec
) -> None:
    story.tell_whole_sweep()
    make_projector().project()
    for run in seen.runs():
        assert run.data.tags["tradesweep.data_sha256"] == "ab" * 32
        assert run.data.tags["tradesweep.git_revision"] == "c0ffee"
        assert run.data.tags["tradesweep.identity"] == "12345678" * 8
        assert run.data.tags["tradesweep.version.ray"] == "2.60.0"
        [given] = run.inputs.dataset_inputs
        assert (given.dataset.name, given.dataset.digest) == ("sp500", ("ab" * 32)[:16])
        assert json.loads(given.dataset.source)["source"] == "sample"
    assert json.loads(seen.parent().data.tags["tradesweep.spec"])["experiment"] == "dqn_lr"
    assert seen.files(seen.parent()) == ["spec.json"]


def test_the_best_checkpoint_is_an_artifact_of_its_trial(
    story: Any, make_projector: Callable[..., Projector], seen: Seen, client: Any, tmp_path: Path
) -> None:
    story.tell_whole_sweep()
    make_projector().project()
    best = seen.children()[0]
    assert seen.files(best, "best_checkpoint/policy") == ["best_checkpoint/policy/policy.json"]
    folder = client.download_artifacts(best.info.run_id, "best_checkpoint", str(tmp_path))
    assert (Path(folder) / "policy" / "policy.json").read_text() == '{"iteration": 2}'
    assert best.data.tags["tradesweep.best.sha256"] == "sha 2"


def test_a_checkpoint_whose_files_are_gone_holds_nothing_up(
    story: Any, make_projector: Callable[..., Projector], seen: Seen, store: Store
) -> None:
    story.open_sweep()
    trial_id = story.open_trial()
    story.start(trial_id)
    folder = story.iterate(trial_id, 1, 0.5)
    (folder / "policy" / "policy.json").unlink()
    (folder / "policy").rmdir()
    folder.rmdir()
    story.close_trial(trial_id, TrialStatus.FINISHED)
    make_projector().project()
    assert store.count_outbox() == 0
    assert seen.files(seen.children()[0]) == []


@pytest.mark.parametrize(
    ("status", "shown"),
    [
        (TrialStatus.FINISHED, "FINISHED"),
        (TrialStatus.STOPPED, "FINISHED"),
        (TrialStatus.PRUNED, "KILLED"),
        (TrialStatus.INTERRUPTED, "KILLED"),
        (TrialStatus.FAILED, "FAILED"),
        (TrialStatus.DIVERGED, "FAILED"),
        (TrialStatus.CRASHED, "FAILED"),
    ],
)
def test_each_end_has_its_run_status_and_keeps_its_name(
    story: Any, make_projector: Callable[..., Projector], seen: Seen, status: TrialStatus, shown: str
) -> None:
    story.open_sweep()
    trial_id = story.open_trial()
    story.start(trial_id)
    story.close_trial(trial_id, status)
    make_projector().project()
    [child] = seen.children()
    assert (child.info.status, child.data.tags["tradesweep.status"]) == (shown, status)


def test_an_error_is_a_tag_and_in_full_a_file(
    story: Any, make_projector: Callable[..., Projector], seen: Seen, client: Any, tmp_path: Path
) -> None:
    story.open_sweep()
    trial_id = story.open_trial()
    story.start(trial_id)
    error = "ValueError: loss must be finite\n" + "x" * 10_000
    story.close_trial(trial_id, TrialStatus.DIVERGED, error)
    make_projector().project()
    [child] = seen.children()
    assert child.data.tags["tradesweep.error"].startswith("ValueError: loss must be finite")
    assert len(child.data.tags["tradesweep.error"]) == 8000
    assert Path(client.download_artifacts(child.info.run_id, "error.txt", str(tmp_path))).read_text() == error


def snapshot(seen: Seen) -> list[Any]:
    return [
        (
            run.info.run_id,
            run.info.status,
            run.info.end_time,
            run.data.params,
            {name: seen.history(run, name) for name in run.data.metrics},
            run.data.tags,
            [given.dataset.digest for given in run.inputs.dataset_inputs],
            seen.files(run),
        )
        for run in seen.runs()
    ]


def test_telling_everything_twice_changes_nothing(
    story: Any, make_projector: Callable[..., Projector], seen: Seen
) -> None:
    story.tell_whole_sweep()
    make_projector(acknowledge=lambda ids: None).project()
    before = snapshot(seen)
    make_projector().project()
    assert snapshot(seen) == before


def test_a_projector_that_dies_anywhere_is_made_good_by_the_next_one(
    story: Any, make_projector: Callable[..., Projector], seen: Seen, store: Store
) -> None:
    story.tell_whole_sweep()
    rows = store.count_outbox()
    for _ in range(rows):
        make_projector().project(limit=1)
    assert store.count_outbox() == 0
    assert len(seen.children()) == 2
    assert seen.history(seen.children()[0], "train/env_steps")[-1][0] == 300


def test_a_resumed_trial_goes_on_in_its_run(story: Any, make_projector: Callable[..., Projector], seen: Seen) -> None:
    story.open_sweep()
    trial_id = story.open_trial()
    story.start(trial_id)
    story.iterate(trial_id, 1, 0.5)
    story.close_sweep(SweepStatus.INTERRUPTED)
    make_projector().project()
    assert [run.info.status for run in (seen.parent(), *seen.children())] == ["KILLED", "KILLED"]

    projector = make_projector()
    story.open_sweep(driver_started_at=story.start_us + 1)
    story.start(trial_id, resumed_from=1)
    story.iterate(trial_id, 2, 0.7)
    projector.project()
    assert [run.info.status for run in (seen.parent(), *seen.children())] == ["RUNNING", "RUNNING"]
    story.close_trial(trial_id, TrialStatus.FINISHED)
    story.close_sweep()
    projector.project()
    assert [run.info.status for run in (seen.parent(), *seen.children())] == ["FINISHED", "FINISHED"]
    assert [value for _, _, value in seen.history(seen.children()[0], "validation/sharpe")] == [0.5, 0.7]


def test_what_a_resumed_trial_did_anew_is_shown_with_its_newest_value(
    story: Any, make_projector: Callable[..., Projector], seen: Seen
) -> None:
    story.open_sweep()
    trial_id = story.open_trial()
    story.start(trial_id)
    for iteration, sharpe in enumerate([0.5, 0.6, 0.9], start=1):
        story.iterate(trial_id, iteration, sharpe)
    story.close_trial(trial_id, TrialStatus.INTERRUPTED)
    story.start(trial_id, resumed_from=1)
    story.iterate(trial_id, 2, 0.7)
    story.iterate(trial_id, 3, 0.8)
    make_projector().project()
    [child] = seen.children()
    by_step: dict[int, list[float]] = {}
    for step, _, value in sorted(seen.history(child, "validation/sharpe"), key=lambda point: point[:2]):
        by_step.setdefault(step, []).append(value)
    assert by_step == {100: [0.5], 200: [0.6, 0.7], 300: [0.9, 0.8]}
    assert child.data.metrics["validation/sharpe"] == 0.8


def test_a_run_shows_the_end_of_its_trial_also_where_a_lost_attempt_had_come_further(
    story: Any, make_projector: Callable[..., Projector], seen: Seen
) -> None:
    story.open_sweep()
    trial_id = story.open_trial()
    story.start(trial_id)
    for iteration, sharpe in enumerate([0.5, 0.6, 0.9], start=1):
        story.iterate(trial_id, iteration, sharpe)
    story.close_trial(trial_id, TrialStatus.CRASHED, "worker process lost")
    story.start(trial_id, resumed_from=1)
    story.iterate(trial_id, 2, 0.7)
    story.close_trial(trial_id, TrialStatus.PRUNED)
    make_projector(acknowledge=lambda ids: None).project()
    [child] = seen.children()
    assert (child.info.status, child.data.metrics["validation/sharpe"]) == ("KILLED", 0.7)
    assert "tradesweep.error" not in child.data.tags, "it belongs to the attempt that was lost"
    before = snapshot(seen)
    make_projector().project()
    assert snapshot(seen) == before


def test_what_mlflow_refuses_is_set_aside_and_holds_nothing_up(
    story: Any, make_projector: Callable[..., Projector], seen: Seen, store: Store
) -> None:
    story.open_sweep()
    trial_id = story.open_trial()
    story.start(trial_id)
    story.iterate(trial_id, 1, 0.5, **{"not; a % name": 1.0})
    story.iterate(trial_id, 2, 0.6)
    story.close_trial(trial_id, TrialStatus.FINISHED)
    projector = make_projector()
    projector.project()
    assert len(projector.set_aside) == store.count_outbox() == 1
    assert [step for step, _, _ in seen.history(seen.children()[0], "validation/sharpe")] == [200]
    assert seen.children()[0].info.status == "FINISHED"


def test_what_came_before_a_failure_is_acknowledged(
    story: Any, make_projector: Callable[..., Projector], store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    story.tell_whole_sweep()
    rows, projector = store.count_outbox(), make_projector()
    monkeypatch.setattr(RunBook, "log_metrics", lambda *args, **kwargs: (_ for _ in ()).throw(OSError("gone")))
    with pytest.raises(OSError, match="gone"):
        projector.project()
    assert store.count_outbox() == rows - 2
    monkeypatch.undo()
    projector.project()
    assert store.count_outbox() == 0


def test_infinity_and_nothing_are_no_metrics(story: Any, make_projector: Callable[..., Projector], seen: Seen) -> None:
    story.open_sweep()
    trial_id = story.open_trial()
    story.start(trial_id)
    story.iterate(trial_id, 1, None, **{"train/loss": float("inf"), "train/kl": float("nan")})
    make_projector().project()
    assert seen.children()[0].data.metrics == {"train/env_steps": 100.0}


def test_run_ids_are_noted_once(story: Any, make_projector: Callable[..., Projector], seen: Seen) -> None:
    story.tell_whole_sweep()
    noted: list[tuple[str, int | None, str]] = []
    make_projector(note_run=lambda *run: noted.append(run)).project()
    first, second = (child.info.run_id for child in seen.children())
    assert noted == [
        (story.sweep_id, None, seen.parent().info.run_id),
        (story.sweep_id, 1, first),
        (story.sweep_id, 2, second),
    ]


def test_a_run_is_found_by_its_key(
    story: Any, make_projector: Callable[..., Projector], seen: Seen, home: Home, tracking_uri: str
) -> None:
    story.tell_whole_sweep()
    make_projector().project()
    book = RunBook(tracking_uri, artifacts=home.artifacts)
    assert book.find(RunKey("dqn_lr", story.sweep_id)) == seen.parent().info.run_id
    assert book.find(RunKey("dqn_lr", story.sweep_id, 2)) == seen.children()[1].info.run_id
    assert book.find(RunKey("dqn_lr", story.sweep_id, 3)) is None
