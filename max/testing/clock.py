"""A clock whose waits take no time."""

from __future__ import annotations

import asyncio
import selectors
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from typing_extensions import TypeVarTuple, Unpack

V = TypeVar("V")
Ts = TypeVarTuple("Ts")

START = 1_750_000_000.0  # seconds since the epoch: the start of a fake clock
GRACE = 0.005  # real seconds that threads and sockets get before a wait is skipped
HEARTBEAT = 30.0  # seconds between two heartbeats of a sync in fake time: an hour has 120 of them


class FakeClock:
    """Seconds since the epoch, which pass only while every task waits; ``clock()`` returns them.

    Pass it wherever a clock is taken, and run the program with ``run``.  A service of this package
    that runs in it sends its time as the Date header.
    """

    heartbeat = HEARTBEAT  # a runtime with this clock shows that it lives so seldom

    def __init__(self, start: float = START) -> None:
        self._start, self._elapsed = start, 0.0

    def __call__(self) -> float:
        return self._start + self._elapsed

    def advance(self, seconds: float) -> None:
        """Move the clock forward."""
        self._elapsed += seconds

    def run(self, work: Coroutine[Any, Any, V]) -> V:
        """As asyncio.run, but a sleep moves the clock and takes no time.

        Threads and sockets get the real time that they need.
        """
        with asyncio.Runner(loop_factory=lambda: _FastLoop(self)) as runner:
            return runner.run(work)


@contextmanager
def real_time() -> Iterator[None]:
    """Skip no wait in this block, in which something outside of the event loop works."""
    loop = asyncio.get_running_loop()
    if not isinstance(loop, _FastLoop):
        yield
        return
    loop.skipping.outside += 1
    try:
        yield
    finally:
        loop.skipping.outside -= 1


def running_clock() -> Callable[[], float]:
    """The FakeClock that runs the current event loop; ``time.time`` when none does."""
    loop = asyncio.get_running_loop()
    return loop.clock if isinstance(loop, _FastLoop) else time.time


class _FastLoop(asyncio.SelectorEventLoop):
    """A loop with the time of a fake clock; it begins at 0, where floats are exact enough for timers."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock, self.skipping = clock, _SkippingSelector(clock.advance)
        super().__init__(self.skipping)

    def time(self) -> float:
        return self.clock._elapsed

    def run_in_executor(
        self, executor: Any, func: Callable[[Unpack[Ts]], V], *args: *Ts
    ) -> asyncio.Future[V]:
        """As ever; the clock stops until the thread has done its work."""
        done = super().run_in_executor(executor, func, *args)
        self.skipping.outside += 1
        done.add_done_callback(self._came_back)
        return done

    def _came_back(self, _: object) -> None:
        self.skipping.outside -= 1


class _SkippingSelector(selectors.DefaultSelector):
    """Waits for a moment only; the clock skips the rest of a wait, unless something works ``outside``."""

    def __init__(self, advance: Callable[[float], None]) -> None:
        super().__init__()
        self._advance = advance
        self.outside = 0  # how many works, in threads or other processes, need real time now

    def select(self, timeout: float | None = None) -> Any:
        short = timeout if not timeout or self.outside else min(timeout, GRACE)
        ready = super().select(short)
        if timeout and timeout > 0 and not ready:
            self._advance(timeout)
        return ready
