"""Schema operations: stored data gets another name, another type or another key.

Rule 1: every operation runs inside the transaction of a migration, whose planner has checked
that it can be done.  Each part of storage keeps the names and ids that it stores right by
itself: the operations call all of them (see RenameOwner).

Rule 2: a value that cannot be kept is not loaded and stale.  It never reads as empty, and the
next sync fetches it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from ..errors import SchemaError
from ..model.columns import decode_column, encode_one
from ..model.entities import FieldType
from ..model.schema import table_name
from ..model.values import is_id
from . import catalogue
from .database import Connection, RenameOwner, Targets, quoted
from .freshness import latest_request
from .rows import BITS, bitmap_column
from .users_own import INDEXING, users_own

EXACT_FLOAT = 2**53  # the largest integer up to which every one has a float of its own
ROWS = 1_000  # that are read and converted at a time
REPLACEMENT = quoted("_max_replacement")  # the column in which a field's new values are gathered

Using = Callable[[Any], Any]
Path = tuple[str, str]  # an entity and its field

STALE = """
    INSERT INTO _max_freshness (entity, row, field, synced_at, recorded_at)
    SELECT :entity, _row, :field, NULL, :at FROM {table} WHERE {condition}
    ON CONFLICT (entity, row, field) DO UPDATE SET synced_at = NULL, recorded_at = excluded.recorded_at
"""


class NewKey(NamedTuple):
    """What depends on an entity's ids.

    ``refs`` are the fields that point at it, ``lists`` those that hold lists of refs to it, which are
    fetched again, ``parents`` the collections and feeds whose parent
    it is, ``collections`` those whose members are its rows.  ``using`` are the conversions that
    the field has yet to go through.
    """

    path: Path
    holds: FieldType
    refs: Sequence[Path]
    lists: Sequence[Path]
    parents: Sequence[str]
    collections: Sequence[str]
    using: Sequence[Using] = ()


def duplicates(connection: Connection, table: str, column: str) -> list[str]:
    """Some of the values that more than one row has that is not removed."""
    sql = (
        f"SELECT CAST({quoted(column)} AS TEXT) AS new FROM {quoted(table)}"
        f" WHERE {quoted(column)} IS NOT NULL AND _removed_at IS NULL"
        " GROUP BY 1 HAVING count(*) > 1 ORDER BY 1 LIMIT 3"
    )
    return [row[0] for row in connection.execute(sql)]


def duplicate_key_error(path: Path, values: Sequence[str]) -> SchemaError:
    """Why a field cannot be the id."""
    shown = ", ".join(map(repr, values))
    return SchemaError(
        f"{path[0]}.{path[1]} cannot be the id: several rows have {shown}",
        hint="nothing was changed; correct the migration, or remove the duplicates upstream and sync"
        " with the version before",
    )


def too_large(column: str) -> str:
    """SQL that is true of an integer which a float may not tell from its neighbours."""
    return f"{column} NOT BETWEEN {-EXACT_FLOAT} AND {EXACT_FLOAT}"


def loaded_bit(connection: Connection, path: Path) -> tuple[str, int]:
    """The bitmap of a field, and its bit there."""
    sql = "SELECT bit FROM _max_field WHERE entity = ? AND field = ?"
    number, bit = divmod(connection.execute(sql, path).fetchone()[0], BITS)
    return quoted(bitmap_column(number)), 1 << bit


class SchemaOperations:
    """What a migration does to stored data.

    ``connector`` begins the names of its tables.  ``owners`` are the parts of storage that store
    names or ids, first the one that knows when each field was synced.
    """

    def __init__(self, connection: Connection, connector: str, owners: Sequence[RenameOwner]) -> None:
        self._connection, self._connector = connection, connector
        self._freshness, self._owners = owners[0], owners

    def _table(self, entity: str) -> str:
        return f"_{table_name(self._connector, entity)}"

    def _drop_indexes(self, entity: str) -> None:
        catalogue.drop(self._connection, "index", self._table(entity))

    # -- names ------------------------------------------------------------------------------

    def rename_entity(self, old: str, new: str) -> None:
        """Give an entity another name, everywhere."""
        self._drop_indexes(old)
        if self._table(old) != self._table(new):
            before, after = quoted(self._table(old)), quoted(self._table(new))
            self._connection.execute(f"ALTER TABLE {before} RENAME TO {after}")
        for table in ("_max_field", "_max_spent_bit"):
            self._connection.execute(f"UPDATE {table} SET entity = ? WHERE entity = ?", (new, old))
        for owner in self._owners:
            owner.rename_entity(self._connection, old, new)

    def rename_field(self, path: Path, new: str, targets: Targets) -> None:
        """Give a field another name; ``targets`` says where refs point, for filters that follow them."""
        entity, old = path
        self._drop_indexes(entity)
        table = quoted(self._table(entity))
        self._connection.execute(f"ALTER TABLE {table} RENAME COLUMN {quoted(old)} TO {quoted(new)}")
        sql = "UPDATE _max_field SET field = ? WHERE entity = ? AND field = ?"
        self._connection.execute(sql, (new, entity, old))
        self.rename_collection(path, new, targets)

    def rename_collection(self, path: Path, new: str, targets: Targets) -> None:
        """Give a collection another name; its listings go on."""
        for owner in self._owners:
            owner.rename_field(self._connection, *path, new, targets)

    # -- what is not known any more ----------------------------------------------------------

    def mark_stale(self, path: Path) -> int:
        """A field that was hidden has missed changes: its values stay, and every row is stale."""
        self._freshness.drop_field(self._connection, *path)
        return 1

    def clear_values(self, path: Path, condition: str | None = None) -> int:
        """Make a field not loaded and stale where the condition holds, or everywhere; in how many rows."""
        table, (bitmap, bit) = quoted(self._table(path[0])), loaded_bit(self._connection, path)
        loaded = f"({bitmap} & {bit}) <> 0"
        if condition is None:
            self._freshness.drop_field(self._connection, *path)
        else:
            loaded += f" AND ({condition})"
            values = {"entity": path[0], "field": path[1], "at": latest_request(self._connection)}
            self._connection.execute(STALE.format(table=table, condition=loaded), values)
        return self._connection.execute(
            f"UPDATE {table} SET {quoted(path[1])} = NULL, {bitmap} = {bitmap} & ~{bit} WHERE {loaded}"
        ).rowcount

    def empty_field(self, path: Path) -> None:
        """Delete a field's values and all that is known of them; its column stays."""
        self._drop_indexes(path[0])
        self.clear_values(path)
        self.drop_collection(path)

    def drop_field(self, path: Path) -> None:
        """Delete a field with all that is known of it; its bit is not given again."""
        self.empty_field(path)
        self._connection.execute(
            "INSERT INTO _max_spent_bit SELECT entity, bit FROM _max_field WHERE entity = ? AND field = ?",
            path,
        )
        table = quoted(self._table(path[0]))
        self._connection.execute(f"ALTER TABLE {table} DROP COLUMN {quoted(path[1])}")
        self._connection.execute("DELETE FROM _max_field WHERE entity = ? AND field = ?", path)

    def drop_collection(self, path: Path) -> None:
        """Delete what is known of a collection: its listings, and which rows they had."""
        for owner in self._owners:
            owner.drop_field(self._connection, *path)

    def drop_entity(self, entity: str) -> None:
        """Delete an entity's table and what is known of its rows; its collections are dropped apart."""
        self._drop_indexes(entity)
        for owner in self._owners:
            owner.drop_entity(self._connection, entity)
        for table in ("_max_field", "_max_spent_bit"):
            self._connection.execute(f"DELETE FROM {table} WHERE entity = ?", (entity,))
        self._connection.execute(f"DROP TABLE {quoted(self._table(entity))}")

    # -- types ------------------------------------------------------------------------------

    def widen(self, path: Path, holds: FieldType) -> int:
        """Make integers floats; one that no float holds is not loaded any more: how many those are."""
        column = quoted(path[1])
        lost = self.clear_values(path, too_large(column))
        with self._replacement_column(path, holds) as table:
            sql = f"UPDATE {table} SET {REPLACEMENT} = CAST({column} AS REAL) WHERE {column} IS NOT NULL"
            self._connection.execute(sql)
        return lost

    def convert(self, path: Path, old: FieldType, holds: FieldType, using: Sequence[Using] | None) -> int:
        """Convert a field's values to another type, a page at a time; how many are lost by that.

        Without ``using`` all are.
        """
        if using is None:
            lost = self.clear_values(path)
            with self._replacement_column(path, holds):
                return lost
        self._connection.execute("CREATE TEMPORARY TABLE _max_unconvertible (row INTEGER PRIMARY KEY)")
        with self._replacement_column(path, holds) as table:
            for rows in self._loaded_values(path):
                values = decode_column(old, [stored for _, stored in rows])
                made = [
                    (_converted(value, using, holds), row)
                    for (row, _), value in zip(rows, values, strict=True)
                ]
                fits = [(encode_one(holds, value), row) for value, row in made if value is not UNCONVERTIBLE]
                self._connection.executemany(f"UPDATE {table} SET {REPLACEMENT} = ? WHERE _row = ?", fits)
                failed = [(row,) for value, row in made if value is UNCONVERTIBLE]
                self._connection.executemany("INSERT INTO _max_unconvertible VALUES (?)", failed)
        lost = self.clear_values(path, "_row IN (SELECT row FROM _max_unconvertible)")
        self._connection.execute("DROP TABLE _max_unconvertible")
        return lost if holds.optional else lost + self.clear_values(path, f"{quoted(path[1])} IS NULL")

    def _loaded_values(self, path: Path) -> Iterator[list[tuple[int, Any]]]:
        """Pages of row numbers and stored values, where there is one."""
        table, column = quoted(self._table(path[0])), quoted(path[1])
        sql = (
            f"SELECT _row, {column} FROM {table}"
            f" WHERE {column} IS NOT NULL AND _row > ? ORDER BY _row LIMIT {ROWS}"
        )
        after = 0
        while rows := self._connection.execute(sql, (after,)).fetchall():
            yield rows
            after = rows[-1][0]

    @contextmanager
    def _replacement_column(self, path: Path, holds: FieldType) -> Iterator[str]:
        """A column beside a field's, which takes its place at the end."""
        self._drop_indexes(path[0])
        table, column = quoted(self._table(path[0])), quoted(path[1])
        dialect, found = self._connection.dialect, users_own(self._connection)
        uses = [one for one in found if one.uses(dialect, self._table(path[0]), path[1])]
        indexes = [one for one in uses if one.kind in INDEXING]
        for one in indexes:
            self._connection.execute(one.drop)
        kind = dialect.types[holds.kind]
        self._connection.execute(f"ALTER TABLE {table} ADD COLUMN {REPLACEMENT} {kind}")
        yield table
        self._connection.execute(f"ALTER TABLE {table} DROP COLUMN {column}")
        self._connection.execute(f"ALTER TABLE {table} RENAME COLUMN {REPLACEMENT} TO {column}")
        for one in indexes:
            catalogue.create(self._connection, one.name, one.definition)
        sql = "UPDATE _max_field SET kind = ? WHERE entity = ? AND field = ?"
        self._connection.execute(sql, (str(holds.kind), *path))

    # -- keys -------------------------------------------------------------------------------

    def change_key(self, key: NewKey) -> int:
        """Make the values of a field the ids; how many rows had none and were dropped."""
        entity = key.path[0]
        self._connection.execute(
            "CREATE TEMPORARY TABLE _max_new_id (row INTEGER PRIMARY KEY, old TEXT UNIQUE, new TEXT UNIQUE)"
        )
        self._gather_ids(key)
        table = quoted(self._table(entity))
        gone = f"SELECT _row FROM {table} WHERE _row NOT IN (SELECT row FROM _max_new_id)"
        for owner in self._owners:
            owner.drop_rows(self._connection, entity, gone, key.collections)
        dropped = self._connection.execute(f"DELETE FROM {table} WHERE _row IN ({gone})").rowcount
        # under other ids for a moment, so that two may change places
        self._connection.execute(f"UPDATE {table} SET _id = ? || _row", (self._no_beginning(table),))
        self._connection.execute(
            f"UPDATE {table} SET _id = (SELECT new FROM _max_new_id AS k WHERE k.row = _row)"
        )
        for path in key.refs:
            self._change_ref(path)
        for path in key.lists:
            self.clear_values(path)
        for owner in self._owners:
            owner.change_ids(self._connection, entity, "_max_new_id", key.parents)
        self._connection.execute("DROP TABLE _max_new_id")
        return dropped

    def _no_beginning(self, table: str) -> str:
        """A text with which no id of a table begins."""
        text = "\1"
        sql = f"SELECT 1 FROM {table} WHERE substr(_id, 1, length(:text)) = :text LIMIT 1"
        while self._connection.execute(sql, {"text": text}).fetchone():
            text += "\1"
        return text

    def _change_ref(self, path: Path) -> None:
        """Have a ref point at the new ids; one to a row that was dropped is not loaded any more."""
        table, column = quoted(self._table(path[0])), quoted(path[1])
        self.clear_values(path, f"{column} IS NOT NULL AND {column} NOT IN (SELECT old FROM _max_new_id)")
        new = f"SELECT k.new FROM _max_new_id AS k WHERE k.old = t.{column}"
        sql = f"UPDATE {table} AS t SET {column} = ({new}) WHERE t.{column} IS NOT NULL"
        self._connection.execute(sql)

    def _gather_ids(self, key: NewKey) -> None:
        """Fill the table of old and new ids; a removed row gives way to any other of its new id."""
        table, column = quoted(self._table(key.path[0])), quoted(key.path[1])
        insert = "INSERT INTO _max_new_id VALUES (?, ?, ?) ON CONFLICT DO NOTHING"
        for removed in ("IS NULL", "IS NOT NULL"):
            sql = (
                f"SELECT _row, _id, {column} FROM {table} WHERE {column} IS NOT NULL"
                f" AND _removed_at {removed} AND _row > ? ORDER BY _row LIMIT {ROWS}"
            )
            after = 0
            while rows := self._connection.execute(sql, (after,)).fetchall():
                after = rows[-1][0]
                new = [_new_id(value, key) for value in decode_column(key.holds, [row[2] for row in rows])]
                pairs = [
                    (row, old, id) for (row, old, _), id in zip(rows, new, strict=True) if id is not None
                ]
                stored = self._connection.executemany(insert, pairs).rowcount
                if removed == "IS NULL" and stored < len(pairs):
                    raise duplicate_key_error(key.path, self._duplicated(pairs))

    def _duplicated(self, pairs: Sequence[tuple[int, str, str]]) -> list[str]:
        sql = "SELECT row FROM _max_new_id WHERE new = ?"
        values = [new for row, _, new in pairs if self._connection.execute(sql, (new,)).fetchone() != (row,)]
        return sorted(dict.fromkeys(values))[:3]


UNCONVERTIBLE = object()  # in place of a value that cannot be converted


def _converted(value: Any, using: Sequence[Using], holds: FieldType) -> Any:
    """The new value, or UNCONVERTIBLE; what a connector's function raises is its way to say so."""
    try:
        for function in using:
            value = None if value is None else function(value)
    except Exception:
        return UNCONVERTIBLE
    return value if holds.check(value) else UNCONVERTIBLE


def _new_id(value: Any, key: NewKey) -> str | None:
    try:
        for function in key.using:
            value = None if value is None else function(value)
    except Exception:
        return None  # as in _converted
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    return value if is_id(value) else None
