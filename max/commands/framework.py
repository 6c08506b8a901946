"""What every command uses: Options in, an Answer out.

Rule 1: a handler takes parsed options and returns an Answer; it prints nothing.  Its lines may be
a generator, so that a long answer is neither held in memory nor waited for.

Rule 2: commands that read use a Reader, without an event loop, a connector or a network.  A
command that needs more imports it inside its handler.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from ..core import InstallationInfo
from ..errors import ProjectError, UnknownName, UsageError
from ..installations.project_folder import ProjectFolder
from .tables import Column, Table
from .terminal import colours, is_terminal, width
from .text import Paint, json_text

if TYPE_CHECKING:
    from ..model.values import Json
    from ..query.reader import Reader

FORMATS = ("text", "json", "ndjson")
MAYBE_PATHS = ("project", "folder", "record", "replay", "set", "credential")  # of any bytes
MOST_OPTIONS = 1_000  # of a command; argparse takes the square of their number
NO_VALUE = "expected one argument"  # as argparse says it, also when the value begins with -
NOTHING_CONNECTED = "no installation is connected; try: max sync acme:default"


class Answer(NamedTuple):
    """Lines for stdout, notes for stderr after them, and the exit status."""

    lines: Iterable[str]
    notes: Sequence[str] = ()
    status: int = 0


# -- options ----------------------------------------------------------------------------------


class Options(argparse.Namespace):
    """The parsed options of a command, and what every handler does with them."""

    def found_project(self) -> ProjectFolder:
        """The project that the options name, or that the current folder belongs to."""
        return ProjectFolder.find(self.project)

    def found_target(self) -> tuple[ProjectFolder, InstallationInfo]:
        """The project, and its installation that the options name; without a name, its only one."""
        project = self.found_project()
        return project, only_target(project, self.target)

    def reading(self) -> AbstractContextManager[Reader]:
        """A Reader of the installation that the options name."""
        return read(*self.found_target())

    def answer(
        self, data: Json, text: Callable[[], Iterable[str]], notes: Sequence[str] = (), status: int = 0
    ) -> Answer:
        """One thing, as JSON or as text; notes belong to the text."""
        if self.output == "text":
            return Answer(text(), notes, status)
        return Answer([self.json(data)], (), status)

    def listing(
        self, rows: Sequence[Json], text: Callable[[], Iterable[str]], notes: Sequence[str] = ()
    ) -> Answer:
        """Several things: as text, as ``{"data": […]}``, or as one line of JSON each."""
        if self.output == "ndjson":
            return Answer(map(json_text, rows), notes)
        return self.answer({"data": list(rows)}, text)._replace(notes=notes)

    def json(self, data: Json) -> str:
        """JSON on one line, or indented on a terminal."""
        return json_text(data, indent=2 if self.output == "json" and is_terminal(sys.stdout) else None)


class Parser(argparse.ArgumentParser):
    """A parser that raises UsageError instead of ending the process, and names the nearest option."""

    def error(self, message: str) -> NoReturn:
        """Raise argparse's message, with the way to the command's help."""
        dash = "a value that begins with - is written --option=VALUE; " if message.endswith(NO_VALUE) else ""
        raise UsageError(message, hint=f"{dash}see: {self.prog} --help")

    def read(self, words: Sequence[str]) -> Options:
        """Parse all words; UnknownName for an option that does not exist."""
        if sum(word.startswith("-") for word in words) > MOST_OPTIONS:
            self.error(f"more than {MOST_OPTIONS:,} options")
        options, rest = self.parse_known_args(words, Options())
        for word in rest:
            if word.startswith("-") and word != "-":
                raise UnknownName(
                    "option", word.partition("=")[0], self._option_string_actions, where=self.prog
                )
        if rest:
            self.error(f"unexpected {rest[0]!r}")
        for name, value in vars(options).items():
            if name not in MAYBE_PATHS:
                self._check_text(value)
        return options

    def _check_text(self, value: object) -> None:
        """UsageError when bytes of a word, or of one of several, are not UTF-8."""
        for word in value if isinstance(value, list) else [value]:
            if isinstance(word, str) and (shown := word.encode("utf-8", "backslashreplace").decode()) != word:
                self.error(f"{shown} is not UTF-8 text")

    def add_target(self, *, optional: bool = False) -> None:
        """Take the installation as the first word."""
        about = "connector:name, connector if it has only one, or the beginning of the id"
        self.add_argument("target", nargs="?" if optional else None, metavar="INSTALLATION", help=about)

    def add_filter(self) -> None:
        """Take ``--filter``."""
        self.add_argument("--filter", metavar="TEXT", help="only rows that match, such as 'updated_at > -7d'")

    def add_fields(self) -> None:
        """Take ``--fields``."""
        self.add_argument("--fields", metavar="FIELD,…", help="only these fields, in this order")

    def add_limit(self, about: str, default: int | None = None) -> None:
        """Take ``--limit``."""
        self.add_argument("--limit", type=at_least_one, default=default, metavar="N", help=about)

    def add_examples(self, *lines: str) -> None:
        """Show examples at the end of the help."""
        self.epilog = "\n".join(["examples:", *(f"  {line}".rstrip() for line in lines)])


def command_parser(command: str, summary: str, configure: Callable[[Parser], None]) -> Parser:
    """The parser of a command: ``configure`` adds its own options to those that every command has."""
    parser = Parser(
        prog=f"max {command}",
        description=f"{summary[0].upper()}{summary[1:]}.",
        formatter_class=partial(
            argparse.RawDescriptionHelpFormatter, width=min(width(sys.stdout) or 100, 100)
        ),
        allow_abbrev=False,
    )
    configure(parser)
    parser.add_argument("-C", "--project", metavar="DIR", help="use the project of this folder")
    parser.add_argument(
        "-o", "--output", type=output_format, default="text", metavar="FORMAT", help="text, json or ndjson"
    )
    parser.add_argument(
        "--json", dest="output", action="store_const", const="json", help="the same as -o json"
    )
    return parser


def output_format(text: str) -> str:
    """One of FORMATS."""
    if text not in FORMATS:
        raise UnknownName("output format", text, FORMATS)
    return text


def at_least_one(text: str) -> int:
    """A positive count."""
    if not text.isdecimal() or not text.isascii() or not 1 <= int(text[:18]) <= 1_000_000:
        raise argparse.ArgumentTypeError(f"{text!r} is not a count from 1 to 1,000,000")
    return int(text)


def json_stream(
    head: Mapping[str, Json], rows: Iterable[Json], tail: Callable[[], Mapping[str, Json]]
) -> Iterator[str]:
    """``{…head, "data": […], …tail}``, written row by row; ``tail`` is called after the last row."""
    separator = json_text({**head, "data": []})[:-2]
    for row in rows:
        yield separator + json_text(row)
        separator = ","
    yield f"{'' if separator == ',' else separator}],{json_text(tail())[1:]}"


def paint() -> Paint:
    """Colours for stdout."""
    return Paint(colours(sys.stdout))


def table(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> list[str]:
    """A table that fits stdout; empty without rows."""
    if not rows:
        return []
    return Table(columns, rows, width(sys.stdout), paint()).lines(rows)


# -- the project and its installations --------------------------------------------------------


def only_target(project: ProjectFolder, text: str | None) -> InstallationInfo:
    """The installation that a text means; without a text, the only one of the project."""
    if text is not None:
        return project.target(text)
    known = project.installations()
    if len(known) == 1:
        return known[0]
    if not known:
        raise ProjectError("no installation is connected", hint="try: max sync acme:default")
    raise UsageError("which installation?", hint=f"name one of: {', '.join(map(str, known))}")


def read(project: ProjectFolder, info: InstallationInfo) -> AbstractContextManager[Reader]:
    """A Reader of an installation; StorageError when it was never synced."""
    from ..query.reader import open_reader  # not every command reads data

    return open_reader(project.database(info), info)


def readers(
    project: ProjectFolder, chosen: Iterable[InstallationInfo]
) -> Iterator[tuple[InstallationInfo, Reader]]:
    """A Reader of each of these installations, without those that were never synced."""
    for info in chosen:
        if project.database(info).exists():
            with read(project, info) as reader:
                yield info, reader
