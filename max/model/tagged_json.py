"""Python values as JSON data, and back: unchanged in value and in type.

Rule 1: JSON values are written as they are.  Everything else is an object whose first key begins with
"$" and names what it is: ``{"$date": "2026-01-31"}``, ``{"$tuple": [1, 2]}``.

Rule 2: decoding runs no code that the data names.  A subclass says which classes there are, and a value
that could not be decoded is refused when it is encoded.
"""

from __future__ import annotations

import math
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping
from datetime import date, datetime
from datetime import time as time_of_day
from decimal import Decimal
from typing import Any

from .struct import Struct
from .values import Json

AS_TEXT: Mapping[str, tuple[type, Callable[[Any], str], Callable[[str], Any]]] = {
    "$datetime": (datetime, datetime.isoformat, datetime.fromisoformat),
    "$date": (date, date.isoformat, date.fromisoformat),
    "$time": (time_of_day, time_of_day.isoformat, time_of_day.fromisoformat),
    "$decimal": (Decimal, str, Decimal),
}
AS_LIST: Mapping[str, type] = {"$tuple": tuple, "$set": set, "$frozenset": frozenset}
TAGS = {kind: tag for tag, kind in [*((tag, one[0]) for tag, one in AS_TEXT.items()), *AS_LIST.items()]}
PLAIN = (type(None), bool, int, float, str)


class TaggedJson:
    """Encodes and decodes values of Python's own types; a subclass adds others."""

    lists: tuple[type, ...] = (list,)  # types that become a list
    objects: tuple[type, ...] = (dict,)  # types that become an object

    # -- encoding --------------------------------------------------------------------------------

    def _encode(self, value: Any) -> Json:
        kind = type(value)
        if kind in PLAIN:
            return self._encode_plain(kind, value)
        if kind in self.lists:
            return [self._encode(one) for one in value]
        if kind in self.objects:
            return self._encode_mapping(value)
        tag = TAGS.get(kind, "")
        if tag in AS_TEXT:
            return {tag: AS_TEXT[tag][1](value)}
        if tag in AS_LIST:
            inside = [self._encode(one) for one in value]
            return {tag: inside if kind is tuple else sorted(inside, key=canonical)}
        if kind is bytes:
            return {"$bytes": b64encode(self._bytes(value)).decode()}
        return self._encode_other(kind, value)

    def _encode_plain(self, kind: type, value: Any) -> Json:
        if kind is str:
            return self._text(value)
        if kind is float and not math.isfinite(value):
            return {"$float": repr(value)}
        return self._number(value) if kind in (int, float) else value

    def _encode_mapping(self, value: Mapping[Any, Any]) -> Json:
        if has_plain_keys(value):
            return {self._key(key): self._encode(one) for key, one in value.items()}
        return {"$dict": [[self._encode(key), self._encode(one)] for key, one in value.items()]}

    def _key(self, key: str) -> str:
        """A text key of an object."""
        return key

    def _text(self, value: str) -> Json:
        return value

    def _number(self, value: float) -> Json:
        return value

    def _bytes(self, value: bytes) -> bytes:
        return value

    def _encode_other(self, kind: type, value: Any) -> Json:
        """A value of another type; an error when it could not be decoded."""
        raise NotImplementedError

    # -- decoding --------------------------------------------------------------------------------

    def _decode(self, data: Json) -> Any:
        if isinstance(data, list):
            return [self._decode(one) for one in data]
        if not isinstance(data, dict):
            return data
        tag = next(iter(data), "")
        if not tag.startswith("$"):
            return {key: self._decode(one) for key, one in data.items()}
        inside = data[tag]
        if tag in AS_TEXT:
            return self._decoding(tag, data, lambda: AS_TEXT[tag][2](inside))
        if tag in AS_LIST:
            return self._decoding(tag, data, lambda: AS_LIST[tag](self._decode(one) for one in inside))
        plain: dict[str, Callable[[], Any]] = {
            "$float": lambda: float(inside),
            "$bytes": lambda: b64decode(inside),
            "$dict": lambda: {self._decode(key): self._decode(one) for key, one in inside},
        }
        return self._decoding(tag, data, plain.get(tag) or (lambda: self._decode_other(tag, inside, data)))

    def _decoding(self, tag: str, data: Json, make: Callable[[], Any]) -> Any:
        """What ``make`` returns; a subclass says in words what is wrong with the data."""
        return make()

    def _decode_other(self, tag: str, inside: Json, data: Json) -> Any:
        """The value of another tag; KeyError when there is none."""
        raise NotImplementedError


def has_plain_keys(value: Mapping[Any, Any]) -> bool:
    """Whether a mapping can be an object: its keys are texts that name no tag."""
    return all(type(key) is str and not key.startswith("$") for key in value)


def canonical(value: Json) -> str:
    """JSON data as text, the same text for equal data."""
    import json

    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def is_data(kind: type) -> bool:
    """Whether a class consists of fields: a dataclass, a named tuple or a Struct."""
    named_tuple = issubclass(kind, tuple) and hasattr(kind, "_fields")
    return named_tuple or issubclass(kind, Struct) or hasattr(kind, "__dataclass_fields__")


def field_names(kind: Any) -> tuple[str, ...]:
    """The fields that the constructor takes."""
    if hasattr(kind, "__dataclass_fields__"):
        import dataclasses  # slow to import, and only authors write them

        return tuple(one.name for one in dataclasses.fields(kind) if one.init)
    return tuple(kind._names if issubclass(kind, Struct) else kind._fields)
