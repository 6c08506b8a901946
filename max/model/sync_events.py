"""What is published while a sync runs: its events, and how far it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple

from .tasks import Status
from .values import Json, moment


class EventKind(StrEnum):
    """What happened."""

    SYNC_STARTED = "sync.started"
    SYNC_WAITING = "sync.waiting"  # nothing can run before ``until``
    SYNC_ENDED = "sync.ended"
    SYNC_FAILED = "sync.failed"
    TASK_STARTED = "task.started"
    TASK_STORED = "task.stored"  # a page, or what else one response brought
    TASK_WAITING = "task.waiting"  # this attempt failed; the next one begins at ``until`` or later
    TASK_ENDED = "task.ended"
    TASK_FAILED = "task.failed"
    LOST = "events.lost"  # ``events`` were not read in time
    PROGRESS = "sync.progress"  # in the progress alone


class Origin(NamedTuple):
    """What all events of a sync share: the installation's id, connector, its version, the sync's id."""

    installation: str
    connector: str
    version: str
    sync: str


class Event(NamedTuple):
    """One thing that happened, at seconds since the epoch; ``facts`` depend on the kind.

    ``task`` and ``attempt`` are None in events of the whole sync.
    """

    kind: EventKind
    at: float
    origin: Origin
    task: int | None
    attempt: int | None
    facts: Mapping[str, Json]

    def to_json(self) -> dict[str, Json]:
        """The event as one flat object, for a line of JSON; times are in UTC."""
        at = {"event": str(self.kind), "at": event_time(self.at)}
        facts = dict(self.facts)
        if "until" in facts:
            facts["until"] = event_time(facts["until"])
        return {**at, **self.origin._asdict(), "task": self.task, "attempt": self.attempt, **facts}


class Progress(NamedTuple):
    """How far a sync is.  ``counts``: rows by entity so far; ``waiting`` tasks begin at ``due``.

    ``limits`` are those at which calls wait, by name, while none is under way; ``reason`` is the
    error for which tasks or calls wait.
    """

    sync: str
    status: Status
    at: float
    counts: Mapping[str, int]
    running: int = 0
    waiting: int = 0
    due: float | None = None
    limits: Sequence[str] = ()
    reason: str = ""


def event_time(at: float) -> str:
    """A time in UTC, in milliseconds."""
    return moment(at).isoformat(timespec="milliseconds").replace("+00:00", "Z")
