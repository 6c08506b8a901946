"""How old stored data is: field by field, and of each collection and feed since it was listed.

An age counts from when the request began that brought a value.  What was never fetched, or was
invalidated since, has no age and is counted apart.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import UsageError
from ..model.ages import FieldAge as FieldAge
from ..model.delivery import AgeHistogram
from ..model.entities import Entity, find_name
from ..model.query import Query
from ..model.struct import checked
from ..storage.database import decoding

if TYPE_CHECKING:
    from ..model.schema import Schema
    from ..storage.database import Connection
    from ..storage.tables import Tables


def ages(connection: Connection, tables: Tables, what: str | None = None, *, now: float) -> list[FieldAge]:
    """The fields of all entities, then the listings and feeds; or only what ``Entity[.field]`` names."""
    entities, field = list(tables.schema.entities.values()), None
    if what is not None:
        entity, field = entity_and_field(tables.schema, what)
        entities = [entity]
    found = [one for entity in entities for one in _field_ages(connection, tables, entity, field, now)]
    if field is not None:
        return found
    membership = tables.membership
    for entity in entities:
        for many in tables.schema.collections_of(entity):
            if many.inline:
                continue  # it is as old as the field with the rows' lists
            histogram = membership.ages(connection, many, now=now)
            if many.by is not None and not histogram.ages and tables.count(connection, Query(many.child)):
                continue  # no listing brings it: its rows come in other ways, and say where they belong
            found.append(_age("listing", entity.__name__, repr(many), histogram))
    feeds = membership.feed_ages(connection, now=now)
    return found + [_age("feed", None, name, histogram) for name, histogram in feeds.items()]


def entity_and_field(schema: Schema, text: str) -> tuple[type[Entity], str | None]:
    """``Entity`` or ``Entity.field`` in any case; UnknownName names the nearest, UsageError for an id."""
    name, dot, field = text.partition(".")
    entity = schema.entity(name)
    if not dot:
        return entity, None
    if field in entity.children() and field not in entity.types():
        child = entity.children()[field].__name__
        raise UsageError(f"{entity.__name__}.{field} is a collection", hint=f"write {child}")
    found = find_name(entity, field)
    if found == "id":
        raise UsageError("an id has no age of its own", hint=f"write {entity.__name__}")
    return entity, found


def _field_ages(
    connection: Connection, tables: Tables, entity: type[Entity], field: str | None, now: float
) -> list[FieldAge]:
    mapping, name = tables.mapping(entity), entity.__name__
    if not mapping.types:
        count = tables.count(connection, Query(entity))
        return [FieldAge("entity", name, name, count, AgeHistogram([], 0))]
    fields = [field] if field else list(mapping.types)
    found = tables.freshness.ages(connection, mapping, fields, now=now)
    return [_age("field", name, one, histogram) for one, histogram in found.items()]


def _age(kind: str, entity: str | None, name: str, ages: AgeHistogram) -> FieldAge:
    """An age whose histogram counts every place."""
    with decoding("freshness"):
        return checked(FieldAge(kind, entity, name, ages.never + sum(rows for _, rows in ages.ages), ages))
