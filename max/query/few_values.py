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
AT_ONCE = 20  # fields of one statement
KINDS = frozenset({Kind.TEXT, Kind.INTEGER, Kind.BOOLEAN})


def few_values(reader: Reader, entity: type[Entity]) -> dict[str, dict[Any, int]]:
    """By field, how many rows have each value, the most frequent first.

    Fields that have more than FEW values are left out, and those that have more than one for two rows.
    """
    found = {}
    for name in _fields_with_few(reader, entity):
        values = {value: n for value, n in reader.values(entity, name).items() if value is not None}
        if values and all(len(str(value)) <= LONGEST for value in values):
            found[name] = values
    return found


def _fields_with_few(reader: Reader, entity: type[Entity]) -> list[str]:
    """The fields with few different values, found without reading more rows than tell that."""
    names = [name for name, holds in entity.types().items() if holds.kind in KINDS]
    rows, table = reader.count(entity), reader.schema.table(entity.__name__)
    found: list[str] = []
    for chosen in (names[place : place + AT_ONCE] for place in range(0, len(names) if rows else 0, AT_ONCE)):
        counts = [
            f'(SELECT count(*) FROM (SELECT DISTINCT "{name}" FROM "{table}"'
            f' WHERE "{name}" IS NOT NULL LIMIT {FEW + 1}) AS chosen)'
            for name in chosen
        ]
        (row,) = reader.sql(f"SELECT {', '.join(counts)}").rows
        found += [name for name, n in zip(chosen, row, strict=True) if 0 < n <= FEW and n * 2 <= rows]
    return found
