"""What carries requests when a program gives no transport of its own.

Each connection serves one request at a time, and is kept open and used again.  It is one of our own
(http1.py), or a client of httpx2 where the environment or the system names a proxy.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import sys
import time
import zlib
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlsplit

from ..core import in_thread
from ..errors import Offline, UpstreamBroken, UpstreamChanged
from ..model.struct import Struct
from .hosts import read_address
from .http import HttpRequest, HttpResponse, Transport, one_line, read_number, require_http
from .http1 import BadAnswer, Connection, NoAnswer
from .operations import in_operation

if TYPE_CHECKING:
    import ssl

    from .redaction import Redactor

DEADLINE = 300.0  # seconds for a whole answer outside of any operation, which has a deadline of its own
LIBRARY_LOGS = ("httpx2", *(f"httpcore2.{part}" for part in ("connection", "http11", "proxy", "socks")))
CONNECTIONS = 32  # kept open for later requests
KEPT = 5.0  # seconds that an unused connection is kept open
GZIP_OR_ZLIB = zlib.MAX_WBITS | 32  # zlib finds out which


class _CleanLog(logging.Filter):
    """Removes secrets from what the library logs: the address of each request, the headers of answers."""

    def __init__(self, redactor: Redactor) -> None:
        super().__init__()
        self._redactor = redactor

    def filter(self, record: logging.LogRecord) -> bool:
        """Every record stays, without secrets."""
        record.msg, record.args = self._redactor.message(record.getMessage()), ()
        return True


class _Carrier(Protocol):
    """Carries one request at a time to one origin."""

    @property
    def is_usable(self) -> bool:
        """Whether it can carry another one."""

    async def send(self, request: HttpRequest, max_bytes: int) -> HttpResponse:
        """As Transport says."""

    async def aclose(self) -> None:
        """Close its connection."""


class DefaultTransport(Transport):
    """Connections of our own, or of httpx2 where a proxy is set; they are kept open and used again."""

    def __init__(self, timeout: float, redactor: Redactor) -> None:
        self._timeout, self._log = timeout, _CleanLog(redactor)
        self._opening = asyncio.Lock()
        self._ways: dict[bool, _Way] = {}  # with encryption, and without
        self._carriers: set[_Carrier] = set()  # every open one
        self._idle: list[tuple[str, float, _Carrier]] = []  # for which origin, since when

    async def aclose(self) -> None:
        """Close every connection; the next request opens one again, perhaps in another loop."""
        carriers, self._carriers = self._carriers, set()
        self._idle, self._ways, self._opening = [], {}, asyncio.Lock()
        for name in LIBRARY_LOGS:
            logging.getLogger(name).removeFilter(self._log)
        for carrier in carriers:
            await carrier.aclose()

    async def send(self, request: HttpRequest, *, max_bytes: int) -> HttpResponse:
        """As Transport says; MissingExtra when the library is not installed."""
        origin = "/".join(request.url.split("/", 3)[:3])
        carrier = await self._taken(origin) or await self._opened(origin, request)
        try:
            return await carrier.send(request, max_bytes)
        finally:
            if carrier in self._carriers:  # else it was closed meanwhile
                if carrier.is_usable:
                    self._idle.append((origin, time.monotonic(), carrier))
                else:
                    await self._close(carrier)
                await self._close_unused()

    async def _taken(self, origin: str) -> _Carrier | None:
        """The idle one that served an origin last, so that those which are not needed grow old."""
        for place in reversed(range(len(self._idle))):
            if self._idle[place][0] == origin:
                carrier = self._idle.pop(place)[2]
                if carrier.is_usable:
                    return carrier
                await self._close(carrier)  # the service has closed it
        return None

    async def _close_unused(self) -> None:
        """Close the idle ones that are too many, or too old."""
        while len(self._idle) > CONNECTIONS or (self._idle and self._idle[0][1] < time.monotonic() - KEPT):
            await self._close(self._idle.pop(0)[2])

    async def _close(self, carrier: _Carrier) -> None:
        self._carriers.remove(carrier)
        await carrier.aclose()

    async def _opened(self, origin: str, request: HttpRequest) -> _Carrier:
        """A new one; Offline when there is no connection."""
        secure = origin.startswith("https:")
        async with self._opening:
            if secure not in self._ways:
                self._ways[secure] = await in_thread(lambda: self._prepared(secure))
            way = self._ways[secure]
        if way.proxied:
            carrier: _Carrier = _Httpx2Carrier(way.trust, self._timeout)
        else:
            to = read_address(origin)[0]
            try:
                opened = Connection.opened(to.host.strip("[]"), to.port, way.trust, self._timeout)
                carrier = _DirectCarrier(await opened)
            except NoAnswer as error:
                raise _offline(request, error) from error
        self._carriers.add(carrier)
        return carrier

    def _prepared(self, secure: bool) -> _Way:
        """How requests travel.  The imports and certificates would hold the loop for a tenth of a second.

        Without encryption, and without a proxy, none are loaded: a third of the start-up.
        """
        require_http()
        import h11  # noqa: F401  # for the loop, which finds it imported

        proxied = _has_proxy()
        if not proxied and not secure:
            return _Way(None, proxied=False)
        import http.cookiejar  # noqa: F401

        import httpx2

        for name in LIBRARY_LOGS:
            logging.getLogger(name).addFilter(self._log)  # once, however often it is added
        trust = httpx2.create_ssl_context(verify=secure)
        if not proxied:
            trust.set_alpn_protocols(["http/1.1"])
        return _Way(trust, proxied)


class _Way(Struct):
    """Which certificates are trusted, and whether proxies are set."""

    trust: ssl.SSLContext | None
    proxied: bool


def _has_proxy() -> bool:
    """Whether the environment or the system names a proxy, for whatever hosts."""
    if sys.platform not in ("darwin", "win32"):  # which keep them elsewhere too
        return any(name.lower().endswith("_proxy") and value for name, value in os.environ.items())
    from urllib.request import getproxies

    return bool(getproxies())


class _DirectCarrier(_Carrier):
    """A connection of our own."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    @property
    def is_usable(self) -> bool:
        return self._connection.is_usable

    async def aclose(self) -> None:
        await self._connection.aclose()

    async def send(self, request: HttpRequest, max_bytes: int) -> HttpResponse:
        """Errors of the connection are translated here."""
        url, body = urlsplit(request.url), request.body
        headers = {"host": url.netloc, "accept": "*/*", "user-agent": "max-sync"}
        headers |= {"accept-encoding": "gzip, deflate", **request.headers}  # what _Unpacker reads
        if body is not None:
            headers["content-length"] = str(len(body))
        target, answered = f"{url.path or '/'}{'?' if url.query else ''}{url.query}", False
        try:
            head = await self._connection.head(request.method, target, headers.items(), body or b"")
            answered, named = True, _joined(head.headers)
            unpacked = await _read(request, named, self._connection.body(), max_bytes)
            return HttpResponse(request, head.status_code, named, unpacked)
        except NoAnswer as error:
            raise _offline(request, error) from error
        except BadAnswer as error:
            raise _damaged(request, error, answered=answered) from error


def _joined(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """Headers by their names in lower case; those that come more than once are joined by commas."""
    named: dict[str, str] = {}
    for name, value in headers:
        try:
            text = value.decode()
        except UnicodeDecodeError:
            text = value.decode("latin-1")
        key = name.decode("ascii").lower()
        named[key] = f"{named[key]}, {text}" if key in named else text
    return named


class _Httpx2Carrier(_Carrier):
    """A client of httpx2, which knows proxies.

    It has one connection.  One client for all requests would ask the system about every idle
    connection, at both ends of each request.
    """

    is_usable = True

    def __init__(self, trust: ssl.SSLContext | None, timeout: float) -> None:
        from http.cookiejar import CookieJar, DefaultCookiePolicy

        import httpx2

        self._client = httpx2.AsyncClient(
            timeout=timeout,
            verify=True if trust is None else trust,
            headers={"accept-encoding": "gzip, deflate"},  # what _Unpacker reads
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),  # none: they reach other origins
        )

    async def aclose(self) -> None:
        await self._client.aclose()

    async def send(self, request: HttpRequest, max_bytes: int) -> HttpResponse:
        """Errors of httpx2 are translated here and nowhere else."""
        import httpx2

        headers, answered = dict(request.headers), False
        call = self._client.stream(request.method, request.url, headers=headers, content=request.body)
        try:
            async with call as response:
                answered, named = True, dict(response.headers)
                body = await _read(request, named, response.aiter_raw(), max_bytes)
                return HttpResponse(request, response.status_code, named, body)
        except httpx2.RemoteProtocolError as error:
            if not answered and "without sending" in str(error):
                raise _offline(request, error) from error
            raise _damaged(request, error, answered=answered) from error
        except httpx2.RequestError as error:
            raise _offline(request, error) from error


def _damaged(request: HttpRequest, error: Exception, *, answered: bool) -> UpstreamBroken:
    words = "is incomplete or damaged" if answered else f"is not valid HTTP ({one_line(str(error))})"
    return UpstreamBroken(f"{request}: the answer {words}", hint="try again later")


def _offline(request: HttpRequest, error: Exception) -> Offline:
    host, reason = urlsplit(request.url).netloc, one_line(str(error)) or type(error).__name__
    return Offline(f"no answer from {host}: {reason}", hint="check the network and the address")


async def _read(
    request: HttpRequest, headers: Mapping[str, str], pieces: AsyncIterator[bytes], max_bytes: int
) -> bytes:
    """The unpacked body; it never takes more memory than ``max_bytes`` and the connection's buffers."""
    announced = read_number(headers.get("content-length"))
    if announced is not None and announced > max_bytes and request.method != "HEAD":
        raise _too_long(request, max_bytes)
    body, unpacker = bytearray(), _Unpacker(headers.get("content-encoding", ""))
    until = (
        math.inf if in_operation() else time.monotonic() + DEADLINE
    )  # of no loop: a fake clock skips waits
    try:
        async for piece in pieces:
            if time.monotonic() > until:
                raise Offline(
                    f"{request}: no complete answer within {DEADLINE:g} s",
                    hint="the service is slow; try later",
                )
            body += unpacker.unpack(piece, max_bytes + 1 - len(body))
            if len(body) > max_bytes:
                raise _too_long(request, max_bytes)
        unpacker.check_end()
    except zlib.error as error:
        raise UpstreamBroken(
            f"{request}: the answer is incomplete or damaged", hint="try again later"
        ) from error
    return bytes(body)


def _too_long(request: HttpRequest, max_bytes: int) -> UpstreamChanged:
    return UpstreamChanged(
        f"{request}: the answer is longer than {max_bytes:,} bytes",
        hint="it was not read to its end, and is not asked for again; ask for smaller pages",
    )


class _Unpacker:
    """Unpacks gzip and deflate, no more at a time than is asked for; other bodies stay as they are."""

    def __init__(self, encoding: str) -> None:
        self._packed = encoding.strip().lower() in ("gzip", "x-gzip", "deflate")
        self._stream: zlib._Decompress | None = None
        self._head = b""  # the first byte; two say how the body is packed

    def unpack(self, data: bytes, most: int) -> bytes:
        """At most so many bytes; what is left over has no meaning when there are that many."""
        if not self._packed:
            return data[:most]
        if self._stream is None:
            data = self._head + data
            if len(data) < 2:
                self._head = data
                return b""
            self._stream = zlib.decompressobj(_window(data))
        unpacked = self._stream.decompress(data, most)
        while self._stream.eof and self._stream.unused_data and len(unpacked) < most:  # one more member
            data, self._stream = self._stream.unused_data, zlib.decompressobj(GZIP_OR_ZLIB)
            unpacked += self._stream.decompress(data, most - len(unpacked))
        return unpacked

    def check_end(self) -> None:
        """zlib.error when the body ends within the packed data."""
        if self._head if self._stream is None else not self._stream.eof:
            raise zlib.error("incomplete")


def _window(data: bytes) -> int:
    """How zlib reads a body with this beginning: some services send deflate without its head."""
    has_head = data[:2] == b"\x1f\x8b" or (data[0] & 15 == 8 and int.from_bytes(data[:2], "big") % 31 == 0)
    return GZIP_OR_ZLIB if has_head else -zlib.MAX_WBITS
