"""Finds connectors by name, and loads the one that is asked for.

Rule 1: finding reads only file names and entry points.  Only the connector that is resolved
is imported.

Rule 2: a connector is one module, wherever it is found.  Two modules for one name are an error
that names both, with one exception: a checkout's own connectors hide those that the
``max-sync`` distribution installed.

Rule 3: a project's own connector is imported only after ``allow``, which raises when the project
is not trusted, and from its source alone: nothing checks what a ``__pycache__`` beside it holds.

Rule 4: connectors write ``from max import …``.  When this package is a copy under another name
(``yourapp/_vendor/zmax``), ``max`` means the copy in the connectors that it loads, and only there.
"""

from __future__ import annotations

import builtins
import importlib
import importlib.util
import os
import re
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from importlib.machinery import SourceFileLoader
from pathlib import Path
from traceback import extract_tb
from types import CodeType, ModuleType
from typing import TYPE_CHECKING, Any

from ..errors import ConnectorError, MaxError, SchemaError, UnknownName
from ..model.struct import Struct

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from ..connector import Connector

GROUP = "max.connectors"  # of entry points
VARIABLE = "MAX_CONNECTORS"  # folders and files, separated as in PATH
DISTRIBUTION = "max-sync"
PREFIX, SUFFIX = "max_", ".py"  # of a connector's file, unless it is one of ours
OWN = "the project's connectors"

PUBLIC = "max"  # the name of this package in the source of connectors
PACKAGE = __name__.rsplit(".", 2)[0]  # its name here
BUNDLE = "max_connectors"  # the package of the connectors that come with Max
BESIDE = Path(__file__).parents[2] / "connectors" / BUNDLE  # of a checkout or a vendored copy

_loading = threading.RLock()  # sys.modules is shared by all registries


class Origin(Struct):
    """Where a connector comes from: a module's name, its attribute and its file."""

    module: str
    file: Path
    found_by: str  # for error messages
    attribute: str = "connector"

    @property
    def bundled(self) -> bool:
        """Whether it comes with Max."""
        return self.module.startswith(f"{BUNDLE}.")

    def __str__(self) -> str:
        return f"{self.file} ({self.found_by})"


class ConnectorRegistry:
    """Finds connectors by name: installed ones, MAX_CONNECTORS, given folders, ours.

    Safe to use from several threads.  A name resolves to the same object every time.  ``allow`` is
    called before a connector of the given folders is imported; what it raises prevents that.  A
    connector in the folder ``pinned`` hides all others of its name.
    """

    def __init__(
        self,
        folders: Sequence[Path] = (),
        allow: Callable[[], None] = lambda: None,
        *,
        pinned: Path | None = None,
    ) -> None:
        self._folders, self._allow, self._pinned = tuple(folders), allow, pinned
        self._resolved: dict[str, Connector[Any, Any]] = {}

    def names(self) -> list[str]:
        """Every connector's name, sorted; imports none of them."""
        return sorted({point.name for point in _entry_points()} | self._files().keys())

    def resolve(self, name: str) -> Connector[Any, Any]:
        """The connector of a name; UnknownName, or ConnectorError for two of them or a broken one."""
        with _loading:
            if name not in self._resolved:
                origin = self._origin(name)
                if origin.found_by == OWN:
                    self._allow()
                self._resolved[name] = load_connector(name, origin)
            return self._resolved[name]

    def files(self, name: str) -> list[Path]:
        """A connector's file, and those beside it that it may import; imports none of them."""
        file = self._origin(name).file
        return [file, *sorted(file.parent.glob(f"*{SUFFIX}"))]

    def _origin(self, name: str) -> Origin:
        if self._pinned is not None:
            file = self._pinned / f"{PREFIX}{name}{SUFFIX}"
            if file.is_file():
                return Origin(file.stem, file, OWN)
        installed = {point.value: _from_entry_point(point) for point in _entry_points(name)}
        origins = [*self._files().get(name, []), *filter(None, installed.values())]
        distinct = {origin.file.resolve(): origin for origin in reversed(origins)}
        if len(distinct) > 1:
            raise ConnectorError(
                f"two connectors are named {name!r}: {' and '.join(map(str, origins))}",
                hint="remove or rename one of them",
            )
        if distinct:
            return next(iter(distinct.values()))
        if installed:
            problem = (
                f"connector {name!r} is installed as {next(iter(installed))}, but that module is missing"
            )
            raise ConnectorError(problem, hint="reinstall its package")
        unknown = UnknownName("connector", name, self.names())
        places = [
            str(place) for place in (*self._folders, f"the folders in {VARIABLE}", "installed packages")
        ]
        unknown.hint += f"\n  {PREFIX}NAME{SUFFIX} is looked for in {', '.join(places)}"
        raise unknown

    def _files(self) -> dict[str, list[Origin]]:
        """Connectors that are plain files, by name."""
        found: dict[str, list[Origin]] = {}
        folders = [(folder, OWN) for folder in self._folders]
        for place, found_by in [*_from_environment(), *folders]:
            files = [place] if place.is_file() else sorted(place.glob(f"{PREFIX}*{SUFFIX}"))
            for file in filter(Path.is_file, files):  # a pipe is never waited for
                name = file.stem.removeprefix(PREFIX)
                found.setdefault(name, []).append(Origin(file.stem, file, found_by))
        for name, file in _bundled().items():
            found.setdefault(name, []).append(Origin(f"{BUNDLE}.{name}", file, f"beside {PACKAGE}"))
        return found


def _bundled() -> dict[str, Path]:
    """Our connectors beside this package; acme_service.py is a part of acme.py, not a connector."""
    files = {file.stem: file for file in sorted(BESIDE.glob(f"[!_]*{SUFFIX}"))}
    return {name: f for name, f in files.items() if not any(name.startswith(f"{n}_") for n in files)}


def _from_environment() -> list[tuple[Path, str]]:
    """The folders and files in MAX_CONNECTORS; ConnectorError when one does not exist."""
    places = [Path(text).expanduser() for text in os.environ.get(VARIABLE, "").split(os.pathsep) if text]
    for place in places:
        if not (place.is_dir() or (place.is_file() and place.match(f"{PREFIX}*{SUFFIX}"))):
            raise ConnectorError(
                f"{VARIABLE} names {place}, which is neither a folder nor a file {PREFIX}NAME{SUFFIX}",
                hint=f"correct {VARIABLE}, or unset it",
            )
    return [(place, VARIABLE) for place in places]


def _entry_points(name: str | None = None) -> list[EntryPoint]:
    """What installed packages offer; ours only when they are not beside this package."""
    from importlib.metadata import entry_points  # slow, and not always needed

    points = entry_points(group=GROUP) if name is None else entry_points(group=GROUP, name=name)
    return [p for p in points if not (p.dist and p.dist.name == DISTRIBUTION and p.name in _bundled())]


def _from_entry_point(point: EntryPoint) -> Origin | None:
    """The module of an entry point, not imported yet; None when it is missing."""
    try:
        spec = importlib.util.find_spec(point.module)
    except (ImportError, ValueError):
        return None
    if spec is None or spec.origin is None:
        return None
    found_by = f"installed by {point.dist.name}" if point.dist else "installed"
    return Origin(point.module, Path(spec.origin), found_by, point.attr or "connector")


# -- loading -----------------------------------------------------------------------------------


def load_connector(name: str, origin: Origin) -> Connector[Any, Any]:
    """Import one connector; ConnectorError names the file, the line and what is wrong."""
    from ..connector import Connector

    found = getattr(load_module(origin), origin.attribute, None)
    if not isinstance(found, Connector):
        raise ConnectorError(
            f"{origin.file} has no connector: its {origin.attribute!r} is "
            + ("missing" if found is None else f"of type {type(found).__name__}"),
            hint=f"end the module with: {origin.attribute} = Connector(name={name!r}, …)",
        )
    if found.name != name:
        raise ConnectorError(
            f"{origin.file}: the connector is named {found.name!r}, but is found as {name!r}",
            hint=f"name it {name!r}, or its file {PREFIX}{found.name}{SUFFIX}",
        )
    return found


def load_module(origin: Origin) -> ModuleType:
    """The module of an origin: the one that is imported already, or imported now.

    When a program has imported ``max_connectors`` from another place, its connectors are used:
    the program's queries name their classes.
    """
    own = origin.module if PACKAGE == PUBLIC else f"{PACKAGE}.{origin.module}"
    if origin.bundled:
        package = own.rpartition(".")[0]
        if package not in sys.modules:
            _execute_file(package, origin.file.with_name("__init__.py"))
        return sys.modules.get(own) or _execute(own, origin)
    for name in (own, f"{own}@{origin.file.resolve()}"):
        loaded = sys.modules.get(name)
        if loaded is None:
            return _execute(name, origin)
        if Path(loaded.__file__ or "").resolve() == origin.file.resolve():
            return loaded
    raise ConnectorError(f"{origin.file}: its module name is in use by another module")


def _execute(name: str, origin: Origin) -> ModuleType:
    """Import an origin's file as the module ``name``; nothing of it stays when that fails."""
    try:
        if name == origin.module and (origin.bundled or _is_found(name, origin.file)):
            return importlib.import_module(name)
        plain = origin.found_by in (OWN, VARIABLE)
        return _execute_file(name, origin.file, SourceOnly if plain else SourceFileLoader)
    except SchemaError as error:
        place = declared_at(error.message, origin.file) or _place(error, origin)
        raise ConnectorError(f"{place}: {error.message}", hint=error.hint) from error
    except MaxError:
        raise
    except Exception as error:
        text = error.msg if isinstance(error, SyntaxError) else str(error)
        raise ConnectorError(
            f"{_place(error, origin)}: {type(error).__name__}: {text}",
            hint="the connector cannot be imported; correct it, or install what it needs",
        ) from error


def _is_found(name: str, file: Path) -> bool:
    """Whether Python's own search finds this file by the module's name."""
    spec = importlib.util.find_spec(name)
    return spec is not None and Path(spec.origin or "").resolve() == file.resolve()


class SourceOnly(SourceFileLoader):
    """Compiles a file whenever it is imported; neither reads nor writes a ``__pycache__``.

    Python takes what it compiled before for a file of the same size and time.
    """

    def get_code(self, fullname: str) -> CodeType:
        """The code of the file as it is now."""
        return self.source_to_code(self.get_data(self.path), self.path)


def _execute_file(name: str, file: Path, loader: type[SourceFileLoader] = SourceFileLoader) -> ModuleType:
    folder = [str(file.parent)] if file.name == "__init__.py" else None
    spec = importlib.util.spec_from_file_location(
        name, file, loader=loader(name, str(file)), submodule_search_locations=folder
    )
    if spec is None or spec.loader is None:
        raise ImportError(f"{file} is not a Python file")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    if PACKAGE != PUBLIC:
        vars(module)["__builtins__"] = vars(builtins) | {"__import__": import_here}
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
    """``__import__`` in which ``max`` is this package, whatever its name."""
    if globals and level == 1 and str(globals["__package__"]).endswith(f".{BUNDLE}"):
        part = f"{globals['__package__']}.{name}"  # of a connector of ours: it imports max as well
        if part not in sys.modules:
            _execute_file(part, Path(str(globals["__file__"])).with_name(name + SUFFIX))
    elif level == 0 and name.partition(".")[0] == PUBLIC:
        found = importlib.import_module(PACKAGE + name.removeprefix(PUBLIC))
        if fromlist:
            return builtins.__import__(found.__name__, globals, locals, fromlist, 0)
        return sys.modules[PACKAGE]  # `import max.core` binds the package
    return builtins.__import__(name, globals, locals, fromlist or (), level)


def declared_at(message: str, file: Path) -> str:
    """``file:line`` of the first field or function of a connector that a message names; empty for none."""
    import ast  # only errors need it

    lines: dict[str, int] = {}
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.ClassDef):
            for one in node.body:
                targets = one.targets if isinstance(one, ast.Assign) else [getattr(one, "target", None)]
                lines |= {f"{node.name}.{t.id}": one.lineno for t in targets if isinstance(t, ast.Name)}
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines.setdefault(node.name, node.lineno)
    named = [lines[word] for word in re.findall(r"[A-Za-z_]\w*(?:\.\w+)?", message) if word in lines]
    return f"{file}:{named[0]}" if named else ""


def _place(error: BaseException, origin: Origin) -> str:
    """``file:line`` of the last line of the connector that ran."""
    own = origin.file.resolve()
    if isinstance(error, SyntaxError) and Path(error.filename or "").resolve() == own:
        return f"{origin.file}:{error.lineno}"
    frames = extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if Path(frame.filename).resolve() == own]
    return f"{origin.file}:{lines[-1]}" if lines else str(origin.file)
