"""HTTP/1.1 over a socket of the event loop, on h11: one connection, one request at a time.

h11 owns the grammar; this file owns the bytes between it and the socket.

Why not the connections of httpx2: each request costs them a dozen system calls and half a millisecond.
A system call gives the interpreter's lock to the thread that writes rows, and to have it back takes
up to 5 ms.  Here a request takes four of them, and a fifth of the processor time.

A connection on which something came that was not asked for is not used again: it would be taken for
the answer to the next request.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    import ssl

    import h11

AHEAD = 64 * 2**10  # bytes that are taken from the socket before they are asked for
LONGEST_HEAD = 100 * 2**10  # bytes of a response before its body
EYEBALLS = 0.25  # seconds until the next address of a name is tried beside the one before


class NoAnswer(Exception):
    """Nothing could be sent, or what should have come did not: the words say why."""


class BadAnswer(Exception):
    """What came is not HTTP, or ended too early: the words say why."""


class _Wire(asyncio.Protocol):
    """The bytes that have come and that no caller has taken yet."""

    transport: asyncio.Transport

    def __init__(self) -> None:
        self.data = bytearray()
        self.ended = False
        self._error: Exception | None = None
        self._full = False
        self._waiter: asyncio.Future[None] | None = None
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.data += data
        if len(self.data) > AHEAD and not self._full:
            self._full = True
            self.transport.pause_reading()
        self._wake()

    def eof_received(self) -> None:
        self.ended = True
        self._wake()

    def connection_lost(self, error: Exception | None) -> None:
        self.ended, self._error = True, error
        self._wake()
        if not self.lost.done():
            self.lost.set_result(None)

    async def receive(self, within: float) -> bytes:
        """What has come since the last call, empty at the end; OSError, TimeoutError."""
        if not self.data and not self.ended:
            self._waiter = asyncio.get_running_loop().create_future()
            async with asyncio.timeout(within):
                await self._waiter
        if self._error and not self.data:
            raise self._error
        taken, self.data = bytes(self.data), bytearray()
        if self._full:
            self._full = False
            self.transport.resume_reading()
        return taken

    def _wake(self) -> None:
        if self._waiter and not self._waiter.done():
            self._waiter.set_result(None)


class Connection:
    """A connection to one origin.  ``timeout`` is in seconds, and bounds each wait."""

    def __init__(self, wire: _Wire, timeout: float) -> None:
        import h11

        self._wire, self._timeout = wire, timeout
        self._h11 = h11
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=LONGEST_HEAD)

    @classmethod
    async def opened(cls, host: str, port: int, trust: ssl.SSLContext | None, within: float) -> Connection:
        """A new connection, encrypted if there is something to trust; NoAnswer."""
        loop = asyncio.get_running_loop()
        options: dict[str, Any] = {"ssl": trust, "server_hostname": host if trust else None}
        if isinstance(loop, asyncio.BaseEventLoop):  # another loop, such as uvloop's, may not know it
            options["happy_eyeballs_delay"] = EYEBALLS
        try:
            async with asyncio.timeout(within):
                _, wire = await loop.create_connection(_Wire, host, port, **options)
        except (OSError, UnicodeError) as error:
            raise NoAnswer(_words(error, f"no connection within {within:g} s")) from error
        return cls(wire, within)

    @property
    def is_usable(self) -> bool:
        """Whether it can serve another request."""
        idle = self._http.our_state is self._h11.IDLE and self._http.their_state is self._h11.IDLE
        return idle and not self._wire.ended and not self._wire.data

    async def head(
        self, method: str, target: str, headers: Iterable[tuple[str, str]], body: bytes
    ) -> h11.Response:
        """Send a request, and give the beginning of its response; NoAnswer, BadAnswer."""
        request = self._h11.Request(method=method, target=target, headers=list(headers))
        try:
            events = [request, *([self._h11.Data(body)] if body else []), self._h11.EndOfMessage()]
            self._wire.transport.write(b"".join(self._http.send(one) or b"" for one in events))
        except self._h11.LocalProtocolError as error:
            raise NoAnswer(_words(error)) from error
        while not isinstance(event := await self._event(), self._h11.Response):
            if not isinstance(event, self._h11.InformationalResponse):
                raise BadAnswer("it changes the protocol")
        return event

    async def body(self) -> AsyncIterator[bytes]:
        """The parts of the response's body; NoAnswer, BadAnswer."""
        while isinstance(event := await self._event(), self._h11.Data):
            yield event.data
        done = self._http.our_state is self._h11.DONE and self._http.their_state is self._h11.DONE
        if done and not self._http.trailing_data[0]:
            self._http.start_next_cycle()

    async def _event(self) -> object:
        try:
            while (event := self._http.next_event()) is self._h11.NEED_DATA:
                data = await self._wire.receive(self._timeout)
                if not data and self._http.their_state is self._h11.SEND_RESPONSE:
                    raise NoAnswer("the service closed the connection without an answer")
                self._http.receive_data(data)
        except self._h11.RemoteProtocolError as error:
            raise BadAnswer(_words(error)) from error
        except OSError as error:
            raise NoAnswer(_words(error, f"nothing came for {self._timeout:g} s")) from error
        return event

    async def aclose(self) -> None:
        """End it at once, whatever is under way."""
        self._wire.transport.abort()
        await self._wire.lost


def _words(error: Exception, timeout: str = "") -> str:
    return timeout if timeout and isinstance(error, TimeoutError) else str(error) or type(error).__name__
