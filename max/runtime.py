"""The runtime of one installation: which parts there are, and in which order they start.

Database, engine, recording, connection (the connector's clients), executor: started in this order
and stopped in reverse, so that no task meets a closed client or a closed database.  This module
alone builds them: no part makes another.
"""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    asynccontextmanager,
    contextmanager,
    suppress,
)
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any, NamedTuple

from .connector import Connector, Installation
from .core import (
    Audit,
    Engine,
    InstallationInfo,
    Lifecycle,
    Runtime,
    SyncLease,
    SyncMeta,
    SyncOptions,
    logger,
)
from .engine import DatabaseEngine, DatabaseSyncMeta
from .errors import (
    HookRefused,
    LoaderFault,
    MaxError,
    SchemaError,
    StorageError,
    SyncError,
    SyncRunning,
    UpstreamError,
    UsageError,
)
from .execution import NO_AUDIT, NO_LEASE, NO_OPTIONS, SyncContext, SyncExecutor, SyncHandle, not_started
from .installations.files import KEPT
from .model.account_fields import with_found
from .model.actor import acting_as
from .model.delivery import Delivery
from .model.entities import Entity, FieldOf, ManyOf, Ref
from .model.filters import Filter
from .model.hooks import COUNTED, HookReceipt, HookState, HookWork, PendingHook, ReadHook, collapse
from .model.middleware import Middleware
from .model.periods import parse_duration
from .model.plan import Step, SyncPlan
from .model.schema import Schema
from .model.tasks import HEARTBEAT, Status, SyncCommand, SyncResult, SyncRun
from .model.text_search import LIMIT, Found
from .query.ages import FieldAge, ages
from .query.find import find_in
from .query.maintenance import Invalidation, mark_stale, words_of
from .storage import inbox
from .storage.database import Connection, Database
from .storage.kept_files import StoredFiles
from .storage.leases import new_worker
from .storage.provenance import admit_sync
from .storage.sync_log import options_of, refuse_while_syncing
from .storage.task_store import DatabaseTaskStore
from .sync.hook_worker import HookWorker
from .sync.kept_files import KeepsFiles, KeptFiles
from .sync.task_graph import expand, options_json
from .upstream.connector_code import BUG, connector_code, place_of, returned
from .upstream.credentials import CredentialProvider, Secret
from .upstream.operations import Call, FlowController
from .upstream.recording import CallsOf, Source, UpstreamAccess
from .upstream.webhooks import Hook, HookChanges, Webhook, digest_of

ROOTS = 500  # looked up in one query
SECRET_KEPT = 10.0  # seconds for which the secret of hooks is not read again, whatever comes
HOOKS_AT_ONCE = 500  # that one sync is for
WAIT_FOR_SYNC = 2.0  # seconds between two looks at a sync for which hooks wait
LOOK = 0.2  # seconds between two looks at a sync of another process that is to stop

log = logger("runtime")


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


class InstallationRuntime(Runtime):
    """One installation at work: its engine, and its syncs.

    ``config`` is the connector's configuration as ``read_config`` gives it.  The runtime starts and
    stops ``database``; contents that loaders keep lie beside its file, or on a server in it.
    ``recording`` is a Recording of every call to the service, or a Replay that answers instead.
    ``flow`` decides when calls may begin; without one, the limits that the operations declare apply.
    ``middlewares`` are around every attempt of every operation.  ``audit`` records who begins syncs and
    what else changes.  Syncs run under the ``lease``, where processes of several hosts may sync the
    installation.
    """

    def __init__(
        self,
        info: InstallationInfo,
        connector: Connector[Any, Any],
        config: object,
        credentials: CredentialProvider,
        database: Database,
        *,
        recording: UpstreamAccess | None = None,
        flow: FlowController | None = None,
        middlewares: Sequence[Middleware[Call]] = (),
        clock: Callable[[], float] = time.time,
        audit: Audit = NO_AUDIT,
        lease: SyncLease = NO_LEASE,
    ) -> None:
        self._info, self.recording = info, recording or UpstreamAccess()
        self._started_at = 0.0
        self.flow, self._connector, self._clock, self._audit = flow, connector, clock, audit
        self._calls = CallsOf(info.id, tuple(middlewares))
        self._files = _files_of(database)
        self._database, self.lease = database, lease
        self._engine = DatabaseEngine(
            self._database,
            connector.resolver,
            settings=info.settings,
            policy=connector.policy.replace(check_idle=partial(refuse_while_syncing, clock=clock)),
            clock=clock,
            mask=credentials.redactor.facts,
        )
        self._meta = DatabaseSyncMeta(self._database, self._engine)
        self._store = DatabaseTaskStore(self._database, version=connector.version)
        self._config, self._credentials = config, credentials
        self._hooks = HookWorker(self._work_through_hooks, str(info))
        self._hook_secret: tuple[Secret | None, float] = (None, -math.inf)  # and when it was read
        self._services = LifecycleManager(self._database, self._engine, self.recording)
        self._started = AsyncExitStack()  # what stop() undoes
        self._live: _Live | None = None
        self._repeated: set[RepeatedSync] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._locks: dict[str, asyncio.Lock] = {}

    def __repr__(self) -> str:
        running = self._live.executor.running if self._live else None
        state = f"sync {running.id} is running" if running else "started" if self._live else "stopped"
        return f"{type(self).__name__}({self.info}, {state})"

    @property
    def info(self) -> InstallationInfo:
        """The installation, as it was when the runtime was made."""
        return self._info

    @property
    def started_at(self) -> float:
        """Since when it works, in seconds since the epoch; 0 while it is stopped."""
        return self._started_at

    @property
    def latest(self) -> SyncHandle | None:
        """The sync that runs here, or that ran last; None when none has begun."""
        return self._live.executor.latest if self._live else None

    @property
    def engine(self) -> Engine:
        """Answers queries about the installation's entities."""
        return self._engine

    @property
    def sync_meta(self) -> SyncMeta:
        """Knows when each field of each entity was last synced."""
        return self._meta

    async def start(self) -> None:
        """Start every part in order; when one fails, none stays started."""
        async with self._lock("start"), AsyncExitStack() as started:
            if self._live is None:
                await self._services.start()
                started.push_async_callback(self._services.stop)
                self._live = await self._connect(started)
                self._started, self._started_at = started.pop_all(), self._clock()

    async def _connect(self, started: AsyncExitStack) -> _Live:
        """Start the connector's clients, unless a replay answers instead, and the executor."""
        info, connector = self.info, self._connector
        source = Source(
            *(connector.name, connector.version, info.id, info.config),
            *(connector.schema, connector.credentials),
        )
        credentials = await self.recording.provide(source, self._credentials)
        async with self._beginning("initialise", credentials):
            made = await connector.initialise(self._config, credentials)
            installation = returned(
                *(connector.name, "initialise", "an Installation", Installation, made),
                by=connector.initialise,
            )

        async def stop(of: Callable[[], Awaitable[None]]) -> None:
            with self._connector_code("stop", credentials):
                await of()

        if installation.stop is not None:  # it closes what initialise has opened, too
            started.push_async_callback(stop, installation.stop)
        if installation.start is not None and self.recording.replay_of is None:
            async with self._beginning("start", credentials):
                await installation.start()
        context = SyncContext(
            installation=self.info.id,
            connector=connector.within(self._engine.tables.resolver),
            context=installation.context,
            engine=self._engine,
            meta=self._meta,
            runner=self.recording.runner(installation.renew, self.flow, self._calls),
            clock=self._clock,
            jitter=self.recording.jitter,
            settings=self.info.settings,
            conditional=self.recording.asks_conditions,
            source=json.dumps(dict(self.info.config), sort_keys=True, default=dict),
            credentials=credentials,
            files=self._files,
        )
        worker = await self._database.read(lambda _: new_worker())  # reads /proc, beside the loop
        heartbeat = getattr(self._clock, "heartbeat", HEARTBEAT)  # in fake time, each one takes real time
        executor = SyncExecutor(
            self._store,
            context,
            worker=worker,
            after=self._engine.tidy,
            heartbeat=heartbeat,
            audit=self._audit,
            lease=self.lease,
        )
        await executor.start()
        started.push_async_callback(executor.stop)
        return _Live(installation, executor)

    async def stop(self) -> None:
        """Stop every part in reverse; a sync under way is interrupted and can be resumed."""
        for repeated in list(self._repeated):
            await repeated.stop()
        await self._hooks.stop()
        async with self._lock("start"):
            self._live, self._started_at = None, 0.0
            started, self._started = self._started, AsyncExitStack()
            await started.aclose()

    def _lock(self, name: str) -> asyncio.Lock:
        """A lock of the running loop; a runtime may be used from one loop after another."""
        if self._loop is not asyncio.get_running_loop():
            self._loop, self._locks = asyncio.get_running_loop(), {}
        return self._locks.setdefault(name, asyncio.Lock())

    # -- syncing ---------------------------------------------------------------------------

    async def sync(
        self,
        options: SyncOptions = NO_OPTIONS,
        *,
        discard_unfinished: bool = False,
        schedule: str | None = None,
    ) -> SyncHandle:
        """Begin a sync, and return at once.

        A sync under way here is joined.  An interrupted or paused one goes on, unless
        ``discard_unfinished``.  SyncRunning while another process syncs; SyncError when options
        are given and the sync that would be joined or go on was begun with others.

        ``schedule`` is the name of the schedule that asks.  Its sync yields to all that ask without one:
        it is cancelled, and what it has stored stays.  With the same options it is joined, or in another
        process waited for.
        """
        by = {} if schedule is None else {"schedule": schedule}
        async with self._audit.call("sync", **options_json(options), **by) as facts:
            handle = await self._begin(options, discard_unfinished, schedule)
            facts["sync"] = handle.id
            return handle

    async def _begin(
        self, options: SyncOptions, discard_unfinished: bool, schedule: str | None
    ) -> SyncHandle:
        async with self._lock("sync"):
            options = self.recording.sync_options(options)
            await self._make_room(self._at_work().executor, options, schedule)
            async with self.lease:
                return await self._begin_leased(options, discard_unfinished, schedule)

    async def _begin_leased(
        self, options: SyncOptions, discard_unfinished: bool, schedule: str | None
    ) -> SyncHandle:
        installation, executor = self._at_work()
        unfinished = executor.running.id if executor.running else await executor.unfinished()
        if unfinished is not None and executor.running is None and await self._is_of_hooks(unfinished):
            unfinished = None  # the inbox still has them
        if unfinished is not None and not discard_unfinished and options != NO_OPTIONS:
            await self._refuse_other_options(unfinished, options)
        if executor.running is not None:
            return executor.running
        await self._admit(options)
        if unfinished is not None and not discard_unfinished:
            return await executor.resume(unfinished)
        async with self._beginning("discover", executor.context.credentials, schedule):
            notes = await self._discover(installation, executor)
        async with self._beginning("seeder", executor.context.credentials, schedule):
            plan = await self._seed(installation, executor)
        return await executor.begin(plan, options, notes, schedule)

    async def _make_room(self, executor: SyncExecutor, options: SyncOptions, schedule: str | None) -> None:
        """Wait for what need not be joined: a sync that has ended and tidies up, or one of hooks."""
        before = executor.running
        if before is not None and (await before.status()).status.final:
            await self._wait_for(before)
        if schedule is None:
            await self._displace_schedule(executor, options)
        elif executor.running is not None and await self._is_of_hooks(executor.running.id):
            await self._wait_for(executor.running)

    async def _wait_for(self, handle: SyncHandle) -> None:
        """Wait for the end of a sync, whatever it is."""
        with suppress(MaxError):
            await handle.completion()

    async def _displace_schedule(self, executor: SyncExecutor, options: SyncOptions | None) -> None:
        """Cancel a scheduled sync, in any process, unless it fetches the same; then wait for its end.

        One that runs here and fetches the same goes on: it will be joined.
        """

        async def running() -> SyncRun | None:
            newest = await self._store.runs(1, now=self._clock())
            return next((one for one in newest if one.schedule and one.status is Status.RUNNING), None)

        found, here = await running(), executor.running
        if found is None:
            return
        of_found = await self._database.read(lambda known: options_of(known, found.id))
        is_same = options is not None and options_json(options) == of_found
        if is_same and here is not None:
            return
        if not is_same:
            with suppress(SyncError):  # it has just ended
                await self._store.request(found.id, SyncCommand.CANCEL, now=self._clock())
        if here is not None:
            here.wake()
            with suppress(MaxError):
                await here.completion()
        while (now := await running()) is not None and now.id == found.id:  # noqa: ASYNC110 - of any process
            await asyncio.sleep(LOOK)

    async def _discover(self, installation: Installation[Any], executor: SyncExecutor) -> Sequence[str]:
        """Take up the fields that the account has of its own by now; notes about what hindered that.

        What cannot be read or stored leaves the fields as they are known: it does not stop the sync.
        """
        connector, context, discover = self._connector, executor.context, self._connector.discover
        if discover is None:
            return ()
        try:
            with context.runner.activate():
                found = await discover(installation.context)
            present = self._engine.tables.resolver
            resolver, notes = with_found(connector.resolver, present, found)
            if resolver is not present:
                await self._engine.adopt(resolver)
                connector = connector.within(self._engine.tables.resolver)
                executor.context = replace(context, connector=connector)
        except (UpstreamError, SchemaError, StorageError) as error:
            notes = [f"the account's own fields stay as they were known: {error.message}"]
        return [context.credentials.redactor.message(note) for note in notes]

    async def _seed(self, installation: Installation[Any], executor: SyncExecutor) -> SyncPlan:
        """What the seeder returns, once it is certain that every step of it can begin."""
        name, seeder = self._connector.name, self._connector.seeder
        with executor.context.runner.activate():
            made = await seeder(installation.context, self._engine)
        plan = returned(name, "seeder", "a SyncPlan", SyncPlan, made, seeder)
        try:
            expand(plan, executor.context.connector.resolver, NO_OPTIONS, now=0.0)
        except (UsageError, SchemaError) as error:
            words = (
                f"{name}: seeder returned a plan that cannot be followed: {error.message}{place_of(seeder)}"
            )
            raise LoaderFault(words, hint=f"{BUG}: {error.hint}", connector=name) from error
        for root in await self._unknown_roots(executor.context.connector.schema, plan):
            raise LoaderFault(
                f"{name}: seeder returned a plan for {root}, which is not stored{place_of(seeder)}",
                hint=f"{BUG}: store it first, with await store.store({root.entity.__name__}({root.id!r}))",
                connector=name,
            )
        return plan

    async def _unknown_roots(self, schema: Schema, plan: SyncPlan) -> list[Ref[Any]]:
        """The roots whose collections a plan lists, and which nothing stores."""
        steps = plan.flat()
        fetched = {(step.entity, step.id) for step in steps if step.operation == "load_fields"}
        named = {(step.entity, step.id) for step in steps if step.id is not None} - fetched
        unknown = []
        for entity in schema.roots:
            key: FieldOf[Any, str] = FieldOf(entity, "id")
            ids = sorted(id for name, id in named if name == entity.__name__)
            for chunk in (ids[n : n + ROOTS] for n in range(0, len(ids), ROOTS)):
                known = self._engine.query(entity).where(key.is_in(chunk)).select()
                stored = {one.id for one in await known.all()}
                unknown += [entity.ref(id) for id in chunk if id not in stored]
        return unknown

    @asynccontextmanager
    async def _beginning(
        self, what: str, credentials: CredentialProvider, schedule: str | None = None
    ) -> AsyncIterator[None]:
        """As _connector_code; a failure is recorded as a sync that failed before its first task."""
        try:
            with self._connector_code(what, credentials):
                yield
        except StorageError:
            raise
        except MaxError as error:
            error.locate(f"{self._connector.name}: {what}")
            with suppress(StorageError):
                await self._store.record_failure(what, error, now=self._clock(), schedule=schedule)
            raise

    async def _admit(self, options: SyncOptions) -> None:
        """Let a sync begin here; RecordingError when synced and replayed rows would mix."""
        schema, replay_of = self._connector.schema, self.recording.replay_of
        was_empty = await self._database.transact(lambda known: admit_sync(known, schema, replay_of))
        self.recording.begin(options, was_empty=was_empty)

    async def _refuse_other_options(self, sync: str, options: SyncOptions) -> None:
        if options_json(options) != await self._database.read(lambda known: options_of(known, sync)):
            raise SyncError(
                f"sync {sync} of {self.info} has not ended, and was begun with other options",
                hint=f"finish it with: max resume {self.info}; or add --discard-unfinished to max sync",
            )

    async def retry_failed(self, sync: str | None = None) -> SyncHandle:
        """Begin a sync of just what failed in the newest one, or in that of an id or its beginning."""
        async with self._audit.call("retry_failed", of=sync or "") as facts, self._lock("sync"):
            executor = self._at_work().executor
            await self._displace_schedule(executor, None)
            async with self.lease:
                await self._admit(NO_OPTIONS)
                handle = await executor.retry(sync)
            facts["sync"] = handle.id
            return handle

    def sync_every(
        self, interval: float | str | timedelta, options: SyncOptions = NO_OPTIONS
    ) -> RepeatedSync:
        """Sync at once, and then again and again: ``runtime.sync_every("10m")``, in the running loop.

        ``interval`` is a text such as "90s", "10m" or "2h", seconds, or a timedelta, from the
        beginning of one sync to the beginning of the next.  ValueError or TypeError for anything
        else.  It goes on until it is stopped, or the runtime is.
        """
        seconds = interval_seconds(interval)
        self._at_work()

        async def sync() -> SyncResult:
            return await (await self.sync(options)).completion()

        repeated = RepeatedSync(sync, seconds, str(self.info))
        self._repeated.add(repeated)
        repeated.task.add_done_callback(lambda _: self._repeated.discard(repeated))
        return repeated

    # -- hooks -----------------------------------------------------------------------------

    async def receive_hook(self, headers: Mapping[str, str], body: bytes) -> HookReceipt:
        """Take what the service has sent by itself: durable when this returns, and fetched soon.

        HookRefused when the service has not signed it, or the connector has no webhooks; LoaderFault
        when the connector cannot read it; DaemonBusy when too many wait.
        """
        executor, webhook, now = self._at_work().executor, self._connector.webhook, self._clock()
        if webhook is None:
            raise HookRefused(f"{self._connector.name} has no webhooks", status=404)
        headers = {name.lower(): value for name, value in headers.items()}
        await self._check_signature(webhook, headers, body)
        hook = webhook.read(headers, body)
        if not webhook.is_timely(hook, now):
            return HookReceipt(HookState.LATE)
        with self._connector_code("webhook", executor.context.credentials):
            found = self._hook_changes(executor.context.connector, webhook, hook)
        if not found.steps and not found.removed:
            return HookReceipt(HookState.IGNORED)
        removed = [(ref.entity.__name__, ref.id) for ref in found.removed]
        read = ReadHook(webhook.id_of(hook, body), digest_of(body), [*found.steps], removed)
        with acting_as("hook"):
            async with self._audit.call("receive_hook") as facts:
                receipt = await self._database.transact(lambda known: inbox.store(known, read, now=now))
                facts |= {"state": str(receipt.state), "number": receipt.number}
        await self.process_hooks()
        return receipt

    async def process_hooks(self) -> None:
        """Fetch what stored hooks say, in the background; returns at once."""
        self._at_work()
        self._hooks.wake()

    async def hooks_done(self) -> None:
        """Wait until no hook is left that can be worked through."""
        await self._hooks.idle()

    async def _check_signature(self, webhook: Webhook, headers: Mapping[str, str], body: bytes) -> None:
        """HookRefused unless the service has signed a body; a secret that was changed is read again."""
        secret, read_at = self._hook_secret
        if secret is not None:
            try:
                return webhook.check(secret, headers, body)
            except HookRefused:
                if 0 <= self._clock() - read_at < SECRET_KEPT:
                    raise
        elif 0 <= self._clock() - read_at < SECRET_KEPT:
            raise no_hook_secret(self.info, webhook)
        secret = await self._credentials.find(webhook.secret)
        self._hook_secret = secret, self._clock()
        if secret is None or not secret.reveal():  # anyone can sign with an empty one
            self._hook_secret = None, self._clock()
            raise no_hook_secret(self.info, webhook)
        return webhook.check(secret, headers, body)

    def _hook_changes(self, connector: Connector[Any, Any], webhook: Webhook, hook: Hook) -> HookChanges:
        """What the connector reads in a hook, checked; LoaderFault when it cannot be followed."""
        made = webhook.changes(hook)
        found = returned(self._connector.name, "webhook", "HookChanges", HookChanges, made, webhook.changes)
        plan, where = SyncPlan(found.steps), place_of(webhook.changes)
        try:
            expand(plan, connector.resolver, NO_OPTIONS, now=0.0)
            many = [step for step in plan.flat() if step.id is None or step.operation == "follow"]
            unknown = [ref for ref in found.removed if connector.schema.own(ref.entity) is None]
        except (UsageError, SchemaError, AttributeError) as error:
            said = getattr(error, "message", str(error))
            raise LoaderFault(
                f"{connector.name}: webhook cannot be followed: {said}{where}", hint=BUG
            ) from error
        if many or unknown:
            wrong = many[0] if many else unknown[0]
            raise LoaderFault(
                f"{connector.name}: webhook named {wrong}{where}",
                hint=f"{BUG}: a step is for one row, and what is removed is of the schema",
            )
        return HookChanges(plan.flat(), found.removed)

    async def _is_of_hooks(self, sync: str) -> bool:
        return COUNTED in await self._database.read(lambda known: options_of(known, sync))

    async def _work_through_hooks(self) -> float | None:
        """Fetch what some hooks say, once no other sync has to end first.

        The seconds until it is to be called again; None when no hook is left.
        """
        executor, now = self._at_work().executor, self._clock()
        if executor.running is not None:
            await self._wait_for(executor.running)
        async with self._lock("sync"):
            if executor.running is not None or await self._must_wait(executor):
                return WAIT_FOR_SYNC
            hooks = await self._database.read(lambda known: inbox.pending(known, HOOKS_AT_ONCE, now=now))
            if not hooks:
                due = await self._database.read(inbox.due_at)
                return None if due is None else max(LOOK, due - now)
            try:
                with acting_as("hook"):
                    handle = await self._refetch(executor, collapse(hooks))
            except StorageError:
                raise
            except SyncRunning:  # another host has begun one
                return WAIT_FOR_SYNC
            except MaxError as error:
                await self._end_hooks(hooks, error.message)
                return LOOK
        await self._end_refetch(hooks, None if handle is None else await handle.completion())
        return LOOK

    async def _end_refetch(self, hooks: Sequence[PendingHook], result: SyncResult | None) -> None:
        """Note what became of hooks whose sync has ended; None: there was nothing to fetch."""
        if result is None or result.status is Status.COMPLETED:
            await self._end_hooks(hooks)
        elif result.status.final and not await self._has_yielded(result):
            said = result.failures[0].message if result.failures else str(result.status)
            await self._end_hooks(hooks, said)

    async def _has_yielded(self, result: SyncResult) -> bool:
        """Whether a sync of hooks was cancelled for a sync of a person, after which it comes again."""
        async with self._lock("sync"):
            newest = (await self._store.runs(1, now=self._clock()))[0].id
        return result.status is Status.CANCELLED and newest != result.id

    async def _must_wait(self, executor: SyncExecutor) -> bool:
        """Whether another process syncs, or an unfinished sync would be lost if another began."""
        try:
            unfinished = await executor.unfinished()
        except SyncRunning:
            return True
        return unfinished is not None and not await self._is_of_hooks(unfinished)

    async def _end_hooks(self, hooks: Sequence[PendingHook], error: str | None = None) -> None:
        now, redactor = self._clock(), self._credentials.redactor

        def work(connection: Connection) -> None:
            if error is None:
                inbox.done(connection, [one.number for one in hooks], now=now)
            else:
                inbox.failed(connection, hooks, redactor.message(error), now=now)

        await self._database.transact(work)

    async def _refetch(self, executor: SyncExecutor, work: HookWork) -> SyncHandle | None:
        """Remove what is gone and begin a sync of the rest, as far as it is copied here."""
        schema, engine = executor.context.connector.schema, self._engine
        refs = [schema.entity(entity).ref(id) for entity, id in work.removed]
        steps = [step for step in work.steps if await self._is_copied(schema, step)]

        async def gone() -> None:
            at = executor.context.now()
            await self._database.transact(
                engine.prepare_write(Delivery((), at, removed=refs, received_at=at))
            )

        async with self._audit.call("sync", hooks=len(work.numbers)) as facts:
            await self._admit(NO_OPTIONS)
            handle = await executor.refetch(SyncPlan(steps), len(work.numbers), gone if refs else None)
            if handle is not None:
                facts["sync"] = handle.id
            return handle

    async def _is_copied(self, schema: Schema, step: Step) -> bool:
        """Whether a step is about a row, or a collection, of which something was fetched before."""
        ref = schema.entity(step.entity).ref(step.id or "")
        if step.operation == "load_collection":
            state = await self._meta.listing_state(ref, ManyOf(ref.entity, step.names[0]))
            return state.listed_at is not None
        fields: list[FieldOf[Any, Any]] = [FieldOf(ref.entity, name) for name in step.names]
        return any([await self._meta.synced_at(ref, field) is not None for field in fields])

    # -- freshness -------------------------------------------------------------------------

    async def freshness(self, what: str | None = None) -> list[FieldAge]:
        """How old every field is, and every listing and feed; or what ``Entity[.field]`` names."""
        tables, now = self._engine.tables, self._clock()
        return await self._database.read(lambda connection: ages(connection, tables, what, now=now))

    async def invalidate(
        self, *what: str | type[Entity] | FieldOf[Any, Any] | Ref[Any], where: str | Filter[Any] | None = None
    ) -> Invalidation:
        """Mark entities, fields or single rows as stale: the next sync fetches them again.

        ``await runtime.invalidate(AcmeUser.email, AcmeTask.ref("7"))``, or the same as text.  The
        values stay and can be read.  ``where`` limits entities and fields to some rows.
        SyncRunning while a sync is under way, whose responses could pass for newer values.
        """
        tables, now = self._engine.tables, self._clock()
        async with self._audit.call("invalidate", what=words_of(what), where=str(where or "")):
            return await self._database.transact(
                lambda connection: mark_stale(connection, tables, self.info, what, where=where, now=now)
            )

    async def find(
        self, text: str, *entities: str | type[Entity], limit: int = LIMIT, raw: bool = False
    ) -> Found:
        """The rows in whose searchable fields all words of a text occur, best first.

        ``await runtime.find("audit log", AcmeTask)``; without entities all are looked through.  The
        same as ``reader.find``.
        """
        tables, name = self._engine.tables, str(self.info)
        return await self._database.read(
            lambda connection: find_in(connection, tables, name, text, entities, limit=limit, raw=raw)
        )

    async def health(self) -> str:
        """One line about the connection; raises what is wrong with it."""
        installation, executor = self._at_work()
        with self._connector_code("health", executor.context.credentials):
            return "no check" if installation.health is None else await installation.health()

    @contextmanager
    def _connector_code(self, what: str, credentials: CredentialProvider) -> Iterator[None]:
        """Errors of a function of the connector say whose they are, and leave without secrets."""
        with credentials.redactor.cleaning(), connector_code(self._connector.name, what):
            yield

    def _at_work(self) -> _Live:
        if self._live is None:
            raise not_started()
        return self._live


def no_hook_secret(info: InstallationInfo, webhook: Webhook) -> HookRefused:
    """The error of an installation that was not given the secret of its hooks."""
    return HookRefused(
        f"{info} has no {webhook.secret.name}, so no hook of its service can be known",
        hint=f"max connect {info} --update --credential {webhook.secret.name}=env:VARIABLE",
        status=404,
    )


class _Live(NamedTuple):
    """What each start creates: the connector's clients, and the executor that uses them."""

    installation: Installation[Any]
    executor: SyncExecutor


class RepeatedSync(AbstractAsyncContextManager["RepeatedSync"]):
    """A sync that runs again and again until it is stopped: what ``runtime.sync_every`` returns.

    ``async with`` stops it at the end.  There is one sync at a time: one that takes longer than
    the interval delays the next.  A failure does not end it: ``error`` is what the last sync
    raised, if it did, ``failures`` how many in a row have raised, and each is logged as a
    warning.  ``result`` is the last one that a sync returned.
    """

    def __init__(self, sync: Callable[[], Awaitable[SyncResult]], interval: float, name: str) -> None:
        self.interval = interval  # seconds
        self.result: SyncResult | None = None
        self.error: Exception | None = None
        self.failures = 0
        self._sync, self._name = sync, name
        self.task = asyncio.create_task(self._repeat(), name=f"sync {name} every {interval:g} s")

    def __repr__(self) -> str:
        state = "stopped" if self.task.done() else f"{self.failures} failures in a row"
        return f"{type(self).__name__}({self._name}, every {self.interval:g} s, {state})"

    async def _repeat(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            try:
                self.result = await self._sync()
                self.error, self.failures = None, 0
            except Exception as error:
                self.error, self.failures = error, self.failures + 1
                log.warning("sync of %s failed, %d in a row: %s", self._name, self.failures, error)
            due = max(due + self.interval, loop.time())
            await asyncio.sleep(due - loop.time())

    async def stop(self) -> None:
        """Begin no more syncs.  One under way goes on: it belongs to the runtime.  May be called twice."""
        self.task.cancel()
        if not self.task.done():
            await asyncio.wait([self.task])

    async def __aexit__(self, *error: object) -> None:
        await self.stop()


def _files_of(database: Database) -> KeepsFiles:
    """Where contents are kept: beside the database's file, or in a database without one."""
    if database.file is None and database.lasts:
        return StoredFiles(database)
    return KeptFiles(None if database.file is None else database.file.parent / KEPT)


def interval_seconds(interval: float | str | timedelta) -> float:
    """An interval in seconds; ValueError or TypeError when it is none."""
    if isinstance(interval, str):
        seconds = parse_duration(interval)
    elif isinstance(interval, timedelta):
        seconds = interval.total_seconds()
    elif isinstance(interval, int | float) and not isinstance(interval, bool):
        seconds = float(interval)
    else:
        raise TypeError(f"an interval is a text such as '10m', seconds or a timedelta, not {interval!r}")
    if not 0 < seconds < math.inf:
        raise ValueError(f"an interval must be longer than 0 seconds, and finite, not {interval!r}")
    return seconds
