"""Turns: many coroutines compute in one event loop, and none holds it for the work of several.

When eight pages arrive at the same moment, eight loaders turn them into entities, and asyncio would
let all of them do so before anything else runs.  Here each step of a coroutine (from the end of one
wait to the next) begins only while the steps before it in the same turn of the loop have taken less
than LONGEST; the others wait for the following turns, in order.  One step cannot be divided.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Generator
from typing import Any, TypeVar

T = TypeVar("T")

LONGEST = 0.002  # seconds of a turn after which no further step begins


class Turns:
    """Shares the turns of one event loop among coroutines."""

    def __init__(self) -> None:
        self._began: float | None = None  # the first step of this turn, if there was one
        self._waiting: list[asyncio.Future[None]] = []

    def paced(self, coroutine: Awaitable[T]) -> Awaitable[T]:
        """The same coroutine, each of whose steps waits until a turn has time for it."""
        return _Paced(self, coroutine)

    def end(self) -> asyncio.Future[None] | None:
        """The end of this turn, if it has no time left; None when a step may begin now."""
        if self._began is None:
            self._began = time.perf_counter()
            asyncio.get_running_loop().call_soon(self._end)
        elif time.perf_counter() - self._began > LONGEST:
            self._waiting.append(asyncio.get_running_loop().create_future())
            return self._waiting[-1]
        return None

    def _end(self) -> None:
        """Wake those that wait, in order; those for whom the next turn has no time wait again."""
        self._began, waiting, self._waiting = None, self._waiting, []
        for step in waiting:
            if not step.done():  # it was not cancelled
                step.set_result(None)


class _Paced(Awaitable[T]):
    """A coroutine that is run step by step, as ``yield from`` runs it."""

    def __init__(self, turns: Turns, coroutine: Awaitable[T]) -> None:
        self._turns, self._coroutine = turns, coroutine

    def __await__(self) -> Generator[Any, Any, T]:
        steps = self._coroutine.__await__()
        error: BaseException | None = None
        try:
            while True:
                try:
                    while error is None and (end := self._turns.end()) is not None:
                        yield from end
                except BaseException as cancelled:  # while it waited for its turn
                    error = cancelled
                try:
                    wanted = steps.send(None) if error is None else steps.throw(error)
                except StopIteration as stop:
                    result: T = stop.value
                    return result
                try:
                    error = yield wanted
                except BaseException as raised:
                    error = raised
        finally:
            error = None  # its traceback names this frame
