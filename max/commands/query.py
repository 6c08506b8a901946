"""search, get, count: reading entities."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ..core import InstallationInfo
from ..errors import UsageError
from ..model.entities import Entity, FieldOf, Filter, RefKey
from ..model.query import Query, QueryPage, parse_fields, parse_order
from .framework import (
    Answer,
    Options,
    Parser,
    Reading,
    add_target,
    answer,
    as_json,
    at_least_one,
    examples,
    paint,
    reading,
)
from .tables import Table, entity_columns, entity_row
from .terminal import is_terminal, width
from .text import compact, number

if TYPE_CHECKING:
    from ..model.values import Json


LIMIT = 50  # entities that a search answers unless told otherwise


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


def searched(options: Options, open: Reading) -> tuple[Query[Any], Iterator[QueryPage[Any]]]:
    """The query that the options mean, and its pages as they are read."""
    entity = open.entity(options.entity)
    fields = None if options.fields is None else parse_fields(entity, options.fields)
    order = () if options.order_by is None else parse_order(entity, options.order_by)
    query: Query[Any] = Query(entity, asked_filter(options, entity), order, fields)
    query = query.after(options.after)
    size = None if options.all else options.limit or LIMIT
    return query, pages(open, query.replace(size=size), everything=options.all)


def pages(open: Reading, query: Query[Any], *, everything: bool) -> Iterator[QueryPage[Any]]:
    """One page, or all that follow as well."""
    page = open.tables.fetch(open.connection, query)
    yield page
    while everything and page.cursor is not None:
        page = open.tables.fetch(open.connection, query.after(page.cursor))
        yield page


def asked_filter(options: Options, entity: type[Entity]) -> Filter[Any] | None:
    """The filter that the options hold."""
    if options.filter is None:
        return None
    from ..model.filter_language import parse as parse_filter

    return parse_filter(options.filter, entity, now=time.time())


def search_json(options: Options, notes: list[str]) -> Iterator[str]:
    """``{"type", "data", "hasMore", "cursor"}``; with --all it is written as it is read."""
    with reading(options) as open:
        query, found = searched(options, open)
        if not options.all:
            page = next(found)
            rows = [one.to_dict(query.fields) for one in page.items]
            yield as_json(meta(query, page, data=rows), options)
            return
        head = compact({"type": query.entity.__name__, "data": []})
        separator = head[:-2]
        for page in found:
            for one in page.items:
                yield separator + compact(one.to_dict(query.fields))
                separator = ","
        yield f'{"" if separator == "," else separator}],"hasMore":false,"cursor":null}}'


def search_ndjson(options: Options, notes: list[str]) -> Iterator[str]:
    """A line for each entity; at the end where the next page begins, unless all were asked for."""
    with reading(options) as open:
        query, found = searched(options, open)
        for page in found:
            for one in page.items:
                yield compact(one.to_dict(query.fields))
        if not options.all:
            yield compact({"_meta": meta(query, page)})


def meta(query: Query[Any], page: QueryPage[Any], **data: Json) -> dict[str, Json]:
    """What an answer says beside its rows."""
    return {"type": query.entity.__name__, **data, "hasMore": page.cursor is not None, "cursor": page.cursor}


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


def search_notes(options: Options, page: QueryPage[Any], count: int, hidden: Sequence[str]) -> list[str]:
    """What a reader of the table should know: that there is more, and how to see it."""
    notes = (
        [] if count else [f"no {options.entity} fits" if options.filter else f"there is no {options.entity}"]
    )
    if hidden:
        notes.append(f"no room for {', '.join(hidden)}; choose with --fields, or use -o json")
    if page.cursor is not None:
        notes.append(f"{number(count)} shown, more follow: --after {page.cursor}")
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
    from .tables import record

    with reading(options) as open:
        name, id = asked_ref(options, open.info)
        entity = open.entity(name)
        names = tuple(entity.types()) if options.fields is None else parse_fields(entity, options.fields)
        fields: list[FieldOf[Any, Any]] = [FieldOf(entity, name) for name in names if name != "id"]
        one = open.tables.load(open.connection, entity.ref(id), *fields)
    data = {"type": entity.__name__, "data": one.to_dict(names)}
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
