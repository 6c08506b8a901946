"""The worker that fetches what hooks say, in the background of a runtime.

It runs while there is work, and ends: a runtime without hooks has no task for them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from ..core import logger

AFTER_ERROR = 60.0  # seconds until the next look, when the inbox could not be read

log = logger("hooks")


class HookWorker:
    """Calls ``work`` until that has nothing to do any more.

    It returns the seconds until it is to be called again, or None; ``wake`` has it called at once.
    """

    def __init__(self, work: Callable[[], Awaitable[float | None]], name: str) -> None:
        self._work, self._name = work, name
        self._task: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()

    @property
    def busy(self) -> bool:
        """Whether there is work, as far as is known."""
        return self._task is not None and not self._task.done()

    def wake(self) -> None:
        """There may be work."""
        self._wake.set()
        if not self.busy:
            self._task = asyncio.create_task(self._run(), name=f"hooks of {self._name}")

    async def idle(self) -> None:
        """Wait until there is nothing to do."""
        if self._task is not None:
            await asyncio.wait([self._task])

    async def stop(self) -> None:
        """End; what is not done stays in the inbox.  May be called twice."""
        task, self._task = self._task, None
        if task is not None and not task.done():
            task.cancel()
            await asyncio.wait([task])

    async def _run(self) -> None:
        while True:
            self._wake.clear()
            try:
                wait = await self._work()
            except Exception as error:
                log.warning("hooks of %s wait: %s", self._name, error)
                wait = AFTER_ERROR
            if self._wake.is_set():
                continue
            if wait is None:
                return
            try:
                async with asyncio.timeout(wait):
                    await self._wake.wait()
            except TimeoutError:
                continue
