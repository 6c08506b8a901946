"""The arguments of a tool or a method: declared once, as the schema that callers see and the check.

A wrong argument is a UsageError with the remedy: models read it and try again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from ..errors import UnknownName, UsageError
from ..model.values import Json, is_text

KINDS: Mapping[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "object": (dict,),
    "array": (list, tuple),
    "null": (type(None),),
}
WORDS = {
    "string": "a text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "object": "an object",
    "array": "a list",
    "null": "null",
}

LARGEST = 2**63 - 1  # a whole number that a database can take


class Parameter(NamedTuple):
    """One argument: what it holds, what it is for, and the bounds of a number.

    ``kind`` is a type of JSON, or several: ``string|array``; empty for any JSON data.  ``items`` is the
    kind of a list's members, ``choices`` are the only valid texts.
    """

    kind: str
    about: str
    required: bool = False
    default: Json = None
    most: int | None = None
    items: str = ""
    choices: tuple[str, ...] = ()
    least: int | None = None

    @property
    def kinds(self) -> list[str]:
        """Each type of JSON that it may have."""
        return self.kind.split("|") if self.kind else []

    @property
    def lowest(self) -> int:
        """The least whole number: 0 where that is the default, otherwise 1, unless it says another."""
        return self.least if self.least is not None else 0 if self.default == 0 else 1

    def to_json(self) -> dict[str, Json]:
        """Its JSON schema."""
        kinds = self.kinds
        schema: dict[str, Json] = {"type": kinds[0] if len(kinds) == 1 else kinds} if kinds else {}
        schema["description"] = self.about
        if self.choices:
            schema["enum"] = [*self.choices, *[None] * ("null" in kinds)]
        if self.items:
            schema["items"] = {"type": self.items}
        if "integer" in kinds:
            schema["minimum"] = self.lowest
        if self.most is not None:
            schema["maximum"] = self.most
        return schema if self.default is None else schema | {"default": self.default}

    def check(self, name: str, value: object) -> Any:
        """The value; UsageError when it cannot be meant."""
        if not self._fits(value):
            raise UsageError(f"{name!r} is {self._expected()}, not {value!r:.60}")
        texts = value if isinstance(value, list | tuple) else [value]
        if any(isinstance(text, str) and not is_text(text) for text in texts):
            raise UsageError(f"{name!r} holds half a character, which no stored text has")
        if isinstance(value, int) and not isinstance(value, bool):
            self._check_number(name, value)
        if self.choices and isinstance(value, str) and value not in self.choices:
            raise UnknownName(name, value, self.choices)
        return value

    def _check_number(self, name: str, value: int) -> None:
        if "integer" in self.kinds and not self.lowest <= value <= (self.most or value):
            raise UsageError(f"{name!r} is from {self.lowest} to {self.most or 'any'}, not {value}")
        if abs(value) > LARGEST:
            raise UsageError(f"{name!r} is at most {LARGEST}, and not such a number")

    def _fits(self, value: object) -> bool:
        of = [kind for kind in self.kinds if isinstance(value, KINDS[kind])]
        if isinstance(value, bool):
            of = [kind for kind in of if kind == "boolean"]
        if not of and self.kinds:
            return False
        if self.items and isinstance(value, list | tuple):
            return all(isinstance(one, KINDS[self.items]) for one in value)
        return not isinstance(value, dict) or all(isinstance(key, str) for key in value)

    def _expected(self) -> str:
        of = f" of {WORDS[self.items].partition(' ')[2]}s" if self.items else ""
        return " or ".join(WORDS[kind] + (of if kind == "array" else "") for kind in self.kinds)


def input_schema(parameters: Mapping[str, Parameter]) -> Json:
    """The JSON schema of all arguments; nothing else is allowed."""
    return {
        "type": "object",
        "properties": {name: one.to_json() for name, one in parameters.items()},
        "required": [name for name, one in parameters.items() if one.required],
        "additionalProperties": False,
    }


def check_names(of: str, parameters: Mapping[str, Parameter], given: Mapping[str, Json]) -> None:
    """UnknownName for an argument that there is not, UsageError when one is missing."""
    for name in given:
        if name not in parameters:
            raise UnknownName("argument", name, parameters, where=of)
    for name, one in parameters.items():
        if one.required and given.get(name) is None:
            raise UsageError(f"{of} needs {name!r}", hint=one.about)


def read_arguments(tool: str, parameters: Mapping[str, Parameter], given: Mapping[str, Json]) -> Any:
    """A value for every parameter, its default where none was given; an explicit null gives none."""
    check_names(tool, parameters, given)
    found = {name: one.default for name, one in parameters.items()}
    for name, value in given.items():
        if value is not None:
            found[name] = parameters[name].check(name, value)
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
