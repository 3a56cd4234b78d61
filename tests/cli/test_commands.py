from __future__ import annotations

import gc
import json
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tradesweep.cli.ui import server_environment
from tradesweep.garbage import NEW_OBJECTS, USUAL
from tradesweep.names import (
    Metric,
    ProducerKey,
    ProducerRole,
    Record,
    SweepEnd,
    SweepStatus,
    TrialPhase,
    TrialStatus,
)
from tradesweep.store import DecodedBatch, Writer
from tradesweep.sweep.driver import be_driver

THREE_NUMBERS = re.compile(r"validation Sharpe -?[\d.]+ \| luck hurdle [\d.]+ \| deflated -?[\d.]+")


def break_a_rule(world: Any) -> None:
    with sqlite3.connect(str(world.home.database)) as db:
        db.execute("UPDATE episodes SET pnl = pnl + 1 WHERE role = 'train'")


# --- plan -----------------------------------------------------------------------------------------------------


def test_a_plan_says_what_it_costs_and_writes_nothing(command: Any, home: Any) -> None:
    said = command("plan", "small")
    assert said.code == 0
    for words in (
        "trials       3, ",
        "env steps    3,000",
        "luck hurdle  0.95",
        "look-ahead   passed",
        "read by promote",
    ):
        assert words in said.out
    assert not home.path.exists()


def test_a_plan_compares_its_disk_use_with_what_is_free(
    command: Any, home: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert re.search(
        r"rows +about 8,970 steps, [\d.]+ MB on disk, [\d.]+ [GT]B are free\n", command("plan", "small").out
    )
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=5000))
    assert f"\nwarning: {home.path}: about 5.0 MB are needed on disk, 0.0 MB are free; " in command("plan", "small").out
    told = command("plan", "small", "--json").json
    assert told["free_disk_bytes"] == 5000
    assert sum("are needed on disk" in warning for warning in told["warnings"]) == 1


def test_a_plan_of_very_much_is_shown_in_plain_numbers(command: Any, home: Any) -> None:
    much = "budget.env_steps_per_trial=1000000000000 budget.trials=100000 recording.max_gb=1e12"
    said = command("plan", "small", "--set", much).out
    assert "PB on disk" in said or "EB on disk" in said
    assert "e+" not in said


def test_gpus_that_are_not_there_are_refused_by_the_plan(
    command: Any, home: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tradesweep.sweep.machine.count_gpus", lambda: 0)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    said = command("plan", "small", "--set", "resources.gpus_per_trial=1")
    assert said.code == 2
    assert said.err.startswith(
        "--set resources.gpus_per_trial=1 resources.gpus_per_trial must be at most the 0 GPUs of"
    )
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert command("plan", "small", "--set", "resources.gpus_per_trial=1").code == 0, "a cluster has its own"


HEAVY = ("ray", "torch", "mlflow", "numba", "optuna")


def test_a_plan_imports_nothing_heavy_also_where_sweeps_are_known(swept: Any) -> None:
    code = (
        "import sys\nfrom tradesweep.cli.main import app\n"
        "try:\n    app(['plan', 'small', '--set', 'env.fee_bps=2'])\n"
        "except SystemExit as end:\n    assert end.code == 0, end.code\n"
        f"print('heavy:', sorted({{*{HEAVY!r}}} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert f"a new sweep, since the last one, {swept.sweep_id}, differs:" in done.stdout
    assert done.stdout.splitlines()[-1] == "heavy: []"


def test_settings_change_the_plan(command: Any, home: Any) -> None:
    told = command("plan", "small", "--set", "budget.trials=5 seed=1", "--set", "env.fee_bps=2", "--json").json
    assert told["trials"] == 5
    assert told["sweep_id"] != command("plan", "small", "--json").json["sweep_id"]


# --- status ---------------------------------------------------------------------------------------------------


def test_before_the_first_sweep_status_says_so(command: Any, home: Any) -> None:
    assert (command("status").code, command("status", "--json").json) == (0, {"sweeps": []})
    assert command("status", "small").code == 2
    assert not home.path.exists()


def test_status_lists_sweeps_with_three_numbers(command: Any, swept: Any) -> None:
    (told,) = command("status", "--json").json["sweeps"]
    assert (told["sweep_id"], told["status"], told["ended"], told["failed"]) == (swept.sweep_id, "FINISHED", 3, 0)
    assert told["deflated"] == told["best_sharpe"] - told["hurdle"]
    header, line = command("status").out.splitlines()
    assert {"Sharpe", "hurdle", "deflated"} <= set(header.split())
    assert line.startswith(swept.sweep_id)


@pytest.mark.parametrize("by", ["experiment", "sweep"])
def test_status_of_one_sweep_is_its_leaderboard(command: Any, swept: Any, by: str) -> None:
    said = command("status", "small" if by == "experiment" else swept.sweep_id)
    assert said.code == 0
    assert THREE_NUMBERS.search(said.out)
    assert "buy-and-hold" in said.out
    assert "lr=0.002" in said.out


def test_status_says_why_a_trial_failed(command: Any, world: Any) -> None:
    with world.writer() as writer:
        world.open_sweep(writer)
        error = "Traceback ...\nTrialDiverged: loss must be finite, was nan\n"
        world.write_trial(writer, 0, 3.0, status=TrialStatus.DIVERGED, error=error)
        writer.close_sweep(world.sweep_id, SweepStatus.FAILED)
    assert "trial 0 DIVERGED: TrialDiverged: loss must be finite, was nan" in command("status", "small").out
    assert command("status", "small", "--json").json["errors"] == {"0": error}


def test_points_with_several_seeds_are_shown_as_they_are_ranked(command: Any, world: Any) -> None:
    with world.writer() as writer:
        world.open_sweep(writer)
        for number, (weight, point_no, seed_no) in enumerate([(5.0, 0, 0), (0.0, 0, 1), (3.0, 1, 0), (2.0, 1, 1)]):
            world.write_trial(writer, number, weight, point_no=point_no, seed_no=seed_no)
        world.write_trial(writer, 4, 3.0, point_no=1, seed_no=2, phase=TrialPhase.CONFIRM)
        writer.close_sweep(world.sweep_id, SweepStatus.FINISHED, SweepEnd.PATIENCE)
    said = command("status", "small").out
    assert max(map(len, said.splitlines())) <= 80, said
    for words in (
        "ended early: no better best",
        "its point 1: mean ",
        "of 1 fresh seeds",
        "point 1, fresh seed 2: lr=",
    ):
        assert words in said
    told = command("status", "small", "--json").json
    assert [point["point_no"] for point in told["leaderboard"]["points"]] == [1, 0]
    assert (told["sweep"]["phase"], told["sweep"]["points"]) == ("confirm", 2)
    assert told["sweep"]["ended_by"] == "budget.patience_trials"


def test_a_plan_says_how_points_become_trials_and_what_ends_them(command: Any, home: Any) -> None:
    settings = "seeds=2 budget.env_steps=9000"
    said = command("plan", "small", "--set", settings, "--set", "confirm={top: 1, seeds: 4}").out
    assert "trials       3 points x 2 seeds = 6, then the best 1 on 4 fresh seeds = 10, " in said
    assert "limits       9,000 env steps over all trials" in said


def test_a_sweep_whose_process_is_gone_is_lost(command: Any, world: Any) -> None:
    with world.writer() as writer:
        world.open_sweep(writer, driver_host=socket.gethostname())
    assert command("status", "--json").json["sweeps"][0]["status"] == "LOST"
    assert f"`tradesweep sweep {world.sweep_id}` goes on with it" in command("status", "small").out


def test_a_sweep_whose_process_lives_is_running(command: Any, world: Any) -> None:
    with world.writer() as writer:
        world.open_sweep(writer, driver_host=socket.gethostname())
    with be_driver(world.home, world.sweep_id, "small"):
        assert command("status", "--json").json["sweeps"][0]["status"] == "RUNNING"


def run_a_trial(world: Any, *, silent_s: float, **metrics: float) -> None:
    """A running sweep whose one trial has one result, and whose last commit was so long ago."""
    now = time.time_ns() // 1000
    with Writer(world.home.database, clock_us=lambda: now - int(silent_s * 1e6)) as writer:
        world.open_sweep(writer, driver_host=socket.gethostname())
        trial_id = world.open_trial(writer, 0)
        key = ProducerKey(world.sweep_id, trial_id, writer.start_attempt(trial_id, 1), ProducerRole.TRIAL, 0)
        grant = writer.hello(key, pid=1, host="here")
        rows = {Record.ITERATIONS: [(1, now, 100, 10, 1, 2.0, json.dumps(metrics))]}
        writer.apply(DecodedBatch(producer=key, epoch=grant.epoch, seq=1, rows=rows))


def test_status_of_a_running_sweep_says_how_fast_it_records(command: Any, world: Any) -> None:
    run_a_trial(world, silent_s=0, **{Metric.RECORDER_ROWS_PER_S: 12_345.6, Metric.RECORDER_LAG: 0.021})
    with be_driver(world.home, world.sweep_id, "small"):
        said = command("status", "small").out
        told = command("status", "small", "--json").json["recorder"]
    assert re.search(r"^recorder: 12,346 rows/s, slowest batch 0\.02 s, last commit \d+ s ago$", said, re.MULTILINE)
    assert (told["rows_per_s"], told["lag_s"]) == (12_345.6, 0.021)
    assert told["free_bytes"] > 0


def test_status_says_when_the_database_has_been_silent_for_long(command: Any, world: Any) -> None:
    run_a_trial(world, silent_s=135)
    with be_driver(world.home, world.sweep_id, "small"):
        said = command("status", "small").out
    silence = r"^nothing committed for 1[3-9]\d s: the database waits, or no trial moves \(free disk: [\d,]+ MB\)$"
    assert re.search(silence, said, re.MULTILINE)
    assert "recorder:" not in said


def test_status_of_a_sweep_that_ended_says_nothing_of_the_recorder(command: Any, swept: Any) -> None:
    assert "last commit" not in command("status", "small").out
    assert command("status", "small", "--json").json["recorder"] is None


def test_watch_shows_it_again_until_ctrl_c(command: Any, swept: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses = iter([None, None])

    def pause(seconds: float) -> None:
        if next(pauses, "over") == "over":
            raise KeyboardInterrupt

    monkeypatch.setattr("tradesweep.cli.status.time", SimpleNamespace(time=time.time, sleep=pause))
    gc.set_threshold(NEW_OBJECTS)
    said = command("status", "--watch")
    assert gc.get_threshold() == USUAL, "it may run for days"
    assert said.code == 130
    assert said.out.count(swept.sweep_id) == 3


# --- logs -----------------------------------------------------------------------------------------------------


def test_logs_are_the_drivers_or_a_trials(command: Any, swept: Any) -> None:
    folder = swept.home.logs(swept.sweep_id)
    folder.mkdir(parents=True)
    (folder / "driver.log").write_text("one\ntwo\nthree\n")
    (folder / "trial-0001.log").write_text("of trial 1\n")
    assert command("logs", "small").out.splitlines()[1:] == ["one", "two", "three"]
    assert command("logs", "small", "--lines", "1").out.splitlines()[1:] == ["three"]
    assert command("logs", "small", "1", "--json").json["lines"] == ["of trial 1"]
    missing = command("logs", "small", "7")
    assert missing.code == 2
    assert "there are: driver.log, trial-0001.log" in missing.err


# --- verify ---------------------------------------------------------------------------------------------------


def test_verify_is_green_on_a_good_sweep(command: Any, swept: Any) -> None:
    said = command("verify")
    assert said.code == 0
    assert "pass  checkpoint_files" in said.out
    assert "FAIL" not in said.out
    assert command("verify", "small", "--json").json["passed"] is True


def test_a_broken_rule_is_shown_with_its_rows(command: Any, swept: Any) -> None:
    break_a_rule(swept)
    said = command("verify")
    assert said.code == 1
    assert re.search(r"FAIL  episode_pnl: .*\n      episode_no=\d+", said.out)
    told = command("verify", "--json")
    assert (told.code, told.json["passed"]) == (1, False)


def test_a_changed_checkpoint_file_is_found(command: Any, swept: Any) -> None:
    (swept.folder(1) / "policy.json").write_text("{}")
    said = command("verify")
    assert said.code == 1
    assert "FAIL  checkpoint_files" in said.out


def test_verify_before_the_first_sweep_is_an_error(command: Any, home: Any) -> None:
    said = command("verify")
    assert said.code == 1
    assert "there is no database; run a sweep first" in said.err


# --- promote --------------------------------------------------------------------------------------------------


def test_a_dry_run_shows_the_table_and_says_that_test_was_not_read(command: Any, swept: Any) -> None:
    said = command("promote", "small", "--dry-run")
    assert said.code == 0
    assert THREE_NUMBERS.search(said.out)
    assert len(re.findall(r"^pass  ", said.out, re.MULTILINE)) == 6
    assert "the test split was not read" in said.out
    assert "test Sharpe" not in said.out


def test_promoting_twice_says_so(command: Any, swept: Any) -> None:
    first = command("promote", "small")
    assert first.code == 0
    assert re.search(r"test Sharpe -?[\d.]+ \| pnl", first.out)
    assert "model small version 1 is champion now" in first.out
    second = command("promote", "small")
    assert second.code == 0
    assert "read by an earlier promotion" in second.out
    assert "version 1 was champion already; nothing changed" in second.out


def test_a_refusal_shows_the_table_and_exits_3(command: Any, swept: Any) -> None:
    break_a_rule(swept)
    for words in (("promote", "small"), ("promote", "small", "--dry-run")):
        said = command(*words)
        assert said.code == 3
        assert "FAIL  database" in said.out
        assert "the gate refused: database" in said.err
        told = command(*words, "--json")
        assert told.code == 3
        assert told.json["error"]["exit_code"] == 3
        assert [check["name"] for check in told.json["error"]["checks"] if not check["passed"]] == ["database"]


def test_a_forced_promotion_needs_a_reason(command: Any, swept: Any) -> None:
    break_a_rule(swept)
    for words in (("--force",), ("--force", "--reason", " "), ("--reason", "x")):
        said = command("promote", "small", *words)
        assert (said.code, said.out) == (2, "")
    said = command("promote", "small", "--force", "--reason", "a known row")
    assert said.code == 0
    assert "is champion now (FORCED)" in said.out
    assert swept.store.list_promotions()[0].reason == "a known row"


def test_promote_before_the_first_sweep_is_bad_input(command: Any, home: Any) -> None:
    said = command("promote", "small")
    assert said.code == 2
    assert "there is no sweep yet" in said.err
    assert not home.path.exists()


def test_the_variable_names_another_database_than_the_file_of_the_home(
    command: Any, swept: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert command("status").code == 0
    monkeypatch.setenv("TRADESWEEP_DB_URL", f"sqlite:///{tmp_path / 'other.db'}")
    assert "small" not in command("status").out
    monkeypatch.setenv("TRADESWEEP_DB_URL", "postgresql://somebody:secret@127.0.0.1:1/db")
    said = command("status")
    assert said.code == 1
    assert "postgresql://127.0.0.1:1/db: no server answers there; start it" in said.err
    assert "secret" not in said.out + said.err


def test_mlflow_is_not_told_where_the_database_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRADESWEEP_DB_URL", "postgresql://somebody:secret@there/db")
    assert "secret" not in str(server_environment())
    assert server_environment()["PATH"] == os.environ["PATH"]


# --- ui -------------------------------------------------------------------------------------------------------


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_ui_before_the_first_sweep_says_so(command: Any, home: Any) -> None:
    said = command("ui")
    assert said.code == 2
    assert "there are no runs yet" in said.err
    assert not home.path.exists()


def test_a_port_in_use_is_refused(command: Any, swept: Any) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        said = command("ui", "--port", str(port))
    assert (said.code, said.out) == (2, "")
    assert f"--port must be free, {port} is not" in said.err


def test_a_tracking_server_is_only_named(command: Any, home: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://somewhere:5000")
    assert command("ui", "--json").json == {"url": "http://somewhere:5000"}


@pytest.mark.slow
def test_the_pages_are_served_on_this_machine_alone(swept: Any) -> None:
    port = free_port()
    words = [sys.executable, "-m", "tradesweep", "ui", "--port", str(port)]
    server = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=Path(swept.home.path))
    try:
        assert wait_for(f"http://127.0.0.1:{port}/health") == b"OK"
        environment = Path(f"/proc/{server.pid}/environ").read_bytes().split(b"\0")
        assert b"MLFLOW_DISABLE_TELEMETRY=true" in environment
        assert b"MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false" in environment
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(30)


def wait_for(url: str) -> bytes:
    deadline = time.monotonic() + 90
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                return bytes(answer.read())
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)


# --- json -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words", [("experiments",), ("version",), ("plan", "small"), ("status",), ("status", "small"), ("verify",)]
)
def test_json_is_one_object(command: Any, swept: Any, words: tuple[str, ...]) -> None:
    said = command(*words, "--json")
    assert said.code == 0
    assert isinstance(json.loads(said.out), dict)
