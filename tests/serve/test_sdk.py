"""``max mcp``, MCP over HTTP, and the clients of the official SDK, version 1 and 2.

Each version needs an environment of its own: MAX_MCP_PYTHONS names their interpreters, separated as in
PATH.  ``.ci/run`` makes them.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.serve.clients import ROOT, STATELESS, Client, command, environment
from tests.serve.conftest import Start
from tests.serve.http_face import TOKEN, face

SDK_CLIENT = str(ROOT / "tests" / "serve" / "sdk_client.py")
PYTHONS = [one for one in os.environ.get("MAX_MCP_PYTHONS", "").split(os.pathsep) if one]
REVISIONS = ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"]
pytestmark = pytest.mark.skipif(
    not PYTHONS, reason="MAX_MCP_PYTHONS names no interpreter with mcp; .ci/run makes them"
)


def version_of(python: str) -> str:
    words = [python, "-c", "from importlib.metadata import version; print(version('mcp'))"]
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()


def check(found: dict[str, Any]) -> None:
    """What every client must have got."""
    assert "acme:default: synced" in found["instructions"]
    names = [one["name"] for one in found["tools"]]
    assert names[:3] == ["overview", "describe", "search"]
    assert all(one["annotations"]["readOnlyHint"] for one in found["tools"])
    for answer in ("count", "groups"):
        assert found[answer]["isError"] is False
        assert json.loads(found[answer]["content"][0]["text"]) == found[answer]["structuredContent"]
    assert found["count"]["structuredContent"]["total"] == 200
    assert found["mistake"]["isError"] is True
    assert "did you mean: AcmeTask" in found["mistake"]["content"][0]["text"]
    assert "structuredContent" not in found["mistake"]
    assert found["resources"]["resources"][0]["uri"] == "max://guide"
    assert found["templates"]["resourceTemplates"][0]["uriTemplate"].startswith("max://")
    assert json.loads(found["row"]["contents"][0]["text"])["row"]["email"] == "w1-u1@acme.example"


def check_all(python: str, found: dict[str, Any]) -> None:
    """What a client of one version must have got, with each mode that it has."""
    check(found)
    if version_of(python).startswith("1."):
        assert found["protocol"] == REVISIONS[-1]
    else:
        assert found["protocol"] == STATELESS
        assert found["legacy"]["protocol"] == REVISIONS[-1]
        check(found["legacy"])


@pytest.mark.parametrize("python", PYTHONS)
def test_a_client_gets_tools_answers_mistakes_and_resources(synced: Path, python: str) -> None:
    words = [python, SDK_CLIENT, str(synced), *command()]
    done = subprocess.run(words, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    check_all(python, json.loads(done.stdout))


@pytest.mark.parametrize("python", PYTHONS)
def test_a_client_gets_the_same_over_http(synced: Path, python: str) -> None:
    async def ask() -> tuple[bytes, bytes]:
        async with face(synced, read_only=True) as one:
            asking = await asyncio.create_subprocess_exec(
                *(python, SDK_CLIENT, f"{one.server.address}/mcp"),
                env={**environment(), "TOKEN": TOKEN},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
            return await asking.communicate()

    out, err = asyncio.run(ask())
    assert out, err.decode()
    check_all(python, json.loads(out))


def results(client: Client, revision: str) -> list[list[Any]]:
    """Every result that a revision has."""
    found = []
    if revision != STATELESS:
        found.append(["initialize", revision, client.initialize(revision)])
    more = {} if revision == STATELESS else {"meta": None}
    asked: list[tuple[str, dict[str, Any]]] = [
        ("tools/list", {}),
        ("resources/list", {}),
        ("resources/templates/list", {}),
        ("resources/read", {"uri": "max://guide"}),
        ("tools/call", {"name": "overview", "arguments": {}}),
        ("tools/call", {"name": "search", "arguments": {"entity": "AcmeTsk"}}),
        ("server/discover" if revision == STATELESS else "ping", {}),
    ]
    return [*found, *([name, revision, client.result(name, **more, **given)] for name, given in asked)]


@pytest.mark.parametrize("revision", [*REVISIONS, STATELESS])
def test_every_result_fits_the_types_of_its_revision(start: Start, synced: Path, revision: str) -> None:
    newest = [one for one in PYTHONS if not version_of(one).startswith("1.")]
    if not newest:
        pytest.skip("no interpreter with mcp 2 is named")
    lines = "".join(f"{json.dumps(one)}\n" for one in results(start(synced), revision))
    words = [newest[0], str(ROOT / "tests" / "serve" / "sdk_types.py")]
    done = subprocess.run(words, input=lines, capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("", 0), done.stderr
