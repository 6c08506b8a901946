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
from statistics import median

from .measure import ENVIRONMENT, Row, interleaved, report

ROUNDS = 15
COMMANDS = 10_000
SAMPLES = 300  # of what the process has, meanwhile
SEARCH = ["search", "acme:default", "AcmeUser"]
MIXED = [
    SEARCH,
    ["count", "acme:default", "AcmeTask", "--filter", "status = todo"],
    ["get", "acme:default", "AcmeUser:w1-u1"],
    ["sql", "SELECT count(*) FROM acme_task"],
    ["schema", "acme:default"],
    ["changes", "acme:default", "--limit", "5"],
    ["find", "task", "--limit", "5"],
    ["status"],
    ["ls"],
]
REQUESTS = """
import sys, json
from max.commands.forward import request
for words in json.loads(sys.argv[1]):
    print(request(words).decode(), end="")
"""
TOOK = b'{"id":1,"took":1}\n'


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
    """What the process has in the second third of the commands, and in the last third: medians."""
    line = [sys.executable, "-c", REQUESTS, json.dumps(MIXED)]
    made = subprocess.run(line, cwd=folder, env=known, capture_output=True, check=True).stdout
    requests = made.splitlines(keepends=True)
    (path,) = Path(known["MAX_HOME"]).glob("daemons/*/daemon.sock")
    samples: list[dict[str, int]] = []
    for number in range(COMMANDS):
        ask(path, requests[number % len(requests)])
        if number % (COMMANDS // SAMPLES) == 0:
            samples.append(held(process))
    third = len(samples) // 3
    parts = (samples[third : 2 * third], samples[2 * third :])
    rows = []
    for name in samples[0]:
        early, late = (median(one[name] for one in part) for part in parts)
        value = f"{early:,.0f} → {late:,.0f}"
        rows.append(Row(f"{name}, {COMMANDS:,} commands", value, late / early, "the second third", "≤ 1.01"))
    return rows


def ask(path: Path, request: bytes) -> None:
    """One command on a connection of its own, to its end."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(path))
        connection.sendall(request)
        with connection.makefile("rb") as lines:
            for line in lines:
                if b'"error":' in line:
                    raise RuntimeError(line.decode())
                if b'"result":' in line:
                    return
                if b'"event":' in line:
                    connection.sendall(TOOK)  # else the third event would wait for ever
    raise RuntimeError("the daemon ended the connection")
