"""Tables: the entities of one database, for reading: synchronous, on connections of its callers."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property, lru_cache
from itertools import islice
from typing import TYPE_CHECKING, Any, Self

from ..errors import (
    InvalidCursor,
    NotFound,
    SchemaError,
    StorageEmpty,
    StorageForeign,
    UnknownName,
    UsageError,
)
from ..model.columns import decode_column
from ..model.entities import E, Entity, FieldOf, ManyOf, P, Ref, field_names
from ..model.query import PAGE_SIZE, Query, QueryPage, RowPage
from ..model.schema import Schema
from ..model.values import Json
from .catalogue import has_part
from .database import Connection, decoding, quoted
from .ddl import read_mappings
from .query_sql import Columns, chosen, count, own_fields, paths_with_marks, run, scan, selects, write_cursor
from .rows import BITS, TableMapping

if TYPE_CHECKING:
    from ..model.aggregate import Grouping, Groups
    from ..model.loaders import Resolver
    from .change_log import ChangeLog
    from .freshness import Freshness
    from .full_text import FullText
    from .inline_lists import InlineLists
    from .membership import Membership
    from .removals import Removals

SCHEMA_TABLES = """
    CREATE TABLE _max_schema (
        id     INTEGER PRIMARY KEY CHECK (id = 1),
        schema TEXT NOT NULL
    );
    CREATE TABLE _max_field (
        entity     TEXT NOT NULL,
        field      TEXT NOT NULL,
        kind       TEXT NOT NULL,
        bit        INTEGER NOT NULL,
        load_group INTEGER NOT NULL,
        PRIMARY KEY (entity, field)
    ) {by_key};
    CREATE TABLE _max_spent_bit (
        entity TEXT NOT NULL,
        bit    INTEGER NOT NULL,
        PRIMARY KEY (entity, bit)
    ) {by_key};
    CREATE TABLE _max_hidden (
        entity   TEXT NOT NULL,
        name     TEXT NOT NULL,
        declared TEXT NOT NULL,
        PRIMARY KEY (entity, name)
    ) {by_key};
    CREATE TABLE _max_source (source TEXT NOT NULL)
"""
KNOWN_PAGES = """
    CREATE TABLE _max_known_page (
        listing INTEGER NOT NULL,
        number  INTEGER NOT NULL,
        key     TEXT NOT NULL,
        page    TEXT NOT NULL,
        PRIMARY KEY (listing, number)
    )
"""
LISTING_PAGES = """
    ALTER TABLE _max_membership ADD COLUMN page INTEGER;
    CREATE TABLE _max_listing_page (
        listing    INTEGER NOT NULL,
        number     INTEGER NOT NULL,
        since      INTEGER NOT NULL,
        generation INTEGER NOT NULL,
        members    INTEGER NOT NULL,
        PRIMARY KEY (listing, number)
    ) {by_key}
"""
SHOWN_AGAIN = "ALTER TABLE _max_load ADD COLUMN since INTEGER"
RECEIVED = """
    ALTER TABLE _max_load ADD COLUMN received_at REAL;
    UPDATE _max_load SET received_at = requested_at;
    CREATE INDEX _max_load_received ON _max_load (entity, received_at);
    DROP INDEX IF EXISTS _max_load_time;
    ALTER TABLE _max_freshness ADD COLUMN received_at REAL;
    ALTER TABLE _max_high_water ADD COLUMN marked_at REAL NOT NULL DEFAULT 0
"""
SCHEMAS = 16  # of which a process keeps the entities
OWNER = "engine"  # of these tables, in the catalogue
VERSIONS = (
    SCHEMA_TABLES,
    KNOWN_PAGES,
    LISTING_PAGES,
    SHOWN_AGAIN,
    RECEIVED,
)  # how the scripts begin that make them; TableWriter has the whole


def read_schema(connection: Connection) -> Json | None:
    """The stored schema as JSON data; None when the database holds nothing yet."""
    text = _schema_text(connection)
    with decoding("schema"):
        return None if text is None else dict(json.loads(text))


def _schema_text(connection: Connection) -> str | None:
    if not has_part(connection, OWNER, VERSIONS):
        return None
    row = connection.execute("SELECT schema FROM _max_schema").fetchone()
    return None if row is None else str(row[0])  # of what is no text: a text that is no JSON


@lru_cache(SCHEMAS)
def _schema(text: str) -> Schema:
    """The schema that a stored text describes.

    A class is slow to make, and refers to itself, so that each one that is no longer needed waits for a
    collection of garbage.  So a process that reads for long makes the classes of a schema once.
    """
    return Schema.from_json(json.loads(text))


def with_account_fields(connection: Connection, resolver: Resolver) -> Resolver:
    """The resolver with the stored fields that the account has of its own."""
    if resolver.added is None:  # its connector looks for none
        return resolver
    from ..model.account_fields import with_stored

    with decoding("schema", SchemaError):
        return with_stored(resolver, read_schema(connection))


def refuse_foreign(stored: str, connector: str) -> None:
    """StorageForeign when the data is of another connector than the one that is about to use it."""
    if stored and connector and stored != connector:
        raise StorageForeign(
            f"the database holds data of the connector {stored}, not of {connector}",
            hint="move data.db back to the installation that it came from; the next sync makes another",
        )


def check_connector(connection: Connection, connector: str) -> None:
    """StorageForeign when the database, if it has data, holds those of another connector."""
    stored: Any = read_schema(connection)
    refuse_foreign((stored or {}).get("connector", ""), connector)


class Tables:
    """The entities of one schema, and what is known of their age, their listings and their changes.

    Those parts are imported when they are asked for, since most answers need none of them.
    """

    def __init__(self, schema: Schema, resolver: Resolver | None = None) -> None:
        self.schema = schema
        self._mappings: dict[str, TableMapping[Any]] = {}
        self._known_resolver = resolver

    @classmethod
    def stored(cls, connection: Connection, resolver: Resolver | None = None) -> Self:
        """The tables as the database describes them; the connector's resolver is needed for writing alone."""
        with decoding("schema", SchemaError):
            text = _schema_text(connection)
            if text is None:
                raise StorageEmpty("the database holds no data yet", hint="run a sync first")
            schema = _schema(text)
            tables = cls(schema, None if resolver is None else with_account_fields(connection, resolver))
            tables._mappings.update(read_mappings(connection, schema))
        return tables

    @cached_property
    def resolver(self) -> Resolver:
        """Which loader serves what; without a connector, any may."""
        from ..model.loaders import UnknownLoaders

        return self._known_resolver or UnknownLoaders(self.schema)

    @cached_property
    def freshness(self) -> Freshness:
        """How old the fields of the rows are."""
        from .freshness import Freshness

        return Freshness(self._mappings)

    @cached_property
    def removals(self) -> Removals:
        """Which rows are missing, and which are removed."""
        from .removals import Removals

        return Removals(self.schema, self._mappings, self.freshness, self.resolver)

    @cached_property
    def membership(self) -> Membership:
        """Which parent lists which rows."""
        from .membership import Membership

        return Membership(self._mappings, self.removals, self.resolver)

    @cached_property
    def inline_lists(self) -> InlineLists:
        """Which members rows name themselves."""
        from .inline_lists import InlineLists

        return InlineLists(self.schema, self._mappings, self.removals)

    @cached_property
    def change_log(self) -> ChangeLog:
        """What changed in the rows."""
        from .change_log import ChangeLog

        return ChangeLog(self._mappings)

    @cached_property
    def full_text(self) -> FullText:
        """The index of the words."""
        from .full_text import FullText

        return FullText(self._mappings)

    @property
    def mappings(self) -> Mapping[str, TableMapping[Any]]:
        """How each entity is stored, by entity name."""
        return self._mappings

    def mapping(self, entity: type[E]) -> TableMapping[E]:
        """How an entity is stored; UnknownName when it is not of this schema."""
        mapping = self._mappings.get(entity.__name__)
        if mapping is None:
            raise UnknownName("entity", entity.__name__, self._mappings)
        return mapping

    def fetch(self, connection: Connection, query: Query[E]) -> QueryPage[E]:
        """One page of a query."""
        mapping = self.mapping(query.entity)
        rows, more = self._stored_page(connection, query, own_fields(query))
        names = chosen(mapping, query)
        width = 1 + len(names) + len(mapping.bitmaps)
        cursor = None
        if more and rows:
            cursor = write_cursor(query, [*rows[-1][width:], rows[-1][0]])
        return QueryPage(
            mapping.decode(names, [row[:width] for row in rows] if query.order else rows), cursor
        )

    def rows(self, connection: Connection, query: Query[Any], paths: Sequence[FieldOf[Any, Any]]) -> RowPage:
        """One page of a query as columns, one for each path; ``query.fields`` counts for nothing."""
        mapping = self.mapping(query.entity)
        rows, more = self._stored_page(connection, query, paths_with_marks(paths))
        width = len(paths) + sum(field.via is not None for field in paths) + len(mapping.bitmaps)
        cursor = write_cursor(query, [*rows[-1][width + 1 :], rows[-1][width]]) if more and rows else None
        if not rows:
            return RowPage(tuple(paths), [()] * len(paths))
        stored = list(zip(*rows, strict=True))
        columns = [decode_column(field.type, one) for field, one in zip(paths, stored, strict=False)]
        return RowPage(tuple(paths), columns, _unloaded(mapping, paths, stored), cursor)

    def pages(
        self, connection: Connection, query: Query[Any], paths: Sequence[FieldOf[Any, Any]]
    ) -> Iterator[RowPage]:
        """All rows of a query up to its limit, by one statement; one page of them is in memory."""
        mapping = self.mapping(query.entity)
        for stored in self._scan(connection, query, paths_with_marks(paths), PAGE_SIZE):
            columns = [decode_column(field.type, one) for field, one in zip(paths, stored, strict=False)]
            yield RowPage(tuple(paths), columns, _unloaded(mapping, paths, stored))

    def stored_columns(
        self, connection: Connection, query: Query[Any], paths: Sequence[FieldOf[Any, Any]], size: int
    ) -> Iterator[Sequence[Sequence[Any]]]:
        """The same as columns of up to ``size`` rows, with the values as the database holds them."""
        self.mapping(query.entity)
        return self._scan(connection, query, lambda s: [s.column(path.path) for path in paths], size)

    def arrow(self, connection: Connection, query: Query[Any], paths: Sequence[FieldOf[Any, Any]]) -> Any:
        """The same as a ``pyarrow.Table``."""
        from .arrow import BATCH, ArrowColumns

        return ArrowColumns(paths).table(self.stored_columns(connection, query, paths, BATCH))

    def arrow_batches(
        self, connection: Connection, query: Query[Any], paths: Sequence[FieldOf[Any, Any]]
    ) -> tuple[Any, Iterator[Any]]:
        """The same as Arrow's schema and its batches."""
        from .arrow import BATCH, ArrowColumns

        columns = ArrowColumns(paths)
        return columns.schema, columns.batches(self.stored_columns(connection, query, paths, BATCH))

    def _scan(
        self, connection: Connection, query: Query[Any], columns: Columns, size: int
    ) -> Iterator[Sequence[Sequence[Any]]]:
        sql, values = scan(self._mappings, query, columns)
        connection.dialect.prepare(connection, sql)
        rows = connection.scan(sql, values)
        while piece := list(islice(rows, size)):
            yield list(zip(*piece, strict=True))

    def _stored_page(
        self, connection: Connection, query: Query[Any], columns: Columns
    ) -> tuple[list[tuple[Any, ...]], bool]:
        """The rows of a page as they are stored, and whether there are more."""
        size = PAGE_SIZE if query.size is None else query.size
        if size < 0:
            raise UsageError(f"a limit counts entities; {size} is none")
        rows: list[tuple[Any, ...]] = []
        for sql, values in selects(self._mappings, query, size + 1, columns):
            rows += run(connection, sql, values)
            if len(rows) > size:
                break
        return rows[:size], len(rows) > size

    def count(self, connection: Connection, query: Query[Any]) -> int:
        """How many entities fit a query's filter."""
        self.mapping(query.entity)
        return int(run(connection, *count(self._mappings, query))[0][0])

    def groups(self, connection: Connection, query: Query[Any], grouping: Grouping) -> Groups[Any]:
        """The rows of a query in groups."""
        from .aggregate_sql import groups  # most questions count nothing by groups

        self.mapping(query.entity)
        return groups(connection, self._mappings, query, grouping)

    def titles(
        self, connection: Connection, entity: type[Entity], ids: Iterable[str]
    ) -> list[tuple[str, str]]:
        """Id and title of these rows, also of removed ones; not of those whose title is not loaded."""
        mapping = self.mapping(entity)
        if entity._title is None:
            return []
        title = quoted(entity._title)
        sql = f"SELECT _id, {title} FROM {{table}} WHERE _id IN {{set:ids}} AND {title} IS NOT NULL"
        return connection.execute(mapping.sql(sql), {"ids": connection.dialect.array(ids)}).fetchall()

    def load(self, connection: Connection, ref: Ref[E], *fields: FieldOf[E, Any]) -> E:
        """One entity; NotFound when it is not stored or was removed upstream."""
        mapping = self.mapping(ref.entity)
        names = [name for name in field_names(fields) if name != "id"] if fields else list(mapping.types)
        columns = [quoted(name) for name in ("_id", *names, *mapping.bitmaps)]
        sql = (
            f"SELECT {', '.join(columns)} FROM {quoted(mapping.table)} WHERE _id = ? AND _removed_at IS NULL"
        )
        rows = connection.execute(sql, (ref.id,)).fetchall()
        if not rows:
            raise self.not_found(connection, ref)
        return mapping.decode(names, rows)[0]

    def not_found(self, connection: Connection, ref: Ref[Any]) -> NotFound:
        """The error that a row is not there, with the time when it was found to be gone upstream."""
        mapping = self.mapping(ref.entity)
        at = connection.dialect.time_text("_removed_at")
        sql = f"SELECT {at} FROM {quoted(mapping.table)} WHERE _id = ? AND _removed_at IS NOT NULL"
        removed = connection.execute(sql, (ref.id,)).fetchone()
        hint = "check the id, or sync first"
        if removed:
            view = mapping.table.removeprefix("_")
            hint = f"it was gone upstream at {removed[0]}Z; its last values are in {view}_removed: max sql"
        return NotFound(ref.entity.__name__, ref.id, hint=hint)

    def collection(
        self,
        connection: Connection,
        parent: Ref[P],
        many: ManyOf[P, E],
        *,
        after: str | None = None,
        limit: int | None = None,
    ) -> QueryPage[E]:
        """A page of a collection's members, in the order in which they were first stored.

        Those of an inline collection are in the order in which the parent's row names them.
        """
        owner, mapping = self.mapping(many.parent), self.mapping(many.child)
        size = PAGE_SIZE if limit is None else limit
        source, place = quoted(mapping.table), "t._row"
        member = (
            f"t.{quoted(many.by.name)} = :parent"
            if many.by is not None
            else "t._row IN (SELECT child FROM _max_membership JOIN _max_listing ON id = listing"
            " WHERE collection = :collection AND parent = :parent AND child > :after)"
        )
        if many.inline:
            named, place = connection.dialect.in_order(f"o.{quoted(many.name)}", "n")
            source = f"{quoted(owner.table)} AS o CROSS JOIN {named} CROSS JOIN {source}"
            member = "o._id = :parent AND o._removed_at IS NULL AND t._id = n.value"
        columns = ["t._id", *(f"t.{quoted(n)}" for n in (*mapping.types, *mapping.bitmaps)), place]
        sql = f"""
            SELECT {", ".join(columns)} FROM {source} AS t
             WHERE {member} AND t._removed_at IS NULL AND {place} > :after
             ORDER BY {place} LIMIT :limit
        """
        values = {"collection": repr(many), "parent": parent.id, "after": _position(after), "limit": size + 1}
        rows = connection.execute(sql, values).fetchall()
        more, rows = len(rows) > size, rows[:size]
        items = mapping.decode(list(mapping.types), [row[:-1] for row in rows])
        return QueryPage(items, str(rows[-1][-1]) if more and rows else None)


def _unloaded(
    mapping: TableMapping[Any], paths: Sequence[FieldOf[Any, Any]], stored: Sequence[Sequence[Any]]
) -> frozenset[tuple[int, int]]:
    """Where no value is known, as (row, column); ``paths_with_marks`` selected the columns."""
    behind = [column for column, field in enumerate(paths) if field.via]
    marks = dict(zip(behind, stored[len(paths) :], strict=False))
    bitmaps = stored[len(paths) + len(behind) :]
    missing: set[tuple[int, int]] = set()
    for column, field in enumerate(paths):
        if field.name == "id" and not field.via:
            continue
        number, bit = (0, 0) if field.via else divmod(mapping.bits[field.name], BITS)
        known = marks[column] if field.via else bitmaps[number]
        if not all(bits >> bit & 1 for bits in set(known)):
            missing.update((row, column) for row, bits in enumerate(known) if not bits >> bit & 1)
    return frozenset(missing)


def _position(cursor: str | None) -> int:
    if cursor is None:
        return 0
    if not cursor.isdecimal():
        raise InvalidCursor("it belongs to a query, not to a collection")
    return int(cursor)
