"""Copies: what the views show, as the tables of a file that anybody may open and change.

Nothing of ours is in such a file: no internal table, no removed row.  An id is the primary key, and a
ref points at the table of its target where that is in the file as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from ..model.entities import FieldOf, path_name
from ..model.query import Query
from .database import Connection, Dialect, quoted
from .sqlite import connect_to_make, transaction, translated
from .tables import Tables

BATCH = 1_000  # rows

Selected = tuple[str, Query[Any], Sequence[FieldOf[Any, Any]]]  # the table's name, its rows, its columns


def copy_rows(source: Connection, tables: Tables, selections: Sequence[Selected], path: Path) -> list[int]:
    """Write the rows of queries into a new file, a table each; how many each has."""
    names = {q.entity.__name__: name for name, q, paths in selections if FieldOf(q.entity, "id") in paths}
    counts = []
    with closing(connect_to_make(str(path))) as target, translated(str(path)), transaction(target):
        for name, query, paths in selections:
            target.execute(_create(target.dialect, name, paths, names))
            marks = ", ".join("?" for _ in paths)
            insert, count = f"INSERT INTO {quoted(name)} VALUES ({marks})", 0
            for columns in tables.stored_columns(source, query, paths, BATCH):
                target.executemany(insert, zip(*columns, strict=True))
                count += len(columns[0])
            counts.append(count)
    return counts


def _create(dialect: Dialect, name: str, paths: Sequence[FieldOf[Any, Any]], tables: dict[str, str]) -> str:
    columns = []
    for path in paths:
        words = [quoted(path_name(path)), dialect.types[path.type.kind]]
        if path_name(path) == "id":
            words.append("PRIMARY KEY")
        target = path.type.target
        if target is not None and target.__name__ in tables:
            words.append(f"REFERENCES {quoted(tables[target.__name__])}")
        columns.append(" ".join(words))
    return f"CREATE TABLE {quoted(name)} ({', '.join(columns)})"
