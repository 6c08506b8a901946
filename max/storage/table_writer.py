"""The table writer: what one response brought is stored, in a transaction of its caller."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import chain
from typing import Any

from ..model.delivery import Delivery, WriteResult
from ..model.entities import Entity, Ref
from ..model.loaders import Resolver
from ..model.migrations import NO_POLICY, SchemaPolicy
from ..model.query import Query
from ..model.schema import Schema
from .catalogue import migrate
from .database import Connection, RenameOwner, quoted
from .ddl import build_indexes
from .freshness import PagePosition, covered_groups, rows_with_newer, rows_without_newer
from .quarantine import Quarantine, ValidatedRows
from .rows import EncodedRows, TableMapping, load_column
from .tables import MIGRATIONS, Tables

RESTORE = """
    UPDATE {table} SET _removed_at = NULL
     WHERE _removed_at <= :at AND _id IN (SELECT value FROM json_each(:ids))
"""
STRANGERS = """
    UPDATE _max_listing SET invalidated_at = :at
     WHERE id = :listing AND EXISTS (
        SELECT 1 FROM json_each(:ids) AS named
         WHERE NOT EXISTS (SELECT 1 FROM {table} WHERE _id = named.value AND _removed_at IS NULL)
           AND NOT EXISTS (SELECT 1 FROM _max_quarantine WHERE entity = :entity AND id = named.value))
"""


class TableWriter(Tables):
    """Tables that can be written; the resolver knows which listings and feeds bring what."""

    def __init__(self, schema: Schema, resolver: Resolver, policy: SchemaPolicy = NO_POLICY) -> None:
        super().__init__(schema, resolver)
        self._resolver, self._policy = resolver, policy
        self.quarantine = Quarantine(policy, self.freshness)

    # -- schema ---------------------------------------------------------------------------

    def apply(self, connection: Connection) -> None:
        """Make the database fit the schema; refuse, changing nothing, what cannot be done safely."""
        from .schema_evolution import evolve  # slow, and an invalidation does without
        from .sync_log import SyncLog

        migrate(connection, "engine", MIGRATIONS)
        self.quarantine.apply(connection)
        owners: list[RenameOwner] = [
            self.freshness,
            self.removals,
            self.membership,
            self.history,
            self.quarantine,
            SyncLog(),
        ]
        self._mappings.update(evolve(connection, self._resolver, self._policy, owners))
        self.freshness.add_bitmaps(connection)

    def build_indexes(self, connection: Connection) -> None:
        """Build the indexes that reading wants, unless they are there."""
        build_indexes(connection, self._mappings)

    # -- writing --------------------------------------------------------------------------

    def write(self, connection: Connection, arrival: Delivery, *, dated: bool = True) -> WriteResult:
        """Store an arrival, all or nothing: run it inside a transaction.

        Without ``dated`` nothing is recorded about when the fields were synced.
        """
        if self.history.recording:
            self.history.set_origin(connection, arrival, dated=dated)
        by_entity = by_type(arrival.entities)
        sifted = [
            self.quarantine.validate(connection, self.mapping(kind), e, arrival)
            for kind, e in by_entity.items()
        ]
        place = (
            self.membership.open_listing(connection, arrival.listing) if arrival.listing is not None else None
        )
        at = arrival.requested_at if dated else None
        counts = {
            one.mapping.entity.__name__: self._store(connection, arrival, one, at, place) for one in sifted
        }
        removed = self.removals.apply_tombstones(connection, arrival.removed, arrival.requested_at)
        self.quarantine.forget(connection, arrival.removed)
        self._record_members(connection, arrival, [(one.mapping, one.existing) for one in sifted], place)
        counts = {entity: number for entity, number in counts.items() if number}
        return WriteResult(counts, removed, sum(one.quarantined for one in sifted))

    def _store(
        self,
        connection: Connection,
        arrival: Delivery,
        sifted: ValidatedRows,
        at: float | None,
        place: PagePosition | None,
    ) -> int:
        """Store what came of one entity; how many rows that counts for: of what came along, new ones only."""
        mapping, groups, listing = sifted.mapping, sifted.groups, arrival.listing
        if listing is not None and mapping.entity is not listing.collection.child:
            before = last_row(connection, mapping)
            self._write_groups(connection, mapping, groups, at, None)
            return last_row(connection, mapping) - before
        number = sum(len(rows.ids) for rows in groups)
        if listing is not None and listing.ids_only:
            groups = self._restore(connection, mapping, groups, arrival.requested_at, place)
        elif arrival.changes is not None:
            self._mark_uncovered(connection, mapping, groups, arrival.changes.feed, arrival.requested_at)
        self._write_groups(connection, mapping, groups, at, place)
        return number

    def _record_members(
        self,
        connection: Connection,
        arrival: Delivery,
        encoded: Sequence[tuple[TableMapping[Any], Sequence[EncodedRows]]],
        place: PagePosition | None,
    ) -> None:
        """Who is whose now, and with the last page how far the listing or the feed was read."""
        listing, changes = arrival.listing, arrival.changes
        if listing is not None and place is not None:
            began_at = arrival.requested_at if listing.began_at is None else listing.began_at
            received_at = arrival.requested_at if arrival.received_at is None else arrival.received_at
            child = self.mapping(listing.collection.child)
            groups = next((groups for mapping, groups in encoded if mapping is child), [])
            self.membership.add_members(connection, listing, groups, place)
            if listing.last:
                closing = listing.replace(began_at=began_at)
                self.membership.close_listing(connection, closing, place, at=received_at)
                self.quarantine.close(connection, listing, began_at)
        if changes is not None:
            for mapping, groups in encoded:
                self.membership.move_members(connection, mapping, groups, changes.root)
            if changes.last:
                self.membership.close_feed(connection, changes)

    def _restore(
        self,
        connection: Connection,
        mapping: TableMapping[Any],
        groups: Sequence[EncodedRows],
        at: float,
        place: PagePosition | None,
    ) -> list[EncodedRows]:
        """Bring back what exists after all; the groups that bring more than an id.

        Who can be seen again, or for the first time, may have changed long ago: a listing of
        changes does not tell of it, so that the next one has to be of everything.
        """
        bare = [id for rows in groups if not rows.names for id in rows.ids]
        values = {"at": at, "ids": json.dumps(bare)}
        if place is not None:
            where = {"listing": place.listing, "entity": mapping.entity.__name__}
            connection.execute(STRANGERS.format(table=quoted(mapping.table)), values | where)
        connection.execute(RESTORE.format(table=quoted(mapping.table)), values)
        return [rows for rows in groups if rows.names]

    def _mark_uncovered(
        self,
        connection: Connection,
        mapping: TableMapping[Any],
        groups: Sequence[EncodedRows],
        feed: str,
        at: float,
    ) -> None:
        """What a feed names has changed: those of its fields that the feed does not bring are stale."""
        covered = self.membership.fields_covered(mapping.entity, feed)
        for rows in groups:
            stale = [name for name in covered if name not in rows.names]
            if stale:
                self.freshness.record(connection, mapping, rows.ids, stale, synced_at=None, recorded_at=at)

    def _write_groups(
        self,
        connection: Connection,
        mapping: TableMapping[Any],
        groups: Sequence[EncodedRows],
        at: float | None,
        place: PagePosition | None,
    ) -> None:
        """Store the rows of one entity; of those of which something newer is known, only the rest."""
        if at is None:
            self._write_rows(connection, mapping, groups, at, place)
            return
        newer = self.freshness.newer_fields(
            connection, mapping, chain.from_iterable(r.ids for r in groups), at
        )
        if not newer:
            self._write_rows(connection, mapping, groups, at, place)
        else:
            self._write_rows(connection, mapping, rows_without_newer(groups, newer), at, place)
            self._write_rows(connection, mapping, rows_with_newer(groups, newer), at, None)
        self.removals.clear_candidates(connection, mapping, groups, at)

    def _write_rows(
        self,
        connection: Connection,
        mapping: TableMapping[Any],
        groups: Sequence[EncodedRows],
        at: float | None,
        place: PagePosition | None,
    ) -> None:
        """Upsert rows and remember which page brought them."""
        if not groups:
            return
        parts, fields = covered_groups(mapping, groups) if at is not None else ((), ())
        loads: list[Any] = []
        if parts and at is not None:
            loads = [self.freshness.record_load(connection, mapping, fields, at, place)] * len(parts)
        for rows in groups:
            key = rows.names, parts
            statement = mapping.upserts.get(key) or mapping.upserts.setdefault(key, upsert(mapping, *key))
            connection.executemany(statement, rows.tuples(*mapping.bitmap_values(rows.names), *loads))
            alone = [name for name in rows.names if mapping.load_groups[name] not in parts]
            if alone and at is not None:
                self.freshness.record(connection, mapping, rows.ids, alone, synced_at=at, recorded_at=at)

    # -- freshness ------------------------------------------------------------------------

    def record(
        self,
        connection: Connection,
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
            mapping = self.mapping(entity)
            self.freshness.record(
                connection, mapping, ids, fields, synced_at=synced_at, recorded_at=recorded_at
            )
            if synced_at is None:
                self._relist(connection, entity, fields, recorded_at)

    def invalidate(
        self, connection: Connection, query: Query[Any], fields: Sequence[str], *, at: float
    ) -> int:
        """Count as stale what fits a query and was synced at or before ``at``; how many rows that are."""
        number = self.count(connection, query)  # before the filter's own ages change
        self.freshness.invalidate(connection, query, fields, at=at)
        self._relist(connection, query.entity, fields, at, whole=query.filter is None)
        return number

    def _relist(
        self,
        connection: Connection,
        entity: type[Entity],
        fields: Sequence[str],
        at: float,
        *,
        whole: bool = False,
    ) -> None:
        """What only comes with a listing is fetched by listing in full."""
        collections = self.membership.collections_bringing(entity, fields)
        if collections:
            self.membership.invalidate(connection, entity, collections, at=at, whole=whole)


def by_type(entities: Sequence[Entity]) -> dict[type[Entity], Sequence[Entity]]:
    """Entities apart by their type, in the order of the first of each."""
    types = list(map(type, entities))
    if len(set(types)) == 1:
        return {types[0]: entities}
    return {kind: [one for one in entities if type(one) is kind] for kind in dict.fromkeys(types)}


def last_row(connection: Connection, mapping: TableMapping[Any]) -> int:
    """The number of an entity's newest row; 0 when it has none."""
    return int(connection.execute(f"SELECT max(_row) FROM {quoted(mapping.table)}").fetchone()[0] or 0)


def upsert(mapping: TableMapping[Any], names: tuple[str, ...], load_groups: tuple[int, ...]) -> str:
    """The statement that stores rows with these fields; rows that stay as they are are not written."""
    loads = [quoted(load_column(group)) for group in load_groups]
    bitmaps = [quoted(bitmap) for bitmap in mapping.bitmaps]
    fields = [quoted(name) for name in names]
    columns = ['"_id"', *fields, *bitmaps, *loads]
    changes = [f"{c} = excluded.{c}" for c in (*fields, *loads)]
    changes += [f"{word} = {word} | excluded.{word}" for word in bitmaps]
    differs = [f"{c} IS NOT excluded.{c}" for c in (*fields, *loads)]
    differs += [f"{word} & excluded.{word} IS NOT excluded.{word}" for word in bitmaps]
    return (
        f"INSERT INTO {quoted(mapping.table)} ({', '.join(columns)})"
        f" VALUES ({', '.join('?' * len(columns))})"
        f" ON CONFLICT (_id) DO UPDATE SET {', '.join([*changes, '_removed_at = NULL'])}"
        f" WHERE {' OR '.join([*differs, '_removed_at IS NOT NULL'])}"
    )
