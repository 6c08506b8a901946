"""Removals: which rows no listing has any more, and when that proves that they are gone.

A row leaves the copy in one of three ways.  The source says that it is gone (a tombstone).  Its
parent is gone, and no other listing has it.  Or no complete listing has it any more: then it is
*missing*, and only this case needs thought, because a missing row may just have moved, out of a
listing that was read after the move and into one that was read before it.

**What is recorded.**  A row that loses its last membership gets a line in ``_max_missing``: since
when it is missing, and which listing lost it, if that listing is known to have shown everything.
It stays visible.  A listing or a later response that brings the row deletes the line.

**The invariant.**  A missing row is removed only when it cannot be anywhere: every listing that
could hold it was read again after it went missing, twice.  These are the listings of each
possible parent, and those in which a new parent would appear.  The first round finds a row that
has moved once.  The second one finds a row that moved while the first was under way.  Where only
one listing could hold it, that one's own loss is proof.

**Example.**  Projects P and Q list tasks; a and b were in P, and c is in Q.

    09:59  Q is read: c.
    10:00  P is read, without a and b: both are missing since 10:00.
    10:02  first round: Q is read: a, c.  So a has moved; it is a member of Q, and not missing.
    10:04  second round: P and Q are read again, and neither has b.  b is removed, as of 10:00.

A row that is first missed in the second round (c, had Q lost it then) waits for the next sync.

**After a crash.**  Each step is one transaction with the response or the task that caused it.  A
crash between two leaves rows that are missing and still visible; the next sync goes on with them.
Removal is soft (``_removed_at``) until ``purge``.  Roots are never removed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

from ..model.delivery import DeletionCandidates, DeletionScope, ListingPage
from ..model.entities import Entity, ManyOf, Ref
from ..model.schema import Schema
from .database import Connection, RenameOwner, quoted
from .freshness import Freshness, PagePosition
from .rows import EncodedRows, TableMapping

if TYPE_CHECKING:
    from ..model.loaders import Resolver

PURGED_AT_ONCE = 1_000  # rows deleted in one transaction

TABLES = """
    CREATE TABLE _max_missing (
        entity        TEXT NOT NULL,
        row           INTEGER NOT NULL,
        listing       INTEGER,
        missing_since REAL NOT NULL,
        PRIMARY KEY (entity, row)
    ) {by_key}
"""
LISTINGS = "(SELECT id FROM _max_listing WHERE collection IN {set:collections})"
MEMBERS_BY_CHILD = "CREATE INDEX IF NOT EXISTS _max_membership_child ON _max_membership (child)"
LISTED_ELSEWHERE = """
    DELETE FROM _max_missing WHERE entity = :entity AND missing_since = :at AND EXISTS (
        SELECT 1 FROM _max_membership AS k CROSS JOIN _max_listing AS l
         WHERE k.child = _max_missing.row AND l.id = k.listing AND l.collection IN {set:collections})
"""


def _ending(which: str) -> tuple[str, str, str]:
    """The statements that end some memberships: a row without another one is missing from now on."""
    mark = f"""
        INSERT INTO _max_missing (entity, row, listing, missing_since)
        SELECT :entity, child, :lost_by, :at FROM _max_membership WHERE {which}
        ON CONFLICT (entity, row) DO UPDATE
           SET listing = excluded.listing, missing_since = excluded.missing_since
    """
    return mark, f"DELETE FROM _max_membership WHERE {which}", LISTED_ELSEWHERE


END_UNSEEN = _ending("listing = :listing AND generation < :generation")
CHILD_LISTINGS = "(SELECT id FROM _max_listing WHERE collection = :collection AND parent IN {set:ids})"
END_OF_PARENT = (
    *_ending(f"listing IN {CHILD_LISTINGS}"),
    f"DELETE FROM _max_listing WHERE id IN {CHILD_LISTINGS}",
)
UNLINK = (  # the + makes SQLite search the memberships by child
    f"DELETE FROM _max_membership WHERE +listing IN {LISTINGS} AND child IN {{set:rows}}",
    "DELETE FROM _max_missing WHERE entity = :entity AND row IN {set:rows}",
)
PURGE = (
    *UNLINK,
    "DELETE FROM _max_freshness WHERE entity = :entity AND row IN {set:rows}",
    "DELETE FROM {table} WHERE _row IN {set:rows}",
)
PURGEABLE = "SELECT _row, _id, _removed_at FROM {table} WHERE _removed_at < :before"
KEEP_NUMBER = "INSERT INTO {table} (_row, _id, _removed_at) VALUES (?, ?, ?)"
MARK_UNLISTED = """
    INSERT INTO _max_missing (entity, row, missing_since)
    SELECT :entity, _row, :at FROM {table} AS t WHERE _removed_at IS NULL AND NOT EXISTS (
        SELECT 1 FROM _max_membership AS k CROSS JOIN _max_listing AS l
         WHERE k.child = t._row AND l.id = k.listing AND l.collection IN {set:collections})
    ON CONFLICT DO NOTHING
"""
CLEAR = """
    DELETE FROM _max_missing WHERE entity = :entity AND missing_since <= :at
       AND row IN (SELECT _row FROM {table} WHERE _id IN {set:ids})
"""
REMOVE = """
    INSERT INTO {table} (_id, _removed_at) VALUES (:id, :at)
    ON CONFLICT (_id) DO UPDATE SET _removed_at = excluded._removed_at
     WHERE {table}._removed_at IS NULL OR {table}._removed_at < excluded._removed_at
"""
REMOVE_DEPENDENTS = f"""
    UPDATE {{table}} SET _removed_at = :at WHERE _removed_at IS NULL AND {{parent}} IN {{set:ids}}
       AND NOT EXISTS (SELECT 1 FROM _max_membership AS k WHERE k.child = _row AND k.listing IN {LISTINGS})
    RETURNING _id
"""
COUNT_VISIBLE = "SELECT count(*) FROM {table} WHERE _removed_at IS NULL AND _id IN {set:ids}"
IS_MISSING = """
    SELECT _row, EXISTS (SELECT 1 FROM _max_missing WHERE entity = ? AND row = _row)
      FROM {table} WHERE _id = ?
"""
PARENTS = """
    SELECT parent FROM _max_listing AS l WHERE collection = ?
       AND EXISTS (SELECT 1 FROM _max_membership WHERE listing = l.id AND child = ?)
"""
READ_LISTINGS = """
    SELECT p._id, l.id, l.covered_at FROM {table} AS p
      JOIN _max_listing AS l ON l.collection = :collection AND l.parent = p._id
     WHERE p._removed_at IS NULL AND NOT EXISTS (
           SELECT 1 FROM _max_missing AS m
            WHERE m.entity = :parents AND m.row = p._row AND m.missing_since <= :before)
     ORDER BY p._id
"""
ALL_LISTINGS = READ_LISTINGS.replace("JOIN", "LEFT JOIN")  # those that were never read as well
MISSING = """
    SELECT t._id AS id, m.row, m.listing, m.missing_since
      FROM _max_missing AS m JOIN {table} AS t ON t._row = m.row AND t._removed_at IS NULL
     WHERE m.entity = :entity
"""
CERTAIN = "(missing_since <= :covered AND :covered >= :since OR listing = :only AND missing_since >= :since)"
COUNT_CERTAIN = f"SELECT count(*) FILTER (WHERE {CERTAIN}), count(*) FROM ({MISSING}) AS m"
SELECT_CERTAIN = f"SELECT id, row, missing_since FROM ({MISSING}) AS m WHERE {CERTAIN}"


class PossibleListing(NamedTuple):
    """A listing that could hold a row, and from when on it would have shown the row.

    ``listing`` is None when it was never read; ``feed`` names the feed that reports its changes.
    """

    many: ManyOf[Any, Any]
    parent: str
    listing: int | None
    covered_at: float
    feed: str | None = None


class Evidence(NamedTuple):
    """Which missing rows are certainly gone (the values of CERTAIN), and what to read for the others."""

    values: dict[str, Any]
    unread: Sequence[PossibleListing]


class Removals(RenameOwner):
    """The SQL of missing and removed rows."""

    def __init__(
        self,
        schema: Schema,
        mappings: Mapping[str, TableMapping[Any]],
        freshness: Freshness,
        resolver: Resolver,
    ) -> None:
        self._schema, self._mappings, self._freshness = schema, mappings, freshness
        self.resolver = resolver

    def collections_of(self, entity: type[Entity]) -> list[ManyOf[Any, Any]]:
        """The collections that can hold an entity."""
        parents = self._schema.entities.values()
        collections: list[ManyOf[Any, Any]] = [
            ManyOf(parent, name) for parent in parents for name in parent.children()
        ]
        return [many for many in collections if many.child is entity]

    def _names(self, connection: Connection, entity: type[Entity]) -> object:
        return connection.dialect.array(map(repr, self.collections_of(entity)))

    # -- missing rows ---------------------------------------------------------------------

    def end_unseen(
        self,
        connection: Connection,
        listing: ListingPage,
        position: PagePosition,
        *,
        at: float,
    ) -> None:
        """A complete listing has shown its members: the memberships of all others end."""
        child = listing.collection.child
        values = {
            **position._asdict(),
            "entity": child.__name__,
            "collections": self._names(connection, child),
            "lost_by": position.listing if listing.sure else None,
            "at": at,
        }
        for statement in END_UNSEEN:
            connection.execute(connection.dialect.sql(statement), values)

    def mark_unlisted(self, connection: Connection, entity: type[Entity], at: float) -> None:
        """Rows in no listing are missing: a feed that starts over does not report their removal."""
        mapping = self._mappings[entity.__name__]
        some = connection.execute(mapping.sql("SELECT 1 FROM {table} LIMIT 1")).fetchone()
        if some and self.collections_of(entity):
            connection.execute(MEMBERS_BY_CHILD)
            values = {"entity": entity.__name__, "collections": self._names(connection, entity), "at": at}
            connection.execute(mapping.sql(MARK_UNLISTED), values)

    def clear_candidates(
        self,
        connection: Connection,
        mapping: TableMapping[Any],
        groups: Sequence[EncodedRows],
        at: float = math.inf,
    ) -> None:
        """Rows that a listing shows, or a request that began at ``at`` brings, are not missing."""
        entity = mapping.entity.__name__
        if connection.execute("SELECT 1 FROM _max_missing WHERE entity = ? LIMIT 1", (entity,)).fetchone():
            ids = connection.dialect.array(chain.from_iterable(rows.ids for rows in groups))
            connection.execute(mapping.sql(CLEAR), {"entity": entity, "at": at, "ids": ids})

    # -- tombstones -----------------------------------------------------------------------

    def apply_tombstones(self, connection: Connection, refs: Iterable[Ref[Any]], at: float) -> int:
        """Remove what the source calls gone, by a request that began at ``at``; how many rows that hid.

        Rows that a later request brought stay.  An unknown id is stored as removed.
        """
        by_entity: dict[type[Entity], list[str]] = {}
        for ref in refs:
            by_entity.setdefault(ref.entity, []).append(ref.id)
        removed = 0
        for entity, ids in by_entity.items():
            mapping = self._mappings[entity.__name__]
            newer = self._freshness.newer_fields(connection, mapping, ids, at)
            gone = [id for id in dict.fromkeys(ids) if id not in newer]
            values = {"ids": connection.dialect.array(gone)}
            removed += connection.execute(mapping.sql(COUNT_VISIBLE), values).fetchone()[0]
            connection.executemany(mapping.sql(REMOVE), [{"id": id, "at": at} for id in gone])
            self._unlink_removed(connection, mapping, gone, at)
        return removed

    def _unlink_removed(
        self, connection: Connection, mapping: TableMapping[Any], ids: Sequence[str], at: float
    ) -> None:
        """Removed rows leave their listings, and lose their own listings and dependents."""
        removed = connection.dialect.array(ids)
        rows = connection.execute(
            mapping.sql("SELECT _row FROM {table} WHERE _id IN {set:ids}"), {"ids": removed}
        )
        values = {
            "entity": mapping.entity.__name__,
            "collections": self._names(connection, mapping.entity),
            "rows": connection.dialect.array(row for (row,) in rows.fetchall()),
        }
        for statement in UNLINK:
            connection.execute(connection.dialect.sql(statement), values)
        self._drop_child_listings(connection, mapping.entity, removed, at)
        self._remove_dependents(connection, mapping.entity, removed, at)
        self._freshness.advance_high_water(connection, mapping, at)

    def _drop_child_listings(
        self, connection: Connection, entity: type[Entity], ids: object, at: float
    ) -> None:
        """The listings of removed parents end; a row without another one is missing."""
        for name in entity.children():
            many: ManyOf[Any, Any] = ManyOf(entity, name)
            values = {
                "collection": repr(many),
                "collections": self._names(connection, many.child),
                "entity": many.child.__name__,
                "lost_by": None,
                "ids": ids,
                "at": at,
            }
            for statement in END_OF_PARENT:
                connection.execute(connection.dialect.sql(statement), values)

    def _remove_dependents(
        self, connection: Connection, entity: type[Entity], ids: object, at: float
    ) -> None:
        """Rows that only came along with removed parents, and that no listing has, are removed as well."""
        for name in entity.children():
            many: ManyOf[Any, Any] = ManyOf(entity, name)
            if many.by is None or self.resolver.is_listed(many):
                continue
            child = self._mappings[many.child.__name__]
            sql = connection.dialect.sql(REMOVE_DEPENDENTS, table=child.table, parent=many.by.name)
            values = {"ids": ids, "at": at, "collections": self._names(connection, many.child)}
            rows = connection.execute(sql, values).fetchall()
            if rows:
                self._unlink_removed(connection, child, [id for (id,) in rows], at)

    # -- candidates -----------------------------------------------------------------------

    def candidates(self, connection: Connection, scope: DeletionScope) -> list[DeletionCandidates]:
        """Of each entity with missing rows: how many are certainly gone, and what to read for the others."""
        found = []
        for (name,) in connection.execute("SELECT DISTINCT entity FROM _max_missing").fetchall():
            mapping = self._mappings.get(name)
            if mapping is not None and mapping.entity not in self._schema.roots:
                one = self._candidates_of(connection, mapping, scope)
                if one.proven or one.unproven:
                    found.append(one)
        return found

    def _candidates_of(
        self, connection: Connection, mapping: TableMapping[Any], scope: DeletionScope
    ) -> DeletionCandidates:
        evidence = self._evidence(connection, mapping.entity, scope)
        certain, missing = connection.execute(mapping.sql(COUNT_CERTAIN), evidence.values).fetchone()
        visible = mapping.sql("SELECT count(*) FROM {table} WHERE _removed_at IS NULL")
        total = connection.execute(visible).fetchone()[0]
        to_check: dict[str, list[str]] = {}
        unread = evidence.unread if certain < missing else ()
        for one in unread:
            if one.feed is None:
                to_check.setdefault(repr(one.many), []).append(one.parent)
        feeds = sorted({one.feed for one in unread if one.feed is not None})
        return DeletionCandidates(mapping.entity.__name__, certain, missing - certain, total, to_check, feeds)

    def _evidence(self, connection: Connection, entity: type[Entity], scope: DeletionScope) -> Evidence:
        """What the listings that could hold an entity prove about its missing rows.

        With one such listing there is nothing to move between: its own loss is proof.
        """
        second_round = scope.second_round.get(entity.__name__)
        begun = scope.since if second_round is None else second_round
        before = math.inf if second_round is None else second_round
        possible = self._possible_listings(connection, entity, scope, before)
        values = {"entity": entity.__name__, "since": scope.since, "only": None}
        if len(possible) > 1:
            unread = [one for one in possible if one.covered_at < begun]
            certain = -math.inf if unread or second_round is None else second_round
            return Evidence({**values, "covered": certain}, unread)
        if not possible:
            return Evidence({**values, "covered": math.inf}, ())
        (only,) = possible
        return Evidence({**values, "covered": only.covered_at, "only": only.listing}, possible)

    def _possible_listings(
        self, connection: Connection, entity: type[Entity], scope: DeletionScope, before: float
    ) -> list[PossibleListing]:
        """Every listing that could hold an entity, or a parent of it that is not known yet.

        A parent that is itself missing since before a time counts for none: it is about to go.
        """
        possible = []
        for many in self._collections_above(entity):
            template = ALL_LISTINGS if repr(many) in scope.collections else READ_LISTINGS
            rows = connection.execute(
                self._mappings[many.parent.__name__].sql(template),
                {"collection": repr(many), "parents": many.parent.__name__, "before": before},
            ).fetchall()
            feed, begun_at, read_at = self._feed_state(connection, many, scope)
            for parent, listing, covered_at in rows:
                covered = -math.inf if covered_at is None else covered_at
                if feed is not None and covered >= begun_at:
                    possible.append(PossibleListing(many, parent, listing, max(covered, read_at), feed))
                else:
                    possible.append(PossibleListing(many, parent, listing, covered))
        return possible

    def _collections_above(self, entity: type[Entity]) -> list[ManyOf[Any, Any]]:
        """The collections that can hold an entity or one of its ancestors below the roots."""
        found = self.collections_of(entity)
        for many in found:  # grows in the loop
            if many.parent not in self._schema.roots:
                found += [one for one in self.collections_of(many.parent) if one not in found]
        return found

    def _feed_state(
        self, connection: Connection, many: ManyOf[Any, Any], scope: DeletionScope
    ) -> tuple[str | None, float, float]:
        """The feed that covers a collection in this sync, when it was begun, and when it was last read."""
        feed = self.resolver.feed_covering(many)
        if feed is None or feed.name not in scope.feeds:
            return None, math.inf, -math.inf
        sql = "SELECT max(begun_at), min(read_at) FROM _max_feed_state WHERE feed = ?"
        begun_at, read_at = connection.execute(sql, (feed.name,)).fetchone()
        return (feed.name, begun_at, read_at) if begun_at is not None else (None, math.inf, -math.inf)

    # -- removing -------------------------------------------------------------------------

    def remove_missing(self, connection: Connection, entities: Sequence[str], scope: DeletionScope) -> int:
        """Remove the missing rows of some entities that are certainly gone; how many."""
        removed = 0
        for name in entities:
            mapping = self._mappings[name]
            values = self._evidence(connection, mapping.entity, scope).values
            rows = connection.execute(mapping.sql(SELECT_CERTAIN), values).fetchall()
            update = mapping.sql("UPDATE {table} SET _removed_at = ? WHERE _row = ?")
            connection.executemany(update, [(since, row) for _, row, since in rows])
            for since in {since for _, _, since in rows}:
                self._unlink_removed(connection, mapping, [id for id, _, at in rows if at == since], since)
            removed += len(rows)
        return removed

    def is_pending_removal(
        self, connection: Connection, ref: Ref[Any], below: Sequence[Ref[Any]] = ()
    ) -> bool:
        """Whether a row is missing, or all of its parents are."""
        mapping = self._mappings[ref.entity.__name__]
        found = connection.execute(mapping.sql(IS_MISSING), (ref.entity.__name__, ref.id)).fetchone()
        if found is None or found[1] or ref in below:
            return found is not None and bool(found[1])
        parents = [
            many.parent.ref(parent)
            for many in self.collections_of(ref.entity)
            for (parent,) in connection.execute(PARENTS, (repr(many), found[0])).fetchall()
        ]
        return bool(parents) and all(
            self.is_pending_removal(connection, one, [*below, ref]) for one in parents
        )

    def purge(self, connection: Connection, before: float) -> int:
        """Delete some rows that were removed before a time, with all that is known of them; how many.

        The newest row of a table leaves its id and its number: no number is given twice.
        """
        for mapping in self._mappings.values():
            (newest,) = connection.execute(mapping.sql("SELECT max(_row) FROM {table}")).fetchone()
            bare = " AND ".join(f"{quoted(bitmap)} = 0" for bitmap in mapping.bitmaps)
            sql = mapping.sql(f"{PURGEABLE} AND NOT (_row = :newest AND {bare}) LIMIT {PURGED_AT_ONCE}")
            rows = connection.execute(sql, {"before": before, "newest": newest}).fetchall()
            if rows:
                values = {
                    "entity": mapping.entity.__name__,
                    "collections": self._names(connection, mapping.entity),
                    "rows": connection.dialect.array(row for row, _, _ in rows),
                }
                for statement in PURGE:
                    connection.execute(mapping.sql(statement), values)
                connection.executemany(mapping.sql(KEEP_NUMBER), [one for one in rows if one[0] == newest])
                return len(rows)
        return 0

    # -- migrations -----------------------------------------------------------------------

    def rename_entity(self, connection: Connection, old: str, new: str) -> None:
        """Missing rows follow their entity's name."""
        connection.execute("UPDATE _max_missing SET entity = ? WHERE entity = ?", (new, old))

    def drop_entity(self, connection: Connection, entity: str) -> None:
        """No row of the entity is missing."""
        connection.execute("DELETE FROM _max_missing WHERE entity = ?", (entity,))

    def drop_rows(self, connection: Connection, entity: str, rows: str, collections: Sequence[str]) -> None:
        """Deleted rows are not missing."""
        connection.execute(f"DELETE FROM _max_missing WHERE entity = ? AND row IN ({rows})", (entity,))
