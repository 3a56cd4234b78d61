"""What a sweep left in the outbox reaches MLflow with the next command, or waits on without harm."""

from __future__ import annotations

import logging
import socket
from typing import Any

import pytest

from tradesweep.home import Home
from tradesweep.store import Store, Writer
from tradesweep.tracking import deliver_outbox


def test_the_rows_are_delivered_and_the_runs_are_noted(
    story: Any, writer: Writer, store: Store, home: Home, client: Any
) -> None:
    story.tell_whole_sweep()
    writer.close()
    deliver_outbox(home)
    assert store.count_outbox() == 0
    noted = {trial.mlflow_run_id for trial in store.list_trials(story.sweep_id)}
    experiment = client.get_experiment_by_name("dqn_lr")
    runs = {run.info.run_id for run in client.search_runs([experiment.experiment_id])}
    assert noted | {store.get_sweep(story.sweep_id).mlflow_run_id} == runs
    assert len(noted) == 2


def test_an_mlflow_that_is_away_is_one_line_and_changes_nothing(
    story: Any,
    writer: Writer,
    store: Store,
    home: Home,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    story.tell_whole_sweep()
    writer.close()
    rows = store.count_outbox()
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        uri = f"http://user:secret@127.0.0.1:{closed.getsockname()[1]}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with caplog.at_level(logging.WARNING, "tradesweep"):
        deliver_outbox(home)
    assert store.count_outbox() == rows
    [said] = [record.getMessage() for record in caplog.records if record.name.startswith("tradesweep")]
    assert "cannot be reached ([Errno 111] Connection refused)" in said
    assert "secret" not in said
    assert "\n" not in said


def test_while_a_sweep_holds_the_database_it_is_left_to_that(story: Any, store: Store, home: Home, client: Any) -> None:
    story.tell_whole_sweep()
    rows = store.count_outbox()
    deliver_outbox(home)
    assert store.count_outbox() == rows
    assert client.get_experiment_by_name("dqn_lr") is None
