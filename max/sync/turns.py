"""Turns: many coroutines compute in one event loop, and none holds it for the work of several.

When eight pages arrive at the same moment, eight loaders turn them into entities, and asyncio would
let all of them do so before anything else runs.  Here each step of a coroutine (from the end of one
wait to the next) begins only while the steps before it in the same turn of the loop have taken less
than LONGEST; the others wait for the following turns, in order.  One step cannot be divided.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Generator
from typing import Any, TypeVar

T = TypeVar("T")

LONGEST = 0.002  # seconds of a turn after which no further step begins


class Turns:
    """Shares the turns of one event loop among coroutines."""

    def __init__(self) -> None:
        self._began: float | None = None  # this turn; None before its first step
        self._steps = 0  # that have begun in this turn
        self._waiting: deque[asyncio.Future[None]] = deque()

    def paced(self, coroutine: Awaitable[T]) -> Awaitable[T]:
        """The same coroutine, each of whose steps waits until a turn has time for it."""
        return _Paced(self, coroutine)

    def begin(self, *, again: bool = False) -> asyncio.Future[None] | None:
        """Begin a step (None), or wait for the result and ask ``again``: this turn has no time left."""
        if self._began is None:
            self._begin_turn()
        elif self._steps and time.perf_counter() - self._began > LONGEST:
            end = asyncio.get_running_loop().create_future()
            self._waiting.appendleft(end) if again else self._waiting.append(end)
            return end
        self._steps += 1
        return None

    def _begin_turn(self) -> None:
        self._began = time.perf_counter()
        asyncio.get_running_loop().call_soon(self._end_turn)

    def _end_turn(self) -> None:
        """Wake those that have waited longest: twice as many as this turn had time for."""
        self._began, awake, self._steps = None, 2 * self._steps or 1, 0
        if self._waiting:
            self._begin_turn()
            for _ in range(min(awake, len(self._waiting))):
                step = self._waiting.popleft()
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
                    end = self._turns.begin() if error is None else None
                    while end is not None:
                        yield from end
                        end = self._turns.begin(again=True)
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
