"""The runtime of one installation: which parts there are, and in which order they start.

Database, engine, recording, installation (the connector's clients), executor: started in this order
and stopped in reverse, so that no worker ever meets a closed client or a closed database.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

from .connector import Connector, Installation
from .core import Engine, InstallationInfo, Lifecycle, SyncOptions
from .engine import SqliteEngine, SqliteSyncMeta
from .errors import SyncError
from .execution import NO_OPTIONS, SyncContext, SyncExecutor, SyncHandle, not_started
from .storage.sqlite import SqliteDatabase
from .storage.sync_log import options_of, refuse_while_syncing
from .storage.task_store import SqliteTaskStore
from .sync.task_graph import asked
from .upstream.credentials import CredentialProvider
from .upstream.recording import LiveAccess, UpstreamAccess


class LifecycleManager:
    """Starts services in order and stops them in reverse; itself a service."""

    def __init__(self, *services: Lifecycle) -> None:
        self._services = services
        self._running = AsyncExitStack()

    async def start(self) -> None:
        """Start every service; when one fails, stop those before it."""
        async with AsyncExitStack() as started:
            for service in self._services:
                await service.start()
                started.push_async_callback(service.stop)
            self._running = started.pop_all()

    async def stop(self) -> None:
        """Stop what was started, the last first; one that fails does not keep the others."""
        running, self._running = self._running, AsyncExitStack()
        await running.aclose()


class InstallationRuntime:
    """One installation at work: its engine, and its syncs.

    ``config`` is the connector's configuration as ``read_config`` gives it.  The runtime opens
    the file ``database`` (or ``":memory:"``), which it creates when there is none.  ``recording`` is a
    Recording of what the installation asks outside, or a Replay that answers in its stead.
    """

    def __init__(
        self,
        info: InstallationInfo,
        connector: Connector[Any, Any],
        config: object,
        credentials: CredentialProvider,
        database: Path | str,
        *,
        recording: UpstreamAccess | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.info, self.recording = info, recording or LiveAccess()
        self._connector, self._clock = connector, clock
        self._database = SqliteDatabase(database)
        self._engine = SqliteEngine(
            self._database,
            connector.schema,
            connector.resolver.load_groups,
            connector.resolver,
            settings=info.settings,
            policy=connector.policy.replace(check_idle=partial(refuse_while_syncing, clock=clock)),
            clock=clock,
        )
        self._connection = _Connection(info, connector, config, credentials, self.recording)
        self._execution = _Execution(self)
        self._parts = LifecycleManager(
            self._database, self._engine, self.recording, self._connection, self._execution
        )
        self._loop: asyncio.AbstractEventLoop | None = None
        self._locks: dict[str, asyncio.Lock] = {}
        self._started = False
        self.started_at = 0.0  # seconds since the epoch; 0 while it is stopped

    @property
    def engine(self) -> Engine:
        """Where the installation's entities are asked for."""
        return self._engine

    async def start(self) -> None:
        """Start every part in order; when one fails, none is left."""
        async with self._one_at_a_time("start"):
            if not self._started:
                await self._parts.start()
                self._started, self.started_at = True, self._clock()

    async def stop(self) -> None:
        """Stop every part in reverse; a sync that is under way is interrupted and can be resumed."""
        async with self._one_at_a_time("start"):
            self._started, self.started_at = False, 0.0
            await self._parts.stop()

    def _one_at_a_time(self, what: str) -> asyncio.Lock:
        """The lock of what must not be done twice at once; a runtime outlives the loops that use it."""
        if self._loop is not asyncio.get_running_loop():
            self._loop, self._locks = asyncio.get_running_loop(), {}
        return self._locks.setdefault(what, asyncio.Lock())

    async def sync(
        self, options: SyncOptions = NO_OPTIONS, *, discard_unfinished: bool = False
    ) -> SyncHandle:
        """Begin a sync, and return at once.

        The one that is under way here is joined; one that was interrupted or paused goes on,
        or with ``discard_unfinished`` is given up.  SyncRunning when another process is at it, SyncError
        when options are given and one is to go on that was begun with others.
        """
        async with self._one_at_a_time("sync"):
            executor, options = self._execution.executor, self.recording.scope(options)
            running = executor.running.id if executor.running is not None else await executor.unfinished()
            if running is not None and not discard_unfinished and options != NO_OPTIONS:
                await self._refuse_others(running, options)
            if executor.running is not None:
                return executor.running
            await self._database.transact(self.recording.admit)
            if running is not None and not discard_unfinished:
                return await executor.resume(running)
            with executor.surroundings.caller.at_hand():
                plan = await self._connector.seeder(self._connection.context, self._engine)
            return await executor.begin(plan, options)

    async def _refuse_others(self, sync: str, options: SyncOptions) -> None:
        if asked(options) != await self._database.read(lambda connection: options_of(connection, sync)):
            raise SyncError(
                f"sync {sync} of {self.info} has not ended, and was begun with other options",
                hint=f"finish it with: max resume {self.info}, or add --discard-unfinished",
            )

    async def retry_failed(self, sync: str | None = None) -> SyncHandle:
        """Begin a sync of just what failed in the newest one, or in that of an id or its beginning."""
        async with self._one_at_a_time("sync"):
            executor = self._execution.executor
            await self._database.transact(self.recording.admit)
            return await executor.retry(sync)

    async def health(self) -> str:
        """One line about the connection; raises what is wrong with it."""
        return await self._connection.health()


class _Connection:
    """The connector's live installation, as a service."""

    def __init__(
        self,
        info: InstallationInfo,
        connector: Connector[Any, Any],
        config: object,
        credentials: CredentialProvider,
        recording: UpstreamAccess,
    ) -> None:
        self._info, self._connector, self._recording = info, connector, recording
        self._config, self._credentials = config, credentials
        self._installation: Installation[Any] | None = None

    @property
    def context(self) -> Any:
        """What ``initialise`` built."""
        return self._live().context

    @property
    def renew(self) -> Callable[[], Awaitable[None]] | None:
        """How the connector gets a new credential, when it can."""
        return self._live().renew

    async def start(self) -> None:
        """Initialise the connector and start its clients, unless a recording answers in their stead."""
        credentials = await self._recording.provide(self._info, self._connector, self._credentials)
        installation = await self._connector.initialise(self._config, credentials)
        async with AsyncExitStack() as undo:
            if installation.stop is not None:  # it closes what initialise has opened, too
                undo.push_async_callback(installation.stop)
            if installation.start is not None and self._recording.live:
                await installation.start()
            undo.pop_all()
        self._installation = installation

    async def stop(self) -> None:
        """Stop the connector's clients."""
        installation, self._installation = self._installation, None
        if installation is not None and installation.stop is not None:
            await installation.stop()

    async def health(self) -> str:
        """What the connector says of itself."""
        health = self._live().health
        return "no check" if health is None else await health()

    def _live(self) -> Installation[Any]:
        if self._installation is None:
            raise not_started()
        return self._installation


class _Execution:
    """The executor, which can only be built once the connection has a context."""

    def __init__(self, runtime: InstallationRuntime) -> None:
        self._runtime = runtime
        self._executor: SyncExecutor | None = None

    @property
    def executor(self) -> SyncExecutor:
        """The executor of the started runtime."""
        if self._executor is None:
            raise not_started()
        return self._executor

    async def start(self) -> None:
        """Build the executor and start it."""
        runtime = self._runtime
        surroundings = SyncContext(
            installation=runtime.info.id,
            connector=runtime._connector,
            context=runtime._connection.context,
            engine=runtime._engine,
            meta=SqliteSyncMeta(runtime._database, runtime._engine.tables),
            caller=runtime.recording.caller(runtime._connection.renew),
            clock=runtime._clock,
            draw=runtime.recording.draw,
            settings=runtime.info.settings,
        )
        store = SqliteTaskStore(runtime._database, version=runtime._connector.version)
        executor = SyncExecutor(store, surroundings, after=runtime._engine.tidy)
        await executor.start()
        self._executor = executor

    async def stop(self) -> None:
        """Stop the executor."""
        executor, self._executor = self._executor, None
        if executor is not None:
            await executor.stop()
