"""The values of fields that have few: what a caller reads before writing a filter.

A field that has many is left at the thirteenth of them, however many rows there are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..model.values import Kind

if TYPE_CHECKING:
    from ..model.entities import Entity
    from .reader import Reader

FEW = 12  # different values that are few
LONGEST = 40  # characters of a value that is listed
KINDS = frozenset({Kind.TEXT, Kind.INTEGER, Kind.BOOLEAN})


def few_values(reader: Reader, entity: type[Entity]) -> dict[str, dict[Any, int]]:
    """By field, how many rows have each value, the most frequent first.

    Fields that have more than FEW values are left out, and those that have more than one for two rows.
    """
    rows, found = reader.count(entity), {}
    for name, holds in entity.types().items():
        if holds.kind in KINDS and _has_few(reader, entity, name, rows):
            values = {value: n for value, n in reader.values(entity, name).items() if value is not None}
            if values and all(len(str(value)) <= LONGEST for value in values):
                found[name] = values
    return found


def _has_few(reader: Reader, entity: type[Entity], field: str, rows: int) -> bool:
    """Whether a field has few different values, without reading more rows than tell that."""
    table = reader.schema.table(entity.__name__)
    statement = f'SELECT DISTINCT "{field}" FROM "{table}" WHERE "{field}" IS NOT NULL LIMIT {FEW + 1}'
    found = len(reader.sql(statement, limit=FEW + 1).rows)
    return 0 < found <= FEW and found * 2 <= rows
