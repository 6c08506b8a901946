"""What ``plain_json`` makes of a method's result, as JSON schemas: derived from the result's type.

A class of fields is an object with a property for each, described once, under its name.  What has a form of
its own (``to_json``, ``to_dict``) is an object of which no more is said, and so are an installation's
entities: their fields depend on what it has.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence, Set
from datetime import date, datetime
from enum import Enum
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from ..errors import MaxError
from ..model.entities import Entity, FieldOf, Ref
from ..model.query import RowPage
from ..model.struct import Struct
from ..model.values import Json
from .method import Method
from .streams import Stream
from .wire import classes

PLAIN: Mapping[Any, Json] = {  # what each of these becomes
    None: {"type": "null"},
    type(None): {"type": "null"},
    str: {"type": "string"},
    bool: {"type": "boolean"},
    int: {"type": "integer"},
    float: {"type": "number"},
    bytes: {"type": "string", "contentEncoding": "base64"},
    datetime: {"type": "string", "format": "date-time"},
    date: {"type": "string", "format": "date"},
}
ROWS: Json = {
    "type": "object",
    "required": ["rows", "cursor"],
    "properties": {
        "rows": {"type": "array", "items": {"type": "object"}},
        "cursor": {"type": ["string", "null"]},
    },
}


class ResultSchemas:
    """The schemas of results; ``named`` has those of classes, by name, as they are needed."""

    def __init__(self, error: Json) -> None:
        self.named: dict[str, Json] = {}
        self._error = error
        self._names = {
            "Entity": Entity,
            "Stream": Stream,
            **classes(),
        }  # the modules have some for types alone

    def of_method(self, method: Method) -> Json:
        """The schema of a method's result; of one that streams, of the result behind its stream."""
        names = {**vars(sys.modules[method.function.__module__]), **self._names}
        hint = eval(method.result, names)  # noqa: S307 - the text of our own source
        return self.of(get_args(hint)[1] if get_origin(hint) is Stream else hint)

    def of(self, hint: Any) -> Json:
        """The schema of what a type describes; an empty one says nothing."""
        kind, inside = get_origin(hint) or hint, get_args(hint)
        if kind in PLAIN:
            return dict(PLAIN[kind])
        if kind in (Union, UnionType):
            return self._any_of(inside)
        if kind is Literal:
            return {"enum": [*inside]}
        if not isinstance(kind, type):  # a type variable, or Any
            return {}
        if kind in (Ref, FieldOf, type):
            return {"type": "string"}
        if issubclass(kind, Enum):
            return {"type": "string", "enum": [one.value for one in kind]}
        if issubclass(kind, MaxError):
            return dict(self._error)
        return self._of_parts(kind, inside)

    def _any_of(self, options: Sequence[Any]) -> Json:
        found = [self.of(one) for one in options]
        if all(one.keys() == {"type"} for one in found):
            return {"type": [one["type"] for one in found]}
        return {"anyOf": found} if all(found) else {}

    def _of_parts(self, kind: type, inside: Sequence[Any]) -> Json:
        """The schema of what consists of others: fields, members or values by name."""
        if any(hasattr(kind, form) for form in ("to_json", "to_dict")):
            return {"type": "object"}
        if issubclass(kind, Struct) or hasattr(kind, "_fields"):
            return self._reference(kind)
        if issubclass(kind, Mapping):
            return {"type": "object", "additionalProperties": self.of(inside[1]) if inside else {}}
        if kind is tuple and ... not in inside:
            size = len(inside)  # some tools know no prefixItems
            return {"type": "array", "items": self._any_of(inside), "minItems": size, "maxItems": size}
        if issubclass(kind, Sequence | Set):
            return {"type": "array", "items": self.of(inside[0]) if inside else {}}
        return {}

    def _reference(self, kind: type) -> Json:
        """A reference to the schema of a class, which is made when it is needed first."""
        name = kind.__name__
        if name not in self.named:
            self.named[name] = {}  # it may lead to itself
            self.named[name] = ROWS if kind is RowPage else self._of_fields(kind)
        return {"$ref": f"#/components/schemas/{name}"}

    def _of_fields(self, kind: type) -> Json:
        hints = get_type_hints(kind, localns=self._names)
        fields: Sequence[str] = getattr(kind, "_names", None) or kind._fields  # type: ignore[attr-defined]
        return {
            "type": "object",
            "description": (kind.__doc__ or "").partition("\n")[0],
            "required": [*fields],
            "properties": {name: self.of(hints[name]) for name in fields},
        }
