from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from tradesweep.cli import main as main_module
from tradesweep.cli.main import app
from tradesweep.errors import Refused, SpecError, StoreLocked

REPORT = (
    "import sys, atexit;"
    "atexit.register(lambda: print('HEAVY', sorted({'ray', 'torch'} & set(sys.modules)), file=sys.stderr));"
    "sys.argv = ['tradesweep', *{words!r}];"
    "from tradesweep.cli.main import main; main()"
)


def run_process(*words: str) -> subprocess.CompletedProcess[str]:
    """A process of its own that says at its end which heavy packages it holds."""
    code = REPORT.replace("{words!r}", repr(list(words)))
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize(
    "words",
    [
        ("--help",),
        ("plan", "small"),
        ("sweep", "small"),
        ("status",),
        ("status", "small"),
        ("verify",),
        ("promote", "small", "--dry-run"),
    ],
)
def test_commands_that_read_import_neither_ray_nor_torch(swept: Any, words: tuple[str, ...]) -> None:
    done = run_process(*words)
    assert (done.returncode, done.stderr.strip().splitlines()[-1]) == (0, "HEAVY []")


def test_help_needs_typer_alone() -> None:
    code = (
        "import sys; from tradesweep.cli.main import app;"
        "print(sorted({'pydantic', 'numpy', 'pandas', 'sqlalchemy', 'mlflow', 'rich.live'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


def test_python_m_tradesweep_is_the_same_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tradesweep", "version", "--json"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert json.loads(done.stdout)["tradesweep"] == "0.1.0"


def test_every_command_of_the_design_is_there(command: Any) -> None:
    said = command("--help")
    assert said.code == 0
    for name in ["experiments", "plan", "sweep", "status", "logs", "promote", "verify", "ui", "smoke", "db", "version"]:
        assert f"\n  {name} " in said.out


@pytest.mark.parametrize("name", [info.name for info in app.registered_commands])
def test_every_command_takes_json(command: Any, name: str) -> None:
    assert "--json" in command(name, "--help").out


# --- errors ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "code"),
    [(SpecError("x.yaml:1 a must be b, was c"), 2), (Refused("no"), 3), (StoreLocked("in use"), 1)],
)
def test_an_error_is_one_message_and_its_exit_code(
    command: Any, home: Any, monkeypatch: pytest.MonkeyPatch, error: Exception, code: int
) -> None:
    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr("tradesweep.spec.list_experiments", fail)
    said = command("experiments")
    assert (said.code, said.out, said.err) == (code, "", f"{error}\n")
    told = command("experiments", "--json")
    assert (told.code, told.err) == (code, "")
    assert told.json == {"error": {"type": type(error).__name__, "message": str(error), "exit_code": code}}


def test_what_nobody_expected_leaves_a_crash_log(command: Any, home: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr("tradesweep.spec.list_experiments", fail)
    said = command("experiments")
    (log,) = (home.path / "crashes").iterdir()
    assert (said.code, said.err) == (1, f"unexpected ZeroDivisionError: by zero; the traceback is in {log}\n")
    text = log.read_text()
    assert "command: tradesweep experiments" in text
    assert "Traceback" in text


def test_a_crash_log_finds_the_root_of_the_command(
    command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise ZeroDivisionError

    (tmp_path / "experiments.yaml").touch()
    monkeypatch.delenv("TRADESWEEP_HOME", raising=False)
    monkeypatch.setattr("tradesweep.spec.list_experiments", fail)
    for words in (("--root", str(tmp_path)), (f"--root={tmp_path}",)):
        assert command("experiments", *words).code == 1
    assert len(list((tmp_path / "runs" / "crashes").iterdir())) >= 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("frobnicate",), "No such command 'frobnicate'; see `tradesweep --help`"),
        (("plan",), "Missing argument 'EXPERIMENT'; see `tradesweep plan --help`"),
        (("plan", "small", "--nope"), "No such option: --nope; see `tradesweep plan --help`"),
    ],
)
def test_wrong_words_exit_2(command: Any, words: tuple[str, ...], message: str) -> None:
    said = command(*words)
    assert (said.code, said.err) == (2, f"{message}\n")
    assert command(*words, "--json").json["error"]["exit_code"] == 2


def test_an_error_never_carries_what_a_terminal_obeys(monkeypatch: pytest.MonkeyPatch, command: Any, home: Any) -> None:
    def fail(*_: Any) -> None:
        raise SpecError("a.csv:7 time must be a day, was \x1b]0;owned\x07 \u202ecba\nwrite it as 2020-01-31, 中")

    monkeypatch.setattr("tradesweep.spec.list_experiments", fail)
    said = command("experiments")
    assert said.code == 2
    assert said.err == "a.csv:7 time must be a day, was \\x1b]0;owned\\x07 \\u202ecba\nwrite it as 2020-01-31, 中\n"


def test_ctrl_c_is_130(monkeypatch: pytest.MonkeyPatch, command: Any, home: Any) -> None:
    def fail(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("tradesweep.spec.list_experiments", fail)
    assert command("experiments").code == 130


def test_an_aborted_question_is_130() -> None:
    def fail() -> None:
        raise typer.Abort

    assert main_module.run_safely(fail, []) == 130


# --- bad input ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["plan", "sweep"])
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("nope",), "experiment nope is not in experiments.yaml"),
        (("../x",), "must be letters, digits, '.'"),
        (("a/b",), "must be letters, digits, '.'"),
        (("",), "must be letters, digits, '.'"),
        (("x" * 65,), "at most 64"),
        (("small", "--set", "env.fee_bsp=1"), "--set env.fee_bsp=1 env.fee_bsp is not known here"),
        (("small", "--set", "fixed.minibatch_size=0"), "--set fixed.minibatch_size=0 fixed.minibatch_size must"),
        (("small", "--set", "env.reward=luck"), "--set env.reward=luck env.reward must be one of"),
        (("broken",), "bars.csv"),
    ],
)
def test_bad_input_exits_2_and_nothing_is_written(
    command: Any, home: Any, verb: str, words: tuple[str, ...], message: str
) -> None:
    said = command(verb, *words)
    assert (said.code, said.out) == (2, "")
    assert message in said.err
    assert "Traceback" not in said.err
    assert not home.path.exists()


@pytest.mark.parametrize("verb", ["status", "logs", "verify", "promote"])
@pytest.mark.parametrize("name", ["../x", "/etc", "a b", "-", "x" * 97])
def test_bad_names_are_refused_before_anything_is_looked_up(command: Any, swept: Any, verb: str, name: str) -> None:
    said = command(verb, "--", name)
    assert (said.code, said.out) == (2, "")
    assert "must be letters, digits" in said.err


@pytest.mark.parametrize("verb", ["status", "logs", "verify", "promote"])
def test_an_unknown_sweep_is_named_with_those_there_are(command: Any, swept: Any, verb: str) -> None:
    said = command(verb, "other")
    assert (said.code, said.out) == (2, "")
    assert f"there is no sweep or experiment 'other'; there are: {swept.sweep_id}" in said.err


def test_a_folder_without_a_spec_says_what_to_do(command: Any, home: Any, tmp_path: Path) -> None:
    said = command("experiments", "--root", str(tmp_path))
    assert said.code == 2
    assert "there is no experiments.yaml; run from the folder that holds it, or give --root" in said.err


def test_the_working_directory_is_the_default_root(home: Any, written_root: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "TRADESWEEP_ROOT"}
    done = subprocess.run(
        [sys.executable, "-m", "tradesweep", "experiments", "--json"],
        cwd=written_root,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert json.loads(done.stdout)["experiments"][0] == {"name": "small", "description": "a small planted market"}
