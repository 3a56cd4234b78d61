"""From files to a SweepSpec: read, merge, override, validate; every problem of a spec in one located error."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from tradesweep.errors import NotFound, SpecError
from tradesweep.spec.distributions import Choice, Grid, LogUniform, QUniform, RandInt, Uniform
from tradesweep.spec.keys import ALGORITHMS, keys_of, place_of, suggest
from tradesweep.spec.models import NAME_PATTERN, SweepSpec, message_at
from tradesweep.spec.yaml_loader import Document, Place, load_file, parse

Places = dict[str, Place]

TOP_KEYS = ("version", "plugins", "defaults", "experiments")
SWEEP_KEYS = ("algorithm", "fixed", "search", "description")
FLATTENED = ("model", "replay_buffer_config")


def list_experiments(root: Path) -> dict[str, str]:
    """Experiments of `<root>/experiments.yaml` with their descriptions."""
    top = _load_top(root)
    return {
        name: str(body.get("description", "")) if isinstance(body, dict) else ""
        for name, body in top.value["experiments"].items()
    }


def load_spec(experiment: str, *, root: Path, overrides: Sequence[str] = ()) -> SweepSpec:
    """Load one experiment with its sweep file and `--set` overrides.

    Raises NotFound for an unknown experiment, SpecError (one line a problem) for everything else.
    """
    check_name(experiment, "experiment")
    top = _load_top(root)
    body, places = _experiment(top, experiment)
    sweep_name = _sweep_name(body, places)
    for override in overrides:
        if override.split("=", 1)[0].strip() == "sweep":
            sweep_name = check_name(str(_override(override)[1]), "sweep")
            body["sweep"] = sweep_name
    _add_sweep_file(body, places, root, sweep_name)
    for override in overrides:
        _apply(override, body, places)
    body["experiment"] = experiment
    body.setdefault("plugins", top.value.get("plugins") or [])
    _resolve_path(body, root)
    return _validated(body, places)


def check_name(name: str, what: str) -> str:
    """A name that may become part of a path."""
    if not re.fullmatch(NAME_PATTERN.strip("^$"), name):
        raise SpecError(
            f"{what} must be letters, digits, '.', '_' and '-', beginning with a letter or digit, at most 64, was"
            f" {name[:80]!r}"
        )
    return name


def _load_top(root: Path) -> Document:
    path = root / "experiments.yaml"
    if not path.is_file():
        raise SpecError(f"{path}: must exist; run from the folder that holds experiments.yaml, or give --root")
    top = load_file(path)
    _check_mapping(top.value, top, (), TOP_KEYS)
    if top.value.get("version") != 1:
        raise SpecError(f"{_at(top, ('version',))} version must be 1, was {top.value.get('version')!r}")
    experiments = top.value.get("experiments")
    if not isinstance(experiments, dict) or not experiments:
        raise SpecError(f"{_at(top, ('experiments',))} experiments must name at least one experiment")
    for name in experiments:
        if not re.fullmatch(NAME_PATTERN.strip("^$"), name):
            raise SpecError(
                f"{_at(top, ('experiments', name))} experiments.{name[:80]} is not a valid name;"
                " use letters, digits, '.', '_' and '-'"
            )
    if not isinstance(top.value.get("defaults") or {}, dict):
        raise SpecError(f"{_at(top, ('defaults',))} defaults must be a mapping")
    return top


def _at(document: Document, path: tuple[str, ...]) -> Place:
    while path and path not in document.places:
        path = path[:-1]
    return document.places[path]


def _check_mapping(value: Any, document: Document, path: tuple[str, ...], known: Sequence[str]) -> None:
    if not isinstance(value, dict):
        raise SpecError(f"{_at(document, path)} {'.'.join(path) or 'the file'} must be a mapping, was {value!r:.80}")
    problems = [
        f"{_at(document, (*path, key))} {'.'.join((*path, key))} is not known here; {suggest(key, known)}"
        for key in value
        if key not in known
    ]
    if problems:
        raise SpecError("\n".join(problems))


def _experiment(top: Document, experiment: str) -> tuple[dict[str, Any], Places]:
    """The experiment over the defaults, and where each key was written."""
    experiments = top.value["experiments"]
    if experiment not in experiments:
        raise NotFound(f"experiment {experiment} is not in experiments.yaml; {suggest(experiment, experiments)}")
    body = experiments[experiment]
    if not isinstance(body, dict):
        raise SpecError(f"{_at(top, ('experiments', experiment))} experiments.{experiment} must be a mapping")
    merged = _merge(top.value.get("defaults") or {}, body)
    places = _places_under(top, ("defaults",)) | _places_under(top, ("experiments", experiment))
    return merged, places


def _places_under(document: Document, prefix: tuple[str, ...]) -> Places:
    size = len(prefix)
    return {".".join(path[size:]): place for path, place in document.places.items() if path[:size] == prefix}


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Mappings are merged key by key, anything else is replaced; neither argument is changed."""
    merged = {key: _copy(value) for key, value in base.items()}
    for key, value in over.items():
        below = merged.get(key)
        deeper = isinstance(value, dict) and isinstance(below, dict) and key != "params"
        merged[key] = _merge(below or {}, value) if deeper else _copy(value)
    return merged


def _copy(value: Any) -> Any:
    return _merge(value, {}) if isinstance(value, dict) else value


def _sweep_name(body: Mapping[str, Any], places: Places) -> str:
    name = body.get("sweep")
    if not isinstance(name, str) or not re.fullmatch(NAME_PATTERN.strip("^$"), name):
        raise SpecError(message_at(places, "sweep", "must name a file of sweeps/ without its ending", name))
    return name


def _add_sweep_file(body: dict[str, Any], places: Places, root: Path, name: str) -> None:
    path = root / "sweeps" / f"{name}.yaml"
    if not path.is_file():
        known = sorted(file.stem for file in (root / "sweeps").glob("*.yaml"))
        raise SpecError(message_at(places, "sweep", "must name a file of sweeps/", name, suggest(name, known)))
    document = load_file(path)
    _check_mapping(document.value, document, (), SWEEP_KEYS)
    places |= {key: place for key, place in _places_under(document, ()).items() if key}
    body["algorithm"] = document.value.get("algorithm")
    for part in ("fixed", "search"):
        written = document.value.get(part) or {}
        if not isinstance(written, dict):
            raise SpecError(f"{_at(document, (part,))} {part} must be a mapping of keys")
        body[part] = _flatten(written)
    if not body.get("description") and document.value.get("description"):
        body["description"] = document.value["description"]


def _flatten(written: Mapping[str, Any]) -> dict[str, Any]:
    """`model: {hiddens: ...}` becomes `model.hiddens`."""
    flat: dict[str, Any] = {}
    for key, value in written.items():
        if key in FLATTENED and isinstance(value, dict):
            flat |= {f"{key}.{below}": deeper for below, deeper in value.items()}
        else:
            flat[key] = value
    return flat


def _override(text: str) -> tuple[list[str], Any]:
    path, sign, written = text.partition("=")
    keys = path.strip().split(".")
    if not sign or not all(keys):
        raise SpecError(f"--set {text} must look like a.b=value")
    return keys, parse(written if written.strip() else "null", f"--set {text}").value


def _apply(text: str, body: dict[str, Any], places: Places) -> None:
    """Set one value. Keys of fixed and search are flat: everything after the first dot is the key."""
    keys, value = _override(text)
    if keys[0] in ("fixed", "search") and len(keys) > 1:
        keys = [keys[0], ".".join(keys[1:])]
    target = body
    for key in keys[:-1]:
        below = target.setdefault(key, {})
        if not isinstance(below, dict):
            raise SpecError(f"--set {text}: {key} is a single value and has nothing below it")
        target = below
    target[keys[-1]] = value
    path = ".".join(keys)
    for below in [place for place in places if place.startswith(f"{path}.")]:
        del places[below]
    places[path] = Place(f"--set {text}")


def _resolve_path(body: dict[str, Any], root: Path) -> None:
    market = body.get("market")
    if isinstance(market, dict) and isinstance(market.get("path"), str):
        market["path"] = str((root / market["path"]).absolute())
    plugins = body.get("plugins")
    if isinstance(plugins, list):
        body["plugins"] = [_absolute(plugin, root) for plugin in plugins]


def _absolute(plugin: Any, root: Path) -> Any:
    """A plugin file, found from any process; a module name stays as it is."""
    return str((root / plugin).absolute()) if isinstance(plugin, str) and plugin.endswith(".py") else plugin


def _validated(body: dict[str, Any], places: Places) -> SweepSpec:
    problems = _feature_forms(body, places) + _key_problems(body, places)
    if problems:
        raise SpecError("\n".join(problems))
    try:
        spec = SweepSpec.model_validate(body)
    except ValidationError as error:
        raise SpecError("\n".join(_lines(error, places))) from None
    spec._places.update(places)
    check_together(spec)
    return spec


def _feature_forms(body: dict[str, Any], places: Places) -> list[str]:
    """A feature is a word, or one word with its parameters; rewrite both to name and params."""
    features = body.get("features")
    if not isinstance(features, list):
        return [message_at(places, "features", "must be a list", features)] if "features" in body else []
    rewritten, problems = [], []
    for index, feature in enumerate(features):
        if isinstance(feature, str):
            rewritten.append({"name": feature, "params": {}})
        elif (
            isinstance(feature, dict)
            and len(feature) == 1
            and isinstance(params := next(iter(feature.values())), dict | None)
        ):
            rewritten.append({"name": next(iter(feature)), "params": params or {}})
        else:
            rule = "must be a name, or a name with its parameters as in `rsi: {period: 14}`"
            problems.append(message_at(places, f"features.{index}", rule, feature))
    body["features"] = rewritten
    return problems


def _key_problems(body: dict[str, Any], places: Places) -> list[str]:
    algorithm = body.get("algorithm")
    if algorithm not in ALGORITHMS:
        rule = f"must be one of {', '.join(ALGORITHMS)}"
        remedy = "sac wants continuous actions, a2c left RLlib" if algorithm in ("sac", "a2c") else ""
        return [message_at(places, "algorithm", rule, algorithm, remedy)]
    problems = []
    keys = keys_of(algorithm)
    for part in ("fixed", "search"):
        for name, value in body[part].items():
            if name not in keys:
                rule, remedy = place_of(algorithm, name, searched=part == "search")
                problems.append(message_at(places, f"{part}.{name}", rule, value, remedy))
            elif part == "fixed" and (rule_broken := keys[name].problem(value)):
                problems.append(message_at(places, f"{part}.{name}", rule_broken, value))
    both = sorted(set(body["fixed"]) & set(body["search"]))
    problems += [
        message_at(places, f"search.{name}", "must not stand under fixed too", name, "remove one") for name in both
    ]
    return problems


def _lines(error: ValidationError, places: Places) -> list[str]:
    return [_line(problem, places) for problem in error.errors(include_url=False)]


def _line(problem: Any, places: Places) -> str:
    path = _path_of(problem["loc"])
    value = problem["input"]
    if problem["type"] == "extra_forbidden":
        parent = path.rpartition(".")[0]
        return message_at(
            places, path, "is not known here", value, suggest(path.rpartition(".")[2], _fields_at(parent))
        )
    if problem["type"] == "missing":
        return message_at(places, path, "must be given", "missing")
    if problem["type"] == "value_error":
        text = str(problem["ctx"]["error"])
        place = message_at(places, path, "", "").split(" ", 1)[0] if places else ""
        return f"{place} {path} {text}"
    return message_at(places, path, f"is wrong: {problem['msg'].lower()}", value)


def _path_of(location: tuple[int | str, ...]) -> str:
    """Pydantic's location as a path, without the names of union members."""
    words = []
    for word in location:
        text = str(word)
        if "[" in text or text in _UNION_MEMBERS:
            continue
        words.append(text)
    return ".".join(words)


_UNION_MEMBERS = {
    "int",
    "float",
    "str",
    "constrained-int",
    "constrained-float",
    "uniform",
    "loguniform",
    "quniform",
    "randint",
    "choice",
    "grid",
    "literal",
}


def _fields_at(path: str) -> list[str]:
    """Names a mapping at `path` may hold."""
    model: type[BaseModel] = SweepSpec
    for word in path.split(".") if path else ():
        annotation = model.model_fields[word].annotation if word in model.model_fields else None
        candidates = [annotation, *getattr(annotation, "__args__", ())]
        below = [item for item in candidates if isinstance(item, type) and issubclass(item, BaseModel)]
        if not below:
            return []
        model = below[0]
    return [name for name in model.model_fields if name not in ("experiment", "format_version")]


def check_together(spec: SweepSpec) -> None:
    """Rules over several keys. Raises SpecError with all that are broken."""
    problems = [*_search_problems(spec), *_cross_problems(spec)]
    if problems:
        raise SpecError("\n".join(str(problem) for problem in problems))


def _search_problems(spec: SweepSpec) -> list[SpecError]:
    problems = []
    keys = keys_of(spec.algorithm)
    for name, domain in spec.search.items():
        for value in _extremes(domain):
            if rule := keys[name].problem(value):
                problems.append(spec.error_at(f"search.{name}", rule, value))
                break
        problems += [
            spec.error_at(f"search.{name}.when", "must name another parameter", other, suggest(other, spec.search))
            for other in domain.when or {}
            if other not in spec.search and other not in spec.fixed
        ]
        if spec.searcher.kind == "grid" and not isinstance(domain, (Grid, Choice)):
            problems.append(spec.error_at(f"search.{name}", "must be grid or choice under searcher grid", domain.kind))
    if _has_circle(spec):
        problems.append(spec.error_at("search", "must not have conditions that go round in a circle", "when"))
    for index, point in enumerate(spec.searcher.points):
        rule = "must give values of searched keys"
        problems += [
            spec.error_at(f"searcher.points.{index}", rule, name, suggest(name, spec.search))
            for name in point
            if name not in spec.search
        ]
    return problems


def _extremes(domain: Uniform | LogUniform | QUniform | RandInt | Choice | Grid) -> tuple[Any, ...]:
    return domain.options if isinstance(domain, (Choice, Grid)) else (domain.low, domain.high)


def _has_circle(spec: SweepSpec) -> bool:
    waiting = {name: {key for key in domain.when or {} if key in spec.search} for name, domain in spec.search.items()}
    while waiting:
        ready = {name for name, needs in waiting.items() if not needs & waiting.keys()}
        if not ready:
            return True
        waiting = {name: needs for name, needs in waiting.items() if name not in ready}
    return False


def _cross_problems(spec: SweepSpec) -> list[SpecError]:
    problems = []
    if spec.budget.env_steps_per_trial < spec.evaluation.count:
        problems.append(
            spec.error_at(
                "budget.env_steps_per_trial",
                f"must be at least evaluation.count ({spec.evaluation.count})",
                spec.budget.env_steps_per_trial,
            )
        )
    for smaller, larger in (
        ("minibatch_size", "train_batch_size_per_learner"),
        ("train_batch_size_per_learner", "replay_buffer_config.capacity"),
    ):
        problems += _larger_than(spec, smaller, larger)
    if spec.algorithm == "dqn" and _most(spec, "n_step") >= spec.env.episode_bars:
        problems.append(
            spec.error_at(
                "fixed.n_step", f"must be below env.episode_bars ({spec.env.episode_bars})", _most(spec, "n_step")
            )
        )
    return problems


def _larger_than(spec: SweepSpec, smaller: str, larger: str) -> list[SpecError]:
    """`smaller` may never exceed `larger`, whatever is drawn."""
    keys = keys_of(spec.algorithm)
    if smaller not in keys or larger not in keys:
        return []
    most, least = _most(spec, smaller), _least(spec, larger)
    if most <= least:
        return []
    part = "search" if smaller in spec.search else "fixed"
    return [spec.error_at(f"{part}.{smaller}", f"must be at most {larger} ({least:g})", most)]


def _most(spec: SweepSpec, name: str) -> float:
    return max(_values(spec, name))


def _least(spec: SweepSpec, name: str) -> float:
    return min(_values(spec, name))


def _values(spec: SweepSpec, name: str) -> list[float]:
    if name in spec.search:
        return [float(value) for value in _extremes(spec.search[name])]
    return [float(spec.fixed.get(name, keys_of(spec.algorithm)[name].default))]
