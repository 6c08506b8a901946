"""Names and texts of people, as the query model has them: filters, orders, fields."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..errors import UnknownName, UsageError
from ..model.entities import Entity, FieldOf, Filter, RefKey, known_name
from ..model.query import Order

if TYPE_CHECKING:
    from ..core import InstallationInfo
    from ..model.schema import Schema


def filter_of(entity: type[Entity], where: str | Filter[Any] | None, *, now: float) -> Filter[Any] | None:
    """A filter, parsed when it is text."""
    if not isinstance(where, str):
        return where
    from ..model.filter_language import parse

    return parse(where, entity, now=now)


def order_of(entity: type[Entity], text: str | None) -> tuple[Order, ...]:
    """``name:desc,created_at`` as orders."""
    orders = []
    for word in text.split(",") if text is not None else ():
        path, colon, direction = word.strip().partition(":")
        if colon and direction.lower() not in ("asc", "desc"):
            raise UnknownName("direction", direction, ["asc", "desc"], where=f"--order-by {word.strip()}")
        orders.append(Order(field_of(entity, path).path, direction.lower() == "desc"))
    return tuple(orders)


def field_of(entity: type[Entity], path: str) -> FieldOf[Any, Any]:
    """A field, or one behind a ref, by name in any case; UnknownName names the nearest."""
    first, dot, second = path.partition(".")
    field: FieldOf[Any, Any] = FieldOf(entity, known_name(entity, first))
    if not dot:
        return field
    target = None if field.name == "id" else field.type.target
    if target is None:
        raise UsageError(f"{entity.__name__}.{field.name} is no ref, so it has no field {second!r}")
    return FieldOf(entity, known_name(target, second), field)


def field_names(entity: type[Entity], fields: str | Sequence[str]) -> tuple[str, ...]:
    """``name,email``, or a list of names, as fields, each once."""
    words = fields.split(",") if isinstance(fields, str) else fields
    return tuple(dict.fromkeys(known_name(entity, word.strip()) for word in words))


def entity_and_field(schema: Schema, text: str) -> tuple[type[Entity], str | None]:
    """``Entity`` or ``Entity.field`` in any case; UnknownName names the nearest, UsageError for an id."""
    name, dot, field = text.partition(".")
    entity = schema.entity(name)
    if not dot:
        return entity, None
    if field in entity.children():
        child = entity.children()[field].__name__
        raise UsageError(f"{entity.__name__}.{field} is a collection", hint=f"write {child}")
    found = known_name(entity, field)
    if found == "id":
        raise UsageError("an id has no age of its own", hint=f"write {entity.__name__}")
    return entity, found


def read_ref(text: str, info: InstallationInfo) -> tuple[str, str]:
    """Entity and id of ``Entity:id``; UsageError when it is no ref, or one of another installation."""
    try:
        key = RefKey.parse(text)
    except ValueError as error:
        raise UsageError(str(error)) from None
    if key.installation not in (None, info.id):
        raise UsageError(f"{key} belongs to another installation than {info}", hint="name that one")
    return key.entity, key.id
