"""Events that last: what happened to an installation, coarse enough to be kept in its database.

Tasks and requests are no such events: ``handle.events()`` has those while a sync runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum

from .struct import Struct
from .values import Json


class LoggedKind(StrEnum):
    """What happened.  A program must bear kinds that it does not know: a newer Max may have more."""

    SYNC_BEGUN = "sync.begun"
    SYNC_RESUMED = "sync.resumed"
    SYNC_PAUSED = "sync.paused"
    SYNC_INTERRUPTED = "sync.interrupted"  # its process was stopped in order; after a crash nothing says so
    SYNC_WAITING = "sync.waiting"  # nothing of it can run for a while
    SYNC_FAILURES = "sync.failures"  # tasks failed for good, in one transaction
    SYNC_ENDED = "sync.ended"
    SCHEDULE_FIRED = "schedule.fired"
    SCHEDULE_SKIPPED = "schedule.skipped"
    HOOK_RECEIVED = "hook.received"
    HEALTH_CHANGED = "health.changed"
    RUNNER_CRASHED = "runner.crashed"  # the process of the installation ended by itself


class LoggedEvent(Struct):
    """One event of an installation.

    ``number`` is greater than that of every event before, and is the cursor behind this event.
    ``at`` is in seconds since the epoch, ``sync`` the id of the sync that it is about, if any.
    ``kind`` is an LoggedKind, or the text of one that this version does not know.
    ``facts`` is JSON data without secrets.
    """

    number: int
    at: float
    kind: str
    sync: str | None
    facts: Mapping[str, Json]


class EventPage(Struct):
    """Events in the order in which they happened.

    Reading after ``cursor`` goes on behind them, also when some were left out for their kind.
    ``more``: others follow already.
    """

    events: Sequence[LoggedEvent]
    cursor: int
    more: bool


class InstallationEvent(Struct):
    """One event of one of the installations that are followed.

    Following after ``cursor`` goes on behind it, for all of these installations.  The others are as in
    LoggedEvent; ``installation`` is a name such as ``acme:default``.
    """

    installation: str
    number: int
    at: float
    kind: str
    sync: str | None
    facts: Mapping[str, Json]
    cursor: str
