"""What every command uses: Options in, an Answer out.

Rule 1: a handler takes parsed options and returns an Answer; it prints nothing.  Its lines may be
a generator, so that a long answer is neither held in memory nor waited for.

Rule 2: commands that read use a Reader, without an event loop, a connector or a network.  A
command that needs more imports it inside its handler.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import MaxError, ProjectError, UnknownName, UsageError
from ..model.settings import InstallationInfo
from .console import console
from .tables import Column, Table
from .terminal import colours, is_terminal, line_width
from .text import Paint, iso_time, json_text, number

if TYPE_CHECKING:
    from ..model.values import Json
    from ..projects.manager import ProjectManager
    from ..query.reader import Reader, SyncState

FORMATS = ("text", "json", "ndjson", "csv", "tsv", "markdown")
TABULAR = ("csv", "tsv", "markdown")  # a line with the names of the columns, then a line for each row
LEFT_OUT = ""  # for an installation that was not named
NOTHING: Mapping[str, Any] = MappingProxyType({})
NOTHING_CONNECTED = "no installation is connected; try: max sync acme:default"


class Answer(NamedTuple):
    """Lines for stdout, notes for stderr after them, and the exit status.

    Notes may be a generator: they are made when the last line has been printed.
    """

    lines: Iterable[str]
    notes: Iterable[str] = ()
    status: int = 0


class Ending(NamedTuple):
    """Where a listing ended: known when its last row is.

    ``shown`` rows of ``total`` (None: not counted).  ``go_on`` is the option, with its value, that makes
    the same command go on: ``("--after", cursor)``.  ``more``: that brings more rows already now.
    ``advice`` says the same to a person, who has no use for a cursor.
    """

    shown: int
    total: int | None = None
    more: bool = False
    cursor: str | None = None
    go_on: tuple[str, str] | None = None
    advice: str = ""


# -- options ----------------------------------------------------------------------------------


class Options(argparse.Namespace):
    """The parsed options of a command, and what every handler does with them."""

    target: Any  # the installation's name, or None
    after_target: Sequence[str] = ()  # as in the Parser
    given_words: Sequence[str] = ()  # the command line, from the command's name on
    answer_words: Callable[[list[str]], int]  # answers another command line, as a daemon does for its callers
    states: Sequence[SyncState] = ()  # of each installation that was read
    state_in_data = False  # whether the answer has them as JSON data

    def found_project(self) -> ProjectManager:
        """The project that the options name, or that the current folder belongs to."""
        return console().find_project(self.project)

    def found_target(self) -> tuple[ProjectManager, InstallationInfo]:
        """The project, and its installation that the options name; without a name, its only one."""
        project = self.found_project()
        if self.after_target and self.target is not None:
            return project, self._first_target(project)
        return project, only_target(project, self.target)

    def _first_target(self, project: ProjectManager) -> InstallationInfo:
        """The installation that the first word names; where it names none, and only one is connected, that.

        Then that word belongs to the next parameter, and so on.
        """
        names = self.after_target
        words = [getattr(self, name) for name in names]
        try:
            if self.target == LEFT_OUT:
                self.target = None
                project.target(words[0] or "")  # the word that is missing is the one behind
                raise UsageError(f"what of {words[0]}?", hint=f"required: {names[0].upper()}")
            return project.target(self.target)
        except UnknownName:
            if self.target is None:
                return only_target(project, None)
            if len(project.installations()) != 1 or words[-1] or ":" in (words[0] or ""):
                raise
            for name, word in zip(names, [self.target, *words], strict=False):
                setattr(self, name, word)
            self.target = None
        return only_target(project, None)

    # -- reading

    @contextmanager
    def reading(self) -> Iterator[Reader]:
        """A Reader of the installation that the options name; the answer says how whole that is."""
        with self.reading_of(*self.found_target()) as reader:
            yield reader

    @contextmanager
    def reading_of(self, project: ProjectManager, info: InstallationInfo) -> Iterator[Reader]:
        """A Reader of an installation; the answer says how whole that is."""
        with read(project, info) as reader:
            self.states = [*self.states, reader.state]
            yield reader

    def named_or_synced(
        self, project: ProjectManager, named: Sequence[InstallationInfo]
    ) -> Sequence[InstallationInfo]:
        """What a question over several installations reads: those named, else all that were ever synced.

        The answer says that it lacks the others.
        """
        if named:
            return named
        known = project.installations()
        found = [info for info in known if project.has_data(info)]
        if len(found) < len(known):
            from ..query.reader import unsynced

            self.states = [*self.states, *(unsynced(info) for info in known if info not in found)]
        return found

    def while_reading(self, build: Callable[[Reader], Answer]) -> Answer:
        """The Answer that ``build`` makes, whose rows are read while they are printed."""
        notes: list[str] = []

        def lines() -> Iterator[str]:
            with self.reading() as reader:
                answer = build(reader)
                yield from answer.lines
                notes.extend(answer.notes)

        return Answer(lines(), notes)

    # -- answering

    def answer(
        self,
        data: Mapping[str, Json],
        text: Callable[[], Iterable[str]],
        notes: Iterable[str] = (),
        status: int = 0,
        *,
        row: Mapping[str, Json] | None = None,
    ) -> Answer:
        """One thing, as JSON or as text; notes belong to the text.

        ``row`` is the same as a row of a listing; without it the data is.
        """
        if self.output == "text":
            return Answer(text(), self._notes(notes), status)
        if self.output in TABULAR or (row is not None and self.output != "json"):
            return self.listing([row or data], text, status=status)
        return Answer([self.json({**data, **self._state()})], (), status)

    def listing(
        self,
        rows: Iterable[Mapping[str, Json]],
        text: Callable[[], Iterable[str]],
        notes: Iterable[str] = (),
        *,
        columns: Sequence[str] = (),
        head: Mapping[str, Json] = NOTHING,
        under: str = "data",
        tail: Mapping[str, Json] = NOTHING,
        ending: Callable[[], Ending] | None = None,
        status: int = 0,
    ) -> Answer:
        """Several things, in every format, one held in memory at a time.

        JSON is ``{…head, "data": [rows], …tail}`` with where the listing ended and how whole the data is;
        ndjson, csv, tsv and markdown are rows alone, and that goes to stderr.  ``under`` is another word
        for ``data``.  ``rows`` that are no sequence need ``columns``, and ``ending``, which is called
        after the last row or line of text.
        """
        if ending is None:
            rows = list(rows)
            ending = partial(Ending, len(rows), len(rows))

        def meta() -> dict[str, Json]:
            return {**self._meta(ending, notes), **tail}

        if self.output == "text":
            return Answer(text(), self._notes(notes, ending), status)
        if self.output == "json" and isinstance(rows, Sequence):
            return Answer([self.json({**head, under: rows, **meta()})], (), status)
        if self.output == "json":
            return Answer(json_stream(head, rows, meta), (), status)
        if self.output == "ndjson":
            return Answer(map(json_text, rows), self._ndjson_notes(head, meta), status)
        from ..query.formats import cells_of, columns_of, encoded  # text and JSON do without

        columns = columns or (columns_of(rows) if isinstance(rows, Sequence) else ())
        lines = encoded(self.output, columns, cells_of(columns, rows)) if columns else ()
        return Answer(lines, self._notes(notes, ending), status)

    def json(self, data: Json) -> str:
        """JSON on one line, or indented on a terminal."""
        return json_text(data, indent=2 if self.output == "json" and is_terminal(console().stdout) else None)

    def go_on(self, option: str, value: str) -> str:
        """The same command with another value of an option, quoted for a shell."""
        from shlex import join  # only answers that have more need it

        words, given = [], iter(self.given_words)
        for word in given:
            if word == option:
                next(given, None)
            elif not word.startswith(f"{option}="):
                words.append(word)
        return join(["max", *words, option, value])

    def _notes(self, notes: Iterable[str], ending: Callable[[], Ending] | None = None) -> Iterator[str]:
        """The notes on stderr: those given, and where the listing ended."""
        if not self.quiet:
            yield from notes
            end = ending() if ending else Ending(0)
            if end.more and end.go_on:
                of = "" if end.total is None else f" of {number(end.total)}"
                short = end.advice if is_terminal(console().stdout) else ""
                yield f"{number(end.shown)}{of} shown; {short or f'next: {self.go_on(*end.go_on)}'}"

    def warnings(self) -> Iterator[str]:
        """What makes the data doubtful, for stderr; nothing when the answer has it as JSON data.

        The command line prints it last, whatever the handler made its answer of.
        """
        if not self.state_in_data:
            yield from (state.warning for state in self.states if state.warning)

    def _ndjson_notes(
        self, head: Mapping[str, Json], meta: Callable[[], Mapping[str, Json]]
    ) -> Iterator[str]:
        """The same as one JSON object."""
        if not self.quiet or any(state.warning for state in self.states):
            yield json_text({"meta": {**head, **meta()}})

    def _meta(self, ending: Callable[[], Ending], notes: Iterable[str]) -> dict[str, Json]:
        """Where a listing ended and how whole the data is, as JSON data; called after the last row."""
        end, words = ending(), list(notes)
        go_on = None if end.go_on is None else self.go_on(*end.go_on)
        place = {"total": end.total, "shown": end.shown, "hasMore": end.more, "cursor": end.cursor}
        return {**place, "next": go_on, **self._state(), **({"notes": words} if words else {})}

    def _state(self) -> dict[str, Json]:
        """How whole and how old the data is, as JSON data; empty when none was read."""
        self.state_in_data = True
        if not self.states:
            return {}
        times = [state.synced_at for state in self.states]
        oldest = None if None in times else min(time for time in times if time is not None)
        warnings = [state.warning for state in self.states if state.warning]
        found = {"complete": all(state.complete for state in self.states), "syncedAt": iso_time(oldest)}
        return {**found, **({"warning": "; ".join(warnings)} if warnings else {})}


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
    return Paint(colours(console().stdout))


def table(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> list[str]:
    """A table that fits stdout; empty without rows."""
    if not rows:
        return []
    return Table(columns, rows, line_width(), paint()).lines(rows)


def as_caller() -> AbstractContextManager[None]:
    """What a command changes is asked for by the command line, says the audit."""
    from ..model.actor import acting_as

    return acting_as("command line")


# -- the project and its installations --------------------------------------------------------


def is_in_project(folder: str) -> bool:
    """Whether a folder, or one above it, is a project that may be read."""
    try:
        console().find_project(folder)
    except MaxError:
        return False
    return True


def only_target(project: ProjectManager, text: str | None) -> InstallationInfo:
    """The installation that a text means; without a text, the only one of the project."""
    if text is not None:
        return project.target(text)
    known = project.installations()
    if len(known) == 1:
        return known[0]
    if not known:
        raise ProjectError("no installation is connected", hint="try: max sync acme:default")
    raise UsageError("which installation?", hint=f"name one of: {', '.join(map(str, known))}")


def read(project: ProjectManager, info: InstallationInfo) -> AbstractContextManager[Reader]:
    """A Reader of an installation; StorageError when it was never synced."""
    from ..query.reader import open_reader  # not every command reads data

    return open_reader(project.database(info), info)


def readers(
    project: ProjectManager, chosen: Iterable[InstallationInfo]
) -> Iterator[tuple[InstallationInfo, Reader]]:
    """A Reader of each of these installations, without those that were never synced."""
    for info in chosen:
        if project.has_data(info):
            with read(project, info) as reader:
                yield info, reader
