"""What copies of services have in common in tests: an installation that is opened for each call."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from max import SyncResult
from max.core import SyncOptions
from max.runtime import InstallationRuntime

T = TypeVar("T")


class Opened:
    """An installation in a folder; ``PACE`` seconds pass before each sync."""

    PACE = 60

    def runtime(self) -> InstallationRuntime:
        """A runtime before its start."""
        raise NotImplementedError

    def later(self, seconds: float) -> None:
        """Move the clocks forward."""
        raise NotImplementedError

    async def open(self, body: Callable[[InstallationRuntime], Awaitable[T]]) -> T:
        """Run a function with a started runtime."""
        runtime = self.runtime()
        await runtime.start()
        try:
            return await body(runtime)
        finally:
            await runtime.stop()

    def sync(self, **options: Any) -> SyncResult:
        """One complete sync, a while after what was done before."""
        self.later(self.PACE)

        async def body(runtime: InstallationRuntime) -> SyncResult:
            handle = await runtime.sync(SyncOptions(**options))
            return await handle.completion()

        return asyncio.run(self.open(body))
