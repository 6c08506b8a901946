"""The vocabulary: what connectors declare, what callers ask for, what engines promise.

Everything here is data or a protocol.  No file, clock, thread, event loop or database is
touched, so every other layer may use every name.  Entities stand in entities.py, what is made
of them in schema.py, plans in plans.py.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeAlias

from .model.changes import ChangeFeed
from .model.delivery import (
    AgeHistogram,
    DeletionCandidates,
    DeletionScope,
    Delivery,
    ListingState,
    Write,
    WriteResult,
)
from .model.entities import E, Entity, FieldOf, Filter, ManyOf, P, Ref
from .model.plan import SyncPlan
from .model.query import NO_LIMIT, PAGE_SIZE, C, Query, QueryPage
from .model.schema import Schema
from .model.settings import DEFAULTS, Settings
from .model.struct import Struct
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
from .model.values import Json

if TYPE_CHECKING:
    from logging import Logger


def logger(part: str) -> Logger:
    """The logger ``max.PART``, below the package's own name; silent unless the program sets up logging."""
    import logging  # only syncs log: a command that reads must not pay for it

    package = logging.getLogger(__package__)
    if not package.handlers:
        package.addHandler(logging.NullHandler())
    return package.getChild(part)


class BoundQuery(Query[E]):
    """A query with the engine that answers it: what ``engine.query(User)`` gives.

    Ages in a text (``"updated_at > -7d"``) count from the engine's clock.
    """

    def __init__(self, engine: Engine, query: Query[E], clock: Callable[[], float]) -> None:
        super().__init__(*query._values())
        self._engine: Engine
        self._clock: Callable[[], float]
        self.__dict__.update(_engine=engine, _clock=clock)  # not fields: two queries are equal without them

    def replace(self, **changes: object) -> Self:
        """A copy with some parts changed, for the same engine."""
        return type(self)(self._engine, Query[E](*self._values()).replace(**changes), self._clock)

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


Seeder: TypeAlias = Callable[[C, "Engine"], Awaitable[SyncPlan]]


class SyncOptions(Struct):
    """What a sync shall ask for, beyond what its plan and its loaders say.

    ``full``: everything, whatever its age.  ``only``: nothing but these, ``Entity`` or
    ``Entity.field``.  ``if_stale``: nothing that is younger, in seconds.  ``missing_only``: just what
    is missing, has expired or was invalidated.  ``check_deletes``: look now for what is gone.
    ``allow_removals``: remove that, however much it is.
    """

    full: bool = False
    only: tuple[str, ...] = ()
    if_stale: float | None = None
    missing_only: bool = False
    check_deletes: bool = False
    allow_removals: bool = False


class InstallationInfo(Struct):
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


class RecordingInfo(Struct):
    """The recording that a replay answers from; ``recorded_at`` is UTC as text."""

    connector: str
    installation: str  # its id
    recorded_at: str
    began_empty: bool  # whether the recorded sync began without rows


# -- protocols -------------------------------------------------------------------------------


class Lifecycle(Protocol):
    """A service: start succeeds or leaves nothing behind, stop may be called twice."""

    async def start(self) -> None:
        """Begin; a stopped service may start again."""

    async def stop(self) -> None:
        """End, and give everything back."""


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

    async def fetch(self, query: Query[E]) -> QueryPage[E]:
        """One page in the query's order; InvalidCursor for another query's cursor."""

    async def count(self, query: Query[E]) -> int:
        """How many entities fit the query's filter."""

    async def load(self, ref: Ref[E], *fields: FieldOf[E, Any]) -> E:
        """One entity with the fields that are stored (or only those named); NotFound."""

    async def load_collection(
        self, parent: Ref[P], collection: ManyOf[P, E], *, after: str | None = None, limit: int | None = None
    ) -> QueryPage[E]:
        """A page of a collection's members; empty when it was never listed."""

    async def store(self, *entities: Entity, requested_at: float | None = None) -> WriteResult:
        """Upsert in one transaction: given fields change, all others stay; an explicit None clears.

        All or nothing; InvalidEntity names every value that does not fit.  With
        ``requested_at`` (seconds since the epoch) the fields count as synced at that time.
        """

    def prepare_write(self, delivery: Delivery) -> Write:
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

    async def listing_state(self, parent: Ref[P], collection: ManyOf[P, Any]) -> ListingState:
        """What is remembered of a collection's listings; ``bookmark`` is None when a full one is due."""

    async def feed_state(self, root: Ref[Any], feed: str) -> ListingState:
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

    async def latest_request(self) -> float:
        """The latest time at which a request began whose answer is stored; 0 when there is none."""

    async def deletion_candidates(self, looking: DeletionScope) -> list[DeletionCandidates]:
        """What listings have found gone and is not removed yet."""

    def prepare_removal(self, entities: Sequence[str], looking: DeletionScope) -> Write:
        """The work that removes what is certainly gone of these entities, in another part's transaction."""

    async def is_pending_removal(self, ref: Ref[Any]) -> bool:
        """Whether it was found gone and is not removed yet, or hangs on nothing but such things."""

    async def ages(self, field: FieldOf[Any, Any], *, now: float) -> AgeHistogram:
        """How old a field is over all rows of its entity."""


class TaskStore(Protocol):
    """The queue of one installation, and the memory of its syncs.

    Safe for concurrent callers in any number of processes.  Each call is one transaction: a
    crash leaves all of it or nothing.  StorageError when the store cannot answer.  Times are
    seconds since the epoch.  ``worker`` is who asks, as ``new_worker`` names it.
    """

    async def start(self) -> None:
        """Make ready what is stored; may be called again."""

    async def begin(self, plan: Json, root: NewTask, *, worker: str, now: float) -> str:
        """Begin a sync with its whole task graph; its id, greater than every one before.

        Unfinished syncs that nobody works at are cancelled; SyncRunning when somebody does.
        """

    async def resume(self, sync: str, *, worker: str, now: float) -> ResumedSync:
        """Take over a sync that nobody works at: what was under way or paused is pending again.

        A task under way when its process died five times in a row is failed.  NotFound,
        SyncError when it has ended, SyncRunning when another worker is at it.
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

        Each settlement is stored as a whole or, when it fails, not at all: its outcome has the
        error, LeaseLost when the task is no longer this attempt's.  Containers whose children
        have ended end, and what waited for them begins or is failed as blocked.  With the last
        task the sync has its final status.  ``alone``: nothing else of the sync is under way,
        so that a task which was there when processes died may be given out, by itself.

        When this raises, nothing at all was stored: StorageError when the database failed,
        LeaseLost when the sync is no longer the worker's.
        """

    async def apply_command(self, sync: str, *, worker: str, now: float) -> Status:
        """Pause or cancel the sync as wanted, when nothing of it is under way; its status."""

    async def release(self, sync: str, *, worker: str, now: float) -> None:
        """Let go of a sync: what is under way is pending again, and anyone may resume."""

    async def request(self, sync: str, wanted: SyncCommand, *, now: float) -> None:
        """Ask whoever works at the sync to pause, cancel or go on; SyncError when it has ended."""

    async def unfinished(self, *, worker: str, now: float) -> str | None:
        """The newest sync that this worker could resume, or None; SyncRunning when another is at one."""

    async def runs(self, limit: int, *, now: float) -> list[SyncRun]:
        """The newest syncs, newest first."""

    async def result(self, sync: str, *, now: float) -> SyncResult:
        """What a sync has come to so far; NotFound."""

    async def prune(self) -> None:
        """Forget the tasks of finished syncs, and all but the newest hundred syncs."""
