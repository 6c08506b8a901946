"""Operations: every call that a connector makes to the outside goes through one chain.

    run                              what a loader, a seeder or onboarding calls
    └─ retry                         wait and try again, after a failure that may pass
       └─ credential                 get a new one and try once more, when it was refused
          └─ permit                  wait for the limit that operations share
             └─ count, middlewares   count it; enter what a program puts around it; record it, when asked to
                └─ deadline          the connector's function, for so many seconds at most

The order matters.  A retry waits without a permit, so that others can use it.  A new credential
uses up no attempt.  Only attempts that have a permit are counted and recorded.  The deadline is
innermost: waiting for a permit does not count against it.

An example, for an operation with ``Retry(attempts=4, max_wait=10)``:

    attempt 1    429, Retry-After: 5   every operation of the limit is blocked for 5 seconds
    attempt 2    401                   the credential is renewed, once for all callers
    attempt 3    200                   the output; none of the four attempts is used up

Rule 1: a wait longer than ``max_wait`` is not slept here.  The error leaves with its
``retry_after``, and the task waits in the database, where the wait survives a restart.

Rule 2: when a service asks to wait, every operation that shares the limit waits until then.

Rule 3: after ``stop_calls`` no call begins.  What waits for its turn has begun nothing, so it raises
CallsStopped at once; calls that were sent end as they would.

Rule 4: what the network or the system raises becomes an error of errors.py in the innermost
part, so that every middleware sees what the caller will see.  A bug stays a Python error; the
task that ran into it reports where.
"""

from __future__ import annotations

import asyncio
import errno
import inspect
import math
import random
import re
import socket
import ssl
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Any, Generic, NamedTuple, Protocol, TypeAlias, cast

from ..core import logger
from ..errors import (
    LONGEST_WAIT,
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
from ..model.loaders import Env, In, Out
from ..model.middleware import Middleware, around
from ..model.query import C
from .connector_code import our_storage

POLITE = 8  # calls that a limit allows at once, before it has learned that the service takes more
FAILURE_KEPT = 60.0  # seconds for which a failed renewal of a credential is not tried again
SHORTEST = 1e-4  # seconds to sleep at least, so that rounding cannot make a wait of nothing
NETWORK = (ConnectionError, socket.gaierror, socket.herror, ssl.SSLError)
UNREACHABLE = {
    getattr(errno, name)
    for name in ("ENETDOWN", "ENETUNREACH", "ENETRESET", "EHOSTDOWN", "EHOSTUNREACH", "EADDRNOTAVAIL")
    if hasattr(errno, name)  # not every system has all of them
}
OPERATION_NAME = re.compile(r"[^\s:]+:[^\s:]+:[^\s:]+")
LOG = logger("http")


@dataclass(frozen=True)
class Limit:
    """How many calls may run at once (``concurrency``), and start within ``per`` seconds (``calls``).

    Operations with the same limit share it.  Where a service counts points, ``calls`` are points:
    each operation says how many of them it costs (``points=``, 1 unless it says so).

    A limit learns.  It begins with POLITE calls at once, or fewer when ``concurrency`` is smaller,
    and allows more while the service accepts them, up to ``concurrency``.  After a refusal it allows
    half as many, and then grows slowly.
    """

    name: str
    concurrency: int = POLITE
    calls: int | None = None  # None: any number
    per: float = 1.0  # seconds

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise ConnectorError(f"a limit's name is a text, such as github:api, not {self.name!r}")
        _check_number("concurrency", self.concurrency, self)
        if self.calls is not None:
            _check_number("calls", self.calls, self)
        if not isinstance(self.per, int | float) or not 0 < self.per < math.inf:
            raise ConnectorError(f"{self} lets no call through: per is a number of seconds above 0")


@dataclass(frozen=True)
class Retry:
    """How often an operation is attempted, and how long to wait after a failure that may pass."""

    attempts: int = 4
    base: float = 0.25  # seconds before the second attempt, doubled before each further one
    cap: float = 8.0  # seconds between two attempts, at most
    max_wait: float = 10.0  # seconds of waits that the service asks for, in all; the task makes longer ones

    def __post_init__(self) -> None:
        _check_number("attempts", self.attempts, self)
        for what in ("base", "cap", "max_wait"):
            value = getattr(self, what)
            if not isinstance(value, int | float) or isinstance(value, bool) or not value >= 0:
                raise ConnectorError(f"{self}: {what} is a number of seconds, not {value!r}")

    def delay(
        self, attempt: int, error: UpstreamError, jitter: float, *, waited: float = 0.0
    ) -> float | None:
        """Seconds to wait after a failed attempt (counted from 1), or None to give up.

        ``jitter`` in [0, 1) spreads the waits of many callers, from half to full.  A wait that
        the service asks for is not an attempt; ``waited`` seconds of ``max_wait`` are used up.
        """
        if not error.retryable:
            return None
        if error.retry_after is not None:
            wait = max(error.retry_after, self.base)
            return wait if waited + wait <= self.max_wait else None
        if attempt >= self.attempts:
            return None
        doubled = self.base * 2 ** min(attempt - 1, 60)
        return float(min(self.cap, doubled) * (0.5 + jitter / 2))


def _check_number(what: str, value: object, where: object) -> None:
    """ConnectorError unless it is a whole number of at least 1."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConnectorError(f"{where} lets no call through: {what} is a whole number of at least 1")


class Operation(Generic[C, In, Out]):
    """One kind of call to the outside: a function with its name, limit, retry rule and deadline.

    - ``name``: ``connector:thing:verb``, such as ``github:issue:list``.
    - ``function``: ``async (context, input) -> output``.
    - ``limit``: which calls it shares with other operations.  Without one it shares a limit that has
      the connector's name, of POLITE calls at once.
    - ``points``: how many of the limit's ``calls`` one call costs.
    - ``retry``: how often, and after which waits, a failure that may pass is tried again.
    - ``deadline``: seconds for one attempt.
    """

    def __init__(
        self,
        name: str,
        function: Callable[[C, In], Awaitable[Out]],
        *,
        limit: Limit | None = None,
        points: int = 1,
        retry: Retry | None = None,
        deadline: float = 60.0,
    ) -> None:
        if not isinstance(name, str) or not OPERATION_NAME.fullmatch(name):
            raise ConnectorError(f"operation {name!r} must be named connector:thing:verb")
        self.name, self.function = name, function
        self.limit = Limit(name.partition(":")[0]) if limit is None else limit
        self.points, self.retry, self.deadline = points, retry or Retry(), deadline
        _check_points(self)
        _check_call(self)

    async def __call__(self, context: C, input: In, /) -> Out:
        """Call the function once, within the deadline and outside of the rest of the chain."""
        return cast(Out, await _within_deadline(Call(self, context, input, 1)))


AnyOperation: TypeAlias = Operation[Any, Any, Any]


def operation(
    name: str,
    *,
    limit: Limit | None = None,
    points: int = 1,
    retry: Retry | None = None,
    deadline: float = 60.0,
) -> Callable[[Callable[[C, In], Awaitable[Out]]], Operation[C, In, Out]]:
    """Make the decorated ``async (context, input) -> output`` an operation; Operation says how."""
    return lambda function: Operation(
        name, function, limit=limit, points=points, retry=retry, deadline=deadline
    )


def _check_points(operation: AnyOperation) -> None:
    """ConnectorError when no window of the limit could ever hold the operation's points."""
    limit, points = operation.limit, operation.points
    if not isinstance(limit, Limit):
        raise ConnectorError(f"operation {operation.name}: limit is {limit!r}, not a Limit")
    _check_number("points", points, f"operation {operation.name}")
    if limit.calls is not None and points > limit.calls:
        raise ConnectorError(
            f"operation {operation.name} costs {points} points, and {limit} never has so many",
            hint="calls= is the number of points that the service allows within per= seconds",
        )


def _check_call(operation: AnyOperation) -> None:
    """ConnectorError unless the function is async and takes two arguments, and it may take some time."""
    function, where = operation.function, f"operation {operation.name}"
    called = getattr(function, "__call__", None)  # noqa: B004  # an object may be callable
    if not inspect.iscoroutinefunction(function) and not inspect.iscoroutinefunction(called):
        raise ConnectorError(f"{where} is not an async function", hint="write: async def …(context, input)")
    try:
        inspect.signature(function).bind(None, None)
    except TypeError as error:
        raise ConnectorError(f"{where} must take a context and an input: {error}") from error
    if not isinstance(operation.retry, Retry):
        raise ConnectorError(f"{where}: retry is {operation.retry!r}, not a Retry")
    deadline = operation.deadline
    if not isinstance(deadline, int | float) or isinstance(deadline, bool) or not deadline > 0:
        raise ConnectorError(f"{where}: deadline is {deadline!r}, not a number of seconds above 0")


# -- permits -----------------------------------------------------------------------------------


class FlowController(Protocol):
    """Decides when an attempt may call the outside: concurrency, rate limits, backpressure.

    One serves one installation, in one event loop.  Every attempt awaits ``acquire`` before it
    calls, and calls ``release`` when it has ended, however it ended.
    """

    async def acquire(self, operation: AnyOperation, *, max_wait: float = math.inf) -> None:
        """Wait for a permit.

        QuotaExceeded, with ``retry_after``, when the service asked for a wait that lasts more
        than ``max_wait`` seconds from now.
        """

    def release(self, operation: AnyOperation) -> None:
        """Give the permit back."""

    def answered(self, operation: AnyOperation, began: float, *, refused: bool) -> None:
        """The service answered a call; ``refused``: it was one too many.

        ``began``, in the loop's time, is when the call was permitted.  A controller that does not
        adapt inherits this, which does nothing.
        """
        return

    def block_for(self, operation: AnyOperation, seconds: float) -> None:
        """The service asks not to be called for so long; a longer block stays."""

    def blocked_limits(self) -> list[str]:
        """The names of the limits that are blocked now, sorted; for people to read."""


class Permits:
    """The permits of one limit: how many calls may run at once, and when one may start.

    How many adapts as TCP's window does (AIMD).  A good answer while all permits are in use adds a
    permit; once there was a refusal, as many good answers as there are permits add one.  A refusal
    halves the number.  Answers to calls that began before it change nothing: those were sent at the
    old number.
    """

    def __init__(self, limit: Limit) -> None:
        self.limit = limit
        self.width = min(limit.concurrency, POLITE)  # calls that may run at once
        self.slots, self.surplus = asyncio.Semaphore(self.width), 0  # permits that are kept when given back
        self.good, self.halved_at = 0, -math.inf  # answers since the width changed; when a refusal did it
        self.turn = asyncio.Lock()  # calls start in the order in which they came, the dear ones too
        self.started: deque[tuple[float, int]] = deque()  # the calls of the current window: when, points
        self.points = 0  # of these calls
        self.blocked_until = 0.0

    def blocked_for(self) -> float:
        return max(0.0, self.blocked_until - now())

    def start(self, points: int) -> float:
        """Seconds until a call may start; when 0 it has started, and counts in the window."""
        blocked = self.blocked_for()
        if blocked or self.limit.calls is None:
            return blocked
        moment, started, per = now(), self.started, self.limit.per
        while started and started[0][0] + per <= moment:
            self.points -= started.popleft()[1]
        missing = self.points + points - self.limit.calls
        for at, taken in started if missing > 0 else ():
            missing -= taken
            if missing <= 0:
                return max(at + per - moment, SHORTEST)
        started.append((moment, points))
        self.points += points
        return 0.0

    def release(self) -> None:
        """Give a permit back."""
        if self.surplus:
            self.surplus -= 1
        else:
            self.slots.release()

    def answered(self, began: float, *, refused: bool) -> None:
        """Adapt to an answer of the service to a call that began then."""
        if began < self.halved_at:
            return
        if refused:
            narrower = max(1, self.width // 2)
            self.surplus += self.width - narrower
            self.width, self.good, self.halved_at = narrower, 0, now()
        elif self.slots.locked() and self.width < self.limit.concurrency:
            self.good += 1
            if self.halved_at == -math.inf or self.good == self.width:
                self.width, self.good = self.width + 1, 0
                self.release()


class Limits(FlowController):
    """Gives the permits that the operations' limits allow."""

    def __init__(self) -> None:
        self._permits: dict[str, Permits] = {}

    def _of(self, limit: Limit) -> Permits:
        """The permits of a limit; ConnectorError when another limit has the same name."""
        permits = self._permits.get(limit.name)
        if permits is None:
            permits = self._permits[limit.name] = Permits(limit)
        elif permits.limit is not limit and permits.limit != limit:
            raise ConnectorError(f"two limits have the same name: {permits.limit} and {limit}")
        return permits

    async def acquire(self, operation: AnyOperation, *, max_wait: float = math.inf) -> None:
        """As FlowController says; ConnectorError when another limit has the same name."""
        permits = self._of(operation.limit)
        if not self._has_permit(operation):
            await permits.slots.acquire()
        try:
            async with permits.turn:
                await self._start(permits, operation, max_wait)
        except BaseException:
            self.release(operation)
            raise

    def _has_permit(self, operation: AnyOperation) -> bool:
        """Whether the operation under way shares the limit: it waits for this one, which uses its permit.

        If it took another permit, operations that need each other could wait for ever.
        """
        under_way = _UNDER_WAY.get()
        return under_way is not None and under_way[0] is self and under_way[1].limit == operation.limit

    async def _start(self, permits: Permits, operation: AnyOperation, max_wait: float) -> None:
        await self._unblocked(permits, operation, max_wait)
        while (wait := permits.start(operation.points)) > 0:
            await asyncio.sleep(wait)  # no event tells when a window or a block ends
            await self._unblocked(permits, operation, max_wait)

    async def _unblocked(self, permits: Permits, operation: AnyOperation, max_wait: float) -> None:
        """Wait for the end of a block; QuotaExceeded when that takes longer than ``max_wait`` seconds."""
        while blocked := permits.blocked_for():
            if blocked > max_wait:
                raise QuotaExceeded(
                    f"{operation.limit.name}: the service asked to wait {blocked:.0f} s more",
                    hint="try again later",
                    retry_after=blocked,
                )
            await asyncio.sleep(blocked)

    def release(self, operation: AnyOperation) -> None:
        """Give the permit back."""
        if not self._has_permit(operation):
            self._of(operation.limit).release()

    def answered(self, operation: AnyOperation, began: float, *, refused: bool) -> None:
        """Adapt how many calls of this limit may run at once."""
        self._of(operation.limit).answered(began, refused=refused)

    def block_for(self, operation: AnyOperation, seconds: float) -> None:
        """Start no call of this limit for so long; a longer block stays."""
        permits = self._of(operation.limit)
        permits.blocked_until = max(now() + seconds, permits.blocked_until)

    def blocked_limits(self) -> list[str]:
        """The names of the limits that are blocked now, sorted."""
        return sorted(name for name, permits in self._permits.items() if permits.blocked_for())


# -- running -----------------------------------------------------------------------------------


class Call(NamedTuple):
    """One attempt of one operation.

    ``attempt`` counts from 1 in each run; ``within`` is the name of the operation that needs this
    one, empty when there is none.  ``installation`` is its id, empty while it is being connected.
    ``env`` is that of the loader that calls, which knows the sync and the task; None outside of loaders.
    """

    operation: AnyOperation
    context: Any
    input: Any
    attempt: int
    within: str = ""
    installation: str = ""
    env: Env[Any] | None = None


Next: TypeAlias = Callable[[Call], Awaitable[Any]]
Wrapper: TypeAlias = Callable[[Call, Next], Awaitable[Any]]


class CallsStopped(BaseException):
    """The call did not begin: the sync pauses.  No loader catches it by mistake, as it is no Exception."""


class CredentialRefresh:
    """Renews a refused credential: once, however many callers were refused.

    A final failure is raised again for a minute; one that may pass is not remembered.
    """

    def __init__(self, renew: Callable[[], Awaitable[None]]) -> None:
        self._renew, self._lock = renew, asyncio.Lock()
        self._failure: Exception | None = None
        self._failed_at = 0.0
        self.generation = 0  # of the credential in use; a caller remembers which one it called with

    async def renew(self, generation: int) -> None:
        """Renew the credential of a generation, unless it was renewed already; raises what that raised."""
        async with self._lock:
            if self.generation > generation:
                return
            if self._failure is not None and now() < self._failed_at + FAILURE_KEPT:
                raise self._failure
            try:
                await self._renew()
            except Exception as error:
                may_pass = isinstance(error, UpstreamError) and error.retryable
                self._failure, self._failed_at = None if may_pass else error, now()
                raise
            self.generation += 1


class OperationRunner:
    """Runs operations through the chain, and counts every attempt in ``calls``, by operation name.

    ``flow`` gives the permits; without one, the operations' own limits apply.  Every attempt is made
    inside of the ``middlewares``, and inside of them of the ``wrappers``, which see the output: a
    wrapper awaits ``next(call)`` and returns that output, or another one, or raises.  Of both the
    first one is outermost.  ``renew`` gets a new credential: an attempt whose credential is refused is
    made once more.  ``jitter`` gives random numbers in [0, 1).  ``installation`` is the id of the one
    that calls.
    """

    def __init__(
        self,
        flow: FlowController | None = None,
        *,
        middlewares: Sequence[Middleware[Call]] = (),
        wrappers: Sequence[Wrapper] = (),
        renew: Callable[[], Awaitable[None]] | None = None,
        jitter: Callable[[], float] = random.random,
        installation: str = "",
    ) -> None:
        self._flow, self._jitter = flow or Limits(), jitter
        self.installation = installation
        self.calls: Counter[str] = Counter()
        self._stopped, self._under_way = False, 0
        self._waits: dict[asyncio.Timeout, tuple[str, str]] = {}  # of calls not begun: limit, last error
        self._refresh = None if renew is None else CredentialRefresh(renew)
        self._chain: Next = _within_deadline
        surrounding = [_surrounding(middlewares)] if middlewares else []
        for wrapper in reversed([self._count, *surrounding, *wrappers]):
            self._chain = _wrapped(wrapper, self._chain)

    def blocked_limits(self) -> list[str]:
        """The names of the limits that are blocked now, sorted."""
        return self._flow.blocked_limits()

    def waits_at(self) -> list[str]:
        """The names of the limits at which calls wait, sorted; empty while a call is under way."""
        return [] if self._under_way else sorted({limit for limit, _ in self._waits.values()})

    def waits_after(self) -> str:
        """The newest error after which a call waits for its next attempt; empty while one is under way."""
        errors = [error for _, error in self._waits.values() if error]
        return "" if self._under_way or not errors else errors[-1]

    def stop_calls(self) -> None:
        """Begin no call until ``allow_calls``; what waits for its turn raises CallsStopped now."""
        if not self._stopped:
            self._stopped = True
            for wait in self._waits:
                wait.reschedule(now())

    def allow_calls(self) -> None:
        """Begin calls again."""
        self._stopped = False

    async def _unless_stopped(
        self, limit: Limit, wait: Callable[[], Awaitable[None]], after: str = ""
    ) -> None:
        if self._stopped:
            raise CallsStopped
        try:
            async with asyncio.timeout(None) as waiting:
                self._waits[waiting] = limit.name, after
                try:
                    await wait()
                finally:
                    del self._waits[waiting]
        except TimeoutError:
            if waiting.expired():
                raise CallsStopped from None
            raise

    @contextmanager
    def activate(self, operation: str = "", env: Env[Any] | None = None) -> Iterator[None]:
        """Inside, ``run_operation`` uses this runner; ``operation`` is the one that is run, if any."""
        outer = _ACTIVE.set((self, operation, env))
        try:
            yield
        finally:
            _ACTIVE.reset(outer)

    async def run(
        self,
        operation: Operation[C, In, Out],
        context: C,
        input: In,
        *,
        renewing: bool = True,
        env: Env[Any] | None = None,
    ) -> Out:
        """The operation's output; UpstreamError when the last attempt failed.

        Without ``renewing``, a refused credential is not renewed.  ``env`` is that of the loader that calls.
        """
        _, within, _ = _ACTIVE.get()
        with self.activate(operation.name, env):
            first = Call(operation, context, input, 1, within, self.installation, env)
            return cast(Out, await self._run(first, renewing))

    async def _run(self, first: Call, renewing: bool) -> Any:
        operation = first.operation
        attempts, failed, waited = count(1), 0, 0.0

        def attempt() -> Awaitable[Any]:
            return self._attempt(first._replace(attempt=next(attempts)))

        while True:
            try:
                return await (self._with_credential(attempt) if renewing else attempt())
            except UpstreamError as error:
                asked = error.retry_after is not None
                failed += not asked
                delay = operation.retry.delay(max(1, failed), error, self._jitter(), waited=waited)
                if delay is None:
                    raise
                LOG.warning("%s failed (%s); next attempt in %.2f s", operation.name, error.code, delay)
                after = error.message
            waited += delay if asked else 0.0
            await self._unless_stopped(operation.limit, partial(asyncio.sleep, delay), after)

    async def _with_credential(self, attempt: Callable[[], Awaitable[Any]]) -> Any:
        """Make an attempt, and another one with a new credential when this one's was refused."""
        refresh = self._refresh
        if refresh is None:
            return await attempt()
        generation = refresh.generation
        try:
            return await attempt()
        except BadCredentials:
            await refresh.renew(generation)
        return await attempt()

    async def _attempt(self, call: Call) -> Any:
        operation = call.operation
        permit = partial(self._flow.acquire, operation, max_wait=operation.retry.max_wait)
        with our_storage():  # where limits are shared
            await self._unless_stopped(operation.limit, permit)
        outer = _UNDER_WAY.set((self._flow, operation))
        _LAST_ATTEMPT.set(call)
        self._under_way += 1
        began = now()
        try:
            output = await self._chain(call)
            self._flow.answered(operation, began, refused=False)
            return output
        except QuotaExceeded as error:
            self._flow.answered(operation, began, refused=True)
            if error.retry_after is not None:
                block_limit(error.retry_after)
            raise
        finally:
            self._under_way -= 1
            _UNDER_WAY.reset(outer)
            self._flow.release(operation)

    async def _count(self, call: Call, next: Next) -> Any:
        """The outermost wrapper."""
        self.calls[call.operation.name] += 1
        return await next(call)


# The active runner, the name of the operation that it runs, and the loader's for which it does.
_ACTIVE: ContextVar[tuple[OperationRunner | None, str, Env[Any] | None]] = ContextVar(
    "active runner", default=(None, "", None)
)
_UNDER_WAY: ContextVar[tuple[FlowController, AnyOperation] | None] = ContextVar("under way", default=None)
_LAST_ATTEMPT: ContextVar[Call | None] = ContextVar("the attempt that the task began last", default=None)


def block_limit(seconds: float) -> None:
    """Block the limit of the operation under way, if there is one, for so long.

    For clients that learn from good answers, too, that the service will accept no more calls.
    """
    under_way = _UNDER_WAY.get()
    if under_way is not None and seconds > 0:
        flow, operation = under_way
        if operation.limit.name not in flow.blocked_limits():
            LOG.warning("%s: the service asks to wait %.1f s", operation.limit.name, seconds)
        flow.block_for(operation, min(seconds, LONGEST_WAIT))


def attempt_under_way() -> tuple[FlowController, AnyOperation] | None:
    """The attempt that is under way in the current task, with its operation; each is another object."""
    return _UNDER_WAY.get()


def in_operation() -> bool:
    """Whether an attempt of an operation, which has a deadline, is under way in the current task."""
    return _UNDER_WAY.get() is not None


def last_attempt() -> Call | None:
    """The attempt that the current task, or the task that started it, began last; None before any."""
    return _LAST_ATTEMPT.get()


async def run_operation(operation: Operation[C, In, Out], context: C, input: In) -> Out:
    """Run an operation that another one needs first, such as getting a token.

    It goes through the same runner, so limits, middlewares and counts apply.  Where no operation
    is under way it goes through the active runner (in a seeder, the sync's), or a new one.  In
    an operation, a refused credential is not renewed: the outer operation does that.
    """
    runner, within, env = _ACTIVE.get()
    return await (runner or OperationRunner()).run(operation, context, input, renewing=not within, env=env)


def _wrapped(wrapper: Wrapper, inner: Next) -> Next:
    async def attempt(call: Call) -> Any:
        return await wrapper(call, inner)

    return attempt


def _surrounding(middlewares: Sequence[Middleware[Call]]) -> Wrapper:
    """The middlewares as one wrapper, which leaves the output as it is."""

    async def surround(call: Call, next: Next) -> Any:
        async with around(middlewares, call):
            return await next(call)

    return surround


async def _within_deadline(call: Call) -> Any:
    """The innermost part: the connector's function, within its deadline."""
    operation = call.operation
    try:
        async with asyncio.timeout(operation.deadline) as deadline:
            return await operation.function(call.context, call.input)
    except TimeoutError as error:
        own = f" within {operation.deadline:g} s" if deadline.expired() else ""
        words = "" if own or not str(error) else f": {error}"
        raise Offline(
            f"{operation.name}: no answer{own}{words}",
            hint="the service is slow or the network is down; the sync tries again",
        ) from error
    except OSError as error:
        raise _from_os(operation.name, error) from error


def _from_os(name: str, error: OSError) -> MaxError:
    """What an error of the system means for the operation with a name."""
    # asyncio combines the failures of several addresses into an OSError without a number
    if isinstance(error, NETWORK) or error.errno in UNREACHABLE or str(error).startswith("Multiple exc"):
        return Offline(f"{name}: {error}", hint="check the network and the service's address")
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return UpstreamMissing(f"{name}: {error}", hint="check the path, and that the program is installed")
    if isinstance(error, PermissionError):
        return PermissionDenied(f"{name}: {error}", hint="make it readable for this user")
    return LoaderFault(f"{name}: {error}", hint="check the disk and the system; then sync again")


def now() -> float:
    """The event loop's own time, in which its sleeps are measured."""
    return asyncio.get_running_loop().time()
