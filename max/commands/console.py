"""The console of a command: the three streams, the folder and the environment of its caller.

A command runs in the process that a person started, or in a thread of the daemon for such a process
elsewhere (``forward``), and must not know which.  So it never asks its process: everything that could
differ is asked from the console, which is the process's own unless another was set.
"""

from __future__ import annotations

import os
import sys
from contextvars import ContextVar

TYPE_CHECKING = False  # importing typing costs as much as the interpreter itself
if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from typing import TextIO

    from ..projects.manager import ProjectManager
    from .framework import Options


class Console:
    """The process's own.  Everything is asked each time: a terminal may be resized, a stream replaced."""

    unwritable: OSError | None = None  # why stdout takes nothing any more

    @property
    def stdin(self) -> TextIO:
        """What is typed, or piped in."""
        return sys.stdin

    @property
    def stdout(self) -> TextIO:
        """Where data goes."""
        return sys.stdout

    @property
    def stderr(self) -> TextIO:
        """Where progress, questions, hints and errors go."""
        return sys.stderr

    @property
    def environment(self) -> Mapping[str, str]:
        """The environment's variables."""
        return os.environ

    def columns(self, stream: TextIO) -> int:
        """How many cells a line of a terminal has, as it reports; 0 when it does not."""
        try:
            return os.get_terminal_size(stream.fileno()).columns
        except OSError:
            return 0

    def file(self, path: str) -> Path:
        """A file that an option names."""
        from pathlib import Path

        return Path(path)

    def find_project(self, folder: str) -> ProjectManager:
        """The project of a folder, which may be relative to the current one; ProjectError without any."""
        from ..projects.opening import VARIABLE, find_project  # printing needs none of it

        return find_project(folder, database=self.environment.get(VARIABLE, ""))

    def check(self, options: Options) -> None:
        """Look at the options of a command before it begins."""

    def expect_status(self, status: int) -> None:
        """What the exit status will be, known before the answer is printed: its reader may leave early."""


THE_PROCESS = Console()
CONSOLE: ContextVar[Console] = ContextVar("CONSOLE", default=THE_PROCESS)


def console() -> Console:
    """That of the command that runs in this thread."""
    return CONSOLE.get()
