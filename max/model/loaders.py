"""Loaders: what connectors declare to fetch, and which loader serves which field."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from copy import copy
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, TypeAlias, TypeVar

from ..errors import ConnectorError, UnknownName
from .entities import E, Entity, FieldOf, ManyOf, P, Ref, V
from .query import Batch, C, Page, Query, QueryPage
from .schema import Schema
from .struct import Struct

if TYPE_CHECKING:
    from .account_fields import AddedField

STATIC = timedelta.max  # a ``ttl`` for what never changes
In = TypeVar("In")
Out = TypeVar("Out")
C_contra = TypeVar("C_contra", contravariant=True)
In_contra = TypeVar("In_contra", contravariant=True)
Out_co = TypeVar("Out_co", covariant=True)
Added: TypeAlias = "Mapping[str, Mapping[str, AddedField]]"  # an account's own fields, by entity and name


class OutsideCall(Protocol[C_contra, In_contra, Out_co]):
    """A call to the outside, by name: an Operation."""

    @property
    def name(self) -> str:
        """``connector:thing:verb``."""

    async def __call__(self, context: C_contra, input: In_contra, /) -> Out_co:
        """Make the call, once."""


class Env(Protocol[C]):
    """What a loader gets beside its refs: the connector's context, and which task it runs for."""

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
        """How many times the task has begun, this time included; 1 the first time."""

    @property
    def deadline(self) -> float | None:
        """When this call is cancelled, to be repeated later, in seconds since the epoch.

        The setting ``loader_minutes`` says how long a call may take; None outside of a sync.
        """

    def entity(self, entity: type[E]) -> type[E]:
        """The entity as this installation has it: with the fields that its account has of its own."""
        return entity

    async def run(self, operation: OutsideCall[C, In, Out], input: In) -> Out:
        """Run an operation with its limit, retries and deadline; a recording or replay includes it."""

    async def raw(self, loader: RawLoader[C, V]) -> V:
        """The value of a raw loader, loaded at most once in a sync."""

    async def stored(self, entity: type[E], id: str) -> E:
        """A row as it is stored now, with every field that was ever loaded; NotFound when it is not stored.

        What this very call returns is not stored yet.
        """

    async def fetch(self, query: Query[E]) -> QueryPage[E]:
        """Stored rows as they are now: ``await env.fetch(Query(Issue).where(…).limit(500))``.

        Without a limit it is a page of 1,000 rows, and ``cursor`` is that of the next one.
        """

    async def keep(self, data: bytes) -> str:
        """Keep content in a file beside the database, or on a server in it; its name, which a field can hold.

        The name is the SHA-256 of the content in hexadecimal digits.  The file is whole and on the disk
        when this returns: ``files/NAME[:2]/NAME`` in the installation's folder.  In Postgres it is a row of
        ``_max_kept_file``, of up to 64 MB.  UsageError for an installation in memory.
        """


class PageRequest(Struct):
    """Which page of a collection to list.

    ``cursor`` is the ``next`` of the page before, None for the first.  ``sync_token`` is the one
    that the last complete listing ended with.  ``since`` is the same for a loader that declares a
    watermark: list what changed at or after it.  When both are None, list everything.
    ``ids_only``: list everything that exists; ids are enough.  ``validator`` is that of the page as it
    is stored; with one, a loader may return ``Page.unchanged()``.
    """

    cursor: str | None = None
    sync_token: str | None = None
    since: datetime | None = None
    ids_only: bool = False
    validator: str | None = None


class Watermark(Struct):
    """The field that says when an item changed; a listing can then begin at the newest value seen.

    ``overlap`` is subtracted, for sources that show a change later than they date it.  Of a
    listing sorted newest first, the next one begins at the newest value of the first page, since
    what changes meanwhile belongs to the next listing.  Of one sorted oldest first
    (``newest_first=False``), it begins at the newest value of all pages.
    """

    field: FieldOf[Any, datetime] | FieldOf[Any, datetime | None]
    overlap: timedelta = timedelta(0)
    newest_first: bool = True


# An entity means all its fields, an inline collection the field in which a row names the members.
Brings: TypeAlias = "FieldOf[Any, Any] | ManyOf[Any, Any] | type[Entity]"
LoadOne: TypeAlias = Callable[[Ref[E], Env[C]], Awaitable[E]]
LoadBatch: TypeAlias = Callable[[Sequence[Ref[E]], Env[C]], Awaitable[Batch[E]]]
LoadPage: TypeAlias = Callable[[Ref[P], PageRequest, Env[C]], Awaitable[Page[E]]]
LoadRaw: TypeAlias = Callable[[Env[C]], Awaitable[V]]
LoadChanges: TypeAlias = Callable[[Ref[P], PageRequest, Env[C]], Awaitable[Page[Entity]]]


class Loader(Generic[C]):
    """One way to fetch something.  Loaders return entities and never store them.

    The decorators below make loaders.  ``brings`` names every field that a response may hold; an
    entity among them means all its fields, except those that an entity loader names for itself.  A
    sync does not fetch again what is younger than ``ttl``; without a ``ttl`` it fetches everything
    that it has not fetched itself.  With ``refresh_when``, a field of the same row that another
    loader brings, it fetches what is not yet fetched, and what was fetched before that field last moved;
    with both, also what is older than ``ttl``.
    """

    kind: ClassVar[str] = ""
    arguments: ClassVar[int] = 0
    load: Callable[..., Any]

    def __init__(
        self,
        load: Callable[..., Any],
        brings: Sequence[Brings] | type[Entity] = (),
        *,
        ttl: timedelta | None = None,
        refresh_when: FieldOf[Any, Any] | None = None,
        **declared: Any,
    ) -> None:
        self.load, self.ttl = load, ttl
        self.brings, self.implied = _fields_of(brings)
        self.refresh_when = refresh_when
        self.name: str = getattr(load, "__name__", repr(load))
        self.__dict__.update(declared)

    def __repr__(self) -> str:
        return f"<{self.kind} loader {self.name}>"

    @staticmethod
    def entity(
        *fields: FieldOf[E, Any] | ManyOf[E, Any] | type[E],
        ttl: timedelta | None = None,
        refresh_when: FieldOf[E, Any] | None = None,
    ) -> Callable[[LoadOne[E, C]], EntityLoader[E, C]]:
        """The decorated function fetches one ref: ``async (ref, env) -> entity``."""
        return lambda load: EntityLoader(load, fields, ttl=ttl, refresh_when=refresh_when)

    @staticmethod
    def entity_batched(
        *fields: FieldOf[E, Any] | ManyOf[E, Any] | type[E],
        size: int = 100,
        ttl: timedelta | None = None,
        refresh_when: FieldOf[E, Any] | None = None,
    ) -> Callable[[LoadBatch[E, C]], BatchLoader[E, C]]:
        """The decorated function fetches up to ``size`` refs: ``async (refs, env) -> Batch``."""
        return lambda load: BatchLoader(load, fields, ttl=ttl, refresh_when=refresh_when, size=size)

    @staticmethod
    def collection(
        collection: ManyOf[P, E],
        *,
        brings: Sequence[Brings] | type[Entity] = (),
        ttl: timedelta | None = None,
        refresh_when: FieldOf[P, Any] | None = None,
        watermark: Watermark | None = None,
        sweep: timedelta | None = None,
        stable: bool = False,
    ) -> Callable[[LoadPage[P, C, E]], CollectionLoader[P, E, C]]:
        """The decorated function lists children: ``async (parent, request, env) -> Page``.

        ``brings`` names the fields that come with each page, those of other entities included.
        A listing of changes cannot see what is gone; with ``sweep``, a listing of everything
        follows when the last one is older than that.  ``stable``: in a listing of
        everything each page continues behind the last row of the one before, in an order that no
        change of a row alters, so a row that is deleted or edited meanwhile makes no other one slip
        between two pages, as it does with numbered pages and offsets.  A listing of several pages
        that is neither stable nor has a total is read once more before it removes anything.
        """
        return lambda load: CollectionLoader(
            load,
            brings,
            ttl=ttl,
            refresh_when=refresh_when,
            lists=collection,
            watermark=watermark,
            sweep=sweep,
            stable=stable,
        )

    @staticmethod
    def feed(
        root: type[P],
        *,
        brings: Sequence[Brings] | type[Entity],
        covers: Sequence[ManyOf[Any, Any] | FieldOf[Any, Any]],
    ) -> Callable[[LoadChanges[P, C]], FeedLoader[P, C]]:
        """The decorated function reads a change feed: ``async (root, request, env) -> Page``.

        Without a sync token it returns the feed's present position as the page's ``sync_token``
        and nothing else.  With one it returns what changed since: entities of any type as items,
        and what is gone as ``removed``.  ``covers`` names what the feed keeps up to date, so that
        a sync need not fetch it again: collections, and fields.
        """
        return lambda load: FeedLoader(load, brings, root=root, covers=tuple(map(_field, covers)))

    @staticmethod
    def raw(load: LoadRaw[C, V]) -> RawLoader[C, V]:
        """The decorated function fetches a value that other loaders share: ``async (env) -> value``."""
        return RawLoader(load)


def _field(brought: Any) -> Any:
    """What is brought or covered; of an inline collection the field that its parent's rows have."""
    return brought.field if isinstance(brought, ManyOf) and brought.inline else brought


class EntityLoader(Loader[C], Generic[E, C]):
    """Fetches fields of one ref."""

    kind, arguments = "entity", 2
    load: LoadOne[E, C]


class BatchLoader(Loader[C], Generic[E, C]):
    """Fetches fields of up to ``size`` refs in one call."""

    kind, arguments = "entity_batched", 2
    load: LoadBatch[E, C]
    size: int


class CollectionLoader(Loader[C], Generic[P, E, C]):
    """Lists the children of one parent, page by page."""

    kind, arguments = "collection", 3
    load: LoadPage[P, C, E]
    lists: ManyOf[P, E]
    watermark: Watermark | None = None
    sweep: timedelta | None = None
    stable: bool = False


class FeedLoader(Loader[C], Generic[P, C]):
    """Reads what changed anywhere below a root, page by page."""

    kind, arguments = "feed", 3
    load: LoadChanges[P, C]
    root: type[P]
    covers: tuple[ManyOf[Any, Any] | FieldOf[Any, Any], ...]


class RawLoader(Loader[C], Generic[C, V]):
    """Fetches a value that other loaders share, once in a sync."""

    kind, arguments = "raw", 1
    load: LoadRaw[C, V]


Fields: TypeAlias = tuple[FieldOf[Any, Any], ...]


def _fields_of(brings: Sequence[Brings] | type[Entity]) -> tuple[Fields, Fields]:
    """Every field that is named, and all of each entity that is; and those that only an entity implies."""
    fields: list[FieldOf[Any, Any]] = []
    named: set[FieldOf[Any, Any]] = set()
    for one in [brings] if isinstance(brings, type) else brings:
        if isinstance(one, type):
            fields += [FieldOf(one, name) for name in one._fields if name != "id"]
        else:
            fields.append(_field(one))
            named.add(fields[-1])
    every = tuple(dict.fromkeys(fields))
    return every, tuple(field for field in every if field not in named)


def _without_details(loaders: Sequence[Loader[Any]]) -> Iterator[Loader[Any]]:
    """The loaders, where a listing that brings an entity leaves out what an entity loader names.

    The data of a list lacks such a field; as part of the entity it would be stored as empty each time.
    """
    details = {
        field
        for loader in loaders
        if isinstance(loader, EntityLoader | BatchLoader)
        for field in loader.brings
        if field not in loader.implied
    }
    for loader in loaders:
        left_out = details.intersection(loader.implied)
        if left_out:
            loader = copy(loader)
            loader.brings = tuple(field for field in loader.brings if field not in left_out)
        yield loader


class Resolver:
    """Which loader serves which field: derived from the loaders' declarations, and checked.

    Every field is fetched by exactly one entity loader, or comes along with other responses, or
    belongs to a root and is stored by the seeder.  ConnectorError names what breaks the rule.
    ``added`` are the fields that an account has of its own; None when the connector looks for none.
    """

    def __init__(self, schema: Schema, loaders: Sequence[Loader[Any]], added: Added | None = None) -> None:
        self.schema, self.loaders, self.added = schema, tuple(_without_details(loaders)), added
        self._fetching: dict[FieldOf[Any, Any], EntityLoader[Any, Any] | BatchLoader[Any, Any]] = {}
        self._collections: dict[ManyOf[Any, Any], CollectionLoader[Any, Any, Any]] = {}
        self._feeds: dict[str, FeedLoader[Any, Any]] = {}
        self._covering: dict[ManyOf[Any, Any] | FieldOf[Any, Any], FeedLoader[Any, Any]] = {}
        for loader in self.loaders:
            self._claim(loader)
        self._check_complete()
        for loader in loaders:
            self._check_refresh(loader)

    def loader_for(self, field: FieldOf[Any, Any]) -> EntityLoader[Any, Any] | BatchLoader[Any, Any] | None:
        """The loader that fetches a field for given refs; None when the field only comes along."""
        return self._fetching.get(field)

    def collection_loader(self, collection: ManyOf[Any, Any]) -> CollectionLoader[Any, Any, Any]:
        """The loader that lists a collection."""
        return self._collections[collection]

    def is_listed(self, collection: ManyOf[Any, Any]) -> bool:
        """Whether a loader lists a collection; if not, its members come along with other responses."""
        return collection in self._collections

    def feed_loader(self, name: str) -> FeedLoader[Any, Any]:
        """The feed with this name; UnknownName."""
        if name not in self._feeds:
            raise UnknownName("feed", name, self._feeds)
        return self._feeds[name]

    def feed_covering(self, what: ManyOf[Any, Any] | FieldOf[Any, Any]) -> FeedLoader[Any, Any] | None:
        """The feed that keeps a collection or a field up to date, if there is one."""
        return self._covering.get(what)

    def watched_by(self, what: ManyOf[Any, Any] | FieldOf[Any, Any]) -> FieldOf[Any, Any] | None:
        """The field whose moves have a collection or a field fetched again, if its loader declares one."""
        loader: Loader[Any] | None
        loader = self._collections.get(what) if isinstance(what, ManyOf) else self._fetching.get(what)
        return None if loader is None else loader.refresh_when

    def refreshed(self, entity: type[Entity]) -> Mapping[str, str] | None:
        """The watched field of each collection and field of an entity that has one; None when unknown."""
        names: list[ManyOf[Any, Any] | FieldOf[Any, Any]] = [
            *(ManyOf[Any, Any](entity, name) for name in entity.children()),
            *(FieldOf[Any, Any](entity, name) for name in entity.types()),
        ]
        return {one.name: field.name for one in names if (field := self.watched_by(one)) is not None}

    def brought_by(self, feed: str) -> Sequence[FieldOf[Any, Any]]:
        """The fields that a feed brings; none for a feed that is not known."""
        return self._feeds[feed].brings if feed in self._feeds else ()

    def covered_by(self, feed: str) -> Sequence[ManyOf[Any, Any] | FieldOf[Any, Any]]:
        """What a feed keeps up to date; nothing for a feed that is not known."""
        return self._feeds[feed].covers if feed in self._feeds else ()

    def collections_bringing(self, field: FieldOf[Any, Any]) -> list[ManyOf[Any, Any]]:
        """The collections whose listings bring a field."""
        return [many for many, loader in self._collections.items() if field in loader.brings]

    def places_of(self, *entities: type[Entity]) -> list[ManyOf[Any, Any]]:
        """The collections that can hold rows of some entities, or of their ancestors, topmost first.

        With them those whose listings bring the rows that name such a row themselves.
        """
        found = self.schema.collections_above(*entities)
        for many in found:  # grows in the loop
            bringing = self.collections_bringing(many.field) if many.inline else ()
            above = [one for own in bringing for one in self.schema.collections_above(own.child)]
            found += [one for one in dict.fromkeys(above) if one not in found]
        return found

    def load_groups(self, entity: type[Entity]) -> list[tuple[str, ...]]:
        """The entity's fields in groups that always arrive together: brought by the same loaders."""
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
                other = self._fetching.setdefault(field, loader)
                if other is not loader:
                    raise ConnectorError(
                        f"{field!r} is fetched by two loaders: {other.name} and {loader.name}",
                        hint="declare it in one of them",
                    )

    def _claim_collection(self, loader: CollectionLoader[Any, Any, Any]) -> None:
        if loader.lists.inline:
            raise ConnectorError(
                f"loader {loader.name} lists {loader.lists!r}, whose members the rows of"
                f" {loader.lists.parent.__name__} name themselves",
                hint=f"declare it without inline=, or bring {loader.lists!r} with the rows",
            )
        other = self._collections.setdefault(loader.lists, loader)
        if other is not loader:
            raise ConnectorError(f"{loader.lists!r} is listed by two loaders: {other.name} and {loader.name}")
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
                    f"feed {loader.name} covers {covered!r}, whose children do not name their parent",
                    hint="declare the collection with by=, the child's ref to its parent",
                )

    def _check_refresh(self, loader: Loader[Any]) -> None:
        """ConnectorError unless another loader, or the seeder, tells when what is refreshed has moved."""
        field = loader.refresh_when
        if field is None:
            return
        others = (other for other in self.loaders if other is not loader)
        if field.entity not in self.schema.roots and not any(field in other.brings for other in others):
            raise ConnectorError(
                f"loader {loader.name} has refresh_when={field!r}, which no other loader brings",
                hint="a sync has to see the field move before it asks: name one that a listing brings",
            )
        whole = [loader.lists] if isinstance(loader, CollectionLoader) else loader.brings
        for what in whole:
            if (feed := self.feed_covering(what)) is not None:
                raise ConnectorError(
                    f"loader {loader.name} has refresh_when={field!r}, and feed {feed.name} covers {what!r}",
                    hint="the feed says when it changes: leave out one of the two",
                )

    def _check_complete(self) -> None:
        brought = {field for loader in self.loaders for field in loader.brings}
        for entity in self.schema.entities.values():
            for name in entity.children():
                many: ManyOf[Any, Any] = ManyOf(entity, name)
                if not (self.is_listed(many) or many.inline) and (many.by is None or many.by not in brought):
                    raise ConnectorError(f"{entity.__name__}.{name} has no loader that lists it")
            for name in entity.types():
                if FieldOf(entity, name) not in brought and entity not in self.schema.roots:
                    raise ConnectorError(
                        f"{entity.__name__}.{name} has no loader that brings it",
                        hint="declare it in one loader, or in a collection's brings=",
                    )


class UnknownLoaders(Resolver):
    """In place of the loaders of a connector that cannot be loaded.

    Every collection may be listed, and its listing may bring any field of its members.
    """

    def __init__(
        self, schema: Schema, load_groups: Callable[[type[Entity]], Sequence[tuple[str, ...]]] | None = None
    ) -> None:
        super().__init__(schema, ())
        self._groups = load_groups or super().load_groups

    def is_listed(self, collection: ManyOf[Any, Any]) -> bool:
        """It may be, unless rows of the parent name its members."""
        return not collection.inline

    def collections_bringing(self, field: FieldOf[Any, Any]) -> list[ManyOf[Any, Any]]:
        """The collections that have the field's entity as members."""
        parents = self.schema.entities.values()
        collections = [ManyOf[Any, Any](parent, name) for parent in parents for name in parent.children()]
        return [many for many in collections if many.child is field.entity]

    def refreshed(self, entity: type[Entity]) -> None:
        """It is not known."""

    def load_groups(self, entity: type[Entity]) -> list[tuple[str, ...]]:
        """All fields in one group, unless other groups were given."""
        return list(self._groups(entity))

    def _check_complete(self) -> None:
        """Nothing is known that could be checked."""
