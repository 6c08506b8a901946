"""Operations: everything a connector does outside this process goes through one chain.

    run → for each attempt: limit → deadline → the connector's function

so that limits, retries, counting and time-outs have one home.  A wait that is longer than
the retry rule's patience is not slept here: the error leaves with its ``retry_after``, and
the task it belongs to waits durably.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any, Generic

from .core import C, FlowController, In, Out
from .errors import ConnectorError, MaxError, Offline, UpstreamError


@dataclass(frozen=True)
class Limit:
    """How many calls may be under way at once, and begin within any window."""

    name: str
    concurrency: int = 8
    calls: int | None = None
    per: float = 1.0  # seconds


@dataclass(frozen=True)
class Retry:
    """How often, and how long after a failure that may pass, an operation is tried again."""

    attempts: int = 4
    base: float = 0.25  # seconds before the second attempt, doubled for each one more
    cap: float = 8.0  # seconds, at most, between two attempts
    patience: float = 10.0  # seconds; a longer wait is the task's to make

    def delay(self, attempt: int, error: UpstreamError, draw: float) -> float | None:
        """Seconds to wait after a failed attempt (counted from 1), or None to give up.

        ``draw`` in [0, 1) spreads the waits of many callers (full jitter, from half).
        """
        if not error.retryable or attempt >= self.attempts:
            return None
        if error.retry_after is not None:
            return error.retry_after if error.retry_after <= self.patience else None
        return float(min(self.cap, self.base * 2 ** (attempt - 1)) * (0.5 + draw / 2))


UNLIMITED = Limit("unlimited", concurrency=1_000_000)


class Operation(Generic[C, In, Out]):
    """One thing a connector does outside: a named function with its limit and its rules."""

    def __init__(
        self,
        name: str,
        function: Callable[[C, In], Awaitable[Out]],
        *,
        limit: Limit = UNLIMITED,
        retry: Retry | None = None,
        deadline: float = 60.0,
    ) -> None:
        if name.count(":") != 2:
            raise ConnectorError(f"operation {name!r} must be named connector:thing:verb")
        self.name, self.function = name, function
        self.limit, self.retry = limit, retry or Retry()
        self.deadline = deadline  # seconds for one attempt

    async def __call__(self, context: C, input: In, /) -> Out:
        """Do it once, outside of the chain."""
        return await self.function(context, input)


def operation(
    name: str, *, limit: Limit = UNLIMITED, retry: Retry | None = None, deadline: float = 60.0
) -> Callable[[Callable[[C, In], Awaitable[Out]]], Operation[C, In, Out]]:
    """Make the decorated ``async (context, input) -> output`` an operation."""
    return lambda function: Operation(name, function, limit=limit, retry=retry, deadline=deadline)


class Limits(FlowController):
    """Permits by limit name, shared by all tasks of one installation."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._limits: dict[str, Limit] = {}
        self._slots: dict[str, asyncio.Semaphore] = {}
        self._begun: dict[str, deque[float]] = {}

    def declare(self, limits: Iterable[Limit]) -> None:
        """Make limits known; a name stands for the first limit that carried it."""
        for limit in limits:
            if limit.name not in self._limits:
                self._limits[limit.name] = limit
                self._slots[limit.name] = asyncio.Semaphore(limit.concurrency)
                self._begun[limit.name] = deque()

    async def acquire(self, limit: str) -> None:
        """Wait until a call may begin."""
        await self._slots[limit].acquire()
        try:
            await self._window(self._limits[limit])
        except BaseException:
            self._slots[limit].release()
            raise

    async def _window(self, limit: Limit) -> None:
        """Wait until fewer than ``calls`` calls began within the last ``per`` seconds."""
        begun = self._begun[limit.name]
        while limit.calls is not None:
            now = self._clock()
            while begun and begun[0] <= now - limit.per:
                begun.popleft()
            if len(begun) < limit.calls:
                begun.append(now)
                return
            await asyncio.sleep(begun[0] + limit.per - now)

    def release(self, limit: str) -> None:
        """The call has ended."""
        self._slots[limit].release()


class Caller:
    """Runs operations through the chain, and counts every attempt by operation name."""

    def __init__(self, flow: Limits, *, draw: Callable[[], float] = random.random) -> None:
        self._flow, self._draw = flow, draw
        self.calls: Counter[str] = Counter()

    async def run(self, operation: Operation[C, In, Out], context: C, input: In) -> Out:
        """The operation's output; UpstreamError when every attempt failed."""
        self._flow.declare([operation.limit])
        attempt = 1
        while True:
            try:
                return await self._attempt(operation, context, input)
            except UpstreamError as error:
                delay = operation.retry.delay(attempt, error, self._draw())
                if delay is None:
                    raise
            await asyncio.sleep(delay)
            attempt += 1

    async def _attempt(self, operation: Operation[C, In, Out], context: C, input: In) -> Out:
        await self._flow.acquire(operation.limit.name)
        self.calls[operation.name] += 1
        try:
            async with asyncio.timeout(operation.deadline):
                return await operation(context, input)
        except TimeoutError as error:
            raise Offline(
                f"{operation.name}: no answer within {operation.deadline:g} s",
                hint="the service is slow or the network is down; the sync tries again",
            ) from error
        except OSError as error:
            raise _from_os(operation.name, error) from error
        finally:
            self._flow.release(operation.limit.name)


def _from_os(name: str, error: OSError) -> MaxError:
    if isinstance(error, ConnectionError):
        return Offline(f"{name}: {error}", hint="check the network and the service's address")
    return MaxError(f"{name}: {error}")


AnyOperation = Operation[Any, Any, Any]
