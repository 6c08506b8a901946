"""The runtime of an installation that works in another process: the same protocol, over a Client.

Rule: what a caller sees is what a runtime in this process would show: the same results, errors, events and
progress.  Two things differ.  A sync outlives the process in which it runs: when that ends by itself, the
next one goes on with it, and its caller only waits longer.  And there is no engine: the data is read
from its database.

    async with Project.open(".", runtimes=isolated) as project:
        runtime = await project.runtime("acme")      # starts a process
        handle = await runtime.sync()                # which the connector cannot take down with it
"""

from __future__ import annotations

import asyncio
import time
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast
from weakref import ReferenceType, WeakSet, ref

from ..core import Runtime, Sync, SyncOptions
from ..errors import ConnectionLost, Interrupted, MaxError, NotFound, RunnerFailed, SyncRunning, describe
from ..model.entities import Entity, FieldOf, Ref
from ..model.sync_events import Event, EventKind, Origin, Progress
from ..model.tasks import Status
from ..model.text_search import LIMIT
from ..project import assemble
from ..storage.leases import LEASE, SKEW
from ..sync.events import Events
from ..sync.task_graph import options_json
from .client import Client
from .streams import CallCancelled
from .supervisor import Link, Supervisor

if TYPE_CHECKING:
    from ..core import InstallationInfo
    from ..model.ages import FieldAge, Invalidation
    from ..model.hooks import HookReceipt
    from ..model.tasks import SyncResult
    from ..model.text_search import Found
    from ..model.values import Json
    from ..projects.manager import ProjectManager

T = TypeVar("T")
NO_OPTIONS = SyncOptions()
AGAIN = 1.0  # seconds between two questions whether a lease has expired


def isolated(manager: ProjectManager, info: InstallationInfo) -> Runtime:
    """A runtime in a process of its own, which starts when it is used: ``Project.open(runtimes=isolated)``.

    An installation whose setting ``isolate`` is "off" has one in this process.
    """
    return (
        RemoteRuntime(Supervisor(manager, info)) if info.settings.isolate == "on" else assemble(manager, info)
    )


class RemoteRuntime(Runtime):
    """An installation at work in the process to which a link leads."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self._latest: RemoteSync | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.link!r})"

    @property
    def info(self) -> InstallationInfo:
        """The installation, as it was when its process began."""
        return self.link.info

    @property
    def started_at(self) -> float:
        """Since when its process works, in seconds since the epoch; 0: there is none."""
        return self.link.started_at

    @property
    def latest(self) -> RemoteSync | None:
        """The sync that runs there, or that ran last; None when none was begun here."""
        return self._latest

    @property
    def name(self) -> str:
        """The installation's name, as methods take it."""
        return str(self.link.info)

    async def start(self) -> None:
        """Start its process and what its syncs need; nothing when that has happened."""
        was_there = bool(self.started_at)
        try:
            await self.ask(lambda client: client.warm(self.name))
        except BaseException:
            if not was_there:
                await self.link.close()
            raise

    async def stop(self) -> None:
        """End its process; a sync under way is interrupted and can be resumed."""
        if self._latest is not None:
            await self._latest.abandon()
        await self.link.close()

    async def ask(self, question: Callable[[Client], Awaitable[T]]) -> T:
        """What its process answers; RunnerFailed when that ends before."""
        async with self.link.use() as client:
            try:
                return await question(client)
            except ConnectionLost as lost:
                raise await self.link.explain(client, lost) from None

    async def sync(
        self,
        options: SyncOptions = NO_OPTIONS,
        *,
        discard_unfinished: bool = False,
        schedule: str | None = None,
    ) -> RemoteSync:
        """Begin a sync, and return at once; as a runtime in this process does."""
        given = {name: getattr(options, name) for name in SyncOptions._names}
        given |= {"discard_unfinished": discard_unfinished, "schedule": schedule}
        by = {"schedule": schedule} if schedule else {}
        async with self.link.audited("sync", **options_json(options), **by):
            try:
                asking = self.ask(lambda client: client.begin_sync(self.name, **given))
                return await self._begun_by(asking, schedule)
            except RunnerFailed:  # perhaps in the first task of a sync that had begun
                unfinished = await self.link.unfinished()
                if unfinished is None:
                    raise
                return self._begun(unfinished, schedule)

    async def retry_failed(self, sync: str | None = None) -> RemoteSync:
        """Begin a sync of just what failed in the newest one, or in that of an id or its beginning."""
        async with self.link.audited("retry_failed", of=sync or ""):
            return await self._begun_by(self.ask(lambda client: client.retry_failed(self.name, sync)), None)

    async def _begun_by(self, asking: Awaitable[str], schedule: str | None) -> RemoteSync:
        """The sync whose id comes; CallCancelled with it when it had begun before its caller gave up."""
        try:
            return self._begun(await asking, schedule)
        except CallCancelled as cancelled:
            answer = cancelled.answer

            async def late() -> RemoteSync | None:
                id: str | None = await answer
                return None if id is None else self._begun(id, schedule)

            raise CallCancelled(asyncio.create_task(late(), name=f"late sync of {self.name}")) from None

    def _begun(self, id: str, schedule: str | None) -> RemoteSync:
        latest = self._latest
        if latest is None or latest.id != id or latest.done:
            latest = self._latest = RemoteSync(self, id, schedule)
        return latest

    async def freshness(self, what: str | None = None) -> list[FieldAge]:
        """How old every field is, and every listing and feed; or what ``Entity[.field]`` names."""
        return await self.ask(lambda client: client.freshness(self.name, what))

    async def invalidate(
        self, *what: str | type[Entity] | FieldOf[Any, Any] | Ref[Any], where: str | None = None
    ) -> Invalidation:
        """Mark entities, fields or single rows as stale: the next sync fetches them again."""
        words = [*map(text_of, what)]
        async with self.link.audited("invalidate", what=list(words), where=where or ""):
            return await self.ask(lambda client: client.invalidate(self.name, words, where=where))

    async def find(
        self, text: str, *entities: str | type[Entity], limit: int = LIMIT, raw: bool = False
    ) -> Found:
        """The rows in whose searchable fields all words of a text occur, best first."""
        words = [*map(text_of, entities)]
        return await self.ask(lambda client: client.find(text, [self.name], words, limit=limit, raw=raw))

    async def receive_hook(self, headers: Mapping[str, str], body: bytes) -> HookReceipt:
        """Take what the service has sent by itself; its process checks, records and stores it."""
        text = b64encode(body).decode()
        return await self.ask(lambda client: client.receive_hook(self.name, dict(headers), text))

    async def process_hooks(self) -> None:
        """Fetch what stored hooks say, in the background; returns at once."""
        await self.ask(lambda client: client.process_hooks(self.name))

    async def health(self) -> str:
        """One line about the connection; raises what is wrong with it."""
        return await self.ask(lambda client: client.check_connection(self.name))


def text_of(what: str | type[Entity] | FieldOf[Any, Any] | Ref[Any]) -> str:
    """``Entity``, ``Entity.field`` or ``Entity:id``, as methods take it."""
    if isinstance(what, str):
        return what
    if isinstance(what, FieldOf):
        return f"{what.entity.__name__}.{what.name}"
    return f"{what.entity.__name__}:{what.id}" if isinstance(what, Ref) else what.__name__


class RemoteSync(Sync):
    """A sync in another process.  It goes on when that process ends by itself and another one begins."""

    def __init__(self, runtime: RemoteRuntime, id: str, schedule: str | None) -> None:
        self._runtime, self._id, self._schedule = runtime, id, schedule
        self._progress: Event | None = None
        self._watchers: WeakSet[Events] = WeakSet()
        self._pumps: set[asyncio.Task[None]] = set()
        self._round = 0  # how many processes it has had
        self._next_round = asyncio.Event()
        self._following = asyncio.create_task(self._follow(), name=f"sync {id}, elsewhere")
        self._following.add_done_callback(lambda _: self._end())

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.id}, {'done' if self.done else 'running'})"

    @property
    def id(self) -> str:
        """The sync's id; later ones have greater ids."""
        return self._id

    @property
    def done(self) -> bool:
        """Whether the work on it has ended, for good or until it is resumed."""
        return self._following.done()

    # -- following it

    async def _follow(self) -> SyncResult:
        """Follow the progress to the end of the sync, through as many processes as it takes."""
        while True:
            try:
                return await self._follow_once()
            except NotFound as unknown:  # its process ended, and another one answers already
                error: MaxError = unknown
            except _Lost as lost:
                error = lost.error
            ended = await self._runtime.link.recover(error, self.id)
            if ended is not None:
                return ended
            result = await self._resume()
            if result is not None:
                return result
            self._round += 1
            self._next_round.set()
            self._next_round = asyncio.Event()

    async def _follow_once(self) -> SyncResult:
        runtime = self._runtime
        async with runtime.link.use() as client:
            try:
                async with aclosing(client.follow(runtime.name, self.id, progress=True)) as stream:
                    async for one in stream:
                        self._report(cast(Progress, one))
                    return await stream.result()
            except ConnectionLost as lost:
                raise _Lost(await runtime.link.explain(client, lost)) from None

    async def _resume(self) -> SyncResult | None:
        """Go on in another process; how it has ended, when that is gone too."""
        left = LEASE + SKEW
        while True:
            try:
                await self._runtime.ask(
                    lambda client: client.begin_sync(self._runtime.name, schedule=self._schedule)
                )
                return None
            except SyncRunning:  # the system does not say that the worker is gone: its lease must expire
                if left <= 0:
                    raise
                left -= AGAIN
                await asyncio.sleep(AGAIN)
            except MaxError as error:
                ended = await self._runtime.link.recover(error, self.id)
                if ended is not None:
                    return ended

    def _report(self, progress: Progress) -> None:
        origin = Origin("", "", "", self.id)  # of which a progress says nothing more
        self._progress = Event(EventKind.PROGRESS, progress.at, origin, None, None, progress._asdict())
        for watcher in list(self._watchers):
            watcher.put(self._progress)

    def _end(self) -> None:
        for watcher in list(self._watchers):
            watcher.end()
        if not self._following.cancelled():
            self._following.exception()  # completion() raises it

    # -- what its callers ask

    async def completion(self) -> SyncResult:
        """Wait until the sync has ended or is paused.  Cancelling the wait does not stop the sync.

        Interrupted when its process was stopped first, RunnerFailed when it ended too often.
        """
        await asyncio.wait([self._following])
        if self._following.cancelled():
            raise Interrupted(f"sync {self.id} was stopped before its end", hint="sync again to go on")
        return self._following.result()

    async def status(self) -> SyncResult:
        """The result so far, with the status."""
        return await self._runtime.ask(lambda client: client.run(self._runtime.name, self.id))

    async def pause(self) -> None:
        """Stop at the next page; any process can resume the sync."""
        await self._runtime.ask(lambda client: client.request(self._runtime.name, "pause"))

    async def cancel(self) -> None:
        """End the sync for good, without waiting for pages under way; what was stored stays."""
        await self._runtime.ask(lambda client: client.request(self._runtime.name, "cancel"))

    async def resume(self) -> RemoteSync:
        """Go on: with this object when the pause has not been applied yet, else with a new one."""
        if not self.done:
            await self._runtime.ask(lambda client: client.request(self._runtime.name, "run"))
            if (await self.status()).status is Status.RUNNING:
                return self
            await asyncio.wait([self._following])
        return await self._runtime.sync(schedule=self._schedule)

    async def progress(self) -> AsyncIterator[Progress]:
        """How far the sync is, whenever that changes; a slow reader gets the newest alone."""
        watcher = Events(newest=True)
        if self._progress is not None:
            watcher.put(self._progress)
        self._watchers.add(watcher)
        if self.done:
            watcher.end()
        async for event in watcher:
            yield Progress(**event.facts)

    def events(self) -> Events:
        """What happens, from its beginning for the first who asks: ``async for event in …``.

        Those who ask later first get the start of what is running then.
        """
        events = Events()
        pump = asyncio.create_task(self._pump(ref(events)), name=f"events of sync {self.id}")
        self._pumps.add(pump)
        pump.add_done_callback(self._pumps.discard)
        return events

    async def _pump(self, listener: ReferenceType[Events]) -> None:
        """Give a listener the events of each process in which the sync runs, as long as there is one."""
        try:
            while listener() is not None:
                number, next_round = self._round, self._next_round
                newest = await self._pump_round(listener)
                if newest is True:
                    return
                waiting = asyncio.create_task(next_round.wait())
                if self._round == number:
                    await asyncio.wait([waiting, self._following], return_when=asyncio.FIRST_COMPLETED)
                waiting.cancel()
                if self._round == number:
                    self._give_up(listener, newest)
                    return
        finally:
            events = listener()
            if events is not None:
                events.end()

    async def _pump_round(self, listener: ReferenceType[Events]) -> Event | Literal[True] | None:
        """Pass on the events of one process; the newest one, or True when they came to their end."""
        runtime = self._runtime
        newest: Event | None = None
        try:
            async with (
                runtime.link.use() as client,
                aclosing(client.follow(runtime.name, self.id)) as stream,
            ):
                async for one in stream:
                    events, newest = listener(), cast(Event, one)
                    if events is None:
                        return True
                    events.put(newest)
                    del events
                return True
        except (ConnectionLost, NotFound):
            return newest
        except MaxError:  # how the sync ended, which its last event has said
            return True

    def _give_up(self, listener: ReferenceType[Events], newest: Event | None) -> None:
        """Say that the sync failed, when its process ended and no other one goes on with it."""
        events = listener()
        error = None if self._following.cancelled() else self._following.exception()
        if events is None or error is None:
            return
        facts = {"status": str(Status.INTERRUPTED), "error": dict(describe(error))}
        info = self._runtime.info
        origin = newest.origin if newest is not None else Origin(info.id, info.connector, "", self.id)
        events.put(Event(EventKind.SYNC_FAILED, time.time(), origin, None, None, facts))

    async def abandon(self) -> None:
        """Follow it no more: its process is about to be stopped."""
        for task in (self._following, *self._pumps):
            task.cancel()
        await asyncio.wait([self._following, *self._pumps])


class _Lost(Exception):
    """The process of a sync ended before the sync did."""

    def __init__(self, error: MaxError) -> None:
        self.error = error


class DaemonLink(Link):
    """The way to an installation in the project's daemon, for a program or a command beside it."""

    def __init__(self, client: Client, info: InstallationInfo) -> None:
        self._client, self._info = client, info

    @property
    def info(self) -> InstallationInfo:
        """The installation."""
        return self._info

    @property
    def started_at(self) -> float:
        """0: the daemon knows."""
        return 0.0

    @asynccontextmanager
    async def use(self) -> AsyncIterator[Client]:
        """The daemon's client."""
        yield self._client

    async def explain(self, client: Client, lost: ConnectionLost) -> MaxError:
        """The connection's end, with what to do next."""
        hint = f"what was stored is kept; go on with: max resume {self._info}"
        return ConnectionLost("the daemon ended before its answer", hint=hint)

    async def recover(self, error: MaxError, sync: str) -> SyncResult | None:
        """The error: nothing is started in place of a daemon."""
        raise error

    async def unfinished(self) -> str | None:
        """None: the daemon sees to that."""
        return None

    async def close(self) -> None:
        """Nothing: the daemon goes on."""

    def audited(self, action: str, **facts: Json) -> AbstractAsyncContextManager[object]:
        """Nothing: the daemon records it."""
        return nullcontext()
