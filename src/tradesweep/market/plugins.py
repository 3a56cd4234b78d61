"""A person's own parts by name: a file's `features` and `rewards` registries, `module:function` hooks, entry points.

A feature is a builder like the built-in ones, `(bars, **params) -> (names, values_NK)`, and goes through the same
look-ahead proof. Rewards belong to the environment, which reads them from the same places. Loading a plugin runs its
code: name only files that you would run yourself.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoints, entry_points
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

from tradesweep.errors import MarketError
from tradesweep.market.features import FEATURES, FeatureBuilder

FEATURE_REGISTRY = "features"


def load_plugins(places: Sequence[str | Path], *, root: Path | None = None) -> dict[str, FeatureBuilder]:
    """Builders by feature name, from every place and from the installed entry points.

    A place is a python file (relative to `root`) whose `features` maps names to builders, a module with such
    a registry, or a hook `module:function`, which is a feature of that very name. Raises `MarketError` for a
    place that cannot be loaded, an entry that is no function, and a name that is taken.
    """
    return load_registry(FEATURE_REGISTRY, places, taken=FEATURES, root=root)


def load_registry(
    registry: str, places: Sequence[str | Path], *, taken: Container[str], root: Path | None = None
) -> dict[str, Callable[..., Any]]:
    """What the places and the entry points `tradesweep.<registry>` register there; `taken` names are refused.

    Raises as `load_plugins`.
    """
    found: dict[str, Callable[..., Any]] = {}
    for source, entries in [*_load_places(registry, places, root), *_load_entry_points(registry)]:
        for name, builder in entries.items():
            _check_entry(source, name, builder, taken, found)
            found[name] = builder
    return found


def _load_places(registry: str, places: Sequence[str | Path], root: Path | None) -> list[tuple[str, Mapping[str, Any]]]:
    return [(str(place), _load_place(registry, str(place), root or Path())) for place in places]


def _load_place(registry: str, place: str, root: Path) -> Mapping[str, Any]:
    if place.endswith(".py"):
        return _registry_of(registry, place, _run_file(place, root / place), required=False)
    module_name, colon, function = place.partition(":")
    if colon and registry != FEATURE_REGISTRY:
        return {}
    module = _guarded(place, lambda: import_module(module_name))
    if not colon:
        return _registry_of(registry, place, module, required=registry == FEATURE_REGISTRY)
    if not hasattr(module, function):
        raise MarketError(f"plugin {place} must name a function of {module_name}, which has no {function!r}")
    return {place: getattr(module, function)}


def _run_file(place: str, path: Path) -> ModuleType:
    if not path.is_file():
        raise MarketError(f"plugin {place} must be a python file beside the spec, was not found at {path}")
    spec = spec_from_file_location(f"tradesweep_plugin_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    loader = spec.loader
    _guarded(place, lambda: loader.exec_module(module))
    return module


def _registry_of(registry: str, place: str, module: ModuleType, *, required: bool) -> Mapping[str, Any]:
    """The module's registry; a file may register only rewards, a module named for its features may not."""
    entries = getattr(module, registry, None if required else {})
    if not isinstance(entries, Mapping):
        raise MarketError(f"plugin {place} must define `{registry} = {{name: function}}`, was {type(entries).__name__}")
    return entries


def _load_entry_points(registry: str) -> list[tuple[str, Mapping[str, Any]]]:
    points = _find_entry_points(registry)
    return [(f"entry point {p.value}", {p.name: _guarded(p.value, p.load)}) for p in points]


@cache
def _find_entry_points(registry: str) -> EntryPoints:
    """Looked up once a process: it reads a file of every installed package, and each trial asks again."""
    return entry_points(group=f"tradesweep.{registry}")


def _guarded(place: str, load: Any) -> Any:
    """Run foreign code; whatever it raises becomes one message with the plugin's name."""
    try:
        return load()
    except Exception as e:
        raise MarketError(f"plugin {place} must load without errors, raised {type(e).__name__}: {e}") from e


def _check_entry(source: str, name: object, builder: object, taken: Container[str], found: Container[str]) -> None:
    if not isinstance(name, str) or not callable(builder):
        raise MarketError(f"plugin {source} must map names to functions, was {name!r}: {builder!r}")
    if name in taken or name in found:
        raise MarketError(f"plugin {source} must not take the name {name!r}, which exists; rename it")
