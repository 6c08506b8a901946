"""Plans: what a sync loads, step by step, as data.

Steps hold names and ids only, so a plan can be printed, compared, stored, and read by another
version of the connector.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Generic, Literal, cast

from ..errors import SchemaError, UnknownName, shown
from .entities import E, Entity, FieldOf, ManyOf, Ref, field_names, find_collection, find_field
from .filters import AllOf, AnyOf, Compare, Filter, Not, Op, Some, Synced
from .inline import inline_collections
from .schema import Schema
from .struct import Struct
from .values import Json


class Step(Struct):
    """One thing to load for one target.

    Without an id, the target is every entity that matches ``matching``, a filter as JSON data.
    """

    entity: str
    operation: Literal["load_fields", "load_collection", "follow"]
    names: tuple[str, ...]
    id: str | None = None
    matching: Json = None

    def to_json(self) -> Json:
        """The step as JSON data: every attribute by its name."""
        return {name: getattr(self, name) for name in self._names} | {"names": list(self.names)}

    @staticmethod
    def for_root(root: Ref[E]) -> Target[E]:
        """A step for a root that the seeder stored."""
        return Target(root.entity, root.id)

    @staticmethod
    def for_one(ref: Ref[E]) -> Target[E]:
        """A step for one entity."""
        return Target(ref.entity, ref.id)

    @staticmethod
    def for_all(entity: type[E], *, where: Filter[E] | None = None) -> Target[E]:
        """A step for every stored entity, or for those that match a filter."""
        return Target(entity, None, where)

    @staticmethod
    def concurrent(steps: Sequence[Step]) -> Concurrent:
        """Steps that run side by side; the plan continues when all have ended."""
        return Concurrent(tuple(steps))

    def __str__(self) -> str:
        target = f"{self.entity}:{self.id}" if self.id is not None else f"all {self.entity}"
        return f"{target}: {self.operation.replace('_', ' ')} {', '.join(self.names)}"


class Target(Struct, Generic[E]):
    """What a step is for, before it says what to load."""

    entity: type[E]
    id: str | None = None
    matching: Filter[E] | None = None

    def load_fields(self, *fields: FieldOf[E, Any]) -> Step:
        """Fetch these fields, unless this sync has already stored them."""
        names = field_names(fields)
        return Step(self.entity.__name__, "load_fields", names, self.id, self._matching())

    def load_collection(self, collection: ManyOf[E, Any]) -> Step:
        """List a collection, page by page."""
        names = (collection.name,)
        return Step(self.entity.__name__, "load_collection", names, self.id, self._matching())

    def follow(self, feed: str) -> Step:
        """Read a feed, by its loader's name; first in a plan."""
        return Step(self.entity.__name__, "follow", (feed,), self.id)

    def _matching(self) -> Json:
        return None if self.matching is None else filter_to_json(self.matching)


class Concurrent(Struct):
    """Steps that run side by side."""

    steps: tuple[Step, ...]

    def to_json(self) -> Json:
        """The steps as JSON data."""
        return [step.to_json() for step in self.steps]

    def __str__(self) -> str:
        return " | ".join(map(str, self.steps))


class SyncPlan(Struct):
    """Steps in their order."""

    steps: tuple[Step | Concurrent, ...]

    def __init__(self, steps: Iterable[Step | Concurrent]) -> None:
        super().__init__(tuple(steps))

    def check(self, schema: Schema) -> None:
        """SchemaError or UnknownName when a step is none, or names what the schema does not have."""
        for step in self.flat():
            if not isinstance(step, Step):
                raise SchemaError(
                    f"a plan holds steps, got {shown(step)}",
                    hint="a step ends with .load_fields(…), .load_collection(…) or .follow(…)",
                )
            entity = schema.entity(step.entity)
            if step.operation == "follow":
                continue  # the resolver knows the feeds
            known = entity.types() if step.operation == "load_fields" else entity.children()
            inline = [one.name for one in inline_collections(entity) if one.name in step.names]
            if inline and step.operation == "load_collection":
                raise SchemaError(
                    f"{step.entity}.{inline[0]} is not listed: its members come with the rows that name them",
                    hint=f"take the step out; a loader that brings {step.entity}.{inline[0]} brings them",
                )
            for name in step.names:
                if name not in known:
                    kind = "field" if step.operation == "load_fields" else "collection"
                    raise UnknownName(kind, name, known, where=step.entity)

    def flat(self) -> list[Step]:
        """Every step, those of concurrent groups included."""
        return [one for s in self.steps for one in (s.steps if isinstance(s, Concurrent) else (s,))]

    def to_json(self) -> Json:
        """The plan as JSON data: a list of steps, where a concurrent group is a list."""
        return [step.to_json() for step in self.steps]

    @classmethod
    def from_json(cls, data: Json) -> SyncPlan:
        """The inverse of to_json."""
        return cls(
            Concurrent(tuple(map(_read_step, one))) if isinstance(one, list) else _read_step(one)
            for one in data
        )


def _read_step(data: Json) -> Step:
    return Step(**(data | {"names": tuple(data["names"])}))


def filter_to_json(condition: Filter[Any]) -> Json:
    """A filter as JSON data: ``[op, path, value]``, ``["synced", op, path, at]``, or a combination.

    Combinations are ``["all", …]``, ``["any", …]`` and ``["not", …]``; ``["some", path, filter]`` is
    about the children of the collection at the path's end.
    """
    if isinstance(condition, Compare):
        holds = condition.path[-1].type
        many = condition.op is Op.IN
        value = [holds.to_json(one) for one in condition.value] if many else holds.to_json(condition.value)
        return [str(condition.op), [field.name for field in condition.path], value]
    if isinstance(condition, Synced):
        return ["synced", str(condition.op), [field.name for field in condition.path], condition.at]
    if isinstance(condition, Some):
        names = [*(field.name for field in condition.path), condition.many.name]
        return ["some", names, filter_to_json(condition.part)]
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
        return Synced(find_field(entity, ".".join(names)).path, Op(op), at)
    names, value = rest
    if head == "some":
        refs = find_field(entity, ".".join(names[:-1])).path if names[1:] else ()
        many = find_collection(cast("type[Entity]", refs[-1].type.target) if refs else entity, names[-1])
        if many is None:
            raise UnknownName("collection", names[-1], [], where=entity.__name__)
        return Some(refs, many, filter_from_json(many.child, value))
    field = find_field(entity, ".".join(names))
    holds = field.type
    loaded = tuple(map(holds.from_json, value)) if head == Op.IN else holds.from_json(value)
    return Compare(field.path, Op(head), loaded)


def map_paths(data: Json, entity: str, change: Callable[[str, Sequence[str]], tuple[list[str], str]]) -> Json:
    """A filter of an entity as JSON data with each path of field names replaced.

    ``change`` gives a path's new names, and the entity at its end when that is a collection.
    """
    head, *rest = data
    if head in ("not", "all", "any"):
        return [head, *(map_paths(part, entity, change) for part in rest)]
    *before, path, value = data
    names, end = change(entity, path)
    return [*before, names, map_paths(value, end, change) if head == "some" else value]
