"""Every way to ask a project's methods: each gives something that is Methods and answers for others.

A transport is a context manager: in goes the Methods that answer, out comes what a program asks.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager, closing
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from max.core import in_thread
from max.serve.client import Client
from max.serve.http_access import Access, Tokens
from max.serve.http_app import HttpApp
from max.serve.http_server import HttpServer
from max.serve.http_streams import EVENTS, WIRE
from max.serve.method import Method
from max.serve.methods import Methods
from max.serve.protocol import Bounds, serve_connection
from max.serve.socket import SocketServer
from max.serve.streams import End, Stream
from max.serve.wire import Wire

TOKEN = "a-token-that-only-tests-have-0123456789"

Transport = Callable[[Methods, Path], AbstractAsyncContextManager[Methods]]


@asynccontextmanager
async def direct(methods: Methods, folder: Path) -> AsyncIterator[Methods]:
    """No transport."""
    yield methods


@asynccontextmanager
async def unix(methods: Methods, folder: Path) -> AsyncIterator[Methods]:
    """The unix socket."""
    server = SocketServer(folder / "s", methods)
    await server.start()
    try:
        async with Client.at(server.path) as client:
            yield client
    finally:
        await server.stop()


@asynccontextmanager
async def stdio(methods: Methods, folder: Path) -> AsyncIterator[Methods]:
    """Two pipes, as those between a process and its runner."""
    there, back = os.pipe(), os.pipe()
    with ExitStack() as opened:
        reader, answers = [await pipe_reader(one, opened) for one in (there[0], back[0])]
        served = asyncio.create_task(serve_connection(reader, await pipe_writer(back[1]), methods, Bounds()))
        try:
            async with Client.over(answers, await pipe_writer(there[1])) as client:
                yield client
        finally:
            await served  # the end of its input ends it


async def pipe_reader(descriptor: int, opened: ExitStack) -> asyncio.StreamReader:
    """The end of a pipe that is read, which is closed with ``opened``."""
    reader = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(descriptor, "rb", 0)
    )
    opened.callback(transport.close)
    return reader


async def pipe_writer(descriptor: int) -> asyncio.StreamWriter:
    """The end of a pipe that is written."""
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.connect_write_pipe(
        lambda: asyncio.StreamReaderProtocol(asyncio.StreamReader()), os.fdopen(descriptor, "wb", 0)
    )
    return asyncio.StreamWriter(transport, protocol, None, loop)


class HttpClient(Methods):
    """Methods that a server answers over HTTP, in the form in which nothing is lost."""

    def __init__(self, port: int, token: str) -> None:
        self._port, self._token = port, token

    def _answer(self, method: Method, arguments: dict[str, Any]) -> Any:
        return Stream(self._items(method, arguments)) if method.streams else self._ask(method, arguments)

    async def _ask(self, method: Method, arguments: dict[str, Any]) -> Any:
        return read_answer(json.loads(await self._post(method, arguments, WIRE)))

    async def _items(self, method: Method, arguments: dict[str, Any]) -> AsyncGenerator[Any, None]:
        body = (await self._post(method, arguments, f"{WIRE}, {EVENTS}")).decode()
        if body.startswith("{"):
            read_answer(json.loads(body))
        for event in filter(None, body.split("\n\n")):
            lines = dict(line.split(": ", 1) for line in event.splitlines() if not line.startswith(":"))
            if "data" in lines:
                data = json.loads(lines["data"])
                yield End(read_answer(data)) if lines.get("event") == "end" else Wire().decode_whole(data)

    async def _post(self, method: Method, arguments: dict[str, Any], accept: str) -> bytes:
        head = {"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"}

        def ask() -> bytes:
            connection = HTTPConnection("127.0.0.1", self._port)
            with closing(connection):
                body = json.dumps(arguments)
                connection.request("POST", f"/v1/{method.name}", body, head | {"Accept": accept})
                return connection.getresponse().read()

        return await in_thread(ask)


def read_answer(data: dict[str, Any]) -> Any:
    """The result in an answer; raises its error."""
    if "error" in data:
        raise Wire().decode_whole(data["error"])
    return Wire().decode_whole(data["result"])


@asynccontextmanager
async def http(methods: Methods, folder: Path) -> AsyncIterator[Methods]:
    """HTTP on the loopback interface."""
    app = HttpApp(methods, Access(Tokens({"test": TOKEN})))
    server = HttpServer(app)
    await app.start()
    await server.start()
    try:
        yield HttpClient(server.port, TOKEN)
    finally:
        await app.stop()
        await server.stop()


TRANSPORTS: dict[str, Transport] = {"direct": direct, "unix": unix, "stdio": stdio, "http": http}
PROMPTING = {name: one for name, one in TRANSPORTS.items() if name != "http"}  # see test_http_app.py
