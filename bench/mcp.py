"""What ``max mcp`` costs until it has answered its first request: processor time and memory."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO, cast

from .measure import ENVIRONMENT, Row, interleaved, report

ROUNDS = 9
META = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientCapabilities": {},
}
DISCOVER = {"jsonrpc": "2.0", "id": 1, "method": "server/discover", "params": {"_meta": META}}
COUNT = {
    "jsonrpc": "2.0",
    "id": 2,
    "method": "tools/call",
    "params": {"name": "count", "arguments": {"entity": "AcmeTask"}, "_meta": META},
}


def run() -> None:
    """Time a server that answers one request, and look at its memory."""
    with tempfile.TemporaryDirectory() as place:

        def command(*words: str, ask: object = None) -> None:
            line = [sys.executable, *words]
            text = "" if ask is None else f"{json.dumps(ask)}\n"
            subprocess.run(
                line, cwd=place, env=ENVIRONMENT, input=text, capture_output=True, check=True, text=True
            )

        command("-m", "max", "sync", "acme:default")
        timings = interleaved(
            {
                "python -c pass": lambda: command("-c", "pass"),
                "ready": lambda: command("-m", "max", "mcp", ask=DISCOVER),
                "first count": lambda: command("-m", "max", "mcp", ask=COUNT),
            },
            ROUNDS,
        )
        memory = memory_of_a_server(place)
    reference = timings.pop("python -c pass").cpu
    rows = [
        Row(name, f"{timing.cpu * 1000:.1f} ms CPU", timing.cpu / reference, "python -c pass", "≤ 8")
        for name, timing in timings.items()
    ]
    report("mcp", [*rows, Row("memory", f"{memory:.1f} MB", memory / 30, "30 MB", "≤ 1")])


def memory_of_a_server(place: str) -> float:
    """The resident memory of a server that has answered, in MB."""
    words = [sys.executable, "-m", "max", "mcp"]
    with subprocess.Popen(
        words, cwd=place, env=ENVIRONMENT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as server:
        stdin, stdout = cast("IO[bytes]", server.stdin), cast("IO[bytes]", server.stdout)
        for request in (DISCOVER, COUNT):
            stdin.write(json.dumps(request).encode() + b"\n")
            stdin.flush()
            stdout.readline()
        status = Path(f"/proc/{server.pid}/status").read_text()
        stdin.close()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024
