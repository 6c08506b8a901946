"""SQL over an installation's views: a caller's own statement, and its answer as values or as JSON data.

Rule 1: a statement reads and does nothing else; how long it may take and how much it may answer is
bounded (``storage/sqlite_select.py``).

Rule 2: an answer says when it is not whole.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from ..model.struct import Struct
from ..storage.database import quoted
from .reader import LIMIT, TIMEOUT, own_reader, synced

if TYPE_CHECKING:
    from ..model.settings import InstallationInfo
    from ..model.values import Json
    from ..storage.database import Connection, Database
    from ..storage.database import TableShape as TableShape
    from ..storage.database import Values as Values


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


def own_data(database: Database, info: InstallationInfo) -> Database:
    """The database of an installation; StorageEmpty without data, StorageForeign with another connector's."""
    with own_reader(synced(database, info), info):
        return database


@contextmanager
def open_sql(databases: Mapping[str, Database]) -> Iterator[SqlReader]:
    """A SqlReader of the databases of one installation, or of several, each behind its name."""
    one = next(iter(databases.values()))
    if len(databases) == 1:
        with one.reader() as connection:
            yield SqlReader(connection, one.label)
        return
    names = unique([NO_NAME.sub("_", label) for label in databases])
    with one.several(dict(zip(names, databases.items(), strict=True))) as connection:
        yield SqlReader(connection, ", ".join(databases))


class SqlReader:
    """One snapshot of the databases of one installation, or of several together.

    Several are schemas, such as ``acme_default.acme_task``.  A view without a schema has the rows
    of all, with the column ``installation`` in front.
    """

    def __init__(self, connection: Connection, label: str) -> None:
        self._connection, self._label = connection, label

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        try:
            yield self._connection
        except self._connection.dialect.errors as error:
            raise self._connection.dialect.error(self._label, error) from error

    def sql(
        self, statement: str, parameters: Values = (), *, limit: int = LIMIT, timeout: float = TIMEOUT
    ) -> SqlAnswer:
        """The first rows of a SELECT; values are ``?`` in order or ``:names``.  InvalidSql, SqlLimit."""
        with self._reading() as connection:
            return run_sql(connection, statement, parameters, limit=limit, timeout=timeout)

    def tables(self) -> list[TableShape]:
        """The tables and views that are not internal, sorted by name."""
        with self._reading() as connection:
            return connection.dialect.tables(connection)

    def count(self, table: TableShape) -> int | None:
        """How many rows a table has; None when it cannot be read, or takes too long."""
        name = ".".join(map(quoted, filter(None, (table.schema, table.name))))
        try:
            return int(self.sql(f"SELECT count(*) FROM {name}").rows[0][0])
        except UsageError:
            return None


def is_complete(text: str) -> bool:
    """Whether a text holds a whole statement, with its semicolon."""
    from ..storage.sqlite_select import is_complete

    return is_complete(text)


NO_NAME = re.compile(r"\W", re.ASCII)
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
