"""Layouts: how entities lie in tables, from the numbers that their fields were given.

Rule: a field keeps its bit for ever, under any name, and nothing else is ever given it.  Which
fields arrive together may change; the stamps of the rows then go along.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import chain, count
from typing import Any

from ..model.entities import Entity, ManyOf
from ..model.schema import Schema, snake_case
from .database import Connection, quoted
from .rows import TableMapping, stamp_column

Parts = Callable[[type[Entity]], Sequence[tuple[str, ...]]]


def number_fields(
    connection: Connection,
    entity: type[Entity],
    groups: Sequence[tuple[str, ...]],
    before_moving: Callable[[], None],
) -> None:
    """Give each new field its bit, for ever, and each field the part of those that arrive with it.

    When loaders bring other fields together than before, parts change, and the stamps of the
    rows go along, so that no row is older for it.  ``before_moving`` is called before that, and
    raises when somebody else knows the columns as they were.
    """
    name = entity.__name__
    rows = connection.execute("SELECT field, part FROM _max_field WHERE entity = ?", (name,))
    parts: dict[str, int] = dict(rows.fetchall())
    new, moves = assigned_parts(groups, parts)
    bits = count(_first_free_bit(connection, name))
    for field in filter(lambda field: field not in parts, chain.from_iterable(groups)):
        row = (name, field, str(entity.types()[field].kind), next(bits), new[field])
        connection.execute("INSERT INTO _max_field VALUES (?, ?, ?, ?, ?)", row)
    moved = [(new[field], name, field) for field in parts if new[field] != parts[field]]
    if moved:
        before_moving()
    connection.executemany("UPDATE _max_field SET part = ? WHERE entity = ? AND field = ?", moved)
    if parts:
        _move_stamps(connection, name, moves, kept={stamp_column(part) for part in new.values()})


def _first_free_bit(connection: Connection, entity: str) -> int:
    """The bit behind every one that was ever given."""
    sql = """
        SELECT max(coalesce((SELECT max(bit) + 1 FROM _max_field WHERE entity = :entity), 0),
                   coalesce((SELECT bits FROM _max_spent WHERE entity = :entity), 0))
    """
    return int(connection.execute(sql, {"entity": entity}).fetchone()[0])


def assigned_parts(
    groups: Sequence[tuple[str, ...]], parts: Mapping[str, int]
) -> tuple[dict[str, int], dict[int, int | None]]:
    """The part of every field, and from which old part each takes its stamps (None: from none).

    Fields of one old part that no longer arrive together are parted; those that arrive together
    now keep the stamps that they have, each its own.
    """
    numbers: dict[tuple[int, int | None], int] = {}
    new: dict[str, int] = {}
    for group, names in enumerate(groups):
        first = min((parts[name] for name in names if name in parts), default=None)
        for name in names:
            new[name] = numbers.setdefault((group, parts.get(name, first)), len(numbers))
    sources = {number: old for (_, old), number in numbers.items()}
    for name, old in parts.items():  # those that are hidden keep theirs
        if name not in new:
            known = [number for number, source in sources.items() if source == old]
            new[name] = known[0] if known else len(sources)
            sources.setdefault(new[name], old)
    return new, sources


def _move_stamps(
    connection: Connection, entity: str, sources: Mapping[int, int | None], *, kept: set[str]
) -> None:
    """Let each part's column hold the stamps of the part from which it comes."""
    table = quoted(snake_case(entity))
    columns = connection.dialect.columns(connection, snake_case(entity))
    for column in sorted(kept - columns):
        connection.execute(f"ALTER TABLE {table} ADD COLUMN {quoted(column)} INTEGER")
    changes = [
        f"{quoted(stamp_column(part))} = {'NULL' if old is None else quoted(stamp_column(old))}"
        for part, old in sources.items()
        if old != part and (old is not None or stamp_column(part) in columns)
    ]
    if changes:
        connection.execute(f"UPDATE {table} SET {', '.join(changes)}")
    for column in sorted(columns - kept):
        if column.startswith("_page_"):
            connection.execute(f"ALTER TABLE {table} DROP COLUMN {quoted(column)}")


def read_layouts(connection: Connection, schema: Schema) -> dict[str, TableMapping[Any]]:
    """How each entity lies in its table, by entity name."""
    numbers: dict[str, dict[str, tuple[int, int]]] = {name: {} for name in schema.entities}
    for name, field, bit, part in connection.execute("SELECT entity, field, bit, part FROM _max_field"):
        if name in numbers and field in schema.entities[name].types():
            numbers[name][field] = (bit, part)
    return {
        name: TableMapping(
            connection.dialect,
            entity,
            snake_case(name),
            {field: bit for field, (bit, _) in numbers[name].items()},
            {field: part for field, (_, part) in numbers[name].items()},
        )
        for name, entity in schema.entities.items()
    }


def create_table(connection: Connection, layout: TableMapping[Any]) -> None:
    """Create an entity's table, or add the columns that it lacks."""
    columns = {"_id": "TEXT NOT NULL UNIQUE"}
    columns |= {name: connection.dialect.types[holds.kind] for name, holds in layout.types.items()}
    columns |= dict.fromkeys(layout.words, "INTEGER NOT NULL DEFAULT 0")
    columns |= dict.fromkeys(layout.stamps.values(), "INTEGER")
    columns |= {"_removed_at": "REAL", "_row": "INTEGER PRIMARY KEY"}
    table = quoted(layout.table)
    present = connection.dialect.columns(connection, layout.table)
    if not present:
        lines = ", ".join(f"{quoted(name)} {kind}" for name, kind in columns.items())
        connection.execute(f"CREATE TABLE {table} ({lines})")
        return
    for name, kind in columns.items():
        if name not in present:
            connection.execute(f"ALTER TABLE {table} ADD COLUMN {quoted(name)} {kind}")


def build_indexes(connection: Connection, schema: Schema) -> None:
    """Index the refs by which collections are read, and what is removed: cheapest after a bulk load."""
    for entity in schema.entities.values():
        table = snake_case(entity.__name__)
        removed = f"{quoted(table)} (_removed_at) WHERE _removed_at IS NOT NULL"
        connection.execute(f"CREATE INDEX IF NOT EXISTS {quoted(f'_max_{table}__removed_at')} ON {removed}")
        for name in entity.children():
            many: ManyOf[Any, Any] = ManyOf(entity, name)
            if many.by is not None:
                table, column = snake_case(many.child.__name__), many.by.name
                index = quoted(f"_max_{table}_{column}")
                connection.execute(
                    f"CREATE INDEX IF NOT EXISTS {index} ON {quoted(table)} ({quoted(column)})"
                )
