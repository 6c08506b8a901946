"""Syncs in processes of their own, which are killed at a request and then resumed."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from asyncio.subprocess import PIPE, Process
from pathlib import Path
from typing import TYPE_CHECKING

from ..installations.registry import PACKAGE, VARIABLE
from ..projects.folder import ProjectFolder
from .trial import Trial, Wrong

if TYPE_CHECKING:
    from ..model.settings import InstallationInfo

WORDS = 300  # characters of what a process printed last, in a message


class Killed:
    """A project in a folder, whose syncs are processes of Max; ``words`` is what the last one printed."""

    def __init__(self, one: Trial, folder: Path, file: Path | None) -> None:
        self._trial, self._folder, self.words = one, folder, ""
        paths = os.pathsep.join(path for path in sys.path if path)
        own = {} if file is None else {VARIABLE: str(file)}
        self._environment = {**os.environ, "PYTHONPATH": paths, "MAX_HOME": str(folder / "home"), **own}

    async def at_request(self, place: int) -> tuple[Path, int]:
        """The database of a sync that was killed at its nth request and resumed; and how many more it sent.

        Wrong when it ended before, or was not completed after it.
        """
        project, info = await self._installation(f"at-{place}")
        proxy, begin = self._trial.proxy, self._trial.requests
        process = await self._max("sync", str(info))
        proxy.at(begin + place, process.kill)
        await self._ended(process, info)
        if process.returncode != -signal.SIGKILL:
            raise Wrong(f"a process of its own ended before request {place}: {self.words}")
        sent = self._trial.requests
        process = await self._max("sync", str(info))
        await self._ended(process, info)
        if process.returncode != 0:
            raise Wrong(f"killed at request {place}, it could not go on: {self.words}")
        return Path(project.database(info).path), self._trial.requests - sent

    async def _installation(self, name: str) -> tuple[ProjectFolder, InstallationInfo]:
        if not self._folder.exists():
            self._folder.mkdir(parents=True)
            await (await self._max("init")).communicate()
        project, found = ProjectFolder(self._folder), self._trial.answers
        given = (found.config, self._trial.credentials.secrets)
        connector = self._trial.connector.name
        info = project.add(connector, name, *given, now=time.time(), destination=found.destination)
        return project, info

    async def _max(self, *words: str) -> Process:
        command = [sys.executable, "-m", PACKAGE, *words, "-C", str(self._folder)]
        if words == ("init",):
            command = [sys.executable, "-m", PACKAGE, "init", str(self._folder)]
        return await asyncio.create_subprocess_exec(
            *command, env=self._environment, stdin=asyncio.subprocess.DEVNULL, stdout=PIPE, stderr=PIPE
        )

    async def _ended(self, process: Process, info: InstallationInfo) -> None:
        """Wait for a process, and keep what it printed beside its database."""
        out, err = await process.communicate()
        with (self._folder / f"{info.name}.txt").open("ab") as file:
            file.write(out + err)
        self.words = " ".join((out + err).decode(errors="replace").split())[-WORDS:]
