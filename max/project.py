"""Projects: the installations of one, for a program with an event loop, and their warm runtimes.

Every method that touches a disk or a server does so in a thread.  ``manager``, a ProjectManager, is the
same for code that may block: commands use that alone.
"""

from __future__ import annotations

import functools
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    AsyncExitStack,
    ExitStack,
    aclosing,
    asynccontextmanager,
    suppress,
)
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, ParamSpec, Self, TypeAlias, TypeVar, cast, overload

from .core import InstallationInfo, Runtime, Sync, SyncOptions, in_thread
from .errors import MaxError, ProjectError, StorageEmpty, UnknownName
from .model.values import Json
from .projects.manager import ProjectManager
from .projects.opening import find_project, open_project

if TYPE_CHECKING:
    import asyncio
    from datetime import timedelta

    from typing_extensions import TypeVar as TypeVarWithDefault

    from .installations.credential_file import StoredSecrets
    from .installations.encryption import KeySource
    from .installations.onboarding import OnboardingResult
    from .model.asgi import AsgiApp
    from .model.audit import AuditCheck, AuditRow
    from .model.entities import Entity, FieldOf, Ref
    from .model.event_log import InstallationEvent
    from .model.filters import Filter
    from .model.health import InstallationHealth
    from .model.middleware import MethodCall, Middleware
    from .model.schedules import ScheduleStatus
    from .model.soundness import Finding
    from .model.tasks import SyncCommand, SyncRun
    from .model.text_search import Found
    from .query.follow import Follower
    from .query.maintenance import Invalidation
    from .query.reader import Reader
    from .query.sql import SqlAnswer, Values
    from .runtime import InstallationRuntime
    from .storage.database import Database
    from .storage.schema_diff import MigrationPlan
    from .upstream.operations import Call, FlowController
    from .upstream.recording import UpstreamAccess

P = ParamSpec("P")
T = TypeVar("T")
if TYPE_CHECKING:
    R = TypeVarWithDefault("R", bound=Runtime, default="InstallationRuntime", covariant=True)
else:
    R = TypeVar("R")
Runtimes: TypeAlias = Callable[[ProjectManager, InstallationInfo], R]  # makes one that is not started


def threaded(method: Callable[P, T]) -> Callable[P, Coroutine[Any, Any, T]]:
    """The method for an event loop: it runs in a thread."""

    @functools.wraps(method)
    async def run(*args: P.args, **named: P.kwargs) -> T:
        return await in_thread(lambda: method(*args, **named))

    return run


class Project(Generic[R]):
    """The installations of a project, and a runtime for each that is in use.

    ``async with Project.open(".") as project:`` stops every runtime at the end.  Several
    processes may use a project, but one event loop of a process at a time.  A ``target`` is an
    installation or its name, as on the command line: ``connector:name``, ``connector`` when it
    has one, or the beginning of its id.

    ``runtimes`` makes the runtimes; without it each works in this process.  With ``isolated`` each
    has a process of its own.  ``middlewares`` are around every attempt of every operation of the
    runtimes, which must work in this process then; ValueError otherwise.
    """

    def __init__(
        self,
        manager: ProjectManager,
        *,
        runtimes: Runtimes[R] | None = None,
        clock: Callable[[], float] = time.time,
        middlewares: Sequence[Middleware[Call]] = (),
    ) -> None:
        if middlewares and runtimes is not None:
            raise ValueError("middlewares are around operations of this process; the runtimes have others")
        self.manager = manager  # the same for code that may block
        self._make, self._clock, self._middlewares = runtimes, clock, tuple(middlewares)
        self._runtimes: dict[str, R] = {}  # by installation id, oldest first
        self._locks: dict[str, asyncio.Lock] = {}  # by installation id: one build at a time
        self._loop: asyncio.AbstractEventLoop | None = None  # to which the locks belong
        self._schedule_watchers: set[Callable[[], None]] = set()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.manager.label!r}, {len(self.list_runtimes())} in use)"

    @classmethod
    def find(cls, path: Path | str = ".") -> Self:
        """The project of a folder, or of the nearest above, for ``read`` without an event loop."""
        return cls(find_project(path))

    @overload
    @classmethod
    def open(
        cls,
        path: Path | str = ".",
        *,
        create: bool = False,
        trusted: bool = False,
        middlewares: Sequence[Middleware[Call]] = (),
        keys: KeySource | None = None,
    ) -> AbstractAsyncContextManager[Project[InstallationRuntime]]: ...
    @overload
    @classmethod
    def open(
        cls,
        path: Path | str = ".",
        *,
        create: bool = False,
        trusted: bool = False,
        runtimes: Runtimes[R],
        keys: KeySource | None = None,
    ) -> AbstractAsyncContextManager[Project[R]]: ...
    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        path: Path | str = ".",
        *,
        create: bool = False,
        trusted: bool = False,
        runtimes: Runtimes[R] | None = None,
        middlewares: Sequence[Middleware[Call]] = (),
        keys: KeySource | None = None,
    ) -> AsyncIterator[Project[Any]]:
        """The project of a folder, or of the nearest folder above, or of ``postgresql://…``.

        When there is none: with ``create`` the folder becomes one, without it ProjectError.  With
        ``trusted`` its own connectors run wherever it comes from; otherwise ProjectUntrusted when
        this user neither made it on this machine nor allowed it with ``max trust``.  ``runtimes`` and
        ``middlewares`` are as for Project.  ``keys`` finds the keys of the secrets in a database; without it
        ``MAX_KEY`` says where they are.
        """
        manager = await in_thread(lambda: open_project(path, create=create, trusted=trusted, keys=keys))
        async with cls(manager, runtimes=runtimes, middlewares=middlewares) as project:
            yield project

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.stop_all()
        self.manager.close()

    # -- installations ---------------------------------------------------------------------

    @threaded
    def installations(self) -> list[InstallationInfo]:
        """Every installation that can be read, sorted by name."""
        return self.manager.installations()

    @threaded
    def problems(self) -> list[ProjectError]:
        """What is wrong with each installation that ``installations`` leaves out."""
        return self.manager.problems()

    @threaded
    def target(self, text: str) -> InstallationInfo:
        """The installation of a name; UnknownName, or UsageError when it may be several."""
        return self.manager.target(text)

    @threaded
    def connect(
        self,
        connector: str,
        name: str | None = None,
        *,
        config: Mapping[str, Json] | None = None,
        secrets: Mapping[str, str] | None = None,
    ) -> InstallationInfo:
        """Store a new installation: all of it, or nothing when this raises.

        The service is not asked: ``onboard`` does that, and returns a checked config and secrets.
        InvalidAnswers names every value and secret that is invalid, unknown or missing.  Without
        a name it is "default", then "default-2", ….  Data that ``disconnect`` kept under the
        same name is used again.
        """
        with self.manager.audited("connect", f"{connector}:{name or ''}") as facts:
            checked = self._check(connector, config or {}, secrets or {})
            secrets, destination = checked.secrets, checked.destination
            info = self.manager.add(
                connector, name, checked.config, secrets, now=self._clock(), destination=destination
            )
            facts |= {"name": info.name, "id": info.id, "config": sorted(info.config)}
            return info

    async def ensure(
        self,
        connector: str,
        name: str = "default",
        /,
        *,
        secrets: Mapping[str, str] | None = None,
        **config: Json,
    ) -> R:
        """The runtime of an installation, which is connected first when there is none.

        ``await project.ensure("acme", projects=5)``: an installation that exists gets the values
        given here, and keeps its others; ProjectError when that would change one in use.
        ``secrets`` are used to connect; those of an installation that exists stay, since the
        service may have renewed them.
        """
        async with self._lock(f"{connector}:{name}"):  # one after the other, and none between two steps
            info = await in_thread(lambda: self._connected(connector, name, config, secrets or {}))
            if config:
                async with self._lock(info.id):
                    await self._adjust(info, config)
            return await self.runtime(connector, name)

    def _recorded(
        self, action: str, target: InstallationInfo | str, /, **facts: Json
    ) -> AbstractAsyncContextManager[dict[str, Json]]:
        """A change that is recorded in the audit."""
        from .projects.audit import audited_call

        return audited_call(self.manager, action, target, **facts)

    def _connected(
        self, connector: str, name: str, config: Mapping[str, Json], secrets: Mapping[str, str]
    ) -> InstallationInfo:
        try:
            return self.manager.target(f"{connector}:{name}")
        except UnknownName:
            checked = self._check(connector, config, secrets)
            values, now, destination = checked.config, self._clock(), checked.destination
            return self.manager.add(
                connector, name, values, checked.secrets, now=now, destination=destination, exist_ok=True
            )

    async def _adjust(self, info: InstallationInfo, config: Mapping[str, Json]) -> None:
        """Change some values of an installation; ProjectError when it is in use."""
        info = await self.target(str(info))
        stored = self.manager.credentials(info).stored
        checked = await in_thread(lambda: self._revised(info, stored(), config, {}))
        if checked.config != info.config:
            self._refuse_in_use(info)
            await self.reconfigure(info, config=config)

    def _refuse_in_use(self, info: InstallationInfo) -> None:
        if any(info.id == running.id for running, _ in self.list_runtimes()):
            raise ProjectError(f"{info} is in use here", hint="stop its runtime first")

    @threaded
    def reconfigure(
        self,
        target: InstallationInfo | str,
        *,
        config: Mapping[str, Json] | None = None,
        secrets: Mapping[str, str] | None = None,
    ) -> InstallationInfo:
        """Change some of an installation's configuration and secrets; the others stay.

        They are checked as in ``connect``.  Secrets that were given for another origin than the new
        configuration's are not kept, and have to be given again.  A runtime in use keeps its former
        configuration.
        """
        given = (config or {}, secrets or {})
        names = {"config": sorted(given[0]), "secrets": sorted(given[1])}
        with self.manager.audited("reconfigure", target, **names):
            return self.manager.reconfigure(
                self._info(target), lambda now, stored: self._revised(now, stored, *given)
            )

    def _check(
        self, connector: str, config: Mapping[str, Json], secrets: Mapping[str, str]
    ) -> OnboardingResult:
        from .installations.onboarding import check_answers

        return check_answers(self.manager.registry.resolve(connector), config, secrets)

    def _revised(
        self,
        now: InstallationInfo,
        stored: StoredSecrets,
        config: Mapping[str, Json],
        secrets: Mapping[str, str],
    ) -> OnboardingResult:
        """What an installation becomes when some of its configuration and secrets change."""
        from .installations.onboarding import revised

        return revised(self.manager.connector(now), now.config, stored, config, secrets)

    @threaded
    def change_settings(self, target: InstallationInfo | str, **settings: Json) -> InstallationInfo:
        """Change some settings: ``await project.change_settings("acme", history="changes")``.

        UsageError when one does not exist or its value is invalid; nothing is changed then.  A
        runtime in use keeps its former settings.
        """
        with self.manager.audited("change_settings", target, **settings):
            return self.manager.change_settings(self._info(target), **settings)

    async def disconnect(self, target: InstallationInfo | str, *, keep_data: bool = False) -> None:
        """Remove an installation with its secrets, and its data unless ``keep_data``."""
        from .projects.moving import is_given_up  # with all that moves an installation

        async with self._recorded("disconnect", target, keep_data=keep_data):
            info = await in_thread(lambda: self.manager.removable(str(target)))
            async with self._lock(info.id):
                self._refuse_in_use(info)
                moving = await in_thread(lambda: is_given_up(self.manager, info))
                await in_thread(lambda: self.manager.remove(info, keep_data=keep_data, moving=moving))

    def _info(self, target: InstallationInfo | str) -> InstallationInfo:
        return self.manager.target(target) if isinstance(target, str) else target

    def _writable(self, info: InstallationInfo) -> Database:
        return self.manager.writable_database(info)

    # -- what happens, and who changed what ---------------------------------------------------

    def follower(
        self,
        *targets: InstallationInfo | str,
        after: str | None = None,
        kinds: Sequence[str] = (),
    ) -> Follower:
        """What reads the events of installations behind a cursor; of all that there are without any.

        Like ``read`` it needs no event loop, and blocks the one that calls it; ``events`` is for that.
        """
        from .query.follow import Follower

        chosen = [self._info(one) for one in targets]

        def sources() -> list[tuple[InstallationInfo, Database]]:
            return [(one, self.manager.database(one)) for one in chosen or self.manager.installations()]

        return Follower(sources, after, single=len(chosen) == 1, kinds=kinds)

    async def events(
        self,
        target: InstallationInfo | str | None = None,
        after: str | None = None,
        *,
        kinds: Sequence[str] = (),
        once: bool = False,
        wait: float | None = None,
    ) -> AsyncGenerator[InstallationEvent, None]:
        """What happens to an installation, or to all: ``async for event in project.events("acme"):``.

        First what has happened since ``after``: the ``cursor`` of an event, ``now``, or ``beginning``,
        which is the oldest event that is kept, and so is None.  With ``once`` it ends there, with ``wait``
        after so many seconds without an event.  ``kinds`` names some, such as ``sync.ended``.
        CursorExpired when events behind the cursor are gone.
        """
        from .query.follow import follow_events

        targets = () if target is None else (target,)
        follower = await in_thread(lambda: self.follower(*targets, after=after, kinds=kinds))
        async with aclosing(follow_events(follower, wait=0.0 if once else wait)) as events:
            async for event in events:
                yield event

    @threaded
    def health(self, target: InstallationInfo | str | None = None) -> list[InstallationHealth]:
        """How an installation is, why and since when; of all, sorted by name, without one."""
        from .query.health import health

        chosen = self.manager.installations() if target is None else [self._info(target)]
        return [health(self.manager.database(one), one, now=self._clock()) for one in chosen]

    @threaded
    def doctor(self, target: InstallationInfo | str | None = None, *, deep: bool = False) -> list[Finding]:
        """Whether machine, project and databases are sound, one finding a check; of all without a target.

        Nothing is written, and no source is asked.  ``deep`` also compares indexes with their tables.
        """
        from .projects.soundness import machine_findings, project_findings

        chosen = None if target is None else [self._info(target)]
        return [*machine_findings(), *project_findings(self.manager, chosen, deep=deep)]

    @threaded
    def audit(self, *, since: float = 0.0, limit: int = 1_000) -> list[AuditRow]:
        """Who changed what since a time (seconds since the epoch): the newest rows, oldest first."""
        from .projects.audit import audit_rows

        return audit_rows(self.manager, since=since, limit=limit)

    @threaded
    def check_audit(self, *, head: str = "") -> AuditCheck:
        """Whether the audit is whole; ``head`` is the digest of a row that was noted before."""
        from .projects.audit import check_audit

        return check_audit(self.manager, head=head)

    # -- data without a runtime ------------------------------------------------------------

    def read(self, target: InstallationInfo | str) -> AbstractContextManager[Reader]:
        """One snapshot of an installation's data: ``with project.read("acme") as reader:``.

        It needs no event loop, and blocks the one that calls it.  StorageError when the
        installation was never synced.
        """
        from .query.reader import open_reader

        info = self._info(target)
        return open_reader(self.manager.database(info), info)

    def find_rows(
        self,
        text: str,
        installations: Sequence[InstallationInfo | str] = (),
        entities: Sequence[str] = (),
        *,
        limit: int = 20,
        raw: bool = False,
    ) -> Found:
        """The rows of several installations in whose searchable fields all words of a text occur.

        Without ``installations`` all that were synced are looked through, without ``entities`` all that
        have searchable fields.  The best hit of each installation comes first, then the second ones.
        Like ``read`` it needs no event loop, and blocks the one that calls it.
        """
        from .query.find import find

        chosen = [self._info(one) for one in installations]
        chosen = chosen or [one for one in self.manager.installations() if self.manager.has_data(one)]
        with ExitStack() as opened:
            readers = [opened.enter_context(self.read(one)) for one in chosen]
            return find(readers, text, entities, limit=limit, raw=raw)

    @threaded
    def sql(
        self,
        statement: str,
        parameters: Values = (),
        *,
        of: Sequence[InstallationInfo | str] = (),
        limit: int = 1_000,
        timeout: float = 10.0,
    ) -> SqlAnswer:
        """The first rows of a SELECT over an installation, or several; without ``of``, over all with data.

        Several are schemas, as for ``max sql``.  InvalidSql, SqlLimit after ``timeout`` seconds, and
        StorageEmpty for an installation that was never synced.
        """
        from .query.sql import open_sql, own_data

        known = self.manager.installations()
        chosen = list(map(self._info, of)) or [one for one in known if self.manager.has_data(one)]
        if not chosen:
            raise StorageEmpty("nothing has been synced yet", hint="sync an installation first")
        with open_sql({str(one): own_data(self.manager.database(one), one) for one in chosen}) as reader:
            return reader.sql(statement, parameters, limit=limit, timeout=timeout)

    @threaded
    def invalidate(
        self,
        target: InstallationInfo | str,
        *what: str | type[Entity] | FieldOf[Any, Any] | Ref[Any],
        where: str | Filter[Any] | None = None,
    ) -> Invalidation:
        """Mark entities, fields or rows as stale, as ``runtime.invalidate`` does."""
        from .query.maintenance import invalidate, words_of

        facts = {"what": words_of(what), "where": str(where or "")}
        with self.manager.audited("invalidate", target, **facts):
            info, now = self._info(target), self._clock()
            resolver = self.manager.connector(info).resolver
            return invalidate(self._writable(info), info, what, where=where, resolver=resolver, now=now)

    @threaded
    def request(
        self,
        target: InstallationInfo | str,
        command: SyncCommand | Literal["pause", "run", "cancel"],
        *,
        force: bool = False,
    ) -> SyncRun:
        """Ask the installation's unfinished sync, in any process, to pause, to run on or to cancel.

        Its process obeys at its next page.  With ``force`` the sync is taken from a process that is
        known to be gone; if it lives after all, it stores nothing more.  The sync as it is now;
        SyncError when none is unfinished, UnknownName for another command.
        """
        from .model.tasks import SyncCommand
        from .query.maintenance import request

        if command not in list(SyncCommand):
            raise UnknownName("command", command, SyncCommand)
        with self.manager.audited(str(command), target, force=force):
            info, asked = self._info(target), SyncCommand(command)
            return request(self._writable(info), info, asked, now=self._clock(), force=force)

    @threaded
    def migrate(self, target: InstallationInfo | str, *, dry_run: bool = False) -> MigrationPlan:
        """Bring stored data to what the connector declares; what was done, or would be.

        A sync does the same when it begins.  SchemaError when a change is refused, SyncRunning
        while a process is syncing.
        """
        from .query.maintenance import migrate

        info = self._info(target)
        one = self.manager.connector(info)
        declared = (one.resolver, one.policy)
        if dry_run:
            return migrate(self.manager.database(info), info, *declared, dry_run=True)
        with self.manager.audited("migrate", info):
            return migrate(self._writable(info), info, *declared)

    # -- schedules -------------------------------------------------------------------------

    @threaded
    def schedules(self, target: InstallationInfo | str | None = None) -> list[ScheduleStatus]:
        """The schedules of an installation, or of all, and what comes next."""
        from .query.schedules import statuses

        known = self.manager.installations() if target is None else [self._info(target)]
        return [
            status
            for info in known
            for status in statuses(self.manager.database(info), info, now=self._clock())
        ]

    async def schedule(
        self,
        target: InstallationInfo | str,
        name: str = "default",
        *,
        every: float | str | timedelta | None = None,
        cron: str | None = None,
        zone: str = "UTC",
        jitter: float | str | timedelta | None = None,
        options: SyncOptions | None = None,
    ) -> ScheduleStatus:
        """Sync an installation by itself: ``await project.schedule("acme", every="15m")``.

        An installation may have several schedules, each with a name of its own; one with the same name is
        replaced.  ``cron`` is a text such as ``0 7 * * mon-fri`` in the time of ``zone``.  ``jitter`` is the
        most by which a sync begins later than it says; without it a minute, or a tenth of the interval.
        ``options`` are those of the syncs.  They run while a Scheduler or the project's daemon does.
        InvalidSchedule, or UnknownName for a zone or what ``options.only`` names.
        """
        from .model.schedules import Schedule, seconds_of
        from .query.schedules import put
        from .sync.task_graph import named_fields, options_json

        options = options or SyncOptions()
        found = Schedule(
            name=name,
            made_at=int(self._clock()),
            every=seconds_of(every),
            cron=cron,
            zone=zone,
            jitter=seconds_of(jitter, "jitter"),
            options=options_json(options),
        )
        found.check()

        def store() -> ScheduleStatus:
            info = self._info(target)
            if options.only:
                resolver = self.manager.connector(info).resolver
                if resolver.added is None:  # else the account may have fields of its own
                    named_fields(options.only, resolver)
            with self.manager.audited("schedule", info, name=name, timing=found.timing):
                return put(self._writable(info), info, found, now=self._clock())

        return await self._on_schedules(target, store)

    async def switch_schedules(
        self, target: InstallationInfo | str, *names: str, on: bool
    ) -> list[ScheduleStatus]:
        """Turn schedules of an installation on or off; without names all of them.  UnknownName."""
        from .query.schedules import switch

        def work() -> list[ScheduleStatus]:
            info = self._info(target)
            with self.manager.audited("schedule", info, names=list(names), on=on):
                return switch(self._writable(info), info, names, on=on, now=self._clock())

        return await self._on_schedules(target, work)

    async def unschedule(self, target: InstallationInfo | str, *names: str) -> list[str]:
        """Delete schedules of an installation, without names all of them; their names.  UnknownName."""
        from .query.schedules import remove

        def work() -> list[str]:
            info = self._info(target)
            with self.manager.audited("unschedule", info, names=list(names)):
                return remove(self._writable(info), info, names)

        return await self._on_schedules(target, work)

    async def _on_schedules(self, target: InstallationInfo | str, work: Callable[[], T]) -> T:
        """Change schedules in a thread, and wake those who follow them, here and on other hosts."""

        def change() -> T:
            result = work()
            self.manager.wake(self._info(target))
            return result

        result = await in_thread(change)
        for wake in self._schedule_watchers:
            wake()
        return result

    def watch_schedules(self, wake: Callable[[], None], *, ended: bool = False) -> None:
        """Call ``wake`` whenever schedules were changed through this object, until it is ``ended``."""
        self._schedule_watchers.discard(wake)
        if not ended:
            self._schedule_watchers.add(wake)

    # -- over HTTP -------------------------------------------------------------------------

    def serve(
        self,
        *,
        token: str | Mapping[str, str],
        hosts: Sequence[str] = (),
        origins: Sequence[str] = (),
        read_only: bool = False,
        middlewares: Sequence[Middleware[MethodCall]] = (),
    ) -> AsgiApp:
        """The project over HTTP, as an ASGI app for a server that runs in this program.

        ``token`` is what callers send as ``Authorization: Bearer …``, or several by name; UsageError for
        one that is too short.  ``hosts`` are the names by which the server is addressed, beside those of
        this machine alone, ``origins`` those of pages that may ask.  ``middlewares`` are around every
        call of a method, each a function from the call to an async context manager.  The app starts
        nothing before it is asked; when its host ends, its streams end.  What it started are the
        project's runtimes, which ``stop_all``, or the end of the ``async with``, stops.
        """
        from .serve.http_app import app_of

        return app_of(self, token, hosts, origins, read_only=read_only, middlewares=middlewares)

    # -- runtimes --------------------------------------------------------------------------

    async def runtime(
        self,
        connector: str,
        name: str | None = None,
        *,
        recording: UpstreamAccess | None = None,
        flow: FlowController | None = None,
    ) -> R:
        """The installation's runtime: the one that is warm, or a new one, started.

        Concurrent first calls build one runtime; a failed build is forgotten.  ``recording`` and
        ``flow`` are as for InstallationRuntime; ProjectError when one is warm without them, or when
        ``runtimes`` were given, which have none.
        """
        info = await self.target(connector if name is None else f"{connector}:{name}")
        async with self._lock(info.id):
            runtime = await self._present(info, recording, flow)
            await runtime.start()  # nothing to do, unless it is new or its user stopped it
            self._runtimes[info.id] = runtime
        if str(runtime.info) != str(info):
            raise ProjectError(
                f"{runtime.info} and {info} have the same id",
                hint=f"one is a copy of the other: change the id in {self.manager.place_of(info)}",
            )
        return runtime

    async def prepared(self, target: InstallationInfo | str) -> R:
        """The installation's runtime, which need not be started."""
        info = await in_thread(lambda: self._info(target))
        async with self._lock(info.id):
            self._runtimes[info.id] = runtime = await self._present(info, None, None)
        return runtime

    async def _present(
        self, info: InstallationInfo, recording: UpstreamAccess | None, flow: FlowController | None
    ) -> R:
        """The runtime that is there, or a new one when the installation has changed; not started."""
        runtime = self._runtimes.get(info.id)
        if runtime is not None and runtime.info != info and self._may_replace(runtime):
            await runtime.stop()
            runtime = None
        if runtime is None:
            info = await self.target(str(info))  # it may have changed while this waited
            return await in_thread(lambda: self._made(info, recording, flow))
        if not self._has(runtime, recording, flow):
            problem = f"{info} is in use here without that {'flow' if recording is None else 'recording'}"
            raise ProjectError(problem, hint="stop its runtime first")
        return runtime

    def _may_replace(self, runtime: Runtime) -> bool:
        """Whether no one misses a runtime: it is stopped, or is the project's alone and does nothing."""
        idle = runtime.latest is None or runtime.latest.done
        return not runtime.started_at or (self._make is not None and idle)

    def _lock(self, id: str) -> asyncio.Lock:
        """A lock of the running loop; a project may be used from one loop after another."""
        import asyncio

        if self._loop is not asyncio.get_running_loop():
            self._loop, self._locks = asyncio.get_running_loop(), {}
        return self._locks.setdefault(id, asyncio.Lock())

    def _made(
        self, info: InstallationInfo, recording: UpstreamAccess | None, flow: FlowController | None
    ) -> R:
        """A runtime that is not started."""
        if self._make is None:
            return cast(R, assemble(self.manager, info, recording, flow, self._middlewares))
        if recording is not None or flow is not None:
            what = "flow" if recording is None else "recording"
            raise ProjectError(
                f"{info} does not run in this process, so it can be given no {what}",
                hint="open the project without runtimes of its own",
            )
        return self._make(self.manager, info)

    def _has(self, runtime: Runtime, recording: UpstreamAccess | None, flow: FlowController | None) -> bool:
        """Whether a runtime was made with these, as far as they are given."""
        mine = (getattr(runtime, "recording", None), getattr(runtime, "flow", None))
        return all(one in (None, own) for one, own in zip((recording, flow), mine, strict=True))

    async def latest(self, target: InstallationInfo | str) -> Sync | None:
        """The sync that an installation's runtime here runs, or ran last; None without one."""
        info = await in_thread(lambda: self._info(target))
        runtime = self._runtimes.get(info.id)
        return runtime.latest if runtime is not None else None

    async def release(self, target: InstallationInfo | str) -> None:
        """Stop an installation's runtime if it does nothing; a sync goes on."""
        info = await in_thread(lambda: self._info(target))
        async with self._lock(info.id):
            runtime = self._runtimes.get(info.id)
            if runtime is not None and (runtime.latest is None or runtime.latest.done):
                del self._runtimes[info.id]
                await runtime.stop()

    def list_runtimes(self) -> list[tuple[InstallationInfo, float]]:
        """Every runtime in use, and since when, in seconds since the epoch."""
        return [(one.info, one.started_at) for one in self._runtimes.values() if one.started_at]

    def syncing(self) -> list[InstallationInfo]:
        """The installations of which a sync is under way here."""
        return [one.info for one in self._runtimes.values() if one.latest and not one.latest.done]

    async def pause_all(self, timeout: float) -> list[InstallationInfo]:  # noqa: ASYNC109 - what is late goes on
        """Pause every sync that is under way here, and wait until each has stopped at its next page.

        The installations of which one was under way.

        Those that need more than ``timeout`` seconds go on; stopping their runtimes interrupts them.  What
        is paused so is to run on, unlike what a person has paused: a schedule resumes it.
        """
        import asyncio

        latest = [(one.info, one.latest) for one in self._runtimes.values()]
        under_way = [(info, one) for info, one in latest if one is not None and not one.done]
        waiting = [asyncio.create_task(self._pause(info, one)) for info, one in under_way]
        if waiting:
            _, late = await asyncio.wait(waiting, timeout=timeout)
            for one in late:
                one.cancel()
        return [info for info, one in under_way]

    async def _pause(self, info: InstallationInfo, handle: Sync) -> None:
        from .model.tasks import Status, SyncCommand
        from .query.maintenance import request

        with suppress(MaxError):  # it may have ended, or its database fail
            await handle.pause()
            if (await handle.completion()).status is Status.PAUSED:
                database, now = self.manager.database(info), self._clock()
                await in_thread(lambda: request(database, info, SyncCommand.RUN, now=now))

    async def stop_all(self) -> None:
        """Stop every runtime, the latest first; one that fails to stop does not keep the others."""
        async with AsyncExitStack() as stopping:
            for id in dict.fromkeys([*self._runtimes, *self._locks]):
                stopping.push_async_callback(self._stop, id)

    async def _stop(self, id: str) -> None:
        async with self._lock(id):
            runtime = self._runtimes.pop(id, None)
            if runtime is not None:
                await runtime.stop()


def assemble(
    manager: ProjectManager,
    info: InstallationInfo,
    recording: UpstreamAccess | None = None,
    flow: FlowController | None = None,
    middlewares: Sequence[Middleware[Call]] = (),
) -> InstallationRuntime:
    """A runtime in this process, not started; imports what it needs, the connector among it."""
    from .execution import NO_LEASE
    from .installations.config import config_types, read_config
    from .installations.onboarding import destination_of
    from .projects.audit import InstallationAudit
    from .runtime import InstallationRuntime
    from .storage.provenance import discard_replay
    from .upstream.credentials import CredentialProvider

    connector, database = manager.connector(info), manager.writable_database(info)
    values = info.config if recording is None else recording.prepare(connector.name, info.config)
    if recording is not None and recording.replay_of is not None:
        known = config_types(connector.config)
        values = {key: value for key, value in values.items() if key in known}
        discard_replay(database, connector.schema, recording.replay_of)
    config = read_config(connector.config, values, subject=f"the configuration of {info}")
    secrets = manager.credentials(info, destination_of(connector, info.config))
    hosts = connector.hosts_for(config)
    credentials = CredentialProvider(secrets, connector.credentials, hosts)
    audit = InstallationAudit(manager, info)
    lease = manager.lease(info, database)
    if flow is None and recording is None:
        flow = manager.flow(info, secrets)
    return InstallationRuntime(
        info,
        connector,
        config,
        credentials,
        database,
        recording=recording,
        flow=flow,
        middlewares=middlewares,
        audit=audit,
        lease=lease or NO_LEASE,
    )
