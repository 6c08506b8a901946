"""For those who write a connector: an upstream that lies to order, and a clock that waits for nobody.

    >>> clock = FakeClock()
    >>> upstream = ScriptedUpstream({"/things": [{"id": "1"}, {"id": "2"}]}, page_size=1)
    >>> upstream.tell(Fault(Lie.STORM, "/things", page=1, times=3))
    >>> async def main() -> None:
    ...     async with upstream:
    ...         ...  # sync a connector whose address is upstream.url
    >>> clock.run(main())  # every wait in it takes no time
    >>> dict(upstream.served)  # once synced: {"/things": 1, "/things?cursor=page-1": 1}
    {}

The upstream is a real HTTP server on a port of this machine, in the event loop of its user.
Nothing in Max imports this module.
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

START = 1_750_000_000.0  # seconds since the epoch: when a fake clock begins
GRACE = 0.005  # real seconds in which threads and sockets may still speak before a wait is skipped
PAUSE = 2.0  # seconds between two bytes of an answer that dribbles
FOREVER = 2**31  # as ``times`` of a fault
GARBAGE = b"<!doctype html><title>Bad gateway</title><h1>We will be right back</h1>"


def access(*urls: str, **secrets: str) -> CredentialProvider:
    """What a connector's ``initialise`` is given: leave to ask at these addresses, and these secrets."""
    declared = [Credential(name) for name in secrets]
    return CredentialProvider(MemoryCredentials(secrets), declared, Hosts.of(*urls))


# -- time ----------------------------------------------------------------------------------


class FakeClock:
    """Seconds since the epoch, which pass only when everybody waits: ``clock()`` tells them.

    Give it to whatever takes a clock, and run the program with ``run``.
    """

    def __init__(self, start: float = START) -> None:
        self._start, self._elapsed = start, 0.0

    def __call__(self) -> float:
        return self._start + self._elapsed

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self._elapsed += seconds

    def run(self, work: Coroutine[Any, Any, V]) -> V:
        """As asyncio.run, in a loop where a sleep moves the clock instead of taking time.

        Threads and sockets get the real time that they need.
        """
        with asyncio.Runner(loop_factory=lambda: _FastLoop(self)) as runner:
            return runner.run(work)


class _FastLoop(asyncio.SelectorEventLoop):
    """A loop with the time of a fake clock; from 0, where a float is exact enough for its timers."""

    def __init__(self, clock: FakeClock) -> None:
        self._clock = clock
        super().__init__(_SkippingSelector(clock.advance))

    def time(self) -> float:
        return self._clock._elapsed


class _SkippingSelector(selectors.DefaultSelector):
    """Waits for a moment only; what is left of a wait, the clock skips."""

    def __init__(self, advance: Callable[[float], None]) -> None:
        super().__init__()
        self._advance = advance

    def select(self, timeout: float | None = None) -> Any:
        ready = super().select(min(timeout, GRACE) if timeout else timeout)
        if timeout and timeout > 0 and not ready:
            self._advance(timeout)
        return ready


# -- the upstream ----------------------------------------------------------------------------


class Lie(StrEnum):
    """What an upstream may do wrong when it is asked for a page."""

    REPEAT = "repeat"  # the page names itself as the next one
    SKIP = "skip"  # the page is left out: the one behind it comes in its place
    TRUNCATE = "truncate"  # half of the body, then the connection is closed
    GARBAGE = "garbage"  # status 200 and HTML
    DRIBBLE = "dribble"  # a byte every two seconds
    RESET = "reset"  # half of the body, then the connection is reset
    STORM = "storm"  # status 429
    EXPIRE = "expire"  # status 401 until ``POST /token`` has given a new token


@dataclass(frozen=True)
class Fault:
    """A lie, and for which page it is told: ``page`` counts from 0 in the listing at ``path``.

    After so many ``times`` the truth follows.  ``retry_after`` is what a storm asks for, in seconds.
    """

    lie: Lie
    path: str
    page: int
    times: int = 1
    retry_after: float | None = None


class ScriptedUpstream:
    """An HTTP service that lists what it was given, and lies when told to.

    ``GET path?cursor=`` answers ``{"items", "next", "total"}``, ``POST /token`` a new bearer
    ``{"token"}``; with ``token`` every listing wants the newest one.  ``asked`` counts every
    request, ``served`` every page that left whole, both by address.
    """

    def __init__(
        self, listings: Mapping[str, Sequence[Json]], *, page_size: int = 10, token: str | None = None
    ) -> None:
        self.listings, self.page_size, self.token = dict(listings), page_size, token
        self.url = ""  # known while it serves
        self.asked: Counter[str] = Counter()
        self.served: Counter[str] = Counter()
        self._faults: dict[Fault, int] = {}
        self._tokens = 0
        self._reached: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self._conversations: set[asyncio.Task[Any]] = set()

    def tell(self, *faults: Fault) -> None:
        """Tell these lies from now on, and no others; none: the truth."""
        self._faults = {fault: fault.times for fault in faults}

    async def reached(self, address: str) -> None:
        """Wait until an address is asked for, unless it was already: the moment to pull a plug."""
        await self._reached[address].wait()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._converse, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for conversation in self._conversations:
            conversation.cancel()
        await asyncio.gather(*self._conversations, return_exceptions=True)
        await self._server.wait_closed()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one connection until one of both sides closes it."""
        conversation = asyncio.current_task()
        assert conversation is not None  # noqa: S101  # the server runs every conversation as a task
        self._conversations.add(conversation)
        try:
            while await self._exchange(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass  # the client has left, or the service ends
        finally:
            self._conversations.discard(conversation)
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request and its answer; False when that was the last of the connection."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        start, *lines = head.split("\r\n")
        method, target, _ = start.split(" ")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        await reader.readexactly(int(headers.get("content-length", 0)))
        self.asked[target] += 1
        self._reached[target].set()
        if method == "POST":
            self._renew()
            return await self._send(writer, 200, {"token": self.token})
        return await self._send_page(writer, target, headers.get("authorization", ""))

    async def _send_page(self, writer: asyncio.StreamWriter, target: str, authorization: str) -> bool:
        parts = urlsplit(target)
        page = int(parse_qs(parts.query).get("cursor", ["page-0"])[0].removeprefix("page-"))
        fault = self._due(parts.path, page)
        lie = fault.lie if fault else None
        if lie is Lie.EXPIRE:
            self._renew()
        if parts.path not in self.listings:
            return await self._send(writer, 404, {"error": "no such listing"})
        if self.token is not None and authorization != f"Bearer {self.token}":
            return await self._send(writer, 401, {"error": "who are you?"})
        if fault and lie is Lie.STORM:
            asked_for = "" if fault.retry_after is None else f"retry-after: {fault.retry_after:g}\r\n"
            return await self._send(writer, 429, {"error": "slower"}, headers=asked_for)
        stays = await self._send(writer, 200, self._page(parts.path, page, lie), lie)
        if lie not in (Lie.TRUNCATE, Lie.GARBAGE, Lie.RESET):
            self.served[target] += 1
        return stays

    def _due(self, path: str, page: int) -> Fault | None:
        for fault, left in self._faults.items():
            if (fault.path, fault.page) == (path, page) and left > 0:
                self._faults[fault] = left - 1
                return fault
        return None

    def _renew(self) -> None:
        self._tokens += 1
        self.token = f"renewed-{self._tokens}"

    def _page(self, path: str, page: int, lie: Lie | None) -> Json:
        everything, size = self.listings[path], self.page_size
        shown = page + 1 if lie is Lie.SKIP else page
        following = page if lie is Lie.REPEAT else shown + 1
        more = lie is Lie.REPEAT or following * size < len(everything)
        return {
            "items": everything[shown * size : (shown + 1) * size],
            "next": f"page-{following}" if more else None,
            "total": len(everything),
        }

    async def _send(
        self, writer: asyncio.StreamWriter, status: int, data: Json, lie: Lie | None = None, headers: str = ""
    ) -> bool:
        body = GARBAGE if lie is Lie.GARBAGE else json.dumps(data).encode()
        writer.write(f"HTTP/1.1 {status} Said\r\ncontent-length: {len(body)}\r\n{headers}\r\n".encode())
        if lie in (Lie.TRUNCATE, Lie.RESET):
            writer.write(body[: len(body) // 2])
            await writer.drain()
            if lie is Lie.RESET:
                _reset(writer)
            return False
        if lie is Lie.DRIBBLE:
            for byte in body[:-1]:
                writer.write(bytes([byte]))
                await writer.drain()  # raises when the client has had enough
                await asyncio.sleep(PAUSE)
            body = body[-1:]
        writer.write(body)
        await writer.drain()
        return True


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close without a goodbye: what the client reads next is "connection reset by peer"."""
    connection: socket.socket = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
