"""Operations: everything a connector does outside this process goes through one chain.

    run → for each attempt: limit → middlewares → deadline → the connector's function

so that limits, retries, counting and time-outs have one home.

Rule 1: a wait that is longer than the retry rule's patience is not slept here: the error
leaves with its ``retry_after``, and the task it belongs to waits durably.

Rule 2: when a service says "too many requests", everybody who shares the limit waits, not
only the caller who was told; nobody asks before the time that the service named.

Rule 3: what the network or the system raises becomes an error of errors.py innermost, so that
every middleware sees what the caller will see.  A bug stays the Python error that it is: the
task knows where it happened, and tells.
"""

from __future__ import annotations

import asyncio
import errno
import math
import random
import socket
import ssl
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import count
from typing import Any, Generic, NamedTuple, TypeAlias, cast

from ..core import FlowController
from ..errors import (
    BadCredentials,
    ConnectorError,
    LoaderFault,
    MaxError,
    Offline,
    PermissionDenied,
    QuotaExceeded,
    UpstreamError,
    UpstreamMissing,
)
from ..model.loaders import In, Out
from ..model.query import C

TOLD = 60.0  # seconds for which a renewal that failed is not tried again
SHORTEST = 1e-4  # seconds to sleep, so that no rounding makes a wait of nothing
NETWORK = (ConnectionError, socket.gaierror, socket.herror, ssl.SSLError)
UNREACHABLE = {
    getattr(errno, name)
    for name in ("ENETDOWN", "ENETUNREACH", "ENETRESET", "EHOSTDOWN", "EHOSTUNREACH", "EADDRNOTAVAIL")
    if hasattr(errno, name)  # not every system has every one
}


@dataclass(frozen=True)
class Limit:
    """How many calls may be under way at once, and begin within any window."""

    name: str
    concurrency: int = 8
    calls: int | None = None
    per: float = 1.0  # seconds

    def __post_init__(self) -> None:
        if self.concurrency < 1 or self.per <= 0 or (self.calls is not None and self.calls < 1):
            raise ConnectorError(f"{self} lets no call through")


@dataclass(frozen=True)
class Retry:
    """How often, and how long after a failure that may pass, an operation is tried again."""

    attempts: int = 4
    base: float = 0.25  # seconds before the second attempt, doubled for each one more
    cap: float = 8.0  # seconds, at most, between two attempts
    patience: float = 10.0  # seconds of asked-for waits in all; longer ones are the task's to make

    def delay(self, attempt: int, error: UpstreamError, draw: float, *, waited: float = 0.0) -> float | None:
        """Seconds to wait after a failed attempt (counted from 1), or None to give up.

        ``draw`` in [0, 1) spreads the waits of many callers (from half to full).  A wait that
        the service asked for costs patience, of which ``waited`` is gone, and no attempt.
        """
        if not error.retryable:
            return None
        if error.retry_after is not None:
            asked = max(error.retry_after, self.base)
            return asked if waited + asked <= self.patience else None
        if attempt >= self.attempts:
            return None
        doubled = self.base * 2 ** min(attempt - 1, 60)
        return float(min(self.cap, doubled) * (0.5 + draw / 2))


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
    """Permits by limit name, shared by all tasks of one installation, in one event loop."""

    def __init__(self) -> None:
        self._limits: dict[str, Limit] = {}
        self._slots: dict[str, asyncio.Semaphore] = {}
        self._begun: dict[str, deque[float]] = {}
        self._until: dict[str, float] = {}

    def declare(self, limits: Iterable[Limit]) -> None:
        """Make limits known; ConnectorError when one name stands for two different limits."""
        for limit in limits:
            known = self._limits.setdefault(limit.name, limit)
            if known != limit:
                raise ConnectorError(f"two limits share a name: {known} and {limit}")
            if limit.name not in self._slots:
                self._slots[limit.name] = asyncio.Semaphore(limit.concurrency)
                self._begun[limit.name] = deque()

    def hold(self, limit: str, seconds: float) -> None:
        """Let no call begin for so long; a longer hold that stands already stays."""
        self._until[limit] = max(_now() + seconds, self._until.get(limit, 0.0))

    def held(self, limit: str) -> float:
        """For how many seconds from now no call may begin; 0 when one may."""
        return max(0.0, self._until.get(limit, 0.0) - _now())

    def on_hold(self) -> list[str]:
        """The limits on which no call may begin now, by name."""
        return sorted(limit for limit in self._until if self.held(limit))

    async def acquire(self, limit: str, *, patience: float = math.inf) -> None:
        """Wait until a call may begin; QuotaExceeded when a hold lasts longer than the patience."""
        await self._slots[limit].acquire()
        try:
            while (wait := self._begin(self._limits[limit])) > 0:
                self._refuse_long_hold(limit, patience)
                await asyncio.sleep(wait)  # time is what we wait for
        except BaseException:
            self._slots[limit].release()
            raise

    def _refuse_long_hold(self, limit: str, patience: float) -> None:
        held = self.held(limit)
        if held > patience:
            raise QuotaExceeded(
                f"{limit}: the service asked to wait for {held:.0f} s more",
                hint="the sync waits and goes on",
                retry_after=held,
            )

    def _begin(self, limit: Limit) -> float:
        """Seconds until a call may begin; when 0 it has begun, and is in the window."""
        held = self.held(limit.name)
        if held or limit.calls is None:
            return held
        now, begun = _now(), self._begun[limit.name]
        while begun and begun[0] + limit.per <= now:
            begun.popleft()
        if len(begun) >= limit.calls:
            return max(begun[0] + limit.per - now, SHORTEST)
        begun.append(now)
        return 0.0

    def release(self, limit: str) -> None:
        """The call has ended."""
        self._slots[limit].release()


class Call(NamedTuple):
    """One attempt of one operation; ``attempt`` counts from 1 in each run."""

    operation: AnyOperation
    context: Any
    input: Any
    attempt: int


Next: TypeAlias = Callable[[Call], Awaitable[Any]]
Middleware: TypeAlias = Callable[[Call, Next], Awaitable[Any]]


class CredentialRefresh:
    """Gets a new credential when the old one is refused: once, however many callers were refused.

    A failure that is final is told to everybody who asks in the next minute; one that may pass to
    nobody else.
    """

    def __init__(self, renew: Callable[[], Awaitable[None]]) -> None:
        self._renew, self._one_at_a_time = renew, asyncio.Lock()
        self._failure: Exception | None = None
        self._failed_at = 0.0
        self.number = 0  # of the credential in use; callers remember with which one they asked

    async def of(self, number: int) -> None:
        """Renew the credential of a number, unless somebody has; what that raised when it failed."""
        async with self._one_at_a_time:
            if self.number > number:
                return
            if self._failure is not None and _now() < self._failed_at + TOLD:
                raise self._failure
            try:
                await self._renew()
            except Exception as error:
                passing = isinstance(error, UpstreamError) and error.retryable
                self._failure, self._failed_at = None if passing else error, _now()
                raise
            self.number += 1


class OperationRunner:
    """Runs operations through the chain, and counts every attempt by operation name.

    Each middleware stands around every attempt, the first one outermost: it awaits
    ``next(call)`` for what is inside, and returns that output, another one, or raises.
    ``renew`` gets a new credential: an attempt whose credential is refused is made once more.
    """

    def __init__(
        self,
        flow: Limits,
        *,
        middlewares: Sequence[Middleware] = (),
        renew: Callable[[], Awaitable[None]] | None = None,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._flow, self._draw = flow, draw
        self.calls: Counter[str] = Counter()
        self._renewal = None if renew is None else CredentialRefresh(renew)
        self._chain: Next = _in_time
        for middleware in reversed([self._count, *middlewares]):
            self._chain = _around(middleware, self._chain)

    def on_hold(self) -> list[str]:
        """The limits on which no call may begin now, by name."""
        return self._flow.on_hold()

    @contextmanager
    def at_hand(self, *, renewing: bool = True) -> Iterator[None]:
        """Inside, ``run_operation`` goes through this caller, though no operation is under way."""
        outer = _CALLER.set((self, renewing))
        try:
            yield
        finally:
            _CALLER.reset(outer)

    async def run(
        self, operation: Operation[C, In, Out], context: C, input: In, *, renewing: bool = True
    ) -> Out:
        """The operation's output; UpstreamError when every attempt failed.

        Without ``renewing``, a credential that is refused stays refused.
        """
        with self.at_hand(renewing=False):
            return await self._run(operation, context, input, renewing)

    async def _run(self, operation: Operation[C, In, Out], context: C, input: In, renewing: bool) -> Out:
        self._flow.declare([operation.limit])
        attempts, failed, waited = count(1), 0, 0.0

        def attempt() -> Awaitable[Any]:
            return self._attempt(Call(operation, context, input, next(attempts)))

        while True:
            try:
                return cast(Out, await (self._with_credential(attempt) if renewing else attempt()))
            except UpstreamError as error:
                asked = error.retry_after is not None
                failed += not asked
                delay = operation.retry.delay(max(1, failed), error, self._draw(), waited=waited)
                if delay is None:
                    raise
            waited += delay if asked else 0.0
            await asyncio.sleep(delay)

    async def _with_credential(self, attempt: Callable[[], Awaitable[Any]]) -> Any:
        """An attempt, and another one with a new credential when this one's was refused."""
        renewal = self._renewal
        if renewal is None:
            return await attempt()
        number = renewal.number
        try:
            return await attempt()
        except BadCredentials:
            await renewal.of(number)
        return await attempt()

    async def _attempt(self, call: Call) -> Any:
        limit = call.operation.limit.name
        await self._flow.acquire(limit, patience=call.operation.retry.patience)
        outer = _LIMIT.set(limit)
        _ATTEMPT.set(call)
        try:
            return await self._chain(call)
        except QuotaExceeded as error:
            if error.retry_after is not None:
                self._flow.hold(limit, error.retry_after)
            raise
        finally:
            _LIMIT.reset(outer)
            self._flow.release(limit)

    async def _count(self, call: Call, next: Next) -> Any:
        """The outermost middleware."""
        self.calls[call.operation.name] += 1
        return await next(call)


# The caller at hand, and whether it may renew a credential that is refused.
_CALLER: ContextVar[tuple[OperationRunner, bool] | None] = ContextVar("caller at hand", default=None)


_ATTEMPT: ContextVar[object] = ContextVar("the attempt that the task has begun last", default=None)
_LIMIT: ContextVar[str | None] = ContextVar("the limit of the attempt that is under way", default=None)


def hold_limit(seconds: float) -> None:
    """Let no call begin for so long that shares the limit of the attempt under way, if one is.

    For clients, which learn from good answers, too, that a service will take no more.
    """
    at_hand, limit = _CALLER.get(), _LIMIT.get()
    if at_hand is not None and limit is not None and seconds > 0:
        at_hand[0]._flow.hold(limit, seconds)


def last_attempt() -> object:
    """By what the attempt is known that the current task, or whoever began it, made last; None before any."""
    return _ATTEMPT.get()


async def run_operation(operation: Operation[C, In, Out], context: C, input: In) -> Out:
    """Run what the operation that is under way needs first, such as a new token, through its caller.

    So its limits, middlewares and counts see this call, too.  Where no operation is under way,
    it goes through the caller at hand (in a seeder, the sync's), or a chain of its own.  Within an
    operation, a credential that is refused is not renewed: that is the operation's to do.
    """
    caller, renewing = _CALLER.get() or (OperationRunner(Limits()), False)
    return await caller.run(operation, context, input, renewing=renewing)


def _around(middleware: Middleware, inner: Next) -> Next:
    async def attempt(call: Call) -> Any:
        return await middleware(call, inner)

    return attempt


async def _in_time(call: Call) -> Any:
    """The innermost part: the connector's function, within its deadline."""
    operation = call.operation
    try:
        async with asyncio.timeout(operation.deadline) as deadline:
            return await operation(call.context, call.input)
    except TimeoutError as error:
        seconds = f" within {operation.deadline:g} s" if deadline.expired() else ""
        raise Offline(
            f"{operation.name}: no answer{seconds}",
            hint="the service is slow or the network is down; the sync tries again",
        ) from error
    except OSError as error:
        raise _from_os(operation.name, error) from error


def _from_os(name: str, error: OSError) -> MaxError:
    """What an error of the system means for the operation of a name."""
    # asyncio sums up several addresses that failed in an OSError without a number
    if isinstance(error, NETWORK) or error.errno in UNREACHABLE or str(error).startswith("Multiple exc"):
        return Offline(f"{name}: {error}", hint="check the network and the service's address")
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return UpstreamMissing(f"{name}: {error}", hint="check the path, and that the program is installed")
    if isinstance(error, PermissionError):
        return PermissionDenied(f"{name}: {error}", hint="make it readable for this user")
    return LoaderFault(f"{name}: {error}", hint="check the disk and the system; then sync again")


def _now() -> float:
    """The event loop's own time, in which its sleeps are measured."""
    return asyncio.get_running_loop().time()


AnyOperation = Operation[Any, Any, Any]
