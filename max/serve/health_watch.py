"""Looks at the health of installations from time to time, and records what has changed by time alone.

What syncs change is recorded when they end.  But a schedule that is not kept, and a process that died, change
the health while nothing is written; only one who looks finds out.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from ..core import in_thread, logger
from ..errors import MaxError
from ..query.health import note

if TYPE_CHECKING:
    from ..project import Project

LOOK = 30.0  # seconds between two looks

log = logger("health")


class HealthWatch:
    """Looks every ``look`` seconds.  A service."""

    def __init__(
        self, project: Project[Any], *, look: float = LOOK, clock: Callable[[], float] = time.time
    ) -> None:
        self._project, self._look_seconds, self._clock = project, look, clock
        self._running: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to look."""
        if self._running is None:
            self._running = asyncio.create_task(self._run(), name="health")

    async def stop(self) -> None:
        """Look no more.  May be called twice."""
        running, self._running = self._running, None
        if running is not None:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._look_seconds)
            try:
                await in_thread(self.look)
            except Exception as error:  # of a folder that cannot be read for a while
                log.warning("the health cannot be looked at: %s", error)

    def look(self) -> None:
        """Record each change; blocks.  What cannot be read or written now is for the next look."""
        for info in self._project.manager.installations():
            with suppress(MaxError, OSError):
                self._project.manager.refuse_foreign()
                note(self._project.manager.database(info), info, now=self._clock())
