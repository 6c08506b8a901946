"""The change log: what changed in each row, for readers that follow it or replay it.

**The database itself records.**  While history is on, triggers on the entities' tables record each
change of a row in the transaction that makes it, whatever program that is.  While it is off there
are no triggers, and nothing is written.

**What is recorded.**  A change has its time, its sync, the row, and the old and new values of the
fields that changed.  Changes that are too old are folded: a row of ``_max_change_base`` has what
they led to, and the log begins there.  When history is turned on, rows that exist are recorded as
created.

**The invariant.**  Replayed from the beginning, the log gives the rows as they are now.

**Example.**  A task is created, its status changes, and the task is removed.

    id  kind     old                new
    1   created  -                  title: Write, status: todo
    2   updated  status: todo       status: done
    3   removed  title, status …    -

Folding 1 and 2 leaves a base row (title: Write, status: done) and change 3.

Records number entities and fields, as ``_max_field`` does, so renames change no record.  Values
are JSON of what the table holds; a float is a text with all its digits.
"""

from __future__ import annotations

import json
import time
from binascii import b2a_base64
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import takewhile
from typing import Any, NamedTuple, cast

from ..errors import CursorExpired, HistoryError, InvalidCursor
from ..model.changes import NOW, Change, ChangeKind, ChangePage
from ..model.delivery import Delivery
from ..model.entities import Entity, FieldType, Ref
from ..model.values import Json, Kind
from .catalogue import drop, has_part, migrate, put
from .database import FALSE, TRUE, Connection, Database, Dialect, RenameOwner, joined, quoted
from .rows import BITS, DECODERS, TableMapping

PAGE = 1_000  # changes that are read or folded at a time
MOST_FOLDED = 200  # pages that one sync folds; the next sync goes on

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
)
# ``at`` and ``sync`` of _max_change_log say whose writing is under way; other programs leave them
# NULL, and their changes happen now.
ORIGIN = "UPDATE _max_change_log SET at = ?, sync = ?"
LOG = "SELECT name, recording, floor, (SELECT coalesce(max(id), 0) FROM _max_change) FROM _max_change_log"
FLOOR_IS_NEWEST = "floor = (SELECT max(id) FROM _max_change)"
KEEP_KINDS = """
    INSERT INTO _max_change_entity (name, kinds) VALUES (?, ?)
    ON CONFLICT (name) DO UPDATE SET kinds = excluded.kinds
"""
CHANGES = """
    SELECT id, at, sync, number, row, kind, old, new FROM _max_change
     WHERE id > :after AND (:only IS NULL OR number = :only)
     ORDER BY id
     LIMIT :limit
"""
BASE = """
    SELECT number, row, at, sync, new FROM _max_change_base
     WHERE (number, row) > (:number, :row) AND (:only IS NULL OR number = :only)
     ORDER BY number, row
     LIMIT :limit
"""
# The newest record is never deleted, so that no number is used twice.
DELETE_FOLDED = """
    DELETE FROM _max_change
     WHERE id IN (SELECT id FROM _max_change
                   WHERE id <= :floor AND id < (SELECT max(id) FROM _max_change)
                   ORDER BY id
                   LIMIT :limit)
"""
OLDEST = """
    SELECT id, at, sync, number, row, kind, old, new FROM _max_change
     WHERE id < (SELECT max(id) FROM _max_change)
     ORDER BY id
     LIMIT :limit
"""
KEEP_BASE = """
    INSERT INTO _max_change_base (number, row, at, sync, new) VALUES (?, ?, ?, ?, ?)
    ON CONFLICT (number, row) DO UPDATE SET at = excluded.at, sync = excluded.sync, new = excluded.new
"""


class _Log(NamedTuple):
    """The state of the log: its name, and the numbers between which its records lie."""

    name: str
    recording: bool
    floor: int  # of the last record that is folded, or after which something was not recorded
    newest: int


class ChangeLog(RenameOwner):
    """The change log of one schema's tables."""

    def __init__(self, mappings: Mapping[str, TableMapping[Any]]) -> None:
        self._mappings = mappings
        self.recording = False  # whether writers say when they write, and in which sync
        self._kept = False  # whether there is, or was, a log
        self.clock: Callable[[], float] = time.time

    # -- recording ------------------------------------------------------------------------

    def attach(self, connection: Connection, *, on: bool) -> None:
        """Start, continue or stop to record, inside the transaction that makes the tables fit.

        A log that was interrupted starts over with all rows, and older cursors expire.
        """
        log = read_log(connection)
        self.recording, self._kept = on, on or log is not None
        if on:
            if log is None:
                migrate(connection, OWNER, MIGRATIONS)
                log = read_log(connection)
            if log is None or not log.recording or not self._is_readable(connection):
                self._start_over(connection)
            self._record_new(connection)
        elif log is not None and log.recording:
            drop_triggers(connection)
            interrupt(connection)

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
        connection.execute("DELETE FROM _max_change_base")
        connection.execute("DELETE FROM _max_change_entity")
        connection.execute(ORIGIN, (self.clock(), None))
        connection.execute(_insert(connection.dialect, 0, "''", "'begun'", "NULL", "NULL"))
        connection.execute(f"UPDATE _max_change_log SET recording = 1, {FLOOR_IS_NEWEST}")

    def _record_new(self, connection: Connection) -> None:
        """Have triggers for every entity as it is now, and records of what they have not seen."""
        known = _read_kinds(connection)
        for name, mapping in self._mappings.items():
            kinds = _kinds_of(mapping)
            if known.get(name) != kinds:
                connection.execute(KEEP_KINDS, (name, json.dumps(kinds)))
                self._record_existing(connection, mapping, known.get(name))
            for trigger, sql in triggers(connection, mapping).items():
                put(connection, "trigger", trigger, mapping.table, sql)

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
        since: str | None = None,
        *,
        entity: type[Entity] | None = None,
        limit: int = PAGE,
    ) -> ChangePage:
        """The changes after a cursor; None is the beginning, "now" the end.

        HistoryError when nothing was ever recorded, CursorExpired when the changes after the
        cursor are no longer kept, InvalidCursor when it belongs to another installation.
        """
        log = read_log(connection)
        if log is None or (not log.recording and log.newest <= log.floor):
            raise HistoryError(
                "changes are not recorded",
                hint="turn it on with: max settings INSTALLATION history=changes; then sync",
            )
        if since == NOW:
            return ChangePage((), change_cursor(log, log.newest), more=False)
        position = _position(log, since)
        reading = _Reading(connection, log, self._mappings, entity)
        if isinstance(position, int):
            return reading.changes(position, limit)
        base = reading.base(position, limit)
        if base.more:
            return base
        rest = reading.changes(log.floor, limit - len(base.items))
        return rest.replace(items=[*base.items, *rest.items])

    # -- folding --------------------------------------------------------------------------

    async def tidy(self, database: Database, *, before: float) -> None:
        """After a sync: its writing is over; changes from before a time are folded."""
        if self.recording:
            await database.transact(lambda connection: connection.execute(ORIGIN, (None, None)))
        if self._kept:
            for _ in range(MOST_FOLDED):
                if not await database.transact(lambda connection: self.fold(connection, before)):
                    return

    def fold(self, connection: Connection, before: float) -> bool:
        """Fold a page of changes from before a time, in one transaction; whether more may follow."""
        log = read_log(connection)
        if log is None:
            return False
        values = {"floor": log.floor, "limit": PAGE}
        if connection.execute(DELETE_FOLDED, values).rowcount:
            return True
        records = connection.execute(OLDEST, values).fetchall()
        old = list(takewhile(lambda record: record[1] < before, records))
        if old:
            fold(connection, old)
            values["floor"] = old[-1][0]
            connection.execute("UPDATE _max_change_log SET floor = :floor", values)
            connection.execute(DELETE_FOLDED, values)
        elif not log.recording and not records:
            self._close(connection, before)
        return len(old) == PAGE

    def _close(self, connection: Connection, before: float) -> None:
        """Empty a log that was turned off, once even its newest record is too old."""
        newest = connection.execute("SELECT max(at) FROM _max_change").fetchone()[0]
        if newest is not None and newest < before:
            connection.execute("DELETE FROM _max_change_base")
            connection.execute(f"UPDATE _max_change_log SET {FLOOR_IS_NEWEST}")

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
    name, recording, floor, newest = connection.execute(LOG).fetchone()
    return _Log(name, bool(recording), floor, newest)


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
    return {name: {int(bit): kind for bit, kind in json.loads(text).items()} for name, text in rows}


# -- triggers ----------------------------------------------------------------------------------
#
# A side of a change (old or new) is a list with an entry for each bitmap of the table, [bits, value,
# …]: which of its fields the side has, then the values in the order of the bits.


def _insert(dialect: Dialect, number: int, row: str, kind: str, old: str, new: str) -> str:
    """SQL that records a change, from SQL for its parts."""
    at = dialect.sql("coalesce(l.at, {now})")
    return (
        "INSERT INTO _max_change (at, sync, number, row, kind, old, new)"
        f" SELECT {at}, l.sync, {number}, {row}, {kind}, {old}, {new} FROM _max_change_log AS l"
    )


def triggers(connection: Connection, mapping: TableMapping[Any]) -> dict[str, str]:
    """The triggers that record every way in which a row of a table can change, by their names."""
    dialect, number = connection.dialect, entity_number(connection, mapping.entity.__name__)
    old_visible, new_visible = "OLD._removed_at IS NULL", "NEW._removed_at IS NULL"
    old, new = loaded_values(dialect, mapping, "OLD"), loaded_values(dialect, mapping, "NEW")
    changed = (changed_values(dialect, mapping, "OLD"), changed_values(dialect, mapping, "NEW"))
    created = _insert(dialect, number, "NEW._id", "'created'", "NULL", new) + f" WHERE {new_visible};"
    removed = _insert(dialect, number, "OLD._id", "'removed'", old, "NULL") + f" WHERE {old_visible};"
    updated = _insert(dialect, number, "NEW._id", "'updated'", *changed) + ";"
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
    """SQL for a side of an update: the values that differ between OLD and NEW."""
    sides = []
    for column, names in zip(map(quoted, mapping.bitmaps), _fields_by_bitmap(mapping), strict=True):
        bits, values = ["0"], []
        for place, name in enumerate(names):
            differs = _differs(column, 1 << place, name)
            bits.append(f"(CASE WHEN {differs} THEN {1 << place} ELSE 0 END)")
            values.append(f"CASE WHEN {differs} THEN {_value(dialect, mapping, alias, name)} END")
        sides.append(dialect.json_array([f"{alias}.{column} & ({' | '.join(bits)})", *values]))
    return dialect.json_array(sides)


def _differs(column: str, bit: int, name: str | None) -> str:
    """SQL that is true when a field's value changed, or whether it is loaded."""
    if name is None:
        return FALSE
    field = quoted(name)
    return f"OLD.{field} IS DISTINCT FROM NEW.{field} OR (OLD.{column} & {bit}) <> (NEW.{column} & {bit})"


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
        entity: type[Entity] | None,
    ) -> None:
        self._connection, self._log = connection, log
        numbers = dict(connection.execute("SELECT name, id FROM _max_change_entity").fetchall())
        self._entities = {
            numbers[name]: (mapping.entity, _decoders(mapping))
            for name, mapping in mappings.items()
            if name in numbers
        }
        self._only = None if entity is None else numbers.get(entity.__name__, -1)

    def changes(self, after: int, limit: int) -> ChangePage:
        """The records after a number."""
        values = {"after": after, "only": self._only, "limit": limit + 1}
        rows = self._connection.execute(CHANGES, values).fetchall()
        more, rows = len(rows) > limit, rows[:limit]
        items = [
            self._change(kind, number, row, at, sync, old, new, change_cursor(self._log, id))
            for id, at, sync, number, row, kind, old, new in rows
            if number in self._entities
        ]
        last = rows[-1][0] if rows else after
        return ChangePage(items, change_cursor(self._log, last if more else self._log.newest), more)

    def base(self, position: tuple[int, str], limit: int) -> ChangePage:
        """The rows with which the log begins, after a position among them."""
        values = {"number": position[0], "row": position[1], "only": self._only, "limit": limit + 1}
        rows = self._connection.execute(BASE, values).fetchall()
        more, rows = len(rows) > limit, rows[:limit]
        items = [
            self._change("created", number, row, at, sync, None, new, base_cursor(self._log, number, row))
            for number, row, at, sync, new in rows
            if number in self._entities
        ]
        last = rows[-1][:2] if rows else position
        return ChangePage(items, base_cursor(self._log, *last), more)

    def _change(
        self,
        kind: str,
        number: int,
        row: str,
        at: float,
        sync: str | None,
        old: str | None,
        new: str | None,
        cursor: str,
    ) -> Change:
        entity, decoders = self._entities[number]
        before, after = decode_side(decoders, old), decode_side(decoders, new)
        return Change(cast(ChangeKind, kind), entity, row, at, sync, before, after, cursor)


Decoders = Mapping[int, tuple[str, Callable[[Any], Any]]]


def _decoders(mapping: TableMapping[Any]) -> Decoders:
    """The name of each field, and how its value is read, by its number."""
    return {mapping.bits[name]: (name, _decoder(holds)) for name, holds in mapping.types.items()}


def _decoder(holds: FieldType) -> Callable[[Any], Any]:
    """How a value that is not NULL is read from JSON."""
    if holds.kind is Kind.JSON:
        return json.loads
    if holds.kind is Kind.REAL:
        return float
    if holds.kind is Kind.REF:
        target = cast("type[Entity]", holds.target)
        return lambda value: Ref(target, value)
    return DECODERS.get(holds.kind, lambda value: value)


def decode_side(decoders: Decoders, side: str | None) -> dict[str, Any]:
    """The fields of a side of a change, as values."""
    found: dict[str, Any] = {}
    for number, value in numbered_values(json.loads(side)) if side else ():
        if number in decoders:
            name, decode = decoders[number]
            found[name] = None if value is None else decode(value)
    return found


def numbered_values(words: Sequence[Sequence[Any]]) -> Iterator[tuple[int, Any]]:
    """The stored values of a side of a change, with the numbers of their fields."""
    for word, (bits, *values) in enumerate(words):
        for place in range(bits.bit_length()):
            if bits >> place & 1:
                yield word * BITS + place, values[place]


def encode_side(fields: Mapping[int, Any]) -> str:
    """The inverse of ``numbered_values``, as it is stored."""
    words: list[list[Any]] = [[0]]
    for number in sorted(fields):
        word, place = divmod(number, BITS)
        words += [[0] for _ in range(word + 1 - len(words))]
        words[word][0] |= 1 << place
        words[word] += [None] * (place + 2 - len(words[word]))
        words[word][place + 1] = fields[number]
    return json.dumps(words, ensure_ascii=False, separators=(",", ":"))


# -- folding -----------------------------------------------------------------------------------


def fold(connection: Connection, records: Sequence[tuple[Any, ...]]) -> None:
    """Apply records to the rows with which the log begins."""
    rows: dict[tuple[int, str], dict[int, Any] | None] = {}
    last: dict[tuple[int, str], tuple[float, str | None]] = {}
    for _, at, sync, number, row, kind, old, new in records:
        key = number, row
        last[key] = at, sync
        if kind == "removed":
            rows[key] = None
            continue
        fields = dict(numbered_values(json.loads(new)))
        if kind == "updated":
            before = rows[key] if key in rows else _base_row(connection, key)
            replaced = dict(numbered_values(json.loads(old))) if old else {}
            fields = {n: v for n, v in (before or {}).items() if n not in replaced} | fields
        rows[key] = fields
    removed = [key for key, fields in rows.items() if fields is None]
    connection.executemany("DELETE FROM _max_change_base WHERE number = ? AND row = ?", removed)
    kept = [(*key, *last[key], encode_side(fields)) for key, fields in rows.items() if fields is not None]
    connection.executemany(KEEP_BASE, kept)


def _base_row(connection: Connection, key: tuple[int, str]) -> dict[int, Any]:
    sql = "SELECT new FROM _max_change_base WHERE number = ? AND row = ?"
    found = connection.execute(sql, key).fetchone()
    return dict(numbered_values(json.loads(found[0]))) if found else {}


# -- cursors -----------------------------------------------------------------------------------

URL_SAFE = bytes.maketrans(b"+/", b"-_")  # as base64.urlsafe_b64encode, whose module is slow to import


def change_cursor(log: _Log, number: int) -> str:
    """The cursor after a record."""
    return _encode([log.name, number])


def base_cursor(log: _Log, entity: int, row: str) -> str:
    """The cursor after one of the rows with which the log begins."""
    return _encode([log.name, log.floor, entity, row])


def _encode(data: Json) -> str:
    return b2a_base64(json.dumps(data).encode(), newline=False).translate(URL_SAFE).rstrip(b"=").decode()


def _position(log: _Log, cursor: str | None) -> int | tuple[int, str]:
    """The number of the record after which to go on, or the position among the rows at the beginning."""
    if cursor is None:
        return -1, ""
    name, number, *row = _decode(cursor)
    if name != log.name or number > log.newest:
        raise InvalidCursor(
            "it belongs to another installation, or to data that was replaced",
            hint="leave it out to begin at the beginning; --since now gives a new one",
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
            "it is not a cursor of `max changes`", hint="pass the cursor of a change, or: --since now"
        )
    return data
