"""A worker of a fleet: it does the syncs of a project in Postgres, beside any number of others.

    claim the work that is due for longest      one statement, which skips what others are about to claim
       ↓ a lease
    look what the installation wants            asked for, interrupted, or due by a schedule
       ↓
    sync, under the lease                       each transaction checks it
       ↓
    give the lease back                         with the time at which it is due again

**All that matters is in the database.**  A worker that dies leaves leases that expire, and syncs that were
interrupted: to others, both are work.  After each sync the lease is given back, so that the installation
that waits for longest comes first, whatever one of them wants.

**A sync that ends its process** ends those beside it as well.  An installation that was in two processes
which ended in a row is suspect.  A worker does one suspect at a time, beside others: when that process ends
as well it is known which one did it, and that one waits.

**It is notified, and looks by itself.**  The server notifies workers of new work; where it cannot, behind a
pooler or while the connection is away, they look every LOOK seconds, and when the next work is due.

**Draining.**  ``stop`` pauses the syncs after their requests under way and gives the leases back with them,
to go on elsewhere at once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from ..core import in_thread, logger
from ..errors import Interrupted, MaxError, StorageError, SyncError, SyncRunning, SyncTakenOver, UsageError
from ..model.actor import acting_as
from ..projects.database import ProjectDatabase
from ..query.work import NextWork, next_work
from ..storage.postgres_leases import AT_ONCE, PostgresLease
from ..storage.postgres_work import Claim, Listener, wait_after
from .scheduler import Scheduler, options_of

if TYPE_CHECKING:
    from ..core import InstallationInfo, Sync
    from ..project import Project
    from ..runtime import InstallationRuntime

CONCURRENCY = 4  # installations that a worker syncs at once
LOOK = 5.0  # seconds, at most, between two looks at the work
LEAST = 0.05  # seconds between two looks, while another is about to claim what is due
AGAIN = 1.0  # seconds until an installation is looked at again whose schedule was followed
DRAIN = 20.0  # seconds in which syncs pause when it stops
MOST_LOST = 2  # processes in a row that may end during an installation's work, before it has to wait

log = logger("worker")


class FleetWorker:
    """Does the work of a project in the running event loop.  A service.

    ``concurrency`` installations are synced at once.  The runtimes of ``project`` work in this process.
    """

    def __init__(
        self, project: Project[InstallationRuntime], *, concurrency: int = CONCURRENCY, look: float = LOOK
    ) -> None:
        if not isinstance(project.manager, ProjectDatabase):
            raise UsageError(
                f"{project.manager.label} is in files, which one machine has: it needs no workers",
                hint="a daemon follows its schedules: max daemon start; or name a database: --database URL",
            )
        self.project, self._database = project, project.manager
        self._concurrency, self._look_seconds = concurrency, look
        self._keeper = self._database.leases
        self._scheduler = Scheduler(project, look=0.0, clock=self._now)
        self._turns: dict[str, asyncio.Task[None]] = {}  # by installation id
        self._suspects = set[str]()  # those of them that may end this process; one at most
        self._changed, self._drained = asyncio.Event(), asyncio.Event()
        self._running: asyncio.Task[None] | None = None
        self._listener: Listener | None = None
        self._away = False
        self._epoch = 0.0  # the server's time when time.monotonic() was 0
        self.syncs = 0  # that it has done, for tests and benchmarks

    async def start(self) -> None:
        """Begin to look for work; StorageUnreachable when no server answers."""
        if self._running is None:
            await self._keeper.name()
            await in_thread(lambda: self._keeper.table.show_worker(self._keeper.owner))
            await self._next_due([])  # so that the first turn knows the server's time
            self._keeper.show = True
            self._keeper.begin()
            self._drained.clear()
            self._running = asyncio.create_task(self._run(), name="work")

    async def stop(self, timeout: float = DRAIN) -> None:  # noqa: ASYNC109 - what is late is interrupted
        """Claim no more, pause the syncs, and give the leases back.  May be called twice."""
        running, self._running = self._running, None
        if running is None:
            return
        self._changed.set()
        await asyncio.wait([running])  # what it claims now it gives back
        await self.project.pause_all(timeout)
        self._drained.set()
        turns = [*self._turns.values()]
        if turns:
            await asyncio.wait(turns, timeout=1.0)
            await self.project.stop_all()  # what did not pause is interrupted
            await asyncio.gather(*turns, return_exceptions=True)
        self._stop_listening()
        with suppress(StorageError):
            await in_thread(lambda: self._keeper.table.forget_worker(self._keeper.owner))
        self._keeper.show = False
        await self._keeper.end()

    def _now(self) -> float:
        """The server's time, which all workers share, as the last look found it."""
        return time.monotonic() + self._epoch

    # -- looking for work

    async def _run(self) -> None:
        while self._running is not None:
            self._changed.clear()
            seconds = self._look_seconds
            try:
                seconds = await self._look()
                self._away = False
            except StorageError as error:  # the server is away: what runs waits for it, or fails
                self._stop_listening()
                if not self._away:
                    log.warning("no work can be looked for: %s", error)
                self._away = True
            if self._running is not None:
                with suppress(TimeoutError):
                    async with asyncio.timeout(seconds):
                        await self._changed.wait()

    async def _look(self) -> float:
        """Claim what is due, as long as there is room; seconds until the next look."""
        table, owner = self._keeper.table, self._keeper.owner
        if self._listener is None:
            await self._listen()
        room = self._concurrency - len(self._turns)
        if room > 0:
            without, suspects = {*self._turns, *self._keeper.held}, not self._suspects
            for claim in await in_thread(lambda: table.claim(owner, without, room, suspects=suspects)):
                if claim.is_suspect:
                    self._suspects.add(claim.installation)
                task = asyncio.create_task(self._turn(claim), name=f"work {claim.installation}")
                self._turns[claim.installation] = task
                task.add_done_callback(partial(self._ended, claim.installation))
        due, now = await self._next_due({*self._turns, *self._keeper.held})
        if len(self._turns) >= self._concurrency or due is None:
            return self._look_seconds
        return min(self._look_seconds, max(LEAST, due - now))

    async def _next_due(self, without: Collection[str]) -> tuple[float | None, float]:
        """When the next work is due, and the server's time, which ``_now`` goes on from."""
        suspects = not self._suspects
        found = await in_thread(lambda: self._keeper.table.next_due(without, suspects=suspects))
        self._epoch = found[1] - time.monotonic()
        return found

    def _ended(self, installation: str, _: asyncio.Task[None]) -> None:
        self._turns.pop(installation, None)
        self._suspects.discard(installation)
        self._changed.set()

    async def _listen(self) -> None:
        self._listener = listener = await in_thread(self._keeper.table.listener)
        asyncio.get_running_loop().add_reader(listener.fileno, self._notified)

    def _notified(self) -> None:
        """Something came on the connection that listens; one that was lost is opened again."""
        if self._listener is not None and self._listener.heard():
            if self._listener.is_lost:
                self._stop_listening()
            self._changed.set()

    def _stop_listening(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            asyncio.get_running_loop().remove_reader(listener.fileno)
            listener.close()

    # -- one installation's turn

    async def _turn(self, claim: Claim) -> None:
        """Do one thing that an installation wants, and give its lease back."""
        lease: PostgresLease | None = None
        next_at: float | None = AT_ONCE
        failures, problem, info = 0, None, None
        try:
            with acting_as("worker"):
                self._go_on()
                info = await in_thread(lambda: self._database.by_id(claim.installation))
                if claim.before is not None and claim.lost > MOST_LOST:
                    raise SyncError(f"{claim.lost} processes in a row have ended during its work")
                found = await self._next_work(info)
                if claim.asked is not None or claim.before is not None or not found.is_nothing:
                    runtime = await self.project.prepared(info)
                    lease = leased(runtime)
                    lease.adopt(claim)
                    await runtime.start()
                    async with lease:
                        await self._work(runtime, claim, info)
                    found = await self._next_work(info)
                next_at = found.next_at if found.is_nothing else self._soon(found)
        except SyncTakenOver as error:  # which its sync has said
            log.info("%s: %s", info, error)
        except (Interrupted, SyncRunning) as error:
            next_at = self._now() + AGAIN if isinstance(error, SyncRunning) else AT_ONCE
            log.info("%s: %s", info, error)
        except Exception as error:
            failures, problem = claim.failures + 1, message_of(error)
            next_at = self._now() + wait_after(max(failures, claim.lost))
            log.warning("the work of %s cannot be done: %s", info or claim.installation, problem)
        await self._give_back(claim, lease, info, next_at=next_at, failures=failures, problem=problem)

    def _soon(self, found: NextWork) -> float:
        """When an installation is due that wants more: behind those that wait already."""
        return self._now() + AGAIN if found.due is not None else AT_ONCE

    async def _give_back(
        self,
        claim: Claim,
        lease: PostgresLease | None,
        info: InstallationInfo | None,
        *,
        next_at: float | None,
        failures: int,
        problem: str | None,
    ) -> None:
        table, owner = self._keeper.table, self._keeper.owner
        try:
            if lease is not None:
                await lease.give_back(next_at=next_at, failures=failures, problem=problem)
                return
            give_back = partial(table.give_back, owner, claim, next_at=next_at, lost=claim.lost)
            await in_thread(partial(give_back, failures=failures, problem=problem))
        except StorageError as error:  # it expires
            log.warning("the lease of %s could not be given back: %s", info, error)
        finally:
            if info is not None and self._running is not None:
                with suppress(MaxError):
                    await self.project.release(info)

    async def _next_work(self, info: InstallationInfo) -> NextWork:
        return await in_thread(lambda: next_work(self._database.database(info), info, now=self._now()))

    async def _work(self, runtime: InstallationRuntime, claim: Claim, info: InstallationInfo) -> None:
        """What was asked for; else a schedule that is due, or a sync that was interrupted."""
        self._go_on()
        if claim.asked is not None:
            handle = await asked(runtime, claim.asked)
            await in_thread(lambda: self._keeper.table.begun(claim))
            return await self._completed(handle)
        found = await self._next_work(info)
        if found.due is not None:
            await self._scheduler.follow(found.due)
            self.syncs += 1
            return await self._until_drained()
        if found.is_of_hooks:
            await runtime.process_hooks()
            return await runtime.hooks_done()
        if found.goes_on is not None:
            await self._completed(await runtime.sync())
        return None

    def _go_on(self) -> None:
        """Interrupted when the worker ends: nothing more is begun."""
        if self._running is None:
            raise Interrupted("the worker ends")

    async def _completed(self, handle: Sync) -> None:
        await handle.completion()
        self.syncs += 1
        await self._until_drained()

    async def _until_drained(self) -> None:
        """While the worker drains, what it has paused is marked to go on before it is given back."""
        if self._running is None:
            await self._drained.wait()


def leased(runtime: InstallationRuntime) -> PostgresLease:
    """The lease of a runtime of a project in Postgres."""
    if not isinstance(runtime.lease, PostgresLease):
        raise TypeError(f"{runtime} has no lease")
    return runtime.lease


async def asked(runtime: InstallationRuntime, what: Any) -> Sync:
    """The sync that another process has asked for."""
    if what.get("retry") is not None:
        return await runtime.retry_failed(what["retry"] or None)
    options = options_of(what.get("options", {}))
    return await runtime.sync(options, discard_unfinished=bool(what.get("discard_unfinished")))


def message_of(error: Exception) -> str:
    """Why work could not begin, in one line."""
    if isinstance(error, MaxError):
        hint = "; ".join(map(str.strip, error.hint.splitlines()))
        return f"{error.message} ({hint})" if hint else error.message
    return f"{type(error).__name__}: {error}"
