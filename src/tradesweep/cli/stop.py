"""`tradesweep stop`: end a running sweep in order, from another terminal."""

from __future__ import annotations

import signal
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tradesweep.cli.options import JsonOption, OptionalSweepArgument, RootOption, check_sweep_name, find_home
from tradesweep.cli.output import print_json, print_lines
from tradesweep.errors import NotFound, Refused, TradesweepError

if TYPE_CHECKING:
    from tradesweep.home import Home
    from tradesweep.store import SweepRow
    from tradesweep.sweep.driver import Driver

PATIENCE_S = 180.0
"""How long a sweep may take to end before this command gives up waiting.

Trials have 60 s to the end of the evaluation under way, their processes 10; then MLflow is told.
"""
HASTE_S = 10.0
"""How long it may take to leave at once, before it is killed."""
BEAT_S = 10.0
"""Between two signs of life while waiting."""
NowOption = Annotated[
    bool, typer.Option("--now", help="Leave at once: each running trial loses what followed its last evaluation.")
]


def stop(
    name: OptionalSweepArgument = None, now: NowOption = False, root: RootOption = Path(), json_: JsonOption = False
) -> None:
    """Stop a running sweep in order; the same sweep command goes on with it. A second stop leaves at once."""
    if name is not None:
        check_sweep_name(name)
    home = find_home(root)
    drivers = choose_drivers(home, name)
    ends = [end_driver(home, driver, now=now, quiet=json_) for driver in drivers]
    if json_:
        print_json({"stopped": [asdict(driver) | {"end": end} for driver, end in zip(drivers, ends, strict=True)]})
    elif not drivers:
        print_lines([f"nothing runs in {home.path}" if name is None else f"{name} does not run"])


def choose_drivers(home: Home, name: str | None) -> list[Driver]:
    """The processes to stop. Raises NotFound for an unknown name, Refused for a sweep that another machine runs."""
    from tradesweep.sweep.driver import list_drivers

    found = [driver for driver in list_drivers(home) if name in (None, driver.sweep_id, driver.experiment)]
    if name is not None and not found:
        check_elsewhere(find_sweeps(home, name))
    return found


def find_sweeps(home: Home, name: str) -> list[SweepRow]:
    """The sweep of that id, or all of that experiment. Raises NotFound when there is none."""
    from tradesweep.store import database_exists, open_store

    if not database_exists(home.database):
        raise NotFound(f"{home.path}: there is no sweep yet, and so no {name!r}")
    store = open_store(home.database)
    return store.list_sweeps(name) or [store.get_sweep(name)]


def check_elsewhere(sweeps: list[SweepRow]) -> None:
    """Raise Refused when one of them is run by another machine: its processes cannot be reached from here."""
    import socket

    for sweep in sweeps:
        if sweep.status == "RUNNING" and sweep.driver_host != socket.gethostname():
            raise Refused(
                f"{sweep.sweep_id} is run by process {sweep.driver_pid} on {sweep.driver_host}, which cannot be"
                " reached from here; stop it there"
            )


def end_driver(home: Home, driver: Driver, *, now: bool, quiet: bool) -> str:
    """Ask it to end and wait for it: `drained`, `left` at once, or `killed`. Raises when it goes on all the same."""
    from tradesweep.sweep.driver import reach, send, wait_for_end
    from tradesweep.sweep.signals import SAME_S

    with reach(home, driver) as process:
        if process is None:
            return "drained"
        try:
            send(process, signal.SIGTERM)
        except PermissionError:
            raise Refused(
                f"{driver.sweep_id}: process {driver.pid} belongs to another user, who alone can stop it"
            ) from None
        if not now:
            wait_patiently(driver, process, quiet=quiet)
            tell(f"{driver.sweep_id} has stopped; the same sweep command goes on with it", quiet=quiet)
            return "drained"
        time.sleep(2 * SAME_S)
        send(process, signal.SIGTERM)
        end = "left"
        if not wait_for_end(process, HASTE_S):
            send(process, signal.SIGKILL)
            wait_for_end(process, HASTE_S)
            end = "killed"
    tell(
        f"{driver.sweep_id} {'left at once' if end == 'left' else 'was killed'}; the same command goes on", quiet=quiet
    )
    return end


def wait_patiently(driver: Driver, process: int, *, quiet: bool) -> None:
    """Wait for an orderly end, with a sign of life now and then."""
    from tradesweep.sweep.driver import wait_for_end
    from tradesweep.sweep.signals import DRAIN_TRIALS_S

    tell(
        f"{driver.sweep_id}: process {driver.pid} ends each trial after the evaluation under way, within"
        f" {DRAIN_TRIALS_S:g} s ...",
        quiet=quiet,
    )
    began_s = time.monotonic()
    while not wait_for_end(process, BEAT_S):
        waited_s = time.monotonic() - began_s
        if waited_s > PATIENCE_S:
            raise TradesweepError(
                f"{driver.sweep_id}: process {driver.pid} must end within {PATIENCE_S:g} s, still runs; wait, or"
                f" leave at once with `tradesweep stop {driver.sweep_id} --now`"
            )
        tell(f"still waiting after {waited_s:.0f} s", quiet=quiet)


def tell(text: str, *, quiet: bool) -> None:
    """Say it, unless only JSON is wanted."""
    if not quiet:
        print_lines([text])
