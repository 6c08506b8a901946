"""Loaders: what connectors declare to fetch, and which of them serves which field."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from typing import Any, ClassVar, Generic, Protocol, TypeAlias, TypeVar

from ..errors import ConnectorError, UnknownName
from .entities import E, Entity, FieldOf, ManyOf, P, Ref, V
from .query import Batch, C, Page
from .schema import Schema
from .struct import Struct

STATIC = timedelta.max  # the ``ttl`` of what never changes
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
        """Run an operation: with its limit, its retries, its deadline, in the recording."""

    async def raw(self, loader: RawLoader[C, V]) -> V:
        """What a raw loader gives: loaded at most once in a sync."""


class PageRequest(Struct):
    """Which page of a collection is wanted.

    ``cursor`` is what the page before gave as ``next``; None for the first.  ``mark`` is the
    sync token of the last complete listing, and ``since`` the same of a loader that declares a
    watermark: who understands it lists only what changed at or after.  None: list everything.
    ``ids_only``: everything that exists is to be named, and ids suffice.
    """

    cursor: str | None = None
    sync_token: str | None = None
    since: datetime | None = None
    ids_only: bool = False


class Watermark(Struct):
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

    def loader_for(self, field: FieldOf[Any, Any]) -> EntityLoader[Any, Any] | BatchLoader[Any, Any] | None:
        """The loader that fetches a field for given refs; None when it only comes along."""
        return self._homes.get(field)

    def collection_loader(self, collection: ManyOf[Any, Any]) -> CollectionLoader[Any, Any, Any]:
        """The loader that lists a collection."""
        return self._collections[collection]

    def is_listed(self, collection: ManyOf[Any, Any]) -> bool:
        """Whether a loader lists a collection; else its members come along with something."""
        return collection in self._collections

    def feed_loader(self, name: str) -> FeedLoader[Any, Any]:
        """The feed of a name; UnknownName."""
        if name not in self._feeds:
            raise UnknownName("feed", name, self._feeds)
        return self._feeds[name]

    def feed_covering(self, what: ManyOf[Any, Any] | FieldOf[Any, Any]) -> FeedLoader[Any, Any] | None:
        """The feed that says when a collection or a field is to be asked for again, if there is one."""
        return self._covering.get(what)

    def collections_bringing(self, field: FieldOf[Any, Any]) -> list[ManyOf[Any, Any]]:
        """The collections whose listings bring a field."""
        return [many for many, loader in self._collections.items() if field in loader.brings]

    def load_groups(self, entity: type[Entity]) -> list[tuple[str, ...]]:
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
