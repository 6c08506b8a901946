"""sql, path: the data in SQL, and its file for other tools."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING, Any

from ..errors import MaxError, StorageEmpty, UnknownName, UsageError
from ..query.reader import LIMIT, TIMEOUT, synced
from . import streams
from .console import console
from .framework import Answer, Ending, Options, only_target, paint
from .parser import Parser
from .tables import Column, Table
from .terminal import is_terminal, line_width
from .text import cell, number

if TYPE_CHECKING:
    from ..query.sql import SqlAnswer, SqlReader

INSTALLATION = re.compile(r"[A-Za-z0-9][\w.:-]*", re.ASCII)  # what a word of an installation looks like
KEYWORDS = frozenset(["select", "values", "with", "explain", "vacuum", "analyze", "reindex", "commit"])
UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "": 1.0}
MOST_TIME = 3_600.0  # seconds that --timeout may allow
NUMERIC = frozenset(["INTEGER", "REAL", "NUMERIC"])
PROMPT, CONTINUED = "max> ", "...> "
HELP = ".tables, .schema [TABLE], .quit; a statement ends with ;"
WRITTEN_DIGITS = 15  # of a fraction, when SQLite writes it as a text


def configure_sql(parser: Parser) -> None:
    """``max sql [INSTALLATION …] [STATEMENT]``."""
    parser.answers_rows = True
    parser.usage = "max sql [INSTALLATION …] [STATEMENT] [-f FILE] [--param NAME=VALUE] …"
    parser.add_argument(
        "words",
        nargs="*",
        metavar="INSTALLATION … STATEMENT",
        help="which installations (without: all), then one SELECT in quotes; without it, it is read from"
        " standard input, at a terminal from a prompt",
    )
    parser.add_argument(
        "-f", "--file", metavar="FILE", help="read the statement from a file; - is standard input"
    )
    parser.add_argument(
        "--param",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="the value of :NAME, a number or a text; NAME:=JSON for null, true, a list or a text of digits",
    )
    parser.add_limit(f"rows of the answer (default {number(LIMIT)})", LIMIT)
    parser.add_argument(
        "--timeout",
        type=seconds,
        default=TIMEOUT,
        metavar="TIME",
        help="end the statement after 500ms, 10s (default), 2m",
    )
    parser.add_argument(
        "--raw", action="store_true", help="show lists and objects as the text that is stored"
    )
    parser.add_argument(
        "--tables", action="store_true", help="list the tables and views with their row counts"
    )
    parser.add_argument(
        "--schema", nargs="?", const="", metavar="TABLE", help="show the columns of a table, or of all"
    )
    parser.add_examples(
        'max sql acme "SELECT status, count(*) AS n FROM acme_task GROUP BY status ORDER BY n DESC"',
        'max sql acme "SELECT title FROM acme_task WHERE due_date < :day" --param day=2026-02-01 -o csv',
        "max sql acme -f report.sql -o json",
        "max sql acme --schema acme_task",
        "",
        "several installations are schemas, such as acme_default.acme_task; a view without a schema has the",
        "rows of all, with the column installation in front",
    )


def run_sql(options: Options) -> Answer:
    """The answer to one statement, or a prompt."""
    session = Session(options)
    if options.tables or options.schema is not None:
        if session.statement is not None or options.file or (options.tables and options.schema is not None):
            raise UsageError("--tables and --schema take no statement", hint="leave one of them out")
        return session.listed_tables() if options.tables else session.schema(options.schema)
    statement = session.statement
    if statement is None and options.file is None and _has_person():
        return Answer(session.prompt())
    if statement is None:
        statement = read_statement(options.file or "-")
    elif options.file is not None:
        raise UsageError("-f and a statement cannot be combined", hint="leave one of them out")
    return session.run(statement)


def _has_person() -> bool:
    """Whether statements are typed and answers are read at a terminal."""
    return is_terminal(console().stdin) and is_terminal(console().stdout)


class Session:
    """The installations that the words of the options name, and statements on them."""

    def __init__(self, options: Options) -> None:
        self.options, project = options, options.found_project()
        named, self.statement = [], None
        for word in options.words:
            if self.statement is not None:
                raise UsageError(
                    f"unexpected {word!r} behind the statement",
                    hint="write the whole statement in quotes, as the last word",
                )
            try:
                named.append(project.target(word))
            except UnknownName:
                if INSTALLATION.fullmatch(word) and word.casefold() not in KEYWORDS:
                    raise
                self.statement = word
        from ..query.sql import own_data

        chosen = options.named_or_synced(project, named)
        if not chosen:
            only_target(project, None)
            raise StorageEmpty("nothing has been synced yet", hint="start with: max sync")
        self.databases = {str(info): own_data(project.database(info), info) for info in chosen}
        self.parameters = dict(map(parameter, options.param))
        for info in chosen:
            with options.reading_of(project, info):
                pass  # so that the answer says how whole each is

    def reading(self) -> AbstractContextManager[SqlReader]:
        """One snapshot of the installations."""
        from ..query.sql import open_sql

        return open_sql(self.databases)

    def run(self, statement: str) -> Answer:
        """The answer to a statement."""
        options = self.options
        with self.reading() as reader:
            found = reader.sql(statement, self.parameters, limit=options.limit, timeout=options.timeout)
        shown = len(found.rows)
        end = Ending(shown, shown)
        if found.truncated:
            go_on, advice = ("--limit", str(shown * 10)), f"more: --limit {shown * 10}"
            end = Ending(shown, more=True, go_on=go_on, advice=advice)
        text = partial(table_lines, found)
        names = [column.name for column in found.columns]
        notes = [] if shown else ["no rows"]
        whole = found.to_json(raw=options.raw)
        return options.listing(
            whole.pop("rows"),
            text,
            notes,
            columns=names,
            head={"columns": whole.pop("columns")},
            under="rows",
            tail=whole,
            ending=lambda: end,
        )

    def listed_tables(self) -> Answer:
        """Every table and view with its row count."""
        with self.reading() as reader:
            found = reader.tables()
            counts = [reader.count(one) for one in found]
        rows = [
            {"table": str(one), "kind": one.kind, "rows": n} for one, n in zip(found, counts, strict=True)
        ]
        cells = [[str(one["table"]), str(one["kind"]), cell(one["rows"])] for one in rows]
        columns = [Column("table", whole=True), Column("kind"), Column("rows", right=True)]
        return self.options.listing(rows, lambda: Table(columns, cells, line_width(), paint()).lines(cells))

    def schema(self, name: str) -> Answer:
        """The statements that made a table, or all of them."""
        with self.reading() as reader:
            known = reader.tables()
        found = [one for one in known if name.casefold() in ("", one.name.casefold(), str(one).casefold())]
        if not found:
            raise UnknownName("table", name, map(str, known))
        rows = [
            {
                "table": str(one),
                "columns": [{"name": n, "type": t} for n, t in one.columns],
                "sql": one.definition,
            }
            for one in found
        ]
        return self.options.listing(rows, lambda: (f"{one.definition};" for one in found))

    # -- the prompt

    def prompt(self) -> Iterator[str]:
        """Read statements from a terminal, and give the lines of each answer, until the input ends."""
        import readline  # noqa: F401  # input() takes editing and a history in memory from it

        streams.tell(console().stderr, f"{', '.join(self.databases)}: {HELP}\n")
        while (statement := self.ask()) is not None:
            try:
                answer = self.command(statement) if statement.startswith(".") else self.run(statement)
                yield from answer.lines
                for note in answer.notes:
                    streams.tell(console().stderr, f"{note}\n")
            except MaxError as error:
                streams.tell(console().stderr, f"{error.render()}\n")
            except KeyboardInterrupt:
                streams.tell(console().stderr, "interrupted\n")

    def ask(self) -> str | None:
        """The next statement, or command that begins with a dot; None at the end of the input."""
        from ..query.sql import is_complete

        lines: list[str] = []
        while not lines or not (lines[0].startswith(".") or is_complete("\n".join(lines))):
            try:
                line = input(CONTINUED if lines else PROMPT)
            except EOFError:
                streams.tell(console().stderr, "\n")
                return None
            except KeyboardInterrupt:
                streams.tell(console().stderr, "\n")
                lines = []
                continue
            if lines or line.strip():
                lines.append(line if lines else line.lstrip())
        return None if lines[0].strip() in (".quit", ".exit") else "\n".join(lines)

    def command(self, text: str) -> Answer:
        """``.tables`` or ``.schema [TABLE]``."""
        word, _, rest = text.strip().partition(" ")
        if word == ".tables":
            return self.listed_tables()
        if word == ".schema":
            return self.schema(rest.strip())
        raise UnknownName("command", word, [".tables", ".schema", ".quit"])


def table_lines(answer: SqlAnswer) -> list[str]:
    """The rows as a table; empty without rows."""
    from ..query.sql import json_value

    if not answer.rows:
        return []
    room = line_width()
    columns = [Column(one.name, right=one.type in NUMERIC) for one in answer.columns]
    rows = [[cell(json_value(value), room) for value in row] for row in answer.rows]
    return Table(columns, rows, room, paint()).lines(rows)


def read_statement(file: str) -> str:
    """The text of a file, or of standard input for ``-``; UsageError when it is no UTF-8."""
    try:
        data = console().stdin.buffer.read() if file == "-" else console().file(file).read_bytes()
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{file} is not UTF-8 text") from error


def parameter(text: str) -> tuple[str, Any]:
    """Name and value of ``NAME=VALUE`` or ``NAME:=JSON``; a number as SQL writes it is one."""
    import json

    name, equals, value = text.partition("=")
    if not equals or not name.rstrip(":").isidentifier():
        raise UsageError(f"--param {text}: expected NAME=VALUE", hint="such as --param since=2026-01-31")
    if not name.endswith(":"):
        return name, number_or_text(value)
    try:
        found = json.loads(value)
    except ValueError as error:
        raise UsageError(
            f"--param {text}: {value} is not JSON", hint='a text is written name:="text"'
        ) from error
    return name[:-1], json.dumps(found) if isinstance(found, list | dict) else found


def number_or_text(text: str) -> int | float | str:
    """A number, if SQLite would write it in just this way; else the text: ``007`` and ``1e5`` are ids."""
    if re.fullmatch(r"0|-?[1-9][0-9]{0,17}", text):
        return int(text)
    digits = text.lstrip("-").replace(".", "").lstrip("0")
    is_fraction = re.fullmatch(r"-?[0-9]{1,15}\.[0-9]{1,15}", text)
    if is_fraction and len(digits) <= WRITTEN_DIGITS and str(float(text)) == text:
        return float(text)
    return text


def seconds(text: str) -> float:
    """A time such as ``500ms``, ``10s`` or ``2m``, in seconds."""
    import argparse

    found = re.fullmatch(r"([0-9]{1,6}(?:\.[0-9]{1,3})?)(ms|s|m|)", text)
    if found is None or not 0 < float(found[1]) * UNITS[found[2]] <= MOST_TIME:
        raise argparse.ArgumentTypeError(f"{text!r} is no time up to an hour, such as 500ms, 10s or 2m")
    return float(found[1]) * UNITS[found[2]]


def configure_path(parser: Parser) -> None:
    """``max path [INSTALLATION]``."""
    parser.add_target(optional=True)
    parser.add_examples(
        "max path acme",
        'datasette "$(max path acme)"',
        "duckdb -c \"ATTACH '$(max path acme)' AS acme (TYPE sqlite)\"",
    )


def run_path(options: Options) -> Answer:
    """The file with an installation's data; StorageEmpty before its first sync."""
    project, info = options.found_target()
    database = synced(project.database(info), info)
    if database.file is None:
        raise UsageError(f"the data of {info} is in no file", hint=f"it is in {database.label}")
    path = str(database.file.absolute())
    return options.answer({"installation": str(info), "path": path}, lambda: [path])
