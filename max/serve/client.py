"""The typed client: the methods of a project that another process answers.

    async with Client.open(".") as client:
        page = await client.search("acme", "AcmeUser", "active = true", limit=50)

Rule: a Client is Methods, answered by another process.  What takes Methods takes a Client.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from ..core import in_thread
from ..errors import ConnectionLost
from .daemon_folder import DaemonFolder
from .method import PROMPTER, Method
from .methods import Methods
from .protocol import ClientConnection
from .streams import End, Stream

if TYPE_CHECKING:
    from ..installations.onboarding import Prompter


START = "start one: max daemon start"


class Client(Methods):
    """Asks the methods of the process at the other end of a stream.

    Several calls may be open at once.  Cancelling one ends the wait at once, and the call; what changes
    something raises CallCancelled, which knows whether that came too late.  Errors are
    those that the method raised there; ConnectionLost when the process ended before it answered.
    """

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection

    def __repr__(self) -> str:
        return f"{type(self).__name__}(max {self._connection.version})"

    @property
    def version(self) -> str:
        """The version of Max at the other end."""
        return self._connection.version

    @classmethod
    @asynccontextmanager
    async def over(cls, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> AsyncIterator[Self]:
        """A client over a stream of bytes, which is closed at the end."""
        connection = ClientConnection(reader, writer)
        try:
            await connection.start()
            yield cls(connection)
        finally:
            await connection.stop()

    @classmethod
    @asynccontextmanager
    async def at(cls, path: Path | str) -> AsyncIterator[Self]:
        """A client of the unix socket with this path; ConnectionLost when no process listens there."""
        try:
            reader, writer = await asyncio.open_unix_connection(str(path))
        except (OSError, ValueError) as error:
            raise ConnectionLost(f"no daemon answers at {path}", hint=START) from error
        async with cls.over(reader, writer) as client:
            yield client

    @classmethod
    @asynccontextmanager
    async def open(cls, path: Path | str = ".") -> AsyncIterator[Self]:
        """A client of the daemon of the project of a folder, or of the nearest folder above.

        ProjectError when there is no project, ConnectionLost when it has no daemon that runs,
        ProtocolError when that is of another version of Max.
        """
        folder = await in_thread(lambda: _daemon_of(path))
        if not folder.socket:
            raise ConnectionLost(f"no daemon runs for {folder.root}", hint=START)
        async with cls.at(folder.socket) as client:
            yield client

    def _answer(self, method: Method, arguments: dict[str, Any]) -> Any:
        prompter: Prompter | None = arguments.pop(PROMPTER, None)
        parts = self._connection.call(method.name, arguments, prompter, changes=not method.reads)
        return Stream(_stream(parts)) if method.streams else _result(parts)


def _daemon_of(path: Path | str) -> DaemonFolder:
    from ..projects.folder import ProjectFolder

    return DaemonFolder(ProjectFolder.find(path).root)


async def _result(parts: AsyncGenerator[tuple[str, Any], None]) -> Any:
    async with aclosing(parts):
        async for _, value in parts:
            return value
    raise ConnectionLost("the call ended without an answer")


async def _stream(parts: AsyncGenerator[tuple[str, Any], None]) -> AsyncGenerator[Any, None]:
    async with aclosing(parts):
        async for kind, value in parts:
            yield End(value) if kind == "result" else value
