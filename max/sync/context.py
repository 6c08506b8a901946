"""What the tasks of a sync share, and what each call of a loader gets.

Rule: a shared value loads in a task of its own, in the context in which the sync was begun, so
cancelling one waiter does not cancel the others.  Raw loaders that wait for each other are
refused, since they would wait for ever.
"""

from __future__ import annotations

import asyncio
import contextvars
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from operator import attrgetter
from typing import Any, cast

from ..connector import Connector
from ..core import Engine, SyncMeta
from ..errors import LoaderFault, NotFound, shown
from ..model.entities import E, V
from ..model.loaders import CollectionLoader, Env, In, Loader, Out, OutsideCall, RawLoader
from ..model.query import Query, QueryPage
from ..model.settings import DEFAULTS, Settings
from ..model.tasks import Task
from ..model.values import is_id
from ..upstream.conditions import Conditions, loading
from ..upstream.connector_code import is_raised_by_connector, our_storage
from ..upstream.credentials import CredentialProvider, MemoryCredentials
from ..upstream.operations import CallsStopped, Operation, OperationRunner
from .kept_files import KeepsFiles, KeptFiles

Clock = Callable[[], float]  # seconds since the epoch
MOMENT = 1e-6  # seconds; about the smallest difference between two times in this century


class RawCache:
    """The values of raw loaders in one sync: each loads once, however many tasks need it."""

    def __init__(self) -> None:
        self._loads: dict[RawLoader[Any, Any], asyncio.Task[Any]] = {}
        self._waits_for: dict[RawLoader[Any, Any], list[RawLoader[Any, Any]]] = {}
        self._context = contextvars.copy_context()

    async def get(self, loader: RawLoader[Any, V], env: LoaderEnv) -> V:
        """The value.  A failed load is forgotten, so the next task that needs it loads again.

        LoaderFault when a raw loader needs a value that waits for its own.
        """
        if isinstance(env.loader, RawLoader):
            self._refuse_circle(env.loader, loader)
        load = self._loads.get(loader)
        if load is None:
            load = asyncio.create_task(_loaded(loader, env.within(loader)), context=self._context.copy())
            self._loads[loader] = load
            load.add_done_callback(partial(self._forget_failure, loader))
        return cast(V, await asyncio.shield(load))

    def _refuse_circle(self, waiting: RawLoader[Any, Any], loader: RawLoader[Any, Any]) -> None:
        needed = [loader]
        for one in needed:
            needed += [other for other in self._waits_for.get(one, ()) if other not in needed]
        if waiting in needed:
            raise LoaderFault(
                f"raw loader {waiting.name} needs {loader.name}, which waits for {waiting.name}",
                hint="this is a bug of the connector: let one of them do without the other",
            )
        self._waits_for.setdefault(waiting, []).append(loader)

    def _forget_failure(self, loader: RawLoader[Any, Any], load: asyncio.Task[Any]) -> None:
        if load.cancelled() or load.exception() is not None:
            del self._loads[loader]

    async def close(self) -> None:
        """Cancel what is still loading."""
        loads = list(self._loads.values())
        for load in loads:
            load.cancel()
        await asyncio.gather(*loads, return_exceptions=True)


async def _loaded(loader: RawLoader[Any, V], env: LoaderEnv) -> V:
    try:
        return await loader.load(env)
    except BaseException as error:  # a task that raises SystemExit ends the loop
        passes = isinstance(error, Exception | asyncio.CancelledError | CallsStopped)
        if passes or not is_raised_by_connector(error):
            raise
        raise LoaderFault(
            f"raw loader {loader.name} raised {type(error).__name__}", hint="this is a bug of the connector"
        ) from error


class LoaderEnv(Env[Any]):
    """What a call of ``loader`` gets that begins at ``at``."""

    def __init__(
        self,
        context: SyncContext,
        task: Task,
        cache: RawCache,
        at: float,
        loader: Loader[Any],
    ) -> None:
        self._sync_context, self._task, self._cache = context, task, cache
        self._at, self.loader = at, loader
        self.is_stopped = False  # a call that it asked for did not begin, since the sync pauses
        self.conditions = Conditions() if isinstance(loader, CollectionLoader) else None  # of the page

    def within(self, loader: RawLoader[Any, Any]) -> LoaderEnv:
        """The same for a raw loader that loads for this task."""
        return LoaderEnv(self._sync_context, self._task, self._cache, self._at, loader)

    context = property(attrgetter("_sync_context.context"))
    installation = property(attrgetter("_sync_context.installation"))
    version = property(attrgetter("_sync_context.connector.version"))
    sync = property(attrgetter("_task.sync"))
    task = property(attrgetter("_task.id"))
    attempt = property(attrgetter("_task.attempt"))

    @property
    def deadline(self) -> float:
        """The setting ``loader_minutes`` after the call began."""
        return self._at + 60 * self._sync_context.settings.loader_minutes

    def entity(self, entity: type[E]) -> type[E]:
        """The entity as this installation has it."""
        own = self._sync_context.connector.schema.own(entity)
        if own is None:
            raise LoaderFault(f"{shown(entity)} is not an entity of {self._sync_context.connector.name}")
        return own

    async def run(self, operation: OutsideCall[Any, In, Out], input: In) -> Out:
        """Run an operation with its limit, its retries and its own deadline."""
        if not isinstance(operation, Operation):
            raise LoaderFault(f"{operation!r} is no operation", hint="decorate it with @operation(…)")
        connector = self._sync_context.connector
        if operation not in connector.operations:
            raise LoaderFault(
                f"{connector.name} does not declare the operation {operation.name}",
                hint="it was not run; add it to the connector's operations=",
            )
        with loading(self.conditions, operation):
            running = self._sync_context.runner.run(operation, self.context, input, env=self)
            return cast(Out, await self._noticed(running))

    @property
    def is_unchanged(self) -> bool:
        """Whether the service said that the page is as it was."""
        return self.conditions is not None and self.conditions.is_unchanged

    async def raw(self, loader: RawLoader[Any, V]) -> V:
        """The value of a raw loader, loaded once in a sync."""
        if self.conditions is not None:
            self.conditions.calls += 1
        return cast(V, await self._noticed(self._cache.get(loader, self)))

    async def stored(self, entity: type[E], id: str) -> E:
        """A row as it is stored now; NotFound when it is not stored."""
        context, who = self._sync_context, f"{self._sync_context.connector.name}: loader {self.loader.name}"
        if context.connector.schema.own(entity) is None or not is_id(id):
            raise LoaderFault(
                f"{who} asked for a stored row of {shown(entity)} with the id {shown(id)}",
                hint="env.stored takes an entity of the schema and an id: env.stored(Repository, parent.id)",
            )
        try:
            with our_storage():
                return await context.engine.load(entity.ref(id))
        except NotFound:
            hint = f"{who} asked for it: an earlier step must bring it, unless it is gone upstream"
            raise NotFound(entity.__name__, id, hint=hint) from None

    async def fetch(self, query: Query[E]) -> QueryPage[E]:
        """Stored rows as they are now."""
        with our_storage():
            return await self._sync_context.engine.fetch(query)

    async def keep(self, data: bytes) -> str:
        """Keep content in a file beside the database."""
        with our_storage():
            return await self._sync_context.files.keep(data)

    async def _noticed(self, calling: Awaitable[Any]) -> Any:
        """A response; that a call did not begin is remembered, whatever the loader makes of it."""
        try:
            return await calling
        except CallsStopped:
            self.is_stopped = True
            raise


class MonotonicClock:
    """Gives times that strictly increase, even when the clock stops or is set back.

    Deletion detection compares the times of requests, so no two may be equal.
    """

    def __init__(self) -> None:
        self._next = 0.0  # seconds since the epoch

    def next(self, now: float) -> float:
        """The time now, or the earliest one that is later than all before."""
        at = now if now > self._next else self._next
        self._next = at + MOMENT
        return at

    def begin_after(self, latest: float) -> None:
        """Give only times later than ``latest`` from here on; nothing may be under way."""
        self._next = latest + MOMENT


@dataclass(frozen=True)
class SyncContext:
    """What all tasks of an installation share.

    ``context`` is what ``initialise`` built, and ``source`` names what it was built for: what is
    known of another one's listings does not count.  ``credentials`` keep secrets out of what is
    stored.
    """

    installation: str
    connector: Connector[Any, Any]
    context: Any
    engine: Engine
    meta: SyncMeta
    runner: OperationRunner
    clock: Clock = time.time
    jitter: Callable[[], float] = random.random
    settings: Settings = DEFAULTS
    source: str = ""
    conditional: bool = True  # pages may be asked for with conditions
    credentials: CredentialProvider = field(
        default_factory=lambda: CredentialProvider(MemoryCredentials(), [])
    )
    requests: MonotonicClock = field(default_factory=MonotonicClock)
    files: KeepsFiles = field(default_factory=KeptFiles)

    def now(self) -> float:
        """When a request begins or a response has come: later than every one before."""
        return self.requests.next(self.clock())
