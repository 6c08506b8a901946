"""Starts real daemons for tests, each with a home of its own, and ends them whatever happens."""

from __future__ import annotations

import io
import json
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from shutil import rmtree
from typing import Any

import pytest

from max.cli import main
from max.serve.daemon_folder import PID

ROOT = Path(__file__).parent.parent


class Begun(subprocess.Popen[str]):
    """A process that ends when the block which it is for fails: it would be waited for without an end."""

    def __exit__(self, kind: type[BaseException] | None, *error: Any) -> None:
        if kind is not None:
            self.kill()
        super().__exit__(kind, *error)


class Home:
    """A folder for daemons, and the project in it; every process that becomes a daemon there is known."""

    def __init__(self, place: Path) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="max-"))  # short: paths of sockets are limited
        self.project = place / "p"
        self.project.mkdir(parents=True, exist_ok=True)
        self.environment = {
            **os.environ,
            "MAX_HOME": str(self.home),
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "connectors")]),
            "HOME": str(place),
        }

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "max", *words]

    def begin(self, *words: str, **settings: Any) -> subprocess.Popen[str]:
        """Start a command; its streams are pipes."""
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return Begun(
            self.command(*words), **{"cwd": self.project, "env": self.environment, **pipes, **settings}
        )

    def max(self, *words: str, status: int = 0) -> str:
        """Run a command in this process, as its own would; its standard output."""
        out, err = io.StringIO(), io.StringIO()
        with pytest.MonkeyPatch.context() as patched, redirect_stdout(out), redirect_stderr(err):
            for name, value in self.environment.items():
                patched.setenv(name, value)
            patched.chdir(self.project if self.project.exists() else self.home)
            ended = main(words)
        assert ended == status, f"{words}: {ended}\n{out.getvalue()}\n{err.getvalue()}"
        self.err = err.getvalue()
        return out.getvalue()

    def json(self, *words: str, status: int = 0) -> Any:
        return json.loads(self.max(*words, "-o", "json", status=status))

    def folder(self) -> Path:
        """The folder of the project's daemon."""
        (found,) = (self.home / "daemons").iterdir()
        return found

    def pid(self) -> int:
        return int((self.folder() / PID).read_text().split()[0])

    def log(self) -> str:
        return (self.folder() / "daemon.log").read_text()

    def socket(self) -> Path:
        return self.folder() / "daemon.sock"

    def is_asked_to_pause(self) -> bool:
        """Whether the project's only sync has to pause at its next page."""
        (file,) = self.project.glob(".max/installations/*/*/data.db")
        with closing(sqlite3.connect(file)) as connection:
            (command,) = connection.execute("SELECT command FROM _max_sync").fetchone()
        return bool(command == "pause")

    def processes(self) -> set[int]:
        """Every process that has this home in its environment, whatever it is."""
        own = f"MAX_HOME={self.home}".encode()
        found = set()
        for path in Path("/proc").glob("[0-9]*/environ"):
            with suppress(OSError):
                if own in path.read_bytes().split(b"\0"):
                    found.add(int(path.parent.name))
        return found - {os.getpid()}

    def end(self) -> None:
        """Kill every process of it."""
        with suppress(FileNotFoundError, ValueError):
            for file in (self.home / "daemons").glob(f"*/{PID}"):
                with suppress(ProcessLookupError):
                    os.kill(int(file.read_text().split()[0]), signal.SIGKILL)
        for pid in self.processes():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@contextmanager
def homed(place: Path) -> Iterator[Home]:
    """A Home, whose processes end with it."""
    home = Home(place)
    try:
        yield home
    finally:
        home.end()
        rmtree(home.home, ignore_errors=True)
