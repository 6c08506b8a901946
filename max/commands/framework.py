"""What each command does: words in, one library call, words out.

Rule 1: a handler takes parsed options and returns an Answer; it prints nothing.  Lines may be
a generator, so that a long answer is neither held in memory nor waited for.

Rule 2: commands that read open the database directly, without an event loop, a connector or
a network; what other commands need is imported inside their handlers.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from ..core import InstallationInfo
from ..errors import ProjectError, StorageError, UnknownName, UsageError
from ..installations.project_folder import ProjectFolder
from ..model.entities import Entity
from ..model.query import Query
from ..storage.tables import Tables
from .terminal import colours, is_terminal, width
from .text import Paint, compact

if TYPE_CHECKING:
    from pathlib import Path

    from ..model.values import Json
    from ..storage.database import Connection

FORMATS = ("text", "json", "ndjson")


class Answer(NamedTuple):
    """Lines for stdout, notes for stderr when they have been printed, and the exit status."""

    lines: Iterable[str]
    notes: Sequence[str] = ()
    status: int = 0


Options = argparse.Namespace
Handler = Callable[[Options], Answer]


# -- words ------------------------------------------------------------------------------------


class Parser(argparse.ArgumentParser):
    """A parser that raises UsageError instead of leaving, and names the nearest option."""

    def error(self, message: str) -> NoReturn:
        """What argparse found wrong, and where to read more."""
        raise UsageError(message, hint=f"see: {self.prog} --help")

    def read(self, words: Sequence[str]) -> Options:
        """Parse everything; UnknownName for an option that does not exist."""
        options, rest = self.parse_known_args(words)
        for word in rest:
            if word.startswith("-") and word != "-":
                raise UnknownName(
                    "option", word.partition("=")[0], self._option_string_actions, where=self.prog
                )
        if rest:
            self.error(f"unexpected {rest[0]!r}")
        return options


def parse(command: str, words: Sequence[str], summary: str, configure: Callable[[Parser], None]) -> Options:
    """The options of a command, with its handler as ``run``; ``configure`` names those of its own."""
    parser = Parser(
        prog=f"max {command}",
        description=f"{summary[0].upper()}{summary[1:]}.",
        formatter_class=partial(
            argparse.RawDescriptionHelpFormatter, width=min(width(sys.stdout) or 100, 100)
        ),
        allow_abbrev=False,
    )
    configure(parser)
    parser.add_argument("-C", "--project", metavar="DIR", help="use the project of that folder")
    parser.add_argument(
        "-o", "--output", type=output_format, default="text", metavar="FORMAT", help="text, json or ndjson"
    )
    parser.add_argument(
        "--json", dest="output", action="store_const", const="json", help="the same as -o json"
    )
    if not {"-h", "--help"} & set(words):
        return parser.read(words)
    text = parser.format_help().rstrip("\n")
    return Options(project=None, run=lambda options: Answer([text]))


def output_format(text: str) -> str:
    """One of FORMATS."""
    if text not in FORMATS:
        raise UnknownName("output format", text, FORMATS)
    return text


def at_least_one(text: str) -> int:
    """A count of things to show."""
    if not text.isdecimal() or not text.isascii() or not 1 <= int(text[:18]) <= 1_000_000:
        raise argparse.ArgumentTypeError(f"{text!r} is no count from 1 to 1,000,000")
    return int(text)


def examples(parser: Parser, *lines: str) -> None:
    """Show examples at the end of the command's help."""
    parser.epilog = "\n".join(["examples:", *(f"  {line}" for line in lines)])


def add_target(parser: Parser, *, optional: bool = False) -> None:
    """The installation as the first word."""
    parser.add_argument(
        "target",
        nargs="?" if optional else None,
        metavar="INSTALLATION",
        help="connector:name, connector when it has one, or the beginning of the id",
    )


# -- answers ----------------------------------------------------------------------------------


def answer(
    options: Options, data: Json, text: Callable[[], Iterable[str]], notes: Sequence[str] = ()
) -> Answer:
    """One thing, as JSON or as text."""
    if options.output == "text":
        return Answer(text(), notes)
    return Answer([as_json(data, options)])


def listing(options: Options, rows: Sequence[Json], text: Callable[[], Iterable[str]]) -> Answer:
    """Several things: as text, as ``{"data": […]}``, or as a line of JSON each."""
    if options.output == "ndjson":
        return Answer(map(compact, rows))
    return answer(options, {"data": list(rows)}, text)


def as_json(data: Json, options: Options) -> str:
    """JSON on one line, but indented for whoever reads it on a terminal."""
    return compact(data, indent=2 if options.output == "json" and is_terminal(sys.stdout) else None)


def paint() -> Paint:
    """Colours for stdout."""
    return Paint(colours(sys.stdout))


# -- the project and its databases ------------------------------------------------------------


def found_project(options: Options) -> ProjectFolder:
    """The project that the options name, or that the current folder belongs to."""
    return ProjectFolder.find(options.project)


def only_target(project: ProjectFolder, text: str | None) -> InstallationInfo:
    """The installation that a text means; without one, the only one there is."""
    if text is not None:
        return project.target(text)
    known = project.installations()
    if len(known) == 1:
        return known[0]
    if not known:
        raise ProjectError("nothing is connected here", hint="try: max sync acme:default")
    raise UsageError("which installation?", hint=f"name one of: {', '.join(map(str, known))}")


class Reading(NamedTuple):
    """An installation's database, open for reading."""

    info: InstallationInfo
    connection: Connection
    tables: Tables

    def entity(self, name: str) -> type[Entity]:
        """The entity of a name; UnknownName with the nearest."""
        return self.tables.schema.entity(name)

    def counts(self) -> dict[str, int]:
        """Rows by entity."""
        entities = self.tables.schema.entities
        return {name: self.tables.count(self.connection, Query(entity)) for name, entity in entities.items()}


@contextmanager
def reading(options: Options) -> Iterator[Reading]:
    """Open the database of the target that the options name."""
    project = found_project(options)
    info = project.target(options.target)
    with connected(project, info) as connection:
        yield Reading(info, connection, Tables.stored(connection))


@contextmanager
def connected(project: ProjectFolder, info: InstallationInfo) -> Iterator[Connection]:
    """A connection that reads an installation's database; StorageError when it was never synced."""
    from ..storage.sqlite import reader

    with reader(synced_database(project, info)) as connection:
        yield connection


def synced_database(project: ProjectFolder, info: InstallationInfo) -> Path:
    """The file of an installation's database; StorageError when it was never synced."""
    path = project.database(info)
    if not path.exists():
        raise StorageError(f"{info} has never been synced", hint=f"begin with: max sync {info}")
    return path


# -- init, ls ---------------------------------------------------------------------------------


# -- search, get, count -----------------------------------------------------------------------


# -- schema, status, runs ---------------------------------------------------------------------
