"""What a GraphQL schema says of a service: the Relay connections of its Query type, and their nodes.

An introspection result is read as it is.  The schema language is turned into one by graphql-core.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from ...errors import MissingExtra, UnknownName, UsageError
from ...model.values import Json
from .openapi import Said, literal, read_text, time_of_change
from .proposal import (
    MOST_FIELDS,
    Auth,
    Paging,
    Proposal,
    ProposedEntity,
    ProposedField,
    entity_name,
    field_name,
    is_prose,
    one_line,
    plural_name,
    snake,
)

ROWS = 50  # of a page: services count what a query may bring
SCALARS = {"String": "str", "ID": "str", "Int": "int", "Float": "float", "Boolean": "bool"}
TIMES = ("datetime", "iso8601datetime", "timestamp", "timestamptz")
DATES = ("date", "iso8601date", "timelessdate", "localdate")
TEXTS = ("uri", "url", "html", "uuid", "bigint", "decimal", "gitobjectid", "email")


def read_schema(path: Path) -> Json:
    """The introspection result in a JSON file, or of a schema in GraphQL's own language."""
    text = read_text(path)
    if text.lstrip().startswith("{"):
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as error:
            raise UsageError(f"{path} is not JSON: {one_line(str(error), 200)}") from error
    try:
        from graphql import GraphQLError, build_schema, introspection_from_schema
    except ImportError as error:
        raise MissingExtra("descriptions", "graphql-core", f"reading {path}, which is not JSON,") from error
    try:
        return introspection_from_schema(build_schema(text, assume_valid_sdl=True))
    except (GraphQLError, TypeError, RecursionError) as error:
        raise UsageError(f"{path} is no GraphQL schema: {one_line(str(error), 200)}") from error


class GraphQLSchema:
    """The types of a schema, and the connections of its Query type that can be listed."""

    def __init__(self, data: Json, name: str = "the schema") -> None:
        inner = data.get("data", data) if isinstance(data, dict) else None
        schema = inner.get("__schema") if isinstance(inner, dict) else None
        if not isinstance(schema, dict) or not isinstance(schema.get("types"), list):
            raise UsageError(
                f"{name} is no GraphQL schema: it has no __schema",
                hint="save the answer of an introspection query, or the schema in GraphQL's own language",
            )
        self.name = name
        self.types = {one["name"]: one for one in schema["types"] if isinstance(one, dict) and "name" in one}
        root = schema.get("queryType")
        query = self.types.get(root.get("name", "") if isinstance(root, dict) else "", {})
        self.connections: dict[str, str] = {}  # the type of the nodes, by the field of Query
        for field in query.get("fields") or ():
            node = self._node_of(field)
            if node:
                self.connections[field["name"]] = node
        if not self.connections:
            raise UsageError(
                f"{name} has no list: its Query type has no connection with nodes and pageInfo",
                hint="write this connector by hand: docs/connectors.md shows how",
            )

    def _node_of(self, field: Mapping[str, Json]) -> str:
        """The type of a connection's nodes; empty for no connection, and for one that needs more."""
        arguments = {one["name"]: one for one in field.get("args") or ()}
        needed = [one for one in arguments.values() if is_needed(one)]
        if not {"first", "after"} <= arguments.keys() or any(one["name"] != "first" for one in needed):
            return ""
        kind = self.types.get(named(field["type"]), {})
        inside = {one["name"]: one for one in kind.get("fields") or ()}
        if not {"nodes", "pageInfo"} <= inside.keys():
            return ""
        node = named(inside["nodes"]["type"])
        return node if self.types.get(node, {}).get("kind") in ("OBJECT", "INTERFACE") else ""

    def fields_of(self, name: str) -> list[Mapping[str, Json]]:
        """The fields of a type that can be asked for as they are, without those that go away."""
        found = [one for one in self.types.get(name, {}).get("fields") or () if not one.get("isDeprecated")]
        return [one for one in found if not any(map(is_needed, one.get("args") or ()))]

    def type_of(self, kind: Json) -> str:
        """The type of a field, as Python writes it; empty for objects and lists of them."""
        if is_list(kind):
            inner = self.type_of({"kind": "SCALAR", "name": named(kind)})
            return "list[str]" if inner == "str" else ""
        known = self.types.get(named(kind), {})
        if known.get("kind") == "ENUM":
            return literal([one["name"] for one in known.get("enumValues") or ()]) or "str"
        return scalar(named(kind)) if known.get("kind") == "SCALAR" else ""


def scalar(name: str) -> str:
    """The type of a scalar, as Python writes it; services have some of their own."""
    word = name.lower().replace("_", "")
    if name in SCALARS:
        return SCALARS[name]
    if word in TIMES or word in DATES:
        return "datetime" if word in TIMES else "date"
    return "str" if word in TEXTS else "Json"


def named(kind: Json) -> str:
    """The name of a type without what is around it: not null, a list of."""
    while isinstance(kind, dict) and kind.get("ofType"):
        kind = kind["ofType"]
    return str(kind.get("name") or "") if isinstance(kind, dict) else ""


def is_list(kind: Json) -> bool:
    """Whether a type is a list."""
    while isinstance(kind, dict):
        if kind.get("kind") == "LIST":
            return True
        kind = kind.get("ofType")
    return False


def is_needed(argument: Mapping[str, Json]) -> bool:
    """Whether an argument has to be given."""
    kind = argument.get("type")
    return isinstance(kind, dict) and kind.get("kind") == "NON_NULL" and argument.get("defaultValue") is None


def propose_graphql(
    schema: GraphQLSchema, name: str, words: Sequence[str], url: str, wanted: Said
) -> Proposal:
    """The connector for the connections that words name; ``url`` is that of the endpoint."""
    known = {snake(one): one for one in schema.connections}
    entities: list[ProposedEntity] = []
    notes: list[str] = []
    chosen: dict[str, None] = {}
    for word in words:
        found = known.get(snake(word))
        if found is None:
            raise UnknownName("connection", word, schema.connections)
        chosen[found] = None
    classes: dict[str, str] = {}
    for one in chosen:
        node = schema.connections[one]
        classes.setdefault(node, entity_name(wanted.entity or node, classes.values()))
    for one in chosen:
        made, said = _entity(schema, one, classes, wanted, [entity.plural for entity in entities])
        if any(entity.name == made.name for entity in entities):
            raise UsageError(f"{one} lists the same {made.name} as another one", hint="choose one of them")
        entities.append(made)
        notes += said
    place = urlsplit(url)
    origin, path = f"{place.scheme}://{place.netloc}", place.path.rstrip("/") or "/graphql"
    return Proposal(name, origin, entities, Auth(), path, Path(schema.name).name, notes)


def _entity(
    schema: GraphQLSchema, connection: str, classes: Mapping[str, str], wanted: Said, taken: Sequence[str]
) -> tuple[ProposedEntity, list[str]]:
    node = schema.connections[connection]
    name, key, notes = classes[node], wanted.key or "id", []
    offered = {str(one["name"]): one for one in schema.fields_of(node)}
    if key not in offered:
        raise UsageError(
            f"{node} has no field {key}", hint=f"say what its id is: --key FIELD, one of {', '.join(offered)}"
        )
    fields = _fields(schema, node, key, classes)
    if len(fields) > MOST_FIELDS:
        notes.append(f"{name}: only the first {MOST_FIELDS} fields were taken")
        fields = fields[:MOST_FIELDS]
    asked = [one.source.partition(".") for one in fields]
    return (
        ProposedEntity(
            name,
            plural_name(snake(connection), name, taken),
            fields,
            path=connection,
            key=key,
            about=one_line(schema.types[node].get("description")),
            paging=Paging("relay", rows=ROWS),
            changed=time_of_change(fields),
            selection=" ".join([key, *(f"{word} {{ {id} }}" if id else word for word, _, id in asked)]),
        ),
        notes,
    )


def _fields(schema: GraphQLSchema, node: str, key: str, classes: Mapping[str, str]) -> list[ProposedField]:
    """The fields of a node but its id, one more than are taken at the most."""
    fields: list[ProposedField] = []
    for one in schema.fields_of(node):
        proposed = _field(schema, one, classes[node], classes, [field.name for field in fields])
        if one["name"] != key and proposed is not None and len(fields) <= MOST_FIELDS:
            fields.append(proposed)
    return fields


def _field(
    schema: GraphQLSchema,
    one: Mapping[str, Json],
    entity: str,
    classes: Mapping[str, str],
    taken: Sequence[str],
) -> ProposedField | None:
    """A field of a node; None for a connection, a list of objects, and an object without an id."""
    word, kind = str(one["name"]), one["type"]
    about, empty = one_line(one.get("description")), kind.get("kind") != "NON_NULL"
    found = schema.type_of(kind)
    if found:
        prose = found == "str" and named(kind) == "String" and is_prose(word)
        return ProposedField(field_name(word, entity, taken), found, word, about, empty, searchable=prose)
    inner = named(kind)
    has_id = any(field["name"] == "id" for field in schema.fields_of(inner))
    if is_list(kind) or not has_id or schema.types.get(inner, {}).get("kind") != "OBJECT":
        return None
    if inner in classes:
        return ProposedField(
            field_name(word, entity, taken), f"Ref[{classes[inner]}]", f"{word}.id", about, empty
        )
    return ProposedField(field_name(f"{word}Id", entity, taken), "str", f"{word}.id", about, empty)
