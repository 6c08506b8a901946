"""The conformance runner of the protocol's makers, over a small HTTP bridge: what needs no tool of theirs.

It is an npm package for Node 22: MAX_MCP_CONFORMANCE names its command, ``conformance``.  Its other
scenarios call tools, prompts and resources of a server that is made for it.
"""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.serve.clients import Client
from tests.serve.conftest import Start

RUNNER = os.environ.get("MAX_MCP_CONFORMANCE", "")
SCENARIOS = [
    ("2025-11-25", "server-initialize"),
    ("2025-11-25", "ping"),
    ("2025-11-25", "tools-list"),
    ("2025-11-25", "resources-list"),
    ("2026-07-28", "tools-list"),
    ("2026-07-28", "resources-list"),
    ("2026-07-28", "sep-2164-resource-not-found"),
]
pytestmark = pytest.mark.skipif(not RUNNER, reason="MAX_MCP_CONFORMANCE names no conformance runner")


@pytest.fixture
def address(start: Start, synced: Path) -> Iterator[str]:
    """Where a server answers over HTTP."""
    client, lock = start(synced), threading.Lock()

    class Bridge(BaseHTTPRequestHandler):
        """One message a request; there is no stream to listen to."""

        def do_POST(self) -> None:
            message = json.loads(self.rfile.read(int(self.headers["content-length"])))
            self.answer(ask(client, lock, message))

        def do_GET(self) -> None:
            self.answer(b"", 405)

        def answer(self, body: bytes, status: int = 200) -> None:
            self.send_response(status if body or status != 200 else 202)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Bridge)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/mcp"
    server.shutdown()
    server.server_close()


def ask(client: Client, lock: threading.Lock, message: dict[str, object]) -> bytes:
    with lock:
        client.send(message)
        return json.dumps(client.read()).encode() if {"id", "method"} <= message.keys() else b""


@pytest.mark.parametrize(("revision", "scenario"), SCENARIOS)
def test_a_scenario_that_needs_no_tool_of_the_runner_passes(
    address: str, revision: str, scenario: str, tmp_path: Path
) -> None:
    words = [RUNNER, "server", "--url", address, "--spec-version", revision, "--scenario", scenario]
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
