"""The table writer: stores what one response brought, inside a transaction of its caller.

Rule 1: everything that a delivery means is written here, in one order: the origin of the changes,
invalid rows, the listing, rows by entity, tombstones, members, the ends of listings and feeds.
A reader sees all of it or nothing.

Rule 2: a row that would not change is not written.  An upsert compares first, so that a sync
which brings nothing new writes one load for a page and none of its rows.

Rule 3: a response never replaces a value that a later request brought (see freshness.py).

Rule 4: what many small responses bring in one transaction costs little more than one response.  Each keeps
its own load and its own times; what is asked of the database, and the upsert, is one statement for all.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import chain, islice
from typing import Any, NamedTuple, Self, cast

from ..model.columns import Column, EncodedRows
from ..model.delivery import Delivery, WriteResult
from ..model.entities import Entity, ManyOf, Ref
from ..model.inline import inline_members
from ..model.loaders import Resolver
from ..model.mapping import MappedRows, ids_of, joined_rows, kinds_of
from ..model.migrations import NO_POLICY, SchemaPolicy
from ..model.query import Query
from ..model.schema import Schema
from ..model.values import Kind, is_id
from . import change_log, freshness, full_text, membership, quarantine, removals, sync_log
from .catalogue import (
    check_filled,
    check_versions,
    is_catalogued,
    migrate,
    refuse_gone,
    tables_of,
    versions,
)
from .database import Connection, RenameOwner, decoding, quoted
from .ddl import build_indexes
from .freshness import (
    CLOCK_SKEW,
    PagePosition,
    covered_groups,
    latest_time,
    rows_with_newer,
    rows_without_newer,
)
from .known_pages import KnownPages
from .oversize import is_held, too_large
from .quarantine import Quarantine, ValidatedRows
from .rows import MANY, NEVER, TableMapping, in_a_row, known_upsert, load_column
from .tables import OWNER, VERSIONS, Tables

MIGRATIONS = (
    ";".join([VERSIONS[0], freshness.TABLES, membership.TABLES, removals.TABLES]),
    *VERSIONS[1:],
)
COUNT_NEW = """
    SELECT count(*) FROM {each:ids} AS named
     WHERE NOT EXISTS (SELECT 1 FROM {table} WHERE _id = named.value)
"""
RESTORE = """
    UPDATE {table} SET _removed_at = NULL WHERE _removed_at <= :at AND _id IN {set:ids}
"""
# A listing of ids named rows that are not stored: the next listing of the parent must be a full one.
NEW_IDS = """
    UPDATE _max_listing SET invalidated_at = :at
     WHERE id = :listing AND EXISTS (
        SELECT 1 FROM {each:ids} AS named
         WHERE NOT EXISTS (SELECT 1 FROM {table} WHERE _id = named.value AND _removed_at IS NULL)
           AND NOT EXISTS (SELECT 1 FROM _max_quarantine WHERE entity = :entity AND id = named.value))
"""
PROBED = 10  # rows of a page that say whether most of it is changed


class Unsure(NamedTuple):
    """The ids of rows of which an overlapping response said something else (see freshness.py).

    ``removed``: of those among them that it has removed.
    """

    ids: Sequence[str]
    removed: Sequence[str]


SURE = Unsure((), ())


class TableWriter(Tables):
    """Tables that can be written; the resolver knows which listings and feeds bring what."""

    def __init__(
        self, schema: Schema, resolver: Resolver | None = None, policy: SchemaPolicy = NO_POLICY
    ) -> None:
        super().__init__(schema, resolver)
        self._policy = policy
        self.quarantine = Quarantine(policy, self.freshness)
        self.known_pages = KnownPages(self._mappings)

    @classmethod
    def stored(cls, connection: Connection, resolver: Resolver | None = None) -> Self:
        """The tables as the database describes them; StorageNewer when a newer Max wrote any part."""
        check_parts(connection)
        return super().stored(connection, resolver)

    # -- schema ---------------------------------------------------------------------------

    def apply(self, connection: Connection) -> None:
        """Make the database fit the schema; refuse, changing nothing, what cannot be done safely."""
        from .schema_evolution import evolve  # slow, and an invalidation does without

        self.upgrade(connection)
        self.quarantine.apply(connection)
        owners: list[RenameOwner] = [
            self.freshness,
            self.removals,
            self.membership,
            self.change_log,
            self.full_text,
            self.quarantine,
            self.known_pages,
            sync_log.SyncLog(),
        ]
        with decoding("schema"):
            self._mappings.update(evolve(connection, self.resolver, self._policy, owners))
        self.freshness.add_bitmaps(connection)
        self.full_text.attach(connection)

    def upgrade(self, connection: Connection) -> None:
        """Bring the tables that are the same for every schema to this version, as ``apply`` does."""
        check_parts(connection)
        check_made(connection)
        migrate(connection, OWNER, MIGRATIONS)

    def build_indexes(self, connection: Connection) -> None:
        """Build the indexes that reading wants, unless they are there."""
        build_indexes(connection, self._mappings)

    # -- writing --------------------------------------------------------------------------

    def write(
        self, connection: Connection, delivery: Delivery, *, dated: bool = True, strict: bool = False
    ) -> WriteResult:
        """Store a delivery.

        Without ``dated`` nothing is recorded about when the fields were synced.  ``strict``: an
        invalid value raises InvalidEntity whatever the contracts say.
        """
        if self.change_log.recording:
            self.change_log.set_origin(connection, delivery, dated=dated)
        limits = connection.dialect.limits
        removed = [ref for ref in delivery.removed if is_id(ref.id) and is_held(limits, ref.id)]
        unnamed = [ref.entity(ref.id) for ref in delivery.removed if not is_id(ref.id)]
        brought = by_type(delivery.entities, delivery.also, unnamed)
        validated = self._validate(connection, brought, delivery, strict=strict)
        named = self._validate_named(connection, delivery, strict=strict)
        came = [*named, *validated]
        position = self._open_listing(connection, delivery)
        at = delivery.requested_at if dated else None
        lists = self.inline_lists.read(connection, came, at) if self._has_inline else {}
        counts = self._store_named(connection, delivery, named, at)
        newest = self._newest_row(connection, delivery)
        unsure = self._store_rows(connection, delivery, validated, at, position, counts)
        number = self._remove(connection, delivery, removed)
        self._record_members(connection, delivery, validated, position, newest)
        self._look_again(connection, unsure, _moved_at(delivery))
        if lists or named:  # also members of rows that are all invalid
            self.inline_lists.link(connection, lists, came, named, delivery.requested_at)
        if position is not None and delivery.listing is not None:
            self.known_pages.record(connection, position, delivery.listing, delivery.entities, came)
        self.full_text.flush(connection)
        return WriteResult(counts, number, sum([one.quarantined for one in came]))

    def write_all(self, connection: Connection, deliveries: Sequence[Delivery]) -> list[WriteResult]:
        """Store the deliveries of one transaction, those that are alike together; the result of each."""
        if len(deliveries) == 1:
            return [self.write(connection, deliveries[0])]
        alike: dict[object, list[int]] = {}
        for number, one in enumerate(deliveries):
            alike.setdefault(number if self._has_inline else _likeness(one) or number, []).append(number)
        results: dict[int, WriteResult] = {}
        for numbers in alike.values():
            some = [deliveries[number] for number in numbers]
            stored = self._write_alike(connection, some) if len(some) > 1 else None
            results |= zip(numbers, stored or [self.write(connection, one) for one in some], strict=True)
        return [results[number] for number in range(len(deliveries))]

    def _write_alike(
        self, connection: Connection, deliveries: Sequence[Delivery]
    ) -> list[WriteResult] | None:
        """Store alike deliveries together; None, and nothing is stored, when each needs a look of its own.

        That is when a row comes twice, is invalid, too large or removed, or when of some row a value is
        stored that came meanwhile, or the proof that it is missing: all this depends on the times of the one
        response.
        """
        came = joined_rows([cast("MappedRows[Entity]", one.entities) for one in deliveries])
        mapping, (rows, invalid) = self.mapping(came.entity), came.encoded()
        times, moved = [one.requested_at for one in deliveries], max(map(_moved_at, deliveries))
        earliest, latest = min(times), max(times)
        if (
            invalid
            or len(set(rows.ids)) < len(rows.ids)
            or too_large(connection, mapping, rows)
            or self.removals.has_missing(connection, mapping.entity)
            or self.removals.removed_of(connection, mapping, [rows])
            or any(
                self.freshness.stored_meanwhile(connection, mapping, rows.ids, earliest, moved, latest=latest)
            )
        ):
            return None
        if self.change_log.recording:  # it is when the last of them came that all are stored
            self.change_log.set_origin(connection, max(deliveries, key=_moved_at), dated=True)
        self.quarantine.release(connection, ValidatedRows(mapping, [rows]))
        self.removals.forget_parents(connection, mapping, [rows], earliest)
        self._write_loads(connection, mapping, rows, deliveries)
        self.full_text.flush(connection)
        return [WriteResult({mapping.entity.__name__: len(one.entities)}) for one in deliveries]

    def _write_loads(
        self,
        connection: Connection,
        mapping: TableMapping[Any],
        rows: EncodedRows,
        deliveries: Sequence[Delivery],
    ) -> None:
        """Upsert the rows of several deliveries, which stand in their order; each has a load of its own."""
        covered, fields = covered_groups(mapping, [rows])
        times = [(one.requested_at, _moved_at(one)) for one in deliveries]
        loads: Sequence[float] = [number for number, _ in times]
        if covered:
            loads = self.freshness.record_loads(connection, mapping, fields, times)
        numbers = [number for number, one in enumerate(deliveries) for _ in range(len(one.entities))]
        columns: list[Column] = [rows.ids, *rows.columns]
        columns += [[bits] * len(numbers) for bits in mapping.bitmap_values(rows.names)]
        columns += [[loads[number] for number in numbers]] * len(covered)
        moved = [times[number][1] for number in numbers]
        columns += [moved for name in mapping.moved_columns if name in rows.names]
        connection.insert(*known_upsert(mapping, rows.names, covered), columns)
        if alone := _alone(mapping, rows, covered):
            for one, (at, came_at) in zip(deliveries, times, strict=True):
                ids = cast("list[str]", ids_of(one.entities))
                self.freshness.record(
                    connection, mapping, ids, alone, synced_at=at, recorded_at=at, received_at=came_at
                )

    @cached_property
    def _has_inline(self) -> bool:
        return bool(self.inline_lists.collections)

    def _validate(
        self,
        connection: Connection,
        brought: Mapping[type[Entity], Sequence[Entity]],
        delivery: Delivery,
        *,
        strict: bool,
    ) -> list[ValidatedRows]:
        return [
            self.quarantine.validate(connection, self.mapping(kind), entities, delivery, strict=strict)
            for kind, entities in brought.items()
        ]

    def _validate_named(
        self, connection: Connection, delivery: Delivery, *, strict: bool
    ) -> list[ValidatedRows]:
        """The members that rows of a delivery name themselves."""
        if not self._has_inline:
            return []
        members = by_type(*inline_members(delivery.also), *inline_members(delivery.entities))
        return self._validate(connection, members, delivery, strict=strict)

    def _open_listing(self, connection: Connection, delivery: Delivery) -> PagePosition | None:
        """The place of a page in its listing; None where there is none, or a later pass has begun."""
        listing = delivery.listing
        if listing is None:
            return None
        position = self.membership.open_listing(connection, listing)
        if listing.unread:
            child = self.mapping(listing.collection.child)
            self.freshness.keep(connection, child, listing.unread, delivery.requested_at)
        return position

    def _store_named(
        self,
        connection: Connection,
        delivery: Delivery,
        named: Sequence[ValidatedRows],
        at: float | None,
    ) -> dict[str, int]:
        """Store the members that rows name themselves; how many of each entity are new."""
        moved_at = _moved_at(delivery)
        found = {one.mapping.entity.__name__: self._store_new(connection, one, at, moved_at) for one in named}
        return {name: number for name, number in found.items() if number}

    def _newest_row(self, connection: Connection, delivery: Delivery) -> float:
        """The greatest row number of what a listing lists, before its page is stored; inf: not asked for."""
        if delivery.listing is None or len(delivery.entities) < MANY:
            return math.inf
        child = self.mapping(delivery.listing.collection.child)
        newest: int = connection.execute(child.sql("SELECT coalesce(max(_row), 0) FROM {table}")).fetchone()[
            0
        ]
        return newest

    def _store_rows(
        self,
        connection: Connection,
        delivery: Delivery,
        validated: Sequence[ValidatedRows],
        at: float | None,
        position: PagePosition | None,
        counts: dict[str, int],
    ) -> list[tuple[TableMapping[Any], Unsure]]:
        """Store the rows of every entity, and add up how many of each count; what is unsure of a feed's."""
        place = None if delivery.listing is not None and delivery.listing.late else position
        found = []
        for one in validated:
            number, unsure = self._store(connection, delivery, one, at, place, _moved_at(delivery))
            if number:
                name = one.mapping.entity.__name__
                counts[name] = counts.get(name, 0) + number
            if unsure.ids and delivery.changes is not None:
                found.append((one.mapping, unsure))
        return found

    def _store(
        self,
        connection: Connection,
        delivery: Delivery,
        validated: ValidatedRows,
        at: float | None,
        position: PagePosition | None,
        moved_at: float,
    ) -> tuple[int, Unsure]:
        """Store the rows of one entity; how many count: of those that only came along, the new ones."""
        mapping, groups, listing = validated.mapping, validated.groups, delivery.listing
        if listing is not None and mapping.entity is not listing.collection.child:
            return self._store_new(connection, validated, at, moved_at), SURE
        number = sum(len(rows.ids) for rows in groups)
        if listing is not None and listing.ids_only:
            groups = self._restore(
                connection, mapping, groups, delivery.requested_at, listing.collection, position
            )
        elif delivery.changes is not None:
            self._mark_uncovered(connection, mapping, groups, delivery.changes.feed, delivery.requested_at)
        came, mark = validated._replace(groups=groups), _mark_of(delivery)
        by_ids = at is not None and listing is None and delivery.changes is None
        returning = self.removals.removed_of(connection, mapping, groups) if by_ids else []
        unsure = self._write_groups(connection, came, at, position, moved_at, mark)
        self._look_for(connection, mapping, returning, delivery.requested_at)
        if unsure.ids and position is not None:
            self.membership.list_in_full(connection, position, at=moved_at)
        return number, unsure

    def _remove(self, connection: Connection, delivery: Delivery, refs: Sequence[Ref[Any]]) -> int:
        """Apply tombstones; how many rows that hid."""
        at, received_at = delivery.requested_at, _moved_at(delivery)
        number, kept = self.removals.apply_tombstones(connection, refs, at, received_at)
        for entity, ids in kept.items():
            self._list_again(connection, self.mapping(entity), ids, received_at)
            self._look_for(connection, self.mapping(entity), ids, received_at)
        return number

    def _look_again(
        self, connection: Connection, unsure: Sequence[tuple[TableMapping[Any], Unsure]], at: float
    ) -> None:
        """Once more, since the rows of a feed may be members of other listings now."""
        for mapping, of_feed in unsure:
            self._list_again(connection, mapping, of_feed.ids, at)
            self._look_for(connection, mapping, of_feed.removed, at)

    def _look_for(
        self, connection: Connection, mapping: TableMapping[Any], ids: Sequence[str], at: float
    ) -> None:
        """Whether some rows exist is not known: they are missing, unless a listing has them."""
        if ids:
            self.removals.mark_unlisted(connection, mapping, at, [EncodedRows((), [*ids], [])])

    def _list_again(
        self,
        connection: Connection,
        mapping: TableMapping[Any],
        ids: Sequence[str],
        at: float,
    ) -> None:
        """Whether the values of some rows are the newest is not known: the rows are listed again.

        The values are as fresh as their requests, but a bookmark has passed what another one said.  Rows in
        no listing are stale, and fields that no listing brings.
        """
        if ids:
            self.known_pages.forget(connection)
            alone = self.membership.list_rows_in_full(connection, mapping, ids, at=at)
            fields = list(mapping.types)
            self.freshness.record(connection, mapping, alone, fields, synced_at=None, recorded_at=at)
            if unlisted := self.membership.fields_unlisted(mapping.entity):
                self.freshness.record(connection, mapping, ids, unlisted, synced_at=None, recorded_at=at)
                self._relist(connection, mapping.entity, unlisted, at)

    def _store_new(
        self, connection: Connection, came: ValidatedRows, at: float | None, moved_at: float
    ) -> int:
        """Store rows that only came along; how many of them are new."""
        ids = connection.dialect.array(id for rows in came.groups for id in rows.ids)
        (number,) = connection.execute(came.mapping.sql(COUNT_NEW), {"ids": ids}).fetchone()
        self._write_groups(connection, came, at, None, moved_at)
        return int(number)

    def _record_members(
        self,
        connection: Connection,
        delivery: Delivery,
        validated: Sequence[ValidatedRows],
        position: PagePosition | None,
        newest: float,
    ) -> None:
        """Store the members of the page, and with the last page the end of the listing or the feed."""
        listing, changes = delivery.listing, delivery.changes
        if listing is not None:
            child = self.mapping(listing.collection.child)
            rows = next((one for one in validated if one.mapping is child), ValidatedRows(child, ()))
            if position is None:  # a later pass decides what the listing has
                self.removals.mark_unlisted(connection, child, delivery.requested_at, rows.existing)
            else:
                unread = list(listing.unread)
                unknown = self._unknown(connection, child, rows.quarantined, rows.invalid)
                unknown += self._unknown(connection, child, len(unread), unread)
                groups = [*rows.existing, EncodedRows((), unread, [])] if unread else rows.existing
                self.membership.add_members(connection, listing, groups, position, unknown, newest)
                if listing.last:
                    received_at = delivery.received_at or delivery.requested_at
                    self.membership.close_listing(connection, listing, position, at=received_at)
                    self.quarantine.close(connection, listing)
        if changes is not None:
            if changes.first and changes.initial:
                self.membership.begin_feed(connection, changes)
            for one in validated:
                self.membership.move_members(connection, one.mapping, one.existing, changes.root)
            if changes.last:
                self.membership.close_feed(connection, changes)

    def _unknown(
        self, connection: Connection, mapping: TableMapping[Any], number: int, ids: Sequence[str]
    ) -> int:
        """How many of so many named rows are not stored."""
        return number and number - self.removals.count_visible(connection, mapping, ids)

    def _restore(
        self,
        connection: Connection,
        mapping: TableMapping[Any],
        groups: Sequence[EncodedRows],
        at: float,
        collection: ManyOf[Any, Any],
        position: PagePosition | None,
    ) -> list[EncodedRows]:
        """Restore removed rows that a listing of ids names; the groups that have more than ids.

        A row that is new, or visible again, may have changed long ago.  No listing of changes
        names it, so the next listing has to be a full one.
        """
        bare = [id for rows in groups if not rows.names for id in rows.ids]
        values = {"at": at, "ids": connection.dialect.array(bare)}
        if position is not None:
            where = {"listing": position.listing, "entity": mapping.entity.__name__}
            connection.execute(mapping.sql(NEW_IDS), values | where)
        self.quarantine.note_named(connection, mapping.entity, groups, at)
        self.removals.forget_parents(connection, mapping, groups, at, collection)
        connection.execute(mapping.sql(RESTORE), values)
        return [rows for rows in groups if rows.names]

    def _mark_uncovered(
        self,
        connection: Connection,
        mapping: TableMapping[Any],
        groups: Sequence[EncodedRows],
        feed: str,
        at: float,
    ) -> None:
        """A row that a feed names has changed: its fields that the feed does not bring are stale."""
        covered = self.membership.fields_covered(mapping.entity, feed)
        for rows in groups:
            stale = [name for name in covered if name not in rows.names]
            if stale:
                self.freshness.record(connection, mapping, rows.ids, stale, synced_at=None, recorded_at=at)

    def _write_groups(
        self,
        connection: Connection,
        came: ValidatedRows,
        at: float | None,
        position: PagePosition | None,
        moved_at: float,
        mark: str = "",
    ) -> Unsure:
        """Store the rows of one entity, without the values that a later request has brought.

        What is unsure of them, so that what brings them must not go on behind it.  ``mark``: what will have a
        bookmark behind these rows, a "listing" or a "feed".  What a feed names exists even if it was removed
        meanwhile, since it will not name it again.
        """
        mapping, groups = came.mapping, came.groups
        self.removals.forget_parents(connection, mapping, groups, at)
        if at is None:
            self._write_rows(connection, mapping, groups, at, position, moved_at)
            return SURE
        ids = chain.from_iterable(rows.ids for rows in groups)
        newer, overlapping = self.freshness.stored_meanwhile(
            connection, mapping, ids, at, moved_at, marked=bool(mark)
        )
        removed = [id for id, names in newer.items() if names is None]
        unsure = _differing(connection, mapping, groups, overlapping)
        if mark:
            unsure += [*_differing(connection, mapping, groups, newer), *removed]
        if mark == "feed":
            newer = {id: names for id, names in newer.items() if names is not None}
        if not newer:
            self._write_rows(connection, mapping, groups, at, position, moved_at)
        else:
            older = rows_without_newer(groups, newer)
            self._write_rows(connection, mapping, older, at, position, moved_at)
            partly = rows_with_newer(groups, newer)
            self._write_rows(connection, mapping, partly, at, None, moved_at)
            if mark:
                self.freshness.confirm(connection, mapping, list(newer), moved_at)
        if position is None:  # else they become members, which says more
            self.removals.clear_candidates(connection, mapping, came.existing, at)
        self._list_again(connection, mapping, unsure, moved_at)
        return Unsure(unsure, removed)

    def _write_rows(
        self,
        connection: Connection,
        mapping: TableMapping[Any],
        groups: Sequence[EncodedRows],
        at: float | None,
        position: PagePosition | None,
        moved_at: float,
    ) -> None:
        """Upsert rows and record which load brought them, and when watched fields moved."""
        if not groups:
            return
        covered, fields = covered_groups(mapping, groups) if at is not None else ((), ())
        loads: list[Any] = []
        if covered and at is not None:
            load = self.freshness.record_load(connection, mapping, fields, at, moved_at, position)
            loads = [load] * len(covered)
        for rows in groups:
            moved = [moved_at for name in mapping.moved_columns if name in rows.names]
            constants = (*mapping.bitmap_values(rows.names), *loads, *moved)
            columns: Sequence[Column] = [rows.ids, *rows.columns]
            if numbers := in_a_row(connection, mapping, rows.ids):
                changed = _changed(connection, mapping, rows, covered, constants, numbers)
                if changed is not None:
                    columns, constants = list(zip(*changed, strict=True)), ()
            connection.insert(*known_upsert(mapping, rows.names, covered), columns, constants)
            alone = _alone(mapping, rows, covered)
            if alone and at is not None:
                self.freshness.record(
                    connection,
                    mapping,
                    rows.ids,
                    alone,
                    synced_at=at,
                    recorded_at=at,
                    received_at=moved_at,
                )

    # -- freshness ------------------------------------------------------------------------

    def prepare(self, connection: Connection, source: str, *, now: float, resumes: bool) -> float:
        """Before a sync, forget what it may not rely on; the latest time of which something is known.

        Times after now are of a clock that was ahead, so the ages of what they date are unknown.
        When another ``source`` was synced before, its times and bookmarks say nothing of this one.
        """
        found = connection.execute("SELECT source FROM _max_source").fetchone()
        is_other = found is not None and found[0] != source
        if is_other:
            sync_log.refuse_while_syncing(connection, clock=lambda: now)
        if found is None or (is_other and not resumes):
            connection.execute("DELETE FROM _max_source")
            connection.execute("INSERT INTO _max_source (source) VALUES (?)", (source,))
        if not resumes:
            self.change_log.prepare(connection, first=not sync_log.has_stored(connection))
        self.removals.unmark_held(connection)
        self.removals.mark_circles(connection, now)
        if latest_time(connection) > now + CLOCK_SKEW:
            self._forget(connection, now, now)
        if is_other:
            self._forget(connection, -math.inf, now, bookmarks=True, passes=not resumes)
        return latest_time(connection)

    def _forget(
        self,
        connection: Connection,
        after: float,
        now: float,
        *,
        bookmarks: bool = False,
        passes: bool = True,
    ) -> None:
        self.freshness.forget(connection, after, now)
        self.membership.forget(connection, after, bookmarks=bookmarks, passes=passes)
        self.removals.forget(connection, after, now)
        self.known_pages.forget(connection)

    def record(
        self,
        connection: Connection,
        refs: Sequence[Ref[Any]],
        fields: Sequence[str],
        *,
        synced_at: float | None,
        recorded_at: float,
    ) -> None:
        """Note when fields of some refs were synced; with None, that they are stale since then."""
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
        """Mark fields of a query's rows as stale that were synced at or before ``at``; how many rows."""
        number = self.count(connection, query)  # before the ages change that the filter may ask for
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
        """Fields that only come with a listing are fetched by listing in full, and without conditions."""
        self.known_pages.forget(connection)
        collections = self.membership.collections_bringing(entity, fields)
        if collections:
            self.membership.invalidate(connection, entity, collections, at=at, whole=whole)


def check_parts(connection: Connection) -> None:
    """StorageNewer when a newer Max wrote some part of the database: no other part is written then."""
    check_versions(connection, parts())


def check_made(connection: Connection) -> None:
    """StorageCorrupt when a table that a part has made, or a row that is always there, is gone."""
    if is_catalogued(connection):
        done = versions(connection)
        scripts = [one for owner, known in parts().items() for one in known[: done.get(owner, 0)]]
        refuse_gone(connection, tables_of(scripts))
        check_filled(connection, scripts)


def parts() -> dict[str, Sequence[str]]:
    """The parts of Max that have tables in the database of an installation, with their migrations."""
    from . import event_log, inbox, kept_files, schedules  # they are seldom needed before

    some = (quarantine, change_log, sync_log, full_text, event_log, inbox, kept_files, schedules)
    return {OWNER: MIGRATIONS, **{part.OWNER: part.MIGRATIONS for part in some}}


def by_type(*parts: Sequence[Entity]) -> dict[type[Entity], Sequence[Entity]]:
    """Entities by type, in the order of the first of each type; rows that were read stay what they are."""
    found: dict[type[Entity], Sequence[Entity]] = {}
    for entities in parts:
        kinds = kinds_of(entities) if entities else ()
        for kind in kinds:
            some = entities if len(kinds) == 1 else [one for one in entities if type(one) is kind]
            found[kind] = [*found[kind], *some] if kind in found else some
    return found


def _moved_at(delivery: Delivery) -> float:
    """When what came is noted to have moved: what is requested after that is as new."""
    return delivery.received_at or delivery.requested_at


def _mark_of(delivery: Delivery) -> str:
    """What will have a bookmark behind what came: a "listing" or a "feed"; "" for neither."""
    return "listing" if delivery.listing is not None else "feed" if delivery.changes is not None else ""


def _likeness(delivery: Delivery) -> object:
    """What deliveries have in common that can be stored together; None for one that is stored by itself.

    They bring a few rows of one entity, with the same fields, and come with no listing or feed.
    """
    rows = delivery.entities
    if delivery.listing or delivery.changes or delivery.removed or delivery.also:
        return None
    if type(rows) is not MappedRows or not 0 < len(rows) < MANY:
        return None
    return delivery.sync, rows.entity, rows.made, *rows.columns


def _differing(
    connection: Connection,
    mapping: TableMapping[Any],
    groups: Sequence[EncodedRows],
    fields: Mapping[str, frozenset[str] | None],
) -> list[str]:
    """The ids of rows of which one of some fields is stored with another value than came."""
    found = []
    for rows in groups if fields else ():
        numbers = [number for number, id in enumerate(rows.ids) if fields.get(id)]
        columns = ", ".join(map(quoted, ("_id", *rows.names)))
        sql = mapping.sql(f"SELECT {columns} FROM {{table}} WHERE _id IN {{set:ids}}")
        ids = connection.dialect.array(rows.ids[number] for number in numbers)
        stored = {id: values for id, *values in connection.execute(sql, {"ids": ids}).fetchall()}
        for number in numbers:
            names = fields[rows.ids[number]] or frozenset()
            came = (column[number] for column in rows.columns)
            pairs = zip(rows.names, came, stored[rows.ids[number]], strict=True)
            if any(not _is_same(mapping, *one) for one in pairs if one[0] in names):
                found.append(rows.ids[number])
    return found


def _is_same(mapping: TableMapping[Any], name: str, value: Any, other: Any) -> bool:
    """Whether two values of a field are stored as the same one, or as the same JSON.

    Two ways to ask for a row may give the keys in another order each.
    """
    if value == other or mapping.types[name].kind is not Kind.JSON or None in (value, other):
        return bool(value == other)
    return bool(json.loads(value) == json.loads(other))


def _alone(mapping: TableMapping[Any], rows: EncodedRows, covered: Sequence[int]) -> list[str]:
    """The fields of rows of which no load can say when they were synced."""
    return [name for name in rows.names if mapping.load_groups[name] not in covered]


def _changed(
    connection: Connection,
    mapping: TableMapping[Any],
    rows: EncodedRows,
    covered: Sequence[int],
    constants: Sequence[Any],
    numbers: tuple[int, int],
) -> list[tuple[Any, ...]] | None:
    """The rows that an upsert would change, of rows that are probably numbered from one number to another.

    Rows that were first stored together lie together.  To read and to compare them takes half as
    long as an upsert, which looks for each; so it is None when most of the first few are changed.
    """
    columns = ["_id", *map(quoted, rows.names)]
    bits = zip(map(quoted, mapping.bitmaps), mapping.bitmap_values(rows.names), strict=True)
    columns += [f"{bitmap} & {wanted}" for bitmap, wanted in bits]
    columns += [quoted(load_column(group)) for group in covered]
    noted = [quoted(column) for name, column in mapping.moved_columns.items() if name in rows.names]
    columns += [
        f"CASE WHEN {column} > {NEVER} THEN ? END" for column in noted
    ]  # it stays when the field does
    sql = f"SELECT {', '.join(columns)} FROM {{table}} WHERE _row BETWEEN ? AND ? AND _removed_at IS NULL"
    moved = constants[len(constants) - len(noted) :]

    def stored(first: int, last: int) -> dict[str, tuple[Any, ...]]:
        return {row[0]: row for row in connection.execute(mapping.sql(sql), (*moved, first, last))}

    few = stored(numbers[0], numbers[0] + PROBED - 1)
    same = [few[row[0]] == row for row in islice(rows.tuples(*constants), PROBED) if row[0] in few]
    if 2 * sum(same) < len(same):
        return None
    all_stored = stored(*numbers)
    return [row for row in rows.tuples(*constants) if all_stored.get(row[0]) != row]
