"""The scheduler: begins the syncs of a project's schedules while it runs.

    async with Scheduler(project):
        …

**All that matters is in the database.**  What is due follows from that and the clock, so any number
of schedulers may run, in any number of processes: each looks, and one of them claims the slot.

**Clocks.**  Slots are moments of the wall clock.  A wait is never longer than ``look`` seconds, so a clock
that is set, and a computer that slept, are noticed at the next look.

**People come first.**  A scheduled sync yields to any other that is asked for (``InstallationRuntime.sync``),
and does not begin while another one runs.  At most ``most`` scheduled syncs run at once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Self, TypeVar

from ..core import SyncOptions, in_thread, logger
from ..errors import Interrupted, MaxError, StorageError, SyncError, SyncRunning
from ..model.actor import acting_as
from ..model.schedules import Outlook, Schedule, ScheduleStatus, Turn
from ..model.tasks import Status
from ..query import schedules
from ..storage.leases import new_worker

if TYPE_CHECKING:
    from ..core import InstallationInfo, Runtime
    from ..model.tasks import SyncResult
    from ..model.values import Json
    from ..project import Project
    from ..storage.database import Database

T = TypeVar("T")
WELL = (Status.COMPLETED, Status.PARTIAL)
LOOK = 3.0  # seconds, at most, between two looks at the schedules
MOST = 4  # scheduled syncs that run at once

log = logger("schedules")


class Scheduler:
    """Runs the schedules of a project in the running event loop.  A service, and a context manager.

    ``most`` scheduled syncs run at once.  ``clock`` gives seconds since the epoch.  A schedule that is
    changed through this project is noticed at once, any other change after ``look`` seconds.  ``stop`` begins
    no more syncs; one under way goes on, since it belongs to its runtime.
    """

    def __init__(
        self,
        project: Project[Any],
        *,
        most: int = MOST,
        look: float = LOOK,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._project, self._most, self._look_seconds, self._clock = project, most, look, clock
        self._changed = asyncio.Event()
        self._running: asyncio.Task[None] | None = None
        self._syncs: dict[tuple[str, str], asyncio.Task[None]] = {}  # by installation id and schedule
        self._seen: dict[str, object] = {}  # why databases could not be read, by installation
        self._worker = ""  # the name under which it claims slots
        self.next_at: float | None = (
            None  # when the next sync is due, in seconds since the epoch; None: never
        )

    def __repr__(self) -> str:
        state = "stopped" if self._running is None else f"{len(self._syncs)} syncs"
        return f"{type(self).__name__}({self._project!r}, {state})"

    @property
    def under_way(self) -> int:
        """How many slots it has claimed whose syncs have not ended."""
        return len(self._syncs)

    async def start(self) -> None:
        """Begin to look."""
        if self._running is None:
            self._project.watch_schedules(self._changed.set)
            self._running = asyncio.create_task(self._run(), name="schedules")

    async def stop(self) -> None:
        """Begin no more syncs.  Those under way go on.  May be called twice."""
        running, self._running = self._running, None
        self._project.watch_schedules(self._changed.set, ended=True)
        waiting = [one for one in (running, *self._syncs.values()) if one is not None]
        for one in waiting:
            one.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        self.next_at = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.stop()

    # -- looking ---------------------------------------------------------------------------

    async def _run(self) -> None:
        while True:
            self._changed.clear()
            try:
                found = await to_its_end(self._statuses)
            except Exception as error:  # of a folder that cannot be read for a while
                log.warning("the schedules cannot be read: %s", error)
                found = []
            self._begin(found)
            self.next_at = schedules.next_due(found)
            seconds = self._look_seconds
            if self.next_at is not None and self.next_at > self._clock():
                seconds = min(seconds, self.next_at - self._clock())
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._changed.wait()

    def _statuses(self) -> list[ScheduleStatus]:
        """What is known of every schedule of the project; a database that cannot be read has none."""
        found: list[ScheduleStatus] = []
        for info in self._project.manager.installations():
            try:
                found += schedules.statuses(self._project.manager.database(info), info, now=self._clock())
                self._seen.pop(str(info), None)
            except (StorageError, OSError) as error:
                if self._seen.get(str(info)) != str(error):
                    log.warning("the schedules of %s cannot be read: %s", info, error)
                self._seen[str(info)] = str(error)
        return found

    def _begin(self, found: list[ScheduleStatus]) -> None:
        """Begin what is due, the oldest first, as long as there is room."""
        due = [one for one in found if one.outlook.turn in (Turn.FIRE, Turn.SKIP)]
        for one in sorted(due, key=lambda one: one.outlook.at or 0.0):
            key = (one.installation.id, one.schedule.name)
            if key not in self._syncs and len(self._syncs) < self._most:
                self._syncs[key] = task = asyncio.create_task(self.follow(one), name=f"schedule {key}")
                task.add_done_callback(partial(self._ended, key))

    def _ended(self, key: tuple[str, str], task: asyncio.Task[None]) -> None:
        del self._syncs[key]
        self._changed.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a schedule of %s could not be followed: %s", key[0], error, exc_info=error)

    # -- one slot --------------------------------------------------------------------------

    async def follow(self, one: ScheduleStatus) -> None:
        """Claim a slot that is due, and sync, unless another process was faster or it is skipped."""
        self._worker = self._worker or await in_thread(new_worker)
        info, name, worker = one.installation, one.schedule.name, self._worker
        database, now = self._project.manager.database(info), self._clock
        try:
            found = await to_its_end(lambda: schedules.claim(database, info, name, worker=worker, now=now()))
        except asyncio.CancelledError:
            await self._give_up(database, name)
            raise
        except StorageError as error:
            log.warning("a slot of %s could not be claimed: %s", info, error)
            await asyncio.sleep(self._look_seconds)  # it is tried again, and not at once
            return
        if found is None or found.turn is not Turn.FIRE:
            return
        try:
            with acting_as(f"schedule:{name}"):
                problem = await self._problem(info, one.schedule, found)
        except asyncio.CancelledError:
            await self._give_up(database, name)
            raise
        await to_its_end(lambda: schedules.finish(database, name, problem, worker=worker, now=now()))
        if problem is None:
            await asyncio.sleep(self._look_seconds)  # the same may be due again, and not at once

    async def _give_up(self, database: Database, name: str) -> None:
        """Leave a slot to the next scheduler, if the database can be written."""
        worker = self._worker
        with suppress(StorageError):
            await in_thread(lambda: schedules.give_up(database, name, worker=worker))

    async def _problem(self, info: InstallationInfo, schedule: Schedule, found: Outlook) -> str | None:
        """Sync; why that failed, empty when it did not, None when that says nothing of the installation."""
        try:
            result = await self._sync(info, schedule, found)
        except (SyncError, Interrupted) as error:  # another one began first, or the runtime is stopped
            log.info("the scheduled sync of %s did not run to its end: %s", info, error)
            if found.resumes is None or isinstance(error, SyncRunning | Interrupted):
                return None
            return error.message  # what is stored of it cannot go on
        except MaxError as error:
            log.warning("the scheduled sync of %s failed: %s", info, error)
            return error.message
        except Exception as error:
            log.exception("the scheduled sync of %s failed", info)
            return f"{type(error).__name__}: {error}"
        if result.status is Status.FAILED:
            return next((one.message for one in result.failures), "the sync failed")
        return "" if result.status in WELL else None

    async def _sync(self, info: InstallationInfo, schedule: Schedule, found: Outlook) -> SyncResult:
        """The result of the sync, after that of an interrupted one of others, which goes on first."""
        runtime: Runtime = await self._project.runtime(info.connector, info.name)
        if found.resumes is not None:
            result = await (await runtime.sync(schedule=schedule.name)).completion()
            if result.status not in WELL or result.schedule == schedule.name:
                return result
        return await (await runtime.sync(options_of(schedule.options), schedule=schedule.name)).completion()


async def to_its_end(work: Callable[[], T]) -> T:
    """Do short work in a thread; a cancellation waits for its end, so that no thread is left."""
    doing = asyncio.ensure_future(in_thread(work))
    try:
        return await asyncio.shield(doing)
    except asyncio.CancelledError:
        await asyncio.wait([doing])
        raise


def options_of(stored: Mapping[str, Json]) -> SyncOptions:
    """The options of a sync from JSON data; what this version does not know is left out."""
    given: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list | tuple) else value
        for name, value in stored.items()
        if name in SyncOptions._names
    }
    return SyncOptions(**given)
