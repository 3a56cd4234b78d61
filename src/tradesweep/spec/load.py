"""From files to a SweepSpec: read, merge, override; what is read there is judged in `validate`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tradesweep.errors import NotFound, SpecError
from tradesweep.spec.keys import flatten_keys, suggest
from tradesweep.spec.models import NAME_RULE, OWN_FIELDS, SweepSpec, is_name
from tradesweep.spec.problems import describe, message_at, raise_all, show
from tradesweep.spec.validate import validated
from tradesweep.spec.yaml_loader import Document, Place, load_file, parse

Body = dict[str, Any]
Places = dict[str, Place]

TOP_KEYS = ("version", "plugins", "defaults", "experiments")
SWEEP_KEYS = ("algorithm", "fixed", "search", "description")
SWEEP_PARTS = ("algorithm", "fixed", "search")
"""What a sweep file says and an experiment may not."""
EXPERIMENT_KEYS = tuple(name for name in SweepSpec.model_fields if name not in (*SWEEP_PARTS, *OWN_FIELDS))


def list_experiments(root: Path) -> dict[str, str]:
    """Experiments of `<root>/experiments.yaml` with their descriptions."""
    top = _load_top(root)
    return {
        name: str(body.get("description") or "") if isinstance(body, dict) else ""
        for name, body in top.value["experiments"].items()
    }


def load_spec(experiment: str, *, root: Path, overrides: Sequence[str] = ()) -> SweepSpec:
    """Load one experiment with its sweep file and `--set` overrides.

    Raises NotFound for an unknown experiment, SpecError (one line a problem) for everything else.
    """
    check_name(experiment, "experiment")
    top = _load_top(root)
    settings = [_read_override(text) for text in overrides]
    body, places = _experiment(top, experiment)
    for keys, value, place in settings:
        if keys == ["sweep"]:
            body["sweep"], places["sweep"] = value, place
    _add_sweep_file(body, places, root)
    for keys, value, place in settings:
        _apply(keys, value, place, body, places)
    body["experiment"] = experiment
    _resolve_paths(body, root)
    return validated(body, places)


def check_name(name: str, what: str) -> str:
    """A name that may become part of a path."""
    if not is_name(name):
        raise SpecError(describe(what, NAME_RULE, name))
    return name


def _load_top(root: Path) -> Document:
    top = load_file(root / "experiments.yaml")
    _check_mapping(top, (), TOP_KEYS)
    version = top.value.get("version")
    if type(version) is not int or version != 1:
        raise _problem_at(top, ("version",), "must be 1", version)
    _check_mapping(top, ("experiments",))
    if not top.value["experiments"]:
        raise _problem_at(top, ("experiments",), "must name at least one experiment", {})
    for name in top.value["experiments"]:
        if not is_name(name):
            raise _problem_at(top, ("experiments", name), NAME_RULE, name)
    if top.value.get("defaults") is not None:
        _check_mapping(top, ("defaults",))
    return top


def _problem_at(document: Document, path: tuple[str, ...], rule: str, value: object, remedy: str = "") -> SpecError:
    places = _places_under(document, ())
    return SpecError(message_at(places, ".".join(path) or "the file", rule, value, remedy))


def _check_mapping(document: Document, path: tuple[str, ...], known: Sequence[str] | None = None) -> None:
    value = document.value
    for key in path:
        value = value.get(key)
    if not isinstance(value, dict):
        raise _problem_at(document, path, "must be a mapping", value)
    places = _places_under(document, ())
    unknown = [key for key in value if known is not None and key not in known]
    raise_all(
        [
            message_at(places, ".".join((*path, key)), "is not known here", value[key], suggest(key, known or ()))
            for key in unknown
        ]
    )


def _experiment(top: Document, experiment: str) -> tuple[Body, Places]:
    """The experiment over the defaults, and where each key was written."""
    experiments = top.value["experiments"]
    if experiment not in experiments:
        raise NotFound(f"experiment {experiment} is not in experiments.yaml; {suggest(experiment, experiments)}")
    _check_mapping(top, ("experiments", experiment))
    body, places = _copy(top.value.get("defaults") or {}), _places_under(top, ("defaults",))
    _merge(body, experiments[experiment], (), places)
    places |= _places_under(top, ("experiments", experiment))
    if "plugins" not in body and top.value.get("plugins") is not None:
        body["plugins"] = top.value["plugins"]
        places |= {path: place for path, place in _places_under(top, ()).items() if path.startswith("plugins")}
    _check_experiment_keys(body, places)
    return body, places


def _check_experiment_keys(body: Body, places: Places) -> None:
    problems = []
    for key in body:
        if key in SWEEP_PARTS:
            remedy = "it belongs into the file of sweeps/ that the experiment names"
            problems.append(message_at(places, key, "must not stand in experiments.yaml", body[key], remedy))
        elif key not in EXPERIMENT_KEYS:
            problems.append(message_at(places, key, "is not known here", body[key], suggest(key, EXPERIMENT_KEYS)))
    raise_all(problems)


def _places_under(document: Document, prefix: tuple[str, ...]) -> Places:
    size = len(prefix)
    return {".".join(path[size:]): place for path, place in document.places.items() if path[:size] == prefix}


def _merge(below: Body, over: Mapping[str, Any], path: tuple[str, ...], places: Places) -> None:
    """Merge `over` into `below` key by key; `params` and anything else is replaced, and its old places forgotten."""
    for key, value in over.items():
        if isinstance(value, dict) and isinstance(below.get(key), dict) and key != "params":
            _merge(below[key], value, (*path, key), places)
        else:
            below[key] = _copy(value)
            _forget(places, ".".join((*path, key)))


def _copy(value: Any) -> Any:
    return {key: _copy(deeper) for key, deeper in value.items()} if isinstance(value, dict) else value


def _forget(places: Places, path: str) -> None:
    """What stood at `path` and below it was replaced."""
    for old in [old for old in places if old == path or old.startswith(f"{path}.")]:
        del places[old]


def _add_sweep_file(body: Body, places: Places, root: Path) -> None:
    name = body.get("sweep")
    rule = "must name a file of sweeps/ without its ending"
    if not is_name(name):
        raise SpecError(message_at(places, "sweep", rule, name))
    path = root / "sweeps" / f"{name}.yaml"
    known = sorted(file.stem for file in (root / "sweeps").glob("*.yaml"))
    if name not in known:
        raise SpecError(message_at(places, "sweep", rule, name, suggest(str(name), known)))
    document = load_file(path)
    _check_mapping(document, (), SWEEP_KEYS)
    start = document.places[()]
    for part in SWEEP_PARTS:
        body[part] = document.value.get(part)
        places |= {part: start, **_places_below(document, part)}
    for part in ("fixed", "search"):
        body[part] = {} if body[part] is None else _flatten(part, body[part], places)
    if not body.get("description") and document.value.get("description") is not None:
        body["description"] = document.value["description"]
        places |= _places_below(document, "description")


def _flatten(part: str, written: Any, places: Places) -> Any:
    """`model: {hiddens: ...}` becomes `model.hiddens`; what is no mapping stays as it is."""
    if not isinstance(written, dict):
        return written
    flat: Body = {}
    for name, value in flatten_keys(written):
        if name in flat:
            rule = "must stand once, nested or with a dot"
            raise SpecError(message_at(places, f"{part}.{name}", rule, value, "remove one"))
        flat[name] = value
    return flat


def _places_below(document: Document, key: str) -> Places:
    return {".".join(path): place for path, place in document.places.items() if path[:1] == (key,)}


def _read_override(text: str) -> tuple[list[str], Any, Place]:
    """`a.b=1` as its keys, its value and its place. Keys of fixed and search are flat: one after the first dot."""
    path, sign, written = text.partition("=")
    place = Place(f"--set {show(text)}")
    keys = path.strip().split(".")
    if not sign or not all(key and key.isprintable() and key == key.strip() for key in keys):
        raise SpecError(f"{place} must look like a.b=value")
    if keys[0] in OWN_FIELDS:
        remedy = "the name of an experiment is chosen in experiments.yaml" if keys[0] == "experiment" else ""
        raise SpecError(f"{place} {keys[0]} must not be set" + (f"; {remedy}" if remedy else ""))
    if keys[0] in ("fixed", "search") and len(keys) > 1:
        keys = [keys[0], ".".join(keys[1:])]
    return keys, parse(written if written.strip() else "null", place.source, lines=False).value, place


def _apply(keys: list[str], value: Any, place: Place, body: Body, places: Places) -> None:
    """Set one value. A key set under fixed leaves search, and the other way round."""
    if keys[0] in ("fixed", "search"):
        value = _flatten(keys[0], {keys[1]: value}, places) if len(keys) == 2 else _flatten(keys[0], value, places)
        if len(keys) == 2:
            _set_keys(keys[0], keys[1], value, place, body, places)
            return
    target = body
    for index, key in enumerate(keys[:-1]):
        above = ".".join(keys[: index + 1])
        if target.get(key) is None:
            target[key], places[above] = {}, place
        if not isinstance(target[key], dict):
            what = "a list" if isinstance(target[key], list) else "a single value"
            raise SpecError(f"{place} {above} must be set as a whole, was set below; it is {what}")
        target = target[key]
    target[keys[-1]] = value
    _move_place(".".join(keys), place, places)


def _set_keys(part: str, key: str, flat: Body, place: Place, body: Body, places: Places) -> None:
    """Set training keys under `part`; they replace `key` and what stood below it, and leave the other part."""
    other = "search" if part == "fixed" else "fixed"
    for name in (part, other):
        keys = body[name] if isinstance(body[name], dict) else {}
        body[name] = {old: keys[old] for old in keys if old not in flat and not f"{old}.".startswith(f"{key}.")}
    body[part] |= flat
    _forget(places, f"{other}.{key}")
    for name in (key, *flat):
        _move_place(f"{part}.{name}", place, places)


def _move_place(path: str, place: Place, places: Places) -> None:
    _forget(places, path)
    places[path] = place


def _resolve_paths(body: Body, root: Path) -> None:
    """Files beside the spec, found from any process; a module among the plugins stays as it is."""
    market, plugins = body.get("market"), body.get("plugins")
    if isinstance(market, dict) and isinstance(market.get("path"), str):
        market["path"] = str((root / market["path"]).absolute())
    if isinstance(plugins, list):
        body["plugins"] = [
            str((root / plugin).absolute()) if isinstance(plugin, str) and plugin.endswith(".py") else plugin
            for plugin in plugins
        ]
