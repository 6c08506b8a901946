"""A service on the loopback that sends prepared pages, with as little work as possible.

    python -m bench.http_server RECORDS SIZE LATENCY      tells its port on stdout

``GET /N`` is page N of so many records, sent after so many seconds.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from .measure import ENVIRONMENT
from .records import make


@contextmanager
def serving(records: int, size: int, latency: float = 0.0) -> Iterator[str]:
    """The address of a server in a process of its own."""
    line = [sys.executable, "-m", "bench.http_server", str(records), str(size), str(latency)]
    with subprocess.Popen(line, env=ENVIRONMENT, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.terminate()


def rendered(records: int, size: int) -> list[bytes]:
    """Every answer: ``{"data": […], "next": the next page's number or null}``."""
    count = records // size
    answers = []
    for number in range(count):
        following = number + 1 if number + 1 < count else None
        body = json.dumps({"data": make(number * size, (number + 1) * size), "next": following}).encode()
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        answers.append(head.encode() + body)
    return answers


async def serve(records: int, size: int, latency: float) -> None:
    """Answer until the process is ended."""
    answers = rendered(records, size)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while (request := await reader.readline()).startswith(b"GET"):
            await reader.readuntil(b"\r\n\r\n")
            await asyncio.sleep(latency)
            writer.write(answers[int(request.split()[1][1:])])
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])))
