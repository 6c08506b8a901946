"""The methods: one table of what a program may ask of a project, on every transport.

Rule 1: a public method of the class Methods is a method everywhere: on the socket, over HTTP, on a
runner's standard streams and on the typed Client.  ``METHODS`` is derived from it, never written.

Rule 2: parameters are JSON data, and are checked before anything is asked, by the same words wherever
the call comes from.  A result is anything that ``wire.py`` can carry.

Rule 3: ``@reads`` changes nothing.  ``@writes`` may.  What returns a Stream streams; what takes a
``prompter`` may ask a person.

    methods = Methods(project)
    page = await methods.search("acme", "AcmeUser", "active = true", order_by="name", limit=50)
    async for event in methods.sync("acme"):
        print(event.kind)
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping, Sequence
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias, TypeVar, cast

from ..core import in_thread
from ..errors import NotFound, ProjectError, RunDirect, UsageError
from ..model.actor import actor
from ..model.middleware import MethodCall, Middleware, around
from ..model.values import Json
from .method import PROMPTER, Method, local, reads, writes
from .streams import End, Stream, result_though_cancelled

if TYPE_CHECKING:
    from ..core import InstallationInfo, Runtime, Sync
    from ..installations.onboarding import Prompter
    from ..model.ages import FieldAge, Invalidation
    from ..model.aggregate import Groups
    from ..model.audit import AuditCheck, AuditRow
    from ..model.changes import ChangePage, ChangeSummary
    from ..model.event_log import InstallationEvent
    from ..model.health import InstallationHealth
    from ..model.hooks import HookReceipt
    from ..model.query import QueryPage, RowPage
    from ..model.schedules import ScheduleStatus
    from ..model.schema import Schema
    from ..model.sync_events import Event, Progress
    from ..model.tasks import SyncResult, SyncRun
    from ..model.text_search import Found
    from ..project import Project
    from ..query.reader import Reader
    from ..query.sql import SqlAnswer
    from ..storage.quarantine import Quarantined
    from ..storage.sync_state import SyncState

T = TypeVar("T")
Parts: TypeAlias = list[list[str]]
WORKING = 8  # methods that work at once, each in a thread; the others wait
LONGEST_SQL = 60.0  # seconds that a caller may give a statement


# -- what parameters mean --------------------------------------------------------------------

Where: TypeAlias = str | Sequence[str] | None
Installation = Annotated[str, "the source, such as acme:default"]
EntityName = Annotated[str, "what to look for, such as AcmeTask; schema lists them"]
FilterText = Annotated[
    Where,
    'only rows that match: status IN (todo, "in progress") AND due_date < today AND assignee.name ~= "ada";'
    " = != < <= > >= ~= (contains) ^= (starts with) HAS IN (…) IS NULL NOT AND OR ( )",
]
OrderText = Annotated[str | None, "such as due_date or priority,-updated_at; then by id"]
Names = Annotated[str | Sequence[str] | None, "only these fields: title,due_date"]
Limit = Annotated[int, "how many at most", {"least": 0}]
Cursor = Annotated[str | None, "the cursor of the page before, with the same filter and order"]
Since = Annotated[str | None, "a cursor, or a time: yesterday, 2d, 2026-11-26, 2026-11, now, beginning"]
Columns = Annotated[str | Sequence[str], "fields, also through refs: name,assignee.email"]
Full = Annotated[bool, "everything, whatever its age"]
Only = Annotated[Sequence[str], "just these: Entity or Entity.field"]
IfStale = Annotated[float | None, "only what is older than this many seconds"]
MissingOnly = Annotated[bool, "only what was never fetched, or was invalidated"]
CheckDeletes = Annotated[bool, "list everything, to find what is gone"]
AllowRemovals = Annotated[bool, "remove what is gone, however much it is"]
Discard = Annotated[bool, "begin another sync in place of an unfinished one"]
Schedule = Annotated[str | None, "the schedule that asks: its sync yields to any other"]
SyncId = Annotated[str, "the sync's id, or its beginning"]


# As a stream, such as a sync; and a sender that cannot sign a hook must not make the audit grow.
RECORDED_BY_RUNTIMES = ("receive_hook", "process_hooks")


class Methods:
    """A project's methods, answered here; ``Client`` has the same and asks another process.

    ``middlewares`` are around every call, and around a stream from its first part to its end.
    """

    _middlewares: Sequence[Middleware[MethodCall]] = ()

    def __init__(
        self,
        project: Project[Runtime],
        commands: Callable[..., Stream[Parts, int]] | None = None,
        *,
        middlewares: Sequence[Middleware[MethodCall]] = (),
    ) -> None:
        self.project, self._commands, self._middlewares = project, commands, tuple(middlewares)
        self.asked = 0  # calls that came over a connection, so far
        self._places = asyncio.Semaphore(WORKING)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.project!r})"

    def answer(self, name: str, given: Mapping[str, Json], prompter: Prompter | None = None) -> Any:
        """What a method of the table returns for arguments as JSON data: an awaitable, or a Stream.

        UnknownName when there is no such method, UsageError when the arguments do not fit.
        """
        self.asked += 1
        method = find_method(name)
        asking = {PROMPTER: prompter} if method.prompts and prompter is not None else {}
        return self._call(method, {**method.read(given), **asking})

    def _call(self, method: Method, arguments: dict[str, Any]) -> Any:
        """The answer, inside of the middlewares."""
        if not self._middlewares:
            return self._answer(method, arguments)
        given = {name: value for name, value in arguments.items() if name != PROMPTER}
        call = MethodCall(method.name, given, method.reads, actor())
        if method.streams:
            return Stream(self._surrounded_stream(call, method, arguments))
        return self._surrounded(call, method, arguments)

    async def _surrounded(self, call: MethodCall, method: Method, arguments: dict[str, Any]) -> Any:
        async with around(self._middlewares, call):
            return await self._answer(method, arguments)

    async def _surrounded_stream(
        self, call: MethodCall, method: Method, arguments: dict[str, Any]
    ) -> AsyncGenerator[Any, None]:
        async with around(self._middlewares, call):
            stream = self._answer(method, arguments)
            try:
                async for one in stream:
                    yield one
                end: End[Any] = End(await stream.result())
            finally:
                await stream.aclose()
        yield end  # its reader closes the stream there

    def _answer(self, method: Method, arguments: dict[str, Any]) -> Any:
        if method.reads or method.streams or method.name in RECORDED_BY_RUNTIMES:
            return method.function(self, **arguments)
        return self._recorded(method, arguments)

    async def _recorded(self, method: Method, arguments: dict[str, Any]) -> Any:
        """The answer of a method that writes, which has a row in the audit."""
        from ..projects.audit import audited_call, recordable

        facts = recordable({n: one for n, one in arguments.items() if n not in ("installation", PROMPTER)})
        what = str(arguments.get("installation", ""))
        result = written = None
        try:
            async with audited_call(self.project.manager, method.name, what, **facts):
                result = await self._written(method, arguments)
                written = True
        except asyncio.CancelledError:
            if not written:
                raise  # else its caller hears what was done, though it wants no more: a sync goes on
        return result

    async def _written(self, method: Method, arguments: dict[str, Any]) -> Any:
        return await method.function(self, **arguments)

    async def _read(self, installation: str, ask: Callable[[Reader], T]) -> T:
        """What one snapshot of an installation answers."""

        def work() -> T:
            with self.project.read(installation) as reader:
                return ask(reader)

        return await self._beside(in_thread(work))

    async def _beside(self, work: Coroutine[Any, Any, T]) -> T:
        """Wait for work that a thread does.  Cancelled, the wait ends at once.

        The work itself goes on to its end, and keeps its place among those that run until then.
        """
        try:
            await self._places.acquire()
        except BaseException:
            work.close()
            raise
        running = asyncio.ensure_future(work)

        def done(one: asyncio.Future[T]) -> None:
            self._places.release()
            if not one.cancelled():
                one.exception()  # of work whose caller went away

        running.add_done_callback(done)
        return await asyncio.shield(running)

    @reads
    async def ping(self) -> str:
        """A sign of life: the version of Max that answers."""
        from .. import __version__

        return __version__

    # -- installations ---------------------------------------------------------------------

    @reads
    async def installations(self) -> list[InstallationInfo]:
        """Every installation that can be read, sorted by name."""
        return await self._beside(self.project.installations())

    @reads
    async def problems(self) -> list[ProjectError]:
        """What is wrong with each installation that ``installations`` leaves out."""
        return await self._beside(self.project.problems())

    @reads
    async def installation(self, installation: Installation) -> InstallationInfo:
        """The installation that a name means: ``connector:name``, or ``connector`` when it has one."""
        return await self._beside(self.project.target(installation))

    @writes
    async def change_settings(
        self, installation: Installation, settings: Annotated[Mapping[str, Any], "by name"]
    ) -> InstallationInfo:
        """Change some settings of an installation; nothing is changed when one is wrong."""
        info = await self._beside(self.project.change_settings(installation, **settings))
        await self.project.release(info)  # the next one has the new settings
        return info

    @writes
    async def disconnect(
        self,
        installation: Installation,
        *,
        keep_data: Annotated[bool, "keep the database for a later connection"] = False,
    ) -> None:
        """Remove an installation with its secrets, and its data unless they are kept."""
        with suppress(ProjectError):  # its file may be damaged
            await self.project.release(installation)
        await self.project.disconnect(installation, keep_data=keep_data)

    @reads
    async def runtimes(self) -> list[tuple[InstallationInfo, float]]:
        """Every installation that is in use there, and since when, in seconds since the epoch."""
        return self.project.list_runtimes()

    # -- rows --------------------------------------------------------------------------------

    @reads
    async def schema(self, installation: Installation) -> Schema:
        """The entities of an installation, as they are stored."""
        return await self._read(installation, lambda reader: reader.schema)

    @reads
    async def search(
        self,
        installation: Installation,
        entity: EntityName,
        where: FilterText = None,
        *,
        order_by: OrderText = None,
        fields: Names = None,
        limit: Limit = 1_000,
        after: Cursor = None,
    ) -> QueryPage[Any]:
        """A page of entities; its cursor is the ``after`` of the next page, null on the last."""
        return await self._read(
            installation,
            lambda reader: reader.search(
                entity, where, order_by=order_by, fields=fields, limit=limit, after=after
            ),
        )

    @reads
    async def rows(
        self,
        installation: Installation,
        entity: EntityName,
        columns: Columns,
        where: FilterText = None,
        *,
        order_by: OrderText = None,
        limit: Limit = 1_000,
        after: Cursor = None,
    ) -> RowPage:
        """A page of rows as columns, also of fields behind refs."""
        return await self._read(
            installation,
            lambda reader: reader.rows(
                reader.query(entity, where, order_by).limit(limit).after(after), columns
            ),
        )

    @reads
    async def get(
        self,
        installation: Installation,
        entity: EntityName,
        id: Annotated[str, "the id that the service gives"],
        fields: Names = None,
    ) -> Any:
        """One entity with what is stored of it."""
        return await self._read(installation, lambda reader: reader.get(entity, id, fields))

    @reads
    async def count(self, installation: Installation, entity: EntityName, where: FilterText = None) -> int:
        """How many entities match."""
        return await self._read(installation, lambda reader: reader.count(entity, where))

    @reads
    async def count_by(
        self,
        installation: Installation,
        entity: EntityName,
        by: Annotated[str | Sequence[str], "status, or assignee.name,updated_at:month, or tags:each"],
        where: FilterText = None,
        *,
        sum: Annotated[str | Sequence[str], "add up these fields, too"] = (),
        avg: Annotated[str | Sequence[str], "average these fields, too"] = (),
        min: Annotated[str | Sequence[str], "least of these fields, too"] = (),
        max: Annotated[str | Sequence[str], "greatest of these fields, too"] = (),
        order_by: Annotated[
            str | None, "such as -count or status; default: the greatest groups first"
        ] = None,
        top: Annotated[int | None, "only the greatest groups; equals at the cut are kept"] = None,
    ) -> Groups[Any]:
        """How many entities each group has, and what is added up or compared in it."""
        return await self._read(
            installation,
            lambda reader: reader.count_by(
                entity, by, where, sum=sum, avg=avg, min=min, max=max, order_by=order_by, top=top
            ),
        )

    @reads
    async def values(
        self,
        installation: Installation,
        entity: EntityName,
        field: Annotated[str, "the field, such as status or tags"],
        where: FilterText = None,
        *,
        limit: Annotated[int | None, "how many at most"] = None,
    ) -> Groups[Any]:
        """The different values of a field, or of a list's members, the most frequent first."""
        return await self._read(installation, lambda reader: reader.values(entity, field, where, limit=limit))

    @reads
    async def find(
        self,
        text: Annotated[str, "words, in any order, or parts of names"],
        installations: Annotated[Sequence[str], "only in these sources"] = (),
        entities: Annotated[Sequence[str], "only in these entities"] = (),
        *,
        limit: Limit = 20,
        raw: Annotated[bool, "the text is a query of SQLite's FTS5"] = False,
    ) -> Found:
        """The rows in whose searchable fields all words of a text occur, best first."""
        find = self.project.find_rows
        return await self._beside(
            in_thread(lambda: find(text, installations, entities, limit=limit, raw=raw))
        )

    @reads
    async def sql(
        self,
        statement: Annotated[str, "one SELECT statement"],
        parameters: Annotated[Sequence[Any] | Mapping[str, Any], "values for ? in order, or for :names"] = (),
        *,
        of: Annotated[Sequence[str], "the sources; several are schemas; else all that have data"] = (),
        limit: Limit = 1_000,
        timeout: Annotated[float, "seconds that it may take"] = 10.0,  # noqa: ASYNC109 - SQLite keeps it
    ) -> SqlAnswer:
        """The first rows of a SELECT over one installation, or several."""
        if not 0 < timeout <= LONGEST_SQL:
            raise UsageError(f"a statement may take up to {LONGEST_SQL:g} s, not {timeout:g}")
        return await self._beside(
            self.project.sql(statement, parameters, of=of, limit=limit, timeout=timeout)
        )

    # -- what is known about them --------------------------------------------------------------

    @reads
    async def changes(
        self,
        installation: Installation,
        since: Since = None,
        *,
        until: Annotated[str | None, "a time"] = None,
        entity: Annotated[str | Sequence[str] | None, "only these entities"] = None,
        fields: Annotated[Sequence[str], "only changes of these fields"] = (),
        newest_first: Annotated[bool, "from the newest back, in one page"] = False,
        limit: Limit = 1_000,
    ) -> ChangePage:
        """What became of rows, after a cursor or since a time."""
        return await self._read(
            installation,
            lambda reader: reader.changes(
                since, until=until, entity=entity, fields=fields, newest_first=newest_first, limit=limit
            ),
        )

    @reads
    async def change_summary(
        self,
        installation: Installation,
        since: Since = None,
        *,
        until: Annotated[str | None, "a time"] = None,
        entity: Annotated[str | Sequence[str] | None, "only these entities"] = None,
    ) -> ChangeSummary:
        """How many rows of each entity came, changed and went, and which fields."""
        return await self._read(
            installation, lambda reader: reader.change_summary(since, until=until, entity=entity)
        )

    @reads
    async def freshness(
        self, installation: Installation, what: Annotated[str | None, "Entity or Entity.field"] = None
    ) -> list[FieldAge]:
        """How old every field is, and how long ago each collection and feed was listed to its end."""
        return await self._read(installation, lambda reader: reader.freshness(what))

    @reads
    async def quarantine(
        self,
        installation: Installation,
        entity: Annotated[str | None, "only this entity"] = None,
        *,
        limit: Limit = 1_000,
    ) -> list[Quarantined]:
        """Rows that were rejected and kept aside."""
        return await self._read(installation, lambda reader: reader.quarantine(entity, limit=limit))

    @writes
    async def invalidate(
        self,
        installation: Installation,
        what: Annotated[Sequence[str], "entities, fields or rows: AcmeUser, AcmeUser.email, AcmeTask:7"],
        *,
        where: Annotated[str | None, "only rows that match"] = None,
    ) -> Invalidation:
        """Mark data as stale: the next sync fetches it again.  The values stay and can be read."""
        return await self._beside(self.project.invalidate(installation, *what, where=where))

    # -- syncs -------------------------------------------------------------------------------

    @reads
    async def state(self, installation: Installation) -> SyncState:
        """Whether the rows are all there, and as of when."""
        return await self._read(installation, lambda reader: reader.state)

    @reads
    async def runs(
        self,
        installation: Installation,
        *,
        limit: Limit = 1_000,
        beginning: Annotated[str, "only syncs whose id begins so"] = "",
    ) -> list[SyncRun]:
        """The newest syncs, newest first."""
        return await self._read(installation, lambda reader: reader.runs(limit, beginning=beginning))

    @reads
    async def run(self, installation: Installation, sync: SyncId) -> SyncResult:
        """One sync with its failures."""
        return await self._read(installation, lambda reader: reader.run(sync))

    @writes
    def sync(
        self,
        installation: Installation,
        *,
        full: Full = False,
        only: Only = (),
        if_stale: IfStale = None,
        missing_only: MissingOnly = False,
        check_deletes: CheckDeletes = False,
        allow_removals: AllowRemovals = False,
        discard_unfinished: Discard = False,
        schedule: Schedule = None,
    ) -> Stream[Event, SyncResult]:
        """Copy what changed; what happens as it comes, and the result at the end.

        One that is under way is joined.  A caller that goes away does not end the sync: ``request``
        pauses or cancels it.
        """
        flags = (full, tuple(only), if_stale, missing_only, check_deletes, allow_removals)
        return Stream(self._sync(installation, flags, discard_unfinished, schedule))

    async def _sync(
        self, installation: str, flags: Sequence[Any], discard: bool, schedule: str | None
    ) -> AsyncGenerator[Event | End[SyncResult], None]:
        handle = await self._begin(installation, flags, discard, schedule)
        async for event in handle.events():
            yield event
        yield End(await handle.completion())

    @writes
    async def begin_sync(
        self,
        installation: Installation,
        *,
        full: Full = False,
        only: Only = (),
        if_stale: IfStale = None,
        missing_only: MissingOnly = False,
        check_deletes: CheckDeletes = False,
        allow_removals: AllowRemovals = False,
        discard_unfinished: Discard = False,
        schedule: Schedule = None,
    ) -> str:
        """Begin a sync as ``sync`` does, and return at once: its id, for ``follow`` and ``run``."""
        flags = (full, tuple(only), if_stale, missing_only, check_deletes, allow_removals)
        return (await self._begin(installation, flags, discard_unfinished, schedule)).id

    async def _begin(
        self, installation: str, flags: Sequence[Any], discard: bool, schedule: str | None
    ) -> Sync:
        from ..core import SyncOptions

        runtime = await self.project.runtime(installation)
        beginning = runtime.sync(SyncOptions(*flags), discard_unfinished=discard, schedule=schedule)
        return await result_though_cancelled(beginning)

    @writes
    async def retry_failed(
        self, installation: Installation, sync: Annotated[str | None, "of this sync; else the newest"] = None
    ) -> str:
        """Begin a sync of just what failed in an earlier one, and return at once: its id."""
        runtime = await self.project.runtime(installation)
        return (await result_though_cancelled(runtime.retry_failed(sync))).id

    @reads
    def follow(
        self,
        installation: Installation,
        sync: Annotated[str | None, "its id; else the one that runs in this daemon, or ran last"] = None,
        *,
        progress: Annotated[bool, "how far it is, whenever that changes, in place of its events"] = False,
    ) -> Stream[Event | Progress, SyncResult]:
        """What happens in a sync, then its result: from its beginning for the first who asks."""
        return Stream(self._follow(installation, sync, progress=progress))

    async def _follow(
        self, installation: str, sync: str | None, *, progress: bool
    ) -> AsyncGenerator[Event | Progress | End[SyncResult], None]:
        handle = await self.project.latest(installation)
        if handle is None or sync not in (None, handle.id):
            raise NotFound("sync in this process", sync or "", hint=f"max runs {installation}")
        async for item in handle.progress() if progress else handle.events():
            yield item
        yield End(await handle.completion())

    @writes
    async def request(
        self,
        installation: Installation,
        command: Annotated[Literal["pause", "run", "cancel"], "what the sync is to do"],
        *,
        force: Annotated[bool, "take the sync from a process that is known to be gone"] = False,
    ) -> SyncRun:
        """Ask the unfinished sync, in any process, to pause, to run on or to cancel."""
        run = await self._beside(self.project.request(installation, command, force=force))
        if (handle := await self.project.latest(installation)) is not None and not handle.done:
            await {"pause": handle.pause, "run": handle.resume, "cancel": handle.cancel}[command]()  # at once
        return run

    # -- schedules -----------------------------------------------------------------------------

    @reads
    async def schedules(
        self, installation: Annotated[str | None, "only those of this source"] = None
    ) -> list[ScheduleStatus]:
        """The schedules of an installation, or of all, when each is next, and why not now."""
        return await self._beside(self.project.schedules(installation))

    @writes
    async def schedule(
        self,
        installation: Installation,
        name: Annotated[str, "of the schedule: an installation may have several"] = "default",
        *,
        every: Annotated[str | None, "an interval: 15m, 2h, 1d"] = None,
        cron: Annotated[str | None, "minute, hour, day, month, day of the week: 0 7 * * mon-fri"] = None,
        zone: Annotated[str, "the time zone of cron, such as Europe/Berlin"] = "UTC",
        jitter: Annotated[str | None, "the most by which a sync begins later; else up to a minute"] = None,
        full: Annotated[bool, "each sync fetches everything, whatever its age"] = False,
        only: Annotated[Sequence[str], "each sync fetches just these: Entity or Entity.field"] = (),
        if_stale: Annotated[float | None, "only what is older than this many seconds"] = None,
        check_deletes: Annotated[bool, "each sync lists everything, to find what is gone"] = False,
    ) -> ScheduleStatus:
        """Sync an installation by itself while a daemon runs; replaces the schedule with that name."""
        from ..core import SyncOptions

        options = SyncOptions(full=full, only=tuple(only), if_stale=if_stale, check_deletes=check_deletes)
        return await self.project.schedule(
            installation, name, every=every, cron=cron, zone=zone, jitter=jitter, options=options
        )

    @writes
    async def switch_schedules(
        self,
        installation: Installation,
        on: Annotated[bool, "whether they are followed"],
        names: Annotated[Sequence[str], "of the schedules; else all of the source"] = (),
    ) -> list[ScheduleStatus]:
        """Turn schedules on or off."""
        return await self.project.switch_schedules(installation, *names, on=on)

    @writes
    async def unschedule(
        self,
        installation: Installation,
        names: Annotated[Sequence[str], "of the schedules; else all of the source"] = (),
    ) -> list[str]:
        """Delete schedules; their names."""
        return await self.project.unschedule(installation, *names)

    # -- what services send ----------------------------------------------------------------------

    @writes
    async def receive_hook(
        self,
        installation: Installation,
        headers: Annotated[Mapping[str, Any], "of the request of the service, by name"],
        body: Annotated[str, "the body of that request, as base64"],
    ) -> HookReceipt:
        """Take what a service has sent by itself, if it has signed it: what it says is fetched soon."""
        runtime = await self.project.runtime(installation)
        names = {name: str(value) for name, value in headers.items()}
        return await runtime.receive_hook(names, content_of(body))

    @writes
    async def process_hooks(self, installation: Installation) -> None:
        """Fetch what was sent and is stored, in the background."""
        await (await self.project.runtime(installation)).process_hooks()

    # -- what happens, and who changed what ---------------------------------------------------

    @reads
    def events(
        self,
        installation: Annotated[str | None, "only this source"] = None,
        after: Annotated[
            str | None, "the cursor of an event, now, or beginning: the oldest that is kept"
        ] = None,
        *,
        kinds: Annotated[Sequence[str], "only these, such as sync.ended"] = (),
        once: Annotated[bool, "end when those that have happened were read"] = False,
        wait: Annotated[float | None, "end after this many seconds without an event; else never"] = None,
    ) -> Stream[InstallationEvent, None]:
        """What happens to an installation, or to all of them, after a cursor and from then on."""
        return Stream(self._events(installation, after, kinds, once=once, wait=wait))

    async def _events(
        self, installation: str | None, after: str | None, kinds: Sequence[str], **ends: Any
    ) -> AsyncGenerator[InstallationEvent | End[None], None]:
        found = self.project.events(installation, after, kinds=kinds, **ends)
        async with aclosing(found) as events:
            async for event in events:
                yield event
        yield End(None)

    @reads
    async def health(
        self, installation: Annotated[str | None, "only this source"] = None
    ) -> list[InstallationHealth]:
        """How an installation is, or each of them: healthy, waiting, degraded or failed; why; since when."""
        return await self._beside(self.project.health(installation))

    @reads
    async def audit(
        self,
        *,
        since: Annotated[float, "seconds since the epoch"] = 0.0,
        limit: Limit = 1_000,
    ) -> list[AuditRow]:
        """Who changed what, and who read secrets: the newest rows, oldest first."""
        return await self._beside(self.project.audit(since=since, limit=limit))

    @reads
    async def check_audit(
        self, *, head: Annotated[str, "the digest of a row that was noted before"] = ""
    ) -> AuditCheck:
        """Whether a row of the audit was changed, added or taken out."""
        return await self._beside(self.project.check_audit(head=head))

    # -- an installation's connection ----------------------------------------------------------

    @reads
    async def warm(self, installation: Installation) -> float:
        """Start what an installation's syncs need, if it has not started; since when, in seconds."""
        return (await self.project.runtime(installation)).started_at

    @reads
    async def check_connection(self, installation: Installation) -> str:
        """One line about the connection to the service, or what is wrong with it."""
        return await (await self.project.runtime(installation)).health()

    @writes
    async def connect(
        self,
        connector: Annotated[str, "the kind of source, such as acme"],
        name: Annotated[str | None, "of the installation; else default, default-2, …"] = None,
        *,
        config: Annotated[Mapping[str, Any] | None, "answers by name"] = None,
        secrets: Annotated[Mapping[str, Any] | None, "secrets by credential"] = None,
        prompter: Prompter | None = None,
    ) -> InstallationInfo:
        """Connect a source: what is not given is asked for, if there is someone to ask."""
        from ..installations.onboarding import onboard

        chosen = await in_thread(lambda: self.project.manager.registry.resolve(connector))
        found = await onboard(chosen, prompter, config or {}, cast("Mapping[str, str]", secrets or {}))
        return await self.project.connect(connector, name, config=found.config, secrets=found.secrets)

    # -- the command line ------------------------------------------------------------------------

    @local
    @reads
    def command(
        self,
        words: Annotated[Sequence[str], "the command line behind max"],
        *,
        folder: Annotated[str, "the caller's current folder"],
        columns: Annotated[Sequence[int], "cells of a line of stdout and of stderr; -1: it is no terminal"],
        variables: Annotated[Mapping[str, Any], "environment variables that say how an answer looks"],
        likeness: Annotated[Sequence[str], "what must be the same in both processes"],
    ) -> Stream[Parts, int]:
        """A command of the command line that only reads: what it prints, and its exit status.

        The parts are pairs, in their order: "out" or "err" with a text, "flush" with none, and "status"
        with the exit status as soon as it is known.  RunDirect when the caller must run it itself.
        """
        if self._commands is None:
            raise RunDirect("this process answers no commands")
        return self._commands(words, folder, columns, variables, likeness)


METHODS: Mapping[str, Method] = {
    name: found.method for name, found in vars(Methods).items() if hasattr(found, "method")
}


def content_of(text: str) -> bytes:
    """The bytes that a text holds as base64; UsageError."""
    try:
        return base64.b64decode(text, validate=True)
    except ValueError as error:
        raise UsageError(f"the body is no base64: {error}") from error


def find_method(name: str) -> Method:
    """The method with a name; UnknownName suggests the nearest."""
    if name not in METHODS:
        from ..errors import UnknownName

        raise UnknownName("method", name, METHODS)
    return METHODS[name]
