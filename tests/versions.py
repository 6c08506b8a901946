"""A connector's schema in six versions, with each kind of change between them, and what becomes of data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from max.model.delivery import Delivery, ListingPage
from max.model.entities import Entity, Field, FieldOf, Many, ManyOf, Ref, values_of
from max.model.migrations import (
    ChangeKey,
    ChangeType,
    DropEntity,
    DropField,
    Migration,
    RenameEntity,
    RenameField,
    SchemaPolicy,
)
from max.model.query import Query
from max.model.schema import Schema
from max.model.values import Json
from max.storage.sqlite import SqliteConnection, connect
from max.storage.table_writer import TableWriter
from tests.contract.places import columns_of, transaction
from tests.sample import writer

__all__ = ["Field", "Json", "Many", "Ref"]  # the annotations of the entities below are read in this module

EncodedRows = dict[str, dict[str, dict[str, Any]]]  # values by entity, id and field; refs are ids
LEVELS = {1: "low", 2: "high"}
LATEST = 6


def made(name: str, fields: Mapping[str, str], /, **collections: tuple[str, Any]) -> Any:
    """An entity as one version of a connector declares it; a collection is its annotation and its inverse."""
    body: dict[str, Any] = {field: Field() for field in fields}
    body |= {many: Many(by=by) for many, (_, by) in collections.items()}
    hints = {field: f"Field[{hint}]" for field, hint in fields.items()}
    hints |= {many: f"Many[{hint}]" for many, (hint, _) in collections.items()}
    return type(name, (Entity,), {**body, "__annotations__": hints, "__module__": __name__})


def schema(version: int) -> Schema:
    """What the connector declares in a version."""
    user = "Person" if version < 3 else "User"
    fields = {
        "name": "str",
        "nick": "str | None" if version < 2 else "str",
        "age": "int" if version < 2 else "float" if version < 6 else "float | None",
        "boss": f"Ref[{user}] | None",
        "uuid": "str | None",
    }
    if version >= 5:
        del fields["nick"]
    issue = {
        "name" if version < 3 else "title": "str",
        "priority": "int" if version < 4 else "str",
        "owner": f"Ref[{user}] | None",
    }
    if version >= 2:
        issue["body"] = "str" if version < 4 else "list[Json]"
    issues = made("Issue", issue)
    users = made(user, fields, tickets=("Issue", lambda: FieldOf(issues, "owner")))
    lists = {"people" if version < 3 else "users": (user, None), "issues": ("Issue", None)}
    entities = [made("Root", {}, **lists), users, issues]
    entities += [made("Old", {"text": "str"})] if version < 5 else []
    entities += [made("Label", {"name": "str"})] if version >= 6 else []
    return Schema(entities, roots=[entities[0]])


MIGRATIONS = {
    3: Migration(
        "people are users now",
        RenameField("Issue", "name", "title"),
        RenameField("Root", "people", "users"),
        RenameEntity("Person", "User"),
    ),
    4: Migration(
        "priorities have names, bodies are blocks",
        ChangeType("Issue", "priority", using=lambda level: LEVELS[level]),
        ChangeType("Issue", "body"),
    ),
    5: Migration(
        "ids that move between tenants",
        ChangeKey("User", "uuid"),
        DropField("User", "nick"),
        DropEntity("Old"),
    ),
}


def policy(version: int) -> SchemaPolicy:
    """The connector's history up to a version."""
    return SchemaPolicy("evolving", tuple(one for since, one in MIGRATIONS.items() if since <= version))


def apply(connection: SqliteConnection, version: int) -> TableWriter:
    """Make a database fit a version."""
    tables = writer(schema(version), policy(version))
    with transaction(connection):
        tables.apply(connection)
    return tables


def opened(path: Path) -> SqliteConnection:
    """A connection that writes."""
    return connect(str(path), cache=512)


# -- data --------------------------------------------------------------------------------


def rows_of(version: int) -> EncodedRows:
    """What upstream has in a version: as version 1 had it but in the words of that version."""
    rows: EncodedRows = {
        "Root": {"root": {}},
        "Person": {
            "1": {"name": "Ada", "nick": "a", "age": 36, "boss": None, "uuid": "u-1"},
            "2": {"name": "Bob", "nick": None, "age": 7, "boss": "1", "uuid": "1"},  # another's old id
            "3": {"name": "Eve", "nick": "e", "age": 2**53 + 1, "boss": "4", "uuid": "u-3"},
            "4": {"name": "Unknown", "age": 0, "boss": None, "uuid": None},
        },
        "Issue": {
            "a": {"name": "It hurts", "priority": 1, "owner": "2"},
            "b": {"name": "It itches", "priority": 9, "owner": "4"},  # 9 has no name
            "c": {"priority": 2, "owner": None},
        },
        "Old": {"x": {"text": "gone"}},
    }
    return carried(rows, 1, version)


def carried(rows: EncodedRows, start: int, end: int) -> EncodedRows:
    """What an upgrade makes of stored rows: what a version cannot hold is not loaded."""
    for version in range(start + 1, end + 1):
        if version in STEPS:
            rows = STEPS[version]({e: {i: dict(r) for i, r in some.items()} for e, some in rows.items()})
    return rows


def _second(rows: EncodedRows) -> EncodedRows:
    for row in rows["Person"].values():
        if row.get("nick", "") is None:
            del row["nick"]
        if row["age"] > 2**53:
            del row["age"]
        else:
            row["age"] = float(row["age"])
    return rows


def _third(rows: EncodedRows) -> EncodedRows:
    for row in rows["Issue"].values():
        if "name" in row:
            row["title"] = row.pop("name")
    rows["User"] = rows.pop("Person")
    return rows


def _fourth(rows: EncodedRows) -> EncodedRows:
    for row in rows["Issue"].values():
        row.pop("body", None)
        level = LEVELS.get(row.pop("priority"))
        if level is not None:
            row["priority"] = level
    return rows


def _fifth(rows: EncodedRows) -> EncodedRows:
    new = {id: row["uuid"] for id, row in rows["User"].items() if row["uuid"] is not None}
    rows["User"] = {new[id]: row for id, row in rows["User"].items() if id in new}
    for entity, field in (("User", "boss"), ("Issue", "owner")):
        for row in rows[entity].values():
            if row[field] is not None:
                old = row.pop(field)
                row.update({field: new[old]} if old in new else {})
    for row in rows["User"].values():
        row.pop("nick", None)
    del rows["Old"]
    return rows


STEPS: dict[int, Callable[[EncodedRows], EncodedRows]] = {2: _second, 3: _third, 4: _fourth, 5: _fifth}


def fill(connection: SqliteConnection, tables: TableWriter, rows: EncodedRows, at: float = 100.0) -> None:
    """Store rows as listings of the root bring them."""
    entities = tables.schema.entities
    root = entities["Root"].ref("root")
    with transaction(connection):
        for name in rows:
            some = [_entity(entities[name], id, row) for id, row in rows[name].items()]
            many = next(
                (m for m, child in entities["Root"].children().items() if child.__name__ == name), None
            )
            listing = (
                ListingPage(root, ManyOf(entities["Root"], many), 0, True, at, bookmark="m") if many else None
            )
            tables.write(connection, Delivery(some, at, listing))


def _entity(entity: type[Entity], id: str, row: Mapping[str, Any]) -> Entity:
    types = entity.types()
    values = {
        name: types[name].target.ref(value) if types[name].target and value is not None else value  # type: ignore[union-attr]
        for name, value in row.items()
    }
    return entity(id, **values)


def read(connection: SqliteConnection, tables: TableWriter) -> EncodedRows:
    """Everything that queries find."""
    found: EncodedRows = {}
    for name, entity in tables.schema.entities.items():
        items = tables.fetch(connection, Query(entity)).items
        if items:
            found[name] = {one.id: _row(one) for one in items}
    return found


def _row(one: Entity) -> dict[str, Any]:
    values = {name: value for name, value in values_of(one).items() if name != "id"}
    return {name: value.id if isinstance(value, Ref) else value for name, value in values.items()}


def structure(connection: SqliteConnection) -> dict[str, Any]:
    """Tables with their columns, fields and schema: what a migrated database shares with a fresh one."""
    tables = [one.name for one in connection.dialect.objects(connection) if one.kind in ("table", "view")]
    columns = {name: columns_of(connection, name) for name in tables}
    fields = connection.execute("SELECT entity, field, kind, load_group FROM _max_field").fetchall()
    text = connection.execute("SELECT schema FROM _max_schema").fetchone()
    done = connection.execute("SELECT * FROM _max_migration").fetchall()
    return {"columns": columns, "fields": set(fields), "schema": text, "migrations": set(done)}
