"""The engine: one SQLite file that holds an installation's entities, and how old they are.

Rule 1: what one arrival brings (rows, removals, links, freshness, the listing's mark) is
written by one function inside one transaction that somebody else owns.

Rule 2: freshness costs a row nothing.  A row says which page brought it, the page says when
its request began; what no page can say (a field that came alone, an invalidation) stands
beside, in ``_max_freshness``, and the later of the two holds.

Rule 3: membership of a collection is marked and swept.  A link remembers the listing that
saw it last; a listing proven complete drops the links that it did not see.  A page that is
brought anew says nothing of rows whose links it has not seen anew.

The synchronous half (Tables) knows SQL and no event loop; SqliteEngine and SqliteSyncMeta
put it behind the protocols of core.py.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from itertools import chain
from typing import Any

from .core import (
    PAGE_SIZE,
    Arrival,
    BoundQuery,
    Engine,
    Listing,
    Page,
    Query,
    Schema,
    Stored,
    SyncMeta,
    Write,
)
from .entities import E, Entity, FieldOf, Filter, ManyOf, P, Ref, own_names
from .errors import InvalidCursor, NotFound, StorageError, UnknownName, UsageError
from .evolution import Parts, build_indexes, evolve, read_layouts
from .queries import CASEFOLD, Statement, chosen, count, selects, write_cursor
from .rows import Layout, Rows, stamp_column
from .sqlite import Database, migrate, quoted, refuse_newer

MIGRATIONS = (
    """
    CREATE TABLE _max_schema (
        id     INTEGER PRIMARY KEY CHECK (id = 1),
        schema TEXT NOT NULL
    );
    CREATE TABLE _max_field (
        entity TEXT NOT NULL,
        field  TEXT NOT NULL,
        kind   TEXT NOT NULL,
        bit    INTEGER NOT NULL,
        part   INTEGER NOT NULL,
        PRIMARY KEY (entity, field)
    ) WITHOUT ROWID;
    CREATE TABLE _max_list (
        id         INTEGER PRIMARY KEY,
        collection TEXT NOT NULL,
        parent     TEXT NOT NULL,
        generation INTEGER NOT NULL DEFAULT 0,
        mark       TEXT,
        UNIQUE (collection, parent)
    );
    CREATE TABLE _max_link (
        list       INTEGER NOT NULL,
        child      INTEGER NOT NULL,
        generation INTEGER NOT NULL,
        PRIMARY KEY (list, child)
    ) WITHOUT ROWID;
    CREATE TABLE _max_page (
        id           INTEGER PRIMARY KEY,
        entity       TEXT NOT NULL,
        list         INTEGER,
        number       INTEGER,
        generation   INTEGER,
        fields       TEXT NOT NULL,
        requested_at REAL NOT NULL
    );
    CREATE UNIQUE INDEX _max_page_place ON _max_page (list, number, entity) WHERE list IS NOT NULL;
    CREATE TABLE _max_freshness (
        entity      TEXT NOT NULL,
        row         INTEGER NOT NULL,
        field       TEXT NOT NULL,
        synced_at   REAL,
        recorded_at REAL NOT NULL,
        PRIMARY KEY (entity, row, field)
    ) WITHOUT ROWID
    """,
)

STORED_SCHEMA = """
    SELECT schema, (SELECT max(version) FROM _max_migration WHERE owner = 'engine') FROM _max_schema
"""
LIST_OF = """
    INSERT INTO _max_list (collection, parent) VALUES (:collection, :parent)
    ON CONFLICT (collection, parent) DO UPDATE SET parent = excluded.parent
    RETURNING id, generation
"""
PLACE_PAGE = """
    INSERT INTO _max_page (entity, list, number, generation, fields, requested_at)
    VALUES (:entity, :list, :number, :generation, :fields, :at)
    ON CONFLICT (list, number, entity) WHERE list IS NOT NULL
    DO UPDATE SET generation = excluded.generation, fields = excluded.fields,
                  requested_at = excluded.requested_at
    RETURNING id
"""
RECORD_FRESHNESS = """
    INSERT INTO _max_freshness (entity, row, field, synced_at, recorded_at)
    SELECT :entity, _row, f.value, :synced_at, :recorded_at
      FROM {table}, json_each(:fields) AS f
     WHERE _id IN (SELECT value FROM json_each(:ids))
    ON CONFLICT (entity, row, field) DO UPDATE
       SET synced_at = excluded.synced_at, recorded_at = excluded.recorded_at
     WHERE excluded.recorded_at >= recorded_at
"""
LINK = """
    INSERT INTO _max_link (list, child, generation)
    SELECT :list, _row, :generation FROM {table} WHERE _id IN (SELECT value FROM json_each(:ids))
    ON CONFLICT (list, child) DO UPDATE SET generation = excluded.generation
     WHERE generation IS NOT excluded.generation
"""
REMOVE = "UPDATE {table} SET _removed_at = :at WHERE _id = :id AND _removed_at IS NULL"


class Tables:
    """The SQL of one schema: synchronous, on connections and transactions of its callers."""

    def __init__(self, schema: Schema, parts: Parts | None = None) -> None:
        self.schema = schema
        self._parts = parts or (lambda entity: [tuple(entity.types())])
        self._layouts: dict[str, Layout[Any]] = {}

    @classmethod
    def stored(cls, connection: sqlite3.Connection) -> Tables:
        """The tables as the database describes them, without the connector; for reading."""
        try:
            row = connection.execute(STORED_SCHEMA).fetchone()
        except sqlite3.OperationalError:
            row = None
        if row is None:
            raise StorageError("the database holds no data yet", hint="run a sync first")
        refuse_newer("engine", row[1], len(MIGRATIONS))
        tables = cls(Schema.from_json(json.loads(row[0])))
        tables._layouts = read_layouts(connection, tables.schema)
        return tables

    # -- schema ---------------------------------------------------------------------------

    def apply(self, connection: sqlite3.Connection) -> None:
        """Make the database fit the schema; refuse, changing nothing, what cannot be done safely."""
        migrate(connection, "engine", MIGRATIONS)
        self._layouts = evolve(connection, self.schema, self._parts)

    def layout(self, entity: type[E]) -> Layout[E]:
        """How an entity lies in its table; UnknownName when it is not of this schema."""
        layout = self._layouts.get(entity.__name__)
        if layout is None:
            raise UnknownName("entity", entity.__name__, self._layouts)
        return layout

    # -- reading --------------------------------------------------------------------------

    def fetch(self, connection: sqlite3.Connection, query: Query[E]) -> Page[E]:
        """One page of a query."""
        layout = self.layout(query.entity)
        size = PAGE_SIZE if query.size is None else query.size
        if size < 0:
            raise UsageError(f"a limit counts entities; {size} is none")
        rows: list[tuple[Any, ...]] = []
        for sql, values in selects(self._layouts, query, size + 1):
            rows += run(connection, sql, values)
            if len(rows) > size:
                break
        more, rows = len(rows) > size, rows[:size]
        names = chosen(layout, query)
        width = 1 + len(names) + len(layout.words)
        cursor = None
        if more and rows:
            cursor = write_cursor(query, [*rows[-1][width:], rows[-1][0]])
        return Page(layout.decode(names, [row[:width] for row in rows] if query.order else rows), cursor)

    def count(self, connection: sqlite3.Connection, query: Query[Any]) -> int:
        """How many entities fit a query's filter."""
        self.layout(query.entity)
        return int(run(connection, *count(self._layouts, query))[0][0])

    def load(self, connection: sqlite3.Connection, ref: Ref[E], *fields: FieldOf[E, Any]) -> E:
        """One entity; NotFound when it is not stored or was removed upstream."""
        layout = self.layout(ref.entity)
        names = [name for name in own_names(fields) if name != "id"] if fields else list(layout.types)
        columns = [quoted(name) for name in ("_id", *names, *layout.words)]
        sql = f"SELECT {', '.join(columns)} FROM {quoted(layout.table)} WHERE _id = ? AND _removed_at IS NULL"
        rows = connection.execute(sql, (ref.id,)).fetchall()
        if not rows:
            raise NotFound(ref.entity.__name__, ref.id, hint="check the id, or sync first")
        return layout.decode(names, rows)[0]

    def collection(
        self,
        connection: sqlite3.Connection,
        parent: Ref[P],
        many: ManyOf[P, E],
        *,
        after: str | None = None,
        limit: int | None = None,
    ) -> Page[E]:
        """A page of a collection's members, in the order in which they were first stored."""
        self.layout(many.parent)
        layout = self.layout(many.child)
        size = PAGE_SIZE if limit is None else limit
        member = (
            f"t.{quoted(many.by.name)} = :parent"
            if many.by is not None
            else "t._row IN (SELECT child FROM _max_link JOIN _max_list ON id = list"
            " WHERE collection = :collection AND parent = :parent AND child > :after)"
        )
        columns = ["t._id", *(f"t.{quoted(n)}" for n in (*layout.types, *layout.words)), "t._row"]
        sql = f"""
            SELECT {", ".join(columns)} FROM {quoted(layout.table)} AS t
             WHERE {member} AND t._removed_at IS NULL AND t._row > :after
             ORDER BY t._row LIMIT :limit
        """
        values = {"collection": repr(many), "parent": parent.id, "after": _position(after), "limit": size + 1}
        rows = connection.execute(sql, values).fetchall()
        more, rows = len(rows) > size, rows[:size]
        items = layout.decode(list(layout.types), [row[:-1] for row in rows])
        return Page(items, str(rows[-1][-1]) if more and rows else None)

    # -- writing --------------------------------------------------------------------------

    def write(self, connection: sqlite3.Connection, arrival: Arrival, *, dated: bool = True) -> Stored:
        """Store an arrival, all or nothing: run it inside a transaction.

        Without ``dated`` nothing is recorded about when the fields were synced.
        """
        by_entity = by_type(arrival.entities)
        encoded = [(self.layout(entity), self.layout(entity).encode(e)) for entity, e in by_entity.items()]
        place = self._open_list(connection, arrival.listing)
        at = arrival.requested_at if dated else None
        counts = {}
        for layout, groups in encoded:
            along = arrival.listing is not None and layout.entity is not arrival.listing.collection.child
            before = last_row(connection, layout) if along else 0
            self._write_rows(connection, layout, groups, at, None if along else place)
            new = last_row(connection, layout) - before if along else len(by_entity[layout.entity])
            counts[layout.entity.__name__] = new
        removed = sum(self._remove(connection, ref, arrival.requested_at) for ref in arrival.removed)
        if arrival.listing is not None and place is not None:
            self._link(connection, arrival.listing, encoded, place)
        return Stored({entity: number for entity, number in counts.items() if number}, removed)

    def _open_list(self, connection: sqlite3.Connection, listing: Listing | None) -> _Place | None:
        """Where an arrival stands in its list; a full listing's first page begins a generation."""
        if listing is None:
            return None
        names = {"collection": repr(listing.collection), "parent": listing.parent.id}
        list_id, generation = connection.execute(LIST_OF, names).fetchone()
        number = listing.number
        if listing.delta:
            row = connection.execute(
                "SELECT max(number) FROM _max_page WHERE list = ?", (list_id,)
            ).fetchone()
            number = 0 if row[0] is None else row[0] + 1
        elif number == 0:
            generation += 1
            connection.execute("UPDATE _max_list SET generation = ? WHERE id = ?", (generation, list_id))
        return _Place(list_id, generation, number)

    def _write_rows(
        self,
        connection: sqlite3.Connection,
        layout: Layout[Any],
        groups: Sequence[Rows],
        at: float | None,
        place: _Place | None,
    ) -> None:
        """Upsert the rows of one entity and remember which page brought them."""
        parts, fields = complete_parts(layout, groups) if at is not None else ({}, "")
        stamps: list[Any] = []
        if parts:
            page = {
                "entity": layout.entity.__name__,
                "fields": fields,
                "at": at,
                "list": place.list if place else None,
                "number": place.number if place else None,
                "generation": place.generation if place else None,
            }
            stamps = [connection.execute(PLACE_PAGE, page).fetchone()[0]] * len(parts)
        for rows in groups:
            key = rows.names, tuple(parts)
            statement = layout.upserts.get(key) or layout.upserts.setdefault(key, upsert(layout, *key))
            connection.executemany(statement, rows.tuples(*layout.masks(rows.names), *stamps))
        if at is not None:
            for rows in groups:
                alone = [name for name in rows.names if layout.parts[name] not in parts]
                if alone:
                    self._record(connection, layout, rows.ids, alone, synced_at=at, recorded_at=at)

    def _record(
        self,
        connection: sqlite3.Connection,
        layout: Layout[Any],
        ids: Sequence[str],
        fields: Sequence[str],
        *,
        synced_at: float | None,
        recorded_at: float,
    ) -> None:
        """Freshness that no page can say, field by field."""
        values = {
            "entity": layout.entity.__name__,
            "ids": json.dumps(ids),
            "fields": json.dumps(fields),
            "synced_at": synced_at,
            "recorded_at": recorded_at,
        }
        connection.execute(RECORD_FRESHNESS.format(table=quoted(layout.table)), values)

    def _remove(self, connection: sqlite3.Connection, ref: Ref[Any], at: float) -> int:
        table = quoted(self.layout(ref.entity).table)
        return connection.execute(REMOVE.format(table=table), {"at": at, "id": ref.id}).rowcount

    def _link(
        self,
        connection: sqlite3.Connection,
        listing: Listing,
        encoded: Sequence[tuple[Layout[Any], Sequence[Rows]]],
        place: _Place,
    ) -> None:
        """Remember a page's members; the last page closes the listing and moves its mark."""
        child = self.layout(listing.collection.child)
        groups = next((groups for layout, groups in encoded if layout is child), [])
        values = {"list": place.list, "generation": place.generation}
        ids = json.dumps(list(chain.from_iterable(rows.ids for rows in groups)))
        connection.execute(LINK.format(table=quoted(child.table)), {**values, "ids": ids})
        if not listing.last:
            return
        if not listing.delta:
            connection.execute(
                "DELETE FROM _max_link WHERE list = :list AND generation < :generation", values
            )
        connection.execute("UPDATE _max_list SET mark = ? WHERE id = ?", (listing.mark, place.list))

    # -- freshness ------------------------------------------------------------------------

    def synced_at(
        self, connection: sqlite3.Connection, ref: Ref[Any], fields: Sequence[str]
    ) -> list[float | None]:
        """When each field of one entity was last synced; None for never."""
        layout = self.layout(ref.entity)
        columns = ", ".join(synced_sql(layout, self._known(layout, field)) for field in fields)
        sql = f"SELECT {columns} FROM {quoted(layout.table)} AS t WHERE t._id = ?"
        row = connection.execute(sql, (ref.id,)).fetchone()
        return list(row) if row else [None] * len(fields)

    def _known(self, layout: Layout[Any], field: str) -> str:
        if field not in layout.types:
            raise UnknownName("field", field, layout.types, where=layout.entity.__name__)
        return field

    def stale_ids(
        self,
        connection: sqlite3.Connection,
        query: Query[Any],
        fields: Sequence[str],
        *,
        before: float,
        after: str,
        limit: int,
    ) -> list[str]:
        """The next ids that fit a query and of which some field is older than ``before``."""
        layout = self.layout(query.entity)
        statement = Statement(self._layouts, query.entity)
        condition = statement.condition(query.filter)
        stale = " OR ".join(
            f"coalesce({synced_sql(layout, self._known(layout, field))}, -1e999) < {statement.bind(before)}"
            for field in fields
        )
        sql = (
            f"SELECT t._id {statement.source} WHERE t._removed_at IS NULL AND ({condition})"
            f" AND ({stale or 1}) AND t._id > {statement.bind(after)} ORDER BY t._id LIMIT {limit}"
        )
        return [row[0] for row in run(connection, sql, statement.values)]

    def record(
        self,
        connection: sqlite3.Connection,
        refs: Sequence[Ref[Any]],
        fields: Sequence[str],
        *,
        synced_at: float | None,
        recorded_at: float,
    ) -> None:
        """Note when fields of some refs were synced, or (None) that what is older is stale."""
        by_entity: dict[type[Entity], list[str]] = {}
        for ref in refs:
            by_entity.setdefault(ref.entity, []).append(ref.id)
        for entity, ids in by_entity.items():
            layout = self.layout(entity)
            names = [self._known(layout, field) for field in fields]
            self._record(connection, layout, ids, names, synced_at=synced_at, recorded_at=recorded_at)

    def mark(self, connection: sqlite3.Connection, parent: Ref[Any], many: ManyOf[Any, Any]) -> str | None:
        """The sync token that the last complete listing left."""
        sql = "SELECT mark FROM _max_list WHERE collection = ? AND parent = ?"
        row = connection.execute(sql, (repr(many), parent.id)).fetchone()
        return row[0] if row else None

    def drop_pages(self, connection: sqlite3.Connection) -> None:
        """Forget the pages that no row points at any more."""
        for layout in self._layouts.values():
            used = " UNION ".join(
                f"SELECT {quoted(column)} FROM {quoted(layout.table)} WHERE {quoted(column)} IS NOT NULL"
                for column in layout.stamps.values()
            )
            connection.execute(
                f"DELETE FROM _max_page WHERE entity = ? AND list IS NULL AND id NOT IN ({used})",
                (layout.entity.__name__,),
            )


class _Place:
    """Where an arrival stands: its list, the listing's generation, the page's number."""

    __slots__ = ("generation", "list", "number")

    def __init__(self, list: int, generation: int, number: int) -> None:
        self.list, self.generation, self.number = list, generation, number


def run(connection: sqlite3.Connection, sql: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
    """The rows of a query; what its SQL calls is made known first.

    Only when it does: a new function makes SQLite compile every statement of the connection anew.
    """
    if CASEFOLD in sql:
        connection.create_function(CASEFOLD, 1, _casefold, deterministic=True)
    return connection.execute(sql, values).fetchall()


def _casefold(text: str | None) -> str | None:
    return None if text is None else text.casefold()


def _position(cursor: str | None) -> int:
    if cursor is None:
        return 0
    if not cursor.isdecimal():
        raise InvalidCursor("it belongs to a query, not to a collection")
    return int(cursor)


def by_type(entities: Sequence[Entity]) -> dict[type[Entity], Sequence[Entity]]:
    """Entities apart by their type, in the order of the first of each."""
    types = list(map(type, entities))
    if len(set(types)) == 1:
        return {types[0]: entities}
    return {kind: [one for one in entities if type(one) is kind] for kind in dict.fromkeys(types)}


def last_row(connection: sqlite3.Connection, layout: Layout[Any]) -> int:
    """The number of an entity's newest row; 0 when it has none."""
    return int(connection.execute(f"SELECT max(_row) FROM {quoted(layout.table)}").fetchone()[0] or 0)


def complete_parts(layout: Layout[Any], groups: Sequence[Rows]) -> tuple[dict[int, None], str]:
    """The parts of which every row of a page brings every field, and those fields as text.

    Only of such parts can the page say when they were synced.
    """
    common = set(layout.parts)
    for rows in groups:
        common &= set(rows.names)
    lacking = {part for field, part in layout.parts.items() if field not in common}
    fields = [field for field, part in layout.parts.items() if part not in lacking]
    return {layout.parts[field]: None for field in fields}, f",{','.join(fields)},"


def upsert(layout: Layout[Any], names: tuple[str, ...], parts: tuple[int, ...]) -> str:
    """The statement that stores rows with these fields; rows that stay as they are are not written."""
    stamps = [quoted(stamp_column(part)) for part in parts]
    words = [quoted(word) for word in layout.words]
    fields = [quoted(name) for name in names]
    columns = ['"_id"', *fields, *words, *stamps]
    changes = [f"{c} = excluded.{c}" for c in (*fields, *stamps)]
    changes += [f"{word} = {word} | excluded.{word}" for word in words]
    differs = [f"{c} IS NOT excluded.{c}" for c in (*fields, *stamps)]
    differs += [f"{word} & excluded.{word} IS NOT excluded.{word}" for word in words]
    return (
        f"INSERT INTO {quoted(layout.table)} ({', '.join(columns)})"
        f" VALUES ({', '.join('?' * len(columns))})"
        f" ON CONFLICT (_id) DO UPDATE SET {', '.join([*changes, '_removed_at = NULL'])}"
        f" WHERE {' OR '.join([*differs, '_removed_at IS NOT NULL'])}"
    )


def synced_sql(layout: Layout[Any], field: str) -> str:
    """SQL for when a field of row ``t`` was last synced: by its page, or by what stands beside."""
    stamp = quoted(stamp_column(layout.parts[field]))
    page = (
        f"(SELECT p.requested_at FROM _max_page AS p WHERE p.id = t.{stamp}"
        f" AND instr(p.fields, ',{field},') AND (p.list IS NULL OR EXISTS"
        f" (SELECT 1 FROM _max_link AS k WHERE k.list = p.list AND k.child = t._row"
        f" AND k.generation >= p.generation)))"
    )
    beside = (
        f"FROM _max_freshness AS x WHERE x.entity = '{layout.entity.__name__}'"
        f" AND x.row = t._row AND x.field = '{field}'"
    )
    return (
        f"CASE WHEN coalesce((SELECT x.recorded_at {beside}), -1e999) >= coalesce({page}, -1e999)"
        f" THEN (SELECT x.synced_at {beside}) ELSE {page} END"
    )


class SqliteEngine(Engine):
    """The engine protocol on one Database, which others may share for their transactions.

    ``parts`` tells which fields of an entity arrive together, so that one page can say how
    old they all are; without it all do.
    """

    def __init__(self, database: Database, schema: Schema, parts: Parts | None = None) -> None:
        self._database = database
        self.tables = Tables(schema, parts)

    @property
    def schema(self) -> Schema:
        """The entities it holds."""
        return self.tables.schema

    async def start(self) -> None:
        """Make the database fit the schema; StorageError or SchemaError when that is not safe."""
        await self._database.transact(self.tables.apply)

    async def stop(self) -> None:
        """Nothing to give back: the database belongs to whoever opened it."""

    def query(self, entity: type[E]) -> BoundQuery[E]:
        """Begin a query."""
        return BoundQuery(self, Query(entity))

    async def fetch(self, query: Query[E]) -> Page[E]:
        """One page in the query's order."""
        return await self._database.read(lambda connection: self.tables.fetch(connection, query))

    async def count(self, query: Query[E]) -> int:
        """How many entities fit the query's filter."""
        return await self._database.read(lambda connection: self.tables.count(connection, query))

    async def load(self, ref: Ref[E], *fields: FieldOf[E, Any]) -> E:
        """One entity with what is stored of it."""
        return await self._database.read(lambda connection: self.tables.load(connection, ref, *fields))

    async def load_collection(
        self, parent: Ref[P], collection: ManyOf[P, E], *, after: str | None = None, limit: int | None = None
    ) -> Page[E]:
        """A page of a collection's members."""
        return await self._database.read(
            lambda connection: self.tables.collection(
                connection, parent, collection, after=after, limit=limit
            )
        )

    async def store(self, *entities: Entity, requested_at: float | None = None) -> Stored:
        """Upsert in one transaction."""
        arrival = Arrival(entities, requested_at or 0.0)
        dated = requested_at is not None
        return await self._database.transact(lambda c: self.tables.write(c, arrival, dated=dated))

    def writing(self, arrival: Arrival) -> Write:
        """The work that stores an arrival inside a transaction of this engine's database."""
        return lambda connection: self.tables.write(connection, arrival)

    async def tidy(self) -> None:
        """After a sync: build the indexes that reading wants, drop what nothing points at."""

        def work(connection: sqlite3.Connection) -> None:
            build_indexes(connection, self.schema)
            self.tables.drop_pages(connection)

        await self._database.transact(work)


class SqliteSyncMeta(SyncMeta):
    """When each field was last synced, from the same tables as the engine's."""

    def __init__(self, database: Database, tables: Tables) -> None:
        self._database, self._tables = database, tables

    async def record(self, refs: Sequence[Ref[Any]], fields: Sequence[str], *, at: float) -> None:
        """The fields of these refs were fetched by a request that began at ``at``."""
        await self._database.transact(
            lambda c: self._tables.record(c, refs, fields, synced_at=at, recorded_at=at)
        )

    async def synced_at(self, ref: Ref[E], field: FieldOf[E, Any]) -> float | None:
        """When the field was last synced."""
        (at,) = await self._database.read(lambda c: self._tables.synced_at(c, ref, [field.name]))
        return at

    async def stale(
        self, ref: Ref[E], fields: Sequence[FieldOf[E, Any]], *, before: float
    ) -> list[FieldOf[E, Any]]:
        """Those of the fields that were not synced at or after ``before``."""
        names = [field.name for field in fields]
        if not names:
            return []
        times = await self._database.read(lambda c: self._tables.synced_at(c, ref, names))
        return [f for f, at in zip(fields, times, strict=True) if at is None or at < before]

    async def stale_ids(
        self,
        entity: type[Entity],
        fields: Sequence[str],
        *,
        before: float,
        matching: Filter[Any] | None = None,
        after: str = "",
        limit: int = 1000,
    ) -> list[str]:
        """The next ids of which some field was not synced at or after ``before``."""
        query: Query[Any] = Query(entity, matching)
        return await self._database.read(
            lambda c: self._tables.stale_ids(c, query, fields, before=before, after=after, limit=limit)
        )

    async def invalidate(self, refs: Sequence[Ref[Any]], fields: Sequence[str], *, at: float) -> None:
        """Count as stale what was synced by a request that began at or before ``at``."""
        await self._database.transact(
            lambda c: self._tables.record(c, refs, fields, synced_at=None, recorded_at=at)
        )

    async def is_fully_synced(self, ref: Ref[Any]) -> bool:
        """Whether every field of the entity has been synced."""
        names = list(ref.entity.types())
        if not names:
            return True
        times = await self._database.read(lambda c: self._tables.synced_at(c, ref, names))
        return None not in times

    async def mark(self, parent: Ref[P], collection: ManyOf[P, Any]) -> str | None:
        """The sync token of the last complete listing."""
        return await self._database.read(lambda c: self._tables.mark(c, parent, collection))
