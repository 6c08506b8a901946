"""Workers: threads that each own a connection, for an event loop that they never block."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    from queue import SimpleQueue


class Closable(Protocol):
    """What a thread owns."""

    def close(self) -> None:
        """Give up what it holds."""


T = TypeVar("T")
C = TypeVar("C", bound=Closable)


class Worker(Generic[C]):
    """Threads that each own a connection and take work from one queue.

    A thread opens its connection for the first work that needs it.  When that fails, the
    work has the error and the next one tries again, so no caller ever waits for a dead thread.
    Another thread begins, up to ``threads``, when all are busy: readings one after another use one
    connection, which still has their pages and statements in memory.
    """

    def __init__(self, open: Callable[[], C], *, threads: int) -> None:
        from queue import SimpleQueue  # a command that reads has no threads
        from threading import Thread

        self._open, self._most = open, threads
        self._queue: SimpleQueue[Callable[[C | None], C | None] | None] = SimpleQueue()
        self._threads: list[Thread] = []
        self._waiting = 0  # callers

    async def run(self, work: Callable[[C], T]) -> T:
        """What work returns or raises, in one of the threads."""
        reply = _Reply()

        def answered(connection: C | None) -> C | None:
            try:
                connection = connection or self._open()
                result = work(connection)
            except BaseException as error:
                reply.fail(error)
            else:
                reply.succeed(result)
            return connection

        self._waiting += 1
        try:
            if len(self._threads) < min(self._waiting, self._most):
                self._begin()
            self._queue.put(answered)
            result: T = await reply.wait()
        finally:
            self._waiting -= 1
        return result

    def _begin(self) -> None:
        """One more thread."""
        from threading import Thread

        thread = Thread(target=self._serve, daemon=True)
        thread.start()
        self._threads.append(thread)

    async def stop(self) -> None:
        """Let each thread finish the work before this call, close and end."""
        import threading

        ended = _Reply()

        def join() -> None:
            for thread in self._threads:
                thread.join()
            ended.succeed(None)

        for _ in self._threads:
            self._queue.put(None)
        joining = threading.Thread(target=join, daemon=True)
        joining.start()
        await ended.wait()
        joining.join()  # no thread is left when this returns

    def _serve(self) -> None:
        connection: C | None = None
        try:
            while (job := self._queue.get()) is not None:
                connection = job(connection)
        finally:
            if connection is not None:
                connection.close()


class _Reply:
    """A result that a thread gives to the coroutine that waits for it."""

    def __init__(self) -> None:
        from asyncio import get_running_loop  # the reading commands do without asyncio

        self._loop = get_running_loop()
        self._future = self._loop.create_future()

    async def wait(self) -> Any:
        return await self._future

    def succeed(self, result: object) -> None:
        self._call(self._future.set_result, result)

    def fail(self, error: BaseException) -> None:
        if isinstance(error, StopIteration):  # no future takes it: the caller would wait
            error, cause = RuntimeError("the work raised StopIteration"), error
            error.__cause__ = cause
        self._call(self._future.set_exception, error)

    def _call(self, method: Callable[[Any], None], value: object) -> None:
        def unless_cancelled() -> None:
            if not self._future.done():
                method(value)

        with suppress(RuntimeError):  # the loop was closed, so no coroutine waits
            self._loop.call_soon_threadsafe(unless_cancelled)
