"""Why a sweep is a new one: what differs from the last one of its experiment, key by key."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tradesweep.errors import BadInput, StoreError
from tradesweep.home import Home
from tradesweep.spec import SweepSpec
from tradesweep.spec.models import IDENTITY_FIELDS
from tradesweep.store import SweepRow, database_exists, open_store
from tradesweep.sweep.plan import Plan

LONGEST_SHA = 12
"""Characters of a hash that tell it from another one."""
NOT_GIVEN = "not given"
"""What stands for a value that is not there."""
NOTHING = "nothing in its spec or its bars: another version of tradesweep counts more as part of a sweep"
UNKNOWN = object()
"""Stands for what one of two sweeps does not have."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """One thing that both sweeps have, or only one of them; None for what it has not."""

    key: str
    before: str | None
    after: str | None

    def __str__(self) -> str:
        values = (NOT_GIVEN if value is None else value for value in (self.before, self.after))
        return f"{self.key}: {' -> '.join(values)}"


@dataclass(frozen=True, kw_only=True, slots=True)
class ChangedSince:
    """The last sweep of the experiment, and what makes the planned one another."""

    sweep_id: str
    differences: tuple[Difference, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"sweep_id": self.sweep_id, "differences": [asdict(difference) for difference in self.differences]}


def find_changes(plan: Plan, home: Home) -> ChangedSince | None:
    """What differs from the newest sweep of the experiment; None for the first one, and for a sweep that is known.

    A database that cannot be read is for the sweep itself to complain about.
    """
    try:
        known = open_store(home.database).list_sweeps(plan.spec.experiment) if database_exists(home.database) else []
    except StoreError:
        return None
    if not known or any(sweep.identity == plan.identity for sweep in known):
        return None
    return ChangedSince(sweep_id=known[0].sweep_id, differences=tuple(compare(known[0], plan)))


def check_same(plan: Plan, sweep: SweepRow) -> None:
    """Raise BadInput when the plan is not that of the sweep, with what differs."""
    if sweep.identity == plan.identity:
        return
    found = [f"  {difference}" for difference in compare(sweep, plan)] or [f"  {NOTHING}"]
    first = (
        f"{sweep.sweep_id}: the spec and its bars must be what this sweep began with, are not; give what it had with"
        f" --set, or write `tradesweep sweep {sweep.experiment}` for another one"
    )
    raise BadInput("\n".join([first, *found]))


def compare(sweep: SweepRow, plan: Plan) -> Iterator[Difference]:
    """Everything that is part of a sweep's identity and is not the same, by key."""
    before, after = read_facts(sweep), plan_facts(plan)
    for key in sorted(before.keys() | after.keys()):
        was, now = before.get(key, UNKNOWN), after.get(key, UNKNOWN)
        if was != now:
            yield Difference(key=key, before=_show(was), after=_show(now))


def plan_facts(plan: Plan) -> dict[str, Any]:
    """What a planned sweep is."""
    resources = plan.resources
    return spec_facts(plan.spec) | _own_facts(plan.market.sha256, resources.lanes, resources.env_runners)


def read_facts(sweep: SweepRow) -> dict[str, Any]:
    """What a recorded sweep is, as far as this version can read it."""
    resources = json.loads(sweep.resources_json)
    facts = _own_facts(sweep.data_sha256, resources.get("lanes"), resources.get("env_runners"))
    return _stored_facts(sweep.spec_json) | facts


def _own_facts(data_sha256: str, lanes: int | None, env_runners: int | None) -> dict[str, Any]:
    return {
        "data": f"sha256 {data_sha256[:LONGEST_SHA]}",
        "resources.lanes": lanes,
        "resources.env_runners": env_runners,
    }


def spec_facts(spec: SweepSpec) -> dict[str, Any]:
    """The values of a spec that are part of a sweep's identity, by key; `path` alone says nothing of the bars."""
    written = spec.model_dump(mode="json")
    facts = flatten({name: written[name] for name in IDENTITY_FIELDS if name != "features"})
    facts |= flatten_features(written["features"])
    facts |= flatten({"market": {key: value for key, value in written["market"].items() if key != "path"}})
    if spec.seeds > 1:  # else nothing is aggregated
        facts["aggregate"] = spec.aggregate
    return facts | {"budget.env_steps_per_trial": spec.budget.env_steps_per_trial}


def _stored_facts(spec_json: str) -> dict[str, Any]:
    try:
        return spec_facts(SweepSpec.from_json(spec_json))
    except (ValueError, KeyError, TypeError):
        return {"spec": "one that this version cannot read"}


def flatten(value: Any, path: str = "") -> dict[str, Any]:
    """Values by their dotted key."""
    if not isinstance(value, Mapping) or not value:
        return {path: value}
    found: dict[str, Any] = {}
    for key, part in value.items():
        found |= flatten(part, f"{path}.{key}" if path else str(key))
    return found


def flatten_features(features: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Their names in order, and the parameters of each by its name: one more of them shifts no other."""
    names = [str(feature["name"]) for feature in features]
    found: dict[str, Any] = {"features": names}
    for at, (name, feature) in enumerate(zip(names, features, strict=True)):
        known_as = name if names.index(name) == at else f"{name}#{names[: at + 1].count(name)}"
        found |= flatten(feature["params"], f"features.{known_as}")
    return found


def _show(value: Any) -> str | None:
    if value is UNKNOWN:
        return None
    return value if isinstance(value, str) else json.dumps(value)
