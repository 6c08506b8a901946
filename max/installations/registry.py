"""Where connectors are found, and how the one that is asked for is loaded.

Rule 1: finding looks at names alone; only the connector that is resolved is imported.

Rule 2: a connector is one file, ``max_NAME.py``, whichever way leads there.  Two files for one
name are refused, and both are named.  One exception: the connectors that stand beside this
package go before those that its own distribution installed, so that a checkout uses its own.

Rule 3: connectors write ``from max import …``.  When this package is a copy under another
name, ``max`` means that copy for the connectors which it loads, and for nobody else.
"""

from __future__ import annotations

import builtins
import importlib
import importlib.util
import os
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from traceback import extract_tb
from types import ModuleType
from typing import TYPE_CHECKING, Any

from ..errors import ConnectorError, MaxError, SchemaError, UnknownName
from ..model.struct import Struct

if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec
    from importlib.metadata import EntryPoint

    from ..connector import Connector

GROUP = "max.connectors"  # of entry points
VARIABLE = "MAX_CONNECTORS"  # folders and files, separated as in PATH
DISTRIBUTION = "max-sync"
PUBLIC = "max"  # the package's name as connectors write it
PREFIX, SUFFIX = "max_", ".py"
PACKAGE = __name__.rsplit(".", 2)[0]
BESIDE = Path(__file__).parents[2] / "connectors"  # a checkout's, or a vendored copy's

_loading = threading.RLock()  # modules are the process's: one at a time, whatever the registry


class Origin(Struct):
    """Where a connector comes from: its file, and which attribute of which module it is."""

    module: str
    attribute: str
    file: Path
    route: str  # how we were led there, for people

    def __str__(self) -> str:
        return f"{self.file} ({self.route})"


class ConnectorRegistry:
    """Finds connectors by name: installed ones, MAX_CONNECTORS, given folders, ours.

    Safe to use from several threads; what was resolved once stays the same object.
    """

    def __init__(self, folders: Sequence[Path] = ()) -> None:
        self._folders = tuple(folders)
        self._resolved: dict[str, Connector[Any, Any]] = {}

    def names(self) -> list[str]:
        """Every name that can be asked for, sorted; nothing is imported."""
        return sorted({point.name for point in self._entry_points()} | self._files().keys())

    def resolve(self, name: str) -> Connector[Any, Any]:
        """The connector of a name.

        UnknownName when there is none, ConnectorError when there are two, or when the one
        cannot be loaded.
        """
        with _loading:
            if name not in self._resolved:
                self._resolved[name] = load_connector(name, self._origin(name))
            return self._resolved[name]

    def _origin(self, name: str) -> Origin:
        """The one place a connector comes from."""
        origins = list(self._files().get(name, []))
        missing = []
        for point in self._entry_points(name):
            origin = _from_entry_point(point)
            if origin:
                origins.append(origin)
            else:
                missing.append(point.value)
        distinct = {origin.file.resolve(): origin for origin in reversed(origins)}
        if len(distinct) > 1:
            raise ConnectorError(
                f"two connectors are named {name!r}: {' and '.join(map(str, origins))}",
                hint="remove one, or give it another name",
            )
        if not distinct and missing:
            raise ConnectorError(
                f"connector {name!r} is installed as {missing[0]}, but that module is missing",
                hint="install its package again",
            )
        if not distinct:
            raise UnknownName("connector", name, self.names())
        return next(iter(distinct.values()))

    def _files(self) -> dict[str, list[Origin]]:
        """The origins that are plain files, by connector name."""
        found: dict[str, list[Origin]] = {}
        places = [(folder, "the project's connectors") for folder in self._folders]
        for place, route in [*_from_environment(), *places, (BESIDE, f"beside {PACKAGE}")]:
            for file in [place] if place.is_file() else sorted(place.glob(f"{PREFIX}*{SUFFIX}")):
                name = file.name.removeprefix(PREFIX).removesuffix(SUFFIX)
                found.setdefault(name, []).append(Origin(file.stem, "connector", file, route))
        return found

    def _entry_points(self, name: str | None = None) -> list[EntryPoint]:
        """What installed packages offer, but for ours when its connector stands beside us."""
        from importlib.metadata import entry_points  # slow, and not always needed

        points = entry_points(group=GROUP) if name is None else entry_points(group=GROUP, name=name)
        return [point for point in points if not (_ours(point) and _beside(point.name).is_file())]


def _beside(name: str) -> Path:
    return BESIDE / f"{PREFIX}{name}{SUFFIX}"


def _ours(point: EntryPoint) -> bool:
    return point.dist is not None and point.dist.name == DISTRIBUTION


def _from_environment() -> list[tuple[Path, str]]:
    """The folders and files that MAX_CONNECTORS names; ConnectorError when one is not there."""
    places = [Path(text).expanduser() for text in os.environ.get(VARIABLE, "").split(os.pathsep) if text]
    for place in places:
        fits = place.name.startswith(PREFIX) and place.suffix == SUFFIX
        if not (place.is_dir() or (place.is_file() and fits)):
            raise ConnectorError(
                f"{VARIABLE} names {place}, which is neither a folder nor a file {PREFIX}NAME{SUFFIX}",
                hint=f"correct {VARIABLE}, or unset it",
            )
    return [(place, VARIABLE) for place in places]


def _from_entry_point(point: EntryPoint) -> Origin | None:
    """Where an entry point leads, or None when its module is missing; the module is not imported."""
    try:
        spec = importlib.util.find_spec(point.module)
    except (ImportError, ValueError):
        return None
    if spec is None or spec.origin is None:
        return None
    route = f"installed by {point.dist.name}" if point.dist else "installed"
    return Origin(point.module, point.attr or "connector", Path(spec.origin), route)


# -- loading -----------------------------------------------------------------------------------


def load_connector(name: str, origin: Origin) -> Connector[Any, Any]:
    """Import one connector; ConnectorError names the file, the line and what is wrong."""
    from ..connector import Connector

    module = load_module(origin)
    found = getattr(module, origin.attribute, None)
    if not isinstance(found, Connector):
        raise ConnectorError(
            f"{origin.file} has no connector: its {origin.attribute!r} is {type(found).__name__}",
            hint=f"end the module with: {origin.attribute} = Connector(name={name!r}, …)",
        )
    if found.name != name:
        raise ConnectorError(
            f"{origin.file}: the connector is named {found.name!r}, but is found as {name!r}",
            hint=f"name it {name!r}, or its file {PREFIX}{found.name}{SUFFIX}",
        )
    return found


def load_module(origin: Origin) -> ModuleType:
    """The module of an origin: imported already, or now."""
    own = origin.module if PACKAGE == PUBLIC else f"{PACKAGE}.{origin.module}"
    for name in (own, f"{own}@{origin.file.resolve()}"):
        loaded = sys.modules.get(name)
        if loaded is None:
            return _execute(name, origin)
        if Path(loaded.__file__ or "").resolve() == origin.file.resolve():
            return loaded
    raise ConnectorError(f"{origin.file}: its module name is in use by another module")


def _execute(name: str, origin: Origin) -> ModuleType:
    """Import a file as a module of this name; nothing of it stays when that fails."""
    try:
        if name == origin.module and _importable(origin):
            return importlib.import_module(name)
        spec = importlib.util.spec_from_file_location(name, origin.file)
        return _executed(spec, name)
    except MaxError as error:
        if isinstance(error, SchemaError):
            raise ConnectorError(f"{_place(error, origin)}: {error.message}", hint=error.hint) from error
        raise
    except Exception as error:
        raise ConnectorError(
            f"{_place(error, origin)}: {type(error).__name__}: {_words(error)}",
            hint="the connector cannot be imported; correct it, or install what it needs",
        ) from error


def _importable(origin: Origin) -> bool:
    """Whether a plain import of the module's name gives this very file."""
    spec = importlib.util.find_spec(origin.module)
    return spec is not None and Path(spec.origin or "").resolve() == origin.file.resolve()


def _executed(spec: ModuleSpec | None, name: str) -> ModuleType:
    if spec is None or spec.loader is None:
        raise ImportError(f"{name} is no Python file")
    module = importlib.util.module_from_spec(spec)
    if PACKAGE != PUBLIC:
        vars(module)["__builtins__"] = vars(builtins) | {"__import__": import_here}
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def import_here(
    name: str,
    globals: Mapping[str, object] | None = None,
    locals: Mapping[str, object] | None = None,
    fromlist: Sequence[str] | None = (),
    level: int = 0,
) -> ModuleType:
    """``__import__`` for which the package ``max`` is this one, whatever it is called."""
    if level == 0 and name.partition(".")[0] == PUBLIC:
        found = importlib.import_module(PACKAGE + name.removeprefix(PUBLIC))
        if fromlist:
            return builtins.__import__(found.__name__, globals, locals, fromlist, 0)
        return sys.modules[PACKAGE]  # `import max.core` binds the package
    return builtins.__import__(name, globals, locals, fromlist or (), level)


def _place(error: BaseException, origin: Origin) -> str:
    """``file:line`` of the connector's last line that ran."""
    own = origin.file.resolve()
    if isinstance(error, SyntaxError) and Path(error.filename or "").resolve() == own:
        return f"{origin.file}:{error.lineno}"
    lines = [
        frame.lineno for frame in extract_tb(error.__traceback__) if Path(frame.filename).resolve() == own
    ]
    return f"{origin.file}:{lines[-1]}" if lines else str(origin.file)


def _words(error: Exception) -> str:
    return error.msg if isinstance(error, SyntaxError) else str(error)
