"""The HTTP server: whatever comes over a socket costs bounded time and memory, and has its answer."""

from __future__ import annotations

import asyncio
import json
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from max.errors import MissingExtra, ProjectError
from max.model.asgi import Message, Receive, Scope, Send
from max.serve.http_server import ConnectionBounds, HttpServer
from tests.waiting import until

QUICK = ConnectionBounds(
    connections=4, target=200, head=1_000, head_time=0.3, idle=0.3, read_time=0.3, write_time=0.3, drain=0.3
)

GET = b"GET /echo HTTP/1.1\r\nHost: x\r\n\r\n"


class Echo:
    """An app that says what it saw; a path may ask for something else."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str, bytes]] = []
        self.scopes: list[Scope] = []
        self.disconnected = 0
        self.release = asyncio.Event()
        self.begun = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scopes.append(scope)
        self.begun.set()
        if scope["path"] == "/broken":
            raise ValueError("a bug")
        if scope["path"] == "/silent":
            return
        if scope["path"] == "/half":
            await begin(send, 200)
            await send({"type": "http.response.body", "body": b"half", "more_body": True})
            raise ValueError("a bug")
        if scope["path"] == "/wait":
            await self.release.wait()
        if scope["path"] == "/endless":
            await self.stream(receive, send)
            return
        body = await body_of(receive) if scope["path"] != "/unread" else b""
        if body is None:
            self.disconnected += 1
            return
        self.seen.append((scope["method"], scope["path"], body))
        await begin(send, 200, (b"content-length", str(len(body) + 4).encode()))
        await send({"type": "http.response.body", "body": b"got:" + body})

    async def stream(self, receive: Receive, send: Send) -> None:
        await body_of(receive)
        await begin(send, 200)
        gone = asyncio.ensure_future(receive())
        try:
            while not gone.done():
                await send({"type": "http.response.body", "body": b"x" * 60_000, "more_body": True})
                await asyncio.sleep(0)
        finally:
            self.disconnected += 1
            gone.cancel()


async def begin(send: Send, status: int, *headers: tuple[bytes, bytes]) -> None:
    await send({"type": "http.response.start", "status": status, "headers": [*headers]})


async def body_of(receive: Receive) -> bytes | None:
    found = b""
    while True:
        message: Message = await receive()
        if message["type"] == "http.disconnect":
            return None
        found += bytes(message["body"])
        if not message["more_body"]:
            return found


@asynccontextmanager
async def serving(app: Any, bounds: ConnectionBounds = QUICK) -> AsyncIterator[HttpServer]:
    """A server that is stopped, and leaves no task behind."""
    before = asyncio.all_tasks()
    server = HttpServer(app, bounds=bounds)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()
    await asyncio.sleep(0)
    await until(lambda: asyncio.all_tasks() <= before)


async def talk(server: HttpServer, *parts: bytes, close: bool = False) -> bytes:
    """Send some bytes, then read until the server closes; with ``close`` the sending side ends first."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    try:
        for part in parts:
            writer.write(part)
            await writer.drain()
        if close:
            writer.write_eof()
        async with asyncio.timeout(240):
            return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.close()


def ask(*parts: bytes, app: Any = None, close: bool = False, bounds: ConnectionBounds = QUICK) -> bytes:
    """What a server answers to some bytes, until it closes."""

    async def main() -> bytes:
        async with serving(app or Echo(), bounds) as server:
            return await talk(server, *parts, close=close)

    return asyncio.run(main())


def run(work: Callable[[HttpServer, Echo], Awaitable[Any]], bounds: ConnectionBounds = QUICK) -> Any:
    """Call a function with a server and its app."""

    async def main() -> Any:
        app = Echo()
        async with serving(app, bounds) as server:
            return await work(server, app)

    return asyncio.run(main())


def statuses(answer: bytes) -> list[int]:
    """The status of each answer in some bytes; no app here writes such a line into a body."""
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d+) ", answer)]


def error_of(answer: bytes) -> Any:
    return json.loads(answer.partition(b"\r\n\r\n")[2])["error"]


class TestRequests:
    """What is asked as it should be."""

    def test_a_connection_answers_one_request_after_the_other(self) -> None:
        async def work(server: HttpServer, app: Echo) -> None:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            for number in range(3):
                writer.write(b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n%d" % number)
                head = await reader.readuntil(b"\r\n\r\n")
                assert statuses(head) == [200]
                assert await reader.readexactly(5) == b"got:%d" % number
            writer.close()
            assert [body for _, _, body in app.seen] == [b"0", b"1", b"2"]

        run(work)

    def test_requests_that_were_sent_ahead_are_answered_in_order(self) -> None:
        sent = [b"POST /%d HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n%d" % (n, n) for n in range(5)]
        answer = ask(b"".join(sent), close=True)
        assert statuses(answer) == [200] * 5
        assert [answer.index(b"got:%d" % n) for n in range(5)] == sorted(
            answer.index(b"got:%d" % n) for n in range(5)
        )

    def test_a_chunked_body_and_its_trailers_arrive_whole(self) -> None:
        head = b"POST /echo HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
        answer = ask(head, b"3\r\nabc\r\n", b"2;x=y\r\nde\r\n0\r\nTrailer: z\r\n\r\n")
        assert answer.endswith(b"got:abcde")

    def test_the_answer_to_head_has_the_length_and_no_body(self) -> None:
        answer = ask(b"HEAD /echo HTTP/1.1\r\nHost: x\r\n\r\n", b"GET /echo HTTP/1.0\r\n\r\n")
        head, _, rest = answer.partition(b"\r\n\r\n")
        assert b"content-length: 4" in head.lower()
        assert rest.startswith(b"HTTP/1.1 200")

    def test_a_client_that_waits_for_100_is_asked_for_the_body_when_the_app_reads_it(self) -> None:
        async def work(server: HttpServer, app: Echo) -> None:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(
                b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n"
            )
            assert statuses(await reader.readuntil(b"\r\n\r\n")) == [100]
            writer.write(b"hi")
            assert statuses(await reader.readuntil(b"\r\n\r\n")) == [200]
            writer.close()

        run(work)

    def test_a_body_that_no_app_reads_ends_the_connection_after_the_answer(self) -> None:
        head = b"POST /unread HTTP/1.1\r\nHost: x\r\nContent-Length: 500000\r\n\r\n"
        assert statuses(ask(head, b"x" * 400_000, close=True)) == [200]

    def test_a_client_that_closed_its_sending_side_gets_its_answer(self) -> None:
        assert ask(GET, close=True).endswith(b"got:")

    def test_an_http_1_0_client_is_answered_and_the_connection_ends(self) -> None:
        assert ask(b"GET /echo HTTP/1.0\r\n\r\n").endswith(b"got:")

    def test_every_answer_has_a_date(self) -> None:
        assert b"\r\ndate: " in ask(GET, close=True).lower()

    @pytest.mark.parametrize(
        ("target", "path", "query"),
        [
            (b"/a%20b%C3%A4?c=%20d", "/a bä", b"c=%20d"),
            (b"http://real/path?q", "/path", b"q"),
            (b"http://real", "/", b""),
            (b"/%ff", "/\ufffd", b""),
            (b"*", "*", b""),
        ],
    )
    def test_the_app_sees_the_path_decoded_and_the_query_as_it_came(
        self, target: bytes, path: str, query: bytes
    ) -> None:
        async def work(server: HttpServer, app: Echo) -> None:
            await talk(server, b"GET %s HTTP/1.1\r\nHost: other\r\nConnection: close\r\n\r\n" % target)
            scope = app.scopes[0]
            assert (scope["path"], scope["query_string"]) == (path, query)
            host = b"real" if target.startswith(b"http") else b"other"
            assert [value for name, value in scope["headers"] if name == b"host"] == [host]

        run(work)


class TestBounds:
    """What comes too long, too slowly or too often."""

    @pytest.mark.parametrize("length", [1_000, 5_000, 500_000])
    def test_a_head_that_is_too_long_is_431(self, length: int) -> None:
        answer = ask(b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"y" * length + b"\r\n\r\n")
        assert statuses(answer) == [431]
        assert error_of(answer)["code"] == "http.refused"

    def test_a_url_that_is_too_long_is_414(self) -> None:
        assert statuses(ask(b"GET /" + b"y" * 300 + b" HTTP/1.1\r\nHost: x\r\n\r\n")) == [414]

    def test_a_head_that_comes_a_byte_at_a_time_is_408_in_bounded_time(self) -> None:
        async def work(server: HttpServer, app: Echo) -> None:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)

            async def drip() -> None:
                for byte in GET[:-1] * 100:
                    writer.write(bytes([byte]))
                    await asyncio.sleep(0.02)

            dripping = asyncio.ensure_future(drip())
            assert statuses(await reader.read()) == [408]
            dripping.cancel()
            writer.close()
            assert app.scopes == []

        run(work)

    def test_a_client_that_says_nothing_is_dropped_without_a_word(self) -> None:
        assert ask() == b""

    def test_a_body_that_does_not_come_is_408(self) -> None:
        head = b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nabc"
        assert statuses(ask(head)) == [408]

    def test_a_body_that_ends_early_reaches_no_app_as_whole(self) -> None:
        async def work(server: HttpServer, app: Echo) -> None:
            head = b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nabc"
            assert statuses(await talk(server, head, close=True)) == [400]
            assert (app.seen, app.disconnected) == ([], 1)

        run(work)

    def test_one_connection_too_many_is_503_and_says_when_to_come_again(self) -> None:
        async def work(server: HttpServer, app: Echo) -> None:
            held = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(4)]
            await until(lambda: server.open_connections == 4)
            answer = await talk(server, GET)
            assert statuses(answer) == [503]
            assert b"retry-after: 1" in answer.lower()
            assert error_of(answer)["code"] == "daemon.busy"
            for _, writer in held:
                writer.close()
            await until(lambda: not server.open_connections)
            assert statuses(await talk(server, GET, close=True)) == [200]

        run(work, QUICK._replace(idle=5, head_time=5))

    def test_a_client_that_does_not_read_is_dropped_and_its_app_ends(self) -> None:
        async def work(server: HttpServer, app: Echo) -> None:
            raw = socket.create_connection(("127.0.0.1", server.port))
            raw.sendall(b"GET /endless HTTP/1.1\r\nHost: x\r\n\r\n")
            await app.begun.wait()
            await until(lambda: not server.open_connections)
            assert app.disconnected == 1
            raw.close()

        run(work)

    def test_what_is_sent_while_an_answer_streams_is_bounded(self) -> None:
        async def work(server: HttpServer, app: Echo) -> None:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(b"GET /endless HTTP/1.1\r\nHost: x\r\n\r\n" + b"y" * 1_000_000)
            with suppress(ConnectionError):
                while await reader.read(100_000):
                    pass
            writer.close()
            assert app.disconnected == 1

        run(work)


class TestErrors:
    """What is no HTTP, and apps that fail."""

    @pytest.mark.parametrize(
        "sent",
        [
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100),  # TLS
            b"GET / HTTP/1.1\r\n\r\n",  # no host
            b"GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
            b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
            b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
            b"GET /\x00 HTTP/1.1\r\nHost: x\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: x\r\nA\x00: b\r\n\r\n",
        ],
    )
    def test_what_is_no_request_is_400(self, sent: bytes) -> None:
        answer = ask(sent)
        assert statuses(answer) == [400], answer
        assert error_of(answer)["code"] == "http.refused"

    def test_an_encoding_that_no_server_must_know_is_501(self) -> None:
        head = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n"
        assert statuses(ask(head)) == [501]

    @pytest.mark.parametrize("path", [b"/broken", b"/silent"])
    def test_an_app_that_fails_is_500_and_is_reported(self, path: bytes) -> None:
        async def main() -> None:
            reported: list[Exception] = []
            server = HttpServer(Echo(), bounds=QUICK, report=reported.append)
            await server.start()
            answer = await talk(server, b"GET %s HTTP/1.1\r\nHost: x\r\n\r\n" % path)
            assert statuses(answer) == [500]
            assert b"a bug" not in answer
            assert len(reported) == (path == b"/broken")
            assert statuses(await talk(server, GET, close=True)) == [200]
            await server.stop()

        asyncio.run(main())

    def test_an_answer_that_breaks_off_is_seen_as_incomplete(self) -> None:
        assert not ask(b"GET /half HTTP/1.1\r\nHost: x\r\n\r\n").endswith(b"0\r\n\r\n")

    @settings(max_examples=60)
    @given(st.lists(st.binary(max_size=300), max_size=4), st.booleans())
    @example([b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 3, b"\xff"], True)
    @example([b"\r\n" * 400], False)
    def test_any_bytes_end_with_an_answer_or_a_close(self, parts: list[bytes], early: bool) -> None:
        async def work(server: HttpServer, app: Echo) -> None:
            answer = await talk(server, *parts, close=True)
            assert set(statuses(answer)) <= {200, 400, 408, 414, 431, 501}
            assert statuses(await talk(server, GET, close=True)) == [200]

        run(work)

    @settings(max_examples=40)
    @given(st.integers(0, len(GET) - 1), st.integers(0, 255))
    def test_a_request_with_one_wrong_byte_never_stops_the_server(self, place: int, byte: int) -> None:
        async def work(server: HttpServer, app: Echo) -> None:
            await talk(server, GET[:place] + bytes([byte]) + GET[place + 1 :], close=True)
            assert statuses(await talk(server, GET, close=True)) == [200]

        run(work)


class TestLife:
    """Starting and stopping."""

    def test_stop_lets_a_request_end_and_closes_idle_connections_at_once(self) -> None:
        async def main() -> None:
            app = Echo()
            server = HttpServer(app, bounds=QUICK._replace(drain=10, idle=10, head_time=10))
            await server.start()
            idle_reader, idle_writer = await asyncio.open_connection("127.0.0.1", server.port)
            asked = asyncio.ensure_future(talk(server, b"GET /wait HTTP/1.1\r\nHost: x\r\n\r\n"))
            await app.begun.wait()
            stopping = asyncio.ensure_future(server.stop())
            assert await idle_reader.read() == b""
            app.release.set()
            answer = await asked
            assert statuses(answer) == [200]
            assert b"connection: close" in answer.lower()
            await stopping
            idle_writer.close()
            with pytest.raises(OSError):
                await asyncio.open_connection("127.0.0.1", server.port)

        asyncio.run(main())

    def test_stop_cuts_off_what_does_not_end(self) -> None:
        async def main() -> None:
            app = Echo()
            server = HttpServer(app, bounds=QUICK)
            await server.start()
            asked = asyncio.ensure_future(talk(server, b"GET /wait HTTP/1.1\r\nHost: x\r\n\r\n"))
            await app.begun.wait()
            await server.stop()
            assert await asked == b""
            assert server.open_connections == 0

        asyncio.run(main())

    def test_start_and_stop_may_be_called_twice_and_again(self) -> None:
        async def main() -> None:
            server = HttpServer(Echo(), bounds=QUICK)
            await server.stop()
            for _ in range(2):
                await server.start()
                await server.start()
                assert statuses(await talk(server, GET, close=True)) == [200]
                await server.stop()
                await server.stop()

        asyncio.run(main())

    def test_an_address_that_is_taken_is_an_error_in_words(self) -> None:
        async def main() -> None:
            async with serving(Echo()) as server:
                with pytest.raises(ProjectError, match=f"cannot listen at 127.0.0.1:{server.port}: "):
                    await HttpServer(Echo(), port=server.port).start()

        asyncio.run(main())

    @pytest.mark.parametrize(
        ("host", "port"), [("203.0.113.7", 0), ("no such host", 0), ("127.0.0.1", 99_999)]
    )
    def test_an_address_that_cannot_be_is_an_error_in_words(self, host: str, port: int) -> None:
        with pytest.raises(ProjectError, match="cannot listen at"):
            asyncio.run(HttpServer(Echo(), host, port).start())

    def test_without_h11_the_extra_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(__import__("sys").modules, "h11", None)
        with pytest.raises(MissingExtra, match="serving HTTP needs h11"):
            asyncio.run(HttpServer(Echo()).start())
