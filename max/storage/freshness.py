"""Freshness: when each field of each row was last synced, and which values come too late.

**What is recorded.**  One response brings many rows, so its time is recorded once.  A *load* is
one such response: when its request began, and a bit for each field that it brought in every row.
A row names the load that brought it, one for each group of fields that arrive together
(``_load``, ``_load_1`` …).  What no load can say is recorded for one row and one field in
``_max_freshness``: a field that came in only some of the rows, or an invalidation (``synced_at``
is NULL).

**The invariant.**  A field of a row was synced when its load was requested, unless
``_max_freshness`` has a later record; then that record holds.

**Example.**  A listing (load 1, requested at 10:00) brings the title and status of three tasks.  A
request for one task (load 2, 10:05) brings a body.  At 10:07 the status of a is invalidated.

    row  _load  _load_1  _max_freshness        title  status  body
    a    1      2        status: NULL, 10:07   10:00  never   10:05
    b    1      -                              10:00  10:00   never
    c    1      -                              10:00  10:00   never

**A listing that is read again** reuses the load of each of its pages.  Rows that did not change
still name that load and are not written, and are as fresh as it is.  So such a load speaks only
for rows that this pass over the listing has shown: those whose membership has its generation, and the
members of a page that it has shown again, whose memberships have its number and the load's ``since``.

**Responses out of order.**  Of two responses for one field, the one that was requested later wins,
whichever is stored first.  ``_max_high_water`` has the latest request of each entity, and when the
latest page of a listing or a feed came: a response requested after both is stored without comparing
it row by row.

**Requests that overlap**, that is, one began before the other was answered, may have been answered
in either order, so the winner may know less than the loser.  For one row by itself that is no loss:
the value is as new as its own request.  A page of a listing or a feed has a bookmark besides, behind
which the change lies that only it knew.  So where an overlapping response has another value than the
page, whichever of them was stored first, the listings of the row are read in full once more (and what
no listing brings is stale).  Where one of them says that the row is gone it stays, and is looked for.
``received_at`` says of each load when it came.

    page A of a listing      |----------------a|       a: answered, with the change
    request B for the row        |---b-----------|     b: answered before the change
    stored                                     A B     B's value stays; A's listing is read in full

**After a crash** a response is stored with its load, or neither is: they share a transaction.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

from ..errors import UnknownName
from ..model.columns import EncodedRows
from ..model.delivery import AgeHistogram
from ..model.entities import ManyOf, Ref
from ..model.filters import Filter
from ..model.query import Query
from .database import TRUE, Connection, RenameOwner, Targets, decoding, joined, quoted
from .query_sql import Statement, run
from .rows import BITS, NEVER, TableMapping, load_bitmap
from .sync_state import IS_DOUBTFUL

TABLES = """
    CREATE TABLE _max_load (
        id           {serial},
        entity       TEXT NOT NULL,
        listing      INTEGER,
        number       INTEGER,
        generation   INTEGER,
        requested_at REAL NOT NULL,
        fields       INTEGER NOT NULL
    );
    CREATE UNIQUE INDEX _max_load_page ON _max_load (listing, number, entity) WHERE listing IS NOT NULL;
    CREATE INDEX _max_load_time ON _max_load (entity, requested_at);
    CREATE TABLE _max_freshness (
        entity      TEXT NOT NULL,
        row         INTEGER NOT NULL,
        field       TEXT NOT NULL,
        synced_at   REAL,
        recorded_at REAL NOT NULL,
        PRIMARY KEY (entity, row, field)
    ) {by_key};
    CREATE TABLE _max_high_water (
        entity       TEXT PRIMARY KEY,
        requested_at REAL NOT NULL
    ) {by_key};
    CREATE TABLE _max_kept_loads (number INTEGER NOT NULL)
"""
# Of two records of one field the later one holds, whichever is stored first.
RECORD = """
    INSERT INTO _max_freshness (entity, row, field, synced_at, recorded_at, received_at)
    SELECT :entity, _row, f.value, :synced_at, :recorded_at, :received_at
      FROM {table}, {each:fields} AS f
     WHERE _id IN {set:ids}
    ON CONFLICT (entity, row, field) DO UPDATE
       SET synced_at = CASE WHEN excluded.recorded_at >= _max_freshness.recorded_at
                            THEN excluded.synced_at ELSE _max_freshness.synced_at END,
           recorded_at = CASE WHEN excluded.recorded_at >= _max_freshness.recorded_at
                              THEN excluded.recorded_at ELSE _max_freshness.recorded_at END,
           received_at = coalesce(excluded.received_at, _max_freshness.received_at)
"""
# What the load of a row says of a field becomes a record, since a load of ``:at`` is to say otherwise.
KEEP = """
    INSERT INTO _max_freshness (entity, row, field, synced_at, recorded_at)
    SELECT :entity, row, :field, at, :at FROM (
           SELECT t._row AS row, {synced} AS at, t.{load} AS load FROM {{table}} AS t
            WHERE t._id IN {{set:ids}}) AS known WHERE at IS NOT NULL OR load IS NOT NULL
    ON CONFLICT (entity, row, field) DO UPDATE
       SET synced_at = excluded.synced_at, recorded_at = excluded.recorded_at
"""
EXPIRE_RECORDS = """
    UPDATE _max_freshness SET synced_at = NULL, recorded_at = :at
     WHERE entity = :entity AND recorded_at <= :at AND field IN {set:fields}
"""
# Both times only grow: responses may be stored in another order than they were requested in.
ADVANCE_HIGH_WATER = """
    INSERT INTO _max_high_water AS w (entity, requested_at, marked_at)
    VALUES (:entity, :latest, :marked_at)
    ON CONFLICT (entity) DO UPDATE
       SET requested_at = CASE WHEN excluded.requested_at > w.requested_at
                               THEN excluded.requested_at ELSE w.requested_at END,
           marked_at = CASE WHEN excluded.marked_at > w.marked_at
                            THEN excluded.marked_at ELSE w.marked_at END
"""
ADVANCE_UNLESS_LATER = f"""{ADVANCE_HIGH_WATER}
     WHERE :at >= w.requested_at AND :at >= w.marked_at
    RETURNING requested_at
"""
# Rows of which a load or a record came after the request, or that were removed since.
STORED_MEANWHILE = """
    SELECT t._id, t._removed_at > :at FROM {{table}} AS t
     WHERE t._id IN {{set:ids}} AND (t._removed_at > :at OR {loads} OR EXISTS (
           SELECT 1 FROM _max_freshness AS x
            WHERE x.entity = :entity AND x.row = t._row AND (x.synced_at > :at OR x.received_at > :at)))
"""
LOADED_MEANWHILE = """
    t.{column} IN (SELECT id FROM _max_load WHERE entity = :entity AND received_at > :at)
"""
# The response itself (``:at``, ``:came``) may be stored: it did not come after the request for it.
LOADS_OF = f"""
    SELECT t._id, p.requested_at,
           coalesce(CASE WHEN (p.requested_at, p.received_at) <> (:at, :came) THEN p.received_at END, {NEVER})
           {{bitmaps}}
      FROM {{{{table}}}} AS t JOIN _max_load AS p ON p.id = t.{{column}} AND {{speaks}}
     WHERE t._id IN {{{{set:ids}}}}
"""
RECORDS_OF = f"""
    SELECT t._id, x.field, coalesce(x.synced_at, {NEVER}), x.recorded_at,
           coalesce(CASE WHEN (x.recorded_at, x.received_at) <> (:at, :came) THEN x.received_at END, {NEVER})
      FROM {{table}} AS t JOIN _max_freshness AS x ON x.entity = :entity AND x.row = t._row
     WHERE t._id IN {{set:ids}}
"""
CONFIRM_LOADS = """
    UPDATE _max_load SET received_at = :came
     WHERE received_at < :came AND id IN (SELECT t.{column} FROM {{table}} AS t WHERE t._id IN {{set:ids}})
"""
CONFIRM_RECORDS = """
    UPDATE _max_freshness SET received_at = :came
     WHERE entity = :entity AND received_at < :came
       AND row IN (SELECT t._row FROM {table} AS t WHERE t._id IN {set:ids})
"""
# Requests to come must be later than every time that was stored, whatever the clock says.
LATEST_REQUEST = """
    SELECT coalesce(max(at), 0) FROM (
        SELECT max(requested_at) AS at FROM _max_high_water
         UNION ALL SELECT max(began_at) FROM _max_listing
         UNION ALL SELECT max(read_at) FROM _max_feed_state
         UNION ALL SELECT max(missing_since) FROM _max_missing) AS times
"""
CLOCK_SKEW = 60  # seconds by which a clock may be set back before later times count as unknown
LOADS_TOO_MANY = 2  # times as many as at the last look: then those that no row names are deleted


class PagePosition(NamedTuple):
    """Which page of which pass over a listing brings rows."""

    listing: int
    generation: int
    number: int
    has_known: bool = False  # some pages of the listing are known


class Meanwhile(NamedTuple):
    """What is stored of some rows that came between a request and its answer.

    ``newer``: the fields of each row that a later request brought; None in place of the fields when the
    row was removed by a later response.  ``overlapping``: the fields that came after this request, and were
    asked for before; none unless a page of a listing or a feed is among what came.
    """

    newer: Mapping[str, frozenset[str] | None] = {}
    overlapping: Mapping[str, frozenset[str]] = {}


class Freshness(RenameOwner):
    """The SQL of freshness over the tables of one schema."""

    def __init__(self, mappings: Mapping[str, TableMapping[Any]]) -> None:
        self._mappings = mappings

    def add_bitmaps(self, connection: Connection) -> None:
        """Have bits in loads for the fields of the widest entity."""
        words = max((len(mapping.bitmaps) for mapping in self._mappings.values()), default=1)
        present = connection.dialect.columns(connection, "_max_load") if words > 1 else set()
        for column in map(load_bitmap, range(1, words)):
            if column not in present:
                connection.execute(f"ALTER TABLE _max_load ADD COLUMN {column} INTEGER NOT NULL DEFAULT 0")

    # -- recording ------------------------------------------------------------------------

    def record_load(
        self,
        connection: Connection,
        mapping: TableMapping[Any],
        fields: Sequence[int],
        at: float,
        received_at: float,
        position: PagePosition | None,
    ) -> int:
        """Record a response that brought some fields (as bitmaps) in every row; the number of its load.

        With a position, the load of the same page of the listing's last pass is reused.
        """
        return self.record_loads(connection, mapping, fields, [(at, received_at)], position)[0]

    def record_loads(
        self,
        connection: Connection,
        mapping: TableMapping[Any],
        fields: Sequence[int],
        times: Iterable[tuple[float, float]],
        position: PagePosition | None = None,
    ) -> list[int]:
        """The same for responses of several times; the number of each one's load."""
        page = (None, None, None) if position is None else position[:3]
        rows = [(mapping.entity.__name__, *page, *asked_and_came, *fields) for asked_and_came in times]
        return [number for (number,) in connection.execute_each(_insert_load(len(mapping.bitmaps)), rows)]

    def record(
        self,
        connection: Connection,
        mapping: TableMapping[Any],
        ids: Sequence[str],
        fields: Sequence[str],
        *,
        synced_at: float | None,
        recorded_at: float,
        received_at: float | None = None,
    ) -> None:
        """Record for some rows when fields were synced, or (None) that older values are stale.

        ``received_at``: when the response came that brought them.
        """
        values = {
            "entity": mapping.entity.__name__,
            "ids": connection.dialect.array(ids),
            "fields": connection.dialect.array(_known(mapping, fields)),
            "synced_at": synced_at,
            "recorded_at": recorded_at,
            "received_at": received_at,
        }
        connection.execute(mapping.sql(RECORD), values)
        self.advance_high_water(connection, mapping, recorded_at)

    def keep(self, connection: Connection, mapping: TableMapping[Any], ids: Sequence[str], at: float) -> None:
        """The fields of some rows stay as old as they are, although a load of ``at`` shows them.

        Rows that another page has brought are of an unknown age once its load is of a later pass.
        """
        for name in mapping.types:
            values = {"entity": mapping.entity.__name__, "field": name, "at": at}
            values["ids"] = connection.dialect.array(ids)
            load = quoted(mapping.load_columns[mapping.load_groups[name]])
            sql = KEEP.format(synced=mapping.synced(name, "t"), load=load)
            connection.execute(mapping.sql(sql), values)

    def advance_high_water(self, connection: Connection, mapping: TableMapping[Any], latest: float) -> None:
        """Record when the latest request for an entity began."""
        values = {"entity": mapping.entity.__name__, "latest": latest, "marked_at": 0.0}
        connection.execute(ADVANCE_HIGH_WATER, values)

    def invalidate(
        self, connection: Connection, query: Query[Any], fields: Sequence[str], *, at: float
    ) -> None:
        """Count fields of a query's rows as stale that were synced at or before ``at``; values stay.

        No response may be under way: with all rows, their loads lose the bits of these fields.
        """
        mapping = self._mappings[query.entity.__name__]
        names = _known(mapping, fields)
        if query.filter is None:
            self._expire_loads(connection, mapping, names, at)
        else:
            self._expire_rows(connection, mapping, query.filter, names, at)
        self.advance_high_water(connection, mapping, at)

    def _expire_loads(
        self, connection: Connection, mapping: TableMapping[Any], names: Sequence[str], at: float
    ) -> None:
        for word, bits in enumerate(mapping.bitmap_values(names)):
            column = load_bitmap(word)
            connection.execute(
                f"UPDATE _max_load SET {column} = {column} & ~{bits}"
                f" WHERE entity = ? AND requested_at <= ? AND ({column} & {bits}) <> 0",
                (mapping.entity.__name__, at),
            )
        values = {"entity": mapping.entity.__name__, "at": at, "fields": connection.dialect.array(names)}
        connection.execute(connection.dialect.sql(EXPIRE_RECORDS), values)

    def _expire_rows(
        self,
        connection: Connection,
        mapping: TableMapping[Any],
        matching: Filter[Any],
        names: Sequence[str],
        at: float,
    ) -> None:
        statement = Statement(self._mappings, mapping.entity)
        entity, recorded_at = statement.bind(mapping.entity.__name__), statement.bind(at)
        fields = ", ".join(f"({statement.bind(name)})" for name in names)
        condition = statement.condition(matching)
        sql = f"""
            INSERT INTO _max_freshness (entity, row, field, synced_at, recorded_at)
            SELECT {entity}, t._row, f.column1, NULL, {recorded_at}
              {statement.source} CROSS JOIN (VALUES {fields}) AS f
             WHERE t._removed_at IS NULL AND ({condition})
            ON CONFLICT (entity, row, field) DO UPDATE
               SET synced_at = NULL, recorded_at = excluded.recorded_at
             WHERE excluded.recorded_at >= _max_freshness.recorded_at
        """
        connection.dialect.prepare(connection, sql)
        connection.execute(sql, statement.values)

    def forget(self, connection: Connection, after: float, now: float) -> None:
        """Count as never synced whatever a request brought that began after a time.

        A field that moved later than now has moved now, and no request is known that began later.
        With -inf for the time, as another account wants it, the next value of a watched field has moved
        even if it equals the stored one.
        """
        for name in ("requested_at", "marked_at"):
            later = f"UPDATE _max_high_water SET {name} = :now WHERE {name} > :now"
            connection.execute(later, {"now": now})
        for mapping in self._mappings.values():
            for column in map(quoted, mapping.moved_columns.values()):
                moved, since = (NEVER, after) if after == -math.inf else (":now", now)
                sql = mapping.sql(f"UPDATE {{table}} SET {column} = {moved} WHERE {column} > :since")
                connection.execute(sql, {"now": now, "since": since})
        words = max((len(mapping.bitmaps) for mapping in self._mappings.values()), default=1)
        bits = ", ".join(f"{load_bitmap(word)} = 0" for word in range(words))
        for statement in (
            f"UPDATE _max_load SET requested_at = 0, {bits} WHERE requested_at > ?",
            "UPDATE _max_load SET received_at = NULL WHERE received_at > ?",
            "UPDATE _max_freshness SET synced_at = NULL, recorded_at = 0 WHERE recorded_at > ?",
            "UPDATE _max_freshness SET received_at = NULL WHERE received_at > ?",
        ):
            connection.execute(statement, (after,))

    # -- reading --------------------------------------------------------------------------

    def synced_at(self, connection: Connection, ref: Ref[Any], fields: Sequence[str]) -> list[float | None]:
        """When each field of one row was last synced; None for never."""
        mapping = self._mappings[ref.entity.__name__]
        columns = ", ".join(mapping.synced(field, "t") for field in _known(mapping, fields))
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
        """The next ids of a query's rows that have a field older than ``before``."""
        mapping = self._mappings[query.entity.__name__]
        statement = Statement(self._mappings, query.entity)
        condition = statement.condition(query.filter)
        parts = [_stale(mapping, field, statement.bind(before)) for field in _known(mapping, fields)]
        stale = joined("OR", parts) or TRUE
        return self._ids(connection, statement, f"({condition}) AND ({stale})", after, limit)

    def stale(
        self, connection: Connection, ref: Ref[Any], fields: Sequence[str], *, before: float
    ) -> set[str]:
        """Those of the fields of one row that are older than ``before``, or than the last move."""
        mapping = self._mappings[ref.entity.__name__]
        columns = ", ".join(_stale(mapping, field, ":before") for field in _known(mapping, fields))
        sql = f"SELECT {columns} FROM {quoted(mapping.table)} AS t WHERE t._id = :id"
        row = connection.execute(sql, {"id": ref.id, "before": before}).fetchone()
        return {field for field, is_stale in zip(fields, row or [1] * len(fields), strict=True) if is_stale}

    def unlisted_ids(
        self,
        connection: Connection,
        query: Query[Any],
        many: ManyOf[Any, Any],
        *,
        before: float,
        after: str,
        limit: int,
        proven: bool,
        known: bool,
    ) -> list[str]:
        """The next ids of a query's rows whose collection was not listed at or after ``before``."""
        listed_at = "covered_at" if proven else "listed_at"
        statement = Statement(self._mappings, query.entity)
        condition = statement.condition(query.filter)
        listing = "SELECT 1 FROM _max_listing AS l WHERE l.parent = t._id"
        if known:
            condition = (
                f"({condition}) AND EXISTS ({listing} AND l.collection = {statement.bind(repr(many))})"
            )
        listed = f"{listing} AND l.collection = {statement.bind(repr(many))} AND l.invalidated_at IS NULL"
        moved_at = statement.mapping.moved_at(many.name, "t")
        is_recent = f"l.{listed_at} >= {statement.bind(before)}"
        if proven and moved_at:  # that the parent has not moved is as good as listing it again
            watched = statement.mapping.synced(statement.mapping.watched[many.name], "t")
            is_recent = f"({is_recent} OR {watched} >= {statement.bind(before)})"
        listed += f" AND {is_recent}" + (f" AND l.{listed_at} >= {moved_at}" if moved_at else "")
        return self._ids(connection, statement, f"({condition}) AND NOT EXISTS ({listed})", after, limit)

    def _ids(
        self, connection: Connection, statement: Statement, condition: str, after: str, limit: int
    ) -> list[str]:
        missing = (  # a row that is probably gone: a request for it would fail
            "SELECT 1 FROM _max_missing AS m"
            f" WHERE m.entity = '{statement.mapping.entity.__name__}' AND m.row = t._row AND {IS_DOUBTFUL}"
        )
        sql = (
            f"SELECT t._id {statement.source} WHERE t._removed_at IS NULL AND {condition}"
            f" AND t._id > {statement.bind(after)} AND NOT EXISTS ({missing}) ORDER BY t._id LIMIT {limit}"
        )
        return [row[0] for row in run(connection, sql, statement.values)]

    # -- ages -----------------------------------------------------------------------------

    def ages(
        self, connection: Connection, mapping: TableMapping[Any], fields: Sequence[str], *, now: float
    ) -> dict[str, AgeHistogram]:
        """How old some fields are over all rows of an entity.

        The rows are read once for each group of fields that arrive together, and each exception once.
        """
        counts: dict[str, Counter[int | None]] = {field: Counter() for field in _known(mapping, fields)}
        for group in sorted({mapping.load_groups[field] for field in counts}):
            together = [field for field in counts if mapping.load_groups[field] == group]
            for age, number, *bitmaps in self._load_ages(connection, mapping, group, now):
                for field in together:
                    word, bit = divmod(mapping.bits[field], BITS)
                    brought = bitmaps[word] is not None and bitmaps[word] >> bit & 1
                    counts[field][age if brought else None] += number
        if counts:
            self._move_exceptions(connection, mapping, counts, now)
        return {field: histogram(found) for field, found in counts.items()}

    def _load_ages(
        self, connection: Connection, mapping: TableMapping[Any], group: int, now: float
    ) -> list[tuple[Any, ...]]:
        """The ages that loads give rows: age, how many rows, and the bitmaps of the fields brought."""
        bitmaps = [f"p.{load_bitmap(word)}" for word in range(len(mapping.bitmaps))]
        positions = ", ".join(map(str, range(3, 3 + len(bitmaps))))  # a field may have any name
        sql = f"""
            SELECT {connection.dialect.whole("? - p.requested_at")}, count(*), {", ".join(bitmaps)}
              FROM {quoted(mapping.table)} AS t
              LEFT JOIN _max_load AS p
                ON p.id = t.{quoted(mapping.load_columns[group])} AND {mapping.speaks_for("t")}
             WHERE t._removed_at IS NULL
             GROUP BY 1, {positions}
        """
        return connection.execute(sql, (now,)).fetchall()

    def _move_exceptions(
        self,
        connection: Connection,
        mapping: TableMapping[Any],
        counts: Mapping[str, Counter[int | None]],
        now: float,
    ) -> None:
        """Count each exception at its own age instead of at its load's."""
        loads = [
            f"WHEN '{field}' THEN t.{quoted(mapping.load_columns[mapping.load_groups[field]])}"
            for field in counts
        ]
        brought = [f"WHEN '{field}' THEN {mapping.brought(field)}" for field in counts]
        own = f"""
            :now - CASE WHEN x.recorded_at >= coalesce(p.requested_at, {NEVER})
                        THEN x.synced_at ELSE p.requested_at END
        """
        whole = connection.dialect.whole
        sql = f"""
            SELECT x.field, {whole(":now - p.requested_at")}, {whole(own)}, count(*)
              FROM _max_freshness AS x
              JOIN {quoted(mapping.table)} AS t ON t._row = x.row AND t._removed_at IS NULL
              LEFT JOIN _max_load AS p ON p.id = CASE x.field {" ".join(loads)} END
                                      AND CASE x.field {" ".join(brought)} END AND {mapping.speaks_for("t")}
             WHERE x.entity = :entity AND x.field IN {connection.dialect.set_of(":fields")}
             GROUP BY 1, 2, 3
        """
        fields = connection.dialect.array(counts)
        values = {"now": now, "entity": mapping.entity.__name__, "fields": fields}
        for field, of_load, age, number in connection.execute(sql, values):
            counts[field][of_load] -= number
            counts[field][age] += number

    # -- responses out of order -----------------------------------------------------------

    def stored_meanwhile(
        self,
        connection: Connection,
        mapping: TableMapping[Any],
        ids: Iterable[str],
        at: float,
        came: float,
        *,
        latest: float | None = None,
        marked: bool = False,
    ) -> Meanwhile:
        """What is stored of these rows that came after the request for them, and before them, at ``came``.

        They come by requests from ``at`` to ``latest``, which are noted; ``marked``: with a page of a listing
        or a feed.
        """
        values = {"entity": mapping.entity.__name__, "at": at}
        latest, marked_at = at if latest is None else latest, came if marked else 0.0
        water = {**values, "latest": latest, "marked_at": marked_at}
        if connection.execute(ADVANCE_UNLESS_LATER, water).fetchone() is not None:
            return Meanwhile()
        (latest_mark,) = connection.execute(f"{ADVANCE_HIGH_WATER} RETURNING marked_at", water).fetchone()
        loads = [LOADED_MEANWHILE.format(column=quoted(name)) for name in mapping.load_columns.values()]
        sql = mapping.sql(STORED_MEANWHILE.format(loads=joined("OR", loads)))
        rows = connection.execute(sql, {**values, "ids": connection.dialect.array(ids)}).fetchall()
        newer: dict[str, frozenset[str] | None] = {id: None for id, removed in rows if removed}
        there = [id for id, removed in rows if not removed]
        if not there:
            return Meanwhile(newer)
        later, overlapping = self._came_after(connection, mapping, there, at, came)
        return Meanwhile(newer | later, overlapping if latest_mark > at else {})

    def _came_after(
        self,
        connection: Connection,
        mapping: TableMapping[Any],
        ids: Sequence[str],
        at: float,
        came: float,
    ) -> tuple[dict[str, frozenset[str]], dict[str, frozenset[str]]]:
        """The fields of rows that were synced after a request, and those that only came after it.

        The response to that request, which came at ``came``, does not count.  Both follow from the invariant;
        a row is looked up once for all of its fields that come together.
        """
        newer, after = defaultdict[str, set[str]](set), defaultdict[str, set[str]](set)
        loads = defaultdict[str, list[tuple[frozenset[str], float]]](list)
        values = {"entity": mapping.entity.__name__, "at": at, "came": came}
        values["ids"] = connection.dialect.array(ids)
        for id, fields, requested_at, received_at in _loads_of(connection, mapping, values):
            loads[id].append((fields, requested_at))
            newer[id].update(fields if requested_at > at else ())
            after[id].update(fields if received_at > at else ())
        records = connection.execute(mapping.sql(RECORDS_OF), values)
        for id, name, synced_at, recorded_at, received_at in records:
            if all(recorded_at >= requested_at for fields, requested_at in loads[id] if name in fields):
                newer[id].discard(name)
                newer[id].update([name] if synced_at > at else ())
            after[id].update([name] if received_at > at else ())
        overlapping = {id: frozenset(names - newer[id]) for id, names in after.items()}
        found = {id: frozenset(names) for id, names in newer.items() if names}
        return found, {id: names for id, names in overlapping.items() if names}

    def confirm(
        self, connection: Connection, mapping: TableMapping[Any], ids: Sequence[str], came: float
    ) -> None:
        """A page that came says of some rows what is stored of them, or what overlaps with it.

        So what was asked for before it came overlaps with what is stored.  That is said of whole loads, so
        also of rows that the page did not have; it matters only where a response says something else.
        """
        values = {"entity": mapping.entity.__name__, "came": came, "ids": connection.dialect.array(ids)}
        for column in mapping.load_columns.values():
            connection.execute(mapping.sql(CONFIRM_LOADS.format(column=quoted(column))), values)
        connection.execute(mapping.sql(CONFIRM_RECORDS), values)

    # -- forgetting -----------------------------------------------------------------------

    def drop_unused_loads(self, connection: Connection) -> None:
        """Delete the loads that no row names, once there are many more than the last time."""
        (loads,) = connection.execute("SELECT count(*) FROM _max_load").fetchone()
        kept = connection.execute("SELECT coalesce(max(number), 0) FROM _max_kept_loads").fetchone()[0]
        with decoding("loads"):
            if loads <= LOADS_TOO_MANY * kept:
                return
        for mapping in self._mappings.values() if kept else ():  # rows name all loads of a first sync
            table = quoted(mapping.table)
            unused = [
                f"id NOT IN (SELECT {column} FROM {table} WHERE {column} IS NOT NULL)"
                for column in map(quoted, mapping.load_columns.values())
            ]
            sql = f"DELETE FROM _max_load WHERE entity = ? AND {joined('AND', unused)}"
            connection.execute(sql, (mapping.entity.__name__,))
        connection.execute("DELETE FROM _max_kept_loads")
        connection.execute("INSERT INTO _max_kept_loads SELECT count(*) FROM _max_load")

    # -- migrations -----------------------------------------------------------------------

    def rename_entity(self, connection: Connection, old: str, new: str) -> None:
        """Loads, records and the latest request follow the entity's name."""
        for table in ("_max_load", "_max_freshness", "_max_high_water"):
            connection.execute(f"UPDATE {table} SET entity = ? WHERE entity = ?", (new, old))

    def rename_field(self, connection: Connection, entity: str, old: str, new: str, targets: Targets) -> None:
        """Records follow a field's name; loads know fields by their bits, which stay."""
        sql = "UPDATE _max_freshness SET field = ? WHERE entity = ? AND field = ?"
        connection.execute(sql, (new, entity, old))

    def drop_entity(self, connection: Connection, entity: str) -> None:
        """Nothing of the entity was ever synced."""
        for table in ("_max_load", "_max_freshness", "_max_high_water"):
            connection.execute(f"DELETE FROM {table} WHERE entity = ?", (entity,))

    def drop_field(self, connection: Connection, entity: str, name: str) -> None:
        """The field was never synced, in any row."""
        sql = "SELECT bit FROM _max_field WHERE entity = ? AND field = ?"
        found = connection.execute(sql, (entity, name)).fetchone()
        if found is not None:
            word, bit = divmod(found[0], BITS)
            column = load_bitmap(word)
            update = f"UPDATE _max_load SET {column} = {column} & ~{1 << bit} WHERE entity = ?"
            connection.execute(update, (entity,))
        connection.execute("DELETE FROM _max_freshness WHERE entity = ? AND field = ?", (entity, name))

    def drop_rows(self, connection: Connection, entity: str, rows: str, collections: Sequence[str]) -> None:
        """The records of deleted rows go."""
        connection.execute(f"DELETE FROM _max_freshness WHERE entity = ? AND row IN ({rows})", (entity,))


def _stale(mapping: TableMapping[Any], field: str, before: str) -> str:
    """SQL that is true when a field of the row ``t`` is to be fetched: it is old, or a watched field moved.

    What came in the response that also brought the watched field is as new as that.
    """
    synced = mapping.synced(field, "t")
    stale = f"coalesce({synced}, {NEVER}) < {before}"
    moved_at = mapping.moved_at(field, "t")
    if moved_at is None:
        return stale
    watched = mapping.synced(mapping.watched[field], "t")
    moved = f"coalesce({synced}, {NEVER}) < {moved_at} AND {synced} IS DISTINCT FROM {watched}"
    return f"({stale} OR {moved})"


def _loads_of(
    connection: Connection, mapping: TableMapping[Any], values: Mapping[str, Any]
) -> Iterator[tuple[str, frozenset[str], float, float]]:
    """The loads of some rows: the row, the fields that the load brought, when it was requested and came."""
    bitmaps = "".join(f", p.{load_bitmap(word)}" for word in range(len(mapping.bitmaps)))
    for group, column in mapping.load_columns.items():
        names = [name for name, own in mapping.load_groups.items() if own == group]
        sql = LOADS_OF.format(column=quoted(column), bitmaps=bitmaps, speaks=mapping.speaks_for("t"))
        brought: dict[tuple[int, ...], frozenset[str]] = {}
        for id, requested_at, received_at, *bits in connection.execute(mapping.sql(sql), values):
            key = tuple(bits)
            fields = brought.get(key) or brought.setdefault(key, _names_in(mapping, names, key))
            yield id, fields, requested_at, received_at


def _names_in(mapping: TableMapping[Any], names: Sequence[str], bitmaps: Sequence[int]) -> frozenset[str]:
    """Those of some fields whose bits are set."""
    places = {name: divmod(mapping.bits[name], BITS) for name in names}
    return frozenset(name for name, (word, bit) in places.items() if bitmaps[word] >> bit & 1)


@cache
def _insert_load(words: int) -> str:
    columns = [load_bitmap(word) for word in range(words)]
    changed = ", ".join(
        f"{name} = excluded.{name}"
        for name in ("generation", "since", "requested_at", "received_at", *columns)
    )
    names = ("entity", "listing", "generation", "number", "requested_at", "received_at", *columns)
    return (
        f"INSERT INTO _max_load ({', '.join(names)})"
        f" VALUES (?{', ?' * (len(names) - 1)})"
        f" ON CONFLICT (listing, number, entity) WHERE listing IS NOT NULL DO UPDATE SET {changed}"
        " RETURNING id"
    )


def latest_request(connection: Connection) -> float:
    """When the latest request began of which something is stored; 0 when nothing is."""
    with decoding("times"):
        return float(connection.execute(LATEST_REQUEST).fetchone()[0])


def latest_time(connection: Connection) -> float:
    """The same, or when the latest page of a listing or a feed came, if that was later."""
    with decoding("times"):
        marked = connection.execute("SELECT coalesce(max(marked_at), 0) FROM _max_high_water").fetchone()
        return max(latest_request(connection), float(marked[0]))


def histogram(counts: Mapping[int | None, int]) -> AgeHistogram:
    """How many rows have each age, from counts by whole seconds; None, and a time to come, is never."""
    ages: Counter[float] = Counter()
    never = 0
    for age, number in counts.items():
        if age is None or age < -CLOCK_SKEW:
            never += number
        elif number:
            ages[float(max(age, 0))] += number
    return AgeHistogram(sorted(ages.items()), never)


def _known(mapping: TableMapping[Any], fields: Sequence[str]) -> Sequence[str]:
    """The fields; UnknownName when the entity does not have one of them."""
    for field in fields:
        if field not in mapping.types:
            raise UnknownName("field", field, mapping.types, where=mapping.entity.__name__)
    return fields


def covered_groups(
    mapping: TableMapping[Any], groups: Sequence[EncodedRows]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The load groups of which every row brings every field, and bitmaps of those fields.

    Only of these can a load say when they were synced.
    """
    names = groups[0].names
    if len(groups) > 1:
        common = set(names).intersection(*(rows.names for rows in groups))
        names = tuple(name for name in names if name in common)
    found = mapping.covered.get(names)
    if found is None:
        lacking = {group for field, group in mapping.load_groups.items() if field not in names}
        fields = [field for field, group in mapping.load_groups.items() if group not in lacking]
        numbers = tuple(dict.fromkeys(mapping.load_groups[field] for field in fields))
        found = mapping.covered[names] = (numbers, tuple(mapping.bitmap_values(fields)))
    return found


def rows_without_newer(
    groups: Sequence[EncodedRows], newer: Mapping[str, frozenset[str] | None]
) -> list[EncodedRows]:
    """The rows of which nothing newer is stored."""
    kept = []
    for rows in groups:
        at = [number for number, id in enumerate(rows.ids) if id not in newer]
        kept.append(rows if len(at) == len(rows.ids) else rows.picked(at, rows.names))
    return [rows for rows in kept if rows.ids]


def rows_with_newer(
    groups: Sequence[EncodedRows], newer: Mapping[str, frozenset[str] | None]
) -> list[EncodedRows]:
    """The other rows, each with those of its fields of which nothing newer is stored."""
    kept = []
    for rows in groups:
        for number, id in enumerate(rows.ids):
            stored = newer.get(id, frozenset())
            if id in newer and stored is not None:
                kept.append(rows.picked([number], tuple(n for n in rows.names if n not in stored)))
    return [rows for rows in kept if rows.names]
