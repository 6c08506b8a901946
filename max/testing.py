"""Helpers for connector authors: a service that fails on request, and a clock whose waits take no time.

    >>> clock = FakeClock()
    >>> upstream = ScriptedUpstream({"/things": [{"id": "1"}, {"id": "2"}]}, page_size=1)
    >>> upstream.inject(Fault(FaultKind.RATE_LIMIT, "/things", page=1, times=3))
    >>> async def main() -> None:
    ...     async with upstream:
    ...         ...  # sync a connector whose address is upstream.url
    >>> clock.run(main())  # every wait in it takes no time
    >>> dict(upstream.served)  # once synced: {"/things": 1, "/things?cursor=page-1": 1}
    {}

The service is a real HTTP server on a local port, in the caller's event loop.  Nothing in Max
imports this module.
"""

from __future__ import annotations

import asyncio
import json
import selectors
import socket
import struct
from collections import Counter, defaultdict
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Self, TypeVar
from urllib.parse import parse_qs, urlsplit

from .model.values import Json
from .upstream.credentials import Credential, CredentialProvider, MemoryCredentials
from .upstream.hosts import Hosts

V = TypeVar("V")

START = 1_750_000_000.0  # seconds since the epoch: the start of a fake clock
GRACE = 0.005  # real seconds that threads and sockets get before a wait is skipped
PAUSE = 2.0  # seconds between two bytes of a slow answer
FOREVER = 2**31  # as ``times`` of a fault
GARBAGE = b"<!doctype html><title>Bad gateway</title><h1>We will be right back</h1>"


def credentials_for(*urls: str, **secrets: str) -> CredentialProvider:
    """What ``initialise`` is given: these addresses may be called, and these secrets exist."""
    declared = [Credential(name) for name in secrets]
    return CredentialProvider(MemoryCredentials(secrets), declared, Hosts.of(*urls))


# -- time ----------------------------------------------------------------------------------


class FakeClock:
    """Seconds since the epoch, which pass only while every task waits; ``clock()`` returns them.

    Pass it wherever a clock is taken, and run the program with ``run``.
    """

    def __init__(self, start: float = START) -> None:
        self._start, self._elapsed = start, 0.0

    def __call__(self) -> float:
        return self._start + self._elapsed

    def advance(self, seconds: float) -> None:
        """Move the clock forward."""
        self._elapsed += seconds

    def run(self, work: Coroutine[Any, Any, V]) -> V:
        """As asyncio.run, but a sleep moves the clock and takes no time.

        Threads and sockets get the real time that they need.
        """
        with asyncio.Runner(loop_factory=lambda: _FastLoop(self)) as runner:
            return runner.run(work)


class _FastLoop(asyncio.SelectorEventLoop):
    """A loop with the time of a fake clock; it begins at 0, where floats are exact enough for timers."""

    def __init__(self, clock: FakeClock) -> None:
        self._clock = clock
        super().__init__(_SkippingSelector(clock.advance))

    def time(self) -> float:
        return self._clock._elapsed


class _SkippingSelector(selectors.DefaultSelector):
    """Waits for a moment only; the clock skips the rest of a wait."""

    def __init__(self, advance: Callable[[float], None]) -> None:
        super().__init__()
        self._advance = advance

    def select(self, timeout: float | None = None) -> Any:
        ready = super().select(min(timeout, GRACE) if timeout else timeout)
        if timeout and timeout > 0 and not ready:
            self._advance(timeout)
        return ready


# -- the service -----------------------------------------------------------------------------


class FaultKind(StrEnum):
    """What the service may do wrong when a page is requested."""

    REPEAT = "repeat"  # the page names itself as the next one
    SKIP = "skip"  # the page is left out: the one after it is sent
    TRUNCATE = "truncate"  # half of the body, then the connection is closed
    GARBAGE = "garbage"  # status 200 and HTML
    SLOW = "slow"  # a byte every two seconds
    RESET = "reset"  # half of the body, then the connection is reset
    RATE_LIMIT = "rate_limit"  # status 429
    EXPIRE = "expire"  # status 401 until ``POST /token`` has issued a new token


@dataclass(frozen=True)
class Fault:
    """A fault on one page: ``page`` counts from 0 in the listing at ``path``.

    It happens this many ``times``; after that the page is sent as it is.  ``retry_after`` is for
    RATE_LIMIT, in seconds.
    """

    kind: FaultKind
    path: str
    page: int
    times: int = 1
    retry_after: float | None = None


class ScriptedUpstream:
    """An HTTP service that lists the given items, with the faults that were injected.

    ``GET path?cursor=`` returns ``{"items", "next", "total"}``, ``POST /token`` a new bearer token
    ``{"token"}``.  With ``token``, every listing requires the newest one.  ``requests`` counts
    every request, ``served`` every complete page, both by address.
    """

    def __init__(
        self, listings: Mapping[str, Sequence[Json]], *, page_size: int = 10, token: str | None = None
    ) -> None:
        self.listings, self.page_size, self.token = dict(listings), page_size, token
        self.url = ""  # known while it serves
        self.requests: Counter[str] = Counter()
        self.served: Counter[str] = Counter()
        self._faults: dict[Fault, int] = {}
        self._tokens = 0
        self._reached: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self._connections: set[asyncio.Task[Any]] = set()

    def inject(self, *faults: Fault) -> None:
        """Have these faults from now on, and no others."""
        self._faults = {fault: fault.times for fault in faults}

    async def reached(self, address: str) -> None:
        """Wait until an address is requested, unless it was already: the moment to interrupt something."""
        await self._reached[address].wait()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        await self._server.wait_closed()

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
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        await reader.readexactly(int(headers.get("content-length", 0)))
        self.requests[target] += 1
        self._reached[target].set()
        if method == "POST":
            self._renew()
            return await self._send(writer, 200, {"token": self.token})
        return await self._send_page(writer, target, headers.get("authorization", ""))

    async def _send_page(self, writer: asyncio.StreamWriter, target: str, authorization: str) -> bool:
        parts = urlsplit(target)
        page = int(parse_qs(parts.query).get("cursor", ["page-0"])[0].removeprefix("page-"))
        fault = self._due(parts.path, page)
        kind = fault.kind if fault else None
        if kind is FaultKind.EXPIRE:
            self._renew()
        if parts.path not in self.listings:
            return await self._send(writer, 404, {"error": "no such listing"})
        if self.token is not None and authorization != f"Bearer {self.token}":
            return await self._send(writer, 401, {"error": "unknown token"})
        if fault and kind is FaultKind.RATE_LIMIT:
            wait = "" if fault.retry_after is None else f"retry-after: {fault.retry_after:g}\r\n"
            return await self._send(writer, 429, {"error": "too many requests"}, headers=wait)
        stays_open = await self._send(writer, 200, self._body(parts.path, page, kind), kind)
        if kind not in (FaultKind.TRUNCATE, FaultKind.GARBAGE, FaultKind.RESET):
            self.served[target] += 1
        return stays_open

    def _due(self, path: str, page: int) -> Fault | None:
        for fault, left in self._faults.items():
            if (fault.path, fault.page) == (path, page) and left > 0:
                self._faults[fault] = left - 1
                return fault
        return None

    def _renew(self) -> None:
        self._tokens += 1
        self.token = f"renewed-{self._tokens}"

    def _body(self, path: str, page: int, kind: FaultKind | None) -> Json:
        everything, size = self.listings[path], self.page_size
        shown = page + 1 if kind is FaultKind.SKIP else page
        following = page if kind is FaultKind.REPEAT else shown + 1
        more = kind is FaultKind.REPEAT or following * size < len(everything)
        return {
            "items": everything[shown * size : (shown + 1) * size],
            "next": f"page-{following}" if more else None,
            "total": len(everything),
        }

    async def _send(
        self,
        writer: asyncio.StreamWriter,
        status: int,
        data: Json,
        kind: FaultKind | None = None,
        headers: str = "",
    ) -> bool:
        body = GARBAGE if kind is FaultKind.GARBAGE else json.dumps(data).encode()
        writer.write(f"HTTP/1.1 {status} Status\r\ncontent-length: {len(body)}\r\n{headers}\r\n".encode())
        if kind in (FaultKind.TRUNCATE, FaultKind.RESET):
            writer.write(body[: len(body) // 2])
            await writer.drain()
            if kind is FaultKind.RESET:
                _reset(writer)
            return False
        if kind is FaultKind.SLOW:
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
