"""A service that answers with whatever bytes a test gives, and a project that syncs from it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import takewhile
from pathlib import Path
from socketserver import StreamRequestHandler, ThreadingTCPServer
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
TOKEN = "a-token-0123456789"


def answer(body: bytes = b'["a"]', *headers: str, status: str = "200 OK") -> bytes:
    """An answer, whose connection stays open, with more headers."""
    lines = [f"HTTP/1.1 {status}", "Content-Type: application/json", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


class Hostile:
    """Serves on a free port, a thread for each connection; ``says`` is the answer to what is asked."""

    def __init__(self) -> None:
        self.says: Callable[[str], bytes] = lambda asked: answer()
        self.asked: list[str] = []  # the first line and the headers of each request

    @contextmanager
    def serving(self) -> Iterator[Hostile]:
        """Serve until the end of the block."""
        service = self

        class Handler(StreamRequestHandler):
            def handle(self) -> None:
                with suppress(OSError):  # of a process that has ended
                    while head := self.head():
                        service.asked.append(head)
                        self.wfile.write(service.says(head))

            def head(self) -> str:
                lines = takewhile(lambda line: line.strip(), self.rfile)  # ends when the connection does, too
                return b"".join(lines).decode("latin-1")

        class Server(ThreadingTCPServer):
            daemon_threads, block_on_close = True, False

        with Server(("127.0.0.1", 0), Handler) as server:
            self.url = f"http://127.0.0.1:{server.server_address[1]}"
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            try:
                yield self
            finally:
                server.shutdown()
                thread.join()


class Project:
    """A folder with a project, and commands in processes of their own."""

    def __init__(self, folder: Path, **variables: str) -> None:
        paths = os.pathsep.join([str(ROOT), str(ROOT / "connectors")])
        known = {"PYTHONPATH": paths, "MAX_CONNECTORS": str(ROOT / "tests" / "max_gated.py"), "TOKEN": TOKEN}
        self.folder, self.environment = folder, {**os.environ, **known, **variables}

    def begin(self, *words: str) -> subprocess.Popen[str]:
        """A command that runs."""
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        command = [sys.executable, "-m", "max", *words]
        return subprocess.Popen(command, cwd=self.folder, env=self.environment, text=True, **pipes)

    def max(self, *words: str, status: int = 0) -> str:
        """What a command prints; no command of any test shows a traceback."""
        process = self.begin(*words)
        output, errors = process.communicate()
        assert (process.returncode, "Traceback" in errors) == (status, False), output + errors
        return output + errors

    def connect(self, url: str) -> None:
        """Connect the installation ``gated:main`` of an address."""
        self.max("init")
        self.max("connect", "gated:main", "--set", f"url={url}", "--credential", "token=env:TOKEN")

    @property
    def database(self) -> Path:
        """Its file."""
        return self.folder / ".max" / "installations" / "gated" / "main" / "data.db"
