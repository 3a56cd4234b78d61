"""From merged values to a SweepSpec: every problem in one error, each with its place, in the words of our rules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from tradesweep.spec.distributions import KINDS, read_distribution
from tradesweep.spec.forms import bare, fields_of, form_of, is_union, step_into
from tradesweep.spec.keys import ALGORITHMS, WORDS, Key, flatten_keys, keys_of, place_of, suggest
from tradesweep.spec.models import OWN_FIELDS, SweepSpec
from tradesweep.spec.problems import MOST_SHOWN, RuleBroken, find_place, message_at, raise_all
from tradesweep.spec.rules import check_together
from tradesweep.spec.yaml_loader import Place

Body = dict[str, Any]
Places = dict[str, Place]

DRAWN_BY = {"float": tuple(KINDS), "int": ("randint", "choice", "grid")}
"""Distributions that suit a key, by its type; for other types choice and grid."""
LEFT = {"sac": "its actions are continuous", "a2c": "it left RLlib"}


def validated(body: Body, places: Places) -> SweepSpec:
    """The SweepSpec of `body`. Raises SpecError with all problems, one line each."""
    features, problems = _read_features(body, places)
    training, training_problems = _read_training(body, places)
    problems += training_problems
    read, spec = {**body, **features, **training}, None
    try:
        spec = SweepSpec.model_validate(read)
    except ValidationError as error:
        problems += _problems_of(error, read, places)
    raise_all(problems)
    assert spec is not None, "pydantic refuses with at least one problem"
    spec._places.update(places)
    check_together(spec)
    return spec


def _read_features(body: Body, places: Places) -> tuple[Body, list[str]]:
    """A feature is a word, or one word with its parameters; both become name and params."""
    written = body.get("features")
    if not isinstance(written, list):
        return {}, []
    read, problems = [], []
    for index, feature in enumerate(written):
        name, params = next(iter(feature.items())) if isinstance(feature, dict) and len(feature) == 1 else (feature, {})
        if isinstance(name, str) and isinstance(params, dict | None):
            read.append({"name": name, "params": params or {}})
        else:
            rule = "must be a name, or a name with its parameters as in `rsi: {period: 14}`"
            problems.append(message_at(places, f"features.{index}", rule, feature))
    return {"features": read} if not problems else {"features": [{"name": "unread"}]}, problems


def _read_training(body: Body, places: Places) -> tuple[Body, list[str]]:
    """Algorithm, fixed and search; stand-ins for what is wrong, so that the rest is judged too."""
    algorithm = body.get("algorithm")
    if algorithm not in ALGORITHMS:
        remedy = LEFT.get(algorithm, "") if isinstance(algorithm, str) else ""
        rule = f"must be {' or '.join(ALGORITHMS)}"
        problem = message_at(places, "algorithm", rule, algorithm, remedy)
        return {"algorithm": ALGORITHMS[0], "fixed": {}, "search": {}}, [problem]
    keys, parts = keys_of(algorithm), ("fixed", "search")
    not_mappings = [part for part in parts if not isinstance(body[part], dict)]
    problems = [message_at(places, part, "must be a mapping", body[part]) for part in not_mappings]
    if problems:
        return {"fixed": {}, "search": {}}, problems
    for part in parts:
        problems += _unknown_keys(part, body[part], algorithm, places)
    both = sorted(set(body["fixed"]) & set(body["search"]))
    rule = "must not stand under fixed too"
    problems += [message_at(places, f"search.{name}", rule, body["search"][name], "remove one") for name in both]
    fixed, fixed_problems = _read_fixed(body["fixed"], keys, places)
    search, search_problems = _read_search(body["search"], keys, places)
    points = _clean_points(body.get("searcher"), keys)
    return {"fixed": fixed, "search": search, **points}, [*problems, *fixed_problems, *search_problems]


def _unknown_keys(part: str, written: Body, algorithm: str, places: Places) -> list[str]:
    unknown = [name for name in written if name not in keys_of(algorithm)][:MOST_SHOWN]
    problems = []
    for name in unknown:
        rule, remedy = place_of(algorithm, name, searched=part == "search")
        problems.append(message_at(places, f"{part}.{name}", rule, written[name], remedy))
    return problems


def _read_fixed(written: Body, keys: Mapping[str, Key], places: Places) -> tuple[Body, list[str]]:
    problems = []
    for name, value in written.items():
        if name in keys and (rule := keys[name].problem(value)):
            remedy = "distributions stand under search" if isinstance(value, dict) else ""
            problems.append(message_at(places, f"fixed.{name}", rule, value, remedy))
    return {name: keys[name].clean(value) for name, value in written.items() if name in keys}, problems


def _read_search(written: Body, keys: Mapping[str, Key], places: Places) -> tuple[Body, list[str]]:
    read, problems = {}, []
    for name, value in written.items():
        if name not in keys:
            continue
        try:
            domain = read_distribution(value, keys[name].clean)
        except RuleBroken as broken:
            problems.append(_located(f"search.{name}", broken, places))
            continue
        read[name] = domain
        if domain.kind not in (suited := DRAWN_BY.get(keys[name].type, ("choice", "grid"))):
            rule = f"must be drawn by {', '.join(suited[:-1])} or {suited[-1]}: it is {WORDS[keys[name].type]}"
            problems.append(message_at(places, f"search.{name}", rule, domain.kind))
    return read, problems


def _clean_points(searcher: Any, keys: Mapping[str, Key]) -> Body:
    """`searcher` with its points flat and in the form of their keys, as the search space has them."""
    points = searcher.get("points") if isinstance(searcher, dict) else None
    if not isinstance(points, list):
        return {}
    cleaned = [_clean_point(point, keys) if isinstance(point, dict) else point for point in points]
    return {"searcher": {**searcher, "points": cleaned}}


def _clean_point(point: Body, keys: Mapping[str, Key]) -> Body:
    return {name: keys[name].clean(value) if name in keys else value for name, value in flatten_keys(point)}


def _located(path: str, broken: RuleBroken, places: Places) -> str:
    field = f"{path}.{broken.field}" if broken.field else path
    beside = [f"{path}.{other}" for other in broken.beside]
    return message_at(places, field, broken.rule, broken.value, broken.remedy, beside=beside)


def _problems_of(error: ValidationError, body: Body, places: Places) -> list[str]:
    """Pydantic's problems in our words; the members of a union, one line each there, become one."""
    lines = []
    for problem in error.errors(include_url=False)[:MOST_SHOWN]:
        words, annotation = _walk(problem["loc"])
        path = ".".join(map(str, words))
        broken = problem.get("ctx", {}).get("error")
        if isinstance(broken, RuleBroken):
            lines.append(_located(path, broken, places))
        elif problem["type"] == "extra_forbidden":
            remedy = suggest(str(words[-1]), _known_beside(words))
            lines.append(message_at(places, path, "is not known here", problem["input"], remedy))
        elif problem["type"] == "missing" and len(words) == len(problem["loc"]):
            lines.append(_missing(path, annotation, places))
        else:
            lines.append(message_at(places, path, f"must be {form_of(annotation)}", _value_at(body, words)))
    return lines


def _missing(path: str, annotation: Any, places: Places) -> str:
    place = find_place(places, path)
    text = f"{path} must be given ({form_of(annotation)}), is missing"
    return f"{place} {text}" if place else text


def _walk(location: tuple[int | str, ...]) -> tuple[list[int | str], Any]:
    """Pydantic's location as a path and the annotation there, without the names of union members."""
    annotation: Any = SweepSpec
    words: list[int | str] = []
    for word in location:
        below = step_into(annotation, word)
        if below is None and is_union(bare(annotation)):
            break
        words.append(word)
        annotation = below
    return words, annotation


def _known_beside(words: list[int | str]) -> list[str]:
    """Names that may stand where `words` stands."""
    annotation: Any = SweepSpec
    for word in words[:-1]:
        annotation = step_into(annotation, word)
    return [name for name in fields_of(annotation) if name not in OWN_FIELDS]


def _value_at(body: Any, words: list[int | str]) -> Any:
    for word in words:
        body = body[word]
    return body
