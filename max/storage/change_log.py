"""The change log: what changed in each row, for readers that follow it or replay it.

**The database itself records.**  While history is on, triggers on the entities' tables record each
change of a row in the transaction that makes it, whatever program that is.  While it is off there
are no triggers, and nothing is written.

**What is recorded.**  A change has its time, its sync, the row, and the old and new values of the
fields that changed.  The first sync of an installation is not recorded, since all that it could
say is that every row is new: recording begins when it has ended, and costs it nothing.

**The beginning.**  The log begins after the record ``floor``.  Records that are too old are deleted,
and the floor moves on.  The rows as they were at the floor are stored nowhere: a record can be
undone, so undoing all records after the floor, newest first, leads from the rows of now to those.

**The invariant.**  Those rows, and the log replayed on them, give the rows as they are now.

**Example.**  A task is created, its status changes, and the task is removed.

    id  kind     old                new
    1   created  -                  title: Write, status: todo
    2   updated  status: todo       status: done
    3   removed  title, status …    -

With the floor at 0 there was no row at the beginning.  With the floor at 2, undoing 3 gives the
row (title: Write, status: done).

Records number entities and fields, as ``_max_field`` does, so renames change no record.  Values
are JSON of what the table holds; a float is a text with all its digits.
"""

from __future__ import annotations

import json
import time
from binascii import b2a_base64
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from itertools import groupby, islice, takewhile
from operator import itemgetter
from typing import Any, NamedTuple, cast

from ..errors import CursorExpired, HistoryError, InvalidCursor
from ..model.changes import ALL_ROWS, KINDS, NOW, TIMES, Change, ChangeKind, ChangePage, ChangeSummary
from ..model.columns import DECODERS, STORED, TEXTS, decode_column, no_value, unreadable
from ..model.delivery import Delivery
from ..model.entities import Entity, FieldType, Ref
from ..model.struct import Struct, checked
from ..model.values import Kind
from .catalogue import drop, has_part, migrate, only_row, put
from .database import FALSE, TRUE, Connection, Database, Dialect, RenameOwner, decoding, joined, quoted
from .rows import BITS, TableMapping

PAGE = 1_000  # changes that are read or deleted at a time
MOST_EXPIRED = 200  # pages that one sync deletes; the next sync goes on
OFF, ON, HELD = 0, 1, 2  # recording; HELD: it begins when the first sync has ended

OWNER = "change log"  # of these tables, in the catalogue
MIGRATIONS = (
    """
    CREATE TABLE _max_change_log (
        name      TEXT NOT NULL,
        recording INTEGER NOT NULL,
        floor     INTEGER NOT NULL,
        at        REAL,
        sync      TEXT
    );
    INSERT INTO _max_change_log VALUES ({random}, 0, 0, NULL, NULL);
    CREATE TABLE _max_change_entity (
        id    {serial},
        name  TEXT NOT NULL UNIQUE,
        kinds TEXT NOT NULL
    );
    CREATE TABLE _max_change (
        id     {row_id},
        at     REAL NOT NULL,
        sync   TEXT,
        number INTEGER NOT NULL,
        row    TEXT NOT NULL,
        kind   TEXT NOT NULL,
        old    TEXT,
        new    TEXT
    );
    CREATE TABLE _max_change_base (
        number INTEGER NOT NULL,
        row    TEXT NOT NULL,
        at     REAL NOT NULL,
        sync   TEXT,
        new    TEXT NOT NULL,
        PRIMARY KEY (number, row)
    ) {by_key}
    """,
    """
    DROP TABLE _max_change_base;
    CREATE INDEX _max_change_row ON _max_change (number, row)
    """,
)
# ``at`` and ``sync`` of _max_change_log say whose writing is under way; other programs leave them
# NULL, and their changes happen now.
ORIGIN = "UPDATE _max_change_log SET at = ?, sync = ?"
LOG = """
    SELECT name, recording, floor, (SELECT coalesce(max(id), 0) FROM _max_change),
           coalesce((SELECT at FROM _max_change WHERE id >= floor ORDER BY id LIMIT 1), 0)
      FROM _max_change_log
"""
FLOOR_IS_NEWEST = "floor = (SELECT max(id) FROM _max_change)"
KEEP_KINDS = """
    INSERT INTO _max_change_entity (name, kinds) VALUES (?, ?)
    ON CONFLICT (name) DO UPDATE SET kinds = excluded.kinds
"""
# ``+number``: the records are read in their order, and not by the index of rows.
RANGE = "id > :after AND id <= :upto AND +number IN {numbers:numbers}"
RECORDS = f"""
    SELECT id, at, sync, number, row, kind, old, new FROM _max_change
     WHERE {RANGE} ORDER BY id {{order}}
"""
OLDEST_FIRST, NEWEST_FIRST = (RECORDS.replace("{order}", order) for order in ("ASC", "DESC"))
COUNT = f"SELECT count(*) FROM _max_change WHERE {RANGE}"
BY_ROW = """
    SELECT row, kind, old, new FROM _max_change
     WHERE +number = :number AND id > :after AND id <= :upto
     ORDER BY row, id
"""
BY_SYNC = """
    SELECT r.number, began.kind, ended.kind, count(*)
      FROM (SELECT +number AS number, row, min(id) AS first, max(id) AS last FROM _max_change
             WHERE sync = :sync
               AND id > (SELECT coalesce(max(id), 0)
                           FROM (SELECT id FROM _max_change
                                  WHERE at < :since AND (sync IS NULL OR sync <> :sync)
                                  ORDER BY id DESC LIMIT 1) AS before)
             GROUP BY +number, row) AS r
      JOIN _max_change AS began ON began.id = r.first
      JOIN _max_change AS ended ON ended.id = r.last
     GROUP BY r.number, began.kind, ended.kind
"""
FIRST_SINCE = "SELECT id FROM _max_change WHERE id > ? AND at >= ? ORDER BY id LIMIT 1"
# Every row that was there at the floor is there now, or has a record after the floor.
BASE = """
    SELECT _id AS row FROM {table} WHERE _id > :after AND _removed_at IS NULL
     UNION
    SELECT row FROM _max_change WHERE number = :number AND row > :after AND id > :floor
     ORDER BY row LIMIT :limit
"""
VISIBLE = "SELECT _id, {values} FROM {{table}} AS t WHERE _removed_at IS NULL AND _id IN {{set:ids}}"
UNDO = """
    SELECT row, kind, old, new FROM _max_change
     WHERE number = :number AND id > :floor AND row IN {set:ids}
     ORDER BY id DESC
"""
OLDEST = "SELECT id, at FROM _max_change WHERE id > ? ORDER BY id LIMIT ?"


class _Log(Struct):
    """The state of the log: its name, and the numbers between which its records lie."""

    name: str
    recording: int
    floor: int  # of the last record that expired, or after which something was not recorded
    newest: int
    since: float  # when the floor was recorded


class ChangeLog(RenameOwner):
    """The change log of one schema's tables."""

    def __init__(self, mappings: Mapping[str, TableMapping[Any]]) -> None:
        self._mappings = mappings
        self.recording = False  # whether writers say when they write, and in which sync
        self._on = False  # whether it records, or will when the first sync has ended
        self._kept = False  # whether there is, or was, a log
        self.clock: Callable[[], float] = time.time

    # -- recording ------------------------------------------------------------------------

    def attach(self, connection: Connection, *, on: bool) -> None:
        """Start, continue or stop to record, inside the transaction that makes the tables fit.

        A log that was interrupted starts over, and older cursors expire.
        """
        log = read_log(connection)
        self._on, self._kept = on, on or log is not None
        self.recording = on and (log is None or log.recording != HELD)
        if on:
            migrate(connection, OWNER, MIGRATIONS)
        if self.recording:
            if log is None or log.recording == OFF or not self._is_readable(connection):
                self._start_over(connection)
            self._record_new(connection)
        elif log is not None and not on and log.recording != OFF:
            drop_triggers(connection)
            interrupt(connection)

    def prepare(self, connection: Connection, *, first: bool) -> None:
        """Before a new sync: the first one that can store anything is not recorded."""
        if self.recording and first:
            drop_triggers(connection)
            connection.execute(f"UPDATE _max_change_log SET recording = {HELD}, {FLOOR_IS_NEWEST}")
            self.recording = False
        elif not first:
            self._end_hold(connection)

    def _end_hold(self, connection: Connection) -> None:
        """Begin to record, if that was put off until the first sync has ended."""
        if self._on and not self.recording:
            self._start_over(connection)
            self._record_new(connection)
            self.recording = True

    def _is_readable(self, connection: Connection) -> bool:
        """Whether every recorded field still has the kind of value that it had."""
        kinds = _read_kinds(connection)
        return all(
            kinds.get(name, {}).get(bit, kind) == kind
            for name, mapping in self._mappings.items()
            for bit, kind in _kinds_of(mapping).items()
        )

    def _start_over(self, connection: Connection) -> None:
        """Leave the old records behind; one more record puts all older cursors before the floor."""
        drop_triggers(connection)
        connection.execute("DELETE FROM _max_change_entity")
        connection.execute(ORIGIN, (self.clock(), None))
        connection.execute(_insert(connection.dialect, 0, "''", "'begun'", "NULL", "NULL"))
        connection.execute(f"UPDATE _max_change_log SET recording = {ON}, {FLOOR_IS_NEWEST}")
        for name, mapping in self._mappings.items():
            connection.execute(KEEP_KINDS, (name, json.dumps(_kinds_of(mapping))))

    def _record_new(self, connection: Connection) -> None:
        """Have triggers for every entity as it is now, and records of what they have not seen."""
        known = _read_kinds(connection)
        for name, mapping in self._mappings.items():
            kinds = _kinds_of(mapping)
            if known.get(name) != kinds:
                connection.execute(KEEP_KINDS, (name, json.dumps(kinds)))
                self._record_existing(connection, mapping, known.get(name))
            self._watch(connection, mapping)

    def _watch(self, connection: Connection, mapping: TableMapping[Any]) -> None:
        for trigger, sql in triggers(connection, mapping).items():
            put(connection, "trigger", trigger, mapping.table, sql)

    def go_on(self, connection: Connection) -> None:
        """Have the triggers in a database to which the log was copied, if it was recording."""
        log = read_log(connection)
        if log is not None and log.recording == ON:
            known = _read_kinds(connection)
            for name in known.keys() & self._mappings.keys():
                self._watch(connection, self._mappings[name])

    def _record_existing(
        self, connection: Connection, mapping: TableMapping[Any], known: Mapping[int, str] | None
    ) -> None:
        """Record the rows of a new entity as created, or the values of new fields as updates."""
        fields, where = list(mapping.types), "t._removed_at IS NULL"
        if known is not None:
            fields = [name for name in fields if mapping.bits[name] not in known]
            where += f" AND ({joined('OR', [mapping.loaded(name, 't') for name in fields]) or FALSE})"
        kind = "'created'" if known is None else "'updated'"
        number, dialect = entity_number(connection, mapping.entity.__name__), connection.dialect
        new = loaded_values(dialect, mapping, "t", fields)
        record = _insert(dialect, number, "t._id", kind, "NULL", new)
        connection.execute(ORIGIN, (self.clock(), None))
        connection.execute(f"{record}, {quoted(mapping.table)} AS t WHERE {where} ORDER BY t._row")
        connection.execute(ORIGIN, (None, None))

    def set_origin(self, connection: Connection, delivery: Delivery, *, dated: bool) -> None:
        """The following writes come from a delivery; without ``dated`` they happen now."""
        at = delivery.requested_at if delivery.received_at is None else delivery.received_at
        connection.execute(ORIGIN, (at if dated else self.clock(), delivery.sync))

    # -- reading --------------------------------------------------------------------------

    def page(
        self,
        connection: Connection,
        since: str | float | None = None,
        *,
        until: float | None = None,
        entities: Collection[type[Entity]] = (),
        fields: Collection[str] = (),
        newest_first: bool = False,
        limit: int = PAGE,
    ) -> ChangePage:
        """The changes after a cursor or from a time on, up to a time; of all entities unless some are given.

        With ``fields`` they hold these alone, and updates of none of them are left out.  None is the
        oldest change that is kept, "beginning" the rows before it, "now" the end.
        HistoryError when nothing was ever recorded, CursorExpired when the changes after the
        cursor are no longer kept, InvalidCursor when it belongs to another installation.
        """
        reading = self._reading(connection, entities, fields)
        log = reading.log
        if since == NOW:
            return ChangePage((), change_cursor(log, log.newest), more=False, since=log.since)
        position, upto = reading.position(since), reading.before(until)
        if newest_first:
            return reading.newest(position if isinstance(position, int) else log.floor, upto, limit)
        if isinstance(position, int):
            return reading.changes(position, upto, limit)
        base = reading.base(position, limit)
        if base.more:
            return base
        rest = reading.changes(log.floor, upto, limit - len(base.items))
        return rest.replace(items=[*base.items, *rest.items])

    def count(
        self,
        connection: Connection,
        since: str | float | None = None,
        *,
        until: float | None = None,
        entities: Collection[type[Entity]] = (),
    ) -> int:
        """How many changes a page without a limit has, without the rows from before; the same errors."""
        return self._reading(connection, entities).count(since, until)

    def summary(
        self,
        connection: Connection,
        since: str | float | None = None,
        *,
        until: float | None = None,
        entities: Collection[type[Entity]] = (),
    ) -> ChangeSummary:
        """What the changes of a page without a limit come to; the same errors."""
        return self._reading(connection, entities).summary(since, until)

    def _reading(
        self, connection: Connection, entities: Collection[type[Entity]], fields: Collection[str] = ()
    ) -> _Reading:
        log = read_log(connection)
        if log is None or (log.recording != ON and log.newest <= log.floor):
            raise HistoryError(
                "changes are not recorded",
                hint="turn it on with: max settings INSTALLATION history=changes; then sync",
            )
        return _Reading(connection, log, self._mappings, entities, fields)

    # -- expiry ---------------------------------------------------------------------------

    async def tidy(self, database: Database, *, before: float) -> None:
        """After a sync: its writing is over, recording may begin; changes from before a time are deleted."""
        if self.recording:
            await database.transact(lambda connection: connection.execute(ORIGIN, (None, None)))
        if self._on:
            await database.transact(self._end_hold)
        if self._kept:
            for _ in range(MOST_EXPIRED):
                if not await database.transact(lambda connection: self.expire(connection, before)):
                    return

    def expire(self, connection: Connection, before: float) -> bool:
        """Delete a page of changes from before a time, in one transaction; whether more may follow.

        The record at the floor stays, so that no number is used twice.
        """
        log = read_log(connection)
        if log is None:
            return False
        records = connection.execute(OLDEST, (log.floor, PAGE)).fetchall()
        old = [id for id, at in takewhile(lambda record: record[1] < before, records)]
        if old:
            connection.execute("UPDATE _max_change_log SET floor = ?", (old[-1],))
        connection.execute("DELETE FROM _max_change WHERE id < (SELECT floor FROM _max_change_log)")
        return len(old) == PAGE

    # -- migrations -----------------------------------------------------------------------

    def rename_entity(self, connection: Connection, old: str, new: str) -> None:
        """The records of an entity follow its name; fields are recorded by their numbers."""
        if read_log(connection) is not None:
            connection.execute("UPDATE _max_change_entity SET name = ? WHERE name = ?", (new, old))

    def drop_entity(self, connection: Connection, entity: str) -> None:
        """The records of an entity can no longer be read."""
        if read_log(connection) is not None:
            connection.execute("DELETE FROM _max_change_entity WHERE name = ?", (entity,))


# -- the log -----------------------------------------------------------------------------------


def read_log(connection: Connection) -> _Log | None:
    """The state of the log; None when there was never one."""
    if not has_part(connection, OWNER, MIGRATIONS):
        return None
    with decoding("changes"):
        found = _Log(*only_row(connection, LOG, "_max_change_log"))
        if found.recording not in (OFF, ON, HELD):
            raise ValueError(f"recording is {found.recording!r}")
        return checked(found)


def changed_by(connection: Connection, sync: str, *, since: float) -> dict[str, dict[str, int]] | None:
    """The rows of each entity by what a sync made of them; None when it was not recorded from its beginning.

    ``since`` is when the sync began: only the newest records are read, back to that time.
    """
    log = read_log(connection)
    if log is None or log.recording != ON or log.since > since:
        return None
    names = dict(connection.execute("SELECT id, name FROM _max_change_entity").fetchall())
    counts: dict[str, Counter[str]] = {}
    for number, first, last, rows in connection.execute(BY_SYNC, {"since": since, "sync": sync}):
        what = net_kind(first, last)
        if what is not None and number in names:
            counts.setdefault(names[number], Counter())[what] += rows
    return {name: {kind: found[kind] for kind in KINDS if found[kind]} for name, found in counts.items()}


def entity_number(connection: Connection, name: str) -> int:
    """The number of an entity in records."""
    row = connection.execute("SELECT id FROM _max_change_entity WHERE name = ?", (name,)).fetchone()
    return int(row[0])


def interrupt(connection: Connection) -> None:
    """Stop recording; the log starts over when it is attached.

    A migration does this before it changes values: those are no changes of upstream's.
    """
    if read_log(connection) is not None:
        connection.execute("UPDATE _max_change_log SET recording = 0")


def drop_triggers(connection: Connection) -> None:
    """Drop the triggers of the log until ``attach``."""
    drop(connection, "trigger", begins="_max_change:")


def _kinds_of(mapping: TableMapping[Any]) -> dict[int, str]:
    """The kind of value of each field, by its number."""
    return {mapping.bits[name]: str(holds.kind) for name, holds in mapping.types.items()}


def _read_kinds(connection: Connection) -> dict[str, dict[int, str]]:
    """The same when the triggers were made, by entity."""
    rows = connection.execute("SELECT name, kinds FROM _max_change_entity")
    with decoding("changes"):
        return {name: {int(bit): kind for bit, kind in json.loads(text).items()} for name, text in rows}


# -- triggers ----------------------------------------------------------------------------------
#
# A side of a change (old or new) is a list with an entry for each bitmap of the table, [bits, value,
# …]: which of its fields the side has, then the values in the order of the bits.


def _insert(dialect: Dialect, number: int, row: str, kind: str, old: str, new: str, source: str = "") -> str:
    """SQL that records a change, from SQL for its parts, which may use the columns of a ``source``."""
    at = dialect.sql("coalesce(l.at, {now})")
    return (
        "INSERT INTO _max_change (at, sync, number, row, kind, old, new)"
        f" SELECT {at}, l.sync, {number}, {row}, {kind}, {old}, {new} FROM _max_change_log AS l{source}"
    )


def triggers(connection: Connection, mapping: TableMapping[Any]) -> dict[str, str]:
    """The triggers that record every way in which a row of a table can change, by their names."""
    dialect, number = connection.dialect, entity_number(connection, mapping.entity.__name__)
    old_visible, new_visible = "OLD._removed_at IS NULL", "NEW._removed_at IS NULL"
    old, new = loaded_values(dialect, mapping, "OLD"), loaded_values(dialect, mapping, "NEW")
    changed = (changed_values(dialect, mapping, "OLD"), changed_values(dialect, mapping, "NEW"))
    created = _insert(dialect, number, "NEW._id", "'created'", "NULL", new) + f" WHERE {new_visible};"
    removed = _insert(dialect, number, "OLD._id", "'removed'", old, "NULL") + f" WHERE {old_visible};"
    updated = _insert(dialect, number, "NEW._id", "'updated'", *changed, changed_bits(mapping)) + ";"
    turned = _insert(
        dialect,
        number,
        "NEW._id",
        f"CASE WHEN {new_visible} THEN 'restored' ELSE 'removed' END",
        f"CASE WHEN {old_visible} THEN {old} END",
        f"CASE WHEN {new_visible} THEN {new} END",
    )
    columns = (*mapping.types, *mapping.bitmaps)
    differs = joined("OR", [f"OLD.{c} IS DISTINCT FROM NEW.{c}" for c in map(quoted, columns)])
    same = "OLD._id = NEW._id"
    ways = {
        "insert": ("INSERT", TRUE, created),
        "update": ("UPDATE", f"{same} AND {old_visible} AND {new_visible} AND ({differs})", updated),
        "removed": ("UPDATE OF _removed_at", f"{same} AND ({old_visible}) <> ({new_visible})", f"{turned};"),
        "key": ("UPDATE OF _id", "OLD._id <> NEW._id", removed + created),
        "delete": ("DELETE", TRUE, removed),
    }
    names = {way: f"_max_change:{number}.{way}" for way in ways}
    return {names[way]: dialect.trigger(names[way], mapping.table, *parts) for way, parts in ways.items()}


def _fields_by_bitmap(mapping: TableMapping[Any]) -> list[list[str | None]]:
    """The fields of each bitmap in the order of their bits; None for the bit of a deleted field."""
    fields: list[list[str | None]] = [[] for _ in mapping.bitmaps]
    for name in sorted(mapping.types, key=mapping.bits.__getitem__):
        word, bit = divmod(mapping.bits[name], BITS)
        fields[word] += [None] * (bit - len(fields[word]))
        fields[word].append(name)
    return fields


def loaded_values(
    dialect: Dialect, mapping: TableMapping[Any], alias: str, fields: Iterable[str] | None = None
) -> str:
    """SQL for a side of a change that has all loaded values, of all fields or of some."""
    chosen = set(mapping.types if fields is None else fields)
    sides = []
    masks = mapping.bitmap_values(chosen)
    for column, mask, names in zip(mapping.bitmaps, masks, _fields_by_bitmap(mapping), strict=True):
        values = [_value(dialect, mapping, alias, name if name in chosen else None) for name in names]
        sides.append(dialect.json_array([f"{alias}.{quoted(column)} & {mask}", *values]))
    return dialect.json_array(sides)


def changed_values(dialect: Dialect, mapping: TableMapping[Any], alias: str) -> str:
    """SQL for a side of an update: the values that differ between OLD and NEW, by ``changed_bits``."""
    sides = []
    for column, names in zip(map(quoted, mapping.bitmaps), _fields_by_bitmap(mapping), strict=True):
        values = [
            f"CASE WHEN (d.{column} & {1 << place}) <> 0 THEN {_value(dialect, mapping, alias, name)} END"
            for place, name in enumerate(names)
        ]
        sides.append(dialect.json_array([f"{alias}.{column} & d.{column}", *values]))
    return dialect.json_array(sides)


def changed_bits(mapping: TableMapping[Any]) -> str:
    """SQL for one row ``d``: in each bitmap the bits of the fields that an update changed.

    A field's value changed, or whether it is loaded.  The trigger has it once, since a database
    reads its triggers whenever it is opened.
    """
    columns = []
    for column, names in zip(map(quoted, mapping.bitmaps), _fields_by_bitmap(mapping), strict=True):
        fields = [(1 << place, quoted(name)) for place, name in enumerate(names) if name is not None]
        bits = [f"CASE WHEN OLD.{f} IS DISTINCT FROM NEW.{f} THEN {bit} ELSE 0 END" for bit, f in fields]
        loaded = (
            f"(OLD.{column} | NEW.{column}) & ~(OLD.{column} & NEW.{column}) & {sum(b for b, _ in fields)}"
        )
        columns.append(f"{' | '.join([f'({loaded})', *bits])} AS {column}")
    return f", (SELECT {', '.join(columns)}) AS d"


def _value(dialect: Dialect, mapping: TableMapping[Any], alias: str, name: str | None) -> str:
    if name is None:
        return "NULL"
    column = f"{alias}.{quoted(name)}"
    return dialect.exact_real(column) if mapping.types[name].kind is Kind.REAL else column


# -- reading records ---------------------------------------------------------------------------


class _Reading:
    """Reads records as changes of the entities and fields that the schema has."""

    def __init__(
        self,
        connection: Connection,
        log: _Log,
        mappings: Mapping[str, TableMapping[Any]],
        entities: Collection[type[Entity]],
        fields: Collection[str],
    ) -> None:
        self._connection, self.log = connection, log
        self._fields = frozenset(fields)
        wanted = {one.__name__ for one in entities} or mappings.keys()
        numbers = connection.execute("SELECT id, name FROM _max_change_entity ORDER BY id").fetchall()
        self._mappings = {n: mappings[name] for n, name in numbers if name in mappings and name in wanted}
        self._sides = {number: _Sides(mapping) for number, mapping in self._mappings.items()}

    def position(self, since: str | float | None) -> int | tuple[int, str]:
        """The number of the record after which to go on, or a position among the rows before the first."""
        if since is None:
            return self.log.floor
        if since == ALL_ROWS:
            return (-1, "") if self.log.recording == ON else self.log.floor
        return _position(self.log, since) if isinstance(since, str) else self.before(since)

    def before(self, at: float | None) -> int:
        """The number of the last record before the first one at or after a time; None: of the last one."""
        values = (self.log.floor, at)
        found = None if at is None else self._connection.execute(FIRST_SINCE, values).fetchone()
        return int(found[0]) - 1 if found else self.log.newest

    def changes(self, after: int, upto: int, limit: int) -> ChangePage:
        """The records after a number, oldest first."""
        found = self._select(OLDEST_FIRST, after, upto, limit + 1)
        items = found[:limit]
        cursor = change_cursor(self.log, max(upto, after) if len(found) <= limit else after)
        if items and len(found) > limit:
            cursor = items[-1].cursor
        return ChangePage(items, cursor, len(found) > limit, self.log.since)

    def newest(self, after: int, upto: int, limit: int) -> ChangePage:
        """The last records up to a number, newest first."""
        found = self._select(NEWEST_FIRST, after, upto, limit + 1)
        return ChangePage(found[:limit], change_cursor(self.log, upto), len(found) > limit, self.log.since)

    def count(self, since: str | float | None, until: float | None) -> int:
        """How many records there are from one place to another."""
        after, upto = self._range(since, until)
        values = {"after": after, "upto": upto, "numbers": self._numbers()}
        return int(self._connection.execute(self._sql(COUNT), values).fetchone()[0])

    def _range(self, since: str | float | None, until: float | None) -> tuple[int, int]:
        if since == NOW:
            return self.log.newest, self.log.newest
        position = self.position(since)
        return position if isinstance(position, int) else self.log.floor, self.before(until)

    def summary(self, since: str | float | None, until: float | None) -> ChangeSummary:
        """What the records from one place to another come to."""
        after, upto = self._range(since, until)
        kinds: dict[type[Entity], Mapping[str, int]] = {}
        fields: dict[type[Entity], Mapping[str, int]] = {}
        for number, mapping in self._mappings.items():
            net, changed = self._net(number, after, upto)
            if net:
                names = {mapping.bits[name]: name for name in mapping.types}
                kinds[mapping.entity] = net
                fields[mapping.entity] = {names[n]: c for n, c in changed.most_common() if n in names}
        return ChangeSummary(self.count(since, until), kinds, fields, self.log.since)

    def _net(self, number: int, after: int, upto: int) -> tuple[dict[str, int], Counter[int]]:
        """How many rows of an entity came, changed and went, and in how many of these which field changed."""
        net: Counter[str] = Counter()
        changed: Counter[int] = Counter()
        rows = self._connection.execute(BY_ROW, {"number": number, "after": after, "upto": upto})
        for _, records in groupby(rows, key=itemgetter(0)):
            kinds, olds, news = zip(*(record[1:] for record in records), strict=True)
            what = net_kind(kinds[0], kinds[-1])
            if what is None:
                continue
            net[what] += 1
            if what == "updated":
                changed.update(_changed(kinds, olds, news))
        return {kind: net[kind] for kind in KINDS if net[kind]}, changed

    def _select(self, template: str, after: int, upto: int, limit: int) -> list[Change]:
        values = {"after": after, "upto": upto, "numbers": self._numbers()}
        rows = self._connection.execute(self._sql(template), values)
        with decoding("changes"):
            return list(islice((one for row in rows if (one := self._change(*row)) is not None), limit))

    def _sql(self, template: str) -> str:
        return self._connection.dialect.sql(template)

    def _numbers(self) -> object:
        return self._connection.dialect.array(self._mappings)

    def base(self, position: tuple[int, str], limit: int) -> ChangePage:
        """The rows as they were at the floor, after a position among them."""
        items: list[Change] = []
        for number in self._mappings:
            after = position[1] if number == position[0] else ""
            while number >= position[0]:
                ids = self._base_ids(number, after, limit + 1)
                if not ids:
                    break
                with decoding("changes"):
                    rows = self._undone(number, ids)
                for id in ids:
                    if len(items) == limit:
                        return ChangePage(items, items[-1].cursor, more=True, since=self.log.since)
                    after = id
                    if (fields := rows.get(id)) is not None:
                        items.append(self._existing(number, id, fields))
        return ChangePage(items, change_cursor(self.log, self.log.floor), more=False, since=self.log.since)

    def _base_ids(self, number: int, after: str, limit: int) -> list[str]:
        values = {"number": number, "after": after, "floor": self.log.floor, "limit": limit}
        found = self._connection.execute(self._mappings[number].sql(BASE), values)
        return [row for (row,) in found.fetchall()]

    def _undone(self, number: int, ids: Sequence[str]) -> dict[str, dict[str, Any] | None]:
        """Rows as they were at the floor: as they are now, without what the records say."""
        mapping, sides, dialect = self._mappings[number], self._sides[number], self._connection.dialect
        visible = VISIBLE.format(values=loaded_values(dialect, mapping, "t"))
        values = {"number": number, "floor": self.log.floor, "ids": dialect.array(ids)}
        now = self._connection.execute(mapping.sql(visible), {"ids": values["ids"]}).fetchall()
        rows: dict[str, dict[str, Any] | None] = {id: sides.decode(side) for id, side in now}
        for row, kind, old, new in self._connection.execute(self._sql(UNDO), values).fetchall():
            if kind in ("created", "restored"):
                rows[row] = None
                continue
            gone = sides.names(new)
            left = {n: v for n, v in (rows.get(row) or {}).items() if n not in gone}
            rows[row] = left | sides.decode(old)
        return rows

    def _existing(self, number: int, id: str, fields: Mapping[str, Any]) -> Change:
        cursor = base_cursor(self.log, number, id)
        entity, chosen = self._mappings[number].entity, self._chosen(dict(fields))
        return Change("created", entity, id, self.log.since, None, {}, chosen, cursor)

    def _change(
        self,
        id: int,
        at: float,
        sync: str | None,
        number: int,
        row: str,
        kind: ChangeKind,
        old: str | None,
        new: str | None,
    ) -> Change | None:
        """The change of a record; None for an update of none of the chosen fields."""
        entity, sides = self._mappings[number].entity, self._sides[number]
        before, after = self._chosen(sides.decode(old)), self._chosen(sides.decode(new))
        if kind == "updated" and self._fields and not (before or after):
            return None
        kind, cursor = KINDS[KINDS.index(kind)], change_cursor(self.log, id)
        return checked(Change(kind, entity, row, float(at), sync, before, after, cursor))

    def _chosen(self, fields: dict[str, Any]) -> dict[str, Any]:
        if not self._fields:
            return fields
        return {name: value for name, value in fields.items() if name in self._fields}


def _changed(kinds: Sequence[str], olds: Sequence[str | None], news: Sequence[str | None]) -> set[int]:
    """The numbers of a row's fields that changed; where it went and came back, those that differ then."""
    found: set[int] = set()
    gone: dict[int, Any] = {}
    for kind, old, new in zip(kinds, olds, news, strict=True):
        before, after = (dict(_numbered(side)) if side else {} for side in (old, new))
        if kind == "updated":
            found |= before.keys() | after.keys()
        elif kind == "removed":
            gone = before
        else:
            found |= {number for number, _ in after.items() ^ gone.items()}
    return found


def net_kind(first: str, last: str) -> ChangeKind | None:
    """What a row's first and last change come to; None for a row that came and went."""
    if first in ("created", "restored"):
        return None if last == "removed" else cast(ChangeKind, first)
    return "removed" if last == "removed" else "updated"


_JSON = json.JSONDecoder()


class _Decoder(NamedTuple):
    """How a field is read from JSON: in which types it comes, and what makes a value of it."""

    name: str
    kind: Kind
    types: frozenset[type]
    decode: Callable[[Any], Any] | None


class _Sides:
    """Reads the sides of changes of one entity; many have the same fields, which are looked up once."""

    def __init__(self, mapping: TableMapping[Any]) -> None:
        self._decoders = {
            mapping.bits[name]: _Decoder(name, holds.kind, *_decoder(holds))
            for name, holds in mapping.types.items()
        }
        self._known: dict[tuple[int, int], list[tuple[int, _Decoder]]] = {}

    def _fields(self, word: int, bits: int) -> list[tuple[int, _Decoder]]:
        """The fields of one bitmap of a side that the schema has, each with the place of its value."""
        found = self._known.get((word, bits))
        if found is None:
            places = [place for place in range(bits.bit_length()) if bits >> place & 1]
            numbers = [(place, word * BITS + place) for place in places]
            found = [(place, self._decoders[n]) for place, n in numbers if n in self._decoders]
            self._known[word, bits] = found
        return found

    def names(self, side: str | None) -> set[str]:
        """The fields that a side has."""
        bitmaps = enumerate(_read_side(side)) if side else ()
        return {one.name for word, (bits, *_) in bitmaps for _, one in self._fields(word, bits)}

    def decode(self, side: str | None) -> dict[str, Any]:
        """The fields of a side, as values; StorageCorrupt, or an error of NONSENSE, for others."""
        found: dict[str, Any] = {}
        for word, (bits, *values) in enumerate(_read_side(side)) if side else ():
            for place, (name, kind, types, decode) in self._fields(word, bits):
                value = values[place]
                if type(value) not in types:
                    raise unreadable(no_value(kind, value))
                try:
                    found[name] = value if decode is None or value is None else decode(value)
                except (ValueError, TypeError, RecursionError) as error:
                    raise unreadable(no_value(kind, value) if kind is Kind.REAL else error) from error
        return found


def _decoder(holds: FieldType) -> tuple[frozenset[type], Callable[[Any], Any] | None]:
    stored = STORED.get(holds.kind, TEXTS)
    if holds.kind is Kind.REAL:
        return stored | TEXTS, float  # it is the text of all its digits
    if holds.kind is Kind.REF:
        return stored, partial(Ref, cast("type[Entity]", holds.target))
    if holds.kind is Kind.JSON:
        return stored, lambda value: decode_column(holds, [value])[0]
    return stored, DECODERS.get(holds.kind, holds.of_text if holds.enum else None)


def _read_side(side: str) -> list[list[Any]]:
    """The bitmaps of a side of a change, each with its values; ``json.loads`` looks for blanks as well."""
    found, end = _JSON.raw_decode(side)
    if end != len(side) or not isinstance(found, list):
        raise ValueError(f"{side[:40]!r} is no side of a change")
    return found


def _numbered(side: str) -> list[tuple[int, Any]]:
    """The stored values of a side of a change, with the numbers of their fields."""
    return [
        (word * BITS + place, values[place])
        for word, (bits, *values) in enumerate(_read_side(side))
        for place in range(bits.bit_length())
        if bits >> place & 1
    ]


# -- cursors -----------------------------------------------------------------------------------

URL_SAFE = bytes.maketrans(b"+/", b"-_")  # as base64.urlsafe_b64encode, whose module is slow to import


def change_cursor(log: _Log, number: int) -> str:
    """The cursor after a record."""
    return _encode(f"[{json.dumps(log.name)}, {number}]")


def base_cursor(log: _Log, entity: int, row: str) -> str:
    """The cursor after one of the rows with which the log begins."""
    return _encode(f"[{json.dumps(log.name)}, {log.floor}, {entity}, {json.dumps(row)}]")


def _encode(data: str) -> str:
    """JSON as a word; that of a text is made at once, and that of a list by an encoder of its own."""
    return b2a_base64(data.encode(), newline=False).translate(URL_SAFE).rstrip(b"=").decode()


def _position(log: _Log, cursor: str) -> int | tuple[int, str]:
    """The number of the record after which to go on, or the position among the rows at the beginning."""
    name, number, *row = _decode(cursor)
    if name != log.name or number > log.newest:
        raise InvalidCursor(
            "it belongs to another installation, or to data that was replaced",
            hint="--since beginning gives every row, --since now a new cursor",
        )
    if number < log.floor:
        raise CursorExpired()
    return (row[0], row[1]) if row else int(number)


def _decode(cursor: str) -> list[Any]:
    """The data of a cursor; InvalidCursor when it is not one of ours."""
    from base64 import urlsafe_b64decode

    try:
        data = json.loads(urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except (ValueError, RecursionError):
        data = None
    fits = ([str, int], [str, int, int, str])
    if not isinstance(data, list) or [type(one) for one in data] not in fits:
        raise InvalidCursor(
            "it is not a cursor of `max changes`", hint=f"pass the cursor of a change, or a time: {TIMES}"
        )
    return data
