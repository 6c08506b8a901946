"""A process's own standard streams as a connection: what a runner answers on.

Rule: stdout's own descriptor is taken away first.  What a connector, a library or a child process prints
goes to stderr.  Who may ask is who started the process, and no one else: that holds the other ends.
"""

from __future__ import annotations

import asyncio
import os

from .json_lines import take_stdout


async def standard_streams() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """stdin and stdout, for ``serve_connection``; both must be pipes, sockets or terminals."""
    loop = asyncio.get_running_loop()
    reader, output = asyncio.StreamReader(), take_stdout()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(0, "rb", 0))
    transport, protocol = await loop.connect_write_pipe(
        lambda: asyncio.StreamReaderProtocol(asyncio.StreamReader()), os.fdopen(output, "wb", 0)
    )
    return reader, asyncio.StreamWriter(transport, protocol, None, loop)
