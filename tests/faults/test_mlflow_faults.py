"""MLflow may be away, die or answer nonsense: no sweep minds, nothing is lost, and nothing is told twice."""

from __future__ import annotations

import json
import math
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from tests.faults.sweeps import finish, query, running, wait_until

from tradesweep.home import Home
from tradesweep.tracking import open_client, prepare_backend

pytestmark = [pytest.mark.fault, pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]

ONE_TRIAL = ("tiny_dqn", "--set", "budget.trials=1")
WAITING = "select count(*) from outbox where delivered_at is null"


class Server:
    """A real MLflow server over one database, which may be killed and started again."""

    def __init__(self, folder: Path, template: Path) -> None:
        self.folder = folder
        (folder / "server.db").write_bytes(template.read_bytes())
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        words = ["server", "--host", "127.0.0.1", "--port", str(self.port), "--workers", "1"]
        places = ["--backend-store-uri", "sqlite:///server.db", "--artifacts-destination", "artifacts"]
        with (self.folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "mlflow", *words, *places],
                cwd=self.folder,
                env=os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true"},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        wait_until(self._answers, timeout_s=120)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=1) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def kill(self) -> None:
        """With its workers, which are processes of their own."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None


@pytest.fixture(scope="module")
def server_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty database of MLflow: making one takes seconds."""
    home = Home(tmp_path_factory.mktemp("server-template"))
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        prepare_backend(home.mlflow_database, home.artifacts)
    return home.mlflow_database


@pytest.fixture
def server(tmp_path: Path, server_template: Path) -> Iterator[Server]:
    """Not started yet."""
    made = Server(tmp_path, server_template)
    yield made
    made.kill()


@contextmanager
def broken_server() -> Iterator[str]:
    """Answers 500 to everything; its address."""

    class Broken(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_error(500)

        do_POST = do_PATCH = do_PUT = do_DELETE = do_GET

        def log_message(self, *_: Any) -> None:
            """Quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Broken) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{listening.server_address[1]}"
        listening.shutdown()


def waiting(workplace: Any) -> int:
    """Rows that MLflow does not have."""
    return query(workplace.database, WAITING)[0][0]


def results(workplace: Any) -> list[tuple[Any, ...]]:
    """What was trained and found, without clocks."""
    sql = """
        select v.iteration, v.sharpe, v.score, v.total_return, i.env_steps, i.updates from evaluations v
        join iterations i on i.trial_id = v.trial_id and i.iteration = v.iteration
        join trials t on t.trial_id = v.trial_id
        where t.trial_no = 0 and t.sweep_id like 'tiny_dqn%' order by v.iteration
    """
    return query(workplace.database, sql)


def told(uri: str) -> Counter[tuple[Any, ...]]:
    """Everything the server holds: each run by what it is of, its status and tags, and each point of each metric."""
    client = open_client(uri)
    experiment = client.get_experiment_by_name("tiny_dqn")
    found: Counter[tuple[Any, ...]] = Counter()
    for run in client.search_runs([experiment.experiment_id]):
        name = (run.data.tags["tradesweep.kind"], run.data.tags.get("tradesweep.trial_id"))
        found[(*name, run.info.status, run.data.tags["tradesweep.status"])] += 1
        found.update((*name, *pair) for pair in run.data.params.items())
        found.update((*name, "artifact", file.path, file.file_size) for file in client.list_artifacts(run.info.run_id))
        for key in run.data.metrics:
            points = client.get_metric_history(run.info.run_id, key)
            found.update((*name, key, point.timestamp, point.step, point.value) for point in points)
    return found


def expected_points(workplace: Any) -> Counter[tuple[Any, ...]]:
    """Each metric of each iteration, at the time and the step it was recorded with."""
    points: Counter[tuple[Any, ...]] = Counter()
    for trial_id, at, env_steps, metrics in query(
        workplace.database, "select trial_id, at, env_steps, metrics from iterations"
    ):
        for key, value in json.loads(metrics).items():
            assert math.isfinite(value)
            points[("trial", str(trial_id), key, at // 1000, env_steps, value)] += 1
    return points


def check_delivered(workplace: Any, uri: str) -> None:
    """Everything is there, each thing once; telling all of it a second time changes nothing."""
    assert waiting(workplace) == 0
    there = told(uri)
    assert there["trial", "1", "FINISHED", "FINISHED"] == there["sweep", None, "FINISHED", "FINISHED"] == 1
    points = Counter({entry: count for entry, count in there.items() if len(entry) == 6 and entry[0] == "trial"})
    assert points == expected_points(workplace)
    with closing(sqlite3.connect(workplace.database)) as connection, connection:
        connection.execute("update outbox set delivered_at = null")
    done = workplace.run("sweep", *ONE_TRIAL, MLFLOW_TRACKING_URI=uri)
    assert done.returncode == 0, done.stdout + done.stderr
    assert waiting(workplace) == 0
    assert told(uri) == there


def test_a_server_that_never_ran_gets_everything_from_the_next_command(make_workplace, swept, server) -> None:
    workplace = make_workplace()
    done = workplace.run("sweep", *ONE_TRIAL, MLFLOW_TRACKING_URI=server.uri)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"MLflow did not take {waiting(workplace)} rows" in done.stdout
    assert waiting(workplace) == query(workplace.database, "select count(*) from outbox")[0][0]
    assert results(workplace) == results(swept)
    again = workplace.run("sweep", *ONE_TRIAL, MLFLOW_TRACKING_URI=server.uri)
    assert again.returncode == 0, "the result is shown whether MLflow is there or not"
    assert "has finished already" in again.stdout
    refused = workplace.run("promote", "tiny_dqn", MLFLOW_TRACKING_URI=server.uri)
    assert refused.returncode == 1
    assert f"MLflow at {server.uri} cannot be reached" in refused.stderr
    assert not query(workplace.database, "select 1 from test_readings")
    server.start()
    done = workplace.run("sweep", *ONE_TRIAL, MLFLOW_TRACKING_URI=server.uri)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "MLflow" not in done.stdout
    check_delivered(workplace, server.uri)


def test_a_server_that_dies_in_mid_sweep_gets_the_rest_later(make_workplace, swept, server) -> None:
    workplace = make_workplace()
    server.start()
    with running(workplace, "sweep", *ONE_TRIAL, MLFLOW_TRACKING_URI=server.uri) as process:
        wait_until(lambda: query(workplace.database, "select 1 from outbox where delivered_at is not null"), process)
        server.kill()
        printed = finish(process)
        assert process.returncode == 0, printed
    assert 0 < waiting(workplace) < query(workplace.database, "select count(*) from outbox")[0][0]
    assert results(workplace) == results(swept)
    server.start()
    done = workplace.run("sweep", *ONE_TRIAL, MLFLOW_TRACKING_URI=server.uri)
    assert done.returncode == 0, done.stdout + done.stderr
    check_delivered(workplace, server.uri)


def test_a_server_that_answers_nonsense_is_told_later_by_promote(make_workplace, swept, server) -> None:
    workplace = make_workplace()
    with broken_server() as uri:
        done = workplace.run("sweep", *ONE_TRIAL, MLFLOW_TRACKING_URI=uri)
        assert done.returncode == 0, done.stdout + done.stderr
        assert waiting(workplace) == query(workplace.database, "select count(*) from outbox")[0][0]
        assert results(workplace) == results(swept)
        refused = workplace.run("promote", "tiny_dqn", MLFLOW_TRACKING_URI=uri)
        assert refused.returncode == 1
        assert f"MLflow at {uri}" in refused.stderr
        assert not query(workplace.database, "select 1 from test_readings")
    server.start()
    done = workplace.run("promote", "tiny_dqn", MLFLOW_TRACKING_URI=server.uri)
    assert done.returncode == 0, done.stdout + done.stderr
    check_delivered(workplace, server.uri)
