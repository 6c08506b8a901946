"""What a client of the official SDK sees: run by an interpreter that has the package ``mcp``.

python sdk_client.py FOLDER COMMAND …    prints one JSON object, of either version of the SDK
python sdk_client.py ADDRESS             the same of a server over HTTP; TOKEN has the bearer token
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from contextlib import asynccontextmanager
from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

IS_FIRST = version("mcp").startswith("1.")
URI = "max://acme%3Adefault/AcmeUser/w1-u1"


def plain(value: Any) -> Any:
    """A result of the SDK as JSON data."""
    return value.model_dump(mode="json", by_alias=True, exclude_none=True)


async def asked(client: Any, uri: Any) -> dict[str, Any]:
    """The tools, an answer, a mistake and a resource, as the SDK hands them to its caller."""
    tools = await client.list_tools()
    return {
        "tools": [plain(one) for one in tools.tools],
        "count": plain(await client.call_tool("count", {"entity": "AcmeTask"})),
        "groups": plain(await client.call_tool("count", {"entity": "AcmeTask", "by": "status"})),
        "mistake": plain(await client.call_tool("count", {"entity": "AcmeTsk"})),
        "resources": plain(await client.list_resources()),
        "templates": plain(await client.list_resource_templates()),
        "row": plain(await client.read_resource(uri)),
    }


@asynccontextmanager
async def transport(server: str, *words: str) -> AsyncIterator[Any]:
    """The streams to a server: of a command in a folder, or at an address."""
    if words:
        from mcp import StdioServerParameters
        from mcp.client.stdio import stdio_client

        command, *more = words
        started = StdioServerParameters(command=command, args=more, cwd=server, env=dict(os.environ))
        async with stdio_client(started) as streams:
            yield streams
        return
    from mcp.client.streamable_http import streamable_http_client

    http: Any = import_module("httpx" if IS_FIRST else "httpx2")
    async with (
        http.AsyncClient(headers={"authorization": f"Bearer {os.environ['TOKEN']}"}) as client,
        streamable_http_client(server, http_client=client) as streams,
    ):
        yield streams


async def main(*where: str) -> dict[str, Any]:
    """Talk to a server, with each mode of the SDK."""
    if IS_FIRST:
        from mcp import ClientSession
        from pydantic import AnyUrl

        async with transport(*where) as streams, ClientSession(*streams[:2]) as session:
            found = await session.initialize()
            known = {"protocol": found.protocolVersion, "instructions": found.instructions}
            return known | await asked(session, AnyUrl(URI))
    from mcp.client.client import Client

    answers = {}
    for mode in ("auto", "legacy"):
        async with Client(transport(*where), mode=mode) as client:
            known = {"protocol": client.protocol_version, "instructions": client.instructions}
            answers[mode] = known | await asked(client, URI)
    return answers["auto"] | {"legacy": answers["legacy"]}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main(*sys.argv[1:]))))
