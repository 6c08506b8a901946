"""An event loop in which waiting takes no time: its clock jumps to whatever comes next."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

V = TypeVar("V")


class JumpingSelector(selectors.DefaultSelector):
    """Instead of sleeping, moves the time of its loop on."""

    now = 0.0

    def select(self, timeout: float | None = None) -> Any:
        """What is ready, without waiting for it; RuntimeError when nothing ever will be."""
        ready = super().select(0)
        if not ready and timeout is None:
            raise RuntimeError("everybody waits, and for nothing")
        self.now += 0.0 if ready else timeout or 0.0
        return ready


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """A loop whose ``time()`` begins at 0 and costs nothing."""

    def __init__(self) -> None:
        self._jumping = JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._jumping.now


def now() -> float:
    """The running loop's time: the clock to give to what is tested."""
    return asyncio.get_running_loop().time()


async def later(seconds: float) -> None:
    """Let so much virtual time pass."""
    await asyncio.sleep(seconds)


def run(work: Coroutine[Any, Any, V]) -> V:
    """Run work in virtual time, as asyncio.run does in real time."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(work)
