"""search, get: reading entities."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from ..model.entities import FieldOf, path_name
from ..model.query import parse_paths
from ..query.reader import read_ref
from .framework import Answer, Ending, Options, paint
from .parser import Parser
from .row_table import RowTable, fields_in_order, record_lines, with_names, with_titles
from .terminal import line_width
from .text import ago, cut_hash, number

if TYPE_CHECKING:
    from ..core import InstallationInfo
    from ..model.entities import Entity
    from ..model.query import Query, RowPage
    from ..model.values import Json
    from ..query.reader import Reader

LIMIT = 50  # entities of a search's page, when no --limit is given
SHORT_ID = r"[0-9a-f-]{7,}"  # of a hash or a UUID, long enough to mean one
LAST = "\U0010ffff"  # sorts behind every other character


def configure_search(parser: Parser) -> None:
    """``max search INSTALLATION ENTITY …``."""
    parser.answers_rows = True
    parser.add_target(before=("entity",))
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

    last: RowPage

    def __init__(
        self, reader: Reader, query: Query[Any], paths: Sequence[FieldOf[Any, Any]], *, everything: bool
    ) -> None:
        self.query, self.everything, self.shown = query, everything, 0
        self.reader, self._paths = reader, paths

    def __iter__(self) -> Iterator[RowPage]:
        cursor = self.query.cursor
        while True:
            self.last = self.reader.rows(self.query.after(cursor), self._paths)
            self.shown += len(self.last.columns[0])
            yield self.last
            cursor = self.last.cursor
            if not self.everything or cursor is None:
                return

    def rows(self) -> Iterator[dict[str, Json]]:
        """Each row as JSON data."""
        return (row for page in self for row in page.to_dicts())

    def why_empty(self) -> list[str]:
        """Why there are no rows, if there are none."""
        if self.shown:
            return []
        name, state = self.query.entity.__name__, self.reader.state
        if self.query.cursor is not None:
            return [f"no {name} follows"]
        if self.query.filter is not None:
            without = f"no {name} matches; without the filter there are {number(self.reader.count(name))}"
            return [without, *self.reader.near_values(self.query)]
        found = f": the last sync, {ago(state.synced_at, self.reader.now)}, found none"
        return [f"there is no {name}{found if state.complete else ''}"]

    def ending(self) -> Ending:
        """Where the last page ended; all rows are counted unless they are those that were read."""
        cursor = self.last.cursor
        whole = self.query.cursor is None and cursor is None
        total = self.shown if whole else self.reader.count(self.query.entity, self.query.filter)
        if cursor is None:
            return Ending(self.shown, total)
        advice = f"more: --limit {4 * (self.query.size or LIMIT)}, or --all"
        return Ending(self.shown, total, True, cursor, ("--after", cursor), advice)


def searched(options: Options, reader: Reader) -> Answer:
    """A search's answer, read while it is printed."""
    query = reader.query(options.entity, options.filter, options.order_by)
    query = query.after(options.after).replace(size=None if options.all else options.limit or LIMIT)
    chosen = None if options.fields is None else parse_paths(query.entity, options.fields)
    table = RowTable(query.entity, chosen, line_width(), paint())
    paths = parse_paths(query.entity, ("id", *(query.entity.types() if chosen is None else chosen)))
    read = table.paths if options.output == "text" else paths
    pages = Pages(reader, query, read, everything=options.all)

    def notes() -> Iterator[str]:
        yield from pages.why_empty()
        yield from table.notes

    by_row = options.all or options.output == "text"
    return options.listing(
        pages.rows() if by_row else list(pages.rows()),
        lambda: search_table(options, pages, table),
        notes(),
        columns=[path_name(path) for path in paths],
        head={"type": query.entity.__name__},
        ending=pages.ending,
    )


def search_table(options: Options, pages: Pages, table: RowTable) -> Iterator[str]:
    """The lines of a table, laid out by its first page."""
    for page in pages:
        yield from table.lines(with_names(pages.reader, page), more=options.all and page.cursor is not None)


def configure_get(parser: Parser) -> None:
    """``max get INSTALLATION ENTITY:ID``."""
    parser.answers_rows = True
    parser.add_target(before=("entity", "id"))
    parser.add_argument("entity", metavar="ENTITY[:ID]", help="a ref, or an entity followed by its id")
    parser.add_argument("id", nargs="?", metavar="ID", help="the id, if the word before has none")
    parser.add_fields()
    parser.add_examples(
        "max get acme:default AcmeUser:USER-ID", "max get acme AcmeUser USER-ID --fields name,email"
    )


def run_get(options: Options) -> Answer:
    """One row with everything that is stored of it, or with the fields that are chosen."""
    with options.reading() as reader:
        entity, id = named_row(options, reader.info)
        kind = reader.entity(entity)
        key: FieldOf[Any, Any] = FieldOf(kind, "id")
        chosen = fields_in_order(kind) if options.fields is None else parse_paths(kind, options.fields)
        fields = tuple(dict.fromkeys([key, *chosen]))
        page = reader.record(kind, found_id(reader, kind, id), with_titles(fields))
        named = with_names(reader, page) if options.output == "text" else page
    (found,) = page.to_dicts()
    names = ("id", *kind.types()) if options.fields is None else tuple(map(path_name, fields))
    data = {"type": kind.__name__, "data": {name: found[name] for name in names if name in found}}
    row = {name: found.get(name) for name in names}
    return options.answer(data, lambda: record_lines(named, fields, line_width(), paint()), row=row)


def found_id(reader: Reader, entity: type[Entity], text: str) -> str:
    """The id that a text means: itself, or the only hash or UUID that begins so, as tables show them."""
    text = text.removesuffix("…")
    if not re.fullmatch(SHORT_ID, text):
        return text
    key: FieldOf[Any, Any] = FieldOf(entity, "id")
    near = reader.query(entity).where(key.ge(text), key.lt(f"{text}{LAST}")).limit(2)
    ids = reader.rows(near, [key]).columns[0]
    if text in ids or not all(cut_hash(id) != id for id in ids):
        return text
    if len(ids) > 1:
        raise UsageError(f"several ids of {entity.__name__} begin with {text}", hint="write more of it")
    return ids[0] if ids else text


def named_row(options: Options, info: InstallationInfo) -> tuple[str, str]:
    """Entity and id of ``ENTITY:ID``, or of two words."""
    _, colon, rest = options.entity.partition(":")
    if not options.entity or options.id == "" or (options.id is None and colon and not rest):
        raise UsageError("which row? its id is missing", hint="write ENTITY:ID, or ENTITY and ID")
    if options.id is not None:
        return options.entity, options.id
    if ":" not in options.entity:
        raise UsageError(
            f"which row? {options.entity} is no ref",
            hint=f"write ENTITY:{options.entity}, or {options.entity}:ID",
        )
    return read_ref(options.entity, info)
