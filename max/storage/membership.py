"""Membership: which parent lists which child, and how far each listing and feed was read.

**What is recorded.**  A *listing* is one collection of one parent (``Project.tasks`` of P).  Its line
in ``_max_listing`` has the newest pass over it (when that began, its number, called generation, and
how many children it has shown), when passes began that were complete, and the bookmark (a sync
token or a watermark) from which the next one can ask for changes alone.  ``_max_membership`` links
a listing to the rows of its children, each with the generation of the last pass that showed it.
``_max_feed_state`` has the bookmark of each feed.

**A page that shows the same children again** writes one line, and not one for each.  A member names
the page that showed it, and the page's line in ``_max_listing_page`` says how many those were, the
generation in which they were written (``since``), and the newest one in which it has shown exactly
these.  A member is of the page while it has both its number and its ``since``; it counts as shown
in the generation of the page.  A page that shows others than before begins a new line, and writes
those that it shows: whom it has left keeps an old ``since``.

**The invariant.**  A membership ends only with proof: a pass over everything, from its own first
page to its own last, is proven to have skipped nothing (see sync/pagination.py) and did not show the
child; a feed named another parent; or the child or the parent was removed.  A pass that was cut
short, or that asks for changes alone, ends none.  A page of an older pass than the newest (a retry
of yesterday's listing, while today's is under way) stores its rows, and neither begins nor ends a
membership.

**Example.**  P lists a and b in generation 1.  The next pass (generation 2) is of two pages: a, c.

                        a   b   c
    before              1   1       the numbers are generations
    after page 1 (a)    2   1
    after page 2 (c)    2   1   2   the last page: what is below 2 has not been shown
    in the same step    2   -   2   b is no member any more; removals.py says what that means

Had page 1 been a and b, as in generation 1, its line alone would say 2: since 1, two members.

**After a crash.**  A page, its members and the place of the next page are one transaction.  The
bookmark and the times of a pass move with its last page only: a crash before that repeats a page
or two and never skips one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

from ..model.columns import EncodedRows
from ..model.delivery import AgeHistogram, FeedPage, ListingPage, ListingPass, ListingState
from ..model.entities import Entity, FieldOf, ManyOf, Ref
from .database import Connection, RenameOwner, Targets
from .freshness import PagePosition, histogram
from .removals import LATER, LISTINGS, MEMBERS_BY_CHILD, Removals
from .rows import TableMapping, in_a_row

if TYPE_CHECKING:
    from ..model.loaders import Resolver

TABLES = """
    CREATE TABLE _max_listing (
        id             {serial},
        collection     TEXT NOT NULL,
        parent         TEXT NOT NULL,
        generation     INTEGER NOT NULL DEFAULT 0,
        began_at       REAL,
        shown          INTEGER NOT NULL DEFAULT 0,
        bookmark       TEXT,
        listed_at      REAL,
        full_at        REAL,
        swept_at       REAL,
        covered_at     REAL,
        invalidated_at REAL,
        UNIQUE (collection, parent)
    );
    CREATE TABLE _max_membership (
        listing    INTEGER NOT NULL,
        child      INTEGER NOT NULL,
        generation INTEGER NOT NULL,
        PRIMARY KEY (listing, child)
    ) {by_key};
    CREATE TABLE _max_feed_state (
        feed       TEXT NOT NULL,
        root       TEXT NOT NULL,
        sync_token TEXT,
        read_at    REAL NOT NULL,
        begun_at   REAL NOT NULL,
        PRIMARY KEY (feed, root)
    ) {by_key}
"""
HAS_KNOWN = "EXISTS (SELECT 1 FROM _max_known_page AS k WHERE k.listing = _max_listing.id)"
FIRST_PAGE = f"""
    INSERT INTO _max_listing (collection, parent, generation, began_at)
    VALUES (:collection, :parent, :full, :began)
    ON CONFLICT (collection, parent) DO UPDATE
       SET generation = _max_listing.generation + :full, began_at = excluded.began_at, shown = 0
     WHERE _max_listing.began_at IS NULL OR _max_listing.began_at <= excluded.began_at
    RETURNING id, generation, {HAS_KNOWN}
"""
IS_REMOVED = "SELECT 1 FROM {table} WHERE _id = ? AND _removed_at IS NOT NULL"
LATER_PAGE = f"""
    SELECT id, generation, {HAS_KNOWN} FROM _max_listing
     WHERE collection = :collection AND parent = :parent AND began_at = :began
"""
ADD_MEMBERS = """
    INSERT INTO _max_membership (listing, child, generation, page)
    SELECT :listing, _row, :generation, :page FROM {table} WHERE _id IN {set:ids} AND _removed_at IS NULL
    ON CONFLICT (listing, child) DO UPDATE SET generation = excluded.generation, page = excluded.page
     WHERE _max_membership.generation <> excluded.generation
"""
IN_A_ROW = "SELECT _id FROM {table} WHERE _row BETWEEN ? AND ? AND _removed_at IS NULL ORDER BY _row"
RENEW_IN_A_ROW = """
    UPDATE _max_membership SET generation = :generation, page = :page
     WHERE listing = :listing AND child BETWEEN :first AND :last AND generation <> :generation
"""
COUNT_IN_A_ROW = """
    SELECT count(*) FROM _max_membership WHERE listing = :listing AND child BETWEEN :first AND :last
"""
ADD_IN_A_ROW = """
    INSERT INTO _max_membership (listing, child, generation, page)
    SELECT :listing, _row, :generation, :page FROM {table}
     WHERE _row BETWEEN :first AND :last AND _removed_at IS NULL
    ON CONFLICT (listing, child) DO NOTHING
"""
LISTING_PAGE = """
    SELECT since, members, generation FROM _max_listing_page WHERE listing = :listing AND number = :page
"""
MEMBERS_OF_PAGE = """
    SELECT count(*) FROM {table} AS t JOIN _max_membership AS k ON k.listing = :listing AND k.child = t._row
     WHERE t._id IN {set:ids} AND t._removed_at IS NULL AND k.page = :page AND k.generation = :since
"""
MEMBERS_IN_A_ROW = """
    SELECT count(*) FROM _max_membership
     WHERE listing = :listing AND child BETWEEN :first AND :last AND page = :page AND generation = :since
"""
SHOWN_AGAIN = """
    SELECT count(*) FROM {table} AS t JOIN _max_membership AS k ON k.listing = :listing AND k.child = t._row
      JOIN _max_listing_page AS g ON g.listing = k.listing AND g.number = k.page AND g.since = k.generation
     WHERE t._id IN {set:ids} AND g.generation = :generation AND g.since < :generation
"""
HAS_UNSHOWN = """
    SELECT 1 FROM _max_membership
     WHERE listing = :listing AND generation <> :generation AND (page IS NULL OR (page, generation) NOT IN (
           SELECT number, since FROM _max_listing_page WHERE listing = :listing AND generation = :generation))
     LIMIT 1
"""
SHOW_AGAIN = (  # the page's load speaks for those whom it has brought: see freshness.py
    "UPDATE _max_listing_page SET generation = :generation WHERE listing = :listing AND number = :page",
    """
    UPDATE _max_load SET since = :since
     WHERE listing = :listing AND number = :page AND entity = :entity AND generation = :generation
    """,
)
BEGIN_PAGE = """
    INSERT INTO _max_listing_page (listing, number, since, generation, members)
    VALUES (:listing, :page, :generation, :generation, :members)
    ON CONFLICT (listing, number) DO UPDATE
       SET since = excluded.since, generation = excluded.generation, members = excluded.members
"""
LATER_PAGES = "DELETE FROM _max_listing_page WHERE listing = :listing AND number > :number"
CLOSE_LISTING = """
    UPDATE _max_listing
       SET listed_at = CASE WHEN :whole THEN :began ELSE listed_at END,
           bookmark = CASE WHEN :moves THEN :bookmark ELSE bookmark END,
           swept_at = CASE WHEN :swept THEN :began ELSE swept_at END,
           covered_at = CASE WHEN :proven THEN :began ELSE covered_at END,
           full_at = CASE WHEN :full THEN :began ELSE full_at END,
           invalidated_at = CASE WHEN :full AND invalidated_at <= :began THEN NULL ELSE invalidated_at END
     WHERE id = :listing
"""
CLOSE_FEED = """
    INSERT INTO _max_feed_state (feed, root, sync_token, read_at, begun_at)
    VALUES (:feed, :root, :sync_token, :began, :began)
    ON CONFLICT (feed, root) DO UPDATE
       SET sync_token = excluded.sync_token, read_at = excluded.read_at,
           begun_at = CASE WHEN :initial THEN excluded.begun_at ELSE _max_feed_state.begun_at END
"""
INVALIDATE = f"""
    UPDATE _max_listing SET invalidated_at = {LATER}
     WHERE collection IN {{set:others}} OR (
           collection IN {{set:collections}} AND (:whole OR id IN (
           SELECT k.listing FROM _max_membership AS k JOIN _max_freshness AS x ON x.row = k.child
            WHERE x.entity = :entity AND x.synced_at IS NULL AND x.recorded_at = :at
              AND k.listing IN {LISTINGS})))
"""
LIST_ROWS_IN_FULL = f"""
    UPDATE _max_listing SET invalidated_at = {LATER}
     WHERE collection IN {{set:collections}} AND id IN (
           SELECT k.listing FROM {{table}} AS t JOIN _max_membership AS k ON k.child = t._row
            WHERE t._id IN {{set:ids}})
"""
IN_NO_LISTING = f"""
    SELECT t._id FROM {{table}} AS t WHERE t._id IN {{set:ids}} AND NOT EXISTS (
           SELECT 1 FROM _max_membership AS k WHERE k.child = t._row AND k.listing IN {LISTINGS})
"""
LISTING_AGES = """
    SELECT CASE WHEN l.invalidated_at IS NULL THEN {whole::now - l.listed_at} END, count(*)
      FROM {table} AS p LEFT JOIN _max_listing AS l ON l.collection = :collection AND l.parent = p._id
     WHERE p._removed_at IS NULL GROUP BY 1
"""
FEED_AGES = """
    SELECT feed, {whole::now - read_at}, count(*) FROM _max_feed_state GROUP BY 1, 2 ORDER BY 1
"""
PAIRS = """
    WITH pairs AS (
        SELECT n.a AS id, q._id AS parent FROM {pairs:pairs} AS n
          LEFT JOIN {parents} AS q ON q._id = n.b AND q._removed_at IS NULL
    ), chosen AS (
        SELECT t._row AS child, l.id AS listing, l.generation
          FROM pairs JOIN {table} AS t ON t._id = pairs.id AND t._removed_at IS NULL
          LEFT JOIN _max_listing AS l ON l.collection = :collection AND l.parent = pairs.parent
    )
"""
MOVE_MEMBERS = (  # create the parents' listings, leave all others, enter those
    f"""{PAIRS}
    INSERT INTO _max_listing (collection, parent)
    SELECT DISTINCT :collection, parent FROM pairs WHERE parent IS NOT NULL ON CONFLICT DO NOTHING
    """,
    f"""{PAIRS}
    DELETE FROM _max_membership WHERE (listing, child) IN (
        SELECT k.listing, k.child FROM chosen AS c CROSS JOIN _max_membership AS k
          JOIN _max_listing AS o ON o.id = k.listing AND o.collection = :collection
         WHERE k.child = c.child AND o.id IS DISTINCT FROM c.listing)
    """,
    f"""{PAIRS}
    INSERT INTO _max_membership (listing, child, generation)
    SELECT listing, child, generation FROM chosen WHERE listing IS NOT NULL ON CONFLICT DO NOTHING
    """,
)
OF_ENTITY = "substr(collection, 1, length(:entity) + 1) = :entity || '.'"


class Membership(RenameOwner):
    """The SQL of listings, members and feeds."""

    def __init__(
        self, mappings: Mapping[str, TableMapping[Any]], removals: Removals, resolver: Resolver
    ) -> None:
        self._mappings, self._removals, self.resolver = mappings, removals, resolver

    # -- listings -------------------------------------------------------------------------

    def open_listing(self, connection: Connection, listing: ListingPage) -> PagePosition | None:
        """The position of a page; None when a later pass has begun, or the parent was removed meanwhile.

        The first page begins the pass, and of a pass over everything a generation.
        """
        parent = self._mappings[listing.collection.parent.__name__]
        if connection.execute(parent.sql(IS_REMOVED), (listing.parent.id,)).fetchone():
            return None
        values = {
            "collection": repr(listing.collection),
            "parent": listing.parent.id,
            "began": listing.began_at,
            "full": int(not listing.delta),
        }
        found = connection.execute(LATER_PAGE if listing.number else FIRST_PAGE, values).fetchone()
        if found is None:
            return None
        id, generation, has_known = found
        number = listing.number
        if listing.delta:
            sql = "SELECT coalesce(max(number), -1) + 1 FROM _max_load WHERE listing = ?"
            number = connection.execute(sql, (id,)).fetchone()[0]
        return PagePosition(id, generation, number, has_known)

    def add_members(
        self,
        connection: Connection,
        listing: ListingPage,
        groups: Sequence[EncodedRows],
        position: PagePosition,
        unknown: int,
        newest: float,
    ) -> None:
        """The rows of a page are members of its listing; ``unknown`` more were listed and not stored.

        All rows whose numbers are greater than ``newest`` are of this page.
        """
        child = self._mappings[listing.collection.child.__name__]
        ids = [*chain.from_iterable(rows.ids for rows in groups)]
        page = None if listing.delta or listing.late else position.number
        added = _show(connection, child, ids, {**position._asdict(), "page": page}, newest)
        if not listing.last and not listing.late:
            sql = "UPDATE _max_listing SET shown = shown + ? WHERE id = ?"
            connection.execute(sql, (added + unknown, position.listing))
        self._removals.clear_candidates(connection, child, groups)

    def close_listing(
        self, connection: Connection, listing: ListingPage, position: PagePosition, *, at: float
    ) -> None:
        """A pass is complete with the response that came at ``at``: its bookmark and its times move.

        After a pass over everything that is proven to be whole, members that it has not shown are
        none any more.
        """
        swept = not listing.delta and listing.sweeps
        if swept and _has_unshown(connection, position.listing, position.generation):
            self._removals.end_unseen(connection, listing, position, at=at)
        if not listing.delta:
            connection.execute(LATER_PAGES, position._asdict())
        values = {
            "listing": position.listing,
            "began": listing.began_at,
            "bookmark": listing.bookmark,
            "whole": listing.whole,
            "moves": listing.whole and not listing.ids_only,
            "swept": swept,
            "proven": listing.proven,
            "full": listing.whole and not listing.delta and not listing.ids_only,
        }
        connection.execute(CLOSE_LISTING, values)

    def listing_state(self, connection: Connection, parent: Ref[Any], many: ManyOf[Any, Any]) -> ListingState:
        """How far a listing was read; after an invalidation the next pass is of everything.

        ``listed_at`` is None when a watched field of the parent has moved since.
        """
        mapping = self._mappings[many.parent.__name__]
        moved_at = mapping.moved_at(many.name, "p")
        moved = f"SELECT 1 FROM {{table}} AS p WHERE p._id = parent AND listed_at < {moved_at}"
        is_known = "invalidated_at IS NULL" + (f" AND NOT EXISTS ({moved})" if moved_at else "")
        sql = mapping.sql(f"""
            SELECT CASE WHEN invalidated_at IS NULL THEN bookmark END,
                   CASE WHEN {is_known} THEN listed_at END, full_at, swept_at,
                   {HAS_KNOWN}
              FROM _max_listing WHERE collection = ? AND parent = ?
        """)
        row = connection.execute(sql, (repr(many), parent.id)).fetchone()
        return ListingState(*row) if row else ListingState()

    def listing_pass(
        self, connection: Connection, parent: Ref[Any], many: ManyOf[Any, Any], began: float
    ) -> ListingPass:
        """Whether a pass is still the newest, how many children it has shown, and whether not all."""
        sql = """
            SELECT id, generation, shown FROM _max_listing
             WHERE collection = ? AND parent = ? AND began_at = ?
        """
        row = connection.execute(sql, (repr(many), parent.id, began)).fetchone()
        if row is None:
            return ListingPass(False)
        listing, generation, shown = row
        return ListingPass(True, shown, _has_unshown(connection, listing, generation))

    def collections_bringing(self, entity: type[Entity], fields: Sequence[str]) -> list[ManyOf[Any, Any]]:
        """The collections whose listings bring those of the fields that no loader fetches alone."""
        own = self.resolver.schema.entities.get(entity.__name__)  # the stored schema has other classes
        found: list[ManyOf[Any, Any]] = []
        named: list[FieldOf[Any, Any]] = [FieldOf(own, name) for name in fields] if own else []
        for field in named:
            if self.resolver.loader_for(field) is None:
                found += self.resolver.collections_bringing(field)
        return list(dict.fromkeys(found))

    def fields_unlisted(self, entity: type[Entity]) -> list[str]:
        """The fields of an entity that no listing of its rows brings."""
        own = self.resolver.schema.entities.get(entity.__name__)
        fields = [FieldOf[Any, Any](own, name) for name in own.types()] if own else []
        bringing = self.resolver.collections_bringing
        return [field.name for field in fields if all(many.child is not own for many in bringing(field))]

    def invalidate(
        self,
        connection: Connection,
        entity: type[Entity],
        collections: Sequence[ManyOf[Any, Any]],
        *,
        at: float,
        whole: bool,
    ) -> None:
        """Some collections are to be listed in full, because fields were invalidated at a time.

        Of those that hold the entity only the listings with such rows, unless all rows were (``whole``).
        """
        holding = [repr(many) for many in collections if many.child.__name__ == entity.__name__]
        others = [repr(many) for many in collections if repr(many) not in holding]
        array = connection.dialect.array
        values = {"at": at, "entity": entity.__name__, "whole": whole}
        values |= {"collections": array(holding), "others": array(others)}
        connection.execute(connection.dialect.sql(INVALIDATE), values)

    def list_in_full(self, connection: Connection, position: PagePosition, *, at: float) -> None:
        """Every pass of a listing is of everything until one that began after ``at`` has ended."""
        sql = f"UPDATE _max_listing SET invalidated_at = {LATER} WHERE id = :listing"
        connection.execute(sql, {"at": at, "listing": position.listing})

    def list_rows_in_full(
        self, connection: Connection, mapping: TableMapping[Any], ids: Sequence[str], *, at: float
    ) -> list[str]:
        """The same of all listings that some rows are in; the ids of those that are in none."""
        collections = self._removals.schema.collections_of(mapping.entity)
        values = {"at": at, "ids": connection.dialect.array(ids)}
        values["collections"] = connection.dialect.array(map(repr, collections))
        connection.execute(MEMBERS_BY_CHILD)
        connection.execute(mapping.sql(LIST_ROWS_IN_FULL), values)
        return [id for (id,) in connection.execute(mapping.sql(IN_NO_LISTING), values).fetchall()]

    def count_invalidated(self, connection: Connection, *, at: float) -> dict[str, int]:
        """How many listings of each collection were invalidated at a time."""
        sql = "SELECT collection, count(*) FROM _max_listing WHERE invalidated_at = ? GROUP BY collection"
        return dict(connection.execute(sql, (at,)).fetchall())

    def ages(self, connection: Connection, many: ManyOf[Any, Any], *, now: float) -> AgeHistogram:
        """How long ago a collection was listed to its end, over all parents."""
        mapping = self._mappings[many.parent.__name__]
        values = {"now": now, "collection": repr(many)}
        counts = dict(connection.execute(mapping.sql(LISTING_AGES), values).fetchall())
        return histogram(counts)

    def forget(self, connection: Connection, after: float, *, bookmarks: bool, passes: bool) -> None:
        """Forget the listings and feeds that were read after a time.

        ``bookmarks``: and from where to go on.  ``passes``: and those that have not ended.
        """
        times = ["listed_at", "full_at", "swept_at", "covered_at", "invalidated_at"]
        times += ["began_at"] if passes else []
        changes = [f"{name} = CASE WHEN {name} <= :after THEN {name} END" for name in times]
        changes += ["bookmark = NULL"] if bookmarks else []
        connection.execute(f"UPDATE _max_listing SET {', '.join(changes)}", {"after": after})
        gone = "DELETE FROM _max_feed_state WHERE read_at > :after OR begun_at > :after"
        connection.execute(gone, {"after": after})

    # -- feeds ----------------------------------------------------------------------------

    def feed_state(self, connection: Connection, root: Ref[Any], feed: str) -> ListingState:
        """How far a feed was read."""
        sql = "SELECT sync_token, read_at, begun_at FROM _max_feed_state WHERE feed = ? AND root = ?"
        row = connection.execute(sql, (feed, root.id)).fetchone()
        return ListingState(*row) if row else ListingState()

    def feed_ages(self, connection: Connection, *, now: float) -> dict[str, AgeHistogram]:
        """How long ago each feed was read to its end, over all roots that follow it."""
        counts: dict[str, dict[int | None, int]] = {}
        for feed, age, number in connection.execute(connection.dialect.sql(FEED_AGES), {"now": now}):
            counts.setdefault(feed, {})[age] = number
        return {feed: histogram(found) for feed, found in counts.items()}

    def begin_feed(self, connection: Connection, changes: FeedPage) -> None:
        """A feed starts over: rows that it brings and that no listing has are missing until it names them."""
        brings = self.resolver.brought_by(changes.feed)
        for entity in dict.fromkeys(field.entity for field in brings):
            self._removals.mark_unnamed(connection, self._mappings[entity.__name__], changes)

    def close_feed(self, connection: Connection, changes: FeedPage) -> None:
        """A feed was read to its end: its sync token moves."""
        values = {
            "feed": changes.feed,
            "root": changes.root.id,
            "sync_token": changes.sync_token,
            "began": changes.began_at,
            "initial": changes.initial,
        }
        connection.execute(CLOSE_FEED, values)

    def fields_covered(self, entity: type[Entity], feed: str) -> list[str]:
        """The fields of an entity that are stale once the feed names it."""
        covers = self.resolver.covered_by(feed)
        return [one.name for one in covers if not isinstance(one, ManyOf) and one.entity is entity]

    def move_members(
        self,
        connection: Connection,
        mapping: TableMapping[Any],
        groups: Sequence[EncodedRows],
        root: Ref[Any],
    ) -> None:
        """Rows that a feed has named are members of the parents that they point at, and of no others.

        A parent that is not stored yet has no listing; it is listed once it is stored.
        """
        collections = self._removals.schema.collections_of(mapping.entity)
        for many in (many for many in collections if not many.inline):
            parents = self._mappings[many.parent.__name__].table
            for rows in groups:
                pairs = list(_with_parents(many, rows, root))
                if pairs:
                    values = {"collection": repr(many), "pairs": connection.dialect.array(pairs)}
                    for statement in MOVE_MEMBERS:
                        sql = connection.dialect.sql(statement, table=mapping.table, parents=parents)
                        connection.execute(sql, values)
            self._removals.clear_candidates(connection, mapping, groups)

    # -- migrations -----------------------------------------------------------------------

    def rename_entity(self, connection: Connection, old: str, new: str) -> None:
        """The entity's collections have other names; their listings go on."""
        sql = f"""
            UPDATE _max_listing SET collection = :new || substr(collection, length(:entity) + 1)
             WHERE {OF_ENTITY}
        """
        connection.execute(sql, {"entity": old, "new": new})

    def rename_field(self, connection: Connection, entity: str, old: str, new: str, targets: Targets) -> None:
        """A collection has another name; its listings go on."""
        names = (f"{entity}.{new}", f"{entity}.{old}")
        connection.execute("UPDATE _max_listing SET collection = ? WHERE collection = ?", names)

    def drop_entity(self, connection: Connection, entity: str) -> None:
        """The entity's collections go."""
        self._drop_listings(connection, OF_ENTITY, {"entity": entity})

    def drop_field(self, connection: Connection, entity: str, name: str) -> None:
        """A collection goes, with its members."""
        self._drop_listings(connection, "collection = :collection", {"collection": f"{entity}.{name}"})

    def drop_rows(self, connection: Connection, entity: str, rows: str, collections: Sequence[str]) -> None:
        """Deleted rows leave their listings."""
        sql = f"DELETE FROM _max_membership WHERE child IN ({rows}) AND listing IN {LISTINGS}"
        values = {"collections": connection.dialect.array(collections)}
        connection.execute(connection.dialect.sql(sql), values)

    def change_ids(self, connection: Connection, entity: str, ids: str, parents: Sequence[str]) -> None:
        """Listings and feeds follow their parents' ids; the listings of deleted parents go."""
        values = {"names": connection.dialect.array(parents)}
        new, names = f"SELECT new FROM {ids} WHERE old = ", connection.dialect.set_of(":names")
        self._drop_listings(connection, f"collection IN {names} AND NOT EXISTS ({new} parent)", values)
        gone = f"DELETE FROM _max_feed_state WHERE feed IN {names} AND NOT EXISTS ({new} root)"
        connection.execute(gone, values)
        for table, name, owner in (
            ("_max_listing", "collection", "parent"),
            ("_max_feed_state", "feed", "root"),
        ):
            connection.execute(  # under other names for a moment, so that two parents can change places
                f"UPDATE {table} SET {name} = ' ' || {name}, {owner} = ({new} {owner})"
                f" WHERE {name} IN {names}",
                values,
            )
            back = f"UPDATE {table} SET {name} = substr({name}, 2) WHERE substr({name}, 1, 1) = ' '"
            connection.execute(back)

    def _drop_listings(self, connection: Connection, which: str, values: Mapping[str, Any]) -> None:
        listings = f"(SELECT id FROM _max_listing WHERE {which})"
        for table in ("_max_membership", "_max_listing_page"):
            connection.execute(f"DELETE FROM {table} WHERE listing IN {listings}", values)
        connection.execute(f"UPDATE _max_missing SET listing = NULL WHERE listing IN {listings}", values)
        connection.execute(f"DELETE FROM _max_listing WHERE {which}", values)


def _show(
    connection: Connection,
    child: TableMapping[Any],
    ids: list[str],
    values: Mapping[str, Any],
    newest: float,
) -> int:
    """A page has shown some rows; how many of them its pass had not shown.

    What no page of a pass over everything has shown, or one that is repeated, has no line for it.
    """
    since, members, generation = connection.execute(LISTING_PAGE, values).fetchone() or (0, 0, 0)
    if values["page"] is None or generation == values["generation"]:
        again = _shown_again(connection, child, ids, values)
        return _add(connection, child, ids, {**values, "page": None}, newest) - again
    values = {**values, "since": since, "entity": child.entity.__name__}
    if members == len(ids) > 0 and _has_members(connection, child, ids, values):
        for statement in SHOW_AGAIN:
            connection.execute(statement, values)
        return len(ids)
    again = _shown_again(connection, child, ids, values)
    added = _add(connection, child, ids, values, newest)
    if added:
        connection.execute(BEGIN_PAGE, {**values, "members": added})
    return added - again


def _shown_again(
    connection: Connection, child: TableMapping[Any], ids: list[str], values: Mapping[str, Any]
) -> int:
    """How many of some rows this pass has shown by pages that it only had to note."""
    if values["generation"] == 1:  # there are none in a first pass
        return 0
    by_id = {**values, "ids": connection.dialect.array(ids)}
    return int(connection.execute(child.sql(SHOWN_AGAIN), by_id).fetchone()[0])


def _has_unshown(connection: Connection, listing: int, generation: int) -> bool:
    """Whether a pass has not shown all members of its listing: quicker than to look at each."""
    values = {"listing": listing, "generation": generation}
    return connection.execute(HAS_UNSHOWN, values).fetchone() is not None


def _has_members(
    connection: Connection, child: TableMapping[Any], ids: list[str], values: Mapping[str, Any]
) -> bool:
    """Whether these rows, which are as many as the members of the page, are its members."""
    numbers = in_a_row(connection, child, ids)
    if numbers and _are_in_a_row(connection, child, ids, numbers):
        between = {**values, "first": numbers[0], "last": numbers[1]}
        return bool(connection.execute(MEMBERS_IN_A_ROW, between).fetchone()[0] == len(ids))
    by_id = {**values, "ids": connection.dialect.array(ids)}
    return bool(connection.execute(child.sql(MEMBERS_OF_PAGE), by_id).fetchone()[0] == len(ids))


def _add(
    connection: Connection,
    child: TableMapping[Any],
    ids: list[str],
    values: Mapping[str, Any],
    newest: float,
) -> int:
    """Rows are members of a listing, each by itself from now on; how many were not so in this pass."""
    added, are_all = _add_in_a_row(connection, child, ids, values, newest)
    if not are_all:
        by_id = {**values, "ids": connection.dialect.array(ids)}
        added += connection.execute(child.sql(ADD_MEMBERS), by_id).rowcount
    return added


def _add_in_a_row(
    connection: Connection,
    child: TableMapping[Any],
    ids: list[str],
    values: Mapping[str, Any],
    newest: float,
) -> tuple[int, bool]:
    """Rows that are numbered one after another are members, without a search for each.

    How many are new, and whether all are members now.
    """
    numbers = in_a_row(connection, child, ids)
    if numbers is None or not (numbers[0] > newest or _are_in_a_row(connection, child, ids, numbers)):
        return 0, False
    values = {**values, "first": numbers[0], "last": numbers[1]}
    if numbers[0] > newest:
        added = connection.execute(child.sql(ADD_IN_A_ROW), values).rowcount
        return added, added == len(ids)
    renewed = connection.execute(RENEW_IN_A_ROW, values).rowcount
    return renewed, connection.execute(COUNT_IN_A_ROW, values).fetchone()[0] == len(ids)


def _are_in_a_row(
    connection: Connection, child: TableMapping[Any], ids: list[str], numbers: tuple[int, int]
) -> bool:
    """Whether rows have the numbers between these, in their order."""
    return [*chain.from_iterable(connection.execute(child.sql(IN_A_ROW), numbers))] == ids


def _with_parents(
    many: ManyOf[Any, Any], rows: EncodedRows, root: Ref[Any]
) -> Iterator[tuple[str, str | None]]:
    """Each row's id with that of its parent, where the rows say it."""
    if many.by is not None and many.by.name in rows.names:
        yield from zip(rows.ids, rows.columns[rows.names.index(many.by.name)], strict=True)
    elif many.by is None and many.parent is root.entity:
        yield from ((id, root.id) for id in rows.ids)
