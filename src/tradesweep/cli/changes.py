"""Why a sweep is a new one, for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tradesweep.cli.output import cut

if TYPE_CHECKING:
    from tradesweep.sweep.differences import ChangedSince, Difference

MOST_LINES = 12


def change_lines(changed: ChangedSince | None) -> list[str]:
    """What differs from the last sweep of the experiment, at most so many lines; none when nothing is new."""
    if changed is None:
        return []
    from tradesweep.sweep.differences import NOTHING

    found = [f"  {describe(difference)}" for difference in changed.differences] or [f"  {NOTHING}"]
    more = [f"  and {len(found) - MOST_LINES} more"] if len(found) > MOST_LINES else []
    return [f"a new sweep, since the last one, {changed.sweep_id}, differs:", *found[:MOST_LINES], *more]


def describe(difference: Difference) -> str:
    """One difference in one line."""
    return cut(str(difference), 100)
