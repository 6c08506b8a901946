"""Execution: runs the syncs of one installation, one at a time.

A sync is a loop around one call of the task store:

    settle: store what ended, claim what may begin      one transaction, one commit
       ↓ claimed tasks             ↑ settlements
    run: call the loaders          up to ``cap`` tasks side by side on the event loop

While a transaction is under way, other tasks end.  Their settlements wait and go into the next
transaction together, and that one claims new tasks: many tasks share a commit.  For example, of
64 tasks that run, 20 end while 5 are being stored; the next call stores those 20 and claims 20
more.  A task that lists pages stores each page as a settlement and goes on when it is stored.

What a crash leaves: everything that a commit stored, with the rows, the position of each listing
and the state of each task; nothing of what was under way.  The tasks that ran are RUNNING in the
store, leased to a worker that is dead.  The next process takes the sync over, sets them to PENDING
and counts the crash against each, so that a task which ends its process every time fails at last.

Waits are durable: a task that failed for now is PENDING with its next time, and the process may end
meanwhile.  At least every HEARTBEAT seconds the loop settles, if only to record that it lives.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Self, cast

from .core import Audit, Sync, SyncLease, SyncOptions, TaskStore
from .errors import Interrupted, LeaseLost, StorageCorrupt, StorageError, SyncError, SyncRunning
from .model.hooks import HOOK
from .model.plan import SyncPlan
from .model.tasks import (
    HEARTBEAT,
    START,
    NewTask,
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
from .model.values import Json
from .sync.context import RawCache
from .sync.context import SyncContext as SyncContext
from .sync.events import EventPublisher, Events, Origin
from .sync.events import Progress as Progress
from .sync.task_graph import expand, refetch_graph, retry_graph
from .sync.task_runner import TaskRunner
from .upstream.redaction import Redactor

CAP = 64  # tasks that run at once: more than limits admit, since some wait for their commit
LOST = "lost"  # the state of an attempt whose task another worker has taken over
LOOKED_THROUGH = 100  # syncs, for the newest that no hook began
NO_OPTIONS = SyncOptions()


class NoAudit(Audit):
    """Records nothing: for an installation that belongs to no project."""

    @contextlib.asynccontextmanager
    async def call(self, action: str, /, **facts: Json) -> AsyncIterator[dict[str, Json]]:
        """Only the call itself."""
        yield {}


NO_AUDIT = NoAudit()


class NoLease(SyncLease):
    """Where one machine has the installation: its sync's worker is lease enough."""

    async def __aenter__(self) -> Self:
        """Nothing is taken."""
        return self

    async def __aexit__(self, *error: object) -> None:
        """Nothing is given back."""

    def hold(self) -> None:
        """Nothing is held."""


NO_LEASE = NoLease()

# -- running a sync ------------------------------------------------------------------------


class _SyncLoop:
    """One sync in this process: collects settlements, stores them, starts new tasks."""

    def __init__(self, executor: SyncExecutor, sync: str, resumed: ResumedSync | None = None) -> None:
        self._executor, self.sync = executor, sync
        self._store, self._clock = executor.store, executor.context.clock
        self._counts: Counter[str] = Counter(resumed.counts if resumed else {})
        self._settlements: list[tuple[Settlement, asyncio.Future[Outcome] | None]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._leased: dict[tuple[int, int], Task] = {}  # by attempt, until its end is stored
        self._broken: BaseException | None = None
        self._cancelled = self._ended = False
        self._wake = asyncio.Event()
        self._cache = RawCache()
        self._runner = TaskRunner(executor.context, self._cache, self._commit)
        self._calls = executor.context.runner
        self._counted_calls = Counter(self._calls.calls)  # by operation, also those before this sync
        self._given_up = State.PENDING  # the state of attempts that are cancelled
        connector = executor.context.connector
        origin = Origin(executor.context.installation, connector.name, connector.version, sync)
        self.publisher = EventPublisher(origin, self._clock, self._leased, resumed)

    async def run(self) -> SyncResult:
        """Run until the sync has ended, is paused, or the store fails."""
        status = Status.INTERRUPTED
        try:
            status = await self._loop()
            await self._end_tasks()
            if status.final:
                await self._executor.tidy(self._report_tidying)
            result = await self._store.result(self.sync, now=self._clock())
            self.end(status)
            return result
        except BaseException as error:
            await self._end_tasks()
            if status is Status.INTERRUPTED:
                await self._executor.release_tasks(self.sync)
            self._executor.context.credentials.redactor.clean(error)
            self.end(status, error)
            raise

    async def _loop(self) -> Status:
        while True:
            settled = await self._settle()
            if settled.status is not Status.RUNNING:
                return settled.status
            if settled.command is SyncCommand.RUN:
                self._calls.allow_calls()
            else:
                self._calls.stop_calls()
            if settled.command is SyncCommand.CANCEL:
                self._given_up = State.CANCELLED
                self._cancel_tasks()
            idle = not self._leased and not self._settlements
            if idle and settled.command is not SyncCommand.RUN:
                worker, now = self._executor.worker, self._clock()
                status = await self._store.apply_command(self.sync, worker=worker, now=now)
                if status is not Status.RUNNING:
                    return status
                continue  # it was resumed meanwhile
            self._report(settled, idle=idle)
            if idle and settled.due is None:
                problem = f"sync {self.sync} has work that cannot begin: what is stored of it is damaged"
                raise StorageCorrupt(problem, hint="begin another one: max sync --discard-unfinished")
            await self._wait(settled.due if len(self._leased) < self._executor.cap else None)

    async def _settle(self) -> SettleResult:
        """Store what has ended, and begin what may begin now."""
        if self._broken is not None:
            raise self._broken
        redactor = self._executor.context.credentials.redactor
        batch = [(_cleaned(one, redactor), future) for one, future in self._settlements]
        self._settlements = []
        running = len(self._leased) - sum(one.state is not State.RUNNING for one, _ in batch)
        requests = Counter(self._calls.calls) - self._counted_calls
        try:
            settled = await self._store.settle(
                self.sync,
                [one for one, _ in batch],
                worker=self._executor.worker,
                claim=max(0, self._executor.cap - running),
                alone=running == 0,
                requests=requests,
                now=self._clock(),
            )
        except BaseException:
            for _, future in batch:
                if future is not None:
                    future.cancel()
            raise
        self._counted_calls += requests
        for (one, future), outcome in zip(batch, settled.outcomes, strict=True):
            self._stored(one, future, outcome)
        for task in settled.claimed:
            self._begin(task)
        return settled

    def _stored(self, one: Settlement, future: asyncio.Future[Outcome] | None, outcome: Outcome) -> None:
        if outcome.stored.counts:
            self._counts.update(outcome.stored.counts)
        if outcome.error is None and (one.task.id, one.task.attempt) in self._leased:
            self.publisher.settled(one, outcome)
            if outcome.state is not State.RUNNING:
                del self._leased[one.task.id, one.task.attempt]
        if future is None:
            if outcome.error is not None:
                self._refused(one, outcome.error)
        elif not future.done():
            future.set_result(outcome)

    def _refused(self, one: Settlement, error: Exception) -> None:
        """The end of a task could not be stored: the task fails, unless another worker has it now."""
        if isinstance(error, LeaseLost):
            self._give_up(one.task, LOST)
        elif one.failures and not one.writes:
            self._broken = error
        else:
            self._settlements.append((self._runner.failed(one.task, error), None))
        self._wake.set()

    def _begin(self, task: Task) -> None:
        self._leased[task.id, task.attempt] = task
        self.publisher.started(task)
        self._tasks.add(asyncio.create_task(self._do(task)))

    async def _do(self, task: Task) -> None:
        try:
            settlement = await self._runner.run(task)
        except asyncio.CancelledError:
            self._give_up(task, self._given_up)
        except Exception as error:
            self._broken = error
            self._wake.set()
        else:
            if settlement is not None:
                self._settlements.append((settlement, None))
                self._wake.set()
            else:
                self._give_up(task, LOST)
        finally:
            self._tasks.discard(cast("asyncio.Task[None]", asyncio.current_task()))

    def _give_up(self, task: Task, state: str) -> None:
        if self._leased.pop((task.id, task.attempt), None) is not None:
            self.publisher.given_up(task, state)
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
        """Wait until a task has ended, the next one is due, or a heartbeat is."""
        heartbeat = self._executor.heartbeat
        timeout = heartbeat if due is None else min(heartbeat, max(0.0, due - self._clock()))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._wake.wait()
        self._wake.clear()
        self._runner.cancel_overdue()
        await asyncio.sleep(0)  # so that every task that is ready hands in its settlement

    async def _end_tasks(self) -> None:
        self._cancel_tasks()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._cache.close()
        self._calls.allow_calls()

    def _cancel_tasks(self) -> None:
        """Cancel what runs; once, so that its cleaning up is not cancelled."""
        if not self._cancelled:
            self._cancelled = True
            for task in self._tasks:
                task.cancel()

    def wake(self) -> None:
        """Look at once for a command."""
        self._wake.set()

    def _report(self, settled: SettleResult, *, idle: bool) -> None:
        """Publish the progress, and the wait when nothing runs."""
        now, due = self._clock(), settled.due
        limits: Sequence[str] = ()
        reason = settled.reason
        if idle and due is not None and due > now:
            limits = self._executor.context.runner.blocked_limits()
            self.publisher.waiting(due, settled.waiting, limits, reason)
        elif not idle:
            limits = self._calls.waits_at()
            reason = self._executor.context.credentials.redactor.message(self._calls.waits_after())
        known = (len(self._leased), settled.waiting, due, limits, reason)
        self.publisher.report(self._progress(Status.RUNNING, *known))

    def _report_tidying(self, words: str) -> None:
        self.publisher.report(self._progress(Status.RUNNING, reason=words))

    def _progress(
        self,
        status: Status,
        running: int = 0,
        waiting: int = 0,
        due: float | None = None,
        limits: Sequence[str] = (),
        reason: str = "",
    ) -> Progress:
        counts = dict(self._counts)
        return Progress(self.sync, status, self._clock(), counts, running, waiting, due, limits, reason)

    def end(self, status: Status, error: BaseException | None = None) -> None:
        """Publish that the sync has ended here, once."""
        if not self._ended:
            self._ended = True
            self.publisher.ended(self._progress(status), error, self._given_up)


def _cleaned(one: Settlement, redactor: Redactor) -> Settlement:
    """A settlement without secrets in its failures, error and notes: they are stored, published, logged."""
    if not (one.failures or one.error or one.notes):
        return one
    words = redactor.message
    failures = [
        each.replace(what=words(each.what), message=words(each.message), hint=words(each.hint))
        for each in one.failures
    ]
    return one._replace(failures=failures, error=redactor.facts(one.error), notes=[*map(words, one.notes)])


class SyncHandle(Sync):
    """A sync that was begun in this process: its status, its result, its events, and commands to it."""

    def __init__(self, executor: SyncExecutor, loop: _SyncLoop, running: asyncio.Task[SyncResult]) -> None:
        self._executor, self._loop, self._running = executor, loop, running

    @property
    def id(self) -> str:
        """The sync's id; later ones have greater ids."""
        return self._loop.sync

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.id}, {'done' if self.done else 'running'})"

    @property
    def done(self) -> bool:
        """Whether this process has ended its work on the sync."""
        return self._running.done()

    async def status(self) -> SyncResult:
        """The result so far, with the status."""
        return await self._executor.store.result(self.id, now=self._executor.context.clock())

    async def pause(self) -> None:
        """Stop at the next page; any process can resume the sync."""
        async with self._executor.audit.call("pause", sync=self.id):
            await self._request(SyncCommand.PAUSE)

    async def resume(self) -> SyncHandle:
        """Go on: with this handle when the pause has not been applied yet, else with a new one."""
        async with self._executor.audit.call("resume", sync=self.id):
            if not self.done:
                await self._request(SyncCommand.RUN)
                if (await self.status()).status is Status.RUNNING:
                    return self
                await asyncio.wait([self._running])  # the pause has just been applied
            return await self._executor.resume(self.id)

    async def cancel(self) -> None:
        """End the sync for good, without waiting for pages under way; what was stored stays."""
        async with self._executor.audit.call("cancel", sync=self.id):
            await self._request(SyncCommand.CANCEL)

    def wake(self) -> None:
        """Have the sync look at once for a command that was stored."""
        self._loop.wake()

    async def _request(self, command: SyncCommand) -> None:
        executor = self._executor
        await executor.store.request(self.id, command, now=executor.context.clock(), worker=executor.worker)
        self._loop.wake()

    async def completion(self) -> SyncResult:
        """Wait until the sync has ended or is paused.  Cancelling the wait does not stop the sync.

        Interrupted when the runtime was stopped first, StorageError when the database failed;
        in both cases the sync can be resumed.
        """
        await asyncio.wait([self._running])
        if self._running.cancelled():
            raise Interrupted(f"sync {self.id} was stopped before its end", hint="sync again to go on")
        return self._running.result()

    def events(self) -> Events:
        """What happens, from its beginning for the first who asks: ``async for event in …``.

        Those who ask later first get the start of what is running then.
        """
        return self._loop.publisher.listen()

    async def progress(self) -> AsyncIterator[Progress]:
        """How far the sync is, whenever that changes: the view of its events for a status line.

        A slow reader gets the newest alone.  The last one has the final status.
        """
        async for event in self._loop.publisher.watch():
            yield Progress(**event.facts)


def not_started() -> StorageError:
    """The error of a runtime that has to be started first."""
    return StorageError("the runtime is not started", hint="await runtime.start() first")


class SyncExecutor:
    """Runs the syncs of one installation, one at a time.  A service.

    ``worker`` is the name under which it leases tasks; the store knows how to tell whether a
    worker is alive.  ``after`` runs when a sync has ended, with the time and with what reports its
    progress.  ``cap`` tasks run at once.  ``heartbeat`` is in seconds.  ``audit`` records commands
    to its syncs, which run under the ``lease``.
    """

    def __init__(
        self,
        store: TaskStore,
        context: SyncContext,
        *,
        worker: str,
        after: Callable[[float, Callable[[str], None]], Awaitable[None]] | None = None,
        cap: int = CAP,
        heartbeat: float = HEARTBEAT,
        audit: Audit = NO_AUDIT,
        lease: SyncLease = NO_LEASE,
    ) -> None:
        self.store, self.context, self.worker, self.cap = store, context, worker, cap
        self.audit, self.lease = audit, lease
        self.heartbeat = heartbeat
        self._after = after
        self._handle: SyncHandle | None = None
        self._running: asyncio.Task[SyncResult] | None = None
        self._changing = asyncio.Lock()
        self._open = False

    async def start(self) -> None:
        """Prepare the store."""
        await self.store.start()
        self._open = True

    async def stop(self) -> None:
        """End what runs here; an unfinished sync is interrupted and can be resumed."""
        async with self._changing:
            self._open = False
            running, self._running = self._running, None
            if running is not None:
                await asyncio.sleep(0)  # what was begun just now has to begin, so that it can end
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)
            if self._handle is not None:  # it may have been stopped before it ran at all
                await self.release_tasks(self._handle.id)

    @property
    def latest(self) -> SyncHandle | None:
        """The sync that runs in this process, or that ran last."""
        return self._handle

    @property
    def running(self) -> SyncHandle | None:
        """The sync that runs in this process, if any."""
        return self._handle if self._handle is not None and not self._handle.done else None

    async def begin(
        self,
        plan: SyncPlan,
        options: SyncOptions = NO_OPTIONS,
        notes: Sequence[str] = (),
        schedule: str | None = None,
    ) -> SyncHandle:
        """Begin a sync and return at once; SyncRunning when one is running already.

        ``notes`` are sentences for people about how it began, ``schedule`` names the schedule that begins it.
        """
        async with self._changing, self.lease:
            await self._prepare()
            now = self.context.now()
            root = expand(plan, self.context.connector.resolver, options, now=now)
            return self._drive(await self._begin(plan.to_json(), root, notes, schedule))

    async def refetch(
        self, plan: SyncPlan, hooks: int, gone: Callable[[], Awaitable[None]] | None = None
    ) -> SyncHandle | None:
        """Begin a sync of what so many hooks ask for; None when the plan is empty.

        ``gone`` stores what they say is gone, before anything is fetched.
        """
        async with self._changing, self.lease:
            await self._prepare()
            if gone is not None:
                await gone()
            if not plan.steps:
                return None
            root = refetch_graph(plan, self.context.connector.resolver, hooks, now=self.context.now())
            return self._drive(await self._begin(plan.to_json(), root, schedule=HOOK))

    async def retry(self, sync: str | None = None) -> SyncHandle:
        """Begin a sync of just what failed in another one: the newest, or that of an id.

        SyncError when there is none, nothing failed in it, or one has not ended; NotFound.
        """
        now = self.context.clock()
        if sync is None:
            known = await self.store.runs(LOOKED_THROUGH, now=now)
            newest = [one for one in known if one.schedule != HOOK]  # those are tried again by themselves
            if not newest:
                raise SyncError("there was no sync yet: nothing to retry", hint="start a sync first")
            sync = newest[0].id
        result = await self.store.result(sync, now=now)
        if any(failure.kind == START for failure in result.failures):
            raise SyncError(
                f"sync {result.id} failed before its first task, so nothing of it can be retried",
                hint="begin another one: max sync; an older one is retried by its id, which `max runs` lists",
            )
        if not result.failures or not result.status.final:
            words = "nothing failed in it" if result.status.final else f"it is {result.status}"
            raise SyncError(f"sync {result.id} has nothing to retry: {words}", hint="`max runs` lists them")
        unfinished = await self.unfinished()
        if unfinished is not None:
            raise SyncError(
                f"sync {unfinished} has not ended, and a retry would discard it",
                hint="finish it with `max resume`, or end it with `max cancel`; then retry",
            )
        async with self._changing, self.lease:
            await self._prepare()
            root = retry_graph(result.failures, now=self.context.now())
            return self._drive(await self._begin([{"retry": result.id}], root))

    async def resume(self, sync: str) -> SyncHandle:
        """Go on with a sync that was paused or interrupted."""
        async with self._changing, self.lease:
            await self._prepare(resumes=True)
            run = await self.store.resume(sync, worker=self.worker, now=self.context.clock())
            return self._drive(run.id, run)

    async def _begin(
        self, plan: Json, root: NewTask, notes: Sequence[str] = (), schedule: str | None = None
    ) -> str:
        worker, now = self.worker, self.context.clock()
        return await self.store.begin(plan, root, worker=worker, now=now, notes=notes, schedule=schedule)

    async def _prepare(self, *, resumes: bool = False) -> None:
        """Refuse a second sync; every request of this one begins after those whose responses are stored."""
        if not self._open:
            raise not_started()
        if self.running is not None:
            raise SyncRunning(self.running.id, "this process")
        context = self.context
        latest = await context.meta.prepare(context.source, now=context.clock(), resumes=resumes)
        context.requests.begin_after(latest)

    async def unfinished(self) -> str | None:
        """The newest sync that could be resumed, or None; SyncRunning when another process runs one."""
        return await self.store.unfinished(worker=self.worker, now=self.context.clock())

    async def tidy(self, report: Callable[[str], None]) -> None:
        """Clean up after a sync; ``report`` says at what it is when that takes long."""
        await self.store.prune()
        if self._after is not None:
            await self._after(self.context.clock(), report)

    async def release_tasks(self, sync: str) -> None:
        """Leave a sync for the next process; if that cannot be stored, this worker can still resume it."""
        with contextlib.suppress(StorageError, LeaseLost):
            await self.store.release(sync, worker=self.worker, now=self.context.clock())

    async def _run(self, loop: _SyncLoop) -> SyncResult:
        try:
            return await loop.run()
        finally:
            await self.lease.__aexit__()

    def _drive(self, sync: str, resumed: ResumedSync | None = None) -> SyncHandle:
        loop = _SyncLoop(self, sync, resumed)
        self.lease.hold()
        self._running = asyncio.create_task(self._run(loop), name=f"sync {sync}")
        self._running.add_done_callback(lambda task: task.cancelled() or task.exception())
        self._running.add_done_callback(lambda task: loop.end(Status.INTERRUPTED))  # it may not have begun
        self._handle = SyncHandle(self, loop, self._running)
        return self._handle
