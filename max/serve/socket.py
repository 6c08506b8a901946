"""The unix socket on which a daemon answers: bound, guarded, and one connection a client.

Rule: the socket is for its owner alone.  Its file has mode 0600 from the moment it exists, and each
client's user is asked of the operating system (SO_PEERCRED on Linux, getpeereid elsewhere): another user
is refused even where the mode would let it in, before a byte of its is read.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from ..core import logger
from ..errors import DaemonError
from ..model.actor import acting_as
from .protocol import Bounds, serve_connection

if TYPE_CHECKING:
    from .methods import Methods

log = logger("serve")
BACKLOG = 128  # clients that may wait to be accepted
LINE = 65_536  # bytes that one read may bring


class SocketServer:
    """Serves the methods at a path.  A service: ``start`` and ``stop``.

    DaemonError when the path cannot be bound; a file that is there already is one's own business.
    """

    def __init__(self, path: Path, methods: Methods, bounds: Bounds | None = None) -> None:
        self.path, self.methods, self.bounds = path, methods, bounds or Bounds()
        self._server: asyncio.Server | None = None
        self._file: os.stat_result | None = None  # the socket, as it was bound
        self._connections: set[asyncio.Task[None]] = set()

    @property
    def connections(self) -> int:
        """How many clients are connected."""
        return len(self._connections)

    async def start(self) -> None:
        """Bind the path and take clients."""
        self.bounds.stopping = False
        await self._listen()

    async def listen_again(self) -> None:
        """Bind the path again, whose file was removed; those who are connected stay so."""
        server, self._server = self._server, None
        if server is not None:
            server.close()
        await self._listen()

    async def _listen(self) -> None:
        bound = bind(self.path)
        self._file = self.path.stat()
        self._server = await asyncio.start_unix_server(self._accept, sock=bound, limit=LINE)

    def is_there(self) -> bool:
        """Whether the file at the path is the socket on which this server listens."""
        try:
            return self._file is not None and os.path.samestat(self._file, self.path.lstat())
        except OSError:
            return False

    async def stop(self) -> None:
        """Take no more clients and calls; open calls end with DaemonStopping.  May be called twice."""
        self.bounds.stop()
        server, self._server = self._server, None
        if server is not None:
            server.close()
        for task in self._connections:
            task.cancel()
        if self._connections:
            await asyncio.wait(self._connections)
        if server is not None and self.is_there():  # another process may have bound the path meanwhile
            with suppress(OSError):
                self.path.unlink()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        user = peer_user(writer.get_extra_info("socket"))
        if user != os.getuid():
            log.warning("a client of user %s was refused", "unknown" if user is None else user)
            writer.transport.abort()
            return
        process = peer_process(writer.get_extra_info("socket"))
        with acting_as("socket", process="" if process is None else f"process {process}"):
            task = asyncio.create_task(serve_connection(reader, writer, self.methods, self.bounds))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)


def bind(path: Path) -> socket.socket:
    """A listening socket at a path, for its owner alone; DaemonError."""
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        before = os.umask(0o177)  # the file never exists with another mode
        try:
            made.bind(str(path))
        finally:
            os.umask(before)
        made.listen(BACKLOG)
        made.setblocking(False)
    except OSError as error:
        made.close()
        raise DaemonError(f"no socket can be made at {path}: {error.strerror or error}") from error
    return made


def peer_user(connection: socket.socket) -> int | None:
    """The user id of the process at the other end; None when the system does not say."""
    if hasattr(socket, "SO_PEERCRED"):
        size = struct.calcsize("3i")
        found = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
        return int(struct.unpack("3i", found)[1])
    return _peer_user_bsd(connection)


def peer_process(connection: socket.socket) -> int | None:
    """The id of the process at the other end; None when the system does not say (Linux alone does)."""
    if not hasattr(socket, "SO_PEERCRED"):
        return None
    size = struct.calcsize("3i")
    return int(struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))[0])


def _peer_user_bsd(connection: socket.socket) -> int | None:
    """The same by getpeereid, which macOS and the BSDs have."""
    import ctypes

    user, group = ctypes.c_uint32(), ctypes.c_uint32()
    library = ctypes.CDLL(None, use_errno=True)
    try:
        failed = library.getpeereid(connection.fileno(), ctypes.byref(user), ctypes.byref(group))
    except AttributeError:
        return None
    return None if failed else user.value
