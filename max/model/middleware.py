"""Middlewares: what a program puts around every attempt of an operation, or around every method.

    @asynccontextmanager
    async def timed(call: Call) -> AsyncIterator[None]:
        began = time.monotonic()
        try:
            yield
        finally:
            seconds[call.operation.name] += time.monotonic() - began

Rule 1: each one is entered once, in the order in which they were given, before what it surrounds, and is
left once, in the reverse order, after it: with its error, if there was one.

Rule 2: a middleware observes, or refuses.  It refuses by raising before; then nothing inside of it runs.
It cannot change a result, and an error that it swallows is raised all the same: there is no result that
could take its place.  It may raise another error instead.

Rule 3: a MaxError that it raises is the outcome.  Any other error is a bug of the middleware, and says so.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import partial
from types import TracebackType
from typing import Any, NamedTuple, Protocol, TypeVar

from ..errors import MaxError, MiddlewareFault
from .actor import Actor

X = TypeVar("X")
C = TypeVar("C", contravariant=True)


class MethodCall(NamedTuple):
    """One call of a method, as middlewares see it: its name, its arguments, and who asks."""

    method: str
    arguments: Mapping[str, Any]
    reads: bool
    by: Actor


class Middleware(Protocol[C]):
    """What is around every call of a kind, as the page above says."""

    def __call__(self, call: C, /) -> AbstractAsyncContextManager[None]:
        """What is entered before a call, and left after it."""


@asynccontextmanager
async def around(middlewares: Sequence[Middleware[X]], call: X) -> AsyncIterator[None]:
    """Inside, all of these are entered for a call, the first one outermost."""
    async with AsyncExitStack() as entered:
        for one in middlewares:
            try:
                manager = one(call)
                await manager.__aenter__()
            except Exception as error:
                raise _fault(one, error) from error
            entered.push_async_exit(partial(_leave, one, manager))
        yield


async def _leave(
    middleware: Middleware[Any],
    manager: AbstractAsyncContextManager[None],
    kind: type[BaseException] | None,
    error: BaseException | None,
    traceback: TracebackType | None,
) -> None:
    """Leave one; that it swallows the error counts for nothing, as this returns None."""
    try:
        await manager.__aexit__(kind, error, traceback)
    except Exception as raised:
        if raised is error:
            return
        raise _fault(middleware, raised) from raised


def _fault(middleware: Middleware[Any], error: Exception) -> Exception:
    """What the error of a middleware means for the one who called."""
    if isinstance(error, MaxError):
        return error
    name = getattr(middleware, "__qualname__", None) or type(middleware).__name__
    said = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return MiddlewareFault(
        f"the middleware {name} raised {said}",
        hint="this is a bug of the middleware; to refuse a call, raise a MaxError",
    )
