"""The engine: the entities of one installation in its database, and how old they are.

Rule 1: what one delivery brings (rows, removals, members, freshness, bookmarks) is written by
one function, inside one transaction of its caller.

Rule 2: everything here is a thin face.  storage/ holds the SQL and knows no event loop;
DatabaseEngine and DatabaseSyncMeta put it behind the protocols of core.py.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from .core import BoundQuery, Engine, SyncMeta
from .model.aggregate import Grouping, Groups
from .model.changes import ChangeFeed, ChangePage, read_since
from .model.delivery import (
    AgeHistogram,
    DeletionCandidates,
    DeletionScope,
    Delivery,
    DeliveryWrite,
    ListingPass,
    ListingState,
    StoredPage,
    Write,
    WriteResult,
)
from .model.entities import E, Entity, FieldOf, ManyOf, P, Ref
from .model.filters import Filter
from .model.loaders import Resolver
from .model.migrations import NO_POLICY, SchemaPolicy
from .model.query import Query, QueryPage
from .model.schema import Schema
from .model.settings import DEFAULTS, Settings
from .model.values import Json
from .storage.database import Connection, Database
from .storage.deletion_evidence import feed_times
from .storage.removals import MEMBERS_BY_CHILD
from .storage.table_writer import TableWriter
from .storage.tables import with_account_fields

DAY = 86_400.0  # seconds


class DatabaseEngine(Engine):
    """The engine protocol on one Database, which other parts may share for their transactions.

    The resolver has the schema, and knows what each listing and feed brings; the policy says how
    the schema came to be, and what may become of an entity.  ``mask`` removes secrets from the
    invalid rows that are kept aside.
    """

    def __init__(
        self,
        database: Database,
        resolver: Resolver,
        *,
        settings: Settings = DEFAULTS,
        policy: SchemaPolicy = NO_POLICY,
        clock: Callable[[], float] = time.time,
        mask: Callable[[Json], Json] = lambda data: data,
    ) -> None:
        self._database, self._settings, self._clock = database, settings, clock
        self._policy, self._mask = policy, mask
        self.tables = TableWriter(resolver.schema, resolver, policy)

    @property
    def schema(self) -> Schema:
        """The entities it holds."""
        return self.tables.schema

    async def start(self) -> None:
        """Make the database fit the schema; StorageError or SchemaError when that is not safe."""

        await self.adopt(self.tables.resolver)

    async def adopt(self, resolver: Resolver) -> None:
        """Go on with another schema, in one transaction; no sync may be under way.  Errors as of start."""

        def work(connection: Connection) -> TableWriter:
            known = with_account_fields(connection, resolver)
            tables = TableWriter(known.schema, known, self._policy)
            tables.apply(connection)
            tables.change_log.clock, tables.quarantine.mask = self._clock, self._mask
            tables.change_log.attach(connection, on=self._settings.history != "off")
            return tables

        self.tables = await self._database.transact(work)

    async def stop(self) -> None:
        """Nothing: the database belongs to the caller, who opened it."""

    def query(self, entity: type[E]) -> BoundQuery[E]:
        """Begin a query; TypeError when this is not an entity's class."""
        if not isinstance(entity, type):
            raise TypeError(f"query() takes an entity's class, not {entity!r}")
        return BoundQuery(self, Query(self.schema.own(entity) or entity), self._clock)

    async def fetch(self, query: Query[E]) -> QueryPage[E]:
        """One page in the query's order."""
        return await self._database.read(lambda connection: self.tables.fetch(connection, query))

    async def count(self, query: Query[E]) -> int:
        """How many entities fit the query's filter."""
        return await self._database.read(lambda connection: self.tables.count(connection, query))

    async def groups(self, query: Query[E], grouping: Grouping) -> Groups[Any]:
        """The rows that fit the query's filter, in groups."""
        return await self._database.read(lambda connection: self.tables.groups(connection, query, grouping))

    async def arrow(self, query: Query[E], columns: Sequence[FieldOf[E, Any]]) -> Any:
        """All rows of a query up to its limit, as a ``pyarrow.Table``."""
        return await self._database.read(lambda connection: self.tables.arrow(connection, query, columns))

    async def load(self, ref: Ref[E], *fields: FieldOf[E, Any]) -> E:
        """One entity with its stored fields."""
        return await self._database.read(lambda connection: self.tables.load(connection, ref, *fields))

    async def load_collection(
        self, parent: Ref[P], collection: ManyOf[P, E], *, after: str | None = None, limit: int | None = None
    ) -> QueryPage[E]:
        """A page of a collection's members."""
        return await self._database.read(
            lambda connection: self.tables.collection(
                connection, parent, collection, after=after, limit=limit
            )
        )

    async def store(self, *entities: Entity, requested_at: float | None = None) -> WriteResult:
        """Upsert in one transaction."""
        dated = requested_at is not None
        delivery = Delivery(entities, requested_at or 0.0, received_at=None if dated else self._clock())
        return await self._database.transact(
            lambda c: self.tables.write(c, delivery, dated=dated, strict=True)
        )

    def prepare_write(self, delivery: Delivery) -> DeliveryWrite:
        """The work that stores a delivery inside a transaction of this engine's database."""
        return DeliveryWrite(self._database, self._write, delivery)

    def _write(self, connection: Connection, deliveries: Sequence[Delivery]) -> list[WriteResult]:
        return self.tables.write_all(connection, deliveries)

    def changes(self, *, since: str | None = None, entity: type[Entity] | None = None) -> ChangeFeed:
        """What changed behind a cursor, or from a time on."""
        if entity is not None:
            self.tables.mapping(entity)
        change_log, entities = self.tables.change_log, [entity] if entity is not None else []

        now = self._clock()

        async def read(since: str | None) -> ChangePage:
            place = None if since is None else read_since(since, now)
            return await self._database.read(lambda c: change_log.page(c, place, entities=entities))

        return ChangeFeed(read, since)

    async def tidy(self, now: float, report: Callable[[str], None] = lambda words: None) -> None:
        """After a sync: build the indexes for reading, drop unused loads, purge what is long gone.

        ``report`` is called with what it is at, when that takes long.
        """

        def work(connection: Connection) -> None:
            self.tables.build_indexes(connection)
            connection.execute(MEMBERS_BY_CHILD)
            self.tables.removals.unmark_held(connection)
            self.tables.freshness.drop_unused_loads(connection)
            self.tables.known_pages.tidy(connection)

        await self._database.transact(work)
        before = now - self._settings.removed_days * DAY
        while await self._database.transact(lambda c: self._purge(c, before)):
            pass
        await self.tables.change_log.tidy(self._database, before=now - self._settings.history_days * DAY)
        while left := await self._database.transact(self.tables.full_text.index_page):
            report(f"indexing texts: {left:,} rows left")

    def _purge(self, connection: Connection, before: float) -> int:
        more = self.tables.removals.purge(connection, before)
        self.tables.full_text.flush(connection)
        return more


class DatabaseSyncMeta(SyncMeta):
    """When each field was last synced, from the same tables as the engine's."""

    def __init__(self, database: Database, engine: DatabaseEngine) -> None:
        self._database, self._engine = database, engine

    @property
    def _tables(self) -> TableWriter:
        return self._engine.tables

    async def record(self, refs: Sequence[Ref[Any]], fields: Sequence[str], *, at: float) -> None:
        """The fields of these refs were fetched by a request that began at ``at``."""
        await self._database.transact(
            lambda c: self._tables.record(c, refs, fields, synced_at=at, recorded_at=at)
        )

    async def synced_at(self, ref: Ref[E], field: FieldOf[E, Any]) -> float | None:
        """When the field was last synced."""
        freshness = self._tables.freshness
        self._tables.mapping(ref.entity)
        (at,) = await self._database.read(lambda c: freshness.synced_at(c, ref, [field.name]))
        return at

    async def stale(
        self, ref: Ref[E], fields: Sequence[FieldOf[E, Any]], *, before: float
    ) -> list[FieldOf[E, Any]]:
        """Those of the fields that were not synced at or after ``before``."""
        names = [field.name for field in fields]
        if not names:
            return []
        freshness = self._tables.freshness
        stale = await self._database.read(lambda c: freshness.stale(c, ref, names, before=before))
        return [field for field in fields if field.name in stale]

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
        freshness = self._tables.freshness
        return await self._database.read(
            lambda c: freshness.stale_ids(c, query, fields, before=before, after=after, limit=limit)
        )

    async def unlisted_ids(
        self,
        collection: ManyOf[Any, Any],
        *,
        before: float,
        matching: Filter[Any] | None = None,
        after: str = "",
        limit: int = 1000,
        proven: bool = False,
        known: bool = False,
    ) -> list[str]:
        """The next ids of parents whose collection was not listed at or after ``before``."""
        query: Query[Any] = Query(collection.parent, matching)
        freshness = self._tables.freshness
        page: dict[str, Any] = {"before": before, "after": after, "limit": limit}
        page |= {"proven": proven, "known": known}
        return await self._database.read(lambda c: freshness.unlisted_ids(c, query, collection, **page))

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
        times = await self._database.read(lambda c: self._tables.freshness.synced_at(c, ref, names))
        return None not in times

    async def listing_state(self, parent: Ref[P], collection: ManyOf[P, Any]) -> ListingState:
        """What is remembered of a collection's listings."""
        membership = self._tables.membership
        return await self._database.read(lambda c: membership.listing_state(c, parent, collection))

    async def listing_pass(self, parent: Ref[P], collection: ManyOf[P, Any], began: float) -> ListingPass:
        """What is stored of one pass over a listing."""
        membership = self._tables.membership
        return await self._database.read(lambda c: membership.listing_pass(c, parent, collection, began))

    async def known_page(
        self, parent: Ref[P], collection: ManyOf[P, Any], number: int, key: str
    ) -> StoredPage | None:
        """A page of a listing, if the database holds just what it brought."""
        pages, name = self._tables.known_pages, repr(collection)
        return await self._database.read(lambda c: pages.read(c, name, parent.id, number, key))

    async def feed_state(self, root: Ref[Any], feed: str) -> ListingState:
        """What is remembered of a feed."""
        return await self._database.read(lambda c: self._tables.membership.feed_state(c, root, feed))

    async def feed_begun(self, feed: str) -> float | None:
        """When a feed last started over."""
        return await self._database.read(lambda c: feed_times(c, feed)[0])

    async def prepare(self, source: str, *, now: float, resumes: bool = False) -> float:
        """Before a sync, forget what it may not rely on."""
        return await self._database.transact(
            lambda c: self._tables.prepare(c, source, now=now, resumes=resumes)
        )

    async def deletion_candidates(self, scope: DeletionScope) -> list[DeletionCandidates]:
        """What no listing has any more and is not removed yet."""
        return await self._database.read(lambda c: self._tables.removals.candidates(c, scope))

    def prepare_look(self, scope: DeletionScope) -> Write:
        """The work that begins the second look at every place."""

        def work(connection: Connection) -> WriteResult:
            self._tables.removals.mark_held(connection, scope)
            return WriteResult({})

        return Write(self._database, work)

    def prepare_removal(self, entities: Sequence[str], scope: DeletionScope) -> Write:
        """The work that removes what is certainly gone of these entities."""
        removals = self._tables.removals

        def work(connection: Connection) -> WriteResult:
            removed = removals.remove_missing(connection, entities, scope)
            self._tables.full_text.flush(connection)
            return WriteResult({}, removed)

        return Write(self._database, work)

    async def is_pending_removal(self, ref: Ref[Any]) -> bool:
        """Whether it was found gone and is not removed yet."""
        return await self._database.read(lambda c: self._tables.removals.is_pending_removal(c, ref))

    async def ages(self, field: FieldOf[Any, Any], *, now: float) -> AgeHistogram:
        """How old a field is over all rows of its entity."""
        mapping, freshness = self._tables.mapping(field.entity), self._tables.freshness
        found = await self._database.read(lambda c: freshness.ages(c, mapping, [field.name], now=now))
        return found[field.name]
