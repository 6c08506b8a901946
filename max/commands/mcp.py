"""mcp: the project's data for agents, over the Model Context Protocol."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from .console import console
from .framework import Answer, Options
from .parser import Parser

if TYPE_CHECKING:
    from ..core import InstallationInfo
    from ..model.values import Json
    from ..projects.manager import ProjectManager


def configure_mcp(parser: Parser) -> None:
    """``max mcp``."""
    parser.add_argument("--allow-sync", action="store_true", help="let the client start syncs, too")
    parser.add_examples(
        "max mcp   (an MCP client starts this itself; it speaks over stdin and stdout)",
        "claude mcp add max -- max -C DIR mcp",
        "max -C DIR mcp --allow-sync",
    )


def run_mcp(options: Options) -> Answer:
    """Serve until the client goes; what another user may have written is refused."""
    from .. import __version__
    from ..serve.mcp import Connection
    from ..serve.own_process import stay_small
    from ..serve.stdio import serve
    from ..serve.tools import Toolbox
    from .guide import guide

    project = options.found_project()
    project.refuse_foreign()
    stay_small()
    syncs = Syncs(project)
    toolbox = Toolbox(project, partial(guide, project), syncs.sync if options.allow_sync else None)
    encode = partial(json.dumps, ensure_ascii=False, separators=(",", ":"))
    serve(Connection(toolbox, __version__), encode, syncs.pause)
    return Answer(())


class Syncs:
    """The syncs that a client asks for, one at a time."""

    def __init__(self, project: ProjectManager) -> None:
        self._project = project
        self._running: Callable[[], object] | None = None

    def sync(self, info: InstallationInfo) -> dict[str, Json]:
        """Sync as the command line does, with progress on stderr; the result as JSON data.

        A signal pauses the sync and then ends the server.
        """
        import asyncio

        from ..model.tasks import SyncCommand
        from ..project import Project
        from ..query.maintenance import request
        from .foreground import Foreground
        from .views import result_json

        database, foreground = self._project.writable_database(info), Foreground(console().stderr)
        self._running = lambda: request(database, info, SyncCommand.PAUSE, now=time.time())
        try:
            syncing = foreground.sync(Project(self._project), info, lambda runtime: runtime.sync())
            result = asyncio.run(syncing)
        finally:
            self._running = None
        if foreground.interrupted:
            raise KeyboardInterrupt
        return result_json(info, result)

    def pause(self) -> None:
        """Pause the sync that runs; called from another thread."""
        from ..errors import MaxError

        running = self._running
        if running is not None:
            with suppress(MaxError):  # it may have ended, or not begun
                running()
