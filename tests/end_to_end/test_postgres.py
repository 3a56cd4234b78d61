"""Sweeps on a PostgreSQL server: two at once, and nobody but driver and recorder ever has the password."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(600)]


@dataclass
class Running:
    """A command under way with the URL in its environment."""

    process: subprocess.Popen[str]
    home: Path
    environment: dict[str, str]
    said: str = ""
    folders: set[Path] = field(default_factory=set)


def start(workplace: Any, home: Path, url: str, *words: str) -> Running:
    environment = workplace.environment | {"TRADESWEEP_DB_URL": url, "TRADESWEEP_HOME": str(home)}
    process = subprocess.Popen(
        workplace.command(*words),
        cwd=workplace.root,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return Running(process, home, environment)


def finish(running: Running) -> str:
    running.said, _ = running.process.communicate(timeout=300)
    assert running.process.returncode == 0, running.said
    return running.said


def read(path: Path) -> bytes:
    """Also of a process or file that ends meanwhile."""
    try:
        return path.read_bytes()
    except OSError:
        return b""


def files_below(folders: Iterable[Path]) -> Iterator[Path]:
    for folder in folders:
        for parent, _, names in os.walk(folder, onerror=lambda error: None):
            yield from (Path(parent) / name for name in names if not (Path(parent) / name).is_socket())


def find_in_processes(secret: bytes, drivers: set[int]) -> list[str]:
    """Command lines of all processes, and the environments of all but the drivers, where the user put it."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        places = ["cmdline"] if int(process.name) in drivers else ["cmdline", "environ"]
        found += [f"{process / place}" for place in places if secret in read(process / place)]
    return found


def find_in_files(secret: bytes, folders: Iterable[Path]) -> list[Path]:
    return [path for path in files_below(folders) if secret in read(path)]


def test_two_sweeps_at_once_share_a_database_and_keep_its_password(
    make_workplace: Any, own_postgres: Any, tmp_path: Path
) -> None:
    workplace = make_workplace()
    url, secret = own_postgres.new_database(), own_postgres.password.encode()
    without = url.replace(f":{own_postgres.password}", "")
    urls = {"tiny_dqn": url, "tiny_ppo": f"{without}?password={own_postgres.password}"}
    sweeps = {name: start(workplace, tmp_path / name, urls[name], "sweep", name) for name in urls}
    drivers = {running.process.pid for running in sweeps.values()}
    together, looked = 0, 0
    while any(running.process.poll() is None for running in sweeps.values()):
        assert find_in_processes(secret, drivers) == []
        folders = {folder for pid in drivers for folder in Path("/tmp").glob(f"ts-{pid}-*")}
        assert find_in_files(secret, folders) == []
        looked += len(folders)
        together = max(together, count_writers(own_postgres))
        time.sleep(0.5)
    said = [finish(running) for running in sweeps.values()]
    assert together == 2, "the sweeps ran one after the other"
    assert looked > 0

    for name, running in sweeps.items():
        for words in (("status",), ("verify", name), ("promote", name, "--dry-run"), ("plan", name)):
            done = subprocess.run(
                workplace.command(*words, "--json"),
                cwd=workplace.root,
                env=running.environment,
                capture_output=True,
                text=True,
                check=False,
            )
            assert words[0] in ("promote", "plan") or done.returncode == 0, done.stdout + done.stderr
            said += [done.stdout, done.stderr]
            if words[0] == "verify":
                assert all(rule["passed"] for rule in json.loads(done.stdout)["rules"])
        assert not (running.home / "tradesweep.db").exists()
    assert [text for text in said if own_postgres.password in text] == []
    assert find_in_files(secret, [tmp_path, workplace.root]) == []
    assert len(list(files_below([tmp_path]))) > 100
    check_numbers(url)


def count_writers(server: Any) -> int:
    """Sweeps that somebody holds the lock of: each writer shares one lock and has one of its own."""
    exclusive = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND mode = 'ExclusiveLock' AND granted"
    return int(server.execute(exclusive)[0][0])


def check_numbers(url: str) -> None:
    """Both sweeps are whole and nobody's number is another's."""
    with psycopg.connect(url) as connection:
        rows = connection.execute(
            "SELECT s.experiment, s.status, count(DISTINCT t.trial_id), sum(t.iterations) FROM sweeps s"
            " JOIN trials t USING (sweep_id) GROUP BY s.sweep_id ORDER BY s.experiment"
        ).fetchall()
        undelivered = connection.execute("SELECT count(*) FROM outbox WHERE delivered_at IS NULL").fetchone()
    assert [(row[0], row[1], row[2], int(row[3])) for row in rows] == [
        ("tiny_dqn", "FINISHED", 3, 24),
        ("tiny_ppo", "FINISHED", 2, 16),
    ]
    assert undelivered == (0,)


@pytest.mark.parametrize(
    ("url", "remedy"),
    [
        ("postgresql://me:s3cr3t@127.0.0.1:1/ts", "no server answers there; start it, or check host and port"),
        ("postgresql://me:s3cr3t@no.such.host.invalid/ts", "there is no host of that name"),
        ("mysql://me:s3cr3t@127.0.0.1/ts", "must begin with sqlite or postgresql or postgres://, began with mysql://"),
        ("host=127.0.0.1 password=s3cr3t", "TRADESWEEP_DB_URL must be a URL"),
    ],
)
def test_a_url_that_leads_nowhere_is_one_line_and_makes_nothing(
    make_workplace: Any, tmp_path: Path, url: str, remedy: str
) -> None:
    workplace = make_workplace()
    for words in (("status",), ("verify",), ("sweep", "tiny_dqn"), ("db", "upgrade")):
        running = start(workplace, tmp_path / "home", url, *words)
        said, _ = running.process.communicate(timeout=120)
        assert running.process.returncode in (1, 2), said
        assert remedy in said
        assert "Traceback" not in said
        assert "s3cr3t" not in said
    assert not (tmp_path / "home").exists()
