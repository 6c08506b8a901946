"""Execution: a sync from its beginning to its end, in one process.

Rule 1: loaders run beside one another on the event loop; what they bring meets in one place.
Everything that ended while a transaction was under way goes into the next one together, and
new work comes back with it: tasks that end together share a commit.

Rule 2: waits are durable.  A task that shall be tried later is pending with its time; the
process may end meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from .core import SyncOptions, TaskStore
from .errors import Interrupted, LeaseLost, StorageError, SyncError, SyncRunning
from .model.plan import SyncPlan
from .model.tasks import (
    Outcome,
    ResumedSync,
    Settlement,
    SettleResult,
    State,
    Status,
    SyncCommand,
    SyncResult,
    Task,
)
from .storage.leases import SIGN
from .sync.context import MOMENT, RawCache
from .sync.context import SyncContext as SyncContext
from .sync.events import EventPublisher, Events, Origin
from .sync.task_graph import expand, retry_graph
from .sync.task_runner import TaskRunner

CAP = 64  # tasks under way at once: more than a limit lets call, since some wait for their commit
LOST = "lost"  # how an attempt ended whose task is somebody else's now
NO_OPTIONS = SyncOptions()

# -- running a sync ------------------------------------------------------------------------


@dataclass(frozen=True)
class Progress:
    """How far a sync is.  ``counts``: rows by entity so far; ``waiting`` tasks begin at ``due``.

    ``limits`` are those on hold, by name, while nothing can run.
    """

    sync: str
    status: Status
    at: float
    counts: Mapping[str, int]
    running: int = 0
    waiting: int = 0
    due: float | None = None
    limits: Sequence[str] = ()


class _SyncLoop:
    """One sync in this process: gathers what tasks bring, settles it, hands out new tasks."""

    def __init__(
        self,
        executor: SyncExecutor,
        sync: str,
        counts: Mapping[str, int],
        resumed: ResumedSync | None = None,
    ) -> None:
        self._executor, self.sync = executor, sync
        self._store, self._clock = executor.store, executor.surroundings.clock
        self._counts: Counter[str] = Counter(counts)
        self._settlements: list[tuple[Settlement, asyncio.Future[Outcome] | None]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._leased: dict[tuple[int, int], Task] = {}  # by attempt, until it is stored how it ended
        self._broken: BaseException | None = None
        self._cancelled = False
        self._wake = asyncio.Event()
        self._shared = RawCache()
        self._runner = TaskRunner(executor.surroundings, self._shared, self._commit)
        self._listeners: list[asyncio.Queue[Progress]] = []
        self.latest = Progress(sync, Status.RUNNING, self._clock(), dict(counts))
        self._given_up = State.PENDING  # what becomes of attempts that are not let end
        self.teller = EventPublisher(executor.origin(sync), self._clock, self._leased, resumed)

    async def run(self) -> SyncResult:
        """Until the sync has ended, is paused, or the store fails."""
        status = Status.INTERRUPTED
        try:
            status = await self._drain()
            await self._end_tasks()
            if status.final:
                await self._executor.tidy()
            result = await self._store.result(self.sync, now=self._clock())
            self.end(status)
            return result
        except BaseException as error:
            await self._end_tasks()
            if status is Status.INTERRUPTED:
                await self._executor.release_tasks(self.sync)
            self.end(status, error)
            raise

    async def _drain(self) -> Status:
        while True:
            settled = await self._settle()
            if settled.status is not Status.RUNNING:
                return settled.status
            if settled.command is SyncCommand.CANCEL:
                self._given_up = State.CANCELLED
                self._cancel_tasks()
            idle = not self._leased and not self._settlements
            if idle and settled.command is not SyncCommand.RUN:
                status = await self._store.apply_command(
                    self.sync, worker=self._executor.worker, now=self._clock()
                )
                if status is not Status.RUNNING:
                    return status
                continue  # somebody has asked meanwhile that it goes on
            self._tell_progress(settled, idle)
            if idle and settled.due is None:
                raise SyncError(f"sync {self.sync} has work that cannot begin", hint="this is a bug of Max")
            await self._wait(settled.due if len(self._leased) < self._executor.cap else None)

    async def _settle(self) -> SettleResult:
        """Store what has ended, and begin what that made possible."""
        if self._broken is not None:
            raise self._broken
        batch, self._settlements = self._settlements, []
        under_way = len(self._leased) - sum(one.state is not State.RUNNING for one, _ in batch)
        requests = self._executor.untold()
        try:
            settled = await self._store.settle(
                self.sync,
                [one for one, _ in batch],
                worker=self._executor.worker,
                claim=max(0, self._executor.cap - under_way),
                alone=under_way == 0,
                requests=requests,
                now=self._clock(),
            )
        except BaseException:
            for _, future in batch:
                if future is not None:
                    future.cancel()
            raise
        self._executor.told += requests
        for (one, future), outcome in zip(batch, settled.outcomes, strict=True):
            self._answer(one, future, outcome)
        for task in settled.claimed:
            self._begin(task)
        return settled

    def _answer(self, one: Settlement, future: asyncio.Future[Outcome] | None, outcome: Outcome) -> None:
        if outcome.stored.counts:
            self._counts.update(outcome.stored.counts)
        if outcome.error is None and (one.task.id, one.task.attempt) in self._leased:
            self.teller.settled(one, outcome)
            if outcome.state is not State.RUNNING:
                del self._leased[one.task.id, one.task.attempt]
        if future is None:
            if outcome.error is not None:
                self._refused(one, outcome.error)
        elif not future.done():
            future.set_result(outcome)

    def _refused(self, one: Settlement, error: Exception) -> None:
        """A task's end could not be stored: that is its failure, unless it is somebody else's now."""
        if isinstance(error, LeaseLost):
            self._give_up(one.task, LOST)
        elif one.failures and not one.writes:
            self._broken = error
        else:
            self._settlements.append((self._runner.failed(one.task, error), None))
        self._wake.set()

    def _begin(self, task: Task) -> None:
        running = asyncio.create_task(self._do(task))
        self._leased[task.id, task.attempt] = task
        self.teller.started(task)
        self._tasks.add(running)
        running.add_done_callback(partial(self._ended, task))

    async def _do(self, task: Task) -> None:
        settlement = await self._runner.run(task)
        if settlement is not None:
            self._settlements.append((settlement, None))
            self._wake.set()
        else:
            self._give_up(task, LOST)

    def _ended(self, task: Task, running: asyncio.Task[None]) -> None:
        self._tasks.discard(running)
        if running.cancelled():
            self._give_up(task, self._given_up)
        elif running.exception() is not None:
            self._broken = running.exception()
            self._wake.set()

    def _give_up(self, task: Task, state: str) -> None:
        if self._leased.pop((task.id, task.attempt), None) is not None:
            self.teller.given_up(task, state)
        self._wake.set()

    async def _commit(self, settlement: Settlement) -> Outcome:
        """Hand a settlement to the next transaction and wait until it is stored."""
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._settlements.append((settlement, future))
        self._wake.set()
        outcome = await future
        if outcome.error is not None:
            raise outcome.error
        return outcome

    async def _wait(self, due: float | None) -> None:
        """Until something has ended, a wait is over, or it is time for a sign of life."""
        timeout = SIGN if due is None else min(SIGN, max(0.0, due - self._clock()))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._wake.wait()
        self._wake.clear()
        await asyncio.sleep(0)  # let everything that is ready hand in its settlement

    async def _end_tasks(self) -> None:
        self._cancel_tasks()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._shared.close()

    def _cancel_tasks(self) -> None:
        """Give up what is under way; once, so that what tidies up is not cancelled again."""
        if not self._cancelled:
            self._cancelled = True
            for task in self._tasks:
                task.cancel()

    def wake(self) -> None:
        """Look at once at what is wanted of the sync."""
        self._wake.set()

    # progress

    def _tell_progress(self, settled: SettleResult, idle: bool) -> None:
        now, due = self._clock(), settled.due
        limits: Sequence[str] = ()
        if idle and due is not None and due > now:
            limits = self._executor.surroundings.runner.blocked_limits()
            self.teller.waiting(due, settled.waiting, limits)
        status, counts = Status.RUNNING, dict(self._counts)
        self._tell(Progress(self.sync, status, now, counts, len(self._leased), settled.waiting, due, limits))

    def end(self, status: Status, error: BaseException | None = None) -> None:
        """Tell everybody that the sync has ended here, unless they know."""
        if self.latest.status is Status.RUNNING:
            self.teller.ended(status, error, self._given_up)
            self._tell(Progress(self.sync, status, self._clock(), dict(self._counts)))

    def _tell(self, progress: Progress) -> None:
        self.latest = progress
        for listener in self._listeners:
            if not listener.empty():
                listener.get_nowait()  # only the newest matters: a slow reader delays nobody
            listener.put_nowait(progress)

    async def progress(self) -> AsyncIterator[Progress]:
        """Each change, the newest one only when the reader is slower; ends with the sync."""
        listener: asyncio.Queue[Progress] = asyncio.Queue()
        listener.put_nowait(self.latest)
        self._listeners.append(listener)
        try:
            while True:
                one = await listener.get()
                yield one
                if one.status is not Status.RUNNING:
                    return
        finally:
            self._listeners.remove(listener)


class SyncHandle:
    """A sync that was begun: how it stands, and what can be asked of it."""

    def __init__(self, executor: SyncExecutor, drain: _SyncLoop, running: asyncio.Task[SyncResult]) -> None:
        self._executor, self._drain, self._running = executor, drain, running
        self.id = drain.sync

    @property
    def done(self) -> bool:
        """Whether this process has ended its work at the sync."""
        return self._running.done()

    async def status(self) -> SyncResult:
        """What the sync has come to so far."""
        return await self._executor.store.result(self.id, now=self._executor.surroundings.clock())

    async def pause(self) -> None:
        """Stop at the next page; the sync can be resumed, by any process."""
        await self._request(SyncCommand.PAUSE)

    async def resume(self) -> SyncHandle:
        """Go on: with this handle when a pause was not yet obeyed, else with a new one."""
        if not self.done:
            await self._request(SyncCommand.RUN)
            if (await self.status()).status is Status.RUNNING:
                return self
            await asyncio.wait([self._running])  # it has just been obeyed
        return await self._executor.resume(self.id)

    async def cancel(self) -> None:
        """End the sync for good, without waiting for pages under way; what was stored stays."""
        await self._request(SyncCommand.CANCEL)

    async def _request(self, wanted: SyncCommand) -> None:
        await self._executor.store.request(self.id, wanted, now=self._executor.surroundings.clock())
        self._drain.wake()

    async def completion(self) -> SyncResult:
        """Wait until the sync has ended or is paused.  Who stops waiting stops nothing.

        Interrupted when the runtime was stopped first, StorageError when the database failed;
        in both cases the sync can go on later.
        """
        await asyncio.wait([self._running])
        if self._running.cancelled():
            raise Interrupted(f"sync {self.id} was stopped before its end", hint="sync again to go on")
        return self._running.result()

    def progress(self) -> AsyncIterator[Progress]:
        """Each change of how far the sync is, until it ends."""
        return self._drain.progress()

    def events(self) -> Events:
        """What happens from now on, and first what is under way: ``async for event in …``."""
        return self._drain.teller.listen()


def not_started() -> StorageError:
    """What is asked of a runtime needs one that is at work."""
    return StorageError("the runtime is not started", hint="await runtime.start() first")


class SyncExecutor:
    """Runs the syncs of one installation, one at a time.  A service.

    ``worker`` names this process to the task store, as ``new_worker`` does.
    """

    def __init__(
        self,
        store: TaskStore,
        surroundings: SyncContext,
        *,
        worker: str,
        after: Callable[[float], Awaitable[None]] | None = None,
        cap: int = CAP,
    ) -> None:
        self.store, self.surroundings, self.cap = store, surroundings, cap
        self._after = after
        self.worker = worker
        self._handle: SyncHandle | None = None
        self._running: asyncio.Task[SyncResult] | None = None
        self._changing = asyncio.Lock()
        self._open = False
        self.told: Counter[str] = Counter()  # calls by operation that are counted in a sync

    async def start(self) -> None:
        """Make the store ready."""
        await self.store.start()
        self._open = True

    async def stop(self) -> None:
        """End what runs here; a sync that has not ended is interrupted and can be resumed."""
        async with self._changing:
            self._open = False
            running, self._running = self._running, None
            if running is not None:
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)
            if self._handle is not None:  # it may have been stopped before it ran at all
                await self.release_tasks(self._handle.id)

    @property
    def running(self) -> SyncHandle | None:
        """The sync that is under way in this process, if any."""
        return self._handle if self._handle is not None and not self._handle.done else None

    async def begin(self, plan: SyncPlan, options: SyncOptions = NO_OPTIONS) -> SyncHandle:
        """Begin a sync and return at once; SyncRunning when somebody is at one."""
        async with self._changing:
            self._check_free()
            await self._raise_floor()
            now = self.surroundings.clock()
            root = expand(plan, self.surroundings.connector.resolver, options, now=self.surroundings.now())
            sync = await self.store.begin(plan.to_json(), root, worker=self.worker, now=now)
            return self._drive(sync, {})

    async def retry(self, sync: str | None = None) -> SyncHandle:
        """Begin a sync of just what failed in another one: the newest, or that of an id.

        SyncError when nothing failed in it; NotFound.
        """
        now = self.surroundings.clock()
        if sync is None:
            newest = await self.store.runs(1, now=now)
            sync = newest[0].id if newest else ""
        result = await self.store.result(sync, now=now)
        if not result.failures or not result.status.final:
            words = "nothing failed in it" if result.status.final else f"it is {result.status}"
            raise SyncError(f"sync {result.id} has nothing to retry: {words}", hint="`max runs` lists them")
        async with self._changing:
            self._check_free()
            await self._raise_floor()
            root = retry_graph(result.failures)
            begun = await self.store.begin([{"retry": result.id}], root, worker=self.worker, now=now)
            return self._drive(begun, {})

    async def resume(self, sync: str) -> SyncHandle:
        """Go on with a sync that was paused or interrupted."""
        async with self._changing:
            self._check_free()
            await self._raise_floor()
            run = await self.store.resume(sync, worker=self.worker, now=self.surroundings.clock())
            return self._drive(run.id, run.counts, run)

    async def _raise_floor(self) -> None:
        """Every request of a sync begins after those whose answers are stored."""
        floor = self.surroundings.floor
        floor.at = max(floor.at, await self.surroundings.meta.latest_request() + MOMENT)

    def _check_free(self) -> None:
        if not self._open:
            raise not_started()
        if self.running is not None:
            raise SyncRunning(self.running.id, "this process")

    async def unfinished(self) -> str | None:
        """The newest sync that could be resumed, or None; SyncRunning when another process is at one."""
        return await self.store.unfinished(worker=self.worker, now=self.surroundings.clock())

    def origin(self, sync: str) -> Origin:
        """What is said of a sync in each of its events."""
        connector = self.surroundings.connector
        return Origin(self.surroundings.installation, connector.name, connector.version, sync)

    def untold(self) -> Counter[str]:
        """Calls by operation that no sync has counted yet."""
        return Counter(self.surroundings.runner.calls) - self.told

    async def tidy(self) -> None:
        """What is to be done once a sync has ended."""
        await self.store.prune()
        if self._after is not None:
            await self._after(self.surroundings.clock())

    async def release_tasks(self, sync: str) -> None:
        """Leave a sync to whoever resumes it; when even that cannot be stored, this worker can."""
        with contextlib.suppress(StorageError):
            await self.store.release(sync, worker=self.worker, now=self.surroundings.clock())

    def _drive(self, sync: str, counts: Mapping[str, int], resumed: ResumedSync | None = None) -> SyncHandle:
        self.told = Counter(self.surroundings.runner.calls)
        drain = _SyncLoop(self, sync, counts, resumed)
        self._running = asyncio.create_task(drain.run(), name=f"sync {sync}")
        self._running.add_done_callback(lambda task: task.cancelled() or task.exception())
        self._running.add_done_callback(lambda task: drain.end(Status.INTERRUPTED))  # it may not have begun
        self._handle = SyncHandle(self, drain, self._running)
        return self._handle
