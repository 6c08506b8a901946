"""Encoding values as JSON that people can read, and decoding them; secrets are removed on the way.

Rule 1: no secret gets through, in any encoding.

Rule 2: decoding runs no code that the data names.  Classes are looked up in the module of the
operation, entities in the schema.  A value that could not be decoded is refused when it is encoded.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from types import MappingProxyType
from typing import Any

from ..errors import LoaderFault, MaxError, RecordingError, UpstreamError
from ..model.entities import Entity, Ref, RefKey, values_of
from ..model.loaders import PageRequest
from ..model.mapping import MappedRows
from ..model.query import Batch, Page
from ..model.schema import Schema
from ..model.struct import Struct
from ..model.tagged_json import TaggedJson, field_names, has_plain_keys, is_data
from ..model.values import InvalidValue, Json
from .credentials import Secret
from .operations import AnyOperation
from .redaction import MARK, SECRET_KEYS, SHORTEST, Redactor

OF_ALL_ERRORS = inspect.signature(UpstreamError.__init__).parameters.keys()
OURS: Mapping[str, type] = {one.__name__: one for one in (Page, Batch, PageRequest)}


class Codec(TaggedJson):
    """Encodes and decodes the values of one operation; ``redactor`` removes secrets on the way."""

    lists, objects = (list, MappedRows), (dict, MappingProxyType)

    def __init__(self, operation: AnyOperation, schema: Schema, redactor: Redactor) -> None:
        self._name, self._schema, self._redactor = operation.name, schema, redactor
        function = inspect.unwrap(operation.function)
        self._names: Mapping[str, Any] = getattr(function, "__globals__", {})

    # -- encoding --------------------------------------------------------------------------------

    def encode(self, value: object) -> Json:
        """A value as JSON data; RecordingError when it could not be decoded."""
        try:
            return self._encode(value)
        except RecursionError as error:
            raise self._refused("a value that is nested too deep or contains itself") from error

    def encode_input(self, value: object) -> Json:
        """An input as JSON data: of a class with fields, those that differ from their defaults.

        So a later version of the connector, whose inputs have more fields, has equal inputs.
        """
        kind = type(value)
        if is_data(kind):
            defaults = _defaults(kind)
            fields = ((name, getattr(value, name)) for name in field_names(kind))
            return {n: self.encode(v) for n, v in fields if n not in defaults or defaults[n] != v}
        return self.encode(value)

    def _text(self, value: str) -> Json:
        return self._redactor.text(value)

    def _number(self, value: float) -> Json:
        return self._redactor.number(value)

    def _bytes(self, value: bytes) -> bytes:
        return self._redactor.bytes(value)

    def _key(self, key: str) -> str:
        return self._redactor.text(key)

    def _encode_mapping(self, value: Mapping[Any, Any]) -> Json:
        if has_plain_keys(value):
            for key in SECRET_KEYS & value.keys():
                if isinstance(value[key], str) and len(value[key]) >= SHORTEST:
                    self._redactor.learn(value[key])
        return super()._encode_mapping(value)

    def _encode_other(self, kind: type, value: Any) -> Json:
        if kind is Secret:
            self._redactor.learn(value.reveal())
            return {"$secret": MARK}
        if kind is Ref:
            self._entity(value.entity.__name__, value.entity)
            return {"$ref": self._redactor.text(str(value.key))}
        if kind is InvalidValue:  # in place of a value that could not be read
            return {"$invalid": [self._encode(one) for one in (value.expected, value.actual, value.path)]}
        if isinstance(value, Exception):
            return {"$error": self.encode_error(value)}
        return self._encode_instance(kind, value)

    def _encode_instance(self, kind: type, value: Any) -> Json:
        """An instance of a class that is looked up by its name."""
        name = kind.__qualname__
        if issubclass(kind, Entity):
            self._entity(name, kind)
            return {"$entity": name, "values": self._encode_mapping({"id": value.id, **values_of(value)})}
        if self._class(name) is not kind:
            raise self._refused(f"an instance of {name}, a class outside of the operation's own module")
        if issubclass(kind, Enum):
            return {"$enum": name, "name": value.name}
        if not is_data(kind):
            raise self._refused(f"an instance of {name}, a class without declared fields")
        return {
            "$data": name,
            "fields": {one: self._encode(getattr(value, one)) for one in field_names(kind)},
        }

    def encode_error(self, error: BaseException) -> Json:
        """An error: its class, its message and its data."""
        if not isinstance(error, MaxError):
            return {"class": type(error).__name__, "message": self._redactor.text(str(error))}
        data = {"class": type(error).__name__, **error.describe()}
        if isinstance(error, UpstreamError) and error.retry_after is not None:
            data["retry_after"] = error.retry_after
        return self.encode(data)

    def _refused(self, what: str) -> RecordingError:
        return RecordingError(
            f"{self._name}: a recording cannot hold {what}",
            hint="use JSON data, entities, or dataclasses defined in the operation's module",
            operation=self._name,
        )

    # -- decoding --------------------------------------------------------------------------------

    def decode(self, data: Json) -> Any:
        """The value that was encoded; RecordingError when this version of the connector lacks its class."""
        try:
            return self._decode(data)
        except RecursionError as error:
            raise self._refused("a value that is nested too deep") from error

    def _decoding(self, tag: str, data: Json, make: Callable[[], Any]) -> Any:
        try:
            return make()
        except (RecordingError, RecursionError):
            raise
        except Exception as error:  # whatever a class says about values that it never had
            raise RecordingError(
                f"{self._name}: this version of the connector cannot read {tag[1:]} {data[tag]!r:.60}",
                hint="replay it with the version that the recording's first line names",
                operation=self._name,
            ) from error

    def _decode_other(self, tag: str, inside: Json, data: Json) -> Any:
        decoders: dict[str, Callable[[], Any]] = {
            "$secret": lambda: Secret(inside),
            "$ref": lambda: self._decode_ref(RefKey.parse(inside)),
            "$error": lambda: decode_error(self._decode(inside)),
            "$invalid": lambda: InvalidValue(*map(self._decode, inside)),
            "$entity": lambda: self._decode_entity(inside, data["values"]),
            "$enum": lambda: self._class_of(inside, lambda kind: issubclass(kind, Enum))[data["name"]],
            "$data": lambda: self._decode_instance(inside, data["fields"]),
        }
        return decoders[tag]()

    def _decode_ref(self, key: RefKey) -> Ref[Any]:
        ref: Ref[Any] = Ref(self._entity(key.entity), key.id)
        return ref if key.installation is None else ref.within(key.installation)

    def _decode_entity(self, name: str, values: Json) -> Entity:
        entity = self._entity(name)
        known = {"id", *entity.types()}
        return entity(**{field: self._decode(one) for field, one in values.items() if field in known})

    def _decode_instance(self, name: str, fields: Json) -> Any:
        kind = self._class_of(name, is_data)
        known = field_names(kind)
        return kind(**{field: self._decode(one) for field, one in fields.items() if field in known})

    def _class(self, name: str) -> Any:
        """The class with a name, of the operation's module or of those that every operation may use."""
        if name in OURS:
            return OURS[name]
        first, *rest = name.split(".")
        found = self._names.get(first)
        for one in rest:
            found = vars(found).get(one) if isinstance(found, type) else None  # never into another module
        return found

    def _class_of(self, name: str, is_valid: Callable[[type], bool]) -> Any:
        """The class that a recording names; TypeError when it is none of the valid ones."""
        found = self._class(name)
        if not isinstance(found, type) or not is_valid(found):
            raise TypeError(f"{name} is not a class with such values")
        return found

    def _entity(self, name: str, expected: type[Entity] | None = None) -> type[Entity]:
        """The schema's entity with a name, which must be the expected one."""
        found = self._schema.entities.get(name)
        if found is None or found is not (expected or found):
            raise self._refused(f"the entity {name}, which is not in the connector's schema")
        return found


def _defaults(kind: Any) -> dict[str, Any]:
    if dataclasses.is_dataclass(kind):
        fields, missing = dataclasses.fields(kind), dataclasses.MISSING
        made = {one.name: one.default_factory() for one in fields if one.default_factory is not missing}
        return made | {one.name: one.default for one in fields if one.default is not missing}
    if issubclass(kind, Struct):
        return {name: getattr(kind, name) for name in kind._names if hasattr(kind, name)}
    return dict(kind._field_defaults)


def decode_error(data: Json) -> Exception:
    """The error that was encoded; of the most similar class when its own no longer exists.

    Of its facts, only those that its class knows become attributes again.
    """
    names = {"class", "message", *(("code", "hint") if isinstance(data, dict) and "code" in data else ())}
    if not isinstance(data, dict) or not all(isinstance(data.get(name), str) for name in names):
        raise RecordingError("a recorded error has no class or no message", hint="record again")
    if "code" not in data:
        return LoaderFault(
            f"{data['class']} was raised when this was recorded: {data['message']}",
            hint="this is a bug of the connector",
        )
    facts = data.get("data")
    facts = facts if isinstance(facts, dict) else {}
    kind = _class_of(data["class"], data["code"])
    made = kind.__new__(kind, data["message"])
    known = inspect.signature(kind.__init__).parameters.keys() - dir(kind) - OF_ALL_ERRORS
    vars(made).update({name: one for name, one in facts.items() if name in known})
    made.message, made.hint, made.data = data["message"], data["hint"], facts
    if isinstance(made, UpstreamError):
        made.retry_after = None if data.get("retry_after") is None else 0.0  # a replay does not wait
    return made


def _class_of(name: str, code: str) -> type[MaxError]:
    classes = list(_below(MaxError))
    same_name = [one for one in classes if one.__name__ == name]
    same_code = [one for one in classes if one.code == code]
    return next(iter([*same_name, *same_code]), UpstreamError)


def _below(kind: type[MaxError]) -> Iterator[type[MaxError]]:
    yield kind
    for one in kind.__subclasses__():
        yield from _below(one)
