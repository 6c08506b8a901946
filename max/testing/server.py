"""An HTTP server on a local port that can misbehave: what the services of this package have in common."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import threading
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from enum import StrEnum
from functools import cached_property
from typing import Any, Self
from urllib.parse import parse_qsl, urlencode, urlsplit

from ..model.values import Json
from .clock import running_clock

PAUSE = 2.0  # seconds between two bytes of a slow answer
FOREVER = 2**31  # as ``times`` of a fault
GARBAGE = b"<!doctype html><title>Bad gateway</title><h1>We will be right back</h1>"
BARE = (204, 304)  # statuses without a body


class FaultKind(StrEnum):
    """What a service may do wrong when a page is requested."""

    REPEAT = "repeat"  # the page names itself as the next one
    SKIP = "skip"  # the page is left out: the one after it is sent
    EMPTY = "empty"  # the page has no rows, and goes on as usual
    DUPLICATE = "duplicate"  # a row comes twice: the last one of the page before, or of this one
    WRONG_TOTAL = "wrong_total"  # the total is one too high
    TRUNCATE = "truncate"  # half of the body, then the connection is closed
    GARBAGE = "garbage"  # status 200 and HTML
    SLOW = "slow"  # a byte every two seconds
    RESET = "reset"  # half of the body, then the connection is reset
    DROP = "drop"  # the connection is closed without an answer
    RATE_LIMIT = "rate_limit"  # status 429
    ERROR = "error"  # status 500
    FORBIDDEN = "forbidden"  # status 403
    NOT_MODIFIED = "not_modified"  # status 304, whatever was asked
    EXPIRE = "expire"  # status 401 until ``POST /token`` has issued a new token


STATUSES = {  # of the faults that are a status
    FaultKind.RATE_LIMIT: 429,
    FaultKind.ERROR: 500,
    FaultKind.FORBIDDEN: 403,
    FaultKind.NOT_MODIFIED: 304,
    FaultKind.EXPIRE: 401,
}
LOST = frozenset(  # the answer does not arrive whole
    {*STATUSES, FaultKind.TRUNCATE, FaultKind.GARBAGE, FaultKind.RESET, FaultKind.DROP}
)


@dataclass(frozen=True)
class Request:
    """What a client sent: ``target`` is the path with the query, ``headers`` are by name in lower case.

    ``number`` counts the requests of the service from 1.
    """

    method: str
    target: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    number: int = 1
    pieces: tuple[str, ...] = ()  # what each ``{}`` of a route was

    @cached_property
    def path(self) -> str:
        """The path without the query."""
        return urlsplit(self.target).path

    @cached_property
    def query(self) -> dict[str, str]:
        """The parameters of the address; of one that comes twice, the last."""
        return dict(parse_qsl(urlsplit(self.target).query, keep_blank_values=True))

    @cached_property
    def data(self) -> Json:
        """The JSON data of the body; None without any."""
        try:
            return json.loads(self.body)
        except ValueError:
            return None

    def get(self, name: str, default: str | None = None) -> str | None:
        """A parameter as text: of the address, else of the JSON body, at a dotted path."""
        found: Json = self.query.get(name)
        if found is None:
            found = self.data
            for key in name.split("."):
                found = found.get(key) if isinstance(found, dict) else None
        return default if found is None else str(found)

    def count(self, name: str, default: int) -> int:
        """The same as a number; the default when it is none."""
        text = self.get(name) or ""
        return int(text) if text.isdecimal() else default

    def address(self, **parameters: str | int) -> str:
        """The absolute address of this request with other parameters."""
        changed = {**self.query, **{name: str(value) for name, value in parameters.items()}}
        return f"http://{self.headers.get('host', 'localhost')}{self.path}?{urlencode(changed)}"


@dataclass(frozen=True)
class Response:
    """What a service answers: ``data`` as JSON, unless ``body`` has the bytes."""

    data: Json = None
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None

    def content(self) -> bytes:
        """The bytes of the body."""
        if self.body is not None:
            return self.body
        return b"" if self.status in BARE else json.dumps(self.data).encode()


class LocalServer:
    """Answers HTTP requests on a local port, in the caller's event loop, while ``async with`` lasts.

    ``with`` does the same in a thread of its own, for programs without a loop and for other processes.
    ``requests`` counts every request by its address, ``log`` has them in order.  ``clock`` gives the
    Date header; without one, the FakeClock that runs the loop, or the real time.
    """

    def __init__(self, clock: Callable[[], float] | None = None) -> None:
        self.url = ""  # known while it serves
        self.requests: Counter[str] = Counter()
        self.log: list[Request] = []
        self.clock = clock
        self._at: defaultdict[int, list[Callable[[], object]]] = defaultdict(list)
        self._reached: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self._connections: set[asyncio.Task[Any]] = set()

    async def answer(self, request: Request) -> tuple[Response, FaultKind | None]:
        """The answer to a request, and what goes wrong while it is sent."""
        raise NotImplementedError

    def sent(self, request: Request, response: Response) -> None:
        """An answer has arrived whole."""

    def address(self, request: Request) -> str:
        """The name under which a request is counted."""
        return request.target

    def at(self, number: int, work: Callable[[], object]) -> None:
        """Call ``work`` when the nth request from the start arrives, before it is answered."""
        self._at[number].append(work)

    async def reached(self, address: str) -> None:
        """Wait until an address is requested, unless it was already: the moment to interrupt something."""
        await self._reached[address].wait()

    async def __aenter__(self) -> Self:
        self._clock = self.clock or running_clock()
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        await self._server.wait_closed()

    def __enter__(self) -> Self:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="max-testing")
        self._thread.start()
        return asyncio.run_coroutine_threadsafe(self.__aenter__(), self._loop).result()

    def __exit__(self, *error: object) -> None:
        asyncio.run_coroutine_threadsafe(self.__aexit__(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one connection until either side closes it."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  # asyncio runs every connection as a task
        self._connections.add(task)
        try:
            while await self._exchange(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass  # the client has closed it, or the service ends
        finally:
            self._connections.discard(task)
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer one request; False when it was the last of the connection."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        start, *lines = head.split("\r\n")
        method, target, _ = start.split(" ")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines if line)}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        request = Request(method, target, headers, body, len(self.log) + 1)
        address = self.address(request)
        self.log.append(request)
        self.requests[address] += 1
        self._reached[address].set()
        for work in self._at.pop(request.number, ()):
            work()
        response, fault = await self.answer(request)
        if fault is FaultKind.DROP:
            return False
        stays_open = await self._send(writer, response, fault)
        if fault not in LOST:
            self.sent(request, response)
        return stays_open

    async def _send(self, writer: asyncio.StreamWriter, response: Response, fault: FaultKind | None) -> bool:
        body = GARBAGE if fault is FaultKind.GARBAGE else response.content()
        headers = {"date": formatdate(self._clock(), usegmt=True), **response.headers}
        if response.status not in BARE:
            headers["content-length"] = str(len(body))
        lines = [
            f"HTTP/1.1 {response.status} Status",
            *(f"{name}: {value}" for name, value in headers.items()),
        ]
        writer.write("\r\n".join([*lines, "", ""]).encode("latin-1"))
        if fault in (FaultKind.TRUNCATE, FaultKind.RESET):
            writer.write(body[: len(body) // 2])
            await writer.drain()
            if fault is FaultKind.RESET:
                _reset(writer)
            return False
        if fault is FaultKind.SLOW:
            for byte in body[:-1]:
                writer.write(bytes([byte]))
                await writer.drain()  # raises when the client has given up
                await asyncio.sleep(PAUSE)
            body = body[-1:]
        writer.write(body)
        await writer.drain()
        return True


def _reset(writer: asyncio.StreamWriter) -> None:
    """Reset the connection: the client's next read fails with "connection reset by peer"."""
    connection: socket.socket = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


Handler = Callable[[Request], Response | Json | Awaitable[Response | Json]]  # of a route
