"""Schemas as text, in full or a line for each entity, and as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from ..model.entities import Entity, FieldType, ManyOf
from ..model.schema import Schema, description_of
from ..model.values import Json
from .tables import GAP
from .text import (
    PLAIN,
    Paint,
    cell,
    counted,
    display_width,
    first_few,
    folded,
    number,
    pad,
    sanitize,
    wrapped,
)

LEAST_PROSE = 20  # cells that a description needs beside the names; with fewer it goes below them

Values = Mapping[str, Mapping[str, Mapping[Any, int]]]


class Described(NamedTuple):
    """Entities of a schema, and what is known of their rows.

    ``rows`` counts by entity, where something is stored.  ``values`` says by entity and field how
    many rows have each value, of fields that have few.
    """

    schema: Schema
    entities: Sequence[type[Entity]]
    rows: Mapping[str, int] = MappingProxyType({})
    values: Values = MappingProxyType({})


def field_kind(holds: FieldType) -> str:
    """What a field holds: ``text``, ``list[str]``, ``ref to AcmeUser``; ``?``: it may be empty."""
    target = f"ref to {holds.target.__name__}" if holds.target else holds.label
    return f"{target}{'?' if holds.optional else ''}"


def schema_text(found: Described, width: int | None, paint: Paint = PLAIN) -> list[str]:
    """Entities with their fields and collections."""
    lines: list[str] = []
    for entity in found.entities:
        rows = found.rows.get(entity.__name__)
        marks = [] if rows is None else [counted(rows, "row")]
        marks += ["root"] if entity in found.schema.roots else []
        marks.append(f"in SQL: {found.schema.table(entity.__name__)}")
        lines += ["", paint(entity.__name__, "bold") + paint(f"  {'  '.join(marks)}", "dim")]
        lines += [f"  {line}" for line in folded(sanitize(description_of(entity)), width and width - 2)]
        lines += _member_lines(entity, found.values.get(entity.__name__, {}), width)
    return lines[1:]


def _member_lines(
    entity: type[Entity], values: Mapping[str, Mapping[Any, int]], width: int | None
) -> Iterator[str]:
    """A line for the id, each field and each collection; further lines are indented below it."""
    members = list(_members(entity))
    sizes = [max(display_width(row[n]) for row in members) for n in (0, 1)]
    indent = sum(sizes) + 3 * GAP
    narrow = width is not None and width - indent < LEAST_PROSE
    for name, kind, about in members:
        head = f"{' ' * GAP}{pad(name, sizes[0])}{' ' * GAP}{pad(kind, sizes[1])}{' ' * GAP}"
        edge = 3 * GAP if narrow else indent
        room = width and width - edge
        lines = [*(folded(about, room) if about else ()), *_value_lines(values.get(name, {}), room)]
        first = "" if narrow or not lines else lines.pop(0)
        yield f"{head}{first}".rstrip()
        yield from (" " * edge + line for line in lines)


def _value_lines(values: Mapping[Any, int], room: int | None) -> list[str]:
    """The values of a field with how many rows have each; nothing without any."""
    counts = [f"{cell(value)} {number(rows)}" for value, rows in values.items()]
    return wrapped([f"values: {counts[0]}", *counts[1:]], room) if counts else []


def _members(entity: type[Entity]) -> Iterator[list[str]]:
    """Name, kind and description of the id, of each field and of each collection."""
    fields = entity._fields
    yield ["id", "text", sanitize(fields["id"].description)]
    for name, holds in entity.types().items():
        if name in entity._collections:
            continue
        title = "the title: " if name == entity._title else ""
        about = title + sanitize(fields[name].description)
        known = f"one of {', '.join(map(sanitize, holds.choices))}" if holds.choices else ""
        yield [name, field_kind(holds), "; ".join(filter(None, (about, known)))]
    for name, child in entity.children().items():
        many: ManyOf[Any, Any] = ManyOf(entity, name)
        by = " in the row" if many.inline else f" by {many.by.name}" if many.by else ""
        yield [name, f"many {child.__name__}{by}", sanitize(entity._collections[name].description)]


def schema_lines(found: Described, width: int | None, paint: Paint = PLAIN) -> list[str]:
    """Each entity on a line, or on several where that is too narrow."""
    lines: list[str] = []
    for entity in found.entities:
        name, words = entity.__name__, brief_fields(found, entity)
        rows = found.rows.get(name)
        words[-1] += ")" if rows is None else f") {counted(rows, 'row')}"
        first, *more = wrapped(words, width and width - len(name) - 1)
        lines += [f"{paint(name, 'bold')}({first}", *(f"    {line}" for line in more)]
    return lines


def brief_fields(found: Described, entity: type[Entity]) -> list[str]:
    """Each field in a word: ``status{6}`` has six values, ``assignee→AcmeUser`` is a ref."""
    values = found.values.get(entity.__name__, {})
    words = ["id"]
    for name, holds in entity.types().items():
        if name in entity._collections:
            continue
        few = f"{{{len(values[name])}}}" if name in values else ""
        words.append(f"{name}→{holds.target.__name__}" if holds.target else f"{name}{few}")
    return [*words, *(f"{name}→→{child.__name__}" for name, child in entity.children().items())]


def brief_json(found: Described) -> Json:
    """The same as JSON data."""
    return {
        "entities": [
            {
                "name": entity.__name__,
                "table": found.schema.table(entity.__name__),
                "rows": found.rows.get(entity.__name__),
                "fields": brief_fields(found, entity),
            }
            for entity in found.entities
        ]
    }


def schema_json(found: Described) -> Json:
    """The schema as JSON data: each entity with its table, its rows and all its fields, the id first."""
    data = found.schema.to_json()
    names = {entity.__name__ for entity in found.entities}
    return {
        "entities": [_entity_json(found, one) for one in data["entities"] if one["name"] in names],
        "roots": data["roots"],
        "relationships": [
            {"source": r.source, "field": r.field, "target": r.target, "many": r.many}
            for r in found.schema.relationships
            if r.source in names
        ],
    }


def _entity_json(found: Described, entity: dict[str, Json]) -> dict[str, Json]:
    name = entity["name"]
    about = found.schema.entities[name]._fields["id"].description
    key = {"name": "id", "kind": "text", "optional": False, "target": None, "description": about}
    key |= {"searchable": False, "brief": False}
    few = found.values.get(name, {})
    fields = [one | _values_json(few.get(one["name"])) for one in [key, *entity["fields"]]]
    head = {"name": name, "table": found.schema.table(name), "rows": found.rows.get(name)}
    return {**head, **entity, "fields": fields}


def _values_json(values: Mapping[Any, int] | None) -> dict[str, Json]:
    """The values of a field that has few; empty for others."""
    if values is None:
        return {}
    return {"values": [{"value": value, "rows": rows} for value, rows in values.items()]}


def manifest_lines(manifest: Mapping[str, Json]) -> Iterator[str]:
    """What a connector declares beside its entities: a heading, and a line for each thing."""
    for what, found in manifest.items():
        if isinstance(found, list):
            yield from ["", f"{what}:"] if found else []
            for one in found:
                facts = {} if isinstance(one, str) else {k: v for k, v in one.items() if v not in (None, [])}
                name = one if isinstance(one, str) else facts.pop("name")
                words = (f"{k} {first_few(v) if isinstance(v, list) else v}" for k, v in facts.items())
                yield f"  {name}{': ' if facts else ''}{'; '.join(words)}"
