"""Schemas: the entities of one connector, in Python and as JSON data.

A schema read from JSON has entities without their module, so reading a database needs no
connector.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..errors import SchemaError, UnknownName
from .entities import E, Entity, Field, FieldOf, FieldType, Many, ManyOf, resolve
from .json_types import ANY
from .struct import Struct
from .values import Json, Kind

FUNCTIONS = {f"json_{word}" for word in ("each", "tree")}  # of the database, which a view would hide


def snake_case(name: str) -> str:
    """``AcmeUser`` → ``acme_user``, ``HTTPRoute`` → ``http_route``."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def table_name(connector: str, entity: str) -> str:
    """The name under which people find an entity: ``GitHubIssue`` of ``github`` is ``github_issue``."""
    if not connector:
        return snake_case(entity)
    size = len(connector.replace("_", ""))
    rest = entity[size:]
    if entity[:size].lower() != connector.replace("_", "") or rest[:1].islower():
        rest = entity
    return "_".join(filter(None, (connector, snake_case(rest).strip("_"))))


class Relationship(Struct):
    """One entity points at another, or lists it (``many``)."""

    source: str
    field: str
    target: str
    many: bool


class Schema:
    """The entities of one connector, and which of them are roots; SchemaError for contradictions.

    With the connector's name their tables are named; a Connector gives it its own.  ``camel_case``:
    the service's data has a field ``updated_at`` as ``updatedAt``, unless its source says otherwise.
    """

    def __init__(
        self,
        entities: Sequence[type[Entity]],
        *,
        roots: Sequence[type[Entity]] = (),
        connector: str = "",
        camel_case: bool = False,
    ) -> None:
        self.entities = {entity.__name__: entity for entity in entities}
        for entity in entities if camel_case else ():
            entity._camel_case = True
        self.roots, self.connector = tuple(roots), connector
        if len(self.entities) < len(entities):
            raise SchemaError("two entities of the schema share a name")
        for entity in entities:
            if entity._types is None:
                resolve(entity, self.entities)
        self._check_tables(entities)
        self._check_targets()
        self._check_texts()

    def _check_tables(self, entities: Sequence[type[Entity]]) -> None:
        tables: dict[str, str] = {}
        for entity in entities:
            table = self.table(entity.__name__)
            other = tables.setdefault(table, entity.__name__)
            if other != entity.__name__:
                raise SchemaError(f"{entity.__name__} and {other} would share the table {table}")
            if table.startswith(("_", "sqlite_", "max_", "pragma_")) or table in FUNCTIONS:
                raise SchemaError(f"{entity.__name__}: the table name {table} is reserved")

    def table(self, entity: str) -> str:
        """The name of an entity's view; its table has ``_`` before it."""
        return table_name(self.connector, entity)

    def _check_targets(self) -> None:
        known = set(self.entities.values())
        for root in self.roots:
            if root not in known:
                raise SchemaError(f"root {root.__name__} is not among the schema's entities")
        for entity in self.entities.values():
            types = entity.types().items()
            leads = {f: to for f, t in types if (to := t.target or t.inside)} | dict(entity.children())
            for name, target in leads.items():
                where = f"{entity.__name__}.{name}"
                if target not in known:
                    raise SchemaError(f"{where} leads to {target.__name__}, which the schema does not have")
            for name in entity.children():
                _check_inverse(ManyOf(entity, name))

    def _check_texts(self) -> None:
        for entity in self.entities.values():
            types = entity.types()
            for name, holds in types.items():
                if entity._fields[name].searchable and holds.kind is not Kind.TEXT:
                    raise SchemaError(f"{entity.__name__}.{name} is searchable, but does not hold text")
            if entity._title is not None and entity._title not in types:
                raise SchemaError(f"{entity.__name__} has no field {entity._title}, which its title names")
            if entity._title is not None and types[entity._title].kind is not Kind.TEXT:
                raise SchemaError(f"{entity.__name__}.{entity._title} is the title, but does not hold text")

    @property
    def relationships(self) -> list[Relationship]:
        """Every ref and every collection, in the order of declaration."""
        found = []
        for name, entity in self.entities.items():
            refs = [(f, t.target) for f, t in entity.types().items() if t.target]
            found += [Relationship(name, f, target.__name__, many=False) for f, target in refs]
            many = entity.children().items()
            found += [Relationship(name, f, child.__name__, many=True) for f, child in many]
        return found

    def collections_of(self, entity: type[Entity]) -> list[ManyOf[Any, Any]]:
        """The collections that can hold an entity."""
        parents = self.entities.values()
        collections: list[ManyOf[Any, Any]] = [
            ManyOf(parent, name) for parent in parents for name in parent.children()
        ]
        return [many for many in collections if many.child is entity]

    def collections_above(self, *entities: type[Entity]) -> list[ManyOf[Any, Any]]:
        """The collections that can hold these entities or their ancestors below the roots, topmost first."""
        found: dict[ManyOf[Any, Any], None] = {}
        visited = {*self.roots}

        def visit(entity: type[Entity]) -> None:
            visited.add(entity)
            collections = self.collections_of(entity)
            for many in collections:
                if many.parent not in visited:
                    visit(many.parent)
            found.update(dict.fromkeys(collections))

        for entity in entities:
            visit(entity)
        return list(found)

    def entity(self, name: str) -> type[Entity]:
        """The entity with this name, or with its view's, in any case; UnknownName suggests the nearest."""
        if name in self.entities:
            return self.entities[name]
        folded = [
            known
            for known in self.entities
            if name.casefold() in (known.casefold(), snake_case(known), self.table(known))
        ]
        if len(folded) != 1:
            raise UnknownName("entity", name, self.entities)
        return self.entities[folded[0]]

    def own(self, entity: type[E]) -> type[E] | None:
        """The entity that a class means here: itself, or the subclass of an installation; else None."""
        own = self.entities.get(getattr(entity, "__name__", ""))
        return own if own is not None and issubclass(own, entity) else None

    def __repr__(self) -> str:
        return f"Schema({', '.join(self.entities)})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Schema) and self.to_json() == other.to_json()

    __hash__ = None  # type: ignore[assignment]  # compared by content

    def to_json(self) -> Json:
        """The schema as JSON data: ``{"connector": "…", "entities": [...], "roots": [...]}``."""
        return {
            "connector": self.connector,
            "entities": [_entity_to_json(entity) for entity in self.entities.values()],
            "roots": [root.__name__ for root in self.roots],
        }

    @classmethod
    def from_json(cls, data: Json) -> Schema:
        """The inverse of ``to_json``: entities equal to the original ones, without their module."""
        made: dict[str, type[Entity]] = {}
        for one in data["entities"]:
            made[one["name"]] = _entity_from_json(one)
        for one in data["entities"]:
            entity = made[one["name"]]
            entity._types = {f["name"]: _type_from_json(f, made) for f in one["fields"]}
            entity._children = {c["name"]: made[c["child"]] for c in one["collections"]}
            entity._children |= {f["name"]: made[f["target"]] for f in one["fields"] if f.get("inline")}
            for c in one["collections"]:
                if c["by"]:
                    entity._collections[c["name"]].by = _pointing_back(made[c["child"]], c["by"])
        roots = [made[name] for name in data["roots"]]
        schema = cls(list(made.values()), roots=roots, connector=data.get("connector", ""))
        for entity in made.values():
            entity._schema = schema
        return schema


def _check_inverse(many: ManyOf[Any, Any]) -> None:
    """SchemaError unless ``by`` is a ref of the child to the parent."""
    back = many.by
    if back and many.inline:
        raise SchemaError(
            f"{many!r}: by= and inline= exclude each other",
            hint="with inline= the parent's row names its members, with by= each child names its parent",
        )
    if back and (back.entity is not many.child or back.type.target is not many.parent):
        raise SchemaError(f"{many!r}: by={back!r} is not a ref of {many.child.__name__} to its parent")


def description_of(entity: type[Entity]) -> str:
    """The first paragraph of an entity's docstring, on one line."""
    return " ".join((entity.__doc__ or "").strip().split("\n\n")[0].split())


def _entity_to_json(entity: type[Entity]) -> Json:
    collections: list[ManyOf[Any, Any]] = [ManyOf(entity, name) for name in entity._collections]
    return {
        "name": entity.__name__,
        "description": description_of(entity),
        "title": entity._title,
        "conventions": dict(entity._conventions),
        "fields": [
            {
                "name": name,
                "kind": str(holds.kind),
                "optional": holds.optional,
                "target": target.__name__ if (target := holds.target or holds.inside) else None,
                **({"shape": holds.shape} if holds.kind is Kind.JSON else {}),
                **({"inline": True} if name in entity._collections else {}),
                **({"choices": list(holds.choices)} if holds.choices else {}),
                "description": entity._fields[name].description,
                "searchable": entity._fields[name].searchable,
                "brief": entity._fields[name].brief,
            }
            for name, holds in entity.types().items()
        ],
        "collections": [
            {
                "name": many.name,
                "child": many.child.__name__,
                "by": many.by.name if many.by else None,
                "description": entity._collections[many.name].description,
            }
            for many in collections
            if not many.inline
        ],
    }


def _entity_from_json(data: Json) -> type[Entity]:
    body: dict[str, Any] = {"__doc__": data["description"], "__module__": __name__}
    marks = ("searchable", "brief")  # data of an older version says neither, and names no title
    body |= {
        f["name"]: Many(f["description"], inline=f["name"])
        if f.get("inline")
        else Field(f["description"], **{mark: f.get(mark, False) for mark in marks})
        for f in data["fields"]
    }
    body |= {c["name"]: Many(c["description"]) for c in data["collections"]}
    words = {"title": data.get("title"), "conventions": data.get("conventions")}
    entity: type[Entity] = type(data["name"], (Entity,), body, **words)
    return entity


def _pointing_back(child: type[Entity], field: str) -> Callable[[], FieldOf[Any, Any]]:
    return lambda: FieldOf(child, field)


def _type_from_json(data: Json, made: Mapping[str, type[Entity]]) -> FieldType:
    target = made[data["target"]] if data["target"] else None
    if target and data["kind"] == Kind.JSON:
        return FieldType.refs(target, data["optional"])
    shape, choices = data.get("shape", ANY), tuple(data.get("choices", ()))
    return FieldType(Kind(data["kind"]), data["optional"], target, shape, choices=choices)
