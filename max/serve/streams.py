"""How answers come: in parts whose end is a result, or too late for a caller that has given up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable
from typing import Any, Generic, TypeVar

from ..errors import ConnectionLost

I = TypeVar("I")  # noqa: E741 - one item
R = TypeVar("R")


class CallCancelled(asyncio.CancelledError):
    """A call of another process was cancelled, which ends the wait at once.

    What was asked may have been done before the other process knew.  ``answer`` says so when it is awaited:
    it comes to the call's result then, and to None when the call has done nothing.  A caller that does not
    care lets it be.
    """

    def __init__(self, answer: asyncio.Task[Any]) -> None:
        super().__init__()
        self.answer = answer


async def result_though_cancelled(asking: Awaitable[R]) -> R:
    """The result of what asks another process, also when the cancellation came too late for it."""
    try:
        return await asking
    except CallCancelled as cancelled:
        result: R | None = await asyncio.shield(cancelled.answer)
        if result is None:
            raise
        return result


class End(Generic[R]):
    """The last thing that the source of a stream gives: the result."""

    def __init__(self, result: R) -> None:
        self.result = result


class Stream(AsyncIterator[I], Generic[I, R]):
    """Items as they come, and a result at the end.

    ``async for item in stream`` reads the items, ``await stream.result()`` what is left of them and then
    the result.  Nothing happens before the first of these; ``aclose`` ends it early.
    """

    def __init__(self, source: AsyncGenerator[I | End[R], None]) -> None:
        self._source = source
        self._end: End[R] | None = None

    def __aiter__(self) -> Stream[I, R]:
        return self

    async def __anext__(self) -> I:
        if self._end is None:
            async for item in self._source:
                if not isinstance(item, End):
                    return item
                self._end = item
                await self._source.aclose()
        raise StopAsyncIteration

    async def result(self) -> R:
        """What it comes to, once every item was read or passed over."""
        async for _ in self:
            pass
        if self._end is None:
            raise ConnectionLost("the stream ended without its result")
        return self._end.result

    async def aclose(self) -> None:
        """End it, and what makes its items."""
        await self._source.aclose()
