"""Deletion evidence: what the listings that could hold a missing row say about it.

removals.py has the invariant.  Here is when each possible listing was read: by itself, with the
feed that covers it, or with its parent, whose watched field has not moved since.  A parent that
could not be read, or only in part, counts as never read.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from ..model.delivery import DeletionScope, FeedPage
from ..model.entities import ManyOf
from .database import FALSE, TRUE, Connection, joined, quoted
from .rows import NEVER, TableMapping

if TYPE_CHECKING:
    from ..model.entities import Entity
    from ..model.loaders import Loader, Resolver

# Each listing that could hold a row, and when it was read as a whole; or ``{seen}``, where nothing moved.
POSSIBLE_LISTINGS = """
    SELECT l.id, CASE WHEN {in_part} THEN coalesce(l.listed_at, 0)
                      WHEN {unmoved} THEN {seen} ELSE coalesce(l.covered_at, 0) END FROM {{table}} AS t
      LEFT JOIN _max_listing AS l ON l.collection = :collection AND l.parent = t._id
     WHERE t._removed_at IS NULL AND (:whole OR l.id IS NOT NULL) AND t._row NOT IN {{numbers:missing}}
"""
IN_PART = "l.listed_at IS NULL OR l.listed_at < l.covered_at"  # some of what it named could not be read
UNREADABLE = """
    SELECT 1 FROM _max_quarantine AS q WHERE q.entity = :entity AND {held} AND (:inline OR NOT EXISTS (
           SELECT 1 FROM {{table}} AS t WHERE t._id = q.id AND t._removed_at IS NULL)) LIMIT 1
"""
OF_MISSING = """
    (q.collection IS DISTINCT FROM '{many}' OR q.parent NOT IN (
           SELECT p._id FROM {table} AS p WHERE p._row IN {{numbers:{parents}}}))
"""


class Evidence(NamedTuple):
    """What the listings that could hold an entity say about its missing rows.

    ``places`` counts them.  ``covered``: each of them was read since the second look began.
    ``only`` is the one listing that could hold the entity, if there is just one and this sync has
    read it, at ``read_at``.
    """

    places: int
    covered: bool
    only: int | None
    read_at: float

    def proves(self, since: float, lost_by: int | None, scope: DeletionScope) -> bool:
        """Whether a row is gone that is missing since then, and that this listing lost."""
        if self.covered and scope.look is not None and since <= scope.look:
            return True
        return self.only is not None and (lost_by == self.only or since <= self.read_at)


class EvidenceReader:
    """Reads when the listings that could hold an entity were read."""

    def __init__(self, mappings: Mapping[str, TableMapping[Any]], resolver: Resolver) -> None:
        self._mappings, self._resolver = mappings, resolver

    def read(
        self,
        connection: Connection,
        name: str,
        scope: DeletionScope,
        missing: Mapping[str, Collection[int]],
    ) -> Evidence:
        """What is known of the missing rows of an entity; rows of ``missing`` hold nothing themselves."""
        entity = self._mappings[name].entity
        possible: list[tuple[int | None, float]] = []  # a listing, and when it was read
        places = self._resolver.places_of(self._resolver.schema.entities.get(name, entity))
        parents = {many.parent for many in places}
        for many in places:
            if self._is_unreadable(connection, many, missing):
                possible.append((None, -math.inf))
            if many.inline:
                possible += self._naming(connection, many, missing)
                continue
            values = {
                "collection": repr(many),
                "whole": repr(many) in scope.collections,
                "missing": connection.dialect.array(missing.get(many.parent.__name__, ())),
            }
            mapping = self._mappings[many.parent.__name__]
            unmoved, seen = _seen_unmoved(mapping, many)
            in_part = IN_PART if many.child in parents else FALSE
            sql = mapping.sql(POSSIBLE_LISTINGS.format(in_part=in_part, unmoved=unmoved, seen=seen))
            begun, read = self._feed_times(connection, many, scope)
            for listing, covered in connection.execute(sql, values).fetchall():
                possible.append((listing, max(covered, read) if covered >= begun else covered))
        covered = scope.look is not None and all(at >= scope.look for _, at in possible)
        if len(possible) == 1 and possible[0][1] >= scope.since:
            return Evidence(1, covered, *possible[0])
        return Evidence(len(possible), covered, None, -math.inf)

    def others_begun(self, connection: Connection, entity: type[Entity], feed: FeedPage) -> float:
        """Since when the feeds that bring an entity were followed for all roots, besides this one's."""
        names = [one.name for one in self._resolver.loaders if one.kind == "feed" and _brings(one, entity)]
        sql = """
            SELECT min(begun_at) FROM _max_feed_state
             WHERE feed IN {set:names} AND NOT (feed = :feed AND root = :root)
        """
        values = {"names": connection.dialect.array(names), "feed": feed.feed, "root": feed.root.id}
        (begun,) = connection.execute(connection.dialect.sql(sql), values).fetchone()
        return math.inf if begun is None else begun

    def _is_unreadable(
        self, connection: Connection, many: ManyOf[Any, Any], missing: Mapping[str, Collection[int]]
    ) -> bool:
        """Whether a parent came as an invalid row, so that what is in its collection is unknown.

        One that a missing row listed holds nothing.
        """
        above = [one for one in self._resolver.schema.collections_of(many.parent) if not one.inline]
        values: dict[str, Any] = {"entity": many.parent.__name__, "inline": many.inline}
        held = [TRUE]
        for number, one in enumerate(above):
            parents, name = one.parent.__name__, f"above_{number}"
            table = quoted(self._mappings[parents].table)
            held.append(OF_MISSING.format(many=repr(one), table=table, parents=name))
            values[name] = connection.dialect.array(missing.get(parents, ()))
        sql = self._mappings[many.parent.__name__].sql(UNREADABLE.format(held=joined("AND", held)))
        return connection.execute(sql, values).fetchone() is not None

    def _naming(
        self, connection: Connection, many: ManyOf[Any, Any], missing: Mapping[str, Collection[int]]
    ) -> list[tuple[int | None, float]]:
        """When the rows were read that name members, of which a loader fetches the list alone.

        Lists that come with a listing of the rows are read with that.
        """
        if self._resolver.loader_for(many.field) is None or self._resolver.collections_bringing(many.field):
            return []
        mapping = self._mappings[many.parent.__name__]
        sql = f"""
            SELECT min(coalesce({mapping.synced(many.name, "t")}, {NEVER})) FROM {{table}} AS t
             WHERE t._removed_at IS NULL AND t._row NOT IN {{numbers:missing}}
        """
        values = {"missing": connection.dialect.array(missing.get(many.parent.__name__, ()))}
        (at,) = connection.execute(mapping.sql(sql), values).fetchone()
        return [] if at is None else [(None, at)]

    def _feed_times(
        self, connection: Connection, many: ManyOf[Any, Any], scope: DeletionScope
    ) -> tuple[float, float]:
        """When the feed that covers a collection in this sync began, and when it was last read."""
        feed = self._resolver.feed_covering(many)
        if feed is None or feed.name not in scope.feeds:
            return math.inf, -math.inf
        begun, read = feed_times(connection, feed.name)
        return (math.inf, -math.inf) if begun is None or read is None else (begun, read)


def _brings(loader: Loader[Any], entity: type[Entity]) -> bool:
    return any(field.entity.__name__ == entity.__name__ for field in loader.brings)


def feed_times(connection: Connection, feed: str) -> tuple[float | None, float | None]:
    """When a feed last began, for any of its roots, and since when it was read for all; None when never."""
    sql = "SELECT max(begun_at), min(read_at) FROM _max_feed_state WHERE feed = ?"
    begun, read = connection.execute(sql, (feed,)).fetchone()
    return begun, read


def _seen_unmoved(mapping: TableMapping[Any], many: ManyOf[Any, Any]) -> tuple[str, str]:
    """SQL: whether a watched field of the parent ``t`` was seen unmoved after the listing ``l``; and when."""
    moved_at = mapping.moved_at(many.name, "t")
    if moved_at is None:
        return FALSE, "0"
    seen = mapping.synced(mapping.watched[many.name], "t")
    return f"l.covered_at >= {moved_at} AND {seen} > l.covered_at", seen
