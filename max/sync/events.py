"""Events: what happens in a sync, published while it runs, and logged.

Rule 1: every ``started`` is followed by exactly one ``ended`` or ``failed``, of the sync or of
the same task and attempt, and attempts lie within their sync.  The first EARLY events wait for the
first listener, since a sync does not wait until the call that began it has returned.  A later
listener first gets the start of what is running now.  Attempts that a crash ended are published as
failed by the process that resumes the sync.  One gap remains: what was stored in the last moment
before the crash.

Rule 2: behind those, no event is built without a listener.  A slow listener never delays the sync:
events that do not fit into its buffer are lost to it, and one event says how many.

Rule 3: the logger ``max.sync`` gets a line for the beginning and the end of a sync, and for each
wait, retry and failure.  Nothing is printed unless the program sets up logging.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from weakref import WeakSet

from ..core import logger
from ..errors import describe
from ..model.sync_events import Event as Event
from ..model.sync_events import EventKind as EventKind
from ..model.sync_events import Origin as Origin
from ..model.sync_events import Progress as Progress
from ..model.sync_events import event_time
from ..model.tasks import Failure, Outcome, ResumedSync, Settlement, State, Status, Task
from ..model.values import Json, storable

BUFFER = 10_000  # events that wait for a listener
EARLY = 1_000  # events that wait for the first listener to come
CRASHED = {
    "code": "sync.interrupted",
    "message": "the process ended before this did",
    "hint": "nothing that was stored is lost; it goes on where it was",
}
log = logger("sync")


class Events:
    """The events of one listener, in order, until the sync has ended here: an async iterator.

    A listener that is no longer needed is just dropped.  ``newest``: only the last event is kept.
    """

    def __init__(self, *, newest: bool = False) -> None:
        self._newest = newest
        self._lost, self._over = 0, False
        self._buffer: deque[Event] = deque()
        self._ready = asyncio.Event()

    @property
    def waiting(self) -> int:
        """How many events wait for the listener."""
        return len(self._buffer)

    def put(self, event: Event, *, last: bool = False) -> None:
        """Keep an event for the listener if there is room; the last one always fits."""
        if self._newest:
            self._buffer.clear()
        elif len(self._buffer) >= BUFFER and not last:
            self._lost += 1
            return
        if self._lost:
            gap = event._replace(kind=EventKind.LOST, task=None, attempt=None, facts={"events": self._lost})
            self._buffer.append(gap)
            self._lost = 0
        self._buffer.append(event)
        self._over = self._over or last
        self._ready.set()

    def end(self) -> None:
        """Let the listener end behind what it has not read yet."""
        self._over = True
        self._ready.set()

    async def batch(self) -> list[Event]:
        """All events since the last call, as soon as there is one; [] at the end."""
        await self._wait()
        events = list(self._buffer)
        self._buffer.clear()
        return events

    def __aiter__(self) -> Events:
        return self

    async def __anext__(self) -> Event:
        await self._wait()
        if not self._buffer:
            raise StopAsyncIteration
        return self._buffer.popleft()

    async def _wait(self) -> None:
        while not self._buffer and not self._over:
            self._ready.clear()
            await self._ready.wait()


class EventPublisher:
    """Publishes what happens in one sync of this process.

    ``running`` are the tasks whose attempt has started and not ended, kept by the sync itself.
    """

    def __init__(
        self,
        origin: Origin,
        clock: Callable[[], float],
        running: Mapping[tuple[int, int], Task],
        resumed: ResumedSync | None,
    ) -> None:
        self._origin, self._clock, self._running = origin, clock, running
        self._listeners: WeakSet[Events] = WeakSet()
        self._early: Events | None = None  # the listener that is still to come
        self._heard = False  # whether events are built; quicker than counting the listeners
        self._watchers: WeakSet[Events] = WeakSet()  # of the progress
        self._until = 0.0
        self._end: Event | None = None
        self._beginning = self._recovered(resumed) if resumed is not None and resumed.crashed else []
        self._beginning.append(self._event(EventKind.SYNC_STARTED, resumed=resumed is not None))
        self._early = self._listener()
        self._log(logging.INFO, "began" if resumed is None else "resumed")
        self.report(Progress(origin.sync, Status.RUNNING, clock(), resumed.counts if resumed else {}))

    def _recovered(self, resumed: ResumedSync) -> list[Event]:
        attempts = [self._event(EventKind.TASK_FAILED, task, error=CRASHED) for task in resumed.died]
        return [*attempts, self._event(EventKind.SYNC_FAILED, status=str(Status.INTERRUPTED), error=CRASHED)]

    def listen(self) -> Events:
        """A new listener: the first from the sync's beginning, a later one from what is running now."""
        early, self._early = self._early, None
        return self._listener() if early is None else early

    def _listener(self) -> Events:
        listener = Events()
        for event in self._beginning:
            listener.put(event)
        for task in self._running.values():
            listener.put(self._started(task))
        if self._end is None:
            self._listeners.add(listener)
            self._heard = True
        else:
            listener.put(self._end, last=True)
        return listener

    def watch(self) -> Events:
        """A new listener of the progress alone: first the last one published, then the newest."""
        watcher = Events(newest=True)
        watcher.put(self._progress, last=self._end is not None)
        self._watchers.add(watcher)
        return watcher

    def report(self, progress: Progress) -> None:
        """Publish the progress."""
        self._progress = self._event(EventKind.PROGRESS, **progress._asdict())
        for watcher in list(self._watchers):
            watcher.put(self._progress, last=self._end is not None)

    def started(self, task: Task) -> None:
        """An attempt has begun."""
        if self._heard:
            self._publish(self._started(task))

    def settled(self, one: Settlement, outcome: Outcome) -> None:
        """The result of an attempt is stored; unless its state is RUNNING, the attempt has ended."""
        task, state = one.task, outcome.state
        if one.error is not None or one.failures:
            self._log_trouble(one)
        if not self._heard:
            return
        if one.writes:
            counts = dict(outcome.stored.counts)
            stored = self._event(EventKind.TASK_STORED, task, counts=counts, removed=outcome.stored.removed)
            self._publish(stored)
        failed = {"failures": [_failure(each) for each in one.failures]} if one.failures else {}
        if one.state is State.FAILED:
            error = failed["failures"][0] if failed else None
            self._publish(self._event(EventKind.TASK_FAILED, task, state=str(state), error=error, **failed))
        elif state is not State.RUNNING:
            if state is State.PENDING and one.error is not None:
                until = self._clock() + one.wait
                self._publish(self._event(EventKind.TASK_WAITING, task, until=until, error=one.error))
            self._publish(self._event(EventKind.TASK_ENDED, task, state=str(state), **failed))

    def given_up(self, task: Task, state: str) -> None:
        """An attempt has ended, and nothing about that is stored."""
        if self._heard:
            self._publish(self._event(EventKind.TASK_ENDED, task, state=state))

    def waiting(self, until: float, tasks: int, limits: Sequence[str], reason: str) -> None:
        """Nothing can run before ``until``; published once for each such time."""
        if until == self._until:
            return
        self._until = until
        blocked = f", blocked by {', '.join(limits)}" if limits else ""
        self._log(logging.INFO, "waiting until %s%s, tasks: %d", event_time(until), blocked, tasks)
        if self._heard:
            facts: dict[str, Json] = {
                "until": until,
                "tasks": tasks,
                "limits": list(limits),
                "reason": reason,
            }
            self._publish(self._event(EventKind.SYNC_WAITING, **facts))

    def ended(self, progress: Progress, error: BaseException | None, state: str) -> None:
        """The sync has ended here; so have, in ``state``, the attempts that are still running."""
        for task in self._running.values():
            self.given_up(task, state)
        status, raised = progress.status, isinstance(error, Exception)
        kind = EventKind.SYNC_FAILED if status is Status.FAILED or raised else EventKind.SYNC_ENDED
        facts = describe(error) if error is not None and raised else None
        self._end = self._event(kind, status=str(status), error=facts)
        self._running = {}
        for listener in list(self._listeners):
            listener.put(self._end, last=True)
        self._listeners.clear()
        self.report(progress)
        if facts is None:
            self._log(logging.INFO, "%s", status)
        else:
            self._log(logging.ERROR, "%s: %s", status, facts["message"])

    def _log_trouble(self, one: Settlement) -> None:
        for failure in one.failures:
            self._log(logging.WARNING, "task %d failed: %s: %s", one.task.id, failure.what, failure.message)
        if one.error is not None:
            what, until = one.task.spec.describe(), event_time(self._clock() + one.wait)
            words = "task %d runs again at %s: %s: %s"
            self._log(logging.WARNING, words, one.task.id, until, what, one.error["message"])

    def _log(self, level: int, words: str, *values: object) -> None:
        texts = (storable(one) if isinstance(one, str) else one for one in values)
        log.log(level, f"sync %s of %s: {words}", self._origin.sync, self._origin.installation, *texts)

    def _started(self, task: Task) -> Event:
        return self._event(EventKind.TASK_STARTED, task, what=task.spec.describe())

    def _event(self, kind: EventKind, task: Task | None = None, **facts: Json) -> Event:
        if task is None:
            return Event(kind, self._clock(), self._origin, None, None, facts)
        return Event(kind, self._clock(), self._origin, task.id, task.attempt, facts)

    def _publish(self, event: Event) -> None:
        if self._early is not None and self._early.waiting >= EARLY:
            self._listeners.discard(self._early)
            self._early, self._heard = None, len(self._listeners) > 0
        for listener in list(self._listeners):
            listener.put(event)


def _failure(failure: Failure) -> Json:
    names = ("id", "code", "message", "hint")
    return {name: getattr(failure, name) for name in names}
