"""The limits of accounts, in rows of a project in Postgres: what is lent to whom, and until when."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Callable, Sequence
from contextlib import suppress

from ..core import in_thread
from ..errors import StorageError
from ..storage.database import NONSENSE
from ..storage.postgres_work import Share, WorkTable
from ..upstream.operations import Limit
from ..upstream.shared_limits import Lender, Lent, Loan, lend


class AccountLimits(Lender):
    """Lends the points of an account; ``account`` finds out which one that is, and may block."""

    def __init__(self, table: WorkTable, account: Callable[[], str]) -> None:
        self._table, self._find = table, account
        self._account = ""
        self._blocking: set[asyncio.Task[None]] = set()

    async def borrow(self, limit: Limit, wanted: int, id: str, spent: Loan) -> Lent:
        """One short transaction on the row of the limit."""

        def change(text: str, blocked_until: float, now: float) -> tuple[Share, Lent]:
            loans = _loans(text)
            if blocked_until > now:
                return _share(loans, limit, blocked_until, now), Lent(0, blocked=blocked_until - now)
            left, lent = lend(loans, limit, wanted, id, spent, now)
            return _share(left, limit, blocked_until, now), lent

        return await in_thread(lambda: self._table.change_share(self._name(), limit.name, change))

    def block(self, limit: Limit, seconds: float) -> None:
        """Store until when the limit is blocked, in the background; a longer block stays."""

        def change(text: str, blocked_until: float, now: float) -> tuple[Share, None]:
            return _share(_loans(text), limit, max(blocked_until, now + seconds), now), None

        async def store() -> None:
            with suppress(StorageError):  # it holds here in any case
                await in_thread(lambda: self._table.change_share(self._name(), limit.name, change))

        task = asyncio.create_task(store(), name=f"block of {limit.name}")
        self._blocking.add(task)
        task.add_done_callback(self._blocking.discard)

    def _name(self) -> str:
        self._account = self._account or self._find()
        return self._account


def _loans(text: str) -> list[Loan]:
    """The loans as they are stored; none when they make no sense: a service bounds its calls as well."""
    with suppress(*NONSENSE):
        found = [Loan(float(until), int(points), str(id)) for until, points, id in json.loads(text)]
        if all(math.isfinite(one.until) for one in found):
            return found
    return []


def _share(loans: Sequence[Loan], limit: Limit, blocked_until: float, now: float) -> Share:
    """What is stored; a loan counts for the limit's time after its end."""
    ends = max(now, blocked_until, *(one.until + limit.per for one in loans))
    return Share(json.dumps(loans), blocked_until, ends)
