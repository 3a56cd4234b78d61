"""How often Python looks for objects that only hold each other.

It looks whenever some hundred more objects live than before. What a sweep imports makes a million that live to the end,
and looking through them again and again takes a good part of the time that imports take.
"""

from __future__ import annotations

import atexit
import gc
from collections.abc import Iterator
from contextlib import contextmanager

NEW_OBJECTS = 10_000
"""So many more live than before."""
USUAL = gc.get_threshold()


def collect_seldom() -> None:
    """Until `collect_as_usual` in this process; and not at its end, when all its memory goes at once."""
    gc.set_threshold(NEW_OBJECTS)
    atexit.register(gc.freeze)


def collect_as_usual() -> None:
    """For what runs long: a few objects may hold megabytes. What lives already is not looked through again."""
    gc.freeze()
    gc.set_threshold(*USUAL)


@contextmanager
def not_collecting() -> Iterator[None]:
    """For imports. What lives at the end of the block is not looked through later either."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
