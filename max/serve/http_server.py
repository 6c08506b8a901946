"""An HTTP/1.1 server for one ASGI app, inside a running event loop, on h11.

h11 owns the grammar; this file owns the connections: how long each step may take, how much may be
held, what becomes of a request when the server stops.

Rule 1: whatever a client sends or leaves out, it costs bounded memory and bounded time.  Each bound
has its status: 408 a request that comes too slowly, 414 and 431 a head that is too long, 503 too many
connections.  What depends on the app (bodies, requests at once) is the app's business, so that it holds
under any server.

Rule 2: the requests of a connection are answered one after the other, in the order in which they
came; one that was sent ahead waits in a bounded buffer.

Rule 3: a client may close its sending side and still read its answer.  The app hears of it as
``http.disconnect``; only a stream without an end stops then.

Rule 4: ``stop`` closes the door first, lets what runs end for some seconds, and leaves no task.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable, Iterable
from email.utils import formatdate
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import unquote_to_bytes

from ..errors import MissingExtra, ProjectError

if TYPE_CHECKING:
    import h11

    from ..model.asgi import AsgiApp, Message

CHUNK = 65_536  # bytes of one read, and of what is written before the writer waits
AHEAD = 65_536  # bytes that are read while a request is being answered
LINGER = 2.0  # seconds in which a client that was refused may still send, so that it can read why
LINGERING = 1_000_000  # bytes that are thrown away meanwhile


class ConnectionBounds(NamedTuple):
    """What one server, and one client of it, may take.  Times are seconds, sizes bytes."""

    connections: int = 200  # open at once
    target: int = 8_192  # of a URL without its host
    head: int = 32_768  # of the first line and the headers
    head_time: float = 10.0  # from a request's first byte to the end of its head
    idle: float = 60.0  # between two requests of a connection
    read_time: float = 20.0  # for the next bytes of a body
    write_time: float = 20.0  # for a client that does not read what was written
    drain: float = 8.0  # for the requests that run when the server stops


class HttpServer:
    """Answers HTTP at an address with an ASGI app, from ``start`` to ``stop``.

    With port 0 the system picks one: ``port`` says which.  ``report`` gets each error that the app
    raises, which is a bug of it.
    """

    def __init__(
        self,
        app: AsgiApp,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        bounds: ConnectionBounds | None = None,
        report: Callable[[Exception], None] = lambda error: None,
    ) -> None:
        self.app, self.host, self.port = app, host, port
        self.bounds, self.report = bounds or ConnectionBounds(), report
        self.stopping = False
        self._server: asyncio.Server | None = None
        self._connections: dict[asyncio.Task[None], _Connection] = {}

    @property
    def open_connections(self) -> int:
        """How many clients are connected."""
        return len(self._connections)

    @property
    def address(self) -> str:
        """``http://127.0.0.1:8765``."""
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    async def start(self) -> None:
        """Listen; nothing is left behind when that fails.

        MissingExtra without h11, ProjectError when the address is taken or not this machine's.
        """
        if self._server is not None:
            return
        _library()
        try:
            self._server = await asyncio.start_server(self._connected, self.host, self.port, limit=CHUNK)
        except (OSError, OverflowError, UnicodeError) as error:
            raise ProjectError(
                f"cannot listen at {self.host}:{self.port}: {getattr(error, 'strerror', None) or error}",
                hint="name another address or port; port 0 picks a free one",
            ) from error
        self.stopping = False
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Take no more requests, let those that run end for ``drain`` seconds, then cut them off."""
        server, self._server = self._server, None
        if server is None:
            return
        self.stopping = True
        server.close()
        running = dict(self._connections)
        for task, connection in running.items():
            if connection.idle:
                task.cancel()
        if running:
            _, left = await asyncio.wait(running, timeout=self.bounds.drain)
            for task in left:
                task.cancel()
            if left:
                await asyncio.wait(left)
        await server.wait_closed()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task, many = asyncio.current_task(), len(self._connections)
        if task is None or many >= 2 * self.bounds.connections:
            writer.transport.abort()  # even saying no has a bound
            return
        connection = self._connections[task] = _Connection(self, reader, writer)
        try:
            await (connection.refuse() if many >= self.bounds.connections else connection.serve())
        except (OSError, TimeoutError):
            pass  # the client went away, or does not read
        except asyncio.CancelledError:
            if not self.stopping:
                raise
        finally:
            del self._connections[task]
            await _end(writer)


def _library() -> Any:
    """The module h11; MissingExtra without it."""
    try:
        import h11
    except ImportError as error:
        raise MissingExtra("daemon", "h11", "serving HTTP") from error
    return h11


async def _end(writer: asyncio.StreamWriter) -> None:
    """Close a connection; what the client has not taken by now is dropped."""
    if writer.transport.get_write_buffer_size():
        writer.transport.abort()
    writer.close()
    with contextlib.suppress(OSError, asyncio.CancelledError):
        await writer.wait_closed()


class _Connection:
    """One client: its requests in turn, and the bytes between them and h11."""

    def __init__(
        self, server: HttpServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.server, self.bounds = server, server.bounds
        self.idle = False  # between two requests: it may end at once
        self.h11 = _library()
        self.conn: h11.Connection = self.h11.Connection(
            self.h11.SERVER, max_incomplete_event_size=self.bounds.head
        )
        self._reader, self._writer = reader, writer
        self._ended = False  # the client sends no more
        writer.transport.set_write_buffer_limits(high=CHUNK)

    def addresses(self) -> dict[str, Any]:
        """Both ends, as ASGI has them."""
        ends = {"client": "peername", "server": "sockname"}
        found = {name: self._writer.get_extra_info(key) for name, key in ends.items()}
        return {name: tuple(value[:2]) if value else None for name, value in found.items()}

    async def read(self, seconds: float) -> bool:
        """Give h11 the next bytes; False at their end.  TimeoutError when there are none for so long."""
        async with asyncio.timeout(seconds):
            data = await self._reader.read(CHUNK)
        self._ended = not data
        self.conn.receive_data(data)
        return bool(data)

    async def until_disconnected(self) -> None:
        """Return when the client has closed, or sends more than may wait."""
        while not self._ended and len(self.conn.trailing_data[0]) <= AHEAD:
            data = await self._reader.read(CHUNK)
            self._ended = not data
            self.conn.receive_data(data)

    async def write(self, data: bytes) -> None:
        """Write; TimeoutError when the client does not read it, OSError when it is gone."""
        if self._writer.is_closing():
            raise ConnectionResetError("the client is gone")
        self._writer.write(data)
        try:
            async with asyncio.timeout(self.bounds.write_time):
                await self._writer.drain()
        except TimeoutError:
            self.abort()
            raise

    def abort(self) -> None:
        """Cut the connection off: the client sees that its answer is incomplete."""
        self._writer.transport.abort()

    # -- the requests

    async def serve(self) -> None:
        """Answer requests until the client goes, an answer ends the connection, or the server stops."""
        patience = self.bounds.head_time
        while not self.server.stopping and await self._serve_one(patience):
            self.conn.start_next_cycle()
            patience = self.bounds.idle

    async def _serve_one(self, patience: float) -> bool:
        """Answer one request, which begins within so many seconds; whether another one may follow."""
        try:
            request = await self._next_request(patience)
        except self.h11.RemoteProtocolError as error:
            await self.fail(error.error_status_hint, f"this is no HTTP: {error}")
            return False
        except TimeoutError:
            await self.fail(408, "the request did not come in time")
            return False
        if request is None:
            return False
        status, problem = self._problem(request)
        if problem:
            await self.fail(status, problem, head=request.method == b"HEAD")
            return False
        await _Exchange(self, request).run()
        done = self.h11.DONE
        if self.conn.states == {self.h11.CLIENT: done, self.h11.SERVER: done}:
            return True
        await self._linger()
        return False

    async def _next_request(self, patience: float) -> h11.Request | None:
        """The head of the next request; None when the client sends none."""
        event = self.conn.next_event()
        if event is self.h11.NEED_DATA and not self.conn.trailing_data[0]:
            self.idle = True
            try:
                await self.read(patience)
            except TimeoutError:
                return None
            finally:
                self.idle = False
            event = self.conn.next_event()
        async with asyncio.timeout(self.bounds.head_time):
            while event is self.h11.NEED_DATA:
                await self.read(self.bounds.head_time)
                event = self.conn.next_event()
        return event if isinstance(event, self.h11.Request) else None

    def _problem(self, request: h11.Request) -> tuple[int, str]:
        """Why no app may see a request: a status and words; no words when it may."""
        names = [name for name, _ in request.headers]
        size = sum(len(name) + len(value) for name, value in request.headers)
        if size > self.bounds.head:  # it came in one piece, so h11 did not count it
            return 431, f"headers have at most {self.bounds.head:,} bytes"
        if len(request.target) > self.bounds.target:
            return 414, f"a URL has at most {self.bounds.target:,} bytes"
        if b"transfer-encoding" in names and b"content-length" in names:  # a smuggled request has both
            return 400, "a request has a length or an encoding, not both"
        return 200, ""

    async def refuse(self) -> None:
        """Say that there are too many connections."""
        await self.fail(503, "there are too many connections: try again in a moment", code="daemon.busy")

    async def fail(
        self, status: int, message: str, *, code: str = "http.refused", head: bool = False
    ) -> None:
        """Answer with an error that no app saw, unless an answer has begun, and end the connection."""
        h11 = self.h11
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            self.abort()
            return
        error = {"code": code, "message": message, "hint": "", "data": {}}
        body = json.dumps({"error": error}).encode()
        headers = [("content-type", "application/json"), ("content-length", str(len(body)))]
        headers += [("connection", "close"), *([("retry-after", "1")] if status == 503 else [])]
        data = self.conn.send(h11.Response(status_code=status, headers=headers)) or b""
        await self.write(data if head else data + body)
        await self._linger()

    async def _linger(self) -> None:
        """Read on for a moment: a client that is still sending would lose its answer to a reset."""
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(LINGER):
                if self._writer.can_write_eof():
                    self._writer.write_eof()
                left = LINGERING
                while left > 0 and (data := await self._reader.read(CHUNK)):
                    left -= len(data)


class _Exchange:
    """One request and its answer, as the app sees them."""

    def __init__(self, connection: _Connection, request: h11.Request) -> None:
        self._connection, self._conn, self._h11 = connection, connection.conn, connection.h11
        self._request = request
        self._head = b""  # of the answer, until its first bytes are there
        self._problem = (500, "the server failed before it answered", "daemon.fault")
        self._started = self._complete = False

    async def run(self) -> None:
        """Let the app answer; when it does not, say so."""
        scope = {**scope_of(self._request), **self._connection.addresses()}
        try:
            await self._connection.server.app(scope, self.receive, self.send)
        except OSError:
            self._connection.abort()  # the client is gone
            return
        except Exception as error:
            self._connection.server.report(error)
        if not self._started:
            status, message, code = self._problem
            await self._connection.fail(status, message, code=code, head=self._request.method == b"HEAD")
        elif not self._complete:
            self._connection.abort()

    async def receive(self) -> Message:
        """The next part of the body; then ``http.disconnect``, once the client closes."""
        h11 = self._h11
        try:
            while self._conn.their_state is h11.SEND_BODY:
                event = self._conn.next_event()
                if event is h11.NEED_DATA:
                    if self._conn.they_are_waiting_for_100_continue:
                        go_on = h11.InformationalResponse(status_code=100, headers=[])
                        await self._connection.write(self._conn.send(go_on) or b"")
                    await self._connection.read(self._connection.bounds.read_time)
                elif isinstance(event, h11.Data):
                    return {"type": "http.request", "body": bytes(event.data), "more_body": True}
                elif isinstance(event, h11.EndOfMessage):
                    return {"type": "http.request", "body": b"", "more_body": False}
        except h11.RemoteProtocolError as error:
            self._problem = (400, f"the body of the request is broken: {error}", "http.refused")
            return {"type": "http.disconnect"}
        except TimeoutError:
            self._problem = (408, "the body of the request did not come in time", "http.refused")
            return {"type": "http.disconnect"}
        if self._conn.their_state is not h11.ERROR and not self._complete:
            await self._connection.until_disconnected()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """Write the head, or a part of the body, of the answer."""
        h11 = self._h11
        if message["type"] == "http.response.start":
            headers = [*message.get("headers", ()), (b"date", formatdate(usegmt=True).encode())]
            if self._connection.server.stopping:
                headers.append((b"connection", b"close"))
            event = h11.Response(status_code=message["status"], headers=headers)
            self._head, self._started = self._conn.send(event) or b"", True
            return
        data, head = message.get("body", b""), self._head
        if data and self._request.method != b"HEAD":
            head += self._conn.send(h11.Data(data=data)) or b""
        if not message.get("more_body", False):
            head += self._conn.send(h11.EndOfMessage()) or b""
            self._complete = True
        self._head = b""
        await self._connection.write(head)


def scope_of(request: h11.Request) -> dict[str, Any]:
    """What ASGI says of a request, but for the addresses.

    In the absolute form of a target, its host goes before the header.
    """
    target, headers = bytes(request.target), [(bytes(name), bytes(value)) for name, value in request.headers]
    scheme, separator, rest = target.partition(b"://")
    if separator and scheme.lower() in (b"http", b"https"):
        host, slash, path = rest.partition(b"/")
        target = slash + path or b"/"
        headers = [*_without(headers, b"host"), (b"host", host)]
    path, _, query = target.partition(b"?")
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": request.http_version.decode("ascii"),
        "method": request.method.decode("ascii"),
        "scheme": "http",
        "path": unquote_to_bytes(path).decode("utf-8", "replace"),
        "raw_path": path,
        "query_string": query,
        "root_path": "",
        "headers": headers,
    }


def _without(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> list[tuple[bytes, bytes]]:
    return [(one, value) for one, value in headers if one != name]
