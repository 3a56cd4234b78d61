"""The app: every command by name, and every error as one message with its exit code."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import typer
from typer.core import TyperGroup

from tradesweep.cli import (
    db,
    experiments,
    export,
    gc,
    logs,
    plan,
    promote,
    smoke,
    status,
    stop,
    sweep,
    ui,
    verify,
    version,
)
from tradesweep.cli.crash import write_crash
from tradesweep.errors import TradesweepError
from tradesweep.garbage import collect_seldom

INTERRUPTED = 130
USAGE = 2


class Commands(TyperGroup):
    """Runs a command and says what went wrong: one message on stderr, or with --json one object on stdout."""

    def main(self, args: Sequence[str] | None = None, *rest: Any, **named: Any) -> Any:
        """Run, and leave the process with the command's exit code."""
        words = list(sys.argv[1:] if args is None else args)
        call = super().main
        sys.exit(run_safely(lambda: call(words, *rest, **named | {"standalone_mode": False}), words))


def run_safely(call: Callable[[], Any], words: Sequence[str]) -> int:
    """The exit code of `call`, with its error told."""
    try:
        code = call()
    except typer.Abort:
        return tell("aborted", "Abort", INTERRUPTED, words)
    except TradesweepError as error:
        return tell(str(error), type(error).__name__, error.exit_code, words)
    except UnicodeEncodeError as error:
        return tell(describe_locale(error), "BadInput", USAGE, words)
    except Exception as error:
        if hasattr(error, "format_message"):  # typer's own errors have no public base class
            return tell(describe_usage(error), "UsageError", USAGE, words)
        said = f"unexpected {type(error).__name__}: {error}; the traceback is in {write_crash(error, words)}"
        return tell(said, type(error).__name__, 1, words)
    return code if isinstance(code, int) else 0


def tell(message: str, kind: str, code: int, words: Sequence[str]) -> int:
    """Say it where it is looked for; the exit code again."""
    if "--json" in words:
        typer.echo(json.dumps({"error": {"type": kind, "message": message, "exit_code": code}}))
    else:
        typer.secho(printable(message), err=True, fg="red")
    return code


def printable(text: str) -> str:
    """What a file or a library said may hold characters that a terminal obeys; they are written out."""
    return "".join(sign if sign.isprintable() or sign == "\n" else repr(sign)[1:-1] for sign in text)


def describe_locale(error: UnicodeEncodeError) -> str:
    """A path or a name came in as bytes that the locale has no letters for."""
    return f"{ascii(error.object)[:200]}: the locale cannot write this; set a UTF-8 one, or PYTHONUTF8=1"


def describe_usage(error: Any) -> str:
    """What is wrong with the words of the command line, and where to look them up."""
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "tradesweep"
    return f"{error.format_message().rstrip('.')}; see `{command} --help`"


app = typer.Typer(
    cls=Commands,
    name="tradesweep",
    help="Hyperparameter sweeps for reinforcement-learning trading agents.",
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.command("experiments")(experiments.experiments)
app.command("plan")(plan.plan)
app.command("sweep")(sweep.sweep)
app.command("status")(status.status)
app.command("stop")(stop.stop)
app.command("logs")(logs.logs)
app.command("promote")(promote.promote)
app.command("verify")(verify.verify)
app.command("export")(export.export)
app.command("ui")(ui.ui)
app.command("smoke")(smoke.smoke)
app.command("gc")(gc.gc)
app.command("version")(version.version)
app.add_typer(db.app, name="db")


def main() -> NoReturn:
    """The console script."""
    collect_seldom()
    app(prog_name="tradesweep")
    raise AssertionError("the app leaves the process")
