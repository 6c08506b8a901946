"""Leases of installations: which of them this process may sync, and the heartbeats that say so.

One LeaseKeeper a project and process sends one heartbeat for all that it holds.  A lease that another
process has taken over needs no word: the next transaction of its sync finds the fence broken.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from functools import partial
from typing import Self

from ..core import SyncLease, in_thread, logger
from ..errors import StorageError, SyncRunning
from ..model.settings import InstallationInfo
from ..model.tasks import Status, SyncRun
from .database import Connection
from .leases import describe_worker, is_gone, new_worker
from .postgres import Fence, PostgresDatabase
from .postgres_work import BEAT, LEASE, Claim, WorkTable
from .schedules import give_up_all
from .sync_log import take_over, unfinished_runs

AT_ONCE = 0.0  # when an installation is due that a worker is to look at
LOOK = 0.2  # seconds between two looks at a lease that is about to be given back
GRACE = LEASE + 2 * BEAT  # seconds to wait for one with which no sync runs: its process may be dead
WATCH = (
    "watch it with `max status {name}`, or end it with `max pause {name}`;"
    " `max sync {name} --ask` wants another one after it"
)

log = logger("leases")


class LeaseKeeper:
    """The leases that this process has in a project.  ``show``: it is a worker, and others see that.

    Its heartbeats begin with the first lease, and end with the last one.
    """

    def __init__(self, table: WorkTable) -> None:
        self.table, self.owner = table, ""
        self.show = False
        self._leases: dict[str, PostgresLease] = {}  # by installation id
        self._beating: asyncio.Task[None] | None = None

    async def name(self) -> str:
        """The name of this process as an owner of leases."""
        self.owner = self.owner or await in_thread(new_worker)
        return self.owner

    @property
    def held(self) -> list[str]:
        """The ids of the installations whose leases are held here."""
        return [*self._leases]

    def add(self, lease: PostgresLease) -> None:
        """Send heartbeats for a lease."""
        self._leases[lease.installation] = lease
        self.begin()

    def begin(self) -> None:
        """Send heartbeats."""
        if self._beating is None or self._beating.done():
            self._beating = asyncio.create_task(self._beat(), name="heartbeats of leases")

    async def remove(self, lease: PostgresLease) -> None:
        """Send no more heartbeats for a lease; without any there is no task."""
        if self._leases.get(lease.installation) is lease:
            del self._leases[lease.installation]
        if not self._leases and not self.show:
            await self.end()

    async def end(self) -> None:
        """Send none any more."""
        beating, self._beating = self._beating, None
        if beating is not None:
            beating.cancel()
            await asyncio.wait([beating])

    async def _beat(self) -> None:
        away = False
        while True:
            try:
                await in_thread(self._keep)
                away = False
            except StorageError as error:  # the leases expire when this lasts
                if not away:
                    log.warning("no heartbeat could be sent: %s", error)
                away = True
            await asyncio.sleep(BEAT)

    def _keep(self) -> None:
        if self.show:
            self.table.show_worker(self.owner)
        asked = {id: lease.attempt for id, lease in [*self._leases.items()]}
        kept = self.table.keep(self.owner, asked) if asked else {}
        for id, attempt in asked.items():
            lease = self._leases.get(id)
            if lease is not None and lease.attempt == attempt != kept.get(id):
                lease.lose()


class PostgresLease(SyncLease):
    """The lease of one installation; ``database`` checks it in each of its writing transactions."""

    def __init__(self, keeper: LeaseKeeper, info: InstallationInfo, database: PostgresDatabase) -> None:
        self._keeper, self._info, self._database = keeper, info, database
        self._claim: Claim | None = None
        self._holders, self._is_new, self._is_lost = 0, False, False
        self._changing = asyncio.Lock()

    @property
    def installation(self) -> str:
        """The installation's id."""
        return self._info.id

    @property
    def attempt(self) -> int:
        """The number of the claim that gave it; 0 while it is not held."""
        return 0 if self._claim is None else self._claim.attempt

    async def __aenter__(self) -> Self:
        """Take it, and take over what its last owner left; SyncRunning while another process has it."""
        async with self._changing:
            if self._claim is None:
                self.adopt(await self._taken())
            else:
                self._holders += 1
            if self._is_new:
                try:
                    await self._database.transact(self._take_over)
                except BaseException:
                    await self._leave()
                    raise
                self._is_new = False
        return self

    async def __aexit__(self, *error: object) -> None:
        """Give it back at the last exit; a worker then looks whether more is to be done."""
        async with self._changing:
            await self._leave()

    def hold(self) -> None:
        """Hold it once more."""
        self._holders += 1

    def adopt(self, claim: Claim) -> None:
        """Hold what was claimed; the first who enters takes over."""
        self._claim, self._holders, self._is_new, self._is_lost = claim, 1, True, False
        self._database.fence = Fence(self._keeper.table.name, claim.installation, claim.attempt)
        self._keeper.add(self)

    def lose(self) -> None:
        """Another process has it; a sync says so when it comes to the fence."""
        if not self._is_lost:
            self._is_lost = True
            log.info("the lease of %s was lost: another process goes on with it", self._info)

    async def give_back(
        self, *, next_at: float | None, failures: int = 0, problem: str | None = None
    ) -> None:
        """End what ``adopt`` began: ``next_at`` says when the installation is due again."""
        async with self._changing:
            await self._leave(next_at, failures, problem)

    async def _leave(
        self, next_at: float | None = AT_ONCE, failures: int = 0, problem: str | None = None
    ) -> None:
        self._holders -= 1
        claim = self._claim
        if self._holders > 0 or claim is None:
            return
        self._claim, self._database.fence = None, None
        keeper = self._keeper

        def give_back() -> None:
            keeper.table.give_back(keeper.owner, claim, next_at=next_at, failures=failures, problem=problem)

        try:
            with suppress(StorageError):  # it expires by itself
                await in_thread(give_back)
        finally:
            await keeper.remove(self)

    async def _taken(self) -> Claim:
        """The lease; a process that has it and syncs nothing is given the time to end."""
        owner, until = await self._keeper.name(), time.monotonic() + GRACE
        table, id = self._keeper.table, self._info.id
        gone = ""
        while (claim := await in_thread(partial(table.take, owner, id, gone=gone))) is None:
            other = await in_thread(lambda: table.leased_by(id)) or ""
            gone = other if is_gone(other) else ""  # a process of this machine, which the system knows
            running = None if gone else await self._database.read(_running)
            if running is not None or time.monotonic() > until:
                sync = running.id if running is not None else f"of {self._info}"
                raise SyncRunning(sync, describe_worker(other), hint=WATCH.format(name=self._info))
            await asyncio.sleep(0 if gone else LOOK)
        return claim

    def _take_over(self, connection: Connection) -> None:
        claim = self._claim
        take_over(connection, now=time.time())
        if claim is not None and claim.before is not None:
            give_up_all(connection)


def _running(connection: Connection) -> SyncRun | None:
    """The sync that a living process runs."""
    found = unfinished_runs(connection, now=time.time())
    return next((one for one in found if one.status is Status.RUNNING), None)
