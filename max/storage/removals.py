"""Removals: which rows no listing has any more, and when that proves that they are gone.

A row leaves the copy in one of three ways.  The source says that it is gone: a tombstone, or a 404
when it is asked for that very row.  Its parent is gone, and no other listing has it.  Or no complete
listing has it any more: then it is *missing*, and only this case needs thought, because a missing
row may just have moved, out of a listing that was read after the move and into one that was read
before it.

**What is recorded.**  A row that loses its last membership gets a line in ``_max_missing``: since
when it is missing, which listing lost it, and when a later response brought it all the same.  It
stays visible.  A listing that shows the row deletes the line.  A removed row that returns since it
was asked for by its id is missing as well: it exists, and no listing would show that it is gone.

**The invariant.**  A missing row is removed only when it cannot be anywhere.  With one listing that
could hold it, that one's own word is enough, since a membership ends with proof only (see
membership.py).  With several, each of them is read twice: once while the sync does its work, and
once more after that, when all missing rows are known.  A row that moved before the second look
began is found by it, a row that moved later was found by the first.  The listings that could hold a
row are those of each possible parent, and those in which a new parent would appear.  Where an entity
loader exists and the rows are few, the source is asked for each of them instead.  A collection that is
listed again when a field of its parent moves (``refresh_when``) counts as read when that field was
last seen unmoved, since what is in the collection cannot have changed before that.  A row that
could not be read may hold any of them: its listing counts as read when that named no such row.

**Example.**  Projects P and Q list tasks; a and b were in P, and c is in Q.

    09:59  Q is read: c.
    10:00  P is read, without a and b: both are missing since 10:00.
    10:02  the second look begins.  Q is read: a, c.  So a has moved; it is a member of Q.
    10:03  P is read again.  No listing has b: it is removed, as of 10:00.

Had c left Q between 09:59 and 10:02, it would be missing since the second look only, and wait for
the next sync.

**What hangs together.**  With a row go the rows that only it held: those whose every listing is of a
parent that goes, and that no other response of this sync has brought since that is missing.  They count
as missing when the second look begins, are looked for like the others, and are removed in the same
transaction; or all of them stay, when one of them may be elsewhere or when so many rows are missing
that a person is asked first.  A field of a visible row keeps whom it names, as their lines say
(``NAMED_ONLY``), but not when that row goes as well.

**What a lost row still says.**  A field may name the parent whose listing has lost the row
(``Many(by=Task.project)``).  When another response shows the row, that value is older than the proof
against it, and becomes not loaded.  A row that nothing shows keeps it: it is where it was removed from.
When such a row returns, the value is forgotten, unless the response names a parent.

**After a crash.**  Each step is one transaction with the response or the task that caused it.  A
crash between two leaves rows that are missing and still visible; the next sync goes on with them.
Removal is soft (``_removed_at``) until ``purge``.  Roots are never removed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

from ..model.columns import EncodedRows
from ..model.delivery import DeletionCandidates, DeletionScope, FeedPage, ListingPage
from ..model.entities import Entity, ManyOf, Ref
from ..model.schema import Schema
from ..model.values import Kind
from .database import Connection, RenameOwner, quoted
from .deletion_evidence import Evidence, EvidenceReader
from .freshness import Freshness, PagePosition
from .rows import NEVER, TableMapping
from .sync_state import IS_DOUBTFUL, NAMED_ONLY

if TYPE_CHECKING:
    from ..model.loaders import Resolver

PURGED_AT_ONCE = 1_000  # rows deleted in one transaction
FEW = 100  # missing rows of an entity that are asked for one by one

TABLES = """
    CREATE TABLE _max_missing (
        entity        TEXT NOT NULL,
        row           INTEGER NOT NULL,
        listing       INTEGER,
        missing_since REAL NOT NULL,
        brought_at    REAL,
        PRIMARY KEY (entity, row)
    ) {by_key}
"""
LISTINGS = "(SELECT id FROM _max_listing WHERE collection IN {set:collections})"
MEMBERS_BY_CHILD = "CREATE INDEX IF NOT EXISTS _max_membership_child ON _max_membership (child)"
ELSEWHERE = """
    EXISTS (SELECT 1 FROM _max_membership AS k CROSS JOIN _max_listing AS h
             WHERE k.child = m.row AND h.id = k.listing AND h.collection IN {set:collections})
"""
LATER = "CASE WHEN invalidated_at > :at THEN invalidated_at ELSE :at END"  # a full pass may be between them
SHOWN = "m.row IN (SELECT s._row FROM {table} AS s WHERE s._id IN {set:ids})"
# What a lost row still says (see above), of the parent that lost it, or of one that was removed.
CLEAR_PARENT = """
    UPDATE {{table}} AS t SET {field} = NULL, {bitmap} = {bitmap} & ~{bit}
     WHERE t._removed_at IS NULL AND t._row IN (SELECT row FROM _max_missing WHERE entity = :entity)
       AND EXISTS (
           SELECT 1 FROM _max_missing AS m LEFT JOIN _max_listing AS l ON l.id = m.listing
            WHERE m.entity = :entity AND m.row = t._row
              AND (m.missing_since <= :at OR :at IS NULL) AND {shown}
              AND CASE WHEN m.listing IS NULL
                  THEN coalesce({synced}, {NEVER}) < m.missing_since AND t.{field} IN (
                       SELECT p._id FROM {parents} AS p WHERE p._removed_at IS NOT NULL)
                  ELSE l.collection = :collection AND l.parent = t.{field}
                       AND coalesce({synced}, {NEVER}) < {read} END)
"""
FORGET_PARENT = """
    UPDATE {{table}} SET {field} = NULL, {bitmap} = {bitmap} & ~{bit}
     WHERE (_removed_at <= :at OR :at IS NULL AND _removed_at IS NOT NULL) AND _id IN {{set:ids}}
"""
# Of the rows that have just gone missing, those in another listing are not.
LISTED_ELSEWHERE = """
    DELETE FROM _max_missing WHERE entity = :entity AND missing_since = :at AND EXISTS (
        SELECT 1 FROM _max_membership AS k CROSS JOIN _max_listing AS l
         WHERE k.child = _max_missing.row AND l.id = k.listing AND l.collection IN {set:collections})
"""


def _ending(which: str) -> tuple[str, str, str]:
    """The statements that end some memberships: a row without another one is missing from now on."""
    mark = f"""
        INSERT INTO _max_missing (entity, row, listing, missing_since)
        SELECT :entity, child, :lost_by, :at FROM _max_membership WHERE {which} GROUP BY child
        ON CONFLICT (entity, row) DO UPDATE
           SET listing = excluded.listing, missing_since = excluded.missing_since, brought_at = NULL
    """
    return mark, f"DELETE FROM _max_membership WHERE {which}", LISTED_ELSEWHERE


UNSHOWN = """_max_membership.generation <> :generation AND NOT EXISTS (
           SELECT 1 FROM _max_listing_page AS g
            WHERE g.listing = _max_membership.listing AND g.number = _max_membership.page
              AND g.since = _max_membership.generation AND g.generation = :generation)"""
END_UNSEEN = _ending(f"listing = :listing AND {UNSHOWN}")
CHILD_LISTINGS = "(SELECT id FROM _max_listing WHERE collection = :collection AND parent IN {set:ids})"
END_OF_PARENT = _ending(f"listing IN {CHILD_LISTINGS}")
END_NAMED = _ending("(listing, child) IN (SELECT a, b FROM {number_pairs:pairs} AS p)")
DROP_LISTINGS = (  # and what only they would say of rows in quarantine
    "DELETE FROM _max_quarantine WHERE collection = :collection AND parent IN {set:ids}",
    f"DELETE FROM _max_listing_page WHERE listing IN {CHILD_LISTINGS}",
    f"DELETE FROM _max_listing WHERE id IN {CHILD_LISTINGS}",
)
UNLINK = (  # the + makes SQLite search the memberships by child
    f"DELETE FROM _max_membership WHERE +listing IN {LISTINGS} AND child IN {{numbers:rows}}",
    "DELETE FROM _max_missing WHERE entity = :entity AND row IN {numbers:rows}",
)
LEAVE_QUARANTINE = "DELETE FROM _max_quarantine WHERE entity = :entity AND id IN {set:ids}"
INVALID_BEFORE = """
    DELETE FROM _max_quarantine WHERE entity = :entity AND collection IS NULL AND at < :at AND NOT EXISTS (
           SELECT 1 FROM {table} AS t WHERE t._id = _max_quarantine.id AND t._removed_at IS NULL)
"""  # that no listing brought, and that are not stored
INVALID_SINCE = "SELECT id FROM _max_quarantine WHERE entity = :entity AND at > :at AND id IN {set:ids}"
PURGE = (
    *UNLINK,
    "DELETE FROM _max_freshness WHERE entity = :entity AND row IN {numbers:rows}",
    "DELETE FROM {table} WHERE _row IN {numbers:rows}",
)
PURGEABLE = f"""
    SELECT _row, _id, _removed_at FROM {{table}} WHERE _removed_at < :before AND NOT EXISTS (
        SELECT 1 FROM _max_membership AS k WHERE k.child = _row AND +k.listing IN {LISTINGS})
"""  # what a row names stays while it does
KEEP_NUMBER = "INSERT INTO {table} (_row, _id, _removed_at) VALUES (?, ?, ?)"
BROUGHT_SINCE = """(
    SELECT max(read_at) FROM (
           SELECT p.requested_at AS read_at FROM _max_load AS p WHERE p.id IN ({loads}) AND p.listing IS NULL
            UNION ALL SELECT x.synced_at FROM _max_freshness AS x
                       WHERE x.entity = :entity AND x.row = t._row
            UNION ALL SELECT q.at FROM _max_quarantine AS q
                       WHERE q.entity = :entity AND q.id = t._id) AS brought
     WHERE read_at >= :at)
"""  # when the latest request began by which a row came besides its listings
# What the feed of another root has brought since the earliest of them began is not missing.
MARK_UNLISTED = f"""
    INSERT INTO _max_missing (entity, row, missing_since, brought_at)
    SELECT :entity, _row, :at, CASE WHEN :whole THEN {BROUGHT_SINCE} ELSE :at END FROM {{table}} AS t
     WHERE _removed_at IS NULL AND (:whole OR _id IN {{set:ids}})
       AND (:earliest >= :at OR {BROUGHT_SINCE.replace(":at", ":earliest")} IS NULL) AND NOT EXISTS (
        SELECT 1 FROM _max_membership AS k CROSS JOIN _max_listing AS l
         WHERE k.child = t._row AND l.id = k.listing AND l.collection IN {{set:collections}})
    ON CONFLICT DO NOTHING
"""
# Rows of an entity that lists its own kind, to which no way leads from one that is listed elsewhere.
MARK_CIRCLES = f"""
    WITH RECURSIVE reachable (row) AS (
        SELECT _row FROM {{table}} AS t WHERE NOT EXISTS (
            SELECT 1 FROM _max_membership AS k WHERE k.child = t._row AND +k.listing IN {{own}})
         UNION SELECT k.child FROM _max_membership AS k WHERE k.listing IN {LISTINGS}
         UNION SELECT k.child FROM reachable CROSS JOIN {{table}} AS p CROSS JOIN _max_listing AS l
               CROSS JOIN _max_membership AS k
                WHERE p._row = reachable.row AND l.collection IN {{set:own}} AND l.parent = p._id
                  AND k.listing = l.id
    )
    INSERT INTO _max_missing (entity, row, missing_since)
    SELECT :entity, _row, :at FROM {{table}}
     WHERE _removed_at IS NULL AND _row NOT IN (SELECT row FROM reachable)
    ON CONFLICT DO NOTHING
""".replace("{own}", LISTINGS.replace("collections", "own"))
IN_CIRCLES = f"""
    listing IN {LISTINGS.replace("collections", "own")}
       AND child IN (SELECT row FROM _max_missing WHERE entity = :entity AND missing_since = :at)
"""
IN_CIRCLE = "_row IN (SELECT row FROM _max_missing WHERE entity = :entity AND missing_since = :at)"
LEAVE_CIRCLES = (  # the next pass over such a listing is of everything
    f"""
    UPDATE _max_listing SET invalidated_at = :at
     WHERE id IN (SELECT listing FROM _max_membership WHERE {IN_CIRCLES})
    """,
    f"DELETE FROM _max_membership WHERE {IN_CIRCLES}",
)
LISTED = """
    DELETE FROM _max_missing
     WHERE entity = :entity AND row IN (SELECT _row FROM {table} WHERE _id IN {set:ids})
"""
BROUGHT = """
    UPDATE _max_missing SET brought_at = :at
     WHERE entity = :entity AND missing_since <= :at AND (brought_at IS NULL OR brought_at < :at)
       AND row IN (SELECT _row FROM {table} WHERE _id IN {set:ids})
"""
# An unknown id is stored, too, so that an earlier response does not bring the row.
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
REMOVED = "SELECT _id FROM {table} WHERE _removed_at IS NOT NULL AND _id IN {set:ids}"
COUNT_VISIBLE = "SELECT count(*) FROM {table} WHERE _removed_at IS NULL AND _id IN {set:ids}"
IS_MISSING = """
    SELECT _row, EXISTS (SELECT 1 FROM _max_missing WHERE entity = :entity AND row = _row)
      FROM {table} WHERE _id = :id
"""
PARENTS = """
    SELECT parent FROM _max_listing AS l WHERE collection = ?
       AND EXISTS (SELECT 1 FROM _max_membership WHERE listing = l.id AND child = ?)
"""
HELD = f"EXISTS (SELECT 1 FROM _max_membership AS k WHERE k.child = m.row AND +k.listing IN {LISTINGS})"
# What a response of this sync has brought exists, although no listing has it.
MISSING = f"""
    SELECT m.row, m.missing_since, m.listing, {HELD}
      FROM _max_missing AS m JOIN {{table}} AS t ON t._row = m.row AND t._removed_at IS NULL
     WHERE m.entity = :entity AND (m.brought_at IS NULL OR m.brought_at < :since)
"""
NAMED = """
    SELECT o._row FROM {named} AS o WHERE +o._row IN {{numbers:rows}} AND o._id IN (
        SELECT r.{field} FROM {{table}} AS r WHERE r._removed_at IS NULL AND r._row NOT IN {{numbers:going}})
"""  # the + keeps SQLite from trying every id with every row
UNMARK = f"""
    DELETE FROM _max_missing AS m WHERE m.entity = :entity
       AND ({HELD} OR EXISTS (SELECT 1 FROM {{table}} WHERE _row = m.row AND _removed_at IS NOT NULL))
"""
SET_NAMED = f"""
    UPDATE _max_missing AS m SET listing = CASE WHEN {{referred}} THEN {NAMED_ONLY} END
     WHERE m.entity = :entity AND (m.listing = {NAMED_ONLY} OR {{referred}})
"""
MARK = "INSERT INTO _max_missing (entity, row, missing_since) VALUES (?, ?, ?) ON CONFLICT DO NOTHING"
LISTINGS_OF = """
    SELECT l.id FROM {table} AS p JOIN _max_listing AS l ON l.collection = :collection AND l.parent = p._id
     WHERE p._row IN {numbers:parents}
"""
# Visible rows in the listings that are lost, in none that stays, and brought by nothing else.
HELD_ONLY_BY = f"""
    SELECT DISTINCT k.child FROM _max_membership AS k JOIN {{table}} AS t ON t._row = k.child
     WHERE k.listing IN {{numbers:lost}} AND t._removed_at IS NULL AND {BROUGHT_SINCE} IS NULL
       AND NOT EXISTS (
           SELECT 1 FROM _max_membership AS o
            WHERE o.child = k.child AND o.listing NOT IN {{numbers:lost}} AND o.listing IN {LISTINGS})
"""

Rows = dict[int, float]  # since when each row is missing, by its number
NO_ROWS: Mapping[str, Collection[int]] = {}


class Removals(RenameOwner):
    """The SQL of missing and removed rows."""

    def __init__(
        self,
        schema: Schema,
        mappings: Mapping[str, TableMapping[Any]],
        freshness: Freshness,
        resolver: Resolver,
    ) -> None:
        self.schema, self._mappings, self._freshness = schema, mappings, freshness
        self.resolver, self._evidence = resolver, EvidenceReader(mappings, resolver)
        self._by_parent: dict[type[Entity], list[tuple[ManyOf[Any, Any], str]]] = {}

    def _names(self, connection: Connection, entity: type[Entity], inline: bool | None = None) -> object:
        collections = self.schema.collections_of(entity)
        return connection.dialect.array(repr(many) for many in collections if inline in (None, many.inline))

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
        values = {**position._asdict(), "lost_by": position.listing, "at": at}
        self._end(connection, END_UNSEEN, listing.collection.child, "l.began_at", values)

    def end_named(
        self, connection: Connection, entity: type[Entity], pairs: Sequence[tuple[int, int]], at: float
    ) -> None:
        """Rows that were read by a request at a time name these members no more: (listing, child)."""
        if pairs:
            connection.execute(MEMBERS_BY_CHILD)
            values = {"pairs": connection.dialect.array(pairs), "lost_by": None, "at": at}
            self._end(connection, END_NAMED, entity, "m.missing_since", values)

    def clear_named(self, connection: Connection, entity: type[Entity], rows: Collection[int]) -> None:
        """Rows that are named now are not missing."""
        if self.has_missing(connection, entity):
            sql = "DELETE FROM _max_missing WHERE entity = :entity AND row IN {numbers:rows}"
            values = {"entity": entity.__name__, "rows": connection.dialect.array(rows)}
            connection.execute(connection.dialect.sql(sql), values)

    def _end(
        self,
        connection: Connection,
        statements: tuple[str, str, str],
        entity: type[Entity],
        read: str,
        values: Mapping[str, Any],
    ) -> None:
        """End memberships of an entity's rows; those without another one are missing."""
        mark, end, listed_elsewhere = map(connection.dialect.sql, statements)
        values = {**values, "entity": entity.__name__, "collections": self._names(connection, entity)}
        connection.execute(mark, values)
        connection.execute(end, values)
        if self.has_missing(connection, entity):
            self._clear_parents(connection, self._mappings[entity.__name__], read, ELSEWHERE, values)
            connection.execute(listed_elsewhere, values)

    def has_missing(self, connection: Connection, entity: type[Entity]) -> bool:
        """Whether any row of an entity is missing."""
        sql = "SELECT 1 FROM _max_missing WHERE entity = ? LIMIT 1"
        return connection.execute(sql, (entity.__name__,)).fetchone() is not None

    def _clear_parents(
        self,
        connection: Connection,
        mapping: TableMapping[Any],
        read: str,
        shown: str,
        values: Mapping[str, Any],
    ) -> None:
        """Rows that one listing has lost, and that another response shows, have left the first one's parent.

        Where a field of the row names that parent, it says what is not so any more, unless a
        response has brought it since the listing was ``read``; which parent is right, the other
        response has said, or it is unknown.  A row that may be gone keeps its last parent.
        """
        for many, name in self._parents(mapping.entity):
            bitmap, bit = mapping.place(name)
            sql = CLEAR_PARENT.format(
                field=quoted(name),
                bitmap=quoted(bitmap),
                bit=bit,
                synced=mapping.synced(name, "t"),
                parents=quoted(self._mappings[many.parent.__name__].table),
                read=read,
                shown=shown,
                NEVER=NEVER,
            )
            connection.execute(mapping.sql(sql), {**values, "collection": repr(many)})

    def _parents(self, entity: type[Entity]) -> list[tuple[ManyOf[Any, Any], str]]:
        """The listed collections of an entity's rows, each with the field that names the parent."""
        if entity not in self._by_parent:
            listed = [many for many in self.schema.collections_of(entity) if self.resolver.is_listed(many)]
            self._by_parent[entity] = [(many, many.by.name) for many in listed if many.by is not None]
        return self._by_parent[entity]

    def forget_parents(
        self,
        connection: Connection,
        mapping: TableMapping[Any],
        groups: Sequence[EncodedRows],
        at: float | None,
        listing: ManyOf[Any, Any] | None = None,
    ) -> None:
        """Removed rows that return with a response do not name the parents that they had before.

        A parent that the response names is theirs; the parent of its ``listing`` may be.
        """
        for many, name in self._parents(mapping.entity):
            ids = [id for rows in groups if name not in rows.names for id in rows.ids]
            if ids and many != listing:
                bitmap, bit = mapping.place(name)
                sql = FORGET_PARENT.format(field=quoted(name), bitmap=quoted(bitmap), bit=bit)
                connection.execute(mapping.sql(sql), {"at": at, "ids": connection.dialect.array(ids)})

    def removed_of(
        self, connection: Connection, mapping: TableMapping[Any], groups: Sequence[EncodedRows]
    ) -> list[str]:
        """The ids of those of some rows that are removed; of an entity that listings can lose."""
        collections = self.schema.collections_of(mapping.entity)
        if not any(many.inline or self.resolver.is_listed(many) for many in collections):
            return []
        ids = connection.dialect.array(chain.from_iterable(rows.ids for rows in groups))
        return [id for (id,) in connection.execute(mapping.sql(REMOVED), {"ids": ids})]

    def mark_unlisted(
        self, connection: Connection, mapping: TableMapping[Any], at: float, groups: Sequence[EncodedRows]
    ) -> None:
        """Of rows that came at a time, those in no listing are missing."""
        ids = connection.dialect.array(id for rows in groups for id in rows.ids)
        self._mark_unlisted(connection, mapping, {"at": at, "earliest": at, "whole": False, "ids": ids})

    def mark_unnamed(self, connection: Connection, mapping: TableMapping[Any], feed: FeedPage) -> None:
        """A feed starts over, and names again what there is: rows in no listing are missing until then.

        What a response has brought since then exists all the same.  Where several roots follow the feeds
        that bring the entity, the others speak for what came since the earliest of them began.  The same
        holds for invalid rows that are not stored.
        """
        earliest = self._evidence.others_begun(connection, mapping.entity, feed)
        values = {
            "at": feed.began_at,
            "earliest": earliest,
            "whole": True,
            "ids": connection.dialect.array(()),
        }
        self._mark_unlisted(connection, mapping, values)
        values = {"entity": mapping.entity.__name__, "at": min(feed.began_at, earliest)}
        connection.execute(mapping.sql(INVALID_BEFORE), values)

    def _mark_unlisted(
        self, connection: Connection, mapping: TableMapping[Any], values: Mapping[str, Any]
    ) -> None:
        some = connection.execute(mapping.sql("SELECT 1 FROM {table} LIMIT 1")).fetchone()
        if some and self.schema.collections_of(mapping.entity):
            connection.execute(MEMBERS_BY_CHILD)
            names = self._names(connection, mapping.entity)
            values = {**values, "entity": mapping.entity.__name__, "collections": names}
            connection.execute(_with_loads(mapping, MARK_UNLISTED), values)

    def mark_circles(self, connection: Connection, at: float) -> None:
        """Rows that only list each other, as folders that moved while they were listed, are missing.

        They leave these listings, which would hold them for ever.
        """
        for mapping in self._mappings.values():
            collections = self.schema.collections_of(mapping.entity)
            within = [many for many in collections if many.parent is mapping.entity]
            own = [repr(many) for many in within if many.inline or self.resolver.is_listed(many)]
            if own:
                connection.execute(MEMBERS_BY_CHILD)
                values = {
                    "entity": mapping.entity.__name__,
                    "at": at,
                    "own": connection.dialect.array(own),
                    "collections": connection.dialect.array(
                        name for name in map(repr, collections) if name not in own
                    ),
                }
                for statement in (MARK_CIRCLES, *LEAVE_CIRCLES):
                    connection.execute(mapping.sql(statement), values)
                forgetting = mapping.unloading([many.name for many in within if many.inline])
                if forgetting:
                    connection.execute(mapping.sql(f"{forgetting} WHERE {IN_CIRCLE}"), values)

    def clear_candidates(
        self,
        connection: Connection,
        mapping: TableMapping[Any],
        groups: Sequence[EncodedRows],
        at: float | None = None,
    ) -> None:
        """Rows that a listing shows are not missing.

        Those that another response brought, by a request that began at ``at``, exist as well;
        they stay missing, since no listing would notice when they are gone.
        """
        if self.has_missing(connection, mapping.entity):
            ids = connection.dialect.array(chain.from_iterable(rows.ids for rows in groups))
            values = {"entity": mapping.entity.__name__, "at": at, "ids": ids}
            self._clear_parents(connection, mapping, "coalesce(l.covered_at, m.missing_since)", SHOWN, values)
            connection.execute(mapping.sql(LISTED if at is None else BROUGHT), values)

    # -- tombstones -----------------------------------------------------------------------

    def apply_tombstones(
        self, connection: Connection, refs: Iterable[Ref[Any]], at: float, received_at: float
    ) -> tuple[int, dict[type[Entity], list[str]]]:
        """Remove what the source calls gone, by a request from ``at`` to ``received_at``.

        How many rows that hid, and the ids of those that stay: a later request brought them, or a page that
        was under way with this one, which may be newer.  An unknown id is stored as removed.
        """
        by_entity: dict[type[Entity], list[str]] = {}
        for ref in refs:
            by_entity.setdefault(ref.entity, []).append(ref.id)
        removed = 0
        kept: dict[type[Entity], list[str]] = {}
        for entity, ids in by_entity.items():
            mapping = self._mappings[entity.__name__]
            newer, overlapping = self._freshness.stored_meanwhile(connection, mapping, ids, at, received_at)
            values = {"entity": entity.__name__, "at": at, "ids": connection.dialect.array(ids)}
            invalid = connection.execute(connection.dialect.sql(INVALID_SINCE), values).fetchall()
            unsure = {*overlapping, *(id for (id,) in invalid)}
            gone = [id for id in dict.fromkeys(ids) if id not in newer and id not in unsure]
            removed += self.count_visible(connection, mapping, gone)
            connection.executemany(mapping.sql(REMOVE), [{"id": id, "at": received_at} for id in gone])
            self._unlink_removed(connection, mapping, gone, at, received_at)
            kept[entity] = [id for id in ids if newer.get(id) or id in unsure]
        return removed, kept

    def count_visible(self, connection: Connection, mapping: TableMapping[Any], ids: Sequence[str]) -> int:
        """How many of some rows are stored and not removed."""
        values = {"ids": connection.dialect.array(ids)}
        return int(connection.execute(mapping.sql(COUNT_VISIBLE), values).fetchone()[0])

    def _unlink_removed(
        self,
        connection: Connection,
        mapping: TableMapping[Any],
        ids: Sequence[str],
        at: float,
        removed_at: float,
    ) -> None:
        """Removed rows leave their listings, and lose their own listings and dependents."""
        removed = connection.dialect.array(ids)
        rows = connection.execute(
            mapping.sql("SELECT _row FROM {table} WHERE _id IN {set:ids}"), {"ids": removed}
        )
        values = {
            "entity": mapping.entity.__name__,
            "collections": self._names(connection, mapping.entity, inline=False),  # rows still name it
            "rows": connection.dialect.array(row for (row,) in rows.fetchall()),
        }
        for statement in UNLINK:
            connection.execute(connection.dialect.sql(statement), values)
        values = {"entity": mapping.entity.__name__, "ids": removed}
        connection.execute(connection.dialect.sql(LEAVE_QUARANTINE), values)
        self._drop_child_listings(connection, mapping.entity, removed, at)
        self._remove_dependents(connection, mapping.entity, removed, at, removed_at)
        self._freshness.advance_high_water(connection, mapping, removed_at)

    def _drop_child_listings(
        self, connection: Connection, entity: type[Entity], ids: object, at: float
    ) -> None:
        """The listings of removed parents end; a row without another one is missing."""
        for name in entity.children():
            many: ManyOf[Any, Any] = ManyOf(entity, name)
            values = {"collection": repr(many), "lost_by": None, "ids": ids, "at": at}
            self._end(connection, END_OF_PARENT, many.child, "m.missing_since", values)
            for statement in DROP_LISTINGS:
                connection.execute(connection.dialect.sql(statement), values)

    def _remove_dependents(
        self, connection: Connection, entity: type[Entity], ids: object, at: float, removed_at: float
    ) -> None:
        """Rows that only came along with removed parents, and that no listing has, are removed as well."""
        for name in entity.children():
            many: ManyOf[Any, Any] = ManyOf(entity, name)
            if many.by is None or self.resolver.is_listed(many):
                continue
            child = self._mappings[many.child.__name__]
            sql = connection.dialect.sql(REMOVE_DEPENDENTS, table=child.table, parent=many.by.name)
            values = {"ids": ids, "at": removed_at, "collections": self._names(connection, many.child)}
            rows = connection.execute(sql, values).fetchall()
            if rows:
                self._unlink_removed(connection, child, [id for (id,) in rows], at, removed_at)

    # -- candidates -----------------------------------------------------------------------

    def candidates(self, connection: Connection, scope: DeletionScope) -> list[DeletionCandidates]:
        """Of each entity with missing rows: how many there are, and how many are certainly gone."""
        missing, proven, evidence = self._missing(connection, scope)
        found = []
        for name, rows in missing.items():
            mapping = self._mappings[name]
            visible = mapping.sql("SELECT count(*) FROM {table} WHERE _removed_at IS NULL")
            total = connection.execute(visible).fetchone()[0]
            uncertain = rows.keys() - proven.get(name, {}).keys()
            ids = self._ids(connection, mapping, uncertain) if len(uncertain) <= FEW else []
            related, places = self._related(mapping.entity, missing), evidence[name].places
            gone = len(proven.get(name, ()))
            found.append(DeletionCandidates(name, len(rows), gone, total, ids, places, related))
        return found

    def _missing(
        self, connection: Connection, scope: DeletionScope
    ) -> tuple[dict[str, Rows], dict[str, Rows], dict[str, Evidence]]:
        """The missing rows of each entity with those that only they hold, which are gone, and why."""
        marked: dict[str, dict[int, tuple[float, int | None]]] = {}
        free: dict[str, Rows] = {}  # in no listing at all
        for mapping in self._with_missing(connection):
            name = mapping.entity.__name__
            values = {
                "entity": name,
                "since": scope.since,
                "collections": self._names(connection, mapping.entity),
            }
            found = connection.execute(mapping.sql(MISSING), values).fetchall()
            marked[name] = {row: (since, by) for row, since, by, _ in found}
            free[name] = {row: since for row, since, _, held in found if not held}
        missing = self._going(connection, scope, free)
        evidence = {name: self._evidence.read(connection, name, scope, missing) for name in missing}
        gone = {
            name: {
                row
                for row, (since, by) in rows.items()
                if name in evidence and evidence[name].proves(since, by, scope)
            }
            for name, rows in marked.items()
        }
        certain = _among(free, gone)
        proven = self._going(connection, scope, certain, gone)
        kept = self._kept(self._going(connection, scope, _among(certain, proven), inline=False), proven)
        return missing, {name: rows for name, rows in proven.items() if name not in kept}, evidence

    def _going(
        self,
        connection: Connection,
        scope: DeletionScope,
        rows: Mapping[str, Rows],
        only: Mapping[str, Collection[int]] | None = None,
        *,
        inline: bool = True,
    ) -> dict[str, Rows]:
        """As _with_children, without rows that others name by a field, which stay, and what those hold."""
        kept: dict[str, set[int]] = {}
        while True:
            found = self._with_children(connection, scope, rows, only, but=kept, inline=inline)
            named = {name: self._named_by_others(connection, name, found) for name in found}
            if not any(named.values()):
                return found
            for name, some in named.items():
                kept.setdefault(name, set()).update(some)

    def _named_by_others(
        self, connection: Connection, name: str, going: Mapping[str, Collection[int]]
    ) -> set[int]:
        """Those of the rows of an entity to which a visible row refers that does not go as well."""
        target, array = self._mappings[name], connection.dialect.array
        found: set[int] = set()
        for source, field in self._referring(target):
            sql = NAMED.format(named=quoted(target.table), field=quoted(field))
            values = {"rows": array(going[name]), "going": array(going.get(source.entity.__name__, ()))}
            found |= {row for (row,) in connection.execute(source.sql(sql), values).fetchall()}
        return found

    def _referring(self, mapping: TableMapping[Any]) -> list[tuple[TableMapping[Any], str]]:
        """The fields that refer to an entity which rows name themselves.

        They count for what rows name themselves: people are named as assignees by one row and as its
        author by another, and only lists of their own would show that they are gone.
        """
        if not any(many.inline for many in self.schema.collections_of(mapping.entity)):
            return []
        return [
            (source, field)
            for source in self._mappings.values()
            for field, holds in source.types.items()
            if holds.kind is Kind.REF and holds.target is mapping.entity
        ]

    def _referred(self, mapping: TableMapping[Any]) -> str:
        """SQL that is true of a missing row ``m`` that a visible row refers to by a field."""
        fields = [
            f"SELECT r.{quoted(field)} FROM {quoted(source.table)} AS r WHERE r._removed_at IS NULL"
            for source, field in self._referring(mapping)
        ]
        named = f"SELECT o._row FROM {quoted(mapping.table)} AS o WHERE o._id IN"
        return f"m.row IN ({named} ({' UNION ALL '.join(fields)}))"

    def _kept(self, whole: Mapping[str, Rows], proven: Mapping[str, Rows]) -> set[str]:
        """No parent goes while some of what only it lists may be elsewhere: the entities that stay.

        What its row only names may be elsewhere: people whom an issue names outlive it.
        """
        doubtful = [name for name, rows in whole.items() if rows.keys() - proven.get(name, {}).keys()]
        return {name for one in doubtful for name in self._related(self._mappings[one].entity, whole)}

    def _with_missing(self, connection: Connection) -> list[TableMapping[Any]]:
        names = connection.execute("SELECT DISTINCT entity FROM _max_missing").fetchall()
        found = [self._mappings[name] for (name,) in names if name in self._mappings]
        return [mapping for mapping in found if mapping.entity not in self.schema.roots]

    def _with_children(
        self,
        connection: Connection,
        scope: DeletionScope,
        rows: Mapping[str, Rows],
        only: Mapping[str, Collection[int]] | None = None,
        *,
        but: Mapping[str, Collection[int]] = NO_ROWS,
        inline: bool = True,
    ) -> dict[str, Rows]:
        """Some rows, and those (of ``only`` these) whose every listing is of such a row as its parent.

        ``inline``: also those that such a row names itself.  None of ``but`` these.  What an earlier sync
        has brought may be gone since: the looks of this one find it, as they find rows that are missing.
        """
        left = {name: rows[name].keys() - set(but.get(name, ())) for name in rows}
        found = {name: some for name, some in _among(rows, left).items() if some}
        lost: dict[str, set[int]] = {}
        pending = list(found)
        while pending:
            mapping = self._mappings[pending.pop()]
            parents = found[mapping.entity.__name__]
            for name in mapping.entity.children():
                many: ManyOf[Any, Any] = ManyOf(mapping.entity, name)
                if many.inline and not inline:
                    continue
                values = {"collection": repr(many), "parents": connection.dialect.array(parents)}
                listings = connection.execute(mapping.sql(LISTINGS_OF), values).fetchall()
                child = many.child.__name__
                if {id for (id,) in listings} <= lost.setdefault(child, set()):
                    continue
                lost[child] |= {id for (id,) in listings}
                since = max(scope.since, *parents.values())
                held = self._held_only_by(connection, many.child, lost[child], since)
                new = held - found.get(child, {}).keys() - set(but.get(child, ()))
                new = new if only is None else new & set(only.get(child, ()))
                if new:
                    found.setdefault(child, {}).update(dict.fromkeys(new, since))
                    pending.append(child)
        return found

    def _held_only_by(
        self, connection: Connection, entity: type[Entity], listings: Collection[int], since: float
    ) -> set[int]:
        """The rows of an entity that only these listings have, and that nothing else brought since a time."""
        values = {
            "entity": entity.__name__,
            "lost": connection.dialect.array(listings),
            "collections": self._names(connection, entity),
            "at": since,
        }
        sql = _with_loads(self._mappings[entity.__name__], HELD_ONLY_BY)
        return {row for (row,) in connection.execute(sql, values).fetchall()}

    def _related(self, entity: type[Entity], among: Collection[str]) -> list[str]:
        """The entities that hang together with one, through collections of each other."""
        found = [entity.__name__]
        edges = [(r.source, r.target) for r in self.schema.relationships if r.many]
        for name in found:  # grows in the loop
            near = [b if a == name else a for a, b in edges if name in (a, b)]
            found += [one for one in dict.fromkeys(near) if one in among and one not in found]
        return found

    def _ids(self, connection: Connection, mapping: TableMapping[Any], rows: Collection[int]) -> list[str]:
        sql = mapping.sql("SELECT _id FROM {table} WHERE _row IN {numbers:rows} ORDER BY _id")
        return [id for (id,) in connection.execute(sql, {"rows": connection.dialect.array(rows)}).fetchall()]

    # -- removing -------------------------------------------------------------------------

    def mark_held(self, connection: Connection, scope: DeletionScope) -> None:
        """As the second look begins, what only missing rows hold is missing as well.

        From then on a listing that shows such a row, or that loses it, says so in its line.
        """
        missing, _, _ = self._missing(connection, scope)
        for name, rows in missing.items():
            connection.executemany(MARK, [(name, row, scope.look) for row in rows])

    def unmark_held(self, connection: Connection) -> None:
        """At the end, rows that are in a listing, or removed, are not missing; what fields name is noted."""
        for mapping in self._with_missing(connection):
            names = self._names(connection, mapping.entity)
            values = {"entity": mapping.entity.__name__, "collections": names}
            connection.execute(mapping.sql(UNMARK), values)
            if self._referring(mapping):
                sql = SET_NAMED.format(referred=self._referred(mapping))
                connection.execute(sql, {"entity": mapping.entity.__name__})

    def remove_missing(self, connection: Connection, entities: Sequence[str], scope: DeletionScope) -> int:
        """Remove the missing rows of some entities that are certainly gone; how many."""
        _, proven, _ = self._missing(connection, scope)
        removed = 0
        for name in (name for name in entities if name in proven):
            mapping, rows = self._mappings[name], proven[name]
            update = mapping.sql("UPDATE {table} SET _removed_at = ? WHERE _row = ? AND _removed_at IS NULL")
            removed += connection.executemany(update, [(since, row) for row, since in rows.items()]).rowcount
            for since in set(rows.values()):
                some = [row for row, at in rows.items() if at == since]
                ids = self._ids(connection, mapping, some)
                self._unlink_removed(connection, mapping, ids, since, since)
        self.unmark_held(connection)
        return removed

    def is_pending_removal(
        self, connection: Connection, ref: Ref[Any], below: Sequence[Ref[Any]] = ()
    ) -> bool:
        """Whether a row is missing, or all of its parents are, and no field of a row that stays keeps it."""
        mapping = self._mappings[ref.entity.__name__]
        values = {"entity": ref.entity.__name__, "id": ref.id}
        found = connection.execute(mapping.sql(IS_MISSING), values).fetchone()
        if found is None or found[1] or ref in below:
            is_missing = found is not None and bool(found[1])
            return is_missing and not self._is_named_only(connection, ref, found[0], [*below, ref])
        parents = [
            many.parent.ref(parent)
            for many in self.schema.collections_of(ref.entity)
            for (parent,) in connection.execute(PARENTS, (repr(many), found[0])).fetchall()
        ]
        return bool(parents) and all(
            self.is_pending_removal(connection, one, [*below, ref]) for one in parents
        )

    def _is_named_only(
        self, connection: Connection, ref: Ref[Any], row: int, below: Sequence[Ref[Any]]
    ) -> bool:
        """Whether a missing row stayed since a field names it, and a row that is not missing still does."""
        sql = f"SELECT 1 FROM _max_missing AS m WHERE m.entity = ? AND m.row = ? AND NOT {IS_DOUBTFUL}"
        if connection.execute(sql, (ref.entity.__name__, row)).fetchone() is None:
            return False
        for source, field in self._referring(self._mappings[ref.entity.__name__]):
            sql = source.sql(f"SELECT _id FROM {{table}} WHERE {quoted(field)} = ? AND _removed_at IS NULL")
            for (id,) in connection.execute(sql, (ref.id,)).fetchall():
                one = source.entity.ref(id)
                if one not in below and not self.is_pending_removal(connection, one, below):
                    return True
        return False

    def forget(self, connection: Connection, after: float, now: float) -> None:
        """What is missing since a time after this one is missing since now; nothing was brought later.

        Nor was a row removed, or invalid, after now.
        """
        sql = """
            UPDATE _max_missing SET brought_at = NULL,
                   missing_since = CASE WHEN missing_since > :after THEN :now ELSE missing_since END
             WHERE missing_since > :after OR brought_at > :after
        """
        connection.execute(sql, {"after": after, "now": now})
        connection.execute("UPDATE _max_quarantine SET at = :now WHERE at > :now", {"now": now})
        for mapping in self._mappings.values():
            sql = mapping.sql("UPDATE {table} SET _removed_at = :now WHERE _removed_at > :now")
            connection.execute(sql, {"now": now})

    def purge(self, connection: Connection, before: float) -> int:
        """Delete some rows that were removed before a time, with all that is known of them; how many.

        The newest row of a table leaves its id and its number: no number is given twice.
        """
        for mapping in self._mappings.values():
            (newest,) = connection.execute(mapping.sql("SELECT max(_row) FROM {table}")).fetchone()
            bare = " AND ".join(f"{quoted(bitmap)} = 0" for bitmap in mapping.bitmaps)
            sql = mapping.sql(f"{PURGEABLE} AND NOT (_row = :newest AND {bare}) LIMIT {PURGED_AT_ONCE}")
            inline = self._names(connection, mapping.entity, inline=True)
            values = {"before": before, "newest": newest, "collections": inline}
            rows = connection.execute(sql, values).fetchall()
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


def _with_loads(mapping: TableMapping[Any], sql: str) -> str:
    loads = ", ".join(f"t.{quoted(column)}" for column in mapping.load_columns.values())
    return mapping.sql(sql.replace("{loads}", loads))


def _among(rows: Mapping[str, Rows], wanted: Mapping[str, Collection[int]]) -> dict[str, Rows]:
    """Those of some rows that are among others."""
    return {
        name: {row: since for row, since in some.items() if row in wanted.get(name, ())}
        for name, some in rows.items()
    }
