"""Freshness: when each field of each row was last synced, and what is too late to be stored.

Rule 1: freshness costs a row nothing.  A row says which page brought it, the page says when
its request began; what no page can say (a field that came alone, an invalidation) stands
beside, in ``_max_freshness``, and the later of the two holds.

Rule 2: of two answers for one field the one whose request began later wins, whichever comes
first.  ``_max_high_water`` holds the latest such time of each entity: an answer that is later than
that is stored without another look.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..errors import UnknownName
from ..model.delivery import AgeHistogram
from ..model.entities import Filter, ManyOf, Ref
from ..model.query import Query
from .database import Connection, quoted
from .query_sql import Statement, run
from .rows import NEVER, EncodedRows, TableMapping, on_page

PLACE_PAGE = """
    INSERT INTO _max_load (entity, listing, number, generation, fields, requested_at)
    VALUES (:entity, :listing, :number, :generation, :fields, :at)
    ON CONFLICT (listing, number, entity) WHERE listing IS NOT NULL
    DO UPDATE SET generation = excluded.generation, fields = excluded.fields,
                  requested_at = excluded.requested_at
    RETURNING id
"""
_RECORD = """
    INSERT INTO _max_freshness (entity, row, field, synced_at, recorded_at)
    SELECT :entity, _row, f.value, :synced_at, :recorded_at
      FROM {table}, json_each(:fields) AS f
     WHERE _id IN (SELECT value FROM json_each(:ids))
    ON CONFLICT (entity, row, field) DO UPDATE
       SET synced_at = excluded.synced_at, recorded_at = excluded.recorded_at
     WHERE excluded.recorded_at >= recorded_at
"""
_SPENT = """
    UPDATE _max_load SET fields = replace(fields, :field, ',')
     WHERE entity = :entity AND requested_at <= :at AND instr(fields, :field)
"""
_SPENT_BESIDE = """
    UPDATE _max_freshness SET synced_at = NULL, recorded_at = :at
     WHERE entity = :entity AND recorded_at <= :at AND field IN (SELECT value FROM json_each(:fields))
"""
_PAGE_AGES = """
    SELECT CAST(max(0, :now - p.requested_at) AS INTEGER) AS age, p.fields, count(*)
      FROM {table} AS t LEFT JOIN _max_load AS p ON p.id = t.{stamp} AND {on_page}
     WHERE t._removed_at IS NULL
     GROUP BY 1, 2  -- a column of the entity may have any name
"""
_BESIDE_AGES = """
    SELECT x.field, CAST(max(0, :now - p.requested_at) AS INTEGER) AS page,
           CAST(max(0, :now - CASE WHEN x.recorded_at >= coalesce(p.requested_at, {never})
                                   THEN x.synced_at ELSE p.requested_at END) AS INTEGER) AS age,
           count(*)
      FROM _max_freshness AS x
      JOIN {table} AS t ON t._row = x.row AND t._removed_at IS NULL
      LEFT JOIN _max_load AS p ON p.id = CASE x.field {columns} END
                              AND instr(p.fields, ',' || x.field || ',') AND {on_page}
     WHERE x.entity = :entity AND x.field IN (SELECT value FROM json_each(:fields))
     GROUP BY 1, 2, 3
"""
_NEWEST = """
    SELECT coalesce(max(at), 0) FROM (
        SELECT max(at) AS at FROM _max_high_water
         UNION ALL SELECT max(listed_at) FROM _max_listing
         UNION ALL SELECT max(missing_since) FROM _max_missing)
"""
_RENEW_NEWEST = """
    INSERT INTO _max_high_water VALUES (:entity, :at)
    ON CONFLICT (entity) DO UPDATE SET at = excluded.at WHERE excluded.at > at
    RETURNING at
"""


class Freshness:
    """The SQL of freshness over the tables of one schema, which it shares with their owner."""

    def __init__(self, mappings: Mapping[str, TableMapping[Any]]) -> None:
        self._mappings = mappings

    # -- recording ------------------------------------------------------------------------

    def record(
        self,
        connection: Connection,
        mapping: TableMapping[Any],
        ids: Sequence[str],
        fields: Sequence[str],
        *,
        synced_at: float | None,
        recorded_at: float,
    ) -> None:
        """Note field by field when some rows were synced, or (None) that what is older is stale."""
        for field in fields:
            known(mapping, field)
        values = {
            "entity": mapping.entity.__name__,
            "ids": json.dumps(ids),
            "fields": json.dumps(fields),
            "synced_at": synced_at,
            "recorded_at": recorded_at,
        }
        connection.execute(_RECORD.format(table=quoted(mapping.table)), values)
        self.renew(connection, mapping, recorded_at)

    def renew(self, connection: Connection, mapping: TableMapping[Any], at: float) -> bool:
        """Remember the latest time at which something of an entity was asked for; whether this is it."""
        values = {"entity": mapping.entity.__name__, "at": at}
        return connection.execute(_RENEW_NEWEST, values).fetchone() is not None

    def invalidate(
        self, connection: Connection, query: Query[Any], fields: Sequence[str], *, at: float
    ) -> None:
        """Count as stale what fits a query and was synced at or before ``at``; values stay.

        No answer may be under way: of all rows it is their pages that speak no more for these fields.
        """
        mapping = self._mappings[query.entity.__name__]
        names = [known(mapping, field) for field in fields]
        if query.filter is None:
            self._spend(connection, mapping, names, at)
        else:
            self._except(connection, mapping, query.filter, names, at)
        self.renew(connection, mapping, at)

    def _spend(
        self, connection: Connection, mapping: TableMapping[Any], names: Sequence[str], at: float
    ) -> None:
        values = {"entity": mapping.entity.__name__, "at": at}
        for name in names:
            connection.execute(_SPENT, {**values, "field": f",{name},"})
        connection.execute(_SPENT_BESIDE, {**values, "fields": json.dumps(names)})

    def _except(
        self,
        connection: Connection,
        mapping: TableMapping[Any],
        matching: Filter[Any],
        names: Sequence[str],
        at: float,
    ) -> None:
        statement = Statement(self._mappings, mapping.entity)
        head = (
            f"SELECT {statement.bind(mapping.entity.__name__)}, t._row, f.value, NULL, {statement.bind(at)}"
        )
        listed = statement.bind(json.dumps(names))
        condition = statement.condition(matching)
        sql = f"""
            INSERT INTO _max_freshness (entity, row, field, synced_at, recorded_at)
            {head} {statement.source}, json_each({listed}) AS f
             WHERE t._removed_at IS NULL AND ({condition})
            ON CONFLICT (entity, row, field) DO UPDATE
               SET synced_at = NULL, recorded_at = excluded.recorded_at
             WHERE excluded.recorded_at >= recorded_at
        """
        run(connection, sql, statement.values)

    # -- reading --------------------------------------------------------------------------

    def synced_at(self, connection: Connection, ref: Ref[Any], fields: Sequence[str]) -> list[float | None]:
        """When each field of one entity was last synced; None for never."""
        mapping = self._mappings[ref.entity.__name__]
        columns = ", ".join(mapping.synced(known(mapping, field), "t") for field in fields)
        sql = f"SELECT {columns} FROM {quoted(mapping.table)} AS t WHERE t._id = ?"
        row = connection.execute(sql, (ref.id,)).fetchone()
        return list(row) if row else [None] * len(fields)

    def stale_ids(
        self,
        connection: Connection,
        query: Query[Any],
        fields: Sequence[str],
        *,
        before: float,
        after: str,
        limit: int,
    ) -> list[str]:
        """The next ids that fit a query and of which some field is older than ``before``."""
        mapping = self._mappings[query.entity.__name__]
        statement = Statement(self._mappings, query.entity)
        condition = statement.condition(query.filter)
        stale = " OR ".join(
            f"coalesce({mapping.synced(known(mapping, field), 't')}, {NEVER}) < {statement.bind(before)}"
            for field in fields
        )
        return self._ids(connection, statement, f"({condition}) AND ({stale or 1})", after, limit)

    def unlisted_ids(
        self,
        connection: Connection,
        query: Query[Any],
        many: ManyOf[Any, Any],
        *,
        before: float,
        after: str,
        limit: int,
    ) -> list[str]:
        """The next ids that fit a query and whose collection was not listed at or after ``before``."""
        statement = Statement(self._mappings, query.entity)
        condition = statement.condition(query.filter)
        listed = (
            f"SELECT 1 FROM _max_listing AS l WHERE l.collection = {statement.bind(repr(many))}"
            f" AND l.parent = t._id AND l.listed_at >= {statement.bind(before)} AND l.invalidated_at IS NULL"
        )
        return self._ids(connection, statement, f"({condition}) AND NOT EXISTS ({listed})", after, limit)

    def _ids(
        self, connection: Connection, statement: Statement, condition: str, after: str, limit: int
    ) -> list[str]:
        orphan = (  # probably gone: a question for it would fail
            "SELECT 1 FROM _max_missing AS o"
            f" WHERE o.entity = '{statement.mapping.entity.__name__}' AND o.row = t._row"
        )
        sql = (
            f"SELECT t._id {statement.source} WHERE t._removed_at IS NULL AND {condition}"
            f" AND t._id > {statement.bind(after)} AND NOT EXISTS ({orphan}) ORDER BY t._id LIMIT {limit}"
        )
        return [row[0] for row in run(connection, sql, statement.values)]

    def ages(
        self, connection: Connection, mapping: TableMapping[Any], fields: Sequence[str], *, now: float
    ) -> dict[str, AgeHistogram]:
        """How old some fields are over all rows of an entity.

        The rows are read once for each part that the fields belong to, and each exception once.
        """
        counts: dict[str, Counter[int | None]] = {known(mapping, field): Counter() for field in fields}
        values = {"now": now, "entity": mapping.entity.__name__, "fields": json.dumps(list(counts))}
        for part in sorted({mapping.load_groups[field] for field in counts}):
            sql = _PAGE_AGES.format(
                table=quoted(mapping.table), on_page=on_page("t"), stamp=quoted(mapping.load_columns[part])
            )
            alike = [field for field in counts if mapping.load_groups[field] == part]
            for age, brought, number in connection.execute(sql, values):
                for field in alike:
                    counts[field][age if f",{field}," in (brought or "") else None] += number
        if counts:
            self._count_exceptions(connection, mapping, counts, values)
        return {field: _ages(found) for field, found in counts.items()}

    def _count_exceptions(
        self,
        connection: Connection,
        mapping: TableMapping[Any],
        counts: Mapping[str, Counter[int | None]],
        values: Mapping[str, Any],
    ) -> None:
        """Move what stands beside from the age that its page gives it to its own."""
        columns = [
            f"WHEN '{one}' THEN t.{quoted(mapping.load_columns[mapping.load_groups[one]])}" for one in counts
        ]
        sql = _BESIDE_AGES.format(
            table=quoted(mapping.table), on_page=on_page("t"), never=NEVER, columns=" ".join(columns)
        )
        for field, by_page, age, number in connection.execute(sql, values):
            counts[field][by_page] -= number
            counts[field][age] += number

    # -- what comes too late --------------------------------------------------------------

    def later(
        self, connection: Connection, mapping: TableMapping[Any], ids: Iterable[str], at: float
    ) -> dict[str, frozenset[str] | None]:
        """Of these ids, the fields that a request begun after ``at`` has brought already.

        None in place of the fields: the row was removed by a later word than this answer.
        """
        if self.renew(connection, mapping, at):
            return {}
        values = {"at": at, "entity": mapping.entity.__name__, "ids": json.dumps(list(ids))}
        candidates = connection.execute(self._candidates(mapping), values).fetchall()
        found: dict[str, frozenset[str] | None] = {id: None for id, removed in candidates if removed}
        for id, removed in candidates:
            if not removed:
                times = self.synced_at(connection, mapping.entity.ref(id), list(mapping.types))
                fields = [f for f, t in zip(mapping.types, times, strict=True) if t is not None and t > at]
                if fields:
                    found[id] = frozenset(fields)
        return found

    def _candidates(self, mapping: TableMapping[Any]) -> str:
        pages = " OR ".join(
            f"t.{quoted(stamp)} IN (SELECT id FROM _max_load WHERE entity = :entity AND requested_at > :at)"
            for stamp in mapping.load_columns.values()
        )
        return f"""
            SELECT t._id, coalesce(t._removed_at > :at, 0) FROM {quoted(mapping.table)} AS t
             WHERE t._id IN (SELECT value FROM json_each(:ids))
               AND (t._removed_at > :at OR {pages} OR EXISTS (
                    SELECT 1 FROM _max_freshness AS x
                     WHERE x.entity = :entity AND x.row = t._row AND x.synced_at > :at))
        """


def _ages(counts: Mapping[int | None, int]) -> AgeHistogram:
    aged = sorted((float(age), number) for age, number in counts.items() if age is not None and number)
    return AgeHistogram(aged, counts.get(None, 0))


def newest(connection: Connection) -> float:
    """When the latest request began whose answer is stored, or listing; 0 when nothing is stored."""
    return float(connection.execute(_NEWEST).fetchone()[0])


def known(mapping: TableMapping[Any], field: str) -> str:
    """The field's own name; UnknownName when the entity has none of it."""
    if field not in mapping.types:
        raise UnknownName("field", field, mapping.types, where=mapping.entity.__name__)
    return field


def complete_parts(mapping: TableMapping[Any], groups: Sequence[EncodedRows]) -> tuple[dict[int, None], str]:
    """The parts of which every row of a page brings every field, and those fields as text.

    Only of such parts can the page say when they were synced.
    """
    common = set(mapping.load_groups)
    for rows in groups:
        common &= set(rows.names)
    lacking = {part for field, part in mapping.load_groups.items() if field not in common}
    fields = [field for field, part in mapping.load_groups.items() if part not in lacking]
    return {mapping.load_groups[field]: None for field in fields}, f",{','.join(fields)},"


def in_time(groups: Sequence[EncodedRows], later: Mapping[str, frozenset[str] | None]) -> list[EncodedRows]:
    """The rows of which nothing came later."""
    kept = []
    for rows in groups:
        at = [number for number, id in enumerate(rows.ids) if id not in later]
        kept.append(rows if len(at) == len(rows.ids) else rows.picked(at, rows.names))
    return [rows for rows in kept if rows.ids]


def late(groups: Sequence[EncodedRows], later: Mapping[str, frozenset[str] | None]) -> list[EncodedRows]:
    """The other rows, each with those of its fields that nothing later has brought."""
    kept = []
    for rows in groups:
        for number, id in enumerate(rows.ids):
            newer = later.get(id, frozenset())
            if id in later and newer is not None:
                kept.append(rows.picked([number], tuple(n for n in rows.names if n not in newer)))
    return [rows for rows in kept if rows.names]
