"""Inline lists: the members that rows name themselves, kept in step with the field that names them.

**What is recorded.**  The ids that a row names are a field of the row, so their age, their order of
truth and their changes are those of a field.  Beside it each row that names some is a listing in
``_max_listing``, with its members in ``_max_membership``, as if a loader had listed them: what reads
or removes members need not know how they came.

**The invariant.**  A visible row whose list is loaded has as members exactly the rows that it names,
and each of those is stored, be it without a value or removed.  A removed row has no members; when it
returns in a response without the list, the list is not loaded.

**Example.**  A response says that issue 1 has the labels 7 and 8; it had 8 and 9.

    the field     ["8","9"] becomes ["7","8"]
    memberships   1-9 ends, 1-7 begins: only what changed is written
    label 9       is missing, if no other row and no listing has it (see removals.py)

**After a crash** the field and the memberships are both as before, or both as after: they share a
transaction.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from itertools import chain
from typing import Any

from ..model.columns import EncodedRows
from ..model.entities import Entity, ManyOf
from ..model.inline import inline_collections
from ..model.schema import Schema
from .database import Connection, quoted
from .quarantine import ValidatedRows
from .removals import Removals
from .rows import TableMapping

OF_REMOVED = """
     WHERE (_removed_at <= :at OR :at IS NULL AND _removed_at IS NOT NULL) AND _id IN {set:ids}
"""
NEW_LISTINGS = """
    INSERT INTO _max_listing (collection, parent)
    SELECT :collection, value FROM {each:parents} AS n WHERE TRUE
    ON CONFLICT DO NOTHING RETURNING parent, id
"""
OLD_LISTINGS = (
    "SELECT parent, id FROM _max_listing WHERE collection = :collection AND parent IN {set:parents}"
)
MEMBERS = """
    SELECT k.listing, c._id, c._row FROM _max_membership AS k JOIN {table} AS c ON c._row = k.child
     WHERE k.listing IN {numbers:listings}
"""
ROWS = "SELECT _id, _row FROM {table} WHERE _id IN {set:ids}"

Lists = dict[str, str]  # by the id of the row, the list as it is stored


class InlineLists:
    """The SQL of inline collections."""

    def __init__(self, schema: Schema, mappings: Mapping[str, TableMapping[Any]], removals: Removals) -> None:
        self._mappings, self._removals = mappings, removals
        self.collections = [many for one in schema.entities.values() for many in inline_collections(one)]

    def read(
        self, connection: Connection, written: Sequence[ValidatedRows], at: float | None
    ) -> dict[ManyOf[Any, Any], Lists]:
        """The lists of the rows that a delivery is about to write; what removed ones named is forgotten."""
        self._forget(connection, written, at)
        return self._lists(connection, written)

    def _of(self, written: Sequence[ValidatedRows]) -> dict[type[Entity], list[str]]:
        """The ids of the rows that have inline lists, by entity."""
        ids: dict[type[Entity], list[str]] = {}
        entities = {many.parent for many in self.collections}
        for one in written:
            if one.mapping.entity in entities:
                ids.setdefault(one.mapping.entity, []).extend(chain.from_iterable(r.ids for r in one.groups))
        return {entity: some for entity, some in ids.items() if some}

    def _forget(self, connection: Connection, written: Sequence[ValidatedRows], at: float | None) -> None:
        for entity, ids in self._of(written).items():
            mapping = self._mappings[entity.__name__]
            names = [many.name for many in self.collections if many.parent is entity]
            sql = mapping.sql(mapping.unloading(names) + OF_REMOVED)
            connection.execute(sql, {"at": at, "ids": connection.dialect.array(ids)})

    def _lists(
        self, connection: Connection, written: Sequence[ValidatedRows]
    ) -> dict[ManyOf[Any, Any], Lists]:
        found: dict[ManyOf[Any, Any], Lists] = {}
        for entity, ids in self._of(written).items():
            many = [many for many in self.collections if many.parent is entity]
            columns = ", ".join(quoted(one.name) for one in many)
            mapping = self._mappings[entity.__name__]
            sql = f"SELECT _id, {columns} FROM {{table}} WHERE _id IN {{set:ids}} AND _removed_at IS NULL"
            rows = connection.execute(mapping.sql(sql), {"ids": connection.dialect.array(ids)}).fetchall()
            for at, one in enumerate(many, 1):
                found[one] = {row[0]: row[at] for row in rows}
        return found

    def link(
        self,
        connection: Connection,
        before: Mapping[ManyOf[Any, Any], Lists],
        written: Sequence[ValidatedRows],
        named: Sequence[ValidatedRows],
        at: float,
    ) -> None:
        """Have the memberships follow the lists that the delivery has written, requested at a time."""
        after = self._lists(connection, written)
        for many, lists in after.items():
            old = before[many]
            changed = {id: text for id, text in lists.items() if text is not None and text != old.get(id)}
            if changed:
                named_by = dict(zip(changed, _decoded(changed.values()), strict=True))
                self._follow(connection, many, named_by, at)
        for one in named:
            self._mark_unnamed(connection, one, after, at)

    def _follow(
        self, connection: Connection, many: ManyOf[Any, Any], changed: Mapping[str, list[str]], at: float
    ) -> None:
        """Some parents have these members now, and no others."""
        array, child = connection.dialect.array, self._mappings[many.child.__name__]
        where = {"collection": repr(many), "parents": array(changed)}
        naming = {"collection": repr(many), "parents": array(id for id, ids in changed.items() if ids)}
        old = dict(connection.execute(connection.dialect.sql(OLD_LISTINGS), where).fetchall())
        new = dict(connection.execute(connection.dialect.sql(NEW_LISTINGS), naming).fetchall())
        rows = self._rows(connection, child, set(chain.from_iterable(changed.values())))
        wanted = {(listing, rows[id]) for parent, listing in (old | new).items() for id in changed[parent]}
        members = connection.execute(child.sql(MEMBERS), {"listings": array(old.values())}) if old else ()
        present = {(listing, row) for listing, _, row in members}
        self._removals.end_named(connection, many.child, sorted(present - wanted), at)
        added = sorted(wanted - present)
        add = "INSERT INTO _max_membership (listing, child, generation) VALUES (?, ?, 0)"
        connection.executemany(add, added)
        self._removals.clear_named(connection, many.child, {row for _, row in added})

    def _rows(self, connection: Connection, child: TableMapping[Any], ids: set[str]) -> dict[str, int]:
        """The numbers of rows with these ids; those that are not stored are, without a value."""
        values = {"ids": connection.dialect.array(ids)}
        found = dict(connection.execute(child.sql(ROWS), values).fetchall())
        if len(found) < len(ids):
            insert = child.sql("INSERT INTO {table} (_id) VALUES (?)")
            connection.executemany(insert, [(id,) for id in sorted(ids - found.keys())])
            found = dict(connection.execute(child.sql(ROWS), values).fetchall())
        return found

    def _mark_unnamed(
        self,
        connection: Connection,
        named: ValidatedRows,
        lists: Mapping[ManyOf[Any, Any], Lists],
        at: float,
    ) -> None:
        """Members that came with a list which is not stored, being older or invalid, may be in no listing."""
        texts = {
            text
            for many, some in lists.items()
            if many.child is named.mapping.entity
            for text in some.values()
            if text is not None
        }
        linked = {id for ids in _decoded(texts) for id in ids}
        ids = [id for rows in named.groups for id in rows.ids if id not in linked]
        if ids:
            self._removals.mark_unlisted(connection, named.mapping, at, [EncodedRows((), ids, [])])


def _decoded(texts: Collection[str]) -> list[list[str]]:
    """Stored lists, decoded by one call."""
    return list(json.loads(f"[{','.join(texts)}]"))
