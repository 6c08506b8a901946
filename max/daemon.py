"""The daemon: one process per project that keeps runtimes warm, runs schedules and answers commands.

It is made of services, started in order and stopped in reverse: the lock that makes this process the
project's daemon, the project with its runtimes, the socket.  ``Daemon`` starts and stops in any event loop;
``run`` is for a process of its own, whose signals it handles.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from typing import TYPE_CHECKING

from .core import Lifecycle, logger
from .installations.project_folder import ProjectFolder
from .model.struct import Struct
from .project import Project
from .runtime import LifecycleManager
from .serve.daemon_folder import DaemonFolder
from .serve.daemon_lock import DaemonLock

if TYPE_CHECKING:
    from .model.values import Json

log = logger("daemon")


class DaemonOptions(Struct):
    """What a daemon is started with; the next start takes the same where it is given nothing else.

    ``idle_stop`` are seconds without a call or a sync after which it ends; None: never.  ``http`` is the
    ``host:port`` of its HTTP face; None: it has none.  ``isolate``: each installation runs in a process
    of its own.
    """

    idle_stop: float | None = None
    http: str | None = None
    isolate: bool = True

    def to_json(self) -> dict[str, Json]:
        """The options as JSON data."""
        return {"idle_stop": self.idle_stop, "http": self.http, "isolate": self.isolate}


class Daemon:
    """The daemon of one project, as a service."""

    def __init__(self, folder: ProjectFolder, options: DaemonOptions | None = None) -> None:
        from . import __version__

        self.options = options or DaemonOptions()
        self.project = Project(folder)
        self.version = __version__
        facts: dict[str, Json] = {"version": __version__, "options": self.options.to_json()}
        self.lock = DaemonLock(DaemonFolder(folder.root), facts)
        self._services = LifecycleManager(*self._parts())

    def _parts(self) -> list[Lifecycle]:
        """The services, in the order in which they start."""
        return [self.lock, Runtimes(self.project), SocketServer(self)]

    async def start(self) -> None:
        """Become the project's daemon; DaemonRunning when another process is, and nothing is changed then."""
        await self._services.start()

    async def stop(self) -> None:
        """Stop every service, the last first: no new calls, syncs pause, then the lock is released."""
        await self._services.stop()


class Runtimes:
    """The project's runtimes as a service: they start when they are first used, and stop together."""

    def __init__(self, project: Project) -> None:
        self._project = project

    async def start(self) -> None:
        """Nothing: a runtime starts when it is first used."""

    async def stop(self) -> None:
        """Stop every runtime."""
        await self._project.stop_all()


class SocketServer:
    """Greets who connects."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen."""
        self._server = await asyncio.start_unix_server(self._greet, self._daemon.lock.socket)

    async def stop(self) -> None:
        """Listen no more."""
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    async def _greet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        hello = {"max": self._daemon.version, "protocol": 1}
        writer.write(json.dumps(hello).encode() + b"\n")
        with suppress(OSError):
            await writer.drain()
        writer.close()
