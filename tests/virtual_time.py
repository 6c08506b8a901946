"""An event loop in which waiting takes no time: its clock jumps to the next event."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

V = TypeVar("V")


class JumpingSelector(selectors.DefaultSelector):
    """Advances the time of its loop instead of sleeping."""

    now = 0.0

    def select(self, timeout: float | None = None) -> Any:
        """What is ready, without waiting; RuntimeError when nothing ever will be."""
        ready = super().select(0)
        if not ready and timeout is None:
            raise RuntimeError("deadlock: everything waits, and no timer is set")
        self.now += 0.0 if ready else timeout or 0.0
        return ready


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """A loop whose ``time()`` begins at 0 and jumps."""

    def __init__(self) -> None:
        self._jumping = JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._jumping.now


def now() -> float:
    """The time of the running loop: the clock for what is tested."""
    return asyncio.get_running_loop().time()


async def later(seconds: float) -> None:
    """Let virtual time pass."""
    await asyncio.sleep(seconds)


def run(work: Coroutine[Any, Any, V]) -> V:
    """Run work in virtual time, as asyncio.run does in real time."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(work)
