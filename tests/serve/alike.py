"""Whether two values are the same in value and in type, also when they came from two processes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

from max.errors import MaxError, Mismatch
from max.model.aggregate import Groups
from max.model.entities import Entity, FieldOf, ManyOf, Ref, values_of
from max.model.schema import Schema
from max.model.struct import Struct
from max.model.text_search import Marked
from max.model.values import InvalidValue


def differences(one: Any, other: Any, at: str = "") -> list[str]:
    """Where two values differ, as paths; empty when they are the same.

    Entities are the same when their classes have the same name and fields, and they the same values:
    each process has classes of its own.
    """
    first, second = type(one), type(other)
    if is_entity(one) and is_entity(other):
        return [] if described(one) == described(other) else [f"{at}: {one.__name__}, {other.__name__}"]
    if isinstance(one, Entity) and isinstance(other, Entity):
        values = differences({"id": one.id, **values_of(one)}, {"id": other.id, **values_of(other)}, at)
        return [*differences(first, second, at), *values]
    if (first.__module__, first.__qualname__) != (second.__module__, second.__qualname__):
        return [f"{at}: {first.__qualname__} is not {second.__qualname__}"]
    if isinstance(one, float):
        alike = one == other or (math.isnan(one) and math.isnan(other))
        return [] if alike and math.copysign(1, one) == math.copysign(1, other) else [f"{at}: {one} {other}"]
    found = list(parts(one, other))
    if not found:
        return [] if one == other else [f"{at}: {one!r:.100} is not {other!r:.100}"]
    return [line for name, a, b in found for line in differences(a, b, f"{at}.{name}")]


def is_entity(value: Any) -> bool:
    """Whether a value is a class of entities."""
    return isinstance(value, type) and issubclass(value, Entity)


def described(entity: type[Entity]) -> Any:
    """An entity's fields and collections, without its class."""
    types = {
        name: (holds.kind, holds.optional, holds.label, holds.choices)
        for name, holds in entity.types().items()
    }
    return entity.__name__, types, {name: child.__name__ for name, child in entity.children().items()}


def parts(one: Any, other: Any) -> Iterator[tuple[str, Any, Any]]:
    """What two values of one type consist of; nothing for a plain value."""
    if isinstance(one, Mapping) and not isinstance(one, Groups):
        yield "keys", list(one), list(other)
        yield from ((f"[{key!r}]", one[key], other.get(key, MISSING)) for key in one)
    elif isinstance(one, list | tuple) and not hasattr(one, "_fields"):
        yield "len", len(one), len(other)
        yield from ((f"[{n}]", a, b) for n, (a, b) in enumerate(zip(one, other, strict=False)))
    elif isinstance(one, Schema):
        yield "json", one.to_json(), other.to_json()
    else:
        for name in attributes(one):
            yield name, part(one, name), part(other, name)


def part(one: Any, name: str) -> Any:
    """A part of a record by its name; ``text`` is the text that a marked one is."""
    return str(one) if name == "text" and isinstance(one, Marked) else getattr(one, name, MISSING)


MISSING = object()


def attributes(one: Any) -> list[str]:
    """The names of what a record, an entity or an error consists of."""
    if isinstance(one, Struct):
        return list(one._names)
    if dataclasses.is_dataclass(one):
        return [field.name for field in dataclasses.fields(one)]
    if isinstance(one, tuple):
        return list(getattr(one, "_fields", ()))
    if isinstance(one, MaxError):
        return ["args", "code", "exit_status", *vars(one)]
    named: list[tuple[type, list[str]]] = [
        (Groups, ["grouping", "groups", "total", "more", "more_rows", "empty", "not_loaded"]),
        (Ref, ["entity", "id", "scope"]),
        (FieldOf, ["entity", "name", "via"]),
        (ManyOf, ["parent", "name"]),
        (Marked, ["places", "text"]),
        (Mismatch, ["path", "expected", "actual"]),
        (InvalidValue, ["expected", "actual", "path"]),
    ]
    return next((names for kind, names in named if isinstance(one, kind)), [])


def same(one: Any, other: Any) -> bool:
    """Whether two values are the same; an AssertionError says where they differ."""
    found = differences(one, other)
    if found:
        raise AssertionError("\n".join(found[:5]))
    return True
