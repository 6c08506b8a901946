"""Commands that a daemon answers: the same as without it, to the byte, and without it when it fails."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.command_line import Run

ROOT = Path(__file__).parents[2]

SERVER = """
import asyncio, os, sys
from pathlib import Path
from max.cli import answer_words
from max.commands.forwarded import ForwardedCommands
from max.installations.project_folder import ProjectFolder
from max.project import Project
from max.serve.daemon_folder import DaemonFolder
from max.serve.methods import Methods
from max.serve.socket import SocketServer

async def main():
    folder = ProjectFolder.find(".")
    place = DaemonFolder(folder.root)
    os.makedirs(place.path, mode=0o700, exist_ok=True)
    methods = Methods(Project(folder), ForwardedCommands(folder.root, answer_words))
    server = SocketServer(Path(place.socket), methods)
    await server.start()
    print("ready", flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


class Machine:
    """A home with one project, and commands in it."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.environment = {
            **{name: os.environ[name] for name in ("PATH", "TMPDIR") if name in os.environ},
            "MAX_HOME": str(place / "h"),
            "HOME": str(place),
            "TZ": "EST5EDT,M3.2.0,M11.1.0",
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "connectors")]),
        }

    def max(self, *words: str, **environment: str) -> Run:
        """What a command answers in a process of its own."""
        ended = subprocess.run(
            [sys.executable, "-m", "max", *words],
            cwd=self.place / "p",
            env=self.environment | environment,
            capture_output=True,
            text=True,
            check=False,
        )
        return Run(ended.returncode, ended.stdout, ended.stderr)

    def serve(self) -> subprocess.Popen[str]:
        """A process that answers as a daemon does."""
        process = subprocess.Popen(
            [sys.executable, "-c", SERVER],
            cwd=self.place / "p",
            env=self.environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A machine whose project has data of the demo source, and whose daemon is running."""
    machine = Machine(tmp_path_factory.mktemp("m"))
    (machine.place / "p").mkdir()
    assert machine.max("sync", "acme:default").status == 0
    process = machine.serve()
    yield machine
    process.kill()
    process.communicate()


@pytest.mark.parametrize("words", [["search", "acme", "AcmeUser", "--limit", "3"], ["status"]])
def test_a_command_gives_the_same_with_and_without_the_daemon(machine: Machine, words: list[str]) -> None:
    assert machine.max(*words) == machine.max(*words, MAX_DAEMON="0")
