"""What a database knows of the health of its installation, and the event of a change.

The rule is in model/health.py.
"""

from __future__ import annotations

from typing import Any

from ..model.event_log import LoggedKind
from ..model.health import EndedSync, Health, HealthFacts, HealthReport, health_of
from ..model.struct import checked
from ..model.tasks import Status, SyncRun
from .database import Connection, decoding
from .event_log import newest_of, record_event
from .schedules import schedules
from .sync_log import first_failure, runs, waits

LOOKED_AT = 20  # syncs
QUARANTINE = "_max_quarantine"


def health_facts(connection: Connection, *, connected_at: float, now: float) -> HealthFacts:
    """The facts of an installation at this moment."""
    known = runs(connection, LOOKED_AT, now=now)
    newest = next(iter(known), None)
    values: dict[str, Any] = {}
    if newest is not None and not newest.status.final:
        values = {"unfinished": newest.status, "begun_at": newest.started_at}
        if newest.status is Status.RUNNING and (found := waits(connection, newest.id, now=now)):
            values |= {"waits_until": found[0], "waits_for": found[2]}
    ended = [one for one in known if one.status.final and one.status is not Status.CANCELLED]
    completed = [one.finished_at for one in ended if one.status is Status.COMPLETED]
    facts = HealthFacts(
        connected_at=connected_at,
        ended=[_ended(connection, one, first=one is ended[0]) for one in ended],
        synced_at=next(iter(completed), None),
        due_at=_due_at(connection, now),
        **values,
        **_quarantine(connection),
        **_crash(connection),
    )
    with decoding("health"):
        return checked(facts)


def _ended(connection: Connection, run: SyncRun, *, first: bool) -> EndedSync:
    at = run.started_at if run.finished_at is None else run.finished_at
    reason = first_failure(connection, run.id) if first and run.status is not Status.COMPLETED else ""
    return EndedSync(run.status, at, reason, run.failed)


def _due_at(connection: Connection, now: float) -> float | None:
    """The slot before the newest one: a sync should have come after it by now."""
    found = []
    for one in schedules(connection):
        newest = one.newest_slot(now) if one.on else None
        before = None if newest is None else one.newest_slot(newest - 1)
        if before is not None and before >= one.made_at:
            found.append(float(before))
    return max(found, default=None)


def _quarantine(connection: Connection) -> dict[str, Any]:
    if not connection.dialect.columns(connection, QUARANTINE):
        return {}
    number, oldest = connection.execute(f"SELECT count(*), min(at) FROM {QUARANTINE}").fetchone()
    return {"quarantined": number, "quarantined_at": oldest or 0.0}


def _crash(connection: Connection) -> dict[str, Any]:
    """The newest crash of its process, unless a sync has ended since."""
    crash = newest_of(connection, LoggedKind.RUNNER_CRASHED)
    ended = newest_of(connection, LoggedKind.SYNC_ENDED)
    if crash is None or (ended is not None and ended.number > crash.number):
        return {}
    facts = crash.facts
    return {
        "crashed_at": crash.at,
        "crash": str(facts.get("reason", "")),
        "given_up": bool(facts.get("given_up")),
    }


def note_health(connection: Connection, *, now: float) -> HealthReport:
    """Record an event when the health is another than the newest event says; healthy without any."""
    found = health_of(health_facts(connection, connected_at=now, now=now))
    known = newest_of(connection, LoggedKind.HEALTH_CHANGED)
    before = Health.HEALTHY if known is None else known.facts.get("health")
    if found.health != before:
        facts = {
            "health": str(found.health),
            "before": str(before),
            "reason": found.reason,
            "since": found.since,
        }
        record_event(connection, LoggedKind.HEALTH_CHANGED, facts, now=now)
    return found
