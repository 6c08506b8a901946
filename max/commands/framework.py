"""What each command does: words in, one library call, words out.

Rule 1: a handler takes parsed options and returns an Answer; it prints nothing.  Lines may be
a generator, so that a long answer is neither held in memory nor waited for.

Rule 2: commands that read open the database directly, without an event loop, a connector or
a network; what other commands need is imported inside their handlers.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from ..core import InstallationInfo
from ..errors import NotFound, ProjectError, StorageError, UnknownName, UsageError
from ..model.entities import Entity, FieldOf, Filter, RefKey, entity_json, known_name
from ..model.query import Order, Page, Query
from ..project import Project
from ..storage.tables import Tables
from .terminal import colours, is_terminal, width
from .text import Paint, Table, compact, entity_columns, entity_row, number

if TYPE_CHECKING:
    import sqlite3
    from pathlib import Path

    from ..model.tasks import SyncResult, SyncRun
    from ..model.values import Json

LIMIT = 50  # entities that a search answers unless told otherwise
RUNS = 20  # syncs that `max runs` lists unless told otherwise
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


def found_project(options: Options) -> Project:
    """The project that the options name, or that the current folder belongs to."""
    return Project.find(options.project)


def only_target(project: Project, text: str | None) -> InstallationInfo:
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
    connection: sqlite3.Connection
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
def connected(project: Project, info: InstallationInfo) -> Iterator[sqlite3.Connection]:
    """A connection that reads an installation's database; StorageError when it was never synced."""
    from ..storage.sqlite import reader

    with reader(synced_database(project, info)) as connection:
        yield connection


def synced_database(project: Project, info: InstallationInfo) -> Path:
    """The file of an installation's database; StorageError when it was never synced."""
    path = project.database(info)
    if not path.exists():
        raise StorageError(f"{info} has never been synced", hint=f"begin with: max sync {info}")
    return path


# -- init, ls ---------------------------------------------------------------------------------


def configure_init(parser: Parser) -> None:
    """``max init [DIR]``."""
    parser.add_argument("folder", nargs="?", metavar="DIR", help="the folder (default: the current one)")
    parser.set_defaults(run=run_init)
    examples(parser, "max init", "max init ~/work/data")


def run_init(options: Options) -> Answer:
    """Make a project; nothing changes when there is one."""
    project = Project.init(options.folder or options.project)
    notes = ["next: max sync acme:default, or max connect with a source of yours"]
    return answer(options, {"project": str(project.root)}, lambda: [f"project in {project.root}"], notes)


def configure_ls(parser: Parser) -> None:
    """``max ls``."""
    parser.set_defaults(run=run_ls)
    examples(parser, "max ls", "max ls -o json")


def run_ls(options: Options) -> Answer:
    """List installations; those whose file is broken are named on stderr."""
    from .text import Column, installation_json, installation_row, table

    project = found_project(options)
    known, problems = project.installations(), project.problems()
    columns = [
        Column("installation", whole=True),
        Column("id", whole=True),
        Column("connected"),
        Column("config"),
    ]

    def text() -> list[str]:
        rows = [installation_row(info, time.time()) for info in known]
        return table(columns, rows, width(sys.stdout), paint()) if rows else []

    notes = [problem.render() for problem in problems]
    if not known and not problems:
        notes = ["nothing is connected yet; try: max sync acme:default"]
    return listing(options, [installation_json(info) for info in known], text)._replace(notes=notes)


# -- search, get, count -----------------------------------------------------------------------


def configure_search(parser: Parser) -> None:
    """``max search INSTALLATION ENTITY …``."""
    add_target(parser)
    parser.add_argument("entity", metavar="ENTITY", help="what to look for; `max schema` lists them")
    add_filter(parser)
    parser.add_argument("--order-by", metavar="FIELD[:desc],…", help="sort; ties are settled by the id")
    add_fields(parser)
    parser.add_argument(
        "--limit", type=at_least_one, metavar="N", help=f"entities of a page (default {LIMIT})"
    )
    parser.add_argument("--after", metavar="CURSOR", help="begin where the page before ended")
    parser.add_argument("--all", action="store_true", help="every page, one after the other")
    parser.set_defaults(run=run_search)
    examples(
        parser,
        "max search acme:default AcmeUser --limit 5",
        """max search acme AcmeTask --filter 'status IN (todo, "in progress") AND due_date < +7d'""",
        "max search acme AcmeTask --filter 'assignee.email ~= \"@acme\"' --order-by priority,due_date:desc",
        "max search acme AcmeUser --fields name,email --all -o ndjson",
        "",
        "filters: = != < <= > >= ~= (contains) ^= (starts with) IN (…) IS NULL IS LOADED NOT AND OR ( );",
        "times are UTC, written 2026-01-31, 2026-01-31T09:30 or as an age: -7d (s m h d w)",
    )


def add_filter(parser: Parser) -> None:
    """``--filter``."""
    parser.add_argument("--filter", metavar="TEXT", help="only what fits, such as 'updated_at > -7d'")


def add_fields(parser: Parser) -> None:
    """``--fields``."""
    parser.add_argument("--fields", metavar="FIELD,…", help="only these fields, in this order")


def run_search(options: Options) -> Answer:
    """A page of entities, or with --all every one."""
    if options.all and options.limit:
        raise UsageError("--all and --limit exclude one another", hint="leave one of them out")
    notes: list[str] = []
    lines = {"text": search_text, "json": search_json, "ndjson": search_ndjson}[options.output]
    return Answer(lines(options, notes), notes)


def searched(options: Options, open: Reading) -> tuple[Query[Any], Iterator[Page[Any]]]:
    """The query that the options mean, and its pages as they are read."""
    entity = open.entity(options.entity)
    fields = None if options.fields is None else named_fields(entity, options.fields)
    query: Query[Any] = Query(entity, asked_filter(options, entity), asked_order(options, entity), fields)
    query = query.after(options.after)
    size = None if options.all else options.limit or LIMIT
    return query, pages(open, query.replace(size=size), everything=options.all)


def pages(open: Reading, query: Query[Any], *, everything: bool) -> Iterator[Page[Any]]:
    """One page, or all that follow as well."""
    page = open.tables.fetch(open.connection, query)
    yield page
    while everything and page.next is not None:
        page = open.tables.fetch(open.connection, query.after(page.next))
        yield page


def asked_filter(options: Options, entity: type[Entity]) -> Filter[Any] | None:
    """The filter that the options hold."""
    if options.filter is None:
        return None
    from ..model.filter_language import parse as parse_filter

    return parse_filter(options.filter, entity, now=time.time())


def asked_order(options: Options, entity: type[Entity]) -> tuple[Order, ...]:
    """``name:desc,created_at`` as orders."""
    if options.order_by is None:
        return ()
    orders = []
    for word in options.order_by.split(","):
        path, colon, direction = word.strip().partition(":")
        if colon and direction.lower() not in ("asc", "desc"):
            raise UnknownName("direction", direction, ["asc", "desc"], where=f"--order-by {word.strip()}")
        orders.append(Order(named_field(entity, path).path, direction.lower() == "desc"))
    return tuple(orders)


def named_field(entity: type[Entity], path: str) -> FieldOf[Any, Any]:
    """A field, or one behind a ref, by name in any case; UnknownName with the nearest."""
    first, dot, second = path.partition(".")
    field: FieldOf[Any, Any] = FieldOf(entity, known_name(entity, first))
    if not dot:
        return field
    target = None if field.name == "id" else field.type.target
    if target is None:
        raise UsageError(f"{entity.__name__}.{field.name} is no ref, so nothing stands behind its dot")
    return FieldOf(entity, known_name(target, second), field)


def named_fields(entity: type[Entity], text: str) -> tuple[str, ...]:
    """``name,email`` as fields, each once."""
    return tuple(dict.fromkeys(known_name(entity, word.strip()) for word in text.split(",")))


def search_json(options: Options, notes: list[str]) -> Iterator[str]:
    """``{"type", "data", "hasMore", "cursor"}``; with --all it is written as it is read."""
    with reading(options) as open:
        query, found = searched(options, open)
        if not options.all:
            page = next(found)
            rows = [entity_json(one, query.fields) for one in page.items]
            yield as_json(meta(query, page, data=rows), options)
            return
        head = compact({"type": query.entity.__name__, "data": []})
        separator = head[:-2]
        for page in found:
            for one in page.items:
                yield separator + compact(entity_json(one, query.fields))
                separator = ","
        yield f'{"" if separator == "," else separator}],"hasMore":false,"cursor":null}}'


def search_ndjson(options: Options, notes: list[str]) -> Iterator[str]:
    """A line for each entity; at the end where the next page begins, unless all were asked for."""
    with reading(options) as open:
        query, found = searched(options, open)
        for page in found:
            for one in page.items:
                yield compact(entity_json(one, query.fields))
        if not options.all:
            yield compact({"_meta": meta(query, page)})


def meta(query: Query[Any], page: Page[Any], **data: Json) -> dict[str, Json]:
    """What an answer says beside its rows."""
    return {"type": query.entity.__name__, **data, "hasMore": page.next is not None, "cursor": page.next}


def search_text(options: Options, notes: list[str]) -> Iterator[str]:
    """A table; the columns are as wide as the first page asks."""
    with reading(options) as open:
        query, found = searched(options, open)
        fields = query.fields or tuple(query.entity.types())
        drawn, count = None, 0
        for page in found:
            rows = [entity_row(one, fields) for one in page.items]
            if drawn is None:
                drawn = Table(entity_columns(query.entity, fields), rows, width(sys.stdout), paint())
                if rows:
                    yield drawn.header()
            yield from map(drawn.line, rows)
            count += len(rows)
        notes += search_notes(options, page, count, drawn.hidden if drawn else [])


def search_notes(options: Options, page: Page[Any], count: int, hidden: Sequence[str]) -> list[str]:
    """What a reader of the table should know: that there is more, and how to see it."""
    notes = (
        [] if count else [f"no {options.entity} fits" if options.filter else f"there is no {options.entity}"]
    )
    if hidden:
        notes.append(f"no room for {', '.join(hidden)}; choose with --fields, or use -o json")
    if page.next is not None:
        notes.append(f"{number(count)} shown, more follow: --after {page.next}")
    return notes


def configure_get(parser: Parser) -> None:
    """``max get INSTALLATION ENTITY:ID``."""
    add_target(parser)
    parser.add_argument("entity", metavar="ENTITY[:ID]", help="a ref, or an entity followed by its id")
    parser.add_argument("id", nargs="?", metavar="ID", help="the id, when it does not stand in the ref")
    add_fields(parser)
    parser.set_defaults(run=run_get)
    examples(
        parser, "max get acme:default AcmeUser:USER-ID", "max get acme AcmeUser USER-ID --fields name,email"
    )


def run_get(options: Options) -> Answer:
    """One entity with everything that is stored of it."""
    from .text import record

    with reading(options) as open:
        name, id = asked_ref(options, open.info)
        entity = open.entity(name)
        names = tuple(entity.types()) if options.fields is None else named_fields(entity, options.fields)
        fields: list[FieldOf[Any, Any]] = [FieldOf(entity, name) for name in names if name != "id"]
        one = open.tables.load(open.connection, entity.ref(id), *fields)
    data = {"type": entity.__name__, "data": entity_json(one, names)}
    return answer(options, data, lambda: record(one, names, paint()))


def asked_ref(options: Options, info: InstallationInfo) -> tuple[str, str]:
    """Entity and id of ``ENTITY:ID``, or of two words."""
    if options.id is not None:
        return options.entity, options.id
    try:
        key = RefKey.parse(options.entity)
    except ValueError:
        hint = f"write {options.entity}:ID, or the id as another word"
        raise UsageError("which one?", hint=hint) from None
    if key.installation not in (None, info.id):
        raise UsageError(f"{key} belongs to another installation than {info}", hint="name that one")
    return key.entity, key.id


def configure_count(parser: Parser) -> None:
    """``max count INSTALLATION ENTITY``."""
    add_target(parser)
    parser.add_argument("entity", metavar="ENTITY", help="what to count")
    add_filter(parser)
    parser.set_defaults(run=run_count)
    examples(parser, "max count acme AcmeTask", "max count acme AcmeTask --filter 'assignee IS NULL' -o json")


def run_count(options: Options) -> Answer:
    """How many entities fit; with separators for people, without for programs."""
    with reading(options) as open:
        entity = open.entity(options.entity)
        count = open.tables.count(open.connection, Query(entity, asked_filter(options, entity)))
    text = number(count) if is_terminal(sys.stdout) else str(count)
    return answer(options, {"type": entity.__name__, "count": count}, lambda: [text])


# -- schema, status, runs ---------------------------------------------------------------------


def configure_schema(parser: Parser) -> None:
    """``max schema INSTALLATION [ENTITY]``."""
    add_target(parser)
    parser.add_argument("entity", nargs="?", metavar="ENTITY", help="only this one")
    parser.set_defaults(run=run_schema)
    examples(parser, "max schema acme", "max schema acme:default AcmeTask --json")


def run_schema(options: Options) -> Answer:
    """Entities, fields and relationships as last synced; before that, as the connector declares them."""
    from .text import schema_json, schema_text

    project = found_project(options)
    info = project.target(options.target)
    if project.database(info).exists():
        with reading(options) as open:
            schema, rows = open.tables.schema, open.counts()
    else:
        schema, rows = project.registry.resolve(info.connector).schema, {}
    chosen = [schema.entity(options.entity)] if options.entity else list(schema.entities.values())
    data = {"installation": str(info), **schema_json(schema, chosen, rows)}
    return answer(options, data, lambda: schema_text(schema, chosen, rows, width(sys.stdout), paint()))


def configure_status(parser: Parser) -> None:
    """``max status [INSTALLATION]``."""
    add_target(parser, optional=True)
    parser.set_defaults(run=run_status)
    examples(parser, "max status", "max status acme:default -o json")


def run_status(options: Options) -> Answer:
    """How every installation stands, or one."""
    from ..storage.sync_log import runs, waits
    from .text import Standing, status_text

    project = found_project(options)
    chosen = [project.target(options.target)] if options.target else project.installations()
    standings = []
    for info in chosen:
        last: SyncRun | None = None
        rows: dict[str, int] = {}
        waiting: tuple[float, int] | None = None
        if project.database(info).exists():
            with connected(project, info) as connection:
                last = next(iter(runs(connection, 1, now=time.time())), None)
                rows = stored_counts(info, connection)
                if last is not None and last.status == "running":
                    waiting = waits(connection, last.id, now=time.time())
        standings.append(Standing(info, last, rows, waiting))

    def text() -> Iterator[str]:
        for place, one in enumerate(standings):
            yield from [""] if place else []
            yield from status_text(one, time.time(), paint())

    notes = [] if chosen else ["nothing is connected yet; try: max sync acme:default"]
    return listing(options, [one.to_json() for one in standings], text)._replace(notes=notes)


def stored_counts(info: InstallationInfo, connection: sqlite3.Connection) -> dict[str, int]:
    """Rows by entity; none when the first sync has not begun to store."""
    try:
        return Reading(info, connection, Tables.stored(connection)).counts()
    except StorageError:
        return {}


def configure_runs(parser: Parser) -> None:
    """``max runs [INSTALLATION]``, ``max runs show ID``."""
    parser.usage = "max runs [-h] [INSTALLATION] [--limit N]\n       max runs show ID"
    parser.add_argument(
        "words", nargs="*", metavar="INSTALLATION | show ID", help="whose syncs; or which one"
    )
    parser.add_argument(
        "--limit", type=at_least_one, default=RUNS, metavar="N", help=f"syncs (default {RUNS})"
    )
    parser.set_defaults(run=run_runs)
    examples(
        parser,
        "max runs",
        "max runs acme:default --limit 5",
        "max runs show 01h8xk",
        "max runs show 01h8xk --json",
    )


def run_runs(options: Options) -> Answer:
    """Past syncs, newest first; ``show`` tells all of one."""
    from ..storage.sync_log import runs
    from .text import run_json, runs_table

    project = found_project(options)
    if options.words[:1] == ["show"]:
        return show_run(options, project)
    if len(options.words) > 1:
        raise UsageError(f"unexpected {options.words[1]!r}", hint="see: max runs --help")
    chosen = [project.target(options.words[0])] if options.words else project.installations()
    found: list[tuple[InstallationInfo, SyncRun]] = []
    for info in chosen:
        if project.database(info).exists():
            with connected(project, info) as connection:
                found += [(info, one) for one in runs(connection, options.limit, now=time.time())]
    found = sorted(found, key=lambda pair: -pair[1].started_at)[: options.limit]
    rows = [{"installation": str(info), **run_json(one)} for info, one in found]
    notes = [] if found else ["nothing was synced yet"]
    shown = listing(
        options, rows, lambda: runs_table(found, time.time(), width(sys.stdout), paint()) if found else []
    )
    return shown._replace(notes=notes)


def show_run(options: Options, project: Project) -> Answer:
    """One sync with every failure."""
    from .text import result_json, summary

    if len(options.words) != 2:
        raise UsageError("which sync?", hint="write: max runs show ID; `max runs` lists them")
    for info in project.installations():
        found = found_run(project, info, options.words[1])
        if found is not None:
            text = partial(summary, info, found, width(sys.stdout), paint(), all_failures=True)
            return answer(options, result_json(info, found), text)
    raise NotFound("sync", options.words[1], hint="`max runs` lists them")


def found_run(project: Project, info: InstallationInfo, id: str) -> SyncResult | None:
    """The sync of an installation whose id begins so, or None."""
    from ..storage.sync_log import result

    if not project.database(info).exists():
        return None
    with connected(project, info) as connection:
        try:
            return result(connection, id, now=time.time())
        except NotFound:
            return None


CONFIGURE: dict[str, Callable[[Parser], None]] = {
    "init": configure_init,
    "ls": configure_ls,
    "search": configure_search,
    "get": configure_get,
    "count": configure_count,
    "schema": configure_schema,
    "status": configure_status,
    "runs": configure_runs,
}
