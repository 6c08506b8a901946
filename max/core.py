"""The vocabulary: what connectors declare, what callers ask for, what engines promise.

Everything here is data or a protocol.  No file, clock, thread, event loop or database is
touched, so every other layer may use every name.  Entities stand in entities.py, what is made
of them in schema.py, plans in plans.py.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Any, ClassVar, Generic, Literal, Protocol, TypeAlias, TypeVar

from .errors import ConnectorError, UnknownName
from .model.changes import Change as Change
from .model.changes import ChangeFeed as ChangeFeed
from .model.entities import AllOf, E, Entity, FieldOf, Filter, ManyOf, P, Ref, V, own_names
from .model.plan import Concurrent as Concurrent
from .model.plan import Step as Step
from .model.plan import SyncPlan as SyncPlan
from .model.plan import Target as Target
from .model.plan import filter_from_json as filter_from_json
from .model.plan import filter_to_json as filter_to_json
from .model.schema import Relationship as Relationship
from .model.schema import Schema as Schema
from .model.schema import description_of as description_of
from .model.schema import snake as snake
from .model.struct import Record
from .model.values import Json

C = TypeVar("C")

PAGE_SIZE = 1000  # entities that a query reads at a time
EVERYTHING = 2**62  # the limit of a query that has none
STATIC = timedelta.max  # the ``ttl`` of what never changes


# -- pages and queries -----------------------------------------------------------------------


class Page(Record, Generic[V]):
    """Some of many things, and where the next page begins; ``next`` is None on the last.

    The rest is for loaders: ``also`` are entities of other types that came along, ``removed``
    the source's own word that things are gone, ``mark`` the source's sync token, which the
    next sync is given once this listing is complete.  ``full`` on a first page says that the
    request's mark could not be used, and the listing names everything (a loader that learns so
    from an error raises MarkRefused instead, and is asked again without the mark).

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
    is still there.  ``mark`` is where the next listing may go on; it becomes durable with
    ``last``.  ``began_at`` is when the request of the first page began.  ``sweeps``: what a
    complete listing leaves out is gone from it.  ``sure``: it has shown whatever was there all
    the time; if not, but the next one has the same ``first`` page, that is known afterwards.
    ``ids_only``: the listing tells what exists, and of what is not stored yet it tells too
    little to store it.
    """

    parent: Ref[Any]
    collection: ManyOf[Any, Any]
    number: int
    last: bool
    delta: bool = False
    mark: str | None = None
    began_at: float | None = None
    sweeps: bool = True
    sure: bool = True
    first: str | None = None
    ids_only: bool = False


class Changes(Record):
    """Which page of which feed an arrival is.

    ``mark`` is the feed's new position; it becomes durable with ``last``.  ``anew``: the feed
    was begun at this position, and whatever was listed before is not covered by it.
    """

    root: Ref[Any]
    feed: str
    last: bool
    mark: str | None
    began_at: float
    anew: bool = False


class Arrival(Record):
    """What one answer from upstream brought; ``requested_at`` is when its request began.

    ``entities`` may be of several types and partial.  ``removed`` are tombstones: the
    source's own word that a thing is gone.  Times are seconds since the epoch.
    ``received_at`` is when the answer had come, ``sync`` the id of the sync it came in.
    """

    entities: Sequence[Entity]
    requested_at: float
    listing: Listing | None = None
    removed: Sequence[Ref[Any]] = ()
    changes: Changes | None = None
    received_at: float | None = None
    sync: str | None = None


class Stored(Record):
    """What storing an arrival came to: rows by entity name, and how many of all were removed.

    Of what came along with a listing only new rows count: the same may come with many pages.
    ``unfit`` counts the rows that were kept aside, because their values do not fit.
    """

    counts: Mapping[str, int]
    removed: int = 0
    unfit: int = 0


Transaction: TypeAlias = Any  # the open transaction of whatever store the parts share
Write: TypeAlias = Callable[[Transaction], Stored]


class Listed(Record):
    """What is remembered of a listing or a feed; every time is when its first request began.

    ``mark`` is where the next one may go on.  ``listed_at``: the last complete one.  ``full_at``:
    the last complete one that named everything with its fields; of a feed, when it was begun.
    ``swept_at``: the last complete one that named everything.
    """

    mark: str | None = None
    listed_at: float | None = None
    full_at: float | None = None
    swept_at: float | None = None


class Ages(Record):
    """How old one field of an entity's rows is: ``(whole seconds, rows)`` of each age, youngest first.

    ``never`` counts rows of which it was never synced, or was invalidated since.
    """

    ages: Sequence[tuple[float, int]]
    never: int


class Looking(Record):
    """How a sync looks for what is gone.

    ``whole`` names the collections that it lists of every parent, ``feeds`` those that it
    follows.  ``since`` is when it began.  ``again``, by entity: everywhere was looked since then,
    and from this time on everywhere is looked once more.
    """

    whole: Collection[str]
    feeds: Collection[str]
    since: float
    again: Mapping[str, float] = MappingProxyType({})


class Removal(Record):
    """What a sync has found gone of one entity, and not removed yet.

    ``rows`` is of how many that is certain, ``left`` of how many not yet; ``of`` is how many the
    entity has.  ``waiting``: the collections to look at for certainty, each with the ids of the
    parents; ``feeds`` to ask.
    """

    entity: str
    rows: int
    left: int
    of: int
    waiting: Mapping[str, Sequence[str]] = MappingProxyType({})
    feeds: Sequence[str] = ()


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
    sync token of the last complete listing, and ``since`` the same of a loader that declares a
    watermark: who understands it lists only what changed at or after.  None: list everything.
    ``ids_only``: everything that exists is to be named, and ids suffice.
    """

    cursor: str | None = None
    mark: str | None = None
    since: datetime | None = None
    ids_only: bool = False


class Watermark(Record):
    """That a listing can begin at what changed: the field that says when, and how it is sorted.

    ``overlap`` is taken off, for sources that show a change later than they date it.  The mark
    is the newest value on the first page of a listing that is sorted by it, newest first
    (what changes meanwhile is the next one's); of one sorted the other way, the newest of all.
    """

    field: FieldOf[Any, Any]
    overlap: timedelta = timedelta(0)
    newest_first: bool = True


LoadOne: TypeAlias = Callable[[Ref[E], Env[C]], Awaitable[E]]
LoadBatch: TypeAlias = Callable[[Sequence[Ref[E]], Env[C]], Awaitable[Batch[E]]]
LoadPage: TypeAlias = Callable[[Ref[P], PageRequest, Env[C]], Awaitable[Page[E]]]
LoadRaw: TypeAlias = Callable[[Env[C]], Awaitable[V]]
LoadChanges: TypeAlias = Callable[[Ref[P], PageRequest, Env[C]], Awaitable[Page[Entity]]]


class Loader(Generic[C]):
    """One way to fetch something.  Loaders return and never store.

    Made by the decorators below; ``brings`` names every field that an answer may hold.  What
    is younger than ``ttl`` is not fetched again; without one, a sync fetches anew whatever it
    has not itself fetched.
    """

    kind: ClassVar[str] = ""
    arguments: ClassVar[int] = 0
    brings: tuple[FieldOf[Any, Any], ...] = ()

    def __init__(self, function: Callable[..., Any], ttl: timedelta | None = None) -> None:
        self.function, self.ttl = function, ttl
        self.name: str = getattr(function, "__name__", repr(function))

    @staticmethod
    def entity(
        *fields: FieldOf[E, Any], ttl: timedelta | None = None
    ) -> Callable[[LoadOne[E, C]], EntityLoader[E, C]]:
        """The decorated function fetches one ref: ``async (ref, env) -> entity``."""
        return lambda function: EntityLoader(fields, function, ttl)

    @staticmethod
    def entity_batched(
        *fields: FieldOf[E, Any], size: int = 100, ttl: timedelta | None = None
    ) -> Callable[[LoadBatch[E, C]], BatchLoader[E, C]]:
        """The decorated function fetches up to ``size`` refs: ``async (refs, env) -> Batch``."""
        return lambda function: BatchLoader(fields, function, size, ttl)

    @staticmethod
    def collection(
        collection: ManyOf[P, E],
        *,
        brings: Sequence[FieldOf[Any, Any]] = (),
        ttl: timedelta | None = None,
        watermark: Watermark | None = None,
        sweep: timedelta | None = None,
    ) -> Callable[[LoadPage[P, C, E]], CollectionLoader[P, E, C]]:
        """The decorated function lists children: ``async (parent, request, env) -> Page``.

        ``brings`` names the fields that come with each page, those of other entities included.
        A listing that goes on from a mark cannot tell what is gone: with ``sweep`` a listing of
        everything that exists follows when the last one is older.
        """
        return lambda function: CollectionLoader(
            collection, tuple(brings), function, ttl=ttl, watermark=watermark, sweep=sweep
        )

    @staticmethod
    def feed(
        root: type[P],
        *,
        brings: Sequence[FieldOf[Any, Any]],
        covers: Sequence[ManyOf[Any, Any] | FieldOf[Any, Any]],
    ) -> Callable[[LoadChanges[P, C]], FeedLoader[P, C]]:
        """The decorated function tells what changed: ``async (root, request, env) -> Page``.

        Without a mark it gives the feed's present position as the page's ``mark`` and nothing
        else.  With one it gives what changed since: entities of any type as items, and what is
        gone as ``removed``.  ``covers`` names what needs not be asked for again as long as the
        feed goes on: collections, and fields of what the feed names when they change.
        """
        return lambda function: FeedLoader(root, tuple(brings), tuple(covers), function)

    @staticmethod
    def raw(function: LoadRaw[C, V]) -> RawLoader[C, V]:
        """The decorated function fetches what other loaders share: ``async (env) -> value``."""
        return RawLoader(function)


class EntityLoader(Loader[C], Generic[E, C]):
    """Fetches fields of one ref."""

    kind = "entity"
    arguments = 2

    def __init__(
        self, fields: tuple[FieldOf[E, Any], ...], function: LoadOne[E, C], ttl: timedelta | None = None
    ) -> None:
        super().__init__(function, ttl)
        self.brings, self.load = fields, function


class BatchLoader(Loader[C], Generic[E, C]):
    """Fetches fields of up to ``size`` refs in one call."""

    kind = "entity_batched"
    arguments = 2

    def __init__(
        self,
        fields: tuple[FieldOf[E, Any], ...],
        function: LoadBatch[E, C],
        size: int,
        ttl: timedelta | None = None,
    ) -> None:
        super().__init__(function, ttl)
        self.brings, self.load, self.size = fields, function, size


class CollectionLoader(Loader[C], Generic[P, E, C]):
    """Lists the children of one parent, page by page."""

    kind = "collection"
    arguments = 3

    def __init__(
        self,
        collection: ManyOf[P, E],
        brings: tuple[FieldOf[Any, Any], ...],
        function: LoadPage[P, C, E],
        *,
        ttl: timedelta | None = None,
        watermark: Watermark | None = None,
        sweep: timedelta | None = None,
    ) -> None:
        super().__init__(function, ttl)
        self.lists, self.brings, self.load = collection, brings, function
        self.watermark, self.sweep = watermark, sweep


class FeedLoader(Loader[C], Generic[P, C]):
    """Tells what changed anywhere below a root, page by page."""

    kind = "feed"
    arguments = 3

    def __init__(
        self,
        root: type[P],
        brings: tuple[FieldOf[Any, Any], ...],
        covers: tuple[ManyOf[Any, Any] | FieldOf[Any, Any], ...],
        function: LoadChanges[P, C],
    ) -> None:
        super().__init__(function)
        self.root, self.brings, self.covers, self.load = root, brings, covers, function


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
        self._feeds: dict[str, FeedLoader[Any, Any]] = {}
        self._covering: dict[ManyOf[Any, Any] | FieldOf[Any, Any], FeedLoader[Any, Any]] = {}
        for loader in loaders:
            self._claim(loader)
        self._check_complete()

    def home(self, field: FieldOf[Any, Any]) -> EntityLoader[Any, Any] | BatchLoader[Any, Any] | None:
        """The loader that fetches a field for given refs; None when it only comes along."""
        return self._homes.get(field)

    def collection(self, collection: ManyOf[Any, Any]) -> CollectionLoader[Any, Any, Any]:
        """The loader that lists a collection."""
        return self._collections[collection]

    def is_listed(self, collection: ManyOf[Any, Any]) -> bool:
        """Whether a loader lists a collection; else its members come along with something."""
        return collection in self._collections

    def feed(self, name: str) -> FeedLoader[Any, Any]:
        """The feed of a name; UnknownName."""
        if name not in self._feeds:
            raise UnknownName("feed", name, self._feeds)
        return self._feeds[name]

    def covering(self, what: ManyOf[Any, Any] | FieldOf[Any, Any]) -> FeedLoader[Any, Any] | None:
        """The feed that says when a collection or a field is to be asked for again, if there is one."""
        return self._covering.get(what)

    def bringing(self, field: FieldOf[Any, Any]) -> list[ManyOf[Any, Any]]:
        """The collections whose listings bring a field."""
        return [many for many, loader in self._collections.items() if field in loader.brings]

    def parts(self, entity: type[Entity]) -> list[tuple[str, ...]]:
        """The entity's fields, grouped by the loaders that bring them: what arrives together."""
        groups: dict[tuple[int, ...], list[str]] = {}
        for name in entity.types():
            field: FieldOf[Any, Any] = FieldOf(entity, name)
            bringing = tuple(
                i
                for i, loader in enumerate(self.loaders)
                if field in loader.brings and not isinstance(loader, FeedLoader)
            )
            groups.setdefault(bringing, []).append(name)
        return [tuple(names) for names in groups.values()]

    def _claim(self, loader: Loader[Any]) -> None:
        for field in loader.brings:
            known = self.schema.entities.get(field.entity.__name__)
            if known is not field.entity or field.name not in field.entity.types():
                raise ConnectorError(f"loader {loader.name} brings {field!r}, which the schema does not have")
        if isinstance(loader, CollectionLoader):
            self._claim_collection(loader)
        elif isinstance(loader, FeedLoader):
            self._claim_feed(loader)
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

    def _claim_feed(self, loader: FeedLoader[Any, Any]) -> None:
        self._feeds[loader.name] = loader
        for covered in loader.covers:
            other = self._covering.setdefault(covered, loader)
            if other is not loader:
                raise ConnectorError(f"{covered!r} is covered by two feeds: {other.name} and {loader.name}")
            if isinstance(covered, ManyOf) and covered.by is None and covered.parent is not loader.root:
                raise ConnectorError(
                    f"feed {loader.name} covers {covered!r}, but what it names does not say whose it is",
                    hint="declare the collection with by=, the child's ref to its parent",
                )

    def _check_complete(self) -> None:
        brought = {field for loader in self.loaders for field in loader.brings}
        for entity in self.schema.entities.values():
            for name in entity.children():
                many: ManyOf[Any, Any] = ManyOf(entity, name)
                if not self.is_listed(many) and (many.by is None or many.by not in brought):
                    raise ConnectorError(f"{entity.__name__}.{name} has no loader that lists it")
            for name in entity.types():
                if FieldOf(entity, name) not in brought and entity not in self.schema.roots:
                    raise ConnectorError(
                        f"{entity.__name__}.{name} has no loader that brings it",
                        hint="declare it in one loader, or in a collection's brings=",
                    )


Seeder: TypeAlias = Callable[[C, "Engine"], Awaitable[SyncPlan]]


# -- installations ----------------------------------------------------------------------------


class Settings(Record):
    """How Max keeps one installation's data.

    ``history`` "changes" records what changes in each row, for ``history_days``.  A row that was
    removed upstream is kept, hidden, for ``removed_days``.  ``removal_share`` is the part of an
    entity's rows that one sync may remove without being asked to, from 0 to 1.
    """

    history: Literal["off", "changes"] = "off"
    history_days: float = 90
    removed_days: float = 30
    removal_share: float = 0.25


DEFAULTS = Settings()


class SyncOptions(Record):
    """What a sync shall ask for, beyond what its plan and its loaders say.

    ``full``: everything, whatever its age.  ``only``: nothing but these, ``Entity`` or
    ``Entity.field``.  ``if_stale``: nothing that is younger, in seconds.  ``heal``: just what is
    missing, has expired or was invalidated.  ``sweep``: look now for what is gone.
    ``allow_removals``: remove that, however much it is.
    """

    full: bool = False
    only: tuple[str, ...] = ()
    if_stale: float | None = None
    heal: bool = False
    sweep: bool = False
    allow_removals: bool = False


class InstallationInfo(Record):
    """What is known of an installation without opening it.

    ``connected_at`` is seconds since the epoch.  ``config`` holds plain values only, never a secret.
    """

    connector: str
    name: str
    id: str
    config: Mapping[str, Json]
    connected_at: float
    settings: Settings = DEFAULTS

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

    def changes(self, *, since: str | None = None, entity: type[Entity] | None = None) -> ChangeFeed:
        """What changed behind a cursor, of one entity or of all: ``async for change in …``.

        None is the beginning: replayed from there, the changes rebuild every row.  "now" gives
        nothing but the newest cursor.  HistoryError when the installation's history is off.
        """


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

    async def listed(self, parent: Ref[P], collection: ManyOf[P, Any]) -> Listed:
        """What is remembered of a collection's listings; ``mark`` is None when a full one is due."""

    async def followed(self, root: Ref[Any], feed: str) -> Listed:
        """What is remembered of a feed."""

    async def unlisted_ids(
        self,
        collection: ManyOf[Any, Any],
        *,
        before: float,
        matching: Filter[Any] | None = None,
        after: str = "",
        limit: int = 1000,
    ) -> list[str]:
        """The next ids of parents whose collection has no complete listing begun at or after ``before``.

        Nor has one of which a field that only comes with it was invalidated since.
        """

    async def newest(self) -> float:
        """The latest time at which a request began whose answer is stored; 0 when there is none."""

    async def removals(self, looking: Looking) -> list[Removal]:
        """What listings have found gone and is not removed yet."""

    def removing(self, entities: Sequence[str], looking: Looking) -> Write:
        """The work that removes what is certainly gone of these entities, in another part's transaction."""

    async def is_doomed(self, ref: Ref[Any]) -> bool:
        """Whether it was found gone and is not removed yet, or hangs on nothing but such things."""

    async def ages(self, field: FieldOf[Any, Any], *, now: float) -> Ages:
        """How old a field is over all rows of its entity."""
