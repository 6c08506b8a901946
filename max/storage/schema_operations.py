"""Reshaping: what is stored under another name, of another type, or under another key.

Rule 1: every function runs inside a transaction of its caller, who has checked that it can be
done; it takes along whatever Max knows of what it moves: bits, freshness, links, pending tasks.

Rule 2: what cannot be kept is not loaded and stale.  It never reads as empty, and the next
sync fetches it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from ..errors import SchemaError
from ..model.entities import FieldType
from ..model.schema import snake_case
from ..model.tasks import TaskSpec, read_spec
from ..model.values import EXACT_FLOAT, is_id
from . import change_log as history
from .database import Connection, quoted
from .freshness import newest
from .rows import BITS, decode_column, encode_one, word_column

ROWS = 1_000  # that are read and converted at a time
ANEW = quoted("_max_anew")  # the column in which a field's new values are gathered
KEPT_LOGS = frozenset({"_max_failure"})  # tables that tell what has happened, also to what is gone

Using = Callable[[Any], Any]
Path = tuple[str, str]  # an entity and its field

STALE = """
    INSERT INTO _max_freshness (entity, row, field, synced_at, recorded_at)
    SELECT :entity, _row, :field, NULL, :at FROM {table} WHERE {condition}
    ON CONFLICT (entity, row, field) DO UPDATE SET synced_at = NULL, recorded_at = excluded.recorded_at
"""

SPENT = """
    INSERT INTO _max_spent (entity, bits)
    SELECT entity, bit + 1 FROM _max_field WHERE entity = ? AND field = ?
    ON CONFLICT (entity) DO UPDATE SET bits = max(bits, excluded.bits)
"""


def interrupt_history(connection: Connection) -> None:
    """Let the feed of changes begin anew: what follows is no change of upstream's."""
    if history.read_feed(connection) is not None:
        history.drop_triggers(connection)
        connection.execute("UPDATE _max_change_log SET recording = 0")


# -- what knows of a name ------------------------------------------------------------------


def followers(connection: Connection, *columns: str) -> list[str]:
    """Those of Max's own tables that have all of these columns."""
    rows = connection.execute(
        "SELECT m.name, c.name FROM sqlite_master AS m, pragma_table_info(m.name) AS c"
        " WHERE m.type = 'table' AND m.name GLOB '_max_*'"
    )
    known: dict[str, set[str]] = {}
    for table, column in rows:
        known.setdefault(table, set()).add(column)
    return [table for table, has in known.items() if has.issuperset(columns)]


def drop_indexes(connection: Connection, entity: str) -> None:
    """Drop Max's indexes on an entity's table; whoever changes it builds them anew."""
    sql = "SELECT name FROM sqlite_master WHERE type = 'index' AND tbl_name = ? AND name GLOB '_max_*'"
    for (name,) in connection.execute(sql, (snake_case(entity),)).fetchall():
        connection.execute(f"DROP INDEX {quoted(name)}")


def rewrite_specs(connection: Connection, rewrite: Callable[[TaskSpec], TaskSpec]) -> None:
    """Have a function change the spec of each task that has not ended, or that failed."""
    places = (
        ("_max_task", "id", "spec", "state NOT IN ('completed', 'failed', 'cancelled')"),
        ("_max_failure", "number", "input", "1"),
    )
    present = set(followers(connection))
    for table, key, column, condition in places:
        if table not in present:
            continue
        rows = connection.execute(f"SELECT {key}, kind, {column} FROM {table} WHERE {condition}").fetchall()
        for id, kind, text in rows:
            spec = read_spec(kind, json.loads(text))
            if (changed := rewrite(spec)) != spec:
                values = (json.dumps(changed.to_json()), id)
                connection.execute(f"UPDATE {table} SET {column} = ? WHERE {key} = ?", values)


# -- names ---------------------------------------------------------------------------------


def rename_entity(connection: Connection, old: str, new: str) -> None:
    """Give an entity another name, everywhere."""
    drop_indexes(connection, old)
    if snake_case(old) != snake_case(new):
        connection.execute(f"ALTER TABLE {quoted(snake_case(old))} RENAME TO {quoted(snake_case(new))}")
    for table in followers(connection, "entity"):
        connection.execute(f"UPDATE OR REPLACE {quoted(table)} SET entity = ? WHERE entity = ?", (new, old))
    history.rename_entity(connection, old, new)
    connection.execute(
        "UPDATE _max_listing SET collection = :new || substr(collection, length(:old) + 1)"
        " WHERE substr(collection, 1, length(:old) + 1) = :old || '.'",
        {"old": old, "new": new},
    )
    rewrite_specs(connection, lambda spec: spec.rename_entity(old, new))


def rename_field(
    connection: Connection, path: Path, new: str, target: Callable[[str, str], str | None]
) -> None:
    """Give a field another name; ``target`` tells where a ref leads, for filters that follow it."""
    entity, old = path
    drop_indexes(connection, entity)
    table = quoted(snake_case(entity))
    connection.execute(f"ALTER TABLE {table} RENAME COLUMN {quoted(old)} TO {quoted(new)}")
    values = {"entity": entity, "old": old, "new": new}
    for follower in followers(connection, "entity", "field"):
        sql = f"UPDATE OR REPLACE {quoted(follower)} SET field = :new WHERE entity = :entity AND field = :old"
        connection.execute(sql, values)
    _rename_in_pages(connection, path, new)
    rewrite_specs(connection, lambda spec: spec.rename_field(entity, old, new, target))


def rename_collection(connection: Connection, path: Path, new: str) -> None:
    """Give a collection another name; its lists go on."""
    entity, old = path
    values = (f"{entity}.{new}", f"{entity}.{old}")
    connection.execute("UPDATE _max_listing SET collection = ? WHERE collection = ?", values)
    rewrite_specs(connection, lambda spec: spec.rename_field(entity, old, new))


def _rename_in_pages(connection: Connection, path: Path, new: str | None) -> None:
    """Have the pages call a field by another name, or, without one, not know it any more."""
    entity, old = path
    connection.execute(
        "UPDATE _max_load SET fields = replace(fields, :old, :new) WHERE entity = :entity",
        {"entity": entity, "old": f",{old},", "new": f",{new}," if new else ","},
    )


# -- bits ----------------------------------------------------------------------------------


def bit_of(connection: Connection, path: Path) -> tuple[str, int]:
    """The _loaded column of a field, and its bit there."""
    sql = "SELECT bit FROM _max_field WHERE entity = ? AND field = ?"
    word, bit = divmod(connection.execute(sql, path).fetchone()[0], BITS)
    return quoted(word_column(word)), 1 << bit


def forget_freshness(connection: Connection, path: Path) -> None:
    """A field was never synced, in any row."""
    _rename_in_pages(connection, path, None)
    connection.execute("DELETE FROM _max_freshness WHERE entity = ? AND field = ?", path)


def outdate(connection: Connection, path: Path) -> int:
    """A field that was hidden has missed what changed: its values stay, and every row is stale."""
    forget_freshness(connection, path)
    return 1


def unload(connection: Connection, path: Path, condition: str | None = None) -> int:
    """Make a field not loaded and stale where the condition holds, or everywhere; in how many rows."""
    table, (word, bit) = quoted(snake_case(path[0])), bit_of(connection, path)
    if condition is None:
        forget_freshness(connection, path)
    else:
        values = {"entity": path[0], "field": path[1], "at": newest(connection)}
        loaded = f"{word} & {bit} AND ({condition})"
        connection.execute(STALE.format(table=table, condition=loaded), values)
    return connection.execute(
        f"UPDATE {table} SET {quoted(path[1])} = NULL, {word} = {word} & ~{bit}"
        f" WHERE {word} & {bit} AND ({condition or 1})"
    ).rowcount


# -- what goes -----------------------------------------------------------------------------


def drop_field(connection: Connection, path: Path) -> None:
    """Delete a field with all that is known of it; its bit is not given again."""
    drop_indexes(connection, path[0])
    unload(connection, path)
    connection.execute(SPENT, path)
    connection.execute(f"ALTER TABLE {quoted(snake_case(path[0]))} DROP COLUMN {quoted(path[1])}")
    connection.execute("DELETE FROM _max_field WHERE entity = ? AND field = ?", path)


def drop_collection(connection: Connection, path: Path) -> None:
    """Delete what is known of a collection: its lists, and who was in them."""
    name = ".".join(path)
    lists = "(SELECT id FROM _max_listing WHERE collection = ?)"
    connection.execute(f"DELETE FROM _max_membership WHERE listing IN {lists}", (name,))
    connection.execute(f"UPDATE _max_missing SET listing = NULL WHERE listing IN {lists}", (name,))
    connection.execute("DELETE FROM _max_listing WHERE collection = ?", (name,))


def drop_entity(connection: Connection, entity: str) -> None:
    """Delete an entity's table and what is known of its rows; its collections are dropped apart."""
    connection.execute(f"DROP TABLE {quoted(snake_case(entity))}")
    if followers(connection, "name", "kinds"):
        connection.execute("DELETE FROM _max_change_entity WHERE name = ?", (entity,))
    for table in followers(connection, "entity"):
        if table not in KEPT_LOGS:
            connection.execute(f"DELETE FROM {quoted(table)} WHERE entity = ?", (entity,))


# -- types ---------------------------------------------------------------------------------


def too_large(column: str) -> str:
    """SQL that is true of an integer which floats may not tell from its neighbours."""
    return f"{column} NOT BETWEEN {-EXACT_FLOAT} AND {EXACT_FLOAT}"


def widen(connection: Connection, path: Path, holds: FieldType) -> int:
    """Make integers floats; one that no float holds is not loaded any more: how many those are."""
    column = quoted(path[1])
    lost = unload(connection, path, too_large(column))
    with _anew(connection, path, holds) as table:
        connection.execute(f"UPDATE {table} SET {ANEW} = CAST({column} AS REAL) WHERE {column} IS NOT NULL")
    return lost


def convert(
    connection: Connection,
    path: Path,
    old: FieldType,
    holds: FieldType,
    using: Sequence[Using] | None,
) -> int:
    """Make a field's values of another type, a page at a time; how many are lost by that.

    Without ``using`` all are.
    """
    if using is None:
        lost_rows = unload(connection, path)
        with _anew(connection, path, holds):
            return lost_rows
    connection.execute("CREATE TEMP TABLE _max_unfit (row INTEGER PRIMARY KEY)")
    with _anew(connection, path, holds) as table:
        for rows in _loaded_values(connection, path):
            values = decode_column(old, [stored for _, stored in rows])
            made = [
                (_converted(value, using, holds), row) for (row, _), value in zip(rows, values, strict=True)
            ]
            fits = [(encode_one(holds, value), row) for value, row in made if value is not UNFIT]
            connection.executemany(f"UPDATE {table} SET {ANEW} = ? WHERE _row = ?", fits)
            lost = [(row,) for value, row in made if value is UNFIT]
            connection.executemany("INSERT INTO _max_unfit VALUES (?)", lost)
    lost_rows = unload(connection, path, "_row IN (SELECT row FROM _max_unfit)")
    connection.execute("DROP TABLE _max_unfit")
    if not holds.optional:
        lost_rows += unload(connection, path, f"{quoted(path[1])} IS NULL")
    return lost_rows


UNFIT = object()


def _converted(value: Any, using: Sequence[Using], holds: FieldType) -> Any:
    """The new value, or UNFIT; what a connector's function raises is its way to say so."""
    try:
        for function in using:
            value = None if value is None else function(value)
    except Exception:
        return UNFIT
    return value if holds.check(value) else UNFIT


def _loaded_values(connection: Connection, path: Path) -> Iterator[list[tuple[int, Any]]]:
    """Pages of row numbers and stored values, where there is one."""
    table, column = quoted(snake_case(path[0])), quoted(path[1])
    sql = (
        f"SELECT _row, {column} FROM {table}"
        f" WHERE {column} IS NOT NULL AND _row > ? ORDER BY _row LIMIT {ROWS}"
    )
    after = 0
    while rows := connection.execute(sql, (after,)).fetchall():
        yield rows
        after = rows[-1][0]


class _anew:  # noqa: N801 - used as a function is
    """A column beside a field's, which takes its place at the end."""

    def __init__(self, connection: Connection, path: Path, holds: FieldType) -> None:
        self._connection, self._path, self._holds = connection, path, holds
        self._table = quoted(snake_case(path[0]))

    def __enter__(self) -> str:
        drop_indexes(self._connection, self._path[0])
        kind = self._connection.dialect.types[self._holds.kind]
        self._connection.execute(f"ALTER TABLE {self._table} ADD COLUMN {ANEW} {kind}")
        return self._table

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if error is not None:
            return
        column = quoted(self._path[1])
        self._connection.execute(f"ALTER TABLE {self._table} DROP COLUMN {column}")
        self._connection.execute(f"ALTER TABLE {self._table} RENAME COLUMN {ANEW} TO {column}")
        sql = "UPDATE _max_field SET kind = ? WHERE entity = ? AND field = ?"
        self._connection.execute(sql, (str(self._holds.kind), *self._path))


# -- keys ----------------------------------------------------------------------------------


class Key(NamedTuple):
    """What depends on an entity's ids.

    ``refs`` are the fields that point at it, ``parents`` the names of the lists whose parent it
    is, ``lists`` those of the collections in which it is.  ``using`` are the conversions that
    the field has yet to go through.
    """

    path: Path
    holds: FieldType
    refs: Sequence[Path]
    parents: Sequence[str]
    lists: Sequence[str]
    using: Sequence[Using] = ()


def duplicates(connection: Connection, path: Path) -> list[str]:
    """Some of the values that more than one row has that is not removed."""
    sql = (
        f"SELECT CAST({quoted(path[1])} AS TEXT) AS new FROM {quoted(snake_case(path[0]))}"
        " WHERE new IS NOT NULL AND _removed_at IS NULL GROUP BY new HAVING count(*) > 1 ORDER BY new LIMIT 3"
    )
    return [row[0] for row in connection.execute(sql)]


def twins(path: Path, values: Sequence[str]) -> SchemaError:
    """Why a field cannot be the id."""
    shown = ", ".join(map(repr, values))
    return SchemaError(
        f"{path[0]}.{path[1]} cannot be the id: several rows have {shown}",
        hint="nothing was changed; correct the migration, or remove the duplicates upstream and sync"
        " with the version before",
    )


def rekey(connection: Connection, key: Key) -> int:
    """Make the values of a field the ids; how many rows had none and were dropped."""
    connection.execute(
        "CREATE TEMP TABLE _max_rekeyed (row INTEGER PRIMARY KEY, old TEXT UNIQUE, new TEXT UNIQUE)"
    )
    _gather_ids(connection, key)
    dropped = _drop_others(connection, key)
    table = quoted(snake_case(key.path[0]))
    connection.execute(f"UPDATE {table} SET _id = ? || _row", ("\0",))  # so that two may change places
    connection.execute(f"UPDATE {table} SET _id = (SELECT new FROM _max_rekeyed AS k WHERE k.row = _row)")
    for path in key.refs:
        column = quoted(path[1])
        unload(connection, path, f"{column} IS NOT NULL AND {column} NOT IN (SELECT old FROM _max_rekeyed)")
        connection.execute(
            f"UPDATE {quoted(snake_case(path[0]))} SET {column} ="
            f" (SELECT new FROM temp._max_rekeyed WHERE old = {column}) WHERE {column} IS NOT NULL"
        )
    for name in key.parents:
        _rekey_lists(connection, name)
    _rekey_tasks(connection, key.path[0])
    connection.execute("DROP TABLE _max_rekeyed")
    return dropped


def _gather_ids(connection: Connection, key: Key) -> None:
    """Fill the table of old and new ids; a removed row gives way to any other of its new id."""
    table, column = quoted(snake_case(key.path[0])), quoted(key.path[1])
    for removed in ("IS NULL", "IS NOT NULL"):
        sql = (
            f"SELECT _row, _id, {column} FROM {table} WHERE {column} IS NOT NULL"
            f" AND _removed_at {removed} AND _row > ? ORDER BY _row LIMIT {ROWS}"
        )
        after = 0
        while rows := connection.execute(sql, (after,)).fetchall():
            after = rows[-1][0]
            new = [_new_id(value, key) for value in decode_column(key.holds, [row[2] for row in rows])]
            pairs = [(row, old, id) for (row, old, _), id in zip(rows, new, strict=True) if id is not None]
            taken = "INSERT INTO _max_rekeyed VALUES (?, ?, ?) ON CONFLICT DO NOTHING"
            if connection.executemany(taken, pairs).rowcount < len(pairs) and removed == "IS NULL":
                raise twins(key.path, _taken(connection, pairs))


def _new_id(value: Any, key: Key) -> str | None:
    try:
        for function in key.using:
            value = None if value is None else function(value)
    except Exception:
        return None  # as in _converted
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    return value if is_id(value) else None


def _taken(connection: Connection, pairs: Sequence[tuple[int, str, str]]) -> list[str]:
    sql = "SELECT row FROM _max_rekeyed WHERE new = ?"
    values = [new for row, _, new in pairs if connection.execute(sql, (new,)).fetchone() != (row,)]
    return sorted(dict.fromkeys(values))[:3]


def _drop_others(connection: Connection, key: Key) -> int:
    """Delete the rows that have no new id, and what is known of them."""
    entity, table = key.path[0], quoted(snake_case(key.path[0]))
    gone = f"(SELECT _row FROM {table} WHERE _row NOT IN (SELECT row FROM temp._max_rekeyed))"
    lists = "(SELECT id FROM _max_listing WHERE collection IN (SELECT value FROM json_each(?)))"
    names = json.dumps(list(key.lists))
    connection.execute(f"DELETE FROM _max_membership WHERE child IN {gone} AND listing IN {lists}", (names,))
    for follower in followers(connection, "entity", "row"):
        if follower not in KEPT_LOGS:
            sql = f"DELETE FROM {quoted(follower)} WHERE entity = ? AND row IN {gone}"
            connection.execute(sql, (entity,))
    return connection.execute(f"DELETE FROM {table} WHERE _row IN {gone}").rowcount


def _rekey_lists(connection: Connection, name: str) -> None:
    """Give lists their parents' new ids; those whose parent was dropped go with their links."""
    mapped = "SELECT new FROM _max_rekeyed WHERE old = parent"
    gone = f"collection = ? AND NOT EXISTS ({mapped})"
    lists = f"(SELECT id FROM _max_listing WHERE {gone})"
    connection.execute(f"DELETE FROM _max_membership WHERE listing IN {lists}", (name,))
    connection.execute(f"UPDATE _max_missing SET listing = NULL WHERE listing IN {lists}", (name,))
    connection.execute(f"DELETE FROM _max_listing WHERE {gone}", (name,))
    aside = f" rekeyed {name}"  # so that two parents may change places
    sql = f"UPDATE _max_listing SET collection = ?, parent = ({mapped}) WHERE collection = ?"
    connection.execute(sql, (aside, name))
    connection.execute("UPDATE _max_listing SET collection = ? WHERE collection = ?", (name, aside))


def _rekey_tasks(connection: Connection, entity: str) -> None:
    """Have tasks, failures and whatever else names one entity by its id follow."""
    mapped = "SELECT new FROM _max_rekeyed AS k WHERE k.old = "
    for table in followers(connection, "entity", "id"):
        name = quoted(table)
        connection.execute(
            f"UPDATE OR REPLACE {name} SET id = ({mapped}{name}.id)"
            f" WHERE entity = ? AND typeof(id) = 'text' AND EXISTS ({mapped}{name}.id)",
            (entity,),
        )

    def new_id(id: str) -> str:
        row = connection.execute(f"{mapped}?", (id,)).fetchone()
        return str(row[0]) if row else id

    rewrite_specs(connection, lambda spec: spec.replace_ids(entity, new_id))
