"""Rows that a database cannot hold: they are found before anything is written, so that none costs its page.

**An id** is in indexes, whose entries have a limit; refs are ids too, and so are members that a row names
itself.  Its length is all that counts.

**A row** has a limit as well, without its long texts, which are elsewhere.  What it comes to only the
server knows: it compresses.  So a row whose filled fields may be too many is tried, with what is stored of
it and with all of Max's own columns filled, so that it never outgrows the limit when it is loaded again or
removed.  The savepoint of the trial is always taken back.

Example (Postgres): 400 texts of 20 characters are 8,400 bytes, and refused; 400 of 100 characters are 400
times 18 bytes, and stored; 250 are not even tried.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from ..model.columns import EncodedRows
from ..model.values import InvalidValue
from .database import Connection, Limits, quoted
from .rows import BITS, TableMapping, known_upsert

WIDEST = 4  # bytes of a character
ID_EXPECTED = "an id of at most {:,} bytes, as an index of {} holds it (a project in files holds more)"
ROW_EXPECTED = (
    "fewer filled fields: those of a row have {:,} bytes in {}, where a long text counts 18"
    " (bring fewer, or keep the project in files)"
)


def too_large(
    connection: Connection, mapping: TableMapping[Any], rows: EncodedRows
) -> dict[int, dict[str, InvalidValue]]:
    """The positions of the rows that this database cannot hold, and what is wrong with their fields."""
    limits = connection.dialect.limits
    if limits is None:
        return {}
    found = _long_ids(mapping, rows, limits)
    crowded = [at for at in _crowded(connection, mapping, rows, limits) if at not in found]
    for at in _refused(connection, mapping, rows, crowded):
        values = zip(rows.names, rows.columns, strict=True)
        filled = [name for name, column in values if column[at] is not None]
        problem = InvalidValue(ROW_EXPECTED.format(limits.row, limits.database), len(filled))
        found[at] = dict.fromkeys(filled or rows.names, problem)
    return found


def is_held(limits: Limits | None, id: str) -> bool:
    """Whether a database with such limits can hold an id."""
    return limits is None or len(id) * WIDEST <= limits.id or len(id.encode()) <= limits.id


def _long_ids(
    mapping: TableMapping[Any], rows: EncodedRows, limits: Limits
) -> dict[int, dict[str, InvalidValue]]:
    """The positions of rows with an id that is too long: their own, a ref, or that of a member they name."""
    found: dict[int, dict[str, InvalidValue]] = {}
    columns = [("id", rows.ids), *zip(rows.names, rows.columns, strict=True)]
    for name, column in columns:
        is_list = name in mapping.entity._inline
        if not is_list and name != "id" and name not in mapping.refs:
            continue
        if max(map(len, filter(None, column)), default=0) * WIDEST <= limits.id:
            continue
        for at, value in enumerate(column):
            ids = () if not value else _members(value, limits) if is_list else (value,)
            for id in ids:
                if not is_held(limits, id):
                    problem = InvalidValue(ID_EXPECTED.format(limits.id, limits.database), id)
                    found.setdefault(at, {})[name] = problem
    return found


def _members(text: str, limits: Limits) -> list[str]:
    """The ids of a stored list; of one in which none can be too long, none."""
    longest = max(map(len, text.split('"')))
    return json.loads(text) if longest * WIDEST > limits.id else []


def _crowded(
    connection: Connection, mapping: TableMapping[Any], rows: EncodedRows, limits: Limits
) -> list[int]:
    """The positions of rows that may be too large, by how many of their fields are filled or stored."""
    own = 3 + len(mapping.bitmaps) + len(mapping.load_columns) + len(mapping.moved_columns)
    most = (limits.row - limits.head) // limits.value - own
    if len(mapping.bitmaps) * BITS <= most or not rows.names:
        return []
    names = ", ".join(map(quoted, ("_id", *mapping.bitmaps)))
    sql = mapping.sql(f"SELECT {names} FROM {{table}} WHERE _id IN {{set:ids}}")
    came, others = mapping.bitmap_values(rows.names), dict.fromkeys(rows.ids, 0)
    for id, *stored in connection.execute(sql, {"ids": connection.dialect.array(rows.ids)}):
        others[id] = sum((old & ~new).bit_count() for old, new in zip(stored, came, strict=True))
    filled = [len(values) - values.count(None) for values in zip(*rows.columns, strict=True)]
    return [at for at, id in enumerate(rows.ids) if filled[at] + others[id] > most]


def _refused(
    connection: Connection, mapping: TableMapping[Any], rows: EncodedRows, positions: Sequence[int]
) -> list[int]:
    """The positions of the rows that the database refuses, of some that may be too large."""
    if not positions or _fit(connection, mapping, rows.picked(positions, rows.names)):
        return []
    if len(positions) == 1:
        return [*positions]
    half = len(positions) // 2
    parts = positions[:half], positions[half:]
    return [at for part in parts for at in _refused(connection, mapping, rows, part)]


def _fit(connection: Connection, mapping: TableMapping[Any], rows: EncodedRows) -> bool:
    """Whether the database takes rows; nothing is stored."""
    loads = tuple(mapping.load_columns)
    moved = [0.0 for name in mapping.moved_columns if name in rows.names]
    constants = (*mapping.bitmap_values(rows.names), *[0 for _ in loads], *moved)
    connection.execute("SAVEPOINT trial")
    fit = True
    try:
        connection.insert(*known_upsert(mapping, rows.names, loads), [rows.ids, *rows.columns], constants)
        sql = mapping.sql("UPDATE {table} SET _removed_at = 0 WHERE _id IN {set:ids}")
        connection.execute(sql, {"ids": connection.dialect.array(rows.ids)})
    except connection.dialect.errors as error:
        if not connection.dialect.is_too_large(error):
            raise
        fit = False
    connection.execute("ROLLBACK TO SAVEPOINT trial")
    connection.execute("RELEASE SAVEPOINT trial")
    return fit
