"""Events: what happens in a sync, told while it runs to whoever listens.

Rule 1: every ``started`` is followed by exactly one ``ended`` or ``failed``, of the sync or of
the same task and attempt, and attempts lie within their sync.  Who comes late is told first
what is under way.  What died with its process is told as failed by the one that goes on; only what
was stored in the last moment and not yet told stays untold: the failure of the sync closes it.

Rule 2: nothing is built while nobody listens, and nobody who reads slowly delays the sync:
what does not fit into a listener's buffer is lost to it, and an event says how much that was.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import NamedTuple
from weakref import WeakSet

from ..errors import describe
from ..model.tasks import Failure, Outcome, ResumedSync, Settlement, State, Status, Task
from ..model.values import Json

BUFFER = 10_000  # events that wait for their reader
DIED = {
    "code": "sync.interrupted",
    "message": "the process ended before this did",
    "hint": "nothing that was stored is lost; it goes on where it was",
}


class EventKind(StrEnum):
    """What happened."""

    SYNC_STARTED = "sync.started"
    SYNC_WAITING = "sync.waiting"  # nothing can run before ``until``
    SYNC_ENDED = "sync.ended"
    SYNC_FAILED = "sync.failed"
    TASK_STARTED = "task.started"
    TASK_STORED = "task.stored"  # a page, or what else one answer brought
    TASK_WAITING = "task.waiting"  # this attempt failed for now; the next is not before ``until``
    TASK_ENDED = "task.ended"
    TASK_FAILED = "task.failed"
    LOST = "events.lost"  # as many as ``events``, since they were not read in time


class Origin(NamedTuple):
    """What all events of a sync share: installation (its id), connector and version, sync."""

    installation: str
    connector: str
    version: str
    sync: str


class Event(NamedTuple):
    """One thing that happened, at seconds since the epoch; ``facts`` depend on the kind.

    ``task`` and ``attempt`` are None in what concerns the whole sync.
    """

    kind: EventKind
    at: float
    origin: Origin
    task: int | None
    attempt: int | None
    facts: Mapping[str, Json]

    def to_json(self) -> dict[str, Json]:
        """The event as one flat object, for a line of JSON; times are in UTC."""
        at = {"event": str(self.kind), "at": _time(self.at)}
        facts = dict(self.facts)
        if "until" in facts:
            facts["until"] = _time(facts["until"])
        return {**at, **self.origin._asdict(), "task": self.task, "attempt": self.attempt, **facts}


class Events:
    """What one listener is told, in order, until the sync has ended here: an async iterator.

    Who no longer wants it just drops it.
    """

    def __init__(self, bound: int = BUFFER) -> None:
        self._bound, self._lost, self._over = bound, 0, False
        self._buffer: deque[Event] = deque()
        self._ready = asyncio.Event()

    def put(self, event: Event, *, last: bool = False) -> None:
        """Keep an event for the reader, if there is room; the last one always has."""
        if len(self._buffer) >= self._bound and not last:
            self._lost += 1
            return
        if self._lost:
            gap = event._replace(kind=EventKind.LOST, task=None, attempt=None, facts={"events": self._lost})
            self._buffer.append(gap)
            self._lost = 0
        self._buffer.append(event)
        self._over = self._over or last
        self._ready.set()

    async def some(self) -> list[Event]:
        """All that has happened since the last call, as soon as there is anything; [] at the end."""
        while not self._buffer and not self._over:
            self._ready.clear()
            await self._ready.wait()
        events = list(self._buffer)
        self._buffer.clear()
        return events

    def __aiter__(self) -> Events:
        return self

    async def __anext__(self) -> Event:
        while not self._buffer:
            if self._over:
                raise StopAsyncIteration
            self._ready.clear()
            await self._ready.wait()
        return self._buffer.popleft()


class EventPublisher:
    """Tells what happens in one sync of this process.

    ``under_way`` are the tasks whose attempt was told as started, as the sync itself keeps them.
    """

    def __init__(
        self,
        origin: Origin,
        clock: Callable[[], float],
        under_way: Mapping[tuple[int, int], Task],
        resumed: ResumedSync | None,
    ) -> None:
        self._origin, self._clock, self._under_way = origin, clock, under_way
        self._listeners: WeakSet[Events] = WeakSet()
        self._until = 0.0
        self._end: Event | None = None
        self._beginning = self._recovered(resumed) if resumed is not None and resumed.crashed else []
        self._beginning.append(self._event(EventKind.SYNC_STARTED, resumed=resumed is not None))

    def _recovered(self, resumed: ResumedSync) -> list[Event]:
        attempts = [self._event(EventKind.TASK_FAILED, task, error=DIED) for task in resumed.died]
        return [*attempts, self._event(EventKind.SYNC_FAILED, status=str(Status.INTERRUPTED), error=DIED)]

    def listen(self) -> Events:
        """Tell one more, from the sync's beginning or from what is under way."""
        listener = Events()
        for event in self._beginning:
            listener.put(event)
        for task in self._under_way.values():
            listener.put(self._started(task))
        if self._end is None:
            self._listeners.add(listener)
        else:
            listener.put(self._end, last=True)
        return listener

    def started(self, task: Task) -> None:
        """An attempt has begun."""
        if self._listeners:
            self._tell(self._started(task))

    def settled(self, one: Settlement, outcome: Outcome) -> None:
        """What an attempt did is stored; it goes on when its state is RUNNING, and has ended otherwise."""
        if not self._listeners:
            return
        task, state = one.task, outcome.state
        if one.writes:
            counts = dict(outcome.stored.counts)
            self._tell(
                self._event(EventKind.TASK_STORED, task, counts=counts, removed=outcome.stored.removed)
            )
        failed = {"failures": [_failure(each) for each in one.failures]} if one.failures else {}
        if one.state is State.FAILED:
            error = failed["failures"][0] if failed else None
            self._tell(self._event(EventKind.TASK_FAILED, task, state=str(state), error=error, **failed))
        elif state is not State.RUNNING:
            if state is State.PENDING:
                self._tell(self._event(EventKind.TASK_WAITING, task, until=one.not_before, error=one.error))
            self._tell(self._event(EventKind.TASK_ENDED, task, state=str(state), **failed))

    def given_up(self, task: Task, state: str) -> None:
        """An attempt has ended and stored no word of it."""
        if self._listeners:
            self._tell(self._event(EventKind.TASK_ENDED, task, state=state))

    def waiting(self, until: float, tasks: int, limits: Iterable[str]) -> None:
        """Nothing can run before ``until``; told once for each such time."""
        if self._listeners and until != self._until:
            self._until = until
            event = self._event(EventKind.SYNC_WAITING, until=until, tasks=tasks, limits=list(limits))
            self._tell(event)

    def ended(self, status: Status, error: BaseException | None, state: str) -> None:
        """The sync has ended here; so have, in ``state``, the attempts that are still under way."""
        if self._end is not None:
            return
        for task in self._under_way.values():
            self.given_up(task, state)
        failed = status is Status.FAILED or isinstance(error, Exception)
        kind = EventKind.SYNC_FAILED if failed else EventKind.SYNC_ENDED
        told = describe(error) if isinstance(error, Exception) else None
        self._end = self._event(kind, status=str(status), error=told)
        self._under_way = {}
        for listener in list(self._listeners):
            listener.put(self._end, last=True)
        self._listeners.clear()

    def _started(self, task: Task) -> Event:
        return self._event(EventKind.TASK_STARTED, task, what=task.spec.describe())

    def _event(self, kind: EventKind, task: Task | None = None, **facts: Json) -> Event:
        if task is None:
            return Event(kind, self._clock(), self._origin, None, None, facts)
        return Event(kind, self._clock(), self._origin, task.id, task.attempt, facts)

    def _tell(self, event: Event) -> None:
        for listener in list(self._listeners):
            listener.put(event)


def _failure(failure: Failure) -> Json:
    names = ("id", "code", "message", "hint")
    return {name: getattr(failure, name) for name in names}


def _time(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
