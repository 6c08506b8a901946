"""Limits that belong to an account, shared by every process that calls for it.

Each call that begins counts, on whatever host, and a question for each would be as slow as the call.  So a
process borrows some of the points for a short time, and asks again when they are spent or that is over.

**The invariant.**  What was lent may be spent from the moment of the question until its end, so it counts
until ``per`` seconds after that end.  What is lent, and counts at one moment, is never more than the limit:

    limit: 10 calls in 60 s
    12:00:00  A borrows 4, until 12:00:05    4 count
    12:00:01  B borrows 6, until 12:00:06   10 count
    12:00:02  C asks, and waits until 12:01:05

Let a window of ``per`` seconds hold some calls, and look at the moment at which the last of their loans was
made.  Each of the others ended no more than ``per`` seconds before it, so all of them counted then: the
window holds no more calls than the limit.  This holds when a process dies, too, and for its successor.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from .operations import SHORTEST, AnyOperation, Limit, Limits, Permits, now

SHARES = 8  # parts into which a limit is divided: one process borrows that much at a time
LONGEST = 5.0  # seconds for which points are lent, at most; a block is noticed after as many


class Loan(NamedTuple):
    """Points that may be spent until a moment, in seconds since the epoch, or that were spent of a loan."""

    until: float
    points: int
    id: str


class Lent(NamedTuple):
    """The answer to a question for points.

    ``points`` may be spent for ``seconds`` from the question on; without any, it may be asked again after
    ``wait`` seconds.  ``blocked``: the service has asked not to be called for so many seconds.
    """

    points: int
    wait: float = 0.0
    blocked: float = 0.0


class Lender(Protocol):
    """Lends the points of an account's limits."""

    async def borrow(self, limit: Limit, wanted: int, id: str, spent: Loan) -> Lent:
        """A loan with an id, for a call that costs ``wanted``; ``spent`` is what was, of the loan before."""

    def block(self, limit: Limit, seconds: float) -> None:
        """The service has asked not to be called for so long; returns at once."""


def lent_seconds(limit: Limit) -> float:
    """For how long points of a limit are lent."""
    return LONGEST if limit.calls is None else min(LONGEST, limit.per / 10)


def lend(
    loans: Sequence[Loan], limit: Limit, wanted: int, id: str, spent: Loan, now: float
) -> tuple[list[Loan], Lent]:
    """What a limit can lend now, and all its loans that count afterwards; asked twice, it lends once."""
    if limit.calls is None:
        return [], Lent(wanted)
    counting = []
    for one in sorted(loans):
        if one.id == id:
            return [*loans], Lent(one.points)
        points = min(one.points, spent.points) if one.id == spent.id else one.points
        if points and one.until + limit.per > now:
            counting.append(one._replace(points=points))
    free = limit.calls - sum(one.points for one in counting)
    if free >= wanted:
        points = min(free, max(wanted, -(-limit.calls // SHARES)))
        return [*counting, Loan(now + lent_seconds(limit), points, id)], Lent(points)
    for one in counting:
        free += one.points
        if free >= wanted:
            return counting, Lent(0, wait=max(one.until + limit.per - now, SHORTEST))
    return counting, Lent(0, wait=limit.per)  # not reached: no operation costs more than its limit


class _Share:
    """What this process has borrowed of one limit; times are the event loop's."""

    def __init__(self) -> None:
        self.id, self.lent, self.spent, self.ends = "", 0, 0, 0.0

    def spend(self, points: int, *, counted: bool) -> bool:
        """Whether a call may begin now."""
        if now() >= self.ends or (counted and self.lent - self.spent < points):
            return False
        self.spent += points
        return True

    def end(self) -> Loan:
        """Spend no more of the loan; what was spent."""
        self.ends = 0.0
        return Loan(0.0, self.spent, self.id)

    def begin(self, id: str, lent: int, ends: float) -> None:
        """Spend of a new loan."""
        self.id, self.lent, self.spent, self.ends = id, lent, 0, ends


class SharedLimits(Limits):
    """Gives the permits that the operations' limits allow, over all processes that have the lender."""

    def __init__(self, lender: Lender) -> None:
        super().__init__()
        self._lender = lender
        self._shares: dict[str, _Share] = {}

    async def _start(self, permits: Permits, operation: AnyOperation, max_wait: float) -> None:
        limit, points = operation.limit, operation.points
        share = self._shares.setdefault(limit.name, _Share())
        while True:
            await self._unblocked(permits, operation, max_wait)
            if share.spend(points, counted=limit.calls is not None):
                return
            asked, id = now(), os.urandom(8).hex()
            lent = await self._lender.borrow(limit, points, id, share.end())
            if lent.points:
                share.begin(id, lent.points, asked + lent_seconds(limit))
            permits.blocked_until = max(now() + lent.blocked, permits.blocked_until)
            if not lent.points and not lent.blocked:
                await asyncio.sleep(max(lent.wait, SHORTEST))

    def block_for(self, operation: AnyOperation, seconds: float) -> None:
        """Start no call of this limit for so long, here and elsewhere."""
        super().block_for(operation, seconds)
        self._lender.block(operation.limit, seconds)
