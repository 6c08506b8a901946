"""SQL over an installation's views: a caller's own statement, and its answer as values or as JSON data.

Rule 1: a statement reads and does nothing else; how long it may take and how much it may answer is
bounded (``storage/sqlite_select.py``).

Rule 2: an answer says when it is not whole.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..model.struct import Struct

if TYPE_CHECKING:
    from ..model.values import Json
    from ..storage.database import Connection, Values


class SqlColumn(Struct):
    """A column of an answer: its name, which no other column has, and its type.

    The type is the declared one where the column has the name of a column that was read, otherwise
    that of its first value: INTEGER, REAL, TEXT, BLOB; NULL when every value is.
    """

    name: str
    type: str


class SqlAnswer(Struct):
    """The rows of a statement, each a tuple of None, int, float, str or bytes.

    ``truncated`` when there are more than were asked for; ``elapsed`` is in seconds.
    """

    columns: tuple[SqlColumn, ...]
    rows: list[tuple[Any, ...]]
    truncated: bool
    elapsed: float

    def to_dicts(self, *, raw: bool = False) -> list[dict[str, Json]]:
        """Each row as JSON data, by column: lists and objects as such, unless they are wanted ``raw``."""
        names = [column.name for column in self.columns]
        parsed = [not raw and column.type.startswith("JSON") for column in self.columns]
        return [
            {name: json_value(value, parse) for name, value, parse in zip(names, row, parsed, strict=True)}
            for row in self.rows
        ]

    def to_json(self, *, raw: bool = False) -> dict[str, Json]:
        """The answer as JSON data."""
        return {
            "columns": [{"name": one.name, "type": one.type} for one in self.columns],
            "rows": [*self.to_dicts(raw=raw)],
            "truncated": self.truncated,
            "elapsedMs": round(self.elapsed * 1000),
        }


def json_value(value: Any, parse: bool = False) -> Json:
    """A value as JSON data: bytes as SQL writes them, ``x'00ff'``; an infinite number as a text."""
    if isinstance(value, bytes):
        return f"x'{value.hex()}'"
    if isinstance(value, float) and not math.isfinite(value):
        return "Infinity" if value > 0 else "-Infinity"
    if parse and isinstance(value, str):
        try:
            found: Json = json.loads(value)
        except (ValueError, RecursionError):
            return value
        return found
    plain: Json = value
    return plain


def run_sql(
    connection: Connection, statement: str, parameters: Values = (), *, limit: int, timeout: float
) -> SqlAnswer:
    """The first rows of a statement; InvalidSql and SqlLimit."""
    from time import perf_counter

    began = perf_counter()
    found = connection.dialect.select(connection, statement, parameters, limit=limit, timeout=timeout)
    names = unique(found.names)
    types = [declared or _type_of(found.rows, at) for at, declared in enumerate(found.types)]
    columns = tuple(map(SqlColumn, names, types))
    return SqlAnswer(columns, found.rows, found.more, perf_counter() - began)


TYPES = {int: "INTEGER", float: "REAL", str: "TEXT", bytes: "BLOB"}


def _type_of(rows: Sequence[tuple[Any, ...]], at: int) -> str:
    """The type of a column's first value that is not null."""
    return next((TYPES[type(row[at])] for row in rows if row[at] is not None), "NULL")


def unique(names: Sequence[str]) -> list[str]:
    """Names of which no two are equal: the second ``id`` becomes ``id_2``."""
    found: dict[str, None] = {}
    for name in names:
        free, number = name, 2
        while free in found or (free != name and free in names):
            free, number = f"{name}_{number}", number + 1
        found[free] = None
    return list(found)
