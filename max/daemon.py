"""The daemon: one process per project that keeps runtimes warm, runs schedules and answers calls.

It is made of services, started in order and stopped in reverse: the lock that makes this process the
project's daemon, the project with its runtimes, its schedules, the socket.  So it takes no more calls first,
then begins no more syncs and pauses those under way, and gives up its place last.

``Daemon`` is a service for any event loop.  ``run_daemon`` makes it a process: signals, the log, what a
supervisor wants to know, and a look at itself now and then.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Self, TypeAlias

from .core import Lifecycle, Runtime, in_thread, logger
from .errors import DaemonRunning, MaxError
from .installations.files import FOLDER
from .model.struct import Struct
from .project import Project, assemble
from .projects.manager import ProjectManager, folder_of
from .runtime import LifecycleManager
from .serve.daemon_folder import ADDRESS, HTTP_TOKEN, LOG, RESUME, SYNCING, DaemonFolder
from .serve.daemon_lock import DaemonLock, make_private
from .serve.health_watch import HealthWatch
from .serve.hooks import Hooks
from .serve.isolated_methods import IsolatedMethods
from .serve.methods import Methods
from .serve.remote_runtime import isolated
from .serve.scheduler import Scheduler
from .serve.socket import SocketServer
from .upstream.redaction import Redactor

if TYPE_CHECKING:
    from .model.middleware import MethodCall, Middleware
    from .model.values import Json
    from .serve.daemon_log import LogFile
    from .serve.http_service import HttpService
    from .serve.methods import Parts
    from .serve.service_manager import Notifier
    from .serve.streams import Stream

LOOK = 1.0  # seconds between two looks at its own files
PAUSING = 7.0  # seconds that syncs may take to reach their next page
DRAIN = 9.5  # seconds after which a daemon that ends leaves without the rest
LEFT = 143  # the exit status after a second SIGTERM

Commands: TypeAlias = "Callable[..., Stream[Parts, int]]"

log = logger("daemon")


class DaemonOptions(Struct):
    """What a daemon is started with; the next start takes the same where it is given nothing else.

    ``idle_stop`` are seconds without a call, a sync or a schedule after which it ends; None: never.
    ``http`` is the ``host:port`` of its HTTP face; None: it has none.  ``isolate``: each installation
    runs in a process of its own.
    """

    idle_stop: float | None = None
    http: str | None = None
    isolate: bool = True

    @classmethod
    def from_json(cls, data: object) -> Self:
        """The options that project.json has; what is missing or unknown there has its default."""
        found = data if isinstance(data, Mapping) else {}
        idle_stop, http, isolate = (found.get(name) for name in ("idle_stop", "http", "isolate"))
        return cls(
            idle_stop=float(idle_stop) if isinstance(idle_stop, int | float) else None,
            http=http if isinstance(http, str) else None,
            isolate=isolate is not False,
        )

    def to_json(self) -> dict[str, Json]:
        """The options as JSON data."""
        return {"idle_stop": self.idle_stop, "http": self.http, "isolate": self.isolate}


class Daemon:
    """The daemon of one project, as a service.

    ``commands`` answers command lines that are forwarded; ``middlewares`` are around every call of a method.
    """

    def __init__(
        self,
        manager: ProjectManager,
        options: DaemonOptions | None = None,
        commands: Commands | None = None,
        *,
        middlewares: Sequence[Middleware[MethodCall]] = (),
    ) -> None:
        from . import __version__

        self.options = options or DaemonOptions()
        self.folder = DaemonFolder(folder_of(manager))
        self.project: Project[Runtime] = Project(
            manager, runtimes=isolated if self.options.isolate else assemble
        )
        facts: dict[str, Json] = {"version": __version__, "options": self.options.to_json()}
        self.lock = DaemonLock(self.folder, facts)
        methods = IsolatedMethods if self.options.isolate else Methods
        self.methods = methods(self.project, commands, middlewares=middlewares)
        self.scheduler = Scheduler(self.project)
        self.hooks = Hooks(self.methods)
        self.health = HealthWatch(self.project)
        self.socket = SocketServer(Path(), self.methods)
        self.redactor = Redactor()  # of what this process itself must keep out of its log
        self.http = Http(self) if self.options.http else None
        self._runtimes = Runtimes(self.project, self.lock)
        self._services = LifecycleManager(*self._parts())
        self._asked, self._quiet_since = -1, 0.0  # calls so far, and since when there is no more

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.folder.root!r}, {self.options!r})"

    def _parts(self) -> list[Lifecycle]:
        """The services, in the order in which they start."""
        parts: list[Lifecycle] = [self.lock, self._runtimes, self.scheduler, self.hooks, self.health]
        return [*parts, *([self.http] if self.http else []), Listening(self.lock, self.socket)]

    async def start(self) -> None:
        """Become the project's daemon; DaemonRunning when another process is, and nothing changes then."""
        await self._services.start()

    async def stop(self) -> None:
        """Stop every service, the last first: no new calls, syncs pause, then the place is free."""
        await self._services.stop()

    async def look(self) -> str:
        """See whether it can still be found, and mend that; why it should end, or an empty text.

        Its socket, or the whole folder, may have been removed: both are made again.  It ends when its
        project is gone, when another process has taken its place meanwhile, or when it was idle for long.
        """
        if not await in_thread(Path(self.folder.root, FOLDER).is_dir):
            return f"the project {self.folder.root} is gone"
        if not await in_thread(lambda: self.lock.holds() and self.socket.is_there()):
            log.warning("the daemon's folder or its socket was removed; making it again")
            try:
                await in_thread(self.lock.renew)
            except DaemonRunning as error:
                return error.message
            self.socket.path = Path(self.lock.socket)
            await self.socket.listen_again()
        return self._idle()

    def _idle(self) -> str:
        """Why it should end, when nothing was asked for long."""
        now, limit = asyncio.get_running_loop().time(), self.options.idle_stop
        asked, self._asked = self._asked, self.methods.asked
        connections = self.socket.connections + (self.http.connections if self.http else 0)
        used = asked != self._asked or connections or self.scheduler.next_at is not None
        if limit is None or used or self.project.syncing():
            self._quiet_since = now
        elif now - self._quiet_since >= limit:
            return f"it was idle for {limit:g} s"
        return ""


class Runtimes:
    """The project's runtimes as a service: each starts when it is first used, and all stop together.

    The syncs that were under way are noted, so that after a restart they go on at once.  After a stop they
    wait for a schedule or a person.
    """

    def __init__(self, project: Project[Any], lock: DaemonLock) -> None:
        self._project, self._lock = project, lock
        self._resuming: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Go on with the syncs that the former daemon had under way, when this is its restart."""
        noted = self._lock.before.get(SYNCING)
        for name in noted if self._lock.before.get(RESUME) is True and isinstance(noted, list) else ():
            self._resuming.append(asyncio.create_task(self._go_on(str(name)), name=f"resume {name}"))

    async def _go_on(self, name: str) -> None:
        try:
            await (await self._project.runtime(name)).sync()
        except MaxError as error:
            log.warning("the sync of %s does not go on: %s", name, error)

    async def stop(self) -> None:
        """Pause what is being synced, then stop every runtime; one that is late is interrupted."""
        for one in self._resuming:
            one.cancel()
        await asyncio.gather(*self._resuming, return_exceptions=True)
        syncing = await self._project.pause_all(PAUSING)
        with suppress(MaxError):
            await in_thread(lambda: self._lock.note(**{SYNCING: [str(one) for one in syncing]}))
        await self._project.stop_all()


class Http:
    """The HTTP face as a service, where the options ask for one.  Its token is in the daemon's folder."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self.service: HttpService | None = None

    @property
    def connections(self) -> int:
        """How many clients are connected."""
        server = self.service.server if self.service else None
        return server.open_connections if server else 0

    async def start(self) -> None:
        """Listen; ProjectError when the address is taken, MissingExtra without h11."""
        from .serve.http_service import HttpService

        host, _, port = (self._daemon.options.http or "").rpartition(":")
        token = Path(self._daemon.folder.file(HTTP_TOKEN))
        self.service = HttpService(self._daemon.methods, host.strip("[]"), int(port), token)
        await self.service.start()
        address = self.service.address
        await in_thread(lambda: self._noted(address))
        log.info("answering at %s; the token is in %s", address, token)

    def _noted(self, address: str) -> None:
        """Write down where it answers, and keep the tokens out of the log."""
        self._daemon.lock.note(**{ADDRESS: address})
        for token in self.service.tokens() if self.service else ():
            self._daemon.redactor.learn(token)

    async def stop(self) -> None:
        """End the streams with a word, let what runs end, and listen no more."""
        if self.service is not None:
            await self.service.stop()


class Listening:
    """The socket as a service: its place is known when the lock is held."""

    def __init__(self, lock: DaemonLock, socket: SocketServer) -> None:
        self._lock, self._socket = lock, socket

    async def start(self) -> None:
        """Listen where the lock says."""
        self._socket.path = Path(self._lock.socket)
        await self._socket.start()

    async def stop(self) -> None:
        """Take no more calls; open ones end with DaemonStopping."""
        await self._socket.stop()


# -- as a process ----------------------------------------------------------------------------------


class DaemonProcess:
    """A daemon as the whole of a process.

    The first SIGTERM or SIGINT makes it end well, the second at once.  SIGHUP opens the log again.
    """

    def __init__(self, daemon: Daemon, file: LogFile, notifier: Notifier) -> None:
        self._daemon, self._file, self._notifier = daemon, file, notifier
        self._reason: asyncio.Future[str] | None = None  # why it ends

    async def run(self, ready: Callable[[], None]) -> None:
        """Run until a signal, or until the daemon has a reason of its own to end.  ``ready``: it listens."""
        loop = asyncio.get_running_loop()
        self._reason = loop.create_future()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._end, number)
        loop.add_signal_handler(signal.SIGHUP, self._reopen)
        await self._daemon.start()
        try:
            log.info("process %d is the daemon of %s", os.getpid(), self._daemon.folder.root)
            ready()
            self._notifier.send("READY=1")
            await self._until_reason(self._reason)
        finally:
            log.info("ending: %s", self._reason.result() if self._reason.done() else "an error")
            self._notifier.send("STOPPING=1")
            late = loop.call_later(DRAIN, partial(self._leave, 0, f"not all had ended after {DRAIN:g} s"))
            await self._daemon.stop()
            late.cancel()
            log.info("ended")

    async def _until_reason(self, reason: asyncio.Future[str]) -> None:
        """Look at itself now and then, until there is a reason to end.  Waits know no wall clock."""
        pause = min(LOOK, self._notifier.interval or LOOK)
        while not reason.done():
            await asyncio.wait([reason], timeout=pause)
            self._notifier.send("WATCHDOG=1")
            try:
                why = "" if reason.done() else await self._daemon.look()
            except (MaxError, OSError) as error:  # a full disk, perhaps: it is looked at again
                log.warning("%s", error)
                continue
            if why and not reason.done():
                reason.set_result(why)

    def _end(self, number: signal.Signals) -> None:
        if self._reason is None or self._reason.done():
            self._leave(LEFT, f"a second {number.name}")
        self._reason.set_result(number.name)

    def _leave(self, status: int, why: str) -> NoReturn:
        """End the process without waiting, as a crash would: nothing that is stored is lost."""
        log.warning("left at once: %s", why)
        os._exit(status)

    def _reopen(self) -> None:
        self._file.reopen()
        log.info("the log was opened again")


def run_daemon(
    manager: ProjectManager,
    options: DaemonOptions,
    commands: Commands | None = None,
    *,
    background: bool = False,
    ready: Callable[[], None] = lambda: None,
) -> None:
    """Be the daemon of a project until it ends.  For a process of its own.

    ``commands`` is as for Daemon.  In the background everything that is printed goes into the log;
    otherwise the log is on stderr, too.
    """
    from .serve.daemon_log import set_up_log
    from .serve.own_process import stay_small
    from .serve.service_manager import take_notifier

    stay_small()
    daemon = Daemon(manager, options, commands)
    make_private(daemon.folder)
    file = set_up_log(daemon.folder.file(LOG), capture=background, clean=daemon.redactor.message)
    asyncio.run(DaemonProcess(daemon, file, take_notifier()).run(ready))
