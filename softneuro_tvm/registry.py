"""Finds layer kinds and routines by scanning; nothing is listed by hand."""

from __future__ import annotations

import ast
import difflib
import hashlib
import importlib
import importlib.util
import inspect
import logging
import pkgutil
from functools import lru_cache
from importlib.metadata import entry_points
from types import ModuleType

from softneuro_tvm import layers
from softneuro_tvm.errors import RoutineError, RoutineImportError
from softneuro_tvm.layer_kind import LayerKind
from softneuro_tvm.routine import Routine

logger = logging.getLogger(__name__)

ENTRY_POINT_GROUP = "softneuro_tvm.routines"
"""Packages named under this entry-point group are scanned for routines; third parties use it too."""

_import_errors: list[RoutineImportError] = []


@lru_cache
def layer_kinds() -> dict[str, LayerKind]:
    """Every layer kind by name, in alphabetical order."""
    found: dict[str, LayerKind] = {}
    for module in sorted(m.name for m in pkgutil.iter_modules(layers.__path__)):
        for _, item in inspect.getmembers(importlib.import_module(f"{layers.__name__}.{module}"), inspect.isclass):
            if issubclass(item, LayerKind) and not inspect.isabstract(item) and item.__module__.endswith(f".{module}"):
                found[item.name] = item()
    return found


def layer_kind(name: str) -> LayerKind:
    """The layer kind of this name.

    Raises:
        RoutineError: there is none.
    """
    try:
        return layer_kinds()[name]
    except KeyError:
        raise RoutineError(f"there is no layer kind {name!r}; known: {', '.join(layer_kinds())}") from None


def _scan(package: ModuleType) -> list[ModuleType]:
    """Imports every public module below a package; a broken one is recorded and left out."""
    modules = []
    for info in sorted(pkgutil.walk_packages(package.__path__, f"{package.__name__}."), key=lambda info: info.name):
        if any(part.startswith("_") for part in info.name.split(".")):
            continue
        try:
            modules.append(importlib.import_module(info.name))
        except Exception as error:  # a third party's module may raise anything, and must not take the others down
            failure = RoutineImportError(f"routine module {info.name!r} cannot be imported: {error!r}; it is left out")
            logger.warning("%s", failure)
            _import_errors.append(failure)
    return modules


@lru_cache
def routines() -> dict[str, Routine]:
    """Every routine by name (its path below its package, e.g. ``conv2d/winograd``), in alphabetical order."""
    found: dict[str, Routine] = {}
    for entry in sorted(entry_points(group=ENTRY_POINT_GROUP), key=lambda entry: entry.value):
        try:
            package = importlib.import_module(entry.value)
        except Exception as error:  # as above
            _import_errors.append(RoutineImportError(f"routine package {entry.value!r} cannot be imported: {error!r}"))
            continue
        for module in _scan(package):
            for _, item in inspect.getmembers(module, inspect.isclass):
                if issubclass(item, Routine) and not inspect.isabstract(item) and item.__module__ == module.__name__:
                    item.name = module.__name__.removeprefix(f"{package.__name__}.").replace(".", "/")
                    if item.name in found:
                        raise RoutineError(f"two routines are called {item.name!r}; rename one of the files")
                    found[item.name] = item()
    return dict(sorted(found.items()))


def import_errors() -> tuple[RoutineImportError, ...]:
    """What went wrong while routines were discovered."""
    routines()
    return tuple(_import_errors)


def routine(name: str) -> Routine:
    """The routine of this name.

    Raises:
        RoutineError: there is none; names the closest ones.
    """
    try:
        return routines()[name]
    except KeyError:
        close = difflib.get_close_matches(name, routines(), n=3)
        hint = f"did you mean {' or '.join(close)}?" if close else "`softneuro-tvm routines` lists them"
        raise RoutineError(f"there is no routine {name!r}; {hint}") from None


def routines_of(kind: str) -> list[Routine]:
    """The routines that compute a layer kind, those for every kind last."""
    every = routines().values()
    return [r for r in every if r.kind == kind] + [r for r in every if r.kind == "*"]


@lru_cache
def source_hash(name: str) -> str:
    """Stands for a routine's source: its file and, transitively, the helpers it imports relatively."""
    state = hashlib.sha256()
    for source in _sources(type(routine(name)).__module__):
        state.update(source.encode())
    return state.hexdigest()[:12]


def _sources(name: str) -> list[str]:
    """Source of a module and of what it imports relatively, in a fixed order."""
    found: dict[str, str] = {}
    waiting = [name]
    while waiting:
        current = waiting.pop()
        if current in found:
            continue
        found[current], imported = _source(current)
        waiting += imported
    return [found[module] for module in sorted(found)]


@lru_cache(maxsize=256)
def _source(name: str) -> tuple[str, tuple[str, ...]]:
    """Source of a module, and the modules that it imports relatively."""
    source, parent = inspect.getsource(importlib.import_module(name)), name.rpartition(".")[0]
    imported: list[str] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.level:
            if node.module:
                imported.append(importlib.util.resolve_name("." * node.level + node.module, parent))
            else:
                base = importlib.util.resolve_name("." * node.level, parent)
                imported += [f"{base}.{item.name}" for item in node.names]
    return source, tuple(imported)
