"""Clients of ``max mcp``: a real process, and messages as a client writes them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import IO, Any, cast

ROOT = Path(__file__).resolve().parents[2]
PATHS = os.pathsep.join([str(ROOT), str(ROOT / "connectors")])
STATELESS = "2026-07-28"
META = {
    "io.modelcontextprotocol/protocolVersion": STATELESS,
    "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
    "io.modelcontextprotocol/clientCapabilities": {},
}


def environment() -> dict[str, str]:
    """The variables of a process that finds Max."""
    return {**os.environ, "PYTHONPATH": PATHS}


def command(*words: str) -> list[str]:
    """The words that start the server."""
    return [sys.executable, "-m", "max", "mcp", *words]


class Client:
    """A server in a folder, and what is said to it."""

    def __init__(self, folder: Path, *words: str) -> None:
        self.process = subprocess.Popen(
            command(*words),
            cwd=folder,
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self._number = 0
        self.size = 0  # bytes of the last message that came

    @property
    def _stdin(self) -> IO[bytes]:
        return cast("IO[bytes]", self.process.stdin)

    def write(self, line: bytes) -> None:
        """Send bytes as they are."""
        self._stdin.write(line)
        self._stdin.flush()

    def send(self, message: Any) -> None:
        """Send one message."""
        self.write(json.dumps(message).encode() + b"\n")

    def read(self) -> Any:
        """The next message."""
        line = cast("IO[bytes]", self.process.stdout).readline()
        assert line.endswith(b"\n"), self.end()
        self.size = len(line)
        return json.loads(line)

    def ask(self, method: str, /, *, meta: Any = META, **params: Any) -> Any:
        """Send a request and return its answer; by default as the stateless revision has it."""
        self._number += 1
        params |= {} if meta is None else {"_meta": meta}
        self.send({"jsonrpc": "2.0", "id": self._number, "method": method, "params": params})
        answer = self.read()
        assert answer["id"] == self._number, answer
        return answer

    def result(self, method: str, /, **params: Any) -> Any:
        """The result of a request."""
        answer = self.ask(method, **params)
        assert "result" in answer, answer
        return answer["result"]

    def call(self, tool: str, /, **arguments: Any) -> Any:
        """The structured content of a tool's answer."""
        result = self.result("tools/call", name=tool, arguments=arguments)
        assert not result["isError"], result["content"]
        return result["structuredContent"]

    def mistake(self, tool: str, /, **arguments: Any) -> str:
        """The text of a tool's answer to something wrong."""
        result = self.result("tools/call", name=tool, arguments=arguments)
        assert result["isError"] is True
        return str(result["content"][0]["text"])

    def initialize(self, revision: str) -> Any:
        """The result of a handshake."""
        info = {"name": "test", "version": "1"}
        result = self.result(
            "initialize", meta=None, protocolVersion=revision, capabilities={}, clientInfo=info
        )
        self.send({"jsonrpc": "2.0", "method": "notifications/initialized"})
        return result

    def end(self) -> tuple[int, bytes, bytes]:
        """Close the input: the exit status, and what was still written to stdout and stderr."""
        out, err = self.process.communicate()
        return self.process.returncode, out, err
