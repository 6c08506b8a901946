"""What a command costs through the warm daemon, and what ten thousand of them leave in it.

The daemon's share is read from /proc, so that this needs Linux.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .measure import ENVIRONMENT, Row, interleaved, report

ROUNDS = 15
COMMANDS = 10_000
SEARCH = ["search", "acme:default", "AcmeUser"]
REQUEST = f"from max.commands.forward import request; print(request({SEARCH}).decode(), end='')"


def run() -> None:
    """Time a search without and with the daemon; then count what very many leave."""
    with tempfile.TemporaryDirectory(dir="/tmp") as place, daemon(Path(place)) as (folder, known, process):

        def command(*words: str) -> None:
            line = [sys.executable, *words]
            subprocess.run(line, cwd=folder, env=known, capture_output=True, check=True)

        before = processor(process)
        timings = interleaved(
            {
                "bare": lambda: command("-c", "pass"),
                "direct": lambda: command("-m", "max", *SEARCH, "--direct"),
                "daemon": lambda: command("-m", "max", *SEARCH),
            },
            ROUNDS,
        )
        served = (processor(process) - before) / ROUNDS
        bare, direct, client = (timings[name] for name in ("bare", "direct", "daemon"))
        both = client.cpu + served
        rows = [
            Row("direct", f"{direct.cpu * 1000:.1f} ms CPU", direct.cpu / bare.cpu, "python -c pass"),
            Row(
                "its client",
                f"{client.cpu * 1000:.1f} ms CPU",
                client.cpu / bare.cpu,
                "python -c pass",
                "≤ 4",
            ),
            Row("client and daemon", f"{both * 1000:.1f} ms CPU", both / bare.cpu, "python -c pass", "≤ 4"),
            Row("by the clock", f"{client.wall * 1000:.1f} ms", client.wall / direct.wall, "direct", "≤ 1"),
        ]
        rows += lasting(folder, known, process)
    report("daemon", rows)


@contextmanager
def daemon(place: Path) -> Iterator[tuple[Path, dict[str, str], int]]:
    """A project with data and its daemon: the folder, the environment of its commands, the process."""
    folder = place / "p"
    folder.mkdir()
    known = {**ENVIRONMENT, "MAX_HOME": str(place / "h")}

    def max_command(*words: str) -> str:
        line = [sys.executable, "-m", "max", *words]
        return subprocess.run(line, cwd=folder, env=known, capture_output=True, check=True, text=True).stdout

    max_command("sync", "acme:default")
    max_command("daemon", "start")
    try:
        yield folder, known, int(json.loads(max_command("daemon", "status", "-o", "json"))["pid"])
    finally:
        max_command("daemon", "stop")


def processor(process: int) -> float:
    """Seconds of processor time that a process has used."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def held(process: int) -> dict[str, int]:
    """The KiB of memory, descriptors and threads that a process has."""
    memory = Path(f"/proc/{process}/status").read_text().partition("VmRSS:")[2].split()[0]
    descriptors, threads = (len(os.listdir(f"/proc/{process}/{one}")) for one in ("fd", "task"))  # noqa: PTH208
    return {"KiB of memory": int(memory), "descriptors": descriptors, "threads": threads}


def lasting(folder: Path, known: dict[str, str], process: int) -> list[Row]:
    """What the process has after a thousandth of the commands, and after all of them."""
    line = [sys.executable, "-c", REQUEST]
    request = subprocess.run(line, cwd=folder, env=known, capture_output=True, check=True).stdout
    (path,) = Path(known["MAX_HOME"]).glob("daemons/*/daemon.sock")
    before: dict[str, int] = {}
    for number in range(COMMANDS):
        ask(path, request)
        if number == COMMANDS // 100:
            before = held(process)
    after = held(process)
    return [
        Row(
            f"{name}, {COMMANDS:,} commands",
            f"{before[name]:,} → {after[name]:,}",
            after[name] / before[name],
            "1 %",
        )
        for name in after
    ]


def ask(path: Path, request: bytes) -> None:
    """One command on a connection of its own, to its end."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(path))
        connection.sendall(request)
        with connection.makefile("rb") as lines:
            for line in lines:
                if b'"error":' in line:
                    raise RuntimeError(line.decode())
                if line.endswith(b'"result":0}\n'):
                    return
