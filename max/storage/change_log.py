"""History: what changed in each row, as a feed that can be followed and replayed.

Rule 1: SQLite itself records.  While history is on, triggers stand on the entities' tables, so
that whatever writes a row writes its change too, in the same transaction.  While it is off
there is no trigger, and nothing is written.

Rule 2: replayed from its beginning, the feed gives the rows as they are.  What is too old is
folded into the rows that it led to (``_max_change_base``), with which the feed begins; a row
that was there before is recorded as created when history is turned on.

Rule 3: a record numbers entities and fields, as ``_max_field`` numbers these: a new name changes
no record.  Values are those of rows.py as JSON; a float is a text with all its digits.
"""

from __future__ import annotations

import json
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import takewhile
from typing import Any, NamedTuple, cast

from ..errors import CursorExpired, HistoryError, InvalidCursor
from ..model.changes import NOW, Change, ChangeKind, ChangePage
from ..model.delivery import Delivery
from ..model.entities import Entity, FieldType, Ref
from ..model.values import Json, Kind
from .catalogue import drop, migrate, put
from .database import Connection, Database, quoted
from .rows import BITS, DECODERS, TableMapping

PAGE = 1_000  # changes that are read, or folded, at a time
MOST_FOLDED = 200  # pages that one sync folds at most: the next one goes on
DIGITS = "%!.20g"  # SQLite rounds its own digits; with 17 some floats would come back as their neighbour

MIGRATIONS = (
    """
    CREATE TABLE _max_change_log (
        id        INTEGER PRIMARY KEY CHECK (id = 1),
        name      TEXT NOT NULL,
        recording INTEGER NOT NULL,
        floor     INTEGER NOT NULL,
        at        REAL,
        sync      TEXT
    );
    INSERT INTO _max_change_log VALUES (1, lower(hex(randomblob(8))), 0, 0, NULL, NULL);
    CREATE TABLE _max_change_entity (
        id    INTEGER PRIMARY KEY,
        name  TEXT NOT NULL UNIQUE,
        kinds TEXT NOT NULL
    );
    CREATE TABLE _max_change (
        id     INTEGER PRIMARY KEY,
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
    ) WITHOUT ROWID
    """,
)

# ``at`` and ``sync`` of _max_change_log tell whose writing is under way; whoever does not say is taken to
# write now.  The newest record is never deleted, so that no number is given twice.
CLOCK = "coalesce(f.at, (julianday('now') - 2440587.5) * 86400.0)"
RECORD = f"""
    INSERT INTO _max_change (at, sync, number, row, kind, old, new)
    SELECT {CLOCK}, f.sync, {{number}}, {{row}}, {{kind}}, {{old}}, {{new}} FROM _max_change_log AS f"""
MOMENT = "UPDATE _max_change_log SET at = ?, sync = ?"
FEED = """
    SELECT name, recording, floor, (SELECT coalesce(max(id), 0) FROM _max_change) FROM _max_change_log
"""
CHANGES = """
    SELECT id, at, sync, number, row, kind, old, new FROM _max_change
     WHERE id > :after AND (:only IS NULL OR number = :only)
     ORDER BY id
     LIMIT :limit
"""
KEEP_KINDS = """
    INSERT INTO _max_change_entity (name, kinds) VALUES (?, ?)
    ON CONFLICT (name) DO UPDATE SET kinds = excluded.kinds
"""
BASE = """
    SELECT number, row, at, sync, new FROM _max_change_base
     WHERE (number, row) > (:number, :row) AND (:only IS NULL OR number = :only)
     ORDER BY number, row
     LIMIT :limit
"""
FORGET = """
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


class _Feed(NamedTuple):
    """What the database says of its feed: who it is, and between which numbers it lies."""

    name: str
    recording: bool
    floor: int  # the number of the last record that is folded, or that something unrecorded followed
    newest: int


class History:
    """The feed over the tables of one schema, which it shares with their owner."""

    def __init__(self, mappings: Mapping[str, TableMapping[Any]]) -> None:
        self._mappings = mappings
        self.recording = False  # whether writers are to say when they write, and in which sync
        self._kept = False  # whether there is, or was, a feed
        self.clock: Callable[[], float] = time.time

    # -- recording ------------------------------------------------------------------------

    def attach(self, connection: Connection, *, on: bool) -> None:
        """Begin to record, go on, or end, inside the transaction that makes the tables fit.

        A feed that was interrupted begins anew with all rows, and older cursors expire.
        """
        feed = read_feed(connection)
        self.recording, self._kept = on, on or feed is not None
        if on:
            if feed is None:
                migrate(connection, "history", MIGRATIONS)
                feed = read_feed(connection)
            if feed is None or not feed.recording or not self._still_readable(connection):
                self._begin(connection)
            self._record(connection)
        elif feed is not None and feed.recording:
            drop_triggers(connection)
            connection.execute("UPDATE _max_change_log SET recording = 0")

    def _still_readable(self, connection: Connection) -> bool:
        """Whether every field that is recorded still holds what it held."""
        kinds = read_kinds(connection)
        return all(
            kinds.get(name, {}).get(bit, kind) == kind
            for name, mapping in self._mappings.items()
            for bit, kind in kinds_of(mapping).items()
        )

    def _begin(self, connection: Connection) -> None:
        """Leave behind what was recorded; a record of that keeps all older cursors before the floor."""
        drop_triggers(connection)
        connection.execute("DELETE FROM _max_change_base")
        connection.execute("DELETE FROM _max_change_entity")
        connection.execute(MOMENT, (self.clock(), None))
        connection.execute(RECORD.format(number=0, row="''", kind="'begun'", old="NULL", new="NULL"))
        connection.execute(
            "UPDATE _max_change_log SET recording = 1, floor = (SELECT max(id) FROM _max_change)"
        )

    def _record(self, connection: Connection) -> None:
        """Have triggers for every entity as it is now, and a record of what they have not seen."""
        known = read_kinds(connection)
        for name, mapping in self._mappings.items():
            if known.get(name) != kinds_of(mapping):
                connection.execute(KEEP_KINDS, (name, json.dumps(kinds_of(mapping))))
                self._catch_up(connection, mapping, known.get(name))
            for trigger, sql in triggers(mapping, entity_number(connection, name)).items():
                put(connection, "trigger", trigger, mapping.table, sql)

    def _catch_up(
        self, connection: Connection, mapping: TableMapping[Any], known: Mapping[int, str] | None
    ) -> None:
        """Record what rows hold already: of a new entity all, of a known one what its new fields hold."""
        told, where = list(mapping.types), "t._removed_at IS NULL"
        if known is not None:
            told = [name for name in told if mapping.bits[name] not in known]
            loaded = [mapping.loaded(name, "t") for name in told]
            where += f" AND ({' OR '.join(loaded) or 0})"
        record = RECORD.format(
            number=entity_number(connection, mapping.entity.__name__),
            row="t._id",
            kind="'created'" if known is None else "'updated'",
            old="NULL",
            new=whole(mapping, "t", told),
        )
        connection.execute(MOMENT, (self.clock(), None))
        connection.execute(f"{record}, {quoted(mapping.table)} AS t WHERE {where} ORDER BY t._row")
        connection.execute(MOMENT, (None, None))

    def moment(self, connection: Connection, arrival: Delivery, *, dated: bool) -> None:
        """Say of what follows when its answer came, and in which sync; what is not dated comes now."""
        at = arrival.requested_at if arrival.received_at is None else arrival.received_at
        connection.execute(MOMENT, (at if dated else self.clock(), arrival.sync))

    # -- reading --------------------------------------------------------------------------

    def page(
        self,
        connection: Connection,
        since: str | None = None,
        *,
        entity: type[Entity] | None = None,
        limit: int = PAGE,
    ) -> ChangePage:
        """The changes behind a cursor; None for the beginning, "now" for what is to come.

        HistoryError when nothing was ever recorded, CursorExpired when what followed the cursor
        is no longer kept, InvalidCursor when it belongs to another installation.
        """
        feed = read_feed(connection)
        if feed is None or (not feed.recording and feed.newest <= feed.floor):
            raise HistoryError(
                "nothing is recorded of changes",
                hint="turn it on with: max settings INSTALLATION history=changes; then sync",
            )
        if since == NOW:
            return ChangePage((), feed_cursor(feed, feed.newest), more=False)
        place = _place(feed, since)
        reading = _Reading(connection, feed, self._mappings, entity)
        if isinstance(place, int):
            return reading.changes(place, limit)
        base = reading.base(place, limit)
        if base.more:
            return base
        rest = reading.changes(feed.floor, limit - len(base.items))
        return rest.replace(items=[*base.items, *rest.items])

    # -- forgetting -----------------------------------------------------------------------

    async def tidy(self, database: Database, *, before: float) -> None:
        """After a sync: forget whose writing it was, and fold what is from before a time."""
        if self.recording:
            await database.transact(lambda connection: connection.execute(MOMENT, (None, None)))
        if self._kept:
            for _ in range(MOST_FOLDED):
                if not await database.transact(lambda connection: self.fold(connection, before)):
                    return

    def fold(self, connection: Connection, before: float) -> bool:
        """Fold a page of records from before a time, in one transaction; whether more may follow."""
        feed = read_feed(connection)
        if feed is None:
            return False
        values = {"floor": feed.floor, "limit": PAGE}
        if connection.execute(FORGET, values).rowcount:
            return True
        records = connection.execute(OLDEST, values).fetchall()
        old = list(takewhile(lambda record: record[1] < before, records))
        if old:
            fold(connection, old)
            values["floor"] = old[-1][0]
            connection.execute("UPDATE _max_change_log SET floor = :floor", values)
            connection.execute(FORGET, values)
        elif not feed.recording and not records:
            self._close(connection, before)
        return len(old) == PAGE

    def _close(self, connection: Connection, before: float) -> None:
        """Give up a feed that was ended, once even its newest record is too old."""
        newest = connection.execute("SELECT max(at) FROM _max_change").fetchone()[0]
        if newest is not None and newest < before:
            connection.execute("DELETE FROM _max_change_base")
            connection.execute("UPDATE _max_change_log SET floor = (SELECT max(id) FROM _max_change)")


# -- the feed ----------------------------------------------------------------------------------


def read_feed(connection: Connection) -> _Feed | None:
    """What the database says of its feed; None when there has never been one."""
    if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = '_max_change_log'").fetchone():
        return None
    name, recording, floor, newest = connection.execute(FEED).fetchone()
    return _Feed(name, bool(recording), floor, newest)


def entity_number(connection: Connection, name: str) -> int:
    """The number by which records name an entity."""
    row = connection.execute("SELECT id FROM _max_change_entity WHERE name = ?", (name,)).fetchone()
    return int(row[0])


def rename_entity(connection: Connection, old: str, new: str) -> None:
    """Let what is recorded of one entity be told of another name."""
    if read_feed(connection) is not None:
        connection.execute("UPDATE _max_change_entity SET name = ? WHERE name = ?", (new, old))


def interrupt(connection: Connection) -> None:
    """Let the change log begin again: what a migration does to values is no change of upstream's."""
    if read_feed(connection) is not None:
        connection.execute("UPDATE _max_change_log SET recording = 0")


def drop_triggers(connection: Connection) -> None:
    """Stop recording until ``attach``: for changes to tables that SQLite refuses beside triggers."""
    drop(connection, "trigger")


def kinds_of(mapping: TableMapping[Any]) -> dict[int, str]:
    """What each field holds, by its number."""
    return {mapping.bits[name]: str(holds.kind) for name, holds in mapping.types.items()}


def read_kinds(connection: Connection) -> dict[str, dict[int, str]]:
    """The same as it was when the triggers were made, by entity."""
    rows = connection.execute("SELECT name, kinds FROM _max_change_entity")
    return {name: {int(bit): kind for bit, kind in json.loads(text).items()} for name, text in rows}


# -- triggers ----------------------------------------------------------------------------------
#
# A side of a change is a list with an entry for each word of _loaded bits, [mask, value, …]: which
# of its fields are told, then the values in the order of their bits.


def triggers(mapping: TableMapping[Any], number: int) -> dict[str, str]:
    """The triggers that record every way in which a row of a table can change, by their names."""
    table = quoted(mapping.table)
    old_seen, new_seen = "OLD._removed_at IS NULL", "NEW._removed_at IS NULL"
    same, moved = "OLD._id IS NEW._id", "OLD._id IS NOT NEW._id"

    def record(row: str, kind: str, old: str, new: str, where: str = "") -> str:
        text = RECORD.format(number=number, row=row, kind=kind, old=old, new=new)
        return f"{text} WHERE {where};" if where else f"{text};"

    old, new = whole(mapping, "OLD"), whole(mapping, "NEW")
    came = record("NEW._id", "'created'", "NULL", new, new_seen)
    went = record("OLD._id", "'removed'", old, "NULL", old_seen)
    updated = record("NEW._id", "'updated'", changed_side(mapping, "OLD"), changed_side(mapping, "NEW"))
    turned = record(
        "NEW._id",
        f"CASE WHEN {new_seen} THEN 'restored' ELSE 'removed' END",
        f"CASE WHEN {old_seen} THEN {old} END",
        f"CASE WHEN {new_seen} THEN {new} END",
    )
    differs = " OR ".join(
        f"OLD.{quoted(c)} IS NOT NEW.{quoted(c)}" for c in (*mapping.types, *mapping.bitmaps)
    )
    bodies = {
        "insert": ("INSERT", "1", came),
        "update": ("UPDATE", f"{same} AND {old_seen} AND {new_seen} AND ({differs})", updated),
        "removed": ("UPDATE OF _removed_at", f"{same} AND ({old_seen}) <> ({new_seen})", turned),
        "key": ("UPDATE OF _id", moved, went + came),
        "delete": ("DELETE", "1", went),
    }
    made = {}
    for way, (event, when, body) in bodies.items():
        name = f"_max_change:{number}.{way}"
        made[name] = f"CREATE TRIGGER {quoted(name)} AFTER {event} ON {table} WHEN {when} BEGIN{body} END"
    return made


def by_word(mapping: TableMapping[Any]) -> list[list[str | None]]:
    """The fields of each word in the order of their bits; None where no field of now stands."""
    places: list[list[str | None]] = [[] for _ in mapping.bitmaps]
    for name in sorted(mapping.types, key=mapping.bits.__getitem__):
        word, bit = divmod(mapping.bits[name], BITS)
        places[word] += [None] * (bit - len(places[word]))
        places[word].append(name)
    return places


def whole(mapping: TableMapping[Any], alias: str, fields: Iterable[str] | None = None) -> str:
    """SQL for a side of a change that tells all that is loaded, of all fields or of some."""
    told = set(mapping.types if fields is None else fields)
    words = []
    for column, mask, names in zip(
        mapping.bitmaps, mapping.bitmap_values(told), by_word(mapping), strict=True
    ):
        values = [_value(mapping, alias, name if name in told else None) for name in names]
        words.append(_array(f"{alias}.{quoted(column)} & {mask}", values))
    return f"json_array({', '.join(words)})"


def changed_side(mapping: TableMapping[Any], alias: str) -> str:
    """SQL for a side of an update: what differs between OLD and NEW."""
    words = []
    for column, names in zip(map(quoted, mapping.bitmaps), by_word(mapping), strict=True):
        masks, values = ["0"], []
        for place, name in enumerate(names):
            differs = _differs(column, 1 << place, name)
            masks.append(f"(CASE WHEN {differs} THEN {1 << place} ELSE 0 END)")
            values.append(f"CASE WHEN {differs} THEN {_value(mapping, alias, name)} END")
        words.append(_array(f"{alias}.{column} & ({' | '.join(masks)})", values))
    return f"json_array({', '.join(words)})"


def _differs(column: str, bit: int, name: str | None) -> str:
    if name is None:
        return "0"
    field = quoted(name)
    return f"OLD.{field} IS NOT NEW.{field} OR OLD.{column} & {bit} IS NOT NEW.{column} & {bit}"


def _array(mask: str, values: Sequence[str]) -> str:
    return f"json_array({', '.join([mask, *values])})"


def _value(mapping: TableMapping[Any], alias: str, name: str | None) -> str:
    if name is None:
        return "NULL"
    column = f"{alias}.{quoted(name)}"
    if mapping.types[name].kind is Kind.REAL:
        return f"CASE WHEN {column} IS NOT NULL THEN printf('{DIGITS}', {column}) END"
    return column


# -- records as changes ------------------------------------------------------------------------


class _Reading:
    """Records of one feed as changes, as far as the schema has their entities and fields."""

    def __init__(
        self,
        connection: Connection,
        feed: _Feed,
        mappings: Mapping[str, TableMapping[Any]],
        entity: type[Entity] | None,
    ) -> None:
        self._connection, self._feed = connection, feed
        numbers = dict(connection.execute("SELECT name, id FROM _max_change_entity").fetchall())
        self._entities = {
            numbers[name]: (mapping.entity, decoders(mapping))
            for name, mapping in mappings.items()
            if name in numbers
        }
        self._only = None if entity is None else numbers.get(entity.__name__, -1)

    def changes(self, after: int, limit: int) -> ChangePage:
        """What is recorded behind a number."""
        values = {"after": after, "only": self._only, "limit": limit + 1}
        rows = self._connection.execute(CHANGES, values).fetchall()
        more, rows = len(rows) > limit, rows[:limit]
        items = [
            self._change(kind, number, row, at, sync, old, new, feed_cursor(self._feed, id))
            for id, at, sync, number, row, kind, old, new in rows
            if number in self._entities
        ]
        last = rows[-1][0] if rows else after
        return ChangePage(items, feed_cursor(self._feed, last if more else self._feed.newest), more)

    def base(self, place: tuple[int, str], limit: int) -> ChangePage:
        """The rows with which the feed begins, behind a place among them."""
        values = {"number": place[0], "row": place[1], "only": self._only, "limit": limit + 1}
        rows = self._connection.execute(BASE, values).fetchall()
        more, rows = len(rows) > limit, rows[:limit]
        items = [
            self._change("created", number, row, at, sync, None, new, base_cursor(self._feed, number, row))
            for number, row, at, sync, new in rows
            if number in self._entities
        ]
        last = rows[-1][:2] if rows else place
        return ChangePage(items, base_cursor(self._feed, *last), more)

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
        entity, known = self._entities[number]
        before, after = told(known, old), told(known, new)
        return Change(cast(ChangeKind, kind), entity, row, at, sync, before, after, cursor)


Decoders = Mapping[int, tuple[str, Callable[[Any], Any]]]


def decoders(mapping: TableMapping[Any]) -> Decoders:
    """By a field's number its name, and how its value is read."""
    return {mapping.bits[name]: (name, decoder(holds)) for name, holds in mapping.types.items()}


def decoder(holds: FieldType) -> Callable[[Any], Any]:
    """How a value that is not NULL is read from JSON."""
    if holds.kind is Kind.JSON:
        return json.loads
    if holds.kind is Kind.REAL:
        return float
    if holds.kind is Kind.REF:
        target = cast("type[Entity]", holds.target)
        return lambda value: Ref(target, value)
    return DECODERS.get(holds.kind, lambda value: value)


def told(known: Decoders, side: str | None) -> dict[str, Any]:
    """The fields that a side of a change tells, as values."""
    found: dict[str, Any] = {}
    for number, value in numbered(json.loads(side)) if side else ():
        if number in known:
            name, decode = known[number]
            found[name] = None if value is None else decode(value)
    return found


def numbered(words: Sequence[Sequence[Any]]) -> Iterator[tuple[int, Any]]:
    """The fields that a side tells, by their numbers, as they are stored."""
    for word, (mask, *values) in enumerate(words):
        for place in range(mask.bit_length()):
            if mask >> place & 1:
                yield word * BITS + place, values[place]


# -- folding -----------------------------------------------------------------------------------


def fold(connection: Connection, records: Sequence[tuple[Any, ...]]) -> None:
    """Bring the rows with which the feed begins to where these records lead."""
    rows: dict[tuple[int, str], dict[int, Any] | None] = {}
    last: dict[tuple[int, str], tuple[float, str | None]] = {}
    for _, at, sync, number, row, kind, old, new in records:
        key = number, row
        last[key] = at, sync
        if kind == "removed":
            rows[key] = None
            continue
        fields = dict(numbered(json.loads(new)))
        if kind == "updated":
            before = rows[key] if key in rows else _base_row(connection, key)
            gone = dict(numbered(json.loads(old))) if old else {}
            fields = {n: v for n, v in (before or {}).items() if n not in gone} | fields
        rows[key] = fields
    gone_keys = [key for key, fields in rows.items() if fields is None]
    connection.executemany("DELETE FROM _max_change_base WHERE number = ? AND row = ?", gone_keys)
    kept = [(*key, *last[key], side_text(fields)) for key, fields in rows.items() if fields is not None]
    connection.executemany(KEEP_BASE, kept)


def _base_row(connection: Connection, key: tuple[int, str]) -> dict[int, Any]:
    sql = "SELECT new FROM _max_change_base WHERE number = ? AND row = ?"
    found = connection.execute(sql, key).fetchone()
    return dict(numbered(json.loads(found[0]))) if found else {}


def side_text(fields: Mapping[int, Any]) -> str:
    """The inverse of ``numbered``: a side of a change as a record holds it."""
    words: list[list[Any]] = [[0]]
    for number in sorted(fields):
        word, place = divmod(number, BITS)
        words += [[0] for _ in range(word + 1 - len(words))]
        words[word][0] |= 1 << place
        words[word] += [None] * (place + 2 - len(words[word]))
        words[word][place + 1] = fields[number]
    return json.dumps(words, ensure_ascii=False, separators=(",", ":"))


# -- cursors -----------------------------------------------------------------------------------


def feed_cursor(feed: _Feed, number: int) -> str:
    """The place behind a record."""
    return _encoded([feed.name, number])


def base_cursor(feed: _Feed, entity: int, row: str) -> str:
    """The place behind one of the rows with which the feed begins."""
    return _encoded([feed.name, feed.floor, entity, row])


def _encoded(data: Json) -> str:
    return urlsafe_b64encode(json.dumps(data).encode()).decode().rstrip("=")


def _place(feed: _Feed, cursor: str | None) -> int | tuple[int, str]:
    """The record's number behind which to go on, or the place among the rows at the beginning."""
    if cursor is None:
        return -1, ""
    name, number, *row = _decoded(cursor)
    if name != feed.name or number > feed.newest:
        raise InvalidCursor(
            "it belongs to another installation, or to other data than there is now",
            hint="leave it out to begin at the beginning; --since now gives a new one",
        )
    if number < feed.floor:
        raise CursorExpired()
    return (row[0], row[1]) if row else int(number)


def _decoded(cursor: str) -> list[Any]:
    """What a cursor says; InvalidCursor when it is none of ours."""
    try:
        data = json.loads(urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except ValueError:
        data = None
    fits = ([str, int], [str, int, int, str])
    if not isinstance(data, list) or [type(one) for one in data] not in fits:
        raise InvalidCursor(
            "it is none of `max changes`", hint="pass the cursor of a change, or: --since now"
        )
    return data
