"""Evolution: how a database that holds data comes to fit what its connector declares now."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Sequence
from typing import Any

from .entities import Entity, ManyOf
from .errors import SchemaError
from .rows import SQL_TYPES, Layout
from .schema import Schema, snake
from .sqlite import quoted

Parts = Callable[[type[Entity]], Sequence[tuple[str, ...]]]


def evolve(connection: sqlite3.Connection, schema: Schema, parts: Parts) -> dict[str, Layout[Any]]:
    """Make the tables fit the schema, inside the caller's transaction; how each entity lies then."""
    for entity in schema.entities.values():
        number_fields(connection, entity, parts(entity))
    layouts = read_layouts(connection, schema)
    for layout in layouts.values():
        create_table(connection, layout)
    text = json.dumps(schema.to_json(), ensure_ascii=False)
    connection.execute("INSERT OR REPLACE INTO _max_schema VALUES (1, ?)", (text,))
    return layouts


def number_fields(
    connection: sqlite3.Connection, entity: type[Entity], groups: Sequence[tuple[str, ...]]
) -> None:
    """Give each new field its bit and its part; a field keeps both for ever."""
    rows = connection.execute(
        "SELECT field, kind, bit, part FROM _max_field WHERE entity = ?", (entity.__name__,)
    )
    known = {field: (kind, bit, part) for field, kind, bit, part in rows}
    for field, holds in entity.types().items():
        if field in known and known[field][0] != holds.kind:
            raise SchemaError(
                f"{entity.__name__}.{field} is stored as {known[field][0]}, now declared {holds.kind}",
                hint="give the new field another name; nothing was changed",
            )
    bit = max((known[field][1] for field in known), default=-1)
    taken = {part for _, _, part in known.values()}
    for names in groups:
        present = {known[name][2] for name in names if name in known}
        part = min(present) if present else max(taken, default=-1) + 1
        taken.add(part)
        for name in names:
            if name not in known:
                bit += 1
                row = (entity.__name__, name, str(entity.types()[name].kind), bit, part)
                connection.execute("INSERT INTO _max_field VALUES (?, ?, ?, ?, ?)", row)


def read_layouts(connection: sqlite3.Connection, schema: Schema) -> dict[str, Layout[Any]]:
    """How each entity lies in its table, by entity name."""
    numbers: dict[str, dict[str, tuple[int, int]]] = {name: {} for name in schema.entities}
    for entity, field, bit, part in connection.execute("SELECT entity, field, bit, part FROM _max_field"):
        if entity in numbers:
            numbers[entity][field] = (bit, part)
    return {
        name: Layout(
            entity,
            snake(name),
            {field: bit for field, (bit, _) in numbers[name].items()},
            {field: part for field, (_, part) in numbers[name].items()},
        )
        for name, entity in schema.entities.items()
    }


def create_table(connection: sqlite3.Connection, layout: Layout[Any]) -> None:
    """Create an entity's table, or add the columns that it lacks."""
    columns = {"_id": "TEXT NOT NULL UNIQUE"}
    columns |= {name: SQL_TYPES[holds.kind] for name, holds in layout.types.items()}
    columns |= dict.fromkeys(layout.words, "INTEGER NOT NULL DEFAULT 0")
    columns |= dict.fromkeys(layout.stamps.values(), "INTEGER")
    columns |= {"_removed_at": "REAL", "_row": "INTEGER PRIMARY KEY"}
    table = quoted(layout.table)
    present = {row[1] for row in connection.execute(f"PRAGMA table_info({table})")}
    if not present:
        lines = ", ".join(f"{quoted(name)} {kind}" for name, kind in columns.items())
        connection.execute(f"CREATE TABLE {table} ({lines})")
        return
    for name in columns.keys() - present:
        connection.execute(f"ALTER TABLE {table} ADD COLUMN {quoted(name)} {columns[name]}")


def build_indexes(connection: sqlite3.Connection, schema: Schema) -> None:
    """Index the refs by which collections are read: after a bulk load, when it is cheapest."""
    for entity in schema.entities.values():
        for name in entity.children():
            many: ManyOf[Any, Any] = ManyOf(entity, name)
            if many.by is not None:
                table, column = snake(many.child.__name__), many.by.name
                index = quoted(f"_max_{table}_{column}")
                connection.execute(
                    f"CREATE INDEX IF NOT EXISTS {index} ON {quoted(table)} ({quoted(column)})"
                )
