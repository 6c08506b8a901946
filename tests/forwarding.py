"""A machine with a project and a daemon of its own, for tests of commands that are forwarded."""

from __future__ import annotations

import fcntl
import io
import json
import os
import pty
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Mapping
from contextlib import chdir, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import IO, NamedTuple

import pytest

from max.cli import main

ROOT = Path(__file__).parents[1]
DIRECT = {"MAX_DAEMON": "0"}

SERVER = """
import asyncio, json, os, sys
from pathlib import Path
from max.cli import answer_words
from max.commands.forwarded import ForwardedCommands
from max.projects.folder import ProjectFolder
from max.project import Project
from max.serve.daemon_folder import DaemonFolder
from max.serve.methods import Methods
from max.serve.socket import SocketServer

def answered(words):
    status = answer_words(words)
    with open("../answered", "a") as log:
        log.write(json.dumps(words) + "\\n")
    return status

async def main():
    folder = ProjectFolder.find(".")
    place = DaemonFolder(folder.root)
    os.makedirs(place.path, mode=0o700, exist_ok=True)
    Path(place.socket).unlink(missing_ok=True)
    commands = ForwardedCommands(folder.root, answered, **json.loads(sys.argv[1]))
    server = SocketServer(Path(place.socket), Methods(Project(folder), commands))
    await server.start()
    print("ready", flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""  # what a daemon does about commands; a line of the file ``answered`` for each that it did not refuse

DAYS_AGO = """
import json, shlex, sys, time

now, time.time = time.time, lambda: now() - 10.5 * 86_400
from max.cli import main

for line in json.loads(sys.argv[1]):
    assert main(shlex.split(line)) == 0, line
"""  # command lines as if it was ten days and a half ago: while tests run, nothing then becomes a day older


class Answer(NamedTuple):
    """The exit status of a process and what it wrote; a terminal has both streams in one."""

    status: int
    out: bytes
    err: bytes = b""


class Machine:
    """A home with one project, ``p``, in a folder; commands in it, and its daemon."""

    def __init__(self, place: Path) -> None:
        self.place, self.folder = place, place / "p"
        self.folder.mkdir()
        self.daemon: subprocess.Popen[str] | None = None
        self._begun: list[subprocess.Popen[bytes]] = []
        kept = {name: os.environ[name] for name in ("PATH", "TMPDIR") if name in os.environ}
        self.environment = kept | {
            "MAX_HOME": str(place / "h"),
            "HOME": str(place),
            "TZ": "EST5EDT,M3.2.0,M11.1.0",
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "connectors")]),
        }

    def prepare(self, *lines: str) -> None:
        """Run command lines, each of which succeeds; what they write is ten days old."""
        words = [sys.executable, "-c", DAYS_AGO, json.dumps(lines)]
        subprocess.run(words, cwd=self.folder, env=self.environment, check=True, capture_output=True)

    # -- the daemon

    def start(self, **settings: float) -> int:
        """Start the daemon, and wait until it answers; its process id."""
        self.daemon = subprocess.Popen(
            [sys.executable, "-c", SERVER, json.dumps(settings)],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.daemon.stdout is not None
        assert self.daemon.stdout.readline() == "ready\n"
        return self.daemon.pid

    def kill(self) -> None:
        """Kill the daemon, if there is one; its socket stays."""
        if self.daemon is not None:
            self.daemon.kill()
            self.daemon.communicate()
            self.daemon = None

    def close(self) -> None:
        """Kill the daemon, and what a test that failed has left of commands."""
        self.kill()
        for process in self._begun:
            if process.poll() is None:
                process.kill()
                process.communicate()

    @property
    def socket(self) -> Path:
        """The daemon's socket."""
        (found,) = (self.place / "h" / "daemons").glob("*/daemon.sock")
        return found

    def answered(self) -> list[list[str]]:
        """The command lines that the daemon has answered."""
        log = self.place / "answered"
        return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []

    # -- commands

    def begin(
        self,
        *words: str,
        environment: Mapping[str, str] | None = None,
        folder: Path | None = None,
        stdin: int = subprocess.DEVNULL,
        stdout: int | IO[bytes] = subprocess.PIPE,
        stderr: int | IO[bytes] = subprocess.PIPE,
    ) -> subprocess.Popen[bytes]:
        """Start a command in a process of its own."""
        process = subprocess.Popen(
            [sys.executable, "-m", "max", *words],
            cwd=folder or self.folder,
            env=self.environment | dict(environment or {}),
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
        )
        self._begun.append(process)
        return process

    def max(
        self,
        *words: str,
        environment: Mapping[str, str] | None = None,
        folder: Path | None = None,
        typed: bytes = b"",
    ) -> Answer:
        """What a command answers into pipes."""
        process = self.begin(*words, environment=environment, folder=folder, stdin=subprocess.PIPE)
        out, err = process.communicate(typed)
        return Answer(process.returncode, out, err)

    def here(self, *words: str) -> Answer:
        """What a command answers into pipes without the daemon; it runs in the process of the tests."""
        out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
        with pytest.MonkeyPatch.context() as patched, chdir(self.folder):
            for name in os.environ.keys() - self.environment.keys():
                patched.delenv(name)
            for name, value in (self.environment | DIRECT).items():
                patched.setenv(name, value)
            time.tzset()
            patched.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(), "utf-8"))
            with redirect_stdout(out), redirect_stderr(err):
                status = main(words)
        time.tzset()
        written = [stream.buffer.getvalue() for stream in (out, err)]
        return Answer(status, *written)

    def screen(self, columns: int, *words: str, environment: Mapping[str, str] | None = None) -> Answer:
        """What a command shows on a terminal that has so many columns."""
        terminal, inside = pty.openpty()
        fcntl.ioctl(inside, termios.TIOCSWINSZ, struct.pack("4H", 24, columns, 0, 0))
        known = {"TERM": "xterm"} | dict(environment or {})
        process = self.begin(*words, environment=known, stdin=inside, stdout=inside, stderr=inside)
        os.close(inside)
        written = b""
        while True:
            try:
                part = os.read(terminal, 65_536)
            except OSError:  # Linux says so when the last process has left the terminal
                break
            if not part:
                break
            written += part
        os.close(terminal)
        return Answer(process.wait(), written)
