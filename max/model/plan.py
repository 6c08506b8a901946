"""Plans: what a sync shall load, step by step, as data that outlives the process.

Steps hold names and ids only.  A plan can be printed, compared, stored, and read again by
another version of the connector.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Generic, Literal, cast

from ..errors import UnknownName
from .entities import (
    AllOf,
    AnyOf,
    Compare,
    E,
    Entity,
    FieldOf,
    Filter,
    ManyOf,
    Not,
    Op,
    Ref,
    Synced,
    field_names,
    field_of,
)
from .schema import Schema
from .struct import Struct
from .values import Json


class Step(Struct):
    """One thing to load, of one target.  Names and ids only: a plan outlives the process.

    Without an id the target is every entity that fits ``matching`` (a filter as JSON data).
    """

    entity: str
    operation: Literal["load_fields", "load_collection", "follow"]
    names: tuple[str, ...]
    id: str | None = None
    matching: Json = None

    @staticmethod
    def for_root(root: Ref[E]) -> Target[E]:
        """Begin a step on a root that the seeder stored."""
        return Target(root.entity, root.id)

    @staticmethod
    def for_one(ref: Ref[E]) -> Target[E]:
        """Begin a step on one entity."""
        return Target(ref.entity, ref.id)

    @staticmethod
    def for_all(entity: type[E], *, where: Filter[E] | None = None) -> Target[E]:
        """Begin a step on every stored entity, or those that fit a filter."""
        return Target(entity, None, where)

    @staticmethod
    def concurrent(steps: Sequence[Step]) -> Concurrent:
        """Steps that run side by side; the plan goes on when all have ended."""
        return Concurrent(tuple(steps))

    def __str__(self) -> str:
        target = f"{self.entity}:{self.id}" if self.id is not None else f"all {self.entity}"
        return f"{target}: {self.operation.replace('_', ' ')} {', '.join(self.names)}"


class Target(Struct, Generic[E]):
    """Whom a step is for, before it says what to load."""

    entity: type[E]
    id: str | None = None
    matching: Filter[E] | None = None

    def load_fields(self, *fields: FieldOf[E, Any]) -> Step:
        """Fetch these fields, unless this sync already stored them."""
        names = field_names(fields)
        return Step(self.entity.__name__, "load_fields", names, self.id, self._matching())

    def load_collection(self, collection: ManyOf[E, Any]) -> Step:
        """List a collection, page by page."""
        names = (collection.name,)
        return Step(self.entity.__name__, "load_collection", names, self.id, self._matching())

    def follow(self, feed: str) -> Step:
        """Ask a feed, by its loader's name, what has changed; first in a plan."""
        return Step(self.entity.__name__, "follow", (feed,), self.id)

    def _matching(self) -> Json:
        return None if self.matching is None else filter_to_json(self.matching)


class Concurrent(Struct):
    """Steps that run side by side."""

    steps: tuple[Step, ...]

    def __str__(self) -> str:
        return " | ".join(map(str, self.steps))


class SyncPlan(Struct):
    """Steps in their order: data that can be printed, compared and stored."""

    steps: tuple[Step | Concurrent, ...]

    def __init__(self, steps: Iterable[Step | Concurrent]) -> None:
        super().__init__(tuple(steps))

    def check(self, schema: Schema) -> None:
        """SchemaError or UnknownName when a step names what the schema does not have."""
        for step in self.flat():
            entity = schema.entity(step.entity)
            if step.operation == "follow":
                continue  # loaders are the resolver's to know
            known = entity.types() if step.operation == "load_fields" else entity.children()
            for name in step.names:
                if name not in known:
                    kind = "field" if step.operation == "load_fields" else "collection"
                    raise UnknownName(kind, name, known, where=step.entity)

    def flat(self) -> list[Step]:
        """Every step, those of concurrent groups included."""
        return [one for s in self.steps for one in (s.steps if isinstance(s, Concurrent) else (s,))]

    def to_json(self) -> Json:
        """The plan as JSON data: a list of steps, a concurrent group being a list in it."""
        return [
            [_step_to_json(one) for one in step.steps]
            if isinstance(step, Concurrent)
            else _step_to_json(step)
            for step in self.steps
        ]

    @classmethod
    def from_json(cls, data: Json) -> SyncPlan:
        """The inverse of to_json."""
        return cls(
            Concurrent(tuple(map(_step_from_json, step))) if isinstance(step, list) else _step_from_json(step)
            for step in data
        )


def _step_to_json(step: Step) -> Json:
    return {name: getattr(step, name) for name in Step._names} | {"names": list(step.names)}


def _step_from_json(data: Json) -> Step:
    return Step(**(data | {"names": tuple(data["names"])}))


def filter_to_json(condition: Filter[Any]) -> Json:
    """A filter as JSON data: ``[op, path, value]``, ``["synced", op, path, at]``, or of its parts.

    These are ``["all", …]``, ``["any", …]`` and ``["not", …]``.
    """
    if isinstance(condition, Compare):
        holds = condition.path[-1].type
        many = condition.op is Op.IN
        value = [holds.to_json(one) for one in condition.value] if many else holds.to_json(condition.value)
        return [str(condition.op), [field.name for field in condition.path], value]
    if isinstance(condition, Synced):
        return ["synced", str(condition.op), [field.name for field in condition.path], condition.at]
    if isinstance(condition, Not):
        return ["not", filter_to_json(condition.part)]
    parts = cast("AllOf[Any] | AnyOf[Any]", condition).parts
    return ["all" if isinstance(condition, AllOf) else "any", *map(filter_to_json, parts)]


def filter_from_json(entity: type[E], data: Json) -> Filter[E]:
    """The inverse of filter_to_json; UnknownName when the entity no longer has a field."""
    head, *rest = data
    if head == "not":
        return Not(filter_from_json(entity, rest[0]))
    if head in ("all", "any"):
        parts = tuple(filter_from_json(entity, one) for one in rest)
        return AllOf(parts) if head == "all" else AnyOf(parts)
    if head == "synced":
        op, names, at = rest
        return Synced(_field_at(entity, names).path, Op(op), at)
    names, value = rest
    field = _field_at(entity, names)
    holds = field.type
    loaded = tuple(map(holds.from_json, value)) if head == Op.IN else holds.from_json(value)
    return Compare(field.path, Op(head), loaded)


def map_paths(data: Json, change: Callable[[Sequence[str]], list[str]]) -> Json:
    """A filter as JSON data with each path of field names replaced."""
    head, *rest = data
    if head in ("not", "all", "any"):
        return [head, *(map_paths(part, change) for part in rest)]
    *before, path, value = data
    return [*before, change(path), value]


def _field_at(entity: type[Entity], names: Sequence[str]) -> FieldOf[Any, Any]:
    """The field at the end of a path of one or two names."""
    field: FieldOf[Any, Any] = field_of(entity, names[0])
    if len(names) == 1:
        return field
    return field.to(field_of(cast("type[Entity]", field.type.target), names[1]))
