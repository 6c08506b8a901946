"""Known pages: what a page of a listing held, so that the answer "not modified" means all of it again.

**What is recorded.**  For a page that came with validators (an ETag, a time, a word of the loader's own):
how it was asked for, where the listing went on, which fields of which rows it brought, in order, and a
digest of their values.  The line is written in the transaction of the page's rows.

**The invariant.**  A known page is given out only while the database holds, value for value, what the
page brought.  If a row was changed, removed or lost a value since, by anything at all, the page is asked
for without condition.  So rows that are read from the database stand for the page that did not come
again: they are delivered like one that came, and ages, membership and proof follow as always.

**After a crash** the validators are those of the rows, since both are one transaction.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ..model.columns import EncodedRows
from ..model.delivery import KnownPage, ListingPage, StoredPage
from ..model.entities import Entity
from ..model.mapping import ids_of
from .database import Connection, RenameOwner, Targets, decoding, quoted
from .freshness import PagePosition
from .quarantine import ValidatedRows
from .rows import TableMapping

# What a listing held before it was invalidated has to come again.
PAGE = """
    SELECT p.page FROM _max_known_page AS p JOIN _max_listing AS l ON l.id = p.listing
     WHERE l.collection = :collection AND l.parent = :parent AND l.invalidated_at IS NULL
       AND p.number = :number AND p.key = :key
"""
# A page that comes again as it was is not written.
PUT = """
    INSERT INTO _max_known_page (listing, number, key, page) VALUES (?, ?, ?, ?)
    ON CONFLICT (listing, number) DO UPDATE SET key = excluded.key, page = excluded.page
     WHERE _max_known_page.key <> excluded.key OR _max_known_page.page <> excluded.page
"""
FORGET = "DELETE FROM _max_known_page WHERE listing = ? AND number = ?"
FORGET_REST = "DELETE FROM _max_known_page WHERE listing = ? AND number > ?"
FORGET_ALL = "DELETE FROM _max_known_page"
FORGET_ORPHANS = "DELETE FROM _max_known_page WHERE listing NOT IN (SELECT id FROM _max_listing)"

Stored = dict[Any, tuple[Any, ...]]  # (row, id, values of fields, bitmaps), by row or by id


class KnownPages(RenameOwner):
    """The SQL of known pages; a migration forgets all of them."""

    def __init__(self, mappings: Mapping[str, TableMapping[Any]]) -> None:
        self._mappings = mappings

    def record(
        self,
        connection: Connection,
        position: PagePosition,
        page: ListingPage,
        entities: Sequence[Entity],
        validated: Sequence[ValidatedRows],
    ) -> None:
        """Remember a page whose rows are stored, and forget what was known of it, unless it is not modified.

        With the last one, the pass has no more pages.
        """
        if page.known is None and not position.has_known:
            return
        listing = position.listing
        if page.last:
            connection.execute(FORGET_REST, (listing, page.number))
        if page.not_modified or page.late or page.ids_only:
            return
        known, child = page.known, page.collection.child.__name__
        runs = None if known is None else self._runs(connection, child, ids_of(entities), validated)
        if known is None or runs is None:
            connection.execute(FORGET, (listing, page.number))
            return
        data = {name: getattr(known, name) for name in ("validators", "next", "total", "size")}
        text = json.dumps(data | runs, separators=(",", ":"), default=dict)
        connection.execute(PUT, (listing, page.number, known.key, text))

    def _runs(
        self, connection: Connection, child: str, ids: Sequence[object], validated: Sequence[ValidatedRows]
    ) -> dict[str, Any] | None:
        """The rows of a page as the database has them now; None when these are not what came."""
        runs, digests = [], []
        for one in validated:
            name = one.mapping.entity.__name__
            if one.invalid or (name == child and ([g.ids for g in one.groups] or [[]]) != [list(ids)]):
                return None
            for rows in one.groups:
                stored = self._read(connection, one.mapping, rows.names, "_id", rows.ids)
                found = [stored.get(id) for id in rows.ids]
                if not _are_equal(found, rows):
                    return None
                kept = [row for row in found if row is not None]
                runs.append([name, list(rows.names), [row[0] for row in kept]])
                digests.append(_digest(kept, rows.names))
        return {"runs": runs, "digests": digests}

    def read(
        self, connection: Connection, collection: str, parent: str, number: int, key: str
    ) -> StoredPage | None:
        """The page as it came, when the database holds it still and it was asked for in the same way."""
        values = {"collection": collection, "parent": parent, "number": number, "key": key}
        line = connection.execute(PAGE, values).fetchone()
        if line is None:
            return None
        with decoding("pages"):
            data = json.loads(line[0])
            validators = {url: tuple(some) for url, some in data["validators"].items()}
            known = KnownPage(key, validators, data["next"], data["total"], data["size"])
            runs = [
                self._entities(connection, run, digest)
                for run, digest in zip(data["runs"], data["digests"], strict=True)
            ]
        if None in runs:
            return None
        child = self._child(collection)
        items: list[Entity] = []
        also: list[Entity] = []
        for (name, _, _), entities in zip(data["runs"], runs, strict=True):
            (items if self._mappings[name].entity is child else also).extend(entities or ())
        return StoredPage(known, items, also)

    def _child(self, collection: str) -> type[Entity]:
        entity, _, name = collection.partition(".")
        child: type[Entity] = self._mappings[entity].entity.children()[name]
        return child

    def _entities(self, connection: Connection, run: Sequence[Any], digest: str) -> list[Entity] | None:
        """The rows of a run as entities; None when one of them is not what it was."""
        name, names, numbers = run
        mapping = self._mappings.get(name)
        if mapping is None or not mapping.types.keys() >= set(names):
            return None
        stored = self._read(connection, mapping, names, "_row", numbers)
        found = [stored[number] for number in numbers if number in stored]
        if len(found) < len(numbers) or _digest(found, names) != digest:
            return None
        wanted, width = mapping.bitmap_values(names), 2 + len(names)
        if any(bits & due != due for row in found for bits, due in zip(row[width:], wanted, strict=True)):
            return None
        return mapping.decode(names, [row[1:] for row in found]) if found else []

    def _read(
        self,
        connection: Connection,
        mapping: TableMapping[Any],
        names: Sequence[str],
        by: str,
        which: Sequence[Any],
    ) -> Stored:
        """Rows that are not removed, by their number or id."""
        columns = ", ".join(map(quoted, ("_row", "_id", *names, *mapping.bitmaps)))
        which_rows = "{set:which}" if by == "_id" else "{numbers:which}"
        sql = f"SELECT {columns} FROM {{table}} WHERE {by} IN {which_rows} AND _removed_at IS NULL"
        values = {"which": connection.dialect.array(which)}
        place = 1 if by == "_id" else 0
        return {row[place]: row for row in connection.execute(mapping.sql(sql), values)}

    def tidy(self, connection: Connection) -> None:
        """Forget the pages of listings that are gone."""
        connection.execute(FORGET_ORPHANS)

    def forget(self, connection: Connection) -> None:
        """Ask for every page without condition, once."""
        connection.execute(FORGET_ALL)

    # -- migrations -----------------------------------------------------------------------

    def rename_entity(self, connection: Connection, old: str, new: str) -> None:
        """Pages name entities."""
        self.forget(connection)

    def rename_field(self, connection: Connection, entity: str, old: str, new: str, targets: Targets) -> None:
        """Pages name fields."""
        self.forget(connection)

    def drop_entity(self, connection: Connection, entity: str) -> None:
        """Pages name entities."""
        self.forget(connection)

    def drop_field(self, connection: Connection, entity: str, name: str) -> None:
        """Pages name fields."""
        self.forget(connection)

    def change_ids(self, connection: Connection, entity: str, ids: str, parents: Sequence[str]) -> None:
        """Pages were asked for by ids."""
        self.forget(connection)


def _are_equal(found: Sequence[tuple[Any, ...] | None], rows: EncodedRows) -> bool:
    """Whether rows hold what a response brought of them."""
    end = 2 + len(rows.names)
    return all(row is not None and row[1:end] == came for row, came in zip(found, rows.tuples(), strict=True))


def _digest(rows: Sequence[tuple[Any, ...]], names: Sequence[str]) -> str:
    from hashlib import blake2b  # slow, and most connectors ask without conditions

    end = 2 + len(names)
    return blake2b(repr([row[:end] for row in rows]).encode(), digest_size=12).hexdigest()
