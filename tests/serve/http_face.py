"""A project's HTTP face in the test's own event loop, and a client of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx2

from max.project import Project
from max.serve.http_access import Access, Tokens
from max.serve.http_app import HttpApp, RequestBounds
from max.serve.http_server import ConnectionBounds, HttpServer
from max.serve.methods import Methods

TOKEN = "token-of-a-test-1234567890"
WIRE = "application/vnd.max+json"


class Face(NamedTuple):
    """What a test needs of a server."""

    app: HttpApp
    server: HttpServer
    client: httpx2.AsyncClient  # sends the token

    async def call(self, method: str, /, **params: Any) -> Any:
        """The result of a method as plain JSON; the error fails the test."""
        answer = await self.client.post(f"/v1/{method}", json=params)
        assert answer.status_code == 200, answer.text
        return answer.json()["result"]

    async def error(self, method: str, /, **params: Any) -> tuple[int, Any]:
        """The status and the error of a method."""
        answer = await self.client.post(f"/v1/{method}", json=params)
        assert answer.status_code != 200, answer.text
        return answer.status_code, answer.json()["error"]


@asynccontextmanager
async def face(
    folder: Path,
    *,
    connection: ConnectionBounds | None = None,
    request: RequestBounds | None = None,
    **options: Any,
) -> AsyncIterator[Face]:
    """The face of the project of a folder; no task is left behind."""
    before = asyncio.all_tasks()
    async with Project.open(folder) as project:
        app = HttpApp(Methods(project), Access(Tokens(TOKEN)), request_bounds=request, **options)
        server = HttpServer(app, bounds=connection)
        await server.start()
        headers = {"authorization": f"Bearer {TOKEN}"}
        try:
            async with httpx2.AsyncClient(base_url=server.address, headers=headers, timeout=240) as client:
                yield Face(app, server, client)
        finally:
            await app.stop()
            await server.stop()
    await asyncio.sleep(0)
    assert asyncio.all_tasks() <= before


def run(folder: Path, work: Callable[[Face], Awaitable[Any]], **options: Any) -> Any:
    """Call a function with the face of a project."""

    async def main() -> Any:
        async with face(folder, **options) as found:
            return await work(found)

    return asyncio.run(main())


class Sent(NamedTuple):
    """One server-sent event."""

    event: str
    id: str
    data: Any


async def events_of(answer: httpx2.Response) -> AsyncIterator[Sent]:
    """The events of a stream, without the comments."""
    found = {"event": "message", "id": "", "data": ""}
    async for line in answer.aiter_lines():
        if not line and found["data"]:
            yield Sent(found["event"], found["id"], json.loads(found["data"]))
            found = {"event": "message", "id": "", "data": ""}
        name, colon, value = line.partition(":")
        if colon and name in found:
            found[name] = value.removeprefix(" ")
