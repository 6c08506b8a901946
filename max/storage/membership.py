"""Membership: which parent lists which child, and what nobody lists any more.

Rule 1: membership is marked and swept.  A link remembers the listing that saw it last; a
listing proven complete drops the links of its own parent that it did not see.

Rule 2: a row is not gone because nobody lists it.  It may have moved while the listings were
under way, out of one that had not come to it yet and into one that was past it.  So what lost
its last link is an orphan, until every place where it could be was listed, and then listed once
more: what moves once is seen by the first round, or has its new place before the second.  Places
are the lists of all its possible parents, and those in which a new parent would be found.

Rule 3: rows are removed softly, by the source's own word or as proven orphans, and with a
parent its listings are forgotten: what only they held are orphans, too.  Roots stay.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

from ..model.delivery import (
    AgeHistogram,
    DeletionCandidates,
    DeletionScope,
    FeedPage,
    ListingPage,
    ListingState,
)
from ..model.entities import Entity, FieldOf, ManyOf, Ref
from ..model.schema import Schema
from .database import Connection, quoted
from .freshness import Freshness
from .rows import EncodedRows, TableMapping

if TYPE_CHECKING:
    from ..model.loaders import Resolver

PURGED_AT_ONCE = 1_000  # rows deleted in one transaction

LIST_OF = """
    INSERT INTO _max_listing (collection, parent) VALUES (:collection, :parent)
    ON CONFLICT (collection, parent) DO UPDATE SET parent = excluded.parent
    RETURNING id, generation
"""
LINK = """
    INSERT INTO _max_membership (listing, child, generation)
    SELECT :listing, _row, :generation FROM {table}
     WHERE _id IN (SELECT value FROM json_each(:ids)) AND _removed_at IS NULL
    ON CONFLICT (listing, child) DO UPDATE SET generation = excluded.generation
     WHERE generation IS NOT excluded.generation
"""
ORPHANED = """
    INSERT INTO _max_missing (entity, row, listing, missing_since)
    SELECT :entity, child, CASE WHEN :sure THEN :listing END, :at
      FROM _max_membership WHERE listing = :listing AND generation < :generation
    ON CONFLICT (entity, row) DO UPDATE SET listing = excluded.listing, missing_since = excluded.missing_since
"""
LISTS = "SELECT id FROM _max_listing WHERE collection IN (SELECT value FROM json_each(:collections))"
LINKED = """
    DELETE FROM _max_missing WHERE entity = :entity AND missing_since = :at AND EXISTS (
        SELECT 1 FROM _max_membership AS k CROSS JOIN _max_listing AS l ON l.id = k.listing
         WHERE k.child = _max_missing.row AND l.collection IN (SELECT value FROM json_each(:collections)))
"""
DOUBTED = """
    INSERT INTO _max_missing (entity, row, missing_since)
    SELECT :entity, _row, :at FROM {table} AS t WHERE _removed_at IS NULL AND NOT EXISTS (
        SELECT 1 FROM _max_membership AS k CROSS JOIN _max_listing AS l ON l.id = k.listing
         WHERE k.child = t._row AND l.collection IN (SELECT value FROM json_each(:collections)))
    ON CONFLICT DO NOTHING
"""
LINKS_BY_CHILD = "CREATE INDEX IF NOT EXISTS _max_membership_child ON _max_membership (child)"
PARENTS = """
    SELECT parent FROM _max_listing WHERE collection = ?
       AND EXISTS (SELECT 1 FROM _max_membership WHERE listing = _max_listing.id AND child = ?)
"""
CLOSE = """
    UPDATE _max_listing
       SET listed_at = :began,
           bookmark = CASE WHEN :ids_only THEN bookmark ELSE :bookmark END,
           swept_at = CASE WHEN :swept THEN :began ELSE swept_at END,
           covered_at = CASE WHEN :sure THEN :began WHEN first = :first THEN listed_at ELSE covered_at END,
           first = CASE WHEN :ids_only THEN first ELSE :first END,
           full_at = CASE WHEN :full THEN :began ELSE full_at END,
           invalidated_at = CASE WHEN :full AND invalidated_at <= :began THEN NULL ELSE invalidated_at END
     WHERE id = :listing
"""
FOLLOWED = """
    INSERT INTO _max_listing (collection, parent, bookmark, listed_at, full_at)
    VALUES (:collection, :parent, :bookmark, :began, :began)
    ON CONFLICT (collection, parent) DO UPDATE
       SET bookmark = excluded.bookmark, listed_at = excluded.listed_at,
           full_at = CASE WHEN :anew THEN excluded.full_at ELSE full_at END
"""
PAIRS = """
    WITH pairs AS (
        SELECT json_extract(value, '$[0]') AS id, q._id AS parent
          FROM json_each(:pairs) LEFT JOIN {parents} AS q
            ON q._id = json_extract(value, '$[1]') AND q._removed_at IS NULL
    ), chosen AS (
        SELECT t._row AS child, l.id AS listing, l.generation
          FROM pairs JOIN {table} AS t ON t._id = pairs.id AND t._removed_at IS NULL
          LEFT JOIN _max_listing AS l ON l.collection = :collection AND l.parent = pairs.parent
    )
"""
RELINK = (  # the lists that are needed, out of all others, into those
    f"""{PAIRS}
    INSERT INTO _max_listing (collection, parent)
    SELECT DISTINCT :collection, parent FROM pairs WHERE parent IS NOT NULL ON CONFLICT DO NOTHING
    """,
    f"""{PAIRS}
    DELETE FROM _max_membership WHERE (listing, child) IN (
        SELECT k.listing, k.child FROM chosen AS c CROSS JOIN _max_membership AS k ON k.child = c.child
          JOIN _max_listing AS o ON o.id = k.listing AND o.collection = :collection AND o.id IS NOT c.listing)
    """,
    f"""{PAIRS}
    INSERT INTO _max_membership (listing, child, generation)
    SELECT listing, child, generation FROM chosen WHERE listing IS NOT NULL ON CONFLICT DO NOTHING
    """,
)
REMOVE = """
    INSERT INTO {table} (_id, _removed_at) VALUES (:id, :at)
    ON CONFLICT (_id) DO UPDATE SET _removed_at = excluded._removed_at
     WHERE _removed_at IS NULL OR _removed_at < excluded._removed_at
"""
UNLINK = (  # a removed row is in no listing and no longer missing; + searches the links by child
    f"""
    DELETE FROM _max_membership WHERE +listing IN ({LISTS})
       AND child IN (SELECT value FROM json_each(:rows))
    """,
    "DELETE FROM _max_missing WHERE entity = :entity AND row IN (SELECT value FROM json_each(:rows))",
)
PROVEN = "(missing_since <= :seen AND :seen >= :since OR listing IS :listing AND missing_since >= :since)"
NOWHERE = 0  # no listing has this number


class Place(NamedTuple):
    """Where an arrival stands: its list, the listing's generation, the page's number."""

    listing: int
    generation: int
    number: int


class Whereabouts(NamedTuple):
    """A place where something could be, and the last time from which on it would have been seen there."""

    many: ManyOf[Any, Any]
    parent: str
    listing: int | None
    seen: float
    feed: str | None = None


class Proof(NamedTuple):
    """Which orphans are gone for certain, as values of PROVEN, and where to look for the others."""

    values: dict[str, Any]
    waiting: Sequence[Whereabouts]


class Membership:
    """The SQL of lists, links, feeds and orphans over the tables of one schema."""

    def __init__(
        self, schema: Schema, mappings: Mapping[str, TableMapping[Any]], freshness: Freshness
    ) -> None:
        self._schema, self._mappings, self._freshness = schema, mappings, freshness
        self.resolver: Resolver | None = None

    def _mapping(self, entity: type[Entity]) -> TableMapping[Any]:
        return self._mappings[entity.__name__]

    def listing(self, entity: type[Entity]) -> list[ManyOf[Any, Any]]:
        """The collections in which an entity can be."""
        parents = self._schema.entities.values()
        collections: list[ManyOf[Any, Any]] = [
            ManyOf(parent, name) for parent in parents for name in parent.children()
        ]
        return [many for many in collections if many.child is entity]

    # -- listings -------------------------------------------------------------------------

    def open(self, connection: Connection, listing: ListingPage) -> Place:
        """Where a page stands; a full listing's first page begins a generation."""
        names = {"collection": repr(listing.collection), "parent": listing.parent.id}
        list_id, generation = connection.execute(LIST_OF, names).fetchone()
        number = listing.number
        if listing.delta:
            sql = "SELECT coalesce(max(number), -1) + 1 FROM _max_load WHERE listing = ?"
            number = connection.execute(sql, (list_id,)).fetchone()[0]
        elif number == 0:
            generation += 1
            connection.execute("UPDATE _max_listing SET generation = ? WHERE id = ?", (generation, list_id))
        return Place(list_id, generation, number)

    def link(
        self,
        connection: Connection,
        listing: ListingPage,
        groups: Sequence[EncodedRows],
        place: Place,
    ) -> None:
        """Remember a page's members."""
        child = self._mapping(listing.collection.child)
        ids = json.dumps(list(chain.from_iterable(rows.ids for rows in groups)))
        values = {"listing": place.listing, "generation": place.generation, "ids": ids}
        connection.execute(LINK.format(table=quoted(child.table)), values)
        self.found(connection, child, groups)

    def found(
        self,
        connection: Connection,
        mapping: TableMapping[Any],
        groups: Sequence[EncodedRows],
        at: float = math.inf,
    ) -> None:
        """What is in a list, or was brought by a request that began after it was lost, is no orphan."""
        entity = mapping.entity.__name__
        if connection.execute("SELECT 1 FROM _max_missing WHERE entity = ? LIMIT 1", (entity,)).fetchone():
            ids = json.dumps(list(chain.from_iterable(rows.ids for rows in groups)))
            connection.execute(
                "DELETE FROM _max_missing WHERE entity = ? AND missing_since <= ? AND row IN (SELECT _row"
                f" FROM {quoted(mapping.table)} WHERE _id IN (SELECT value FROM json_each(?)))",
                (entity, at, ids),
            )

    def close(self, connection: Connection, listing: ListingPage, place: Place, *, at: float) -> None:
        """The listing is complete: its bookmark moves, and what it has not seen is no member any more."""
        swept = not listing.delta and listing.sweeps
        values = {
            "listing": place.listing,
            "generation": place.generation,
            "entity": listing.collection.child.__name__,
            "at": at,
            "began": listing.began_at,
            "bookmark": listing.bookmark,
            "ids_only": listing.ids_only,
            "swept": swept,
            "sure": listing.sure,
            "first": None if listing.ids_only else listing.first_page,
            "full": not listing.delta and not listing.ids_only,
        }
        if swept:
            lost = {**values, "collections": self._names(listing.collection.child)}
            connection.execute(ORPHANED, lost)
            connection.execute(
                "DELETE FROM _max_membership WHERE listing = :listing AND generation < :generation", lost
            )
            connection.execute(LINKED, lost)
        connection.execute(CLOSE, values)

    def listed(self, connection: Connection, parent: Ref[Any], many: ManyOf[Any, Any]) -> ListingState:
        """What is remembered of a collection's listings."""
        sql = """
            SELECT CASE WHEN invalidated_at IS NULL THEN bookmark END,
                   CASE WHEN invalidated_at IS NULL THEN listed_at END, full_at, swept_at
              FROM _max_listing WHERE collection = ? AND parent = ?
        """
        row = connection.execute(sql, (repr(many), parent.id)).fetchone()
        return ListingState(*row) if row else ListingState()

    def collections_bringing(self, entity: type[Entity], fields: Sequence[str]) -> list[ManyOf[Any, Any]]:
        """The collections whose listings bring those of the fields that no loader fetches by themselves.

        Without a resolver, all that list the entity.
        """
        if self.resolver is None:
            return self.listing(entity)
        own = self.resolver.schema.entities.get(entity.__name__)  # the stored schema has classes of its own
        found: list[ManyOf[Any, Any]] = []
        named: list[FieldOf[Any, Any]] = [FieldOf(own, name) for name in fields] if own else []
        for field in named:
            if self.resolver.loader_for(field) is None:
                found += self.resolver.collections_bringing(field)
        return list(dict.fromkeys(found))

    def invalidate(
        self,
        connection: Connection,
        entity: type[Entity],
        collections: Sequence[ManyOf[Any, Any]],
        *,
        at: float,
        whole: bool,
    ) -> None:
        """Lists of some collections are to be listed in full, as fields were invalidated at a time.

        Of those that hold the entity itself only the lists of such rows, unless it was the ``whole`` entity.
        """
        holding = [repr(many) for many in collections if many.child.__name__ == entity.__name__]
        others = [repr(many) for many in collections if repr(many) not in holding]
        values = {"at": at, "entity": entity.__name__, "whole": whole, "collections": json.dumps(holding)}
        connection.execute(
            f"""
            UPDATE _max_listing SET invalidated_at = :at
             WHERE collection IN (SELECT value FROM json_each(:others)) OR (
                   collection IN (SELECT value FROM json_each(:collections)) AND (:whole OR id IN (
                   SELECT k.listing FROM _max_membership AS k JOIN _max_freshness AS x ON x.row = k.child
                    WHERE x.entity = :entity AND x.synced_at IS NULL AND x.recorded_at = :at
                      AND k.listing IN ({LISTS}))))
            """,
            {**values, "others": json.dumps(others)},
        )

    def invalidated(self, connection: Connection, *, at: float) -> dict[str, int]:
        """How many lists of each collection were invalidated at a time."""
        sql = "SELECT collection, count(*) FROM _max_listing WHERE invalidated_at = ? GROUP BY collection"
        return dict(connection.execute(sql, (at,)).fetchall())

    def ages(self, connection: Connection, many: ManyOf[Any, Any], *, now: float) -> AgeHistogram:
        """How long ago a collection was listed to its end, over all parents."""
        rows = connection.execute(
            f"""
            SELECT CASE WHEN l.invalidated_at IS NULL
                        THEN CAST(max(0, :now - l.listed_at) AS INTEGER) END AS age, count(*)
              FROM {quoted(self._mapping(many.parent).table)} AS p
              LEFT JOIN _max_listing AS l ON l.collection = :collection AND l.parent = p._id
             WHERE p._removed_at IS NULL GROUP BY 1 ORDER BY 1
            """,
            {"now": now, "collection": repr(many)},
        ).fetchall()
        never = sum(number for age, number in rows if age is None)
        return AgeHistogram([(float(age), number) for age, number in rows if age is not None], never)

    def _names(self, entity: type[Entity]) -> str:
        return json.dumps([repr(many) for many in self.listing(entity)])

    # -- feeds ----------------------------------------------------------------------------

    def followed(self, connection: Connection, root: Ref[Any], feed: str) -> ListingState:
        """What is remembered of a feed."""
        sql = "SELECT bookmark, listed_at, full_at FROM _max_listing WHERE collection = ? AND parent = ?"
        row = connection.execute(sql, (feed_name(feed), root.id)).fetchone()
        return ListingState(*row) if row else ListingState()

    def feeds(self, connection: Connection, *, now: float) -> dict[str, AgeHistogram]:
        """How long ago each feed was read to its end, over all roots that follow it."""
        rows = connection.execute(
            "SELECT collection, CAST(max(0, ? - listed_at) AS INTEGER) AS age, count(*) FROM _max_listing"
            f" WHERE collection LIKE '{feed_name('%')}' GROUP BY collection, age ORDER BY collection, age",
            (now,),
        ).fetchall()
        names = dict.fromkeys(collection for collection, _, _ in rows)
        return {
            name.removeprefix(feed_name("")): AgeHistogram(
                [(float(age), n) for c, age, n in rows if c == name], 0
            )
            for name in names
        }

    def follow(self, connection: Connection, changes: FeedPage) -> None:
        """The feed was read to its end: its bookmark moves."""
        values = {
            "collection": feed_name(changes.feed),
            "parent": changes.root.id,
            "bookmark": changes.sync_token,
            "began": changes.began_at,
            "anew": changes.initial,
        }
        connection.execute(FOLLOWED, values)
        if changes.initial and self.resolver is not None:
            brings = self.resolver.feed_loader(changes.feed).brings
            for entity in dict.fromkeys(field.entity for field in brings):
                self._doubt(connection, self._mapping(entity), changes.began_at)

    def _doubt(self, connection: Connection, mapping: TableMapping[Any], at: float) -> None:
        """A feed that was begun anew will not tell what is gone of that which nobody lists."""
        some = f"SELECT 1 FROM {quoted(mapping.table)} LIMIT 1"
        if self.listing(mapping.entity) and connection.execute(some).fetchone():
            connection.execute(LINKS_BY_CHILD)
            values = {"entity": mapping.entity.__name__, "collections": self._names(mapping.entity), "at": at}
            connection.execute(DOUBTED.format(table=quoted(mapping.table)), values)

    def covered(self, entity: type[Entity], feed: str) -> list[str]:
        """The fields of an entity that need another look when the feed names it."""
        covers = self.resolver.feed_loader(feed).covers if self.resolver else ()
        return [one.name for one in covers if not isinstance(one, ManyOf) and one.entity is entity]

    def link_by_refs(
        self,
        connection: Connection,
        mapping: TableMapping[Any],
        groups: Sequence[EncodedRows],
        root: Ref[Any],
    ) -> None:
        """Make rows that a feed has named members of the parents that they point at, and of no others.

        A parent that is not known has no listing to be in: it is listed once it is.
        """
        for many in self.listing(mapping.entity):
            for rows in groups:
                pairs = list(_with_parents(many, rows, root))
                if pairs:
                    self._relink(connection, mapping, many, pairs)
            self.found(connection, mapping, groups)

    def _relink(
        self,
        connection: Connection,
        mapping: TableMapping[Any],
        many: ManyOf[Any, Any],
        pairs: Sequence[tuple[str, str | None]],
    ) -> None:
        values = {"collection": repr(many), "pairs": json.dumps(pairs)}
        tables = {"table": quoted(mapping.table), "parents": quoted(self._mapping(many.parent).table)}
        for statement in RELINK:
            connection.execute(statement.format(**tables), values)

    # -- removal --------------------------------------------------------------------------

    def remove(self, connection: Connection, refs: Iterable[Ref[Any]], at: float) -> int:
        """Tombstones, by a word from ``at``; how many rows that hid.

        What a later answer has brought stays; what is not stored is remembered as gone.
        """
        by_entity: dict[type[Entity], list[str]] = {}
        for ref in refs:
            by_entity.setdefault(ref.entity, []).append(ref.id)
        removed = 0
        for entity, ids in by_entity.items():
            mapping = self._mapping(entity)
            later = self._freshness.later(connection, mapping, ids, at)
            gone = [id for id in dict.fromkeys(ids) if id not in later]
            removed += self._alive(connection, mapping, gone)
            rows = [{"id": id, "at": at} for id in gone]
            connection.executemany(REMOVE.format(table=quoted(mapping.table)), rows)
            self._bury(connection, mapping, gone, at)
        return removed

    def _bury(
        self, connection: Connection, mapping: TableMapping[Any], ids: Sequence[str], at: float
    ) -> None:
        """What becomes of the places of rows that are hidden now, and of those in them."""
        sql = f"SELECT _row FROM {quoted(mapping.table)} WHERE _id IN (SELECT value FROM json_each(?))"
        found = [row for (row,) in connection.execute(sql, (json.dumps(ids),))]
        names = self._names(mapping.entity)
        values = {"entity": mapping.entity.__name__, "collections": names, "rows": json.dumps(found)}
        for statement in UNLINK:
            connection.execute(statement, values)
        self._disinherit(connection, mapping, json.dumps(ids), at)
        self._take_along(connection, mapping, json.dumps(ids), at)
        self._freshness.renew(connection, mapping, at)

    def _take_along(self, connection: Connection, mapping: TableMapping[Any], ids: str, at: float) -> None:
        """What only came along with rows that are hidden now, and nobody lists, is gone with them."""
        for name in mapping.entity.children():
            many: ManyOf[Any, Any] = ManyOf(mapping.entity, name)
            if many.by is None or self.resolver is None or self.resolver.is_listed(many):
                continue
            child = self._mapping(many.child)
            rows = connection.execute(
                f"UPDATE {quoted(child.table)} SET _removed_at = :at WHERE _removed_at IS NULL"
                f" AND {quoted(many.by.name)} IN (SELECT value FROM json_each(:ids)) AND NOT EXISTS ("
                f"SELECT 1 FROM _max_membership AS k WHERE k.child = _row AND k.listing IN ({LISTS}))"
                " RETURNING _id",
                {"ids": ids, "at": at, "collections": self._names(many.child)},
            ).fetchall()
            if rows:
                self._bury(connection, child, [id for (id,) in rows], at)

    def _alive(self, connection: Connection, mapping: TableMapping[Any], ids: Sequence[Any]) -> int:
        sql = (
            f"SELECT count(*) FROM {quoted(mapping.table)} WHERE _removed_at IS NULL"
            " AND _id IN (SELECT value FROM json_each(?))"
        )
        return int(connection.execute(sql, (json.dumps(ids),)).fetchone()[0])

    def _disinherit(self, connection: Connection, mapping: TableMapping[Any], ids: str, at: float) -> None:
        """Forget the listings of parents that are gone; what they held is orphaned."""
        for name in mapping.entity.children():
            many: ManyOf[Any, Any] = ManyOf(mapping.entity, name)
            values = {"collection": repr(many), "ids": ids, "at": at, "entity": many.child.__name__}
            gone = (
                "SELECT id FROM _max_listing WHERE collection = :collection"
                " AND parent IN (SELECT value FROM json_each(:ids))"
            )
            connection.execute(
                "INSERT INTO _max_missing (entity, row, listing, missing_since)"
                f" SELECT :entity, child, NULL, :at FROM _max_membership WHERE listing IN ({gone})"
                " ON CONFLICT (entity, row) DO UPDATE"
                " SET listing = NULL, missing_since = excluded.missing_since",
                values,
            )
            connection.execute(f"DELETE FROM _max_membership WHERE listing IN ({gone})", values)
            connection.execute(LINKED, {**values, "collections": self._names(many.child)})
            connection.execute(f"DELETE FROM _max_listing WHERE id IN ({gone})", values)

    # -- orphans --------------------------------------------------------------------------

    def removals(self, connection: Connection, looking: DeletionScope) -> list[DeletionCandidates]:
        """Of each entity with orphans: of how many it is certain that they are gone, and where to look."""
        found = []
        for (name,) in connection.execute("SELECT DISTINCT entity FROM _max_missing").fetchall():
            mapping = self._mappings.get(name)
            if mapping is not None and mapping.entity not in self._schema.roots:
                one = self._removal(connection, mapping, looking)
                if one.proven or one.unproven:
                    found.append(one)
        return found

    def _removal(
        self, connection: Connection, mapping: TableMapping[Any], looking: DeletionScope
    ) -> DeletionCandidates:
        proof = self._proof(connection, mapping, looking)
        proven, left = connection.execute(
            f"SELECT total({PROVEN}), total(NOT {PROVEN}) FROM ({_orphans(mapping)})", proof.values
        ).fetchone()
        table = quoted(mapping.table)
        of = connection.execute(f"SELECT count(*) FROM {table} WHERE _removed_at IS NULL").fetchone()[0]
        waiting: dict[str, list[str]] = {}
        for place in proof.waiting if left else ():
            if place.feed is None:
                waiting.setdefault(repr(place.many), []).append(place.parent)
        feeds = sorted({place.feed for place in proof.waiting if left and place.feed is not None})
        return DeletionCandidates(mapping.entity.__name__, int(proven), int(left), of, waiting, feeds)

    def _proof(self, connection: Connection, mapping: TableMapping[Any], looking: DeletionScope) -> Proof:
        """What is known of the places in which the orphans of an entity may be.

        With one place there is nothing to move between: to have lost them is proof enough.
        """
        again = looking.second_round.get(mapping.entity.__name__)
        after = looking.since if again is None else again
        places = self._places(connection, mapping.entity, looking, math.inf if again is None else again)
        values = {"entity": mapping.entity.__name__, "since": looking.since, "listing": NOWHERE}
        if len(places) > 1:
            waiting = [place for place in places if place.seen < after]
            return Proof({**values, "seen": -math.inf if waiting or again is None else again}, waiting)
        only = next(iter(places), None)
        if only is None:
            return Proof({**values, "seen": math.inf}, ())
        return Proof({**values, "seen": only.seen, "listing": only.listing or NOWHERE}, places)

    def _places(
        self, connection: Connection, entity: type[Entity], looking: DeletionScope, before: float
    ) -> list[Whereabouts]:
        """Every place in which an entity could be, or a parent of it that is not known yet.

        Parents that were lost before a time are none: they go the same way.
        """
        places = []
        for many in self._ways_to(entity):
            join = "LEFT JOIN" if repr(many) in looking.collections else "JOIN"
            rows = connection.execute(
                f"SELECT p._id, l.id, l.covered_at FROM {quoted(self._mapping(many.parent).table)} AS p"
                f" {join} _max_listing AS l ON l.collection = :collection AND l.parent = p._id"
                " WHERE p._removed_at IS NULL AND NOT EXISTS (SELECT 1 FROM _max_missing AS o"
                " WHERE o.entity = :parents AND o.row = p._row AND o.missing_since <= :before)"
                " ORDER BY p._id",
                {"collection": repr(many), "parents": many.parent.__name__, "before": before},
            ).fetchall()
            feed, begun, read = self._told(connection, many, looking)
            for parent, listing, covered_at in rows:
                seen = -math.inf if covered_at is None else covered_at
                if feed is not None and seen >= begun:
                    places.append(Whereabouts(many, parent, listing, max(seen, read), feed))
                else:
                    places.append(Whereabouts(many, parent, listing, seen))
        return places

    def _ways_to(self, entity: type[Entity]) -> list[ManyOf[Any, Any]]:
        """The collections in which an entity can be, and those of its parents, up to the roots."""
        ways = self.listing(entity)
        for many in ways:  # which grows meanwhile
            if many.parent not in self._schema.roots:
                ways += [one for one in self.listing(many.parent) if one not in ways]
        return ways

    def _told(
        self, connection: Connection, many: ManyOf[Any, Any], looking: DeletionScope
    ) -> tuple[str | None, float, float]:
        """The feed that covers a collection, when it was begun and when it was last read."""
        feed = self.resolver.feed_covering(many) if self.resolver else None
        if feed is None or feed.name not in looking.feeds:
            return None, math.inf, -math.inf
        sql = "SELECT max(full_at), min(listed_at) FROM _max_listing WHERE collection = ?"
        begun, read = connection.execute(sql, (feed_name(feed.name),)).fetchone()
        return (feed.name, begun, read) if begun is not None else (None, math.inf, -math.inf)

    def removing(self, connection: Connection, entities: Sequence[str], looking: DeletionScope) -> int:
        """Hide the orphans of some entities that are certainly gone; how many rows that were."""
        removed = 0
        for name in entities:
            mapping = self._mappings[name]
            proof = self._proof(connection, mapping, looking)
            rows = connection.execute(
                f"SELECT o.id, o.row, o.missing_since FROM ({_orphans(mapping)}) AS o WHERE {PROVEN}",
                proof.values,
            ).fetchall()
            connection.executemany(
                f"UPDATE {quoted(mapping.table)} SET _removed_at = ? WHERE _row = ?",
                [(lost, row) for _, row, lost in rows],
            )
            for lost in {lost for _, _, lost in rows}:
                self._bury(connection, mapping, [id for id, _, at in rows if at == lost], lost)
            removed += len(rows)
        return removed

    def is_pending_removal(
        self, connection: Connection, ref: Ref[Any], below: Sequence[Ref[Any]] = ()
    ) -> bool:
        """Whether a row was found gone and is not removed yet, or hangs on nothing but such rows."""
        mapping = self._mapping(ref.entity)
        sql = f"""
            SELECT _row, EXISTS (SELECT 1 FROM _max_missing WHERE entity = ? AND row = _row)
              FROM {quoted(mapping.table)} WHERE _id = ?
        """
        found = connection.execute(sql, (ref.entity.__name__, ref.id)).fetchone()
        if found is None or found[1] or ref in below:
            return found is not None and bool(found[1])
        parents = [
            many.parent.ref(parent)
            for many in self.listing(ref.entity)
            for (parent,) in connection.execute(PARENTS, (repr(many), found[0])).fetchall()
        ]
        return bool(parents) and all(
            self.is_pending_removal(connection, one, [*below, ref]) for one in parents
        )

    # -- purging --------------------------------------------------------------------------

    def purge(self, connection: Connection, before: float) -> int:
        """Delete some rows that were removed before a time, with all that is known of them; how many."""
        for mapping in self._mappings.values():
            table = quoted(mapping.table)
            rows = connection.execute(
                f"SELECT _row FROM {table} WHERE _removed_at < ? LIMIT {PURGED_AT_ONCE}", (before,)
            ).fetchall()
            if rows:
                values = {
                    "entity": mapping.entity.__name__,
                    "collections": self._names(mapping.entity),
                    "rows": json.dumps([row for (row,) in rows]),
                }
                purged = "(SELECT value FROM json_each(:rows))"
                for statement in (
                    *UNLINK,
                    f"DELETE FROM _max_freshness WHERE entity = :entity AND row IN {purged}",
                    f"DELETE FROM {table} WHERE _row IN {purged}",
                ):
                    connection.execute(statement, values)
                return len(rows)
        return 0


def feed_name(feed: str) -> str:
    """What a feed is called among the lists; no collection has a space in its name."""
    return f"feed {feed}"


def _orphans(mapping: TableMapping[Any]) -> str:
    """SQL for the orphans of an entity that are not hidden yet."""
    return f"""
        SELECT t._id AS id, o.row, o.listing, o.missing_since
          FROM _max_missing AS o JOIN {quoted(mapping.table)} AS t ON t._row = o.row AND t._removed_at IS NULL
         WHERE o.entity = :entity
    """


def _with_parents(
    many: ManyOf[Any, Any], rows: EncodedRows, root: Ref[Any]
) -> Iterator[tuple[str, str | None]]:
    """Each row's id with that of its parent, where the rows tell."""
    if many.by is not None and many.by.name in rows.names:
        yield from zip(rows.ids, rows.columns[rows.names.index(many.by.name)], strict=True)
    elif many.by is None and many.parent is root.entity:
        yield from ((id, root.id) for id in rows.ids)
