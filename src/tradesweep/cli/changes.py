"""Why a sweep is a new one, for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tradesweep.cli.output import cut

if TYPE_CHECKING:
    from tradesweep.sweep.differences import ChangedSince, Difference

MOST_LINES = 12
NOTHING = "nothing in its spec or its bars: another version of tradesweep counts more as part of a sweep"


def change_lines(changed: ChangedSince | None) -> list[str]:
    """What differs from the last sweep of the experiment, at most so many lines; none when nothing is new."""
    if changed is None:
        return []
    found = [f"  {describe(difference)}" for difference in changed.differences] or [f"  {NOTHING}"]
    more = [f"  and {len(found) - MOST_LINES} more"] if len(found) > MOST_LINES else []
    return [f"a new sweep, since the last one, {changed.sweep_id}, differs:", *found[:MOST_LINES], *more]


def describe(difference: Difference) -> str:
    """One difference in one line."""
    before = "not given" if difference.before is None else difference.before
    after = "not given" if difference.after is None else difference.after
    return cut(f"{difference.key}: {before} -> {after}", 100)
