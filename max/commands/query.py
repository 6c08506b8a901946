"""search, get, count: reading entities."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from ..query.reader import read_ref
from .framework import Answer, Ending, Options, Parser, paint
from .tables import Table, entity_columns, entity_lines, entity_row
from .terminal import is_terminal, width
from .text import number

if TYPE_CHECKING:
    from ..core import InstallationInfo
    from ..model.query import Query, QueryPage
    from ..model.values import Json
    from ..query.reader import Reader

LIMIT = 50  # entities of a search's page, when no --limit is given


def configure_search(parser: Parser) -> None:
    """``max search INSTALLATION ENTITY …``."""
    parser.answers_rows = True
    parser.add_target()
    parser.add_argument("entity", metavar="ENTITY", help="what to search for; `max schema` lists entities")
    parser.add_filter()
    parser.add_list("--order-by", "FIELD[:desc],…", "sort by fields, then by id")
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
        "times are UTC: 2026-01-31T09:30, 2026-01-31, 2026-01, today, or an age: -7d (s m h d w mo y);",
        "a day or a month is the whole of it",
    )


def run_search(options: Options) -> Answer:
    """A page of entities, or with --all all of them."""
    if options.all and options.limit:
        raise UsageError("--all and --limit cannot be combined", hint="leave one of them out")
    return options.while_reading(partial(searched, options))


class Pages:
    """The pages of a query as they are read: one, or with ``everything`` all.

    ``shown`` counts the entities so far; ``last`` is the newest page.
    """

    last: QueryPage[Any]

    def __init__(self, reader: Reader, query: Query[Any], *, everything: bool) -> None:
        self.query, self.everything, self.shown = query, everything, 0
        self._reader = reader

    def __iter__(self) -> Iterator[Sequence[Any]]:
        cursor = self.query.cursor
        while True:
            self.last = self._reader.fetch(self.query.after(cursor))
            self.shown += len(self.last.items)
            yield self.last.items
            cursor = self.last.cursor
            if not self.everything or cursor is None:
                return

    def rows(self) -> Iterator[dict[str, Json]]:
        """Each entity as JSON data."""
        return (one.to_dict(self.query.fields) for items in self for one in items)

    def ending(self) -> Ending:
        """Where the last page ended; all rows are counted unless they are those that were read."""
        cursor = self.last.cursor
        whole = self.query.cursor is None and cursor is None
        total = self.shown if whole else self._reader.count(self.query.entity, self.query.filter)
        if cursor is None:
            return Ending(self.shown, total)
        advice = f"more: --limit {4 * (self.query.size or LIMIT)}, or --all"
        return Ending(self.shown, total, True, cursor, ("--after", cursor), advice)


def searched(options: Options, reader: Reader) -> Answer:
    """A search's answer, read while it is printed."""
    notes: list[str] = []
    query = reader.query(options.entity, options.filter, options.order_by, options.fields)
    size = None if options.all else options.limit or LIMIT
    pages = Pages(reader, query.after(options.after).replace(size=size), everything=options.all)
    names = query.fields or tuple(query.entity.types())
    by_row = options.all or options.output == "text"
    return options.listing(
        pages.rows() if by_row else list(pages.rows()),
        lambda: search_table(options, pages, notes),
        notes,
        columns=["id", *(name for name in names if name != "id")],
        head={"type": query.entity.__name__},
        ending=pages.ending,
    )


def search_table(options: Options, pages: Pages, notes: list[str]) -> Iterator[str]:
    """A table whose columns are as wide as the first page needs."""
    entity = pages.query.entity
    fields = pages.query.fields or tuple(entity.types())
    table, room = None, width(sys.stdout)
    columns = entity_columns(entity, fields, chosen=options.fields is not None)
    for items in pages:
        rows = [entity_row(one, fields, room) for one in items]
        if table is None:
            table = Table(columns, rows, room, paint())
            if rows:
                yield table.header()
        yield from map(table.line, rows)
    if not pages.shown:
        notes.append(f"no {options.entity} matches" if options.filter else f"there is no {options.entity}")
    if table and table.hidden:
        notes.append(f"no room for {', '.join(table.hidden)}; choose with --fields, or use -o json")


def configure_get(parser: Parser) -> None:
    """``max get INSTALLATION ENTITY:ID``."""
    parser.answers_rows = True
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
    row = {"id": one.id, **dict.fromkeys(fields), **one.to_dict(fields)}
    data = {"type": kind.__name__, "data": one.to_dict(fields)}
    return options.answer(data, lambda: entity_lines(one, fields, paint()), row=row)


def named_row(options: Options, info: InstallationInfo) -> tuple[str, str]:
    """Entity and id of ``ENTITY:ID``, or of two words."""
    if options.id is not None:
        return options.entity, options.id
    if ":" not in options.entity:
        raise UsageError("which row?", hint=f"write {options.entity}:ID, or add the id as another word")
    return read_ref(options.entity, info)


def configure_count(parser: Parser) -> None:
    """``max count INSTALLATION ENTITY``."""
    parser.answers_rows = True
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
    data = {"type": entity.__name__, "count": count}
    return options.answer(data, lambda: [text], row=data)
