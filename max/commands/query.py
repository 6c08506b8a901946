"""search, get, count: reading entities."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from ..query.reader import read_ref
from .framework import Answer, Options, Parser, json_stream, paint
from .tables import Table, entity_columns, entity_lines, entity_row
from .terminal import is_terminal, width
from .text import json_text, number

if TYPE_CHECKING:
    from ..core import InstallationInfo
    from ..model.query import Query, QueryPage
    from ..model.values import Json
    from ..query.reader import Reader

LIMIT = 50  # entities of a search's page, when no --limit is given


def configure_search(parser: Parser) -> None:
    """``max search INSTALLATION ENTITY …``."""
    parser.add_target()
    parser.add_argument("entity", metavar="ENTITY", help="what to search for; `max schema` lists entities")
    parser.add_filter()
    parser.add_argument("--order-by", metavar="FIELD[:desc],…", help="sort by fields, then by id")
    parser.add_fields()
    parser.add_limit(f"entities per page (default {LIMIT})")
    parser.add_argument("--after", metavar="CURSOR", help="start after the page that gave this cursor")
    parser.add_argument("--all", action="store_true", help="every page, one after the other")
    parser.add_examples(
        "max search acme:default AcmeUser --limit 5",
        """max search acme AcmeTask --filter 'status IN (todo, "in progress") AND due_date < +7d'""",
        "max search acme AcmeTask --filter 'assignee.email ~= \"@acme\"' --order-by priority,due_date:desc",
        "max search acme AcmeUser --fields name,email --all -o ndjson",
        "",
        "filters: = != < <= > >= ~= (contains) ^= (starts with) IN (…) IS NULL IS LOADED NOT AND OR ( );",
        "times are UTC, written 2026-01-31, 2026-01-31T09:30 or as an age: -7d (s m h d w)",
    )


def run_search(options: Options) -> Answer:
    """A page of entities, or with --all all of them."""
    if options.all and options.limit:
        raise UsageError("--all and --limit cannot be combined", hint="leave one of them out")
    notes: list[str] = []
    return Answer(searched(options, notes), notes)


class Pages:
    """The pages of a query as they are read: one, or with ``everything`` all; ``last`` is the newest."""

    last: QueryPage[Any]

    def __init__(self, reader: Reader, query: Query[Any], *, everything: bool) -> None:
        self.query, self.everything = query, everything
        self._fetch = reader.fetch

    def __iter__(self) -> Iterator[Sequence[Any]]:
        self.last = self._fetch(self.query)
        yield self.last.items
        while self.everything and self.last.cursor is not None:
            self.last = self._fetch(self.query.after(self.last.cursor))
            yield self.last.items

    def rows(self) -> Iterator[Json]:
        """Each entity as JSON data."""
        return (one.to_dict(self.query.fields) for items in self for one in items)

    def meta(self) -> dict[str, Json]:
        """Whether more pages follow the last one, and from which cursor."""
        return {"hasMore": self.last.cursor is not None, "cursor": self.last.cursor}


def searched(options: Options, notes: list[str]) -> Iterator[str]:
    """The lines of a search, in the format of the options."""
    with options.reading() as reader:
        query = reader.query(options.entity, options.filter, options.order_by, options.fields)
        size = None if options.all else options.limit or LIMIT
        pages = Pages(reader, query.after(options.after).replace(size=size), everything=options.all)
        head = {"type": query.entity.__name__}
        if options.output == "text":
            yield from search_table(options, pages, notes)
        elif options.output == "ndjson":
            yield from map(json_text, pages.rows())
            if not options.all:
                yield json_text({"_meta": head | pages.meta()})
        elif options.all:
            yield from json_stream(head, pages.rows(), pages.meta)
        else:
            yield options.json(head | {"data": list(pages.rows())} | pages.meta())


def search_table(options: Options, pages: Pages, notes: list[str]) -> Iterator[str]:
    """A table whose columns are as wide as the first page needs."""
    entity = pages.query.entity
    fields = pages.query.fields or tuple(entity.types())
    table, count, room = None, 0, width(sys.stdout)
    columns = entity_columns(entity, fields, chosen=options.fields is not None)
    for items in pages:
        rows = [entity_row(one, fields, room) for one in items]
        if table is None:
            table = Table(columns, rows, room, paint())
            if rows:
                yield table.header()
        yield from map(table.line, rows)
        count += len(rows)
    if not count:
        notes.append(f"no {options.entity} matches" if options.filter else f"there is no {options.entity}")
    if table and table.hidden:
        notes.append(f"no room for {', '.join(table.hidden)}; choose with --fields, or use -o json")
    if pages.last.cursor is not None:
        notes.append(f"{number(count)} shown, more follow: --after {pages.last.cursor}")


def configure_get(parser: Parser) -> None:
    """``max get INSTALLATION ENTITY:ID``."""
    parser.add_target()
    parser.add_argument("entity", metavar="ENTITY[:ID]", help="a ref, or an entity followed by its id")
    parser.add_argument("id", nargs="?", metavar="ID", help="the id, if the word before has none")
    parser.add_fields()
    parser.add_examples(
        "max get acme:default AcmeUser:USER-ID", "max get acme AcmeUser USER-ID --fields name,email"
    )


def run_get(options: Options) -> Answer:
    """One entity with everything that is stored of it."""
    with options.reading() as reader:
        entity, id = named_row(options, reader.info)
        kind = reader.entity(entity)
        fields = reader.query(kind, fields=options.fields).fields or tuple(kind.types())
        one = reader.get(kind, id, fields)
    data = {"type": kind.__name__, "data": one.to_dict(fields)}
    return options.answer(data, lambda: entity_lines(one, fields, paint()))


def named_row(options: Options, info: InstallationInfo) -> tuple[str, str]:
    """Entity and id of ``ENTITY:ID``, or of two words."""
    if options.id is not None:
        return options.entity, options.id
    if ":" not in options.entity:
        raise UsageError("which row?", hint=f"write {options.entity}:ID, or add the id as another word")
    return read_ref(options.entity, info)


def configure_count(parser: Parser) -> None:
    """``max count INSTALLATION ENTITY``."""
    parser.add_target()
    parser.add_argument("entity", metavar="ENTITY", help="what to count")
    parser.add_filter()
    parser.add_examples(
        "max count acme AcmeTask", "max count acme AcmeTask --filter 'assignee IS NULL' -o json"
    )


def run_count(options: Options) -> Answer:
    """How many entities match; with separators on a terminal, without in a pipe."""
    with options.reading() as reader:
        entity = reader.entity(options.entity)
        count = reader.count(entity, options.filter)
    text = number(count) if is_terminal(sys.stdout) else str(count)
    return options.answer({"type": entity.__name__, "count": count}, lambda: [text])
