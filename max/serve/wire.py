"""Any result or error of a method as JSON data, and back: unchanged in value and in type.

Rule 1: only classes of the table below are built, by name.  What is not in it is refused when it is
encoded, so that the side with the bug learns of it.

Rule 2: entities belong to the schema that the database describes.  Data names the schemas that it
needs by their digests, the first without saying so at every entity; each side keeps those it has seen,
and no schema crosses a connection twice.

Rule 3: what another version of Max sends and this one cannot read is a ProtocolError in words.
"""

from __future__ import annotations

import hashlib
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from enum import Enum
from functools import cache
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakKeyDictionary

from ..errors import MaxError, ProtocolError
from ..model.entities import Entity, FieldOf, ManyOf, Ref, values_of
from ..model.schema import Schema
from ..model.tagged_json import TaggedJson, canonical, field_names
from ..model.values import JSON_BITS, InvalidValue, Json, is_text

if TYPE_CHECKING:
    from ..model.aggregate import Groups

CLASSES = """
core: SyncOptions
model.ages: FieldAge Invalidated Invalidation
model.aggregate: Group GroupOrder Grouping Key Measure
model.audit: AuditCheck AuditRow
model.changes: Change ChangePage ChangeSummary
model.delivery: AgeHistogram
model.entities: FieldType
model.event_log: InstallationEvent
model.health: Health InstallationHealth
model.hooks: HookReceipt HookState
model.plan: Concurrent Step SyncPlan
model.query: Order QueryPage RowPage
model.refs: RefKey Scope
model.schedules: Handled Outlook Schedule ScheduleStatus Trouble Turn
model.schema: Relationship
model.settings: InstallationInfo Settings
model.sync_events: Event EventKind Origin Progress
model.tasks: Failure State Status SyncCommand SyncResult SyncRun
model.text_search: Found Hit Term
model.values: Kind
query.sql: SqlAnswer SqlColumn
storage.quarantine: Quarantined
storage.sync_state: SyncState
"""  # a module, and those of its classes that may cross: enumerations, and what consists of fields
HOMES: Mapping[str, str] = {
    name: module
    for module, names in (line.split(": ") for line in CLASSES.strip().splitlines())
    for name in names.split()
}
PACKAGE = __package__.rpartition(".")[0]
DIGEST = 16  # characters that name a schema
KEPT = 64  # schemas that one side keeps


class Encoded(NamedTuple):
    """Data, and the digests of the schemas to which its entities belong."""

    data: Json
    schemas: tuple[str, ...] = ()


class Schemas:
    """The schemas that one side of a connection knows, by digest."""

    def __init__(self) -> None:
        self._known: dict[str, Schema] = {}
        self._texts: dict[str, Json] = {}
        self._digests: WeakKeyDictionary[type[Entity], str] = WeakKeyDictionary()

    def digest_of(self, entity: type[Entity]) -> str:
        """The digest of the schema that has an entity: its own, or what can be reached from it."""
        found = self._digests.get(entity)
        if found is None or found not in self._texts:
            schema: Schema | None = entity._schema
            if schema is None or schema.entities.get(entity.__name__) is not entity:
                schema = Schema(reachable(entity))
            found = self.learn(schema.to_json(), schema)
        return found

    def learn(self, data: Json, schema: Schema | None = None) -> str:
        """Keep a schema that came as JSON data; its digest."""
        digest = hashlib.sha256(canonical(data).encode("utf-8", "surrogatepass")).hexdigest()[:DIGEST]
        schema = schema or self._known.get(digest) or Schema.from_json(data)
        for kept in (self._known, self._texts):
            while len(kept) >= KEPT and digest not in kept:
                del kept[next(iter(kept))]
        self._known[digest], self._texts[digest] = schema, data
        for entity in schema.entities.values():
            self._digests[entity] = digest
        return digest

    def text(self, digest: str) -> Json:
        """A schema as JSON data; KeyError."""
        return self._texts[digest]

    def schema(self, digest: str) -> Schema:
        """The schema with a digest; ProtocolError when it never came."""
        try:
            return self._known[digest]
        except KeyError:
            raise ProtocolError(f"the answer belongs to the schema {digest}, which did not come") from None


def reachable(entity: type[Entity]) -> list[type[Entity]]:
    """An entity, and all that refs and collections lead to from it."""
    found: dict[type[Entity], None] = {}
    waiting = [entity]
    while waiting:
        one = waiting.pop()
        if one not in found:
            found[one] = None
            types = one.types().values()
            waiting += [target for holds in types if (target := holds.target or holds.inside)]
            waiting += one.children().values()
    return list(found)


class Wire:
    """Encodes and decodes for one side; safe for one thread."""

    def __init__(self) -> None:
        self.schemas = Schemas()

    def encode(self, value: object) -> Encoded:
        """A value as JSON data; TypeError for one of a class that may not cross."""
        encoder = _Encoder(self.schemas)
        data = encoder.encode(value)
        return Encoded(data, tuple(encoder.used))

    def decode(self, data: Json, schemas: Sequence[str] = ()) -> Any:
        """The value that was encoded; ProtocolError when this version cannot read it."""
        return _Decoder([self.schemas.schema(digest) for digest in schemas]).decode(data)

    def encode_whole(self, value: object) -> dict[str, Json]:
        """The same as one object, with its schemas: ``{"value": …, "schemas": [{…}]}``."""
        encoded = self.encode(value)
        return {"value": encoded.data, "schemas": [self.schemas.text(one) for one in encoded.schemas]}

    def decode_whole(self, data: Json) -> Any:
        """The inverse of ``encode_whole``."""
        return self.decode(data["value"], [self.schemas.learn(one) for one in data["schemas"]])


class _Encoder(TaggedJson):
    def __init__(self, schemas: Schemas) -> None:
        self._schemas = schemas
        self.used: dict[str, None] = {}  # digests, in the order in which they were needed

    def encode(self, value: object) -> Json:
        try:
            return self._encode(value)
        except RecursionError as error:
            raise TypeError("a value that is nested too deep, or contains itself, cannot cross") from error

    def _text(self, value: str) -> Json:
        if value.isascii() or is_text(value):
            return value
        return {"$surrogates": b64encode(value.encode("utf-8", "surrogatepass")).decode()}

    def _number(self, value: float) -> Json:
        if type(value) is int and value.bit_length() > JSON_BITS:
            return {"$int": hex(value)}
        return value

    def _encode_mapping(self, value: Mapping[Any, Any]) -> Json:
        if all(type(key) is str and not key.startswith("$") and is_text(key) for key in value):
            return {key: self._encode(one) for key, one in value.items()}
        return {"$dict": [[self._encode(key), self._encode(one)] for key, one in value.items()]}

    def _encode_other(self, kind: type, value: Any) -> Json:
        special = SPECIAL.get(kind.__name__)
        if special is not None and special.kind() is kind:
            return {f"${kind.__name__}": self._encode(special.parts(value))}
        if isinstance(value, MaxError):
            return {"$error": self.encode_error(value)}
        if isinstance(value, Entity):
            return self._named("$entity", kind, values=self._encode_mapping(values_of(value)))
        if kind is Ref:
            return self._named(
                "$ref", value.entity, id=self._encode(value.id), scope=value.scope.installation
            )
        if kind is FieldOf:
            via = {} if value.via is None else {"via": self._encode(value.via)}
            return self._named("$field", value.entity, field=value.name, **via)
        if kind is ManyOf:
            return self._named("$many", value.parent, field=value.name)
        if isinstance(value, type) and issubclass(value, Entity):
            return self._named("$class", value)
        return self._encode_instance(kind, value)

    def _encode_instance(self, kind: type, value: Any) -> Json:
        name = kind.__name__
        if name not in HOMES or _class(name) is not kind:
            raise TypeError(f"{kind.__module__}.{kind.__qualname__} may not cross: it is not in the table")
        if issubclass(kind, Enum):
            return {f"${name}": self._encode(value.value)}
        return {f"${name}": {one: self._encode(getattr(value, one)) for one in fields_of(kind)}}

    def _named(self, tag: str, entity: type[Entity], **rest: Json) -> Json:
        """Something of an entity, which is named, with the number of its schema unless that is the first."""
        digest = self._schemas.digest_of(entity)
        self.used.setdefault(digest)
        number = list(self.used).index(digest)
        return {tag: entity.__name__, **({"of": number} if number else {}), **rest}

    def encode_error(self, error: MaxError) -> dict[str, Json]:
        """``{code, message, hint, data}``, and what else the error has as attributes."""
        known = error.data
        rebuilds = constructor_names(error_classes().get(error.code, MaxError)) & known.keys()
        more = {
            name: value
            for name, value in vars(error).items()
            if name not in OF_ALL and not (name in rebuilds and known[name] == value)
        }
        described = {"code": error.code, "message": error.message, "hint": error.hint}
        data = {**{name: self._text(text) for name, text in described.items()}, "data": self._encode(known)}
        return data | ({"more": self._encode(more)} if more else {})


OF_ALL = ("message", "hint", "data", "code", "__notes__")  # attributes that every error has


class _Decoder(TaggedJson):
    def __init__(self, schemas: Sequence[Schema]) -> None:
        self._schemas = schemas

    def decode(self, data: Json) -> Any:
        try:
            return self._decode(data)
        except RecursionError:
            raise ProtocolError("the answer is nested too deep") from None

    def _decoding(self, tag: str, data: Json, make: Callable[[], Any]) -> Any:
        try:
            return make()
        except (ProtocolError, RecursionError):
            raise
        except Exception as error:  # whatever a class says of values that it never had
            words = f"the answer has {tag[1:]} {data[tag]!r:.60}, which this version of Max cannot read"
            raise ProtocolError(words, hint="both sides must be the same version of Max") from error

    def _decode_other(self, tag: str, inside: Json, data: Json) -> Any:
        decoders: dict[str, Callable[[], Any]] = {
            "$int": lambda: int(inside, 16),
            "$surrogates": lambda: b64decode(inside).decode("utf-8", "surrogatepass"),
            "$error": lambda: self.decode_error(inside),
            "$entity": lambda: self._entity_of(data)(**self._decode(data["values"])),
            "$ref": lambda: self._decode_ref(data),
            "$field": lambda: FieldOf(
                self._entity_of(data), data["field"], self._decode(data["via"]) if "via" in data else None
            ),
            "$many": lambda: ManyOf(self._entity_of(data), data["field"]),
            "$class": lambda: self._entity_of(data),
        }
        if tag in decoders:
            return decoders[tag]()
        name = tag[1:]
        if name in SPECIAL:
            return SPECIAL[name].make(self._decode(inside))
        kind = _class(name)
        if issubclass(kind, Enum):
            return kind(self._decode(inside))
        if inside.keys() != set(fields_of(kind)):
            raise TypeError(f"a {name} has the fields {', '.join(fields_of(kind))}")
        return kind(**{one: self._decode(value) for one, value in inside.items()})

    def _entity_of(self, data: Json) -> type[Entity]:
        name = next(iter(data.values()))
        entity: type[Entity] = self._schemas[data.get("of", 0)].entities[name]
        return entity

    def _decode_ref(self, data: Json) -> Ref[Any]:
        ref: Ref[Any] = Ref(self._entity_of(data), self._decode(data["id"]))
        return ref if data["scope"] is None else ref.within(data["scope"])

    def decode_error(self, data: Json) -> MaxError:
        """The error, of the class with its code."""
        names = ("code", "message", "hint")
        texts = [self._decode(data.get(name)) for name in names] if isinstance(data, dict) else []
        facts = self._decode(data.get("data", {})) if texts else None
        if not texts or not all(isinstance(one, str) for one in texts) or not isinstance(facts, dict):
            raise ProtocolError("the answer has an error without code, message or hint")
        code, message, hint = texts
        return rebuilt(code, message, hint, facts, self._decode(data.get("more", {})))


def rebuilt(
    code: str, message: str, hint: str, facts: dict[str, Json], more: Mapping[str, Any] = MappingProxyType({})
) -> MaxError:
    """An error of the class that has a code; a MaxError with that code when there is none."""
    kind = error_classes().get(code, MaxError)
    made = kind.__new__(kind, message)
    Exception.__init__(made, message)
    attributes = {name: value for name, value in facts.items() if name in constructor_names(kind)}
    vars(made).update({**attributes, **more, "message": message, "hint": hint, "data": facts})
    if kind.code != code:
        vars(made)["code"] = code
    return made


@cache
def error_classes() -> Mapping[str, type[MaxError]]:
    """The classes of errors.py by code."""
    errors = import_module(f"{PACKAGE}.errors")
    kinds = [one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, MaxError)]
    return {one.code: one for one in kinds}


def constructor_names(kind: type[MaxError]) -> frozenset[str]:
    """The facts of a class of errors that are attributes, too: its own parameters."""
    import inspect

    return frozenset(inspect.signature(kind.__init__).parameters) - {"self", "message", "hint", "data"}


@cache
def _class(name: str) -> Any:
    """The class of the table with a name; KeyError."""
    return getattr(import_module(f"{PACKAGE}.{HOMES[name]}"), name)


def classes() -> dict[str, Any]:
    """Every class that may cross, by name."""
    special = {one.kind().__name__: one.kind() for one in SPECIAL.values()}
    return {**{name: _class(name) for name in HOMES}, **special}


@cache
def fields_of(kind: type) -> tuple[str, ...]:
    """The fields of a class that may cross."""
    return field_names(kind)


# -- classes that do not consist of fields alone -------------------------------------------------


class Special(NamedTuple):
    """How a class crosses that does not consist of fields: its parts, and how it is made of them."""

    kind: Callable[[], type]
    parts: Callable[[Any], object]
    make: Callable[[Any], Any]


def _groups() -> type[Groups[Any]]:
    from ..model.aggregate import Groups

    return Groups


def _groups_parts(value: Groups[Any]) -> list[object]:
    nulls = (value.empty, value.not_loaded)
    return [value.grouping, value.groups, value.total, value.more, value.more_rows, nulls]


def _marked(text: str = "", places: Sequence[tuple[int, int]] = ()) -> Any:
    from ..model.text_search import Marked

    return Marked(text, places)


def _mismatch(parts: Sequence[str]) -> Any:
    from ..errors import Mismatch

    made = Mismatch(parts[0], parts[1], None)
    made.actual = parts[2]  # as the error shows it, which is a text already
    return made


def _error_kind() -> type:
    from ..errors import Mismatch

    return Mismatch


SPECIAL: Mapping[str, Special] = {
    "mappingproxy": Special(lambda: MappingProxyType, dict, MappingProxyType),
    "timedelta": Special(
        lambda: timedelta,
        lambda value: [value.days, value.seconds, value.microseconds],
        lambda parts: timedelta(*parts),
    ),
    "InvalidValue": Special(
        lambda: InvalidValue,
        lambda value: [value.expected, value.actual, value.path],
        lambda parts: InvalidValue(*parts),
    ),
    "Groups": Special(_groups, _groups_parts, lambda parts: _groups()(*parts)),
    "Marked": Special(
        lambda: type(_marked()), lambda value: [str(value), value.places], lambda parts: _marked(*parts)
    ),
    "Mismatch": Special(_error_kind, lambda value: [value.path, value.expected, value.actual], _mismatch),
    "Schema": Special(lambda: Schema, Schema.to_json, Schema.from_json),
}
