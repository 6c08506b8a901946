"""The vocabulary: what connectors declare, what callers ask for, what engines promise.

Everything here is data or a protocol.  No file, clock, thread, event loop or database is
touched, so every other layer may use every name.  Entities themselves stand in entities.py.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar, Generic, Literal, Protocol, TypeAlias, TypeVar, cast

from .entities import (
    AllOf,
    AnyOf,
    Compare,
    E,
    Entity,
    Field,
    FieldOf,
    FieldType,
    Filter,
    Json,
    Kind,
    Many,
    ManyOf,
    Not,
    Op,
    P,
    Record,
    Ref,
    V,
    field_of,
    own_names,
    resolve,
)
from .errors import ConnectorError, SchemaError, UnknownName

C = TypeVar("C")

PAGE_SIZE = 1000  # entities that a query reads at a time
EVERYTHING = 2**62  # the limit of a query that has none


# -- schema -------------------------------------------------------------------------------


def snake(name: str) -> str:
    """``AcmeUser`` → ``acme_user``, ``HTTPRoute`` → ``http_route``."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


class Relationship(Record):
    """That one entity points at another, or lists it."""

    source: str
    field: str
    target: str
    many: bool


class Schema:
    """The entities of one connector, and which of them are roots."""

    def __init__(self, entities: Sequence[type[Entity]], *, roots: Sequence[type[Entity]] = ()) -> None:
        self.entities = {entity.__name__: entity for entity in entities}
        self.roots = tuple(roots)
        if len(self.entities) < len(entities):
            raise SchemaError("two entities of the schema share a name")
        for entity in entities:
            if entity._types is None:
                resolve(entity, self.entities)
        self._check_tables(entities)
        self._check_targets()

    def _check_tables(self, entities: Sequence[type[Entity]]) -> None:
        tables: dict[str, str] = {}
        for entity in entities:
            table = snake(entity.__name__)
            other = tables.setdefault(table, entity.__name__)
            if other != entity.__name__:
                raise SchemaError(f"{entity.__name__} and {other} would share one table")
            if table.startswith(("_", "sqlite_")):
                raise SchemaError(f"{entity.__name__}: tables named {table} are not ours to make")

    def _check_targets(self) -> None:
        known = set(self.entities.values())
        for root in self.roots:
            if root not in known:
                raise SchemaError(f"root {root.__name__} is not among the schema's entities")
        for entity in self.entities.values():
            leads = {f: t.target for f, t in entity.types().items() if t.target} | dict(entity.children())
            for name, target in leads.items():
                where = f"{entity.__name__}.{name}"
                if target not in known:
                    raise SchemaError(f"{where} leads to {target.__name__}, which the schema does not have")
            for name in entity.children():
                _check_inverse(ManyOf(entity, name))

    @property
    def relationships(self) -> list[Relationship]:
        """Every ref with a target and every collection, in the order of declaration."""
        found = []
        for name, entity in self.entities.items():
            refs = [(f, t.target) for f, t in entity.types().items() if t.target]
            found += [Relationship(name, f, target.__name__, many=False) for f, target in refs]
            many = entity.children().items()
            found += [Relationship(name, f, child.__name__, many=True) for f, child in many]
        return found

    def entity(self, name: str) -> type[Entity]:
        """The entity of a name, in any case; UnknownName names the nearest."""
        if name in self.entities:
            return self.entities[name]
        folded = [known for known in self.entities if name.casefold() in (known.casefold(), snake(known))]
        if len(folded) != 1:
            raise UnknownName("entity", name, self.entities)
        return self.entities[folded[0]]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Schema) and self.to_json() == other.to_json()

    __hash__ = None  # type: ignore[assignment]  # compared by content

    def to_json(self) -> Json:
        """The schema as JSON data: ``{"entities": [...], "roots": [...]}``."""
        return {
            "entities": [_entity_to_json(entity) for entity in self.entities.values()],
            "roots": [root.__name__ for root in self.roots],
        }

    @classmethod
    def from_json(cls, data: Json) -> Schema:
        """Entities made from data, equal to those they were written from, without their module."""
        made: dict[str, type[Entity]] = {}
        for one in data["entities"]:
            made[one["name"]] = _entity_from_json(one)
        for one in data["entities"]:
            entity = made[one["name"]]
            entity._types = {f["name"]: _type_from_json(f, made) for f in one["fields"]}
            entity._children = {c["name"]: made[c["child"]] for c in one["collections"]}
            for c in one["collections"]:
                if c["by"]:
                    entity._collections[c["name"]].by = _pointing_back(made[c["child"]], c["by"])
        return cls(list(made.values()), roots=[made[name] for name in data["roots"]])


def _check_inverse(many: ManyOf[Any, Any]) -> None:
    """SchemaError when ``by`` is not the child's own ref to the parent."""
    back = many.by
    if back and (back.entity is not many.child or back.type.target is not many.parent):
        raise SchemaError(f"{many!r}: by={back!r} is not a ref of {many.child.__name__} to its parent")


def description_of(entity: type[Entity]) -> str:
    """The first paragraph of an entity's docstring, on one line."""
    return " ".join((entity.__doc__ or "").strip().split("\n\n")[0].split())


def _entity_to_json(entity: type[Entity]) -> Json:
    collections: list[ManyOf[Any, Any]] = [ManyOf(entity, name) for name in entity._collections]
    return {
        "name": entity.__name__,
        "description": description_of(entity),
        "fields": [
            {
                "name": name,
                "kind": str(holds.kind),
                "optional": holds.optional,
                "target": holds.target.__name__ if holds.target else None,
                "description": entity._fields[name].description,
            }
            for name, holds in entity.types().items()
        ],
        "collections": [
            {
                "name": many.name,
                "child": many.child.__name__,
                "by": many.by.name if many.by else None,
                "description": entity._collections[many.name].description,
            }
            for many in collections
        ],
    }


def _entity_from_json(data: Json) -> type[Entity]:
    body: dict[str, Any] = {"__doc__": data["description"], "__module__": __name__}
    body |= {f["name"]: Field(f["description"]) for f in data["fields"]}
    body |= {c["name"]: Many(c["description"]) for c in data["collections"]}
    return type(data["name"], (Entity,), body)


def _pointing_back(child: type[Entity], field: str) -> Callable[[], FieldOf[Any, Any]]:
    return lambda: FieldOf(child, field)


def _type_from_json(data: Json, made: Mapping[str, type[Entity]]) -> FieldType:
    target = made[data["target"]] if data["target"] else None
    return FieldType(Kind(data["kind"]), data["optional"], target)


# -- pages and queries -----------------------------------------------------------------------


class Page(Record, Generic[V]):
    """Some of many things, and where the next page begins; ``next`` is None on the last.

    The rest is for loaders: ``also`` are entities of other types that came along, ``removed``
    the source's own word that things are gone, ``mark`` the source's sync token, which the
    next sync is given once this listing is complete.  ``full`` on a first page says that the
    request's mark could not be used, and the listing names everything.

    What a loader knows of the whole listing proves its end: ``total`` is how many items the
    source says that it has.  ``size`` is for sources whose last page is always a shorter one:
    how many items a page may hold.  A listing that disagrees has failed, and removes nothing.
    """

    items: Sequence[V]
    next: str | None = None
    also: Sequence[Entity] = ()
    removed: Sequence[Ref[Any]] = ()
    mark: str | None = None
    full: bool = False
    total: int | None = None
    size: int | None = None


class Batch(Record, Generic[E]):
    """What came of several refs: entities, and the error of each ref that failed, by id.

    A ref that is in neither is missing upstream.
    """

    items: Sequence[E]
    failed: Mapping[str, Exception] = MappingProxyType({})


class Order(Record):
    """One field to sort by; empty values come first, last when descending."""

    path: tuple[FieldOf[Any, Any], ...]
    descending: bool = False


class Query(Record, Generic[E]):
    """What to read: pure data until an engine runs it."""

    entity: type[E]
    filter: Filter[E] | None = None
    order: tuple[Order, ...] = ()
    fields: tuple[str, ...] | None = None
    size: int | None = None
    cursor: str | None = None

    def where(self, *filters: Filter[E]) -> Query[E]:
        """Only what fits every filter."""
        parts = filters if self.filter is None else (self.filter, *filters)
        return self.replace(filter=AllOf(parts) if len(parts) > 1 else next(iter(parts), None))

    def order_by(self, field: FieldOf[E, Any], *, descending: bool = False) -> Query[E]:
        """Sort by a field, after those named before; the id settles what is left."""
        return self.replace(order=(*self.order, Order(field.path, descending)))

    def select(self, *fields: FieldOf[E, Any]) -> Query[E]:
        """Only these fields; the others read as not loaded."""
        return self.replace(fields=own_names(fields))

    def limit(self, size: int) -> Query[E]:
        """At most so many."""
        if size < 0:
            raise ValueError(f"a limit is 0 or more, not {size}")
        return self.replace(size=size)

    def after(self, cursor: str | None) -> Query[E]:
        """Begin where the page before ended."""
        return self.replace(cursor=cursor)


class BoundQuery(Generic[E]):
    """A query with the engine that answers it: what ``engine.query(User)`` gives."""

    def __init__(self, engine: Engine, query: Query[E]) -> None:
        self._engine, self.query = engine, query

    def where(self, *filters: Filter[E]) -> BoundQuery[E]:
        """Only what fits every filter."""
        return BoundQuery(self._engine, self.query.where(*filters))

    def order_by(self, field: FieldOf[E, Any], *, descending: bool = False) -> BoundQuery[E]:
        """Sort by a field, after those named before; the id settles what is left."""
        return BoundQuery(self._engine, self.query.order_by(field, descending=descending))

    def select(self, *fields: FieldOf[E, Any]) -> BoundQuery[E]:
        """Only these fields; the others read as not loaded."""
        return BoundQuery(self._engine, self.query.select(*fields))

    def limit(self, size: int) -> BoundQuery[E]:
        """At most so many."""
        return BoundQuery(self._engine, self.query.limit(size))

    def after(self, cursor: str | None) -> BoundQuery[E]:
        """Begin where the page before ended."""
        return BoundQuery(self._engine, self.query.after(cursor))

    async def page(self) -> Page[E]:
        """One page: as many as ``limit`` says, or the engine's usual number."""
        return await self._engine.fetch(self.query)

    async def all(self) -> list[E]:
        """Everything that fits, up to the limit, read in one snapshot."""
        query = self.query if self.query.size is not None else self.query.limit(EVERYTHING)
        return list((await self._engine.fetch(query)).items)

    async def first(self) -> E | None:
        """The first that fits, or None."""
        items = (await self.limit(1).page()).items
        return items[0] if items else None

    async def count(self) -> int:
        """How many fit, whatever the limit."""
        return await self._engine.count(self.query)

    async def __aiter__(self) -> AsyncIterator[E]:
        """Each that fits, up to the limit; a page at a time in memory."""
        left, query = self.query.size, self.query
        while left is None or left > 0:
            size = PAGE_SIZE if left is None else min(left, PAGE_SIZE)
            page = await self._engine.fetch(query.limit(size))
            for entity in page.items:
                yield entity
            if page.next is None:
                return
            left = None if left is None else left - len(page.items)
            query = query.after(page.next)


# -- what arrives from upstream --------------------------------------------------------------


class Listing(Record):
    """Which page of which collection an arrival is; ``number`` counts from 0.

    ``delta``: the listing names only what changed since the mark, so that what it leaves out
    is still there.  ``mark`` is the source's new sync token; it becomes durable with ``last``.
    """

    parent: Ref[Any]
    collection: ManyOf[Any, Any]
    number: int
    last: bool
    delta: bool = False
    mark: str | None = None


class Arrival(Record):
    """What one answer from upstream brought; ``requested_at`` is when its request began.

    ``entities`` may be of several types and partial.  ``removed`` are tombstones: the
    source's own word that a thing is gone.  Times are seconds since the epoch.
    """

    entities: Sequence[Entity]
    requested_at: float
    listing: Listing | None = None
    removed: Sequence[Ref[Any]] = ()


class Stored(Record):
    """What storing an arrival came to: rows by entity name, and how many of all were removed.

    Of what came along with a listing only new rows count: the same may come with many pages.
    """

    counts: Mapping[str, int]
    removed: int = 0


Transaction: TypeAlias = Any  # the open transaction of whatever store the parts share
Write: TypeAlias = Callable[[Transaction], Stored]


# -- plans -------------------------------------------------------------------------------------


class Step(Record):
    """One thing to load, of one target.  Names and ids only: a plan outlives the process.

    Without an id the target is every entity that fits ``matching`` (a filter as JSON data).
    """

    entity: str
    operation: Literal["load_fields", "load_collection"]
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


class Target(Record, Generic[E]):
    """Whom a step is for, before it says what to load."""

    entity: type[E]
    id: str | None = None
    matching: Filter[E] | None = None

    def load_fields(self, *fields: FieldOf[E, Any]) -> Step:
        """Fetch these fields, unless this sync already stored them."""
        names = own_names(fields)
        return Step(self.entity.__name__, "load_fields", names, self.id, self._matching())

    def load_collection(self, collection: ManyOf[E, Any]) -> Step:
        """List a collection, page by page."""
        names = (collection.name,)
        return Step(self.entity.__name__, "load_collection", names, self.id, self._matching())

    def _matching(self) -> Json:
        return None if self.matching is None else filter_to_json(self.matching)


class Concurrent(Record):
    """Steps that run side by side."""

    steps: tuple[Step, ...]

    def __str__(self) -> str:
        return " | ".join(map(str, self.steps))


class SyncPlan(Record):
    """Steps in their order: data that can be printed, compared and stored."""

    steps: tuple[Step | Concurrent, ...]

    def __init__(self, steps: Iterable[Step | Concurrent]) -> None:
        super().__init__(tuple(steps))

    def check(self, schema: Schema) -> None:
        """SchemaError or UnknownName when a step names what the schema does not have."""
        for step in self.flat():
            entity = schema.entity(step.entity)
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
    """A filter as JSON data: ``[op, path, value]``, ``["all", …]``, ``["any", …]``, ``["not", …]``."""
    if isinstance(condition, Compare):
        holds = condition.path[-1].type
        many = condition.op is Op.IN
        value = [holds.dump(one) for one in condition.value] if many else holds.dump(condition.value)
        return [str(condition.op), [field.name for field in condition.path], value]
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
    names, value = rest
    field: FieldOf[Any, Any] = field_of(entity, names[0])
    if len(names) == 2:
        field = field.to(field_of(cast("type[Entity]", field.type.target), names[1]))
    holds = field.type
    loaded = tuple(map(holds.load, value)) if head == Op.IN else holds.load(value)
    return Compare(field.path, Op(head), loaded)


# -- loaders -----------------------------------------------------------------------------------

In = TypeVar("In")
Out = TypeVar("Out")
C_contra = TypeVar("C_contra", contravariant=True)
In_contra = TypeVar("In_contra", contravariant=True)
Out_co = TypeVar("Out_co", covariant=True)


class OutsideCall(Protocol[C_contra, In_contra, Out_co]):
    """Something done outside this process, by name: an Operation."""

    @property
    def name(self) -> str:
        """``connector:thing:verb``."""

    async def __call__(self, context: C_contra, input: In_contra, /) -> Out_co:
        """Do it, once."""


class Env(Protocol[C]):
    """What a loader is given: the connector's own context, and who is asking."""

    @property
    def context(self) -> C:
        """What ``initialise`` built: API clients and the like."""

    @property
    def installation(self) -> str:
        """The installation's id."""

    @property
    def version(self) -> str:
        """The connector's version."""

    @property
    def sync(self) -> str:
        """The sync's id."""

    @property
    def task(self) -> int:
        """The task's number within its installation."""

    @property
    def attempt(self) -> int:
        """How often the task has been begun, this time included."""

    @property
    def deadline(self) -> float | None:
        """When the task must have ended, in seconds since the epoch."""

    async def run(self, operation: OutsideCall[C, In, Out], input: In) -> Out:
        """Run an operation: with its limit, its retries, its deadline, on the tape."""

    async def raw(self, loader: RawLoader[C, V]) -> V:
        """What a raw loader gives: loaded at most once in a sync."""


class PageRequest(Record):
    """Which page of a collection is wanted.

    ``cursor`` is what the page before gave as ``next``; None for the first.  ``mark`` is the
    sync token of the last complete listing: a loader that understands it lists only what
    changed since.  None: list everything.
    """

    cursor: str | None = None
    mark: str | None = None


LoadOne: TypeAlias = Callable[[Ref[E], Env[C]], Awaitable[E]]
LoadBatch: TypeAlias = Callable[[Sequence[Ref[E]], Env[C]], Awaitable[Batch[E]]]
LoadPage: TypeAlias = Callable[[Ref[P], PageRequest, Env[C]], Awaitable[Page[E]]]
LoadRaw: TypeAlias = Callable[[Env[C]], Awaitable[V]]


class Loader(Generic[C]):
    """One way to fetch something.  Loaders return and never store.

    Made by the decorators below; ``brings`` names every field that an answer may hold.
    """

    kind: ClassVar[str] = ""
    arguments: ClassVar[int] = 0
    brings: tuple[FieldOf[Any, Any], ...] = ()

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.name: str = getattr(function, "__name__", repr(function))

    @staticmethod
    def entity(*fields: FieldOf[E, Any]) -> Callable[[LoadOne[E, C]], EntityLoader[E, C]]:
        """The decorated function fetches one ref: ``async (ref, env) -> entity``."""
        return lambda function: EntityLoader(fields, function)

    @staticmethod
    def entity_batched(
        *fields: FieldOf[E, Any], size: int = 100
    ) -> Callable[[LoadBatch[E, C]], BatchLoader[E, C]]:
        """The decorated function fetches up to ``size`` refs: ``async (refs, env) -> Batch``."""
        return lambda function: BatchLoader(fields, function, size)

    @staticmethod
    def collection(
        collection: ManyOf[P, E], *, brings: Sequence[FieldOf[Any, Any]] = ()
    ) -> Callable[[LoadPage[P, C, E]], CollectionLoader[P, E, C]]:
        """The decorated function lists children: ``async (parent, request, env) -> Page``.

        ``brings`` names the fields that come with each page, those of other entities included.
        """
        return lambda function: CollectionLoader(collection, tuple(brings), function)

    @staticmethod
    def raw(function: LoadRaw[C, V]) -> RawLoader[C, V]:
        """The decorated function fetches what other loaders share: ``async (env) -> value``."""
        return RawLoader(function)


class EntityLoader(Loader[C], Generic[E, C]):
    """Fetches fields of one ref."""

    kind = "entity"
    arguments = 2

    def __init__(self, fields: tuple[FieldOf[E, Any], ...], function: LoadOne[E, C]) -> None:
        super().__init__(function)
        self.brings, self.load = fields, function


class BatchLoader(Loader[C], Generic[E, C]):
    """Fetches fields of up to ``size`` refs in one call."""

    kind = "entity_batched"
    arguments = 2

    def __init__(self, fields: tuple[FieldOf[E, Any], ...], function: LoadBatch[E, C], size: int) -> None:
        super().__init__(function)
        self.brings, self.load, self.size = fields, function, size


class CollectionLoader(Loader[C], Generic[P, E, C]):
    """Lists the children of one parent, page by page."""

    kind = "collection"
    arguments = 3

    def __init__(
        self, collection: ManyOf[P, E], brings: tuple[FieldOf[Any, Any], ...], function: LoadPage[P, C, E]
    ) -> None:
        super().__init__(function)
        self.lists, self.brings, self.load = collection, brings, function


class RawLoader(Loader[C], Generic[C, V]):
    """Fetches what other loaders share, once in a sync."""

    kind = "raw"
    arguments = 1

    def __init__(self, function: LoadRaw[C, V]) -> None:
        super().__init__(function)
        self.load = function


class Resolver:
    """Which loader serves which field: derived from the loaders' declarations, and checked.

    Every field has exactly one home (a loader that fetches it for a given ref), or comes
    along with some page, or belongs to a root and is the seeder's to store.
    """

    def __init__(self, schema: Schema, loaders: Sequence[Loader[Any]]) -> None:
        self.schema, self.loaders = schema, tuple(loaders)
        self._homes: dict[FieldOf[Any, Any], EntityLoader[Any, Any] | BatchLoader[Any, Any]] = {}
        self._collections: dict[ManyOf[Any, Any], CollectionLoader[Any, Any, Any]] = {}
        for loader in loaders:
            self._claim(loader)
        self._check_complete()

    def home(self, field: FieldOf[Any, Any]) -> EntityLoader[Any, Any] | BatchLoader[Any, Any] | None:
        """The loader that fetches a field for given refs; None when it only comes along."""
        return self._homes.get(field)

    def collection(self, collection: ManyOf[Any, Any]) -> CollectionLoader[Any, Any, Any]:
        """The loader that lists a collection."""
        return self._collections[collection]

    def parts(self, entity: type[Entity]) -> list[tuple[str, ...]]:
        """The entity's fields, grouped by the loaders that bring them: what arrives together."""
        groups: dict[tuple[int, ...], list[str]] = {}
        for name in entity.types():
            field: FieldOf[Any, Any] = FieldOf(entity, name)
            bringing = tuple(i for i, loader in enumerate(self.loaders) if field in loader.brings)
            groups.setdefault(bringing, []).append(name)
        return [tuple(names) for names in groups.values()]

    def _claim(self, loader: Loader[Any]) -> None:
        for field in loader.brings:
            known = self.schema.entities.get(field.entity.__name__)
            if known is not field.entity or field.name not in field.entity.types():
                raise ConnectorError(f"loader {loader.name} brings {field!r}, which the schema does not have")
        if isinstance(loader, CollectionLoader):
            self._claim_collection(loader)
        elif isinstance(loader, EntityLoader | BatchLoader):
            for field in loader.brings:
                other = self._homes.setdefault(field, loader)
                if other is not loader:
                    raise ConnectorError(
                        f"{field!r} has two homes: loaders {other.name} and {loader.name}",
                        hint="let one of them fetch it",
                    )

    def _claim_collection(self, loader: CollectionLoader[Any, Any, Any]) -> None:
        other = self._collections.setdefault(loader.lists, loader)
        if other is not loader:
            raise ConnectorError(f"{loader.lists!r} has two loaders: {other.name} and {loader.name}")
        if loader.lists.parent not in self.schema.entities.values():
            raise ConnectorError(
                f"loader {loader.name} lists {loader.lists!r}, which the schema does not have"
            )

    def _check_complete(self) -> None:
        brought = {field for loader in self.loaders for field in loader.brings}
        for entity in self.schema.entities.values():
            for name in entity.children():
                if ManyOf(entity, name) not in self._collections:
                    raise ConnectorError(f"{entity.__name__}.{name} has no loader that lists it")
            for name in entity.types():
                if FieldOf(entity, name) not in brought and entity not in self.schema.roots:
                    raise ConnectorError(
                        f"{entity.__name__}.{name} has no loader that brings it",
                        hint="declare it in one loader, or in a collection's brings=",
                    )


Seeder: TypeAlias = Callable[[C, "Engine"], Awaitable[SyncPlan]]


# -- installations ----------------------------------------------------------------------------


class InstallationInfo(Record):
    """What is known of an installation without opening it.

    ``connected_at`` is seconds since the epoch.  ``config`` holds plain values only, never a secret.
    """

    connector: str
    name: str
    id: str
    config: Mapping[str, Json]
    connected_at: float

    def __str__(self) -> str:
        return f"{self.connector}:{self.name}"


# -- protocols -------------------------------------------------------------------------------


class Lifecycle(Protocol):
    """A service: start succeeds or leaves nothing behind, stop may be called twice."""

    async def start(self) -> None:
        """Begin; a stopped service may start again."""

    async def stop(self) -> None:
        """End, and give everything back."""


class FlowController(Protocol):
    """Who decides when an outside call may begin."""

    async def acquire(self, operation: str) -> None:
        """Wait for a permit to run the named operation."""

    def release(self, operation: str) -> None:
        """Give the permit back."""


class Engine(Lifecycle, Protocol):
    """Where the entities of one installation live.

    Every call is safe beside every other, never blocks the event loop, and raises
    StorageError when the database cannot answer.
    """

    @property
    def schema(self) -> Schema:
        """The entities it holds."""

    def query(self, entity: type[E]) -> BoundQuery[E]:
        """Begin a query; nothing is read before ``all``, ``first``, ``page`` or ``count``."""

    async def fetch(self, query: Query[E]) -> Page[E]:
        """One page in the query's order; InvalidCursor for another query's cursor."""

    async def count(self, query: Query[E]) -> int:
        """How many entities fit the query's filter."""

    async def load(self, ref: Ref[E], *fields: FieldOf[E, Any]) -> E:
        """One entity with the fields that are stored (or only those named); NotFound."""

    async def load_collection(
        self, parent: Ref[P], collection: ManyOf[P, E], *, after: str | None = None, limit: int | None = None
    ) -> Page[E]:
        """A page of a collection's members; empty when it was never listed."""

    async def store(self, *entities: Entity, requested_at: float | None = None) -> Stored:
        """Upsert in one transaction: given fields change, all others stay; an explicit None clears.

        All or nothing; InvalidEntity names every value that does not fit.  With
        ``requested_at`` (seconds since the epoch) the fields count as synced at that time.
        """

    def writing(self, arrival: Arrival) -> Write:
        """The work that stores an arrival, to run inside a transaction that another part owns."""


class SyncMeta(Protocol):
    """When each field of each entity was last synced.  Times are seconds since the epoch."""

    async def record(self, refs: Sequence[Ref[Any]], fields: Sequence[str], *, at: float) -> None:
        """The fields of these refs were fetched by a request that began at ``at``."""

    async def synced_at(self, ref: Ref[E], field: FieldOf[E, Any]) -> float | None:
        """When the field was last synced; None when never, or since it was invalidated."""

    async def stale(
        self, ref: Ref[E], fields: Sequence[FieldOf[E, Any]], *, before: float
    ) -> list[FieldOf[E, Any]]:
        """Those of the fields that were not synced at or after ``before``."""

    async def stale_ids(
        self,
        entity: type[Entity],
        fields: Sequence[str],
        *,
        before: float,
        matching: Filter[Any] | None = None,
        after: str = "",
        limit: int = 1000,
    ) -> list[str]:
        """The next ids, in their order, of which some field was not synced at or after ``before``.

        Without fields: the ids of all entities, whatever their age.
        """

    async def invalidate(self, refs: Sequence[Ref[Any]], fields: Sequence[str], *, at: float) -> None:
        """Count as stale what was synced by a request that began at or before ``at``; values stay."""

    async def is_fully_synced(self, ref: Ref[Any]) -> bool:
        """Whether every field of the entity has been synced."""

    async def mark(self, parent: Ref[P], collection: ManyOf[P, Any]) -> str | None:
        """The sync token that the last complete listing of the collection left, or None."""
