"""DDL: how entities are stored in tables, and the views in which people see them.

Rule 1: a field keeps its bit for ever, under any name, and no other field is ever given it.
Which fields arrive together may change; the load columns of the rows then change with them.

Rule 2: the table of an entity, ``_acme_task``, belongs to Max.  The view ``acme_task`` is for
everyone else: ``id``, then the fields in the order of their declaration, and no removed rows.  Those
are in ``acme_task_removed``, with the time of the removal.

Rule 3: an index of ours has a name that no entity can make, such as
``_max_index:_acme_task.owner``, so it never takes the name of a table.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import chain, count
from typing import Any

from ..errors import DAMAGED, SchemaError, StorageCorrupt
from ..model.entities import Entity, ManyOf
from ..model.schema import Schema, description_of
from . import catalogue
from .database import Connection, quoted
from .rows import MOVED, TableMapping, load_column

MOST_BITS = 100_000  # that the fields of an entity have ever been given; far more than columns fit a table
FIELDS = """
    SELECT entity, field, bit, load_group,
           (SELECT max(version) >= 4 FROM _max_migration WHERE owner = 'engine') FROM _max_field
"""  # whether there are loads that say whom a page has shown again: see tables.py

# -- bits and load groups ----------------------------------------------------------------------


def number_fields(
    connection: Connection,
    entity: type[Entity],
    table: str,
    groups: Sequence[tuple[str, ...]],
    before_moving: Callable[[], None],
) -> None:
    """Give each new field its bit, and each field the load group of those that arrive with it.

    When loaders bring other fields together than before, groups change, and so do the load
    columns of the rows: no field becomes older by that.  ``before_moving`` is called first, and
    raises while another process uses the columns as they were.
    """
    name = entity.__name__
    rows = connection.execute("SELECT field, load_group FROM _max_field WHERE entity = ?", (name,))
    old: dict[str, int] = dict(rows.fetchall())
    new, sources = assigned_groups(groups, old)
    bits = count(_first_free_bit(connection, name))
    for field in filter(lambda field: field not in old, chain.from_iterable(groups)):
        row = (name, field, str(entity.types()[field].kind), next(bits), new[field])
        connection.execute("INSERT INTO _max_field VALUES (?, ?, ?, ?, ?)", row)
    moved = [(new[field], name, field) for field in old if new[field] != old[field]]
    if moved:
        before_moving()
    sql = "UPDATE _max_field SET load_group = ? WHERE entity = ? AND field = ?"
    connection.executemany(sql, moved)
    if old:
        _move_loads(connection, table, sources, kept={load_column(group) for group in new.values()})


def _first_free_bit(connection: Connection, entity: str) -> int:
    """The bit behind every one that was ever given."""
    sql = """
        SELECT coalesce(max(bit) + 1, 0) FROM (
            SELECT bit FROM _max_field WHERE entity = :entity
            UNION ALL SELECT bit FROM _max_spent_bit WHERE entity = :entity) AS given
    """
    return int(connection.execute(sql, {"entity": entity}).fetchone()[0])


def assigned_groups(
    groups: Sequence[tuple[str, ...]], old: Mapping[str, int]
) -> tuple[dict[str, int], dict[int, int | None]]:
    """The load group of every field, and from which old group each takes its loads (None: from none).

    Fields of one old group that no longer arrive together get groups of their own; fields that
    arrive together now, but did not before, stay in the groups that they have.
    """
    numbers: dict[tuple[int, int | None], int] = {}
    new: dict[str, int] = {}
    for group, names in enumerate(groups):
        first = min((old[name] for name in names if name in old), default=None)
        for name in names:
            new[name] = numbers.setdefault((group, old.get(name, first)), len(numbers))
    sources = {number: source for (_, source), number in numbers.items()}
    for name, source in old.items():  # hidden fields keep their loads
        if name not in new:
            known = [number for number, one in sources.items() if one == source]
            new[name] = known[0] if known else len(sources)
            sources.setdefault(new[name], source)
    return new, sources


def _move_loads(
    connection: Connection, table: str, sources: Mapping[int, int | None], *, kept: set[str]
) -> None:
    """Give each group's column the loads of the group from which it comes."""
    columns = connection.dialect.columns(connection, table)
    for column in sorted(kept - columns):
        connection.execute(f"ALTER TABLE {quoted(table)} ADD COLUMN {quoted(column)} INTEGER")
    changes = [
        f"{quoted(load_column(group))} = {'NULL' if old is None else quoted(load_column(old))}"
        for group, old in sources.items()
        if old != group and (old is not None or load_column(group) in columns)
    ]
    if changes:
        connection.execute(f"UPDATE {quoted(table)} SET {', '.join(changes)}")
    for column in sorted(columns - kept):
        if column.startswith("_load_"):
            connection.execute(f"ALTER TABLE {quoted(table)} DROP COLUMN {quoted(column)}")


# -- tables, views and indexes -----------------------------------------------------------------


def read_mappings(connection: Connection, schema: Schema) -> dict[str, TableMapping[Any]]:
    """How each entity is stored, by entity name."""
    bits: dict[str, dict[str, int]] = {name: {} for name in schema.entities}
    groups: dict[str, dict[str, int]] = {name: {} for name in schema.entities}
    shows_again = False
    for name, field, bit, group, again in connection.execute(FIELDS).fetchall():
        shows_again = bool(again)
        if name in bits and field in schema.entities[name].types():
            bits[name][field], groups[name][field] = bit, group
    for name, entity in schema.entities.items():
        if missing := entity.types().keys() - bits[name].keys():
            raise StorageCorrupt(f"{name} lacks the fields {sorted(missing)}", hint=DAMAGED)
        if any(bit not in range(MOST_BITS) for bit in bits[name].values()):
            raise StorageCorrupt(f"the fields of {name} are numbered {bits[name]}", hint=DAMAGED)
    return {
        name: TableMapping(
            connection.dialect,
            entity,
            f"_{schema.table(name)}",
            bits[name],
            groups[name],
            shows_again=shows_again,
        )
        for name, entity in schema.entities.items()
    }


def create_table(connection: Connection, mapping: TableMapping[Any]) -> None:
    """Create an entity's table, or add the columns that it lacks."""
    columns = {"_id": "TEXT NOT NULL UNIQUE"}
    columns |= {name: connection.dialect.types[holds.kind] for name, holds in mapping.types.items()}
    columns |= dict.fromkeys(mapping.bitmaps, "INTEGER NOT NULL DEFAULT 0")
    columns |= dict.fromkeys(mapping.load_columns.values(), "INTEGER")
    columns |= {"_removed_at": "REAL", "_row": "{row_id}"}
    present = connection.dialect.columns(connection, mapping.table)
    limits, number = connection.dialect.limits, len(columns.keys() | present)
    if limits is not None and number > limits.columns:
        raise SchemaError(
            f"{mapping.entity.__name__} has {len(mapping.types):,} fields; with Max's own that are"
            f" {number:,} columns, and a table of {limits.database} has up to {limits.columns:,}",
            hint="declare fewer fields, several of them as one of Json, or keep the project in files",
        )
    if not present:
        lines = ", ".join(f"{quoted(name)} {kind}" for name, kind in columns.items())
        connection.execute(mapping.sql(f"CREATE TABLE {{table}} ({lines})"))
        _index_removed(connection, mapping.table)  # empty while nothing is removed
        return
    for name, kind in columns.items():
        if name not in present:
            connection.execute(mapping.sql(f"ALTER TABLE {{table}} ADD COLUMN {quoted(name)} {kind}"))


def watch_fields(
    connection: Connection,
    mapping: TableMapping[Any],
    watched: Mapping[str, str],
    *,
    since: float,
    before_changing: Callable[[], None],
) -> None:
    """Have a column for the moves of each watched field, and none for others, whose moves are not noted.

    What is newly watched counts as moved just after ``since``, the latest request: what was fetched
    until then is fetched once more.  ``before_changing`` is called first when a column comes or goes,
    and raises while another process stores rows without it.
    """
    mapping.watch(watched)
    table, wanted = quoted(mapping.table), set(mapping.moved_columns.values())
    present = {one for one in connection.dialect.columns(connection, mapping.table) if one.startswith(MOVED)}
    if present != wanted:
        before_changing()
    for column in sorted(wanted - present):
        moved_at = math.nextafter(since, math.inf)
        kind = f"REAL NOT NULL DEFAULT {moved_at!r}"
        connection.execute(f"ALTER TABLE {table} ADD COLUMN {quoted(column)} {kind}")
    for column in sorted(present - wanted):
        connection.execute(f"ALTER TABLE {table} DROP COLUMN {quoted(column)}")


def create_views(connection: Connection, mappings: Mapping[str, TableMapping[Any]]) -> None:
    """Create the view of each entity, or replace it when the fields have changed; drop all others."""
    shown = {mapping.table: mapping for mapping in mappings.values()}
    for table in catalogue.places(connection, "view") - shown.keys():
        if not table.startswith("_max_"):  # no table of an entity does
            catalogue.drop(connection, "view", table)
    for table, mapping in shown.items():
        view = table.removeprefix("_")
        _create_view(connection, view, mapping, mappings, "_removed_at IS NULL")
        if f"{table}_removed" not in shown:
            at = f"{connection.dialect.time_text('_removed_at')} AS removed_at"
            _create_view(connection, f"{view}_removed", mapping, mappings, "_removed_at IS NOT NULL", at)


def _create_view(
    connection: Connection,
    view: str,
    mapping: TableMapping[Any],
    mappings: Mapping[str, TableMapping[Any]],
    condition: str,
    *more: str,
) -> None:
    """Create a view of some rows, with a comment at each column: its type, what it points at, what it is."""
    columns = [("_id AS id", "TEXT")]
    for name, holds in mapping.types.items():
        to, words = holds.target or holds.inside, "a list of " if holds.inside else ""
        target = to and f", {words}{mappings[to.__name__].table.removeprefix('_')}.id"
        kind = f"{connection.dialect.types[holds.kind]}{target or ''}"
        text = " ".join(mapping.entity._fields[name].description.split())
        shown = connection.dialect.shown(quoted(name), holds.kind)
        column = shown if shown == quoted(name) else f"{shown} AS {quoted(name)}"
        columns.append((column, f"{kind}: {text}" if text else kind))
    columns += [(column, "TIMESTAMP") for column in more]
    ends = [","] * (len(columns) - 1) + [""]
    lines = [f"  {column}{end} -- {about}" for (column, about), end in zip(columns, ends, strict=True)]
    head = f"CREATE VIEW {quoted(view)} AS SELECT -- {description_of(mapping.entity)}"
    definition = "\n".join([head, *lines, f"FROM {quoted(mapping.table)} WHERE {condition}"])
    catalogue.put(connection, "view", view, mapping.table, definition)


def build_indexes(connection: Connection, mappings: Mapping[str, TableMapping[Any]]) -> None:
    """Index the refs by which collections are read, cheapest after a bulk load, and removed rows."""
    for mapping in mappings.values():
        _index_removed(connection, mapping.table)
        for name in mapping.entity.children():
            many: ManyOf[Any, Any] = ManyOf(mapping.entity, name)
            if many.by is not None:
                _index(connection, mappings[many.child.__name__].table, many.by.name)


def _index_removed(connection: Connection, table: str) -> None:
    _index(connection, table, "_removed_at", " WHERE _removed_at IS NOT NULL")


def _index(connection: Connection, table: str, column: str, condition: str = "") -> None:
    name = f"_max_index:{table}.{column}"
    definition = f"CREATE INDEX {quoted(name)} ON {quoted(table)} ({quoted(column)}){condition}"
    catalogue.put(connection, "index", name, table, definition)
