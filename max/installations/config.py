"""Configuration: a connector's dataclass is read from answers and written as JSON.

A configuration is read once and checked whole: every invalid value is named with its path.  Nothing
of it can be changed afterwards, at any depth.
"""

from __future__ import annotations

import dataclasses
import json
import math
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from ..connector import Conf
from ..errors import ConnectorError, InvalidAnswers, Mismatch, UsageError, nearest
from ..model.struct import Struct
from ..model.values import Json, is_json

WORDS = {"true": True, "yes": True, "on": True, "1": True}
WORDS |= {"false": False, "no": False, "off": False, "0": False}
NONE = ("", "null", "none")  # texts that mean None, where a value may be None and is not a text


def frozen(value: object) -> Any:
    """A copy that cannot be changed: lists as tuples, mappings read-only, at every depth."""
    if isinstance(value, Mapping):
        return MappingProxyType({key: frozen(one) for key, one in value.items()})
    return tuple(map(frozen, value)) if isinstance(value, list | tuple) else value


def plain(value: object) -> Json:
    """The inverse of ``frozen``: lists and dicts, as in JSON."""
    if isinstance(value, Mapping):
        return {key: plain(one) for key, one in value.items()}
    return [plain(one) for one in value] if isinstance(value, list | tuple) else value


# What a value of each type is called in messages.
SCALARS: dict[object, str] = {
    str: "a text",
    int: "a whole number",
    float: "a finite number",
    bool: "true or false",
    Any: "JSON data",
    object: "JSON data",
}


def _read_scalar(kind: object, value: object) -> Any:
    """A value of a type of SCALARS from the value itself or its text; ValueError for anything else."""
    if kind in (Any, object) and is_json(plain(value)):
        return frozen(value)
    if isinstance(value, str) and kind in FROM_TEXT:
        return FROM_TEXT[kind](value)
    if isinstance(value, bool):
        if kind is bool:
            return value
    elif isinstance(value, int) and kind is int:
        return value
    elif isinstance(value, int | float) and kind is float:
        return _finite(value)
    raise ValueError


def _finite(value: str | float) -> float:
    if math.isfinite(number := float(value)):
        return number
    raise ValueError


def _boolean(text: str) -> bool:
    if text.strip().lower() in WORDS:
        return WORDS[text.strip().lower()]
    raise ValueError


FROM_TEXT: dict[object, Callable[[str], object]] = {str: str, int: int, float: _finite, bool: _boolean}
LISTS = (list, tuple, Sequence)
MAPPINGS = (dict, Mapping)


class ValueType(Struct):
    """What a configuration value may be; ``container`` is list, dict, or None for one value."""

    scalar: object
    container: type[list[Any]] | type[dict[str, Any]] | None = None
    optional: bool = False

    @classmethod
    def of(cls, hint: object, where: str) -> ValueType:
        """The type of an annotation; ConnectorError names ``where`` when no value can have it."""
        given, optional = _without_none(hint)
        if given in SCALARS:
            return cls(given, None, optional)
        origin = typing.get_origin(given) or given
        inside = [one for one in typing.get_args(given) if one is not Ellipsis] or [Any]
        if inside[-1] in SCALARS and (origin in LISTS or origin in MAPPINGS):
            return cls(inside[-1], list if origin in LISTS else dict, optional)
        raise ConnectorError(
            f"{where} is annotated {hint!r}, which no configuration value can be",
            hint="use str, int, float, bool, Sequence[…] or Mapping[str, …] of these, Json, or | None",
        )

    @property
    def expected(self) -> str:
        """What is valid, in words."""
        one = SCALARS[self.scalar]
        kind = self.container.__name__ if self.container else ""
        words = {"list": f"a list, each {one}", "dict": f"a mapping, each {one}"}.get(kind, one)
        return f"{words}, or null" if self.optional else words

    def read(self, value: object, path: str, wrong: list[Mismatch]) -> Any:
        """The value, immutable; what is invalid is added to ``wrong``."""
        if self.optional and self._means_none(value):
            return None
        try:
            if self.container is list:
                items = enumerate(_items(value))
                return tuple([self._inside(one, f"{path}[{i}]", wrong) for i, one in items])
            if self.container is dict:
                entries = _entries(value).items()
                return MappingProxyType({k: self._inside(v, f"{path}.{k}", wrong) for k, v in entries})
            return _read_scalar(self.scalar, value)
        except (ValueError, OverflowError):
            wrong.append(Mismatch(path, self.expected, value))
            return None

    def _means_none(self, value: object) -> bool:
        if isinstance(value, str) and (self.container or self.scalar is not str):
            return value.strip().lower() in NONE
        return value is None

    def _inside(self, value: object, path: str, wrong: list[Mismatch]) -> Any:
        return ValueType(self.scalar).read(value, path, wrong)


def _without_none(hint: object) -> tuple[object, bool]:
    """An annotation without its ``| None``, and whether it had one."""
    if typing.get_origin(hint) not in (typing.Union, types.UnionType):
        return hint, False
    given = [one for one in typing.get_args(hint) if one is not types.NoneType]
    optional = len(given) < len(typing.get_args(hint))
    return (given[0] if len(given) == 1 else hint), optional


def _items(value: object) -> Sequence[object]:
    """A list, or its text: JSON, or parts between commas."""
    if isinstance(value, str):
        if not value.lstrip().startswith("["):
            return [part.strip() for part in value.split(",") if part.strip()]
        value = json.loads(value)
    if isinstance(value, list | tuple):
        return value
    raise ValueError


def _entries(value: object) -> Mapping[str, object]:
    """A mapping with texts as keys, or its JSON text."""
    value = json.loads(value) if isinstance(value, str) else value
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return value
    raise ValueError


def as_text(value: object) -> str:
    """A value as a person types it; reading it gives the value again."""
    if isinstance(value, tuple) and value and all(isinstance(one, str) for one in value):
        text = ",".join(value)
        if not text.startswith("[") and _items(text) == list(value):
            return text
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(plain(value))


def config_types(config_type: type[Any]) -> dict[str, ValueType]:
    """The type of each configuration key; ConnectorError for an annotation that no value can have."""
    name = config_type.__name__
    try:
        hints = typing.get_type_hints(config_type)
    except NameError as error:
        problem = f"is annotated with {error.name!r}, which its module does not define"
        raise ConnectorError(f"{name} {problem}") from error
    keys = [one.name for one in _fields(config_type)]
    return {key: ValueType.of(hints[key], f"{name}.{key}") for key in keys}


def config_defaults(config_type: type[Any]) -> dict[str, Any]:
    """The default of each configuration key that has one, immutable."""
    found = {}
    for one in _fields(config_type):
        if one.default is not dataclasses.MISSING:
            found[one.name] = frozen(one.default)
        elif one.default_factory is not dataclasses.MISSING:
            found[one.name] = frozen(one.default_factory())
    return found


def _fields(config_type: type[Any]) -> list[dataclasses.Field[Any]]:
    return [one for one in dataclasses.fields(config_type) if one.init]


def read_values(
    types: Mapping[str, ValueType], values: Mapping[str, object], wrong: list[Mismatch]
) -> dict[str, Any]:
    """The values by key, immutable; invalid ones and unknown keys are added to ``wrong``."""
    read = {}
    for key, value in values.items():
        if key in types:
            read[key] = types[key].read(value, key, wrong)
        else:
            known = ", ".join(nearest(key, types) or types) or "no key at all"
            wrong.append(Mismatch(key, f"another key ({known})", value, secret=True))
    return read


def read_config(config_type: type[Conf], values: Mapping[str, object], *, subject: str) -> Conf:
    """A connector's configuration from values, or the texts of values.

    InvalidAnswers lists every key that is missing, unknown or invalid.  The result cannot be
    changed, and does not follow a change of ``values``.
    """
    types, wrong, hint = config_types(config_type), list[Mismatch](), "give values with --set key=value"
    read = config_defaults(config_type) | read_values(types, values, wrong)
    wrong += [Mismatch.missing(key, one.expected) for key, one in types.items() if key not in read]
    if wrong:
        raise InvalidAnswers(f"{subject} is invalid", wrong, hint=hint)
    try:
        return config_type(**read)
    except (ValueError, TypeError) as error:  # raised by the connector's own __post_init__
        raise UsageError(f"{subject} is invalid: {error}", hint=hint) from error


def config_values(config: object) -> dict[str, Json]:
    """A configuration as JSON data; ``read_config`` of it gives an equal one."""
    return {one.name: plain(getattr(config, one.name)) for one in _fields(type(config))}
