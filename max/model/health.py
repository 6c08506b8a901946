"""Health: how an installation is, from what is stored of it.

**The rule** is one function of facts.  Nothing of it is stored, so nothing can be out of date: who asks
gets what follows from the facts of that moment.

    failed     its last sync failed, its process cannot be kept alive, or its file is damaged
    degraded   data is missing or old: the last sync was partial or interrupted, rows are invalid,
               or the schedule has not been kept
    waiting    there is nothing to complain of, and no data yet, or no progress: it was never synced, is
               paused, or the service makes it wait
    healthy    everything is as it should be

The first of these that applies counts, and of several reasons the worst.  A cancelled sync says nothing:
a person ended it.  A sync that is under way says nothing before its end.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

from .struct import Struct
from .tasks import Status


class Health(StrEnum):
    """How an installation is, from the best to the worst."""

    HEALTHY = "healthy"
    WAITING = "waiting"
    DEGRADED = "degraded"
    FAILED = "failed"

    @property
    def exit_status(self) -> int:
        """What ``max health`` ends with: 0, 3 for degraded, 1 for failed."""
        return {Health.DEGRADED: 3, Health.FAILED: 1}.get(self, 0)


WORST = tuple(Health)  # the worst last


class EndedSync(Struct):
    """How a sync ended: its status, when, and the first of its failures in words."""

    status: Status
    at: float
    reason: str = ""
    failed: int = 0


class HealthFacts(Struct):
    """What is known of an installation; times are in seconds since the epoch.

    ``ended`` are its last syncs, newest first, without those that were cancelled.  ``unfinished`` is the
    status of one that has not ended, begun at ``begun_at``.  ``waits_until``: until when nothing of it can
    run, and why.  ``due_at``: a sync should have completed since, say the schedules.  ``crashed_at``: its
    process has crashed since a sync last ended; ``given_up``: and is not started again.
    """

    connected_at: float
    ended: Sequence[EndedSync] = ()
    synced_at: float | None = None  # when the last completed sync ended
    unfinished: Status | None = None
    begun_at: float = 0.0
    waits_until: float | None = None
    waits_for: str = ""
    quarantined: int = 0
    quarantined_at: float = 0.0  # the oldest of these
    due_at: float | None = None
    crashed_at: float | None = None
    crash: str = ""
    given_up: bool = False
    damage: str = ""


class HealthReport(Struct):
    """How an installation is, why, and since when (seconds since the epoch; None: not known)."""

    health: Health
    reason: str
    since: float | None


class InstallationHealth(Struct):
    """The health of one installation, such as ``acme:default``.

    ``next_sync`` is when its schedules begin the next one, if they do; ``synced_at`` when the last
    completed one ended.
    """

    installation: str
    health: Health
    reason: str
    since: float | None
    synced_at: float | None = None
    next_sync: float | None = None


def health_of(facts: HealthFacts) -> HealthReport:
    """The rule."""
    found = [*_failed(facts), *_degraded(facts), *_waiting(facts)]
    return found[0] if found else HealthReport(Health.HEALTHY, "", _well_since(facts))


def _failed(facts: HealthFacts) -> list[HealthReport]:
    found: list[tuple[str, float | None]] = []
    if facts.damage:
        found.append((facts.damage, None))
    if facts.crashed_at is not None and facts.given_up:
        found.append((f"its process is not started again: {facts.crash}", facts.crashed_at))
    if facts.ended and facts.ended[0].status is Status.FAILED:
        found.append((facts.ended[0].reason or "the last sync failed", _row_since(facts, Status.FAILED)))
    return [HealthReport(Health.FAILED, reason, since) for reason, since in found]


def _degraded(facts: HealthFacts) -> list[HealthReport]:
    found: list[tuple[str, float]] = []
    if facts.crashed_at is not None:
        found.append((f"its process failed: {facts.crash}", facts.crashed_at))
    if facts.unfinished is Status.INTERRUPTED:
        found.append(("a sync was interrupted, and no process goes on with it", facts.begun_at))
    if facts.due_at is not None and (facts.synced_at or 0.0) < facts.due_at and not _is_under_way(facts):
        found.append(("the data is older than its schedule asks for", facts.due_at))
    if facts.ended and facts.ended[0].status is Status.PARTIAL:
        number, first = facts.ended[0].failed, facts.ended[0].reason
        words = f"{_tasks(number)} of the last sync failed"
        found.append((f"{words}: {first}" if first else words, _row_since(facts, Status.PARTIAL)))
    if facts.quarantined:
        number = facts.quarantined
        words = f"{number:,} invalid row{' is' if number == 1 else 's are'} in quarantine"
        found.append((words, facts.quarantined_at))
    return [HealthReport(Health.DEGRADED, reason, since) for reason, since in found]


def _tasks(number: int) -> str:
    return f"{number:,} task{'' if number == 1 else 's'}"


def _waiting(facts: HealthFacts) -> list[HealthReport]:
    found = []
    if facts.unfinished is Status.PAUSED:
        found.append(("its sync is paused", facts.begun_at))
    if facts.unfinished is Status.RUNNING and facts.waits_until is not None:
        found.append(
            (f"its sync waits: {facts.waits_for}" if facts.waits_for else "its sync waits", facts.begun_at)
        )
    if not facts.ended and facts.unfinished is Status.RUNNING:
        found.append(("its first sync is under way", facts.begun_at))
    if not facts.ended and facts.unfinished is None:
        found.append(("it was never synced", facts.connected_at))
    return [HealthReport(Health.WAITING, reason, since) for reason, since in found]


def _is_under_way(facts: HealthFacts) -> bool:
    return facts.unfinished is Status.RUNNING and facts.waits_until is None


def _row_since(facts: HealthFacts, status: Status) -> float:
    """When the first of the last syncs in a row with this status ended."""
    since = facts.ended[0].at
    for one in facts.ended:
        if one.status is not status:
            break
        since = one.at
    return since


def _well_since(facts: HealthFacts) -> float | None:
    return _row_since(facts, Status.COMPLETED) if facts.ended else None
