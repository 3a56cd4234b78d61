from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tradesweep.cli.main import main
from tradesweep.garbage import NEW_OBJECTS, USUAL, collect_as_usual, not_collecting

AT_THE_END = """
import atexit, gc
from tradesweep.garbage import collect_seldom
atexit.register(lambda: print(gc.get_freeze_count() > 1000))
collect_seldom()
print(gc.get_freeze_count(), gc.get_threshold()[0])
"""


@pytest.fixture(autouse=True)
def thawed() -> Iterator[None]:
    yield
    gc.unfreeze()
    gc.set_threshold(*USUAL)


def test_a_process_collects_seldom_and_not_at_its_end() -> None:
    said = subprocess.run([sys.executable, "-c", AT_THE_END], capture_output=True, text=True, check=True).stdout
    assert said.split() == ["0", str(NEW_OBJECTS), "True"]


def test_the_command_collects_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tradesweep.cli.main.app", lambda prog_name: None)
    with pytest.raises(AssertionError):
        main()
    assert gc.get_threshold()[0] == NEW_OBJECTS


def test_what_runs_long_collects_as_usual_and_leaves_alone_what_lived_before() -> None:
    gc.set_threshold(NEW_OBJECTS)
    collect_as_usual()
    assert gc.get_threshold() == USUAL
    assert gc.get_freeze_count() > 1000


def test_nothing_is_collected_in_the_block_and_what_it_left_is_set_aside() -> None:
    with not_collecting():
        assert not gc.isenabled()
        kept = [[number] for number in range(1000)]
    assert gc.isenabled()
    assert gc.get_freeze_count() > len(kept)


def test_collecting_goes_on_after_an_error() -> None:
    with pytest.raises(ImportError), not_collecting():
        raise ImportError
    assert gc.isenabled()
