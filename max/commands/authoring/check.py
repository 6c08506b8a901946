"""What can be known of a connector without a network: what is wrong, and what a colleague would mention.

A problem makes the connector, or a part of it, fail.  Advice is about what it costs, or what people will
miss.  Both name the file, the line and the attribute.  Sources are read, never run: the connector that is
passed in is loaded already.
"""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import MISSING, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeAlias

from ...connector import AnyConnector, Input, RunCode, SecretInput, Select, SignIn
from ...errors import ConnectorError, MaxError
from ...model.entities import Entity
from ...model.loaders import CollectionLoader, Loader
from ...model.struct import Struct
from ...model.values import Json, Kind
from ...upstream.hosts import PLACEHOLDER
from ...upstream.operations import Limit, Operation

Level: TypeAlias = Literal["problem", "advice"]
ADDRESSES = ("base_url", "url", "host", "endpoint", "server")  # how a value that is an address is called
REPORTED = re.compile(
    r"(?P<file>.+?):(?P<line>\d+)(?::\d+)?: error: (?P<text>.*?)(?:  \[(?P<code>[\w-]+)\])?$"
)
ATTRIBUTE = re.compile(r"(?:\w+: )?(\w+)(?:\[\d+\])?(?:: | )")  # at the beginning of a message
PLACE = re.compile(r"(?P<file>[^:\n]+\.py):(?P<line>\d+): (?P<text>.*)", re.S)
COLUMNS = ("level", "file", "line", "attribute", "message", "hint")
BY_HAND = "run it by hand: mypy --strict"
PATIENCE = 300.0  # seconds for mypy


class Finding(Struct):
    """One thing about a connector: where it is, what it is, and what to do."""

    level: Level
    file: str
    line: int | None
    attribute: str
    message: str
    hint: str = ""

    def to_json(self) -> dict[str, Json]:
        """The same as JSON data."""
        return {name: getattr(self, name) for name in COLUMNS}


def found_in_error(error: MaxError, file: Path | None) -> Finding:
    """The finding that a connector cannot be loaded."""
    placed = PLACE.fullmatch(error.message)
    if placed:
        return Finding("problem", placed["file"], int(placed["line"]), "", placed["text"], error.hint)
    text, place = error.message, str(file or "")
    text = text.removeprefix(f"{place}: ")
    attribute = ATTRIBUTE.match(text) if isinstance(error, ConnectorError) else None
    return Finding("problem", place, None, attribute[1] if attribute else "", text, error.hint)


class Source:
    """The text of one file of a connector: where its names are defined, and how often each is used."""

    def __init__(self, file: Path) -> None:
        self.file = file

    @cached_property
    def tree(self) -> ast.Module:
        """The file's syntax; empty when it cannot be read."""
        try:
            return ast.parse(self.file.read_bytes())
        except (OSError, SyntaxError, ValueError):
            return ast.Module(body=[], type_ignores=[])

    @cached_property
    def lines(self) -> dict[str, int]:
        """The line of each class, ``Class.field``, function and name of the module."""
        found: dict[str, int] = {}
        for node in self.tree.body:
            for name in _defined(node):
                found.setdefault(name, node.lineno)
            if isinstance(node, ast.ClassDef):
                found |= {f"{node.name}.{name}": one.lineno for one in node.body for name in _defined(one)}
        for name, function in self.functions.items():
            found.setdefault(name, function.lineno)
        return found

    @cached_property
    def uses(self) -> dict[str, int]:
        """How often each name is read."""
        found: dict[str, int] = {}
        for node in ast.walk(self.tree):
            name = node.id if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) else None
            name = node.attr if isinstance(node, ast.Attribute) else name
            if name:
                found[name] = found.get(name, 0) + 1
        return found

    @cached_property
    def functions(self) -> dict[str, ast.FunctionDef | ast.AsyncFunctionDef]:
        """Every function, by name."""
        kinds = ast.FunctionDef | ast.AsyncFunctionDef
        return {node.name: node for node in ast.walk(self.tree) if isinstance(node, kinds)}


def _calls(node: ast.AST | None) -> list[ast.Call]:
    """The calls inside of a function."""
    return [one for one in ast.walk(node) if isinstance(one, ast.Call)] if node else []


def _defined(node: ast.stmt) -> list[str]:
    """The names that a statement defines."""
    if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    return [one.id for one in targets if isinstance(one, ast.Name)]


def findings(connector: AnyConnector, file: Path) -> list[Finding]:
    """Everything that the connector in this file makes worth saying, problems first, then by line."""
    review = Review(connector, file)
    found = [*review.problems(), *review.advice()]
    return sorted(found, key=lambda one: (one.level != "problem", one.file, one.line or 0))


class Review:
    """A look at one loaded connector."""

    def __init__(self, connector: AnyConnector, file: Path) -> None:
        self.connector, self.file = connector, file
        self.main = Source(file)
        self._sources = {file.resolve(): self.main}
        self.module = next(
            (one for one in list(sys.modules.values()) if _is_file(one, file) and _has(one, connector)), None
        )

    def _source(self, module: str) -> Source:
        place = getattr(sys.modules.get(module), "__file__", None)
        path = Path(place).resolve() if place else self.file.resolve()
        return self._sources.setdefault(path, Source(Path(place)) if place else self.main)

    def _say(
        self,
        level: Level,
        attribute: str,
        text: str,
        hint: str,
        *,
        module: str = "",
        name: str = "",
    ) -> Finding:
        source = self._source(module) if module else self.main
        line = source.lines.get(name or attribute)
        return Finding(level, str(source.file), line, attribute, text, hint)

    # -- problems ---------------------------------------------------------------------------------

    def problems(self) -> Iterator[Finding]:
        """What makes a part of the connector fail."""
        declared = set(map(id, self.connector.operations))
        loading = {one.load for one in self.connector.loaders}  # the connector may have made others of them
        for name, value in vars(self.module).items() if self.module else ():
            if isinstance(value, Operation) and id(value) not in declared and self.main.uses.get(name):
                yield self._say(
                    "problem",
                    name,
                    f"the operation {value.name} is used, but not declared",
                    "add it to operations=: a loader that runs it fails",
                )
            if isinstance(value, Loader) and value.load not in loading and name in self.main.lines:
                yield self._say(
                    "problem", name, f"the loader {name} is not declared", "add it to loaders=, or remove it"
                )
        if not self.connector.hosts and self.main.uses.get("HttpClient"):
            yield self._say(
                "problem",
                "hosts",
                "it has an HttpClient, and no hosts: every request is refused",
                'declare them, such as hosts=["{base_url}"]',
                name="connector",
            )

    # -- advice -----------------------------------------------------------------------------------

    def advice(self) -> Iterator[Finding]:
        """What a colleague would mention."""
        for entity in self.connector.schema.entities.values():
            yield from self._about_entity(entity)
        for loader in self.connector.loaders:
            if isinstance(loader, CollectionLoader):
                yield from self._about_listing(loader)
        yield from self._about_answers()
        yield from self._about_operations()
        yield from self._about_running()

    def _about_entity(self, entity: type[Entity]) -> Iterator[Finding]:
        name, module = entity.__name__, entity.__module__
        types, roots = entity.types(), self.connector.schema.roots
        if not (vars(entity).get("__doc__") or "").strip():
            yield self._say(
                "advice",
                name,
                "it has no description",
                "write a docstring: max schema shows it",
                module=module,
            )
        has_text = any(one.kind is Kind.TEXT for field, one in types.items() if field != "id")
        if entity._title is None and has_text and entity not in roots:
            yield self._say(
                "advice",
                name,
                "it has no title: people see its ids",
                f'name the text by which people know it: class {name}(Entity, title="…")',
                module=module,
            )
        for field, one in entity._fields.items():
            if field != "id" and not getattr(one, "description", ""):
                yield self._say(
                    "advice",
                    f"{name}.{field}",
                    "it has no description",
                    'write Field("what it is"): max schema and agents show it',
                    module=module,
                )

    def _about_listing(self, loader: CollectionLoader[Any, Any, Any]) -> Iterator[Finding]:
        module = getattr(loader.load, "__module__", "")
        if loader.watermark is not None and loader.sweep is None:
            yield self._say(
                "advice",
                loader.name,
                "it lists changes alone, so what was removed is never noticed",
                "let everything be listed now and then: sweep=timedelta(days=1)",
                module=module,
            )
        source = self._source(module)
        function = source.functions.get(loader.name)
        if loader.stable or function is None:
            return
        words = {word.arg for one in _calls(function) for word in one.keywords}
        if "next" in words and not words & {"total", "size"}:
            yield self._say(
                "advice",
                loader.name,
                "no page says how many rows there are, so Max lists again before it removes any",
                "pass total= or size= to the page, or declare stable=True if its order never changes",
                module=module,
            )

    def _about_answers(self) -> Iterator[Finding]:
        steps = self.connector.onboarding
        if any(isinstance(one, RunCode) for one in steps):
            return  # whose code may give any answer
        if not any(isinstance(one, SignIn) for one in steps):
            yield from self._about_credentials()
        asked = {one.key for one in steps if isinstance(one, Input | Select)}
        for one in fields(self.connector.config):
            needed = one.default is MISSING and one.default_factory is MISSING
            if needed and one.name not in asked:
                yield self._say(
                    "advice",
                    "onboarding",
                    f"no step asks for {one.name!r}, which has no default",
                    f'add Input("{one.name}", "…")',
                    name="connector",
                )

    def _about_credentials(self) -> Iterator[Finding]:
        """The credentials that are needed, and that no step asks for."""
        asked = [one.credential for one in self.connector.onboarding if isinstance(one, SecretInput)]
        for one in self.connector.credentials:
            if one.required and one not in asked:
                yield self._say(
                    "advice",
                    "onboarding",
                    f"no step asks for the credential {one.name!r}",
                    f"add a SecretInput for it: max connect needs --credential {one.name}=… now",
                    name="connector",
                )

    def _about_operations(self) -> Iterator[Finding]:
        names = {id(value): name for name, value in vars(self.module).items()} if self.module else {}
        for one in self.connector.operations:
            name = names.get(id(one), "")
            if name in self.main.functions and self.main.uses.get(name, 0) < 2:
                yield self._say(
                    "advice",
                    name,
                    f"the operation {one.name} is declared, and nothing runs it",
                    "remove it, or use it",
                )
        if self.connector.operations and all(
            one.limit == Limit(self.connector.name) for one in self.connector.operations
        ):
            yield self._say(
                "advice",
                "operations",
                "no operation has a limit: eight calls at once, and no other bound",
                'say what the service allows: Limit("NAME:api", calls=…, per=…), for each operation',
                name="connector",
            )

    def _about_running(self) -> Iterator[Finding]:
        if self.connector.operations and self._lacks_health():
            yield self._say(
                "advice",
                "initialise",
                "the installation has no health, so a token that has expired is seen late",
                "give Installation(…, health=…), a function that asks the service for something small",
            )
        yield from self._about_hosts()
        if self.main.uses.get("HttpClient") and not self.connector.requires:
            yield self._say(
                "advice",
                "requires",
                "it needs the extra http, and does not say so",
                "declare requires=[require_http]: max connect then says what to install",
                name="connector",
            )

    def _lacks_health(self) -> bool:
        """Whether initialise makes an Installation, and never one with a health."""
        calls = _calls(self.main.functions.get(getattr(self.connector.initialise, "__name__", "")))
        made = [one for one in calls if isinstance(one.func, ast.Name) and one.func.id == "Installation"]
        words = {word.arg for one in made for word in one.keywords}
        return bool(made) and not words & {"health", None} and all(len(one.args) < 5 for one in made)

    def _about_hosts(self) -> Iterator[Finding]:
        """The addresses of the configuration that hosts does not name."""
        keys = [filled[1] for pattern in self.connector.hosts if (filled := PLACEHOLDER.fullmatch(pattern))]
        for one in fields(self.connector.config):
            if one.name in ADDRESSES and one.name not in keys and self.connector.hosts:
                yield self._say(
                    "advice",
                    "hosts",
                    f"{one.name} is an address, but hosts= does not name it",
                    f'add "{{{one.name}}}": other addresses are refused now',
                    name="connector",
                )


def _is_file(module: object, file: Path) -> bool:
    place = getattr(module, "__file__", None)
    return isinstance(place, str) and Path(place).resolve() == file.resolve()


def _has(module: object, connector: AnyConnector) -> bool:
    return any(value is connector for value in vars(module).values())


# -- types --------------------------------------------------------------------------------------


def has_mypy() -> bool:
    """Whether mypy is installed beside Max."""
    return importlib.util.find_spec("mypy") is not None


def cache_folder() -> Path:
    """Where mypy keeps what it knows of Max, so that a second check is quick: a folder of this user."""
    if text := os.environ.get("MAX_HOME"):
        return Path(text).expanduser() / "mypy"
    try:
        from platformdirs import user_cache_path
    except ImportError:  # a vendored copy with nothing installed
        return Path("~/.cache/max/mypy").expanduser()
    return user_cache_path("max", appauthor=False) / "mypy"


def types_of(file: Path) -> list[Finding]:
    """What ``mypy --strict`` says of a file; one finding that says why when it does not run.

    The file's imports are found where its own module is: beside it, or beside the package that it is in.
    """
    import sysconfig  # its import asks the environment

    package = Path(__file__).parents[3]
    beside = next(one for one in file.resolve().parents if not (one / "__init__.py").is_file())
    places = dict.fromkeys([package, package / "connectors", beside])
    installed = Path(sysconfig.get_path("purelib"))  # where mypy looks by itself, and refuses to be sent
    path = [str(one) for one in places if one.is_dir() and one != installed]
    options = "--strict --no-error-summary --no-color-output --no-pretty --follow-imports silent".split()
    options += ["--explicit-package-bases", "--config-file", os.devnull, "--cache-dir", str(cache_folder())]
    settings = {**os.environ, "MYPYPATH": os.pathsep.join(path)}
    try:
        command = [
            sys.executable,
            "-m",
            "mypy",
            *options,
            str(file),
        ]  # which reads the file, and runs nothing
        run = subprocess.run(  # noqa: S603
            command, env=settings, capture_output=True, text=True, timeout=PATIENCE, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return [Finding("advice", str(file), None, "types", f"mypy did not answer: {error}", BY_HAND)]
    found = list(_reported(file, run.stdout))
    if run.returncode > 1 or (run.returncode and not found):
        last = (run.stderr or run.stdout).strip().splitlines()
        reason = last[-1][:200] if last else f"exit status {run.returncode}"
        return [
            *found,
            Finding("advice", str(file), None, "types", f"mypy did not check it: {reason}", BY_HAND),
        ]
    return found


def _reported(file: Path, output: str) -> Iterator[Finding]:
    """What lines of mypy say of a file; those about other files are left out."""
    for line in output.splitlines():
        said = REPORTED.fullmatch(line)
        if said and Path(said["file"]).resolve() == file.resolve():
            hint = f"mypy --strict: {said['code']}" if said["code"] else "mypy --strict"
            yield Finding("problem", str(file), int(said["line"]), "types", said["text"], hint)
