"""The thread that keeps MLflow up to date, and what it does when MLflow is not there."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from tradesweep.errors import RecorderUnavailable
from tradesweep.home import Home
from tradesweep.store import Store, Writer
from tradesweep.tracking import ProjectorThread


@pytest.fixture
def dead_server(monkeypatch: pytest.MonkeyPatch) -> str:
    """A port where nobody listens."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        return f"http://user:secret@127.0.0.1:{closed.getsockname()[1]}"


@pytest.fixture
def make_thread(writer: Writer, store: Store, home: Home, tracking_uri: str) -> Callable[..., ProjectorThread]:
    def make(**more: Any) -> ProjectorThread:
        settings = {"acknowledge": writer.mark_outbox, "tracking_uri": tracking_uri, "poll_s": 0.01} | more
        thread = ProjectorThread(store, home=home, **settings)
        thread.start()
        return thread

    return make


def test_what_happened_while_it_ran_and_what_was_left_reach_mlflow(
    story: Any, make_thread: Callable[..., ProjectorThread], client: Any
) -> None:
    thread = make_thread()
    story.tell_whole_sweep()
    assert thread.stop(30.0)
    assert thread.pending == 0
    assert not thread.is_alive()
    experiment = client.get_experiment_by_name("dqn_lr")
    assert len(client.search_runs([experiment.experiment_id])) == 3


def test_an_idle_thread_ends_when_it_is_told(make_thread: Callable[..., ProjectorThread]) -> None:
    thread = make_thread(poll_s=3600.0)
    assert thread.stop(30.0)
    assert not thread.is_alive()


def test_an_unreachable_mlflow_loses_nothing(
    story: Any,
    make_thread: Callable[..., ProjectorThread],
    store: Store,
    dead_server: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    story.tell_whole_sweep()
    rows = store.count_outbox()
    thread = make_thread(tracking_uri=dead_server)
    assert not thread.stop(30.0)
    assert thread.last_error is not None
    assert thread.pending == rows
    assert "MLflow at http://127.0.0.1" in caplog.text
    assert "secret" not in caplog.text + thread.last_error

    assert make_thread().stop(30.0)
    assert store.count_outbox() == 0


def test_an_mlflow_that_never_answers_is_not_waited_for_at_the_end(
    story: Any, make_thread: Callable[..., ProjectorThread], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, released = threading.Semaphore(0), threading.Event()
    answers = iter([lambda: None])

    def hang(_: Any) -> int:
        asked.release()
        next(answers, lambda: released.wait(60.0))()  # the first failure is quick, the next one takes its time
        raise OSError("no answer")

    monkeypatch.setattr("tradesweep.tracking.projection.Projector.project", hang)
    monkeypatch.setattr("tradesweep.tracking.thread._LAST_CHANCE_S", 0.1)
    story.tell_whole_sweep()
    thread = make_thread()
    assert asked.acquire(timeout=30.0)
    assert asked.acquire(timeout=30.0)
    assert not thread.stop(3600.0)
    assert not thread.stop(3600.0), "asked again, it does not wait again"
    assert thread.is_alive()
    released.set()
    thread.join(30.0)
    assert not thread.is_alive()


def test_a_failing_acknowledgement_is_tried_again_and_never_escapes(
    story: Any, writer: Writer, make_thread: Callable[..., ProjectorThread]
) -> None:
    failed = threading.Event()

    def acknowledge(ids: Sequence[int]) -> None:
        if not failed.is_set():
            failed.set()
            raise RecorderUnavailable("the recorder is restarting")
        writer.mark_outbox(ids)

    story.tell_whole_sweep()
    thread = make_thread(acknowledge=acknowledge)
    assert failed.wait(30.0)
    assert thread.stop(30.0)
    assert thread.pending == 0
