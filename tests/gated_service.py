"""A service that holds its answers back until a test lets them through, and a project that syncs it."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from max_connectors.acme_service import Server, Service, Settings

ROOT = Path(__file__).resolve().parents[1]
AT_ONCE = 8  # requests that acme's limit admits


class Gate(Service):
    """A service that holds every listing of tasks and files until it is opened, and counts them."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.listings = 0
        self.is_full, self.opened = threading.Event(), asyncio.Event()

    async def answer(self, method: str, path: str, query: Mapping[str, str], body: Any = None) -> Any:
        """The service's own answer."""
        if path.endswith(("/tasks", "/files")):
            self.listings += 1
            if self.listings == AT_ONCE:
                self.is_full.set()
            await self.opened.wait()
        return await super().answer(method, path, query, body)


class Serving:
    """A gate that is served in a thread of its own, and a project that is connected to it."""

    def __init__(self, folder: Path, home: Path | None = None) -> None:
        self.folder, self.started = folder, threading.Event()
        self.thread = threading.Thread(target=lambda: asyncio.run(self._serve()))
        self.thread.start()
        self.started.wait()
        paths = os.pathsep.join([str(ROOT), str(ROOT / "connectors")])
        self.environment = {**os.environ, "PYTHONPATH": paths, "TOKEN": "a-token"}
        if home is not None:
            self.environment["MAX_HOME"] = str(home)
        self.max("init")
        self.max("connect", "acme", "--set", f"base_url={self.url}", "--credential", "token=env:TOKEN")

    async def _serve(self) -> None:
        self.loop, self.ended = asyncio.get_running_loop(), asyncio.Event()
        self.gate = Gate(Settings(projects=20, tasks=3))
        async with Server(self.gate, "a-token") as server:
            self.url = server.url
            self.started.set()
            await self.ended.wait()

    def open(self) -> None:
        """Let every request through."""
        self.loop.call_soon_threadsafe(self.gate.opened.set)

    def stop(self) -> None:
        """End the service."""
        self.loop.call_soon_threadsafe(self.ended.set)
        self.thread.join()

    def begin(self, *words: str) -> subprocess.Popen[str]:
        """A command in a process of its own."""
        command, pipe = [sys.executable, "-m", "max", *words], subprocess.PIPE
        return subprocess.Popen(
            command, cwd=self.folder, env=self.environment, stdout=pipe, stderr=pipe, text=True
        )

    def max(self, *words: str, status: int = 0) -> str:
        """What a command prints."""
        process = self.begin(*words)
        output, errors = process.communicate()
        assert process.returncode == status, output + errors
        return output
