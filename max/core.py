"""The vocabulary's face: bound queries, options, and the protocols that the parts promise each other.

Nothing here touches a file, clock, event loop or database, and a thread in ``in_thread`` alone, so
every layer above may use every name.  The data itself is in model/.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeAlias, TypeVar, cast, overload

from .model.entities import E, P
from .model.query import NO_LIMIT, PAGE_SIZE, C, Query, columns_of
from .model.settings import InstallationInfo as InstallationInfo
from .model.struct import Struct

if TYPE_CHECKING:  # a command that reads must not pay for these
    from contextlib import AbstractAsyncContextManager
    from datetime import date, datetime
    from logging import Logger
    from typing import Unpack

    from .model.ages import FieldAge, Invalidation
    from .model.aggregate import Grouped, Grouping, GroupOptions, Groups
    from .model.changes import ChangeFeed
    from .model.delivery import (
        AgeHistogram,
        DeletionCandidates,
        DeletionScope,
        Delivery,
        DeliveryWrite,
        ListingPass,
        ListingState,
        StoredPage,
        Write,
        WriteResult,
    )
    from .model.entities import Entity, FieldOf, ManyOf, Ref
    from .model.filters import Filter
    from .model.hooks import HookReceipt
    from .model.plan import SyncPlan
    from .model.query import QueryPage
    from .model.schema import Schema
    from .model.sync_events import Event, Progress
    from .model.tasks import (
        NewTask,
        ResumedSync,
        Settlement,
        SettleResult,
        Status,
        SyncCommand,
        SyncResult,
        SyncRun,
    )
    from .model.text_search import Found
    from .model.values import Json

T = TypeVar("T")
V = TypeVar("V")
W = TypeVar("W")
X = TypeVar("X")
N = TypeVar("N", int, float)
Ordered = TypeVar("Ordered", int, float, str, "datetime", "date")


def logger(part: str) -> Logger:
    """The logger ``max.PART``, below the package's own name; silent unless the program sets up logging."""
    import logging  # only syncs log: a command that reads must not pay for it

    package = logging.getLogger(__package__)
    if not package.handlers:
        package.addHandler(logging.NullHandler())
    return package.getChild(part)


async def in_thread(work: Callable[[], T]) -> T:
    """Run blocking work in a thread of its own, which ends with the work, in the caller's context."""
    import asyncio
    from concurrent.futures import ThreadPoolExecutor
    from contextvars import copy_context

    thread = ThreadPoolExecutor(1, "max-project")
    result = asyncio.get_running_loop().run_in_executor(thread, copy_context().run, work)
    try:
        return await result
    finally:  # after a cancellation the work goes on, and its thread ends with it
        thread.shutdown(wait=not result.cancelled())


class BoundQuery(Query[E]):
    """A query with the engine that answers it: what ``engine.query(User)`` gives.

    An age in a text (``"updated_at > -7d"``) counts from the engine's clock.
    """

    def __init__(self, engine: Engine, query: Query[E], clock: Callable[[], float]) -> None:
        self._engine: Engine
        self._clock: Callable[[], float]
        # The last two are not fields: two queries are equal without them.
        self.__dict__.update(query.__dict__, _engine=engine, _clock=clock)

    def where(self, *conditions: Filter[E] | str, now: float | None = None) -> Self:
        """Only entities that match every condition: filters, or text in the filter language."""
        return super().where(*conditions, now=self._clock() if now is None else now)

    async def page(self) -> QueryPage[E]:
        """One page of up to ``limit`` entities, or of the engine's usual size."""
        return await self._engine.fetch(self)

    async def all(self) -> list[E]:
        """Every match up to the limit, read in one snapshot."""
        return list((await self._engine.fetch(self if self.size is not None else self.limit(NO_LIMIT))).items)

    async def first(self) -> E | None:
        """The first match, or None."""
        items = (await self.limit(1).page()).items
        return items[0] if items else None

    async def count(self) -> int:
        """How many entities match, whatever the limit."""
        return await self._engine.count(self)

    @overload
    async def count_by(self, key: Grouped[E, V], /, **rest: Unpack[GroupOptions[E]]) -> Groups[V]: ...
    @overload
    async def count_by(
        self, key: Grouped[E, V], other: Grouped[E, W], /, **rest: Unpack[GroupOptions[E]]
    ) -> Groups[tuple[V, W]]: ...
    @overload
    async def count_by(
        self,
        key: Grouped[E, V],
        other: Grouped[E, W],
        third: Grouped[E, X],
        /,
        **rest: Unpack[GroupOptions[E]],
    ) -> Groups[tuple[V, W, X]]: ...
    @overload
    async def count_by(self, *by: Grouped[E, Any] | str, **rest: Unpack[GroupOptions[E]]) -> Groups[Any]: ...
    async def count_by(self, *by: Grouped[E, Any] | str, **rest: Unpack[GroupOptions[E]]) -> Groups[Any]:
        """How many matches have each value: ``count_by(Task.status)`` is a mapping such as ``{"done": 39}``.

        Several fields give tuples.  A time takes a unit, ``Task.updated_at.per("month")``, a list its
        members, ``Task.tags.each()``.  ``sum``, ``avg``, ``min`` and ``max`` take fields to add up or
        compare, into ``groups[n].measures``; ``top`` and ``order_by`` are those of ``max count``.
        """
        from .model.aggregate import grouping

        return await self._engine.groups(self, grouping(self.entity, by, **rest))

    @overload
    async def values(self, field: Grouped[E, V], *, limit: int | None = None) -> Groups[V]: ...
    @overload
    async def values(self, field: str, *, limit: int | None = None) -> Groups[Any]: ...
    async def values(self, field: Grouped[E, Any] | str, *, limit: int | None = None) -> Groups[Any]:
        """The different values of a field, the most frequent first, and how often each is there."""
        from .model.aggregate import values_of_field

        return await self._engine.groups(self, values_of_field(self.entity, field, limit))

    async def sum(self, field: FieldOf[E, N] | FieldOf[E, N | None]) -> N | None:
        """The sum of a field over all matches, exact for integers; None when there is nothing to add up."""
        return cast("N | None", await self._measure("sum", field))

    async def avg(
        self,
        field: FieldOf[E, int] | FieldOf[E, int | None] | FieldOf[E, float] | FieldOf[E, float | None],
    ) -> float | None:
        """The average of the values that are there; None when there are none."""
        return cast("float | None", await self._measure("avg", field))

    async def min(self, field: FieldOf[E, Ordered] | FieldOf[E, Ordered | None]) -> Ordered | None:
        """The least value of a field; None when there is none."""
        return cast("Ordered | None", await self._measure("min", field))

    async def max(self, field: FieldOf[E, Ordered] | FieldOf[E, Ordered | None]) -> Ordered | None:
        """The greatest value of a field; None when there is none."""
        return cast("Ordered | None", await self._measure("max", field))

    async def to_dicts(self) -> list[dict[str, Json]]:
        """Every match up to the limit as JSON data; fields that are not loaded are left out."""
        return [one.to_dict() for one in await self.all()]

    async def to_arrow(self, *columns: FieldOf[E, Any] | str) -> Any:
        """Every match up to the limit as a ``pyarrow.Table``; MissingExtra without the extra ``frames``.

        ``columns`` are fields, also through refs: ``"assignee.name"``; without them those of ``select``.
        Values that are not loaded are null.
        """
        return await self._engine.arrow(self, columns_of(self, columns or None))

    async def to_pandas(self, *columns: FieldOf[E, Any] | str) -> Any:
        """The same as a pandas DataFrame."""
        from .model.frames import to_pandas

        table = await self.to_arrow(*columns)
        return await in_thread(lambda: to_pandas(table))

    async def to_polars(self, *columns: FieldOf[E, Any] | str) -> Any:
        """The same as a polars DataFrame."""
        from .model.frames import to_polars

        table = await self.to_arrow(*columns)
        return await in_thread(lambda: to_polars(table))

    async def _measure(self, function: str, field: object) -> Any:
        from .model.aggregate import Grouping, Measure, own_field

        measure = Measure(function, own_field(self.entity, field))
        (group,) = (await self._engine.groups(self, Grouping(measures=(measure,)))).groups
        return group.measures[measure.name]

    async def __aiter__(self) -> AsyncIterator[E]:
        """Each match up to the limit; one page at a time is in memory."""
        left, query = self.size, self
        while left is None or left > 0:
            page = await query.limit(PAGE_SIZE if left is None else min(left, PAGE_SIZE)).page()
            for entity in page.items:
                yield entity
            if page.cursor is None:
                return
            left = None if left is None else left - len(page.items)
            query = query.after(page.cursor)


Seeder: TypeAlias = Callable[[C, "Store"], Awaitable["SyncPlan"]]


class SyncOptions(Struct):
    """What one sync fetches, beyond what its plan and its loaders say.

    ``full``: everything, whatever its age.  ``only``: just these, ``Entity`` or ``Entity.field``.
    ``if_stale``: only what is older than this many seconds.  ``missing_only``: only what was never
    fetched, has expired or was invalidated.  ``check_deletes``: list everything now to find what is
    gone.  ``allow_removals``: remove what is gone, however much it is.
    """

    full: bool = False
    only: tuple[str, ...] = ()
    if_stale: float | None = None
    missing_only: bool = False
    check_deletes: bool = False
    allow_removals: bool = False


class RecordingInfo(Struct):
    """The recording that a replay answers from; ``recorded_at`` is UTC as text."""

    connector: str
    installation: str  # its id
    recorded_at: str
    began_empty: bool  # whether the recorded sync began without rows


class Audit(Protocol):
    """Records who changes an installation."""

    def call(self, action: str, /, **facts: Json) -> AbstractAsyncContextManager[dict[str, Json]]:
        """Record a change, which happens inside; what is put into the mapping is added to the facts."""


class Lifecycle(Protocol):
    """A service: ``start`` succeeds or leaves nothing behind, and ``stop`` may be called twice."""

    async def start(self) -> None:
        """Begin; a stopped service may start again."""

    async def stop(self) -> None:
        """End, and release every resource."""


class EventStream(Protocol):
    """The events of one listener, in order, until the sync has ended: an async iterator, or by batches.

    A listener that is no longer needed is just dropped.  A slow one loses events, and learns how many.
    """

    def __aiter__(self) -> AsyncIterator[Event]:
        """The stream itself."""

    async def __anext__(self) -> Event:
        """The next event."""

    async def batch(self) -> list[Event]:
        """All events since the last call, as soon as there is one; [] at the end."""


class Sync(Protocol):
    """A sync that a runtime has begun: its status, its result, its events, and commands to it.

    It may run in this process or in another one.
    """

    @property
    def id(self) -> str:
        """The sync's id; later ones have greater ids."""

    @property
    def done(self) -> bool:
        """Whether the work on it has ended, for good or until it is resumed."""

    async def status(self) -> SyncResult:
        """The result so far, with the status."""

    async def pause(self) -> None:
        """Stop at the next page; any process can resume the sync."""

    async def resume(self) -> Sync:
        """Go on: with this object when the pause has not been applied yet, else with a new one."""

    async def cancel(self) -> None:
        """End the sync for good, without waiting for pages under way; what was stored stays."""

    async def completion(self) -> SyncResult:
        """Wait until the sync has ended or is paused.  Cancelling the wait does not stop the sync.

        Interrupted when the runtime was stopped first, StorageError when the database failed; in both
        cases the sync can be resumed.
        """

    def events(self) -> EventStream:
        """What happens: from its beginning for the first who asks, and for others from what is running."""

    def progress(self) -> AsyncIterator[Progress]:
        """How far the sync is, whenever that changes; a slow reader gets the newest alone."""


class Runtime(Lifecycle, Protocol):
    """One installation at work, in this process (``InstallationRuntime``) or in one of its own.

    There is no engine in it: what is stored can be read without a runtime.
    """

    @property
    def info(self) -> InstallationInfo:
        """The installation, as it was when the runtime began."""

    @property
    def started_at(self) -> float:
        """Since when it works, in seconds since the epoch; 0 while it is stopped."""

    @property
    def latest(self) -> Sync | None:
        """The sync that runs here, or that ran last; None when none has begun."""

    async def sync(
        self, options: SyncOptions = ..., *, discard_unfinished: bool = False, schedule: str | None = None
    ) -> Sync:
        """Begin a sync, join the one under way or go on with an unfinished one; returns at once.

        SyncRunning while another process syncs; SyncError when the sync that would be joined or go on
        was begun with other options.  ``schedule`` is the name of the schedule that asks; its sync yields
        to any that is asked for without one.
        """

    async def retry_failed(self, sync: str | None = None) -> Sync:
        """Begin a sync of just what failed in the newest one, or in that of an id or its beginning."""

    async def freshness(self, what: str | None = None) -> list[FieldAge]:
        """How old every field is, and every listing and feed; or what ``Entity[.field]`` names."""

    async def invalidate(
        self, *what: str | type[Entity] | FieldOf[Any, Any] | Ref[Any], where: str | None = None
    ) -> Invalidation:
        """Mark entities, fields or single rows as stale: the next sync fetches them again."""

    async def find(
        self, text: str, *entities: str | type[Entity], limit: int = ..., raw: bool = False
    ) -> Found:
        """The rows in whose searchable fields all words of a text occur, best first."""

    async def health(self) -> str:
        """One line about the connection; raises what is wrong with it."""

    async def receive_hook(self, headers: Mapping[str, str], body: bytes) -> HookReceipt:
        """Take what the service has sent by itself: durable when this returns, and fetched later.

        HookRefused when the service has not signed it; DaemonBusy when too many wait.
        """

    async def process_hooks(self) -> None:
        """Fetch what stored hooks say, in the background; returns at once."""


class SyncLease(Protocol):
    """The right to sync one installation, where processes of several hosts may: ``async with lease:``.

    It may be entered again while it is held, and is given back at the last exit.  SyncRunning when another
    process has it.
    """

    async def __aenter__(self) -> Self:
        """Take it, or hold it once more."""

    async def __aexit__(self, *error: object) -> None:
        """Hold it once less."""

    def hold(self) -> None:
        """Hold it once more, where it is held; an exit ends that, too."""


class Store(Protocol):
    """What a seeder gets: the rows of its installation, to store roots and to read what is stored.

    Safe for concurrent callers.  Calls never block the event loop, and raise StorageError when the
    database cannot answer.
    """

    def query(self, entity: type[E]) -> BoundQuery[E]:
        """Begin a query; nothing is read before ``all``, ``first``, ``page`` or ``count``."""

    async def load(self, ref: Ref[E], *fields: FieldOf[E, Any]) -> E:
        """One entity with every stored field, or only those named; NotFound when it is not stored."""

    async def store(self, *entities: Entity, requested_at: float | None = None) -> WriteResult:
        """Insert or update in one transaction: given fields change, all others stay, None clears.

        All or nothing: InvalidEntity names every invalid value.  With ``requested_at``, in seconds
        since the epoch, the fields count as fetched at that time; without it their age is unknown.
        """


class Engine(Store, Lifecycle, Protocol):
    """Where the entities of one installation are stored; times are in seconds since the epoch."""

    @property
    def schema(self) -> Schema:
        """The entities that are stored here."""

    async def fetch(self, query: Query[E]) -> QueryPage[E]:
        """One page in the query's order; InvalidCursor for a cursor of another query."""

    async def count(self, query: Query[E]) -> int:
        """How many entities match the query's filter."""

    async def groups(self, query: Query[E], grouping: Grouping) -> Groups[Any]:
        """The rows that match the query's filter, in groups."""

    async def arrow(self, query: Query[E], columns: Sequence[FieldOf[E, Any]]) -> Any:
        """All rows of a query up to its limit, as a ``pyarrow.Table``."""

    async def load_collection(
        self, parent: Ref[P], collection: ManyOf[P, E], *, after: str | None = None, limit: int | None = None
    ) -> QueryPage[E]:
        """A page of a collection's members; empty when it was never listed."""

    def prepare_write(self, delivery: Delivery) -> DeliveryWrite:
        """The work that stores a delivery, to run inside a transaction of the same database."""

    def changes(self, *, since: str | None = None, entity: type[Entity] | None = None) -> ChangeFeed:
        """What changed after a cursor, oldest first: ``async for change in engine.changes(…)``.

        ``since`` may also be a time as filters have it, such as "yesterday" or "-3mo".  None gives
        every change that is kept.  "beginning" first gives the rows as they were before, as created,
        so that the changes rebuild every row from nothing.  "now" gives no change, only the newest
        cursor.  HistoryError when the installation records no history.
        """


class SyncMeta(Protocol):
    """How old everything is: fields, listings and feeds.

    Safe for concurrent callers; StorageError when the database cannot answer.  Times are in seconds
    since the epoch, and are those at which a request began.  Ids come in ascending order.
    """

    async def record(self, refs: Sequence[Ref[Any]], fields: Sequence[str], *, at: float) -> None:
        """These fields were fetched by a request that began at ``at``."""

    async def synced_at(self, ref: Ref[E], field: FieldOf[E, Any]) -> float | None:
        """When the field was last fetched; None when never, or when it was invalidated since."""

    async def stale(
        self, ref: Ref[E], fields: Sequence[FieldOf[E, Any]], *, before: float
    ) -> list[FieldOf[E, Any]]:
        """Those of the fields that were not fetched at or after ``before``."""

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
        """The next ids with a field that was not fetched at or after ``before``; without fields, all ids."""

    async def invalidate(self, refs: Sequence[Ref[Any]], fields: Sequence[str], *, at: float) -> None:
        """Count as stale what was fetched at or before ``at``; the values stay."""

    async def is_fully_synced(self, ref: Ref[Any]) -> bool:
        """Whether every field of the entity was fetched."""

    async def listing_state(self, parent: Ref[P], collection: ManyOf[P, Any]) -> ListingState:
        """What is known of a collection's listings; ``bookmark`` is None when a full one is due."""

    async def listing_pass(self, parent: Ref[P], collection: ManyOf[P, Any], began: float) -> ListingPass:
        """What is stored of the pass over a listing whose first request began at ``began``."""

    async def known_page(
        self, parent: Ref[P], collection: ManyOf[P, Any], number: int, key: str
    ) -> StoredPage | None:
        """A page of a listing, asked for in the way that ``key`` says, if it is stored just as it came."""

    async def feed_state(self, root: Ref[Any], feed: str) -> ListingState:
        """What is known of a feed."""

    async def feed_begun(self, feed: str) -> float | None:
        """When a feed last started over for any of its roots; None when it was never read to its end."""

    async def unlisted_ids(
        self,
        collection: ManyOf[Any, Any],
        *,
        before: float,
        matching: Filter[Any] | None = None,
        after: str = "",
        limit: int = 1000,
        proven: bool = False,
        known: bool = False,
    ) -> list[str]:
        """The next ids of parents without a complete listing that began at or after ``before``.

        A listing does not count if a field that only comes with it was invalidated afterwards.  With
        ``proven``, neither does one that may have skipped a row; with ``known``, only
        parents whose collection was listed before are named.
        """

    async def prepare(self, source: str, *, now: float, resumes: bool = False) -> float:
        """Before a sync, forget what it may not rely on; the latest time of a stored response.

        Times after ``now`` count as never: the clock was ahead.  ``source`` names the configuration:
        when another one was synced before, everything counts as never fetched.  A sync that
        ``resumes`` goes on with the pages that it has begun, and the next one forgets them as well.
        SyncRunning while another process syncs.
        """

    async def deletion_candidates(self, scope: DeletionScope) -> list[DeletionCandidates]:
        """The rows that no listing has any more and that are not removed yet, by entity."""

    def prepare_look(self, scope: DeletionScope) -> Write:
        """The work that begins the second look: what only missing rows hold is missing from now on."""

    def prepare_removal(self, entities: Sequence[str], scope: DeletionScope) -> Write:
        """The work that removes the proven candidates of these entities, for a transaction as above."""

    async def is_pending_removal(self, ref: Ref[Any]) -> bool:
        """Whether a row is missing and not removed yet, or every parent that lists it is."""

    async def ages(self, field: FieldOf[Any, Any], *, now: float) -> AgeHistogram:
        """How old a field is, over all rows of its entity."""


class TaskStore(Protocol):
    """The task queue of one installation, and the record of its syncs.

    Safe for concurrent callers in any number of processes.  Each call is one transaction: after a
    crash all of it is stored or nothing.  StorageError when the store cannot answer.  Times are in
    seconds since the epoch.  ``worker`` names the calling process and stays the same while it runs.
    """

    async def start(self) -> None:
        """Prepare the tables; may be called again."""

    async def begin(
        self,
        plan: Json,
        root: NewTask,
        *,
        worker: str,
        now: float,
        notes: Sequence[str] = (),
        schedule: str | None = None,
    ) -> str:
        """Begin a sync with its whole task graph; returns its id, which is greater than any before.

        Unfinished syncs without a living worker are cancelled; SyncRunning when one has a worker.
        ``schedule`` is the name of the schedule that begins it.
        """

    async def record_failure(
        self, what: str, error: Exception, *, now: float, schedule: str | None = None
    ) -> str:
        """Record a sync that failed before its first task, in the connector's function ``what``; its id."""

    async def resume(self, sync: str, *, worker: str, now: float) -> ResumedSync:
        """Take over a sync without a living worker; its running and paused tasks are pending again.

        A task that was running when its process died five times in a row is failed.  NotFound,
        SyncError when the sync has ended, SyncRunning when it has a worker.
        """

    async def settle(
        self,
        sync: str,
        settlements: Sequence[Settlement],
        *,
        worker: str,
        claim: int,
        alone: bool,
        requests: Mapping[str, int],
        now: float,
    ) -> SettleResult:
        """Store what tasks did and claim up to ``claim`` new ones, in one transaction.

        Each settlement is stored as a whole or not at all; the outcome of one that fails holds its
        error, LeaseLost when the task was claimed again meanwhile.  A parent whose children have
        ended ends too, and tasks that waited for it begin, or fail as blocked.  The last task gives
        the sync its final status.  ``alone``: no other task of the sync is running, so a task that
        was running when a process died may be claimed, by itself.

        An exception means that nothing was stored: StorageError when the database failed, LeaseLost
        when the sync belongs to another worker now.
        """

    async def apply_command(self, sync: str, *, worker: str, now: float) -> Status:
        """Pause or cancel as requested, once no task of the sync is running; returns its status."""

    async def release(self, sync: str, *, worker: str, now: float) -> None:
        """Give up a sync: its running tasks are pending again, and any worker may resume it."""

    async def request(self, sync: str, wanted: SyncCommand, *, now: float, worker: str = "") -> None:
        """Tell the sync's worker to pause, cancel or continue; SyncError when the sync has ended.

        A ``worker`` that asks this itself lives, whatever the clock says of its heartbeat.
        """

    async def unfinished(self, *, worker: str, now: float) -> str | None:
        """The newest sync that this worker could resume, or None; SyncRunning when one has a worker."""

    async def runs(self, limit: int, *, now: float) -> list[SyncRun]:
        """The newest syncs, newest first."""

    async def result(self, sync: str, *, now: float) -> SyncResult:
        """The state and result of a sync so far; NotFound."""

    async def prune(self) -> None:
        """Delete the tasks of finished syncs, and all but the newest hundred syncs."""
