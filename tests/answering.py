"""A service on a real socket that answers with the bytes that a test gives it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


def answer(status: int, body: bytes = b"{}", **headers: str) -> bytes:
    """A whole HTTP answer."""
    lines = [f"HTTP/1.1 {status} Said", f"content-length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


class Upstream:
    """A service on a real socket that sends the given answers in order, and remembers the requests.

    None closes the connection without a word, an empty answer says nothing for ever.
    """

    def __init__(self, *answers: bytes | None) -> None:
        self.answers = list(answers)
        self.heard: list[str] = []
        self.connections = 0
        self.url = ""

    async def converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one connection until it is closed; the last answer is repeated."""
        self.connections += 1
        try:
            while head := (await reader.readuntil(b"\r\n\r\n")).decode():
                length = [
                    line[16:] for line in head.lower().split("\r\n") if line.startswith("content-length: ")
                ]
                body = await reader.readexactly(int(length[0])) if length else b""
                self.heard.append(head + body.decode())
                said = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
                if said is None:
                    break
                await self.say(writer, said)
                if said.endswith(b"..."):
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def say(self, writer: asyncio.StreamWriter, said: bytes) -> None:
        """Send an answer."""
        writer.write(said)

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[str]:
        """Listen on a free port; gives the address."""
        server = await asyncio.start_server(self.converse, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield self.url
        finally:
            server.close()
            await server.wait_closed()
