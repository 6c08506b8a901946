"""Names as people write them: entities with their fields, and refs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import UsageError
from ..model.entities import Entity, RefKey, find_name

if TYPE_CHECKING:
    from ..core import InstallationInfo
    from ..model.schema import Schema


def entity_and_field(schema: Schema, text: str) -> tuple[type[Entity], str | None]:
    """``Entity`` or ``Entity.field`` in any case; UnknownName names the nearest, UsageError for an id."""
    name, dot, field = text.partition(".")
    entity = schema.entity(name)
    if not dot:
        return entity, None
    if field in entity.children():
        child = entity.children()[field].__name__
        raise UsageError(f"{entity.__name__}.{field} is a collection", hint=f"write {child}")
    found = find_name(entity, field)
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
