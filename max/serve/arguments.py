"""The arguments of a tool: declared once, as the schema that clients see and the check that holds.

A wrong argument is a UsageError with the remedy: models read it and try again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from ..errors import UnknownName, UsageError
from ..model.values import Json

KINDS = {"string": str, "integer": int, "boolean": bool, "object": dict}


class Parameter(NamedTuple):
    """One argument: what it holds, what it is for, and the bounds of a number."""

    kind: Literal["string", "integer", "boolean", "object"]
    about: str
    required: bool = False
    default: int | None = None
    most: int | None = None

    def to_json(self) -> dict[str, Json]:
        """Its JSON schema."""
        schema: dict[str, Json] = {"type": self.kind, "description": self.about}
        if self.kind == "integer":
            schema["minimum"] = 0 if self.default == 0 else 1
        if self.most is not None:
            schema["maximum"] = self.most
        return schema if self.default is None else schema | {"default": self.default}

    def check(self, name: str, value: object) -> Any:
        """The value; UsageError when it cannot be meant."""
        least = 0 if self.default == 0 else 1
        fits = isinstance(value, KINDS[self.kind]) and (self.kind == "boolean" or not isinstance(value, bool))
        if not fits:
            kind = {"string": "a text", "integer": "a whole number", "object": "an object"}.get(self.kind)
            raise UsageError(f"{name!r} is {kind or 'true or false'}, not {value!r:.60}")
        if isinstance(value, int) and self.kind == "integer" and not least <= value <= (self.most or value):
            raise UsageError(f"{name!r} is from {least} to {self.most or 'any'}, not {value}")
        return value


def input_schema(parameters: Mapping[str, Parameter]) -> Json:
    """The JSON schema of all arguments; nothing else is allowed."""
    return {
        "type": "object",
        "properties": {name: one.to_json() for name, one in parameters.items()},
        "required": [name for name, one in parameters.items() if one.required],
        "additionalProperties": False,
    }


def read_arguments(tool: str, parameters: Mapping[str, Parameter], given: Mapping[str, Json]) -> Any:
    """A value for every parameter, its default where none was given; an explicit null gives none."""
    for name in given:
        if name not in parameters:
            raise UnknownName("argument", name, parameters, where=tool)
    found = {name: one.default for name, one in parameters.items()}
    for name, one in parameters.items():
        if given.get(name) is not None:
            found[name] = one.check(name, given[name])
        elif one.required:
            raise UsageError(f"{tool} needs {name!r}", hint=one.about)
    return Arguments(found)


class Arguments:
    """The arguments of a call, as attributes."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = dict(values)

    def __getattr__(self, name: str) -> Any:
        try:
            return self._values[name]
        except KeyError:
            raise AttributeError(name) from None

    def given(self) -> dict[str, Any]:
        """What was given or has a default, for the words that say how to go on."""
        return {name: value for name, value in self._values.items() if value is not None}
