"""Every way to ask a project's methods: each gives something that is Methods and answers for others.

A transport is a context manager: in goes the Methods that answer, out comes what a program asks.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager
from pathlib import Path

from max.serve.client import Client
from max.serve.methods import Methods
from max.serve.protocol import Bounds, serve_connection
from max.serve.socket import SocketServer

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


TRANSPORTS: dict[str, Transport] = {"direct": direct, "unix": unix, "stdio": stdio}
