"""What a client of the official SDK sees: run by an interpreter that has the package ``mcp``.

python sdk_client.py FOLDER COMMAND …    prints one JSON object, of either version of the SDK
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from importlib.metadata import version
from typing import Any


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


async def main(folder: str, command: str, *words: str) -> dict[str, Any]:
    """Talk to the server that the command starts."""
    from mcp import ClientSession, StdioServerParameters
    from mcp.client.stdio import stdio_client

    server = StdioServerParameters(command=command, args=list(words), cwd=folder, env=dict(os.environ))
    uri = "max://acme%3Adefault/AcmeUser/w1-u1"
    if version("mcp").startswith("1."):
        from pydantic import AnyUrl

        async with stdio_client(server) as streams, ClientSession(*streams) as session:
            found = await session.initialize()
            known = {"protocol": found.protocolVersion, "instructions": found.instructions}
            return known | await asked(session, AnyUrl(uri))
    from mcp.client.client import Client

    answers = {}
    for mode in ("auto", "legacy"):
        async with Client(server, mode=mode) as client:
            known = {"protocol": client.protocol_version, "instructions": client.instructions}
            answers[mode] = known | await asked(client, uri)
    return answers["auto"] | {"legacy": answers["legacy"]}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main(*sys.argv[1:]))))
