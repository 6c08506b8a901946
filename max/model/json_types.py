"""Types of JSON data: ``list[str]`` and ``dict[str, int | None]``, as annotations and as text.

    type = one { "|" one }
    one  = "json" | "str" | "int" | "float" | "bool" | "None" | "list[" type "]" | "dict[str, " type "]"

A type is kept as text, so people read it in a schema as its author wrote it.  ``json`` is any JSON data.
"""

from __future__ import annotations

import re
import types
import typing
from functools import cache
from typing import Any

from ..errors import SchemaError
from .values import (
    JSON_BITS,
    JSON_DEPTH,
    InvalidValue,
    Json,
    JsonReader,
    Reader,
    read_boolean,
    read_json,
    read_list,
    read_object,
    read_real,
    read_text,
)

ANY = "json"
TOKEN = re.compile(r"\w+|[\[\],|]")


def json_type(hint: Any, where: str) -> str:
    """The type that an annotation means; SchemaError names ``where`` when JSON cannot hold it."""
    origin, inside = typing.get_origin(hint) or hint, typing.get_args(hint)
    if origin is Any:
        return ANY
    if origin is types.NoneType:
        return "None"
    if origin in (str, int, float, bool):
        return str(origin.__name__)
    if origin in (typing.Union, types.UnionType):
        return " | ".join(json_type(one, where) for one in inside)
    if origin is list:
        return f"list[{json_type(inside[0] if inside else Any, where)}]"
    if origin is dict and inside[:1] in ((), (str,)):
        return f"dict[str, {json_type(inside[1] if inside else Any, where)}]"
    raise SchemaError(
        f"{where} has {hint!r} inside, which JSON data cannot hold",
        hint="inside list[…] and dict[str, …] use str, int, float, bool, None, Json, list[…] or dict[str, …]",
    )


@cache
def json_reader(text: str) -> Reader:
    """The reader of a type; it returns the data with 3.0 as 3 where the type says int."""
    read = _alternatives(TOKEN.findall(text))
    return lambda value: read(value, JSON_DEPTH)


def _alternatives(tokens: list[str]) -> JsonReader:
    """The reader of the type at the beginning of the tokens, which are taken away."""
    names, readers = [tokens[0]], [_one(tokens)]
    while tokens[:1] == ["|"]:
        del tokens[0]
        names.append(tokens[0])
        readers.append(_one(tokens))
    if len(readers) == 1:
        return readers[0]
    expected, last = " or ".join(names), readers[-1]
    if len(readers) == 2 and "None" in names:  # the other one says what is wrong, and where
        last = readers[1 - names.index("None")]
        return lambda value, depth: None if value is None else last(value, depth)

    def read(value: object, depth: int) -> Json:
        for reader in readers:
            try:
                return reader(value, depth)
            except InvalidValue:
                continue
        raise InvalidValue(expected, value)

    return read


def _one(tokens: list[str]) -> JsonReader:
    name = tokens.pop(0)
    if name not in ("list", "dict"):
        return SCALARS[name]
    del tokens[: 1 if name == "list" else 3]  # [ or [str,
    inside = _alternatives(tokens)
    del tokens[0]
    if name == "list":
        return lambda value, depth: read_list(value, depth, inside, "a list")
    return lambda value, depth: read_object(value, depth, inside, "an object")


def _integer(value: object, depth: int) -> int:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or value.bit_length() > JSON_BITS:
        raise InvalidValue("an integer", value)
    return int(value)


def _null(value: object, depth: int) -> None:
    if value is not None:
        raise InvalidValue("null", value)


SCALARS: dict[str, JsonReader] = {
    ANY: read_json,
    "str": lambda value, depth: read_text(value),
    "int": _integer,
    "float": lambda value, depth: read_real(value),
    "bool": lambda value, depth: read_boolean(value),
    "None": _null,
}


def type_name(hint: object) -> str:
    """An annotation as it is written: ``list[str]``, ``Issue | None``."""
    if isinstance(hint, type) and not typing.get_args(hint):
        return hint.__name__
    return re.sub(r"\b(?:\w+\.)+(?=\w)", "", str(hint))
