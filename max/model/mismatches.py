"""Mismatches: what is wrong with the values of a record, and where.

The path of a value is ``Entity:id.field[2].key``; a long id is cut.
"""

from __future__ import annotations

from collections.abc import Mapping

from ..errors import Mismatch
from .entities import Entity, as_it_came
from .values import LONGEST_ID, InvalidValue, is_id

LONGEST_PATH = 200  # characters by which an error names a record
ID_EXPECTED = f"a text that is not empty, without NUL, of at most {LONGEST_ID:,} characters"


def invalid_fields(entity: Entity) -> dict[str, InvalidValue]:
    """What is wrong with each invalid field of a record; empty for a valid record."""
    wrong: dict[str, InvalidValue] = {}
    id = entity._values["id"]
    if not is_id(id):
        wrong["id"] = id if isinstance(id, InvalidValue) else InvalidValue(ID_EXPECTED, id)
    for name, holds in type(entity).types().items():
        try:
            if name in entity._values:
                holds.read(entity._values[name])
        except InvalidValue as error:
            wrong[name] = error
    return wrong


def check_entity(entity: Entity) -> list[Mismatch]:
    """Every invalid value of a record, with its path."""
    return mismatches_of(entity, invalid_fields(entity))


def mismatches_of(entity: Entity, wrong: Mapping[str, InvalidValue]) -> list[Mismatch]:
    """What is wrong with the fields of a record, with their paths."""
    where = short_path(type(entity).__name__, entity._values["id"])
    return [Mismatch(f"{where}.{name}{one.path}", one.expected, one.actual) for name, one in wrong.items()]


def short_path(entity: str, id: object) -> str:
    """A record as paths name it, ``Entity:id``, with the beginning of a long id."""
    text = f"{entity}:{as_it_came(id)}"
    text = text if text.isprintable() else repr(text)[1:-1]  # an id may hold any text
    return text if len(text) <= LONGEST_PATH else f"{text[: LONGEST_PATH - 1]}…"
